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

mod door;
mod probation;
mod start;
mod trial;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tokio::sync::{oneshot, watch as watched};

use crate::apply::checkpoint::{self, Became, Entry};
use crate::config::Settings;
use crate::link::exchange::{Ask, Post, Ready, Running};
use crate::live::Live;
use crate::marker::Link;
use crate::pg::session::Session;
use crate::problem::{Blame, Problem};
use crate::stream::exchange::{Exchange, Order};
use crate::stream::relations::Misfit;
use crate::transform::Artifact;

pub use door::{Door, Swapped, What, Wish};
pub use probation::Probation;
pub use start::Swaps;

use door::{Answer, Job};

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
    /// Where wishes come in.
    door: Door,
    /// Whether somebody may still bring a revision that fits.
    hopes: bool,
    /// Watches over a revision that has just taken over.
    probation: Arc<Probation>,
    /// The revision before the running one.
    before: Option<Option<Arc<Artifact>>>,
    /// A revision that did not fit and that may fit the columns to come.
    next: Option<Arc<Artifact>>,
    /// The running one was bound again to what one link met; the other one is about to meet the same.
    again: bool,
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
        let (artifact, what) = match self.wanted(wish.what).await {
            Ok(wanted) => wanted,
            Err(problem) => return self.refuse(answer, vec![problem]),
        };
        // The running revision is bound anew only where other columns are waited at: elsewhere nothing has changed yet.
        let is_running = self.is_running(artifact.as_deref());
        let waits = |at: &usize| self.links[*at].post.awaits.borrow().is_some();
        let all: Vec<usize> = (0..self.links.len()).filter(|at| !is_running || waits(at)).collect();
        if all.is_empty() {
            let swapped = Swapped { artifact: label(artifact.as_deref()), is_new: false, ..Swapped::default() };
            return answer.give(Ok(swapped));
        }
        let mut trial = None;
        if let Some(changes) = shadow {
            let found = match self.prepared(&artifact, &all).await {
                Ok(ready) => self.trial(ready, changes, &answer).await,
                Err(problems) => Err(problems),
            };
            match found {
                Ok(found) if found.failed.is_none() && (promote || found.differing == 0) => trial = Some(found),
                Ok(found) => {
                    let artifact = label(self.running.artifact().as_deref());
                    return answer.give(Ok(Swapped { artifact, trial: Some(found), ..Swapped::default() }));
                }
                Err(problems) => return self.refuse(answer, problems),
            }
        }
        match self.exchange(artifact.clone(), &all).await {
            Ok(swapped) => {
                self.again = is_running && all.len() < self.links.len();
                let swapped = Swapped { trial, ..swapped };
                tracing::info!(artifact = swapped.artifact, stall_us = swapped.stall.as_micros() as u64, "{what}");
                swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                answer.give(Ok(swapped));
            }
            Err(problems) => {
                let misfit = problems.iter().all(|problem| problem.code() != NOT_NOW);
                if keep && misfit {
                    tracing::warn!(artifact = label(artifact.as_deref()), "kept until the columns that it needs come");
                    self.next = artifact;
                }
                self.refuse(answer, problems);
            }
        }
    }

    fn refuse(&self, answer: Answer, problems: Vec<Problem>) {
        problems.iter().for_each(|problem| tracing::warn!("the revision is refused, the old one runs on: {problem}"));
        answer.give(Err(problems));
    }

    fn is_running(&self, artifact: Option<&Artifact>) -> bool {
        self.running.artifact().as_deref().map(Artifact::digest) == artifact.map(Artifact::digest)
    }

    /// The artifact that is wished for, compiled and described beside the running links, within the compiler's limit.
    async fn wanted(&mut self, what: What) -> Result<(Option<Arc<Artifact>>, &'static str), Problem> {
        match what {
            What::Again => Ok((self.running.artifact(), "bound again")),
            What::Back => match self.before.clone() {
                Some(before) => Ok((before, "swapped back")),
                None => {
                    Err(Problem::refuse(Blame::Config, "NO_REVISION_BEFORE", "this host has run no other revision")
                        .remedy("swap the file of the revision in that you want"))
                }
            },
            What::Bytes { name, bytes, pin } => {
                if self.settings.strict && pin.is_none() {
                    return Err(Problem::refuse(
                        Blame::Config,
                        "UNPINNED",
                        format!("strict = true, and {name} comes without a pin"),
                    )
                    .remedy("name it with its digest: `falkirk swap FILE@sha256:...` (sha256sum prints it)"));
                }
                let digest = format!("{:x}", HexBytes(&Sha256::digest(&bytes)));
                match self.loaded(name, bytes, pin).await {
                    Ok(artifact) => Ok((Some(artifact), "swapped in")),
                    Err(problem) => {
                        self.record_refusal(&digest, &problem).await;
                        Err(problem)
                    }
                }
            }
        }
    }

    /// The artifact of a file; where several run as one, all of them with this one in the place of its predecessor.
    async fn loaded(&self, name: String, bytes: Vec<u8>, pin: Option<String>) -> Result<Arc<Artifact>, Problem> {
        let (limits, compiler) = (self.settings.limits, self.settings.compiler.clone());
        let load = move || Artifact::from_bytes(&name, &bytes, pin.as_deref(), &limits, &compiler);
        let loaded = tokio::task::spawn_blocking(load).await;
        let lost = |_| Err(Problem::retry(Blame::Host, "TASK_LOST", "loading the artifact ended without an answer"));
        let artifact = Arc::new(loaded.unwrap_or_else(lost)?);
        match self.running.artifact() {
            Some(running) => running.with_step(artifact),
            None => Ok(artifact),
        }
    }

    /// A file that is no transform is kept in the history like one that does not fit.
    async fn record_refusal(&self, digest: &str, problem: &Problem) {
        let Some(origin) = self.links.first() else { return };
        let artifact = format!("sha256:{digest}");
        let entry =
            Entry { artifact, step: String::new(), outcome: Became::Refused, reason: problem.code().to_owned() };
        self.note(origin, &entry).await;
    }

    /// A target that cannot be reached has other worries.
    async fn note(&self, linked: &Linked, entry: &Entry) {
        let settings = self.settings.seen_from(linked.link);
        let Ok(session) = Session::connect(&settings.target().address, "record").await else { return };
        let at = linked.live.borrow().position;
        let _ = checkpoint::record_revision(session.client(), &settings.name, linked.link, at, entry).await;
    }

    /// Every link binds the revision, all stand, all go.
    async fn exchange(&mut self, artifact: Option<Arc<Artifact>>, links: &[usize]) -> Result<Swapped, Vec<Problem>> {
        for tries in 0..STAND_TRIES {
            let ready = self.prepared(&artifact, links).await?;
            let waits = self.links.iter().any(|linked| linked.post.awaits.borrow().is_some());
            // The other link may wait for what this one cannot read before it is exchanged (L8): then its life ends
            // instead, and with it the transaction that the old revision had begun.
            let swapped = match waits && tries >= TRIES_WHILE_WAITING {
                true => self.exchanged_by_force(artifact.clone(), links, ready).await,
                false => self.exchanged(artifact.clone(), links, ready).await,
            };
            if let Some(swapped) = swapped {
                return Ok(swapped);
            }
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
        let mut said = std::collections::HashSet::new();
        problems.retain(|problem| said.insert(problem.to_string()));
        if problems.is_empty() { Ok(ready) } else { Err(problems) }
    }

    /// `None`: not all of them stood in time, and the old revision goes on.
    async fn exchanged(
        &mut self,
        artifact: Option<Arc<Artifact>>,
        links: &[usize],
        ready: Vec<Ready>,
    ) -> Option<Swapped> {
        let mut warnings = Vec::new();
        let (mut stands, mut goes, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for Ready { revised, orders, warnings: more, .. } in ready {
            warnings.extend(more);
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
        let old = self.running.artifact();
        if links.len() == self.links.len() && !self.is_running(artifact.as_deref()) {
            self.probation.begins(artifact.clone(), old.clone());
            self.before = Some(old.clone());
            self.next = None;
        }
        // From here on the new revision holds: a link that dies now begins its next life with it.
        self.running.set(artifact.clone());
        for go in goes {
            // A link that has died meanwhile begins its next life with the new revision.
            let _ = go.send(());
        }
        let done = tokio::time::timeout(DONE_PATIENCE, join_all(ends)).await.unwrap_or_default();
        Some(Swapped {
            artifact: label(artifact.as_deref()),
            before: label(old.as_deref()),
            is_new: true,
            positions: links.iter().map(|at| self.links[*at].link).zip(positions).collect(),
            stall: done.into_iter().flatten().max().unwrap_or_default(),
            warnings,
            trial: None,
        })
    }

    /// Ends the lives of the links that do not wait for other columns, then exchanges those that do.
    async fn exchanged_by_force(
        &mut self,
        artifact: Option<Arc<Artifact>>,
        links: &[usize],
        ready: Vec<Ready>,
    ) -> Option<Swapped> {
        let old = self.running.artifact();
        let waits = |at: &usize| self.links[*at].post.awaits.borrow().is_some();
        let (waiting, others): (Vec<_>, Vec<_>) = links.iter().copied().zip(ready).partition(|(at, _)| waits(at));
        let restarts = |at: &usize| self.links[*at].live.borrow().restarts;
        let before: Vec<(usize, u64)> = others.iter().map(|(at, _)| (*at, restarts(at))).collect();
        drop(others);
        self.running.set(artifact.clone());
        self.probation.renew();
        let ended = before.iter().map(|(at, count)| {
            let (mut live, count) = (self.links[*at].live.clone(), *count);
            async move { live.wait_for(|live| live.restarts > count).await.is_ok() }
        });
        let _ = tokio::time::timeout(DONE_PATIENCE, join_all(ended)).await;
        let (at, ready): (Vec<usize>, Vec<Ready>) = waiting.into_iter().unzip();
        let Some(swapped) = self.exchanged(artifact, &at, ready).await else {
            self.running.set(old);
            self.probation.renew();
            return None;
        };
        self.before = Some(old.clone());
        Some(Swapped { before: label(old.as_deref()), ..swapped })
    }

    /// L12: a link has met columns that its plan was not made for.
    async fn reconsider(&mut self, at: usize, misfit: &Misfit) {
        let artifact = self.running.artifact();
        if self.settings.ignores_added_columns && misfit.only_added {
            // Without a column that nobody uses, rows from before it and from after it are the same.
            let ready = self.prepare(at, artifact.clone()).await;
            if let Ok(ready) = ready
                && ready.uses_added.is_empty()
                && self.exchanged(artifact.clone(), &[at], vec![ready]).await.is_some()
            {
                let what = &misfit.problem;
                return tracing::warn!("no rule uses the new columns, and added_columns = \"ignore\": {what}");
            }
        }
        if std::mem::take(&mut self.again) {
            match self.exchange(artifact, &[at]).await {
                Ok(swapped) => {
                    swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    return tracing::info!("bound again here as well: {}", misfit.problem);
                }
                Err(problems) => problems.iter().for_each(|problem| tracing::warn!("it does not fit here: {problem}")),
            }
        }
        if let Some(next) = self.next.clone() {
            let all: Vec<usize> = (0..self.links.len()).collect();
            match self.exchange(Some(next), &all).await {
                Ok(swapped) => {
                    swapped.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    return tracing::info!(artifact = swapped.artifact, "took over where the columns changed");
                }
                Err(problems) => {
                    problems.iter().for_each(|problem| tracing::warn!("it does not fit either: {problem}"))
                }
            }
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
}

const NOT_NOW: &str = "SWAP_NOT_NOW";

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

/// Bytes as hexadecimal digits.
struct HexBytes<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
