//! The rows and pairs that one batch depends on, as they are at each of its transactions. Pure: whoever makes a world
//! has loaded everything that the batch can touch.
//!
//! ```text
//!   before the transaction (S0) --pairs it binds, rows it changes--> after it (S1)
//! ```
//!
//! A transaction is one delta: the old row is extended by S0 (its keys as they were written, counter-example 7), the new
//! one by S1. So a row and its parent that change together are seen together, whatever their order (counter-example 4).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;

use super::rows::{self, Hashes, Mirrored, Place, text};
use crate::change::Image;
use crate::plan::Plan;

/// The state of a batch's surroundings.
pub struct World {
    plan: Arc<Plan>,
    hashes: Arc<Hashes>,
    rows: HashMap<Place, Mirrored>,
    found_by: HashMap<i64, BTreeSet<Place>>,
    /// By map: the source's key to the target's, and back.
    pairs: Vec<(HashMap<String, String>, HashMap<String, String>)>,
    /// The rows that were set since it was begun.
    changed: BTreeSet<Place>,
}

impl World {
    /// An empty world.
    pub fn new(plan: Arc<Plan>, hashes: Arc<Hashes>) -> Self {
        let pairs = vec![(HashMap::new(), HashMap::new()); plan.maps.len()];
        World { plan, hashes, rows: HashMap::new(), found_by: HashMap::new(), pairs, changed: BTreeSet::new() }
    }

    /// A row, if it is there.
    pub fn row(&self, place: &Place) -> Option<&Mirrored> {
        self.rows.get(place)
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (&Place, &Mirrored)> {
        self.rows.iter()
    }

    /// From now on changes are noted.
    pub fn begin(&mut self) {
        self.changed.clear();
    }

    /// The rows that were set since.
    pub fn changed(&self) -> impl Iterator<Item = &Place> {
        self.changed.iter()
    }

    /// Puts a row in place, or takes it away.
    pub fn set(&mut self, place: &Place, row: Option<Mirrored>) {
        self.changed.insert(place.clone());
        if let Some(old) = self.rows.remove(place) {
            for hash in self.hashes.all(&self.plan, place.0, &old) {
                self.found_by.entry(hash).or_default().remove(place);
            }
        }
        if let Some(new) = row {
            for hash in self.hashes.all(&self.plan, place.0, &new) {
                self.found_by.entry(hash).or_default().insert(place.clone());
            }
            self.rows.insert(place.clone(), new);
        }
    }

    /// The rows that are found by any of these.
    pub fn found_by(&self, hashes: &HashSet<i64>) -> BTreeSet<Place> {
        hashes.iter().filter_map(|hash| self.found_by.get(hash)).flatten().cloned().collect()
    }

    /// The target's key for one of the source.
    pub fn pair(&self, map: usize, key: &str) -> Option<&String> {
        self.pairs[map].0.get(key)
    }

    /// All pairs of a map.
    pub fn pairs(&self, map: usize) -> &HashMap<String, String> {
        &self.pairs[map].0
    }

    /// Pairs two keys; the pairs that they were in are gone.
    pub fn bind(&mut self, map: usize, source: String, target: String) {
        if let Some(old) = self.pairs[map].0.remove(&source) {
            self.pairs[map].1.remove(&old);
        }
        if let Some(old) = self.pairs[map].1.remove(&target) {
            self.pairs[map].0.remove(&old);
        }
        self.pairs[map].1.insert(target.clone(), source.clone());
        self.pairs[map].0.insert(source, target);
    }

    /// Takes a pair away, if the keys are still paired.
    pub fn unbind(&mut self, map: usize, source: &str, target: &str) {
        if self.pairs[map].0.get(source).is_some_and(|paired| paired == target) {
            self.pairs[map].0.remove(source);
            self.pairs[map].1.remove(target);
        }
    }

    /// The mapped keys of a row, as the pairs are now.
    pub fn mapped(&self, source: usize, image: &Image) -> Vec<Option<String>> {
        let key = |column: usize| text(image, column);
        let mapped = self.plan.sources[source].depends.mapped.iter();
        mapped.map(|mapped| self.pair(mapped.map, &key(mapped.column)?).cloned()).collect()
    }

    /// The related rows of a row, as they are now: for each related table a JSON list of lists of cells.
    pub fn related(&self, source: usize, image: &Image) -> Vec<String> {
        let related = self.plan.sources[source].depends.related.iter();
        related
            .map(|related| {
                let wanted: Option<Vec<String>> = related.on.iter().map(|(own, _)| text(image, *own)).collect();
                let rows = wanted.map(|wanted| self.with_values(related, &wanted)).unwrap_or_default();
                let handed = |row: &Mirrored| {
                    related.columns.iter().map(|(column, _)| row.cells[*column].clone()).collect::<Vec<_>>()
                };
                json!(rows.into_iter().map(handed).collect::<Vec<_>>()).to_string()
            })
            .collect()
    }

    /// In the order of their keys, so that the same rows always give the same list (L9).
    fn with_values(&self, related: &crate::plan::keyed::RelatedTable, wanted: &[String]) -> Vec<&Mirrored> {
        let columns: Vec<usize> = related.on.iter().map(|(_, theirs)| *theirs).collect();
        let values: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let hash = self.hashes.by_values(&self.plan.sources[related.source], &columns, &values);
        let has = |row: &&Mirrored| {
            columns.iter().zip(wanted).all(|(column, value)| row.cells[*column].as_ref() == Some(value))
        };
        let places = self.found_by.get(&hash).into_iter().flatten();
        places
            .filter(|(source, _)| *source == related.source)
            .filter_map(|place| self.rows.get(place))
            .filter(has)
            .collect()
    }

    /// A row extended by what is now, except for keys that it was written with.
    pub fn extended(&self, source: usize, image: &Image, written: Option<&[Option<String>]>) -> Image {
        let mapped = written.map_or_else(|| self.mapped(source, image), <[_]>::to_vec);
        rows::extended(image, &mapped, &self.related(source, image))
    }
}
