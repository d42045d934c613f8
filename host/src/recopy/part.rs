//! One part of a recopy: some source rows, and at most one target transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Site;
use super::pair::{Decided, Row, Seen, decide, delete, insert, patch, units};
use crate::apply::compare::{Comparison, Finding};
use crate::apply::writer::repair::Repairs;
use crate::change::{Datum, Image};
use crate::config::Settings;
use crate::delta::fold::Folder;
use crate::delta::{Effect, Key, Operation};
use crate::lsn::Lsn;
use crate::plan::{Columns, Plan, Source};
use crate::problem::{Action, Blame, Outcome, Problem};
use crate::source::copy_out::CopyOut;
use crate::stream::touched::Watch;
use crate::transform::{Artifact, Limits};
use crate::verify::asking;
use crate::verify::either::{Asking, Differing};

/// How often a part is tried again that the target had no time for.
const TRIES: u32 = 10;

/// What a part needs of its surroundings.
pub(super) struct Around<'a, 'c> {
    pub(super) repairs: &'a mut Repairs<'c>,
    /// The source, in the snapshot.
    pub(super) source: &'a Comparison<'a>,
    pub(super) watch: &'a Watch<'a>,
    /// The snapshot holds everything before it.
    pub(super) since: Lsn,
    pub(super) site: &'a Site,
    /// The revision that mends.
    pub(super) artifact: &'a Option<Arc<Artifact>>,
    /// The rules backward, if there are any.
    pub(super) back: Option<&'a Plan>,
}

impl Around<'_, '_> {
    /// L11: what was computed by a revision that the host no longer runs is not written any more.
    fn is_still_run(&self) -> Outcome<()> {
        let digest = |artifact: &Option<Arc<Artifact>>| artifact.as_ref().map(|artifact| artifact.digest().to_owned());
        match digest(&self.site.running.artifact()) == digest(self.artifact) {
            true => Ok(()),
            false => Err(Problem::refuse(
                Blame::Host,
                "REVISION_CHANGED",
                "another revision was put in meanwhile; the rows that were mended so far are what the one before makes",
            )
            .remedy("run `falkirk recopy` again: it mends by the revision that runs now")),
        }
    }
}

/// Some source rows, and what the revisions make of them: numbers are positions among `images`.
pub(super) struct Part {
    pub(super) plan: Arc<Plan>,
    /// Position in the plan.
    pub(super) source: usize,
    pub(super) images: Vec<Image>,
    pub(super) new: Vec<(usize, Row)>,
    pub(super) older: Vec<(usize, Row)>,
    pub(super) force: bool,
    /// What differs in columns only is passed over.
    pub(super) only_missing: bool,
}

/// What a part came to.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// What was written.
    pub(super) written: Vec<Operation>,
    /// What was decided, by number.
    pub(super) decided: BTreeMap<usize, Decided>,
    /// Rows that have changed meanwhile, or that the target did not take yet.
    pub(super) postponed: Vec<usize>,
    /// Why it did not.
    pub(super) refused: Option<Problem>,
}

impl Part {
    fn source(&self) -> &Source {
        &self.plan.sources[self.source]
    }

    /// Looks without holding anybody up; where there is something to write, stands the stream still, looks again and writes.
    pub(super) async fn mend(&self, around: &mut Around<'_, '_>) -> Outcome<Mended> {
        let mut mended = Mended::default();
        let all = self.unchanged((0..self.images.len()).collect(), around, &mut mended);
        let decided = self.judge(&all, around).await?;
        // What has changed while it was looked at may be half old and half new.
        let all = self.unchanged(all, around, &mut mended);
        let decided = contested(decided.into_iter().filter(|(number, _)| all.contains(number)), &mut mended);
        let (to_write, settled): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(|(_, one)| !one.operations.is_empty());
        mended.decided.extend(settled);
        let to_write: Vec<usize> = to_write.into_iter().map(|(number, _)| number).collect();
        if to_write.is_empty() {
            return Ok(mended);
        }
        let Some(refused) = self.patiently(&to_write, around, &mut mended).await? else { return Ok(mended) };
        if let [one] = to_write.as_slice() {
            mended.postponed.push(*one);
            mended.refused = Some(refused);
            return Ok(mended);
        }
        // One row that the target does not take is not to keep the others from being mended.
        for number in to_write {
            if let Some(refused) = self.patiently(&[number], around, &mut mended).await? {
                mended.postponed.push(number);
                mended.refused = Some(refused);
            }
        }
        Ok(mended)
    }

    /// Without the rows that have changed since the snapshot (L5).
    fn unchanged(&self, numbers: Vec<usize>, around: &Around<'_, '_>, mended: &mut Mended) -> Vec<usize> {
        let Source { name, key, .. } = self.source();
        let has_changed = |number: &usize| around.watch.has_changed(name, key, &self.images[*number], around.since);
        let (changed, unchanged): (Vec<_>, Vec<_>) = numbers.into_iter().partition(has_changed);
        mended.postponed.extend(changed);
        unchanged
    }

    /// Writes, once more if the target had no time; what the target refuses, if it refuses a row.
    async fn patiently(
        &self,
        numbers: &[usize],
        around: &mut Around<'_, '_>,
        mended: &mut Mended,
    ) -> Outcome<Option<Problem>> {
        for tries in 1.. {
            let Err(problem) = self.write(numbers, around, mended).await else { return Ok(None) };
            around.repairs.rollback().await?;
            match problem.action() {
                Action::Retry if tries < TRIES => {}
                _ if is_of_a_row(&problem) => return Ok(Some(problem)),
                _ => return Err(problem),
            }
        }
        Ok(None)
    }

    /// Writes all rows in the open transaction, in which the target stands at `position` and the rows are those of it.
    pub(super) async fn settle(&self, around: &mut Around<'_, '_>, position: Lsn) -> Outcome<Mended> {
        let mut mended = Mended::default();
        let numbers: Vec<usize> = (0..self.images.len()).collect();
        let Err(problem) = self.write_now(&numbers, position, around, &mut mended).await else { return Ok(mended) };
        around.repairs.rollback().await?;
        if problem.action() != Action::Retry && !is_of_a_row(&problem) {
            return Err(problem);
        }
        Ok(Mended { postponed: numbers, refused: Some(problem), ..Mended::default() })
    }

    async fn write(&self, numbers: &[usize], around: &mut Around<'_, '_>, mended: &mut Mended) -> Outcome<()> {
        let position = around.repairs.begin().await?;
        let mut so_far = Mended::default();
        // L5: the checkpoint is held, so every change that the target contains was noted before.
        let numbers = self.unchanged(numbers.to_vec(), around, &mut so_far);
        self.write_now(&numbers, position, around, &mut so_far).await?;
        mended.written.extend(so_far.written);
        mended.decided.extend(so_far.decided);
        mended.postponed.extend(so_far.postponed);
        mended.refused = so_far.refused.or(mended.refused.take());
        Ok(())
    }

    async fn write_now(
        &self,
        numbers: &[usize],
        position: Lsn,
        around: &mut Around<'_, '_>,
        mended: &mut Mended,
    ) -> Outcome<()> {
        around.is_still_run()?;
        let seen: Vec<&(usize, Row)> =
            self.new.iter().chain(&self.older).filter(|(number, _)| numbers.binary_search(number).is_ok()).collect();
        let mut keys: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
        seen.iter().for_each(|(_, row)| keys.entry(row.target).or_default().push(row.key.clone()));
        for (target, mut keys) in keys {
            keys.sort_by_key(|key| format!("{key:?}"));
            keys.dedup();
            around.repairs.lock(&self.plan.targets[target], &keys).await?;
        }
        mended.decided = contested(self.judge(numbers, around).await?.into_iter(), mended);
        let operations = mended.decided.values().flat_map(|one| &one.operations);
        mended.written = operations.cloned().collect();
        match mended.written.is_empty() {
            true => around.repairs.rollback().await,
            false => write(around.repairs, &self.plan, position, mended.written.clone()).await,
        }
    }

    /// What is to become of these rows, by what the target holds.
    async fn judge(&self, numbers: &[usize], around: &mut Around<'_, '_>) -> Outcome<BTreeMap<usize, Decided>> {
        let here = Comparison::within(around.repairs.client());
        let of = |rows: &[(usize, Row)]| -> Vec<(usize, Row)> {
            rows.iter().filter(|(number, _)| numbers.binary_search(number).is_ok()).cloned().collect()
        };
        let new = see(&here, &self.plan, of(&self.new)).await?;
        let older = see(&here, &self.plan, of(&self.older)).await?;
        let mut by_row: BTreeMap<usize, (Vec<&Seen>, Vec<&Seen>)> =
            numbers.iter().map(|number| (*number, Default::default())).collect();
        new.iter().for_each(|(number, seen)| by_row.entry(*number).or_default().0.push(seen));
        older.iter().for_each(|(number, seen)| by_row.entry(*number).or_default().1.push(seen));
        let decide = |(number, (new, older)): (&usize, &(Vec<&Seen>, Vec<&Seen>))| {
            (*number, decide(self.source(), &self.plan.targets, new, older))
        };
        let mut decided: BTreeMap<usize, Decided> = by_row.iter().map(decide).collect();
        if self.only_missing {
            decided.values_mut().for_each(|one| {
                one.rest.retain(|(_, columns)| columns.is_empty());
                one.unclaimed.clear();
            });
        }
        self.excuse(&mut decided, around).await?;
        if self.force {
            decided.values_mut().for_each(|one| self.force(one));
        }
        Ok(decided)
    }

    /// What agrees the other way round is no difference (counter-example 22).
    async fn excuse(&self, decided: &mut BTreeMap<usize, Decided>, around: &mut Around<'_, '_>) -> Outcome<()> {
        let Some(back) = around.back else { return Ok(()) };
        let text = |datum: &Datum| match datum {
            Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Datum::Null | Datum::Unset => String::new(),
        };
        let differing = |(row, columns): &(Row, Vec<u16>)| Differing {
            target: row.target,
            key: row.key.iter().map(text).collect(),
            columns: columns.clone(),
        };
        let rest = || decided.values().flat_map(|one| &one.rest).filter(|(_, columns)| !columns.is_empty());
        let asked: Vec<Differing> = rest().map(differing).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let rows = CopyOut::within(around.repairs.client());
        let Settings { limits, link, .. } = &around.site.settings;
        let artifact = around.artifact.clone().map(|artifact| (artifact, Limits { instances: 1, ..*limits }));
        let mut answers = asking(back, &artifact, link.other());
        let mut asking = Asking::new(back, &mut answers, (&rows, around.source));
        let mut agree = asking.agreeing(&self.plan.targets, &asked).await?.into_iter();
        for one in decided.values_mut() {
            one.rest.retain(|(_, columns)| columns.is_empty() || !agree.next().unwrap_or(false));
        }
        Ok(())
    }

    fn force(&self, one: &mut Decided) {
        for (row, columns) in &one.rest {
            let units = units(&self.source().rule.outputs[row.output], &self.plan.targets[row.target]);
            let forced = if columns.is_empty() { Some(insert(row)) } else { patch(row, &units, columns) };
            one.operations.extend(forced);
        }
        one.operations.extend(one.unclaimed.iter().map(delete));
    }
}

/// Postpones the rows of which nothing can be said before other rows have got their keys.
fn contested(decided: impl Iterator<Item = (usize, Decided)>, mended: &mut Mended) -> BTreeMap<usize, Decided> {
    let (contested, clear): (BTreeMap<_, _>, BTreeMap<_, _>) = decided.partition(|(_, one)| one.is_contested);
    if !contested.is_empty() {
        let what =
            "the key that a row should have is held by a row that an earlier revision made of another source row";
        mended.refused = Some(Problem::refuse(Blame::Target, "KEY_TAKEN", what));
        mended.postponed.extend(contested.into_keys());
    }
    clear
}

/// Whether the target does not take a row, and nothing else is wrong.
fn is_of_a_row(problem: &Problem) -> bool {
    problem.action() == Action::Stop && problem.blame() == Blame::Target && problem.at_table().is_some()
}

/// What the target holds under the keys of rows.
async fn see(here: &Comparison<'_>, plan: &Plan, rows: Vec<(usize, Row)>) -> Outcome<Vec<(usize, Seen)>> {
    let mut alike: HashMap<(usize, Columns), Vec<usize>> = HashMap::new();
    for (at, (_, row)) in rows.iter().enumerate() {
        alike.entry((row.target, row.columns.clone())).or_default().push(at);
    }
    let mut findings = vec![Finding::Missing; rows.len()];
    for ((target, columns), places) in alike {
        let values: Vec<Box<[Datum]>> = places.iter().map(|at| rows[*at].1.values.clone()).collect();
        let found = here.compare(&plan.targets[target], &columns, &values).await?;
        places.into_iter().zip(found).for_each(|(at, finding)| findings[at] = finding);
    }
    Ok(rows.into_iter().zip(findings).map(|((number, row), finding)| (number, (row, finding))).collect())
}

async fn write(repairs: &mut Repairs<'_>, plan: &Plan, position: Lsn, operations: Vec<Operation>) -> Outcome<()> {
    let mut folder = Folder::new(&plan.targets);
    operations.into_iter().for_each(|operation| folder.push(operation));
    repairs.write(plan, position, &folder.finish()).await
}

/// Deletes rows that nothing stands for any more, if they are as the older revision made them. For each: whether it was
/// deleted, and whether it was as made.
pub(super) async fn remove(
    around: &mut Around<'_, '_>,
    plan: &Plan,
    rows: &[Row],
    force: bool,
) -> Outcome<Vec<(Row, bool, bool)>> {
    let position = around.repairs.begin().await?;
    around.is_still_run()?;
    let mut keys: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
    rows.iter().for_each(|row| keys.entry(row.target).or_default().push(row.key.clone()));
    for (target, keys) in keys {
        around.repairs.lock(&plan.targets[target], &keys).await?;
    }
    let here = Comparison::within(around.repairs.client());
    let seen = see(&here, plan, rows.iter().map(|row| (0, row.clone())).collect()).await?;
    let mut outcome = Vec::new();
    let mut operations = Vec::new();
    for (_, (row, finding)) in seen {
        let as_made = !matches!(finding, Finding::Differs(..));
        let deleted = matches!(finding, Finding::Same(_)) || (force && !as_made);
        operations.extend(deleted.then(|| delete(&row)));
        outcome.push((row, deleted, as_made));
    }
    match operations.is_empty() {
        true => around.repairs.rollback().await?,
        false => write(around.repairs, plan, position, operations).await?,
    }
    Ok(outcome)
}

/// The kind of what was written, for counting.
pub(super) fn kind(operation: &Operation) -> Kind {
    match operation.effect {
        Effect::Insert { .. } => Kind::Inserted,
        Effect::Rekey { .. } => Kind::Rekeyed,
        Effect::Delete { .. } => Kind::Deleted,
        _ => Kind::Patched,
    }
}

/// What was done to a row.
pub(super) enum Kind {
    Patched,
    Rekeyed,
    Inserted,
    Deleted,
}
