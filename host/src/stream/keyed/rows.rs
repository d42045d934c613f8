//! Rows that depend on more than themselves: how they are told apart, what they are found by, how they are mirrored, and
//! how they are extended before they are lifted. Pure.

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::change::{Datum, Image};
use crate::delta::{Effect, Key, Operation};
use crate::marker::Link;
use crate::plan::keyed::MIRROR_KEY;
use crate::plan::{Columns, Plan, Source};

/// A row of a source: its position in `Plan::sources` and its key, a JSON list.
pub type Place = (usize, String);

/// A row as its mirror has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// As wide as its table; what is not mirrored is NULL.
    pub cells: Vec<Option<String>>,
    /// The keys that it was written with (counter-example 7).
    pub mapped: Vec<Option<String>>,
}

/// One cell as text.
pub fn text(image: &Image, column: usize) -> Option<String> {
    image.text(column).map(|text| String::from_utf8_lossy(text).into_owned())
}

/// The place of a row.
pub fn place(plan: &Plan, source: usize, image: &Image) -> Place {
    let key: Vec<Option<String>> = plan.sources[source].key.iter().map(|column| text(image, *column)).collect();
    (source, json!(key).to_string())
}

/// The mirrored cells of a row.
pub fn cells(source: &Source, image: &Image) -> Vec<Option<String>> {
    let kept = source.depends.mirror.as_deref().unwrap_or_default();
    (0..source.columns.len()).map(|column| kept.contains(&column).then(|| text(image, column)).flatten()).collect()
}

/// The image of a mirrored row.
pub fn image(row: &Mirrored) -> Image {
    let datum = |cell: &Option<String>| cell.clone().map_or(Datum::Null, Datum::text);
    Image::from_datums(&row.cells.iter().map(datum).collect::<Vec<_>>())
}

/// Hashes that rows are found by; they are the same in every host.
pub struct Hashes {
    scope: Vec<u8>,
}

impl Hashes {
    /// For one link.
    pub fn new(migration: &str, link: &str) -> Self {
        Hashes { scope: format!("{migration}/{link}/").into_bytes() }
    }

    fn of(&self, kind: &str, source: &Source, name: &str, values: &[&str]) -> i64 {
        let mut hasher = Sha256::new();
        hasher.update(&self.scope);
        for part in [kind, &source.name.to_string(), name].iter().chain(values) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = hasher.finalize();
        digest.iter().take(8).fold(0, |sum: i64, byte| (sum << 8) | i64::from(*byte))
    }

    /// Rows of a table that map this key of the source through a map.
    pub fn by_key(&self, source: &Source, map: &str, key: &str) -> i64 {
        self.of("key", source, map, &[key])
    }

    /// Rows of a table that were written with this key of the target.
    pub fn by_written(&self, source: &Source, map: &str, key: &str) -> i64 {
        self.of("written", source, map, &[key])
    }

    /// Rows of a table that ask for related rows with these values.
    pub fn by_wish(&self, source: &Source, number: usize, values: &[&str]) -> i64 {
        self.of("wish", source, &number.to_string(), values)
    }

    /// Rows of a table with these values in these columns.
    pub fn by_values(&self, source: &Source, columns: &[usize], values: &[&str]) -> i64 {
        self.of("values", source, &format!("{columns:?}"), values)
    }

    /// Everything that a mirrored row is found by.
    pub fn all(&self, plan: &Plan, at: usize, row: &Mirrored) -> Vec<i64> {
        let source = &plan.sources[at];
        let mut found = Vec::new();
        for (number, mapped) in source.depends.mapped.iter().enumerate() {
            let map = &plan.maps[mapped.map].name;
            found.extend(row.cells[mapped.column].as_deref().map(|key| self.by_key(source, map, key)));
            found.extend(row.mapped[number].as_deref().map(|key| self.by_written(source, map, key)));
        }
        for (number, related) in source.depends.related.iter().enumerate() {
            let values: Option<Vec<&str>> = related.on.iter().map(|(own, _)| row.cells[*own].as_deref()).collect();
            found.extend(values.map(|values| self.by_wish(source, number, &values)));
        }
        for columns in asked_by(plan, at) {
            let values: Option<Vec<&str>> = columns.iter().map(|column| row.cells[*column].as_deref()).collect();
            found.extend(values.map(|values| self.by_values(source, &columns, &values)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The sets of columns by which other tables ask for rows of this one.
fn asked_by(plan: &Plan, at: usize) -> Vec<Vec<usize>> {
    let related = plan.sources.iter().flat_map(|source| &source.depends.related);
    let mut sets: Vec<Vec<usize>> = related
        .filter(|related| related.source == at)
        .map(|related| related.on.iter().map(|(_, theirs)| *theirs).collect())
        .collect();
    sets.sort();
    sets.dedup();
    sets
}

/// The row with its mapped keys and its related rows behind its own cells.
pub fn extended(row: &Image, mapped: &[Option<String>], related: &[String]) -> Image {
    let mut datums: Vec<Datum> = (0..row.len()).map(|column| row.datum(column)).collect();
    datums.extend(mapped.iter().map(|key| key.clone().map_or(Datum::Null, Datum::text)));
    datums.extend(related.iter().map(Datum::text));
    Image::from_datums(&datums)
}

/// Writes mirrors as operations of the same target transaction.
pub struct Writing {
    migration: String,
    link: &'static str,
    columns: Columns,
    rest: Columns,
}

impl Writing {
    /// For one link.
    pub fn new(migration: &str, link: Link) -> Self {
        let all: Vec<u16> = (0..crate::plan::keyed::MIRROR_COLUMNS.len() as u16).collect();
        Writing {
            migration: migration.to_owned(),
            link: link.name(),
            columns: all.as_slice().into(),
            rest: all[MIRROR_KEY..].into(),
        }
    }

    /// The operation that leads the mirror from one state of a row to another; `None` if there is nothing to do.
    pub fn operation(
        &self,
        plan: &Plan,
        hashes: &Hashes,
        place: &Place,
        (before, after): (Option<&Mirrored>, Option<&Mirrored>),
    ) -> Option<Operation> {
        let target = plan.mirror?;
        let source = &plan.sources[place.0];
        let key: Key = [&self.migration, self.link, &source.name.to_string(), &place.1].map(Datum::text).into();
        let values = |row: &Mirrored| -> Vec<Datum> {
            let found_by: Vec<String> = hashes.all(plan, place.0, row).iter().map(i64::to_string).collect();
            let kept = source.depends.mirror.as_deref().unwrap_or_default();
            let cells: Vec<&Option<String>> = kept.iter().map(|column| &row.cells[*column]).collect();
            [format!("{{{}}}", found_by.join(",")), json!(row.mapped).to_string(), json!(cells).to_string()]
                .map(|text| Datum::Text(Bytes::from(text)))
                .into()
        };
        let effect = match (before, after) {
            (None, None) => return None,
            (Some(before), Some(after)) if before == after => return None,
            (Some(_), None) => Effect::Delete { key },
            (None, Some(after)) => {
                let values = key.iter().cloned().chain(values(after)).collect();
                Effect::Insert { columns: self.columns.clone(), values }
            }
            (Some(_), Some(after)) => Effect::Patch { key, columns: self.rest.clone(), values: values(after).into() },
        };
        Some(Operation::of_nobody(target, effect))
    }
}

/// A row out of its mirror's columns.
pub fn read(source: &Source, mapped: Vec<Option<String>>, row: Vec<Option<String>>) -> Mirrored {
    let mut cells = vec![None; source.columns.len()];
    let kept = source.depends.mirror.as_deref().unwrap_or_default();
    for (column, cell) in kept.iter().zip(row) {
        cells[*column] = cell;
    }
    let mut mapped = mapped;
    mapped.resize(source.depends.mapped.len(), None);
    Mirrored { cells, mapped }
}
