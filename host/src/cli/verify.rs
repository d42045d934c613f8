//! `falkirk verify`: exit code 1 if anything differs. It never prints a row's value; keys only with `--values`.

use std::process::ExitCode;

use clap::Args;

use crate::check::{self, Given};
use crate::pg::session::Session;
use crate::problem::Problem;
use crate::verify::{self, Ends, Options, Verdict};
use crate::{link, supervisor};

use super::{Common, table};

#[derive(Args, Debug)]
pub(super) struct Verify {
    #[command(flatten)]
    common: Common,
    /// Show keys of differing rows as they are, instead of hashes.
    #[arg(long)]
    values: bool,
    /// How many differing rows to name for each table.
    #[arg(long, value_name = "ROWS", default_value_t = 10)]
    sample: usize,
}

impl Verify {
    pub(super) async fn run(self) -> ExitCode {
        match self.compare().await {
            Ok(verdict) => {
                self.print(&verdict);
                ExitCode::from(u8::from(verdict.rows_wrong() > 0))
            }
            Err(problems) => self.common.failed(&problems),
        }
    }

    async fn compare(&self) -> Result<Verdict, Vec<Problem>> {
        let one = |problem: Problem| vec![problem];
        let settings = self.common.settings().map_err(one)?;
        let artifact = supervisor::load_artifact(&settings).await.map_err(one)?;
        let (from, to) = (&settings.source().address, &settings.target().address);
        let source = Session::connect(from, "verify").await.map_err(one)?;
        let target = Session::connect(to, "verify").await.map_err(one)?;
        let [started_with, others] = link::started_with(&settings, &source, &target).await.map_err(one)?;
        let given = Given {
            settings: &settings,
            artifact: artifact.as_deref(),
            source: &source,
            target: &target,
            started_with: started_with.as_deref(),
            other_started_with: others.as_deref(),
            copies: false,
        };
        // What is wrong with the servers or their roles does not matter here, as long as rules and tables fit.
        let findings = check::preflight(&given).await.map_err(one)?;
        // What agrees only backward agrees, whether a link goes there or not.
        let back = check::way_back(&given, &findings);
        let Some(plan) = findings.plan else { return Err(findings.problems) };
        let options = Options { values: self.values, sample_rows: self.sample };
        let artifact = artifact.map(|artifact| (artifact, settings.limits));
        verify::verify_through(
            Ends { source: from, target: to },
            (&plan, back.as_deref()),
            (&settings.name, settings.link),
            artifact,
            options,
        )
        .await
        .map_err(one)
    }

    fn print(&self, verdict: &Verdict) {
        if self.common.json {
            let answer = serde_json::json!({
                "ok": verdict.rows_wrong() == 0, "rows_compared": verdict.rows_compared(),
                "rows_wrong": verdict.rows_wrong(), "rows_waiting": verdict.rows_waiting(), "tables": verdict.tables,
            });
            println!("{answer}");
            return;
        }
        let numbers = |table: &verify::TableVerdict| {
            let rows = [table.rows_compared, table.rows_differ, table.rows_missing, table.rows_surplus];
            let others = [table.rows_kept, table.rows_corrected, table.rows_own, table.rows_waiting];
            rows.into_iter().chain(others).map(|rows| rows.to_string())
        };
        let row = |table: &verify::TableVerdict| {
            let mut row = vec![table.table.to_string()];
            row.extend(numbers(table));
            row.push(table.complement_columns.join(", "));
            row
        };
        let head =
            ["table", "compared", "differ", "missing", "surplus", "kept", "corrected", "own", "waiting", "complement"];
        table::print(&head, verdict.tables.iter().map(row).collect(), self.common.is_for_eyes());
        for table in &verdict.tables {
            for row in &table.sample {
                println!("{} {} {:?}: {}", table.table, row.key, row.kind, row.columns.join(", "));
            }
        }
        if verdict.rows_waiting() > 0 {
            println!("{} rows wait in open conflicts: falkirk conflicts list --state open", verdict.rows_waiting());
        }
    }
}
