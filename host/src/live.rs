//! What a running link shows of itself: one value, watched by the terminal, the log and the demo. The link writes it
//! and never reads it back.

use std::collections::BTreeMap;

use crate::lsn::Lsn;
use crate::names::TableName;

/// Where a link stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Connecting, checking, making slot and publication.
    #[default]
    Starting,
    /// Existing rows are being copied.
    Copying,
    /// Changes are applied.
    Streaming,
    /// A passing fault: waiting to start again from the checkpoint.
    Waiting,
    /// Finishing what was received.
    Draining,
    /// Reading without writing: the other link applies.
    Watching,
}

/// Changes of a watched source by its own application, which wait for the link to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The commit position of the first one.
    pub since: Option<Lsn>,
    /// Source transactions.
    pub transactions: u64,
    /// Changes by table.
    pub changes: BTreeMap<TableName, u64>,
    /// How their rows would fare in the target, by table.
    pub trials: BTreeMap<TableName, Trial>,
}

/// How the rows of one table would fare if the link applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// Rows that were led through the transform and held against the target.
    pub tried: u64,
    /// Rows that could not be, because a database did not answer.
    pub skipped: u64,
    /// Rows that would not fit.
    pub unfit_rows: u64,
    /// Why: by reason and by the column or constraint that says so.
    pub reasons: BTreeMap<(String, String), Unfit>,
}

/// Rows that would not fit for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// How many.
    pub rows: u64,
    /// The keys of some, as JSON.
    pub sample: Vec<String>,
}

/// How changes fared that the other side had changed as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// Not written, and recorded.
    pub conflicts: u64,
    /// Both sides had done the same.
    pub agreements: u64,
    /// Not written because of a unique value that another row holds, and recorded as open.
    pub open: u64,
}

/// How far the copy of one source table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProgress {
    /// The table.
    pub table: TableName,
    /// Source rows copied so far.
    pub rows: u64,
    /// The planner's estimate of all its rows; 0 if unknown.
    pub rows_estimate: u64,
    /// Finished chunks.
    pub chunks_finished: usize,
    /// All chunks.
    pub chunks: usize,
}

/// The live state of one link.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Where it stands.
    pub stage: Stage,
    /// The copy, table by table, in copying order.
    pub tables: Vec<TableProgress>,
    /// The durable position.
    pub position: Lsn,
    /// Source transactions applied since the host started.
    pub transactions: u64,
    /// Rows inserted, updated and deleted since the host started.
    pub rows_changed: u64,
    /// How long ago the source transaction that was applied last was committed when it became durable, milliseconds.
    pub lag_ms: u64,
    /// How often the link started again since the host started.
    pub restarts: u64,
    /// The last passing fault, as text.
    pub fault: Option<String>,
    /// What a link that watches has found.
    pub waiting: Waiting,
    /// What was decided since the host started.
    pub decided: Decided,
    /// The position that was to be reached is reached.
    pub caught_up: bool,
    /// What the link waits for: columns of a source table that no loaded revision accepts (L12).
    pub awaits: Option<String>,
    /// The artifact that computes the rows, as messages name it.
    pub artifact: Option<String>,
}
