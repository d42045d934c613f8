//! A revision on trial: it lifts the same changes as the running one, and what both would write is compared. Nothing of
//! it reaches the target.
//!
//! Compared is what each leaves of a target row after a batch, so that neither the order nor the grouping of statements
//! makes a difference. Rows are told apart by digests of their keys; the keys themselves are kept for whoever asks to
//! see values.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::change::{Datum, Event};
use crate::delta::decide::key_of;
use crate::delta::{Key, Set, SetKind};
use crate::marker::row_digest;
use crate::names::TableName;
use crate::plan::Plan;
use crate::problem::Problem;

use super::assemble::Placed;
use super::lifting::Lifting;
use super::relations::Relations;

/// Differing rows that are kept to be shown; the rest is counted.
const SHOWN: usize = 100;

/// What a trial has found so far; shared by all links on which it runs.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Source changes that both revisions have lifted.
    pub changes: u64,
    /// Target rows that either would have written.
    pub rows: u64,
    /// Target rows that they would have left differently.
    pub differing: u64,
    /// The first of them.
    pub shown: Vec<Difference>,
    /// The new revision has failed on a change.
    pub failed: Option<Problem>,
    /// Nobody wants to know any more.
    pub over: bool,
}

/// A target row that two revisions would leave differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: TableName,
    /// The row's key, which holds values.
    pub key: String,
    /// A digest of the key, to tell rows apart without showing values.
    pub digest: String,
    /// The columns; none: only one of the two leaves the row there.
    pub columns: Vec<String>,
}

/// What links and whoever asked share.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Trial>>);

impl Shared {
    /// What was found so far.
    pub fn look(&self) -> Trial {
        self.lock().clone()
    }

    /// Ends the trial.
    pub fn end(&self) {
        self.lock().over = true;
    }

    fn lock(&self) -> MutexGuard<'_, Trial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One link's part of a trial.
pub struct Shadow {
    /// The running revision once more, so that both are treated alike.
    pub old: Lifting,
    /// Its plan.
    pub old_plan: Arc<Plan>,
    /// The new revision.
    pub new: Lifting,
    /// Its plan.
    pub new_plan: Arc<Plan>,
    /// What was found.
    pub shared: Shared,
}

/// A row as a batch leaves it: written columns, or gone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    gone: bool,
    columns: BTreeMap<String, Option<Vec<u8>>>,
}

type Rows = BTreeMap<(TableName, Vec<Vec<u8>>), Left>;

impl Shadow {
    /// Lifts a batch with both revisions and compares. `false`: the trial is over.
    pub(super) async fn compare(&mut self, changes: &[Placed], relations: &Relations) -> bool {
        if self.shared.lock().over {
            return false;
        }
        let old = self.old.lift(changes, &relations.under(&self.old_plan), false).await;
        // What the running revision fails on, it fails on by itself.
        let Ok(old) = old else { return true };
        let new = match self.new.lift(changes, &relations.under(&self.new_plan), false).await {
            Ok(new) => new,
            Err(fault) => {
                let mut trial = self.shared.lock();
                trial.changes += fault.change as u64;
                trial.failed = Some(fault.problem.position(changes[fault.change].at));
                return false;
            }
        };
        let (old, new) = (left_by(&self.old_plan, &old), left_by(&self.new_plan, &new));
        let mut trial = self.shared.lock();
        // What the other link denies is no change of the source's: no revision computes it (L8).
        let denied = |placed: &&Placed| matches!(placed.change.event, Event::Denied { .. });
        trial.changes += (changes.len() - changes.iter().filter(denied).count()) as u64;
        for place in old.keys().chain(new.keys().filter(|place| !old.contains_key(*place))) {
            trial.rows += 1;
            if let Some(difference) = differ(place, old.get(place), new.get(place)) {
                trial.differing += 1;
                if trial.shown.len() < SHOWN {
                    trial.shown.push(difference);
                }
            }
        }
        true
    }
}

fn differ((table, key): &(TableName, Vec<Vec<u8>>), old: Option<&Left>, new: Option<&Left>) -> Option<Difference> {
    if old == new {
        return None;
    }
    let none = BTreeMap::new();
    let is_there = |left: Option<&Left>| left.is_some_and(|left| !left.gone);
    let columns = |left: Option<&'_ Left>| left.map_or(none.clone(), |left| left.columns.clone());
    let (before, after) = (columns(old), columns(new));
    let mut names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|name| before.get(name) != after.get(name));
    if is_there(old) != is_there(new) && (old.is_some_and(|left| left.gone) || new.is_some_and(|left| left.gone)) {
        names.clear();
    }
    let digest = row_digest(table, key.iter().map(Vec::as_slice));
    let shown: Vec<_> = key.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    Some(Difference {
        table: table.clone(),
        key: shown.join(", "),
        digest: format!("{:08x}", (digest >> 96) as u32),
        columns: names,
    })
}

/// What sets leave of each row that they touch.
fn left_by(plan: &Plan, segments: &[Vec<Set>]) -> Rows {
    let mut rows = Rows::new();
    for set in segments.iter().flatten() {
        let target = &plan.targets[set.target];
        let place =
            |key: &Key| (target.name.clone(), key.iter().map(|datum| bytes(datum).unwrap_or_default()).collect());
        for row in 0..set.rows() {
            match set.kind {
                SetKind::Insert | SetKind::Ensure => {
                    let key = key_of(target, &set.columns, &set.values[row]);
                    let left = rows.entry(place(&key)).or_default();
                    left.gone = false;
                    write(left, plan, set, row);
                }
                SetKind::Patch | SetKind::Clear => {
                    write(rows.entry(place(&set.keys[row])).or_default(), plan, set, row);
                }
                SetKind::Rekey => {
                    let mut moved = rows.remove(&place(&set.keys[row])).unwrap_or_default();
                    write(&mut moved, plan, set, row);
                    rows.insert(place(&set.keys[row]), Left { gone: true, ..Left::default() });
                    rows.insert(place(&set.new_keys[row]), moved);
                }
                SetKind::Delete => {
                    rows.insert(place(&set.keys[row]), Left { gone: true, ..Left::default() });
                }
                SetKind::Truncate => {}
            }
        }
        for truncated in &set.truncated {
            let table = (plan.targets[*truncated].name.clone(), Vec::new());
            rows.insert(table, Left { gone: true, ..Left::default() });
        }
    }
    rows
}

fn write(left: &mut Left, plan: &Plan, set: &Set, row: usize) {
    let target = &plan.targets[set.target];
    for (column, value) in set.columns.iter().zip(&set.values[row]) {
        left.columns.insert(target.columns[usize::from(*column)].name.clone(), bytes(value));
    }
}

fn bytes(datum: &Datum) -> Option<Vec<u8>> {
    match datum {
        Datum::Text(text) => Some(text.to_vec()),
        Datum::Null | Datum::Unset => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Image, Relation, RelationColumn};
    use crate::lsn::Lsn;
    use crate::stream::keyed::tests::copied;

    fn relation(table: &str) -> Arc<Relation> {
        let column =
            |name: &str| RelationColumn { name: name.into(), type_oid: 25, type_modifier: -1, in_identity: true };
        let columns = vec![column("id"), column("note")];
        Arc::new(Relation { oid: 1, name: TableName::new("public", table), identity: b'f', columns })
    }

    fn placed(relation: &Arc<Relation>, event: Event) -> Placed {
        Placed { change: Change { relation: relation.clone(), event }, at: Lsn(1), knew: Lsn::ZERO, echo: false }
    }

    #[tokio::test]
    async fn l8_a_trial_passes_over_what_the_other_link_denies_and_compares_the_rest_of_the_batch() {
        let (plan, table, denied) = (Arc::new(copied()), relation("item"), relation("item"));
        let mut relations = Relations::new(&plan);
        relations.describe(&plan, &table).unwrap();
        let lifting = || Lifting::new(plan.clone(), None);
        let mut shadow = Shadow {
            old: lifting(),
            old_plan: plan.clone(),
            new: lifting(),
            new_plan: plan.clone(),
            shared: Shared::default(),
        };
        let row = |id: &str| Event::Insert(Image::from_datums(&[Datum::text(id), Datum::text("note")]));
        let batch = [
            placed(&table, row("1")),
            placed(&denied, Event::Denied { key: [Datum::text("2")].into(), details: false }),
            placed(&table, row("3")),
        ];
        assert!(shadow.compare(&batch, &relations).await, "the trial goes on");
        let trial = shadow.shared.look();
        // The row that was denied is neither counted nor compared: no revision computes it.
        assert_eq!((trial.changes, trial.rows, trial.differing), (2, 2, 0));
        assert!(trial.failed.is_none() && !trial.over);
    }
}
