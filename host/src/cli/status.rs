//! `falkirk status`.

use std::process::ExitCode;

use clap::Args;

use crate::status;

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
}

impl Status {
    pub(super) async fn run(self) -> ExitCode {
        let settings = match self.common.settings() {
            Ok(settings) => settings,
            Err(problem) => return self.common.failed(&[problem]),
        };
        let status = match status::status(&settings).await {
            Ok(status) => status,
            Err(problem) => return self.common.failed(&[problem]),
        };
        if self.common.json {
            println!("{}", serde_json::to_string(&status).unwrap_or_default());
            return ExitCode::SUCCESS;
        }
        let rows = [
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
            ("artifact", status.artifact.clone()),
            ("slot", format!("{}, {} MiB of log kept", status.slot, status.retained_wal_bytes >> 20)),
        ];
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        super::table::print(&["", ""], rows, self.common.is_for_eyes());
        status.problem.iter().for_each(|problem| println!("stopped by {problem}"));
        status.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        ExitCode::SUCCESS
    }
}
