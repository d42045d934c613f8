//! Taking notes: which rows of its source the application changed, and what of them, for the link that writes that
//! source (`seen`).
//!
//! Only tables that the other link writes are noted; what its own markers sign never is (L7).

use crate::change::{Before, Change, Event, Image};
use crate::marker::{RowDigest, record_digest, row_digest};
use crate::names::TableName;
use crate::plan::Plan;
use crate::plan::parts::{ALL, LinkParts, THERE};
use crate::plan::records::Record;

use super::relations::{Bound, Relations, in_order};
use super::seen::Note;

/// How rows of one source table are noted.
#[derive(Debug)]
struct Noted {
    table: TableName,
    /// Positions in the source's columns of the key by which the other link finds its rows, in its order.
    key: Vec<usize>,
}

/// Notes the changes of a link's source.
#[derive(Debug)]
pub struct Notebook {
    /// By position in `Plan::sources`; `None`: the other link never writes the table.
    sources: Vec<Option<Noted>>,
    parts: LinkParts,
}

impl Notebook {
    /// For a link's plan and its parts, and the plan of the other link.
    pub fn new(plan: &Plan, back: &Plan, parts: LinkParts) -> Notebook {
        let noted = |source: &crate::plan::Source| {
            let target = back.targets.iter().find(|target| target.name == source.name)?;
            let position = |name: &str| source.columns.iter().position(|column| column.name == name);
            let key = target.key.iter().map(|column| position(&target.columns[usize::from(*column)].name));
            Some(Noted { table: source.name.clone(), key: key.collect::<Option<Vec<usize>>>()? })
        };
        Notebook { sources: plan.sources.iter().map(noted).collect(), parts }
    }

    /// The parts of the link's columns.
    pub fn parts(&self) -> &LinkParts {
        &self.parts
    }

    /// Positions in a source's columns of the key by which the other link finds its rows; `None` if it never does.
    pub fn key_of(&self, source: usize) -> Option<&[usize]> {
        self.sources[source].as_ref().map(|noted| noted.key.as_slice())
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

    /// Adds the notes on one change of a row, and on the record of which it is one of several rows (`plan::records`).
    /// Truncates are not noted: with both links on they stop (counter-example 11).
    pub fn note(&self, source: usize, event: &Event, notes: &mut Vec<Note>) {
        let Some(noted) = &self.sources[source] else { return };
        let parts = changed(&self.parts, source, &noted.key, event);
        let moved = noted.rows(event, notes, parts);
        let Some(record) = self.parts.source_record(source) else { return };
        // L8: whoever asks for a row of the record, in whatever table, has to hear of it.
        let stays = matches!(event, Event::Update { .. }) && !moved;
        let parts = if record.is_detail || (stays && parts == ALL) { parts & record.says } else { parts };
        let (before, after) = images(event);
        notes.extend(before.filter(|_| moved).map(|image| (record_of(record, image), parts)));
        notes.extend(after.or(before).map(|image| (record_of(record, image), parts)));
    }

    /// The rows that a change concerns, each once; none if the other link never writes the table.
    pub fn rows_of(&self, change: &Change, relations: &Relations) -> Vec<RowDigest> {
        let mut notes = Vec::new();
        let (source, event) = match relations.get(&change.relation) {
            Some(Bound::Source { source, order: None, .. }) => (*source, std::borrow::Cow::Borrowed(&change.event)),
            Some(Bound::Source { source, order: Some(order), .. }) => {
                (*source, std::borrow::Cow::Owned(in_order(&change.event, order)))
            }
            Some(Bound::LeftOut) | None => return Vec::new(),
        };
        self.sources[source].iter().for_each(|noted| {
            noted.rows(&event, &mut notes, ALL);
        });
        notes.into_iter().map(|(row, _)| row).collect()
    }
}

impl Noted {
    /// Notes the rows of a change; whether it got another key.
    fn rows(&self, event: &Event, notes: &mut Vec<Note>, parts: u64) -> bool {
        let (before, after) = images(event);
        match [before, after].map(|image| image.map(|image| self.row(image))) {
            [Some(before), Some(after)] if before != after => {
                notes.extend([(before, ALL & !THERE), (after, ALL)]);
                return true;
            }
            [_, Some(row)] => notes.push((row, if parts == 0 { 0 } else { parts | THERE })),
            [Some(row), None] => notes.push((row, parts & !THERE)),
            [None, None] => {}
        }
        false
    }

    fn row(&self, image: &Image) -> RowDigest {
        row_digest(&self.table, self.key.iter().map(|column| image.text(*column).unwrap_or_default()))
    }
}

fn record_of(record: &Record, image: &Image) -> RowDigest {
    record_digest(&record.family, record.order.iter().map(|column| image.text(*column).unwrap_or_default()))
}

fn images(event: &Event) -> (Option<&Image>, Option<&Image>) {
    match event {
        Event::Insert(after) => (None, Some(after)),
        Event::Update { before: Before::Full(before) | Before::Key(before), after } => (Some(before), Some(after)),
        Event::Update { before: Before::Absent, after } => (None, Some(after)),
        Event::Delete(Before::Full(before) | Before::Key(before)) => (Some(before), None),
        Event::Delete(Before::Absent) | Event::Truncate { .. } | Event::Denied { .. } => (None, None),
    }
}

/// What of a row a change has changed. A row that came, went or got another key has changed as a whole; so has one that
/// was written with nothing changed: that is how a row is asserted again (`delta::decide::Reassertion`).
pub fn changed(parts: &LinkParts, source: usize, key: &[usize], event: &Event) -> u64 {
    // Without the whole old row nobody can tell what changed.
    let Event::Update { before: Before::Full(before), after } = event else { return ALL };
    let mut columns: Vec<usize> = (0..after.len()).filter(|column| !after.agrees(before, *column)).collect();
    // Behind the row's own columns stand keys and rows of others. Their change is none of the row's columns.
    let own = parts.source_columns(source);
    if columns.first().is_some_and(|column| *column >= own) {
        return 0;
    }
    columns.retain(|column| *column < own);
    if columns.is_empty() || columns.iter().any(|column| key.contains(column)) {
        return ALL;
    }
    parts.of_source(source, columns)
}
