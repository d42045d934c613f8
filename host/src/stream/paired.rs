//! The pairs of keys by which a batch was lifted, held against those that the target's own application has made meanwhile
//! (counter-example 7, L8).
//!
//! A key of the target that the host has made for a customer, and a cart that release 2 opens for the same customer, are
//! two carts for one. The application's is the one that stays: it is in use. So a batch that was lifted by another pair
//! than the target's row says is not written. The other link brings the application's pair, and the batch is lifted again
//! by that. Where a pair is replaced, the rows that used it move, and what the source did to them without knowing so
//! conflicts with that.
//!
//! A customer without a cart never had one, or release 2 has thrown it away. Then the other link takes the pair away as
//! well: until it has, a batch that was lifted by that pair is not written either. After that the host makes a cart anew
//! for whatever release 1 still puts into it; nothing of release 2 is lost by that, whoever wins.

use std::collections::{HashMap, HashSet};

use crate::apply::keys::Pair;
use crate::apply::writer::Writer;
use crate::change::Datum;
use crate::delta::Key;
use crate::lsn::Lsn;
use crate::marker::{RowDigest, row_digest};
use crate::names::TableName;
use crate::plan::keyed::Adoption;
use crate::plan::parts::{EXISTENCE, LinkParts};
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome, Problem};

use super::decided::text_of;

/// The pairs of a batch, of maps in which the target's application pairs keys as well: map, source's key, target's key.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    /// By which it was lifted.
    pub(super) all: Vec<(usize, Pair)>,
    /// Those of them that the host has made for this batch, by map and key of the target: nobody can have taken one away
    /// before.
    pub(super) made: HashSet<(usize, String)>,
    /// The position of the target up to which the other link had bound pairs when they were looked up.
    pub(super) bound: Lsn,
}

/// The pairs of a batch, and what the target's rows say of them.
#[derive(Debug, Default)]
pub(super) struct Paired {
    /// By map and key of the target: the source's key.
    sources: HashMap<(usize, String), String>,
    /// The key of the target that a row of the target holds, or may be given, by row and column.
    held: HashMap<(RowDigest, u16), String>,
    /// Rows of the target that hold no key of a map and whose pair is older: map, table, row and column.
    without: Vec<(usize, usize, RowDigest, u16)>,
}

impl Paired {
    /// Looks at the rows by which the target's application pairs keys, and keeps them as they are. Without a writer nobody
    /// pairs keys but this link.
    pub(super) async fn of(writer: Option<&mut Writer<'_>>, plan: &Plan, used: &Pairs) -> Outcome<Paired> {
        let mut paired = Paired::default();
        for (map, (source, target)) in &used.all {
            paired.sources.insert((*map, target.clone()), source.clone());
        }
        let Some(writer) = writer else { return Ok(paired) };
        for (number, map) in plan.maps.iter().enumerate() {
            let of_map = used.all.iter().filter(|(map, _)| *map == number);
            let ours: HashMap<&String, &String> = of_map.map(|(_, (source, target))| (source, target)).collect();
            let mut asked: Vec<String> = ours.keys().map(|source| (*source).clone()).collect();
            asked.sort_unstable();
            for adoption in map.adopts.iter().filter(|_| !asked.is_empty()) {
                let place = place(plan, adoption);
                // What this link never writes it may have no right to lock.
                let held = writer.held(adoption, &asked, place.is_some()).await?;
                for (source, target) in held {
                    let Some(ours) = ours.get(&source) else { continue };
                    if target.as_ref().is_some_and(|held| held != *ours) {
                        return Err(bound_anew(&map.name, (&adoption.table, &adoption.target_key)));
                    }
                    if let Some((at, column)) = place {
                        let row = row_digest(&plan.targets[at].name, std::iter::once(source.as_bytes()));
                        let is_lost = target.is_none() && !used.made.contains(&(number, (*ours).clone()));
                        paired.without.extend(is_lost.then_some((number, at, row, column)));
                        paired.held.insert((row, column), (*ours).clone());
                    }
                }
            }
        }
        Ok(paired)
    }

    /// Whether rows of the target hold no key although there is a pair.
    pub(super) fn lacks_any(&self) -> bool {
        !self.without.is_empty()
    }

    /// L8: a row that holds no key was never given one, or the target's application has taken it away. If the other link
    /// had not bound that yet when the pairs were looked up, these are no pairs any more. `newer` says what the
    /// application has changed of a row since then.
    pub(super) fn stand(&self, plan: &Plan, parts: &LinkParts, newer: impl Fn(RowDigest) -> u64) -> Outcome<()> {
        let taken_away = |(_, at, row, column): &&(usize, usize, RowDigest, u16)| {
            newer(*row) & (parts.targets()[*at][usize::from(*column)] | EXISTENCE) != 0
        };
        match self.without.iter().find(taken_away) {
            None => Ok(()),
            Some((map, at, _, column)) => {
                let target = &plan.targets[*at];
                Err(bound_anew(&plan.maps[*map].name, (&target.name, &target.columns[usize::from(*column)].name)))
            }
        }
    }

    /// Whether a row of the target holds this key already, or none and may be given it.
    pub(super) fn holds(&self, row: RowDigest, column: u16, value: &Datum) -> bool {
        self.held.get(&(row, column)).is_some_and(|held| held.as_bytes() == text_of(value))
    }

    /// Whether the pair that a row's key follows from was made or replaced by the target's application; `changed` says
    /// whether it changed these parts of a row.
    pub(super) fn moved(
        &self,
        plan: &Plan,
        parts: &LinkParts,
        (target, key): (usize, &Key),
        changed: impl Fn(RowDigest, u64) -> bool,
    ) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        through(plan, target).into_iter().any(|(at, map)| {
            let value = String::from_utf8_lossy(text_of(&key[at])).into_owned();
            let Some(source) = self.sources.get(&(map, value)) else { return false };
            plan.maps[map].adopts.iter().filter_map(|adoption| place(plan, adoption)).any(|(binder, column)| {
                let row = row_digest(&plan.targets[binder].name, std::iter::once(source.as_bytes()));
                changed(row, parts.targets()[binder][usize::from(column)] | EXISTENCE)
            })
        })
    }
}

/// The target and the column in which a row, whose key is the source's key, holds the target's.
fn place(plan: &Plan, adoption: &Adoption) -> Option<(usize, u16)> {
    let at = plan.targets.iter().position(|target| target.name == adoption.table)?;
    let target = &plan.targets[at];
    let column = |name: &str| target.columns.iter().position(|column| column.name == name);
    let is_key = target.key.iter().map(|key| usize::from(*key)).eq(column(&adoption.source_key));
    let held = u16::try_from(column(&adoption.target_key)?).ok()?;
    is_key.then_some((at, held))
}

/// The parts of a target's key that follow from pairs, and the maps of those.
fn through(plan: &Plan, target: usize) -> Vec<(usize, usize)> {
    let of = |source: &Source| -> Vec<(usize, usize)> {
        let cells = source.columns.len();
        let outputs = source.rule.outputs.iter().filter(|output| output.target == target);
        let mapped = outputs.flat_map(|output| &output.mapped).filter_map(|(from, to)| {
            let mapped = source.depends.mapped.get(from.checked_sub(cells)?)?;
            let at = plan.targets[target].key.iter().position(|key| key == to)?;
            Some((at, mapped.map))
        });
        mapped.collect()
    };
    let mut all: Vec<(usize, usize)> = plan.sources.iter().flat_map(of).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn bound_anew(map: &str, (table, column): (&TableName, &str)) -> Problem {
    let what = format!(
        "the target's application has paired keys of map {map} otherwise than the host; the other link brings that first"
    );
    Problem::retry(Blame::Target, "PAIR_BOUND_ANEW", what)
        .table(table)
        .column(column)
        .remedy("if this goes on, see `falkirk status` for what keeps the other link")
}
