//! The figures of a demo: a table on a terminal, plain lines on a pipe, JSON for programs.

use std::fmt::Write;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::demo::load::Tally;
use crate::names::TableName;
use crate::verify::{TableVerdict, Verdict};

/// How far green was behind blue while both were at work.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Lag {
    /// Half of the samples were not above this.
    pub median_ms: u64,
    /// 99 in 100 samples were not above this.
    pub p99_ms: u64,
    /// The largest sample.
    pub most_ms: u64,
    /// How many samples there are.
    pub samples: u64,
    /// Rows changed on green in a second.
    pub rows_a_second: f64,
}

/// One act, as it was told.
#[derive(Clone, Debug, Serialize)]
pub struct Act {
    /// What happened.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Its figures, as a sentence.
    pub figures: String,
}

/// A comparison of what one link has brought.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The link.
    pub link: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// What was found.
    pub verdict: Verdict,
}

impl Comparison {
    /// What only release 2 knows has changed while nobody was there: as bad as a row that differs.
    pub fn lost_levels() -> Comparison {
        let table = TableVerdict {
            table: TableName::new("public", "customer"),
            rows_compared: 0,
            rows_differ: 1,
            rows_missing: 0,
            rows_surplus: 0,
            rows_kept: 0,
            rows_corrected: 0,
            rows_own: 0,
            rows_waiting: 0,
            complement_columns: vec!["loyalty_level".into()],
            sample: Vec::new(),
        };
        Comparison { link: "backward", seconds: 0.0, verdict: Verdict { tables: vec![table] } }
    }
}

/// How long parts of the story took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// Servers, schemas, roles and rows.
    pub seeded_s: f64,
    /// The copy, from the link's start on.
    pub copied_s: f64,
    /// All comparisons.
    pub compared_s: f64,
    /// Everything.
    pub all_s: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Rows on blue before the load began.
    pub rows_seeded: u64,
    /// Rows copied.
    pub rows_copied: u64,
    /// Blue's transactions applied.
    pub transactions_applied: u64,
    /// Rows inserted, updated and deleted on green by the stream.
    pub rows_changed: u64,
    /// The same on blue, by the backward link.
    pub rows_changed_back: u64,
    /// What the users did in release 1.
    pub load: Tally,
    /// What they did in release 2.
    pub load_of_release_2: Tally,
    /// How far behind green was while only forward applied.
    pub lag: Lag,
    /// The acts.
    pub acts: Vec<Act>,
    /// What the comparisons found.
    pub comparisons: Vec<Comparison>,
    /// How long it took.
    pub times: Times,
}

impl Report {
    /// Whether each side held exactly what it should, whenever that was looked at.
    pub fn is_good(&self) -> bool {
        self.rows_wrong() == 0
    }

    /// Rows that differed, in all comparisons.
    pub fn rows_wrong(&self) -> u64 {
        self.comparisons.iter().map(|comparison| comparison.verdict.rows_wrong()).sum()
    }

    fn rows_compared(&self) -> u64 {
        self.comparisons.iter().map(|comparison| comparison.verdict.rows_compared()).sum()
    }

    /// For a program.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": self.is_good(),
            "rows_compared": self.rows_compared(),
            "rows_wrong": self.rows_wrong(),
            "report": self,
        })
    }

    /// For a person at a terminal.
    pub fn to_table(&self) -> String {
        let mut figures = Table::new();
        figures.load_style(UTF8_FULL_CONDENSED);
        self.lines().into_iter().for_each(|(name, figure)| {
            figures.add_row([name.to_owned(), figure]);
        });
        let mut tables = Table::new();
        tables.load_style(UTF8_FULL_CONDENSED);
        tables.set_header(["table", "rows compared", "rows that differ", "kept", "complement"]);
        for (side, table) in self.last_verdicts() {
            tables.add_row([
                format!("{side} {}", table.table),
                grouped(table.rows_compared),
                grouped(table.rows_wrong()),
                grouped(table.rows_kept),
                table.complement_columns.join(", "),
            ]);
        }
        [(1, 1), (2, 1), (3, 1)].iter().for_each(|(column, _)| right(&mut tables, *column));
        right(&mut figures, 1);
        format!("{tables}\n{figures}")
    }

    /// For a pipe.
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for (side, table) in self.last_verdicts() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{side} {}: {} rows compared, {} differ",
                table.table,
                table.rows_compared,
                table.rows_wrong()
            );
        }
        for (name, figure) in self.lines() {
            let _ = writeln!(text, "{name}: {figure}");
        }
        text.trim_end().to_owned()
    }

    /// Table by table, what the last comparison each way has found, with the side that was written.
    fn last_verdicts(&self) -> Vec<(&'static str, &TableVerdict)> {
        let last = |link: &str| self.comparisons.iter().rfind(|comparison| comparison.link == link);
        let of = |link, side| {
            let tables = last(link).into_iter().flat_map(|comparison| &comparison.verdict.tables);
            tables.map(move |table| (side, table))
        };
        of("forward", "green").chain(of("backward", "blue")).collect()
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let (lag, times) = (&self.lag, &self.times);
        let a_second = self.rows_copied as f64 / times.copied_s.max(0.001);
        vec![
            (
                "rows copied",
                format!("{} in {:.1} s ({}/s)", grouped(self.rows_copied), times.copied_s, grouped(a_second as u64)),
            ),
            (
                "transactions of the load",
                format!(
                    "{} in release 1, {} in release 2",
                    grouped(self.load.total()),
                    grouped(self.load_of_release_2.total())
                ),
            ),
            (
                "changes applied",
                format!(
                    "{} rows forward, {} rows backward",
                    grouped(self.rows_changed),
                    grouped(self.rows_changed_back)
                ),
            ),
            (
                "lag while only forward applied",
                format!("median {} ms, p99 {} ms, most {} ms", lag.median_ms, lag.p99_ms, lag.most_ms),
            ),
            (
                "rows compared",
                format!(
                    "{} in {} comparisons, {:.1} s",
                    grouped(self.rows_compared()),
                    self.comparisons.len(),
                    times.compared_s
                ),
            ),
            ("rows that differ", grouped(self.rows_wrong())),
            ("time", format!("{:.1} s", times.all_s)),
        ]
    }
}

fn right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows_differ: u64) -> Report {
        let tally = |deed| Tally { deeds: vec![(deed, 7)], repeated: 0, declined: 0 };
        let table =
            TableVerdict { rows_compared: 40_123, rows_differ, ..Comparison::lost_levels().verdict.tables.remove(0) };
        Report {
            rows_seeded: 200_000,
            rows_copied: 200_000,
            transactions_applied: 10,
            rows_changed: 12_345,
            rows_changed_back: 678,
            load: tally("orders placed"),
            load_of_release_2: tally("orders placed"),
            lag: Lag { median_ms: 3, p99_ms: 20, most_ms: 31, samples: 5, rows_a_second: 99.4 },
            acts: vec![Act { name: "an act".into(), seconds: 1.0, figures: "7 of 7".into() }],
            comparisons: vec![Comparison { link: "forward", seconds: 1.0, verdict: Verdict { tables: vec![table] } }],
            times: Times { seeded_s: 1.0, copied_s: 2.0, compared_s: 1.0, all_s: 8.0 },
        }
    }

    #[test]
    fn every_form_says_how_many_rows_differ() {
        let bad = report(2);
        assert!(!bad.is_good());
        assert!(bad.to_lines().contains("rows that differ: 2"), "{}", bad.to_lines());
        assert_eq!(bad.to_json()["rows_wrong"], 2);
        assert!(bad.to_table().contains("rows that differ"));
        assert!(bad.to_lines().contains("green public.customer: 40123 rows compared, 2 differ"), "{}", bad.to_lines());
        assert!(report(0).is_good());
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
