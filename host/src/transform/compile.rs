//! Compiling, under limits, where it can hurt nobody (L10).
//!
//! ```text
//!   bytes --> cache? ------------------------------------------------> component
//!               '--> a process of this program: time, memory --> code --'--> cache
//! ```
//!
//! What the compiler does with a file that was made to hurt it is no concern of the engine's authors, so it is ours: a
//! process of its own is killed at its limits while the running link goes on, and takes nothing with it that it could
//! tell: no environment, no connection. It leaves a core to the link where there are two, and gives way to whoever else
//! wants the others.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::{Cache, Found};
use super::engine::engine;
use super::limits::cores;
use super::trusted::Code;
use crate::problem::{Blame, Outcome, Problem};

/// The hidden command of this program that compiles for another process of it.
pub const COMMAND: &str = "compile-component";
/// How it ends if the file is no component.
pub const NOT_A_COMPONENT: u8 = 65;

/// The most code that one artifact may become. It stays in the host's memory.
const CODE_LIMIT_BYTES: u64 = 256 << 20;
/// How much less than anybody else's the compiler's turn counts, as `nice` has it.
const GIVES_WAY: i32 = 10;
/// The most that is read of what the compiler has to say.
const WORDS_LIMIT_BYTES: u64 = 4 * 1024;

/// Who compiles, within which limits, and where the code is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// This program, which then compiles in a process of its own; without it a thread does, held to the time only.
    pub program: Option<PathBuf>,
    /// How long it may take.
    pub time: Duration,
    /// How much memory the process may take.
    pub memory_mib: u32,
    /// The private folder that code is kept in and taken from again, if it is.
    pub cache: Option<PathBuf>,
}

impl Default for Compiler {
    fn default() -> Self {
        Compiler { program: None, time: Duration::from_secs(30), memory_mib: 1_024, cache: None }
    }
}

impl Compiler {
    /// The program that runs, also if its file has been replaced meanwhile.
    pub fn this_program() -> Option<PathBuf> {
        let lasting = Path::new("/proc/self/exe");
        if lasting.exists() { Some(lasting.to_owned()) } else { std::env::current_exe().ok() }
    }

    /// The component out of an artifact's bytes, which have this digest.
    pub(super) fn component(&self, engine: &Engine, bytes: &[u8], digest: &str, label: &str) -> Outcome<Component> {
        let cache = self.cache.as_deref().and_then(|folder| opened(folder, engine, digest));
        if let Some(component) = cache.as_ref().and_then(|cache| taken(cache, engine, label)) {
            return Ok(component);
        }
        let began = Instant::now();
        let code = match &self.program {
            Some(program) => self.in_process(program, bytes)?,
            None => self.in_thread(engine, bytes)?,
        };
        let component = code.component(engine).map_err(|error| {
            Problem::refuse(Blame::Host, "COMPILE_FAILED", format!("the compiled code cannot be loaded: {error:#}"))
        })?;
        let (milliseconds, kib) = (began.elapsed().as_millis() as u64, code.bytes().len() >> 10);
        tracing::info!(artifact = label, milliseconds, kib, "compiled");
        if let Some(Err(error)) = cache.map(|cache| cache.keep(&code)) {
            tracing::warn!(artifact = label, "the compiled code cannot be kept in the cache: {error}");
        }
        Ok(component)
    }

    /// A thread cannot be ended: one that takes too long is left behind.
    fn in_thread(&self, engine: &Engine, bytes: &[u8]) -> Outcome<Code> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (engine, bytes) = (engine.clone(), bytes.to_vec());
        let thread = std::thread::Builder::new().name("falkirk-compile".into());
        let spawned = thread.spawn(move || drop(sender.send(engine.precompile_component(&bytes))));
        spawned.map_err(|error| Problem::retry(Blame::Host, "NO_THREAD", format!("cannot start a thread: {error}")))?;
        match receiver.recv_timeout(self.time) {
            Ok(Ok(code)) => Ok(Code::vouched(code)),
            Ok(Err(error)) => Err(no_component(&format!("{error:#}"))),
            Err(RecvTimeoutError::Timeout) => Err(self.too_long()),
            Err(RecvTimeoutError::Disconnected) => Err(no_component("the compiler gave up on it")),
        }
    }

    fn in_process(&self, program: &Path, bytes: &[u8]) -> Outcome<Code> {
        let mut child = self.started(program).map_err(|error| {
            Problem::retry(Blame::Host, "NO_COMPILER", format!("cannot start a process to compile in: {error}"))
                .remedy("let falkirk start processes: it runs its own program again to compile in")
        })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, receiver) = mpsc::sync_channel(1);
        let (code, ended, words) = std::thread::scope(|scope| {
            // A process that ends early says why by how it ends, not by a pipe that breaks.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
            let words = scope.spawn(move || read(stderr, WORDS_LIMIT_BYTES));
            scope.spawn(move || drop(sender.send(read(stdout, CODE_LIMIT_BYTES + 1))));
            let code = receiver.recv_timeout(self.time).ok();
            if code.as_ref().is_none_or(|code| code.len() as u64 > CODE_LIMIT_BYTES) {
                // It may have ended by itself just now.
                let _ = child.kill();
            }
            (code, child.wait(), words.join().unwrap_or_default())
        });
        let code = code.ok_or_else(|| self.too_long())?;
        if code.len() as u64 > CODE_LIMIT_BYTES {
            let what = format!("it becomes more than {} MiB of native code", CODE_LIMIT_BYTES >> 20);
            return Err(
                Problem::refuse(Blame::Artifact, "COMPILE_TOO_LARGE", what).remedy("make the transform smaller")
            );
        }
        let ended = ended.map_err(|error| {
            Problem::retry(Blame::Host, "NO_COMPILER", format!("cannot wait for the process that compiles: {error}"))
        })?;
        match ended.success() {
            true => Ok(Code::vouched(code)),
            false => Err(self.failed(ended, &String::from_utf8_lossy(&words))),
        }
    }

    fn started(&self, program: &Path) -> std::io::Result<Child> {
        let mut command = Command::new(program);
        command.arg(COMMAND).arg("--memory-mib").arg(self.memory_mib.to_string());
        command.arg("--time-s").arg(self.time.as_secs().max(1).to_string());
        // Neither addresses nor secrets; and the link keeps a core.
        command.env_clear().env("RAYON_NUM_THREADS", cores().saturating_sub(1).max(1).to_string()).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    fn too_long(&self) -> Problem {
        let what = format!("compiling took more than {} s and was ended", self.time.as_secs_f32());
        Problem::refuse(Blame::Artifact, "COMPILE_TIMEOUT", what)
            .remedy("make the transform smaller, or raise compile.time_s")
    }

    fn failed(&self, ended: ExitStatus, words: &str) -> Problem {
        if ended.code() == Some(NOT_A_COMPONENT.into()) {
            return no_component(words.trim());
        }
        let is_memory =
            ["memory allocation", "allocate memory", "out of memory"].iter().any(|part| words.contains(part));
        let killed = ended.signal() == Some(nix::sys::signal::Signal::SIGKILL as i32);
        if is_memory || killed {
            let what = format!("compiling took more than {} MiB of memory and was ended", self.memory_mib);
            return Problem::refuse(Blame::Artifact, "COMPILE_MEMORY", what)
                .remedy("make the transform smaller, or raise compile.memory_mib");
        }
        if ended.signal() == Some(nix::sys::signal::Signal::SIGXCPU as i32) {
            return self.too_long();
        }
        let line: String = words.lines().next().unwrap_or_default().escape_debug().take(200).collect();
        Problem::refuse(Blame::Artifact, "COMPILE_FAILED", format!("the compiler ended with {ended}: {line}"))
            .remedy("build the transform again, with another version of its toolchain")
    }
}

fn no_component(why: &str) -> Problem {
    Problem::refuse(Blame::Artifact, "WASM_NOT_COMPONENT", format!("the file is not a valid component: {why}"))
        .remedy("build it again; proposals beyond WebAssembly 2.0 are switched off")
}

fn read(from: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is cut short is told by how the process ended.
    let _ = from.map(|from| from.take(limit).read_to_end(&mut bytes));
    bytes
}

/// A cache is for speed: one that cannot be used keeps nothing from running.
fn opened(folder: &Path, engine: &Engine, digest: &str) -> Option<Cache> {
    let cache = Cache::open(folder, engine, digest);
    cache.map_err(|why| tracing::warn!("the cache {} is not used: {why}", folder.display())).ok()
}

fn taken(cache: &Cache, engine: &Engine, label: &str) -> Option<Component> {
    match cache.find() {
        Found::Nothing => None,
        Found::Foreign => {
            tracing::warn!(
                artifact = label,
                "the code in the cache is not what this host has put there: compiled anew"
            );
            None
        }
        Found::Code(code) => {
            let component = code.component(engine).ok()?;
            tracing::info!(artifact = label, "compiled code taken from the cache");
            Some(component)
        }
    }
}

/// The other end: this process was started to compile. It binds itself to its limits before it reads a byte, takes the
/// component from standard input and gives the code to standard output. The error is why the file is no component.
pub fn compile_for_parent(memory_mib: u32, time_s: u32) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    bind(memory_mib, time_s).map_err(said)?;
    let mut bytes = Vec::new();
    std::io::stdin().take(u64::from(u32::MAX)).read_to_end(&mut bytes).map_err(said)?;
    let engine = engine().map_err(|problem| problem.to_string())?;
    let code = engine.precompile_component(&bytes).map_err(|error| format!("{error:#}"))?;
    std::io::stdout().write_all(&code).map_err(said)
}

/// Private, writable memory is what counts: address space is only reserved, by threads that are never used.
fn bind(memory_mib: u32, time_s: u32) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // L10: where it is not allowed to give way, it compiles all the same.
    let _ = rustix::process::nice(GIVES_WAY);
    let cpu_s = u64::from(time_s) * u64::from(cores()) + 1;
    for (resource, most) in [
        (Resource::RLIMIT_DATA, u64::from(memory_mib) << 20),
        (Resource::RLIMIT_CPU, cpu_s),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, most, most)?;
    }
    Ok(())
}
