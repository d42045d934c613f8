//! Deciding conflicts: which of a source's changes are written when the target has an application of its own (L8).
//!
//! ```text
//!   change --lift--> claims --decide--> operations --fold--> sets
//!                              |
//!                              +--> conflicts, agreements, reassertions, a verdict
//! ```
//!
//! Two changes of one part of one row conflict if neither knew of the other. Values do not decide this
//! (counter-example 2): a claim knows the last position of the target that its source had received when it was made,
//! and the target tells what its own application changed after that. One side wins, by table:
//!
//! - the winner's claims are always written: a patch that finds no row inserts the whole row, an insert that finds one
//!   writes its columns, a delete that finds none is agreement (counter-examples 10, 11);
//! - the loser's claims are written unless they conflict; then they are left out and recorded;
//! - where neither wins, a conflict ends the batch before its transaction, until an operator has decided.
//!
//! What is left out here has to be undone over there. Usually the winner's change does that when it arrives. It does not
//! where the loser's change concerned the row's existence and the winner's only a column: the loser deleted and
//! inserted the row anew, and the winner's patch would fill one column of the new row only. Then the winner asserts the
//! row again: see [`Reassertion`]. Nor does it where the winner removed a row that was not there: nothing was locked, and
//! the loser's may have come a moment before that commit. Then the winner denies it: see [`Absence`].
//!
//! Where rows of several tables stand for one row (`plan::records`), a conflict is one of all of them, and the winner's
//! claims say as well which rows are not there. A detail's being there is a value like any other.
//!
//! No decision depends on how source transactions were cut into batches (counter-example 31). What it cannot see: two
//! rows of different keys that claim one unique value (counter-example 35); the statement fails, and the row is parked:
//! each of its later changes tries to write the whole of it.

mod outcome;
mod records;
mod rows;

use std::collections::HashMap;

use crate::change::Datum;
use crate::delta::{ANY_OWNER, Effect, Key, Operation, Whole};
use crate::lsn::Lsn;
use crate::plan::parts::{ALL, EXISTENCE};
use crate::plan::records::Record;
use crate::plan::{Columns, Target};

pub use outcome::{Absence, Conflict, Lost, Outcome, Reassertion, Verdict};
pub use records::{denied, details_last, kin};
pub use rows::key_of;
use rows::{joined, part_of, select, unexpected};

/// An operation that a source's change asks for, and what that change knew of the target.
///
/// With both links on, every output row that a changed source row stands for makes a claim, also if nothing of it was
/// written: an empty patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What lifting made of the change.
    pub operation: Operation,
    /// The whole row as an insert would write it, key included. Needed for patches and rekeys; for a soft delete, the
    /// old row with the columns of `on_delete: set`.
    pub whole: Option<Whole>,
    /// The parts of the source row that its application changed: `LinkParts::of_source`, or `ALL` where the row came
    /// into being, ceased or got another key.
    pub changed: u64,
    /// The target position up to which the source had received the target's changes: the one in the last marker of the
    /// other link before this change, in commit order.
    pub knew: Lsn,
    /// The commit position of the change in the source.
    pub at: Lsn,
    /// The source row: position in `Plan::sources`, and the key by which the other link finds it. `None` if that link
    /// never writes the table.
    pub from: Option<(usize, Key)>,
}

/// What a target says about its rows, as they stand locked at the start of the target transaction.
pub trait Facts {
    /// Whether the row is there.
    fn exists(&self, target: usize, key: &Key) -> bool;

    /// The parts that the target's own application changed, or that were asserted again, after this target position, of
    /// the row or of any other row of its record. An insert, a delete and both ends of a change of key are `ALL`. Never
    /// too little: the target's log has to be decoded up to the moment of the lock.
    fn changed(&self, target: usize, key: &Key, after: Lsn) -> u64;

    /// The same of this one row: what is on its way to the source.
    fn changed_row(&self, target: usize, key: &Key, after: Lsn) -> u64 {
        self.changed(target, key, after)
    }

    /// Whether the row was asserted again for this very decision.
    fn asserted(&self, _target: usize, _key: &Key) -> bool {
        false
    }

    /// Whether the row was to be asserted again for this very decision and was not there: this transaction makes it, and
    /// must not, because what lost afterwards could not be sent.
    fn barred(&self, _target: usize, _key: &Key) -> bool {
        false
    }

    /// Whether it was said after this target position that the source must not have the row (`marker::Denial`).
    fn denied_since(&self, _target: usize, _key: &Key, _after: Lsn) -> bool {
        false
    }

    /// Whether that was said for this very decision.
    fn denied(&self, _target: usize, _key: &Key) -> bool {
        false
    }

    /// Whether the target's application made or replaced the pair of keys from which the row's key follows, after this
    /// target position: rows moved with it.
    fn moved(&self, _target: usize, _key: &Key, _after: Lsn) -> bool {
        false
    }

    /// Whether the row holds this value of a pair of keys already, for whatever reason.
    fn holds(&self, _target: usize, _key: &Key, _column: u16, _value: &Datum) -> bool {
        false
    }

    /// What an operator decided for this claim on this row, or on another of its record, under [`Standing::Stops`].
    fn resolved(&self, _claim: &Claim, _key: &Key) -> Option<Standing> {
        None
    }

    /// Whether the row is not there only because of others: one holds a unique value of it (counter-example 35), or its
    /// parent is missing.
    fn parked(&self, _target: usize, _key: &Key) -> bool {
        false
    }

    /// Whether the target's application deleted the row and the source has it still, for the rows that refer to it there:
    /// it comes back.
    fn kept(&self, _target: usize, _key: &Key) -> bool {
        false
    }
}

/// How the source's claims stand against the target's application, by table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The source wins.
    Wins,
    /// The target wins.
    Yields,
    /// Nobody does: a conflict stops the link.
    Stops,
}

/// What decisions are made by, beside the facts.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'p> {
    /// `Plan::targets`.
    pub targets: &'p [Target],
    /// `LinkParts::targets`.
    pub parts: &'p [Box<[u64]>],
    /// `LinkParts::records`.
    pub records: &'p [Option<Record>],
    /// `LinkParts::cleared`.
    pub cleared: &'p [Columns],
    /// By target.
    pub standings: &'p [Standing],
    /// `LinkParts::twins`.
    pub twins: &'p [Box<[usize]>],
}

/// Decides the claims of one target transaction, in source order.
pub fn decide(rules: Rules<'_>, facts: &impl Facts, claims: Vec<Claim>) -> Outcome {
    let mut judge = Judge { rules, facts, exists: HashMap::new(), outcome: Outcome::default() };
    // Where the open source transaction began: how many operations, conflicts, agreements.
    let mut open = (None, (0, 0, 0));
    for claim in claims {
        if open.0 != Some(claim.at) {
            let so_far = &judge.outcome;
            open = (Some(claim.at), (so_far.operations.len(), so_far.conflicts.len(), so_far.agreements));
        }
        if let Err(verdict) = judge.judge(claim) {
            // L4: nothing of a transaction that cannot be written whole. What it needs to be asserted again may be what
            // explains the rest of it.
            let (operations, conflicts, agreements) = open.1;
            judge.outcome.operations.truncate(operations);
            judge.outcome.conflicts.truncate(conflicts);
            judge.outcome.agreements = agreements;
            judge.outcome.verdict = Some(*verdict);
            break;
        }
    }
    judge.outcome.reassertions = joined(judge.outcome.reassertions);
    judge.outcome
}

struct Judge<'p, F> {
    rules: Rules<'p>,
    facts: &'p F,
    /// Rows that this transaction made or removed.
    exists: HashMap<(usize, Key), bool>,
    outcome: Outcome,
}

/// Why the source's claim gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losing {
    /// The target wins.
    ByPolicy,
    /// An operator has said so.
    ByWord,
    /// It does not: nobody has said who wins.
    Undecided,
}

type Judged = Result<(), Box<Verdict>>;

impl<F: Facts> Judge<'_, F> {
    fn judge(&mut self, claim: Claim) -> Judged {
        let target = claim.operation.target;
        if self.rules.targets[target].internal {
            // Falkirk's own tables have one writer.
            self.outcome.operations.push(claim.operation);
            return Ok(());
        }
        let key = match &claim.operation.effect {
            Effect::Truncate { targets } if targets.is_empty() => return Ok(()),
            Effect::Truncate { .. } => return Err(Box::new(Verdict::Truncate { target, at: claim.at })),
            // What is ensured cannot be lost: it is there in any case.
            Effect::Ensure { .. } => {
                self.outcome.operations.push(claim.operation);
                return Ok(());
            }
            Effect::Insert { columns, values } => key_of(&self.rules.targets[target], columns, values),
            Effect::Patch { key, .. }
            | Effect::Clear { key, .. }
            | Effect::Delete { key }
            | Effect::Absent { key }
            | Effect::Rekey { from: key, .. } => key.clone(),
        };
        let standing = self.rules.standings[target];
        let word = if standing == Standing::Stops { self.facts.resolved(&claim, &key) } else { None };
        let whole = word == Some(Standing::Wins) && self.is_of_existence(&claim, &key);
        if self.is_beside(&claim) && !whole {
            return Ok(());
        }
        match (word, standing) {
            (Some(Standing::Wins), _) if whole => self.win_whole(claim, key),
            (Some(Standing::Wins), _) | (None, Standing::Wins) => self.win(claim, key),
            (Some(Standing::Yields), _) => self.yield_to(claim, key, Losing::ByWord),
            (None, Standing::Yields) => self.yield_to(claim, key, Losing::ByPolicy),
            (_, Standing::Stops) | (Some(Standing::Stops), _) => self.yield_to(claim, key, Losing::Undecided),
        }
    }

    /// The winner's claim is written, whatever the target's row is like.
    fn win(&mut self, claim: Claim, key: Key) -> Judged {
        let target = claim.operation.target;
        let here = self.exists(target, &key);
        match &claim.operation.effect {
            Effect::Insert { columns, values } => self.write_row(&claim, key, columns, values),
            // The row that it describes is gone: whoever removed it has to answer for that on the other link.
            Effect::Patch { .. } if claim.operation.owner_before == ANY_OWNER && !here => self.outcome.agreements += 1,
            Effect::Patch { .. } | Effect::Rekey { .. } if claim.whole.is_none() && !here => {
                return Err(unexpected(&claim, key));
            }
            Effect::Patch { columns, values, .. } => match &claim.whole {
                Some((all, whole)) if !here => self.write_row(&claim, key, all, whole),
                Some(whole) => {
                    let (columns, values) = self.with_parts(&claim, (columns, values), whole);
                    self.patch(&claim, key, columns, values);
                }
                None => self.patch(&claim, key, columns.clone(), values.clone()),
            },
            Effect::Delete { .. } if here => self.apply(&claim, Effect::Delete { key }),
            Effect::Delete { .. } => self.outcome.agreements += 1,
            Effect::Absent { .. } if here => self.apply(&claim, Effect::Delete { key }),
            Effect::Rekey { to, .. } => {
                let Some((all, whole)) = &claim.whole else { return Err(unexpected(&claim, key)) };
                let to = to.clone();
                if here && !self.exists(target, &to) {
                    // The whole row: what the loser changed under the old key has lost, and the new key brings it along.
                    let (columns, values) = self.without_details(target, self.without_key(target, all, whole));
                    self.apply(&claim, Effect::Rekey { from: key, to, columns, values });
                } else {
                    if here {
                        self.apply(&claim, Effect::Delete { key });
                    }
                    self.write_row(&claim, to, all, whole);
                }
            }
            Effect::Clear { .. } => self.apply(&claim, claim.operation.effect.clone()),
            Effect::Truncate { .. } | Effect::Ensure { .. } | Effect::Absent { .. } => {}
        }
        Ok(())
    }

    /// The loser's claim is written unless it conflicts.
    fn yield_to(&mut self, claim: Claim, key: Key, losing: Losing) -> Judged {
        let target = claim.operation.target;
        let here = self.exists(target, &key);
        if !here && let Some((insert, key)) = self.anew(&claim, &key) {
            return self.yield_to(insert, key, losing);
        }
        let moved = self.moved(&claim, &key, here);
        let record = self.facts.changed(target, &key, claim.knew) | self.barred(target, &key) | moved;
        let theirs = record & self.detail(target).unwrap_or(ALL);
        // A detail is there or not whatever happens to its row, unless the row itself comes or goes.
        let at_all = theirs != 0 || (record != 0 && claim.changed == ALL);
        match &claim.operation.effect {
            Effect::Absent { .. } => Ok(()),
            Effect::Insert { columns, values } if theirs != 0 || (here && at_all) => {
                self.lose(&claim, key, Lost::Insert, (columns.clone(), values.clone()), losing)
            }
            // The link that moved its key took the row away on the source, and the source made it once more; what is sent
            // back is the row as this transaction leaves it.
            Effect::Insert { columns, values } if here && self.comes_back(target, &key) => {
                self.write_row(&claim, key, columns, values);
                Ok(())
            }
            Effect::Insert { .. } if here => Err(unexpected(&claim, key)),
            Effect::Delete { .. } if !here => match self.stands_elsewhere(&claim, &key, theirs) {
                Some((claim, key)) => self.lose(&claim, key, Lost::Delete, (Columns::from([]), Box::from([])), losing),
                None => self.agree(),
            },
            Effect::Delete { .. } if at_all => {
                self.lose(&claim, key, Lost::Delete, (Columns::from([]), Box::from([])), losing)
            }
            Effect::Patch { columns, .. } if columns.is_empty() => Ok(()),
            Effect::Patch { .. } | Effect::Clear { .. } if !here && self.lets_go(&claim, &key, theirs) => self.agree(),
            Effect::Patch { .. } if !here && theirs & (EXISTENCE | self.detail(target).unwrap_or(0)) == 0 => {
                Err(unexpected(&claim, key))
            }
            Effect::Patch { columns, values, .. } | Effect::Clear { columns, values, .. } => {
                self.yield_patch(&claim, key, (columns, values), theirs, losing)
            }
            Effect::Rekey { to, .. } => self.yield_rekey(&claim, (&key, to), (here, record), losing),
            effect => {
                let effect = effect.clone();
                if matches!(losing, Losing::ByPolicy) {
                    self.come_back(&claim, &key, &effect);
                }
                self.apply(&claim, effect);
                Ok(())
            }
        }
    }

    /// A rekey conflicts on either of its keys; then it is a delete and an insert.
    fn yield_rekey(
        &mut self,
        claim: &Claim,
        (key, to): (&Key, &Key),
        (here, record): (bool, u64),
        losing: Losing,
    ) -> Judged {
        let target = claim.operation.target;
        let moved = if self.exists(target, to) { self.moved(claim, to, true) } else { 0 };
        let theirs = record | moved | self.facts.changed(target, to, claim.knew);
        match &claim.whole {
            Some((columns, values)) if theirs != 0 => {
                let insert = Effect::Insert { columns: columns.clone(), values: values.clone() };
                self.yield_to(part_of(claim, Effect::Delete { key: key.clone() }), key.clone(), losing)?;
                self.yield_to(part_of(claim, insert), to.clone(), losing)
            }
            _ if theirs != 0 || !here || self.exists(target, to) => Err(unexpected(claim, key.clone())),
            _ => {
                self.apply(claim, claim.operation.effect.clone());
                Ok(())
            }
        }
    }

    /// A patch loses the columns of the parts that the winner changed; all of them if either side's change concerns
    /// whether the row is there.
    fn yield_patch(
        &mut self,
        claim: &Claim,
        key: Key,
        (columns, values): (&Columns, &[Datum]),
        theirs: u64,
        losing: Losing,
    ) -> Judged {
        let parts = self.rules.parts[claim.operation.target].as_ref();
        let ours = columns.iter().fold(self.ours(claim), |mask, column| mask | parts[usize::from(*column)]);
        let all = theirs != 0 && (ours | theirs) & EXISTENCE != 0;
        // Both sides say the same: which keys are a pair is one thing for both.
        let agrees = |column: &u16| self.agrees(claim, &key, (columns, values), *column);
        let loses = |column: &u16| (all || parts[usize::from(*column)] & theirs != 0) && !agrees(column);
        let lost = select(columns, values, loses);
        let kept = select(columns, values, |column| !loses(column));
        if lost.0.is_empty() {
            self.apply(claim, claim.operation.effect.clone());
            return Ok(());
        }
        self.lose(claim, key.clone(), Lost::Patch, lost, losing)?;
        if !kept.0.is_empty() {
            self.patch(claim, key, kept.0, kept.1);
        }
        Ok(())
    }

    /// L3: what is left out is recorded, or stops the link.
    fn lose(
        &mut self,
        claim: &Claim,
        key: Key,
        lost: Lost,
        (columns, values): (Columns, Box<[Datum]>),
        losing: Losing,
    ) -> Judged {
        let target = claim.operation.target;
        let (knew, at) = (claim.knew, claim.at);
        let parts = self.lost_parts(claim, lost, &columns);
        // Of a row that is gone, whoever takes the change after all needs everything; only its owner knows that.
        let owns = claim.operation.owner_before != ANY_OWNER;
        let (columns, values) = match (&claim.whole, lost) {
            (Some(whole), Lost::Patch) if owns && !self.exists(target, &key) => whole.clone(),
            _ => (columns, values),
        };
        let conflict = Conflict { target, key: key.clone(), lost, columns, values, knew, at, from: claim.from.clone() };
        match losing {
            Losing::Undecided => return Err(Box::new(Verdict::Stop(conflict))),
            Losing::ByPolicy => {
                self.assert_again(claim, &key, parts);
                self.assert_absent(claim, &key, parts);
            }
            // The other link hears the same word and writes its row whole; what is sent now would come after the word.
            Losing::ByWord => {}
        }
        self.outcome.conflicts.push(conflict);
        Ok(())
    }

    /// What is asked for is so already.
    fn agree(&mut self) -> Judged {
        self.outcome.agreements += 1;
        Ok(())
    }

    fn barred(&self, target: usize, key: &Key) -> u64 {
        if self.facts.barred(target, key) { ALL } else { 0 }
    }

    fn exists(&self, target: usize, key: &Key) -> bool {
        let known = self.exists.get(&(target, key.clone())).copied();
        known.unwrap_or_else(|| self.facts.exists(target, key))
    }

    fn apply(&mut self, claim: &Claim, effect: Effect) {
        let target = claim.operation.target;
        match &effect {
            Effect::Insert { columns, values } => {
                let key = key_of(&self.rules.targets[target], columns, values);
                self.exists.insert((target, key), true);
            }
            Effect::Delete { key } => {
                self.exists.insert((target, key.clone()), false);
            }
            Effect::Rekey { from, to, .. } => {
                self.exists.insert((target, from.clone()), false);
                self.exists.insert((target, to.clone()), true);
            }
            Effect::Patch { .. }
            | Effect::Ensure { .. }
            | Effect::Clear { .. }
            | Effect::Absent { .. }
            | Effect::Truncate { .. } => {}
        }
        self.outcome.operations.push(Operation { effect, ..claim.operation.clone() });
    }
}
