//! The writer of a link: executes target transactions, each with its marker first, then its checkpoint, then its rows.
//!
//! ```text
//!   write(1)  BEGIN marker checkpoint sets ......................... (sent, not awaited)
//!   write(2)  encode 2 | answers of 1 checked | COMMIT, BEGIN marker checkpoint sets
//!   settle()  answer of COMMIT 1 | answers of 2 checked | COMMIT | its answer
//! ```
//!
//! COMMIT is sent only after every row count of the transaction was checked: the COMMIT of an aborted transaction
//! answers like a good one. While more is waiting, a COMMIT does not wait for the disk; a position is reported only
//! after a COMMIT that did, and that one made everything before it durable as well (L1). After any problem the writer
//! is of no more use; the link starts again from the checkpoint (L2).

pub mod attempt;
mod locked;
mod recorded;
mod referring;
pub mod repair;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use tokio_postgres::{Client, Error, Statement};

use super::bound::{self, Bound};
use super::checkpoint::{self, Counters};
use super::encode::Ready;
use super::statement::Statements;
use super::{LinkIdentity, fault};
pub use locked::{Recent, other_link_silent};
pub use recorded::{Lost, LostFrom, LostRow};

use crate::delta::{Set, SetKind};
use crate::lsn::Lsn;
use crate::marker::{MarkerKind, PREFIX};
use crate::plan::Plan;
use crate::problem::{Blame, Outcome, Problem};

/// What closes a target transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// `end_lsn` of the last source transaction in it: the checkpoint's next position.
    pub position: Lsn,
    /// When that one was committed, microseconds since 2000-01-01 UTC.
    pub commit_time_us: i64,
    /// How many source transactions it holds.
    pub transactions: u64,
    /// What the source's application could know of the target's by then: the position of the other link's last marker.
    pub context: Lsn,
}

/// Whole source transactions, or a part of a huge one.
#[derive(Debug)]
pub struct Batch {
    /// The sets, in the order in which they must be executed.
    pub segments: Vec<Vec<Set>>,
    /// Opens the target transaction. The position is for the marker: that of the closing, or, while the end of a huge
    /// source transaction is not known, its commit position.
    pub first: Option<Lsn>,
    /// Closes the target transaction; `None` while more parts follow.
    pub last: Option<Closing>,
    /// What the other link is to know of these source transactions.
    pub recent: Option<Recent>,
}

type Answer<'c> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'c>>;

/// What an answer must say.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Nothing,
    Checkpoint,
    Rows(usize, SetKind, Option<u64>),
    /// A COMMIT that waited for the target's disk.
    Durable(Lsn),
    /// One that did not.
    Committed(Lsn),
}

struct Sent<'c> {
    expected: Expected,
    answer: Answer<'c>,
    /// An answer that was there on the first poll: its future must not be polled again.
    early: Option<Result<u64, Error>>,
}

struct Open {
    /// For the position of problems.
    position: Lsn,
    counters: Counters,
    /// Every set of the transaction was sent; what is missing is COMMIT.
    closed: bool,
}

/// While more is waiting, a COMMIT waits for the disk after so many that did not,
const UNFLUSHED_MOST: u32 = 8;
/// or after this time, whichever comes first: the source keeps its log until then.
const UNFLUSHED_TIME: Duration = Duration::from_millis(500);

/// Writes a link's stream through one connection.
pub struct Writer<'c> {
    client: &'c Client,
    plan: Arc<Plan>,
    identity: LinkIdentity,
    /// Each row has its own statement and is awaited: finds the change to blame.
    pub strict: bool,
    /// Lists of the rows it writes follow them: the target may do more than it is told (L7).
    pub lists: bool,
    statements: Statements,
    marker: Statement,
    hold: Statement,
    advance: Statement,
    sent: VecDeque<Sent<'c>>,
    open: Option<Open>,
    /// Where the checkpoint stands once everything that was sent is committed.
    position: Lsn,
    /// Where it stands by the answers so far.
    committed: Lsn,
    durable: Lsn,
    /// Commits since the one that last waited for the disk, and when that was.
    unflushed: u32,
    flushed_at: Instant,
    broken: bool,
}

/// What every apply session needs besides the pinned settings. Rows are always found through the key's index: a plan
/// that was made while the table was small must not scan it when it has grown, and no compiler is to start for it.
const SESSION: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; \
    SET lock_timeout = '30s'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '10min'; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";

/// The lock that ADVANCE takes as well, without a version of the row that nobody would ever see.
const HOLD: &str = "SELECT FROM falkirk.checkpoint WHERE migration = $1::text AND link = $2::text \
    AND epoch = $3::int8 AND position = $4::pg_lsn FOR NO KEY UPDATE";

const ADVANCE: &str = "UPDATE falkirk.checkpoint SET position = $5::pg_lsn, committed_at = $6::timestamptz, artifact = $7::text, \
    transactions = transactions + $8::int8, inserted = inserted + $9::int8, updated = updated + $10::int8, \
    deleted = deleted + $11::int8, context = greatest(context, $12::pg_lsn), agreements = agreements + $13::int8, \
    updated_at = now() \
    WHERE migration = $1::text AND link = $2::text AND epoch = $3::int8 AND position = $4::pg_lsn";

impl<'c> Writer<'c> {
    /// A writer that goes on from the checkpoint's `position`. Sets up the session of `client`.
    pub async fn start(client: &'c Client, plan: Arc<Plan>, identity: LinkIdentity, position: Lsn) -> Outcome<Self> {
        let prepare = async {
            client.batch_execute(SESSION).await?;
            Ok((
                client.prepare(&format!("SELECT pg_logical_emit_message(true, '{PREFIX}', $1::bytea)")).await?,
                client.prepare(HOLD).await?,
                client.prepare(ADVANCE).await?,
            ))
        };
        let (marker, hold, advance) = prepare.await.map_err(|error| fault::refused(&error))?;
        Ok(Writer {
            client,
            plan,
            identity,
            strict: false,
            lists: false,
            statements: Statements::default(),
            marker,
            hold,
            advance,
            sent: VecDeque::new(),
            open: None,
            position,
            committed: position,
            durable: position,
            unflushed: 0,
            flushed_at: Instant::now(),
            broken: false,
        })
    }

    /// The position up to which the target has durably committed everything (L1).
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Another artifact computes the rows from the next transaction on (L11). Only between transactions.
    pub fn set_artifact(&mut self, artifact: [u8; 32]) {
        debug_assert!(self.open.as_ref().is_none_or(|open| open.closed), "a swap stands between transactions (L11)");
        self.identity.artifact = artifact;
    }

    /// Another plan holds from the next transaction on.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// Sends a batch and returns once the one before it was checked. Reports the durable position, which lies before
    /// this batch: `settle` brings it up. Not to be dropped half-way: the writer is of no more use then.
    pub async fn write(&mut self, batch: Batch) -> Outcome<Lsn> {
        self.usable()?;
        let continues = self.open.as_ref().is_some_and(|open| !open.closed);
        if continues == batch.first.is_some() {
            self.broken = true;
            return Err(Problem::stop(Blame::Host, "BATCH_ORDER", "a batch does not continue the open transaction"));
        }
        // Until the end is reached: a write that is dropped half-way has sent a part of the batch.
        self.broken = true;
        match self.write_sets(&batch).await {
            Ok(()) => {
                self.broken = false;
                Ok(self.durable)
            }
            Err(problem) => {
                // The earlier transaction's problems have named theirs; what is left belongs to this batch.
                let problem = match batch.last.map(|closing| closing.position).or(batch.first) {
                    Some(position) => problem.position(position),
                    None => problem,
                };
                Err(self.give_up(problem).await)
            }
        }
    }

    /// Waits until everything that was sent is checked and, if its transaction is closed, committed. Reports the
    /// durable position. May be dropped half-way and called again.
    pub async fn settle(&mut self) -> Outcome<Lsn> {
        self.usable()?;
        let run = async {
            self.check_all().await?;
            self.commit(false);
            self.check_all().await
        };
        match run.await {
            Ok(()) => Ok(self.durable),
            Err(problem) => Err(self.give_up(problem).await),
        }
    }

    fn usable(&self) -> Outcome<()> {
        match self.broken {
            false => Ok(()),
            true => Err(Problem::retry(Blame::Host, "WRITER_BROKEN", "the writer ended with an earlier problem")),
        }
    }

    async fn write_sets(&mut self, batch: &Batch) -> Outcome<()> {
        let sets: Vec<&Set> = batch.segments.iter().flatten().filter(|set| set.has_work()).collect();
        let bound = match self.strict {
            true => Vec::new(),
            false => self.bind(&sets).await?,
        };
        self.check_all().await?;
        // A large transaction in parts may take long: what stands before it is not to wait for its end.
        self.commit(!self.strict && batch.last.is_some());
        let mut counters = Counters::default();
        sets.iter().for_each(|set| bound::count(set, &mut counters));
        let whole = batch.last.filter(|_| batch.first.is_some());
        if let Some(position) = batch.first {
            self.begin(position, whole, counters, !sets.is_empty() || batch.recent.is_some() || whole.is_none());
        } else if let Some(open) = &mut self.open {
            open.counters += counters;
        }
        match self.strict {
            true => self.send_strictly(&sets).await?,
            false => bound.into_iter().for_each(|(bound, kind)| self.send_bound(bound, kind)),
        }
        if self.lists {
            self.list(&sets);
        }
        if let (Some(recent), Some(closing)) = (&batch.recent, batch.last) {
            self.keep_recent(closing.position, recent).await?;
        }
        if let Some(closing) = batch.last {
            self.close(closing, whole.is_some());
        }
        Ok(())
    }

    /// Encodes while the server still works on the transaction before.
    async fn bind(&mut self, sets: &[&Set]) -> Outcome<Vec<(Bound, SetKind)>> {
        let mut all = Vec::with_capacity(sets.len());
        for set in sets {
            if set.kind == SetKind::Truncate {
                let result = bound::truncate(self.client, &mut self.statements, &self.plan, set).await;
                all.push((self.prepared(result, set).await?, set.kind));
                continue;
            }
            for range in bound::ranges(set, self.strict) {
                let result = bound::rows(self.client, &mut self.statements, &self.plan, set, range).await;
                all.push((self.prepared(result, set).await?, set.kind));
            }
        }
        Ok(all)
    }

    /// A statement that cannot be prepared in a transaction that has failed says nothing: the earlier answer does.
    async fn prepared(&mut self, result: Result<Bound, Error>, set: &Set) -> Outcome<Bound> {
        match result {
            Ok(bound) => Ok(bound),
            Err(error) => {
                self.check_all().await?;
                Err(fault::written(&error, self.strict, Some(&self.plan.targets[set.target])))
            }
        }
    }

    async fn send_strictly(&mut self, sets: &[&Set]) -> Outcome<()> {
        self.check_all().await?;
        for set in sets {
            for (bound, kind) in self.bind(&[set]).await? {
                self.send_bound(bound, kind);
                self.check_all().await?;
            }
        }
        Ok(())
    }

    /// BEGIN, the marker and the checkpoint: in this order, outside any savepoint (L7, pitfalls 3.1).
    fn begin(&mut self, position: Lsn, whole: Option<Closing>, counters: Counters, marked: bool) {
        self.open = Some(Open { position, counters, closed: false });
        self.send_text(Expected::Nothing, "BEGIN ISOLATION LEVEL READ COMMITTED; SET CONSTRAINTS ALL DEFERRED");
        // A transaction without rows is not marked: nothing of it is sent to the other link, and a marker would be.
        if marked {
            let kind = if self.lists { MarkerKind::Listed } else { MarkerKind::Data };
            let bytes = self.identity.marker(kind, position).to_bytes();
            let marker = self.marker.clone();
            self.send(Expected::Nothing, marker, vec![Ready(Bytes::copy_from_slice(&bytes))]);
        }
        match whole {
            Some(closing) => self.send_advance(closing, counters),
            None => {
                let (statement, parameters) = (self.hold.clone(), self.condition());
                self.send(Expected::Checkpoint, statement, parameters);
            }
        }
    }

    fn close(&mut self, closing: Closing, advanced: bool) {
        if let Some(open) = &mut self.open {
            (open.position, open.closed) = (closing.position, true);
            let counters = open.counters;
            if !advanced {
                self.send_advance(closing, counters);
            }
        }
        self.position = closing.position;
    }

    /// The compare-and-set of the checkpoint: one row, or somebody else has written it (L2, pitfalls 3.2).
    fn send_advance(&mut self, closing: Closing, counters: Counters) {
        let mut parameters = self.condition();
        parameters.push(number(closing.position.0 as i64));
        parameters.push(number(closing.commit_time_us));
        parameters.push(Ready(Bytes::from(self.identity.artifact_text())));
        for count in [closing.transactions as i64, counters.inserted, counters.updated, counters.deleted] {
            parameters.push(number(count));
        }
        parameters.push(number(closing.context.0 as i64));
        parameters.push(number(counters.agreements));
        let statement = self.advance.clone();
        self.send(Expected::Checkpoint, statement, parameters);
    }

    fn condition(&self) -> Vec<Ready> {
        let text = |text: &str| Ready(Bytes::copy_from_slice(text.as_bytes()));
        vec![
            text(&self.identity.migration),
            text(self.identity.link.name()),
            number(self.identity.epoch),
            number(self.position.0 as i64),
        ]
    }

    /// `follows`: more is sent right behind it, so another COMMIT is sure to wait for the disk.
    fn commit(&mut self, follows: bool) {
        let Some(open) = self.open.take_if(|open| open.closed) else { return };
        if follows && self.unflushed < UNFLUSHED_MOST && self.flushed_at.elapsed() < UNFLUSHED_TIME {
            self.unflushed += 1;
            self.send_text(Expected::Committed(open.position), "SET LOCAL synchronous_commit = off; COMMIT");
        } else {
            (self.unflushed, self.flushed_at) = (0, Instant::now());
            self.send_text(Expected::Durable(open.position), "COMMIT");
        }
    }

    fn send_bound(&mut self, bound: Bound, kind: SetKind) {
        self.send(Expected::Rows(bound.target, kind, bound.rows), bound.statement, bound.parameters);
    }

    fn send(&mut self, expected: Expected, statement: Statement, parameters: Vec<Ready>) {
        let client = self.client;
        self.push(expected, Box::pin(async move { client.execute_raw(&statement, parameters).await }));
    }

    fn send_text(&mut self, expected: Expected, sql: &'static str) {
        let client = self.client;
        self.push(expected, Box::pin(async move { client.batch_execute(sql).await.map(|()| 0) }));
    }

    /// The first poll puts the request on the wire; the answer is awaited later. Nobody is woken by this poll: the
    /// connection's task reads the answer in any case, and `check_all` polls again with a waker of its own.
    fn push(&mut self, expected: Expected, mut answer: Answer<'c>) {
        let early = match answer.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        };
        self.sent.push_back(Sent { expected, answer, early });
    }

    /// Takes all answers in order and holds each against what it must say.
    async fn check_all(&mut self) -> Outcome<()> {
        while let Some(front) = self.sent.front_mut() {
            let result = match front.early.take() {
                Some(result) => result,
                None => poll_fn(|context| front.answer.as_mut().poll(context)).await,
            };
            let expected = front.expected;
            self.sent.pop_front();
            if let Err(problem) = self.check(expected, result).await {
                // Answers belong to the open transaction; that of a COMMIT has named its position itself.
                return Err(match &self.open {
                    Some(open) => problem.position(open.position),
                    None => problem,
                });
            }
        }
        Ok(())
    }

    async fn check(&mut self, expected: Expected, result: Result<u64, Error>) -> Outcome<()> {
        let at = |target: usize| &self.plan.targets[target];
        let count = match (result, expected) {
            (Ok(count), _) => count,
            (Err(error), Expected::Rows(target, ..)) => {
                return Err(self.with_key(fault::written(&error, self.strict, Some(at(target))), target));
            }
            // A constraint that is checked at the end: the position is that of the transaction that ends.
            (Err(error), Expected::Durable(position) | Expected::Committed(position)) => {
                return Err(fault::written(&error, self.strict, None).position(position));
            }
            (Err(error), _) => return Err(fault::written(&error, self.strict, None)),
        };
        match expected {
            Expected::Checkpoint if count != 1 => {
                // The other host's row must be read outside our transaction, which saw its own time only.
                // Before the first wait: a caller that stops waiting here must never get to a COMMIT (L1).
                (self.broken, self.open) = (true, None);
                self.sent.clear();
                let _ = self.client.batch_execute("ROLLBACK").await;
                let LinkIdentity { migration, link, epoch, .. } = &self.identity;
                Err(checkpoint::lost_hold(self.client, migration, *link, *epoch, Some(self.committed)).await)
            }
            Expected::Rows(target, kind, Some(rows)) if count != rows => {
                let what = format!("{kind:?} affected {count} rows instead of {rows}").to_lowercase();
                let problem = match self.strict {
                    false => Problem::strictly(Blame::Target, "ROWCOUNT", what),
                    true => Problem::stop(Blame::Target, "ROWCOUNT", what),
                };
                let problem = problem.table(&at(target).name).remedy(
                    "a row of the target is not what the link left there: find the second writer (or a trigger), \
                     then compare with `falkirk verify`",
                );
                Err(self.with_key(problem, target))
            }
            Expected::Committed(position) => {
                self.committed = position;
                Ok(())
            }
            Expected::Durable(position) => {
                // L1: only now, and only after a COMMIT that waited for the disk. A crash of the target may undo others.
                (self.committed, self.durable) = (position, position);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Names the key's column, if there is just one, where the server named none.
    fn with_key(&self, problem: Problem, target: usize) -> Problem {
        let target = &self.plan.targets[target];
        match (&*target.key, self.strict) {
            ([only], true) => problem.column(&target.columns[*only as usize].name),
            _ => problem,
        }
    }

    /// Lets go of the transaction and its locks. If the connection is gone, the server has let them go.
    async fn give_up(&mut self, problem: Problem) -> Problem {
        self.broken = true;
        self.sent.clear();
        self.open = None;
        let _ = self.client.batch_execute("ROLLBACK").await;
        problem
    }
}

fn number(value: i64) -> Ready {
    Ready(Bytes::copy_from_slice(&value.to_be_bytes()))
}
