//! The stream: changes out of the source, through the transform, into the target.
//!
//! ```text
//!   source --> reader --> [ one bounded queue ] --> lifter --> [1] --> writer --> target
//!                ^          assemble, ask, lift, fold            |
//!                '------------- durable position ---------------'
//! ```
//!
//! Three tasks and all their channels, made here and nowhere else. Only the writer knows what is durable; it says so by
//! one watched value, which the reader passes on to the source (L1). A problem anywhere ends all three; the link then
//! starts again from the checkpoint, exactly as after a crash (L2).

pub mod assemble;
pub mod lifting;
mod reader;
pub mod relations;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use crate::apply::writer::{Batch, Closing, Writer};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::marker::{Link, MigrationId};
use crate::plan::Plan;
use crate::problem::{Action, Outcome, Problem};
use crate::source::stream::ReplicationStream;

use assemble::{Assembler, Collected, Placed};
use lifting::Lifting;
use reader::Item;
use relations::Relations;

/// Parcels that the queue holds; each is what one read of the socket brought, at most 256 KiB and a frame.
const QUEUE_PARCELS: usize = 16;
/// An idle link writes its position down after this time,
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// or after this much log, whichever comes first (pitfalls 70 and 3.5).
const IDLE_BYTES: u64 = 16 << 20;
/// Microseconds between the epoch of Unix and that of PostgreSQL.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// What is left of a batch's changes, each in its place or gone.
pub type Kept<'a> = std::pin::Pin<Box<dyn Future<Output = Outcome<Vec<Option<Placed>>>> + Send + 'a>>;

/// Decides which changes concern a link that has copied only a part of its rows.
pub trait Filter: Send {
    /// Drops the changes of rows that are still to be copied.
    fn keep<'a>(&'a mut self, changes: Vec<Placed>, relations: &'a Relations) -> Kept<'a>;
}

/// What a stream needs.
pub struct Stream<'c> {
    /// The source, positioned at the checkpoint.
    pub source: ReplicationStream,
    /// The target, at the same checkpoint.
    pub writer: Writer<'c>,
    /// Plan and guest.
    pub lifting: Lifting,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Whose markers are skipped.
    pub own: (MigrationId, Link),
    /// End before the first transaction that committed at or after this position, with the checkpoint exactly there.
    pub until_snapshot: Option<Lsn>,
    /// End as soon as the checkpoint has reached this position.
    pub until_caught_up: Option<Lsn>,
    /// Apply change by change up to this position.
    pub strict_until: Option<Lsn>,
    /// For a link whose copy is not finished.
    pub filter: Option<Box<dyn Filter>>,
}

/// How a stream ended without a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// It reached the position that it was to reach.
    Reached,
}

/// What the lifter hands to the writer.
enum Work {
    Batch(Batch),
    End(Result<End, Problem>),
}

/// Runs until told to stop, until a position is reached or until a problem.
pub async fn run(stream: Stream<'_>, stop: watch::Receiver<bool>, live: &watch::Sender<Live>) -> Outcome<End> {
    let from = stream.writer.durable();
    let (queue, parcels) = mpsc::channel(QUEUE_PARCELS);
    let (batches, work) = mpsc::channel(1);
    let (durable, durable_seen) = watch::channel(from);
    let (reader_stop, reader_stopped) = watch::channel(false);

    let reader = tokio::spawn(reader::read(stream.source, queue, durable_seen, reader_stopped));
    let mut assembler = Assembler::new(from, stream.until_snapshot, stream.own);
    assembler.one_by_one = stream.strict_until.is_some();
    let lifter = Lifter {
        assembler,
        relations: Relations::new(&stream.plan),
        plan: stream.plan,
        lifting: stream.lifting,
        filter: stream.filter,
        until_snapshot: stream.until_snapshot,
        until_caught_up: stream.until_caught_up,
        strict_until: stream.strict_until,
        written: from,
        written_at: Instant::now(),
        reader_stop,
    };
    // The guest computes for milliseconds at a time: a thread of its own keeps the runtime's threads free for I/O.
    let runtime = tokio::runtime::Handle::current();
    let lifter = tokio::task::spawn_blocking(move || runtime.block_on(lifter.run(parcels, batches, stop)));

    let ended = write(stream.writer, work, &durable, stream.strict_until, live).await;
    drop(durable);
    let read = reader.await.unwrap_or_else(|_| Err(task_lost("reader")));
    lifter.await.map_err(|_| task_lost("lifter"))?;
    match (ended, read) {
        (Err(problem), _) => Err(problem),
        (Ok(None), Err(problem)) => Err(problem),
        (Ok(None), Ok(())) => Err(task_lost("reader")),
        // What was to be written is written; that the source could not be told is no problem of this run.
        (Ok(Some(end)), _) => Ok(end),
    }
}

fn task_lost(task: &str) -> Problem {
    Problem::retry(crate::problem::Blame::Host, "TASK_LOST", format!("the {task} ended without an answer"))
}

/// The writing end. `None`: the lifter ended without a word, because the reader did.
async fn write(
    mut writer: Writer<'_>,
    mut work: mpsc::Receiver<Work>,
    durable: &watch::Sender<Lsn>,
    strict_until: Option<Lsn>,
    live: &watch::Sender<Live>,
) -> Outcome<Option<End>> {
    let mut closings: VecDeque<(Closing, u64)> = VecDeque::new();
    writer.strict = strict_until.is_some();
    loop {
        let next = match work.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                let position = writer.settle().await?;
                publish(position, &mut closings, durable, live);
                work.recv().await
            }
        };
        match next {
            None => return Ok(None),
            Some(Work::End(Ok(end))) => {
                let position = writer.settle().await?;
                publish(position, &mut closings, durable, live);
                return Ok(Some(end));
            }
            Some(Work::End(Err(problem))) => {
                // L3: everything before the change is applied and durable, nothing after it.
                let position = writer.settle().await?;
                publish(position, &mut closings, durable, live);
                return Err(problem);
            }
            Some(Work::Batch(batch)) => {
                writer.strict = strict_until.is_some_and(|until| writer.durable() < until);
                let rows = batch.segments.iter().flatten().map(|set| set.rows() as u64).sum();
                closings.extend(batch.last.map(|closing| (closing, rows)));
                let position = writer.write(batch).await?;
                publish(position, &mut closings, durable, live);
            }
        }
    }
}

fn publish(
    position: Lsn,
    closings: &mut VecDeque<(Closing, u64)>,
    durable: &watch::Sender<Lsn>,
    live: &watch::Sender<Live>,
) {
    let mut transactions = 0;
    let mut rows = 0;
    let mut committed_us = None;
    while let Some((closing, changed)) = closings.pop_front_if(|(closing, _)| closing.position <= position) {
        transactions += closing.transactions;
        rows += changed;
        committed_us = Some(closing.commit_time_us);
    }
    let Some(committed_us) = committed_us else { return };
    durable.send_replace(position);
    live.send_modify(|live| {
        live.position = position;
        live.transactions += transactions;
        live.rows_changed += rows;
        live.lag_ms = ((now_us() - committed_us) / 1_000).max(0) as u64;
    });
}

/// Now, microseconds since 2000-01-01 UTC.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64 - EPOCH_2000_US
}

/// The middle: from messages to batches.
struct Lifter {
    assembler: Assembler,
    relations: Relations,
    plan: Arc<Plan>,
    lifting: Lifting,
    filter: Option<Box<dyn Filter>>,
    until_snapshot: Option<Lsn>,
    until_caught_up: Option<Lsn>,
    strict_until: Option<Lsn>,
    /// The last position that was handed to the writer, and when.
    written: Lsn,
    written_at: Instant,
    reader_stop: watch::Sender<bool>,
}

impl Lifter {
    async fn run(
        mut self,
        mut parcels: mpsc::Receiver<Vec<Item>>,
        batches: mpsc::Sender<Work>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            // Reserving first lets a batch grow while the writer is busy, and keeps it small while it is not.
            let Ok(permit) = batches.reserve().await else { return };
            let more = tokio::select! {
                biased;
                // The writer has ended with a problem: a quiet source must not keep anybody from hearing of it.
                () = batches.closed() => return,
                () = reader::told(&mut stop), if !self.told() => {
                    self.reader_stop.send_replace(true);
                    drop(permit);
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

    /// Takes what is waiting; waits only while there is nothing to hand on. `false`: the queue has ended.
    async fn collect(&mut self, parcels: &mut mpsc::Receiver<Vec<Item>>) -> bool {
        let mut taken = self.assembler.has_complete() || self.caught_up();
        while !self.assembler.full() && !self.assembler.ended() {
            let parcel = match taken {
                false => parcels.recv().await,
                true => match parcels.try_recv() {
                    Ok(parcel) => Some(parcel),
                    Err(mpsc::error::TryRecvError::Empty) => return true,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                },
            };
            let Some(parcel) = parcel else { return false };
            for item in parcel {
                match item {
                    Item::Message(message) => self.assembler.take(message, &self.plan, &mut self.relations),
                    Item::Idle(position) => self.assembler.idle(position),
                }
            }
            // An idle source that has just said so says nothing more: having arrived must not be forgotten here.
            taken = self.assembler.has_complete() || self.idle_due() || self.caught_up();
        }
        true
    }

    /// What was to be reached is handed to the writer.
    fn caught_up(&self) -> bool {
        self.until_caught_up.is_some_and(|until| self.written >= until)
    }

    /// The reader was told to stop.
    fn told(&self) -> bool {
        *self.reader_stop.borrow()
    }

    fn idle_due(&self) -> bool {
        let Some(position) = self.assembler.idle_position().filter(|position| *position > self.written) else {
            return false;
        };
        self.told()
            || self.until_caught_up.is_some_and(|until| position >= until)
            || position.bytes_since(self.written) >= IDLE_BYTES
            || self.written_at.elapsed() >= IDLE_AFTER
    }

    /// The next thing for the writer, if there is one.
    async fn next(&mut self) -> Option<Work> {
        if self.caught_up() && !self.assembler.has_complete() {
            return Some(Work::End(Ok(End::Reached)));
        }
        if let Some(collected) = self.assembler.cut() {
            return Some(self.lift(collected).await);
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

    fn position_only(&mut self, position: Lsn) -> Batch {
        self.note_written(position);
        Batch {
            segments: Vec::new(),
            first: Some(position),
            last: Some(Closing { position, commit_time_us: now_us(), transactions: 0 }),
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
        let segments = match self.lifting.lift(&changes, &self.relations, self.assembler.one_by_one) {
            Ok(segments) => segments,
            Err(fault) => {
                let at = changes[fault.change].at;
                let problem = fault.problem.position(at);
                let before = changes.iter().position(|placed| placed.at == at).unwrap_or(0);
                commits.retain(|(end, _)| *end <= before);
                changes.truncate(before);
                if commits.is_empty() || problem.action() == Action::Retry {
                    return Work::End(Err(problem));
                }
                // L3: what stands before the change is applied first. The problem comes back with the next batch: the
                // stream is read again from there.
                match self.lifting.lift(&changes, &self.relations, self.assembler.one_by_one) {
                    Ok(segments) => {
                        self.assembler.end_with(problem);
                        segments
                    }
                    Err(fault) => return Work::End(Err(fault.problem)),
                }
            }
        };
        let last = commits.last().map(|(_, commit)| Closing {
            position: commit.end_lsn,
            commit_time_us: commit.time_us,
            transactions: commits.len() as u64,
        });
        if let Some(closing) = last {
            self.note_written(closing.position);
        }
        let first = opens.then(|| last.map_or(open_at, |closing| closing.position));
        Work::Batch(Batch { segments, first, last })
    }
}

/// Keeps what the filter kept; the ends of the transactions move with it.
fn retain(kept: Vec<Option<Placed>>, commits: &mut [(usize, crate::change::Commit)]) -> Vec<Placed> {
    let mut before = 0;
    let mut ends = commits.iter_mut().peekable();
    let mut changes = Vec::with_capacity(kept.len());
    for (at, placed) in kept.into_iter().enumerate() {
        while let Some(end) = ends.next_if(|(end, _)| *end == at) {
            end.0 = before;
        }
        if let Some(placed) = placed {
            changes.push(placed);
            before += 1;
        }
    }
    ends.for_each(|end| end.0 = before);
    changes
}
