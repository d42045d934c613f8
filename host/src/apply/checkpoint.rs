//! The checkpoint of a link: the source position up to which it has durably written its target, and what belongs to it.
//!
//! Only the writer advances it, inside the transaction that holds the rows (L2). What stands here is everything around:
//! making it, reading it, taking it over, and the records beside it. The epoch fences a second host off.

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::fault;
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::names::TableName;
use crate::problem::{Blame, Outcome, Problem};

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Slot and publication are being made.
    Preparing,
    /// Existing rows are being copied.
    Copying,
    /// Changes are applied; what the source had before the slot was made is yet to be compared (`link::way`).
    Reopening,
    /// Changes are applied.
    Streaming,
}

impl Phase {
    /// The word that stands for it in tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Preparing => "preparing",
            Phase::Copying => "copying",
            Phase::Reopening => "reopening",
            Phase::Streaming => "streaming",
        }
    }

    fn of(name: &str) -> Phase {
        match name {
            "streaming" => Phase::Streaming,
            "copying" => Phase::Copying,
            "reopening" => Phase::Reopening,
            _ => Phase::Preparing,
        }
    }
}

/// Rows and transactions that a link has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Source transactions.
    pub transactions: i64,
    /// Rows inserted by the stream.
    pub inserted: i64,
    /// Rows updated.
    pub updated: i64,
    /// Rows deleted.
    pub deleted: i64,
    /// Rows written by the copy; known once it has ended.
    pub copied: i64,
    /// Changes that the other side had made as well: nothing was left to write.
    pub agreements: i64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, more: Counters) {
        self.transactions += more.transactions;
        self.inserted += more.inserted;
        self.updated += more.updated;
        self.deleted += more.deleted;
        self.copied += more.copied;
        self.agreements += more.agreements;
    }
}

/// Which source a checkpoint belongs to: a position means nothing in another one (pitfalls 60, 66, 67).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// `pg_control_system().system_identifier`.
    pub system_id: String,
    /// The timeline.
    pub timeline: i32,
    /// The database's name.
    pub database: String,
    /// The slot's name.
    pub slot: String,
    /// The slot's consistent point: tells one generation of a slot from the next.
    pub slot_created_at: Lsn,
}

/// A link's checkpoint row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts hosts that took the link over.
    pub epoch: i64,
    /// Everything before it is durably in the target.
    pub position: Lsn,
    /// When the last source transaction was committed, microseconds since 2000-01-01 UTC.
    pub committed_at_us: Option<i64>,
    /// The source.
    pub source: SourceIdentity,
    /// Where the link stands.
    pub phase: Phase,
    /// The artifact that wrote last, as text.
    pub artifact: String,
    /// The host that took it over last.
    pub host: String,
    /// What was written.
    pub counters: Counters,
    /// When the row was written last, microseconds since 2000-01-01 UTC.
    pub updated_at_us: i64,
    /// The position of the other link's last marker that this link had read at `position`.
    pub context: Lsn,
}

const SELECT: &str = "SELECT epoch, position, \
    (extract(epoch FROM committed_at) * 1000000)::int8 - 946684800000000, \
    source_system_id, source_timeline, source_database, slot, slot_created_at, phase, artifact, host, \
    transactions, inserted, updated, deleted, copied, \
    (extract(epoch FROM updated_at) * 1000000)::int8 - 946684800000000, context, \
    coalesce((to_jsonb(checkpoint) ->> 'agreements')::int8, 0) \
    FROM falkirk.checkpoint WHERE migration = $1 AND link = $2";

fn read(row: &Row) -> Checkpoint {
    let lsn = |column: usize| Lsn(u64::from(row.get::<_, PgLsn>(column)));
    Checkpoint {
        epoch: row.get(0),
        position: lsn(1),
        committed_at_us: row.get(2),
        source: SourceIdentity {
            system_id: row.get(3),
            timeline: row.get(4),
            database: row.get(5),
            slot: row.get(6),
            slot_created_at: lsn(7),
        },
        phase: Phase::of(row.get(8)),
        artifact: row.get(9),
        host: row.get(10),
        counters: Counters {
            transactions: row.get(11),
            inserted: row.get(12),
            updated: row.get(13),
            deleted: row.get(14),
            copied: row.get(15),
            agreements: row.get(18),
        },
        updated_at_us: row.get(16),
        context: lsn(17),
    }
}

/// Makes a link's checkpoint at `position`. Does nothing if there is one already: the caller loads it anyway.
pub async fn create(
    client: &Client,
    migration: &str,
    link: Link,
    position: Lsn,
    source: &SourceIdentity,
    artifact: &str,
) -> Outcome<()> {
    let insert = "INSERT INTO falkirk.checkpoint (migration, link, position, source_system_id, source_timeline, \
        source_database, slot, slot_created_at, phase, artifact, host) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'preparing', $9, '') ON CONFLICT DO NOTHING";
    client
        .execute(
            insert,
            &[
                &migration,
                &link.name(),
                &PgLsn::from(position.0),
                &source.system_id,
                &source.timeline,
                &source.database,
                &source.slot,
                &PgLsn::from(source.slot_created_at.0),
                &artifact,
            ],
        )
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// A link's checkpoint, if it has one.
pub async fn load(client: &Client, migration: &str, link: Link) -> Outcome<Option<Checkpoint>> {
    let row = client.query_opt(SELECT, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(row.as_ref().map(read))
}

/// Takes the link over: the new epoch, durably written before this returns. From then on an older host writes nothing.
pub async fn bump_epoch(client: &Client, migration: &str, link: Link, host: &str) -> Outcome<i64> {
    let update = "UPDATE falkirk.checkpoint SET epoch = epoch + 1, host = $3, updated_at = now() \
        WHERE migration = $1 AND link = $2 RETURNING epoch";
    let row =
        client.query_opt(update, &[&migration, &link.name(), &host]).await.map_err(|error| fault::refused(&error))?;
    row.map(|row| row.get(0)).ok_or_else(|| missing(migration, link))
}

/// Brings the link to another phase, if this host still holds it. At the end of the copy its rows are counted.
pub async fn set_phase(client: &Client, migration: &str, link: Link, epoch: i64, phase: Phase) -> Outcome<()> {
    let update = "UPDATE falkirk.checkpoint SET phase = $4, updated_at = now(), copied = coalesce((SELECT sum(rows)::int8 \
        FROM falkirk.chunk WHERE chunk.migration = $1 AND chunk.link = $2), copied) \
        WHERE migration = $1 AND link = $2 AND epoch = $3";
    let count = client
        .execute(update, &[&migration, &link.name(), &epoch, &phase.name()])
        .await
        .map_err(|error| fault::refused(&error))?;
    match count {
        1 => Ok(()),
        _ => Err(lost_hold(client, migration, link, epoch, None).await),
    }
}

/// Why a compare-and-set on (epoch, position) hit no row: reads the row again to tell the cases apart.
pub async fn lost_hold(client: &Client, migration: &str, link: Link, epoch: i64, position: Option<Lsn>) -> Problem {
    match load(client, migration, link).await {
        Err(problem) => problem,
        Ok(None) => missing(migration, link),
        Ok(Some(now)) if now.epoch != epoch => Problem::refuse(
            Blame::Host,
            "FENCED",
            format!(
                "another host ({}) holds link {link} of {migration}: epoch {} after ours, {epoch}",
                now.host, now.epoch
            ),
        )
        .remedy("nothing was written; end this host, or the other one"),
        Ok(Some(now)) => Problem::stop(
            Blame::Target,
            "CHECKPOINT_MOVED",
            format!(
                "the checkpoint of link {link} of {migration} stands at {}, not where this host left it{}",
                now.position,
                position.map(|position| format!(" ({position})")).unwrap_or_default()
            ),
        )
        .position(now.position)
        .remedy(
            "nobody but the host may write falkirk.checkpoint; find out who did, then compare with `falkirk verify`",
        ),
    }
}

fn missing(migration: &str, link: Link) -> Problem {
    Problem::refuse(Blame::Target, "CHECKPOINT_MISSING", format!("link {link} of {migration} has no checkpoint"))
        .remedy("`falkirk run` makes it on its first start; if it was there before, the target was restored or edited")
}

/// Columns of source tables, by table.
pub type Shapes = Vec<(TableName, serde_json::Value)>;

/// The statement that keeps them: names and columns are two arrays, the parameters `first` and the one behind it.
fn keep_shapes(first: u32) -> String {
    format!(
        "INSERT INTO falkirk.shape (migration, link, source_table, columns) \
         SELECT $1, $2, shape.name, shape.columns::jsonb FROM unnest(${first}::text[], ${}::text[]) AS shape (name, columns) \
         ON CONFLICT (migration, link, source_table) DO UPDATE SET columns = excluded.columns",
        first + 1
    )
}

fn as_arrays(shapes: &Shapes) -> (Vec<String>, Vec<String>) {
    shapes.iter().map(|(table, columns)| (table.to_string(), columns.to_string())).unzip()
}

/// Keeps the columns of source tables as the link knows them.
pub async fn save_shapes(client: &Client, migration: &str, link: Link, shapes: &Shapes) -> Outcome<()> {
    let (names, columns) = as_arrays(shapes);
    client
        .execute(&keep_shapes(3), &[&migration, &link.name(), &names, &columns])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// The columns of all source tables as the link knew them last.
pub async fn load_shapes(client: &Client, migration: &str, link: Link) -> Outcome<Shapes> {
    let select = "SELECT source_table, columns::text FROM falkirk.shape WHERE migration = $1 AND link = $2";
    let rows = client.query(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    rows.iter()
        .map(|row| {
            let (name, columns): (&str, &str) = (row.get(0), row.get(1));
            match (name.parse(), serde_json::from_str(columns)) {
                (Ok(name), Ok(columns)) => Ok((name, columns)),
                _ => Err(Problem::refuse(Blame::Target, "SHAPE_UNREADABLE", "a row of falkirk.shape is not readable")),
            }
        })
        .collect()
}

/// What the history says of a revision at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The artifact, as text.
    pub artifact: String,
    /// The version step, `1 -> 2`; empty without an artifact.
    pub step: String,
    /// What became of it.
    pub outcome: Became,
    /// Why: the code of a problem; empty if there was none.
    pub reason: String,
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// The link started with it.
    Started,
    /// It took over in a running link.
    TookOver,
    /// It did not fit, and never wrote.
    Refused,
    /// It took over, stopped the link at once, and the one before it was taken back.
    TakenBack,
}

impl Became {
    fn name(self) -> &'static str {
        match self {
            Became::Started => "started",
            Became::TookOver => "took over",
            Became::Refused => "refused",
            Became::TakenBack => "taken back",
        }
    }
}

/// Who has written is not unsaid by what came later at the same position.
const NOTE: &str = "INSERT INTO falkirk.history (migration, link, artifact, from_position, step, outcome, reason) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (migration, link, from_position, artifact) DO UPDATE \
    SET at = now(), outcome = excluded.outcome, reason = excluded.reason WHERE excluded.outcome <> 'refused'";

/// Notes what became of a revision at a position (L11). Whoever writes from there on is the newest of the notes that are
/// not of a refusal.
pub async fn record_revision(client: &Client, migration: &str, link: Link, from: Lsn, entry: &Entry) -> Outcome<()> {
    let Entry { artifact, step, outcome, reason } = entry;
    let position = PgLsn::from(from.0);
    client
        .execute(NOTE, &[&migration, &link.name(), artifact, &position, step, &outcome.name(), reason])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// The shape of a table that is no more called so.
const FORGET: &str = "DELETE FROM falkirk.shape WHERE migration = $1 AND link = $2 AND source_table = $10";

/// All that is recorded when another revision takes over in a running link: the note, the shapes that are others from
/// here on, the name that a table has no more, and that there is no problem any more. One statement, because nothing is
/// written meanwhile.
pub async fn record_exchange(
    client: &Client,
    migration: &str,
    link: Link,
    (from, entry): (Lsn, &Entry),
    (shapes, renamed): (&Shapes, Option<&TableName>),
) -> Outcome<()> {
    let statement = format!("WITH mended AS ({CLEAR}), forgotten AS ({FORGET}), shapes AS ({}) {NOTE}", keep_shapes(8));
    let Entry { artifact, step, outcome, reason } = entry;
    let (names, columns) = as_arrays(shapes);
    let (position, renamed) = (PgLsn::from(from.0), renamed.map(ToString::to_string));
    client
        .execute(
            &statement,
            &[&migration, &link.name(), artifact, &position, step, &outcome.name(), reason, &names, &columns, &renamed],
        )
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// The artifacts that the link has written with, newest first.
pub async fn writers(client: &Client, migration: &str, link: Link) -> Outcome<Vec<String>> {
    let select = "SELECT artifact FROM falkirk.history WHERE migration = $1 AND link = $2 AND outcome <> 'refused' \
        GROUP BY artifact ORDER BY max(from_position) DESC, max(at) DESC";
    let rows = client.query(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The revision that the newest note is of, and how that came; refused ones and those that were taken back have no say.
pub struct Newest {
    /// `sha256:` and the digest, or `none`.
    pub artifact: String,
    /// It was put into the running link; otherwise a host started with it.
    pub was_swapped_in: bool,
    /// What the note says besides.
    pub reason: String,
}

/// The newest note of a link's history.
pub async fn newest_revision(client: &Client, migration: &str, link: Link) -> Outcome<Option<Newest>> {
    let select = "SELECT artifact, outcome, reason FROM falkirk.history WHERE migration = $1 AND link = $2 \
        AND outcome NOT IN ('refused', 'taken back') ORDER BY from_position DESC, at DESC LIMIT 1";
    let row = client.query_opt(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let newest = |row: Row| Newest {
        artifact: row.get(0),
        was_swapped_in: row.get::<_, String>(1) == Became::TookOver.name(),
        reason: row.get(2),
    };
    Ok(row.map(newest))
}

/// A revision that was taken back by itself, as the history of a link keeps it.
pub struct TakenBack {
    /// `sha256:` and the digest.
    pub artifact: String,
    /// Where the link had come to.
    pub position: Lsn,
    /// When, in UTC.
    pub at: String,
    /// The code of the problem.
    pub reason: String,
}

/// The last revision that was taken back because it had stopped this link.
pub async fn last_taken_back(client: &Client, migration: &str, link: Link) -> Outcome<Option<TakenBack>> {
    let select = "SELECT artifact, from_position, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), reason \
        FROM falkirk.history WHERE migration = $1 AND link = $2 AND outcome = 'taken back' ORDER BY at DESC LIMIT 1";
    let row = client.query_opt(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    let taken = |row: Row| TakenBack {
        artifact: row.get(0),
        position: Lsn(u64::from(row.get::<_, PgLsn>(1))),
        at: row.get(2),
        reason: row.get(3),
    };
    Ok(row.map(taken))
}

/// Keeps the problem that ended the link, for `status`.
pub async fn record_problem(client: &Client, migration: &str, link: Link, problem: &Problem) -> Outcome<()> {
    let upsert = "INSERT INTO falkirk.problem (migration, link, code, text) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (migration, link) DO UPDATE SET at = now(), code = excluded.code, text = excluded.text";
    client
        .execute(upsert, &[&migration, &link.name(), &problem.code(), &problem.to_string()])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// The problem that ended the link last: when (microseconds since 2000-01-01 UTC), code, text.
pub async fn last_problem(client: &Client, migration: &str, link: Link) -> Outcome<Option<(i64, String, String)>> {
    let select = "SELECT (extract(epoch FROM at) * 1000000)::int8 - 946684800000000, code, text \
        FROM falkirk.problem WHERE migration = $1 AND link = $2";
    let row = client.query_opt(select, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}

const CLEAR: &str = "DELETE FROM falkirk.problem WHERE migration = $1 AND link = $2";

/// Forgets the last problem: the link runs again.
pub async fn clear_problem(client: &Client, migration: &str, link: Link) -> Outcome<()> {
    client.execute(CLEAR, &[&migration, &link.name()]).await.map_err(|error| fault::refused(&error))?;
    Ok(())
}

/// Puts a fresh slot under a link that is being prepared: from here on its consistent point is the checkpoint, and
/// existing rows may be copied (L5).
pub async fn adopt_slot(
    client: &Client,
    migration: &str,
    link: Link,
    epoch: i64,
    consistent_point: Lsn,
    phase: Phase,
) -> Outcome<()> {
    let update = "UPDATE falkirk.checkpoint SET position = $4, slot_created_at = $4, phase = $5, updated_at = now() \
        WHERE migration = $1 AND link = $2 AND epoch = $3 AND phase = 'preparing'";
    let count = client
        .execute(update, &[&migration, &link.name(), &epoch, &PgLsn::from(consistent_point.0), &phase.name()])
        .await
        .map_err(|error| fault::refused(&error))?;
    match count {
        1 => Ok(()),
        _ => Err(lost_hold(client, migration, link, epoch, None).await),
    }
}

/// The notes that a link has kept from `after` on, oldest first.
pub async fn recent(client: &Client, migration: &str, link: Link, after: Lsn) -> Outcome<Vec<Vec<u8>>> {
    let select =
        "SELECT rows FROM falkirk.recent WHERE migration = $1 AND link = $2 AND position >= $3 ORDER BY position";
    let rows = client
        .query(select, &[&migration, &link.name(), &PgLsn::from(after.0)])
        .await
        .map_err(|error| fault::refused(&error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
