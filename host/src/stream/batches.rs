//! The middle of a stream: from messages to batches for the writer.
//!
//! A batch grows while the writer is busy and is small while it is not. A link that only watches hands on nothing but
//! positions, and those only while its source has no changes of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::apply::writer::{Batch, Closing, Recent};
use crate::change::Event;
use crate::decode::Message;
use crate::delta::Set;
use crate::delta::decide::Claim;
use crate::live::Waiting;
use crate::lsn::Lsn;
use crate::plan::Plan;
use crate::problem::{Action, Blame, Problem};

use super::assemble::{Assembler, Collected, Ended, Placed};
use super::decided::Claims;
use super::exchange::{Now, Order};
use super::lifting::{Fault, Lifting};
use super::paired::Pairs;
use super::reader::{self, Item};
use super::relations::{Misfit, Relations};
use super::seen::{Seen, to_bytes};
use super::shadow::Shadow;
use super::touched::Touched;
use super::trial::Trial;
use super::{End, Filter, Work, now_us};

/// An idle link writes its position down after this time,
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// or after this much log, whichever comes first (pitfalls 70 and 3.5).
const IDLE_BYTES: u64 = 16 << 20;
/// With another link: how far reading may run ahead of writing.
const AHEAD_BYTES: usize = 128 << 20;
/// How often notes that nobody will ask for any more are removed from the target.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// The middle of a stream.
pub(super) struct Batches {
    pub(super) assembler: Assembler,
    pub(super) relations: Relations,
    pub(super) plan: Arc<Plan>,
    pub(super) lifting: Lifting,
    pub(super) filter: Option<Box<dyn Filter>>,
    pub(super) until_snapshot: Option<Lsn>,
    pub(super) until_caught_up: Option<Lsn>,
    /// Having caught up is said once and not acted upon.
    pub(super) lingers: bool,
    pub(super) strict_until: Option<Lsn>,
    /// Batches are decided by the writer: operations are handed on one by one instead of folded.
    pub(super) decides: bool,
    /// What the other link has seen, where both write.
    pub(super) theirs: Option<Arc<Seen>>,
    /// Nothing is handed on: own changes of the source are only counted.
    pub(super) held: Option<Waiting>,
    /// What is held is tried, so that somebody knows whether it could be applied.
    pub(super) trial: Option<Box<Trial>>,
    /// The last position that was handed to the writer, and when.
    pub(super) written: Lsn,
    pub(super) written_at: Instant,
    pub(super) reader_stop: watch::Sender<bool>,
    pub(super) durable: watch::Receiver<Lsn>,
    /// L12: reading has halted here, at columns that the plan was not made for.
    pub(super) misfit: Option<Misfit>,
    /// Who is to know of it.
    pub(super) awaits: watch::Sender<Option<Misfit>>,
    /// Who is to know what is run.
    pub(super) now: Option<watch::Sender<Now>>,
    /// What was read behind it.
    pub(super) later: Vec<Item>,
    /// Nobody brings a revision that fits: a misfit is a problem.
    pub(super) gives_up: bool,
    /// A revision on trial.
    pub(super) shadow: Option<Box<Shadow>>,
    /// Which rows have changed, for whoever looks at the source beside the stream.
    pub(super) touched: Arc<Touched>,
    /// When notes that nobody asks for any more were last removed.
    pub(super) forgot_at: Instant,
}

impl Batches {
    pub(super) async fn run(
        mut self,
        mut parcels: mpsc::Receiver<Vec<Item>>,
        batches: mpsc::Sender<Work>,
        mut stop: watch::Receiver<bool>,
        mut orders: mpsc::Receiver<Order>,
    ) {
        loop {
            if self.is_stuck() {
                if !self.await_fit(&batches, &mut parcels, &mut stop, &mut orders).await {
                    return;
                }
                continue;
            }
            // Reserving first lets a batch grow while the writer is busy, and keeps it small while it is not.
            let Ok(permit) = self.reserve(&batches, &mut parcels).await else { return };
            let more = tokio::select! {
                biased;
                // The writer has ended with a problem: a quiet source must not keep anybody from hearing of it.
                () = batches.closed() => return,
                () = reader::told(&mut stop), if !self.told() => {
                    self.reader_stop.send_replace(true);
                    drop(permit);
                    continue;
                }
                Some(order) = orders.recv(), if self.assembler.is_between() => {
                    drop(permit);
                    if !self.obey(order, &batches, &mut parcels).await {
                        return;
                    }
                    continue;
                }
                more = self.collect(&mut parcels) => more,
            };
            let next = self.next().await;
            let ended = matches!(next, Some(Work::End(_)));
            if let Some(work) = next {
                permit.send(work);
            } else if !more {
                // The reader is gone: because it was told to, or with a problem of its own.
                if self.told() {
                    permit.send(Work::End(Ok(End::Stopped)));
                }
                return;
            } else if self.assembler.ended() {
                let end = self.assembler.problem().map_or(Ok(End::Reached), Err);
                permit.send(Work::End(end));
                self.reader_stop.send_replace(true);
                while parcels.recv().await.is_some() {}
                return;
            }
            if ended {
                self.reader_stop.send_replace(true);
                while parcels.recv().await.is_some() {}
                return;
            }
        }
    }

    /// A place for the next batch. With another link, reading goes on meanwhile: what it waits for may depend on what is
    /// read here (L8).
    async fn reserve<'b>(
        &mut self,
        batches: &'b mpsc::Sender<Work>,
        parcels: &mut mpsc::Receiver<Vec<Item>>,
    ) -> Result<mpsc::Permit<'b, Work>, mpsc::error::SendError<()>> {
        loop {
            let ahead = self.reads_ahead();
            tokio::select! {
                biased;
                permit = batches.reserve() => return permit,
                parcel = parcels.recv(), if ahead => match parcel {
                    Some(parcel) => self.take(parcel),
                    None => return batches.reserve().await,
                },
            }
        }
    }

    /// With another link, which may wait for what is read here.
    pub(super) fn reads_ahead(&self) -> bool {
        self.assembler.notebook.is_some()
            && !self.assembler.ended()
            && self.misfit.is_none()
            && self.assembler.held_bytes() < AHEAD_BYTES
    }

    pub(super) fn take(&mut self, parcel: Vec<Item>) {
        for item in parcel {
            if self.misfit.is_none()
                && let Item::Message(Message::Relation(relation)) = &item
                && !self.gives_up
                && self.assembler.can_wait_at(relation.oid)
            {
                let misfit = self.relations.misfit(&self.plan, relation);
                // L8: the notes of two links know rows by their table's name.
                let misfit = misfit.filter(|misfit| misfit.renamed.is_none() || self.assembler.notebook.is_none());
                self.misfit = misfit.map(|misfit| misfit.under(self.lifting.label()));
            }
            if self.misfit.is_some() {
                self.later.push(item);
                continue;
            }
            match &item {
                Item::Message(Message::Begin { final_lsn, .. }) => self.touched.begin(*final_lsn),
                Item::Message(Message::Change(change)) => self.touched.note(change, &self.plan, &self.relations),
                Item::Message(_) | Item::Idle(_) => {}
            }
            match item {
                Item::Message(message) => self.assembler.take(message, &self.plan, &mut self.relations),
                Item::Idle(position) => self.assembler.idle(position),
            }
        }
        if let Some(read) = self.assembler.idle_position() {
            self.touched.handed_on(read, self.written);
        }
    }

    /// Takes what is waiting; waits only while there is nothing to hand on. `false`: the queue has ended.
    async fn collect(&mut self, parcels: &mut mpsc::Receiver<Vec<Item>>) -> bool {
        let mut taken = self.assembler.has_complete() || self.caught_up();
        while !self.assembler.full() && !self.assembler.ended() && self.misfit.is_none() {
            let parcel = match taken {
                false => parcels.recv().await,
                true => match parcels.try_recv() {
                    Ok(parcel) => Some(parcel),
                    Err(mpsc::error::TryRecvError::Empty) => return true,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                },
            };
            let Some(parcel) = parcel else { return false };
            self.take(parcel);
            // An idle source that has just said so says nothing more: having arrived must not be forgotten here.
            taken = self.assembler.has_complete() || self.idle_due() || self.caught_up();
        }
        true
    }

    /// What was to be reached is handed to the writer.
    fn caught_up(&self) -> bool {
        // What is held is never written, so for a link that watches having read is enough.
        let watched = self.holds().then(|| self.assembler.seen_up_to());
        self.until_caught_up.is_some_and(|until| watched.unwrap_or(self.written) >= until)
    }

    pub(super) fn holds(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.since.is_some())
    }

    /// The reader was told to stop.
    fn told(&self) -> bool {
        *self.reader_stop.borrow()
    }

    fn idle_due(&self) -> bool {
        let Some(position) = self.assembler.idle_position().filter(|position| *position > self.written) else {
            return false;
        };
        // Counter-example 17: the log from the first held change on is needed as soon as the link applies.
        if self.holds() {
            return false;
        }
        self.told()
            || self.until_caught_up.is_some_and(|until| position >= until)
            || position.bytes_since(self.written) >= IDLE_BYTES
            || self.written_at.elapsed() >= IDLE_AFTER
    }

    /// The next thing for the writer, if there is one.
    async fn next(&mut self) -> Option<Work> {
        if self.caught_up() && !self.assembler.has_complete() {
            self.until_caught_up = None;
            return Some(if self.lingers { Work::CaughtUp } else { Work::End(Ok(End::Reached)) });
        }
        if let Some(collected) = self.assembler.cut() {
            return Some(match &mut self.held {
                // What the other link wrote shows in this one's mirrors, and keeps nothing from going on.
                Some(held) if held.since.is_some() || collected.changes.iter().any(|placed| !placed.echo) => {
                    hold(held, &collected);
                    if let Some(trial) = &mut self.trial {
                        held.trials = trial.take(&collected.changes, &self.relations).await;
                    }
                    Work::Held(held.clone())
                }
                Some(_) | None => self.lift(collected).await,
            });
        }
        if let Some(until) = self.until_snapshot.filter(|until| self.assembler.reached() && self.written < *until) {
            return Some(Work::Batch(self.position_only(until)));
        }
        if self.idle_due() {
            let position = self.assembler.idle_position()?;
            return Some(Work::Batch(self.position_only(position)));
        }
        None
    }

    pub(super) fn position_only(&mut self, position: Lsn) -> Batch {
        self.note_written(position);
        Batch {
            segments: Vec::new(),
            recent: None,
            first: Some(position),
            last: Some(Closing {
                position,
                commit_time_us: now_us(),
                transactions: 0,
                context: self.assembler.context(),
            }),
        }
    }

    fn note_written(&mut self, position: Lsn) {
        self.written = position;
        self.written_at = Instant::now();
        self.assembler.one_by_one = self.strict_until.is_some_and(|until| position < until);
    }

    async fn lift(&mut self, collected: Collected) -> Work {
        let Collected { mut changes, opens, mut commits, open_at } = collected;
        if let Some(filter) = &mut self.filter {
            changes = match filter.keep(changes, &self.relations).await {
                Ok(kept) => retain(kept, &mut commits),
                Err(problem) => return Work::End(Err(problem)),
            };
        }
        if let Some(mut shadow) = self.shadow.take()
            && shadow.compare(&changes, &self.relations).await
        {
            self.shadow = Some(shadow);
        }
        let bound = self.theirs.as_ref().map(|theirs| theirs.bound()).unwrap_or_default();
        let lifted = match self.lift_all(&changes).await {
            Ok(lifted) => lifted,
            Err(fault) => {
                let at = changes[fault.change].at;
                let problem = fault.problem.position(at);
                let before = changes.iter().position(|placed| placed.at == at).unwrap_or(0);
                commits.retain(|ended| ended.changes <= before);
                changes.truncate(before);
                if commits.is_empty() || problem.action() == Action::Retry {
                    return Work::End(Err(problem));
                }
                // L3: what stands before the change is applied first. The problem comes back with the next batch: the
                // stream is read again from there.
                match self.lift_all(&changes).await {
                    Ok(lifted) => {
                        self.assembler.end_with(problem);
                        lifted
                    }
                    Err(fault) => return Work::End(Err(fault.problem)),
                }
            }
        };
        let last = commits.last().map(|ended| Closing {
            position: ended.commit.end_lsn,
            commit_time_us: ended.commit.time_us,
            transactions: commits.len() as u64,
            context: ended.context,
        });
        self.lifting.handed_on(last.map(|closing| closing.position));
        if let Some(closing) = last {
            self.note_written(closing.position);
        }
        let first = opens.then(|| last.map_or(open_at, |closing| closing.position));
        if let (Some(closing), Some((_, seen))) = (last, &self.assembler.notebook) {
            seen.bind(closing.position);
        }
        let recent = self.recent(&commits);
        // The other link may have started once more meanwhile, and gone back.
        let bound = self.theirs.as_ref().map_or(bound, |theirs| bound.min(theirs.bound()));
        let pairs = Pairs { bound, ..self.lifting.pairs() };
        match lifted {
            Lifted::Sets(segments) => Work::Batch(Batch { segments, first, last, recent }),
            Lifted::Claims(claims) => Work::Claims(Claims { claims, pairs, first, last, recent }),
        }
    }

    /// What the other link is told of these transactions, as it is kept beside the checkpoint.
    fn recent(&mut self, commits: &[Ended]) -> Option<Recent> {
        let (_, seen) = self.assembler.notebook.as_ref()?;
        let mut bytes = Vec::new();
        commits.iter().for_each(|ended| to_bytes(ended.commit.commit_lsn, &ended.notes, &mut bytes));
        if bytes.is_empty() {
            return None;
        }
        let forgets = self.forgot_at.elapsed() >= FORGET_EVERY;
        if forgets {
            self.forgot_at = Instant::now();
        }
        Some(Recent { bytes, passed: forgets.then(|| seen.forgotten()) })
    }

    async fn lift_all(&mut self, changes: &[Placed]) -> Result<Lifted, Fault> {
        match self.assembler.notebook.as_ref().filter(|_| self.decides) {
            None if changes.iter().any(is_denial) => Err(both_needed(changes)),
            None => self.lifting.lift(changes, &self.relations, self.assembler.one_by_one).await.map(Lifted::Sets),
            Some((notebook, _)) => self.lifting.claims(changes, &self.relations, notebook).await.map(Lifted::Claims),
        }
    }
}

fn is_denial(placed: &Placed) -> bool {
    matches!(placed.change.event, Event::Denied { .. })
}

/// L8: whether the row that the other link denied is there can only be decided with both links on.
fn both_needed(changes: &[Placed]) -> Fault {
    let change = changes.iter().position(is_denial).unwrap_or_default();
    let what = "both links wrote, and a row that lost against the other side is still to be removed from this one";
    let problem = Problem::stop(Blame::Config, "BOTH_NEEDED", what)
        .table(&changes[change].change.relation.name)
        .remedy("start with direction = \"both\" once, until both links have caught up");
    Fault { change, problem }
}

/// Counts the changes of transactions that are not handed on. The checkpoint stays before the first of them and the slot
/// keeps the log from there: whenever the link is told to apply, nothing is lost (counter-example 17).
fn hold(held: &mut Waiting, collected: &Collected) {
    let own = || collected.changes.iter().filter(|placed| !placed.echo);
    held.since = held.since.or(own().next().map(|placed| placed.at));
    held.transactions += collected.commits.len() as u64;
    for placed in own() {
        *held.changes.entry(placed.change.relation.name.clone()).or_default() += 1;
    }
}

enum Lifted {
    Sets(Vec<Vec<Set>>),
    Claims(Vec<Claim>),
}

/// Keeps what the filter kept; the ends of the transactions move with it.
fn retain(kept: Vec<Option<Placed>>, commits: &mut [Ended]) -> Vec<Placed> {
    let mut before = 0;
    let mut ends = commits.iter_mut().peekable();
    let mut changes = Vec::with_capacity(kept.len());
    for (at, placed) in kept.into_iter().enumerate() {
        while let Some(end) = ends.next_if(|end| end.changes == at) {
            end.changes = before;
        }
        if let Some(placed) = placed {
            changes.push(placed);
            before += 1;
        }
    }
    ends.for_each(|end| end.changes = before);
    changes
}
