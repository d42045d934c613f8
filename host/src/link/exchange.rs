//! Preparing another revision beside a running link: bound to both catalogs like at a start, with connections of its own,
//! so that the exchange itself is only a matter of handing over (L11).
//!
//! Whatever does not fit is said in full and nothing changes. This file decides nothing about when a revision takes over:
//! `swap` does, for all links of the host at once.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::checkpoint::{self, Became, Entry, Shapes};
use crate::catalog::{Catalog, Shape};
use crate::change::Relation;
use crate::check::{self, Findings, Given};
use crate::names::TableName;
use crate::pg::catalog;
use crate::pg::session::Session;
use crate::plan::parts::LinkParts;
use crate::plan::{Plan, Source, SourceColumn};
use crate::problem::{Blame, Outcome, Problem};
use crate::stream::exchange::{Now, Order, Orders, Revised, Rewrite};
use crate::stream::keyed::Keyed;
use crate::stream::lifting::Lifting;
use crate::stream::relations::Misfit;
use crate::stream::{Part, TwoWay};
use crate::transform::{Artifact, Guest, Limits};

use super::{Open, Problems, one, setup, two_way};

/// What a running link is asked.
pub enum Ask {
    /// To prepare another revision.
    Prepare {
        /// The artifact; `None`: every table is copied as it is.
        artifact: Option<Arc<Artifact>>,
        /// The columns at which the other link waits.
        other_awaits: Option<Misfit>,
        /// What was prepared, or every shortfall.
        answer: oneshot::Sender<Result<Ready, Problems>>,
    },
    /// To stop where it waits: nobody will bring a revision that fits.
    GiveUp,
}

/// A revision that is ready to take over in one link.
pub struct Ready {
    /// What takes over.
    pub revised: Box<Revised>,
    /// Where the order goes.
    pub orders: mpsc::Sender<Order>,
    /// What should be known.
    pub warnings: Vec<String>,
    /// Columns that were added to the table at which the link waits, and that the revision uses.
    pub uses_added: Vec<String>,
    /// The target's tables in which rows of that table stand.
    pub stands_in: Vec<TableName>,
    /// The running revision once more, for a trial of this one beside it; `None` where rows depend on others: what they
    /// stand for cannot be told without writing it.
    pub beside: Option<(Lifting, Arc<Plan>)>,
}

/// A link's end of what it is asked.
#[derive(Debug)]
pub struct Desk {
    asks: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    awaits: watch::Sender<Option<Misfit>>,
}

/// The other end.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to ask; answered only while the link streams.
    pub asks: mpsc::Sender<Ask>,
    /// The columns at which it waits.
    pub awaits: watch::Receiver<Option<Misfit>>,
}

/// Who answers for a stream: where its orders go, and what it runs.
pub(super) struct Clerk {
    orders: mpsc::Sender<Order>,
    now: watch::Receiver<Now>,
}

/// Both ends.
pub fn desk() -> (Desk, Post) {
    let (sender, receiver) = mpsc::channel(1);
    let (awaits, seen) = watch::channel(None);
    (Desk { asks: tokio::sync::Mutex::new(receiver), awaits }, Post { asks: sender, awaits: seen })
}

impl Open<'_> {
    /// The stream's end of the orders, and the end of whoever answers for it while it runs.
    pub(super) fn orders(&self, two_way: Option<&TwoWay>) -> (Orders, Clerk) {
        let (sender, orders) = mpsc::channel(1);
        let decides = two_way.is_some_and(|two_way| matches!(two_way.part, Part::Decides(_)));
        let (now, seen) = watch::channel(Now { plan: self.plan.clone(), decides });
        self.context.desk.awaits.send_replace(None);
        (Orders { orders, awaits: self.context.desk.awaits.clone(), now }, Clerk { orders: sender, now: seen })
    }

    /// Answers what the link is asked; never ends by itself.
    pub(super) async fn answer(&self, clerk: Clerk) -> Problem {
        let mut asks = self.context.desk.asks.lock().await;
        loop {
            match asks.recv().await {
                // Whoever asked while nothing streamed has lost patience by now.
                Some(Ask::Prepare { answer, .. }) if answer.is_closed() => {}
                Some(Ask::Prepare { artifact, other_awaits, answer }) => {
                    let ready = self.ready(artifact, other_awaits.as_ref(), &clerk).await;
                    // So may whoever asks now.
                    let _ = answer.send(ready);
                }
                Some(Ask::GiveUp) => drop(clerk.orders.send(Order::GiveUp).await),
                None => std::future::pending().await,
            }
        }
    }

    async fn ready(
        &self,
        artifact: Option<Arc<Artifact>>,
        other_awaits: Option<&Misfit>,
        clerk: &Clerk,
    ) -> Result<Ready, Problems> {
        let settings = &self.context.settings;
        let source = Session::connect_blaming(&settings.source().address, Blame::Source, "swap").await.map_err(one)?;
        let target = Session::connect_blaming(&settings.target().address, Blame::Target, "swap").await.map_err(one)?;
        let label = artifact.as_ref().map(|artifact| artifact.label().to_owned());
        let named = |problem: Problem| match &label {
            Some(label) => problem.artifact(label),
            None => problem,
        };
        match self.bound(artifact.clone(), other_awaits, (&source, &target), clerk).await {
            Ok(ready) => Ok(ready),
            Err(problems) => {
                let reason = problems.first().map_or("", Problem::code);
                let entry = entry(artifact.as_deref(), Became::Refused, reason);
                let at = self.live.borrow().position;
                let (client, identity) = (target.client(), &self.identity);
                let kept = checkpoint::record_revision(client, &identity.migration, identity.link, at, &entry).await;
                let mut problems: Problems = problems.into_iter().map(named).collect();
                problems.extend(kept.err());
                Err(problems)
            }
        }
    }

    async fn bound(
        &self,
        artifact: Option<Arc<Artifact>>,
        other_awaits: Option<&Misfit>,
        (source, target): (&Session, &Session),
        clerk: &Clerk,
    ) -> Result<Ready, Problems> {
        let settings = &self.context.settings;
        let now = clerk.now.borrow().clone();
        let misfit = self.context.desk.awaits.borrow().clone();
        let misfits = (misfit.as_ref(), other_awaits);
        let looked = self.looked(artifact.as_deref(), (source, target), &now.plan, misfits);
        let (findings, known, left_out) = looked.await?;
        let Some(plan) = findings.plan else { return Err(findings.problems) };
        let mut warnings = Vec::new();
        let parts = self.fits_what_is_there(&now, &plan, findings.back.as_deref(), &mut warnings).await?;
        let uses_added = misfit.as_ref().map(|misfit| added(&now.plan, &plan, misfit)).unwrap_or_default();
        let stands_in = misfit.as_ref().map(|misfit| stands_in(&plan, misfit.name())).unwrap_or_default();
        if let (Some(misfit), false) = (&misfit, uses_added.is_empty()) {
            warnings.push(format!(
                "{}: rows from before {} was added hold what each database gave them; compare with `falkirk verify`",
                misfit.table,
                uses_added.join(", ")
            ));
        }
        let rewritten = misfit.as_ref().map(|misfit| rewritten(&now.plan, &plan, misfit)).unwrap_or_default();
        if let (Some(misfit), false) = (&misfit, rewritten.is_empty()) {
            warnings.push(format!(
                "{}: rows from before {} got another type are not sent again; what the source made of them then (USING) is not \
                 known here: compare with `falkirk verify`",
                misfit.table,
                rewritten.join(", ")
            ));
        }
        let shape = |source: &Source| Some((source.name.clone(), findings.source.tables.get(&source.name)?.shape()));
        // The pause is no time to write down again what is known.
        let (known, shapes) = (setup::written(&known), plan.sources.iter().filter_map(shape).collect());
        let shapes = setup::written(&shapes).into_iter().filter(|shape| !known.contains(shape)).collect();
        let mut revised = self.revised(artifact, plan, (findings.back, parts), shapes).await.map_err(one)?;
        revised.rewrite.renamed =
            misfit.as_ref().filter(|misfit| misfit.renamed.is_some()).map(|misfit| misfit.table.clone());
        revised.left_out = misfit.map(|misfit| (misfit.name().clone(), left_out));
        let beside = (!now.plan.is_keyed() && !revised.plan.is_keyed()).then(|| {
            let guest = self.context.running.artifact();
            // Only for comparing: one instance is enough, and memory is settled without it.
            let limits = Limits { instances: 1, ..settings.limits };
            let guest = guest.map(|artifact| Guest::new(artifact, settings.link.into(), limits));
            (Lifting::new(now.plan.clone(), guest), now.plan.clone())
        });
        Ok(Ready { revised: Box::new(revised), orders: clerk.orders.clone(), warnings, uses_added, stands_in, beside })
    }

    /// The preflight with the columns that the stream shows, the columns that are kept in the target, and those that are
    /// left out: by policy new ones that nothing in the target takes.
    async fn looked(
        &self,
        artifact: Option<&Artifact>,
        (source, target): (&Session, &Session),
        running: &Plan,
        (misfit, other_awaits): (Option<&Misfit>, Option<&Misfit>),
    ) -> Result<(Findings, setup::Known, Vec<String>), Problems> {
        let settings = &self.context.settings;
        let [known, mut others] = super::started_with(settings, source, target).await.map_err(one)?;
        let known = known.ok_or_else(|| one(setup::vanished()))?;
        if let (Some(others), Some(misfit)) = (&mut others, other_awaits) {
            let now = catalog::read(target).await.map_err(one)?;
            reshape(others, misfit, &misfit.left_out, &now).map_err(one)?;
        }
        let mut left_out = misfit.map(|misfit| misfit.left_out.clone()).unwrap_or_default();
        loop {
            let mut given = known.clone();
            if let Some(misfit) = misfit {
                let now = catalog::read(source).await.map_err(one)?;
                reshape(&mut given, misfit, &left_out, &now).map_err(one)?;
            }
            let (started_with, other_started_with) = (Some(given.as_slice()), others.as_deref());
            let given = Given { settings, artifact, source, target, started_with, other_started_with, copies: false };
            let findings = check::preflight(&given).await.map_err(one)?;
            if findings.problems.is_empty() {
                return Ok((findings, known, left_out));
            }
            let superfluous = |problem: &Problem| {
                let misfit = misfit.filter(|_| settings.ignores_added_columns)?;
                let column = problem.at_column().filter(|_| problem.at_table() == Some(misfit.name()))?;
                let is_left_out = left_out.iter().any(|other| other == column);
                (came_later(running, misfit, column) && !is_left_out).then(|| column.to_owned())
            };
            match findings.problems.iter().map(superfluous).collect::<Option<Vec<String>>>() {
                Some(more) => left_out.extend(more),
                None => return Err(findings.problems),
            }
        }
    }

    async fn revised(
        &self,
        artifact: Option<Arc<Artifact>>,
        plan: Arc<Plan>,
        (back, parts): (Option<Arc<Plan>>, Option<LinkParts>),
        shapes: Shapes,
    ) -> Outcome<Revised> {
        let settings = &self.context.settings;
        let digest = artifact.as_ref().map_or([0; 32], |artifact| setup::digest_bytes(artifact.digest()));
        let entry = entry(artifact.as_deref(), Became::TookOver, "");
        let label = artifact.as_ref().map(|artifact| artifact.label().to_owned());
        let guest = match artifact.clone() {
            Some(artifact) => Some(warm(Guest::new(artifact, settings.link.into(), settings.limits)).await?),
            None => None,
        };
        let identity = crate::apply::LinkIdentity { artifact: digest, ..self.identity.clone() };
        let lifting = Lifting::new(plan.clone(), guest).with_keys(Keyed::connect(settings, &plan, &identity).await?);
        let notebook = parts.map(|parts| two_way::notebook(&plan, back.as_deref(), parts)).transpose()?;
        let ruled = match (&self.context.pair, &notebook) {
            (Some(pair), Some(notebook)) if pair.applies => {
                Some(self.ruled(pair, (&plan, back.as_deref()), notebook)?)
            }
            _ => None,
        };
        let trial = match &self.context.pair {
            Some(pair) if !pair.applies => self.trial(plan.clone(), artifact).await?,
            _ => None,
        };
        let lists = self.context.pair.is_some() && plan.targets.iter().any(|target| target.acts);
        let rewrite =
            Rewrite { plan: plan.clone(), artifact: digest, label, lists, ruled, shapes, renamed: None, entry };
        Ok(Revised { plan, lifting, notebook, trial, left_out: None, rewrite })
    }

    /// What was written by earlier revisions and is kept must mean the same to the new one. With another link: the parts
    /// of its columns.
    async fn fits_what_is_there(
        &self,
        now: &Now,
        plan: &Plan,
        back: Option<&Plan>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<LinkParts>, Problems> {
        let mut problems = Problems::new();
        let refuse = |code, what: &str| Problem::refuse(Blame::Artifact, code, what);
        if format!("{:?}", kept(&now.plan)) != format!("{:?}", kept(plan)) {
            problems.push(
                refuse(
                    "MIRRORS_DIFFER",
                    "it relates rows of several tables in another way, and rows that are there already were not kept for that",
                )
                .remedy("start over with `falkirk clean` and `falkirk run`, or leave maps and related rows as they are"),
            );
        }
        let decides = match &self.context.pair {
            Some(pair) => self.decides(pair, plan, back).map_err(one)?,
            None => false,
        };
        if decides && !now.decides {
            problems.push(
                refuse(
                    "WINNERS_DIFFER",
                    "it writes tables of which the other side wins, and nothing that this link has written so far had to be decided",
                )
                .remedy("name its file in the configuration and start the host again; or give [tables] conflict one winner"),
            );
        }
        let parts = match &self.context.pair {
            Some(pair) => self.parts(pair, plan, back).await.map_err(|problem| problems.push(problem)).ok(),
            None => None,
        };
        let is_new = |name: &TableName| now.plan.targets.iter().all(|target| target.name != *name);
        for target in plan.targets.iter().filter(|target| !target.internal && is_new(&target.name)) {
            warnings.push(format!("{}: no earlier revision wrote it: it has no rows of what came before", target.name));
        }
        if problems.is_empty() { Ok(parts) } else { Err(problems) }
    }
}

/// The guest with an instance: its first call comes in the pause (L11).
async fn warm(mut guest: Guest) -> Outcome<Guest> {
    let warmed = tokio::task::spawn_blocking(move || guest.warm().map(|()| guest)).await;
    let lost = |_| Err(Problem::retry(Blame::Host, "TASK_LOST", "starting an instance ended without an answer"));
    warmed.unwrap_or_else(lost)
}

/// What the history says of an artifact.
pub fn entry(artifact: Option<&Artifact>, outcome: Became, reason: &str) -> Entry {
    let (artifact, step) = match artifact {
        Some(artifact) => (format!("sha256:{}", artifact.digest()), artifact.way()),
        None => ("none".to_owned(), String::new()),
    };
    Entry { artifact, step, outcome, reason: reason.to_owned() }
}

/// Everything about maps and mirrors that rows in the target were kept for, in names.
fn kept(plan: &Plan) -> Vec<String> {
    let named = |source: &Source, columns: &[usize]| -> Vec<String> {
        columns.iter().map(|column| source.columns[*column].name.clone()).collect()
    };
    let mut kept: Vec<String> = plan.maps.iter().map(|map| format!("{map:?}")).collect();
    for source in &plan.sources {
        let depends = &source.depends;
        let mapped: Vec<_> = depends.mapped.iter().map(|key| (key.map, named(source, &[key.column]))).collect();
        let related = depends.related.iter().map(|related| {
            let on: Vec<usize> = related.on.iter().map(|(own, _)| *own).collect();
            let other = &plan.sources[related.source];
            let theirs: Vec<usize> = related.on.iter().map(|(_, theirs)| *theirs).collect();
            let columns: Vec<usize> = related.columns.iter().map(|(column, _)| *column).collect();
            (&related.table, named(source, &on), named(other, &theirs), named(other, &columns))
        });
        let related: Vec<_> = related.collect();
        let binds: Vec<_> =
            depends.binds.iter().map(|pair| (pair.map, named(source, &[pair.source_key, pair.target_key]))).collect();
        let mirror = depends.mirror.as_ref().map(|columns| named(source, columns));
        if depends.is_any() {
            kept.push(format!("{} {mapped:?} {related:?} {binds:?} {mirror:?}", source.name));
        }
    }
    kept.sort();
    kept
}

/// Puts the shape that the stream shows in the place of the one that is known.
fn reshape(known: &mut setup::Known, misfit: &Misfit, left_out: &[String], now: &Catalog) -> Outcome<()> {
    let again = || {
        Problem::refuse(
            Blame::Source,
            "SCHEMA_CHANGED_AGAIN",
            "the table has been changed again since the change that the link waits at, so what its rows look like there is not known",
        )
        .table(&misfit.table)
        .remedy("start over with `falkirk clean` and `falkirk run`")
    };
    let is_taken = misfit.renamed.as_ref().is_some_and(|now| known.iter().any(|(name, _)| name == now));
    let known = known.iter_mut().find(|(name, _)| *name == misfit.table && !is_taken);
    let mut relation = Relation::clone(&misfit.relation);
    relation.columns.retain(|column| !left_out.contains(&column.name));
    let shape = |earlier: &Shape| now.tables.get(misfit.name())?.shape_at(&relation, earlier);
    match known {
        Some((name, earlier)) => {
            *earlier = shape(earlier).ok_or_else(again)?;
            name.clone_from(misfit.name());
            Ok(())
        }
        None => Err(again()),
    }
}

fn came_later(running: &Plan, misfit: &Misfit, column: &str) -> bool {
    let source = running.sources.iter().find(|source| source.name == misfit.table);
    source.is_some_and(|source| source.columns.iter().all(|known| known.name != column))
        && misfit.relation.columns.iter().any(|described| described.name == column)
}

/// Where the table stands in the running plan, and where in the one that is to take over.
fn ends(running: &Plan, plan: &Plan, misfit: &Misfit) -> Option<(usize, usize)> {
    let find = |plan: &Plan, name: &TableName| plan.sources.iter().position(|source| source.name == *name);
    Some((find(running, &misfit.table)?, find(plan, misfit.name())?))
}

/// Columns whose type is another one now, and that `plan` uses.
fn rewritten(running: &Plan, plan: &Plan, misfit: &Misfit) -> Vec<String> {
    let Some((before, after)) = ends(running, plan, misfit) else { return Vec::new() };
    let kind = |column: &SourceColumn| (column.type_oid, column.type_modifier);
    let retyped = |column: &SourceColumn| {
        let known = running.sources[before].columns.iter().find(|known| known.name == column.name);
        known.is_some_and(|known| kind(known) != kind(column))
    };
    let columns = plan.sources[after].columns.iter().enumerate();
    columns
        .filter(|(at, column)| retyped(column) && plan.uses(after, *at))
        .map(|(_, column)| column.name.clone())
        .collect()
}

/// The tables in which rows of a source table stand.
fn stands_in(plan: &Plan, table: &TableName) -> Vec<TableName> {
    let source = plan.sources.iter().find(|source| source.name == *table);
    let targets = source.into_iter().flat_map(|source| &source.rule.outputs).map(|output| &plan.targets[output.target]);
    targets.filter(|target| !target.internal).map(|target| target.name.clone()).collect()
}

/// Columns that the table has now, that the running plan does not know and that `plan` uses.
fn added(running: &Plan, plan: &Plan, misfit: &Misfit) -> Vec<String> {
    let Some((before, after)) = ends(running, plan, misfit) else { return Vec::new() };
    let known = |name: &str| running.sources[before].columns.iter().any(|column| column.name == name);
    let columns = plan.sources[after].columns.iter().enumerate();
    columns
        .filter(|(at, column)| !known(&column.name) && plan.uses(after, *at))
        .map(|(_, column)| column.name.clone())
        .collect()
}
