//! Folding: the operations of one target transaction become sets, one statement each.
//!
//! ```text
//!   operations --> segment | segment | segment      segments run one after the other, in source order
//!                     |
//!                     +-> inserts, parents first; patches; deletes, children first: one set per table and column set
//! ```
//!
//! Inside a segment no target row occurs twice (operations on one row of one owner join into one), so its sets may run
//! in any order as far as rows are concerned; the order above is what foreign keys ask for. A segment ends, and what
//! follows waits for it, wherever order could matter more than that (counter-examples 10, 14, 15):
//!
//! - a row is touched again and the two operations cannot join, or they belong to different source rows;
//! - a value of a secondary unique constraint may pass from row to row;
//! - a key changes, or a table is emptied.
//!
//! Ensures of one row are one (counter-example 5). Operations of nobody join with whatever stands on their row: no
//! column of theirs is written by anybody else.
//!
//! What is missed here is not lost: the statement fails, and the link applies the transaction again change by change.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crate::change::Datum;
use crate::delta::{ANY_OWNER, Effect, Key, Operation, Set, SetKind};
use crate::plan::{Columns, Target};

/// What a target's rows have seen in the open segment, as far as secondary unique constraints care.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    inserts: bool,
    deletes: bool,
    /// A patch of a unique column: nothing else that takes or frees a value may share its segment.
    moves: bool,
}

/// Collects operations in source order and hands them out as segments of sets.
pub struct Folder<'p> {
    targets: &'p [Target],
    hashes: RandomState,
    pending: Vec<Option<Operation>>,
    by_row: HashMap<u64, usize>,
    /// The rows that the open segment ensures.
    ensured: HashSet<u64>,
    traffic: Vec<Traffic>,
    rekeying: bool,
    /// Every operation is a segment of its own: while a change to blame is looked for.
    pub one_by_one: bool,
    column_sets: HashMap<Box<[u16]>, Columns>,
    none: Columns,
    segments: Vec<Vec<Set>>,
}

impl<'p> Folder<'p> {
    /// A folder for one target transaction, or for one part of a large one.
    pub fn new(targets: &'p [Target]) -> Self {
        Folder {
            targets,
            hashes: RandomState::new(),
            pending: Vec::new(),
            by_row: HashMap::new(),
            ensured: HashSet::new(),
            traffic: vec![Traffic::default(); targets.len()],
            rekeying: false,
            one_by_one: false,
            column_sets: HashMap::new(),
            none: Columns::from([]),
            segments: Vec::new(),
        }
    }

    /// Adds the next operation in source order.
    pub fn push(&mut self, operation: Operation) {
        if self.one_by_one {
            self.end_segment();
        }
        match &operation.effect {
            Effect::Absent { .. } => {}
            Effect::Truncate { targets } if targets.is_empty() => {}
            Effect::Truncate { targets } => {
                let set = Set {
                    target: operation.target,
                    kind: SetKind::Truncate,
                    columns: self.none.clone(),
                    keys: Vec::new(),
                    new_keys: Vec::new(),
                    values: Vec::new(),
                    truncated: targets.clone(),
                };
                self.end_segment();
                self.segments.push(vec![set]);
            }
            Effect::Rekey { from, to, .. } => {
                let rows = [self.row(operation.target, from), self.row(operation.target, to)];
                let touched = rows.iter().any(|row| self.by_row.contains_key(row));
                let unique = !self.targets[operation.target].uniques.is_empty();
                if !self.rekeying || touched || unique {
                    self.end_segment();
                }
                self.rekeying = true;
                for row in rows {
                    self.by_row.insert(row, self.pending.len());
                }
                self.pending.push(Some(operation));
            }
            Effect::Ensure { columns, values } => {
                let row = self.row_of_insert(operation.target, columns, values);
                self.push_ensure(row, operation);
            }
            Effect::Insert { .. } | Effect::Patch { .. } | Effect::Clear { .. } | Effect::Delete { .. } => {
                self.push_row(operation);
            }
        }
    }

    /// A row that the segment inserts, sets or ensures is there: nothing more to do. One that it deletes is not.
    fn push_ensure(&mut self, row: u64, operation: Operation) {
        let pending = self.by_row.get(&row).map(|at| self.pending[*at].as_ref().map(|operation| &operation.effect));
        let there = matches!(pending, Some(Some(Effect::Insert { .. } | Effect::Patch { .. })));
        if there || self.ensured.contains(&row) {
            return;
        }
        if pending.is_some() || self.rekeying || self.value_may_pass(&operation) {
            self.end_segment();
        }
        self.ensured.insert(row);
        self.note_traffic(&operation);
        self.pending.push(Some(operation));
    }

    /// Ends the last segment and hands out all of them.
    pub fn finish(mut self) -> Vec<Vec<Set>> {
        self.end_segment();
        self.segments
    }

    fn push_row(&mut self, operation: Operation) {
        if self.rekeying || self.value_may_pass(&operation) {
            self.end_segment();
        }
        let row = match &operation.effect {
            Effect::Insert { columns, values } => self.row_of_insert(operation.target, columns, values),
            Effect::Patch { key, .. } | Effect::Clear { key, .. } | Effect::Delete { key } => {
                self.row(operation.target, key)
            }
            Effect::Ensure { .. } | Effect::Rekey { .. } | Effect::Absent { .. } | Effect::Truncate { .. } => return,
        };
        // What was ensured may have been there before: whoever owns it meets it in the database.
        if self.ensured.contains(&row) && matches!(operation.effect, Effect::Insert { .. }) {
            self.end_segment();
        }
        match self.by_row.entry(row) {
            Entry::Vacant(entry) => {
                entry.insert(self.pending.len());
            }
            Entry::Occupied(entry) => {
                let earlier = *entry.get();
                if let Some(operation) = self.join(earlier, operation) {
                    self.end_segment();
                    self.push_row(operation);
                }
                return;
            }
        }
        self.note_traffic(&operation);
        self.pending.push(Some(operation));
    }

    /// Joins `later` into the pending operation on the same row; gives it back if the two must stay apart.
    fn join(&mut self, earlier: usize, later: Operation) -> Option<Operation> {
        let Some(operation) = self.pending[earlier].as_mut() else { return Some(later) };
        let of_nobody = operation.owner_after == ANY_OWNER || later.owner_before == ANY_OWNER;
        let same_row = operation.target == later.target;
        let same_owner = same_row && (of_nobody || operation.owner_after == later.owner_before);
        if !same_owner || self.targets[later.target].uniques.iter().any(|unique| touches(unique, &later.effect)) {
            return Some(later);
        }
        let key_columns = &self.targets[later.target].key;
        match (&mut operation.effect, &later.effect) {
            (
                Effect::Insert { columns, values },
                Effect::Patch { key, columns: set, values: new } | Effect::Clear { key, columns: set, values: new },
            ) if is_key_of(key, key_columns, columns, values) => {
                merge(&mut self.column_sets, (columns, values), (set, new));
            }
            (Effect::Patch { key: same, columns, values }, Effect::Patch { key, columns: set, values: new })
            | (Effect::Patch { key: same, columns, values }, Effect::Clear { key, columns: set, values: new })
            | (Effect::Clear { key: same, columns, values }, Effect::Clear { key, columns: set, values: new })
                if same == key =>
            {
                merge(&mut self.column_sets, (columns, values), (set, new));
            }
            (Effect::Clear { key: same, columns, values }, Effect::Patch { key, columns: set, values: new })
                if same == key =>
            {
                merge(&mut self.column_sets, (columns, values), (set, new));
                // The row must be there, as the later one says.
                let (key, columns, values) = (key.clone(), columns.clone(), std::mem::take(values));
                operation.effect = Effect::Patch { key, columns, values };
            }
            (Effect::Insert { columns, values }, Effect::Delete { key })
                if self.targets[later.target].uniques.is_empty() && is_key_of(key, key_columns, columns, values) =>
            {
                // The row never was, as far as readers of the target can tell; the slot stays taken, so that whatever
                // follows on this key starts a new segment.
                self.pending[earlier] = None;
                return None;
            }
            (Effect::Patch { key: same, .. } | Effect::Clear { key: same, .. }, Effect::Delete { key })
                if same == key =>
            {
                operation.effect = later.effect.clone();
                let target = later.target;
                self.traffic[target].deletes = true;
            }
            _ => return Some(later),
        }
        if let Some(operation) = self.pending[earlier].as_mut().filter(|_| later.owner_after != ANY_OWNER) {
            operation.owner_after = later.owner_after;
        }
        None
    }

    /// Counter-example 15: whether a secondary unique value could pass between this operation's row and another one
    /// of the open segment, so that a set-wise statement would meet it twice.
    fn value_may_pass(&self, operation: &Operation) -> bool {
        let target = &self.targets[operation.target];
        let traffic = self.traffic[operation.target];
        if target.uniques.is_empty() || traffic == Traffic::default() {
            return false;
        }
        match &operation.effect {
            Effect::Insert { .. } | Effect::Ensure { .. } => traffic.deletes || traffic.moves,
            Effect::Delete { .. } => traffic.moves,
            effect => target.uniques.iter().any(|unique| touches(unique, effect)),
        }
    }

    fn note_traffic(&mut self, operation: &Operation) {
        let traffic = &mut self.traffic[operation.target];
        match &operation.effect {
            Effect::Insert { .. } | Effect::Ensure { .. } => traffic.inserts = true,
            Effect::Delete { .. } => traffic.deletes = true,
            effect => {
                let uniques = &self.targets[operation.target].uniques;
                traffic.moves |= uniques.iter().any(|unique| touches(unique, effect));
            }
        }
    }

    fn row(&self, target: usize, key: &Key) -> u64 {
        self.row_of(target, key.iter())
    }

    fn row_of_insert(&self, target: usize, columns: &Columns, values: &[Datum]) -> u64 {
        let value = |column: &u16| columns.binary_search(column).ok().map(|at| &values[at]);
        self.row_of(target, self.targets[target].key.iter().filter_map(value))
    }

    /// Two rows with one hash only end a segment too early.
    fn row_of<'a>(&self, target: usize, key: impl Iterator<Item = &'a Datum>) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        target.hash(&mut hasher);
        key.for_each(|datum| datum.hash(&mut hasher));
        hasher.finish()
    }

    fn end_segment(&mut self) {
        self.by_row.clear();
        self.ensured.clear();
        self.traffic.fill(Traffic::default());
        self.rekeying = false;
        let operations: Vec<Operation> = self.pending.drain(..).flatten().collect();
        if operations.is_empty() {
            return;
        }
        let mut sets: Vec<Set> = Vec::new();
        let mut by_shape: HashMap<(usize, SetKind, usize), usize> = HashMap::new();
        for operation in operations {
            let (kind, columns) = match &operation.effect {
                Effect::Insert { columns, .. } => (SetKind::Insert, columns),
                Effect::Ensure { columns, .. } => (SetKind::Ensure, columns),
                Effect::Patch { columns, .. } => (SetKind::Patch, columns),
                Effect::Clear { columns, .. } => (SetKind::Clear, columns),
                Effect::Rekey { columns, .. } => (SetKind::Rekey, columns),
                Effect::Delete { .. } | Effect::Absent { .. } | Effect::Truncate { .. } => {
                    (SetKind::Delete, &self.none)
                }
            };
            let shape = (operation.target, kind, columns.as_ptr() as usize);
            let at = *by_shape.entry(shape).or_insert_with(|| {
                sets.push(Set {
                    target: operation.target,
                    kind,
                    columns: columns.clone(),
                    keys: Vec::new(),
                    new_keys: Vec::new(),
                    values: Vec::new(),
                    truncated: Vec::new(),
                });
                sets.len() - 1
            });
            add(&mut sets[at], operation.effect);
        }
        sets.sort_by_key(|set| match set.kind {
            SetKind::Rekey | SetKind::Truncate => (0, 0),
            SetKind::Insert | SetKind::Ensure => (1, set.target),
            SetKind::Patch | SetKind::Clear => (2, set.target),
            SetKind::Delete => (3, usize::MAX - set.target),
        });
        self.segments.push(sets);
    }
}

fn add(set: &mut Set, effect: Effect) {
    match effect {
        Effect::Insert { values, .. } | Effect::Ensure { values, .. } => set.values.push(values),
        Effect::Patch { key, values, .. } | Effect::Clear { key, values, .. } => {
            set.keys.push(key);
            set.values.push(values);
        }
        Effect::Rekey { from, to, values, .. } => {
            set.keys.push(from);
            set.new_keys.push(to);
            set.values.push(values);
        }
        Effect::Delete { key } => set.keys.push(key),
        Effect::Absent { .. } | Effect::Truncate { .. } => {}
    }
}

fn touches(unique: &Columns, effect: &Effect) -> bool {
    match effect {
        Effect::Patch { columns, .. } | Effect::Clear { columns, .. } | Effect::Rekey { columns, .. } => {
            columns.iter().any(|column| unique.contains(column))
        }
        Effect::Insert { .. }
        | Effect::Ensure { .. }
        | Effect::Delete { .. }
        | Effect::Absent { .. }
        | Effect::Truncate { .. } => false,
    }
}

fn is_key_of(key: &Key, key_columns: &Columns, columns: &Columns, values: &[Datum]) -> bool {
    key.iter()
        .zip(key_columns.iter())
        .all(|(part, column)| columns.binary_search(column).is_ok_and(|at| values[at] == *part))
}

/// Writes the later values over the earlier ones; the column set becomes the union.
fn merge(
    column_sets: &mut HashMap<Box<[u16]>, Columns>,
    (columns, values): (&mut Columns, &mut Box<[Datum]>),
    (set, new): (&Columns, &[Datum]),
) {
    let mut added = Vec::new();
    for (column, value) in set.iter().zip(new) {
        match columns.binary_search(column) {
            Ok(at) => values[at] = value.clone(),
            Err(_) => added.push((*column, value.clone())),
        }
    }
    if added.is_empty() {
        return;
    }
    let mut all: Vec<(u16, Datum)> = columns.iter().copied().zip(values.iter().cloned()).chain(added).collect();
    all.sort_by_key(|(column, _)| *column);
    let (union, joined): (Vec<u16>, Vec<Datum>) = all.into_iter().unzip();
    *columns = match column_sets.get(union.as_slice()) {
        Some(known) => known.clone(),
        None => {
            let shared: Columns = union.as_slice().into();
            column_sets.insert(union.into(), shared.clone());
            shared
        }
    };
    *values = joined.into();
}
