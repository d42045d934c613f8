//! Reads what a server says about itself, its slots and its publications.
//!
//! It must never change anything, and never fail only because the role may not see something: what cannot be seen is
//! `None`.

use std::collections::BTreeSet;

use crate::lsn::Lsn;
use crate::names::{TableName, quote_text};
use crate::pg::session::{Row, Session};
use crate::problem::Outcome;

/// What a server says about itself and about the connected role.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `server_version_num`, e.g. 150018.
    pub version_num: u32,
    /// The number that tells this server from every other; `None` if the role may not ask.
    pub system_id: Option<String>,
    /// The timeline of the last checkpoint; `None` if the role may not ask.
    pub timeline: Option<u32>,
    /// The object id of the connected database.
    pub database_oid: u32,
    /// The connected database.
    pub database: String,
    /// The server encoding of the connected database.
    pub encoding: String,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// The connected role.
    pub role: String,
    /// Whether the role is a superuser.
    pub superuser: bool,
    /// Whether the role may make slots and read them: its own attribute, or one of the roles by which hosted services
    /// hand this out. A service may know other ways: if this is false, only a try tells.
    pub can_replicate: bool,
    /// Whether the role may create a schema in this database.
    pub can_create: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_replication_slots: u32,
    /// How many of them exist.
    pub slots_used: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// How many of them are at work.
    pub wal_senders_used: u32,
    /// `max_slot_wal_keep_size`; `None` if there is no limit.
    pub max_slot_wal_keep_size_bytes: Option<u64>,
    /// `wal_sender_timeout`; 0 if there is none.
    pub wal_sender_timeout_ms: u64,
    /// `idle_replication_slot_timeout`; `None` if there is none (and before PostgreSQL 18).
    pub idle_replication_slot_timeout_s: Option<u64>,
    /// `fsync`.
    pub fsync: bool,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `synchronous_commit` as this session has it.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`; empty if commits wait for no standby.
    pub synchronous_standby_names: String,
    /// `default_transaction_read_only`.
    pub read_only: bool,
    /// `max_connections`.
    pub max_connections: u32,
    /// `session_replication_role` as this session has it.
    pub session_replication_role: String,
}

/// A replication slot.
#[derive(Clone, Debug)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// Its output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Its database; `None` for a physical slot.
    pub database: Option<String>,
    /// The process that reads it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How much log may still be written before the slot may be lost; `None` if nothing limits it.
    pub safe_wal_size_bytes: Option<i64>,
    /// Up to where its reader has confirmed.
    pub confirmed_flush: Option<Lsn>,
    /// From where the log is kept for it.
    pub restart: Option<Lsn>,
    /// Whether it decodes prepared transactions.
    pub two_phase: bool,
    /// Whether it goes with its session.
    pub temporary: bool,
    /// How much log the server keeps for it.
    pub retained_bytes: Option<u64>,
    /// Why the server invalidated it (PostgreSQL 17 and later say so).
    pub invalidation: Option<String>,
}

/// A publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationFacts {
    /// The tables in its list, as `ALTER PUBLICATION` knows them; a partitioned table stands for its partitions.
    pub tables: BTreeSet<TableName>,
    /// The tables under whose names changes are sent: the list, or leaves, or everything.
    pub sends: BTreeSet<TableName>,
    /// Tables in its list with a row filter or a column list.
    pub filtered: BTreeSet<TableName>,
    /// Whether it publishes inserts.
    pub insert: bool,
    /// Whether it publishes updates.
    pub update: bool,
    /// Whether it publishes deletes.
    pub delete: bool,
    /// Whether it publishes truncates.
    pub truncate: bool,
    /// Whether changes of partitions are sent under the root's name.
    pub via_root: bool,
    /// Whether it is for all tables.
    pub all_tables: bool,
    /// Whether it sends stored generated columns (PostgreSQL 18).
    pub generated: bool,
    /// Whether it also lists whole schemas.
    pub schemas: bool,
    /// Whether the role owns it or is a member of its owner.
    pub own: bool,
}

/// Reads what the server says about itself.
pub async fn facts(session: &Session) -> Outcome<ServerFacts> {
    let row = session.one(FACTS).await?;
    let control = session.one(CONTROL_ALLOWED).await?.flag(0)?;
    let control = match control {
        true => Some(session.one(CONTROL).await?),
        false => None,
    };
    let limit = |index: usize| Ok(row.number::<i64>(index)?.try_into().ok());
    let time_out_s: Option<u64> = limit(20)?;
    Ok(ServerFacts {
        version_num: row.number(0)?,
        system_id: control.as_ref().map(|control| control.text(0)).transpose()?,
        timeline: control.as_ref().map(|control| control.number(1)).transpose()?,
        database_oid: row.number(1)?,
        database: row.text(2)?,
        encoding: row.text(3)?,
        in_recovery: row.flag(4)?,
        role: row.text(5)?,
        superuser: row.flag(6)?,
        can_replicate: row.flag(7)?,
        can_create: row.flag(8)?,
        wal_level: row.text(9)?,
        max_replication_slots: row.number(10)?,
        slots_used: row.number(11)?,
        max_wal_senders: row.number(12)?,
        wal_senders_used: row.number(13)?,
        max_slot_wal_keep_size_bytes: limit(14)?,
        wal_sender_timeout_ms: row.number(15)?,
        fsync: row.flag(16)?,
        full_page_writes: row.flag(17)?,
        synchronous_commit: row.text(18)?,
        synchronous_standby_names: row.text(19)?,
        idle_replication_slot_timeout_s: time_out_s.filter(|seconds| *seconds > 0),
        read_only: row.flag(21)?,
        max_connections: row.number(22)?,
        session_replication_role: row.text(23)?,
    })
}

const FACTS: &str = "
    WITH setting AS (SELECT name, setting, unit FROM pg_settings)
    SELECT current_setting('server_version_num'), d.oid, d.datname, pg_encoding_to_char(d.encoding),
           pg_is_in_recovery(), current_user, r.rolsuper,
           r.rolreplication OR r.rolsuper OR EXISTS (SELECT FROM pg_roles g
               WHERE g.rolname IN ('rds_replication', 'mdb_replication') AND pg_has_role(g.oid, 'USAGE')),
           has_database_privilege(d.oid, 'CREATE'),
           current_setting('wal_level'),
           current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots),
           current_setting('max_wal_senders'), (SELECT count(*) FROM pg_stat_get_wal_senders()),
           (SELECT CASE WHEN setting::bigint < 0 THEN -1 ELSE pg_size_bytes(setting || unit) END
            FROM setting WHERE name = 'max_slot_wal_keep_size'),
           (SELECT setting FROM setting WHERE name = 'wal_sender_timeout'),
           current_setting('fsync')::bool, current_setting('full_page_writes')::bool,
           current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
           coalesce((SELECT extract(epoch FROM (setting || unit)::interval)::bigint
                     FROM setting WHERE name = 'idle_replication_slot_timeout'), 0),
           current_setting('default_transaction_read_only')::bool, current_setting('max_connections'),
           current_setting('session_replication_role')
    FROM pg_database d, pg_roles r
    WHERE d.datname = current_database() AND r.rolname = current_user";

const CONTROL_ALLOWED: &str = "
    SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
       AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')";

const CONTROL: &str = "SELECT (pg_control_system()).system_identifier, (pg_control_checkpoint()).timeline_id";

/// Reads one slot; `None` if there is none of that name.
pub async fn slot(session: &Session, name: &str) -> Outcome<Option<SlotFacts>> {
    let sql = format!(
        "SELECT s.slot_name, s.plugin, s.database, s.active_pid, s.wal_status, s.safe_wal_size,
                s.confirmed_flush_lsn, s.restart_lsn, s.two_phase, s.temporary,
                pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                     ELSE pg_current_wal_lsn() END, s.restart_lsn)::bigint,
                to_jsonb(s) ->> 'invalidation_reason'
         FROM pg_replication_slots s WHERE s.slot_name = {}",
        quote_text(name)
    );
    session.rows(&sql).await?.first().map(slot_of).transpose()
}

fn slot_of(row: &Row) -> Outcome<SlotFacts> {
    let text = |index: usize| row.get(index).map(str::to_owned);
    let position = |index: usize| row.get(index).and_then(|text| text.parse::<Lsn>().ok());
    let retained: Option<i64> = row.number_or_null(10)?;
    Ok(SlotFacts {
        name: row.text(0)?,
        plugin: text(1),
        database: text(2),
        active_pid: row.number_or_null(3)?,
        wal_status: text(4),
        safe_wal_size_bytes: row.number_or_null(5)?,
        confirmed_flush: position(6),
        restart: position(7),
        two_phase: row.flag(8)?,
        temporary: row.flag(9)?,
        retained_bytes: retained.map(|bytes| bytes.max(0).unsigned_abs()),
        invalidation: text(11),
    })
}

/// Reads one publication; `None` if there is none of that name.
pub async fn publication(session: &Session, name: &str) -> Outcome<Option<PublicationFacts>> {
    let name = quote_text(name);
    let head = format!(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables, pg_has_role(pubowner, 'USAGE'),
            coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false)
         FROM pg_publication p WHERE pubname = {name}"
    );
    let rows = session.rows(&head).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut found = PublicationFacts {
        insert: row.flag(0)?,
        update: row.flag(1)?,
        delete: row.flag(2)?,
        truncate: row.flag(3)?,
        via_root: row.flag(4)?,
        all_tables: row.flag(5)?,
        own: row.flag(6)?,
        generated: row.flag(7)?,
        ..PublicationFacts::default()
    };
    let listed = format!(
        "SELECT n.nspname, c.relname, to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL
         FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
         JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = {name}"
    );
    for row in session.rows(&listed).await? {
        let table = TableName::new(row.text(0)?, row.text(1)?);
        if row.flag(2)? {
            found.filtered.insert(table.clone());
        }
        found.tables.insert(table);
    }
    let sent = format!("SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = {name}");
    for row in session.rows(&sent).await? {
        found.sends.insert(TableName::new(row.text(0)?, row.text(1)?));
    }
    found.schemas = has_schemas(session, &name).await?;
    Ok(Some(found))
}

/// Publications of whole schemas came with PostgreSQL 15.
async fn has_schemas(session: &Session, quoted_name: &str) -> Outcome<bool> {
    if session.server_version_num() < 150_000 {
        return Ok(false);
    }
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_publication_namespace m JOIN pg_publication p ON p.oid = m.pnpubid
                        WHERE p.pubname = {quoted_name})"
    );
    session.one(&sql).await?.flag(0)
}
