//! One life of a link: from connecting to its end, told or by a problem. It always goes on from the checkpoint, so a
//! life after a crash is like any other (L2).
//!
//! ```text
//!   connect --> preflight --> hold the link --> [first start: publication, slot, chunks] --> copy --> stream
//! ```

mod apart;
pub mod commanded;
pub mod exchange;
mod gate;
mod prepare;
mod repair;
mod retention;
mod returned;
pub mod running;
mod setup;
mod two_way;
mod watching;
mod way;

pub use prepare::prepare;
pub use returned::returned;
pub use way::{Closed, closed, reopened, why_closed};

use commanded::Commanded;
use exchange::Desk;
use running::Running;

use std::sync::Arc;

use tokio::sync::watch;

use crate::apply::checkpoint::{self, Phase};
use crate::apply::writer::Writer;
use crate::apply::{LinkIdentity, chunk, readiness};
use crate::catalog::Shape;
use crate::check::{self, Findings, Given};
use crate::config::Settings;
use crate::copy::catch_up::FinishedChunks;
use crate::copy::{self, Copied, Copy};
use crate::live::{Live, Stage};
use crate::lsn::Lsn;
use crate::names::TableName;
use crate::pg::session::Session;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Problem};
use crate::recopy;
use crate::source::session::{ReplicationSession, SlotSnapshot};
use crate::stream::keyed::Keyed;
use crate::stream::lifting::Lifting;
use crate::stream::seen::Seen;
use crate::stream::touched::Touched;
use crate::stream::{self, End, Filter, Stream};
use crate::transform::{Artifact, Guest};

/// What all lives of a link share.
pub struct Context {
    /// The configuration.
    pub settings: Settings,
    /// The revision that all links of the host run.
    pub running: Arc<Running>,
    /// What holds by command.
    pub commanded: Arc<Commanded>,
    /// Where another one is asked for.
    pub desk: Desk,
    /// Where its links are asked to mend rows.
    pub recopies: recopy::Desk,
    /// Who this host is, for whoever finds the link held.
    pub host: String,
    /// With another link.
    pub pair: Option<Pair>,
}

/// What a link shares with the other one of its migration.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Whether this link writes, or watches.
    pub applies: bool,
    /// Whether the other one writes.
    pub other_applies: bool,
    /// What this link's decoder has seen.
    pub seen: Arc<Seen>,
    /// What the other one's has.
    pub theirs: Arc<Seen>,
}

/// What is special about one life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// End once the position is reached at which the source stood when streaming began.
    pub until_caught_up: bool,
    /// Apply change by change up to this position: a batch failed there.
    pub strict_until: Option<Lsn>,
}

/// Problems that end a life: one, or all shortfalls of the preflight.
pub type Problems = Vec<Problem>;

/// An open link: held, checked, at its checkpoint.
struct Open<'a> {
    context: &'a Context,
    /// The revision with which this life began.
    artifact: Option<Arc<Artifact>>,
    target: Session,
    /// Holds the link for as long as it lives.
    _hold: Session,
    plan: Arc<Plan>,
    shapes: setup::Known,
    identity: LinkIdentity,
    live: &'a watch::Sender<Live>,
    /// The plan of the other link, if there is one.
    back: Option<Arc<Plan>>,
}

/// The tables that the settings' link, and the other one, have streamed so far, and what they look like in their streams;
/// `None` before a link's first start.
pub async fn started_with(
    settings: &Settings,
    source: &Session,
    target: &Session,
) -> Result<[Option<Vec<(TableName, Shape)>>; 2], Problem> {
    let (name, link) = (&settings.name, settings.link);
    // A link's target is the other one's source.
    Ok([setup::known(target, name, link).await?, setup::known(source, name, link.other()).await?])
}

/// Runs one life.
pub async fn run(
    context: &Context,
    orders: Orders,
    stop: watch::Receiver<bool>,
    live: &watch::Sender<Live>,
) -> Result<End, Problems> {
    let settings = &context.settings;
    live.send_modify(|live| (live.stage, live.awaits) = (Stage::Starting, None));
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "check").await.map_err(one)?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "apply").await.map_err(one)?;
    let [known, others] = started_with(settings, &source, &target).await.map_err(one)?;
    let artifact = context.running.artifact();
    let given = Given {
        settings,
        artifact: artifact.as_deref(),
        source: &source,
        target: &target,
        started_with: known.as_deref(),
        other_started_with: others.as_deref(),
        copies: settings.link == settings.origin(),
    };
    let findings = check::preflight(&given).await.map_err(one)?;
    let Findings { problems, warnings, plan, back, source: catalog, .. } = findings;
    let Some(plan) = plan.filter(|_| problems.is_empty()) else { return Err(problems) };
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shape = |source: &Source| Some((source.name.clone(), catalog.tables.get(&source.name)?.shape()));
    let shapes = plan.sources.iter().filter_map(shape).collect();
    let (hold, identity) =
        setup::hold((settings, &context.host), artifact.as_deref(), &source, &target).await.map_err(one)?;
    context.commanded.settle().await.map_err(one)?;
    live.send_modify(|live| live.artifact = artifact.as_ref().map(|artifact| artifact.label().to_owned()));
    let open = Open { context, artifact, target, _hold: hold, plan, back, shapes, identity, live };
    let said = open.set_apart(known.is_none()).await?;
    tokio::select! {
        ended = open.go(&source, orders, stop) => ended.map_err(|problem| one(open.with_artifact(problem))),
        problems = open.keep_apart(said) => Err(problems),
    }
}

fn one(problem: Problem) -> Problems {
    vec![problem]
}

impl Open<'_> {
    /// Who reads that the target refuses a row must know which artifact made the row.
    fn with_artifact(&self, problem: Problem) -> Problem {
        let Some(artifact) = self.context.running.artifact() else { return problem };
        let writes = |table: &TableName| {
            let outputs = |source: &Source| {
                source.rule.outputs.iter().any(|output| self.plan.targets[output.target].name == *table)
            };
            self.plan.sources.iter().any(|source| source.rule.guest_table.is_some() && outputs(source))
        };
        match problem.blame() == Blame::Target && problem.at_table().is_some_and(writes) {
            true => problem.artifact(artifact.label()),
            false => problem,
        }
    }

    async fn go(&self, source: &Session, orders: Orders, stop: watch::Receiver<bool>) -> Result<End, Problem> {
        let (settings, identity) = (&self.context.settings, &self.identity);
        let client = self.target.client();
        checkpoint::clear_problem(client, &identity.migration, identity.link).await?;
        readiness::forget(client, &identity.migration, identity.link).await?;
        let checkpoint =
            checkpoint::load(client, &identity.migration, identity.link).await?.ok_or_else(setup::vanished)?;
        match checkpoint.phase {
            Phase::Preparing if settings.link != settings.origin() => return Err(setup::vanished()),
            Phase::Preparing => {
                let (session, snapshot) = self.first_start(source).await?;
                if self.copy(&snapshot, &stop).await? == Copied::Stopped {
                    return Ok(End::Stopped);
                }
                drop(session);
            }
            Phase::Copying => {
                gate::pass(settings, source, &checkpoint).await?;
                match self.resume_copy(source, orders, &stop).await? {
                    End::Stopped => return Ok(End::Stopped),
                    End::Reached => {}
                }
            }
            Phase::Reopening | Phase::Streaming => gate::pass(settings, source, &checkpoint).await?,
        }
        self.stream(source, orders, stop).await
    }

    async fn first_start(&self, source: &Session) -> Result<(ReplicationSession, SlotSnapshot), Problem> {
        let settings = &self.context.settings;
        setup::publication(settings, source, &self.plan).await?;
        let mut session = ReplicationSession::connect(&settings.source().address, "slot").await?;
        let snapshot = setup::slot(settings, source, &mut session).await?;
        copy::plan_chunks(&self.copy_of(&snapshot)).await?;
        setup::save_shapes(&self.target, &self.identity, &self.shapes).await?;
        let (client, identity) = (self.target.client(), &self.identity);
        checkpoint::adopt_slot(
            client,
            &identity.migration,
            identity.link,
            identity.epoch,
            snapshot.consistent_point,
            Phase::Copying,
        )
        .await?;
        tracing::info!(position = %snapshot.consistent_point, tables = self.plan.sources.len(), "slot made; copying");
        Ok((session, snapshot))
    }

    fn copy_of<'a>(&'a self, snapshot: &'a SlotSnapshot) -> Copy<'a> {
        Copy {
            settings: &self.context.settings,
            plan: self.plan.clone(),
            artifact: self.artifact.clone(),
            identity: self.identity.clone(),
            snapshot,
            target: &self.target,
            live: self.live,
        }
    }

    async fn copy(&self, snapshot: &SlotSnapshot, stop: &watch::Receiver<bool>) -> Result<Copied, Problem> {
        let ended = copy::run(&self.copy_of(snapshot), stop).await?;
        if ended == Copied::All {
            let (client, identity) = (self.target.client(), &self.identity);
            checkpoint::set_phase(client, &identity.migration, identity.link, identity.epoch, Phase::Streaming).await?;
            tracing::info!(position = %snapshot.consistent_point, "copy finished");
        }
        Ok(ended)
    }

    /// L5: a new snapshot; the stream brings what is copied already exactly to it; then the rest is copied.
    async fn resume_copy(
        &self,
        source: &Session,
        orders: Orders,
        stop: &watch::Receiver<bool>,
    ) -> Result<End, Problem> {
        let settings = &self.context.settings;
        let mut session = ReplicationSession::connect(&settings.source().address, "snapshot").await?;
        let snapshot = session.create_slot(&setup::copy_slot(settings), true).await?;
        tracing::info!(position = %snapshot.consistent_point, "copy resumes in a new snapshot");
        let (client, identity) = (self.target.client(), &self.identity);
        let chunks = chunk::list(client, &identity.migration, identity.link).await?;
        let filter_session = Session::connect_blaming(&settings.source().address, Blame::Source, "catch up").await?;
        let filter = FinishedChunks::new(self.plan.clone(), &chunks, filter_session);
        let until = (Some(snapshot.consistent_point), None);
        if self.run_stream(source, orders, until, Some(Box::new(filter)), stop.clone()).await? == End::Stopped {
            return Ok(End::Stopped);
        }
        match self.copy(&snapshot, stop).await? {
            Copied::Stopped => Ok(End::Stopped),
            Copied::All => Ok(End::Reached),
        }
    }

    async fn stream(&self, source: &Session, orders: Orders, stop: watch::Receiver<bool>) -> Result<End, Problem> {
        let until = match orders.until_caught_up {
            true => Some(setup::position_to_reach(source).await?),
            false => None,
        };
        tracing::trace!(until = ?until, "stream");
        let applies = self.context.pair.as_ref().is_none_or(|pair| pair.applies);
        let stage = if applies { Stage::Streaming } else { Stage::Watching };
        self.live.send_modify(|live| live.stage = stage);
        self.run_stream(source, orders, (None, until), None, stop).await
    }

    async fn run_stream(
        &self,
        source: &Session,
        orders: Orders,
        (until_snapshot, until_caught_up): (Option<Lsn>, Option<Lsn>),
        filter: Option<Box<dyn Filter>>,
        stop: watch::Receiver<bool>,
    ) -> Result<End, Problem> {
        let settings = &self.context.settings;
        let (client, identity) = (self.target.client(), &self.identity);
        let checkpoint =
            checkpoint::load(client, &identity.migration, identity.link).await?.ok_or_else(setup::vanished)?;
        self.live.send_modify(|live| live.position = checkpoint.position);
        self.note_start(checkpoint.position).await?;
        let session = ReplicationSession::connect(&settings.source().address, "stream").await?;
        let slot = settings.slot();
        let stream = gate::start(source, session, &slot, checkpoint.position).await?;
        let guest = self.artifact.as_ref();
        let guest = guest.map(|artifact| Guest::new(artifact.clone(), settings.link.into(), settings.limits));
        let mut writer = Writer::start(client, self.plan.clone(), identity.clone(), checkpoint.position).await?;
        writer.lists = self.context.pair.is_some() && self.plan.targets.iter().any(|target| target.acts);
        let strict_until = orders.strict_until;
        tracing::info!(position = %checkpoint.position, strict = strict_until.is_some(), "streaming");
        let two_way = self.two_way(&checkpoint).await?;
        // While the copy is not finished nothing is exchanged: its chunks are written by the revision of this life.
        let (orders, clerk) = match filter.is_none() {
            true => Some(self.orders(two_way.as_ref())).unzip(),
            false => (None, None),
        };
        let touched = Arc::<Touched>::default();
        let parts = Stream {
            source: stream,
            writer,
            lifting: Lifting::new(self.plan.clone(), guest)
                .with_keys(Keyed::connect(settings, &self.plan, identity).await?),
            plan: self.plan.clone(),
            own: (identity.migration_id, identity.link),
            context: checkpoint.context,
            until_snapshot,
            until_caught_up,
            strict_until,
            filter,
            lingers: self.context.pair.is_some(),
            two_way,
            orders,
            touched: touched.clone(),
        };
        let applies = self.context.pair.as_ref().is_none_or(|pair| pair.applies);
        let streaming = stream::run(parts, stop, self.live);
        let streaming = async { if applies { streaming.await } else { self.watched(streaming).await } };
        let Some(clerk) = clerk else { return streaming.await };
        tokio::select! {
            ended = streaming => ended,
            problem = self.answer(clerk) => Err(problem),
            problem = self.mend(&touched) => Err(problem),
            never = self.erase_old_values(), if self.context.pair.is_some() => match never {},
        }
    }
}
