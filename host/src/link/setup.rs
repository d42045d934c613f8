//! The first start of a link, and taking hold of it at every start.
//!
//! Publication before slot, checkpoint row before both (pitfalls 16, 61): a crash between any two of them leaves a link
//! that is still `preparing`, whose slot nobody has read and which is made anew.

use std::time::{Duration, Instant};

use crate::apply::checkpoint::{self, Shapes, SourceIdentity};
use crate::apply::{LinkIdentity, schema};
use crate::catalog::Shape;
use crate::check::publication::create_sql;
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::names::{TableName, quote_text};
use crate::pg::facts;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Blame, Outcome, Problem};
use crate::source::session::{ReplicationSession, SlotSnapshot};
use crate::transform::Artifact;

/// How long another host may still hold the link: a killed one is missed by its server within this.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);

/// The shapes of the tables that the link has streamed so far.
pub(super) type Known = Vec<(TableName, Shape)>;

pub(super) fn vanished() -> Problem {
    Problem::refuse(Blame::Target, "CHECKPOINT_MISSING", "the link's checkpoint is gone from the target")
        .remedy("`falkirk clean`, then `falkirk run` copies anew")
}

/// What the target remembers; `None` before the first start has ended.
pub(super) async fn known(target: &Session, migration: &str, link: Link) -> Outcome<Option<Known>> {
    let exists = target.one("SELECT to_regclass('falkirk.checkpoint') IS NOT NULL").await?;
    if !exists.flag(0)? {
        return Ok(None);
    }
    let started = target
        .rows(&format!(
            "SELECT FROM falkirk.checkpoint WHERE migration = {} AND link = '{link}' AND phase <> 'preparing'",
            quote_text(migration)
        ))
        .await?;
    if started.is_empty() {
        return Ok(None);
    }
    let shapes = checkpoint::load_shapes(target.client(), migration, link).await?;
    let read = |(name, shape)| match serde_json::from_value(shape) {
        Ok(shape) => Ok((name, shape)),
        Err(_) => Err(Problem::refuse(Blame::Target, "SHAPE_UNREADABLE", "a row of falkirk.shape is not readable")),
    };
    Ok(Some(shapes.into_iter().map(read).collect::<Outcome<_>>()?))
}

pub(super) async fn save_shapes(target: &Session, identity: &LinkIdentity, shapes: &Known) -> Outcome<()> {
    checkpoint::save_shapes(target.client(), &identity.migration, identity.link, &written(shapes)).await
}

/// As they are kept.
pub(super) fn written(shapes: &Known) -> Shapes {
    shapes.iter().map(|(name, shape)| (name.clone(), serde_json::to_value(shape).unwrap_or_default())).collect()
}

/// Takes hold of the link: one host at a time, and a new epoch that fences off whoever held it before (pitfalls 3.4).
pub(super) async fn hold(
    (settings, host): (&Settings, &str),
    artifact: Option<&Artifact>,
    source: &Session,
    target: &Session,
) -> Outcome<(Session, LinkIdentity)> {
    schema::ensure(target.client()).await?;
    let hold = Session::connect_blaming(&settings.target().address, Blame::Target, "hold").await?;
    lock(&hold, target, settings).await?;
    let migration_id = schema::migration_id(target.client(), &settings.name).await?;
    let artifact = artifact.map_or([0; 32], |artifact| digest_bytes(artifact.digest()));
    let facts = facts::facts(source).await?;
    let identity = SourceIdentity {
        system_id: facts.system_id.unwrap_or_default(),
        timeline: facts.timeline.unwrap_or_default() as i32,
        database: facts.database,
        slot: settings.slot(),
        slot_created_at: Lsn::ZERO,
    };
    let (client, link) = (target.client(), settings.link);
    let is_new = checkpoint::load(client, &settings.name, link).await?.is_none();
    if is_new && facts::slot(source, &settings.slot()).await?.is_some() {
        return Err(Problem::refuse(
            Blame::Source,
            "SLOT_EXISTS",
            format!("the slot {} exists, but the target knows nothing of this migration", settings.slot()),
        )
        .remedy("another target may belong to it; if it is a leftover: `falkirk clean`, then start again"));
    }
    let text = crate::apply::artifact_text(&artifact);
    checkpoint::create(client, &settings.name, link, Lsn::ZERO, &identity, &text).await?;
    let epoch = checkpoint::bump_epoch(client, &settings.name, link, host).await?;
    Ok((hold, LinkIdentity { migration: settings.name.clone(), migration_id, link, epoch, artifact }))
}

async fn lock(hold: &Session, target: &Session, settings: &Settings) -> Outcome<()> {
    let key = quote_text(&format!("falkirk {} {}", settings.name, settings.link));
    let began = Instant::now();
    loop {
        let row = hold.one(&format!("SELECT pg_try_advisory_lock(hashtextextended({key}, 0))")).await?;
        if row.flag(0)? {
            return Ok(());
        }
        if began.elapsed() > HOLD_PATIENCE {
            let holder = checkpoint::load(target.client(), &settings.name, settings.link).await?;
            let host = holder.map(|checkpoint| checkpoint.host).unwrap_or_default();
            return Err(Problem::refuse(
                Blame::Host,
                "LINK_HELD",
                format!(
                    "another host ({host}) runs the {} link of {}; nothing was written",
                    settings.link, settings.name
                ),
            )
            .remedy("let it run, or end it first; this host may then be started again"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A digest out of its hexadecimal digits.
pub(super) fn digest_bytes(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = hex.get(at * 2..at * 2 + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0);
    }
    bytes
}

/// Makes the publication unless its owner has done so; the preflight has looked at it.
pub(super) async fn publication(settings: &Settings, source: &Session, plan: &Plan) -> Outcome<()> {
    match facts::publication(source, &settings.slot()).await? {
        Some(_) => Ok(()),
        None => source.run(&create_sql(&settings.slot(), plan, source.server_version_num())).await,
    }
}

/// Makes the slot. One that is there already is from a start that did not get to its end: nobody has read it.
pub(super) async fn slot(
    settings: &Settings,
    source: &Session,
    session: &mut ReplicationSession,
) -> Outcome<SlotSnapshot> {
    let name = settings.slot();
    if let Some(slot) = facts::slot(source, &name).await? {
        tracing::info!(slot = name, "removing the slot of an unfinished first start");
        if let Some(pid) = slot.active_pid {
            source.run(&format!("SELECT pg_terminate_backend({pid})")).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        session.drop_slot(&name).await?;
    }
    session.create_slot(&name, false).await
}

/// A name for the temporary slot whose snapshot a resumed copy reads.
pub(super) fn copy_slot(settings: &Settings) -> String {
    format!("falkirk_{}_copy_{}", settings.name, std::process::id())
}

/// A position that holds everything committed so far, and that the stream is sure to pass: on an idle source the log may
/// end in a page's head, which nothing is ever sent for, so a message that belongs to no transaction is written behind
/// it (counter-example 25b).
pub(super) async fn position_to_reach(source: &Session) -> Outcome<Lsn> {
    let row = source.one("SELECT pg_current_wal_insert_lsn()").await?;
    let position = row.number(0)?;
    source.run("SELECT pg_logical_emit_message(false, 'falkirk nudge', '')").await?;
    Ok(position)
}

/// Where the source's log ends now.
pub(super) async fn current_position(source: &Session) -> Outcome<Lsn> {
    let row = source.one("SELECT pg_current_wal_lsn()").await?;
    let text = row.text(0)?;
    text.parse().map_err(|error| Problem::retry(Blame::Source, "PROTOCOL_ERROR", error))
}
