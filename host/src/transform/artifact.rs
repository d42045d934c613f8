//! A transform's file: read once, checked, compiled, described.
//!
//! ```text
//!   bytes -> digest -> pin -> kind -> compile under limits -> imports -> exports -> describe -> manifest
//! ```
//!
//! Every step refuses with what it saw and what would be right. Imports are held against a list by name (L9): an import
//! of an empty interface would link against nothing and slip through. What is on the list has nothing behind it.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre};

use super::compile::Compiler;
use super::engine::engine;
use super::instance::{Fault, Instance};
use super::limits::Limits;
use super::room::Room;
use super::voice::{Allowance, Voice};
use super::wasi;
use crate::manifest::Manifest;
use crate::problem::{Blame, Outcome, Problem};

/// The largest file that is read.
const FILE_LIMIT_BYTES: u64 = 32 * 1024 * 1024;
/// The largest manifest.
const MANIFEST_LIMIT_BYTES: usize = 1024 * 1024;
/// The only export a transform has to have.
const EXPORT: &str = "falkirk:migration/transform@0.1.0";

/// A checked and compiled transform. Shared by all links that run it.
pub struct Artifact {
    pub(super) label: Arc<str>,
    pub(super) digest: String,
    pub(super) manifest: Manifest,
    pub(super) ready: InstancePre<Room>,
    /// What all instances together may still write to the log.
    pub(super) allowance: Arc<Mutex<Allowance>>,
    /// The artifacts of a path of several steps, in their order; empty for a single one.
    pub(super) path: Vec<Arc<Artifact>>,
    /// Labels of artifacts that were loaded as well and lead elsewhere.
    pub(super) beside: Vec<String>,
    /// Of a single one.
    pub(super) file: Arc<File>,
}

/// An artifact's file as it was read: what was put in by command may have to be loaded again when its file is gone.
pub struct File {
    /// Its name.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// It was named with its digest.
    pub pinned: bool,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Artifact").field(&self.label).finish()
    }
}

impl Artifact {
    /// Reads, checks and compiles a file. `pin` is the sha256 digest that it must have, in hexadecimal.
    ///
    /// Blocks for as long as compiling takes: call it off the async threads.
    pub fn load(path: &Path, pin: Option<&str>, limits: &Limits, compiler: &Compiler) -> Outcome<Self> {
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
        Self::from_bytes(&name, &read(path)?, pin, limits, compiler)
    }

    /// Reads a file whole, once, and none that is larger than any transform is.
    pub fn read(path: &Path) -> Outcome<Vec<u8>> {
        read(path)
    }

    /// The same for bytes that were read already; `name` is the file's name in messages.
    pub fn from_bytes(
        name: &str,
        bytes: &[u8],
        pin: Option<&str>,
        limits: &Limits,
        compiler: &Compiler,
    ) -> Outcome<Self> {
        check_size(name, bytes)?;
        let digest = Self::digest_of(bytes);
        let label: Arc<str> = format!("{name}@sha256:{}", &digest[..12]).into();
        let named = |problem: Problem| problem.artifact(&label);
        check_pin(pin, &digest).map_err(named)?;
        check_kind(bytes).map_err(named)?;
        let engine = engine()?;
        let component = compiler.component(engine, bytes, &digest, &label).map_err(named)?;
        check_world(engine, &component).map_err(named)?;
        let linked = wasi::link(engine, &component).and_then(|linker| linker.instantiate_pre(&component));
        let ready = linked.map_err(|error| named(mismatch(&error)))?;
        let allowance = Arc::new(Mutex::new(Allowance::new()));
        let voice = || Voice::new(label.clone(), allowance.clone());
        let manifest = describe(engine, &ready, limits, &voice).map_err(named)?;
        let file = Arc::new(File { name: name.to_owned(), bytes: bytes.to_vec(), pinned: pin.is_some() });
        Ok(Artifact { label, digest, manifest, ready, allowance, path: Vec::new(), beside: Vec::new(), file })
    }

    /// The sha256 digest of bytes, in hexadecimal.
    pub fn digest_of(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    /// File name and the digest's beginning, for messages: `shop.wasm@sha256:0123456789ab`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The sha256 digest of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file of a single artifact.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the transform declares about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn engine(&self) -> &Engine {
        self.ready.engine()
    }

    pub(super) fn voice(&self) -> Voice {
        Voice::new(self.label.clone(), self.allowance.clone())
    }

    pub(super) fn ready(&self) -> &InstancePre<Room> {
        &self.ready
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| {
        Problem::refuse(Blame::Config, "WASM_UNREADABLE", format!("cannot read {}: {error}", path.display()))
            .remedy("name an existing, readable file in migration.transforms")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    check_size(&path.display().to_string(), &bytes)?;
    Ok(bytes)
}

/// Before anything else is done with them: not only files come here.
fn check_size(name: &str, bytes: &[u8]) -> Outcome<()> {
    if bytes.len() as u64 <= FILE_LIMIT_BYTES {
        return Ok(());
    }
    let what = format!("{name} is larger than {} MiB", FILE_LIMIT_BYTES >> 20);
    Err(Problem::refuse(Blame::Artifact, "WASM_TOO_LARGE", what)
        .remedy("build the transform in release mode and strip its debug information"))
}

fn check_pin(pin: Option<&str>, digest: &str) -> Outcome<()> {
    match pin.map(|pin| pin.trim_start_matches("sha256:")) {
        Some(pin) if !pin.eq_ignore_ascii_case(digest) => {
            let what = format!("the configuration pins sha256:{pin}, the file is sha256:{digest}");
            Err(Problem::refuse(Blame::Config, "PIN_MISMATCH", what)
                .remedy("put back the file that was pinned, or pin this one if it is the right one"))
        }
        _ => Ok(()),
    }
}

/// Tells by the first bytes what the file is; an engine's own message would not name the cure.
fn check_kind(bytes: &[u8]) -> Outcome<()> {
    let (code, what, remedy) = match bytes {
        [] => ("WASM_NOT_COMPONENT", "the file is empty", "build the transform again"),
        _ if Engine::detect_precompiled(bytes).is_some() => (
            "WASM_PRECOMPILED",
            "the file is precompiled native code, which is never loaded: nothing can check it",
            "name the component that it was compiled from",
        ),
        [0x7f, b'E', b'L', b'F', ..] => {
            ("WASM_NOT_COMPONENT", "the file is a native program (ELF)", "build for wasm32-unknown-unknown")
        }
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => (
            "WASM_NOT_COMPONENT",
            "the file is a core module, not a component",
            "run `falkirk build` on the transform's folder, or `wasm-tools component new` on the module",
        ),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', ..] => ("WASM_NOT_COMPONENT", "the file is cut short", "build or copy it again"),
        _ => (
            "WASM_NOT_COMPONENT",
            "the file is not WebAssembly in its binary form",
            "build a component; the text form is not read",
        ),
    };
    Err(Problem::refuse(Blame::Artifact, code, what).remedy(remedy))
}

/// Imports nothing beyond the listed interfaces, exports its own in this version.
fn check_world(engine: &Engine, component: &Component) -> Outcome<()> {
    let world = component.component_type();
    let imports: Vec<&str> = world.imports(engine).map(|(name, _)| name).filter(|name| !wasi::grants(name)).collect();
    if !imports.is_empty() {
        let what = format!("it imports {}, which no transform is given", list(&imports));
        return Err(Problem::refuse(Blame::Artifact, "IMPORTS_REFUSED", what)
            .remedy("build it for wasm32-unknown-unknown; of WASI 0.2 only cli, clocks, filesystem, io and random are answered, with nothing behind them"));
    }
    let exports: Vec<&str> = world.exports(engine).map(|(name, _)| name).collect();
    if exports.contains(&EXPORT) {
        return Ok(());
    }
    let what = match exports.is_empty() {
        true => format!("it exports nothing; this host needs {EXPORT}"),
        false => format!("it exports {}; this host needs {EXPORT}", list(&exports)),
    };
    Err(Problem::refuse(Blame::Artifact, "WIT_MISMATCH", what)
        .remedy("build it against the wit/migration.wit that comes with this host"))
}

/// Names out of a file, made fit to print.
fn list(names: &[&str]) -> String {
    let mut text = String::new();
    for (position, name) in names.iter().take(20).enumerate() {
        let separator = if position == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}`{}`", name.escape_debug());
    }
    if names.len() > 20 {
        let _ = write!(text, " and {} more", names.len() - 20);
    }
    text
}

fn mismatch(error: &wasmtime::Error) -> Problem {
    Problem::refuse(Blame::Artifact, "WIT_MISMATCH", format!("its interface is another: {error:#}"))
        .remedy("build it against the wit/migration.wit that comes with this host")
}

/// Asks for the manifest, twice in one instance and once in another: it is a constant (L9).
fn describe(
    engine: &Engine,
    ready: &InstancePre<Room>,
    limits: &Limits,
    voice: &dyn Fn() -> Voice,
) -> Outcome<Manifest> {
    let refuse = |fault: Fault| {
        let remedy = match fault.code {
            "WIT_MISMATCH" => "build it against the wit/migration.wit that comes with this host",
            _ => "run the transform's own tests; a step that is inconsistent traps in describe",
        };
        Problem::refuse(Blame::Artifact, fault.code, fault.what).remedy(remedy)
    };
    let mut first = Instance::start(engine, ready, limits, voice()).map_err(refuse)?;
    let text = first.describe().map_err(refuse)?;
    let again = first.describe().map_err(refuse)?;
    let elsewhere =
        Instance::start(engine, ready, limits, voice()).and_then(|mut other| other.describe()).map_err(refuse)?;
    if text != again || text != elsewhere {
        let what = "describe gave two different manifests";
        return Err(Problem::refuse(Blame::Artifact, "DESCRIBE_NOT_CONSTANT", what)
            .remedy("make describe answer a constant: no counter, no hash order"));
    }
    if text.len() > MANIFEST_LIMIT_BYTES {
        let what = format!("the manifest has {} bytes, more than {MANIFEST_LIMIT_BYTES}", text.len());
        return Err(Problem::refuse(Blame::Artifact, "MANIFEST_INVALID", what));
    }
    Manifest::parse(&text).map_err(|what| {
        Problem::refuse(Blame::Artifact, "MANIFEST_INVALID", what)
            .remedy("see wit/manifest.schema.json, or let an SDK write the manifest")
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> &'static str {
        Artifact::from_bytes("x.wasm", bytes, None, &Limits::default(), &Compiler::default()).unwrap_err().code()
    }

    #[test]
    fn row_15_what_is_not_a_component_is_refused_by_its_first_bytes() {
        let component = wat::parse_str("(component)").unwrap();
        let module = wat::parse_str("(module (func))").unwrap();
        for bytes in [&b""[..], b"\0asm", b"\0asm\x0d\0", b"(component)", b"\x7fELF\x02\x01\x01", &module] {
            assert_eq!(code(bytes), "WASM_NOT_COMPONENT");
        }
        assert_eq!(code(&component), "WIT_MISMATCH");
        assert_eq!(code(&[component.as_slice(), &[9, 200, 1]].concat()), "WASM_NOT_COMPONENT");
    }

    #[test]
    fn row_16_precompiled_code_is_refused_whatever_it_holds() {
        let component = wat::parse_str("(component)").unwrap();
        let precompiled = engine().unwrap().precompile_component(&component).unwrap();
        assert_eq!(code(&precompiled), "WASM_PRECOMPILED");
    }

    #[test]
    fn row_17_a_pin_that_does_not_match_shows_both_digests() {
        let pin = "ab".repeat(32);
        let problem =
            Artifact::from_bytes("x.wasm", b"x", Some(&pin), &Limits::default(), &Compiler::default()).unwrap_err();
        assert_eq!(problem.code(), "PIN_MISMATCH");
        let digest = hex(&Sha256::digest(b"x"));
        assert!(problem.to_string().contains(&pin) && problem.to_string().contains(&digest), "{problem}");
    }

    #[test]
    fn row_18_every_import_is_refused_by_name_an_empty_instance_too() {
        for (text, name) in [
            (r#"(component (import "secret" (func)))"#, "secret"),
            (r#"(component (import "a:b/nothing@1.0.0" (instance)))"#, "a:b/nothing@1.0.0"),
            (r#"(component (import "wasi:sockets/network@0.2.6" (instance)))"#, "wasi:sockets/network"),
            (r#"(component (import "wasi:cli/stdout" (func)))"#, "wasi:cli/stdout"),
        ] {
            let bytes = wat::parse_str(text).unwrap();
            let problem =
                Artifact::from_bytes("x.wasm", &bytes, None, &Limits::default(), &Compiler::default()).unwrap_err();
            assert_eq!(problem.code(), "IMPORTS_REFUSED");
            assert!(problem.to_string().contains(name), "{problem}");
        }
    }

    #[test]
    fn row_19_another_version_or_shape_of_the_interface_is_refused_with_both_names() {
        let newer = r#"(component (instance $i) (export "falkirk:migration/transform@0.2.0" (instance $i)))"#;
        let bytes = wat::parse_str(newer).unwrap();
        let problem = Artifact::from_bytes("x.wasm", &bytes, None, &Limits::default(), &Compiler::default())
            .unwrap_err()
            .to_string();
        assert!(problem.starts_with("WIT_MISMATCH") && problem.contains("@0.2.0") && problem.contains("@0.1.0"));
        let hollow = r#"(component (instance $i) (export "falkirk:migration/transform@0.1.0" (instance $i)))"#;
        assert_eq!(code(&wat::parse_str(hollow).unwrap()), "WIT_MISMATCH");
    }

    #[test]
    fn row_20_a_compile_bomb_is_given_up_at_the_wall_limit_and_the_host_goes_on() {
        let body = "(i64.add (i64.const 1) ".repeat(40) + "(local.get 0)" + &")".repeat(40);
        let functions = format!("(func (param i64) (result i64) {body})").repeat(8_000);
        let bomb = wat::parse_str(format!("(component (core module {functions}))")).unwrap();
        let started = std::time::Instant::now();
        let compiler = Compiler { time: std::time::Duration::from_millis(20), ..Compiler::default() };
        let problem = Artifact::from_bytes("x.wasm", &bomb, None, &Limits::default(), &compiler).unwrap_err();
        assert_eq!(problem.code(), "COMPILE_TIMEOUT");
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "the host waited for the compiler");
    }

    #[test]
    fn row_24_sixty_memories_or_instances_are_refused() {
        let many = "(core instance (instantiate $m))".repeat(60);
        let export = r#"(instance $i) (export "falkirk:migration/transform@0.1.0" (instance $i))"#;
        for inside in ["(memory 1)", "(table 1 funcref)", ""] {
            let text = format!("(component (core module $m {inside}) {many} {export})");
            assert_eq!(code(&wat::parse_str(text).unwrap()), "MEMORY_LIMIT");
        }
    }

    #[test]
    fn row_21_a_loop_in_a_start_function_ends_at_the_deadline() {
        let export = r#"(instance $i) (export "falkirk:migration/transform@0.1.0" (instance $i))"#;
        let text = format!(
            "(component (core module $m (func $f (loop (br 0))) (start $f)) (core instance (instantiate $m)) {export})"
        );
        let limits = Limits { batch_time_ms: 100, ..Limits::default() };
        let problem =
            Artifact::from_bytes("x.wasm", &wat::parse_str(text).unwrap(), None, &limits, &Compiler::default())
                .unwrap_err();
        assert_eq!(problem.code(), "TRANSFORM_TIMEOUT");
    }
}
