//! Which rows of the source have changed since somebody began to look at it: a row that has not is, in the target, what
//! a snapshot of the source says, however far the stream has gone on meanwhile (L5).
//!
//! Changes are noted as they are read, before they are handed on; so whoever holds the checkpoint still sees every
//! change that the target contains. What the other link wrote is noted as well. While nobody looks, nothing is noted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::change::{Before, Change, Datum, Event, Image};
use crate::lsn::Lsn;
use crate::names::TableName;
use crate::plan::Plan;

use super::relations::{Bound, Relations, reordered};

/// Rows that are noted one by one, at most; beyond that every row counts as changed.
const ROWS_MOST: usize = 4_000_000;

/// What has changed.
#[derive(Debug, Default)]
pub struct Touched {
    is_watched: AtomicBool,
    /// The commit position of the transaction that is being read.
    open_at: AtomicU64,
    hashes: RandomState,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// By hash of table and key: where it changed last. Rows that share a hash are taken for one: then one of them is
    /// looked at once more.
    rows: HashMap<u64, Lsn>,
    /// The rows that are followed, by the same hash, with every state that they had since: where it began, and the row.
    followed: HashMap<u64, Vec<(Lsn, Option<Image>)>>,
    /// Tables of which every row counts as changed.
    tables: HashMap<TableName, Lsn>,
    /// Everything up to the first position was read and handed on by the time the second one was.
    handed_on: Option<(Lsn, Lsn)>,
    too_many: bool,
}

impl Touched {
    /// Begins to note, with nothing noted, and to follow some rows: tables and keys. Ends when the watch is dropped.
    pub fn watch(&self, followed: Vec<(TableName, Vec<Datum>)>) -> Watch<'_> {
        let followed = followed.iter().map(|(table, key)| (self.hash(table, key), Vec::new())).collect();
        *self.noted() = Noted { followed, ..Noted::default() };
        self.is_watched.store(true, Ordering::SeqCst);
        Watch(self)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction is read that committed at this position.
    pub(super) fn begin(&self, commit_lsn: Lsn) {
        self.open_at.store(commit_lsn.0, Ordering::Relaxed);
    }

    /// One of its changes.
    pub(super) fn note(&self, change: &Change, plan: &Plan, relations: &Relations) {
        if !self.is_watched.load(Ordering::SeqCst) {
            return;
        }
        let at = Lsn(self.open_at.load(Ordering::Relaxed));
        // What a row was, and what it is.
        let (images, tables) = match &change.event {
            Event::Insert(after) => (vec![(after, true)], Vec::new()),
            Event::Update { before: Before::Full(before) | Before::Key(before), after } => {
                (vec![(before, false), (after, true)], Vec::new())
            }
            Event::Update { before: Before::Absent, after } => (vec![(after, true)], Vec::new()),
            Event::Delete(Before::Full(before) | Before::Key(before)) => (vec![(before, false)], Vec::new()),
            Event::Delete(Before::Absent) => (Vec::new(), vec![&change.relation]),
            Event::Truncate { relations, .. } => (Vec::new(), relations.iter().collect()),
            // Made by the link itself, never read.
            Event::Denied { .. } => return,
        };
        let mut noted = self.noted();
        for table in tables {
            if let Some(Bound::Source { source, .. }) = relations.get(table) {
                noted.tables.insert(plan.sources[*source].name.clone(), at);
            }
        }
        let Some(Bound::Source { source, order, .. }) = relations.get(&change.relation) else { return };
        let source = &plan.sources[*source];
        let place = |column: usize| order.as_ref().map_or(column, |order| order[column]);
        for (image, is_now) in images {
            let key: Vec<Datum> = source.key.iter().map(|column| image.datum(place(*column))).collect();
            let hash = self.hash(&source.name, &key);
            if let Some(states) = noted.followed.get_mut(&hash) {
                let image = || order.as_ref().map_or_else(|| image.clone(), |order| reordered(image, order));
                states.push((at, is_now.then(image)));
            }
            if noted.rows.len() >= ROWS_MOST {
                noted.too_many = true;
            } else if key.contains(&Datum::Unset) {
                noted.tables.insert(source.name.clone(), at);
            } else {
                noted.rows.insert(hash, at);
            }
        }
    }

    /// Everything up to `read` was read, and the last of it that has to be written was handed on with `written`.
    pub(super) fn handed_on(&self, read: Lsn, written: Lsn) {
        if self.is_watched.load(Ordering::SeqCst) {
            self.noted().handed_on = Some((read, written));
        }
    }

    fn hash(&self, table: &TableName, key: &[Datum]) -> u64 {
        self.hashes.hash_one((table, key))
    }
}

/// What a row was.
#[derive(Clone, Debug)]
pub enum At {
    /// This one.
    Row(Image),
    /// It was deleted.
    Gone,
    /// The log does not say it in full.
    Unknown,
}

/// Somebody looks at the source.
#[derive(Debug)]
pub struct Watch<'t>(&'t Touched);

impl Watch<'_> {
    /// Whether a row, as a snapshot holds it that has everything before `since`, may be another one by now.
    pub fn has_changed(&self, table: &TableName, key_columns: &[usize], image: &Image, since: Lsn) -> bool {
        let key: Vec<Datum> = key_columns.iter().map(|column| image.datum(*column)).collect();
        let hash = self.0.hash(table, &key);
        let noted = self.0.noted();
        let after = |at: Option<&Lsn>| at.is_some_and(|at| *at >= since);
        noted.too_many || after(noted.rows.get(&hash)) || after(noted.tables.get(table))
    }

    /// What a row that is followed was at `position`, where the target stands, if a snapshot that has everything before
    /// `since` holds it as `image`.
    pub fn at(&self, table: &TableName, key_columns: &[usize], image: &Image, (since, position): (Lsn, Lsn)) -> At {
        let key: Vec<Datum> = key_columns.iter().map(|column| image.datum(*column)).collect();
        let hash = self.0.hash(table, &key);
        let noted = self.0.noted();
        let whole = noted.tables.get(table).is_some_and(|at| *at >= since);
        let Some(states) = noted.followed.get(&hash).filter(|_| !whole) else { return At::Unknown };
        // The checkpoint is the end of a commit, and changes carry its beginning.
        match states.iter().rfind(|(at, _)| *at >= since && *at < position) {
            None => At::Row(image.clone()),
            Some((_, None)) => At::Gone,
            Some((_, Some(now))) => {
                let same_key = key_columns.iter().zip(&key).all(|(column, key)| now.datum(*column) == *key);
                let is_whole = (0..now.len()).all(|column| now.datum(column) != Datum::Unset);
                if same_key && is_whole { At::Row(now.clone()) } else { At::Unknown }
            }
        }
    }

    /// Whether a target whose checkpoint stands at `checkpoint` contains everything before `position`.
    pub fn is_applied(&self, position: Lsn, checkpoint: Lsn) -> bool {
        let handed_on = self.0.noted().handed_on;
        checkpoint >= position || handed_on.is_some_and(|(read, written)| read >= position && checkpoint >= written)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::SeqCst);
        *self.0.noted() = Noted::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [usize; 1] = [0];

    fn row(values: &[&str]) -> Image {
        Image::from_datums(&values.iter().map(|value| Datum::text(*value)).collect::<Vec<_>>())
    }

    fn noted(touched: &Touched, table: &TableName, key: &str, at: u64, state: Option<Image>) {
        let hash = touched.hash(table, &[Datum::text(key)]);
        let mut noted = touched.noted();
        noted.rows.insert(hash, Lsn(at));
        noted.followed.entry(hash).and_modify(|states| states.push((Lsn(at), state)));
    }

    #[test]
    fn l5_a_row_has_changed_if_it_did_since_the_snapshot_and_one_that_is_followed_is_known_at_every_position() {
        let (touched, table) = (Touched::default(), TableName::new("public", "t"));
        let watch = touched.watch(vec![(table.clone(), vec![Datum::text("1")])]);
        let old = row(&["1", "a"]);
        noted(&touched, &table, "1", 10, Some(row(&["1", "before"])));
        assert!(!watch.has_changed(&table, &KEY, &old, Lsn(20)), "the snapshot holds that");
        noted(&touched, &table, "1", 30, Some(row(&["1", "b"])));
        noted(&touched, &table, "1", 40, None);
        assert!(watch.has_changed(&table, &KEY, &old, Lsn(20)));
        assert!(!watch.has_changed(&table, &KEY, &row(&["2", "a"]), Lsn(20)), "another row");
        let at = |position| watch.at(&table, &KEY, &old, (Lsn(20), Lsn(position)));
        assert!(matches!(at(30), At::Row(now) if now.text(1) == Some(b"a")), "what is not applied yet does not count");
        assert!(matches!(at(31), At::Row(now) if now.text(1) == Some(b"b")));
        assert!(matches!(at(41), At::Gone));
        let stranger = watch.at(&table, &KEY, &row(&["2", "a"]), (Lsn(20), Lsn(31)));
        assert!(matches!(stranger, At::Unknown), "it is not followed");
        drop(watch);
        assert!(!touched.watch(Vec::new()).has_changed(&table, &KEY, &old, Lsn(0)), "a new watch begins with nothing");
    }

    #[test]
    fn l5_an_idle_stream_has_applied_a_position_once_what_it_handed_on_is_written() {
        let touched = Touched::default();
        let watch = touched.watch(Vec::new());
        assert!(watch.is_applied(Lsn(10), Lsn(10)) && !watch.is_applied(Lsn(10), Lsn(9)));
        touched.handed_on(Lsn(20), Lsn(8));
        assert!(watch.is_applied(Lsn(10), Lsn(8)) && !watch.is_applied(Lsn(10), Lsn(7)));
        assert!(!watch.is_applied(Lsn(21), Lsn(8)));
    }
}
