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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::change::{Change, Commit, Datum, Event, Relation};
use crate::decode::Message;
use crate::lsn::Lsn;
use crate::marker::{self, Denial, Link, Marker, MarkerKind, MigrationId, RowDigest};
use crate::plan::Plan;
use crate::plan::parts::ALL;
use crate::problem::{Blame, Outcome, Problem};

use super::notes::Notebook;
use super::relations::{Bound, Relations};
use super::seen::{Note, Seen};

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
    /// What its application could know of the target: the position of the other link's last marker before it.
    pub knew: Lsn,
    /// The other link wrote it: it is not sent back and only shows in mirrors (L7).
    pub echo: bool,
}

/// The end of a transaction among collected changes.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How many changes stand up to it.
    pub changes: usize,
    /// Its commit.
    pub commit: Commit,
    /// The position of the other link's last marker before it.
    pub context: Lsn,
    /// Which rows it changed, for the other link; empty without one.
    pub notes: Vec<Note>,
}

/// What was collected so far, ready to be lifted.
#[derive(Debug, Default)]
pub struct Collected {
    /// Changes in source order.
    pub changes: Vec<Placed>,
    /// The first part of a target transaction.
    pub opens: bool,
    /// The transactions that end in it. Empty: a part of a large transaction, more follows.
    pub commits: Vec<Ended>,
    /// Commit position of the transaction that is open at its end.
    pub open_at: Lsn,
}

/// The source transaction that is being read.
#[derive(Debug)]
struct Open {
    commit_lsn: Lsn,
    skip: bool,
    /// The other link wrote it.
    echo: bool,
    /// The rows that the other link says it wrote, each as often as it did; what goes beyond is the source's own.
    listed: Option<HashMap<RowDigest, u32>>,
    /// The rows that the other link wrote and that count as the source's own.
    returned: HashSet<RowDigest>,
    /// Where its changes start in `changes`.
    start: usize,
    /// A part of it was handed on.
    parted: bool,
    notes: Vec<Note>,
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
    commits: Vec<Ended>,
    /// The position of the other link's last marker so far.
    context: Lsn,
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
    /// With another link: takes notes for it.
    pub notebook: Option<(Notebook, Arc<Seen>)>,
    /// Transactions that were skipped because the checkpoint contains them.
    pub repeated: u64,
    /// Transactions that were skipped because the other link wrote them.
    pub marked: u64,
}

impl Assembler {
    /// An assembler for a link that goes on from checkpoint `from` with its context, and ends at `until` if given.
    pub fn new((from, context): (Lsn, Lsn), until: Option<Lsn>, own: (MigrationId, Link)) -> Self {
        Assembler {
            from,
            until,
            own,
            open: None,
            changes: Vec::new(),
            commits: Vec::new(),
            context,
            bytes: 0,
            idle_at: Lsn::ZERO,
            problem: None,
            reached: false,
            parted_before: false,
            one_by_one: false,
            notebook: None,
            repeated: 0,
            marked: 0,
        }
    }

    /// The checkpoint from which it goes on.
    pub fn from(&self) -> Lsn {
        self.from
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
                self.open = Some(Open {
                    commit_lsn: final_lsn,
                    skip,
                    echo: false,
                    listed: None,
                    returned: HashSet::new(),
                    start: self.changes.len(),
                    parted: false,
                    notes: Vec::new(),
                });
                Ok(())
            }
            Message::Relation(relation) => match relations.describe(plan, &relation) {
                // What the checkpoint contains is not read again, whatever it looked like.
                Err(_) if self.skips() => Ok(()),
                described => described,
            },
            Message::Change(change) => {
                self.changed(change, plan, relations);
                Ok(())
            }
            Message::Logical { transactional, prefix, content } => {
                if transactional && prefix == marker::PREFIX {
                    self.logical(&content)
                } else {
                    Ok(())
                }
            }
            Message::Commit(commit) => {
                if let Some(mut open) = self.open.take() {
                    self.sort_out(&mut open, plan, relations);
                    self.close(open, commit);
                }
                self.pass(commit.end_lsn);
                Ok(())
            }
            Message::Origin => Ok(()),
        }
    }

    fn changed(&mut self, change: Change, plan: &Plan, relations: &Relations) {
        let Some(open) = self.open.as_mut().filter(|open| !open.skip || open.echo) else { return };
        if open.echo && !returns(open, &self.notebook, &change, relations) {
            if open.listed.is_some() || is_followed(&change, plan, relations) {
                self.bytes += change.weight_bytes();
                self.changes.push(Placed { change, at: open.commit_lsn, knew: self.context, echo: true });
            }
            return;
        }
        self.bytes += change.weight_bytes();
        if let Some((notebook, _)) = &self.notebook {
            notebook.note_change(&change, relations, &mut open.notes);
        }
        self.changes.push(Placed { change, at: open.commit_lsn, knew: self.context, echo: false });
    }

    fn logical(&mut self, content: &[u8]) -> Outcome<()> {
        self.signed(marker::parse_marker(content))?;
        self.listed(content);
        if let Some(open) = self.open.as_mut().filter(|open| open.echo) {
            open.returned.extend(marker::parse_returned(self.own.0, content).into_iter().flatten());
        }
        self.denied(marker::parse_denial(self.own.0, content));
        Ok(())
    }

    /// L7: what the other link of this migration wrote is not sent back. A marker of another migration is an ordinary
    /// message: chains of migrations still flow.
    fn signed(&mut self, marker: Option<Marker>) -> Outcome<()> {
        let (migration_id, link) = self.own;
        let echo = marker.filter(|marker| marker.migration_id == migration_id && marker.link == link.other());
        let (Some(open), Some(echo)) = (self.open.as_mut().filter(|open| !open.skip), echo) else { return Ok(()) };
        self.context = self.context.max(echo.position);
        if open.parted {
            return Err(Problem::stop(
                Blame::Host,
                "MARKER_LATE",
                "a transaction carries the other link's marker after its changes, of which a part was applied already",
            ));
        }
        (open.skip, open.echo) = (true, true);
        open.listed = (echo.kind == MarkerKind::Listed).then(HashMap::new);
        open.notes.clear();
        self.changes.truncate(open.start);
        self.marked += 1;
        Ok(())
    }

    fn listed(&mut self, content: &[u8]) {
        let Some(listed) = self.open.as_mut().and_then(|open| open.listed.as_mut()) else { return };
        for row in marker::parse_list(self.own.0, content).unwrap_or_default() {
            *listed.entry(row).or_default() += 1;
        }
    }

    /// L8: what the other link denies counts as a change of the row that is not there, and asks for the removal of the row
    /// that is.
    fn denied(&mut self, denial: Option<Denial>) {
        let (Some(open), Some(denial)) = (self.open.as_mut().filter(|open| !open.skip), denial) else { return };
        let records = [denial.row, denial.record, marker::denial_digest(denial.row)].into_iter();
        open.notes.extend(records.filter(|row| *row != 0).map(|row| (row, ALL)));
        let relation = Relation { oid: 0, name: denial.table, identity: b'd', columns: Vec::new() };
        let key = denial.key.into_iter().map(Datum::text).collect();
        let event = Event::Denied { key, details: denial.details };
        let change = Change { relation: Arc::new(relation), event };
        self.changes.push(Placed { change, at: open.commit_lsn, knew: self.context, echo: false });
    }

    /// L7: of a transaction that the other link has written, what it has not listed was done by the source's own triggers
    /// and cascades, and travels (counter-example 12).
    fn sort_out(&mut self, open: &mut Open, plan: &Plan, relations: &Relations) {
        let (Some(mut listed), Some((notebook, _))) = (open.listed.take(), &self.notebook) else { return };
        for mut placed in self.changes.split_off(open.start) {
            let rows = notebook.rows_of(&placed.change, relations);
            let wrote = |row: &RowDigest| listed.get(row).is_some_and(|times| *times > 0);
            let truncate = matches!(placed.change.event, Event::Truncate { .. });
            let echo = truncate || (!rows.is_empty() && rows.iter().all(wrote));
            if !placed.echo {
                self.changes.push(placed);
            } else if echo {
                rows.iter().for_each(|row| *listed.entry(*row).or_default() -= 1);
                if is_followed(&placed.change, plan, relations) {
                    self.changes.push(placed);
                }
            } else {
                placed.echo = false;
                notebook.note_change(&placed.change, relations, &mut open.notes);
                self.changes.push(placed);
            }
        }
    }

    /// L8: what a transaction changed is known to the other link before its position counts as passed.
    fn close(&mut self, open: Open, commit: Commit) {
        if let Some((_, seen)) = self.notebook.as_ref().filter(|_| !open.notes.is_empty()) {
            seen.note(open.commit_lsn, &open.notes);
        }
        self.idle_at = self.idle_at.max(commit.end_lsn);
        // A transaction without changes for this link (skipped, or of other tables) is nothing to write down at once:
        // the position moves past it with the next one that has some, or when the stream is idle.
        if open.parted || self.changes.len() > open.start {
            self.commits.push(Ended { changes: self.changes.len(), commit, context: self.context, notes: open.notes });
        }
    }

    /// L8: what another revision lifts is noted as that revision knows it, also what was read before the exchange.
    pub fn note_anew(&mut self, notebook: Notebook, relations: &Relations) {
        let Some((own, seen)) = &mut self.notebook else { return };
        if own.parts() != notebook.parts() {
            let mut start = 0;
            for ended in &mut self.commits {
                note_all(&notebook, &self.changes[start..ended.changes], relations, &mut ended.notes);
                seen.note(ended.commit.commit_lsn, &ended.notes);
                start = ended.changes;
            }
            if let Some(open) = &mut self.open {
                note_all(&notebook, &self.changes[open.start..], relations, &mut open.notes);
            }
        }
        *own = notebook;
    }

    fn pass(&self, position: Lsn) {
        self.notebook.iter().for_each(|(_, seen)| seen.pass(position));
    }

    /// The source says that it has nothing more up to `position`. Means nothing while a transaction is being read.
    pub fn idle(&mut self, position: Lsn) {
        if self.open.is_none() && !self.ended() {
            self.idle_at = self.idle_at.max(position);
            self.pass(position);
            self.reached |= self.until.is_some_and(|until| position >= until);
        }
    }

    /// The position up to which everything was seen, if nothing is held back.
    pub fn idle_position(&self) -> Option<Lsn> {
        (self.open.is_none() && self.changes.is_empty() && !self.ended()).then_some(self.idle_at)
    }

    /// The position of the other link's last marker so far.
    pub fn context(&self) -> Lsn {
        self.context
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

    /// Nothing of the transaction that is being read is looked at.
    fn skips(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.skip && !open.echo)
    }

    /// No target transaction is open: what comes next may be computed by another revision (L11).
    pub fn is_between(&self) -> bool {
        !self.parted_before && !self.ended()
    }

    /// Whether reading may halt before a description of this table and go on under another plan. Not while nothing of
    /// the transaction counts, and not if it has changed rows of the table before: one transaction, one revision (L11).
    pub fn can_wait_at(&self, oid: u32) -> bool {
        let Some(open) = &self.open else { return self.is_between() };
        let before = || self.changes[open.start..].iter().any(|placed| placed.change.relation.oid == oid);
        self.is_between() && !self.skips() && !before()
    }

    /// `until` was reached.
    pub fn reached(&self) -> bool {
        self.reached
    }

    /// The problem that counts once everything before it is applied.
    pub fn problem(&mut self) -> Option<Problem> {
        self.problem.take()
    }

    /// Everything that committed before it was read.
    pub fn seen_up_to(&self) -> Lsn {
        self.idle_at
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the batch is large enough to be handed on.
    pub fn full(&self) -> bool {
        // Nothing of a transaction may be handed on before it is known whose it is.
        if self.commits.is_empty() && self.open.as_ref().is_some_and(|open| open.listed.is_some()) {
            return false;
        }
        let large = self.bytes >= BATCH_BYTES || self.changes.len() >= PART_CHANGES;
        large || (!self.commits.is_empty() && (self.one_by_one || self.changes.len() >= BATCH_CHANGES))
    }

    /// Hands on what is complete; if nothing is complete and the batch is full, a part of the open transaction.
    pub fn cut(&mut self) -> Option<Collected> {
        // L3: while a change to blame is looked for, what stands before it must be committed before it is tried.
        let fit = self.commits.iter().take_while(|ended| ended.changes <= PART_CHANGES).count();
        let handed = if self.one_by_one { 1 } else { fit.max(1) };
        let whole = self.commits.get(handed.saturating_sub(1)).or(self.commits.last());
        if let Some(complete) = whole.map(|ended| ended.changes) {
            let handed = handed.min(self.commits.len());
            let rest = self.changes.split_off(complete);
            let changes = std::mem::replace(&mut self.changes, rest);
            let mut later = self.commits.split_off(handed);
            later.iter_mut().for_each(|ended| ended.changes -= complete);
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

fn note_all(notebook: &Notebook, changes: &[Placed], relations: &Relations, notes: &mut Vec<Note>) {
    let own = changes.iter().filter(|placed| !placed.echo);
    own.for_each(|placed| notebook.note_change(&placed.change, relations, notes));
}

/// Whether the other link wants back what it wrote there.
fn returns(open: &Open, notebook: &Option<(Notebook, Arc<Seen>)>, change: &Change, relations: &Relations) -> bool {
    let Some((notebook, _)) = notebook.as_ref().filter(|_| !open.returned.is_empty()) else { return false };
    notebook.rows_of(change, relations).iter().any(|row| open.returned.contains(row))
}

/// Counter-example 4: mirrors hold the rows of the other link as well, and pairs are those of its rows.
fn is_followed(change: &Change, plan: &Plan, relations: &Relations) -> bool {
    match relations.get(&change.relation) {
        Some(Bound::Source { source, .. }) => {
            let depends = &plan.sources[*source].depends;
            depends.mirror.is_some() || !depends.binds.is_empty()
        }
        Some(Bound::LeftOut) | None => false,
    }
}
