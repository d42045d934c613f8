//! Where the links stand, read from both databases: the running host is not asked. Keys of rows are shown only to those
//! who ask for them.

use serde::{Deserialize, Serialize};

use crate::apply::checkpoint::{self, Phase};
use crate::apply::chunk;
use crate::config::Settings;
use crate::link::{commanded, returned};
use crate::lsn::Lsn;
use crate::marker::row_digest;
use crate::names::{TableName, quote_text};
use crate::pg::facts;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome};
use crate::sequences::{self, Shown};

/// The state of one link. Units stand last in the names.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// The migration.
    pub migration: String,
    /// The direction.
    pub link: &'static str,
    /// Whether it writes its target, or only watches its source.
    pub applies: bool,
    /// `not started`, `preparing`, `copying`, `streaming` or `watching`.
    pub phase: &'static str,
    /// Whether a reader of the target may see half of what the source holds: true until the copy has ended (L4).
    pub consistent: bool,
    /// Whether a host reads the slot now.
    pub running: bool,
    /// The host that held the link last.
    pub host: String,
    /// Everything before it is durably in the target.
    pub checkpoint: Option<String>,
    /// Where the source stands.
    pub source_position: String,
    /// Log between the two.
    pub lag_bytes: u64,
    /// Age of the checkpoint's last source commit, if there is log that is not applied.
    pub lag_seconds: f64,
    /// Chunks of the copy: finished and all.
    pub chunks: (usize, usize),
    /// Rows written by the copy.
    pub copied_rows: i64,
    /// Source transactions applied.
    pub transactions: i64,
    /// Rows inserted by the stream.
    pub inserted_rows: i64,
    /// Rows updated by the stream.
    pub updated_rows: i64,
    /// Rows deleted by the stream.
    pub deleted_rows: i64,
    /// Changes of which the other side had made the same.
    pub agreements: i64,
    /// Changes that were not written because of what the other side had done.
    pub conflicts: Conflicts,
    /// The artifact that wrote last.
    pub artifact: String,
    /// The state of the slot's log: `reserved`, `extended`, `unreserved`, `lost`; `missing` without a slot.
    pub slot: String,
    /// Log that the source keeps for the slot.
    pub retained_wal_bytes: u64,
    /// What ended the link last, if it has not run since.
    pub problem: Option<String>,
    /// What should be looked at.
    pub warnings: Vec<String>,
    /// For a link that watches: what it has seen of its source's own changes, and whether its target could hold them.
    pub readiness: Option<Readiness>,
    /// The sequences that are kept apart, of both sides; only beside the link that copies.
    pub sequences: Vec<Shown>,
    /// The other link, if there is one.
    pub other: Option<Box<Status>>,
}

/// Conflicts by state; `falkirk conflicts list` names them.
#[derive(Debug, Default, Serialize)]
pub struct Conflicts {
    /// By the policy.
    pub decided: i64,
    /// By nobody yet.
    pub open: i64,
    /// By an operator, or by the application itself.
    pub resolved: i64,
}

/// What a link that watches has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// When it was noted.
    #[serde(default)]
    pub at: String,
    /// The commit position of the first change of the source's own.
    pub since: Option<String>,
    /// Its transactions since then; all of them wait for the link to apply.
    pub transactions: u64,
    /// Table by table.
    pub tables: Vec<WatchedTable>,
}

/// What the source's own application has changed in one table.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchedTable {
    /// The table.
    pub table: TableName,
    /// Its changes.
    pub changes: u64,
    /// Rows that were led through the transform and held against the target as it stands.
    pub tried_rows: u64,
    /// Rows that could not be tried.
    pub skipped_rows: u64,
    /// Rows that the target could not hold.
    pub unfit_rows: u64,
    /// Why not.
    pub unfit: Vec<UnfitRows>,
}

/// Rows that the target could not hold for one reason.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnfitRows {
    /// `NOT_NULL`, `VALUE`, `TOO_LONG`, `UNIQUE`, `FOREIGN_KEY`, or the code that the transform's fault has.
    pub reason: String,
    /// The column or constraint.
    pub name: String,
    /// How many.
    pub rows: u64,
    /// Some of them: digests, or keys if they were asked for.
    pub keys: Vec<serde_json::Value>,
}

/// Reads the state of the links: the one that copies, with the other one in it. `values`: keys of rows as they are.
pub async fn status(settings: &Settings, values: bool) -> Outcome<Status> {
    let origin = settings.origin();
    let mut status = link_status(&settings.seen_from(origin), values).await?;
    status.warnings.extend(commanded::recorded(settings).await?.as_ref().map(commanded::text));
    if settings.two_way() {
        status.other = Some(Box::new(link_status(&settings.seen_from(origin.other()), values).await?));
        status.sequences = sequences::shown(settings).await?;
        status.warnings.extend(status.sequences.iter().filter_map(|shown| shown.warning.clone()));
    }
    Ok(status)
}

async fn link_status(settings: &Settings, values: bool) -> Outcome<Status> {
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "status").await?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "status").await?;
    let now: Lsn = source.one("SELECT pg_current_wal_lsn()").await?.number(0)?;
    let slot = facts::slot(&source, &settings.slot()).await?;
    let mut status = Status {
        migration: settings.name.clone(),
        link: settings.link.name(),
        applies: settings.applies(settings.link),
        phase: "not started",
        running: slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()),
        source_position: now.to_string(),
        slot: slot.as_ref().map_or("missing".into(), |slot| slot.wal_status.clone().unwrap_or_default()),
        retained_wal_bytes: slot.as_ref().and_then(|slot| slot.retained_bytes).unwrap_or(0),
        ..Status::default()
    };
    read_target(settings, &target, now, &mut status).await?;
    if status.checkpoint.is_some() {
        status.conflicts = conflicts(settings, &target).await?;
    }
    if status.phase == "watching" {
        status.readiness = readiness(settings, &target, values).await?;
    }
    warn(settings, &mut status);
    Ok(status)
}

async fn conflicts(settings: &Settings, target: &Session) -> Outcome<Conflicts> {
    let mut conflicts = Conflicts::default();
    let counted = format!(
        "SELECT state, count(*) FROM falkirk.conflict WHERE migration = {} AND link = '{}' GROUP BY state",
        quote_text(&settings.name),
        settings.link
    );
    for row in target.rows(&counted).await? {
        let count = row.number(1)?;
        match row.get(0) {
            Some("decided") => conflicts.decided = count,
            Some("open") => conflicts.open = count,
            _ => conflicts.resolved = count,
        }
    }
    Ok(conflicts)
}

async fn readiness(settings: &Settings, target: &Session, values: bool) -> Outcome<Option<Readiness>> {
    // A host of an older version kept none.
    if !target.one("SELECT to_regclass('falkirk.readiness') IS NOT NULL").await?.flag(0)? {
        return Ok(None);
    }
    let kept = format!(
        "SELECT report::text, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM falkirk.readiness \
         WHERE migration = {} AND link = '{}'",
        quote_text(&settings.name),
        settings.link
    );
    let rows = target.rows(&kept).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut readiness: Readiness = row.json(0)?;
    readiness.at = row.text(1)?;
    if !values {
        for WatchedTable { table, unfit, .. } in &mut readiness.tables {
            unfit.iter_mut().flat_map(|unfit| &mut unfit.keys).for_each(|key| *key = hidden(table, key).into());
        }
    }
    Ok(Some(readiness))
}

/// The beginning of the digest by which a row is known everywhere.
fn hidden(table: &TableName, key: &serde_json::Value) -> String {
    let parts = key.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
    format!("#{:08x}", row_digest(table, parts.map(str::as_bytes)) >> 96)
}

async fn read_target(settings: &Settings, target: &Session, now: Lsn, status: &mut Status) -> Outcome<()> {
    let exists = target.one("SELECT to_regclass('falkirk.checkpoint') IS NOT NULL").await?;
    if !exists.flag(0)? {
        return Ok(());
    }
    let (client, link) = (target.client(), settings.link);
    let Some(checkpoint) = checkpoint::load(client, &settings.name, link).await? else { return Ok(()) };
    let chunks = chunk::list(client, &settings.name, link).await?;
    status.phase = match (checkpoint.phase, status.applies) {
        (Phase::Streaming, false) => "watching",
        (phase, _) => phase.name(),
    };
    status.consistent = checkpoint.phase == Phase::Streaming;
    status.host = checkpoint.host;
    status.checkpoint = Some(checkpoint.position.to_string());
    status.lag_bytes = now.bytes_since(checkpoint.position);
    status.chunks = (chunks.iter().filter(|chunk| chunk.finished).count(), chunks.len());
    status.copied_rows = chunks.iter().filter_map(|chunk| chunk.rows).sum();
    let counters = checkpoint.counters;
    status.transactions = counters.transactions;
    status.inserted_rows = counters.inserted;
    status.updated_rows = counters.updated;
    status.deleted_rows = counters.deleted;
    status.agreements = counters.agreements;
    status.artifact = checkpoint.artifact;
    if let (Some(committed_us), true) = (checkpoint.committed_at_us, status.lag_bytes > 0) {
        let age = target
            .one(&format!(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 - 946684800000000 - {committed_us}"
            ))
            .await?;
        status.lag_seconds = age.number::<i64>(0)?.max(0) as f64 / 1e6;
    }
    // A host of an older version kept no history.
    if target.one("SELECT to_regclass('falkirk.history') IS NOT NULL").await?.flag(0)? {
        let newest = checkpoint::newest_revision(client, &settings.name, link).await?;
        status.warnings.extend(newest.and_then(|newest| returned(link, &newest)));
    }
    status.problem = checkpoint::last_problem(client, &settings.name, link).await?.map(|(_, _, text)| text);
    Ok(())
}

fn warn(settings: &Settings, status: &mut Status) {
    if status.retained_wal_bytes >= settings.retained_wal_warn_bytes {
        status.warnings.push(format!(
            "the source keeps {} MiB of log for the slot: let the host run, or `falkirk clean` if the migration is over",
            status.retained_wal_bytes >> 20
        ));
    }
    if let Some(readiness) = status.readiness.as_ref().filter(|readiness| readiness.since.is_some()) {
        let tables = readiness.tables.iter().map(|table| format!("{} {}", table.table, table.changes));
        let (source, target) = (settings.source_name(), settings.target_name());
        status.warnings.push(format!(
            "a second writer: {source} has changes of its own that do not reach {target} ({}); they wait for direction = \
             \"both\" or \"{}\"",
            tables.collect::<Vec<_>>().join(", "),
            settings.link
        ));
    }
    if status.conflicts.open > 0 {
        status.warnings.push(format!(
            "{} conflicts are open on {}: `falkirk conflicts list --state open`",
            status.conflicts.open,
            settings.target_name()
        ));
    }
    match status.slot.as_str() {
        "unreserved" => {
            status.warnings.push("the slot is about to lose log that the link needs: let the host run now".into())
        }
        "lost" => status
            .warnings
            .push("the slot has lost log that the link needs: `falkirk clean`, then `falkirk run` copies anew".into()),
        "missing" if status.phase != "not started" && status.phase != "preparing" => {
            status.warnings.push("the slot is gone: `falkirk clean`, then `falkirk run` copies anew".into());
        }
        _ => {}
    }
}
