//! Putting another revision of the transform into running links: one wish at a time, the newest one.
//!
//! ```text
//!   wish --> bytes, digest, pin --> compile, describe --> every link binds it --> every link stands --> all go
//!            '------------------ beside the running links -----------------'      '--- the pause ----'
//! ```
//!
//! L11: both links stand before either goes: what the old revision has computed is durable on both sides, and nothing of
//! it is applied afterwards. Until all of them stand the wish can be given up, and the old revision goes on as if nothing
//! had been asked. Once they do, the new one is what every further life of a link begins with.

mod back;
mod door;
mod probation;
mod start;
mod trial;
mod wanted;
mod watch;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{oneshot, watch as watched};

use crate::apply::checkpoint::{self, Entry};
use crate::config::Settings;
use crate::link::commanded::{Commanded, Draft};
use crate::link::exchange::{Ask, Post, Ready};
use crate::link::running::{Revision, Running, is_same};
use crate::live::Live;
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::session::Session;
use crate::problem::{Blame, Problem};
use crate::stream::exchange::{Exchange, Order};
use crate::stream::relations::Misfit;
use crate::transform::Artifact;

pub use door::{Brought, Door, Swapped, What, Wish};
pub use probation::Probation;
pub use start::Swaps;

use door::{Answer, Job};
use wanted::{Kept, Wanted};

/// How long a link may not be streaming yet when another revision is wished for.
const READY_PATIENCE: Duration = Duration::from_secs(10);
/// How long the links may take to stand; then the old revision goes on and it is tried again.
const STAND_PATIENCE: Duration = Duration::from_millis(1_000);
/// How often it is tried: a large transaction must have come to its end.
const STAND_TRIES: u32 = 30;
/// How often while a link waits for other columns, before the life of the other one is ended.
const TRIES_WHILE_WAITING: u32 = 3;
/// How long a link may take to record the new revision and go on.
const DONE_PATIENCE: Duration = Duration::from_secs(30);

/// One link, as seen from here.
struct Linked {
    link: Link,
    /// Where it is asked.
    post: Post,
    live: watched::Receiver<Live>,
}

/// Who carries wishes out.
struct Swapper {
    settings: Settings,
    /// The links of this host, the origin first.
    links: Vec<Linked>,
    running: Arc<Running>,
    /// What holds by command.
    commanded: Arc<Commanded>,
    /// Where wishes come in.
    door: Door,
    /// Whether somebody may still bring a revision that fits.
    hopes: bool,
    /// Watches over a revision that has just taken over.
    probation: Arc<Probation>,
    /// The revision before the running one.
    before: Option<Revision>,
    /// Artifacts that did not fit and that may fit the columns to come, one for a step.
    next: Vec<Kept>,
    /// The running one was bound again to what one link met: the other one is about to meet the same, at these tables.
    again: HashSet<TableName>,
}

impl Swapper {
    /// Carries wishes out for as long as the host runs.
    async fn serve(mut self) {
        let mut misfits: Vec<_> = self.links.iter().map(|linked| linked.post.awaits.clone()).collect();
        loop {
            let door = self.door.clone();
            tokio::select! {
                job = door.next() => self.carry_out(job).await,
                at = changed(&mut misfits) => {
                    let misfit = misfits[at].borrow_and_update().clone();
                    if let Some(misfit) = misfit {
                        self.reconsider(at, &misfit).await;
                    }
                }
            }
        }
    }

    async fn carry_out(&mut self, job: Job) {
        let Job { wish, answer } = job;
        let (keep, shadow, promote) = (wish.when_fits, wish.shadow, wish.promote);
        let running = self.running.artifact();
        let over = |wanted: Wanted| wanted.over(&running).map(|artifact| (wanted, artifact));
        let (mut wanted, artifact) = match self.wanted(wish.what).await.and_then(over) {
            Ok(wanted) => wanted,
            Err(problem) => return self.refuse(answer, vec![problem]),
        };
        // The running revision is bound anew only where other columns are waited at: elsewhere nothing has changed yet.
        let is_running = is_same(artifact.as_deref(), running.as_deref());
        let waits = |at: &usize| self.links[*at].post.awaits.borrow().is_some();
        let all: Vec<usize> = (0..self.links.len()).filter(|at| !is_running || waits(at)).collect();
        if all.is_empty() {
            return answer.give(self.runs_already(&wanted).await);
        }
        let mut trial = None;
        if let Some(changes) = shadow {
            match self.trial((&running, &artifact), &all, changes, &answer).await {
                Ok(found) if found.failed.is_none() && (promote || found.differing == 0) => trial = Some(found),
                Ok(found) => {
                    let artifact = label(self.running.artifact().as_deref());
                    let is_commanded = self.commanded.is_any().await;
                    let trial = Some(found);
                    return answer.give(Ok(Swapped { artifact, is_commanded, trial, ..Swapped::default() }));
                }
                Err(problems) => return self.refuse(answer, problems),
            }
            // L11: what was compared is put in, and only in the place of what it was compared with.
            wanted = wanted.only_over(running);
        }
        match self.exchange(&wanted, &all).await {
            Ok(swapped) => {
                if is_running && all.len() < self.links.len() {
                    self.again.extend(swapped.stands_in.iter().cloned());
                }
                let (swapped, what) = (Swapped { trial, ..swapped }, wanted.done());
                tracing::info!(artifact = swapped.artifact, stall_us = swapped.stall.as_micros() as u64, "{what}");
                swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                answer.give(Ok(swapped));
            }
            Err(problems) => {
                let misfit = problems.iter().all(|problem| !PASSING.contains(&problem.code()));
                if keep && misfit && wanted.new_steps().is_some() {
                    tracing::warn!(artifact = label(artifact.as_deref()), "kept until the columns that it needs come");
                    self.keep(&wanted);
                }
                self.refuse(answer, problems);
            }
        }
    }

    fn refuse(&self, answer: Answer, problems: Vec<Problem>) {
        problems.iter().for_each(|problem| tracing::warn!("the revision is refused, the old one runs on: {problem}"));
        answer.give(Err(problems));
    }

    /// A target that cannot be reached has other worries.
    async fn note(&self, linked: &Linked, entry: &Entry) {
        let settings = self.settings.seen_from(linked.link);
        let Ok(session) = Session::connect(&settings.target().address, "record").await else { return };
        let at = linked.live.borrow().position;
        let _ = checkpoint::record_revision(session.client(), &settings.name, linked.link, at, entry).await;
    }

    /// Every link binds the revision, all stand, all go.
    async fn exchange(&mut self, wanted: &Wanted, links: &[usize]) -> Result<Swapped, Vec<Problem>> {
        for tries in 0..STAND_TRIES {
            // L11: over what runs now; the one that it was asked for over may have been taken back.
            let old = self.running.artifact();
            let new = wanted.over(&old).map_err(|problem| vec![problem])?;
            let mut change = Change { old, new, on_trial: wanted.new_steps().is_some(), draft: None };
            let ready = self.prepared(&change.new, links).await?;
            if change.is_any() {
                let drafted = self.commanded.draft((&change.new, &change.old), wanted.files()).await;
                change.draft = Some(drafted.map_err(|problem| vec![problem])?);
            }
            let waits = self.links.iter().any(|linked| linked.post.awaits.borrow().is_some());
            // The other link may wait for what this one cannot read before it is exchanged (L8): then its life ends
            // instead, and with it the transaction that the old revision had begun.
            let swapped = match waits && tries >= TRIES_WHILE_WAITING {
                true => self.exchanged_by_force(&change, links, ready).await?,
                false => self.exchanged(&change, links, ready).await,
            };
            let Some(mut swapped) = swapped else { continue };
            swapped.is_commanded = self.commanded.is_any().await;
            if let Some(draft) = &change.draft {
                self.commanded.tidy(draft).await;
                self.before = Some(change.old);
                // The word was about the one that ran.
                self.again.clear();
                match wanted.new_steps() {
                    Some(steps) => self.forget(steps),
                    None => self.next.clear(),
                }
            }
            return Ok(swapped);
        }
        Err(vec![not_now("a link does not come to the end of a transaction")])
    }

    /// Asks a link to bind a revision beside the one that it runs.
    async fn prepare(&self, at: usize, artifact: Option<Arc<Artifact>>) -> Result<Ready, Vec<Problem>> {
        let post = &self.links[at].post;
        let mut others = self.links.iter().enumerate().filter(|(other, _)| *other != at);
        let other_awaits = others.find_map(|(_, linked)| linked.post.awaits.borrow().clone());
        let (answer, ready) = oneshot::channel();
        let asked = async {
            post.asks.send(Ask::Prepare { artifact, other_awaits, answer }).await.ok()?;
            ready.await.ok()
        };
        match tokio::time::timeout(READY_PATIENCE, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => {
                Err(vec![not_now("a link does not stream: it starts, copies existing rows, or waits")])
            }
        }
    }

    async fn prepared(&self, artifact: &Option<Arc<Artifact>>, links: &[usize]) -> Result<Vec<Ready>, Vec<Problem>> {
        let answers = join_all(links.iter().map(|at| self.prepare(*at, artifact.clone()))).await;
        let mut ready = Vec::new();
        let mut problems: Vec<Problem> = Vec::new();
        for answer in answers {
            match answer {
                Ok(one) => ready.push(one),
                Err(more) => problems.extend(more),
            }
        }
        // What is wrong with both sides is found by both links.
        let mut said = HashSet::new();
        problems.retain(|problem| said.insert(problem.to_string()));
        if problems.is_empty() { Ok(ready) } else { Err(problems) }
    }

    /// `None`: not all of them stood in time, or another revision runs by then; what ran goes on.
    async fn exchanged(&self, change: &Change, links: &[usize], ready: Vec<Ready>) -> Option<Swapped> {
        let (mut warnings, mut stands_in) = (Vec::new(), Vec::new());
        let (mut stands, mut goes, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for Ready { revised, orders, warnings: more, stands_in: tables, .. } in ready {
            warnings.extend(more);
            stands_in.extend(tables);
            let ((stood, stands_at), (go, told), (done, end)) =
                (oneshot::channel(), oneshot::channel(), oneshot::channel());
            // A link amid a large transaction has not even taken the last order yet.
            let order = Order::Exchange(Exchange { revised, stood, go: told, done });
            tokio::time::timeout(STAND_PATIENCE, orders.send(order)).await.ok()?.ok()?;
            stands.push(stands_at);
            goes.push(go);
            ends.push(end);
        }
        let stood = tokio::time::timeout(STAND_PATIENCE, join_all(stands)).await.ok()?;
        let positions = stood.into_iter().collect::<Result<Vec<_>, _>>().ok()?;
        if !self.takes_over(change).await {
            return None;
        }
        for go in goes {
            // A link that has died meanwhile begins its next life with the new revision.
            let _ = go.send(());
        }
        let done = tokio::time::timeout(DONE_PATIENCE, join_all(ends)).await.unwrap_or_default();
        Some(Swapped {
            artifact: label(change.new.as_deref()),
            before: label(change.old.as_deref()),
            is_new: true,
            positions: links.iter().map(|at| self.links[*at].link).zip(positions).collect(),
            stall: done.into_iter().flatten().max().unwrap_or_default(),
            warnings,
            stands_in,
            ..Swapped::default()
        })
    }

    /// L11: from here on the new revision holds: a link that dies now, and a host that starts anew, begins with it. `false`:
    /// the old one runs no more, or the target does not take it down.
    async fn takes_over(&self, change: &Change) -> bool {
        let exchange = || self.running.exchange(change.old.as_deref(), change.new.as_ref());
        let exchanged = match &change.draft {
            Some(draft) => self.commanded.hold(draft, exchange).await,
            None => exchange(),
        };
        if !exchanged {
            return false;
        }
        match change.on_trial {
            _ if !change.is_any() => {}
            true => self.probation.begins(change.new.clone(), change.old.clone()),
            false => self.probation.ends(),
        }
        true
    }

    /// Ends the lives of the links that do not wait for other columns, then exchanges those that do.
    async fn exchanged_by_force(
        &self,
        change: &Change,
        links: &[usize],
        ready: Vec<Ready>,
    ) -> Result<Option<Swapped>, Vec<Problem>> {
        let waits = |at: &usize| self.links[*at].post.awaits.borrow().is_some();
        let (waiting, others): (Vec<_>, Vec<_>) = links.iter().copied().zip(ready).partition(|(at, _)| waits(at));
        let restarts = |at: &usize| self.links[*at].live.borrow().restarts;
        let before: Vec<(usize, u64)> = others.iter().map(|(at, _)| (*at, restarts(at))).collect();
        drop(others);
        if !self.takes_over(change).await {
            return Ok(None);
        }
        self.probation.renew();
        let ended = before.iter().map(|(at, count)| {
            let (mut live, count) = (self.links[*at].live.clone(), *count);
            async move { live.wait_for(|live| live.restarts > count).await.is_ok() }
        });
        let _ = tokio::time::timeout(DONE_PATIENCE, join_all(ended)).await;
        let (at, ready): (Vec<usize>, Vec<Ready>) = waiting.into_iter().unzip();
        let (old, new) = (label(change.old.as_deref()), change.new.as_ref());
        let rest = Change { old: change.new.clone(), new: change.new.clone(), on_trial: false, draft: None };
        if let Some(swapped) = self.exchanged(&rest, &at, ready).await {
            return Ok(Some(Swapped { before: old, ..swapped }));
        }
        // L11: what has stopped the other link at once was taken back, and is not tried again.
        let back = || self.running.exchange(new.map(Arc::as_ref), change.old.as_ref());
        if !self.commanded.go_back(&change.old, back).await {
            return Err(vec![taken_back()]);
        }
        self.probation.ends();
        self.probation.renew();
        Ok(None)
    }

    /// L12: a link has met columns that its plan was not made for.
    async fn reconsider(&mut self, at: usize, misfit: &Misfit) {
        let artifact = self.running.artifact();
        if self.settings.ignores_added_columns && misfit.only_added {
            // Without a column that nobody uses, rows from before it and from after it are the same.
            let ready = self.prepare(at, artifact.clone()).await;
            let change = Change { old: artifact.clone(), new: artifact, on_trial: false, draft: None };
            if let Ok(ready) = ready
                && ready.uses_added.is_empty()
                && self.exchanged(&change, &[at], vec![ready]).await.is_some()
            {
                let what = &misfit.problem;
                return tracing::warn!("no rule uses the new columns, and added_columns = \"ignore\": {what}");
            }
        }
        if self.again.remove(&misfit.table) {
            match self.exchange(&Wanted::again(), &[at]).await {
                Ok(swapped) => {
                    swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    return tracing::info!("bound again here as well: {}", misfit.problem);
                }
                Err(problems) => problems.iter().for_each(|problem| tracing::warn!("it does not fit here: {problem}")),
            }
        }
        if self.takes_what_was_kept().await {
            return;
        }
        if !self.hopes {
            // The link may have ended meanwhile; then nobody needs to be told.
            let _ = self.links[at].post.asks.send(Ask::GiveUp).await;
            return;
        }
        tracing::warn!("the link waits for a revision that fits: {}", misfit.problem);
        let (settings, link) = (self.settings.seen_from(self.links[at].link), self.links[at].link);
        let Ok(session) = Session::connect(&settings.target().address, "record").await else { return };
        let _ = checkpoint::record_problem(session.client(), &settings.name, link, &misfit.problem).await;
    }

    /// What was kept for columns to come: all of it at once, else one of it.
    async fn takes_what_was_kept(&mut self) -> bool {
        let each = || self.next.iter().map(|kept| vec![kept.clone()]);
        let together = (self.next.len() > 1).then(|| self.next.clone());
        let tries: Vec<_> = together.into_iter().chain(each()).collect();
        let all: Vec<usize> = (0..self.links.len()).collect();
        for steps in tries {
            match self.exchange(&Wanted::kept(&steps), &all).await {
                Ok(swapped) => {
                    swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    tracing::info!(artifact = swapped.artifact, "took over where the columns changed");
                    return true;
                }
                Err(problems) => {
                    problems.iter().for_each(|problem| tracing::warn!("it does not fit either: {problem}"))
                }
            }
        }
        false
    }
}

/// Which revision takes the place of which.
struct Change {
    old: Revision,
    new: Revision,
    /// If it stops a link at once, the old one is taken back.
    on_trial: bool,
    /// What the database is to say of it.
    draft: Option<Draft>,
}

impl Change {
    /// `false`: the running one is bound anew.
    fn is_any(&self) -> bool {
        !is_same(self.old.as_deref(), self.new.as_deref())
    }
}

const NOT_NOW: &str = "SWAP_NOT_NOW";
const CHANGED: &str = "REVISION_CHANGED";
const TAKEN_BACK: &str = "TAKEN_BACK";
/// None of these says that a revision does not fit.
const PASSING: [&str; 3] = [NOT_NOW, CHANGED, TAKEN_BACK];

fn changed_meanwhile() -> Problem {
    Problem::refuse(Blame::Host, CHANGED, "another revision runs by now than when this was asked for; it goes on")
        .remedy("see `falkirk status` for what runs, and ask again if it is still wanted")
}

fn taken_back() -> Problem {
    let what = "the new revision stopped a link at once, and the one before it was taken back";
    Problem::refuse(Blame::Host, TAKEN_BACK, what).remedy("see the log for the change that it failed on")
}

fn not_now(what: &str) -> Problem {
    Problem::refuse(Blame::Host, NOT_NOW, what)
        .remedy("try again once `falkirk status` shows that every link streams; the old revision runs on")
}

/// The link whose columns begin or cease to be waited at.
async fn changed(misfits: &mut [watched::Receiver<Option<Misfit>>]) -> usize {
    let each = misfits.iter_mut().map(|awaits| {
        Box::pin(async {
            if awaits.changed().await.is_err() {
                // The link has ended: the other one may still be asked.
                std::future::pending::<()>().await;
            }
        })
    });
    futures_util::future::select_all(each).await.1
}

fn label(artifact: Option<&Artifact>) -> String {
    artifact.map_or_else(|| "none".to_owned(), |artifact| artifact.label().to_owned())
}
