//! Assembling: messages of the stream become batches of whole source transactions (L4).
//!
//! ```text
//!   begin change change commit | begin change ...
//!   '------ complete --------'   '--- open ---
//! ```
//!
//! A batch is cut at a commit as soon as it is large enough or nothing more is waiting. Only a transaction that is too
//! large to be held is cut inside; its parts share one target transaction.
//!
//! Skipped are transactions that the checkpoint contains already (L2: a slot goes back after a crash of the source),
//! and those that carry the marker of the other link of this migration (L7). Both are counted, neither is a loss.

use crate::change::{Change, Commit};
use crate::decode::Message;
use crate::lsn::Lsn;
use crate::marker::{self, Link, Marker, MigrationId};
use crate::plan::Plan;
use crate::problem::{Blame, Outcome, Problem};

use super::relations::Relations;

/// Changes after which a batch is handed on at the next commit.
pub const BATCH_CHANGES: usize = 20_000;
/// Changes of one transaction that are held before a part of it is handed on.
pub const PART_CHANGES: usize = 30_000;
/// Bytes after which a batch, or a part, is handed on.
pub const BATCH_BYTES: usize = 16 << 20;

/// A change with what is needed to place it.
#[derive(Debug)]
pub struct Placed {
    /// The change.
    pub change: Change,
    /// The commit position of its transaction.
    pub at: Lsn,
}

/// What was collected so far, ready to be lifted.
#[derive(Debug, Default)]
pub struct Collected {
    /// Changes in source order.
    pub changes: Vec<Placed>,
    /// The first part of a target transaction.
    pub opens: bool,
    /// The transactions that end in it: how many changes of the batch stand up to their end, and their commit. Empty:
    /// a part of a large transaction, more follows.
    pub commits: Vec<(usize, Commit)>,
    /// Commit position of the transaction that is open at its end.
    pub open_at: Lsn,
}

/// The source transaction that is being read.
#[derive(Debug)]
struct Open {
    commit_lsn: Lsn,
    skip: bool,
    /// Where its changes start in `changes`.
    start: usize,
    /// A part of it was handed on.
    parted: bool,
}

/// Assembles batches.
#[derive(Debug)]
pub struct Assembler {
    /// Transactions that committed before it are in the target already.
    from: Lsn,
    /// Stop before the first transaction that committed at or after it.
    until: Option<Lsn>,
    own: (MigrationId, Link),
    open: Option<Open>,
    changes: Vec<Placed>,
    /// Ends of complete transactions in `changes`.
    commits: Vec<(usize, Commit)>,
    bytes: usize,
    /// Everything up to here was seen and nothing of it is held back.
    idle_at: Lsn,
    /// A problem that counts once everything before it is applied.
    problem: Option<Problem>,
    reached: bool,
    /// The next cut closes a target transaction that a part has opened.
    parted_before: bool,
    /// Each transaction is a batch of its own: while a change to blame is looked for.
    pub one_by_one: bool,
    /// Transactions that were skipped because the checkpoint contains them.
    pub repeated: u64,
    /// Transactions that were skipped because the other link wrote them.
    pub marked: u64,
}

impl Assembler {
    /// An assembler for a link that goes on from checkpoint `from`, and ends at `until` if given.
    pub fn new(from: Lsn, until: Option<Lsn>, own: (MigrationId, Link)) -> Self {
        Assembler {
            from,
            until,
            own,
            open: None,
            changes: Vec::new(),
            commits: Vec::new(),
            bytes: 0,
            idle_at: Lsn::ZERO,
            problem: None,
            reached: false,
            parted_before: false,
            one_by_one: false,
            repeated: 0,
            marked: 0,
        }
    }

    /// Takes the next message. Everything after a problem, or after `until`, is left alone.
    pub fn take(&mut self, message: Message, plan: &Plan, relations: &mut Relations) {
        if self.ended() {
            return;
        }
        if let Err(problem) = self.try_take(message, plan, relations) {
            let at = self.open.as_ref().map(|open| open.commit_lsn);
            self.problem = Some(match at {
                Some(at) => problem.position(at),
                None => problem,
            });
            if let Some(open) = self.open.take_if(|open| !open.parted) {
                self.changes.truncate(open.start);
            }
        }
    }

    fn try_take(&mut self, message: Message, plan: &Plan, relations: &mut Relations) -> Outcome<()> {
        match message {
            Message::Begin { final_lsn, .. } => {
                if self.until.is_some_and(|until| final_lsn >= until) {
                    self.reached = true;
                    return Ok(());
                }
                // L2: the checkpoint holds an end of a commit, so what committed before it is in the target.
                let skip = final_lsn < self.from;
                self.repeated += u64::from(skip);
                self.open = Some(Open { commit_lsn: final_lsn, skip, start: self.changes.len(), parted: false });
                Ok(())
            }
            Message::Relation(relation) => relations.describe(plan, &relation),
            Message::Change(change) => {
                let Some(open) = self.open.as_ref().filter(|open| !open.skip) else { return Ok(()) };
                self.bytes += change.weight_bytes();
                self.changes.push(Placed { change, at: open.commit_lsn });
                Ok(())
            }
            Message::Logical { transactional, prefix, content } => {
                if transactional && prefix == marker::PREFIX {
                    self.signed(marker::parse_marker(&content))?;
                }
                Ok(())
            }
            Message::Commit(commit) => {
                if let Some(open) = self.open.take() {
                    self.close(&open, commit);
                }
                Ok(())
            }
            Message::Origin => Ok(()),
        }
    }

    /// L7: what the other link of this migration wrote is not sent back. A marker of another migration is an ordinary
    /// message: chains of migrations still flow.
    fn signed(&mut self, marker: Option<Marker>) -> Outcome<()> {
        let (migration_id, link) = self.own;
        let echo = marker.is_some_and(|marker| marker.migration_id == migration_id && marker.link == link.other());
        let Some(open) = self.open.as_mut().filter(|open| echo && !open.skip) else { return Ok(()) };
        if open.parted {
            return Err(Problem::stop(
                Blame::Host,
                "MARKER_LATE",
                "a transaction carries the other link's marker after its changes, of which a part was applied already",
            ));
        }
        open.skip = true;
        self.changes.truncate(open.start);
        self.marked += 1;
        Ok(())
    }

    fn close(&mut self, open: &Open, commit: Commit) {
        self.idle_at = self.idle_at.max(commit.end_lsn);
        // A transaction without changes for this link (skipped, or of other tables) is nothing to write down at once:
        // the position moves past it with the next one that has some, or when the stream is idle.
        if open.parted || self.changes.len() > open.start {
            self.commits.push((self.changes.len(), commit));
        }
    }

    /// The source says that it has nothing more up to `position`. Means nothing while a transaction is being read.
    pub fn idle(&mut self, position: Lsn) {
        if self.open.is_none() && !self.ended() {
            self.idle_at = self.idle_at.max(position);
            self.reached |= self.until.is_some_and(|until| position >= until);
        }
    }

    /// The position up to which everything was seen, if nothing is held back.
    pub fn idle_position(&self) -> Option<Lsn> {
        (self.open.is_none() && self.changes.is_empty() && !self.ended()).then_some(self.idle_at)
    }

    /// Nothing more is taken: a problem, or `until` was reached.
    pub fn ended(&self) -> bool {
        self.problem.is_some() || self.reached
    }

    /// Whether a whole transaction waits to be handed on.
    pub fn has_complete(&self) -> bool {
        !self.commits.is_empty()
    }

    /// Nothing more is taken: `problem` counts once what was handed on is applied.
    pub fn end_with(&mut self, problem: Problem) {
        self.problem = Some(problem);
        self.open = None;
        self.changes.clear();
        self.commits.clear();
    }

    /// `until` was reached.
    pub fn reached(&self) -> bool {
        self.reached
    }

    /// The problem that counts once everything before it is applied.
    pub fn problem(&mut self) -> Option<Problem> {
        self.problem.take()
    }

    /// Whether the batch is large enough to be handed on.
    pub fn full(&self) -> bool {
        let large = self.bytes >= BATCH_BYTES || self.changes.len() >= PART_CHANGES;
        large || (!self.commits.is_empty() && (self.one_by_one || self.changes.len() >= BATCH_CHANGES))
    }

    /// Hands on what is complete; if nothing is complete and the batch is full, a part of the open transaction.
    pub fn cut(&mut self) -> Option<Collected> {
        // L3: while a change to blame is looked for, what stands before it must be committed before it is tried.
        let whole = if self.one_by_one { self.commits.first() } else { self.commits.last() };
        if let Some((complete, _)) = whole.copied() {
            let handed = if self.one_by_one { 1 } else { self.commits.len() };
            let rest = self.changes.split_off(complete);
            let changes = std::mem::replace(&mut self.changes, rest);
            let mut later = self.commits.split_off(handed);
            later.iter_mut().for_each(|(end, _)| *end -= complete);
            let commits = std::mem::replace(&mut self.commits, later);
            if let Some(open) = &mut self.open {
                open.start = open.start.saturating_sub(complete);
            }
            self.bytes = self.changes.iter().map(|placed| placed.change.weight_bytes()).sum();
            let opens = !std::mem::take(&mut self.parted_before);
            return Some(Collected { changes, opens, commits, open_at: Lsn::ZERO });
        }
        let full = self.full();
        let open = self.open.as_mut().filter(|_| full)?;
        let opens = !open.parted;
        open.parted = true;
        open.start = 0;
        self.parted_before = true;
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        Some(Collected { changes, opens, commits: Vec::new(), open_at: open.commit_lsn })
    }
}
