//! The plan of a link's copy: which parts of which source tables, and which of them are done.
//!
//! A part is marked as done only by the transaction that wrote its rows (`copy_in`, L5). The plan is written whole.

use tokio_postgres::Client;

use super::fault;
use crate::marker::Link;
use crate::names::TableName;
use crate::problem::{Blame, Outcome, Problem};

/// A part of a source table: rows with `lower <= key < upper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The source table.
    pub table: TableName,
    /// Counts the parts of a table from 0.
    pub number: i32,
    /// Texts of the key's columns; `None`: from the first row on.
    pub lower: Option<Vec<String>>,
    /// Texts of the key's columns; `None`: to the last row.
    pub upper: Option<Vec<String>>,
    /// Rows written into the target, once it is done.
    pub rows: Option<i64>,
    /// Whether it is done.
    pub finished: bool,
}

/// Cuts a table at `bounds` (ascending, distinct): one part more than there are bounds.
pub fn parts(table: &TableName, bounds: Vec<Vec<String>>) -> Vec<Chunk> {
    let lower = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let upper = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    (0..)
        .zip(lower.zip(upper))
        .map(|(number, (lower, upper))| Chunk {
            table: table.clone(),
            number,
            lower,
            upper,
            rows: None,
            finished: false,
        })
        .collect()
}

/// Writes the parts of one table's plan, all or none. A table that has a plan already keeps it.
pub async fn plan(client: &Client, migration: &str, link: Link, table: &TableName, chunks: &[Chunk]) -> Outcome<()> {
    let numbers: Vec<i32> = chunks.iter().map(|chunk| chunk.number).collect();
    // Arrays of arrays must be rectangular, and open ends are not; each end travels as the text of an array instead.
    let end = |end: &Option<Vec<String>>| end.as_ref().map(|key| array_text(key));
    let lower: Vec<Option<String>> = chunks.iter().map(|chunk| end(&chunk.lower)).collect();
    let upper: Vec<Option<String>> = chunks.iter().map(|chunk| end(&chunk.upper)).collect();
    let insert = "INSERT INTO falkirk.chunk (migration, link, source_table, number, lower, upper) \
        SELECT $1, $2, $3, n, l::text[], u::text[] FROM unnest($4::int4[], $5::text[], $6::text[]) AS c(n, l, u) \
        WHERE NOT EXISTS (SELECT FROM falkirk.chunk WHERE migration = $1 AND link = $2 AND source_table = $3)";
    client
        .execute(insert, &[&migration, &link.name(), &table.to_string(), &numbers, &lower, &upper])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

fn array_text(parts: &[String]) -> String {
    let quoted = |part: &String| format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", parts.iter().map(quoted).collect::<Vec<_>>().join(","))
}

/// All parts of all tables, by table and number.
pub async fn list(client: &Client, migration: &str, link: Link) -> Outcome<Vec<Chunk>> {
    let select = "SELECT source_table, number, lower, upper, rows, finished_at IS NOT NULL FROM falkirk.chunk \
        WHERE migration = $1 AND link = $2 ORDER BY source_table, number";
    let rows = client.query(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    rows.iter()
        .map(|row| {
            let name: &str = row.get(0);
            Ok(Chunk {
                table: name.parse().map_err(|_| {
                    Problem::refuse(Blame::Target, "CHUNK_UNREADABLE", "a row of falkirk.chunk names no table")
                })?,
                number: row.get(1),
                lower: row.get(2),
                upper: row.get(3),
                rows: row.get(4),
                finished: row.get(5),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l5_parts_meet_without_gap_or_overlap() {
        let table = TableName::new("public", "t");
        let cut = parts(&table, vec![vec!["5".into()], vec!["9".into()]]);
        assert_eq!(cut.len(), 3);
        assert_eq!((cut[0].lower.clone(), cut[2].upper.clone()), (None, None));
        assert!(cut.windows(2).all(|pair| pair[0].upper == pair[1].lower && pair[0].number + 1 == pair[1].number));
        assert_eq!(parts(&table, vec![]).len(), 1);
    }
}
