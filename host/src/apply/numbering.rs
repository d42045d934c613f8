//! The numbering of columns (`plan::numbering`), kept in green for both links of a migration.

use tokio_postgres::Client;

use super::fault;
use crate::plan::numbering::Numbering;
use crate::problem::{Blame, Outcome, Problem};

/// Renumbers in a transaction of its own, one link at a time: from what was kept to a result and what is kept from now
/// on, or to a problem, which leaves it as it was.
pub async fn keep<T>(
    client: &Client,
    migration: &str,
    renumber: impl FnOnce(&Numbering) -> Outcome<(T, Numbering)>,
) -> Outcome<T> {
    client.batch_execute("BEGIN").await.map_err(|error| fault::refused(&error))?;
    let renumbered = renumbered(client, migration, renumber).await;
    let end = if renumbered.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await.map_err(|error| fault::refused(&error));
    // The first fault is the one that says something.
    renumbered.and_then(|result| ended.map(|()| result))
}

async fn renumbered<T>(
    client: &Client,
    migration: &str,
    renumber: impl FnOnce(&Numbering) -> Outcome<(T, Numbering)>,
) -> Outcome<T> {
    let select = "SELECT numbering::text FROM falkirk.migration WHERE name = $1 FOR UPDATE";
    let row = client.query_opt(select, &[&migration]).await.map_err(|error| fault::refused(&error))?;
    let kept = row.and_then(|row| serde_json::from_str(row.get(0)).ok()).ok_or_else(unreadable)?;
    let (result, next) = renumber(&kept)?;
    if next != kept {
        let text = serde_json::to_string(&next).unwrap_or_default();
        let update = "UPDATE falkirk.migration SET numbering = $2::text::jsonb WHERE name = $1";
        client.execute(update, &[&migration, &text]).await.map_err(|error| fault::refused(&error))?;
    }
    Ok(result)
}

fn unreadable() -> Problem {
    let what = "falkirk.migration in green does not say how the columns of both sides are numbered";
    Problem::refuse(Blame::Target, "NUMBERING_UNREADABLE", what)
        .remedy("`falkirk clean`, then `falkirk run` copies anew")
}
