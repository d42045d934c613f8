//! Reads mirrors: rows of the source as the target has them. They are written like any other rows, by the operations of
//! the transaction that they belong to (L2); whoever reads them adds what is on its way (counter-example 4).

use super::fault;
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};

/// A row of a mirror, as it is stored.
#[derive(Clone)]
pub struct Stored {
    /// The source table.
    pub table: TableName,
    /// Its key, a JSON list.
    pub key: String,
    /// The keys that it was written with.
    pub mapped: Vec<Option<String>>,
    /// The mirrored columns.
    pub row: Vec<Option<String>>,
}

/// The mirrors of one link.
pub struct Mirrors {
    session: Session,
    migration: String,
    link: Link,
}

/// Rows are found by their indexes, however few they were when the table was looked at last.
const SESSION: &str = "SET enable_seqscan = off; SET jit = off; SET statement_timeout = 0";

impl Mirrors {
    /// Connects to the target.
    pub async fn connect(target: &Address, migration: &str, link: Link) -> Outcome<Self> {
        let session = Session::connect_blaming(target, Blame::Target, "mirrors").await?;
        session.run(SESSION).await?;
        Ok(Mirrors { session, migration: migration.to_owned(), link })
    }

    /// Rows by their keys.
    pub async fn by_key(&self, table: &TableName, keys: &[String]) -> Outcome<Vec<Stored>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT source_table, key, mapped, \"row\" FROM falkirk.mirror \
            WHERE migration = $1 AND link = $2 AND source_table = $3 AND key = ANY($4)";
        let table = table.to_string();
        let rows = self.session.client().query(sql, &[&self.migration, &self.link.name(), &table, &keys]).await;
        read(rows)
    }

    /// Rows by hashes of what they are found by; some may have other values with the same hash.
    pub async fn by_hash(&self, hashes: &[i64]) -> Outcome<Vec<Stored>> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        // Two steps, so that the planner has no way but the index over the hashes.
        let sql = "WITH found AS MATERIALIZED (SELECT * FROM falkirk.mirror WHERE found_by && $3) \
            SELECT source_table, key, mapped, \"row\" FROM found WHERE migration = $1 AND link = $2";
        let rows = self.session.client().query(sql, &[&self.migration, &self.link.name(), &hashes]).await;
        read(rows)
    }
}

fn read(rows: Result<Vec<tokio_postgres::Row>, tokio_postgres::Error>) -> Outcome<Vec<Stored>> {
    let rows = rows.map_err(|error| fault::refused(&error))?;
    rows.iter().map(|row| stored(row).ok_or_else(unreadable)).collect()
}

fn stored(row: &tokio_postgres::Row) -> Option<Stored> {
    Some(Stored {
        table: row.get::<_, &str>(0).parse().ok()?,
        key: row.get(1),
        mapped: serde_json::from_str(row.get(2)).ok()?,
        row: serde_json::from_str(row.get(3)).ok()?,
    })
}

fn unreadable() -> Problem {
    Problem::refuse(Blame::Target, "MIRROR_UNREADABLE", "a row of falkirk.mirror is not readable")
        .remedy("nobody but the host may write the schema falkirk; `falkirk clean` and copy anew")
}
