//! The revision that the links of a host run; every life of a link begins with it.
//!
//! L11: another one is put in only in the place of the very one that whoever brings it has looked at. So neither a revision
//! that was taken back meanwhile returns, nor one that was put in meanwhile is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::transform::Artifact;

/// An artifact, or every table copied as it is.
pub type Revision = Option<Arc<Artifact>>;

/// So many earlier revisions are remembered.
const EARLIER_MOST: usize = 4;

/// What the links of a host run.
#[derive(Debug, Default)]
pub struct Running(Mutex<Revisions>);

#[derive(Debug, Default)]
struct Revisions {
    now: Revision,
    /// What ran before, newest first.
    earlier: Vec<Arc<Artifact>>,
    /// It is no longer the one that the host started with.
    was_exchanged: bool,
}

impl Running {
    /// For a host that starts with this revision.
    pub fn new(revision: Revision) -> Self {
        Running(Mutex::new(Revisions { now: revision, ..Revisions::default() }))
    }

    /// The same, where another one is known that ran before.
    pub fn after(before: Revision, revision: Revision) -> Self {
        let earlier = before.into_iter().collect();
        Running(Mutex::new(Revisions { now: revision, earlier, was_exchanged: false }))
    }

    /// Whether another one was put in since the host started.
    pub fn was_exchanged(&self) -> bool {
        self.revisions().was_exchanged
    }

    fn revisions(&self) -> MutexGuard<'_, Revisions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The artifact.
    pub fn artifact(&self) -> Revision {
        self.revisions().now.clone()
    }

    /// The last ones that this host ran before, newest first.
    pub fn earlier(&self) -> Vec<Arc<Artifact>> {
        self.revisions().earlier.clone()
    }

    /// L11: `new` from now on, if `old` runs. `false`: another one runs, and goes on.
    #[must_use]
    pub fn exchange(&self, old: Option<&Artifact>, new: Option<&Arc<Artifact>>) -> bool {
        let mut revisions = self.revisions();
        if !is_same(revisions.now.as_deref(), old) {
            return false;
        }
        if is_same(old, new.map(Arc::as_ref)) {
            return true;
        }
        revisions.was_exchanged = true;
        if let Some(before) = std::mem::replace(&mut revisions.now, new.cloned()) {
            revisions.earlier.retain(|earlier| earlier.digest() != before.digest());
            revisions.earlier.insert(0, before);
            revisions.earlier.truncate(EARLIER_MOST);
        }
        true
    }
}

/// Whether both are the same bytes.
pub fn is_same(one: Option<&Artifact>, other: Option<&Artifact>) -> bool {
    one.map(Artifact::digest) == other.map(Artifact::digest)
}
