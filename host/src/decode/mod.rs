//! Decoding: frames of `pgoutput`, protocol version 1, become messages. Pure and without copies: a row image is a slice
//! of its frame.
//!
//! Source: the PostgreSQL documentation, "Logical Replication Message Formats". Every length is checked before it is
//! believed; a frame that does not add up ends the connection (pitfalls, section 6, rows 35 to 38).

mod cursor;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{Before, Cell, Change, Commit, Datum, Event, Image, Relation, RelationColumn};
use crate::lsn::Lsn;
use crate::names::TableName;
use crate::problem::{Blame, Outcome, Problem};

use cursor::Cursor;

/// One message of the stream.
#[derive(Clone, Debug)]
pub enum Message {
    /// A transaction begins; its changes and its commit follow without a gap.
    Begin {
        /// Position of its commit record.
        final_lsn: Lsn,
        /// When it was committed, microseconds since 2000-01-01 UTC.
        time_us: i64,
        /// Its transaction id.
        xid: u32,
    },
    /// It ends.
    Commit(Commit),
    /// A table is described, before its first change and after every change of its columns.
    Relation(Arc<Relation>),
    /// Something happened to a row, or to tables.
    Change(Change),
    /// `pg_logical_emit_message` was called.
    Logical {
        /// Whether the message belongs to the transaction; others arrive even from aborted ones (pitfall 52).
        transactional: bool,
        /// Its prefix.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
    /// The transaction came from elsewhere. Says nothing that the link needs.
    Origin,
}

/// Decodes the frames of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    relations: HashMap<u32, Arc<Relation>>,
    in_transaction: bool,
}

fn protocol_error(what: &str) -> Problem {
    Problem::stop(Blame::Source, "PROTOCOL_ERROR", format!("the source sent a frame that does not add up: {what}"))
        .remedy("check that nothing between host and source changes the stream; if it happens again, report the server's version")
}

impl Decoder {
    /// A decoder that knows no table yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one frame. `None` for messages that carry nothing for the link (descriptions of types).
    pub fn decode(&mut self, frame: Bytes) -> Outcome<Option<Message>> {
        if u32::try_from(frame.len()).is_err() {
            return Err(protocol_error("it is longer than 4 GiB"));
        }
        let mut cursor = Cursor::new(&frame);
        let message = match cursor.byte()? {
            b'B' => self.begin(&mut cursor)?,
            b'C' => self.commit(&mut cursor)?,
            b'R' => self.relation(&mut cursor)?,
            b'I' => self.insert(&mut cursor, &frame)?,
            b'U' => self.update(&mut cursor, &frame)?,
            b'D' => self.delete(&mut cursor, &frame)?,
            b'T' => self.truncate(&mut cursor)?,
            b'M' => logical(&mut cursor, &frame)?,
            b'O' => return Ok(Some(Message::Origin)),
            b'Y' => return Ok(None),
            _ => return Err(protocol_error("its kind is unknown to protocol version 1")),
        };
        cursor.end()?;
        Ok(Some(message))
    }

    fn begin(&mut self, cursor: &mut Cursor<'_>) -> Outcome<Message> {
        if std::mem::replace(&mut self.in_transaction, true) {
            return Err(protocol_error("a transaction begins inside another one"));
        }
        Ok(Message::Begin { final_lsn: cursor.lsn()?, time_us: cursor.i64()?, xid: cursor.u32()? })
    }

    fn commit(&mut self, cursor: &mut Cursor<'_>) -> Outcome<Message> {
        if !std::mem::replace(&mut self.in_transaction, false) {
            return Err(protocol_error("a transaction ends that never began"));
        }
        cursor.byte()?;
        Ok(Message::Commit(Commit { commit_lsn: cursor.lsn()?, end_lsn: cursor.lsn()?, time_us: cursor.i64()? }))
    }

    fn relation(&mut self, cursor: &mut Cursor<'_>) -> Outcome<Message> {
        let oid = cursor.u32()?;
        let (schema, table) = (cursor.text()?.to_owned(), cursor.text()?);
        // The empty schema is the protocol's word for pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        let name = TableName::new(schema, table);
        let identity = cursor.byte()?;
        let columns = (0..cursor.u16()?)
            .map(|_| {
                Ok(RelationColumn {
                    in_identity: cursor.byte()? & 1 == 1,
                    name: cursor.text()?.to_owned(),
                    type_oid: cursor.u32()?,
                    type_modifier: cursor.u32()? as i32,
                })
            })
            .collect::<Outcome<Vec<_>>>()?;
        let relation = Arc::new(Relation { oid, name, identity, columns });
        self.relations.insert(oid, relation.clone());
        Ok(Message::Relation(relation))
    }

    fn known(&self, cursor: &mut Cursor<'_>) -> Outcome<Arc<Relation>> {
        if !self.in_transaction {
            return Err(protocol_error("a change stands outside a transaction"));
        }
        let relation = self.relations.get(&cursor.u32()?);
        relation.cloned().ok_or_else(|| protocol_error("a change came before the description of its table"))
    }

    fn insert(&mut self, cursor: &mut Cursor<'_>, frame: &Bytes) -> Outcome<Message> {
        let relation = self.known(cursor)?;
        if cursor.byte()? != b'N' {
            return Err(protocol_error("an insert has no new row"));
        }
        let event = Event::Insert(image(cursor, frame, &relation)?);
        Ok(Message::Change(Change { relation, event }))
    }

    fn update(&mut self, cursor: &mut Cursor<'_>, frame: &Bytes) -> Outcome<Message> {
        let relation = self.known(cursor)?;
        let mut kind = cursor.byte()?;
        let before = match kind {
            b'K' => Before::Key(image(cursor, frame, &relation)?),
            b'O' => Before::Full(image(cursor, frame, &relation)?),
            _ => Before::Absent,
        };
        if !matches!(before, Before::Absent) {
            kind = cursor.byte()?;
        }
        if kind != b'N' {
            return Err(protocol_error("an update has no new row"));
        }
        let after = image(cursor, frame, &relation)?;
        let after = match &before {
            Before::Absent => after,
            // Pitfall 10: even under full identity an untouched out-of-line value stands in the old row only.
            Before::Full(old) => after.filled_from(old),
            // Pitfalls 7 and 9: the old key may hold such a value, and means nothing besides the key.
            Before::Key(old) => after.filled_from(&key_only(old, &relation)),
        };
        Ok(Message::Change(Change { relation, event: Event::Update { before, after } }))
    }

    fn delete(&mut self, cursor: &mut Cursor<'_>, frame: &Bytes) -> Outcome<Message> {
        let relation = self.known(cursor)?;
        let before = match cursor.byte()? {
            b'K' => Before::Key(image(cursor, frame, &relation)?),
            b'O' => Before::Full(image(cursor, frame, &relation)?),
            _ => return Err(protocol_error("a delete has no old row")),
        };
        Ok(Message::Change(Change { relation, event: Event::Delete(before) }))
    }

    fn truncate(&mut self, cursor: &mut Cursor<'_>) -> Outcome<Message> {
        let count = cursor.u32()?;
        let options = cursor.byte()?;
        if count == 0 || u64::from(count) * 4 > cursor.left() as u64 {
            return Err(protocol_error("a truncate names no table, or more than it holds"));
        }
        let relations = (0..count).map(|_| self.known(cursor)).collect::<Outcome<Vec<_>>>()?;
        let relation = relations[0].clone();
        let event = Event::Truncate { relations, cascade: options & 1 == 1, restart_identity: options & 2 == 2 };
        Ok(Message::Change(Change { relation, event }))
    }
}

/// The old key with every other column unchanged, so that nothing else is taken from it.
fn key_only(old: &Image, relation: &Relation) -> Image {
    let datum = |(at, column): (usize, &RelationColumn)| match column.in_identity {
        true => old.datum(at),
        false => Datum::Unset,
    };
    Image::from_datums(&relation.columns.iter().enumerate().map(datum).collect::<Vec<_>>())
}

fn image(cursor: &mut Cursor<'_>, frame: &Bytes, relation: &Relation) -> Outcome<Image> {
    let count = usize::from(cursor.u16()?);
    if count != relation.columns.len() {
        return Err(protocol_error("a row has another number of columns than its table"));
    }
    let mut cells = Vec::with_capacity(count);
    for _ in 0..count {
        cells.push(match cursor.byte()? {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            b't' => {
                let length = cursor.u32()?;
                let start = cursor.skip(length)?;
                Cell::Text { start, length }
            }
            _ => return Err(protocol_error("a value is neither null, unchanged nor text")),
        });
    }
    Ok(Image::new(frame.clone(), cells.into()))
}

fn logical(cursor: &mut Cursor<'_>, frame: &Bytes) -> Outcome<Message> {
    let transactional = cursor.byte()? & 1 == 1;
    cursor.lsn()?;
    let prefix = cursor.text()?.to_owned();
    let length = cursor.u32()?;
    let start = cursor.skip(length)? as usize;
    Ok(Message::Logical { transactional, prefix, content: frame.slice(start..start + length as usize) })
}

#[cfg(test)]
mod tests;
