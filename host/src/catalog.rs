//! What a database says about itself: tables, columns, keys. Plain data; `pg::catalog` reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::{Relation, RelationColumn};
use crate::names::TableName;

/// Everything the host needs to know of one database, read in one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// All ordinary and partitioned tables outside the system schemas and the `falkirk` schema.
    pub tables: BTreeMap<TableName, Table>,
    /// Whether a publication of the server can send stored generated columns (PostgreSQL 18).
    pub sends_generated: bool,
}

impl FromIterator<Table> for Catalog {
    fn from_iter<T: IntoIterator<Item = Table>>(tables: T) -> Self {
        let tables = tables.into_iter().map(|table| (table.name.clone(), table)).collect();
        Catalog { tables, ..Catalog::default() }
    }
}

impl Catalog {
    /// The SQL after which updates and deletes of a table send the whole old row, with its cost. A partitioned table
    /// hands its identity to no partition: each leaf has its own.
    pub fn full_identity(&self, table: &TableName) -> String {
        let is_leaf = |other: &&Table| other.root.as_ref() == Some(table) && other.kind == TableKind::Ordinary;
        let leaves: Vec<&TableName> = self.tables.values().filter(is_leaf).map(|leaf| &leaf.name).collect();
        let tables = if leaves.is_empty() { vec![table] } else { leaves };
        let alter = |table: &TableName| format!(" ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql());
        let all: String = tables.into_iter().map(alter).collect();
        format!(
            "SET lock_timeout = '2s';{all} (a short exclusive lock, and from then on updates and deletes write the old \
             row to the log as well, about the size of a row more each)"
        )
    }
}

/// The kind of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A table with rows of its own.
    Ordinary,
    /// The root or an inner node of a partition tree.
    Partitioned,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing: updates and deletes fail once the table is published.
    Nothing,
    /// The whole row.
    Full,
    /// A unique index over columns that cannot be null.
    Index,
}

/// One table.
#[derive(Clone, Debug)]
pub struct Table {
    /// The name.
    pub name: TableName,
    /// The object id, in this database only.
    pub oid: u32,
    /// Ordinary or partitioned.
    pub kind: TableKind,
    /// For a partition: the root of its tree.
    pub root: Option<TableName>,
    /// The columns in the order of their numbers, dropped ones left out.
    pub columns: Vec<Column>,
    /// Positions in `columns` of the primary key, in key order; empty if there is none.
    pub primary_key: Vec<usize>,
    /// The replica identity. For a partitioned table: `Full` only if every leaf is full; otherwise as the leaves say,
    /// `Nothing` if one of them has no usable one.
    pub identity: ReplicaIdentity,
    /// Positions in `columns` of the replica identity's columns (primary key, index); empty for full and nothing.
    pub identity_key: Vec<usize>,
    /// Unique indexes and constraints besides the primary key (exclusion constraints too).
    pub uniques: Vec<Unique>,
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Names of enabled user triggers that fire for rows that a client writes.
    pub triggers: Vec<String>,
    /// Whether row-level security applies to the connected role.
    pub row_security: bool,
    /// Whether the table is unlogged: then nothing of it is ever decoded.
    pub unlogged: bool,
    /// What the connected role may do.
    pub rights: Rights,
    /// The planner's estimate of the number of rows; negative if never analysed.
    pub rows_estimate: f64,
    /// Size of the main fork in bytes (summed over leaves).
    pub size_bytes: u64,
}

impl Table {
    /// An ordinary table of `public` with these columns, of which the ones at `key` are its primary key. It sends whole
    /// old rows, and there is nothing else to say of it: what an example is about is set beside it.
    pub fn plain(name: &str, columns: impl IntoIterator<Item = Column>, key: impl IntoIterator<Item = usize>) -> Table {
        Table {
            name: TableName::new("public", name),
            oid: 1,
            kind: TableKind::Ordinary,
            root: None,
            columns: columns.into_iter().collect(),
            primary_key: key.into_iter().collect(),
            identity: ReplicaIdentity::Full,
            identity_key: Vec::new(),
            uniques: Vec::new(),
            foreign_keys: Vec::new(),
            triggers: Vec::new(),
            row_security: false,
            unlogged: false,
            rights: Rights::default(),
            rows_estimate: 0.0,
            size_bytes: 0,
        }
    }

    /// The same, with columns of type text.
    pub fn of_text(name: &str, columns: &[&str], key: impl IntoIterator<Item = usize>) -> Table {
        Table::plain(name, columns.iter().map(|column| Column::plain(column, 25, "text")), key)
    }
}

/// What the connected role may do with a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// SELECT on every column.
    pub select: bool,
    /// INSERT.
    pub insert: bool,
    /// UPDATE.
    pub update: bool,
    /// DELETE.
    pub delete: bool,
    /// TRUNCATE.
    pub truncate: bool,
    /// The role owns the table or is a member of its owner.
    pub own: bool,
}

/// Whether a column is an identity column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// It is not.
    No,
    /// GENERATED BY DEFAULT AS IDENTITY.
    ByDefault,
    /// GENERATED ALWAYS AS IDENTITY.
    Always,
}

/// One column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type's object id, in this database only.
    pub type_oid: u32,
    /// The type's modifier, -1 for none.
    pub type_modifier: i32,
    /// The type as SQL with its modifier, schema-qualified outside `pg_catalog`, e.g. `numeric(10,2)`.
    pub type_sql: String,
    /// The type as SQL without modifier, safe as a cast that never truncates (`format_type(oid, -1)`).
    pub cast_sql: String,
    /// The object id of the type beneath all domains; equal to `type_oid` for other types.
    pub base_oid: u32,
    /// The type beneath all domains, without modifier, as SQL.
    pub base_sql: String,
    /// What kind of type the base is: `b` base, `c` composite, `e` enum, `r` range, `m` multirange, `p` pseudo.
    pub base_kind: char,
    /// Whether it is an array.
    pub is_array: bool,
    /// For an enum: its labels in order; empty otherwise.
    pub labels: Vec<String>,
    /// Whether values may be stored out of line, so that an update may leave them out of the log.
    pub toastable: bool,
    /// Whether NULL is refused (by the column or by its domain).
    pub not_null: bool,
    /// Whether the column has a default (identity columns included).
    pub has_default: bool,
    /// Whether the column is computed by the database and can never be written.
    pub generated: bool,
    /// Whether it is an identity column.
    pub identity: Identity,
    /// Whether it is generated and not stored (PostgreSQL 18).
    #[serde(default)]
    pub is_virtual: bool,
}

impl Column {
    /// A column of a base type of PostgreSQL's own that may be NULL.
    pub fn plain(name: &str, type_oid: u32, type_sql: &str) -> Column {
        Column {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            type_sql: type_sql.into(),
            cast_sql: type_sql.into(),
            base_oid: type_oid,
            base_sql: type_sql.into(),
            base_kind: 'b',
            is_array: false,
            labels: Vec::new(),
            toastable: true,
            not_null: false,
            has_default: false,
            generated: false,
            identity: Identity::No,
            is_virtual: false,
        }
    }
}

/// A unique index or constraint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unique {
    /// The index's name.
    pub name: String,
    /// Positions in the table's columns; empty if the index covers an expression, has a predicate or is an exclusion
    /// constraint: then any of `touches` may matter.
    pub columns: Vec<usize>,
    /// All plain columns the index mentions, in keys, expressions and predicate.
    pub touches: Vec<usize>,
    /// Whether it is checked at the end of the transaction when asked for.
    pub deferrable: bool,
    /// Whether none of its columns can be null and it has neither expression nor predicate: usable as a key.
    pub usable_as_key: bool,
}

/// A foreign key.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Positions in this table's columns.
    pub columns: Vec<usize>,
    /// The table it points to.
    pub parent: TableName,
    /// Names of the parent's columns.
    pub parent_columns: Vec<String>,
    /// Whether it can be checked at the end of the transaction.
    pub deferrable: bool,
    /// What a delete of the parent does: `a` no action, `r` restrict, `c` cascade, `n` set null, `d` set default.
    pub on_delete: char,
    /// What an update of the parent's key does, same letters.
    pub on_update: char,
}

/// What the rows of a source table look like: kept by a link that has started, since the rows that wait in the log look
/// like it whatever has become of the table since.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    columns: Vec<Column>,
    primary_key: Vec<usize>,
    identity_key: Vec<usize>,
    uniques: Vec<Unique>,
}

impl Table {
    /// The shape of its rows.
    pub fn shape(&self) -> Shape {
        Shape {
            columns: self.columns.clone(),
            primary_key: self.primary_key.clone(),
            identity_key: self.identity_key.clone(),
            uniques: self.uniques.clone(),
        }
    }

    /// The shape that its rows have where the stream describes them as `relation`; columns that are no longer there are
    /// taken from `earlier`. `None`: the table has changed again since, and nobody knows what it looked like.
    pub fn shape_at(&self, relation: &Relation, earlier: &Shape) -> Option<Shape> {
        let is = |described: &RelationColumn, column: &Column| {
            (&column.name, column.type_oid, column.type_modifier)
                == (&described.name, described.type_oid, described.type_modifier)
        };
        let mut columns: Vec<Column> = Vec::with_capacity(relation.columns.len());
        for described in &relation.columns {
            let mut candidates = self.columns.iter().chain(&earlier.columns);
            columns.push(candidates.find(|column| is(described, column))?.clone());
        }
        // The stream sends no generated columns, and nobody reads them.
        let position = |column: &usize| {
            let name = &self.columns[*column].name;
            columns.iter().position(|column| column.name == *name)
        };
        let positions = |of: &[usize]| of.iter().map(position).collect::<Option<Vec<usize>>>();
        let uniques = self.uniques.iter().filter_map(|unique| {
            Some(Unique {
                columns: positions(&unique.columns)?,
                touches: positions(&unique.touches)?,
                ..unique.clone()
            })
        });
        Some(Shape {
            primary_key: positions(&self.primary_key)?,
            identity_key: positions(&self.identity_key)?,
            uniques: uniques.collect(),
            columns,
        })
    }

    /// Gives the table an earlier shape back. Its replica identity stays the one of today, which may be wider.
    pub fn restore(&mut self, shape: &Shape) {
        let names = self.identity_key.iter().map(|column| &self.columns[*column].name);
        let known = |name: &String| shape.columns.iter().position(|column| column.name == *name);
        let identity_key = names.map(known).collect::<Option<Vec<usize>>>();
        self.identity_key = identity_key.unwrap_or_else(|| shape.identity_key.clone());
        self.columns.clone_from(&shape.columns);
        self.primary_key.clone_from(&shape.primary_key);
        self.uniques.clone_from(&shape.uniques);
    }

    /// Position of a column by name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The key by which rows of this table are found as a target: the primary key, or else the replica identity's
    /// index, or else the first unique index over columns that cannot be null. Empty if there is none.
    pub fn row_key(&self) -> Vec<usize> {
        let unique = || self.uniques.iter().find(|unique| unique.usable_as_key && !unique.deferrable);
        match (self.primary_key.is_empty(), self.identity_key.is_empty()) {
            (false, _) => self.primary_key.clone(),
            (true, false) => self.identity_key.clone(),
            (true, true) => unique().map(|unique| unique.columns.clone()).unwrap_or_default(),
        }
    }
}
