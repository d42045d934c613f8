//! A revision at work: what it makes of source rows, in the numbers of the plan that the link runs.

use std::sync::Arc;

use super::pair::Row;
use crate::change::{Datum, Event, Image};
use crate::config::Settings;
use crate::delta::lift::{self, Lifter};
use crate::delta::{Effect, Operation};
use crate::names::TableName;
use crate::plan::{Answer, Filling, Output, Plan, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::{Artifact, Guest, Limits};

/// A revision of the transform.
pub(super) struct Revision {
    plan: Arc<Plan>,
    guest: Option<Guest>,
    lifter: Lifter,
}

impl Revision {
    pub(super) fn new(plan: Arc<Plan>, artifact: Option<Arc<Artifact>>, settings: &Settings) -> Self {
        // The stream needs the cores more.
        let limits = Limits { instances: 1, ..settings.limits };
        let guest = artifact.map(|artifact| Guest::new(artifact, settings.link.into(), limits));
        Revision { plan, guest, lifter: Lifter::default() }
    }

    /// The rows that it makes of source rows: the position of each one's source row among `images`, and the row, in the
    /// numbers of `plan`.
    pub(super) fn rows(&mut self, table: &TableName, images: &[Image], plan: &Plan) -> Outcome<Vec<(usize, Row)>> {
        let own = self.plan.clone();
        let Some(index) = own.by_name.get(table).copied() else { return Ok(Vec::new()) };
        let source = &own.sources[index];
        let asked = source.rule.outputs.iter().any(Output::needs_guest);
        let answers: Vec<Answer> = match &mut self.guest {
            Some(guest) if asked => {
                let rows: Vec<&Image> = images.iter().collect();
                tokio::task::block_in_place(|| guest.answer(&own, source, &rows)).map_err(|fault| fault.problem)?
            }
            _ => Vec::new(),
        };
        let mut made = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let event = Event::Insert(image.clone());
            let answer = answers.get(number).filter(|_| lift::ask(source, &event).after);
            let operations = self.lift((index, source), &event, answer)?;
            let rows = outputs_of(source, answer).into_iter().zip(operations);
            made.extend(rows.filter_map(|(output, made)| Some((number, row_of(made, (&own, source), plan, output)?))));
        }
        Ok(made)
    }

    fn lift(
        &mut self,
        (index, source): (usize, &Source),
        event: &Event,
        answer: Option<&Answer>,
    ) -> Outcome<Vec<Operation>> {
        let mut operations = Vec::new();
        let lifted = self.lifter.lift(index, source, &self.plan.targets, event, (None, answer), &mut operations);
        lifted.map_err(|error| {
            let what = format!("a row cannot be turned into target rows: {error}");
            Problem::stop(Blame::Artifact, "TRANSFORM_ANSWER", what).table(&source.name)
        })?;
        Ok(operations)
    }
}

/// Which output each row of an inserted source row is of: rows stand in the order of the outputs.
fn outputs_of(source: &Source, answer: Option<&Answer>) -> Vec<usize> {
    let rows = |(output, rule): (usize, &Output)| {
        let answered = answer.map_or(0, |answer| answer.iter().filter(|row| row.output == output).count());
        std::iter::repeat_n(output, if rule.needs_guest() { answered } else { 1 })
    };
    source.rule.outputs.iter().enumerate().flat_map(rows).collect()
}

/// Both plans are bound to one target, so its columns have the same numbers; its tables may not.
fn row_of(operation: Operation, (own, source): (&Plan, &Source), plan: &Plan, output: usize) -> Option<Row> {
    let Effect::Insert { columns, values } = operation.effect else { return None };
    let name = &own.targets[operation.target].name;
    let target = plan.targets.iter().position(|target| target.name == *name)?;
    let value = |column: &u16| columns.iter().position(|own| own == column).map(|place| values[place].clone());
    let key: Option<Vec<Datum>> = plan.targets[target].key.iter().map(value).collect();
    let from: &[Filling] = &source.rule.outputs[output].key;
    let is_copied = source.key.iter().all(|column| from.contains(&Filling::Copied(*column)));
    let is_only_ours = is_copied && !own.targets[operation.target].shared && !plan.targets[target].shared;
    Some(Row { target, output, key: key?.into(), columns, values, is_only_ours })
}
