//! Asks a target whether rows would fit, without writing: their types, NOT NULL, unique values and foreign keys, against
//! what the target holds now.
//!
//! One query for many rows; if a value cannot be read as its column's type, halves of it, down to the row and the column.
//! No value leaves this file but in the query itself.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::fault;
use crate::catalog::Table;
use crate::change::Datum;
use crate::names::{quote_name, quote_text};
use crate::plan::{Columns, Target};
use crate::problem::Outcome;

/// Why a row would not fit, and which column or constraint says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Misfit {
    /// `NOT_NULL`, `VALUE`, `TOO_LONG`, `UNIQUE` or `FOREIGN_KEY`; or what the transform answered.
    pub reason: String,
    /// The column or the constraint.
    pub name: String,
}

impl Misfit {
    /// A reason with its column or constraint.
    pub fn new(reason: &str, name: &str) -> Misfit {
        Misfit { reason: reason.to_owned(), name: name.to_owned() }
    }
}

/// Rows for one table over one set of columns.
#[derive(Clone, Copy)]
pub struct Tried<'t> {
    /// The table as the plan writes it.
    pub target: &'t Target,
    /// The table as the database describes it.
    pub table: &'t Table,
    /// The columns.
    pub columns: &'t Columns,
    /// By row: the values.
    pub rows: &'t [Box<[Datum]>],
    /// By row, by foreign key of the table: the parent is on its way and need not be there.
    pub parents: &'t [Vec<bool>],
}

/// What would not fit, by row.
pub async fn misfits(client: &Client, tried: Tried<'_>) -> Outcome<Vec<Vec<Misfit>>> {
    let mut found: Vec<Vec<Misfit>> = tried.rows.iter().map(|row| nulls(&tried, row)).collect();
    let mut parts = vec![(0, tried.rows.len())];
    while let Some((start, end)) = parts.pop() {
        if start == end {
            continue;
        }
        match ask(client, &tried, start, end).await {
            Ok(more) => found[start..end].iter_mut().zip(more).for_each(|(known, more)| known.extend(more)),
            Err(error) if is_of_data(&error) => match end - start {
                1 => found[start].push(unreadable(client, &tried, start).await?),
                rows => parts.extend([(start, start + rows / 2), (start + rows / 2, end)]),
            },
            Err(error) => return Err(fault::refused(&error).table(&tried.target.name)),
        }
    }
    Ok(found)
}

fn is_of_data(error: &tokio_postgres::Error) -> bool {
    fault::state(error).is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
}

fn nulls(tried: &Tried<'_>, row: &[Datum]) -> Vec<Misfit> {
    let null = |(column, datum): (&u16, &Datum)| {
        let name = &tried.target.columns[usize::from(*column)].name;
        let at = tried.table.column(name)?;
        let refused = tried.table.columns[at].not_null && *datum == Datum::Null;
        refused.then(|| Misfit::new("NOT_NULL", name))
    };
    tried.columns.iter().zip(row).filter_map(null).collect()
}

fn literal(datum: &Datum) -> String {
    match datum {
        Datum::Text(text) => format!("{}::text", quote_text(&String::from_utf8_lossy(text))),
        Datum::Null | Datum::Unset => "NULL::text".to_owned(),
    }
}

/// The place of a column among the tried ones, by its name.
fn place(tried: &Tried<'_>, name: &str) -> Option<usize> {
    tried.columns.iter().position(|column| tried.target.columns[usize::from(*column)].name == name)
}

fn cast(tried: &Tried<'_>, at: usize) -> String {
    let column = &tried.target.columns[usize::from(tried.columns[at])];
    format!("CAST(v.c{at} AS {})", column.type_sql)
}

/// The questions about each row, each with what it means if the answer is yes.
fn questions(tried: &Tried<'_>) -> Vec<(String, Misfit)> {
    let mut questions = Vec::new();
    for (at, column) in tried.columns.iter().enumerate() {
        let column = &tried.target.columns[usize::from(*column)];
        // char, varchar, bit and varbit: a cast to a length cuts in silence, where writing would be refused.
        if matches!(column.base_oid, 1042 | 1043 | 1560 | 1562) {
            let whole = format!("rtrim(CAST(v.c{at} AS {})::text)", column.cast_sql);
            questions
                .push((format!("{whole} <> rtrim({}::text)", cast(tried, at)), Misfit::new("TOO_LONG", &column.name)));
        }
    }
    let name_of = |column: &usize| tried.table.columns[*column].name.as_str();
    let key: Option<Vec<String>> = tried
        .target
        .key
        .iter()
        .map(|column| {
            let name = &tried.target.columns[usize::from(*column)].name;
            Some(format!("t.{} = {}", quote_name(name), cast(tried, place(tried, name)?)))
        })
        .collect();
    for unique in tried.table.uniques.iter().filter(|unique| !unique.columns.is_empty()) {
        let same: Option<Vec<String>> = unique
            .columns
            .iter()
            .map(|column| {
                let name = name_of(column);
                Some(format!("t.{} = {}", quote_name(name), cast(tried, place(tried, name)?)))
            })
            .collect();
        if let (Some(same), Some(key)) = (same, &key) {
            let table = tried.target.name.sql();
            let held = format!(
                "EXISTS (SELECT FROM {table} AS t WHERE {} AND NOT ({}))",
                same.join(" AND "),
                key.join(" AND ")
            );
            questions.push((held, Misfit::new("UNIQUE", &unique.name)));
        }
    }
    for (number, foreign) in tried.table.foreign_keys.iter().enumerate() {
        let places: Option<Vec<usize>> = foreign.columns.iter().map(|column| place(tried, name_of(column))).collect();
        let Some(places) = places else { continue };
        let pairs = places.iter().zip(&foreign.parent_columns);
        let same: Vec<String> =
            pairs.map(|(at, parent)| format!("p.{} = {}", quote_name(parent), cast(tried, *at))).collect();
        let given: Vec<String> = places.iter().map(|at| format!("v.c{at} IS NOT NULL")).collect();
        let missing = format!(
            "NOT v.f{number} AND {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})",
            given.join(" AND "),
            foreign.parent.sql(),
            same.join(" AND ")
        );
        questions.push((missing, Misfit::new("FOREIGN_KEY", &foreign.name)));
    }
    questions
}

async fn ask(
    client: &Client,
    tried: &Tried<'_>,
    start: usize,
    end: usize,
) -> Result<Vec<Vec<Misfit>>, tokio_postgres::Error> {
    let questions = questions(tried);
    let row = |at: usize| {
        let values = tried.rows[at].iter().map(literal);
        let parents = tried.parents[at].iter().map(|coming| coming.to_string());
        format!("({})", std::iter::once(at.to_string()).chain(values).chain(parents).collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<String> = (start..end).map(row).collect();
    let mut names = vec!["n".to_owned()];
    names.extend((0..tried.columns.len()).map(|at| format!("c{at}")));
    names.extend((0..tried.table.foreign_keys.len()).map(|at| format!("f{at}")));
    let casts: Vec<String> = (0..tried.columns.len()).map(|at| cast(tried, at)).collect();
    // Each value is read as its column's type, also where no question needs it.
    let mut asked = vec![format!("num_nulls({})", casts.join(", "))];
    asked.extend(questions.iter().map(|(question, _)| question.clone()));
    let query = format!(
        "SELECT {} FROM (VALUES {}) AS v({}) ORDER BY v.n",
        asked.join(", "),
        rows.join(", "),
        names.join(", ")
    );
    let mut found = Vec::with_capacity(end - start);
    for message in client.simple_query(&query).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let yes = |at: &usize| row.get(at + 1) == Some("t");
            let misfit = |at: usize| questions[at].1.clone();
            found.push((0..questions.len()).filter(yes).map(misfit).collect());
        }
    }
    Ok(found)
}

/// Which column of a row cannot be read.
async fn unreadable(client: &Client, tried: &Tried<'_>, row: usize) -> Outcome<Misfit> {
    for (at, datum) in tried.rows[row].iter().enumerate() {
        let column = &tried.target.columns[usize::from(tried.columns[at])];
        let query = format!("SELECT CAST({} AS {}) IS NULL", literal(datum), column.type_sql);
        match client.simple_query(&query).await {
            Ok(_) => {}
            Err(error) if is_of_data(&error) => return Ok(Misfit::new("VALUE", &column.name)),
            Err(error) => return Err(fault::refused(&error).table(&tried.target.name)),
        }
    }
    Ok(Misfit::new("VALUE", ""))
}
