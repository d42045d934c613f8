//! Lifting a batch: asks the guest about all its rows at once, lifts its changes in source order and folds them.
//!
//! Rows that depend on more than themselves are extended first (`keyed`); the rest is no I/O. A fault names the change; the flow then applies what stands before that change's transaction and stops
//! exactly there (L3).

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::change::{Before, Change, Event, Image};
use crate::delta::decide::{Claim, denied, details_last};
use crate::delta::fold::Folder;
use crate::delta::lift::{self, LiftError, Lifter};
use crate::delta::moves::{Lifted, Moves};
use crate::delta::{Effect, Key, Operation, Set, Whole};
use crate::lsn::Lsn;
use crate::manifest::Write;
use crate::plan::parts::ALL;
use crate::plan::{Answer, Plan, Source};
use crate::problem::{Blame, Problem};
use crate::transform::Guest;

use super::assemble::Placed;
use super::keyed::Keyed;
use super::keyed::transaction::Step;
use super::notes::{Notebook, changed};
use super::paired::Pairs;
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
    keyed: Option<Keyed>,
}

/// A step with what the guest is asked about it.
struct Resolved<'a> {
    step: Step<'a>,
    asked: lift::Ask,
}

impl Lifting {
    /// The artifact whose guest is asked, as messages name it.
    pub fn label(&self) -> Option<&str> {
        self.guest.as_ref().map(|guest| guest.artifact().label())
    }

    /// For a plan and, if any of its rules needs one, a guest.
    pub fn new(plan: Arc<Plan>, guest: Option<Guest>) -> Self {
        Lifting { plan, guest, lifter: Lifter::default(), keyed: None }
    }

    /// The same with what rows depend on besides themselves.
    pub fn with_keys(self, keyed: Option<Keyed>) -> Self {
        Lifting { keyed, ..self }
    }

    /// What is durable need not be remembered.
    pub(super) fn watch(&mut self, durable: watch::Receiver<Lsn>) {
        self.keyed.iter_mut().for_each(|keyed| keyed.watch(durable.clone()));
    }

    /// The pairs of keys by which it was lifted.
    pub(super) fn pairs(&mut self) -> Pairs {
        self.keyed.as_mut().map(Keyed::used).unwrap_or_default()
    }

    /// What was lifted last is handed on; `position` closes its transaction.
    pub(super) fn handed_on(&mut self, position: Option<Lsn>) {
        self.keyed.iter_mut().for_each(|keyed| keyed.handed_on(position));
    }

    /// The segments of sets that lead the target over all `changes`.
    ///
    /// `one_by_one`: nothing is folded, every change stands alone and in source order.
    pub async fn lift(
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
        self.lift_each(changes, relations, &mut |step, operation, whole| {
            let lifted = Lifted { change: step.change, operation, whole, changed: 0, from: None };
            moves.push(changes[step.change].at, lifted, &mut fold);
        })
        .await?;
        moves.finish(&mut fold);
        Ok(folder.finish())
    }

    /// The operations that `changes` ask for, each with what is needed to decide it while both links write.
    pub async fn claims(
        &mut self,
        changes: &[Placed],
        relations: &Relations,
        notebook: &Notebook,
    ) -> Result<Vec<Claim>, Fault> {
        let mut claims = Vec::with_capacity(changes.len());
        self.lifter.wholes = Some(HashMap::new());
        let plan = self.plan.clone();
        let mut moves = Moves::new(&plan.targets);
        let mut claim = |Lifted { change, operation, whole, changed, from }| {
            let Placed { knew, at, .. } = changes[change];
            claims.push(Claim { operation, whole, changed, knew, at, from });
        };
        self.lift_each(changes, relations, &mut |step, operation, whole| {
            if let Event::Denied { key, details } = step.event.as_ref() {
                let parts = (notebook.parts().records(), notebook.parts().cleared());
                for operation in denied(parts, (operation.target, key), *details) {
                    let lifted = Lifted { change: step.change, operation, whole: None, changed: ALL, from: None };
                    moves.push(changes[step.change].at, lifted, &mut claim);
                }
                return;
            }
            let key = &plan.sources[step.source].key;
            // L8: a row of another source row may stand under the key.
            if matches!(operation.effect, Effect::Absent { .. }) && !notebook.parts().says_absent(operation.target) {
                return;
            }
            let changed = changed(notebook.parts(), step.source, key, &step.event);
            let from = notebook.key_of(step.source).and_then(|key| row_of(step, key));
            let lifted = Lifted { change: step.change, operation, whole, changed, from };
            moves.push(changes[step.change].at, lifted, &mut claim);
        })
        .await?;
        moves.finish(&mut claim);
        details_last(&mut claims);
        Ok(claims)
    }

    async fn lift_each(
        &mut self,
        changes: &[Placed],
        relations: &Relations,
        take: &mut (dyn FnMut(&Step<'_>, Operation, Option<Whole>) + Send),
    ) -> Result<(), Fault> {
        let plan = self.plan.clone();
        let resolved = self.resolve(changes, relations).await?;
        // What a transform writes to the log meanwhile carries the position where its rows begin.
        let position = resolved.first().map(|first| changes[first.step.change].at);
        let span = tracing::info_span!("transform", position = position.map(tracing::field::display));
        let mut answers = span.in_scope(|| self.ask(&resolved))?;
        let mut operations = Vec::new();
        for Resolved { mut step, asked } in resolved {
            let fault = |problem: Problem| Fault { change: step.change, problem };
            let before = asked.before.then(|| answers[step.source].next()).flatten();
            let after = asked.after.then(|| answers[step.source].next()).flatten();
            let source = &plan.sources[step.source];
            if let Event::Truncate { relations: tables, .. } = step.event.as_ref() {
                take(&step, truncate(&plan, tables, relations).map_err(fault)?, None);
                continue;
            }
            if let Event::Denied { key, .. } = step.event.as_ref() {
                let table = &changes[step.change].change.relation.name;
                let Some(target) = plan.targets.iter().position(|target| target.name == *table) else { continue };
                // No revision computes it, and only whoever decides can tell whether the row is there.
                if self.lifter.wholes.is_some() {
                    take(&step, Operation::of_nobody(target, Effect::Delete { key: key.clone() }), None);
                }
                continue;
            }
            let mirror = std::mem::take(&mut step.mirror);
            if step.echo || matches!(step.event.as_ref(), Event::Delete(Before::Absent) if plan.is_keyed()) {
                mirror.into_iter().for_each(|operation| take(&step, operation, None));
                continue;
            }
            self.lifter
                .lift(
                    step.source,
                    source,
                    &plan.targets,
                    step.event.as_ref(),
                    (before.as_ref(), after.as_ref()),
                    &mut operations,
                )
                .map_err(|error| fault(lift_problem(error).table(&source.name)))?;
            for (at, operation) in operations.drain(..).enumerate() {
                let whole = self.lifter.wholes.as_mut().and_then(|wholes| wholes.remove(&at));
                take(&step, operation, whole);
            }
            mirror.into_iter().for_each(|operation| take(&step, operation, None));
        }
        Ok(())
    }

    async fn resolve<'a>(&mut self, changes: &'a [Placed], relations: &Relations) -> Result<Vec<Resolved<'a>>, Fault> {
        let mut steps = Vec::with_capacity(changes.len());
        for (at, placed) in changes.iter().enumerate() {
            let Change { relation, event } = &placed.change;
            if matches!(event, Event::Denied { .. }) {
                // No row of a source: it passes by whatever rows depend on.
                let event = std::borrow::Cow::Borrowed(event);
                steps.push(Step { change: at, source: 0, event, echo: true, mirror: Vec::new() });
                continue;
            }
            let (source, order) = match relations.get(relation) {
                Some(Bound::LeftOut) => continue,
                Some(Bound::Source { source, order, .. }) => (*source, order.as_deref()),
                None => {
                    let problem =
                        Problem::stop(Blame::Source, "PROTOCOL_ERROR", "a change came before its table's description");
                    return Err(Fault { change: at, problem: problem.table(&relation.name) });
                }
            };
            if self.keyed.is_some() && lacks_old_row(&self.plan.sources[source], event) {
                let problem = lift_problem(LiftError::NoOldRow).table(&relation.name);
                return Err(Fault { change: at, problem });
            }
            let event = match order {
                None => std::borrow::Cow::Borrowed(event),
                Some(order) => std::borrow::Cow::Owned(in_order(event, order)),
            };
            steps.push(Step { change: at, source, event, echo: placed.echo, mirror: Vec::new() });
        }
        if let Some(keyed) = &mut self.keyed {
            let extended = keyed.extend(steps, &|change| changes[change].at).await;
            steps = extended.map_err(|problem| Fault { change: 0, problem })?;
        }
        let asked = |step: &Step<'_>| {
            let mut asked = lift::ask(&self.plan.sources[step.source], &step.event);
            // A winning change that finds no row inserts the whole of it.
            if self.lifter.wholes.is_some()
                && matches!(*step.event, Event::Update { .. })
                && self.plan.sources[step.source].rule.guest_table.is_some()
            {
                asked = lift::Ask { before: true, after: true };
            }
            if step.echo { lift::Ask::default() } else { asked }
        };
        Ok(steps.into_iter().map(|step| Resolved { asked: asked(&step), step }).collect())
    }

    /// The guest's answers, by source, in the order in which the changes need them.
    fn ask(&mut self, resolved: &[Resolved<'_>]) -> Result<Vec<std::vec::IntoIter<Answer>>, Fault> {
        let mut images: Vec<Vec<&Image>> = vec![Vec::new(); self.plan.sources.len()];
        let mut origins: Vec<Vec<usize>> = vec![Vec::new(); self.plan.sources.len()];
        for Resolved { step, asked } in resolved {
            let (before, after) = match step.event.as_ref() {
                Event::Insert(after) => (None, Some(after)),
                Event::Update { before: Before::Full(before), after } => (Some(before), Some(after)),
                Event::Update { after, .. } => (None, Some(after)),
                Event::Delete(Before::Full(before) | Before::Key(before)) => (Some(before), None),
                Event::Delete(Before::Absent) | Event::Truncate { .. } | Event::Denied { .. } => (None, None),
            };
            let wanted = [before.filter(|_| asked.before), after.filter(|_| asked.after)];
            for image in wanted.into_iter().flatten() {
                images[step.source].push(image);
                origins[step.source].push(step.change);
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

/// The row that a step is about: as it is now, or as it was.
fn row_of(step: &Step<'_>, key: &[usize]) -> Option<(usize, Key)> {
    let image = match step.event.as_ref() {
        Event::Insert(image) | Event::Update { after: image, .. } => image,
        Event::Delete(Before::Full(image) | Before::Key(image)) => image,
        Event::Delete(Before::Absent) | Event::Truncate { .. } | Event::Denied { .. } => return None,
    };
    Some((step.source, key.iter().map(|column| image.datum(*column)).collect()))
}

/// Counter-example 4: a table whose rows depend on others, or others on them, is only understood from whole old rows.
fn lacks_old_row(source: &Source, event: &Event) -> bool {
    let whole = match event {
        Event::Update { before, .. } | Event::Delete(before) => matches!(before, Before::Full(_)),
        Event::Insert(_) | Event::Truncate { .. } | Event::Denied { .. } => true,
    };
    source.depends.is_any() && !whole
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
                let depends = &plan.sources[*source].depends;
                let patches = outputs.iter().any(|output| output.on_remove_null);
                if patches || depends.mirror.is_some() || !depends.binds.is_empty() {
                    return Err(refuse(
                        "TRUNCATE_DEPENDED_ON",
                        "the table was truncated, and rows of other tables follow from its rows one by one",
                    ));
                }
                if outputs.iter().any(|output| output.on_delete_set.is_some()) {
                    return Err(refuse(
                        "TRUNCATE_SOFT_DELETE",
                        "the table was truncated, and its rows are only marked as deleted in the target",
                    ));
                }
                let own = outputs.iter().filter(|output| output.write == Write::Own);
                targets.extend(own.map(|output| output.target));
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
