//! Which changes concern the chunks that are finished, while a resumed copy is brought to its new snapshot (L5).
//!
//! PostgreSQL alone knows how keys of every type and collation compare, so the source decides which keys lie in finished
//! chunks. It looks at the keys of the changes only, never at the table's rows (pitfall 12).

use std::collections::HashMap;

use crate::apply::chunk::Chunk;
use crate::change::{Before, Cell, Event, Image};
use crate::names::{quote_name, quote_names, quote_text};
use crate::pg::session::Session;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::stream::assemble::Placed;
use crate::stream::relations::{Bound, Relations, reordered};
use crate::stream::{Filter, Kept};

use super::key_columns;

/// Keeps the changes of finished chunks.
pub struct FinishedChunks {
    plan: std::sync::Arc<Plan>,
    /// By source: the finished chunks and whether that is all of them.
    finished: Vec<(Vec<Chunk>, bool)>,
    session: Session,
}

type Key = Vec<String>;

/// The keys of one change: before and after.
#[derive(Default)]
struct Keys {
    before: Option<Key>,
    after: Option<Key>,
}

impl FinishedChunks {
    /// For the chunks of a copy that was interrupted; `session` is one to the source.
    pub fn new(plan: std::sync::Arc<Plan>, chunks: &[Chunk], session: Session) -> Self {
        let of = |source: &Source| {
            let own = || chunks.iter().filter(|chunk| chunk.table == source.name);
            (own().filter(|chunk| chunk.finished).cloned().collect(), own().all(|chunk| chunk.finished))
        };
        let finished = plan.sources.iter().map(of).collect();
        FinishedChunks { plan, finished, session }
    }

    async fn keep_some(&mut self, changes: Vec<Placed>, relations: &Relations) -> Outcome<Vec<Option<Placed>>> {
        let keys: Vec<Option<(usize, Keys)>> =
            changes.iter().map(|placed| self.keys(placed, relations)).collect::<Outcome<_>>()?;
        let mut wanted: HashMap<usize, Vec<Key>> = HashMap::new();
        for (source, keys) in keys.iter().flatten() {
            let (finished, all) = &self.finished[*source];
            if !all && !finished.is_empty() {
                wanted.entry(*source).or_default().extend(keys.before.iter().chain(&keys.after).cloned());
            }
        }
        let mut inside: HashMap<(usize, Key), bool> = HashMap::new();
        for (source, keys) in wanted {
            let found = self.inside(source, &keys).await?;
            inside.extend(keys.into_iter().map(|key| (source, key)).zip(found));
        }
        let is_inside = |source: usize, key: &Key| match &self.finished[source] {
            (_, true) => true,
            (finished, false) if finished.is_empty() => false,
            _ => inside.get(&(source, key.clone())).copied().unwrap_or(false),
        };
        changes
            .into_iter()
            .zip(keys)
            .map(|(placed, keys)| match keys {
                None => Ok(Some(placed)),
                Some((source, keys)) => {
                    let before = keys.before.as_ref().is_some_and(|key| is_inside(source, key));
                    let after = keys.after.as_ref().is_some_and(|key| is_inside(source, key));
                    cut(placed, before, after)
                }
            })
            .collect()
    }

    /// `None`: a change that concerns no single row.
    fn keys(&self, placed: &Placed, relations: &Relations) -> Outcome<Option<(usize, Keys)>> {
        let Some(Bound::Source { source, order, .. }) = relations.get(&placed.change.relation) else { return Ok(None) };
        let table = &self.plan.sources[*source];
        let key = |image: &Image| -> Option<Key> {
            let image = match order {
                Some(order) => &reordered(image, order),
                None => image,
            };
            let part = |column: &usize| image.text(*column).map(|text| String::from_utf8_lossy(text).into_owned());
            table.key.iter().map(part).collect()
        };
        let keys = match &placed.change.event {
            Event::Truncate { .. } | Event::Denied { .. } => return Ok(None),
            Event::Insert(after) => Keys { before: None, after: key(after) },
            Event::Delete(Before::Full(before) | Before::Key(before)) => Keys { before: key(before), after: None },
            Event::Delete(Before::Absent) => Keys::default(),
            Event::Update { before: Before::Absent, after } => Keys { before: key(after), after: key(after) },
            Event::Update { before: Before::Full(before) | Before::Key(before), after } => {
                Keys { before: key(before), after: key(after) }
            }
        };
        Ok(Some((*source, keys)))
    }

    /// For each key whether a finished chunk holds it.
    async fn inside(&self, source: usize, keys: &[Key]) -> Outcome<Vec<bool>> {
        let table = &self.plan.sources[source];
        let columns = key_columns(table);
        let cast = |key: &Key| {
            let parts =
                key.iter().zip(&columns).map(|(text, column)| format!("{}::{}", quote_text(text), column.type_sql));
            parts.collect::<Vec<_>>().join(", ")
        };
        let names = quote_names(columns.iter().map(|column| column.name.as_str()));
        // The empty half gives the values the collations of the table's own columns.
        let empty = format!("SELECT -1, {names} FROM {} WHERE false", table.name.sql());
        let values = keys.iter().enumerate().map(|(at, key)| format!("SELECT {at}, {}", cast(key)));
        let ranges = self.finished[source].0.iter().map(|chunk| {
            let lower = chunk.lower.as_ref().map(|key| format!("({names}) >= ({})", cast(key)));
            let upper = chunk.upper.as_ref().map(|key| format!("({names}) < ({})", cast(key)));
            let both: Vec<String> = lower.into_iter().chain(upper).collect();
            if both.is_empty() { "true".to_owned() } else { format!("({})", both.join(" AND ")) }
        });
        let mut found = vec![false; keys.len()];
        let ranges = ranges.collect::<Vec<_>>().join(" OR ");
        let values = values.collect::<Vec<_>>();
        for piece in values.chunks(500) {
            let sql = format!(
                "SELECT {number} FROM ({empty} UNION ALL {}) AS k ({number}, {names}) WHERE {ranges}",
                piece.join(" UNION ALL "),
                number = quote_name("falkirk number"),
            );
            for row in self.session.rows(&sql).await? {
                let at: usize = row.number(0)?;
                found.get_mut(at).into_iter().for_each(|found| *found = true);
            }
        }
        Ok(found)
    }
}

/// The part of a change that concerns finished chunks. A row that leaves them ceases to be there; the copy brings it
/// back with its new key. A row that enters them comes into being.
fn cut(mut placed: Placed, before: bool, after: bool) -> Outcome<Option<Placed>> {
    let event = match (&placed.change.event, before, after) {
        (_, false, false) => return Ok(None),
        (Event::Update { before: old @ (Before::Full(_) | Before::Key(_)), .. }, true, false) => {
            Event::Delete(old.clone())
        }
        (Event::Update { after, .. }, false, true) => {
            if (0..after.len()).any(|column| after.cell(column) == Cell::Unchanged) {
                return Err(Problem::stop(
                    Blame::Source,
                    "TOAST_UNRESOLVED",
                    "a row moved into a finished chunk while the copy was interrupted, and the log does not repeat one of its values",
                )
                .table(&placed.change.relation.name)
                .position(placed.at)
                .remedy("`falkirk clean`, then `falkirk run` copies anew; with REPLICA IDENTITY FULL this cannot happen"));
            }
            Event::Insert(after.clone())
        }
        _ => return Ok(Some(placed)),
    };
    placed.change.event = event;
    Ok(Some(placed))
}

impl Filter for FinishedChunks {
    fn keep<'a>(&'a mut self, changes: Vec<Placed>, relations: &'a Relations) -> Kept<'a> {
        Box::pin(self.keep_some(changes, relations))
    }
}
