//! What a link's decoder has seen of its source: which rows the source's application changed, and how far it has read.
//! The other link, which writes that source, asks before it writes (design, section 3, conflicts; L8).
//!
//! The only thing that the two links of a host share. It never holds a value: rows are digests of table and key. It is
//! rebuilt after a crash, from `falkirk.recent` up to the checkpoint and by decoding from there on.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::lsn::Lsn;
use crate::marker::RowDigest;
use crate::plan::parts::{EXISTENCE, THERE};

/// One change of a row: what of it changed (`plan::parts`).
pub type Note = (RowDigest, u64);

/// What one decoder has seen.
#[derive(Debug)]
pub struct Seen {
    rows: Mutex<HashMap<RowDigest, Vec<(Lsn, u64)>>>,
    /// Rows that the application removed and the link does not, because rows of its target refer to them.
    kept: Mutex<HashSet<RowDigest>>,
    /// Everything that committed before it was seen.
    passed: watch::Sender<Lsn>,
    /// What the other link's application knows durably: nothing before it is ever asked for again.
    forgotten: watch::Sender<Lsn>,
    /// The key maps say what every row that committed before it says of pairs.
    bound: watch::Sender<Lsn>,
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            rows: Mutex::default(),
            kept: Mutex::default(),
            passed: watch::Sender::new(Lsn::ZERO),
            forgotten: watch::Sender::new(Lsn::ZERO),
            bound: watch::Sender::new(Lsn::ZERO),
        }
    }
}

impl Seen {
    fn rows(&self) -> MutexGuard<'_, HashMap<RowDigest, Vec<(Lsn, u64)>>> {
        // Nothing that is done under the lock can leave the map half changed.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application changed these rows in the transaction that committed at `at`. May be repeated.
    pub fn note(&self, at: Lsn, notes: &[Note]) {
        let mut rows = self.rows();
        for (row, parts) in notes {
            let changes = rows.entry(*row).or_default();
            match changes.iter_mut().find(|(known, _)| *known == at) {
                // Of one transaction, what it did last to the row says whether the row is there.
                Some((_, known)) if parts & EXISTENCE != 0 => *known = (*known & !THERE) | parts,
                Some((_, known)) => *known |= parts,
                None => changes.push((at, *parts)),
            }
        }
    }

    /// Everything that committed before `position` was noted.
    pub fn pass(&self, position: Lsn) {
        self.passed.send_if_modified(|passed| {
            let further = position > *passed;
            *passed = position.max(*passed);
            further
        });
    }

    /// Waits until everything that committed before `position` was noted; `false` after `patience`.
    pub async fn wait(&self, position: Lsn, patience: Duration) -> bool {
        let mut passed = self.passed.subscribe();
        tokio::time::timeout(patience, passed.wait_for(|passed| *passed >= position)).await.is_ok_and(|end| end.is_ok())
    }

    /// What of a row the application changed at or after `after`.
    pub fn changed(&self, row: RowDigest, after: Lsn) -> u64 {
        let rows = self.rows();
        let changes = rows.get(&row).map(Vec::as_slice).unwrap_or_default();
        let sum = changes.iter().filter(|(at, _)| *at >= after).fold(0, |sum, (_, parts)| sum | parts);
        if sum == 0 { 0 } else { sum | THERE }
    }

    /// Whether the application made the row at or after `after` and has not removed it since, apart from what was noted
    /// together with `said`.
    pub fn came(&self, row: RowDigest, said: RowDigest, after: Lsn) -> bool {
        let rows = self.rows();
        let changes = |row: RowDigest| rows.get(&row).map(Vec::as_slice).unwrap_or_default();
        let own = |at: Lsn| changes(said).iter().all(|(known, _)| *known != at);
        let exists = changes(row).iter().filter(|(at, parts)| *at >= after && parts & EXISTENCE != 0 && own(*at));
        exists.max_by_key(|(at, _)| *at).is_some_and(|(_, parts)| parts & THERE != 0)
    }

    /// The application removed this row, and the link keeps what it stands for: the other link will bring it back.
    pub fn keep(&self, row: RowDigest) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(row);
    }

    /// Whether what this row stands for was kept when the application removed it.
    pub fn is_kept(&self, row: RowDigest) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains(&row)
    }

    /// The key maps say what every row that committed before `position` says of pairs. A link that starts once more goes
    /// back: it binds again what it has bound since its checkpoint.
    pub fn bind(&self, position: Lsn) {
        self.bound.send_replace(position);
    }

    /// Up to where the key maps say what the rows say.
    pub fn bound(&self) -> Lsn {
        *self.bound.borrow()
    }

    /// Nothing before `position` will be asked for again.
    pub fn forget(&self, position: Lsn) {
        if position <= *self.forgotten.borrow() {
            return;
        }
        self.forgotten.send_replace(position);
        self.rows().retain(|_, changes| {
            changes.retain(|(at, _)| *at >= position);
            !changes.is_empty()
        });
    }

    /// Up to where nothing will be asked for again.
    pub fn forgotten(&self) -> Lsn {
        *self.forgotten.borrow()
    }
}

/// Notes as they are kept beside a checkpoint: position, digest and parts of each, big-endian.
pub fn to_bytes(at: Lsn, notes: &[Note], bytes: &mut Vec<u8>) {
    for (row, parts) in notes {
        bytes.extend_from_slice(&at.0.to_be_bytes());
        bytes.extend_from_slice(&row.to_be_bytes());
        bytes.extend_from_slice(&parts.to_be_bytes());
    }
}

/// The notes that [`to_bytes`] wrote; what is no whole note at the end is left out.
pub fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = (Lsn, Note)> + '_ {
    bytes.chunks_exact(32).filter_map(|chunk| {
        let at = u64::from_be_bytes(chunk[..8].try_into().ok()?);
        let row = u128::from_be_bytes(chunk[8..24].try_into().ok()?);
        let parts = u64::from_be_bytes(chunk[24..].try_into().ok()?);
        Some((Lsn(at), (row, parts)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l8_a_change_is_known_from_its_commit_on_until_it_is_forgotten() {
        let seen = Seen::default();
        seen.note(Lsn(10), &[(1, 0b01), (2, 0b01)]);
        seen.note(Lsn(20), &[(1, 0b10)]);
        seen.note(Lsn(20), &[(1, 0b10)]);
        assert_eq!(seen.changed(1, Lsn(10)), 0b11 | THERE);
        assert_eq!(seen.changed(1, Lsn(11)), 0b10 | THERE);
        assert_eq!(seen.changed(1, Lsn(21)), 0);
        seen.forget(Lsn(11));
        assert_eq!((seen.changed(1, Lsn::ZERO), seen.changed(2, Lsn::ZERO)), (0b10 | THERE, 0));
        seen.forget(Lsn(5));
        assert_eq!(seen.forgotten(), Lsn(11), "never backwards");
    }

    #[test]
    fn l8_whether_a_row_is_there_is_what_was_done_to_it_last_and_nothing_that_was_said_of_it() {
        const GONE: u64 = !THERE;
        let seen = Seen::default();
        let came = |after| seen.came(1, 9, Lsn(after));
        assert!(!came(0), "nothing is known of it");
        seen.note(Lsn(10), &[(1, GONE), (1, u64::MAX)]);
        assert!(came(0) && came(10) && !came(11));
        seen.note(Lsn(20), &[(1, u64::MAX), (1, GONE)]);
        assert!(!came(0), "made and removed in one transaction");
        seen.note(Lsn(30), &[(1, 0b10 | THERE)]);
        assert!(!came(0), "a change of a column says nothing of it");
        seen.note(Lsn(40), &[(1, u64::MAX)]);
        seen.note(Lsn(50), &[(1, u64::MAX), (9, u64::MAX)]);
        assert!(came(0) && !came(41), "what was said is no change of the row");
        assert_eq!(seen.changed(1, Lsn(20)), u64::MAX);
    }

    #[test]
    fn notes_survive_being_kept() {
        let mut bytes = Vec::new();
        to_bytes(Lsn(7), &[(u128::MAX, 3), (5, u64::MAX)], &mut bytes);
        to_bytes(Lsn(8), &[(6, 1)], &mut bytes);
        let read: Vec<_> = from_bytes(&bytes).collect();
        assert_eq!(read, [(Lsn(7), (u128::MAX, 3)), (Lsn(7), (5, u64::MAX)), (Lsn(8), (6, 1))]);
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_it() {
        let seen = Seen::default();
        seen.pass(Lsn(10));
        seen.pass(Lsn(4));
        assert!(seen.wait(Lsn(10), Duration::from_millis(1)).await);
        assert!(!seen.wait(Lsn(11), Duration::from_millis(1)).await);
    }
}
