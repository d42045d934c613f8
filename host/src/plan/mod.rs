//! A link's plan: which target rows stand for which source rows, with every name turned into a number.
//!
//! ```text
//!   manifest ----.
//!   source catalog --> bind --> Plan  (or every shortfall at once)
//!   target catalog --'
//! ```
//!
//! Made once at load and again whenever the source's shape changes. Pure: no I/O, no clock. A table without a rule
//! gets the rule that copies it as it is, so that identity is not a second path through the program.

pub mod bind;
pub mod chain;
pub mod fit;
pub mod keyed;
pub mod numbering;
pub mod order;
pub mod parts;
pub mod records;

use std::collections::HashMap;
use std::sync::Arc;

use crate::manifest::Write;
use crate::names::{TableName, quote_name};

/// A set of columns of one table: sorted positions, shared between all operations that use it.
pub type Columns = Arc<[u16]>;

/// Everything a link needs to know to turn changes into operations.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tables that are read. Position = `SourceId`.
    pub sources: Vec<Source>,
    /// The tables that are written. Position = `TargetId`. Ordered so that a foreign key's parent stands before its
    /// children wherever that is possible.
    pub targets: Vec<Target>,
    /// Positions in `sources` by name; partitions are found under their own name and point to their root's entry.
    pub by_name: HashMap<TableName, usize>,
    /// Object ids of the source's tables and partitions, and what they are called. A table that gets another name keeps
    /// its id.
    pub oids: HashMap<u32, TableName>,
    /// Tables that exist in the source and are not read, with the reason; shown by `check`.
    pub left_out: Vec<(TableName, String)>,
    /// The key maps that the link's rules use.
    pub maps: Vec<keyed::Map>,
    /// Position in `targets` of the table that holds the mirrors; `None` if no table has one.
    pub mirror: Option<usize>,
    /// The steps behind the rules, if there is more than one: the guests are asked in turn.
    pub chain: Option<Arc<chain::Chain>>,
}

impl Plan {
    /// Whether any row depends on more than itself.
    pub fn is_keyed(&self) -> bool {
        self.sources.iter().any(|source| source.depends.is_any())
    }

    /// Whether any rule does anything with a column of a source table.
    pub fn uses(&self, source: usize, column: usize) -> bool {
        let own = &self.sources[source];
        let related = self.sources.iter().flat_map(|other| &other.depends.related);
        own.rule.uses(column)
            || own.key.contains(&column)
            || own.depends.mapped.iter().any(|mapped| mapped.column == column)
            || own.depends.binds.iter().any(|pair| pair.source_key == column || pair.target_key == column)
            || own.depends.related.iter().any(|related| related.on.iter().any(|(here, _)| *here == column))
            || related.filter(|related| related.source == source).any(|related| {
                related.on.iter().any(|(_, there)| *there == column)
                    || related.columns.iter().any(|(there, _)| *there == column)
            })
    }
}

/// A table that is read, and its rule.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name.
    pub name: TableName,
    /// The columns as the stream sends them: no generated ones.
    pub columns: Vec<SourceColumn>,
    /// Stored generated columns: the stream has them where the publication must send them (`check::publication`).
    pub generated: Vec<String>,
    /// Positions of the primary key (or of the replica identity's index); used to cut the table into chunks.
    pub key: Vec<usize>,
    /// Whether updates and deletes arrive with the whole old row.
    pub full_identity: bool,
    /// Positions of the columns that an old key image holds, if identity is not full.
    pub identity_key: Vec<usize>,
    /// Tables of a lower level are copied before: they hold the parents that this one's rows point to.
    pub copy_level: usize,
    /// Whether a foreign key of the table points to the table itself: then it is copied in one statement.
    pub refers_to_itself: bool,
    /// The rule.
    pub rule: Rule,
    /// What its rows depend on besides themselves.
    pub depends: keyed::Dependence,
    /// Size of the table in bytes when the plan was made.
    pub size_bytes: u64,
    /// The planner's estimate of its rows; negative if unknown.
    pub rows_estimate: f64,
}

/// A column that is read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceColumn {
    /// The name.
    pub name: String,
    /// The type's object id in the source.
    pub type_oid: u32,
    /// The type's modifier.
    pub type_modifier: i32,
    /// The type as SQL, for messages.
    pub type_sql: String,
    /// The case in which the guest gets it by nature.
    pub case: Case,
}

/// The case of the interface's `value` in which a type travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// `boolean`.
    Boolean,
    /// `integer`: int2, int4, int8.
    Integer,
    /// `float`: float8 only (counter-example 29: float4 travels as text).
    Float,
    /// `bytes`: bytea.
    Bytes,
    /// `text`: PostgreSQL's own form.
    Text,
}

/// A table that is written.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name.
    pub name: TableName,
    /// All columns, generated ones included: positions are those of the catalog.
    pub columns: Vec<TargetColumn>,
    /// Positions of the key by which rows are found, ascending.
    pub key: Columns,
    /// Column sets of unique constraints besides the key that are checked at once (deferrable ones are not listed).
    /// Operations that may hand one of their values from row to row keep their order (counter-example 15).
    pub uniques: Vec<Columns>,
    /// Whether a foreign key with ON DELETE CASCADE points from this table to another target: then the target itself
    /// may have deleted a row before its own delete arrives.
    pub cascades: bool,
    /// Whether the database itself does more than it is told when a row of it is written: triggers, and foreign keys of
    /// other tables that cascade. What it does beside a link is its application's own change (L7).
    pub acts: bool,
    /// Whether several source tables own rows of it: then a row may pass from one to another.
    pub shared: bool,
    /// Columns that are GENERATED ALWAYS AS IDENTITY, ascending: inserts need OVERRIDING SYSTEM VALUE, and nothing may
    /// update them (pitfall 25).
    pub identity_always: Columns,
    /// What the link keeps for itself in the target, such as mirrors: none of the application's tables.
    pub internal: bool,
}

impl Target {
    /// Lets these columns take updates (pitfall 25).
    pub fn by_default_sql(&self, columns: &[u16]) -> String {
        let one = |column: &u16| {
            let name = quote_name(&self.columns[usize::from(*column)].name);
            format!("ALTER COLUMN {name} SET GENERATED BY DEFAULT")
        };
        let all: Vec<String> = columns.iter().map(one).collect();
        format!("SET lock_timeout = '2s'; ALTER TABLE {} {};", self.name.sql(), all.join(", "))
    }
}

/// A column that is written.
#[derive(Clone, Debug)]
pub struct TargetColumn {
    /// The name.
    pub name: String,
    /// The type as SQL with modifier, for messages.
    pub type_sql: String,
    /// The type as SQL without modifier: a cast to it never truncates, the assignment applies the modifier.
    pub cast_sql: String,
    /// The object id of the type beneath all domains.
    pub base_oid: u32,
    /// The case in which a guest may return it; text is always allowed.
    pub case: Case,
    /// Never written: the database computes it.
    pub generated: bool,
}

/// What a source table's rows stand for.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The name under which the guest knows the table; `None` if the guest is never called (no rule, or nothing
    /// computed and nothing asked).
    pub guest_table: Option<String>,
    /// What the guest is handed: source column and whether as text.
    pub asked: Vec<(usize, bool)>,
    /// The outputs, in the manifest's order.
    pub outputs: Vec<Output>,
}

impl Rule {
    fn uses(&self, column: usize) -> bool {
        let by = |output: &Output| {
            output.copied.iter().any(|(from, _)| *from == column)
                || output.groups.iter().any(|group| group.from.contains(&column))
                || output.when.iter().flatten().any(|from| *from == column)
                || output.needs.iter().any(|need| need.column == column)
        };
        self.asked.iter().any(|(asked, _)| *asked == column) || self.outputs.iter().any(by)
    }
}

/// One target row that a source row stands for.
#[derive(Clone, Debug)]
pub struct Output {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// How its row is written.
    pub write: Write,
    /// Copied columns: (source column, target column), ascending by target column.
    pub copied: Vec<(usize, u16)>,
    /// Columns filled through a key map: (cell of the extended row, target column).
    pub mapped: Vec<(usize, u16)>,
    /// The mapped cells without which the row does not exist.
    pub needs: Vec<keyed::Need>,
    /// Computed groups.
    pub groups: Vec<Group>,
    /// The target columns of the guest's values, in the order in which the guest returns them (groups' `to` joined).
    pub computed: Vec<u16>,
    /// All target columns that the output writes, ascending.
    pub columns: Columns,
    /// Where each of `columns` comes from, in the same order.
    pub filled_by: Vec<Filling>,
    /// Where the key's columns come from, in the order of `Target::key`.
    pub key: Vec<Filling>,
    /// Source columns on which the guest's answer about existence depends; `None`: the row always exists.
    pub when: Option<Vec<usize>>,
    /// Any number of rows.
    pub many: bool,
    /// Rekey (true) or delete and insert (false) when the key changes.
    pub follows_source: bool,
    /// Columns and values of a soft delete, ascending by column; `None`: the row is deleted.
    pub on_delete_set: Option<Vec<(u16, crate::change::Datum)>>,
    /// A patch sets its columns to NULL when its source row goes or stands for another row.
    pub on_remove_null: bool,
}

impl Output {
    /// Whether the guest has to be asked to write the whole output.
    pub fn needs_guest(&self) -> bool {
        self.when.is_some() || self.many || !self.computed.is_empty()
    }
}

/// Columns that are computed and written together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Source columns on which they depend, and cells of related rows.
    pub from: Vec<usize>,
    /// Positions in `Output::computed`.
    pub values: std::ops::Range<usize>,
}

/// Where one column of a target row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Copied from this source column.
    Copied(usize),
    /// The guest's value at this position of `Output::computed`.
    Computed(usize),
    /// The mapped key in this cell of the extended row.
    Mapped(usize),
}

/// A target row as the guest answered it: the computed columns of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRow {
    /// Position in `Rule::outputs`.
    pub output: usize,
    /// One value for each of `Output::computed`.
    pub values: Vec<crate::change::Datum>,
}

/// What the guest said of one row: all target rows whose outputs need the guest.
pub type Answer = Vec<OutputRow>;
