//! Compares the two sides through the transform while nobody writes.
//!
//! ```text
//!   source, one snapshot --> guest --> lifted as inserts --> expected rows, 5,000 at a time --> target, one snapshot
//!                                                                                                    |
//!                                                              same | differs | missing;  what is left: surplus
//! ```
//!
//! It only reads. Columns that no rule writes are complement: they are left out and counted. Rows that a soft delete
//! keeps have no source row any more; they are counted and are no difference; so is what `excused` finds. No row value
//! leaves this flow: keys are shown as hashes unless values are asked for.

pub mod either;
mod excused;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::apply::compare::{Comparison, Finding, Seen};
use crate::change::{Datum, Event, Image};
use crate::delta::lift::{self, LiftError, Lifter};
use crate::delta::{Effect, Operation};
use crate::manifest::Write;
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::plan::{Answer, Columns, Plan, Source, Target};
use crate::problem::{Blame, Outcome, Problem};
use crate::source::copy_out::{CopyOut, parse_rows, range_query};
use crate::stream::keyed::Keyed;
use crate::transform::{Artifact, Guest, Limits};

use either::Differing;
use excused::Excusing;

/// How many expected rows the target is asked about at once.
const COMPARE_ROWS: usize = 5_000;
/// How many rows that are not as expected are looked at again; whoever has more has another problem.
const WRONG_MOST: usize = 100_000;
/// How many rows the guest gets at once: from 100 to 1,000 the cost of a row is flat.
const GUEST_ROWS: usize = 1_000;

/// Asks the transform about rows of a source (by its position in the plan): one answer a row, in order.
pub type Answers<'a> = dyn FnMut(usize, &[&Image]) -> Outcome<Vec<Answer>> + Send + 'a;

/// The two databases.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The side that is transformed.
    pub source: &'a Address,
    /// The side that is held against it.
    pub target: &'a Address,
}

/// What to show.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Keys as they are, instead of hashes.
    pub values: bool,
    /// How many differing rows are named for each table.
    pub sample_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { values: false, sample_rows: 10 }
    }
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The target holds it with other values.
    Differs,
    /// The target does not hold it, or two source rows expect the same one.
    Missing,
    /// Only the target holds it.
    Surplus,
}

/// One row that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How it differs.
    pub kind: Kind,
    /// Its key: a hash, or the values if they were asked for.
    pub key: String,
    /// The columns that differ.
    pub columns: Vec<String>,
}

/// What was found in one target table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableVerdict {
    /// The table.
    pub table: TableName,
    /// Expected rows.
    pub rows_compared: u64,
    /// Rows with other values than expected.
    pub rows_differ: u64,
    /// Rows that were expected and are not there.
    pub rows_missing: u64,
    /// Rows that nothing in the source stands for.
    pub rows_surplus: u64,
    /// Rows whose source row is gone and that the rule's soft delete keeps.
    pub rows_kept: u64,
    /// Rows with other values than expected of which the rules backward make the source row that is there: corrections.
    pub rows_corrected: u64,
    /// Rows that nothing in the source stands for, and of which the rules backward make nothing: the side's own.
    pub rows_own: u64,
    /// Rows that wait in open conflicts, whatever they hold.
    pub rows_waiting: u64,
    /// Columns that no rule writes: not compared.
    pub complement_columns: Vec<String>,
    /// Some of the differing rows.
    pub sample: Vec<Difference>,
}

impl TableVerdict {
    /// Rows that are not as expected.
    pub fn rows_wrong(&self) -> u64 {
        self.rows_differ + self.rows_missing + self.rows_surplus
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// By table, in the order of the plan.
    pub tables: Vec<TableVerdict>,
}

impl Verdict {
    /// Expected rows of all tables.
    pub fn rows_compared(&self) -> u64 {
        self.tables.iter().map(|table| table.rows_compared).sum()
    }

    /// Rows of all tables that are not as expected.
    pub fn rows_wrong(&self) -> u64 {
        self.tables.iter().map(TableVerdict::rows_wrong).sum()
    }

    /// Rows of all tables that wait in open conflicts.
    pub fn rows_waiting(&self) -> u64 {
        self.tables.iter().map(|table| table.rows_waiting).sum()
    }
}

/// Compares the sides through an artifact; without one every table is compared as it is. With the plan of the way back, a
/// row that agrees only backward agrees.
pub async fn verify_through(
    ends: Ends<'_>,
    (plan, back): (&Plan, Option<&Plan>),
    (migration, link): (&str, Link),
    artifact: Option<(Arc<Artifact>, Limits)>,
    options: Options,
) -> Outcome<Verdict> {
    let mut answers = asking(plan, &artifact, link);
    let keyed = Keyed::connect_to_read((ends.source, ends.target), plan, migration, link).await?;
    let (mut verdict, wrong) = compare_sides(ends, plan, &mut answers, (options, keyed)).await?;
    if wrong.is_empty() {
        return Ok(verdict);
    }
    let waiting = excused::waiting(ends, migration, link).await?;
    let mut excusing = Excusing { verdict: &mut verdict, targets: &plan.targets, options };
    let wrong = excusing.waiting(&waiting, wrong);
    if let Some(back) = back {
        excusing.backward(ends, back, (migration, link.other()), &artifact, wrong).await?;
    }
    Ok(verdict)
}

/// Asks an artifact about the sources of a plan, in one direction.
pub fn asking<'a>(
    plan: &'a Plan,
    artifact: &Option<(Arc<Artifact>, Limits)>,
    link: Link,
) -> impl FnMut(usize, &[&Image]) -> Outcome<Vec<Answer>> + Send + 'a {
    let mut guest = artifact.clone().map(|(artifact, limits)| Guest::new(artifact, link.into(), limits));
    move |index: usize, rows: &[&Image]| match &mut guest {
        Some(guest) => guest.answer(plan, &plan.sources[index], rows).map_err(|fault| fault.problem),
        None => Err(Problem::stop(Blame::Host, "NO_ARTIFACT", "a rule asks a transform, and none is loaded")),
    }
}

/// Compares the sides. Whoever calls it makes sure that nobody writes: each side is read at a moment of its own.
pub async fn verify(ends: Ends<'_>, plan: &Plan, answers: &mut Answers<'_>, options: Options) -> Outcome<Verdict> {
    compare_sides(ends, plan, answers, (options, None)).await.map(|(verdict, _)| verdict)
}

async fn compare_sides(
    ends: Ends<'_>,
    plan: &Plan,
    answers: &mut Answers<'_>,
    (options, keyed): (Options, Option<Keyed>),
) -> Outcome<(Verdict, Vec<(Kind, Differing)>)> {
    let reader = Session::connect_blaming(ends.source, Blame::Source, "verify").await?;
    let holder = Session::connect_blaming(ends.source, Blame::Source, "verify").await?;
    let other = Session::connect_blaming(ends.target, Blame::Target, "verify").await?;
    holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot = holder.one("SELECT pg_export_snapshot()").await?.text(0)?;
    let source = CopyOut::enter(reader.client(), &snapshot).await?;
    drop(holder);
    let target = Comparison::enter(other.client()).await?;

    let mut run = Run::new(plan, options, &target).await?;
    run.keyed = keyed;
    for index in 0..plan.sources.len() {
        run.read(index, &source, answers).await?;
    }
    run.flush_all().await?;
    for index in 0..plan.targets.len() {
        run.find_surplus(index).await?;
    }
    let verdict = Verdict { tables: shown(plan, run.verdict.tables) };
    let wrong = run.wrong;
    source.leave().await?;
    target.leave().await?;
    Ok((verdict, wrong))
}

/// Rows of one target table over one set of columns, and whether they are patches of rows that others own.
type Bucket = (usize, Columns, bool);

struct Run<'r> {
    plan: &'r Plan,
    options: Options,
    target: &'r Comparison<'r>,
    seen: Seen,
    lifter: Lifter,
    keyed: Option<Keyed>,
    expected: HashMap<Bucket, Vec<Box<[Datum]>>>,
    verdict: Verdict,
    wrong: Vec<(Kind, Differing)>,
}

impl<'r> Run<'r> {
    async fn new(plan: &'r Plan, options: Options, target: &'r Comparison<'r>) -> Outcome<Self> {
        let tables = (0..plan.targets.len()).map(|index| empty(plan, index)).collect();
        Ok(Run {
            plan,
            options,
            target,
            seen: Seen::new(target.rows_a_page().await?),
            lifter: Lifter::default(),
            keyed: None,
            expected: HashMap::new(),
            verdict: Verdict { tables },
            wrong: Vec::new(),
        })
    }

    async fn read(&mut self, index: usize, from: &CopyOut<'_>, answers: &mut Answers<'_>) -> Outcome<()> {
        let source = &self.plan.sources[index];
        if source.rule.outputs.is_empty() {
            return Ok(());
        }
        let columns: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
        let mut blocks = from.read(&range_query(&source.name, &columns, &[], None, None)).await?;
        while let Some(block) = blocks.next().await? {
            let mut images = parse_rows(&block, source.columns.len())?;
            if let Some(keyed) = self.keyed.as_mut().filter(|_| source.depends.is_any()) {
                images = keyed.copied(index, images).await?.0;
            }
            self.lift(index, &images, answers).map_err(|problem| problem.table(&source.name))?;
            self.flush_full().await?;
        }
        Ok(())
    }

    /// What a block of source rows lets expect in the target.
    fn lift(&mut self, index: usize, images: &[Image], answers: &mut Answers<'_>) -> Outcome<()> {
        let source = &self.plan.sources[index];
        let asked = source.rule.outputs.iter().any(crate::plan::Output::needs_guest);
        for part in images.chunks(GUEST_ROWS) {
            let answered = match asked {
                true => answers(index, &part.iter().collect::<Vec<_>>())?,
                false => Vec::new(),
            };
            for (row, image) in part.iter().enumerate() {
                let event = Event::Insert(image.clone());
                let answer = answered.get(row).filter(|_| lift::ask(source, &event).after);
                let mut operations = Vec::new();
                self.lifter
                    .lift(index, source, &self.plan.targets, &event, (None, answer), &mut operations)
                    .map_err(|error| unliftable(source, error))?;
                self.add(operations);
            }
        }
        Ok(())
    }

    fn add(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            // What is ensured is only there; its columns are nobody's. A patch expects some columns of another's row.
            let (bucket, values) = match operation.effect {
                Effect::Insert { columns, values } => ((operation.target, columns, false), values),
                Effect::Patch { key, columns, values } => {
                    let keys = &self.plan.targets[operation.target].key;
                    let mut all: Vec<(u16, Datum)> =
                        keys.iter().chain(columns.iter()).copied().zip(key.into_iter().chain(values)).collect();
                    all.sort_by_key(|(column, _)| *column);
                    let (columns, values): (Vec<u16>, Vec<Datum>) = all.into_iter().unzip();
                    ((operation.target, columns.as_slice().into(), true), values.into())
                }
                _ => continue,
            };
            self.expected.entry(bucket).or_default().push(values);
        }
    }

    async fn flush_full(&mut self) -> Outcome<()> {
        let full = |(bucket, rows): (&Bucket, &Vec<_>)| (rows.len() >= COMPARE_ROWS).then(|| bucket.clone());
        let buckets: Vec<Bucket> = self.expected.iter().filter_map(full).collect();
        self.flush(buckets).await
    }

    async fn flush_all(&mut self) -> Outcome<()> {
        let buckets = self.expected.keys().cloned().collect();
        self.flush(buckets).await
    }

    async fn flush(&mut self, buckets: Vec<Bucket>) -> Outcome<()> {
        for (target, columns, patched) in buckets {
            let rows = self.expected.remove(&(target, columns.clone(), patched)).unwrap_or_default();
            for part in rows.chunks(COMPARE_ROWS) {
                match patched {
                    true => self.compare_patched(target, &columns, part).await?,
                    false => self.compare(target, &columns, part).await?,
                }
            }
        }
        Ok(())
    }

    async fn compare(&mut self, index: usize, columns: &Columns, rows: &[Box<[Datum]>]) -> Outcome<()> {
        let target = &self.plan.targets[index];
        let findings = self.target.compare(target, columns, rows).await?;
        self.verdict.tables[index].rows_compared += rows.len() as u64;
        for (row, finding) in rows.iter().zip(findings) {
            let (kind, differ) = match finding {
                Finding::Same(place) if self.seen.note(place) => continue,
                Finding::Differs(place, columns) if self.seen.note(place) => (Kind::Differs, columns),
                // Two source rows expect one target row (counter-example 10): there is one too few.
                Finding::Same(_) | Finding::Differs(..) | Finding::Missing => (Kind::Missing, Vec::new()),
            };
            self.note(index, kind, &key_of(target, columns, row), &differ);
        }
        Ok(())
    }

    /// Columns that are set in rows of others: the rows themselves are compared where they are owned.
    async fn compare_patched(&mut self, index: usize, columns: &Columns, rows: &[Box<[Datum]>]) -> Outcome<()> {
        let target = &self.plan.targets[index];
        let findings = self.target.compare(target, columns, rows).await?;
        for (row, finding) in rows.iter().zip(findings) {
            let differ = match finding {
                Finding::Same(_) => continue,
                Finding::Differs(_, differ) => differ,
                Finding::Missing => Vec::new(),
            };
            self.note(index, Kind::Differs, &key_of(target, columns, row), &differ);
        }
        Ok(())
    }

    /// All expected rows were noted where they lie; whatever else the table holds, nothing stands for.
    async fn find_surplus(&mut self, index: usize) -> Outcome<()> {
        let target = &self.plan.targets[index];
        let mut outputs = self.plan.sources.iter().flat_map(|source| &source.rule.outputs);
        if !outputs.any(|output| output.target == index && output.write == Write::Own) {
            return Ok(());
        }
        let verdict = &self.verdict.tables[index];
        let held = verdict.rows_compared - verdict.rows_missing;
        if self.target.count(target).await? == held {
            return Ok(());
        }
        let outputs = self.plan.sources.iter().flat_map(|source| &source.rule.outputs);
        let soft_deletes: Vec<_> =
            outputs.filter(|output| output.target == index).filter_map(|output| output.on_delete_set.clone()).collect();
        let (seen, mut rest, mut kept) = (&self.seen, Vec::new(), 0);
        self.target
            .walk(target, &soft_deletes, |part| {
                for row in part.into_iter().filter(|row| !seen.holds(row.place)) {
                    match row.kept {
                        true => kept += 1,
                        false => rest.push(row.key),
                    }
                }
            })
            .await?;
        self.verdict.tables[index].rows_kept = kept;
        for key in rest {
            self.note(index, Kind::Surplus, &key, &[]);
        }
        Ok(())
    }

    fn note(&mut self, index: usize, kind: Kind, key: &[String], differ: &[u16]) {
        let target = &self.plan.targets[index];
        if self.wrong.len() < WRONG_MOST {
            self.wrong.push((kind, Differing { target: index, key: key.to_vec(), columns: differ.to_vec() }));
        }
        let verdict = &mut self.verdict.tables[index];
        match kind {
            Kind::Differs => verdict.rows_differ += 1,
            Kind::Missing => verdict.rows_missing += 1,
            Kind::Surplus => verdict.rows_surplus += 1,
        }
        if verdict.sample.len() < self.options.sample_rows {
            let columns = differ.iter().map(|column| target.columns[usize::from(*column)].name.clone()).collect();
            let key = shown_key(self.options, &target.name, key);
            verdict.sample.push(Difference { kind, key, columns });
        }
    }
}

/// Without what the link keeps for itself.
fn shown(plan: &Plan, tables: Vec<TableVerdict>) -> Vec<TableVerdict> {
    let own = |(_, target): &(TableVerdict, &Target)| !target.internal;
    tables.into_iter().zip(&plan.targets).filter(own).map(|(table, _)| table).collect()
}

fn empty(plan: &Plan, index: usize) -> TableVerdict {
    let target = &plan.targets[index];
    let outputs = plan.sources.iter().flat_map(|source| &source.rule.outputs).filter(|output| output.target == index);
    let written: BTreeSet<u16> = outputs.flat_map(|output| output.columns.iter().copied()).collect();
    let complement = |(position, column): (usize, &crate::plan::TargetColumn)| {
        let own = !column.generated && !written.contains(&u16::try_from(position).unwrap_or(u16::MAX));
        own.then(|| column.name.clone())
    };
    TableVerdict {
        table: target.name.clone(),
        rows_compared: 0,
        rows_differ: 0,
        rows_missing: 0,
        rows_surplus: 0,
        rows_kept: 0,
        rows_corrected: 0,
        rows_own: 0,
        rows_waiting: 0,
        complement_columns: target.columns.iter().enumerate().filter_map(complement).collect(),
        sample: Vec::new(),
    }
}

/// The key of a row, as texts, in the order of `Target::key`.
pub fn key_of(target: &Target, columns: &Columns, row: &[Datum]) -> Vec<String> {
    let text = |column: &u16| match columns.iter().position(|other| other == column).map(|place| &row[place]) {
        Some(Datum::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    target.key.iter().map(text).collect()
}

/// A key as it is shown: hashed unless values are asked for.
pub fn shown_key(options: Options, table: &TableName, key: &[String]) -> String {
    if options.values { key.join(", ") } else { hash(table, key) }
}

fn hash(table: &TableName, key: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&table.to_string()).chain(key) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(6).fold("#".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn unliftable(source: &Source, error: LiftError) -> Problem {
    Problem::stop(Blame::Artifact, "TRANSFORM_ANSWER", format!("a row cannot be turned into target rows: {error}"))
        .table(&source.name)
        .remedy("the transform's rule for this table does not fit its rows; correct it and load the new artifact")
}
