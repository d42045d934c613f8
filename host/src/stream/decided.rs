//! Deciding a batch while both links write (L8): lock its rows, know what the target's application has done to them,
//! decide, fold, write.
//!
//! ```text
//!   claims --> open, lock --> [ wait until the other link has read the target up to now ] --> decide --> fold --> write
//!                  ^                       | it takes too long: let the locks go and wait without them
//!                  '-----------------------'
//! ```
//!
//! The rule itself is pure and stands in `delta::decide`. Nothing is decided from values: what counts is who knew of whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::apply::writer::{Batch, Closing, Lost, Recent, Writer, other_link_silent};
use crate::change::Datum;
use crate::delta::decide::{self, Claim, Facts, Rules, Standing, Verdict};
use crate::delta::fold::Folder;
use crate::delta::{Effect, Key, Operation};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::marker::{RowDigest, denial_digest, record_digest, row_digest};
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::plan::parts::LinkParts;
use crate::problem::{Blame, Outcome, Problem};

use super::asserted::Said;
use super::paired::{Paired, Pairs};
use super::seen::Seen;
use super::settled::Settled;

/// How long the rows of a batch stay locked while the other link reads on.
pub(super) const PATIENCE_LOCKED: Duration = Duration::from_millis(500);
/// How often it is looked for a row that was committed and is not seen yet.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a batch waits for the other link without holding anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Operations that are still to be decided, in source order.
pub(super) struct Claims {
    pub(super) claims: Vec<Claim>,
    /// The pairs of keys by which they were lifted.
    pub(super) pairs: Pairs,
    pub(super) first: Option<Lsn>,
    pub(super) last: Option<Closing>,
    pub(super) recent: Option<Recent>,
}

/// By what it is decided; another revision brings its own.
pub struct Ruled {
    /// How the link stands, by target.
    pub standings: Vec<Standing>,
    /// The parts of columns.
    pub parts: LinkParts,
    /// By source: the names of the columns by which the other link finds its rows.
    pub source_keys: Vec<Option<Vec<String>>>,
}

/// Decides the batches of one link.
pub struct Deciding {
    /// By what.
    pub ruled: Ruled,
    /// The side that this link writes.
    pub target_name: &'static str,
    /// What the other link has seen of the target.
    pub theirs: Arc<Seen>,
    /// What this link has seen of the source, and what it kept.
    pub ours: Arc<Seen>,
    /// Whether the other link writes as well, and pairs keys.
    pub other_applies: bool,
    /// What was decided before.
    pub settled: Settled,
    /// A session of the target, to make the other link's source say how far it is.
    pub nudge: Session,
}

/// What is known about the rows of one batch.
struct Known<'k> {
    plan: &'k Plan,
    parts: &'k LinkParts,
    there: HashMap<(usize, Key), bool>,
    theirs: &'k Seen,
    settled: &'k Settled,
    said: &'k Said,
    paired: &'k Paired,
}

impl Facts for Known<'_> {
    fn exists(&self, target: usize, key: &Key) -> bool {
        self.there.get(&(target, key.clone())).copied().unwrap_or(false)
    }

    fn changed(&self, target: usize, key: &Key, after: Lsn) -> u64 {
        match self.parts.records().get(target).and_then(Option::as_ref) {
            None => self.changed_row(target, key, after),
            Some(record) => {
                let values = record.order.iter().map(|at| text_of(&key[*at]));
                self.theirs.changed(record_digest(&record.family, values), after)
            }
        }
    }

    fn changed_row(&self, target: usize, key: &Key, after: Lsn) -> u64 {
        self.theirs.changed(digest(self.plan, target, key), after)
    }

    fn resolved(&self, claim: &Claim, key: &Key) -> Option<Standing> {
        let target = claim.operation.target;
        // A word about one row of a record is one about all of them.
        let rows = decide::kin(self.parts.records(), target, key);
        let rows: Vec<RowDigest> = rows.iter().map(|(target, key)| digest(self.plan, *target, key)).collect();
        self.settled.word(&rows, claim.at, |after| self.changed(target, key, after) != 0)
    }

    fn parked(&self, target: usize, key: &Key) -> bool {
        self.settled.parked.contains_key(&digest(self.plan, target, key))
    }

    fn kept(&self, target: usize, key: &Key) -> bool {
        self.theirs.is_kept(digest(self.plan, target, key))
    }

    fn asserted(&self, target: usize, key: &Key) -> bool {
        self.said.asserted.contains(&(target, key.clone()))
    }

    fn barred(&self, target: usize, key: &Key) -> bool {
        self.said.barred.contains(&(target, key.clone()))
    }

    fn denied_since(&self, target: usize, key: &Key, after: Lsn) -> bool {
        self.theirs.changed(denial_digest(digest(self.plan, target, key)), after) != 0
    }

    fn moved(&self, target: usize, key: &Key, after: Lsn) -> bool {
        self.paired.moved(self.plan, self.parts, (target, key), |row, bits| self.theirs.changed(row, after) & bits != 0)
    }

    fn holds(&self, target: usize, key: &Key, column: u16, value: &Datum) -> bool {
        self.paired.holds(digest(self.plan, target, key), column, value)
    }

    fn denied(&self, target: usize, key: &Key) -> bool {
        self.said.denied.contains(&(target, key.clone()))
    }
}

/// The rows that an operation names; the one that it is recorded under first.
pub(super) fn keys_of(plan: &Plan, operation: &Operation) -> Vec<Key> {
    match &operation.effect {
        Effect::Insert { columns, values } | Effect::Ensure { columns, values } => {
            vec![decide::key_of(&plan.targets[operation.target], columns, values)]
        }
        Effect::Patch { key, .. } | Effect::Clear { key, .. } | Effect::Delete { key } | Effect::Absent { key } => {
            vec![key.clone()]
        }
        Effect::Rekey { from, to, .. } => vec![from.clone(), to.clone()],
        Effect::Truncate { .. } => Vec::new(),
    }
}

pub(super) fn digest(plan: &Plan, target: usize, key: &Key) -> RowDigest {
    row_digest(&plan.targets[target].name, key.iter().map(text_of))
}

pub(super) fn text_of(datum: &Datum) -> &[u8] {
    match datum {
        Datum::Text(text) => text,
        Datum::Null | Datum::Unset => b"",
    }
}

impl Deciding {
    /// The source's application durably knows of the target's up to here: nothing older is asked for again.
    pub(super) fn forget(&self, context: Lsn) {
        self.theirs.forget(context);
    }

    /// Decides a batch and sends it; reports the durable position, like `Writer::write`.
    pub(super) async fn write(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        batch: Claims,
        strict: bool,
        live: &watch::Sender<Live>,
    ) -> Outcome<Lsn> {
        writer.strict = strict;
        if batch.claims.is_empty() && batch.first.is_some() && batch.recent.is_none() {
            let Claims { first, last, recent, .. } = batch;
            return writer.write(Batch { segments: Vec::new(), first, last, recent }).await;
        }
        let mut said = Said::default();
        let decided = loop {
            let (there, paired) = self.locked(writer, plan, &batch).await?;
            let known = Known {
                plan,
                parts: &self.ruled.parts,
                there,
                theirs: &self.theirs,
                settled: &self.settled,
                said: &said,
                paired: &paired,
            };
            let rules = self.rules(plan);
            let decided = decide::decide(rules, &known, batch.claims.clone());
            // What is to be asserted again may explain what looked like a second writer's doing.
            if decided.reassertions.is_empty() && decided.absences.is_empty() {
                let Some(verdict) = decided.verdict else { break decided };
                writer.abandon().await?;
                let recorded = self.record_open(writer, plan, (&verdict, &batch.claims), strict).await?;
                return Err(self.halted(plan, verdict, recorded, strict));
            }
            // The rows are written as they are, like the target's application would, so that they travel as a whole.
            // Decided again after that, their claims lose to it.
            writer.abandon().await?;
            self.say(writer.identity().migration_id, plan, decided, &mut said).await?;
            if batch.first.is_none() {
                return Err(other_link_silent());
            }
        };
        let lost: Vec<Lost> =
            decided.conflicts.iter().map(|conflict| self.lost(plan, &batch.claims, conflict)).collect();
        writer.record(&lost).await?;
        writer.agree(decided.agreements);
        writer.send_back(decided.returned.iter().map(|(at, key)| digest(plan, *at, key)).collect());
        live.send_modify(|live| {
            live.decided.conflicts += lost.len() as u64;
            live.decided.agreements += decided.agreements;
        });
        let Claims { claims, last, recent, .. } = batch;
        let mut folder = Folder::new(&plan.targets);
        if strict || self.concerns_parked(plan, &claims) {
            self.write_each(writer, plan, (decided.operations, &claims), strict, live).await?;
        } else {
            decided.operations.into_iter().for_each(|operation| folder.push(operation));
        }
        writer.write(Batch { segments: folder.finish(), first: None, last, recent }).await
    }

    /// The rows of a batch, locked, and the pairs by which it was lifted; not if the target's application has made others.
    async fn locked(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        batch: &Claims,
    ) -> Outcome<(HashMap<(usize, Key), bool>, Paired)> {
        loop {
            let there = self.lock(writer, plan, batch).await?;
            let looked = if self.other_applies { Some(&mut *writer) } else { None };
            let paired = match Paired::of(looked, plan, &batch.pairs).await {
                Ok(paired) => paired,
                Err(problem) => return writer.abandon().await.and(Err(problem)),
            };
            if !paired.lacks_any() {
                return Ok((there, paired));
            }
            // L8: whether these pairs still are those that the target's rows speak of.
            let now = self.target_position().await?;
            if self.theirs.wait(now, PATIENCE_LOCKED).await {
                let newer = |row| self.theirs.changed(row, batch.pairs.bound);
                match paired.stand(plan, &self.ruled.parts, newer) {
                    Ok(()) => return Ok((there, paired)),
                    Err(problem) => return writer.abandon().await.and(Err(problem)),
                }
            }
            self.without_locks(writer, batch, now).await?;
        }
    }

    /// Nobody else must wait for the rows of a batch while the other link is far behind.
    async fn without_locks(&self, writer: &mut Writer<'_>, batch: &Claims, now: Lsn) -> Outcome<()> {
        writer.abandon().await?;
        match batch.first.is_some() && self.theirs.wait(now, PATIENCE).await {
            true => Ok(()),
            false => Err(other_link_silent()),
        }
    }

    /// Only the change that the link stops at is recorded: first everything before it is written.
    async fn record_open(
        &self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (verdict, claims): (&Verdict, &[Claim]),
        strict: bool,
    ) -> Outcome<Option<i64>> {
        match verdict {
            Verdict::Stop(conflict) if strict => {
                Ok(Some(writer.record_open(&self.lost(plan, claims, conflict)).await?))
            }
            _ => Ok(None),
        }
    }

    fn rules<'r>(&'r self, plan: &'r Plan) -> Rules<'r> {
        Rules {
            targets: &plan.targets,
            parts: self.ruled.parts.targets(),
            records: self.ruled.parts.records(),
            cleared: self.ruled.parts.cleared(),
            standings: &self.ruled.standings,
            twins: self.ruled.parts.twins(),
        }
    }

    /// L8: the rows of a batch, locked, with everything known that the target's application did to them before.
    async fn lock(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        batch: &Claims,
    ) -> Outcome<HashMap<(usize, Key), bool>> {
        let keys = self.keys(plan, &batch.claims);
        let asks = keys.iter().any(|(target, _)| self.ruled.standings[*target] != Standing::Wins);
        let began = Instant::now();
        loop {
            if let Some(first) = batch.first {
                writer.open(first).await?;
            }
            let wanted: Vec<_> = keys.iter().map(|(target, keys)| (*target, keys.as_slice())).collect();
            let mut there = HashMap::new();
            for ((target, keys), found) in keys.iter().zip(writer.lock_all(&wanted).await?) {
                there.extend(keys.iter().map(|key| (*target, key.clone())).zip(found));
            }
            while self.passed_by(writer, &keys, &mut there).await? {}
            if !asks {
                return Ok(there);
            }
            let now = self.target_position().await?;
            if self.theirs.wait(now, PATIENCE_LOCKED).await {
                if !self.is_unseen(plan, &batch.claims, &there) {
                    return Ok(there);
                }
                writer.abandon().await?;
                if batch.first.is_none() || began.elapsed() > PATIENCE {
                    return Err(other_link_silent());
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            self.without_locks(writer, batch, now).await?;
        }
    }

    /// L8: whether a row is in the log and nobody can see it. A commit is in the log a moment before it shows to others,
    /// and a busy machine makes that moment long: the row would be taken for one that is not there, and denied behind its
    /// own insert. Where an operator's word may have removed the row since, nothing is concluded.
    fn is_unseen(&self, plan: &Plan, claims: &[Claim], there: &HashMap<(usize, Key), bool>) -> bool {
        let unseen = |claim: &Claim, (target, key): &(usize, Key)| {
            let row = digest(plan, *target, key);
            there.get(&(*target, key.clone())) == Some(&false) && self.theirs.came(row, denial_digest(row), claim.knew)
        };
        let yields = |claim: &&Claim| self.ruled.standings[claim.operation.target] == Standing::Yields;
        claims.iter().filter(yields).any(|claim| {
            let rows = keys_of(plan, &claim.operation).into_iter();
            let rows = rows.flat_map(|key| decide::kin(self.ruled.parts.records(), claim.operation.target, &key));
            rows.collect::<Vec<_>>().iter().any(|row| unseen(claim, row))
        })
    }

    /// L8: while this waited for one row of a record, the application may have moved another one past it: into a table
    /// that was looked into before. Whether any has; what is there is locked, and passes by no more.
    async fn passed_by(
        &self,
        writer: &mut Writer<'_>,
        keys: &[(usize, Vec<Key>)],
        there: &mut HashMap<(usize, Key), bool>,
    ) -> Outcome<bool> {
        let mut any = false;
        for (target, keys) in keys.iter().filter(|(target, _)| self.ruled.parts.records()[*target].is_some()) {
            let is_absent = |key: &&Key| there.get(&(*target, (*key).clone())) == Some(&false);
            let absent: Vec<Key> = keys.iter().filter(is_absent).cloned().collect();
            if absent.is_empty() {
                continue;
            }
            let found = writer.lock(*target, &absent).await?;
            any |= found.contains(&true);
            there.extend(absent.into_iter().map(|key| (*target, key)).zip(found));
        }
        Ok(any)
    }

    /// The rows that claims name, by target, each once; where the source does not win, with all rows of their records.
    fn keys(&self, plan: &Plan, claims: &[Claim]) -> Vec<(usize, Vec<Key>)> {
        let mut by_target: Vec<(Vec<Key>, HashSet<Key>)> = vec![Default::default(); plan.targets.len()];
        for claim in claims {
            let target = claim.operation.target;
            if plan.targets[target].internal {
                continue;
            }
            let mut add = |key: Key| {
                let rows = match self.ruled.standings[target] {
                    Standing::Wins => vec![(target, key)],
                    Standing::Yields | Standing::Stops => decide::kin(self.ruled.parts.records(), target, &key),
                };
                for (target, key) in rows {
                    let (keys, known) = &mut by_target[target];
                    if known.insert(key.clone()) {
                        keys.push(key);
                    }
                }
            };
            keys_of(plan, &claim.operation).into_iter().for_each(&mut add);
        }
        by_target.into_iter().map(|(keys, _)| keys).enumerate().filter(|(_, keys)| !keys.is_empty()).collect()
    }

    /// A position of the target after everything that was committed there before; the other link is sure to read past it
    /// (counter-example 25b).
    pub(super) async fn target_position(&self) -> Outcome<Lsn> {
        let row = self.nudge.one("SELECT pg_logical_emit_message(true, 'falkirk nudge', '')").await?;
        row.number(0)
    }

    /// L3: a batch that cannot be decided is taken apart first, so that everything before the change is written.
    fn halted(&self, plan: &Plan, verdict: Verdict, recorded: Option<i64>, strict: bool) -> Problem {
        let problem = |code: &'static str, what: String| match strict {
            true => Problem::stop(Blame::Source, code, what),
            false => Problem::strictly(Blame::Source, code, what),
        };
        let (problem, target, at) = match verdict {
            Verdict::Stop(conflict) => {
                let what = "both sides changed the same row, neither knew of the other, and no side is to win";
                // It has a number once everything before it is written.
                let id = recorded.map(|number| format!("{}-{number}", self.target_name));
                let problem = match id {
                    None => problem("CONFLICT", what.to_owned()),
                    Some(id) => problem("CONFLICT", format!("{what}; recorded as {id}")).remedy(format!(
                        "`falkirk conflicts show {id}`, then `falkirk conflicts resolve {id} --take blue|green` and \
                         start again: the link goes on at this change"
                    )),
                };
                (problem, conflict.target, conflict.at)
            }
            Verdict::Unexpected { target, at, .. } => {
                let what =
                    "a row of the target is not what the two links left there, and its application has not changed it";
                let problem = problem("ROWCOUNT", what.to_owned())
                    .remedy("find the second writer (or a trigger), then compare with `falkirk verify`");
                (problem, target, at)
            }
            Verdict::Truncate { target, at } => {
                let what = "a table was truncated while both links write: rows that the other side has changed meanwhile \
                    cannot be told";
                let problem = problem("TRUNCATE_BOTH", what.to_owned()).remedy(
                    "delete the rows instead of truncating; to go on from here, start over with `falkirk clean` and \
                     `falkirk run`",
                );
                (problem, target, at)
            }
        };
        problem.table(&plan.targets[target].name).position(at)
    }
}
