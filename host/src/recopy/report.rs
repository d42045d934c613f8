//! What a repair has done, in numbers.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::pair::Row;
use super::part::{Kind, Mended, kind};
use crate::change::Datum;
use crate::delta::{Effect, Key, Operation};
use crate::plan::Plan;
use crate::verify::{Options, shown_key};

/// How many rows that are left are named for each table.
const SAMPLE_ROWS: usize = 20;

/// What was done to one target table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableRepair {
    /// Source rows' rows that were looked at.
    pub rows_looked_at: u64,
    /// Rows of which groups were set to what this revision makes of them.
    pub rows_patched: u64,
    /// Rows that got the key that this revision gives them.
    pub rows_rekeyed: u64,
    /// Rows that only this revision makes.
    pub rows_inserted: u64,
    /// Rows that only an older revision made.
    pub rows_deleted: u64,
    /// Rows that do not agree for another reason; with `force` they are among those written.
    pub rows_rest: u64,
    /// Some of them: the key, and the columns; none: the row is missing, or nothing stands for it.
    pub rest: Vec<(String, Vec<String>)>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// By target table.
    pub tables: BTreeMap<String, TableRepair>,
    /// Source tables that were left alone, and why.
    pub left_out: Vec<(String, String)>,
    /// Revisions that have written and that are not at hand.
    pub unknown: Vec<String>,
    /// Source rows that changed too often, or whose rows the target did not take.
    pub rows_busy: u64,
    /// Why it did not take the last one of them.
    pub refused: Option<String>,
}

impl Repaired {
    /// Rows that were written.
    pub fn rows_written(&self) -> u64 {
        let written =
            |table: &TableRepair| table.rows_patched + table.rows_rekeyed + table.rows_inserted + table.rows_deleted;
        self.tables.values().map(written).sum()
    }

    /// Rows that do not agree for another reason than a revision.
    pub fn rows_rest(&self) -> u64 {
        self.tables.values().map(|table| table.rows_rest).sum()
    }

    fn table(&mut self, plan: &Plan, target: usize) -> &mut TableRepair {
        self.tables.entry(plan.targets[target].name.to_string()).or_default()
    }

    pub(super) fn add(&mut self, plan: &Plan, mended: &Mended, values: bool) {
        let mut rows: HashSet<(usize, Key)> = HashSet::new();
        for operation in &mended.written {
            if key(plan, operation).is_some_and(|key| !rows.insert((operation.target, key))) {
                continue;
            }
            let table = self.table(plan, operation.target);
            match kind(operation) {
                Kind::Patched => table.rows_patched += 1,
                Kind::Rekeyed => table.rows_rekeyed += 1,
                Kind::Inserted => table.rows_inserted += 1,
                Kind::Deleted => table.rows_deleted += 1,
            }
        }
        for decided in mended.decided.values() {
            for target in &decided.looked_at {
                self.table(plan, *target).rows_looked_at += 1;
            }
            decided.rest.iter().for_each(|(row, columns)| self.left(plan, row, columns, values));
            decided.unclaimed.iter().for_each(|row| self.left(plan, row, &[], values));
        }
        if let Some(refused) = &mended.refused {
            self.refused = Some(refused.to_string());
        }
    }

    /// A row that nothing stands for any more: whether it was deleted, and whether it was as an older revision made it.
    pub(super) fn removed(&mut self, plan: &Plan, row: &Row, (deleted, as_made): (bool, bool), values: bool) {
        self.table(plan, row.target).rows_deleted += u64::from(deleted);
        if !as_made {
            self.left(plan, row, &[], values);
        }
    }

    fn left(&mut self, plan: &Plan, row: &Row, columns: &[u16], values: bool) {
        let place = &plan.targets[row.target];
        let options = Options { values, ..Options::default() };
        let text = |datum: &Datum| match datum {
            Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Datum::Null | Datum::Unset => String::new(),
        };
        let key: Vec<String> = row.key.iter().map(text).collect();
        let table = self.table(plan, row.target);
        table.rows_rest += 1;
        if table.rest.len() < SAMPLE_ROWS {
            let names = columns.iter().map(|column| place.columns[usize::from(*column)].name.clone());
            table.rest.push((shown_key(options, &place.name, &key), names.collect()));
        }
    }
}

fn key(plan: &Plan, operation: &Operation) -> Option<Key> {
    match &operation.effect {
        Effect::Patch { key, .. } | Effect::Delete { key } => Some(key.clone()),
        Effect::Rekey { to, .. } => Some(to.clone()),
        Effect::Insert { columns, values } => {
            let at = |column: &u16| columns.iter().position(|own| own == column).map(|at| values[at].clone());
            plan.targets[operation.target].key.iter().map(at).collect()
        }
        _ => None,
    }
}
