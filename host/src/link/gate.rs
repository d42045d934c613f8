//! The gate before every stream: is this the source, the slot and the position that the checkpoint belongs to?
//!
//! `START_REPLICATION` itself does not refuse a position before the slot's own: it skips to it without a word
//! (pitfall 59). So a slot that is ahead of the checkpoint is a gap, and nothing may be written (L1, L3).

use std::time::{Duration, Instant};

use crate::apply::checkpoint::Checkpoint;
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::pg::facts::{self, SlotFacts};
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};
use crate::source::session::ReplicationSession;
use crate::source::stream::ReplicationStream;

use super::setup::current_position;

/// How long a slot may still be read by the host before this one, which the server has not missed yet.
const SLOT_PATIENCE: Duration = Duration::from_secs(20);

const ANEW: &str = "`falkirk clean`, then `falkirk run` copies anew";

fn refuse(code: &'static str, what: impl std::fmt::Display) -> Problem {
    Problem::refuse(Blame::Source, code, what)
}

/// Holds the source and its slot against the checkpoint.
pub(super) async fn pass(settings: &Settings, source: &Session, checkpoint: &Checkpoint) -> Outcome<()> {
    let facts = facts::facts(source).await?;
    let system_id = facts.system_id.unwrap_or_else(|| checkpoint.source.system_id.clone());
    if system_id != checkpoint.source.system_id || facts.database != checkpoint.source.database {
        return Err(refuse(
            "SOURCE_CHANGED",
            "this is another server or database than the one that the checkpoint belongs to",
        )
        .position(checkpoint.position)
        .remedy(format!(
            "correct the address in [{}]; if the source was restored or replaced: {ANEW}",
            settings.source_name()
        )));
    }
    if facts.timeline.is_some_and(|timeline| i64::from(timeline) != i64::from(checkpoint.source.timeline)) {
        return Err(refuse("SOURCE_CHANGED", format!(
            "the source is on timeline {}, the checkpoint on {}: it was promoted or restored, and what the target holds may be missing there",
            facts.timeline.unwrap_or_default(),
            checkpoint.source.timeline
        ))
        .position(checkpoint.position)
        .remedy(ANEW));
    }
    let now = current_position(source).await?;
    if now < checkpoint.position {
        return Err(refuse(
            "SOURCE_BEHIND",
            format!("the source stands at {now}, before the checkpoint: it was restored from an older state"),
        )
        .position(checkpoint.position)
        .remedy(ANEW));
    }
    let slot = facts::slot(source, &settings.slot()).await?.ok_or_else(|| {
        refuse(
            "SLOT_MISSING",
            format!("the slot {} is gone, and with it the changes since the checkpoint", settings.slot()),
        )
        .position(checkpoint.position)
        .remedy(ANEW)
    })?;
    check_slot(settings, &slot, checkpoint)
}

fn check_slot(settings: &Settings, slot: &SlotFacts, checkpoint: &Checkpoint) -> Outcome<()> {
    let name = &slot.name;
    if slot.wal_status.as_deref() == Some("lost") || slot.invalidation.is_some() {
        return Err(refuse("SLOT_LOST", format!("the slot {name} has lost log that the link still needed"))
            .position(checkpoint.position)
            .remedy(format!("raise max_slot_wal_keep_size on the source; {ANEW}")));
    }
    let foreign = slot.plugin.as_deref() != Some("pgoutput")
        || slot.database.as_deref() != Some(checkpoint.source.database.as_str())
        || slot.two_phase;
    if foreign {
        return Err(refuse(
            "SLOT_FOREIGN",
            format!(
                "the slot {name} is not the link's: plugin {}, database {}, two-phase {}",
                slot.plugin.as_deref().unwrap_or("none"),
                slot.database.as_deref().unwrap_or("none"),
                slot.two_phase
            ),
        )
        .remedy(format!("find out who made it; {ANEW}")));
    }
    if let Some(ahead) = slot.confirmed_flush.filter(|confirmed| *confirmed > checkpoint.position) {
        return Err(refuse("GAP", format!(
            "the slot {name} stands at {ahead}, {} bytes after the checkpoint: the changes between are gone. The target was restored from a backup, \
             or the slot was made anew or read by somebody else",
            ahead.bytes_since(checkpoint.position)
        ))
        .position(checkpoint.position)
        .remedy(ANEW));
    }
    let retained = slot.retained_bytes.unwrap_or(0);
    if retained >= settings.retained_wal_warn_bytes {
        tracing::warn!(slot = name, retained_bytes = retained, "the source holds back log for the slot");
    }
    Ok(())
}

/// Starts the stream. A slot that is in use is waited for a little: the server needs a moment to miss a dead reader.
pub(super) async fn start(
    source: &Session,
    session: ReplicationSession,
    slot: &str,
    from: Lsn,
) -> Outcome<ReplicationStream> {
    let began = Instant::now();
    while let Some(pid) = facts::slot(source, slot).await?.and_then(|slot| slot.active_pid) {
        if began.elapsed() > SLOT_PATIENCE {
            return Err(refuse("SLOT_IN_USE", format!("the slot {slot} is read by the server process {pid}"))
                .position(from)
                .remedy(format!(
                    "end the host that reads it, or run on the source: SELECT pg_terminate_backend({pid});"
                )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    session.start(slot, slot, from).await.map_err(|problem| problem.position(from))
}
