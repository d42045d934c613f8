//! What was put in by command, as the database keeps it: which artifacts run in the place of which, and their bytes.
//!
//! Nothing is decided here, and nothing read here is believed: whoever loads bytes holds them against their digest.

use tokio_postgres::{Client, Row};

use super::fault;
use crate::problem::Outcome;

/// What runs in the place of what the configuration names, by sha256 digests in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The files that the configuration named then.
    pub configured: Vec<String>,
    /// What runs, one for each version step, in their order; none: every table is copied as it is.
    pub runs: Vec<String>,
    /// The same of what ran before, if there is something to go back to.
    pub before: Option<Vec<String>>,
}

/// An artifact's file.
pub struct Kept {
    /// Its digest.
    pub digest: String,
    /// Its name.
    pub name: String,
    /// It was brought with its digest.
    pub pinned: bool,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// The record of a migration, if it has one.
pub async fn load(client: &Client, migration: &str) -> Outcome<Option<Record>> {
    // A host of an older version kept none, and before the first start there is nothing.
    let select = "SELECT to_regclass('falkirk.commanded') IS NOT NULL";
    let row = client.query_one(select, &[]).await.map_err(|error| fault::refused(&error))?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    let select = "SELECT configured, runs, before FROM falkirk.commanded WHERE migration = $1";
    let row = client.query_opt(select, &[&migration]).await.map_err(|error| fault::refused(&error))?;
    Ok(row.map(|row: Row| Record { configured: row.get(0), runs: row.get(1), before: row.get(2) }))
}

/// Writes the record, or that there is none. One statement.
pub async fn save(client: &Client, migration: &str, record: Option<&Record>) -> Outcome<()> {
    let done = match record {
        None => client.execute("DELETE FROM falkirk.commanded WHERE migration = $1", &[&migration]).await,
        Some(Record { configured, runs, before }) => {
            let upsert = "INSERT INTO falkirk.commanded (migration, configured, runs, before) VALUES ($1, $2, $3, $4) \
                ON CONFLICT (migration) DO UPDATE SET at = now(), configured = excluded.configured, runs = excluded.runs, \
                before = excluded.before";
            client.execute(upsert, &[&migration, configured, runs, before]).await
        }
    };
    done.map(drop).map_err(|error| fault::refused(&error))
}

/// An artifact's file, if it is kept.
pub async fn artifact(client: &Client, migration: &str, digest: &str) -> Outcome<Option<Kept>> {
    let select = "SELECT digest, name, pinned, bytes FROM falkirk.artifact WHERE migration = $1 AND digest = $2";
    let row = client.query_opt(select, &[&migration, &digest]).await.map_err(|error| fault::refused(&error))?;
    Ok(row.map(|row| Kept { digest: row.get(0), name: row.get(1), pinned: row.get(2), bytes: row.get(3) }))
}

/// Keeps an artifact's file. One that was brought with its digest once stays so.
pub async fn keep(
    client: &Client,
    migration: &str,
    (digest, name, pinned): (&str, &str, bool),
    bytes: &[u8],
) -> Outcome<()> {
    let known = "SELECT FROM falkirk.artifact WHERE migration = $1 AND digest = $2 AND pinned >= $3";
    let known = client.query_opt(known, &[&migration, &digest, &pinned]).await;
    if known.map_err(|error| fault::refused(&error))?.is_some() {
        return Ok(());
    }
    let insert = "INSERT INTO falkirk.artifact (migration, digest, name, pinned, bytes) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT (migration, digest) DO UPDATE SET pinned = true WHERE excluded.pinned AND NOT artifact.pinned";
    let kept = client.execute(insert, &[&migration, &digest, &name, &pinned, &bytes]).await;
    kept.map(drop).map_err(|error| fault::refused(&error))
}

/// Removes the files that the record does not need.
pub async fn tidy(client: &Client, migration: &str) -> Outcome<()> {
    let delete = "DELETE FROM falkirk.artifact WHERE migration = $1 AND digest <> ALL (coalesce(\
        (SELECT runs || coalesce(before, '{}') FROM falkirk.commanded WHERE migration = $1), '{}'))";
    let deleted = client.execute(delete, &[&migration]).await;
    deleted.map(drop).map_err(|error| fault::refused(&error))
}
