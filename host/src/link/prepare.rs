//! Preparing the link that copies nothing: its publication and slot must stand before the other link's first write, so
//! that whatever the target's application does from then on is kept (counter-example 17).
//!
//! Runs before either link does, at every start; once prepared there is nothing left to do. Where the slot comes too late
//! the start is refused (`way`), unless it is the repair that compares the sides.

use crate::apply::checkpoint::{self, Phase};
use crate::apply::schema;
use crate::check::{self, Findings, Given};
use crate::config::Settings;
use crate::pg::session::Session;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome};
use crate::source::session::ReplicationSession;

use super::{Context, Problems, one, setup, way};

/// A link's two ends, and what the preflight has found there.
struct Looked {
    settings: Settings,
    source: Session,
    target: Session,
    findings: Findings,
    is_known: bool,
}

/// Prepares the link that `context` is for, and gives the migration one secret id on both sides (L7).
pub async fn prepare(context: &Context) -> Result<(), Problems> {
    let looked = look(context, context.settings.clone()).await?;
    let (settings, findings) = (&looked.settings, &looked.findings);
    let Some(plan) = findings.plan.clone() else { return Err(Problems::new()) };
    one_id(settings, &looked.source, &looked.target).await.map_err(one)?;
    let closed = way::closed_between(settings, &looked.source, &looked.target).await.map_err(one)?;
    if let Some(closed) = closed {
        let plans = [Some(&*plan), findings.back.as_deref()];
        if !settings.reopens || !way::can_be_compared(plans) {
            return Err(one(way::why_closed(settings, &closed, plans)));
        }
        if closed.reopening {
            return Ok(());
        }
        let late = look(context, settings.seen_from(closed.link)).await?;
        return open(context, &late, Phase::Reopening).await.map_err(one);
    }
    match looked.is_known {
        true => Ok(()),
        false => open(context, &looked, Phase::Streaming).await.map_err(one),
    }
}

async fn look(context: &Context, settings: Settings) -> Result<Looked, Problems> {
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "prepare").await.map_err(one)?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "prepare").await.map_err(one)?;
    let [known, others] = super::started_with(&settings, &source, &target).await.map_err(one)?;
    let artifact = context.running.artifact();
    let given = Given {
        settings: &settings,
        artifact: artifact.as_deref(),
        source: &source,
        target: &target,
        started_with: known.as_deref(),
        other_started_with: others.as_deref(),
        copies: false,
    };
    let mut findings = check::preflight(&given).await.map_err(one)?;
    match findings.problems.is_empty() {
        true => Ok(Looked { settings, source, target, findings, is_known: known.is_some() }),
        false => Err(std::mem::take(&mut findings.problems)),
    }
}

/// Makes publication and slot, and the checkpoint at the slot's first position.
async fn open(context: &Context, looked: &Looked, phase: Phase) -> Outcome<()> {
    let Looked { settings, source, target, findings, .. } = looked;
    let Some(plan) = &findings.plan else { return Ok(()) };
    let artifact = context.running.artifact();
    let (_hold, identity) = setup::hold((settings, &context.host), artifact.as_deref(), source, target).await?;
    setup::publication(settings, source, plan).await?;
    let mut session = ReplicationSession::connect(&settings.source().address, "slot").await?;
    let snapshot = setup::slot(settings, source, &mut session).await?;
    setup::save_shapes(target, &identity, &shapes(plan, findings)).await?;
    let (client, link, epoch) = (target.client(), identity.link, identity.epoch);
    let at = snapshot.consistent_point;
    checkpoint::adopt_slot(client, &identity.migration, link, epoch, at, phase).await?;
    tracing::info!(link = link.name(), position = %at, phase = phase.name(), "slot made; the way back is open from here on");
    Ok(())
}

fn shapes(plan: &Plan, findings: &Findings) -> setup::Known {
    let shape = |source: &Source| Some((source.name.clone(), findings.source.tables.get(&source.name)?.shape()));
    plan.sources.iter().filter_map(shape).collect()
}

async fn one_id(settings: &Settings, source: &Session, target: &Session) -> Outcome<()> {
    schema::ensure(source.client()).await?;
    schema::ensure(target.client()).await?;
    // The link that has run longer has made the id; it lies in its target, which is the source here.
    let known = schema::known_migration_id(target.client(), &settings.name).await?;
    if let Some(id) = known {
        return schema::adopt_migration_id(source.client(), &settings.name, id).await;
    }
    let id = schema::migration_id(source.client(), &settings.name).await?;
    schema::adopt_migration_id(target.client(), &settings.name, id).await
}
