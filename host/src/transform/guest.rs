//! A link's transform at work: rows in, answers out, and for every fault the row that causes it.
//!
//! ```text
//!   rows --cut--> calls --live instance--> results --check--> answers
//!                            | fault
//!                            v
//!              fresh instance --still--> halves, each in a fresh instance --> the row
//! ```
//!
//! It holds L10 (a fault costs one row's stop, never the host) and L9's word that the cut of a batch does not matter:
//! where it does matter, that is reported as the fault that it is. It must never print what a transform says about a
//! row, nor hand it a value that nobody knows.

use std::sync::Arc;

use super::artifact::Artifact;
use super::instance::{Fault, Instance};
use super::limits::Limits;
use super::steps;
use super::value::{self, Unfit};
use super::wire::{InputRow, OutputRow as WireRow, Rejection, Results};
use crate::change::{Datum, Image};
use crate::manifest::Direction;
use crate::plan::{Answer, Case, OutputRow, Plan, Source};
use crate::problem::{Blame, Problem};

/// The most rows that one call gets: from 100 on more rows cost the same, from 10,000 on they cost more.
const ROWS: usize = 1_000;

/// Why a batch got no answer, and which of its rows is to blame.
#[derive(Clone, Debug)]
pub struct GuestFault {
    /// Position of the row in the batch; the first row where no single one is to blame.
    pub row: usize,
    /// The problem. It names table and artifact; the caller adds the position.
    pub problem: Problem,
}

/// A fault of a call and the row, within the call, that causes it.
struct Blamed {
    row: usize,
    fault: Fault,
}

/// One link's transform: an artifact, a direction and a live instance.
pub struct Guest {
    artifact: Arc<Artifact>,
    direction: Direction,
    limits: Limits,
    live: Option<Instance>,
    /// The guests of a path of several steps, in the order of the link: then they are asked, and nothing else.
    path: Vec<Guest>,
}

impl Guest {
    /// A guest without an instance; the first call starts one.
    pub fn new(artifact: Arc<Artifact>, direction: Direction, limits: Limits) -> Self {
        let each = artifact.path.iter().map(|artifact| Guest::new(artifact.clone(), direction, limits));
        let mut path: Vec<Guest> = each.collect();
        if direction == Direction::Backward {
            path.reverse();
        }
        Guest { artifact, direction, limits, live: None, path }
    }

    /// The artifact that answers.
    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// What each row stands for, in the order of the rows. For a rule that needs no code, every answer is empty.
    ///
    /// Blocks while the guest runs, at most `batch_time_ms` a call and some more while a faulty row is looked for.
    pub fn answer(&mut self, plan: &Plan, source: &Source, rows: &[&Image]) -> Result<Vec<Answer>, GuestFault> {
        let Some(table) = &source.rule.guest_table else { return Ok(vec![Answer::new(); rows.len()]) };
        if let Some(chain) = plan.chain.as_ref().filter(|_| !self.path.is_empty()) {
            return steps::answer(&mut self.path, chain, source, rows);
        }
        let mut answers = Vec::with_capacity(rows.len());
        while answers.len() < rows.len() {
            let start = answers.len();
            let (inputs, unfit) = lower(plan, source, &rows[start..], self.limits.input_bytes());
            if !inputs.is_empty() {
                let results = self.run(table, &inputs);
                let checked = results.and_then(|results| check(plan, source, results, &mut answers));
                checked.map_err(|Blamed { row, fault }| GuestFault {
                    row: start + row,
                    problem: self.artifact_problem(source, fault),
                })?;
            }
            if let Some(problem) = unfit {
                return Err(GuestFault { row: start + inputs.len(), problem: problem.artifact(self.artifact.label()) });
            }
        }
        Ok(answers)
    }

    fn artifact_problem(&self, source: &Source, fault: Fault) -> Problem {
        let remedy = match fault.code {
            "ROW_REJECTED" => "correct the row in the source, or swap in a transform that accepts it",
            "TRANSFORM_TIMEOUT" => "correct the transform and swap it in, or raise limits.batch_time_ms",
            "MEMORY_LIMIT" => "correct the transform and swap it in, or raise limits.memory_mib",
            "OUTPUT_TOO_LARGE" => "correct the transform and swap it in, or raise limits.output_mib",
            _ => "correct the transform and swap it in",
        };
        Problem::stop(Blame::Artifact, fault.code, fault.what)
            .table(&source.name)
            .artifact(self.artifact.label())
            .remedy(remedy)
    }
}

/// Calls and their faults.
impl Guest {
    /// One call's results, or the row that keeps it from answering.
    fn run(&mut self, table: &str, inputs: &[InputRow]) -> Result<Results, Blamed> {
        let time_ms = u64::from(self.limits.batch_time_ms);
        self.live.take_if(|instance| instance.is_spent());
        let reused = self.live.is_some();
        let fault = match self.call(table, inputs, time_ms) {
            Ok(results) => return Ok(results),
            Err(fault) => fault,
        };
        // An instance that served before may have leaked; that is not the row's doing, and a fresh one shows it.
        if reused && let Ok(results) = self.call(table, inputs, time_ms) {
            tracing::warn!(artifact = self.artifact.label(), code = fault.code, "a fresh instance answered instead");
            return Ok(results);
        }
        Err(self.bisect(table, inputs, fault))
    }

    /// One call in the live instance, or in a fresh one. After a fault there is none.
    fn call(&mut self, table: &str, inputs: &[InputRow], time_ms: u64) -> Result<Results, Fault> {
        let mut instance = match self.live.take() {
            Some(instance) => instance,
            None => Instance::fresh(&self.artifact, &self.limits)?,
        };
        let results = instance.call(self.direction, table, inputs, time_ms)?;
        if results.len() != inputs.len() {
            let what = format!("it answered {} results for {} rows", results.len(), inputs.len());
            return Err(Fault { code: "BAD_OUTPUT", what });
        }
        self.live = Some(instance);
        Ok(results)
    }

    /// Narrows a fault down to its first row, each try in a fresh instance. `fault` is the one of all rows together.
    fn bisect(&mut self, table: &str, inputs: &[InputRow], mut fault: Fault) -> Blamed {
        let (mut start, mut end) = (0, inputs.len());
        let full_ms = u64::from(self.limits.batch_time_ms);
        while end - start > 1 {
            let middle = start + (end - start) / 2;
            let mut halves = [(start, middle), (middle, end)].into_iter();
            let narrower = halves.find_map(|(from, to)| {
                // Fewer rows get less time, so that looking for a loop does not take ten times the limit; but never
                // so little that a busy machine looks like a loop.
                let time_ms = (full_ms * (to - from) as u64 / inputs.len() as u64).max(full_ms / 4);
                self.live = None;
                let fault = self.call(table, &inputs[from..to], time_ms).err()?;
                Some((from, to, fault))
            });
            match narrower {
                Some((from, to, inner)) => (start, end, fault) = (from, to, inner),
                None => {
                    // L9: neither half fails, so the answer depends on the cut. That is a fault of its own.
                    fault.what = format!("{}, with {} rows at once but not with fewer", fault.what, end - start);
                    break;
                }
            }
        }
        self.live = None;
        Blamed { row: start, fault }
    }
}

/// Turns one call's results into answers; stops at the first row that has none.
fn check(plan: &Plan, source: &Source, results: Results, answers: &mut Vec<Answer>) -> Result<(), Blamed> {
    for (row, result) in results.into_iter().enumerate() {
        let answer = match result {
            Ok(rows) => checked(plan, source, rows),
            Err(rejection) => Err(rejected(source, &rejection)),
        };
        answers.push(answer.map_err(|fault| Blamed { row, fault })?);
    }
    Ok(())
}

/// As many rows as one call gets, and the problem of the row after them if that one cannot be handed over.
fn lower(plan: &Plan, source: &Source, rows: &[&Image], limit_bytes: usize) -> (Vec<InputRow>, Option<Problem>) {
    let mut inputs = Vec::with_capacity(rows.len().min(ROWS));
    let mut weight = 0;
    for row in rows.iter().take(ROWS) {
        let values: Result<Vec<_>, _> = source.rule.asked.iter().map(|asked| cell(source, row, *asked)).collect();
        let (values, related) = match values.and_then(|values| Ok((values, related(plan, source, row)?))) {
            Ok(both) => both,
            Err(problem) => return (inputs, Some(problem)),
        };
        let handed = values.iter().chain(related.iter().flatten().flatten());
        weight += handed.map(value::weight_bytes).sum::<usize>();
        if weight > limit_bytes && !inputs.is_empty() {
            break;
        }
        inputs.push(InputRow { values, related });
    }
    (inputs, None)
}

/// The related rows of one row, out of the cells behind its own: for each related table a JSON list of lists of cells.
fn related(plan: &Plan, source: &Source, row: &Image) -> Result<Vec<Vec<Vec<super::wire::Value>>>, Problem> {
    let first = source.columns.len() + source.depends.mapped.len();
    let tables = source.depends.related.iter().enumerate();
    tables
        .map(|(number, related)| {
            let json = row.text(first + number).unwrap_or(b"[]");
            let rows: Vec<Vec<Option<String>>> = serde_json::from_slice(json).map_err(|_| {
                Problem::stop(Blame::Host, "MIRROR_UNREADABLE", "related rows are not readable").table(&source.name)
            })?;
            let other = &plan.sources[related.source];
            let one = |cells: &Vec<Option<String>>| {
                let mut datums = vec![Datum::Null; other.columns.len()];
                for ((column, _), cell) in related.columns.iter().zip(cells) {
                    datums[*column] = cell.clone().map_or(Datum::Null, Datum::text);
                }
                let image = Image::from_datums(&datums);
                related.columns.iter().map(|asked| cell(other, &image, *asked)).collect::<Result<Vec<_>, _>>()
            };
            rows.iter().map(one).collect()
        })
        .collect()
}

fn cell(source: &Source, row: &Image, (column, as_text): (usize, bool)) -> Result<super::wire::Value, Problem> {
    let place = &source.columns[column];
    // Bytes asked for as text are their own text form; every other type is text already.
    let case = if as_text { Case::Text } else { place.case };
    value::into_guest(row, column, case).map_err(|unfit| {
        let (code, what) = match unfit {
            Unfit::Unchanged => {
                ("TOAST_UNRESOLVED", "the log does not hold an out-of-line value that the transform needs".to_owned())
            }
            Unfit::Encoding => ("ENCODING", "a value is not UTF-8".to_owned()),
            Unfit::Form => ("VALUE_FORM", format!("a value is not in PostgreSQL's text form of {}", place.type_sql)),
        };
        let remedy = match unfit {
            Unfit::Unchanged => {
                format!("ALTER TABLE {} REPLICA IDENTITY FULL; then copy the table again", source.name.sql())
            }
            Unfit::Encoding => "use a source database whose encoding is UTF8".to_owned(),
            Unfit::Form => "report it: the connection's pinned settings do not hold".to_owned(),
        };
        Problem::stop(Blame::Source, code, what).table(&source.name).column(&place.name).remedy(remedy)
    })
}

/// What a rejection may say: the code if it is a plain name, and the column; never the message, which may hold values.
fn rejected(source: &Source, rejection: &Rejection) -> Fault {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.:".contains(letter);
    let code = match rejection.code.as_str() {
        code if !code.is_empty() && code.len() <= 64 && code.chars().all(plain) => code,
        _ => "(no printable code)",
    };
    let column = rejection.column.and_then(|position| source.rule.asked.get(position as usize));
    let column = column.map(|(column, _)| format!(" because of column {}", source.columns[*column].name));
    Fault { code: "ROW_REJECTED", what: format!("it rejects a row{}: {code}", column.unwrap_or_default()) }
}

/// One row's output rows, held against the rule.
fn checked(plan: &Plan, source: &Source, rows: Vec<WireRow>) -> Result<Answer, Fault> {
    let bad = |what: String| Fault { code: "BAD_OUTPUT", what };
    let outputs = &source.rule.outputs;
    let mut seen = vec![false; outputs.len()];
    let mut answer = Answer::with_capacity(rows.len());
    for row in rows {
        let position = row.output as usize;
        let Some(output) = outputs.get(position) else {
            return Err(bad(format!("it answered output {position}, the rule has {}", outputs.len())));
        };
        let target = &plan.targets[output.target];
        if std::mem::replace(&mut seen[position], true) && !output.many {
            return Err(bad(format!("it answered two rows for {}, which is not declared `many`", target.name)));
        }
        if row.values.len() != output.computed.len() {
            let (given, wanted) = (row.values.len(), output.computed.len());
            return Err(bad(format!("it answered {given} values for {}, which has {wanted} computed", target.name)));
        }
        let pairs = row.values.into_iter().zip(&output.computed);
        let values =
            pairs.map(|(value, column)| value::out_of_guest(value, target, *column)).collect::<Result<_, _>>()?;
        // A row that the host copies alone always exists; the guest's word on it is not needed.
        if output.needs_guest() {
            answer.push(OutputRow { output: position, values });
        }
    }
    for (output, seen) in outputs.iter().zip(seen) {
        // L3: a row that is forgotten must not look like one that is meant to be absent.
        if output.needs_guest() && output.when.is_none() && !output.many && !seen {
            let target = &plan.targets[output.target].name;
            return Err(bad(format!("it answered no row for {target}, whose rows always exist")));
        }
    }
    Ok(answer)
}
