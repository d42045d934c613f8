//! The other half of agreement (counter-example 22): a row that is not what the rules make of its source row agrees all the
//! same if the rules backward make that source row of it. A corrected split does: release 2 knows better, and release 1
//! would be told what it holds already.
//!
//! Only rows that differ are asked about; corrections are few. What differs in a column from which the way back reads
//! nothing stays a difference.

use std::collections::BTreeSet;

use super::{Answers, Ends, GUEST_ROWS};
use crate::apply::compare::{Comparison, Finding};
use crate::change::{Event, Image};
use crate::delta::Effect;
use crate::delta::lift::{self, Lifter};
use crate::names::{quote_names, quote_text};
use crate::pg::session::Session;
use crate::plan::{Filling, Output, Plan, Source, Target};
use crate::problem::{Blame, Outcome};
use crate::source::copy_out::{CopyOut, parse_rows};

/// A row of a target with other values than expected.
#[derive(Clone, Debug)]
pub struct Differing {
    /// Position in the forward plan's targets.
    pub target: usize,
    /// Its key, in the order of `Target::key`.
    pub key: Vec<String>,
    /// The columns that differ.
    pub columns: Vec<u16>,
}

/// Which of the rows agree backward. `ends` and `targets` are those of the comparison that found them, `back` is the plan
/// of the other direction and `answers` asks its rules.
pub(super) async fn agreeing(
    ends: Ends<'_>,
    targets: &[Target],
    back: &Plan,
    answers: &mut Answers<'_>,
    differing: &[Differing],
) -> Outcome<Vec<bool>> {
    let reader = Session::connect_blaming(ends.target, Blame::Target, "verify").await?;
    let holder = Session::connect_blaming(ends.target, Blame::Target, "verify").await?;
    let other = Session::connect_blaming(ends.source, Blame::Source, "verify").await?;
    holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot = holder.one("SELECT pg_export_snapshot()").await?.text(0)?;
    let rows = CopyOut::enter(reader.client(), &snapshot).await?;
    drop(holder);
    let held = Comparison::enter(other.client()).await?;
    let agree = Asking::new(back, answers, (&rows, &held)).agreeing(targets, differing).await?;
    rows.leave().await?;
    held.leave().await?;
    Ok(agree)
}

/// Asks the rules backward about rows of the target.
pub struct Asking<'a, 'b> {
    back: &'a Plan,
    answers: &'a mut Answers<'b>,
    rows: &'a CopyOut<'a>,
    held: &'a Comparison<'a>,
    lifter: Lifter,
}

impl<'a, 'b> Asking<'a, 'b> {
    /// `rows` reads the target, `held` the source.
    pub fn new(
        back: &'a Plan,
        answers: &'a mut Answers<'b>,
        (rows, held): (&'a CopyOut<'a>, &'a Comparison<'a>),
    ) -> Self {
        Asking { back, answers, rows, held, lifter: Lifter::default() }
    }

    /// Which of the rows agree backward. `targets` are those of the comparison that found them.
    pub async fn agreeing(&mut self, targets: &[Target], differing: &[Differing]) -> Outcome<Vec<bool>> {
        let mut agree = vec![false; differing.len()];
        for (at, target) in targets.iter().enumerate() {
            let of_target: Vec<usize> = (0..differing.len()).filter(|row| differing[*row].target == at).collect();
            let Some(source) = self.back.sources.iter().position(|source| source.name == target.name) else { continue };
            // What depends on more than itself would have to be extended first: it stays a difference.
            if self.back.sources[source].depends.is_any() {
                continue;
            }
            for part in of_target.chunks(GUEST_ROWS) {
                let asked: Vec<&Differing> = part.iter().map(|row| &differing[*row]).collect();
                let found = self.part(source, target, &asked).await?;
                part.iter().zip(found).for_each(|(row, agrees)| agree[*row] = agrees);
            }
        }
        Ok(agree)
    }

    async fn part(&mut self, index: usize, target: &Target, asked: &[&Differing]) -> Outcome<Vec<bool>> {
        let source = &self.back.sources[index];
        let images = self.read(source, target, asked).await?;
        let needs_guest = source.rule.outputs.iter().any(Output::needs_guest);
        let answered = match needs_guest && !images.is_empty() {
            true => (self.answers)(index, &images.iter().collect::<Vec<_>>())?,
            false => Vec::new(),
        };
        let mut agree = vec![false; asked.len()];
        for (row, image) in images.iter().enumerate() {
            let key: Option<Vec<String>> =
                target.key.iter().map(|column| text(source, target, image, *column)).collect();
            let Some(at) = asked.iter().position(|asked| Some(&asked.key) == key.as_ref()) else { continue };
            let names = asked[at].columns.iter().map(|column| target.columns[usize::from(*column)].name.as_str());
            let Some(differ) = positions(source, names) else { continue };
            let event = Event::Insert(image.clone());
            let answer = answered.get(row).filter(|_| lift::ask(source, &event).after);
            let mut operations = Vec::new();
            self.lifter
                .lift(index, source, &self.back.targets, &event, (None, answer), &mut operations)
                .map_err(|error| super::unliftable(source, error))?;
            let mut told = BTreeSet::new();
            let mut same = !operations.is_empty();
            for operation in operations {
                let Effect::Insert { columns, values } = operation.effect else {
                    same = false;
                    continue;
                };
                let finding = self.held.compare(&self.back.targets[operation.target], &columns, &[values]).await?;
                let outputs = source.rule.outputs.iter().filter(|output| output.target == operation.target);
                let follows: Vec<(u16, Vec<usize>)> = outputs.flat_map(follows).collect();
                told.extend(
                    follows.iter().flat_map(|(_, from)| from).copied().filter(|column| differ.contains(column)),
                );
                let concerned = |column: &u16| {
                    follows.iter().any(|(to, from)| to == column && from.iter().any(|column| differ.contains(column)))
                };
                same &= match finding.first() {
                    Some(Finding::Same(_)) => true,
                    Some(Finding::Differs(_, columns)) => !columns.iter().any(concerned),
                    Some(Finding::Missing) | None => false,
                };
            }
            agree[at] = same && told == differ;
        }
        Ok(agree)
    }

    async fn read(&mut self, source: &Source, target: &Target, asked: &[&Differing]) -> Outcome<Vec<Image>> {
        let key: Vec<&str> =
            target.key.iter().map(|column| target.columns[usize::from(*column)].name.as_str()).collect();
        let cast = |(text, column): (&String, &u16)| {
            format!("{}::{}", quote_text(text), target.columns[usize::from(*column)].cast_sql)
        };
        let row = |asked: &&Differing| {
            let values: Vec<String> = asked.key.iter().zip(target.key.iter()).map(cast).collect();
            format!("({})", values.join(", "))
        };
        let columns = quote_names(source.columns.iter().map(|column| column.name.as_str()));
        let (table, key) = (target.name.sql(), quote_names(key));
        let wanted = asked.iter().map(row).collect::<Vec<_>>().join(", ");
        let mut blocks = self.rows.read(&format!("SELECT {columns} FROM {table} WHERE ({key}) IN ({wanted})")).await?;
        let mut images = Vec::new();
        while let Some(block) = blocks.next().await? {
            images.extend(parse_rows(&block, source.columns.len())?);
        }
        Ok(images)
    }
}

fn text(source: &Source, target: &Target, image: &Image, column: u16) -> Option<String> {
    let name = &target.columns[usize::from(column)].name;
    let at = source.columns.iter().position(|column| column.name == *name)?;
    image.text(at).map(|text| String::from_utf8_lossy(text).into_owned())
}

/// `None` if the way back does not read one of them at all.
fn positions<'n>(source: &Source, names: impl Iterator<Item = &'n str>) -> Option<BTreeSet<usize>> {
    let position = |name: &str| source.columns.iter().position(|column| column.name == name);
    names.map(position).collect()
}

/// Each column that an output writes, with the source columns that it follows from.
fn follows(output: &Output) -> Vec<(u16, Vec<usize>)> {
    let from = |filling: &Filling| match filling {
        Filling::Copied(column) => vec![*column],
        Filling::Computed(value) => {
            let group = output.groups.iter().find(|group| group.values.contains(value));
            group.map(|group| group.from.clone()).unwrap_or_default()
        }
        Filling::Mapped(_) => Vec::new(),
    };
    output.columns.iter().copied().zip(output.filled_by.iter().map(from)).collect()
}
