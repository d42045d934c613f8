//! The other half of agreement (counter-example 22): a row that is not what the rules make of its source row agrees all the
//! same if the rules backward make that source row of it. A corrected split does: release 2 knows better, and release 1
//! would be told what it holds already. And a row that nothing in the source stands for agrees if they make nothing of it.
//!
//! Only rows that are not as expected are asked about; they are few. What differs in a column from which the way back reads
//! nothing stays a difference.

use std::collections::BTreeSet;

use super::{Answers, Ends, GUEST_ROWS};
use crate::apply::compare::{Comparison, Finding};
use crate::change::{Event, Image};
use crate::delta::lift::{self, Lifter};
use crate::delta::{Effect, Operation};
use crate::manifest::Write;
use crate::marker::Link;
use crate::names::{quote_name, quote_names, quote_text};
use crate::pg::session::Session;
use crate::plan::{Filling, Output, Plan, Source, Target};
use crate::problem::{Blame, Outcome};
use crate::source::copy_out::{CopyOut, parse_rows};
use crate::stream::keyed::Keyed;

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

/// Which of the differing rows agree backward, and of which of the surplus ones the rules backward make nothing. `ends` and
/// `targets` are those of the comparison that found them, `back` is the plan of the other direction and `answers` asks its
/// rules.
pub(super) async fn asked(
    ends: Ends<'_>,
    targets: &[Target],
    (back, migration, link): (&Plan, &str, Link),
    answers: &mut Answers<'_>,
    (differing, surplus): (&[Differing], &[Differing]),
) -> Outcome<(Vec<bool>, Vec<bool>)> {
    let reader = Session::connect_blaming(ends.target, Blame::Target, "verify").await?;
    let holder = Session::connect_blaming(ends.target, Blame::Target, "verify").await?;
    let other = Session::connect_blaming(ends.source, Blame::Source, "verify").await?;
    // Without the way back there are no pairs on this side, and nobody can say what depends on them.
    let has_schema = other.one("SELECT to_regclass('falkirk.mirror') IS NOT NULL").await?.flag(0)?;
    let keyed = match has_schema || back.maps.is_empty() {
        true => Keyed::connect_to_read((ends.target, ends.source), back, migration, link).await?,
        false => None,
    };
    holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot = holder.one("SELECT pg_export_snapshot()").await?.text(0)?;
    let rows = CopyOut::enter(reader.client(), &snapshot).await?;
    drop(holder);
    let held = Comparison::enter(other.client()).await?;
    let mut asking = Asking::new(back, answers, (&rows, &held));
    asking.keyed = keyed;
    let agree = asking.agreeing(targets, differing).await?;
    let own = asking.standing_for_nothing(targets, surplus).await?;
    rows.leave().await?;
    held.leave().await?;
    Ok((agree, own))
}

/// Asks the rules backward about rows of the target.
pub struct Asking<'a, 'b> {
    back: &'a Plan,
    answers: &'a mut Answers<'b>,
    rows: &'a CopyOut<'a>,
    held: &'a Comparison<'a>,
    lifter: Lifter,
    keyed: Option<Keyed>,
}

impl<'a, 'b> Asking<'a, 'b> {
    /// `rows` reads the target, `held` the source.
    pub fn new(
        back: &'a Plan,
        answers: &'a mut Answers<'b>,
        (rows, held): (&'a CopyOut<'a>, &'a Comparison<'a>),
    ) -> Self {
        Asking { back, answers, rows, held, lifter: Lifter::default(), keyed: None }
    }

    /// Which of the rows agree backward. `targets` are those of the comparison that found them.
    pub async fn agreeing(&mut self, targets: &[Target], differing: &[Differing]) -> Outcome<Vec<bool>> {
        let mut agree = vec![false; differing.len()];
        for (source, target, rows) in self.parts(targets, differing) {
            let asked: Vec<&Differing> = rows.iter().map(|row| &differing[*row]).collect();
            for (at, operations) in self.lifted(source, target, &asked).await? {
                agree[rows[at]] = self.agrees(source, target, asked[at], operations).await?;
            }
        }
        Ok(agree)
    }

    /// Of which surplus rows the rules backward make nothing.
    async fn standing_for_nothing(&mut self, targets: &[Target], surplus: &[Differing]) -> Outcome<Vec<bool>> {
        let mut own = vec![false; surplus.len()];
        for (source, target, rows) in self.parts(targets, surplus) {
            // A rule that makes nothing of any row says nothing of this one.
            if self.back.sources[source].rule.outputs.iter().all(|output| output.write != Write::Own) {
                continue;
            }
            let asked: Vec<&Differing> = rows.iter().map(|row| &surplus[*row]).collect();
            for (at, operations) in self.lifted(source, target, &asked).await? {
                own[rows[at]] = operations.is_empty();
            }
        }
        Ok(own)
    }

    /// The rows, by their place in the list, in parts of one table, each with its source in the plan backward.
    fn parts<'t>(&self, targets: &'t [Target], rows: &[Differing]) -> Vec<(usize, &'t Target, Vec<usize>)> {
        let mut parts = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let of_target: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].target == at).collect();
            let Some(source) = self.back.sources.iter().position(|source| source.name == target.name) else { continue };
            if self.back.sources[source].depends.extends() && self.keyed.is_none() {
                continue;
            }
            parts.extend(of_target.chunks(GUEST_ROWS).map(|part| (source, target, part.to_vec())));
        }
        parts
    }

    /// What the rules backward make of rows that are there: by place in `asked`.
    async fn lifted(
        &mut self,
        index: usize,
        target: &Target,
        asked: &[&Differing],
    ) -> Outcome<Vec<(usize, Vec<Operation>)>> {
        let source = &self.back.sources[index];
        let mut images = self.read(source, target, asked).await?;
        if let Some(keyed) = self.keyed.as_mut().filter(|_| source.depends.extends()) {
            let related = related_to(self.back, index, &images, self.rows).await?;
            images = match source.depends.related.is_empty() {
                true => keyed.copied(index, images).await?.0,
                false => keyed.beside(index, images, related).await?,
            };
        }
        let needs_guest = source.rule.outputs.iter().any(Output::needs_guest);
        let answered = match needs_guest && !images.is_empty() {
            true => (self.answers)(index, &images.iter().collect::<Vec<_>>())?,
            false => Vec::new(),
        };
        let mut lifted = Vec::with_capacity(images.len());
        for (row, image) in images.into_iter().enumerate() {
            let key: Option<Vec<String>> =
                target.key.iter().map(|column| text(source, target, &image, *column)).collect();
            let Some(at) = asked.iter().position(|asked| Some(&asked.key) == key.as_ref()) else { continue };
            let event = Event::Insert(image.clone());
            let answer = answered.get(row).filter(|_| lift::ask(source, &event).after);
            let mut operations = Vec::new();
            self.lifter
                .lift(index, source, &self.back.targets, &event, (None, answer), &mut operations)
                .map_err(|error| super::unliftable(source, error))?;
            lifted.push((at, operations));
        }
        Ok(lifted)
    }

    /// Whether the source holds what the rules backward make of a row, in all that follows from the columns that differ.
    async fn agrees(
        &mut self,
        index: usize,
        target: &Target,
        asked: &Differing,
        operations: Vec<Operation>,
    ) -> Outcome<bool> {
        let source = &self.back.sources[index];
        let names = asked.columns.iter().map(|column| target.columns[usize::from(*column)].name.as_str());
        let Some(differ) = positions(source, names) else { return Ok(false) };
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
            told.extend(follows.iter().flat_map(|(_, from)| from).copied().filter(|column| differ.contains(column)));
            let concerned = |column: &u16| {
                follows.iter().any(|(to, from)| to == column && from.iter().any(|column| differ.contains(column)))
            };
            same &= match finding.first() {
                Some(Finding::Same(_)) => true,
                Some(Finding::Differs(_, columns)) => !columns.iter().any(concerned),
                Some(Finding::Missing) | None => false,
            };
        }
        Ok(same && told == differ)
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

/// The rows that these ones are related to, each with its position in the plan, as they are in the same snapshot: whoever
/// compares makes sure that nobody writes, so they are those of the rows' last change.
async fn related_to(back: &Plan, index: usize, images: &[Image], rows: &CopyOut<'_>) -> Outcome<Vec<(usize, Image)>> {
    let mut found = Vec::new();
    for related in &back.sources[index].depends.related {
        let other = &back.sources[related.source];
        let value =
            |image: &Image, column: usize| image.text(column).map(|text| quote_text(&String::from_utf8_lossy(text)));
        let wanted = |image: &Image| {
            let values: Option<Vec<String>> = related.on.iter().map(|(own, _)| value(image, *own)).collect();
            values.map(|values| format!("({})", values.join(", ")))
        };
        let wanted: BTreeSet<String> = images.iter().filter_map(wanted).collect();
        if wanted.is_empty() {
            continue;
        }
        let columns = quote_names(other.columns.iter().map(|column| column.name.as_str()));
        // Mirrors compare text. Only of one type is it the same, and found by an index.
        let on = related.on.iter().map(|(own, theirs)| {
            let theirs = &other.columns[*theirs];
            let is_same = back.sources[index].columns[*own].type_oid == theirs.type_oid;
            format!("{}{}", quote_name(&theirs.name), if is_same { "" } else { "::text" })
        });
        let on = on.collect::<Vec<_>>().join(", ");
        let wanted = wanted.into_iter().collect::<Vec<_>>().join(", ");
        let select = format!("SELECT {columns} FROM {} WHERE ({on}) IN ({wanted})", other.name.sql());
        let mut blocks = rows.read(&select).await?;
        while let Some(block) = blocks.next().await? {
            let images = parse_rows(&block, other.columns.len())?;
            found.extend(images.into_iter().map(|image| (related.source, image)));
        }
    }
    Ok(found)
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
