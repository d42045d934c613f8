//! The command line: one command, one file. Turns arguments into a call and its end into an exit code.
//!
//! 0 done, 1 a problem that the message explains, 2 wrong usage, 3 the link stopped on a change (L3), 130 and 143 after
//! a signal and a clean drain.

mod build;
mod check;
mod clean;
mod compile;
mod conflicts;
mod demo;
mod recopy;
mod run;
mod status;
mod swap;
mod table;
mod verify;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::sync::watch;

use crate::config::{self, Settings};
use crate::problem::{Action, Outcome, Problem};

/// Moves a live application from the database schema of one release to the next, and back.
#[derive(Parser, Debug)]
#[command(name = "falkirk", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log format on standard error.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Check configuration, databases, rights and transforms; name every shortfall and what mends it.
    Check(check::Check),
    /// Copy what was not copied yet, then stream until told to stop.
    Run(run::Run),
    /// Show where the link stands; needs the databases only, not the running host.
    Status(status::Status),
    /// Remove slot, publication and everything else of the migration from both databases.
    Clean(clean::Clean),
    /// Compare both sides through the transform, while nobody writes.
    Verify(verify::Verify),
    /// Mend what a faulty revision of the transform wrote, while the links run.
    Recopy(recopy::Recopy),
    /// Show what both sides changed at once, how it was decided, and decide otherwise.
    Conflicts(conflicts::Conflicts),
    /// Watch the whole story on two private servers that are removed afterwards.
    Demo(demo::Demo),
    /// Put another revision of the transform into the running host.
    Swap(swap::Swap),
    /// Build a Rust transform into a component.
    Build(build::Build),
    /// What this program starts itself with to compile a transform in.
    #[command(name = crate::transform::COMMAND, hide = true)]
    Compile(compile::Compile),
}

/// What every command on a migration takes.
#[derive(Args, Debug)]
struct Common {
    /// The configuration.
    #[arg(long, short, default_value = "falkirk.toml", env = "FALKIRK_CONFIG")]
    config: PathBuf,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn settings(&self) -> Outcome<Settings> {
        config::load(&self.config, &|name| std::env::var(name).ok())
    }

    /// For a person at a terminal: colour and tables.
    fn is_for_eyes(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    fn failed(&self, problems: &[Problem]) -> ExitCode {
        failed(problems, self.json)
    }
}

/// Prints problems where people and programs look for them; the exit code that they ask for.
fn failed(problems: &[Problem], json: bool) -> ExitCode {
    if json {
        let problems: Vec<_> = problems.iter().map(Problem::to_json).collect();
        println!("{}", serde_json::json!({ "ok": false, "problems": problems }));
    } else {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
    }
    let stopped = problems.iter().any(|problem| problem.action() == Action::Stop);
    ExitCode::from(if stopped { 3 } else { 1 })
}

/// An artifact's file, and the digest that it must have, if one is given.
fn pinned(file: &str) -> (&Path, Option<&str>) {
    match file.split_once("@sha256:") {
        Some((path, pin)) => (Path::new(path), Some(pin)),
        None => (Path::new(file), None),
    }
}

/// What messages call a file.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "transform".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Parses the arguments and carries the command out.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    // A demo at a terminal tells its story itself; log lines would run through its bars.
    let quiet = matches!(cli.command, Command::Demo(_)) && std::io::stderr().is_terminal();
    start_log(cli.log, if quiet { "warn" } else { "falkirk=info,warn" });
    match cli.command {
        Command::Check(command) => command.run().await,
        Command::Run(command) => command.run().await,
        Command::Status(command) => command.run().await,
        Command::Clean(command) => command.run().await,
        Command::Verify(command) => command.run().await,
        Command::Recopy(command) => command.run().await,
        Command::Conflicts(command) => command.run().await,
        Command::Demo(command) => command.run().await,
        Command::Swap(command) => command.run().await,
        Command::Build(command) => command.run(),
        Command::Compile(command) => command.run(),
    }
}

fn start_log(format: LogFormat, usual: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FALKIRK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

/// Set as soon as a signal asks for the end; the exit code that belongs to it.
struct Signals {
    told: watch::Receiver<bool>,
    code: watch::Receiver<u8>,
}

/// Listens for SIGINT and SIGTERM. A second one ends the process at once: the checkpoint makes that harmless.
#[allow(clippy::disallowed_methods)] // The owners of servers and links are exactly who is not waited for any longer.
fn signals() -> std::io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = watch::channel(false);
    let (set_code, code) = watch::channel(0);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let exit = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if *tell.borrow() {
                std::process::exit(exit);
            }
            set_code.send_replace(exit as u8);
            tell.send_replace(true);
            tracing::info!("draining; a second signal ends at once");
        }
    });
    Ok(Signals { told, code })
}
