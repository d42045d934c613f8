//! What comes out of a source: rows, row images and changes, as PostgreSQL's own text.
//!
//! A value travels as a slice of the frame it arrived in; nothing here copies one. No value is ever printed:
//! the `Debug` of everything that can hold one shows lengths only.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::lsn::Lsn;
use crate::names::TableName;

/// One value on its way to a target column.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Datum {
    /// SQL NULL.
    Null,
    /// The column's default on insert; left as it is on update (`unset` of the interface).
    Unset,
    /// PostgreSQL's text form under the pinned settings, UTF-8.
    Text(Bytes),
}

impl Datum {
    /// A text value from a string.
    pub fn text(text: impl Into<String>) -> Self {
        Datum::Text(Bytes::from(text.into()))
    }
}

impl fmt::Debug for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datum::Null => f.write_str("null"),
            Datum::Unset => f.write_str("unset"),
            Datum::Text(text) => write!(f, "text({} bytes)", text.len()),
        }
    }
}

/// One cell of a row image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// SQL NULL. In an image that holds only the key, every other column is null as well and means nothing.
    Null,
    /// An out-of-line value that the update did not touch and the log does not repeat.
    Unchanged,
    /// Where the text stands in the image's frame: first byte and length, both in bytes.
    Text {
        /// Offset of the first byte.
        start: u32,
        /// Length in bytes.
        length: u32,
    },
}

/// A row image: the cells of a row, in the order of its relation's columns.
#[derive(Clone)]
pub struct Image {
    frame: Bytes,
    cells: Box<[Cell]>,
}

impl Image {
    /// An image whose cells lie in `frame`.
    ///
    /// Every text cell must lie inside the frame; the decoder checks lengths before it builds one.
    pub fn new(frame: Bytes, cells: Box<[Cell]>) -> Self {
        debug_assert!(cells.iter().all(|cell| match cell {
            Cell::Text { start, length } => (*start as usize + *length as usize) <= frame.len(),
            _ => true,
        }));
        Image { frame, cells }
    }

    /// An image from separate values; used by the copy and by tests. `Unset` stands for unchanged.
    pub fn from_datums(datums: &[Datum]) -> Self {
        let mut frame = Vec::new();
        let cells = datums
            .iter()
            .map(|datum| match datum {
                Datum::Null => Cell::Null,
                Datum::Unset => Cell::Unchanged,
                Datum::Text(text) => {
                    let start = frame.len() as u32;
                    frame.extend_from_slice(text);
                    Cell::Text { start, length: text.len() as u32 }
                }
            })
            .collect();
        Image { frame: Bytes::from(frame), cells }
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is no cell at all.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How many bytes of memory the image keeps alive, about.
    pub fn weight_bytes(&self) -> usize {
        let text: usize =
            self.cells.iter().map(|cell| if let Cell::Text { length, .. } = cell { *length as usize } else { 0 }).sum();
        text + self.cells.len() * size_of::<Cell>()
    }

    /// One cell as it arrived.
    pub fn cell(&self, column: usize) -> Cell {
        self.cells[column]
    }

    /// The text of one cell; `None` for null and unchanged.
    pub fn text(&self, column: usize) -> Option<&[u8]> {
        match self.cells[column] {
            Cell::Text { start, length } => Some(&self.frame[start as usize..(start + length) as usize]),
            Cell::Null | Cell::Unchanged => None,
        }
    }

    /// One cell as a datum that shares the frame; unchanged becomes `Unset`.
    pub fn datum(&self, column: usize) -> Datum {
        match self.cells[column] {
            Cell::Null => Datum::Null,
            Cell::Unchanged => Datum::Unset,
            Cell::Text { start, length } => Datum::Text(self.frame.slice(start as usize..(start + length) as usize)),
        }
    }

    /// Whether two images agree on a column. An unchanged cell agrees with everything: that is what it says.
    pub fn agrees(&self, other: &Image, column: usize) -> bool {
        match (self.cells[column], other.cells[column]) {
            (Cell::Unchanged, _) | (_, Cell::Unchanged) => true,
            _ => self.text(column) == other.text(column),
        }
    }

    /// This image with its unchanged cells taken from `before` (pitfalls 9 and 10: under full replica identity the
    /// old image holds what the new one leaves out, and the old key always holds the key).
    ///
    /// Returns itself when nothing is missing; otherwise one new frame is made.
    pub fn filled_from(self, before: &Image) -> Image {
        if !self.cells.contains(&Cell::Unchanged) {
            return self;
        }
        let datums: Vec<Datum> = (0..self.len())
            .map(|column| match self.cells[column] {
                Cell::Unchanged => before.datum(column),
                _ => self.datum(column),
            })
            .collect();
        Image::from_datums(&datums)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).map(|column| self.datum(column))).finish()
    }
}

/// One column as the stream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// The name at the time of the change.
    pub name: String,
    /// The type's object id in the source.
    pub type_oid: u32,
    /// The type's modifier, -1 for none.
    pub type_modifier: i32,
    /// Whether the stream calls it part of the key. Under full replica identity every column is; never a key (L6).
    pub in_identity: bool,
}

/// A table as the stream describes it, valid until the next description of the same object id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The table's object id in the source: names may change hands, this does not.
    pub oid: u32,
    /// The name at the time of the change.
    pub name: TableName,
    /// The replica identity: `d` default, `n` nothing, `f` full, `i` index.
    pub identity: u8,
    /// The columns that the stream sends: without generated ones.
    pub columns: Vec<RelationColumn>,
}

/// What an old image holds.
#[derive(Clone, Debug)]
pub enum Before {
    /// Nothing was sent: an insert, or an update that left the key alone on a table without full identity.
    Absent,
    /// Only the identity's columns mean anything (pitfall 7).
    Key(Image),
    /// The whole old row.
    Full(Image),
}

/// What happened to one row, or to whole tables.
#[derive(Clone, Debug)]
pub enum Event {
    /// A row came into being.
    Insert(Image),
    /// A row changed.
    Update {
        /// The row before.
        before: Before,
        /// The row after; may hold unchanged cells.
        after: Image,
    },
    /// A row ceased to be.
    Delete(Before),
    /// Tables were emptied.
    Truncate {
        /// All tables of the statement, this change's relation included.
        relations: Vec<Arc<Relation>>,
        /// CASCADE was given.
        cascade: bool,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
    /// The other link says that a row of the target, or what describes it, must not be there (`marker::Denial`). The
    /// relation names the target's table.
    Denied {
        /// The row's key.
        key: Box<[Datum]>,
        /// Only what details of other tables say of it.
        details: bool,
    },
}

/// One change out of the source.
#[derive(Clone, Debug)]
pub struct Change {
    /// The table it happened to, as the stream described it last.
    pub relation: Arc<Relation>,
    /// What happened.
    pub event: Event,
}

impl Change {
    /// How many bytes of memory the change keeps alive, about.
    pub fn weight_bytes(&self) -> usize {
        let old = |before: &Before| match before {
            Before::Absent => 0,
            Before::Key(image) | Before::Full(image) => image.weight_bytes(),
        };
        size_of::<Change>()
            + match &self.event {
                Event::Insert(image) => image.weight_bytes(),
                Event::Update { before, after } => old(before) + after.weight_bytes(),
                Event::Delete(before) => old(before),
                Event::Truncate { .. } | Event::Denied { .. } => 0,
            }
    }
}

/// Where a source transaction ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Position of the commit record itself: decides whether a snapshot holds the transaction (L5).
    pub commit_lsn: Lsn,
    /// Position after the commit record: what a checkpoint holds and what the source is told (pitfall 44).
    pub end_lsn: Lsn,
    /// When it was committed, microseconds since 2000-01-01 UTC.
    pub time_us: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(cells: &[Option<&str>]) -> Image {
        Image::from_datums(&cells.iter().map(|cell| cell.map_or(Datum::Null, Datum::text)).collect::<Vec<_>>())
    }

    #[test]
    fn unchanged_cells_are_taken_from_the_old_image() {
        let before = image(&[Some("1"), Some("long"), None]);
        let after = Image::from_datums(&[Datum::text("2"), Datum::Unset, Datum::text("x")]);
        assert!(after.agrees(&before, 1));
        let filled = after.filled_from(&before);
        assert_eq!(filled.text(0), Some(b"2".as_slice()));
        assert_eq!(filled.text(1), Some(b"long".as_slice()));
        assert_eq!(filled.text(2), Some(b"x".as_slice()));
    }

    #[test]
    fn debug_never_shows_a_value() {
        let shown = format!("{:?}", image(&[Some("secret"), None]));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
