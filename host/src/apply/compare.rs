//! Asks the target, for rows that it should hold, which of them it holds and where they differ.
//!
//! It only reads, inside one snapshot. An expected value is compared after it went the way of a written one: cast to
//! the column's type without modifier, then to the column's type with it (section 3, agreement). A value that only the
//! second cast makes fit, by cutting it, does not count as equal: an assignment would have refused it.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::fault;
use crate::change::Datum;
use crate::names::{quote_name, quote_text};
use crate::plan::{Target, TargetColumn};
use crate::problem::{Blame, Outcome, Problem};

/// Where a row lies in the target, for as long as the snapshot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    table_oid: u32,
    block: u32,
    offset: u32,
}

#[cfg(test)]
impl Place {
    /// A place, for tests of what follows from one.
    pub fn at(table_oid: u32, block: u32, offset: u32) -> Self {
        Place { table_oid, block, offset }
    }
}

/// What the target holds for one expected row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The row, equal in every expected column.
    Same(Place),
    /// The row, with these columns different.
    Differs(Place, Vec<u16>),
    /// No row with the key.
    Missing,
}

/// A row of the target that was not expected, or is only kept.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it lies.
    pub place: Place,
    /// Its key, as text, in the order of `Target::key`.
    pub key: Vec<String>,
    /// Whether it carries the values of a soft delete.
    pub kept: bool,
}

/// A session that reads the target inside one snapshot.
pub struct Comparison<'c> {
    client: &'c Client,
}

impl<'c> Comparison<'c> {
    /// Takes the snapshot. It stays until `leave`, or until the connection ends.
    pub async fn enter(client: &'c Client) -> Outcome<Self> {
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
                   SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off; SELECT 1";
        client.batch_execute(sql).await.map_err(|error| fault::refused(&error))?;
        Ok(Comparison { client })
    }

    /// Reads in whatever transaction the connection has open, or in none.
    pub fn within(client: &'c Client) -> Self {
        Comparison { client }
    }

    /// Leaves the snapshot.
    pub async fn leave(self) -> Outcome<()> {
        self.client.batch_execute("COMMIT").await.map_err(|error| fault::refused(&error))
    }

    /// What the target holds for `rows`, whose values stand in the order of `columns`, the whole key among them.
    ///
    /// One finding for each row, in order.
    pub async fn compare(&self, target: &Target, columns: &[u16], rows: &[Box<[Datum]>]) -> Outcome<Vec<Finding>> {
        let lists: Vec<Vec<Option<&str>>> = (0..columns.len())
            .map(|column| rows.iter().map(|row| text(&row[column])).collect())
            .collect::<Outcome<_>>()?;
        let parameters: Vec<&(dyn ToSql + Sync)> = lists.iter().map(|list| list as &(dyn ToSql + Sync)).collect();
        let named = |error| fault::refused(&error).table(&target.name);
        let answers = self.client.query(&compare_query(target, columns), &parameters).await.map_err(named)?;
        if answers.len() != rows.len() {
            return Err(not_a_key(target));
        }
        let mut findings = Vec::with_capacity(rows.len());
        for answer in answers {
            let (table_oid, at, equal): (Option<u32>, Option<String>, Option<Vec<bool>>) =
                (answer.get(0), answer.get(1), answer.get(2));
            let (Some(table_oid), Some(at), Some(equal)) = (table_oid, at, equal) else {
                findings.push(Finding::Missing);
                continue;
            };
            let place = place(table_oid, &at)?;
            let differ: Vec<u16> =
                columns.iter().zip(&equal).filter(|(_, equal)| !**equal).map(|(column, _)| *column).collect();
            findings.push(if differ.is_empty() { Finding::Same(place) } else { Finding::Differs(place, differ) });
        }
        Ok(findings)
    }

    /// How many rows the target's table has.
    pub async fn count(&self, target: &Target) -> Outcome<u64> {
        let sql = format!("SELECT count(*) FROM {}", target.name.sql());
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| fault::refused(&error).table(&target.name))?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// Walks over all rows of the target's table and hands them out in parts. `soft_deletes`: the column values of
    /// each soft delete that writes into the table.
    pub async fn walk(
        &self,
        target: &Target,
        soft_deletes: &[Vec<(u16, Datum)>],
        mut part: impl FnMut(Vec<Found>),
    ) -> Outcome<()> {
        let named = |error| fault::refused(&error).table(&target.name);
        let declare = format!("DECLARE falkirk_walk NO SCROLL CURSOR FOR {}", walk_query(target, soft_deletes)?);
        self.client.batch_execute(&declare).await.map_err(named)?;
        loop {
            let rows = self.client.query("FETCH 10000 FROM falkirk_walk", &[]).await.map_err(named)?;
            if rows.is_empty() {
                return self.client.batch_execute("CLOSE falkirk_walk").await.map_err(named);
            }
            let found = |row: &tokio_postgres::Row| {
                Ok(Found { place: place(row.get(0), row.get(1))?, key: row.get(2), kept: row.get(3) })
            };
            part(rows.iter().map(found).collect::<Outcome<_>>()?);
        }
    }

    /// How many rows can lie in one page of the server, at most.
    pub async fn rows_a_page(&self) -> Outcome<u32> {
        let sql = "SELECT current_setting('block_size')::int4";
        let row = self.client.query_one(sql, &[]).await.map_err(|error| fault::refused(&error))?;
        // A row takes at least a line pointer (4 bytes) and a header (24).
        Ok(u32::try_from(row.get::<_, i32>(0)).unwrap_or(32_768) / 28 + 1)
    }
}

/// Which rows of the target were expected: one bit for each place, so that large tables fit into memory.
#[derive(Debug)]
pub struct Seen {
    rows_a_page: usize,
    bits: HashMap<u32, Vec<u64>>,
}

impl Seen {
    /// Nothing seen yet.
    pub fn new(rows_a_page: u32) -> Self {
        Seen { rows_a_page: rows_a_page as usize, bits: HashMap::new() }
    }

    /// Notes a place; false if it was noted before.
    pub fn note(&mut self, place: Place) -> bool {
        let bit = place.block as usize * self.rows_a_page + place.offset as usize;
        let words = self.bits.entry(place.table_oid).or_default();
        if words.len() <= bit / 64 {
            words.resize(bit / 64 + 1, 0);
        }
        let fresh = words[bit / 64] & (1 << (bit % 64)) == 0;
        words[bit / 64] |= 1 << (bit % 64);
        fresh
    }

    /// Whether a place was noted.
    pub fn holds(&self, place: Place) -> bool {
        let bit = place.block as usize * self.rows_a_page + place.offset as usize;
        let word = self.bits.get(&place.table_oid).and_then(|words| words.get(bit / 64));
        word.is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}

fn text(datum: &Datum) -> Outcome<Option<&str>> {
    match datum {
        Datum::Null | Datum::Unset => Ok(None),
        Datum::Text(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| {
            Problem::stop(Blame::Host, "NOT_UTF8", "an expected value is not UTF-8, although the session asked for it")
        }),
    }
}

fn compare_query(target: &Target, columns: &[u16]) -> String {
    let column = |position: u16| &target.columns[usize::from(position)];
    let names: Vec<String> = (0..columns.len()).map(|place| format!("c{place}")).collect();
    let lists: Vec<String> = (1..=columns.len()).map(|place| format!("${place}::text[]")).collect();
    let equal: Vec<String> =
        columns.iter().zip(&names).map(|(position, expected)| equal(column(*position), expected)).collect();
    let keys: Vec<String> = columns
        .iter()
        .zip(&names)
        .filter(|(position, _)| target.key.contains(position))
        .map(|(position, expected)| {
            let column = column(*position);
            format!("t.{} = {}", quote_name(&column.name), assigned(column, expected))
        })
        .collect();
    format!(
        "SELECT t.tableoid, t.ctid::text, ARRAY[{}]::bool[] FROM unnest({}) WITH ORDINALITY AS e({}, n) \
         LEFT JOIN {} AS t ON {} ORDER BY e.n",
        equal.join(", "),
        lists.join(", "),
        names.join(", "),
        target.name.sql(),
        keys.join(" AND ")
    )
}

/// The expected value as it would be stored.
fn assigned(column: &TargetColumn, expected: &str) -> String {
    match column.cast_sql == column.type_sql {
        true => format!("e.{expected}::{}", column.cast_sql),
        false => format!("(e.{expected}::{})::{}", column.cast_sql, column.type_sql),
    }
}

fn equal(column: &TargetColumn, expected: &str) -> String {
    let assigned = assigned(column, expected);
    let plain = format!("({assigned})::text IS NOT DISTINCT FROM t.{}::text", quote_name(&column.name));
    let whole = format!("(e.{expected}::{})::text", column.cast_sql);
    match column.base_oid {
        // An explicit cast cuts a text that is too long; the assignment cuts blanks only and refuses the rest.
        1042 | 1043 => format!("{plain} AND rtrim({whole}, ' ') IS NOT DISTINCT FROM rtrim(({assigned})::text, ' ')"),
        // Bit strings are cut or filled up by a cast, and refused by an assignment.
        1560 | 1562 => format!("{plain} AND {whole} IS NOT DISTINCT FROM ({assigned})::text"),
        _ => plain,
    }
}

fn walk_query(target: &Target, soft_deletes: &[Vec<(u16, Datum)>]) -> Outcome<String> {
    let name = |position: &u16| quote_name(&target.columns[usize::from(*position)].name);
    let keys: Vec<String> = target.key.iter().map(|position| format!("t.{}::text", name(position))).collect();
    let mut kept = vec!["false".to_owned()];
    for set in soft_deletes {
        let mut terms = vec!["true".to_owned()];
        for (position, value) in set {
            let column = &target.columns[usize::from(*position)];
            terms.push(match text(value)? {
                None => format!("t.{} IS NULL", name(position)),
                Some(value) => {
                    let value = format!("({}::{})::{}", quote_text(value), column.cast_sql, column.type_sql);
                    format!("t.{}::text = ({value})::text", name(position))
                }
            });
        }
        // A NULL in the row makes the comparison unknown: then the row does not carry the value.
        kept.push(format!("coalesce({}, false)", terms.join(" AND ")));
    }
    let (keys, kept) = (keys.join(", "), kept.join(" OR "));
    Ok(format!("SELECT t.tableoid, t.ctid::text, ARRAY[{keys}]::text[], {kept} FROM {} AS t", target.name.sql()))
}

fn place(table_oid: u32, at: &str) -> Outcome<Place> {
    let parse = || {
        let (block, offset) = at.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        Some(Place { table_oid, block: block.parse().ok()?, offset: offset.parse().ok()? })
    };
    parse().ok_or_else(|| {
        Problem::stop(Blame::Host, "ANSWER_NOT_UNDERSTOOD", "the target names a row's place in an unknown form")
    })
}

fn not_a_key(target: &Target) -> Problem {
    Problem::stop(Blame::Target, "NOT_A_KEY", "several rows of the target have one key: its key is not unique")
        .table(&target.name)
        .remedy("rebuild the table's unique index (REINDEX) after the surplus rows are gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_noted_once_and_only_for_its_table() {
        let mut seen = Seen::new(292);
        let first = place(7, "(3,291)").unwrap();
        assert!(seen.note(first));
        assert!(!seen.note(first));
        assert!(seen.holds(first));
        assert!(!seen.holds(place(7, "(4,0)").unwrap()));
        assert!(!seen.holds(place(8, "(3,291)").unwrap()));
        assert!(!seen.holds(place(7, "(900,1)").unwrap()));
        assert!(place(7, "3,1").is_err());
    }
}
