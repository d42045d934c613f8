//! The marker: the transactional message by which a link signs what it writes, so that the other link can skip it.
//!
//! Bytes only; no connection. It must never carry a row value, and it must never be read from a message that is not
//! transactional: those arrive from aborted transactions too. Holds L7 together with whoever emits it first.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;

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
    fn debug_never_shows_the_migration_id() {
        assert_eq!(format!("{:?}", marker().migration_id), "MigrationId(..)");
    }
}
