//! What comes of a decision.

use crate::change::Datum;
use crate::delta::{Key, Operation};
use crate::lsn::Lsn;
use crate::plan::Columns;

#[cfg(doc)]
use super::Claim;

/// What a claim that lost would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// An insert, or the new key of a rekey.
    Insert,
    /// Columns of a patch.
    Patch,
    /// A delete, or the old key of a rekey.
    Delete,
}

/// A claim, or a part of one, that lost; or for which nobody decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row.
    pub key: Key,
    /// What was left out.
    pub lost: Lost,
    /// The columns that were not written; empty for a delete.
    pub columns: Columns,
    /// The claim's values for them.
    pub values: Box<[Datum]>,
    /// The claim's `knew`.
    pub knew: Lsn,
    /// The claim's `at`.
    pub at: Lsn,
    /// The claim's `from`.
    pub from: Option<(usize, Key)>,
}

/// A row of the target that the target's link has to send anew, because nothing on its way to the source undoes what
/// lost here.
///
/// The caller writes nothing of the batch. It touches the row in a transaction of its own, unsigned, as if the target's
/// application had written it as it is, and decides the batch again: by then the row has changed as a whole, so the
/// same claims lose to it, and the other link brings the whole row (`stream::notes::changed`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassertion {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row.
    pub key: Key,
    /// The parts to be sent.
    pub parts: u64,
}

/// A row that lost, is not there, and must not stay on the source.
///
/// The target's link may have passed its removal already: it found no row to lock, and the source's application made one
/// before that transaction committed. Like a reassertion, the caller says so in a transaction of its own, in the target's
/// log, and decides the batch again. Should the target's application make the row meanwhile, the row is asserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row that is not there.
    pub key: Key,
    /// The source row, as in [`Claim::from`].
    pub from: (usize, Key),
    /// The row itself is there, but not all that describes it: what details say of the source row must go.
    pub details: bool,
}

/// Why a batch ends before one of its transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A conflict that an operator has to decide.
    Stop(Conflict),
    /// Tables were emptied: that cannot be decided row by row (counter-example 11).
    Truncate {
        /// Position in `Plan::targets`.
        target: usize,
        /// The claim's `at`.
        at: Lsn,
    },
    /// The row is not as it should be and no change of the application explains it: a second writer.
    Unexpected {
        /// Position in `Plan::targets`.
        target: usize,
        /// The row.
        key: Key,
        /// The claim's `at`.
        at: Lsn,
    },
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What to apply, in source order; to be folded.
    pub operations: Vec<Operation>,
    /// What lost, to be recorded in the same target transaction.
    pub conflicts: Vec<Conflict>,
    /// Rows to be asserted again, each once.
    pub reassertions: Vec<Reassertion>,
    /// Rows to be denied.
    pub absences: Vec<Absence>,
    /// Rows that are written and must come back to the source: what the winner did before is still on its way there, and
    /// takes them for what they were.
    pub returned: Vec<(usize, Key)>,
    /// Claims that asked for what is so already.
    pub agreements: u64,
    /// Why the batch ends early; nothing above belongs to the transaction it names, nor to a later one. Counts only if
    /// there is nothing to be asserted again before.
    pub verdict: Option<Verdict>,
}
