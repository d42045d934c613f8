//! The trial of the way back: while a link only watches, the rows that its source's own application changes are led
//! through its transform, and the target is asked whether it could hold them. Nothing is written.
//!
//! Each changed row is tried as a whole, as it would come into being. What is found is about the target as it stands
//! now: parents that wait on their way themselves count as being there. A trial never stops a link; what it could not try
//! it counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::apply::trial::{Misfit, Tried, misfits};
use crate::catalog::Catalog;
use crate::change::{Before, Datum, Event, Image};
use crate::delta::decide::key_of;
use crate::delta::lift::Lifter;
use crate::delta::{Effect, Key};
use crate::live::{Trial as Found, Unfit};
use crate::marker::{RowDigest, row_digest};
use crate::names::TableName;
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::plan::{Answer, Columns, Plan, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::Guest;

use super::assemble::Placed;
use super::keyed::Keyed;
use super::relations::{Bound, Relations, in_order};

/// Rows that go into one question.
const ROWS: usize = 200;
/// Rows that are remembered as not fitting, so that they can be forgotten once they fit; more are only counted.
const REMEMBERED: usize = 100_000;
/// Parents on their way that are remembered.
const PARENTS: usize = 2_000_000;
/// Keys that are named for each reason.
const SAMPLE: usize = 20;

/// What the trial needs.
pub struct Trial {
    /// The link's plan.
    pub plan: Arc<Plan>,
    /// The link's transform.
    pub guest: Option<Guest>,
    /// What rows depend on besides themselves; makes nothing.
    pub keyed: Option<Keyed>,
    /// The target as it describes itself.
    pub catalog: Catalog,
    /// Where the target is.
    pub address: Address,
    /// The share of rows that are tried.
    pub share: f64,
    /// What was found so far.
    pub state: State,
}

/// What a trial remembers.
#[derive(Default)]
pub struct State {
    session: Option<Session>,
    lifter: Lifter,
    coming: HashSet<RowDigest>,
    unfit: HashMap<RowDigest, (usize, String, Vec<Misfit>)>,
    found: BTreeMap<TableName, Found>,
    warned: bool,
}

/// A row to be tried.
struct Row {
    digest: RowDigest,
    key: String,
    image: Image,
}

/// Rows for one table over one set of columns, with the source rows that they come from.
type Buckets = BTreeMap<(usize, Columns), Vec<(usize, Box<[Datum]>)>>;

/// Rows of one source that have been through the transform, with what was found so far.
struct Lifted {
    source: usize,
    rows: Vec<Row>,
    found: Vec<Vec<Misfit>>,
    buckets: Buckets,
}

impl Trial {
    /// The same after another one, of an earlier revision: what that one has tried is not known of this one.
    pub(super) fn after(mut self: Box<Self>, earlier: Option<&Trial>) -> Box<Self> {
        for (table, found) in earlier.into_iter().flat_map(|earlier| &earlier.state.found) {
            let skipped = found.tried + found.skipped;
            self.state.found.insert(table.clone(), Found { skipped, ..Found::default() });
        }
        self
    }

    /// Tries the rows that these changes leave behind; everything that was found so far.
    pub(super) async fn take(&mut self, changes: &[Placed], relations: &Relations) -> BTreeMap<TableName, Found> {
        // All are transformed before any is asked about: a row's parent may be another one of them.
        let mut lifted = Vec::new();
        for (source, rows) in self.rows_of(changes, relations) {
            let count = rows.len() as u64;
            match self.lift_rows(source, rows).await {
                Ok(rows) => lifted.push(rows),
                Err(problem) => self.skip(source, count, &problem),
            }
        }
        for rows in lifted {
            let (source, count) = (rows.source, rows.rows.len() as u64);
            match self.ask_rows(rows).await {
                Ok(()) => self.state.found.entry(self.plan.sources[source].name.clone()).or_default().tried += count,
                Err(problem) => self.skip(source, count, &problem),
            }
        }
        self.state.found.clone()
    }

    fn skip(&mut self, source: usize, rows: u64, problem: &Problem) {
        self.state.found.entry(self.plan.sources[source].name.clone()).or_default().skipped += rows;
        self.state.session = None;
        if !std::mem::replace(&mut self.state.warned, true) {
            tracing::warn!("rows could not be tried for the way back: {problem}");
        }
    }

    /// The last image of each row that is still there, by source.
    fn rows_of(&mut self, changes: &[Placed], relations: &Relations) -> BTreeMap<usize, Vec<Row>> {
        let mut last: BTreeMap<usize, BTreeMap<RowDigest, Option<Row>>> = BTreeMap::new();
        for placed in changes.iter().filter(|placed| !placed.echo) {
            let Some(Bound::Source { source, order, .. }) = relations.get(&placed.change.relation) else { continue };
            let event = match order {
                None => placed.change.event.clone(),
                Some(order) => in_order(&placed.change.event, order),
            };
            let rows = last.entry(*source).or_default();
            let of = |image: &Image| row_of(&self.plan.sources[*source], image);
            let (gone, here) = match event {
                Event::Insert(after) => (None, Some(after)),
                Event::Update { before: Before::Full(before), after } => (Some(before), Some(after)),
                Event::Update { after, .. } => (None, Some(after)),
                Event::Delete(Before::Full(before) | Before::Key(before)) => (Some(before), None),
                Event::Delete(Before::Absent) | Event::Truncate { .. } | Event::Denied { .. } => (None, None),
            };
            if let Some(image) = gone {
                rows.insert(of(&image).0, None);
            }
            if let Some(image) = here {
                let (digest, key) = of(&image);
                rows.insert(digest, Some(Row { digest, key, image }));
            }
        }
        let mut wanted = BTreeMap::new();
        for (source, rows) in last {
            rows.keys().for_each(|row| self.forget(*row));
            // Chosen by the row itself: what is tried once is tried at its next change as well.
            let chosen = |row: &Row| (row.digest >> 64) as f64 / 2_f64.powi(64) < self.share;
            wanted.insert(source, rows.into_values().flatten().filter(chosen).collect());
        }
        wanted
    }

    /// Leads rows of one source through the transform.
    async fn lift_rows(&mut self, source: usize, rows: Vec<Row>) -> Outcome<Lifted> {
        let mut images: Vec<Image> = rows.iter().map(|row| row.image.clone()).collect();
        if let Some(keyed) = self.keyed.as_mut().filter(|_| self.plan.sources[source].depends.is_any()) {
            images = keyed.copied(source, images).await?.0;
        }
        let mut found: Vec<Vec<Misfit>> = vec![Vec::new(); rows.len()];
        let answers = self.answers(source, &images, &mut found);
        let mut buckets = Buckets::new();
        for (at, (image, answer)) in images.iter().zip(&answers).enumerate() {
            if found[at].is_empty() {
                self.lift(source, (at, image, answer.as_ref()), &mut buckets, &mut found);
            }
        }
        Ok(Lifted { source, rows, found, buckets })
    }

    /// Asks the target about them, and notes what would not fit.
    async fn ask_rows(&mut self, Lifted { source, rows, mut found, buckets }: Lifted) -> Outcome<()> {
        for ((target, columns), rows) in buckets {
            for part in rows.chunks(ROWS) {
                for (at, misfits) in self.ask(target, &columns, part).await? {
                    found[at].extend(misfits);
                }
            }
        }
        for (row, misfits) in rows.into_iter().zip(found) {
            if !misfits.is_empty() {
                self.note(source, row, misfits);
            }
        }
        Ok(())
    }

    /// The transform's answers; what it does not answer for does not fit.
    fn answers(&mut self, source: usize, images: &[Image], found: &mut [Vec<Misfit>]) -> Vec<Option<Answer>> {
        let needs = self.plan.sources[source].rule.outputs.iter().any(crate::plan::Output::needs_guest);
        let Some(guest) = self.guest.as_mut().filter(|_| needs) else { return vec![None; images.len()] };
        let mut answers = Vec::with_capacity(images.len());
        let all: Vec<&Image> = images.iter().collect();
        while answers.len() < all.len() {
            let start = answers.len();
            let fault = match guest.answer(&self.plan, &self.plan.sources[source], &all[start..]) {
                Ok(more) => {
                    answers.extend(more.into_iter().map(Some));
                    continue;
                }
                Err(fault) => fault,
            };
            let bad = start + fault.row.min(all.len() - start - 1);
            if bad > start
                && let Ok(more) = guest.answer(&self.plan, &self.plan.sources[source], &all[start..bad])
            {
                answers.extend(more.into_iter().map(Some));
            }
            // What a fault keeps from being answered is put down to it.
            while answers.len() <= bad {
                found[answers.len()].push(Misfit::new(fault.problem.code(), ""));
                answers.push(None);
            }
        }
        answers
    }

    fn lift(
        &mut self,
        source: usize,
        (at, image, answer): (usize, &Image, Option<&Answer>),
        buckets: &mut Buckets,
        found: &mut [Vec<Misfit>],
    ) {
        let event = Event::Insert(image.clone());
        let mut operations = Vec::new();
        let (plan, lifter) = (self.plan.clone(), &mut self.state.lifter);
        let lifted = lifter.lift(source, &plan.sources[source], &plan.targets, &event, (None, answer), &mut operations);
        if lifted.is_err() {
            found[at].push(Misfit::new("BAD_OUTPUT", ""));
            return;
        }
        for operation in operations {
            // A patch sets columns of a row that others own: it is tried without asking for the rest.
            let (columns, values) = match operation.effect {
                Effect::Insert { columns, values } | Effect::Ensure { columns, values } => (columns, values),
                Effect::Patch { columns, values, .. } => (columns, values),
                _ => continue,
            };
            let key = key_of(&plan.targets[operation.target], &columns, &values);
            if self.state.coming.len() < PARENTS && key.len() == plan.targets[operation.target].key.len() {
                self.state.coming.insert(digest(&plan.targets[operation.target].name, &key));
            }
            buckets.entry((operation.target, columns)).or_default().push((at, values));
        }
    }

    async fn ask(
        &mut self,
        target: usize,
        columns: &Columns,
        rows: &[(usize, Box<[Datum]>)],
    ) -> Outcome<Vec<(usize, Vec<Misfit>)>> {
        let plan = self.plan.clone();
        let target = &plan.targets[target];
        let Some(table) = self.catalog.tables.get(&target.name) else { return Ok(Vec::new()) };
        if self.state.session.is_none() {
            let session = Session::connect_blaming(&self.address, Blame::Target, "trial").await?;
            session.run("SET default_transaction_read_only = on; SET statement_timeout = '30s'").await?;
            self.state.session = Some(session);
        }
        let Some(session) = &self.state.session else { return Ok(Vec::new()) };
        let coming = |values: &[Datum]| -> Vec<bool> {
            let parent = |foreign: &crate::catalog::ForeignKey| {
                let value = |column: &usize| {
                    let name = &table.columns[*column].name;
                    let place = columns.iter().position(|at| target.columns[usize::from(*at)].name == *name)?;
                    Some(values[place].clone())
                };
                let key: Option<Key> = foreign.columns.iter().map(value).collect();
                key.is_some_and(|key| self.state.coming.contains(&digest(&foreign.parent, &key)))
            };
            table.foreign_keys.iter().map(parent).collect()
        };
        let parents: Vec<Vec<bool>> = rows.iter().map(|(_, values)| coming(values)).collect();
        let values: Vec<Box<[Datum]>> = rows.iter().map(|(_, values)| values.clone()).collect();
        let tried = Tried { target, table, columns, rows: &values, parents: &parents };
        let found = misfits(session.client(), tried).await?;
        Ok(rows.iter().map(|(at, _)| *at).zip(found).collect())
    }

    fn note(&mut self, source: usize, row: Row, misfits: Vec<Misfit>) {
        let found = self.state.found.entry(self.plan.sources[source].name.clone()).or_default();
        found.unfit_rows += 1;
        if self.state.unfit.len() >= REMEMBERED {
            return;
        }
        for Misfit { reason, name } in &misfits {
            let unfit: &mut Unfit = found.reasons.entry((reason.clone(), name.clone())).or_default();
            unfit.rows += 1;
            if unfit.sample.len() < SAMPLE {
                unfit.sample.push(row.key.clone());
            }
        }
        self.state.unfit.insert(row.digest, (source, row.key, misfits));
    }

    /// A row has changed again, or is gone: what was found before counts no more.
    fn forget(&mut self, row: RowDigest) {
        let Some((source, key, misfits)) = self.state.unfit.remove(&row) else { return };
        let found = self.state.found.entry(self.plan.sources[source].name.clone()).or_default();
        found.unfit_rows = found.unfit_rows.saturating_sub(1);
        for Misfit { reason, name } in misfits {
            let reasons = found.reasons.entry((reason, name));
            if let std::collections::btree_map::Entry::Occupied(mut unfit) = reasons {
                unfit.get_mut().rows -= 1;
                unfit.get_mut().sample.retain(|known| *known != key);
                if unfit.get().rows == 0 {
                    unfit.remove();
                }
            }
        }
    }
}

fn digest(table: &TableName, key: &Key) -> RowDigest {
    let text = |datum: &'_ Datum| match datum {
        Datum::Text(text) => text.clone(),
        Datum::Null | Datum::Unset => bytes::Bytes::new(),
    };
    let parts: Vec<bytes::Bytes> = key.iter().map(text).collect();
    row_digest(table, parts.iter().map(AsRef::as_ref))
}

/// A row's digest, and its key as JSON.
fn row_of(source: &Source, image: &Image) -> (RowDigest, String) {
    let text = |column: &usize| image.text(*column).unwrap_or_default();
    let digest = row_digest(&source.name, source.key.iter().map(text));
    let value = |column: &usize| {
        let value = String::from_utf8_lossy(text(column)).into_owned();
        (source.columns[*column].name.clone(), serde_json::Value::String(value))
    };
    let key: serde_json::Map<_, _> = source.key.iter().map(value).collect();
    (digest, serde_json::Value::Object(key).to_string())
}
