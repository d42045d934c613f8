//! What the losing link says on the winning side before it decides a batch again (L8): rows that are asserted as they
//! are, and rows that must not be there.

use std::collections::HashSet;

use crate::change::Datum;
use crate::delta::Key;
use crate::delta::decide::{self, Absence, Reassertion};
use crate::marker::{Denial, MigrationId, PREFIX, record_digest};
use crate::names::{quote_name, quote_text};
use crate::plan::Plan;
use crate::problem::Outcome;

use super::decided::{Deciding, digest, text_of};

/// What was said for one decision.
#[derive(Default)]
pub(super) struct Said {
    /// Rows that were asserted as they are.
    pub(super) asserted: HashSet<(usize, Key)>,
    /// Rows that were to be asserted and were not there.
    pub(super) barred: HashSet<(usize, Key)>,
    /// Rows that were denied.
    pub(super) denied: HashSet<(usize, Key)>,
}

impl Said {
    /// L8: what was said last counts. The target's application goes on between two decisions of one batch: a row that was
    /// asserted may be gone and denied by now, and be there once more when it is looked at again. Then the denial is on
    /// its way behind the row, and only another assertion follows it.
    fn deny(&mut self, row: (usize, Key), record: impl IntoIterator<Item = (usize, Key)>) {
        for row in record {
            self.asserted.remove(&row);
        }
        self.denied.insert(row);
    }

    fn assert(&mut self, row: (usize, Key), was_there: bool) {
        match was_there {
            true => self.asserted.insert(row),
            false => self.barred.insert(row),
        };
    }
}

impl Deciding {
    /// Says what a decision asks for. Of what describes a row, what is there is asserted after all of it was denied.
    pub(super) async fn say(
        &self,
        migration_id: MigrationId,
        plan: &Plan,
        decided: decide::Outcome,
        said: &mut Said,
    ) -> Outcome<()> {
        self.deny(migration_id, plan, &decided.absences).await?;
        for Absence { target, key, .. } in decided.absences {
            let record = decide::kin(self.ruled.parts.records(), target, &key);
            said.deny((target, key), record);
        }
        for row in decided.reassertions {
            let was_there = self.touch(plan, &row).await?;
            said.assert((row.target, row.key), was_there);
        }
        Ok(())
    }

    /// Writes a row of the target with nothing changed, unsigned: the other link sends it whole (L8). Whether it was there.
    pub(super) async fn touch(&self, plan: &Plan, row: &Reassertion) -> Outcome<bool> {
        let target = &plan.targets[row.target];
        let column = (0..target.columns.len())
            .find(|column| !target.columns[*column].generated && !target.key.contains(&(*column as u16)));
        let name = |column: usize| quote_name(&target.columns[column].name);
        let set = name(column.unwrap_or_else(|| target.key.first().copied().unwrap_or_default().into()));
        let found: Vec<String> = target
            .key
            .iter()
            .zip(&row.key)
            .map(|(column, datum)| format!("{} = {}", name(usize::from(*column)), literal(datum)))
            .collect();
        let update =
            format!("UPDATE {} SET {set} = {set} WHERE {} RETURNING 1", target.name.sql(), found.join(" AND "));
        let touched = self.nudge.rows(&update).await.map_err(|problem| problem.table(&target.name))?;
        Ok(!touched.is_empty())
    }

    /// Says in the target's log, unsigned, that rows of the source must not be there: the other link removes them.
    async fn deny(&self, migration_id: MigrationId, plan: &Plan, rows: &[Absence]) -> Outcome<()> {
        for Absence { target, key, from: (source, source_key), details } in rows {
            let record = self
                .ruled
                .parts
                .records()
                .get(*target)
                .and_then(Option::as_ref)
                .map(|record| record_digest(&record.family, record.order.iter().map(|at| text_of(&key[*at]))));
            let denial = Denial {
                row: digest(plan, *target, key),
                record: record.unwrap_or_default(),
                details: *details,
                table: plan.sources[*source].name.clone(),
                key: source_key.iter().map(|datum| String::from_utf8_lossy(text_of(datum)).into_owned()).collect(),
            };
            let hex: String = denial.to_bytes(migration_id).iter().map(|byte| format!("{byte:02x}")).collect();
            let say = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', '\\x{hex}'::bytea)");
            self.nudge.run(&say).await.map_err(|problem| problem.table(&plan.targets[*target].name))?;
        }
        Ok(())
    }
}

fn literal(datum: &Datum) -> String {
    match datum {
        Datum::Text(text) => quote_text(&String::from_utf8_lossy(text)),
        Datum::Null | Datum::Unset => "NULL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l8_a_row_that_is_denied_after_it_was_asserted_has_to_be_asserted_once_more_if_it_is_there_again() {
        let row = |id: &str| (0, Key::from([Datum::text(id)]));
        let (mut said, of_the_record) = (Said::default(), (1, row("3").1));
        for row in [row("3"), of_the_record.clone(), row("4")] {
            said.assert(row, true);
        }
        said.deny(row("3"), [row("3"), of_the_record.clone()]);
        assert!(said.denied.contains(&row("3")));
        assert_eq!(said.asserted, HashSet::from([row("4")]), "the row and what describes it are no longer asserted");
        said.assert(row("3"), true);
        assert!(said.asserted.contains(&row("3")));
    }
}
