//! `falkirk run`: the link itself, for as long as it is wanted.

use std::process::ExitCode;

use clap::Args;
use tokio::sync::watch;

use crate::live::Live;
use crate::problem::{Blame, Problem};
use crate::supervisor::{self, Until};

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// End once the position is reached at which the source stood when streaming began.
    #[arg(long, value_enum)]
    until: Option<UntilArgument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UntilArgument {
    CaughtUp,
}

impl Run {
    pub(super) async fn run(self) -> ExitCode {
        let settings = match self.common.settings() {
            Ok(settings) => settings,
            Err(problem) => return self.common.failed(&[problem]),
        };
        let signals = match super::signals() {
            Ok(signals) => signals,
            Err(error) => {
                return self.common.failed(&[Problem::refuse(
                    Blame::Host,
                    "SIGNALS",
                    format!("cannot listen for signals: {error}"),
                )]);
            }
        };
        let until = if self.until.is_some() { Until::CaughtUp } else { Until::Told };
        let (live, shown) = watch::channel(Live::default());
        let show = tokio::spawn(crate::show::show(shown, self.common.is_for_eyes()));
        let ended = supervisor::run(&settings, until, signals.told, live).await;
        // It ends by itself when nobody can change what is shown any more.
        let _ = show.await;
        match ended {
            Ok(summary) => {
                if self.common.json {
                    println!(
                        "{}",
                        serde_json::json!({
                            "ok": true, "rows_copied": summary.rows_copied, "transactions": summary.transactions,
                            "rows_changed": summary.rows_changed, "position": summary.position.to_string(),
                        })
                    );
                } else {
                    println!(
                        "done at {}: {} rows copied, {} rows changed in {} transactions",
                        summary.position, summary.rows_copied, summary.rows_changed, summary.transactions
                    );
                }
                ExitCode::from(*signals.code.borrow())
            }
            Err(problems) => self.common.failed(&problems),
        }
    }
}
