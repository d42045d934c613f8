//! Lifting a batch: asks the guest about all its rows at once, lifts its changes in source order and folds them.
//!
//! No I/O. A fault names the change; the flow then applies what stands before that change's transaction and stops
//! exactly there (L3).

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Before, Change, Event, Image};
use crate::delta::decide::Claim;
use crate::delta::fold::Folder;
use crate::delta::lift::{self, LiftError, Lifter};
use crate::delta::moves::{Lifted, Moves};
use crate::delta::{Effect, Operation, Set, Whole};
use crate::plan::parts::LinkParts;
use crate::plan::{Answer, Plan};
use crate::problem::{Blame, Problem};
use crate::transform::Guest;

use super::assemble::Placed;
use super::notes::changed;
use super::relations::{Bound, Relations, in_order};

/// A change that could not be lifted.
#[derive(Debug)]
pub struct Fault {
    /// Position among the batch's changes.
    pub change: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Lifts batches of one link.
pub struct Lifting {
    plan: Arc<Plan>,
    guest: Option<Guest>,
    lifter: Lifter,
}

/// A change of a table of the plan, with its images in the plan's order.
struct Resolved<'a> {
    change: usize,
    source: usize,
    event: std::borrow::Cow<'a, Event>,
    asked: lift::Ask,
}

impl Lifting {
    /// For a plan and, if any of its rules needs one, a guest.
    pub fn new(plan: Arc<Plan>, guest: Option<Guest>) -> Self {
        Lifting { plan, guest, lifter: Lifter::default() }
    }

    /// The segments of sets that lead the target over all `changes`.
    ///
    /// `one_by_one`: nothing is folded, every change stands alone and in source order.
    pub fn lift(
        &mut self,
        changes: &[Placed],
        relations: &Relations,
        one_by_one: bool,
    ) -> Result<Vec<Vec<Set>>, Fault> {
        let plan = self.plan.clone();
        let mut folder = Folder::new(&plan.targets);
        folder.one_by_one = one_by_one;
        let mut moves = Moves::new(&plan.targets);
        let mut fold = |lifted: Lifted| folder.push(lifted.operation);
        self.lift_each(changes, relations, &mut |resolved, operation, whole| {
            let lifted = Lifted { change: resolved.change, operation, whole, changed: 0 };
            moves.push(changes[resolved.change].at, lifted, &mut fold);
        })?;
        moves.finish(&mut fold);
        Ok(folder.finish())
    }

    /// The operations that `changes` ask for, each with what is needed to decide it while both links write.
    pub fn claims(
        &mut self,
        changes: &[Placed],
        relations: &Relations,
        parts: &LinkParts,
    ) -> Result<Vec<Claim>, Fault> {
        let mut claims = Vec::with_capacity(changes.len());
        self.lifter.wholes = Some(HashMap::new());
        let plan = self.plan.clone();
        let mut moves = Moves::new(&plan.targets);
        let mut claim = |Lifted { change, operation, whole, changed }| {
            let Placed { knew, at, .. } = changes[change];
            claims.push(Claim { operation, whole, changed, knew, at });
        };
        self.lift_each(changes, relations, &mut |resolved, operation, whole| {
            let key = &plan.sources[resolved.source].key;
            let changed = changed(parts, resolved.source, key, &resolved.event);
            let lifted = Lifted { change: resolved.change, operation, whole, changed };
            moves.push(changes[resolved.change].at, lifted, &mut claim);
        })?;
        moves.finish(&mut claim);
        Ok(claims)
    }

    fn lift_each(
        &mut self,
        changes: &[Placed],
        relations: &Relations,
        take: &mut dyn FnMut(&Resolved<'_>, Operation, Option<Whole>),
    ) -> Result<(), Fault> {
        let plan = self.plan.clone();
        let resolved = self.resolve(changes, relations)?;
        let mut answers = self.ask(&resolved)?;
        let mut operations = Vec::new();
        for resolved in &resolved {
            let fault = |problem: Problem| Fault { change: resolved.change, problem };
            let before = resolved.asked.before.then(|| answers[resolved.source].next()).flatten();
            let after = resolved.asked.after.then(|| answers[resolved.source].next()).flatten();
            let source = &plan.sources[resolved.source];
            if let Event::Truncate { relations: tables, .. } = resolved.event.as_ref() {
                take(resolved, truncate(&plan, tables, relations).map_err(fault)?, None);
                continue;
            }
            self.lifter
                .lift(
                    resolved.source,
                    source,
                    &plan.targets,
                    resolved.event.as_ref(),
                    (before.as_ref(), after.as_ref()),
                    &mut operations,
                )
                .map_err(|error| fault(lift_problem(error).table(&source.name)))?;
            for (at, operation) in operations.drain(..).enumerate() {
                let whole = self.lifter.wholes.as_mut().and_then(|wholes| wholes.remove(&at));
                take(resolved, operation, whole);
            }
        }
        Ok(())
    }

    fn resolve<'a>(&self, changes: &'a [Placed], relations: &Relations) -> Result<Vec<Resolved<'a>>, Fault> {
        let mut resolved = Vec::with_capacity(changes.len());
        for (at, placed) in changes.iter().enumerate() {
            let Change { relation, event } = &placed.change;
            let (source, order) = match relations.get(relation) {
                Some(Bound::LeftOut) => continue,
                Some(Bound::Source { source, order, .. }) => (*source, order.as_deref()),
                None => {
                    let problem =
                        Problem::stop(Blame::Source, "PROTOCOL_ERROR", "a change came before its table's description");
                    return Err(Fault { change: at, problem: problem.table(&relation.name) });
                }
            };
            let event = match order {
                None => std::borrow::Cow::Borrowed(event),
                Some(order) => std::borrow::Cow::Owned(in_order(event, order)),
            };
            let mut asked = lift::ask(&self.plan.sources[source], &event);
            // A winning change that finds no row inserts the whole of it.
            if self.lifter.wholes.is_some()
                && matches!(*event, Event::Update { .. })
                && self.plan.sources[source].rule.guest_table.is_some()
            {
                asked = lift::Ask { before: true, after: true };
            }
            resolved.push(Resolved { change: at, source, event, asked });
        }
        Ok(resolved)
    }

    /// The guest's answers, by source, in the order in which the changes need them.
    fn ask(&mut self, resolved: &[Resolved<'_>]) -> Result<Vec<std::vec::IntoIter<Answer>>, Fault> {
        let mut images: Vec<Vec<&Image>> = vec![Vec::new(); self.plan.sources.len()];
        let mut origins: Vec<Vec<usize>> = vec![Vec::new(); self.plan.sources.len()];
        for resolved in resolved {
            let (before, after) = match resolved.event.as_ref() {
                Event::Insert(after) => (None, Some(after)),
                Event::Update { before: Before::Full(before), after } => (Some(before), Some(after)),
                Event::Update { after, .. } => (None, Some(after)),
                Event::Delete(Before::Full(before) | Before::Key(before)) => (Some(before), None),
                Event::Delete(Before::Absent) | Event::Truncate { .. } => (None, None),
            };
            let wanted = [before.filter(|_| resolved.asked.before), after.filter(|_| resolved.asked.after)];
            for image in wanted.into_iter().flatten() {
                images[resolved.source].push(image);
                origins[resolved.source].push(resolved.change);
            }
        }
        let mut answers = Vec::with_capacity(images.len());
        for (source, images) in images.iter().enumerate() {
            let answered = match (&mut self.guest, images.is_empty()) {
                (Some(guest), false) => guest
                    .answer(&self.plan, &self.plan.sources[source], images)
                    .map_err(|fault| Fault { change: origins[source][fault.row], problem: fault.problem })?,
                _ => Vec::new(),
            };
            answers.push(answered.into_iter());
        }
        Ok(answers)
    }
}

/// A truncate empties the targets that the tables stand for. A transform never sees the rows, so it is carried out only
/// where the outcome needs none of them.
fn truncate(plan: &Plan, tables: &[Arc<crate::change::Relation>], relations: &Relations) -> Result<Operation, Problem> {
    let mut targets = Vec::new();
    for table in tables {
        let refuse = |code: &'static str, what: &str| {
            Problem::stop(Blame::Source, code, what)
                .table(&table.name)
                .remedy("delete the rows instead of truncating, or start over with `falkirk clean` and `falkirk run`")
        };
        match relations.get(table) {
            None | Some(Bound::LeftOut) => {}
            Some(Bound::Source { is_partition: true, .. }) => {
                return Err(refuse(
                    "TRUNCATE_PARTITION",
                    "a single partition was truncated; which of the target's rows that are is not known",
                ));
            }
            Some(Bound::Source { source, .. }) => {
                let outputs = &plan.sources[*source].rule.outputs;
                if outputs.iter().any(|output| plan.targets[output.target].shared) {
                    return Err(refuse(
                        "TRUNCATE_SHARED",
                        "the table was truncated, and the target's table holds rows of other tables as well",
                    ));
                }
                if outputs.iter().any(|output| output.on_delete_set.is_some()) {
                    return Err(refuse(
                        "TRUNCATE_SOFT_DELETE",
                        "the table was truncated, and its rows are only marked as deleted in the target",
                    ));
                }
                targets.extend(outputs.iter().map(|output| output.target));
            }
        }
    }
    targets.sort_unstable();
    targets.dedup();
    let target = targets.first().copied().unwrap_or_default();
    Ok(Operation { target, owner_before: 0, owner_after: 0, effect: Effect::Truncate { targets } })
}

fn lift_problem(error: LiftError) -> Problem {
    match error {
        LiftError::Missing(_) | LiftError::NoKey(_) | LiftError::TwiceTheSameKey(_) => {
            Problem::stop(Blame::Artifact, "BAD_OUTPUT", error).remedy(
                "correct the transform, ship it as a new artifact and start again: the link goes on at this change",
            )
        }
        LiftError::Unresolved(_) | LiftError::NoOldRow => Problem::stop(Blame::Source, "TOAST_UNRESOLVED", error)
            .remedy("ALTER TABLE ... REPLICA IDENTITY FULL on the source, then start over with `falkirk clean`"),
    }
}
