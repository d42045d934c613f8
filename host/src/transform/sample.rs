//! Calls that are made again, to see whether a transform is a function of its rows (L9).
//!
//! The second time a fresh instance gets the same rows in other calls: what an instance remembers, and what a row sees of
//! its neighbours, shows as a difference. It costs its share of the time and proves nothing about the calls it did not
//! take; the first call of each table is always among those it takes.

use std::collections::HashSet;

use super::calls::Blamed;
use super::instance::Fault;
use super::limits::Limits;
use crate::names::TableName;
use crate::plan::{Answer, Plan, Source};

/// The code of a difference.
pub(super) const CODE: &str = "NOT_DETERMINISTIC";

/// Which calls are made again.
pub(super) struct Sample {
    share: f64,
    /// Grows by the share with every call; a whole one is a call to take.
    due: f64,
    /// Tables of which a call of several rows was taken.
    known: HashSet<TableName>,
}

impl Sample {
    pub(super) fn new(limits: &Limits) -> Self {
        Sample { share: limits.determinism_share, due: 0.0, known: HashSet::new() }
    }

    /// Whether this call is made again. It counts calls, so that two runs over the same changes take the same ones.
    pub(super) fn takes(&mut self, source: &Source, rows: usize) -> bool {
        if self.share <= 0.0 || rows == 0 {
            return false;
        }
        self.due += self.share;
        // A single row has no neighbours to be parted from: it is no sample of its table.
        let first = rows > 1 && !self.known.contains(&source.name) && self.known.insert(source.name.clone());
        let takes = first || self.due >= 1.0;
        if takes {
            self.due = (self.due - 1.0).max(0.0);
        }
        takes
    }
}

/// The first row that was answered otherwise the second time, if there is one. It names the column, never the values.
pub(super) fn difference(
    (plan, source): (&Plan, &Source),
    answers: &[Answer],
    others: &[Answer],
    again: Result<(), Blamed>,
) -> Option<Blamed> {
    let fault = |what: String| Fault { code: CODE, what };
    const SAME: &str = "the same rows in a fresh instance and in other calls";
    if let Some(row) = answers.iter().zip(others).position(|(answer, other)| answer != other) {
        let place = place(plan, source, &answers[row], &others[row]);
        return Some(Blamed { row, fault: fault(format!("it answered {SAME} in another way{place}")) });
    }
    match again {
        Ok(()) => None,
        // A busy machine may be slow once and not the other time; that is no answer.
        Err(Blamed { fault, .. }) if fault.code == "TRANSFORM_TIMEOUT" => None,
        Err(Blamed { row, fault: other }) => {
            Some(Blamed { row, fault: fault(format!("it answered, but for {SAME} {}", other.what)) })
        }
    }
}

/// Which column differs, if the answers are alike but for values.
fn place(plan: &Plan, source: &Source, answer: &Answer, other: &Answer) -> String {
    let pairs = answer.iter().zip(other).filter(|(one, two)| one.output == two.output);
    let differing = pairs.filter_map(|(one, two)| {
        let value = one.values.iter().zip(&two.values).position(|(one, two)| one != two)?;
        let output = &source.rule.outputs[one.output];
        let target = &plan.targets[output.target];
        let column = output.computed.get(value).and_then(|column| target.columns.get(usize::from(*column)))?;
        Some(format!(", first in {}.{}", target.name, column.name))
    });
    differing.into_iter().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        Source {
            name: TableName::new("public", name),
            columns: Vec::new(),
            generated: Vec::new(),
            key: Vec::new(),
            full_identity: true,
            identity_key: Vec::new(),
            copy_level: 0,
            refers_to_itself: false,
            rule: crate::plan::Rule { guest_table: None, asked: Vec::new(), outputs: Vec::new() },
            depends: Default::default(),
            size_bytes: 0,
            rows_estimate: 0.0,
        }
    }

    #[test]
    fn l9_the_first_call_of_each_table_and_then_the_share_is_taken() {
        let (one, two) = (source("one"), source("two"));
        let mut sample = Sample::new(&Limits { determinism_share: 0.25, ..Limits::default() });
        assert!(!sample.takes(&one, 1), "one row is no sample of a table");
        assert!(sample.takes(&one, 2) && sample.takes(&two, 2));
        let taken = (0..400).filter(|_| sample.takes(&one, 1_000)).count();
        assert!((99..=101).contains(&taken), "{taken}");
        let mut none = Sample::new(&Limits { determinism_share: 0.0, ..Limits::default() });
        assert!(!(0..400).any(|_| none.takes(&one, 1_000)));
    }
}
