//! Where the link stands, read from both databases: the running host is not asked.

use serde::Serialize;

use crate::apply::checkpoint::{self, Phase};
use crate::apply::chunk;
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::pg::facts;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome};

/// The state of one link. Units stand last in the names.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The migration.
    pub migration: String,
    /// The direction.
    pub link: &'static str,
    /// `not started`, `preparing`, `copying` or `streaming`.
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
}

/// Reads the state.
pub async fn status(settings: &Settings) -> Outcome<Status> {
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "status").await?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "status").await?;
    let now: Lsn = source.one("SELECT pg_current_wal_lsn()").await?.number(0)?;
    let slot = facts::slot(&source, &settings.slot()).await?;
    let mut status = Status {
        migration: settings.name.clone(),
        link: settings.link.name(),
        phase: "not started",
        consistent: false,
        running: slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()),
        host: String::new(),
        checkpoint: None,
        source_position: now.to_string(),
        lag_bytes: 0,
        lag_seconds: 0.0,
        chunks: (0, 0),
        copied_rows: 0,
        transactions: 0,
        inserted_rows: 0,
        updated_rows: 0,
        deleted_rows: 0,
        artifact: String::new(),
        slot: slot.as_ref().map_or("missing".into(), |slot| slot.wal_status.clone().unwrap_or_default()),
        retained_wal_bytes: slot.as_ref().and_then(|slot| slot.retained_bytes).unwrap_or(0),
        problem: None,
        warnings: Vec::new(),
    };
    read_target(settings, &target, now, &mut status).await?;
    warn(settings, &mut status);
    Ok(status)
}

async fn read_target(settings: &Settings, target: &Session, now: Lsn, status: &mut Status) -> Outcome<()> {
    let exists = target.one("SELECT to_regclass('falkirk.checkpoint') IS NOT NULL").await?;
    if !exists.flag(0)? {
        return Ok(());
    }
    let (client, link) = (target.client(), settings.link);
    let Some(checkpoint) = checkpoint::load(client, &settings.name, link).await? else { return Ok(()) };
    let chunks = chunk::list(client, &settings.name, link).await?;
    status.phase = checkpoint.phase.name();
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
    status.artifact = checkpoint.artifact;
    if let (Some(committed_us), true) = (checkpoint.committed_at_us, status.lag_bytes > 0) {
        let age = target
            .one(&format!(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 - 946684800000000 - {committed_us}"
            ))
            .await?;
        status.lag_seconds = age.number::<i64>(0)?.max(0) as f64 / 1e6;
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
