//! The delta rules: what a change of a source row does to target rows. The heart of Falkirk, and pure: no I/O, no
//! clock, no database. Property tests hold it against the only definition that counts: applying deltas to a target
//! equals transforming the final source.
//!
//! ```text
//!   change --lift--> operations --moves, fold--> sets (one per table, operation and column set) --> apply
//! ```

mod ask;
pub mod decide;
pub mod fold;
pub mod lift;
pub mod moves;

use crate::change::Datum;
use crate::plan::Columns;

/// The owner of operations that concern a row as it stands, whoever owns it: patches of other owners' rows, mirrors.
pub const ANY_OWNER: u64 = 0;

/// A target key: values in the order of `Target::key`.
pub type Key = Box<[Datum]>;

/// A complete row as an insert would write it: columns, ascending, and their values.
pub type Whole = (Columns, Box<[Datum]>);

/// One effect on one row (or, for truncate, on all rows) of one target table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The source row that owned the target row before this operation, as a hash of its table and key. Folding joins
    /// operations of one owner only: two owners of one row must meet in the database and fail there (counter-example 10).
    pub owner_before: u64,
    /// The source row that owns it afterwards; differs when the source's key changed.
    pub owner_after: u64,
    /// What to do.
    pub effect: Effect,
}

impl Operation {
    /// An operation that belongs to no single source row.
    pub fn of_nobody(target: usize, effect: Effect) -> Self {
        Operation { target, owner_before: ANY_OWNER, owner_after: ANY_OWNER, effect }
    }
}

/// What an operation does. `values` stand in the order of `columns` and hold no `Unset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The row comes into being. `columns` includes the key.
    Insert {
        /// Target columns, ascending.
        columns: Columns,
        /// Their values.
        values: Box<[Datum]>,
    },
    /// The row comes into being unless it is there. `columns` includes the key.
    Ensure {
        /// Target columns, ascending.
        columns: Columns,
        /// Their values.
        values: Box<[Datum]>,
    },
    /// A patch lets go of columns of a row, if the row is still there.
    Clear {
        /// The row.
        key: Key,
        /// Target columns, ascending; never of the key.
        columns: Columns,
        /// Their values.
        values: Box<[Datum]>,
    },
    /// Columns of a row are set.
    Patch {
        /// The row.
        key: Key,
        /// Target columns, ascending; never of the key.
        columns: Columns,
        /// Their values.
        values: Box<[Datum]>,
    },
    /// The row gets another key, and columns are set at the same time.
    Rekey {
        /// The key so far.
        from: Key,
        /// The key from now on.
        to: Key,
        /// Other target columns, ascending; may be empty.
        columns: Columns,
        /// Their values.
        values: Box<[Datum]>,
    },
    /// The row ceases to be.
    Delete {
        /// The row.
        key: Key,
    },
    /// Only with both links on: no such row is to be there, because the source row stands for another one or for none.
    /// Whoever wins deletes what is there (`delta::decide`); it never reaches a set.
    Absent {
        /// The row.
        key: Key,
    },
    /// Tables are emptied together. Sequences keep their values: they are not part of the rows.
    Truncate {
        /// All targets of the statement, ascending.
        targets: Vec<usize>,
    },
}

/// The kind of a set: one statement's worth of equal operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetKind {
    /// INSERT.
    Insert,
    /// INSERT where the key is not there yet.
    Ensure,
    /// UPDATE of columns outside the key.
    Patch,
    /// UPDATE of columns outside the key of rows that may be gone.
    Clear,
    /// UPDATE of the key, and columns outside it.
    Rekey,
    /// DELETE.
    Delete,
    /// TRUNCATE of `Set::truncated`.
    Truncate,
}

/// Operations of one kind on one table over one column set: one statement.
#[derive(Clone, Debug)]
pub struct Set {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// What the statement does.
    pub kind: SetKind,
    /// The columns that it writes (for a rekey: besides the key); empty for deletes.
    pub columns: Columns,
    /// Keys by which rows are found, one a row; empty for inserts.
    pub keys: Vec<Key>,
    /// New keys, one a row; only for rekeys.
    pub new_keys: Vec<Key>,
    /// Values, one box a row, in the order of `columns`; empty boxes for deletes.
    pub values: Vec<Box<[Datum]>>,
    /// For truncate: all tables of the statement; empty otherwise.
    pub truncated: Vec<usize>,
}

impl Set {
    /// How many rows the statement is about; it must affect them exactly, except for ensures and clears (0 for truncate,
    /// which reports none).
    pub fn rows(&self) -> usize {
        match self.kind {
            SetKind::Insert | SetKind::Ensure => self.values.len(),
            SetKind::Patch | SetKind::Clear | SetKind::Rekey | SetKind::Delete => self.keys.len(),
            SetKind::Truncate => 0,
        }
    }

    /// Whether the statement has anything to do.
    pub fn has_work(&self) -> bool {
        match self.kind {
            SetKind::Truncate => true,
            SetKind::Patch | SetKind::Clear => self.rows() > 0 && !self.columns.is_empty(),
            SetKind::Insert | SetKind::Ensure | SetKind::Rekey | SetKind::Delete => self.rows() > 0,
        }
    }
}
