//! The reading half of the copy: cuts a table into ranges of its key and reads one range inside an exported snapshot.
//!
//! It only reads, and never outside the snapshot that it was given (L5). Rows leave as the blocks that the server sent,
//! or parsed into images that share those blocks.

use std::fmt::Write;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_postgres::{Client, CopyOutStream, Error};

use crate::change::{Cell, Image};
use crate::names::{TableName, quote_name, quote_names, quote_text};
use crate::problem::{Blame, Outcome, Problem};

/// Blocks are gathered to about this size: the server sends each row in a message of its own.
const BLOCK_BYTES: usize = 128 << 10;

/// Tables below this size are read in one part.
const SMALL_BYTES: u64 = 16 << 20;

/// A column of the key by which a table is cut.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    /// The name.
    pub name: String,
    /// The type as SQL, as in `SourceColumn::type_sql`.
    pub type_sql: String,
}

/// The query for the rows with `lower <= key < upper`; `None` is an open end.
pub fn range_query(
    table: &TableName,
    columns: &[&str],
    key: &[KeyColumn],
    lower: Option<&[String]>,
    upper: Option<&[String]>,
) -> String {
    let names = quote_names(key.iter().map(|column| column.name.as_str()));
    let row = |bound: &[String]| {
        let cast = |(text, column): (&String, &KeyColumn)| format!("{}::{}", quote_text(text), column.type_sql);
        bound.iter().zip(key).map(cast).collect::<Vec<_>>().join(", ")
    };
    let mut query = format!("SELECT {} FROM {}", quote_names(columns.iter().copied()), table.sql());
    let mut word = "WHERE";
    for (bound, comparison) in [(lower, ">="), (upper, "<")] {
        if let Some(bound) = bound {
            // Writing to a String cannot fail.
            let _ = write!(query, " {word} ({names}) {comparison} ({})", row(bound));
            word = "AND";
        }
    }
    query
}

/// The query for the rows with these keys.
pub fn keys_query(table: &TableName, columns: &[&str], key: &[KeyColumn], keys: &[Vec<String>]) -> String {
    let names = quote_names(key.iter().map(|column| column.name.as_str()));
    let cast = |(text, column): (&String, &KeyColumn)| format!("{}::{}", quote_text(text), column.type_sql);
    let row = |texts: &Vec<String>| texts.iter().zip(key).map(cast).collect::<Vec<_>>().join(", ");
    let rows: Vec<String> = keys.iter().map(|texts| format!("({})", row(texts))).collect();
    let columns = quote_names(columns.iter().copied());
    format!("SELECT {columns} FROM {} WHERE ({names}) IN ({})", table.sql(), rows.join(", "))
}

/// A session that reads inside an exported snapshot.
pub struct CopyOut<'c> {
    client: &'c Client,
}

impl<'c> CopyOut<'c> {
    /// Enters the snapshot. It stays until `leave`, or until the connection ends.
    pub async fn enter(client: &'c Client, snapshot: &str) -> Outcome<Self> {
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
             SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off",
            quote_text(snapshot)
        );
        client.batch_execute(&sql).await.map_err(|error| fault(&error))?;
        Ok(CopyOut { client })
    }

    /// Reads in whatever transaction the connection has open, or in none.
    pub fn within(client: &'c Client) -> Self {
        CopyOut { client }
    }

    /// Starts to read the rows of a query, in COPY's text form.
    pub async fn read(&self, query: &str) -> Outcome<Blocks> {
        let stream = self.client.copy_out(&format!("COPY ({query}) TO STDOUT")).await.map_err(|error| fault(&error))?;
        Ok(Blocks { stream: Box::pin(stream), ended: false })
    }

    /// Leaves the snapshot.
    pub async fn leave(self) -> Outcome<()> {
        self.client.batch_execute("COMMIT").await.map_err(|error| fault(&error))
    }
}

/// The rows of one range, on their way.
pub struct Blocks {
    stream: Pin<Box<CopyOutStream>>,
    ended: bool,
}

impl Blocks {
    /// The next block of whole rows; `None` after the last.
    pub async fn next(&mut self) -> Outcome<Option<Bytes>> {
        let mut block = BytesMut::new();
        while !self.ended && block.len() < BLOCK_BYTES {
            match self.stream.next().await {
                // A row as large as a block goes on as it is.
                Some(Ok(bytes)) if block.is_empty() && bytes.len() >= BLOCK_BYTES => return Ok(Some(bytes)),
                Some(Ok(bytes)) => block.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(fault(&error)),
                None => self.ended = true,
            }
        }
        Ok((!block.is_empty()).then(|| block.freeze()))
    }
}

/// Parses a block of whole rows. Rows without a backslash share the block.
pub fn parse_rows(block: &Bytes, columns: usize) -> Outcome<Vec<Image>> {
    let mut rows = Vec::new();
    let mut start = 0;
    while start < block.len() {
        let end = block[start..].iter().position(|byte| *byte == b'\n').map(|at| start + at).ok_or_else(malformed)?;
        rows.push(parse_row(block.slice(start..end), columns)?);
        start = end + 1;
    }
    Ok(rows)
}

fn parse_row(row: Bytes, columns: usize) -> Outcome<Image> {
    let mut cells = Vec::with_capacity(columns);
    let mut unescaped = row.contains(&b'\\').then(|| Vec::with_capacity(row.len()));
    let mut start = 0;
    // The one row of a table without columns, and of a single column, has no tab.
    for field in row.split(|byte| *byte == b'\t').take(if columns == 0 { 0 } else { usize::MAX }) {
        let cell = match (&mut unescaped, field) {
            (_, b"\\N") => Cell::Null,
            (None, _) => Cell::Text { start, length: offset(field.len())? },
            (Some(frame), _) => {
                let at = offset(frame.len())?;
                unescape(field, frame)?;
                Cell::Text { start: at, length: offset(frame.len())? - at }
            }
        };
        start += offset(field.len())? + 1;
        cells.push(cell);
    }
    match cells.len() == columns {
        true => Ok(Image::new(unescaped.map_or(row, Bytes::from), cells.into())),
        false => Err(malformed()),
    }
}

fn unescape(field: &[u8], out: &mut Vec<u8>) -> Outcome<()> {
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'v') => 11,
                Some(b'f') => 12,
                Some(b'r') => b'\r',
                // The server writes no octal or hexadecimal form; any other letter stands for itself.
                Some(other) if !other.is_ascii_digit() && *other != b'x' => *other,
                _ => return Err(malformed()),
            },
            other => *other,
        });
    }
    Ok(())
}

fn offset(length: usize) -> Outcome<u32> {
    u32::try_from(length).map_err(|_| malformed())
}

/// Bounds that cut a table into parts of about `chunk_bytes`: texts of the key's columns, ascending and distinct.
///
/// Any bounds are right, only not equally good: every row lies between two of them. So a sample is enough.
pub async fn bounds(
    client: &Client,
    table: &TableName,
    key: &[KeyColumn],
    size_bytes: u64,
    chunk_bytes: u64,
) -> Outcome<Vec<Vec<String>>> {
    let parts = size_bytes.div_ceil(chunk_bytes.max(1)).min(10_000);
    if key.is_empty() || size_bytes < SMALL_BYTES || parts < 2 {
        return Ok(Vec::new());
    }
    // Some pages a part: their rows spread over the key unless the table is ordered by it, and then the pages are.
    let pages = (size_bytes / 8192).max(1);
    let percent = (parts as f64 * 16.0 * 100.0 / pages as f64).clamp(0.01, 100.0);
    let sample = format!("{} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)", table.sql());
    let mut keys = sorted_keys(client, &sample, key).await?;
    if (keys.len() as u64) < parts * 4 {
        keys = even_keys(client, table, key, parts).await?;
    }
    let (count, parts) = (keys.len(), parts as usize);
    let mut bounds: Vec<Vec<String>> = (1..parts).filter_map(|part| keys.get(part * count / parts).cloned()).collect();
    bounds.dedup();
    Ok(bounds)
}

fn texts(key: &[KeyColumn]) -> String {
    key.iter().map(|column| format!("{}::text", quote_name(&column.name))).collect::<Vec<_>>().join(", ")
}

async fn sorted_keys(client: &Client, from: &str, key: &[KeyColumn]) -> Outcome<Vec<Vec<String>>> {
    let names = quote_names(key.iter().map(|column| column.name.as_str()));
    let inner = format!("SELECT {names} FROM {from} ORDER BY {names}");
    read_keys(client, &format!("SELECT {} FROM ({inner}) AS sample", texts(key)), key.len()).await
}

/// Walks the whole key: right for few rows in many pages, where a sample finds too little.
async fn even_keys(client: &Client, table: &TableName, key: &[KeyColumn], parts: u64) -> Outcome<Vec<Vec<String>>> {
    let names = quote_names(key.iter().map(|column| column.name.as_str()));
    let cut =
        format!("SELECT {names}, ntile({}) OVER (ORDER BY {names}) AS \"part of 9\" FROM {}", parts * 4, table.sql());
    let first =
        format!("SELECT DISTINCT ON (\"part of 9\") {names} FROM ({cut}) AS cut ORDER BY \"part of 9\", {names}");
    read_keys(client, &format!("SELECT {} FROM ({first}) AS first", texts(key)), key.len()).await
}

async fn read_keys(client: &Client, query: &str, columns: usize) -> Outcome<Vec<Vec<String>>> {
    let rows = client.query(query, &[]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| (0..columns).map(|column| row.get(column)).collect()).collect())
}

fn malformed() -> Problem {
    Problem::retry(Blame::Source, "COPY_MALFORMED", "the source sent a copied row that is not in COPY's text form")
}

fn fault(error: &Error) -> Problem {
    // The server's text may repeat row values; its state does not.
    match error.code().map(|state| state.code()) {
        None => Problem::retry(Blame::Source, "SOURCE_LOST", "the connection to the source is lost"),
        Some("42501") => Problem::refuse(Blame::Source, "SOURCE_RIGHTS", "the role may not read a table of the source")
            .remedy("run `falkirk check` for the missing GRANT"),
        Some(state) if state.starts_with("42") => Problem::refuse(
            Blame::Source,
            "SOURCE_SCHEMA",
            format!("the source's tables are not as planned (sqlstate {state})"),
        ),
        Some(state) => {
            Problem::retry(Blame::Source, "SOURCE_BUSY", format!("reading the source failed (sqlstate {state})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[&str]) -> Vec<KeyColumn> {
        names.iter().map(|name| KeyColumn { name: (*name).into(), type_sql: "integer".into() }).collect()
    }

    #[test]
    fn l5_ranges_compare_whole_keys_and_quote_what_they_are_given() {
        let table = TableName::new("public", "t");
        let (low, high) = (vec!["1".to_owned(), "it's".to_owned()], vec!["2".to_owned(), "x".to_owned()]);
        assert_eq!(
            range_query(&table, &["a", "c"], &key(&["a", "b"]), Some(&low), Some(&high)),
            "SELECT \"a\", \"c\" FROM \"public\".\"t\" WHERE (\"a\", \"b\") >= ('1'::integer, 'it''s'::integer) \
             AND (\"a\", \"b\") < ('2'::integer, 'x'::integer)"
        );
        assert_eq!(range_query(&table, &["a"], &key(&["a"]), None, None), "SELECT \"a\" FROM \"public\".\"t\"");
        assert_eq!(
            keys_query(&table, &["a"], &key(&["a", "b"]), &[low, high]),
            "SELECT \"a\" FROM \"public\".\"t\" WHERE (\"a\", \"b\") IN (('1'::integer, 'it''s'::integer), \
             ('2'::integer, 'x'::integer))"
        );
    }

    #[test]
    fn rows_are_read_as_copy_writes_them() {
        let block = Bytes::from_static(b"1\t\\N\tplain\n2\ta\\tb\\\\N\\n\t\n");
        let rows = parse_rows(&block, 3).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].text(0), rows[0].text(1), rows[0].text(2)), (Some(&b"1"[..]), None, Some(&b"plain"[..])));
        assert_eq!((rows[1].text(1), rows[1].text(2)), (Some(&b"a\tb\\N\n"[..]), Some(&b""[..])));
    }

    #[test]
    fn a_row_with_another_number_of_columns_is_refused() {
        assert!(parse_rows(&Bytes::from_static(b"1\t2\n"), 3).is_err());
        assert!(parse_rows(&Bytes::from_static(b"1\t2"), 2).is_err());
        assert!(parse_rows(&Bytes::from_static(b"a\\"), 1).is_err());
    }
}
