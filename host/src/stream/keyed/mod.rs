//! Rows that depend on more than themselves, in a stream and in a copy: what a batch depends on is loaded in a few
//! queries, its pairs are made or replaced, and its rows are extended, before anything is lifted.
//!
//! ```text
//!   changes --what they can touch--> mirrors, key maps --World--> transaction by transaction --> extended changes
//!                                        + what is on its way                                    + mirror operations
//! ```
//!
//! The live source is never read (pitfall 12): related rows are those of the change, from mirrors that this same link
//! keeps (counter-example 4). Batches overlap: what was handed on and is not durable yet is remembered here.

pub mod rows;
#[cfg(test)]
pub(in crate::stream) mod tests;
pub mod transaction;
pub mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::apply::LinkIdentity;
use crate::apply::keys::{Keys, Pair};
use crate::apply::mirror::{Mirrors, Stored};
use crate::change::Image;
use crate::config::Settings;
use crate::delta::Operation;
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::pg::address::Address;
use crate::plan::Plan;
use crate::problem::Outcome;

use super::paired::Pairs;
use rows::{Hashes, Mirrored, Place, Writing, place, text};
use transaction::{Step, Transaction, images, wishes};
use world::World;

/// Pairs that are remembered of a map that nobody binds.
const REMEMBERED: usize = 1_000_000;

/// What a link needs for rows that depend on more than themselves.
pub struct Keyed {
    plan: Arc<Plan>,
    hashes: Arc<Hashes>,
    writing: Writing,
    keys: Keys,
    mirrors: Mirrors,
    /// Pairs may be made and replaced.
    makes: bool,
    /// Related rows are handed in, and mirrors are not asked.
    apart: bool,
    /// Mirrored rows that were handed on and may not be in the target yet, with the position that brings them.
    on_its_way: HashMap<Place, (Option<Lsn>, Option<Mirrored>)>,
    /// Those of the batch that is being lifted.
    lifted: BTreeMap<Place, Option<Mirrored>>,
    durable: Option<watch::Receiver<Lsn>>,
    /// The pairs that the last batch was extended by, of maps in which the target's application pairs keys as well.
    used: Pairs,
    /// The keys that were made for the batch that is being lifted.
    made: HashSet<(usize, String)>,
    /// By map: pairs that never change.
    known: Vec<HashMap<String, String>>,
}

/// What a batch asks for.
#[derive(Default)]
struct Wanted {
    rows: BTreeMap<usize, BTreeSet<String>>,
    hashes: HashSet<i64>,
    /// By map: keys of the source to be found, and those to be paired if they are not.
    keys: BTreeMap<usize, BTreeSet<String>>,
    needed: BTreeMap<usize, BTreeSet<String>>,
    bound: BTreeMap<usize, BTreeSet<Pair>>,
}

impl Keyed {
    /// Connects, for a plan that needs it.
    pub async fn connect(settings: &Settings, plan: &Arc<Plan>, identity: &LinkIdentity) -> Outcome<Option<Self>> {
        if !plan.is_keyed() {
            return Ok(None);
        }
        let (source, target) = (&settings.source().address, &settings.target().address);
        let keys = Keys::connect(source, target, identity, &plan.maps).await?;
        let mirrors = Mirrors::connect(target, &identity.migration, identity.link).await?;
        Ok(Some(Keyed { makes: true, ..Keyed::new(plan.clone(), &identity.migration, identity.link, (keys, mirrors)) }))
    }

    /// The same to see what rows stand for: no pair is made or replaced.
    pub async fn connect_to_read(
        (source, target): (&Address, &Address),
        plan: &Plan,
        migration: &str,
        link: Link,
    ) -> Outcome<Option<Self>> {
        if !plan.is_keyed() {
            return Ok(None);
        }
        let keys = Keys::connect_to_read(source, target, migration, &plan.maps).await?;
        let mirrors = Mirrors::connect(target, migration, link).await?;
        Ok(Some(Keyed::new(Arc::new(plan.clone()), migration, link, (keys, mirrors))))
    }

    fn new(plan: Arc<Plan>, migration: &str, link: Link, (keys, mirrors): (Keys, Mirrors)) -> Self {
        Keyed {
            hashes: Arc::new(Hashes::new(migration, link.name())),
            writing: Writing::new(migration, link),
            keys,
            mirrors,
            makes: false,
            apart: false,
            on_its_way: HashMap::new(),
            lifted: BTreeMap::new(),
            durable: None,
            used: Pairs::default(),
            made: HashSet::new(),
            known: vec![HashMap::new(); plan.maps.len()],
            plan,
        }
    }

    /// What the target durably holds is not remembered here.
    pub(super) fn watch(&mut self, durable: watch::Receiver<Lsn>) {
        self.durable = Some(durable);
    }

    /// The pairs that the last batch was extended by.
    pub(super) fn used(&mut self) -> Pairs {
        std::mem::take(&mut self.used)
    }

    /// The batch was handed on; more may follow before its transaction ends.
    pub(super) fn handed_on(&mut self, position: Option<Lsn>) {
        for (place, row) in std::mem::take(&mut self.lifted) {
            self.on_its_way.insert(place, (None, row));
        }
        if let Some(position) = position {
            self.on_its_way.values_mut().for_each(|(at, _)| *at = at.or(Some(position)));
        }
    }

    /// Extends the changes of a batch; `at` gives the commit position of each.
    pub(super) async fn extend<'a>(
        &mut self,
        steps: Vec<Step<'a>>,
        at: &(dyn Fn(usize) -> Lsn + Sync),
    ) -> Outcome<Vec<Step<'a>>> {
        self.made.clear();
        let mut world = self.load(&steps).await?;
        let before: Vec<HashMap<String, String>> =
            (0..self.plan.maps.len()).map(|map| world.pairs(map).clone()).collect();
        self.lifted.clear();
        let mut made = Vec::with_capacity(steps.len());
        let mut rest = steps.into_iter().peekable();
        while let Some(first) = rest.next() {
            let position = at(first.change);
            let mut own = vec![first];
            while let Some(next) = rest.next_if(|next| at(next.change) == position) {
                own.push(next);
            }
            let mut transaction = Transaction {
                plan: &self.plan,
                hashes: &self.hashes,
                writing: &self.writing,
                world: &mut world,
                touched: BTreeMap::new(),
            };
            let steps = transaction.run(own);
            made.extend(steps);
        }
        self.keep_lifted(&world);
        let maps = self.plan.maps.iter().enumerate().filter(|(_, map)| !map.adopts.is_empty());
        let of = |(number, _)| {
            world.pairs(number).iter().map(move |(source, target)| (number, (source.clone(), target.clone())))
        };
        let all = maps.flat_map(of).collect();
        self.used = Pairs { all, made: std::mem::take(&mut self.made), ..Pairs::default() };
        self.rebind(&before, &world).await?;
        Ok(made)
    }

    /// What the batch leaves in the mirrors.
    fn keep_lifted(&mut self, world: &World) {
        for place in world.changed() {
            self.lifted.insert(place.clone(), world.row(place).cloned());
        }
    }

    /// Counter-example 8: pairs are replaced in transactions of their own, before the rows that follow from them.
    async fn rebind(&self, before: &[HashMap<String, String>], world: &World) -> Outcome<()> {
        for (number, map) in self.plan.maps.iter().enumerate().filter(|(_, map)| self.makes && map.bound_here) {
            let after = world.pairs(number);
            let differs = |one: &HashMap<String, String>, other: &HashMap<String, String>| -> Vec<Pair> {
                let missing = one.iter().filter(|(source, target)| other.get(*source) != Some(target));
                missing.map(|(source, target)| (source.clone(), target.clone())).collect()
            };
            let (mut gone, mut new) = (differs(&before[number], after), differs(after, &before[number]));
            gone.sort();
            new.sort();
            if !gone.is_empty() || !new.is_empty() {
                self.keys.rebind(map, gone, new).await?;
            }
        }
        Ok(())
    }

    /// Everything that the changes can touch, as it is before the first of them.
    async fn load(&mut self, steps: &[Step<'_>]) -> Outcome<World> {
        self.forget();
        let mut wanted = Wanted::default();
        for step in steps {
            self.want(step, &mut wanted);
        }
        let mut world = World::new(self.plan.clone(), self.hashes.clone());
        for (map, pairs) in &wanted.bound {
            let map_of = &self.plan.maps[*map];
            let (sources, targets): (Vec<String>, Vec<String>) = pairs.iter().cloned().unzip();
            let found = self.keys.of_source(map_of, &sources).await?;
            found.into_iter().for_each(|(source, target)| world.bind(*map, source, target));
            let found = self.keys.of_target(map_of, &targets).await?;
            found.into_iter().for_each(|(source, target)| world.bind(*map, source, target));
        }
        for (source, keys) in wanted.rows.iter().filter(|_| !self.apart) {
            let keys: Vec<String> = keys.iter().cloned().collect();
            let found = self.mirrors.by_key(&self.plan.sources[*source].name, &keys).await?;
            self.put(&mut world, found);
        }
        self.find(&mut world, std::mem::take(&mut wanted.hashes)).await?;
        for (place, (_, row)) in &self.on_its_way {
            world.set(place, row.clone());
        }
        // The rows that were found ask for rows and keys themselves.
        let found: Vec<(usize, Image)> = world.rows().map(|(place, row)| (place.0, rows::image(row))).collect();
        for (source, image) in &found {
            self.want_for(*source, image, false, &mut wanted);
        }
        self.find(&mut world, std::mem::take(&mut wanted.hashes)).await?;
        self.pair(&mut world, wanted).await?;
        world.begin();
        Ok(world)
    }

    /// What one change can touch.
    fn want(&self, step: &Step<'_>, wanted: &mut Wanted) {
        let source = &self.plan.sources[step.source];
        let (before, after) = images(&step.event);
        for (image, is_new) in [(before, false), (after, true)] {
            let Some(image) = image else { continue };
            if source.depends.mirror.is_some() {
                wanted.rows.entry(step.source).or_default().insert(place(&self.plan, step.source, image).1);
            }
            self.want_for(step.source, image, is_new && !step.echo, wanted);
        }
        for bound in &source.depends.binds {
            let pair = |image: &Image| Some((text(image, bound.source_key)?, text(image, bound.target_key)?));
            let (old, new) = (before.and_then(pair), after.and_then(pair));
            for pair in [&old, &new].into_iter().flatten().filter(|_| old != new) {
                if !step.echo {
                    wanted.hashes.extend(self.written_by(bound.map, pair));
                }
                wanted.bound.entry(bound.map).or_default().insert(pair.clone());
            }
        }
        if step.echo {
            return;
        }
        let images = [before, after].into_iter().flatten();
        wanted.hashes.extend(wishes(&self.plan, &self.hashes, step.source, images));
    }

    fn written_by(&self, map: usize, (source_key, target_key): &Pair) -> Vec<i64> {
        let name = &self.plan.maps[map].name;
        let through =
            self.plan.sources.iter().filter(|source| source.depends.mapped.iter().any(|mapped| mapped.map == map));
        through
            .flat_map(|source| {
                [self.hashes.by_key(source, name, source_key), self.hashes.by_written(source, name, target_key)]
            })
            .collect()
    }

    /// What a row asks for: related rows and keys.
    fn want_for(&self, source: usize, image: &Image, is_new: bool, wanted: &mut Wanted) {
        let depends = &self.plan.sources[source].depends;
        for mapped in &depends.mapped {
            let Some(key) = text(image, mapped.column) else { continue };
            if is_new {
                wanted.needed.entry(mapped.map).or_default().insert(key.clone());
            }
            wanted.keys.entry(mapped.map).or_default().insert(key);
        }
        for related in &depends.related {
            let values: Option<Vec<String>> = related.on.iter().map(|(own, _)| text(image, *own)).collect();
            let Some(values) = values else { continue };
            let columns: Vec<usize> = related.on.iter().map(|(_, theirs)| *theirs).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let other = &self.plan.sources[related.source];
            wanted.hashes.insert(self.hashes.by_values(other, &columns, &values));
        }
    }

    async fn find(&self, world: &mut World, hashes: HashSet<i64>) -> Outcome<()> {
        let hashes: Vec<i64> = hashes.into_iter().filter(|_| !self.apart).collect();
        for part in hashes.chunks(10_000) {
            let found = self.mirrors.by_hash(part).await?;
            self.put(world, found);
        }
        Ok(())
    }

    /// Rows on their way are newer than what the target holds.
    fn put(&self, world: &mut World, found: Vec<Stored>) {
        for Stored { table, key, mapped, row } in found {
            let Some(source) = self.plan.by_name.get(&table).copied() else { continue };
            let place = (source, key);
            if !self.on_its_way.contains_key(&place) {
                let row = rows::read(&self.plan.sources[source], mapped, row);
                world.set(&place, Some(row));
            }
        }
    }

    /// Finds the pairs of all keys, and makes those that are needed and may be made.
    async fn pair(&mut self, world: &mut World, wanted: Wanted) -> Outcome<()> {
        for (number, keys) in &wanted.keys {
            let map = &self.plan.maps[*number];
            let known = &self.known[*number];
            let (remembered, asked): (Vec<&String>, Vec<&String>) =
                keys.iter().partition(|key| known.contains_key(*key));
            for key in remembered {
                world.bind(*number, key.clone(), known[key].clone());
            }
            let asked: Vec<String> =
                asked.into_iter().filter(|key| world.pair(*number, key).is_none()).cloned().collect();
            let mut found = self.keys.of_source(map, &asked).await?;
            // What the batch itself binds is not to be made.
            let bound = |key: &String| {
                wanted.bound.get(number).is_some_and(|pairs| pairs.iter().any(|(source, _)| source == key))
            };
            let needed = wanted.needed.get(number).into_iter().flatten();
            let has =
                |key: &&String| world.pair(*number, key).is_some() || found.iter().any(|(source, _)| source == *key);
            let missing: Vec<String> =
                needed.filter(|key| self.makes && map.creates && !has(key) && !bound(key)).cloned().collect();
            if !missing.is_empty() {
                let (pairs, made) = self.keys.create(map, missing).await?;
                found.extend(pairs);
                self.made.extend(made.into_iter().map(|key| (*number, key)));
            }
            if !map.rebound && self.known[*number].len() < REMEMBERED {
                self.known[*number].extend(found.iter().cloned());
            }
            found.into_iter().for_each(|(source, target)| world.bind(*number, source, target));
        }
        Ok(())
    }

    fn forget(&mut self) {
        if let Some(durable) = &self.durable {
            let durable = *durable.borrow();
            self.on_its_way.retain(|_, (at, _)| at.is_none_or(|at| at > durable));
        }
    }

    /// Rows of a copied chunk, extended, and what goes into their mirror.
    pub async fn copied(&mut self, source: usize, images: Vec<Image>) -> Outcome<(Vec<Image>, Vec<Operation>)> {
        let event = |image: &Image| std::borrow::Cow::Owned(crate::change::Event::Insert(image.clone()));
        let steps = images.iter().enumerate().map(|(change, image)| Step {
            change,
            source,
            event: event(image),
            echo: false,
            mirror: Vec::new(),
        });
        let made = self.extend(steps.collect(), &|_| Lsn::ZERO).await?;
        self.lifted.clear();
        let mut rows = Vec::with_capacity(images.len());
        let mut mirror = Vec::new();
        for step in made {
            if let crate::change::Event::Insert(image) = step.event.into_owned() {
                rows.push(image);
            }
            mirror.extend(step.mirror);
        }
        Ok((rows, mirror))
    }

    /// Rows extended by what one snapshot holds: `related` are the rows of other tables, each with its table's position, that
    /// stand for them there. No mirror is asked, so none has to be kept.
    pub async fn beside(
        &mut self,
        source: usize,
        images: Vec<Image>,
        related: Vec<(usize, Image)>,
    ) -> Outcome<Vec<Image>> {
        for (at, image) in &related {
            let other = &self.plan.sources[*at];
            let row = Mirrored { cells: rows::cells(other, image), mapped: vec![None; other.depends.mapped.len()] };
            self.on_its_way.insert(place(&self.plan, *at, image), (None, Some(row)));
        }
        self.apart = true;
        let copied = self.copied(source, images).await;
        self.apart = false;
        self.on_its_way.clear();
        Ok(copied?.0)
    }
}
