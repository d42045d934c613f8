//! What a link has to know of the records of conflicts when it starts: what operators have decided, which rows wait for
//! others, and which were kept for those that refer to them.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::fault;
use crate::lsn::Lsn;
use crate::marker::{Link, RowDigest};
use crate::problem::Outcome;

/// A conflict that an operator has decided.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The row in the link's target.
    pub row: RowDigest,
    /// The source row as the other link knows it.
    pub source_row: Option<RowDigest>,
    /// The commit position of the change in the source.
    pub position: Lsn,
    /// Where the target stood when it was decided; `None` where nothing hangs on it.
    pub target_position: Option<Lsn>,
    /// Whether blue's word was taken.
    pub takes_blue: bool,
}

/// A row that waits for another one.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    /// The row in the link's target.
    pub row: RowDigest,
    /// Its table, as messages write it.
    pub table: String,
    /// The columns that it is to have, by name.
    pub values: serde_json::Map<String, serde_json::Value>,
    /// Its key, by column.
    pub key: serde_json::Map<String, serde_json::Value>,
    /// Whether the row was there, with other values.
    pub there: bool,
    /// The commit position of the change that could not be written.
    pub position: Lsn,
    /// An operator has decided: the change need not be written.
    pub decided: bool,
}

/// A row of the target that the source deleted, and that rows of the target's own refer to.
#[derive(Clone, Debug)]
pub struct KeptRow {
    /// The row in the link's target.
    pub row: RowDigest,
    /// Its table, as messages write it.
    pub table: String,
    /// Its key, by column.
    pub key: serde_json::Map<String, serde_json::Value>,
    /// It has not been sent back to the source yet.
    pub is_open: bool,
}

fn digest(bytes: Option<Vec<u8>>) -> Option<RowDigest> {
    bytes?.try_into().ok().map(u128::from_be_bytes)
}

/// The kinds of records of rows that wait (counter-example 35), as SQL: a unique value stands under two keys, or the row
/// refers to one that is not there.
pub const PARKED: &str = "('unique', 'parent')";

/// What records of kept rows are, as SQL: a deletion that rows were in the way of.
pub const KEPT: &str = "(kind = 'delete' AND held_by IS NOT NULL)";

/// What operators have decided of a link's conflicts.
pub async fn resolutions(client: &Client, migration: &str, link: Link) -> Outcome<Vec<Resolution>> {
    let select = format!(
        "SELECT key_digest, source_digest, position, resolved_position, taken = 'blue' FROM falkirk.conflict \
         WHERE migration = $1 AND link = $2 AND state = 'resolved' AND kind NOT IN {PARKED} AND taken IS NOT NULL ORDER BY id"
    );
    let rows = client.query(&select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let read = |row: &tokio_postgres::Row| {
        Some(Resolution {
            row: digest(row.get(0))?,
            source_row: digest(row.get(1)),
            position: Lsn(u64::from(row.get::<_, PgLsn>(2))),
            target_position: row.get::<_, Option<PgLsn>>(3).map(|position| Lsn(u64::from(position))),
            takes_blue: row.get(4),
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The rows that wait.
pub async fn parked(client: &Client, migration: &str, link: Link) -> Outcome<Vec<ParkedRow>> {
    let select = format!(
        "SELECT key_digest, target_table, lost::text, kept IS NOT NULL, position, taken IS NOT NULL, \
         (SELECT jsonb_object_agg(e.key, e.value)::text FROM jsonb_each_text(c.key) AS e) \
         FROM falkirk.conflict AS c WHERE migration = $1 AND link = $2 AND state = 'open' AND kind IN {PARKED} ORDER BY id"
    );
    let rows = client.query(&select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let read = |row: &tokio_postgres::Row| {
        Some(ParkedRow {
            row: digest(row.get(0))?,
            table: row.get(1),
            values: serde_json::from_str(row.get::<_, Option<&str>>(2)?).ok()?,
            there: row.get(3),
            position: Lsn(u64::from(row.get::<_, PgLsn>(4))),
            decided: row.get(5),
            key: serde_json::from_str(row.get::<_, Option<&str>>(6)?).ok()?,
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The rows that were kept.
pub async fn kept(client: &Client, migration: &str, link: Link) -> Outcome<Vec<KeptRow>> {
    let select = format!(
        "SELECT key_digest, target_table, (SELECT jsonb_object_agg(e.key, e.value)::text FROM jsonb_each_text(c.key) AS e), \
         state = 'open' FROM falkirk.conflict AS c WHERE migration = $1 AND link = $2 AND {KEPT} ORDER BY id"
    );
    let rows = client.query(&select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let read = |row: &tokio_postgres::Row| {
        let key = row.get::<_, Option<&str>>(2).and_then(|key| serde_json::from_str(key).ok()).unwrap_or_default();
        Some(KeptRow { row: digest(row.get(0))?, table: row.get(1), key, is_open: row.get(3) })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The rows of the source, as the other link knows them, that were deleted there and kept on the target.
pub async fn kept_for(client: &Client, migration: &str, link: Link) -> Outcome<Vec<RowDigest>> {
    let select =
        format!("SELECT source_digest FROM falkirk.conflict WHERE migration = $1 AND link = $2 AND {KEPT} ORDER BY id");
    let rows = client.query(&select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(rows.iter().filter_map(|row| digest(row.get(0))).collect())
}

/// A row that an open conflict is about.
#[derive(Clone, Copy, Debug)]
pub struct WaitingRow {
    /// The row in the link's target, or another one that may stand for its record.
    pub target: Option<RowDigest>,
    /// The source row, as the other link knows it.
    pub source: Option<RowDigest>,
}

/// The rows that open conflicts are about.
pub async fn waiting(client: &Client, migration: &str, link: Link) -> Outcome<Vec<WaitingRow>> {
    // Records that an older version has made know of no other rows.
    let select = "SELECT key_digest, source_digest FROM falkirk.conflict AS c \
         WHERE migration = $1 AND link = $2 AND state = 'open' \
         UNION ALL SELECT decode(r ->> 'digest', 'hex'), NULL FROM falkirk.conflict AS c, \
         jsonb_array_elements(coalesce(nullif(to_jsonb(c) -> 'record', 'null'), '[]')) AS r \
         WHERE migration = $1 AND link = $2 AND state = 'open'";
    let rows = client.query(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let read = |row: &tokio_postgres::Row| WaitingRow { target: digest(row.get(0)), source: digest(row.get(1)) };
    Ok(rows.iter().map(read).collect())
}

/// Erases keys and values of rows from records that have been decided or resolved for so many days: what is left says that
/// there was a conflict in a row with that digest, and how it ended. How many records that were.
pub async fn erase_values(client: &Client, migration: &str, link: Link, days: u32) -> Outcome<u64> {
    // An empty object is left in the place of one: that the row was there is no value of it.
    let update = "UPDATE falkirk.conflict SET erased_at = now(), key = '{}', source_key = NULL, held_by = NULL, record = NULL, \
         lost = CASE WHEN lost IS NOT NULL THEN '{}'::jsonb END, kept = CASE WHEN kept IS NOT NULL THEN '{}'::jsonb END \
         WHERE migration = $1 AND link = $2 AND state <> 'open' AND erased_at IS NULL \
         AND coalesce(resolved_at, at) < now() - make_interval(days => $3)";
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    client.execute(update, &[&migration, &link.name(), &days]).await.map_err(|error| fault::refused(&error))
}
