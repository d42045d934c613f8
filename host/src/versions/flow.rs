//! What has become of the rows of one table after some steps: a way through the steps' outputs, and where each column
//! of the row at its end comes from.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Column, Table};
use crate::names::TableName;
use crate::plan::{Case, fit};

/// Where a column's value comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A column of the first version, as it is.
    Copied(String),
    /// A step's guest.
    Computed {
        /// Which computed group; columns of one are written together, however far they are carried on.
        unit: usize,
        /// The columns of the first version that it depends on.
        inputs: BTreeSet<String>,
        /// The way back loses something, on purpose.
        lossy: bool,
        /// The step.
        step: usize,
    },
}

impl Origin {
    /// The columns of the first version that the value depends on.
    pub(super) fn inputs(&self) -> BTreeSet<String> {
        match self {
            Origin::Copied(column) => BTreeSet::from([column.clone()]),
            Origin::Computed { inputs, .. } => inputs.clone(),
        }
    }
}

/// A column that the row has.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Where its value comes from.
    pub(super) origin: Origin,
    /// The version of which nobody can tell whether it has the column: a step used it up, and only its name went on.
    pub(super) doubt: Option<String>,
}

/// One way through the steps.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The table of the first version.
    pub(super) source: TableName,
    /// The table that the rows are in now.
    pub(super) table: TableName,
    /// The output taken at each step.
    pub(super) trail: Vec<usize>,
    /// Whether any step had a rule for the rows.
    pub(super) by_rule: bool,
    /// The row's columns that something fills.
    pub(super) columns: BTreeMap<String, Held>,
    /// A delete of the source row sets these columns instead. `None`: it deletes the row.
    pub(super) marks: Option<BTreeMap<String, Option<String>>>,
    /// The columns of the first version on which it depends whether the row exists; `None`: it always does.
    pub(super) when: Option<BTreeSet<String>>,
    /// One source row stands for any number of rows.
    pub(super) many: bool,
    /// Rows of other source tables are in the same table.
    pub(super) shares: bool,
    /// The last step at which the row follows its key and not its source row.
    pub(super) keyed_at: Option<usize>,
}

impl Flow {
    /// Before the first step.
    pub(super) fn start(table: &Table) -> Self {
        let held = |column: &Column| {
            let origin = Origin::Copied(column.name.clone());
            (column.name.clone(), Held { origin, doubt: None })
        };
        Flow {
            source: table.name.clone(),
            table: table.name.clone(),
            trail: Vec::new(),
            by_rule: false,
            columns: table.columns.iter().filter(|column| !column.generated).map(held).collect(),
            marks: None,
            when: None,
            many: false,
            shares: false,
            keyed_at: None,
        }
    }

    /// Whether the row may go while its source row stays.
    pub(super) fn may_cease(&self) -> bool {
        self.when.is_some() || self.keyed_at.is_some()
    }
}

/// What is known of a column of a version that no database holds.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    /// The case in which a guest is handed it.
    pub(super) case: Case,
    /// The type, for messages.
    pub(super) type_sql: String,
    /// Whether what a guest would be handed is known exactly.
    pub(super) exact: bool,
    /// A step computes it and no manifest says its type.
    pub(super) undeclared: bool,
}

impl Kind {
    /// Of a column, by what its values are copied from (`None` for what a step computes) and by the type that a manifest
    /// says it has.
    pub(super) fn of(values: Vec<Option<Kind>>, declared: Option<&str>) -> Kind {
        let kinds: Option<Vec<Kind>> = values.into_iter().collect();
        let copied = kinds.filter(|kinds| kinds.windows(2).all(|pair| pair[0].case == pair[1].case));
        match (copied.and_then(|kinds| kinds.into_iter().next()), declared) {
            (Some(kind), None) => kind,
            (None, None) => Kind { case: Case::Text, type_sql: "unknown".into(), exact: false, undeclared: true },
            (Some(copied), Some(declared)) => {
                let kind = Kind::declared(declared);
                // A number's digits are its text as well; nothing else changes its case without code.
                let fits = kind.case == copied.case || (copied.case == Case::Integer && kind.exact);
                Kind { exact: fits, ..kind }
            }
            (None, Some(declared)) => Kind::declared(declared),
        }
    }

    /// By a type's name. Exact where a guest's answer is the text that PostgreSQL would print.
    fn declared(type_sql: &str) -> Kind {
        let plain = type_sql.split('(').next().unwrap_or_default().trim().to_lowercase();
        let (case, exact) = match plain.as_str() {
            "boolean" | "bool" => (Case::Boolean, true),
            "smallint" | "int2" | "integer" | "int" | "int4" | "bigint" | "int8" => (Case::Integer, true),
            "double precision" | "float8" => (Case::Float, true),
            "bytea" => (Case::Bytes, true),
            "text" | "varchar" | "character varying" => (Case::Text, true),
            _ => (Case::Text, false),
        };
        Kind { case, type_sql: type_sql.to_owned(), exact, undeclared: false }
    }

    /// Of a column of the first version.
    pub(super) fn of_source(column: &Column) -> Kind {
        Kind { case: fit::case(column.base_oid), type_sql: column.type_sql.clone(), exact: true, undeclared: false }
    }
}
