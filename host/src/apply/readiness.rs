//! The report of a link that only watches, kept in its target for `status`.

use tokio_postgres::Client;

use super::fault;
use crate::marker::Link;
use crate::problem::Outcome;

/// Keeps the report.
pub async fn keep(client: &Client, migration: &str, link: Link, report: &serde_json::Value) -> Outcome<()> {
    let upsert = "INSERT INTO falkirk.readiness (migration, link, report) VALUES ($1, $2, $3::text::jsonb) \
        ON CONFLICT (migration, link) DO UPDATE SET at = now(), report = excluded.report";
    client
        .execute(upsert, &[&migration, &link.name(), &report.to_string()])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// Forgets the report: the link applies.
pub async fn forget(client: &Client, migration: &str, link: Link) -> Outcome<()> {
    let delete = "DELETE FROM falkirk.readiness WHERE migration = $1 AND link = $2";
    client.execute(delete, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(())
}
