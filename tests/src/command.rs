//! Runs the command that ships, as a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the command is, if not beside the tests.
const BIN_VARIABLE: &str = "FALKIRK_BIN";

/// A process of `falkirk` that may still run. Killed when dropped.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    line: String,
}

/// What a process of `falkirk` left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; 128 plus the signal's number if a signal ended it.
    pub code: i32,
    /// What it printed for people and programs.
    pub out: String,
    /// What it logged.
    pub err: String,
    line: String,
}

impl Running {
    pub(crate) fn start(folder: &Path, arguments: &[&str], places: &[(&str, &Path)]) -> Running {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (folder.join(format!("out.{number}")), folder.join(format!("err.{number}")));
        let file = |path: &Path| File::create(path).expect("a file for the command's output can be made");
        let line = format!("falkirk {}", arguments.join(" "));
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
        command.envs(places.iter().copied());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        Running { child, out, err, line }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id fits")
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed so far.
    pub fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it logged so far.
    pub fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself: then there is nobody to tell.
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }

    /// Ends it as nothing else could: `kill -9`.
    pub fn kill_9(self) -> Finished {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10))
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.wait(Duration::from_secs(60))
    }

    /// Waits for its end. Panics with what it said if that takes longer than `deadline`.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Finished {
        let end = Instant::now() + deadline;
        loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => {
                    use std::os::unix::process::ExitStatusExt;
                    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                    return Finished { code, out: self.out(), err: self.err(), line: self.line.clone() };
                }
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                None => panic!("`{}` still runs after {deadline:?}\n{}\n{}", self.line, self.out(), self.err()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// It ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code, code, "`{}` ended with {}\n{}\n{}", self.line, self.code, self.out, self.err);
        self
    }

    /// It printed or logged this.
    #[track_caller]
    pub fn says(self, text: &str) -> Finished {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(said, "`{}` does not say `{text}`\n{}\n{}", self.line, self.out, self.err);
        self
    }

    /// It neither printed nor logged this.
    #[track_caller]
    pub fn keeps_quiet_about(self, text: &str) -> Finished {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(!said, "`{}` says `{text}`\n{}\n{}", self.line, self.out, self.err);
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("`{}` printed no JSON: {error}\n{}", self.line, self.out))
    }
}

/// The command beside this test's own program. Cargo builds it for these tests only if told to, so it is told here:
/// otherwise they would pass or fail on the command of yesterday.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os(BIN_VARIABLE) {
            return PathBuf::from(path);
        }
        let test = std::env::current_exe().expect("a process knows its program");
        let release = test.parent().and_then(Path::parent).expect("a test lies two folders below the target's profile");
        if let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), release.parent()) {
            let mut build = Command::new(cargo);
            // With the workspace's features, as everything else: another set of them would build all dependencies again.
            build.args(["build", "--quiet", "--release", "--workspace", "--bin", "falkirk", "--target-dir"]);
            // What cargo tells this test of its own package would look to build scripts like a change.
            let told = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
            for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
                build.env_remove(name);
            }
            let status = build.arg(target).current_dir(env!("CARGO_MANIFEST_DIR")).status();
            assert!(status.is_ok_and(|status| status.success()), "the command does not build");
        }
        release.join("falkirk")
    })
}
