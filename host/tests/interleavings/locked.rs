//! What a link knows while it decides.

use falkirk::delta::Key;
use falkirk::delta::decide::Facts;
use falkirk::lsn::Lsn;

use crate::world::Shape;

/// What was changed of the row as a whole, and of what stands for it in each table; and whether it was denied.
pub type Notes = [u64; 4];

/// What L->W said for one decision: tables whose row was asserted again, or was not there; whether one was denied.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub asserted: Vec<usize>,
    pub barred: Vec<usize>,
    pub denied: bool,
}

/// The target's side of a decision: what is there as it is locked, and what its application changed, by position.
pub struct Locked<'a, S: Shape + ?Sized> {
    pub shape: &'a S,
    pub side: usize,
    pub row: S::Row,
    pub changes: &'a [(u8, Notes)],
    pub said: &'a Said,
    pub by_table: bool,
}

impl<S: Shape + ?Sized> Locked<'_, S> {
    fn noted(&self, at: usize, after: Lsn) -> u64 {
        let later = self.changes.iter().filter(|(position, _)| u64::from(*position) > after.0);
        later.fold(0, |mask, (_, notes)| mask | notes[at])
    }
}

impl<S: Shape + ?Sized> Facts for Locked<'_, S> {
    fn exists(&self, target: usize, _key: &Key) -> bool {
        self.shape.is_there(self.side, self.row, target)
    }

    fn changed(&self, target: usize, _key: &Key, after: Lsn) -> u64 {
        self.noted(if self.by_table { 1 + target } else { 0 }, after)
    }

    fn changed_row(&self, target: usize, _key: &Key, after: Lsn) -> u64 {
        self.noted(1 + target, after)
    }

    fn asserted(&self, target: usize, _key: &Key) -> bool {
        self.said.asserted.contains(&target)
    }

    fn barred(&self, target: usize, _key: &Key) -> bool {
        self.said.barred.contains(&target)
    }

    fn denied_since(&self, _target: usize, _key: &Key, after: Lsn) -> bool {
        self.noted(3, after) != 0
    }

    fn denied(&self, _target: usize, _key: &Key) -> bool {
        self.said.denied
    }
}
