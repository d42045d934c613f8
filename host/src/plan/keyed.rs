//! What rows depend on besides themselves: key maps and related rows, with every name turned into a number.
//!
//! A row of a table that depends on more than itself is *extended* before it is lifted: behind its own cells stands one
//! for each mapped key and one for each list of related rows. The delta rules then treat them like columns.

use crate::names::TableName;

/// A key map, as one link sees it.
#[derive(Clone, Debug)]
pub struct Map {
    /// The name in the manifest.
    pub name: String,
    /// The source's keys are blue's.
    pub source_is_blue: bool,
    /// The pairs are kept in the target.
    pub kept_in_target: bool,
    /// The link may make a key of the target for a source's key without one.
    pub creates: bool,
    /// The target's key column: its table.
    pub table: TableName,
    /// The target's key column.
    pub column: String,
    /// Pairs are made and replaced by rows of this link's source.
    pub bound_here: bool,
    /// Rules of either direction bind pairs: none may be remembered from batch to batch.
    pub rebound: bool,
    /// Where the target itself may hold a pair that the other link has not bound yet.
    pub adopts: Vec<Adoption>,
}

/// A table of the target whose rows are bound by the other link: table, and its two columns.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The table.
    pub table: TableName,
    /// The column with the source's key.
    pub source_key: String,
    /// The column with the target's key.
    pub target_key: String,
    /// The type of the column with the source's key, as SQL without modifier.
    pub type_sql: String,
}

/// What the rows of a source table depend on, and who depends on them.
#[derive(Clone, Debug, Default)]
pub struct Dependence {
    /// The mapped keys, in the order of their cells behind the row's own.
    pub mapped: Vec<MappedKey>,
    /// The related tables, in the manifest's order; their cells stand behind the mapped keys.
    pub related: Vec<RelatedTable>,
    /// The pairs that its rows bind.
    pub binds: Vec<BoundPair>,
    /// The rows are kept in a mirror in the target: these columns. `None`: no mirror.
    pub mirror: Option<Vec<usize>>,
}

impl Dependence {
    /// Whether rows are extended before they are lifted.
    pub fn extends(&self) -> bool {
        !self.mapped.is_empty() || !self.related.is_empty()
    }

    /// Whether rows concern more than their own outputs.
    pub fn is_any(&self) -> bool {
        self.extends() || !self.binds.is_empty() || self.mirror.is_some()
    }
}

/// A key that a map pairs with a value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedKey {
    /// Position in `Plan::maps`.
    pub map: usize,
    /// The source column with the value.
    pub column: usize,
}

/// Rows of another table that the guest is handed.
#[derive(Clone, Debug)]
pub struct RelatedTable {
    /// The other table.
    pub table: TableName,
    /// Its position in `Plan::sources`.
    pub source: usize,
    /// Column of the row, and the column of the other table that equals it.
    pub on: Vec<(usize, usize)>,
    /// The columns of the other table that the guest is handed, and whether as text.
    pub columns: Vec<(usize, bool)>,
}

/// Two columns that are a pair of a map.
#[derive(Clone, Copy, Debug)]
pub struct BoundPair {
    /// Position in `Plan::maps`.
    pub map: usize,
    /// The column with the source's key.
    pub source_key: usize,
    /// The column with the target's key.
    pub target_key: usize,
}

/// A mapped cell without which an output's row does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The cell.
    pub cell: usize,
    /// The source column that is mapped.
    pub column: usize,
    /// A NULL of that column stays NULL; otherwise the row does not exist then either.
    pub nullable: bool,
}

/// The columns of the table that holds all mirrors of a target, in its order.
pub const MIRROR_COLUMNS: [(&str, &str, u32); 7] = [
    ("migration", "text", 25),
    ("link", "text", 25),
    ("source_table", "text", 25),
    ("key", "text", 25),
    ("found_by", "bigint[]", 1016),
    ("mapped", "text", 25),
    ("row", "text", 25),
];

/// How many of them are the key.
pub const MIRROR_KEY: usize = 4;
