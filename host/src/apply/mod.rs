//! The stage that writes the target: checkpoints, the stream's transactions and the copy's chunks.
//!
//! Everything that Falkirk writes into a target goes through here, so that the marker, the checkpoint and the rows can
//! never part (L2, L7). It knows nothing of where changes come from.

mod bound;
pub mod checkpoint;
pub mod chunk;
pub mod commanded;
pub mod compare;
pub mod conflict;
pub mod copy_in;
mod elements;
pub mod encode;
pub mod fault;
pub mod keys;
pub mod mirror;
pub mod numbering;
pub mod readiness;
pub mod schema;
pub mod statement;
pub mod trial;
pub mod writer;

use crate::lsn::Lsn;
use crate::marker::{Link, Marker, MarkerKind, MigrationId};

/// Who writes: what every target transaction of a link carries.
#[derive(Clone, Debug)]
pub struct LinkIdentity {
    /// The migration's name.
    pub migration: String,
    /// The migration's secret.
    pub migration_id: MigrationId,
    /// The link.
    pub link: Link,
    /// The epoch under which this host took the link over; a newer one fences it off.
    pub epoch: i64,
    /// The digest of the artifact in use; zeros without one.
    pub artifact: [u8; 32],
}

impl LinkIdentity {
    /// The artifact as tables and messages name it.
    pub fn artifact_text(&self) -> String {
        artifact_text(&self.artifact)
    }

    fn marker(&self, kind: MarkerKind, position: Lsn) -> Marker {
        Marker { kind, migration_id: self.migration_id, link: self.link, position, artifact: self.artifact }
    }
}

/// A digest as tables and messages name it: `sha256:` and hexadecimal digits, or `none`.
pub fn artifact_text(digest: &[u8; 32]) -> String {
    match digest.iter().all(|byte| *byte == 0) {
        true => "none".to_owned(),
        false => digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}
