//! Taking notes: which rows of its source the application changed, and what of them, for the link that writes that
//! source (`seen`).
//!
//! Only tables that the other link writes are noted; what its own markers sign never is (L7).

use sha2::{Digest, Sha256};

use crate::change::{Before, Change, Event, Image};
use crate::marker::Link;
use crate::names::TableName;
use crate::plan::Plan;
use crate::plan::parts::{EXISTENCE, Parts};

use super::relations::{Bound, Relations, in_order};
use super::seen::{Note, RowDigest};

/// How rows of one source table are noted.
#[derive(Debug)]
struct Noted {
    table: TableName,
    /// Positions in the source's columns of the key by which the other link finds its rows, in its order.
    key: Vec<usize>,
    /// The part of each column.
    parts: Vec<u64>,
}

/// Notes the changes of a link's source.
#[derive(Debug)]
pub struct Notebook {
    /// By position in `Plan::sources`; `None`: the other link never writes the table.
    sources: Vec<Option<Noted>>,
}

impl Notebook {
    /// For a link and its plan, and the plan of the other link.
    pub fn new(plan: &Plan, back: &Plan, parts: &Parts, link: Link) -> Notebook {
        let noted = |source: &crate::plan::Source| {
            let target = back.targets.iter().find(|target| target.name == source.name)?;
            let position = |name: &str| source.columns.iter().position(|column| column.name == name);
            let key = target.key.iter().map(|column| position(&target.columns[usize::from(*column)].name));
            Some(Noted {
                table: source.name.clone(),
                key: key.collect::<Option<Vec<usize>>>()?,
                parts: source.columns.iter().map(|column| parts.of(link, &source.name, &column.name)).collect(),
            })
        };
        Notebook { sources: plan.sources.iter().map(noted).collect() }
    }

    /// Adds the notes on one change, whatever the order of its columns.
    pub fn note_change(&self, change: &Change, relations: &Relations, notes: &mut Vec<Note>) {
        match relations.get(&change.relation) {
            Some(Bound::Source { source, order: None, .. }) => self.note(*source, &change.event, notes),
            Some(Bound::Source { source, order: Some(order), .. }) => {
                self.note(*source, &in_order(&change.event, order), notes);
            }
            Some(Bound::LeftOut) | None => {}
        }
    }

    /// Adds the notes on one change of a row. Truncates are not noted: with both links on they stop (counter-example 11).
    pub fn note(&self, source: usize, event: &Event, notes: &mut Vec<Note>) {
        let Some(noted) = &self.sources[source] else { return };
        match event {
            Event::Insert(image) | Event::Delete(Before::Full(image) | Before::Key(image)) => {
                notes.push((noted.row(image), EXISTENCE));
            }
            Event::Update { before: Before::Full(before), after } => {
                let (old, new) = (noted.row(before), noted.row(after));
                if old == new {
                    notes.push((new, noted.changed(before, after)));
                } else {
                    notes.extend([(old, EXISTENCE), (new, EXISTENCE)]);
                }
            }
            // Without the old row nobody can tell what changed.
            Event::Update { before: Before::Key(before), after } => {
                notes.extend([(noted.row(before), EXISTENCE), (noted.row(after), EXISTENCE)]);
            }
            Event::Update { before: Before::Absent, after } => notes.push((noted.row(after), EXISTENCE)),
            Event::Delete(Before::Absent) | Event::Truncate { .. } => {}
        }
    }
}

impl Noted {
    fn row(&self, image: &Image) -> RowDigest {
        row_digest(&self.table, self.key.iter().map(|column| image.text(*column).unwrap_or_default()))
    }

    fn changed(&self, before: &Image, after: &Image) -> u64 {
        let columns = self.parts.iter().enumerate();
        columns.filter(|(column, _)| !after.agrees(before, *column)).fold(0, |sum, (_, part)| sum | part)
    }
}

/// The digest of a row's table and key. A fixed-width character type pads its values on the way out of a table only, so
/// blanks at the end count for nothing.
pub fn row_digest<'k>(table: &TableName, key: impl Iterator<Item = &'k [u8]>) -> RowDigest {
    let mut hasher = Sha256::new();
    hasher.update(table.to_string().as_bytes());
    for part in key {
        let part = part.trim_ascii_end();
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}
