//! The marker: the transactional message by which a link signs what it writes, so that the other link can skip it.
//!
//! Bytes only; no connection. A marker never carries a row value (a denial carries the key of a row). Neither must ever be
//! read from a message that is not transactional: those arrive from aborted transactions too. Holds L7 together with whoever emits it first.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::lsn::Lsn;
use crate::names::TableName;

/// The prefix of the messages that carry markers.
pub const PREFIX: &str = "falkirk";

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 1 + 16 + 1 + 8 + 32;

/// One direction of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    /// Reads blue, writes green.
    Forward,
    /// Reads green, writes blue.
    Backward,
}

impl Link {
    /// The word that stands for it in tables, configuration and messages.
    pub fn name(self) -> &'static str {
        match self {
            Link::Forward => "forward",
            Link::Backward => "backward",
        }
    }

    /// The link that reads what this one writes.
    pub fn other(self) -> Link {
        match self {
            Link::Forward => Link::Backward,
            Link::Backward => Link::Forward,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no link.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a link: write forward or backward")]
pub struct ParseLinkError;

impl FromStr for Link {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "forward" => Ok(Link::Forward),
            "backward" => Ok(Link::Backward),
            _ => Err(ParseLinkError),
        }
    }
}

/// The secret name of a migration: random, made once in the target, not readable by application roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MigrationId(pub [u8; 16]);

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MigrationId(..)")
    }
}

/// What kind of target transaction was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerKind {
    /// Changes of the stream.
    Data,
    /// A chunk of the copy.
    Copy,
    /// Changes of the stream, and lists of the rows that the link wrote follow them: the database may have done more than
    /// it was told, by triggers and cascades, and that is its application's own change (counter-example 12).
    Listed,
}

/// A row: a digest of its table and key.
pub type RowDigest = u128;

/// The digest of a row's table and key. A fixed-width character type pads its values on the way out of a table only, so
/// blanks at the end count for nothing.
pub fn row_digest<'k>(table: &TableName, key: impl Iterator<Item = &'k [u8]>) -> RowDigest {
    digest(&table.to_string(), key)
}

/// The digest of a record of several tables (`plan::records`): no row has it.
pub fn record_digest<'k>(family: &TableName, key: impl Iterator<Item = &'k [u8]>) -> RowDigest {
    digest(&format!("record {family}"), key)
}

fn digest<'k>(name: &str, key: impl Iterator<Item = &'k [u8]>) -> RowDigest {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    for part in key {
        let part = part.trim_ascii_end();
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

const LIST_HEAD: usize = 1 + 1 + 16;

/// The content of a message that lists rows which a link wrote; each as often as it was written.
pub fn list_to_bytes(migration_id: MigrationId, rows: &[RowDigest]) -> Vec<u8> {
    rows_to_bytes(b'r', migration_id, rows)
}

/// The content of a message that names rows which a link writes behind it, and which count as the side's own all the same:
/// the other link sends them back.
pub fn returned_to_bytes(migration_id: MigrationId, rows: &[RowDigest]) -> Vec<u8> {
    rows_to_bytes(b'o', migration_id, rows)
}

fn rows_to_bytes(kind: u8, migration_id: MigrationId, rows: &[RowDigest]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LIST_HEAD + rows.len() * 16);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&migration_id.0);
    rows.iter().for_each(|row| bytes.extend_from_slice(&row.to_be_bytes()));
    bytes
}

/// Reads a list of rows; `None` if the message is none of this migration.
pub fn parse_list(migration_id: MigrationId, content: &[u8]) -> Option<Vec<RowDigest>> {
    parse_rows(b'r', migration_id, content)
}

/// Reads which rows count as the side's own; `None` if the message is none of this migration.
pub fn parse_returned(migration_id: MigrationId, content: &[u8]) -> Option<Vec<RowDigest>> {
    parse_rows(b'o', migration_id, content)
}

fn parse_rows(kind: u8, migration_id: MigrationId, content: &[u8]) -> Option<Vec<RowDigest>> {
    let (head, rows) = content.split_at_checked(LIST_HEAD)?;
    let ours = head[..2] == [VERSION, kind] && head[2..] == migration_id.0;
    let whole = rows.len() % 16 == 0;
    let row = |bytes: &[u8]| bytes.try_into().map_or(0, u128::from_be_bytes);
    (ours && whole).then(|| rows.chunks_exact(16).map(row).collect())
}

/// A link's word to the other one, in the log of the side that wins: a row of the side that loses must not be there, and
/// nothing on its way there removes it (L8; `delta::decide::Absence`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The row of the winning side that is not there.
    pub row: RowDigest,
    /// The record that it would be one of several rows of; 0 if of none.
    pub record: RowDigest,
    /// Only what details of other tables say of the row is denied: the row itself is there.
    pub details: bool,
    /// The table of the losing side.
    pub table: TableName,
    /// The key of its row there.
    pub key: Vec<String>,
}

/// What is noted for a row that was denied, beside the row itself.
pub fn denial_digest(row: RowDigest) -> RowDigest {
    let bytes = row.to_be_bytes();
    digest("denied", std::iter::once(bytes.as_slice()))
}

impl Denial {
    /// The message's content.
    pub fn to_bytes(&self, migration_id: MigrationId) -> Vec<u8> {
        let mut bytes = vec![VERSION, if self.details { b'e' } else { b'a' }];
        bytes.extend_from_slice(&migration_id.0);
        bytes.extend_from_slice(&self.row.to_be_bytes());
        bytes.extend_from_slice(&self.record.to_be_bytes());
        let texts = [&self.table.schema, &self.table.table].into_iter().chain(&self.key);
        for text in texts {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

/// Reads a denial; `None` if the message is none of this migration.
pub fn parse_denial(migration_id: MigrationId, content: &[u8]) -> Option<Denial> {
    let (head, rest) = content.split_at_checked(LIST_HEAD)?;
    let details = match (head[0], head[1]) {
        (VERSION, b'a') => false,
        (VERSION, b'e') => true,
        _ => return None,
    };
    if head[2..] != migration_id.0 {
        return None;
    }
    let (digests, mut rest) = rest.split_at_checked(32)?;
    let digest = |bytes: &[u8]| bytes.try_into().map_or(0, u128::from_be_bytes);
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(4)?;
        let (text, after) = after.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)?;
        texts.push(String::from_utf8(text.to_vec()).ok()?);
        rest = after;
    }
    let mut texts = texts.into_iter();
    let table = TableName::new(texts.next()?, texts.next()?);
    let (row, record) = (digest(&digests[..16]), digest(&digests[16..]));
    Some(Denial { row, record, details, table, key: texts.collect() })
}

/// What a link says about a target transaction that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Stream or copy.
    pub kind: MarkerKind,
    /// Whose link it was.
    pub migration_id: MigrationId,
    /// Which of its links.
    pub link: Link,
    /// The source position up to which the transaction brings the target.
    pub position: Lsn,
    /// The sha256 digest of the artifact that computed the rows; zeros if none did.
    pub artifact: [u8; 32],
}

impl Marker {
    /// The message's content.
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1] = match self.kind {
            MarkerKind::Data => b'd',
            MarkerKind::Copy => b'c',
            MarkerKind::Listed => b'l',
        };
        bytes[2..18].copy_from_slice(&self.migration_id.0);
        bytes[18] = match self.link {
            Link::Forward => b'f',
            Link::Backward => b'b',
        };
        bytes[19..27].copy_from_slice(&self.position.0.to_be_bytes());
        bytes[27..].copy_from_slice(&self.artifact);
        bytes
    }
}

/// Reads a message's content; `None` if it is no marker of a version that this host knows.
///
/// The caller decides whose it is: only a marker of the same migration and the other link means "skip" (L7).
pub fn parse_marker(content: &[u8]) -> Option<Marker> {
    let bytes: &[u8; LENGTH] = content.try_into().ok()?;
    if bytes[0] != VERSION {
        return None;
    }
    let kind = match bytes[1] {
        b'd' => MarkerKind::Data,
        b'c' => MarkerKind::Copy,
        b'l' => MarkerKind::Listed,
        _ => return None,
    };
    let link = match bytes[18] {
        b'f' => Link::Forward,
        b'b' => Link::Backward,
        _ => return None,
    };
    Some(Marker {
        kind,
        migration_id: MigrationId(bytes[2..18].try_into().ok()?),
        link,
        position: Lsn(u64::from_be_bytes(bytes[19..27].try_into().ok()?)),
        artifact: bytes[27..].try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            kind: MarkerKind::Copy,
            migration_id: MigrationId([7; 16]),
            link: Link::Backward,
            position: Lsn(0x1_0000_0002),
            artifact: [9; 32],
        }
    }

    #[test]
    fn l7_a_marker_survives_the_wire() {
        assert_eq!(parse_marker(&marker().to_bytes()), Some(marker()));
    }

    #[test]
    fn l7_anything_else_is_not_a_marker() {
        let good = marker().to_bytes();
        assert_eq!(parse_marker(&good[1..]), None);
        assert_eq!(parse_marker(b""), None);
        for (at, byte) in [(0, 2), (1, b'x'), (18, b'x')] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(parse_marker(&bad), None);
        }
    }

    #[test]
    fn l7_a_list_of_rows_survives_the_wire_and_is_no_marker() {
        let (id, other) = (MigrationId([7; 16]), MigrationId([8; 16]));
        let bytes = list_to_bytes(id, &[1, u128::MAX]);
        assert_eq!(parse_list(id, &bytes), Some(vec![1, u128::MAX]));
        assert_eq!(parse_list(other, &bytes), None);
        assert_eq!(parse_list(id, &bytes[..bytes.len() - 1]), None);
        assert_eq!((parse_marker(&bytes), parse_returned(id, &bytes)), (None, None));
        assert_eq!(parse_list(id, &marker().to_bytes()), None);
        let bytes = returned_to_bytes(id, &[1, 2]);
        assert_eq!((parse_returned(id, &bytes), parse_list(id, &bytes)), (Some(vec![1, 2]), None));
    }

    #[test]
    fn l8_a_denial_survives_the_wire_and_is_nothing_else() {
        let (id, other) = (MigrationId([7; 16]), MigrationId([8; 16]));
        let denial = Denial {
            row: u128::MAX,
            record: 5,
            details: true,
            table: TableName::new("public", "t"),
            key: vec![String::new(), "ü".to_owned()],
        };
        let bytes = denial.to_bytes(id);
        assert_eq!(parse_denial(id, &bytes), Some(denial));
        assert_eq!(parse_denial(other, &bytes), None);
        assert_eq!(parse_denial(id, &bytes[..bytes.len() - 1]), None);
        assert_eq!((parse_list(id, &bytes), parse_marker(&bytes)), (None, None));
        assert_eq!(parse_denial(id, &list_to_bytes(id, &[1])), None);
    }

    #[test]
    fn debug_never_shows_the_migration_id() {
        assert_eq!(format!("{:?}", marker().migration_id), "MigrationId(..)");
    }
}
