//! `falkirk demo`: tells the story on standard error and prints its figures on standard output, so that a pipe gets
//! figures only.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::demo::load::Pace;
use crate::demo::{self, Ending, Options};
use crate::problem::{Blame, Problem};

#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Leave the two servers running, and say how to connect and how to remove them.
    #[arg(long)]
    keep: bool,
    /// The shop's transform, built; by default where `make transforms` puts it.
    #[arg(long, value_name = "FILE")]
    transform: Option<PathBuf>,
    /// How long the acts last in which users are at work.
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    stream: u64,
    /// Transactions that the load tries to make in a second.
    #[arg(long, value_name = "TRANSACTIONS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: u64,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

/// How many users are at work in the demo's shop.
const USERS: u64 = 8;
/// Every demo does the same things.
const SEED: u64 = 1;

impl Demo {
    pub(super) async fn run(self) -> ExitCode {
        let signals = match super::signals() {
            Ok(signals) => signals,
            Err(error) => {
                let what = format!("cannot listen for signals: {error}");
                return super::failed(&[Problem::refuse(Blame::Host, "SIGNALS", what)], self.json);
            }
        };
        let options = Options {
            keep: self.keep,
            transform: self.transform,
            stream_s: self.stream,
            pace: Pace { users: USERS, deeds_per_s: self.rate, seed: SEED },
            for_eyes: std::io::stderr().is_terminal(),
        };
        match demo::run(&options, signals.told).await {
            Ok(Ending::Done { report, kept }) => {
                match (self.json, std::io::stdout().is_terminal()) {
                    (true, _) => println!("{}", report.to_json()),
                    (false, true) => println!("{}", report.to_table()),
                    (false, false) => println!("{}", report.to_lines()),
                }
                // Standard output is for the figures.
                kept.iter().for_each(|text| eprint!("{text}"));
                ExitCode::from(u8::from(!report.is_good()))
            }
            Ok(Ending::Interrupted) => ExitCode::from(*signals.code.borrow()),
            Err(problems) => super::failed(&problems, self.json),
        }
    }
}
