//! `falkirk run`: the link itself, for as long as it is wanted.

use std::process::ExitCode;

use clap::Args;
use tokio::sync::watch;

use crate::admin;
use crate::config::Settings;
use crate::live::Live;
use crate::problem::{Blame, Problem};
use crate::recopy::Desk;
use crate::supervisor::{self, Shown, Summary, Until};
use crate::swap::Door;

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// End once the position is reached at which the source stood when streaming began.
    #[arg(long, value_enum)]
    until: Option<UntilArgument>,
    /// Begin with what the configuration names, and forget what was put in by command.
    #[arg(long)]
    configured: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UntilArgument {
    CaughtUp,
}

impl Run {
    pub(super) async fn run(self) -> ExitCode {
        let settings = match self.common.settings() {
            Ok(settings) => Settings { as_configured: self.configured, ..settings },
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
        let (origin, shown) = watch::channel(Live::default());
        let (other, other_shown) = watch::channel(Live::default());
        let (link, two_way) = (settings.origin(), settings.two_way());
        let mut all = vec![(link.name(), shown)];
        all.extend(two_way.then_some((link.other().name(), other_shown)));
        let (door, recopies) = (Door::default(), Desk::default());
        let mut tasks = tokio::task::JoinSet::new();
        if let Some(admin) = &settings.admin {
            match admin::listen(admin, (door.clone(), recopies.clone()), all.clone()).await {
                Ok(serving) => tasks.spawn(serving),
                Err(problem) => return self.common.failed(&[problem]),
            };
        }
        let show = tokio::spawn(crate::show::show(all, self.common.is_for_eyes()));
        let doors = (door, recopies);
        let ended = supervisor::run(&settings, until, signals.told, Shown { origin, other }, doors).await;
        // It ends by itself when nobody can change what is shown any more.
        let _ = show.await;
        match ended {
            Ok(summaries) => {
                self.print(&summaries);
                ExitCode::from(*signals.code.borrow())
            }
            Err(problems) => self.common.failed(&problems),
        }
    }

    fn print(&self, summaries: &[Summary]) {
        if self.common.json {
            let json = |summary: &Summary| {
                serde_json::json!({
                    "ok": true, "link": summary.link.name(), "rows_copied": summary.rows_copied,
                    "transactions": summary.transactions, "rows_changed": summary.rows_changed,
                    "conflicts": summary.conflicts, "position": summary.position.to_string(),
                })
            };
            let mut answer = summaries.first().map_or_else(|| serde_json::json!({ "ok": true }), json);
            if let Some(other) = summaries.get(1) {
                answer["other"] = json(other);
            }
            println!("{answer}");
            return;
        }
        for summary in summaries {
            let link = if summaries.len() > 1 { format!("{}: ", summary.link) } else { String::new() };
            println!(
                "{link}done at {}: {} rows copied, {} rows changed in {} transactions, {} conflicts",
                summary.position, summary.rows_copied, summary.rows_changed, summary.transactions, summary.conflicts
            );
        }
    }
}
