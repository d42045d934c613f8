//! Recopy: what a faulty revision wrote becomes what the good one makes of the same source rows, while the stream goes on.
//!
//! ```text
//!   source row, in a snapshot --> older revisions --> what they wrote --.
//!                             '-> this revision  --> what it writes  --+--> pair by key --> patches
//!   target row, locked ------------------------------------------------'
//! ```
//!
//! L5: the target contains the snapshot and what the stream has brought since. A row that has not changed since is of one
//! moment in both; rows that have are left for the next snapshot, of which only they are read. While rows are written
//! the checkpoint is held, so nothing can change unseen.
//!
//! Counter-example 13, L6: a group is written if the revisions differ on it and the target still holds what an older one
//! wrote. What the target's application has corrected since is neither, and stays; so does everything that no rule
//! writes, and rows on which the revisions agree are not touched. Whatever else does not agree (counter-example 22) is
//! listed, and written only if that is asked for.

pub mod desk;
mod earlier;
mod pair;
mod part;
mod report;
mod revision;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::apply::LinkIdentity;
use crate::apply::compare::Comparison;
use crate::apply::writer::repair::Repairs;
use crate::change::{Datum, Image};
use crate::check::{self, Given};
use crate::config::Settings;
use crate::delta::Key;
use crate::link;
use crate::link::running::Running;
use crate::lsn::Lsn;
use crate::names::TableName;
use crate::pg::session::Session;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::source::copy_out::{CopyOut, KeyColumn, keys_query, parse_rows, range_query};
use crate::source::session::ReplicationSession;
use crate::stream::touched::{At, Touched, Watch};
use crate::transform::Artifact;

pub use desk::{Desk, Older, Order};
pub use report::{Repaired, TableRepair};
pub use tables::looks_at_all;

use pair::Row;
use part::{Around, Mended, Part};
use revision::Revision;

/// How many source rows are looked at, and written in one target transaction.
const PART_ROWS: usize = 1_000;
/// How many snapshots are taken until every row was found unchanged in one of them,
const ROUNDS: u32 = 12;
/// and from which one on rows that change all the time are followed, and mended in whatever state the target has them.
const FOLLOWED_FROM: u32 = 3;
/// How often the checkpoint is looked at while the target is brought to a snapshot.
const LOOK: Duration = Duration::from_millis(10);

/// A running link, as a repair needs it.
pub struct Site {
    /// The configuration, as seen from the link.
    pub settings: Settings,
    /// Who writes.
    pub identity: LinkIdentity,
    /// The revision that the host runs.
    pub running: Arc<Running>,
    /// What its stream notes.
    pub touched: Arc<Touched>,
    /// Whether the link has another one beside it.
    pub is_paired: bool,
}

/// Keys of source rows, as texts.
type Keys = Vec<Vec<String>>;

/// Mends the rows of a link. Dropped half-way, what was mended stays so.
pub async fn run(site: Site, order: Order) -> Result<Repaired, Vec<Problem>> {
    let one = |problem: Problem| vec![problem];
    let settings = &site.settings;
    if !settings.applies(settings.link) {
        let what = format!("the {} link only watches, and a repair would write in its place", settings.link);
        let remedy = "set direction to the side that is to write, or to both, and start the host again";
        return Err(one(Problem::refuse(Blame::Config, "LINK_WATCHES", what).remedy(remedy)));
    }
    let connect = |blame| {
        let side = if blame == Blame::Source { settings.source() } else { settings.target() };
        Session::connect_blaming(&side.address, blame, "recopy")
    };
    let source = connect(Blame::Source).await.map_err(one)?;
    let beside = connect(Blame::Source).await.map_err(one)?;
    let target = connect(Blame::Target).await.map_err(one)?;
    let artifact = site.running.artifact();
    let (plan, back) = bound(settings, artifact.as_deref(), (&source, &target)).await?;
    let tables = tables::wanted(&plan, order.table.as_deref()).map_err(one)?;
    let mut repaired = Repaired { left_out: tables.left_out, ..Repaired::default() };
    let (mut older, mut at_hand) = (Vec::new(), Vec::from_iter(artifact.clone()));
    for (artifact, is_ours) in earlier::earlier(&site, &order, artifact.as_deref()).await.map_err(one)? {
        match bound(settings, Some(&artifact), (&source, &target)).await {
            Ok((plan, _)) => older.push(Revision::new(plan, Some(artifact.clone()), settings)),
            // One that was put in long ago need not fit any more; one that was brought must.
            Err(_) if is_ours => continue,
            Err(problems) => return Err(problems),
        }
        at_hand.push(artifact);
    }
    repaired.unknown = earlier::unknown(&site, &target, &at_hand).await.map_err(one)?;
    let lists = site.is_paired && plan.targets.iter().any(|target| target.acts);
    let repairs = Repairs::start(target.client(), site.identity.clone(), lists).await.map_err(one)?;
    let new = Revision::new(plan.clone(), artifact.clone(), settings);
    let run = Run { site: &site, order: &order, plan, back, artifact, new, older, surplus: HashMap::new(), repaired };
    run.run((&source, &beside), repairs, tables.sources).await.map_err(one)
}

/// The plans of the link and of the way back, bound to the columns that the link streams.
async fn bound(
    settings: &Settings,
    artifact: Option<&Artifact>,
    (source, target): (&Session, &Session),
) -> Result<(Arc<Plan>, Option<Arc<Plan>>), Vec<Problem>> {
    let [known, others] = link::started_with(settings, source, target).await.map_err(|problem| vec![problem])?;
    let (started_with, other_started_with) = (known.as_deref(), others.as_deref());
    let given = Given { settings, artifact, source, target, started_with, other_started_with, copies: false };
    let findings = check::preflight(&given).await.map_err(|problem| vec![problem])?;
    let named = |problem: Problem| match artifact {
        Some(artifact) if problem.at_artifact().is_none() => problem.artifact(artifact.label()),
        _ => problem,
    };
    let back = check::way_back(&given, &findings);
    match findings.plan {
        Some(plan) => Ok((plan, back)),
        None => Err(findings.problems.into_iter().map(named).collect()),
    }
}

struct Run<'r> {
    site: &'r Site,
    order: &'r Order,
    plan: Arc<Plan>,
    back: Option<Arc<Plan>>,
    artifact: Option<Arc<Artifact>>,
    new: Revision,
    older: Vec<Revision>,
    /// Rows that an older revision made and this one does not, until it is known that no other row stands for them.
    surplus: HashMap<(usize, Key), Row>,
    repaired: Repaired,
}

/// A source in a snapshot that the target contains.
struct Moment<'m> {
    from: CopyOut<'m>,
    source: Comparison<'m>,
    watch: &'m Watch<'m>,
    since: Lsn,
}

impl Run<'_> {
    async fn run(
        mut self,
        (source, beside): (&Session, &Session),
        mut repairs: Repairs<'_>,
        tables: Vec<usize>,
    ) -> Outcome<Repaired> {
        let mut todo: Vec<(usize, Option<Keys>)> = tables.into_iter().map(|index| (index, None)).collect();
        for round in 1..=ROUNDS {
            // Noting begins before the snapshot is made, so no change falls between.
            let followed = if round < FOLLOWED_FROM { Vec::new() } else { self.followed(&todo) };
            let watch = self.site.touched.watch(followed);
            let slot = format!("falkirk_{}_recopy_{}_{round}", self.site.settings.name, std::process::id());
            let mut session = ReplicationSession::connect(&self.site.settings.source().address, "snapshot").await?;
            let snapshot = session.create_slot(&slot, true).await?;
            let from = CopyOut::enter(source.client(), &snapshot.snapshot).await?;
            let other = CopyOut::enter(beside.client(), &snapshot.snapshot).await?;
            // Both sessions hold the snapshot: the slot is not to hold the log.
            drop(session);
            let since = snapshot.consistent_point;
            self.reach(&repairs, &watch, since).await?;
            let moment = Moment { from, source: Comparison::within(beside.client()), watch: &watch, since };
            let mut later = Vec::new();
            for (index, keys) in &todo {
                let keys = (keys.as_ref(), round >= FOLLOWED_FROM);
                let postponed = self.table(*index, keys, &moment, &mut repairs).await?;
                later.extend((!postponed.is_empty()).then_some((*index, Some(postponed))));
            }
            self.remove_surplus(&moment, &mut repairs).await?;
            moment.from.leave().await?;
            other.leave().await?;
            todo = later;
            tracing::info!(round, position = %since, left = todo.len(), "recopy: a snapshot is worked off");
            if todo.is_empty() {
                break;
            }
        }
        self.repaired.rows_busy = todo.iter().filter_map(|(_, keys)| keys.as_ref()).map(|keys| keys.len() as u64).sum();
        // What the target took in the end it has not refused.
        self.repaired.refused.take_if(|_| todo.is_empty());
        Ok(self.repaired)
    }

    /// Waits until the target contains everything before a position.
    async fn reach(&self, repairs: &Repairs<'_>, watch: &Watch<'_>, position: Lsn) -> Outcome<()> {
        while !watch.is_applied(position, repairs.position().await?) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Mends what the rows of one source table stand for; the keys of those that are left for later.
    async fn table(
        &mut self,
        index: usize,
        (keys, follows): (Option<&Keys>, bool),
        moment: &Moment<'_>,
        repairs: &mut Repairs<'_>,
    ) -> Outcome<Keys> {
        let plan = self.plan.clone();
        let source = &plan.sources[index];
        let mut postponed = Keys::new();
        for query in queries(source, keys) {
            let mut blocks = moment.from.read(&query).await?;
            while let Some(block) = blocks.next().await? {
                let images = parse_rows(&block, source.columns.len())?;
                for images in images.chunks(PART_ROWS) {
                    postponed.extend(self.part(source, images, (moment, follows), repairs).await?);
                }
            }
        }
        Ok(postponed)
    }

    async fn part(
        &mut self,
        source: &Source,
        images: &[Image],
        (moment, follows): (&Moment<'_>, bool),
        repairs: &mut Repairs<'_>,
    ) -> Outcome<Keys> {
        let key = |image: &Image| -> Vec<String> {
            let text = |column: &usize| image.text(*column).map(String::from_utf8_lossy);
            source.key.iter().map(|column| text(column).unwrap_or_default().into_owned()).collect()
        };
        let part = self.made(source, images.to_vec())?;
        let mended = part.mend(&mut self.around(moment, repairs)).await?;
        self.keep(&mended);
        let mut postponed = Keys::new();
        for number in mended.postponed {
            if !follows || !self.follow(source, &images[number], moment, repairs).await? {
                postponed.push(key(&images[number]));
            }
        }
        Ok(postponed)
    }

    /// A row that changes all the time, as the target has it: the stream stands still meanwhile. `false`: it is left.
    async fn follow(
        &mut self,
        source: &Source,
        image: &Image,
        moment: &Moment<'_>,
        repairs: &mut Repairs<'_>,
    ) -> Outcome<bool> {
        let position = repairs.begin().await?;
        let now = moment.watch.at(&source.name, &source.key, image, (moment.since, position));
        let part = match now {
            // Its source row is gone, and what it stood for with it.
            At::Gone => return repairs.rollback().await.map(|()| true),
            At::Unknown => return repairs.rollback().await.map(|()| false),
            At::Row(image) => self.made(source, vec![image])?,
        };
        let mended = part.settle(&mut self.around(moment, repairs), position).await?;
        self.keep(&mended);
        Ok(mended.postponed.is_empty())
    }

    /// Source rows, and what the revisions make of them.
    fn made(&mut self, source: &Source, images: Vec<Image>) -> Outcome<Part> {
        let plan = self.plan.clone();
        let new = self.new.rows(&source.name, &images, &plan)?;
        let mut older = Vec::new();
        for revision in &mut self.older {
            older.extend(revision.rows(&source.name, &images, &plan)?);
        }
        let source = plan.by_name[&source.name];
        Ok(Part { plan, source, images, new, older, force: self.order.force, only_missing: self.order.only_missing })
    }

    fn keep(&mut self, mended: &Mended) {
        self.repaired.add(&self.plan, mended, self.order.values);
        let surplus = mended.decided.values().flat_map(|decided| &decided.surplus);
        self.surplus.extend(surplus.map(|row| ((row.target, row.key.clone()), row.clone())));
    }

    /// The rows that are left, for the stream to follow.
    fn followed(&self, todo: &[(usize, Option<Keys>)]) -> Vec<(TableName, Vec<Datum>)> {
        let of = |(index, keys): &(usize, Option<Keys>)| -> Vec<(TableName, Vec<Datum>)> {
            let name = &self.plan.sources[*index].name;
            let datums = |key: &Vec<String>| key.iter().map(|text| Datum::text(text.clone())).collect();
            keys.iter().flatten().map(|key| (name.clone(), datums(key))).collect()
        };
        todo.iter().flat_map(of).collect()
    }

    /// What only an older revision made, and what no source row stands for now, goes, unless it has been changed since.
    async fn remove_surplus(&mut self, moment: &Moment<'_>, repairs: &mut Repairs<'_>) -> Outcome<()> {
        let plan = self.plan.clone();
        let mut surplus = std::mem::take(&mut self.surplus);
        if surplus.is_empty() {
            return Ok(());
        }
        let into = |source: &&Source| {
            source.rule.outputs.iter().any(|output| surplus.keys().any(|(target, _)| *target == output.target))
        };
        let writing: Vec<&Source> = plan.sources.iter().filter(into).collect();
        for source in writing {
            let mut blocks = moment.from.read(&queries(source, None)[0]).await?;
            while let Some(block) = blocks.next().await? {
                for images in parse_rows(&block, source.columns.len())?.chunks(PART_ROWS) {
                    for (_, row) in self.new.rows(&source.name, images, &plan)? {
                        surplus.remove(&(row.target, row.key));
                    }
                }
            }
        }
        let rows: Vec<Row> = surplus.into_values().collect();
        for rows in rows.chunks(PART_ROWS) {
            let mut around = self.around(moment, repairs);
            for (row, deleted, as_made) in part::remove(&mut around, &plan, rows, self.order.force).await? {
                self.repaired.removed(&plan, &row, (deleted, as_made), self.order.values);
            }
        }
        Ok(())
    }

    fn around<'a, 'c>(&'a self, moment: &'a Moment<'_>, repairs: &'a mut Repairs<'c>) -> Around<'a, 'c> {
        Around {
            repairs,
            source: &moment.source,
            watch: moment.watch,
            since: moment.since,
            site: self.site,
            artifact: &self.artifact,
            back: self.back.as_deref(),
        }
    }
}

/// All rows of a source, or those with these keys.
fn queries(source: &Source, keys: Option<&Keys>) -> Vec<String> {
    let columns: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
    let column = |column: &usize| {
        let column = &source.columns[*column];
        KeyColumn { name: column.name.clone(), type_sql: column.type_sql.clone() }
    };
    let key: Vec<KeyColumn> = source.key.iter().map(column).collect();
    match keys {
        None => vec![range_query(&source.name, &columns, &[], None, None)],
        Some(keys) => keys.chunks(PART_ROWS).map(|keys| keys_query(&source.name, &columns, &key, keys)).collect(),
    }
}
