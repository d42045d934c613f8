//! A replication connection in command mode: who the source is, slots with their snapshots, and the start of the stream.
//!
//! Only `run`'s first start creates a permanent slot (pitfall 61). A slot's snapshot is held by an open transaction on
//! this connection, so that other sessions may enter it for as long as it lives (pitfalls 77 and 78).

use std::time::Duration;

use crate::lsn::Lsn;
use crate::names::{quote_name, quote_text};
use crate::pg::address::Address;
use crate::pg::pins::VERIFIED;
use crate::problem::{Blame, Outcome, Problem};

use super::stream::ReplicationStream;
use super::wire::Wire;

/// After this long a slot that is still not made is worth a word: a long transaction holds it up (pitfall 71).
const SLOT_PATIENCE: Duration = Duration::from_secs(10);

/// Who a source is: a position means nothing in another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// Its current position.
    pub position: Lsn,
    /// The connected database.
    pub database: String,
}

/// A slot that was just made, and the rows as they were at its start.
#[derive(Clone, Debug)]
pub struct SlotSnapshot {
    /// The slot streams every transaction that committed at or after this position, the snapshot holds all others (L5).
    pub consistent_point: Lsn,
    /// The name under which other sessions enter the snapshot.
    pub snapshot: String,
}

/// A replication connection in command mode.
pub struct ReplicationSession {
    wire: Wire,
}

impl ReplicationSession {
    /// Connects and makes sure of the pinned settings.
    pub async fn connect(address: &Address, purpose: &str) -> Outcome<Self> {
        let mut session = ReplicationSession { wire: Wire::connect(address, purpose).await? };
        session.verify_pins().await?;
        Ok(session)
    }

    async fn verify_pins(&mut self) -> Outcome<()> {
        for (name, wanted) in VERIFIED {
            let rows = self.query(&format!("SHOW {}", quote_name(&name.to_lowercase()))).await?;
            let got = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
            if got != *wanted && !(wanted.is_empty() && got == "\"\"") {
                return Err(Problem::refuse(
                    Blame::Source,
                    "SETTING_NOT_PINNED",
                    format!("the replication connection has {name} = `{got}` instead of `{wanted}`"),
                )
                .remedy("a pooler or proxy may have dropped the startup parameters: connect to the server itself"));
            }
        }
        Ok(())
    }

    /// One statement; its rows as text.
    pub async fn query(&mut self, sql: &str) -> Outcome<Vec<Vec<Option<String>>>> {
        self.wire.query(sql).await
    }

    /// Who the source is and where it stands.
    pub async fn identify(&mut self) -> Outcome<SystemIdentity> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let cell = |at: usize| rows.first().and_then(|row| row.get(at).cloned().flatten());
        let unreadable = || Problem::retry(Blame::Source, "PROTOCOL_ERROR", "IDENTIFY_SYSTEM gave no readable answer");
        Ok(SystemIdentity {
            system_id: cell(0).ok_or_else(unreadable)?,
            timeline: cell(1).and_then(|text| text.parse().ok()).ok_or_else(unreadable)?,
            position: cell(2).and_then(|text| text.parse().ok()).ok_or_else(unreadable)?,
            database: cell(3).unwrap_or_default(),
        })
    }

    /// Makes a slot and opens its snapshot. Waits for transactions that are running; says so after a while.
    pub async fn create_slot(&mut self, name: &str, temporary: bool) -> Outcome<SlotSnapshot> {
        check_slot_name(name)?;
        // Read only: later minor releases of 18 make a snapshot for nothing else.
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let kind = if temporary { " TEMPORARY" } else { "" };
        let snapshot = if self.wire.server_version_num >= 150_000 { "(SNAPSHOT 'use')" } else { "USE_SNAPSHOT" };
        let command = format!("CREATE_REPLICATION_SLOT {}{kind} LOGICAL pgoutput {snapshot}", quote_name(name));
        let rows = self.query_patiently(&command, name).await?;
        let point = rows.first().and_then(|row| row.get(1).cloned().flatten()).and_then(|text| text.parse().ok());
        let exported = self.query("SELECT pg_catalog.pg_export_snapshot()").await?;
        let snapshot = exported.first().and_then(|row| row.first().cloned().flatten());
        match (point, snapshot) {
            (Some(consistent_point), Some(snapshot)) => Ok(SlotSnapshot { consistent_point, snapshot }),
            _ => Err(Problem::retry(Blame::Source, "PROTOCOL_ERROR", "the new slot came without position or snapshot")),
        }
    }

    async fn query_patiently(&mut self, command: &str, slot: &str) -> Outcome<Vec<Vec<Option<String>>>> {
        let mut making = std::pin::pin!(self.wire.query(command));
        loop {
            match tokio::time::timeout(SLOT_PATIENCE, &mut making).await {
                Ok(rows) => return rows,
                Err(_) => tracing::warn!(
                    slot,
                    "still waiting for the slot: a transaction that is older must end first; \
                     see pg_stat_activity for the oldest xact_start"
                ),
            }
        }
    }

    /// Closes the snapshot. A temporary slot lives on until the connection ends.
    pub async fn release_snapshot(&mut self) -> Outcome<()> {
        self.query("COMMIT").await.map(|_| ())
    }

    /// Removes a slot that nobody reads.
    pub async fn drop_slot(&mut self, name: &str) -> Outcome<()> {
        check_slot_name(name)?;
        self.query(&format!("DROP_REPLICATION_SLOT {}", quote_name(name))).await.map(|_| ())
    }

    /// Starts the stream: protocol 1, text values, logical messages included, for they carry the markers (L7).
    ///
    /// The server silently starts at the slot's own position if that is later than `from` (pitfall 59): the caller has
    /// compared the two.
    pub async fn start(mut self, slot: &str, publication: &str, from: Lsn) -> Outcome<ReplicationStream> {
        check_slot_name(slot)?;
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}, messages 'true')",
            quote_name(slot),
            quote_text(&quote_name(publication)),
        );
        let patience =
            self.query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'").await?;
        let patience_ms = patience.first().and_then(|row| row.first().cloned().flatten()?.parse().ok()).unwrap_or(0);
        self.wire.start_copy(&command).await?;
        Ok(ReplicationStream::new(self.wire, from, Duration::from_millis(patience_ms)))
    }
}

/// Row 5: what is no slot name never reaches a command.
fn check_slot_name(name: &str) -> Outcome<()> {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match !name.is_empty() && name.len() <= 63 && letters {
        true => Ok(()),
        false => Err(Problem::refuse(Blame::Config, "CONFIG_INVALID", "a slot's name must match [a-z0-9_]{1,63}")),
    }
}
