//! `falkirk status`.

use std::process::ExitCode;

use clap::Args;

use crate::sequences::Shown;
use crate::status::{self, Readiness};

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
    /// Show keys of rows that would not fit the other side, instead of hashes.
    #[arg(long)]
    values: bool,
}

impl Status {
    pub(super) async fn run(self) -> ExitCode {
        let status = async { status::status(&self.common.settings()?, self.values).await };
        let status = match status.await {
            Ok(status) => status,
            Err(problem) => return self.common.failed(&[problem]),
        };
        if self.common.json {
            println!("{}", serde_json::to_string(&status).unwrap_or_default());
            return ExitCode::SUCCESS;
        }
        self.print(&status);
        if let Some(other) = &status.other {
            self.print(other);
        }
        ExitCode::SUCCESS
    }

    fn print(&self, status: &status::Status) {
        let conflicts = &status.conflicts;
        let mut rows = vec![
            ("migration", format!("{} ({})", status.migration, status.link)),
            ("phase", format!("{}{}", status.phase, if status.consistent { "" } else { ", not consistent yet" })),
            ("host", format!("{}{}", status.host, if status.running { ", running" } else { "" })),
            ("checkpoint", status.checkpoint.clone().unwrap_or_default()),
            ("source position", status.source_position.clone()),
            ("lag", format!("{} bytes, {:.1} s", status.lag_bytes, status.lag_seconds)),
            ("copy", format!("{} of {} chunks, {} rows", status.chunks.0, status.chunks.1, status.copied_rows)),
            (
                "stream",
                format!(
                    "{} transactions: {} inserted, {} updated, {} deleted rows",
                    status.transactions, status.inserted_rows, status.updated_rows, status.deleted_rows
                ),
            ),
            (
                "conflicts",
                format!(
                    "{} decided, {} open, {} resolved; {} agreements",
                    conflicts.decided, conflicts.open, conflicts.resolved, status.agreements
                ),
            ),
            ("artifact", status.artifact.clone()),
            ("slot", format!("{}, {} MiB of log kept", status.slot, status.retained_wal_bytes >> 20)),
        ];
        rows.extend(sequences(&status.sequences));
        if let Some(readiness) = &status.readiness {
            rows.extend(way_back(readiness));
        }
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        super::table::print(&["", ""], rows, self.common.is_for_eyes());
        status.problem.iter().for_each(|problem| println!("stopped by {problem}"));
        status.warnings.iter().for_each(|warning| println!("warning: {warning}"));
    }
}

/// How many there are, and the one that has the least left; `check` lists them all.
fn sequences(all: &[Shown]) -> Option<(&'static str, String)> {
    let least = all.iter().filter_map(|shown| Some((shown.left_percent?, shown))).min_by_key(|(left, _)| *left);
    least.map(|(left, shown)| {
        ("sequences", format!("{} kept apart; {} of {} has {left} % left", all.len(), shown.sequence, shown.side))
    })
}

fn way_back(readiness: &Readiness) -> Vec<(&'static str, String)> {
    let Some(since) = &readiness.since else {
        return vec![("way back", "open: the source has no changes of its own".to_owned())];
    };
    let sum = |of: fn(&status::WatchedTable) -> u64| readiness.tables.iter().map(of).sum::<u64>();
    let (tried, skipped, unfit) = (sum(|it| it.tried_rows), sum(|it| it.skipped_rows), sum(|it| it.unfit_rows));
    let own = format!("{} changes in {} transactions since {since}", sum(|it| it.changes), readiness.transactions);
    let mut rows = vec![
        ("own changes", own),
        (
            "way back",
            format!("{tried} rows tried, {skipped} not tried, {unfit} would not fit (as of {})", readiness.at),
        ),
    ];
    for table in &readiness.tables {
        for unfit in &table.unfit {
            let shown = |key: &serde_json::Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            let keys: Vec<String> = unfit.keys.iter().map(shown).collect();
            let (reason, name) = (&unfit.reason, &unfit.name);
            rows.push(("unfit", format!("{} {reason} {name}: {} rows: {}", table.table, unfit.rows, keys.join(", "))));
        }
    }
    rows
}
