//! Rows on their way into a transform and answers on their way out.
//!
//! It must never print what a transform says about a row, nor hand it a value that nobody knows.

use super::calls::Blamed;
use super::instance::Fault;
use super::sample::Sample;
use super::value::{self, Unfit};
use super::wire::{InputRow, OutputRow as WireRow, Rejection, Results, Value};
use crate::change::{Datum, Image};
use crate::plan::{Answer, Case, OutputRow, Plan, Source};
use crate::problem::{Blame, Problem};

/// The most rows that one call gets: from 100 on more rows cost the same, from 10,000 on they cost more.
pub(super) const ROWS: usize = 1_000;

/// The rows of one call.
pub(super) struct Cut {
    /// Position of its first row in the batch.
    pub(super) start: usize,
    pub(super) inputs: Vec<InputRow>,
    /// Whether the call is made again, to see whether its answers are the same.
    pub(super) again: bool,
    /// Why the row after them cannot be handed over, if it cannot.
    pub(super) unfit: Option<Problem>,
}

/// A batch, cut into calls one after the other: so many rows are lowered at once as there are calls in work.
pub(super) struct Cuts<'a> {
    plan: &'a Plan,
    source: &'a Source,
    rows: &'a [&'a Image],
    at: usize,
    limit_bytes: usize,
    sample: &'a mut Sample,
}

impl<'a> Cuts<'a> {
    pub(super) fn new(
        (plan, source): (&'a Plan, &'a Source),
        rows: &'a [&'a Image],
        limit_bytes: usize,
        sample: &'a mut Sample,
    ) -> Self {
        Cuts { plan, source, rows, at: 0, limit_bytes, sample }
    }

    /// The next call. After one with a row that does not fit there is none.
    pub(super) fn next(&mut self) -> Option<Cut> {
        let start = self.at;
        let rows = self.rows.get(start..).filter(|rows| !rows.is_empty())?;
        let (inputs, unfit) = lower(self.plan, self.source, rows, self.limit_bytes);
        self.at = if unfit.is_some() { self.rows.len() } else { start + inputs.len() };
        let again = self.sample.takes(self.source, inputs.len());
        Some(Cut { start, inputs, again, unfit })
    }

    /// About how many calls there are still, if they are like this one.
    pub(super) fn left(&self, like: &Cut) -> usize {
        (self.rows.len() - self.at).div_ceil(like.inputs.len().max(1))
    }

    /// No more calls.
    pub(super) fn end(&mut self) {
        self.at = self.rows.len();
    }
}

/// Turns one call's results into answers; stops at the first row that has none.
pub(super) fn check(plan: &Plan, source: &Source, results: Results, answers: &mut Vec<Answer>) -> Result<(), Blamed> {
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
fn related(plan: &Plan, source: &Source, row: &Image) -> Result<Vec<Vec<Vec<Value>>>, Problem> {
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

fn cell(source: &Source, row: &Image, (column, as_text): (usize, bool)) -> Result<Value, Problem> {
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
