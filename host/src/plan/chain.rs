//! Several steps run on a row, one after the other, where no database holds the versions between.
//!
//! ```text
//!   row --step 1--> rows of the version between --step 2--> rows of the last version --> the composed rule's answer
//! ```
//!
//! Pure: who asks the guests is the caller's. A row that a step's guest is handed is what the step before made of it;
//! a value that only a database of the version between would know is never handed on.

use std::collections::{BTreeMap, HashMap};

use crate::change::{Datum, Image};
use crate::names::TableName;
use crate::plan::{Answer, Case, Output, OutputRow, Plan, Source};

/// The steps of a path, bound to the tables of the versions on either side of each.
#[derive(Clone, Debug)]
pub struct Chain {
    /// A plan for each step, in the order of the link: only good for asking its guest.
    pub steps: Vec<Plan>,
    /// For each source table, for each output of its composed rule: the output that a row takes at each step.
    pub trails: HashMap<TableName, Vec<Vec<usize>>>,
}

/// Why a row got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken<E> {
    /// A step's guest gave none.
    Guest(usize, E),
    /// A step's guest answered a value that cannot be handed to the next one.
    Value {
        /// Position of the row in the batch.
        row: usize,
        /// The step that answered it.
        step: usize,
        /// The table of the version between.
        table: TableName,
        /// The column.
        column: String,
        /// It was left to the column's default, which nobody knows; otherwise it is not in the type's own form.
        unset: bool,
    },
}

/// Asks the guest of a step about rows of one table. An error names the position of its row.
pub type Ask<'a, E> = dyn FnMut(usize, &Plan, &Source, &[&Image]) -> Result<Vec<Answer>, (usize, E)> + 'a;

/// A row on its way.
struct Travelling {
    /// Position of the source row in the batch.
    row: usize,
    trail: Vec<usize>,
    image: Image,
}

impl Chain {
    /// What the composed rule of `source` answers for rows of it.
    pub fn answer<E>(&self, source: &Source, rows: &[&Image], ask: &mut Ask<'_, E>) -> Result<Vec<Answer>, Broken<E>> {
        let start = |(row, image): (usize, &&Image)| Travelling { row, trail: Vec::new(), image: (*image).clone() };
        let mut here = BTreeMap::from([(source.name.clone(), rows.iter().enumerate().map(start).collect::<Vec<_>>())]);
        let mut answers = vec![Answer::new(); rows.len()];
        let trails = self.trails.get(&source.name).map(Vec::as_slice).unwrap_or_default();
        for (number, step) in self.steps.iter().enumerate() {
            let next = self.steps.get(number + 1);
            let mut there: BTreeMap<TableName, Vec<Travelling>> = BTreeMap::new();
            for (table, travelling) in here {
                let Some(rule_of) = step.by_name.get(&table).map(|index| &step.sources[*index]) else { continue };
                let made = self.step(number, rule_of, &travelling, ask)?;
                for (target, row) in made {
                    match next {
                        Some(_) => there.entry(step.targets[target].name.clone()).or_default().push(row),
                        None => arrive(source, trails, row, &mut answers),
                    }
                }
            }
            here = there;
        }
        Ok(answers)
    }

    /// One step of rows that are in one table: the rows they become, and where.
    fn step<E>(
        &self,
        number: usize,
        source: &Source,
        travelling: &[Travelling],
        ask: &mut Ask<'_, E>,
    ) -> Result<Vec<(usize, Travelling)>, Broken<E>> {
        let step = &self.steps[number];
        let images: Vec<&Image> = travelling.iter().map(|row| &row.image).collect();
        let answers = match &source.rule.guest_table {
            Some(_) => ask(number, step, source, &images)
                .map_err(|(row, error)| Broken::Guest(travelling.get(row).map_or(0, |row| row.row), error))?,
            None => vec![Answer::new(); images.len()],
        };
        let mut made = Vec::new();
        for (row, answer) in travelling.iter().zip(&answers) {
            for (index, output) in source.rule.outputs.iter().enumerate() {
                let Some(target) = step.targets.get(output.target) else { continue };
                let found = answer.iter().filter(|found| found.output == index).map(|found| found.values.as_slice());
                let one = (!output.needs_guest()).then_some(&[][..]);
                for values in found.filter(|_| output.needs_guest()).chain(one) {
                    self.check_handed_on(number, (row.row, output), values)?;
                    let image = image_of(output, target.columns.len(), &row.image, values);
                    let trail = row.trail.iter().copied().chain([index]).collect();
                    made.push((output.target, Travelling { row: row.row, trail, image }));
                }
            }
        }
        Ok(made)
    }

    /// What a guest answers and the next one is handed has to be a value that is known, in the form of its type.
    fn check_handed_on<E>(
        &self,
        number: usize,
        (row, output): (usize, &Output),
        values: &[Datum],
    ) -> Result<(), Broken<E>> {
        let Some(next) = self.steps.get(number + 1) else { return Ok(()) };
        let table = &self.steps[number].targets[output.target].name;
        let Some(reader) = next.by_name.get(table).map(|index| &next.sources[*index]) else { return Ok(()) };
        for (column, value) in output.computed.iter().zip(values) {
            let column = usize::from(*column);
            // Both sides of a version between have the same columns in the same order.
            let Some((_, as_text)) = reader.rule.asked.iter().find(|(asked, _)| *asked == column) else { continue };
            let unset = *value == Datum::Unset;
            if unset || !(*as_text || in_form(value, reader.columns[column].case)) {
                let column = reader.columns[column].name.clone();
                return Err(Broken::Value { row, step: number, table: table.clone(), column, unset });
            }
        }
        Ok(())
    }
}

fn in_form(value: &Datum, case: Case) -> bool {
    let Datum::Text(text) = value else { return true };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match case {
        Case::Boolean => text == "t" || text == "f",
        Case::Integer => text.parse::<i64>().is_ok_and(|number| number.to_string() == text),
        Case::Float => text.parse::<f64>().is_ok(),
        Case::Bytes => text
            .strip_prefix("\\x")
            .is_some_and(|digits| digits.len() % 2 == 0 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())),
        Case::Text => true,
    }
}

/// A row of the table that an output leads to. What nothing fills is unset.
fn image_of(output: &Output, columns: usize, from: &Image, values: &[Datum]) -> Image {
    let mut datums = vec![Datum::Unset; columns];
    for (source, to) in &output.copied {
        datums[usize::from(*to)] = from.datum(*source);
    }
    for (to, value) in output.computed.iter().zip(values) {
        datums[usize::from(*to)] = value.clone();
    }
    Image::from_datums(&datums)
}

/// A row of the last version: what of it the composed rule computes.
fn arrive(source: &Source, trails: &[Vec<usize>], row: Travelling, answers: &mut [Answer]) {
    let Some(index) = trails.iter().position(|trail| *trail == row.trail) else { return };
    let output = &source.rule.outputs[index];
    if output.needs_guest() {
        let values = output.computed.iter().map(|column| row.image.datum(usize::from(*column))).collect();
        answers[row.row].push(OutputRow { output: index, values });
    }
}
