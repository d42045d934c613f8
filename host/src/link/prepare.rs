//! Preparing the link that copies nothing: its publication and slot must stand before the other link's first write, so
//! that whatever the target's application does from then on is kept (counter-example 17).
//!
//! Runs before either link does, at every start; once prepared there is nothing left to do.

use crate::apply::checkpoint::{self, Phase};
use crate::apply::schema;
use crate::check::{self, Given};
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::pg::session::Session;
use crate::plan::Source;
use crate::problem::{Blame, Outcome, Problem};
use crate::source::session::ReplicationSession;

use super::{Context, Problems, one, setup};

/// Prepares the link that `context` is for, and gives the migration one secret id on both sides (L7).
pub async fn prepare(context: &Context) -> Result<(), Problems> {
    let settings = &context.settings;
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "prepare").await.map_err(one)?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "prepare").await.map_err(one)?;
    let known = setup::known(&target, &settings.name, settings.link).await.map_err(one)?;
    let artifact = context.running.artifact();
    let given = Given {
        settings,
        artifact: artifact.as_deref(),
        source: &source,
        target: &target,
        started_with: known.as_deref(),
        copies: false,
    };
    let findings = check::preflight(&given).await.map_err(one)?;
    let Some(plan) = findings.plan.filter(|_| findings.problems.is_empty()) else { return Err(findings.problems) };
    one_id(settings, &source, &target).await.map_err(one)?;
    if known.is_some() {
        return other_is_open(settings, &source, &target).await.map_err(one);
    }
    nothing_written_yet(settings, &source).await.map_err(one)?;
    let shape = |source: &Source| Some((source.name.clone(), findings.source.tables.get(&source.name)?.shape()));
    let shapes = plan.sources.iter().filter_map(shape).collect();
    let make = async {
        let (_hold, identity) = setup::hold(context, artifact.as_deref(), &source, &target).await?;
        setup::publication(settings, &source, &plan).await?;
        let mut session = ReplicationSession::connect(&settings.source().address, "slot").await?;
        let snapshot = setup::slot(settings, &source, &mut session).await?;
        setup::save_shapes(&target, &identity, &shapes).await?;
        let (client, link, epoch) = (target.client(), identity.link, identity.epoch);
        let at = snapshot.consistent_point;
        checkpoint::adopt_slot(client, &identity.migration, link, epoch, at, Phase::Streaming).await?;
        tracing::info!(link = link.name(), position = %at, "slot made; the way back is open");
        Ok(())
    };
    make.await.map_err(one)
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

/// A slot that is made now says nothing of what was written before it.
async fn nothing_written_yet(settings: &Settings, source: &Session) -> Outcome<()> {
    let other = checkpoint::load(source.client(), &settings.name, settings.link.other()).await?;
    match other.filter(|other| other.phase != Phase::Preparing) {
        None => Ok(()),
        Some(other) => Err(no_way_back(settings, other.position)),
    }
}

/// The link that copies nothing has run by itself before, and now the other one is to apply: it has no slot either.
async fn other_is_open(settings: &Settings, source: &Session, target: &Session) -> Outcome<()> {
    let other = checkpoint::load(source.client(), &settings.name, settings.link.other()).await?;
    if other.is_some_and(|other| other.phase != Phase::Preparing) {
        return Ok(());
    }
    let own = checkpoint::load(target.client(), &settings.name, settings.link).await?;
    match own.filter(|own| own.counters.copied > 0 || own.counters.transactions > 0) {
        None => Ok(()),
        Some(own) => Err(no_way_back(&settings.seen_from(settings.link.other()), own.position)),
    }
}

fn no_way_back(settings: &Settings, position: Lsn) -> Problem {
    let (link, other, source) = (settings.link, settings.link.other(), settings.source_name());
    let what = format!(
        "the {other} link has written {source} without the {link} link's slot: what its application changed since is not \
         known"
    );
    Problem::refuse(Blame::Config, "NO_WAY_BACK", what).position(position).remedy(
        "set rollback = \"none\" to go on in one direction only; for both, `falkirk clean` and start over with \
         rollback = \"watch\"",
    )
}
