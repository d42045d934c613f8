//! Lifting: one change of a source row becomes operations on target rows.
//!
//! | change | what an output does |
//! |---|---|
//! | insert(a) | inserts its rows of a |
//! | delete(b) | deletes its rows of b, or sets the columns of a soft delete |
//! | update(b, a), comes into being | inserts |
//! | update(b, a), ceases | deletes |
//! | update(b, a), another key | rekeys (`follows: source`), or deletes and inserts (`follows: key`) |
//! | update(b, a), stays | patches the copied columns that changed and every group of which an input changed |
//!
//! An output with mapped keys exists only while its keys have partners. What is *ensured* is inserted if it is absent,
//! whenever the source row comes or changes, and never touched after (counter-example 5). A *patch* sets its columns of
//! a row that others own; when its source row goes, or stands for another row, it lets go of them as declared
//! (counter-example 6).
//!
//! With both links on, every output makes a claim: what of it stays is patched with nothing if nothing changed, and what
//! the source row does not stand for is said to be absent (`delta::decide`).
//!
//! L6 lives here: a column whose inputs the application did not change is never written, and a group is written as a
//! whole or not at all. What no output writes is never touched. Without full old rows nothing tells what changed;
//! then every update writes all columns of its outputs, and `check` has said so.

mod row;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crate::change::{Before, Cell, Datum, Event, Image};
use crate::delta::ask::{Changed, ask_update, exists};
use crate::delta::{ANY_OWNER, Effect, Key, Operation, Whole};
use crate::manifest::Write;
use crate::plan::records::under_whole_key;
use crate::plan::{Answer, Columns, Filling, Output, Source, Target};

pub use crate::delta::ask::{Ask, ask};
use row::{Row, key, one, rows};

/// A change that the rules cannot turn into operations. The caller adds table, position and artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiftError {
    /// The guest gave no row for an output that always exists.
    #[error("the transform returned no row for output {0}, which is not declared with `when`")]
    Missing(usize),
    /// A key column of an output's row is null or unset.
    #[error("output {0} has a row whose key column is null or unset")]
    NoKey(usize),
    /// A value was needed that the log does not hold.
    #[error("output {0} needs an out-of-line value that the log does not repeat")]
    Unresolved(usize),
    /// An old row was needed and did not arrive.
    #[error("the old row did not arrive with the change")]
    NoOldRow,
    /// The guest returned one key twice for one source row.
    #[error("output {0} has two rows with the same key")]
    TwiceTheSameKey(usize),
}

/// Turns changes into operations. Keeps the column sets it has seen, so that equal sets share one allocation.
#[derive(Debug, Default)]
pub struct Lifter {
    column_sets: HashMap<Box<[u16]>, Columns>,
    hashes: RandomState,
    /// With both links on: the complete rows behind patches and rekeys, by position in the operations of one call. A
    /// winning change that finds no row inserts it (design, section 3). The guest must have been asked about the new row.
    pub wholes: Option<HashMap<usize, Whole>>,
}

/// The owners of an operation's row before and after.
type Owners = (u64, u64);

impl Lifter {
    /// Appends to `operations` what `event`, a change of a row of `source`, does to the targets.
    ///
    /// `before` and `after` are the guest's answers about the images that [`ask`] named. Truncates are not lifted
    /// here: they concern tables, not rows.
    pub fn lift(
        &mut self,
        source_id: usize,
        source: &Source,
        targets: &[Target],
        event: &Event,
        answers: (Option<&Answer>, Option<&Answer>),
        operations: &mut Vec<Operation>,
    ) -> Result<(), LiftError> {
        match event {
            Event::Insert(after) => {
                let owner = self.owner(source_id, source, after);
                for index in 0..source.rule.outputs.len() {
                    let rows = rows(source, index, after, answers.1)?;
                    if rows.is_empty() {
                        self.absent(source, index, [after], (owner, owner), operations);
                    }
                    for row in rows {
                        operations.push(self.insert(source, index, targets, row, (owner, owner))?);
                    }
                }
                Ok(())
            }
            Event::Delete(before) => {
                let (Before::Full(image) | Before::Key(image)) = before else { return Err(LiftError::NoOldRow) };
                let owner = self.owner(source_id, source, image);
                for index in 0..source.rule.outputs.len() {
                    let rows = rows(source, index, image, answers.0)?;
                    if rows.is_empty() {
                        self.absent(source, index, [image], (owner, owner), operations);
                    }
                    for row in rows {
                        if self.wholes.is_some() && source.rule.outputs[index].on_delete_set.is_some() {
                            self.keep_whole(source, index, targets, row, operations.len())?;
                        }
                        operations.extend(self.delete(source, index, row, (owner, owner), true)?);
                    }
                }
                Ok(())
            }
            Event::Update { before, after } => {
                let (old, full) = match before {
                    Before::Absent => (after, None),
                    Before::Key(image) => (image, None),
                    Before::Full(image) => (image, Some(image)),
                };
                let changed = Changed { before: full, after };
                let owners = (self.owner(source_id, source, old), self.owner(source_id, source, after));
                for (index, output) in source.rule.outputs.iter().enumerate() {
                    if output.many {
                        self.update_many(source, index, targets, (old, &changed), answers, owners, operations)?;
                    } else {
                        self.update_one(source, index, targets, (old, &changed), answers, owners, operations)?;
                    }
                }
                Ok(())
            }
            Event::Truncate { .. } | Event::Denied { .. } => Ok(()),
        }
    }

    fn owner(&self, source_id: usize, source: &Source, image: &Image) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        source_id.hash(&mut hasher);
        for column in &source.key {
            image.text(*column).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn columns(&mut self, columns: Vec<u16>) -> Columns {
        match self.column_sets.get(columns.as_slice()) {
            Some(known) => known.clone(),
            None => {
                let shared: Columns = columns.as_slice().into();
                self.column_sets.insert(columns.into(), shared.clone());
                shared
            }
        }
    }

    fn insert(
        &mut self,
        source: &Source,
        index: usize,
        targets: &[Target],
        row: Row<'_>,
        (owner_before, owner_after): Owners,
    ) -> Result<Operation, LiftError> {
        let output = &source.rule.outputs[index];
        let key = key(output, index, row)?;
        let mut values: Vec<Datum> = Vec::with_capacity(output.columns.len());
        let mut whole = true;
        for filling in &output.filled_by {
            let datum = row.datum(*filling);
            if datum == Datum::Unset {
                if matches!(filling, Filling::Copied(_)) {
                    return Err(LiftError::Unresolved(index));
                }
                whole = false;
            }
            values.push(datum);
        }
        let target_key = &targets[output.target].key;
        debug_assert!(output.write == Write::Patch || target_key.iter().all(|column| output.columns.contains(column)));
        let columns = match whole {
            true => output.columns.clone(),
            false => {
                let set = |(column, datum): (&u16, &Datum)| (*datum != Datum::Unset).then_some(*column);
                let columns = output.columns.iter().zip(&values).filter_map(set).collect();
                values.retain(|datum| *datum != Datum::Unset);
                self.columns(columns)
            }
        };
        let values = values.into();
        let target = output.target;
        Ok(match output.write {
            Write::Own => Operation { target, owner_before, owner_after, effect: Effect::Insert { columns, values } },
            Write::Ensure => Operation::of_nobody(target, Effect::Ensure { columns, values }),
            Write::Patch => Operation::of_nobody(target, Effect::Patch { key, columns, values }),
        })
    }

    /// `source_row_gone`: the source row was deleted, not only routed elsewhere: a soft delete keeps the row.
    fn delete(
        &mut self,
        source: &Source,
        index: usize,
        row: Row<'_>,
        (owner_before, owner_after): Owners,
        source_row_gone: bool,
    ) -> Result<Option<Operation>, LiftError> {
        let output = &source.rule.outputs[index];
        let keeps = output.write == Write::Ensure || (output.write == Write::Patch && !output.on_remove_null);
        if keeps {
            return Ok(None);
        }
        let key = key(output, index, row)?;
        if output.write == Write::Patch {
            let values = output.columns.iter().map(|_| Datum::Null).collect();
            let effect = Effect::Clear { key, columns: output.columns.clone(), values };
            return Ok(Some(Operation::of_nobody(output.target, effect)));
        }
        let effect = match &output.on_delete_set {
            Some(set) if source_row_gone => Effect::Patch {
                key,
                columns: self.columns(set.iter().map(|(column, _)| *column).collect()),
                values: set.iter().map(|(_, value)| value.clone()).collect(),
            },
            _ => Effect::Delete { key },
        };
        Ok(Some(Operation { target: output.target, owner_before, owner_after, effect }))
    }

    #[allow(clippy::too_many_arguments)]
    fn update_one(
        &mut self,
        source: &Source,
        index: usize,
        targets: &[Target],
        (old, changed): (&Image, &Changed<'_>),
        answers: (Option<&Answer>, Option<&Answer>),
        owners: Owners,
        operations: &mut Vec<Operation>,
    ) -> Result<(), LiftError> {
        let output = &source.rule.outputs[index];
        let ask = self.asked(output, changed);
        let guest = output.needs_guest();
        // Neither an input of the guest's answer nor a copied column changed: nothing to write (L6).
        if !ask.after && !changed.copied(output) {
            return Ok(());
        }
        // Only copied columns changed and the row exists in any case: the guest was not asked.
        let unasked = Row { image: changed.after, values: &[] };
        let after = match guest && ask.after {
            true => one(rows(source, index, changed.after, answers.1)?),
            false => Some(unasked).filter(|row| exists(output, row.image)),
        };
        let before = match guest && ask.before {
            true => one(rows(source, index, old, answers.0)?),
            false if !exists(output, old) => None,
            // What goes with its mapped key needs no value but its own key.
            false if !exists(output, changed.after) => Some(Row { image: old, values: &[] }),
            // The guest's inputs did not change, so its answer did not: only the copied columns are older.
            false => after.map(|row| Row { image: old, values: row.values }),
        };
        match (before, after) {
            (None, None) => self.absent(source, index, [old, changed.after], owners, operations),
            (None, Some(after)) => {
                if key(output, index, Row { image: old, values: &[] }) != key(output, index, after) {
                    self.absent(source, index, [old], owners, operations);
                }
                operations.push(self.insert(source, index, targets, after, owners)?);
            }
            (Some(before), None) => {
                operations.extend(self.delete(source, index, before, owners, false)?);
                if key(output, index, Row { image: changed.after, values: &[] }) != key(output, index, before) {
                    self.absent(source, index, [changed.after], owners, operations);
                }
            }
            (Some(before), Some(after)) => {
                let columns = self.changed_values(output, &targets[output.target], changed, None, after);
                if self.wholes.is_some() && output.write != Write::Ensure {
                    let row = one(rows(source, index, changed.after, answers.1)?).unwrap_or(after);
                    self.keep_whole(source, index, targets, row, operations.len())?;
                }
                self.stay(source, index, targets, (before, after), columns, owners, operations)?;
            }
        }
        Ok(())
    }

    /// Which images this output's rows are made of; all of them where whole rows are wanted.
    fn asked(&self, output: &Output, changed: &Changed<'_>) -> Ask {
        match self.wholes {
            Some(_) => Ask { before: true, after: true },
            None => ask_update(output, changed),
        }
    }

    fn keep_whole(
        &mut self,
        source: &Source,
        index: usize,
        targets: &[Target],
        row: Row<'_>,
        position: usize,
    ) -> Result<(), LiftError> {
        let (Effect::Insert { columns, values } | Effect::Patch { columns, values, .. }) =
            self.insert(source, index, targets, row, (0, 0))?.effect
        else {
            return Ok(());
        };
        self.wholes.iter_mut().for_each(|wholes| {
            wholes.insert(position, (columns.clone(), values.clone()));
        });
        Ok(())
    }

    /// L8: with both links on, an output whose row the source row decides alone says under which keys there is none.
    fn absent<const N: usize>(
        &self,
        source: &Source,
        index: usize,
        images: [&Image; N],
        (owner_before, owner_after): Owners,
        operations: &mut Vec<Operation>,
    ) {
        let output = &source.rule.outputs[index];
        let decides = output.write == Write::Own && under_whole_key(source, output);
        if self.wholes.is_none() || !decides {
            return;
        }
        let mut keys: Vec<Key> =
            images.iter().filter_map(|image| key(output, index, Row { image, values: &[] }).ok()).collect();
        keys.dedup();
        operations.extend(keys.into_iter().map(|key| Operation {
            target: output.target,
            owner_before,
            owner_after,
            effect: Effect::Absent { key },
        }));
    }

    /// Pairs the rows of a `many` output by target key. All of them share the source row's inputs, so a group is
    /// written only where its values differ: the application did not change the others (L6).
    #[allow(clippy::too_many_arguments)]
    fn update_many(
        &mut self,
        source: &Source,
        index: usize,
        targets: &[Target],
        (old, changed): (&Image, &Changed<'_>),
        answers: (Option<&Answer>, Option<&Answer>),
        owners: Owners,
        operations: &mut Vec<Operation>,
    ) -> Result<(), LiftError> {
        let output = &source.rule.outputs[index];
        if !self.asked(output, changed).after {
            return Ok(());
        }
        if changed.before.is_none() {
            return Err(LiftError::NoOldRow);
        }
        let mut gone = HashMap::new();
        for row in rows(source, index, old, answers.0)? {
            if gone.insert(key(output, index, row)?, row).is_some() {
                return Err(LiftError::TwiceTheSameKey(index));
            }
        }
        let mut kept = Vec::new();
        let mut new = HashMap::new();
        for row in rows(source, index, changed.after, answers.1)? {
            let key = key(output, index, row)?;
            if let Some(before) = gone.remove(&key) {
                kept.push((before, row));
            } else if new.insert(key, ()).is_none() {
                operations.push(self.insert(source, index, targets, row, owners)?);
                continue;
            } else {
                return Err(LiftError::TwiceTheSameKey(index));
            }
        }
        for row in gone.into_values() {
            operations.extend(self.delete(source, index, row, owners, false)?);
        }
        for (before, after) in kept {
            let columns = self.changed_values(output, &targets[output.target], changed, Some(before), after);
            if self.wholes.is_some() {
                self.keep_whole(source, index, targets, after, operations.len())?;
            }
            self.stay(source, index, targets, (before, after), columns, owners, operations)?;
        }
        Ok(())
    }

    /// A row that is there before and after: patch, rekey, or another row.
    #[allow(clippy::too_many_arguments)]
    fn stay(
        &mut self,
        source: &Source,
        index: usize,
        targets: &[Target],
        (before, after): (Row<'_>, Row<'_>),
        (columns, values): (Vec<u16>, Vec<Datum>),
        owners: Owners,
        operations: &mut Vec<Operation>,
    ) -> Result<(), LiftError> {
        let output = &source.rule.outputs[index];
        let (from, to) = (key(output, index, before)?, key(output, index, after)?);
        if output.write == Write::Ensure {
            operations.push(self.insert(source, index, targets, after, owners)?);
            return Ok(());
        }
        if from != to && !output.follows_source {
            operations.extend(self.delete(source, index, before, owners, false)?);
            operations.push(self.insert(source, index, targets, after, owners)?);
            return Ok(());
        }
        // With both links on, a row that stays claims to, whatever of it is written: the other side may have removed it.
        let claims = self.wholes.is_some();
        if from == to && columns.is_empty() && !claims {
            return Ok(());
        }
        let (columns, values) = (self.columns(columns), values.into());
        let effect = match from == to {
            true => Effect::Patch { key: from, columns, values },
            false => Effect::Rekey { from, to, columns, values },
        };
        let owners = if output.write == Write::Patch { (ANY_OWNER, ANY_OWNER) } else { owners };
        operations.push(Operation { target: output.target, owner_before: owners.0, owner_after: owners.1, effect });
        Ok(())
    }

    /// L6: the copied columns that changed and the groups of which an input changed, each group as a whole; never the
    /// key, which a rekey writes, and never an unset value, which leaves the column as it is.
    fn changed_values(
        &mut self,
        output: &Output,
        target: &Target,
        changed: &Changed<'_>,
        before_of_many: Option<Row<'_>>,
        after: Row<'_>,
    ) -> (Vec<u16>, Vec<Datum>) {
        let group_written = |value: usize| {
            output.groups.iter().filter(|group| group.values.contains(&value)).any(|group| {
                changed.group(group)
                    && before_of_many.is_none_or(|before| {
                        group.values.clone().any(|value| before.values.get(value) != after.values.get(value))
                    })
            })
        };
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for (column, filling) in output.columns.iter().zip(&output.filled_by) {
            let written = match filling {
                Filling::Copied(source) => changed.column(*source) && changed.after.cell(*source) != Cell::Unchanged,
                Filling::Computed(value) => group_written(*value),
                Filling::Mapped(cell) => changed.column(*cell),
            };
            if !written || target.key.contains(column) {
                continue;
            }
            let datum = after.datum(*filling);
            if datum != Datum::Unset {
                columns.push(*column);
                values.push(datum);
            }
        }
        (columns, values)
    }
}
