//! Builds a transform: a Rust package becomes a component that a host accepts.
//!
//! ```text
//!   folder --cargo--> core module --wit-component--> component --Artifact--> checked, written whole or not at all
//! ```
//!
//! What it writes has passed every check of `run`, so that an author learns here, not in production, what is wrong.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use wit_component::ComponentEncoder;

use crate::problem::{Blame, Outcome, Problem};
use crate::transform::{Artifact, Compiler, Limits};

const TARGET: &str = "wasm32-unknown-unknown";

/// What was built.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// Size of the component in bytes.
    pub size_bytes: u64,
    /// Its sha256 digest in hexadecimal: what a configuration pins.
    pub sha256: String,
    /// The application's name, out of the manifest.
    pub name: String,
    /// The older schema version.
    pub from: String,
    /// The newer schema version.
    pub to: String,
}

/// Builds the transform in the folder `dir` and writes the component to `out`.
///
/// Cargo's own messages go to standard error. `CARGO_TARGET_DIR` and cargo's configuration mean what they always do.
pub fn build(dir: &Path, out: &Path) -> Outcome<BuildReport> {
    let module = compile(dir)?;
    let bytes = read(&module)?;
    let component = encode(&bytes)?;
    let name = out.file_name().map_or_else(|| "transform.wasm".into(), |name| name.to_string_lossy());
    let artifact = Artifact::from_bytes(&name, &component, None, &Limits::default(), &Compiler::default())?;
    write(out, &component)?;
    let manifest = artifact.manifest();
    Ok(BuildReport {
        size_bytes: component.len() as u64,
        sha256: artifact.digest().to_owned(),
        name: manifest.name.clone(),
        from: manifest.from.clone(),
        to: manifest.to.clone(),
    })
}

/// Turns a core module with an embedded interface into a component. No adapter: what imports something stays broken.
pub fn encode(module: &[u8]) -> Outcome<Vec<u8>> {
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| {
        Problem::refuse(Blame::Artifact, "BUILD_FAILED", format!("the module cannot become a component: {error:#}"))
            .remedy("export the step with falkirk_sdk::export!, and use no crate that needs an operating system")
    })
}

fn failed(what: impl std::fmt::Display) -> Problem {
    Problem::refuse(Blame::Artifact, "BUILD_FAILED", what)
}

/// Runs cargo and returns the path of the one `cdylib` it made.
fn compile(dir: &Path) -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(&cargo)
        .args(["build", "--release", "--lib", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            failed(format!("cannot run cargo in {}: {error}", dir.display()))
                .remedy("name the folder of a Rust package, and install Rust with its wasm32-unknown-unknown target")
        })?;
    if !run.status.success() {
        let what = format!("cargo could not build {} for {TARGET}", dir.display());
        return Err(
            failed(what).remedy(format!("see cargo's message above; `rustup target add {TARGET}` if it is missing"))
        );
    }
    let module = String::from_utf8_lossy(&run.stdout).lines().filter_map(module_of).next_back();
    module.ok_or_else(|| {
        failed(format!("{} makes no WebAssembly module", dir.display()))
            .remedy("put crate-type = [\"cdylib\", \"rlib\"] under [lib] in its Cargo.toml")
    })
}

/// The module that one of cargo's messages reports, if it reports one. The package itself comes last.
fn module_of(line: &str) -> Option<PathBuf> {
    let message: Json = serde_json::from_str(line).ok()?;
    let is_artifact = message["reason"] == "compiler-artifact";
    let files = message["filenames"].as_array().filter(|_| is_artifact)?;
    files.iter().filter_map(Json::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))
}

/// Writes beside the file and renames: a host that swaps the file in sees the old one or the new one, never a part.
fn write(out: &Path, bytes: &[u8]) -> Outcome<()> {
    let mut beside = out.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, out));
    written.map_err(|error| {
        // What is left of a failed attempt is of no use; that it cannot be removed changes nothing.
        drop(std::fs::remove_file(&beside));
        Problem::refuse(Blame::Config, "BUILD_FAILED", format!("cannot write {}: {error}", out.display()))
            .remedy("name a file in an existing, writable folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_in_cargos_messages_and_nowhere_else() {
        let artifact = r#"{"reason":"compiler-artifact","filenames":["/t/shop.rlib","/t/shop.wasm"]}"#;
        assert_eq!(module_of(artifact), Some(PathBuf::from("/t/shop.wasm")));
        for line in ["", "not json", r#"{"reason":"build-finished","success":true}"#, r#"{"filenames":["/x.wasm"]}"#] {
            assert_eq!(module_of(line), None);
        }
    }

    #[test]
    fn a_module_without_the_interface_does_not_become_a_component_that_passes() {
        let module = wat::parse_str("(module (import \"env\" \"now\" (func (result i64))))").unwrap();
        assert_eq!(encode(&module).unwrap_err().code(), "BUILD_FAILED");
    }
}
