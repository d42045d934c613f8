//! Moves: a target row passes from one owner to another within one source transaction. Pure.
//!
//! Several source tables may own rows of one target table (`shares` in the manifest). A source row that leaves one of
//! them and enters another in one transaction is the same target row: its delete and its insert join into a patch, so
//! that the columns which no rule writes stay what they are (L6). Whether the application inserts first or deletes first
//! is its own affair.
//!
//! | in one transaction, on one target key | becomes |
//! |---|---|
//! | delete by one owner, later insert by another | a patch of all columns that the insert writes, at the insert's place |
//! | insert by one owner, later delete by another | the same; what the old owner still patched in between stays only where the new one writes nothing |
//! | delete and insert by the same owner | itself: another row of the same key |
//!
//! It must never join across transactions: two owners of one key at the end of a transaction are two owners, and meet in
//! the database (counter-example 10). A transaction that is too large to be lifted at once is joined part by part.

use std::collections::HashMap;

use crate::change::Datum;
use crate::delta::decide::key_of;
use crate::delta::{Effect, Key, Operation, Whole};
use crate::lsn::Lsn;
use crate::plan::{Columns, Target};

/// An operation, with the change that it comes from and the complete row that it stands for, if that is known.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// Position of the change in its batch.
    pub change: usize,
    /// What it does.
    pub operation: Operation,
    /// The complete row.
    pub whole: Option<Whole>,
    /// With both links on: the parts of the source row that its application changed (`delta::decide`).
    pub changed: u64,
    /// With both links on: the source row, as in `delta::decide::Claim`.
    pub from: Option<(usize, Key)>,
}

/// What the open transaction did to one row of a shared table: positions among its operations.
#[derive(Default)]
struct Row {
    inserted: Option<usize>,
    deleted: Option<usize>,
    patched: Vec<usize>,
}

/// Joins the moves of one transaction after the other.
pub struct Moves<'p> {
    targets: &'p [Target],
    any: bool,
    transaction: Option<Lsn>,
    open: Vec<Option<Lifted>>,
    rows: HashMap<(usize, Key), Row>,
}

impl<'p> Moves<'p> {
    /// For operations on these targets.
    pub fn new(targets: &'p [Target]) -> Self {
        let any = targets.iter().any(|target| target.shared);
        Moves { targets, any, transaction: None, open: Vec::new(), rows: HashMap::new() }
    }

    /// The next operation in source order, out of the transaction that committed at `transaction`. `take` gets the
    /// operations of a transaction in their order once it has ended.
    pub fn push(&mut self, transaction: Lsn, lifted: Lifted, take: &mut dyn FnMut(Lifted)) {
        if !self.any {
            return take(lifted);
        }
        if self.transaction.replace(transaction).is_some_and(|open| open != transaction) {
            self.finish(take);
        }
        match self.targets[lifted.operation.target].shared {
            true => self.shared(lifted),
            false => self.open.push(Some(lifted)),
        }
    }

    /// The last transaction has ended.
    pub fn finish(&mut self, take: &mut dyn FnMut(Lifted)) {
        self.rows.clear();
        self.open.drain(..).flatten().for_each(take);
    }

    fn shared(&mut self, lifted: Lifted) {
        let target = lifted.operation.target;
        let position = self.open.len();
        match &lifted.operation.effect {
            Effect::Insert { columns, values } => {
                let key = key_of(&self.targets[target], columns, values);
                let row = self.rows.entry((target, key)).or_default();
                let owner = lifted.operation.owner_after;
                let left = |at: &usize| self.open[*at].as_ref().is_some_and(|old| old.operation.owner_before != owner);
                match row.deleted.take_if(|at| left(at)) {
                    Some(at) => {
                        row.inserted = None;
                        let before = self.open[at].take().map(|old| old.operation.owner_before);
                        self.open.push(self.moved(lifted, before.unwrap_or(owner)));
                        return;
                    }
                    None => row.inserted = Some(position),
                }
            }
            Effect::Delete { key } => {
                let row = self.rows.entry((target, key.clone())).or_default();
                let owner = lifted.operation.owner_before;
                let entered =
                    |at: &usize| self.open[*at].as_ref().is_some_and(|new| new.operation.owner_after != owner);
                if let Some(at) = row.inserted.take().filter(entered) {
                    let patched = std::mem::take(&mut row.patched);
                    self.entered_first(at, &patched, owner);
                    return;
                }
                row.deleted = Some(position);
            }
            Effect::Patch { key, .. } => {
                self.rows.entry((target, key.clone())).or_default().patched.push(position);
            }
            Effect::Rekey { from, to, .. } => {
                for key in [from, to] {
                    self.rows.remove(&(target, key.clone()));
                }
            }
            // The old owner's row is gone from here, and the new one's is here already.
            Effect::Absent { key } => {
                let owner = lifted.operation.owner_before;
                let row = self.rows.get(&(target, key.clone()));
                let entered = row.and_then(|row| self.open[row.inserted?].as_ref());
                if entered.is_some_and(|new| new.operation.owner_after != owner) {
                    return;
                }
            }
            Effect::Ensure { .. } | Effect::Clear { .. } | Effect::Truncate { .. } => {}
        }
        self.open.push(Some(lifted));
    }

    /// The row was inserted by its new owner before the old one's went: `old` is who that was.
    fn entered_first(&mut self, at: usize, patched: &[usize], old: u64) {
        let Some(insert) = self.open[at].take() else { return };
        let Some(mut moved) = self.moved(insert, old) else { return };
        for later in patched.iter().filter(|later| **later > at) {
            let of_old = |lifted: &Lifted| lifted.operation.owner_before == old;
            let Some(patch) = self.open[*later].take_if(|lifted| of_old(lifted)) else { continue };
            if let Effect::Patch { columns, values, .. } = patch.operation.effect {
                add(&mut moved, &columns, &values);
            }
        }
        self.open[at] = Some(moved);
    }

    /// L6: the insert of a row that is there, as a patch. `None` if it writes nothing but the key.
    fn moved(&self, insert: Lifted, owner_before: u64) -> Option<Lifted> {
        let Operation { target, owner_after, effect, .. } = insert.operation.clone();
        let Effect::Insert { columns, values } = effect else { return None };
        let key = key_of(&self.targets[target], &columns, &values);
        let key_columns = &self.targets[target].key;
        let rest = columns.iter().zip(&values).filter(|(column, _)| !key_columns.contains(column));
        let (set, new): (Vec<u16>, Vec<Datum>) = rest.map(|(column, value)| (*column, value.clone())).unzip();
        if set.is_empty() {
            return None;
        }
        let effect = Effect::Patch { key, columns: set.as_slice().into(), values: new.into() };
        let operation = Operation { target, owner_before, owner_after, effect };
        Some(Lifted { operation, whole: Some((columns, values)), ..insert })
    }
}

/// Adds to a move what it does not write itself; the whole row has it as well.
fn add(moved: &mut Lifted, set: &Columns, new: &[Datum]) {
    let join = |columns: &Columns, values: &[Datum]| -> Whole {
        let added = set.iter().zip(new).filter(|(column, _)| !columns.contains(column));
        let mut all: Vec<(&u16, &Datum)> = columns.iter().zip(values).chain(added).collect();
        all.sort_by_key(|(column, _)| **column);
        let (columns, values): (Vec<u16>, Vec<Datum>) =
            all.into_iter().map(|(column, value)| (*column, value.clone())).unzip();
        (columns.as_slice().into(), values.into())
    };
    if let Effect::Patch { columns, values, .. } = &mut moved.operation.effect {
        (*columns, *values) = join(columns, values);
    }
    if let Some((columns, values)) = &mut moved.whole {
        (*columns, *values) = join(columns, values);
    }
}
