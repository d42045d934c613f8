//! One transaction of a source whose rows depend on more than themselves: its pairs are bound first, then its rows and
//! the rows that depend on them are extended by the state before and after it.
//!
//! A row that a pair or a related row of the transaction concerns is *hot*: all its changes become one, from before the
//! transaction to after it. If its mapped keys changed, it lets go of what it was written as before anything else of the
//! transaction is written, and comes back after: keys pass from row to row then.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::rows::{self, Hashes, Mirrored, Place, Writing, text};
use super::world::World;
use crate::change::{Before, Datum, Event, Image};
use crate::delta::Operation;
use crate::plan::Plan;

/// A change of a table of the plan, with its images in the plan's order.
pub(in crate::stream) struct Step<'a> {
    /// Position among the batch's changes.
    pub(in crate::stream) change: usize,
    /// Position in `Plan::sources`.
    pub(in crate::stream) source: usize,
    /// What happened; extended if the source's rows are.
    pub(in crate::stream) event: Cow<'a, Event>,
    /// The other link wrote it: it only shows in mirrors (L7).
    pub(in crate::stream) echo: bool,
    /// What follows for mirrors, after the rows.
    pub(in crate::stream) mirror: Vec<Operation>,
}

/// The images of a change.
pub(in crate::stream) fn images(event: &Event) -> (Option<&Image>, Option<&Image>) {
    match event {
        Event::Insert(after) => (None, Some(after)),
        Event::Update { before: Before::Full(before), after } => (Some(before), Some(after)),
        Event::Delete(Before::Full(before)) => (Some(before), None),
        Event::Update { after, .. } => (None, Some(after)),
        Event::Delete(_) | Event::Truncate { .. } | Event::Denied { .. } => (None, None),
    }
}

/// A row through the transaction.
struct Chain {
    source: usize,
    /// Before the transaction: where, the row, and extended by the state then.
    before: Option<(Image, Image)>,
    /// The keys that it was written with.
    written: Vec<Option<String>>,
    /// Where it stands now; `None` once it is gone.
    now: Option<Place>,
    after: Option<Image>,
    /// The step that changed it last.
    last: Option<usize>,
    hot: bool,
}

/// What a transaction is worked out with.
pub(super) struct Transaction<'t> {
    pub(super) plan: &'t Plan,
    pub(super) hashes: &'t Hashes,
    pub(super) writing: &'t Writing,
    pub(super) world: &'t mut World,
    /// The mirrored rows that it touched, as they were before.
    pub(super) touched: BTreeMap<Place, Option<Mirrored>>,
}

impl Transaction<'_> {
    /// The steps that the transaction's changes come to.
    pub(super) fn run<'a>(&mut self, steps: Vec<Step<'a>>) -> Vec<Step<'a>> {
        let Some(change) = steps.last().map(|step| step.change) else { return steps };
        let hot = self.hot(&steps);
        let (mut chains, of_step) = self.chains(&steps, &hot);
        let mut first = Vec::new();
        let mut middle = Vec::new();
        let mut places = HashMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            let chain = of_step[at].map(|chain| &chains[chain]);
            match chain.filter(|chain| chain.hot) {
                None => middle.push(self.cold(step)),
                Some(chain) => {
                    self.follow(step.source, &step.event);
                    if chain.last == Some(at) {
                        places.insert(at, middle.len());
                        // Its place is kept; what stands there is known once the whole transaction is.
                        middle.push(Step { mirror: Vec::new(), event: Cow::Owned(nothing()), ..step });
                    }
                }
            }
        }
        let mut last = Vec::new();
        // Keys that pass from row to row within the transaction: whoever had one lets go of it first.
        let moved = chains.iter().filter(|chain| self.origin(chain) != chain.now);
        let taken: HashSet<Place> = moved.filter_map(|chain| chain.now.clone()).collect();
        for chain in chains.iter_mut().filter(|chain| chain.hot) {
            let own = chain.last.and_then(|at| places.get(&at).copied());
            let made = self.net(chain, &taken);
            let step = |event| Step {
                change,
                source: chain.source,
                event: Cow::Owned(event),
                echo: false,
                mirror: Vec::new(),
            };
            first.extend(made.first.map(step));
            match (own, made.own) {
                (Some(at), Some(event)) => middle[at].event = Cow::Owned(event),
                (_, event) => last.extend(event.map(step)),
            }
            last.extend(made.last.map(step));
        }
        let mirror = std::mem::take(&mut self.touched);
        let operation = |(place, before): (Place, Option<Mirrored>)| {
            self.writing.operation(self.plan, self.hashes, &place, (before.as_ref(), self.world.row(&place)))
        };
        let mirror: Vec<Operation> = mirror.into_iter().filter_map(operation).collect();
        let end = Step { change, source: 0, event: Cow::Owned(nothing()), echo: true, mirror };
        first.into_iter().chain(middle).chain(last).chain([end]).collect()
    }

    /// Binds the transaction's pairs. Answers what the rows are found by that these pairs, or changed related rows, concern.
    fn hot(&mut self, steps: &[Step<'_>]) -> HashSet<i64> {
        let mut hot = HashSet::new();
        for step in steps {
            let (before, after) = images(&step.event);
            for bound in &self.plan.sources[step.source].depends.binds {
                let pair = |image: &Image| Some((text(image, bound.source_key)?, text(image, bound.target_key)?));
                let (old, new) = (before.and_then(pair), after.and_then(pair));
                if old == new {
                    continue;
                }
                // What the other link has paired and filled in is a pair from here on as well, whatever was bound before a
                // crash (L8); its rows say so themselves. It takes no pair away: it may be using it again.
                if !step.echo {
                    for (source, target) in old.iter().chain(&new) {
                        self.mention(bound.map, source, target, &mut hot);
                    }
                    if let Some((source, target)) = old {
                        self.world.unbind(bound.map, &source, &target);
                    }
                }
                if let Some((source, target)) = new {
                    self.world.bind(bound.map, source, target);
                }
            }
            let source = &self.plan.sources[step.source];
            if step.echo {
                continue;
            }
            let cells = |image: Option<&Image>| image.map(|image| rows::cells(source, image));
            if source.depends.mirror.is_some() && cells(before) != cells(after) {
                hot.extend(wishes(self.plan, self.hashes, step.source, [before, after].into_iter().flatten()));
            }
        }
        hot
    }

    fn mention(&self, map: usize, source_key: &str, target_key: &str, hot: &mut HashSet<i64>) {
        let name = &self.plan.maps[map].name;
        for source in &self.plan.sources {
            if source.depends.mirror.is_some() && source.depends.mapped.iter().any(|mapped| mapped.map == map) {
                hot.insert(self.hashes.by_key(source, name, source_key));
                hot.insert(self.hashes.by_written(source, name, target_key));
            }
        }
    }

    /// The rows that the transaction changes or concerns, and which of them each step changes.
    fn chains(&self, steps: &[Step<'_>], hot: &HashSet<i64>) -> (Vec<Chain>, Vec<Option<usize>>) {
        let mut chains: Vec<Chain> = Vec::new();
        let mut at_place: HashMap<Place, usize> = HashMap::new();
        let mut of_step = vec![None; steps.len()];
        if hot.is_empty() {
            return (chains, of_step);
        }
        for (at, step) in steps.iter().enumerate() {
            let depends = &self.plan.sources[step.source].depends;
            if depends.mirror.is_none() || !depends.extends() {
                continue;
            }
            let (before, after) = images(&step.event);
            let old = before.map(|image| rows::place(self.plan, step.source, image));
            let known = old.as_ref().and_then(|place| at_place.remove(place));
            let chain = known.unwrap_or_else(|| {
                chains.push(self.chain(step.source, old.as_ref(), before));
                chains.len() - 1
            });
            let own = &mut chains[chain];
            own.hot |= [before, after].into_iter().flatten().any(|image| self.is_hot(step.source, image, hot));
            own.now = after.map(|image| rows::place(self.plan, step.source, image));
            own.after = after.cloned();
            own.last = Some(at);
            at_place.extend(own.now.clone().map(|place| (place, chain)));
            of_step[at] = Some(chain);
        }
        let changed: HashSet<Place> = chains.iter().filter_map(|chain| self.origin(chain)).collect();
        for place in self.world.found_by(hot) {
            let extends = self.plan.sources[place.0].depends.extends();
            let row = self.world.row(&place).filter(|_| extends && !changed.contains(&place));
            let Some(image) = row.map(rows::image) else { continue };
            let mut chain = self.chain(place.0, Some(&place), Some(&image));
            (chain.now, chain.after, chain.hot) = (Some(place), Some(image), true);
            chains.push(chain);
        }
        // Written as what now belongs to another: hot as well.
        for chain in chains.iter_mut().filter(|chain| !chain.hot) {
            let source = &self.plan.sources[chain.source];
            chain.hot = source.depends.mapped.iter().zip(&chain.written).any(|(mapped, written)| {
                let name = &self.plan.maps[mapped.map].name;
                written.as_ref().is_some_and(|key| hot.contains(&self.hashes.by_written(source, name, key)))
            });
        }
        (chains, of_step)
    }

    fn origin(&self, chain: &Chain) -> Option<Place> {
        chain.before.as_ref().map(|(image, _)| rows::place(self.plan, chain.source, image))
    }

    fn chain(&self, source: usize, place: Option<&Place>, before: Option<&Image>) -> Chain {
        let mirrored = place.and_then(|place| self.world.row(place));
        let written = mirrored.map(|row| row.mapped.clone()).or_else(|| Some(self.world.mapped(source, before?)));
        let written = written.unwrap_or_default();
        let extended = |image: &Image| (image.clone(), self.world.extended(source, image, Some(&written)));
        let before = before.map(extended);
        Chain { source, before, written, now: None, after: None, last: None, hot: false }
    }

    fn is_hot(&self, source: usize, image: &Image, hot: &HashSet<i64>) -> bool {
        let table = &self.plan.sources[source];
        let row = Mirrored { cells: rows::cells(table, image), mapped: vec![None; table.depends.mapped.len()] };
        self.hashes.all(self.plan, source, &row).iter().any(|hash| hot.contains(hash))
    }

    /// A step that nothing else of the transaction concerns.
    fn cold<'a>(&mut self, step: Step<'a>) -> Step<'a> {
        let depends = &self.plan.sources[step.source].depends;
        if step.echo || !depends.extends() {
            self.follow(step.source, &step.event);
            return step;
        }
        let old = |world: &World, image: &Image| {
            let row = world.row(&rows::place(self.plan, step.source, image));
            world.extended(step.source, image, row.map(|row| row.mapped.as_slice()))
        };
        let event = match step.event.as_ref() {
            Event::Insert(after) => Event::Insert(self.world.extended(step.source, after, None)),
            Event::Update { before: Before::Full(before), after } => Event::Update {
                before: Before::Full(old(self.world, before)),
                after: self.world.extended(step.source, after, None),
            },
            Event::Delete(Before::Full(before)) => Event::Delete(Before::Full(old(self.world, before))),
            other => other.clone(),
        };
        self.follow(step.source, &step.event);
        Step { event: Cow::Owned(event), ..step }
    }

    /// The mirror follows a change.
    fn follow(&mut self, source: usize, event: &Event) {
        if self.plan.sources[source].depends.mirror.is_none() {
            return;
        }
        let (before, after) = images(event);
        if let Some(image) = before {
            self.put(rows::place(self.plan, source, image), None);
        }
        if let Some(image) = after {
            let cells = rows::cells(&self.plan.sources[source], image);
            let row = Mirrored { cells, mapped: self.world.mapped(source, image) };
            self.put(rows::place(self.plan, source, image), Some(row));
        }
    }

    fn put(&mut self, place: Place, row: Option<Mirrored>) {
        let before = self.world.row(&place).cloned();
        self.touched.entry(place.clone()).or_insert(before);
        self.world.set(&place, row);
    }

    /// What all changes of a hot row come to.
    fn net(&mut self, chain: &Chain, taken: &HashSet<Place>) -> Net {
        let source = chain.source;
        if let (None, Some(place), Some(after)) = (chain.last, &chain.now, &chain.after) {
            let cells = rows::cells(&self.plan.sources[source], after);
            let mapped = self.world.mapped(source, after);
            self.put(place.clone(), Some(Mirrored { cells, mapped }));
        }
        let after = chain.after.as_ref().map(|image| self.world.extended(source, image, None));
        let mapped = self.plan.sources[source].depends.mapped.len();
        let own = self.plan.sources[source].columns.len();
        let moves = match (&chain.before, &chain.after) {
            (Some(_), Some(after)) => {
                let passes_on = mapped > 0 && self.origin(chain).is_some_and(|place| taken.contains(&place));
                passes_on || chain.written != self.world.mapped(source, after)
            }
            (Some(_), None) => mapped > 0,
            (None, _) => false,
        };
        let before = chain.before.as_ref().map(|(_, extended)| extended.clone());
        match (before, after, moves) {
            (None, None, _) => Net::default(),
            (None, Some(after), _) => Net { own: Some(Event::Insert(after)), ..Net::default() },
            (Some(before), Some(after), false) => {
                Net { own: Some(Event::Update { before: Before::Full(before), after }), ..Net::default() }
            }
            (Some(before), None, false) => Net { own: Some(Event::Delete(Before::Full(before))), ..Net::default() },
            (Some(before), after, true) => {
                let alone = unmapped(&before, own..own + mapped);
                let first = Some(Event::Update { before: Before::Full(before), after: alone.clone() });
                match after {
                    None => Net { first, own: Some(Event::Delete(Before::Full(alone))), last: None },
                    Some(after) => {
                        Net { first, own: None, last: Some(Event::Update { before: Before::Full(alone), after }) }
                    }
                }
            }
        }
    }
}

/// The events of one hot row: before all others, in its own place, after all others.
#[derive(Default)]
struct Net {
    first: Option<Event>,
    own: Option<Event>,
    last: Option<Event>,
}

/// An event of no row.
fn nothing() -> Event {
    Event::Delete(Before::Absent)
}

fn unmapped(image: &Image, cells: std::ops::Range<usize>) -> Image {
    let datum = |cell: usize| if cells.contains(&cell) { Datum::Null } else { image.datum(cell) };
    Image::from_datums(&(0..image.len()).map(datum).collect::<Vec<_>>())
}

/// What the rows are found by that ask for these rows of a source.
pub(super) fn wishes<'i>(
    plan: &Plan,
    hashes: &Hashes,
    source: usize,
    images: impl Iterator<Item = &'i Image> + Clone,
) -> Vec<i64> {
    let mut found = Vec::new();
    for other in &plan.sources {
        for (number, related) in
            other.depends.related.iter().enumerate().filter(|(_, related)| related.source == source)
        {
            for image in images.clone() {
                let values: Option<Vec<String>> = related.on.iter().map(|(_, theirs)| text(image, *theirs)).collect();
                let Some(values) = values else { continue };
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                found.push(hashes.by_wish(other, number, &values));
            }
        }
    }
    found
}
