//! The `falkirk` schema of a target database: made on the first start, brought up to date on every later one.
//!
//! It must never touch anything outside the schema `falkirk`, and never go back a version.

use tokio_postgres::Client;

use super::fault;
use crate::marker::MigrationId;
use crate::problem::{Blame, Outcome, Problem};

/// The steps from nothing to the present version, each with the version that it makes; each is run once, in order.
const STEPS: &[(usize, &str)] = &[
    (1, include_str!("schema.sql")),
    (2, include_str!("schema_2.sql")),
    (3, include_str!("schema_3.sql")),
    (4, include_str!("schema_4.sql")),
    (5, include_str!("schema_5.sql")),
    (6, include_str!("schema_6.sql")),
    (7, include_str!("schema_7.sql")),
    (8, include_str!("schema_8.sql")),
    (9, include_str!("schema_9.sql")),
    (10, include_str!("schema_10.sql")),
    (11, include_str!("schema_11.sql")),
    (12, include_str!("schema_12.sql")),
];

/// Serializes hosts that start at the same time; any fixed number that nobody else uses.
const LOCK: i64 = 0x66_616c_6b69_726b;

/// Makes the schema or brings it up to date. Two hosts may call it at once.
pub async fn ensure(client: &Client) -> Outcome<()> {
    let run = async {
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        let present = version(client).await?;
        if present > newest() {
            return Ok(Some(present));
        }
        for (number, step) in STEPS.iter().filter(|(number, _)| *number > present) {
            client.batch_execute(step).await?;
            let version = format!("UPDATE falkirk.version SET version = {number}");
            client.batch_execute(&version).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(None)
    };
    let result: Result<Option<usize>, tokio_postgres::Error> = run.await;
    if !matches!(result, Ok(None)) {
        // The first fault is the one that says something.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    match result {
        Ok(None) => Ok(()),
        Ok(Some(present)) => Err(Problem::refuse(
            Blame::Host,
            "SCHEMA_NEWER",
            format!("the falkirk schema of the target has version {present}, this host knows {}", newest()),
        )
        .remedy("run the falkirk version that made it, or a newer one")),
        Err(error) if fault::state(&error) == Some("42501") => Err(Problem::refuse(
            Blame::Target,
            "TARGET_RIGHTS",
            "the role may not make the schema falkirk in the target database",
        )
        .remedy("GRANT CREATE ON DATABASE ... TO the role of the target's url")),
        Err(error) => Err(fault::refused(&error)),
    }
}

/// The version that this host makes.
fn newest() -> usize {
    STEPS.last().map_or(0, |(number, _)| *number)
}

async fn version(client: &Client) -> Result<usize, tokio_postgres::Error> {
    // The catalog is asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create even if there is nothing to do.
    let exists = client.query_one("SELECT to_regclass('falkirk.version') IS NOT NULL", &[]).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = client.query_one("SELECT version FROM falkirk.version", &[]).await?;
    Ok(usize::try_from(row.get::<_, i32>(0)).unwrap_or(0))
}

/// The migration's secret id in this database; made if it has none.
pub async fn migration_id(client: &Client, name: &str) -> Outcome<MigrationId> {
    let insert = "INSERT INTO falkirk.migration (name) VALUES ($1) ON CONFLICT DO NOTHING";
    client.execute(insert, &[&name]).await.map_err(|error| fault::refused(&error))?;
    match known_migration_id(client, name).await? {
        Some(id) => Ok(id),
        None => Err(Problem::retry(Blame::Target, "TARGET_BUSY", "the migration's row went away while it was made")),
    }
}

/// The migration's secret id in this database, if it has one.
pub async fn known_migration_id(client: &Client, name: &str) -> Outcome<Option<MigrationId>> {
    let select = "SELECT uuid_send(id) FROM falkirk.migration WHERE name = $1";
    let row = client.query_opt(select, &[&name]).await.map_err(|error| fault::refused(&error))?;
    Ok(row.and_then(|row| row.get::<_, Vec<u8>>(0).try_into().ok().map(MigrationId)))
}

/// Gives the migration the id that it has in the other database: both links sign with the same one (L7).
pub async fn adopt_migration_id(client: &Client, name: &str, id: MigrationId) -> Outcome<()> {
    let insert = "INSERT INTO falkirk.migration (name, id) VALUES ($1, encode($2, 'hex')::uuid) ON CONFLICT DO NOTHING";
    client.execute(insert, &[&name, &id.0.as_slice()]).await.map_err(|error| fault::refused(&error))?;
    match known_migration_id(client, name).await? {
        Some(known) if known == id => Ok(()),
        _ => Err(Problem::refuse(
            Blame::Config,
            "MIGRATION_ID",
            format!("migration {name} has another id in each of the two databases: they belong to different runs"),
        )
        .remedy("choose another migration name, or `falkirk clean` the stale run")),
    }
}
