//! Turns the sets of a batch into statements with their parameters: everything that can be done before they are sent.
//!
//! Nothing is written here. A set too large for one statement becomes several.

use std::ops::Range;

use tokio_postgres::{Client, Error, Statement};

use super::checkpoint::Counters;
use super::encode::{self, Ready, Typed};
use super::statement::{self, Parameter, Statements};
use crate::change::Datum;
use crate::delta::{Set, SetKind};
use crate::plan::{Plan, Target};

/// Limits of one statement: its arrays are built in memory on both ends.
const STATEMENT_ROWS: usize = 10_000;
const STATEMENT_BYTES: usize = 32 << 20;

/// A statement ready to be sent.
pub struct Bound {
    /// What is executed.
    pub statement: Statement,
    /// Its parameters.
    pub parameters: Vec<Ready>,
    /// The table, for messages.
    pub target: usize,
    /// How many rows it must affect, exactly; `None` where the server reports none.
    pub rows: Option<u64>,
}

/// Adds the rows of a set to the counters.
pub fn count(set: &Set, counters: &mut Counters) {
    let rows = set.rows() as i64;
    match set.kind {
        SetKind::Insert => counters.inserted += rows,
        SetKind::Ensure => {}
        SetKind::Patch | SetKind::Clear | SetKind::Rekey => counters.updated += rows,
        SetKind::Delete => counters.deleted += rows,
        SetKind::Truncate => {}
    }
}

/// The ranges of a set's rows that go into one statement each: one row each if `strict`.
pub fn ranges(set: &Set, strict: bool) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut bytes) = (Vec::new(), 0, 0);
    let limit = if strict { 1 } else { STATEMENT_ROWS };
    for row in 0..set.rows() {
        let row_bytes = weight(set, row);
        if row > start && (row - start >= limit || bytes + row_bytes > STATEMENT_BYTES) {
            ranges.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes += row_bytes;
    }
    if start < set.rows() {
        ranges.push(start..set.rows());
    }
    ranges
}

fn weight(set: &Set, row: usize) -> usize {
    let of = |datums: &[Datum]| -> usize {
        datums.iter().map(|datum| if let Datum::Text(text) = datum { text.len() } else { 0 }).sum()
    };
    [set.keys.get(row), set.new_keys.get(row), set.values.get(row)].into_iter().flatten().map(|part| of(part)).sum()
}

/// The statement for some rows of a set. The server is asked only if the statement is not prepared yet.
pub async fn rows(
    client: &Client,
    statements: &mut Statements,
    plan: &Plan,
    set: &Set,
    rows: Range<usize>,
) -> Result<Bound, Error> {
    let target = &plan.targets[set.target];
    let (described, parameters) = parameters(target, set, rows.clone());
    let sql = statement::sql(target, set.kind, &set.columns, &described);
    let statement = statements.get(client, sql).await?;
    // A parent's ON DELETE CASCADE in the target may have been faster than the row's own delete; then there is none.
    let may_be_gone = set.kind == SetKind::Clear || (set.kind == SetKind::Delete && target.cascades);
    let uncounted = may_be_gone || set.kind == SetKind::Ensure;
    Ok(Bound { statement, parameters, target: set.target, rows: (!uncounted).then_some(rows.len() as u64) })
}

/// The statement for a truncate.
pub async fn truncate(client: &Client, statements: &mut Statements, plan: &Plan, set: &Set) -> Result<Bound, Error> {
    let statement = statements.get(client, statement::truncate(plan, &set.truncated)).await?;
    Ok(Bound { statement, parameters: Vec::new(), target: set.target, rows: None })
}

/// Columns, and for each row their values.
type Part<'a> = (&'a [u16], &'a [Box<[Datum]>]);

fn parameters(target: &Target, set: &Set, rows: Range<usize>) -> (Vec<Parameter>, Vec<Ready>) {
    let parts: [Part<'_>; 3] = match set.kind {
        SetKind::Insert | SetKind::Ensure => [(&[], &[]), (&[], &[]), (&set.columns, &set.values)],
        SetKind::Patch | SetKind::Clear => [(&target.key, &set.keys), (&[], &[]), (&set.columns, &set.values)],
        SetKind::Rekey => [(&target.key, &set.keys), (&target.key, &set.new_keys), (&set.columns, &set.values)],
        SetKind::Delete => [(&target.key, &set.keys), (&[], &[]), (&[], &[])],
        SetKind::Truncate => [(&[], &[]), (&[], &[]), (&[], &[])],
    };
    let mut described = Vec::new();
    let mut ready = Vec::new();
    for (columns, part) in parts {
        for (at, column) in columns.iter().enumerate() {
            let preferred = Typed::of(target.columns[*column as usize].base_oid);
            let (wire, array) = encode::column(preferred, part[rows.clone()].iter().map(|row| &row[at]));
            described.push(Parameter { column: *column, wire });
            ready.push(array);
        }
    }
    (described, ready)
}
