//! One side holds in two tables what the other one holds in one. Claims are what the host itself lifts, notes what it
//! itself takes; nothing of either is made up here.

use std::cell::RefCell;
use std::collections::HashMap;

use falkirk::change::{Before, Datum, Event, Image};
use falkirk::delta::decide::{Claim, Outcome, Rules, decide, denied, details_last};
use falkirk::delta::lift::Lifter;
use falkirk::delta::moves::{Lifted, Moves};
use falkirk::delta::{Effect, Key, Operation};
use falkirk::lsn::Lsn;
use falkirk::marker::{record_digest, row_digest};
use falkirk::plan::parts::{ALL, LinkParts, Parts};
use falkirk::plan::{OutputRow, Plan};
use falkirk::stream::notes::{Notebook, changed};

use crate::claims::{number, standing};
use crate::locked::{Locked, Notes};
use crate::tables;
use crate::world::{L, Shape, W};

/// The value of either table's row, or of either part; each side as a whole is one of them.
pub type Row = [Option<u8>; 2];

/// What the two tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The row is in one of them.
    Routed,
    /// The first one's row is described by the second one's.
    Described,
}

/// A transaction of one side: which side, before, after, and the only table whose row is written as it is.
type Done = (usize, Row, Row, Option<usize>);

/// One of the two kinds, with either side as the winner.
pub struct Records {
    kind: Kind,
    /// W or L: the side with two tables.
    split: usize,
    /// The plan that reads the whole side, and the one that reads the split side.
    plans: [Plan; 2],
    parts: [LinkParts; 2],
    notebooks: [Notebook; 2],
    claims: RefCell<HashMap<Done, Vec<Claim>>>,
}

const KEY: &str = "7";

impl Records {
    pub fn new(kind: Kind, split: usize) -> Records {
        let plans = match kind {
            Kind::Routed => tables::routed(),
            Kind::Described => tables::described(),
        };
        let Parts { forward, backward } = Parts::new(&plans[0], &plans[1]);
        let notebooks = [
            Notebook::new(&plans[0], &plans[1], forward.clone()),
            Notebook::new(&plans[1], &plans[0], backward.clone()),
        ];
        Records { kind, split, plans, parts: [forward, backward], notebooks, claims: RefCell::default() }
    }

    /// The number of the plan that reads a side.
    fn reads(&self, side: usize) -> usize {
        usize::from(side == self.split)
    }

    fn writes(&self, side: usize) -> usize {
        1 - self.reads(side)
    }

    /// Which of the two tables a target of the split side is.
    fn slot(&self, target: usize) -> usize {
        match self.plans[0].targets[target].name.table.as_str() {
            "open" | "member" => 0,
            "done" | "bio" => 1,
            other => panic!("no table {other}"),
        }
    }

    fn image(&self, cells: &[Option<u8>]) -> Image {
        let cell = |cell: &Option<u8>| cell.map_or(Datum::Null, |number| Datum::text(number.to_string()));
        Image::from_datums(&std::iter::once(Datum::text(KEY)).chain(cells.iter().map(cell)).collect::<Vec<_>>())
    }

    /// The row of the side with one table.
    fn whole(&self, row: Row) -> Option<Image> {
        match (self.kind, row) {
            (_, [None, None]) => None,
            (Kind::Routed, [Some(a), _]) => Some(self.image(&[Some(0), Some(a)])),
            (Kind::Routed, [None, a]) => Some(self.image(&[Some(1), a])),
            (Kind::Described, [name, bio]) => Some(self.image(&[name, bio])),
        }
    }

    /// The rows of the other side's tables.
    fn part(&self, row: Row, slot: usize) -> Option<Image> {
        let value = row[slot]?;
        Some(match self.kind {
            Kind::Routed => self.image(&[Some(slot as u8), Some(value)]),
            Kind::Described => self.image(&[Some(value)]),
        })
    }

    /// What the log of a side holds, by source.
    fn events(&self, (side, before, after, touched): Done) -> Vec<(usize, Event)> {
        let plan = &self.plans[self.reads(side)];
        let event = |before: Option<Image>, after: Option<Image>, touched| match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(Event::Insert(after)),
            (Some(before), None) => Some(Event::Delete(Before::Full(before))),
            (Some(before), Some(after)) => {
                let same = (0..after.len()).all(|column| after.agrees(&before, column));
                (touched || !same).then_some(Event::Update { before: Before::Full(before), after })
            }
        };
        if side != self.split {
            return event(self.whole(before), self.whole(after), touched.is_some())
                .map(|event| (0, event))
                .into_iter()
                .collect();
        }
        let mut events = Vec::new();
        for (source, table) in plan.sources.iter().enumerate() {
            let slot = usize::from(["done", "bio"].contains(&table.name.table.as_str()));
            let is_touched = touched.is_some_and(|target| self.slot(target) == slot);
            if touched.is_none() || is_touched {
                let event = event(self.part(before, slot), self.part(after, slot), is_touched);
                events.extend(event.map(|event| (source, event)));
            }
        }
        events
    }

    fn answer(&self, image: &Image) -> Vec<OutputRow> {
        let is = |column: usize, text: &[u8]| image.text(column) == Some(text);
        let outputs = match self.kind {
            Kind::Routed => vec![usize::from(is(1, b"1"))],
            Kind::Described if image.text(2).is_some() => vec![1],
            Kind::Described => Vec::new(),
        };
        outputs.into_iter().map(|output| OutputRow { output, values: Vec::new() }).collect()
    }

    fn lifted(&self, done: Done) -> Vec<Claim> {
        if let Some(known) = self.claims.borrow().get(&done) {
            return known.clone();
        }
        let reads = self.reads(done.0);
        let plan = &self.plans[reads];
        let mut lifter = Lifter::default();
        lifter.wholes = Some(HashMap::new());
        let mut moves = Moves::new(&plan.targets);
        let mut claims = Vec::new();
        let mut take = |Lifted { operation, whole, changed, from, .. }| {
            claims.push(Claim { operation, whole, changed, knew: Lsn::ZERO, at: Lsn::ZERO, from });
        };
        for (source, event) in self.events(done) {
            let of = &plan.sources[source];
            let (before, after) = match &event {
                Event::Insert(after) => (None, Some(after)),
                Event::Update { before: Before::Full(before), after } => (Some(before), Some(after)),
                Event::Delete(Before::Full(before)) => (Some(before), None),
                other => panic!("no event {other:?}"),
            };
            let asked = of.rule.guest_table.is_some();
            let [before, after] = [before, after].map(|image| image.filter(|_| asked).map(|image| self.answer(image)));
            let mut operations = Vec::new();
            lifter.lift(source, of, &plan.targets, &event, (before.as_ref(), after.as_ref()), &mut operations).unwrap();
            let changed = changed(&self.parts[reads], source, &of.key, &event);
            for (at, operation) in operations.into_iter().enumerate() {
                let whole = lifter.wholes.as_mut().and_then(|wholes| wholes.remove(&at));
                let from = Some((source, Key::from([Datum::text(KEY)])));
                moves.push(Lsn(1), Lifted { change: 0, operation, whole, changed, from }, &mut take);
            }
        }
        moves.finish(&mut take);
        details_last(&mut claims);
        self.claims.borrow_mut().insert(done, claims.clone());
        claims
    }

    fn asked(&self, done: Done, knew: u8, at: usize) -> Vec<Claim> {
        let place = |claim| Claim { knew: Lsn(knew.into()), at: Lsn(at as u64), ..claim };
        self.lifted(done).into_iter().map(place).collect()
    }

    fn noted(&self, done: Done) -> Notes {
        let mut notes = Vec::new();
        self.events(done)
            .iter()
            .for_each(|(source, event)| self.notebooks[self.reads(W)].note(*source, event, &mut notes));
        let writes = self.writes(W);
        let targets = &self.plans[writes].targets;
        let of = |digest| notes.iter().filter(|(row, _)| *row == digest).fold(0, |mask, (_, parts)| mask | parts);
        let key = || std::iter::once(KEY.as_bytes());
        let row = |target: usize| targets.get(target).map_or(0, |target| of(row_digest(&target.name, key())));
        let record = self.parts[writes].records()[0].as_ref();
        [record.map_or(row(0), |record| of(record_digest(&record.family, key()))), row(0), row(1), 0]
    }
}

impl Shape for Records {
    type Row = Row;

    fn starts(&self) -> Vec<Row> {
        match self.kind {
            Kind::Routed => vec![[None, None], [Some(0), None]],
            Kind::Described => vec![[None, None], [Some(0), None], [Some(0), Some(0)]],
        }
    }

    fn choices(&self, _side: usize, row: Row) -> Vec<Row> {
        match (self.kind, row) {
            (Kind::Routed, [None, None]) => {
                vec![[Some(0), None], [Some(1), None], [None, Some(0)], [None, Some(1)]]
            }
            (Kind::Routed, [Some(a), None]) => vec![[None, None], [Some(1 - a), None], [None, Some(a)]],
            (Kind::Routed, [None, Some(a)]) => vec![[None, None], [None, Some(1 - a)], [Some(a), None]],
            // Only a worse rule leaves both.
            (Kind::Routed, [one, other]) => vec![[one, None], [None, other]],
            (Kind::Described, [None, _]) => vec![[Some(0), None], [Some(1), None], [Some(0), Some(0)]],
            (Kind::Described, [Some(name), bio]) => {
                let bios = match bio {
                    None => vec![Some(0), Some(1)],
                    Some(bio) => vec![None, Some(1 - bio)],
                };
                let bios = bios.into_iter().map(|bio| [Some(name), bio]);
                bios.chain([[None, None], [Some(1 - name), bio]]).collect()
            }
        }
    }

    fn is_sound(&self, _side: usize, row: Row) -> bool {
        match self.kind {
            Kind::Routed => row.contains(&None),
            Kind::Described => row[0].is_some() || row[1].is_none(),
        }
    }

    fn claims(&self, side: usize, [before, after]: [Row; 2], knew: u8, at: usize) -> Vec<Claim> {
        self.asked((side, before, after, None), knew, at)
    }

    fn touched(&self, row: Row, table: usize, _parts: u64, at: usize) -> Vec<Claim> {
        self.asked((W, row, row, Some(table)), 0, at)
    }

    fn notes(&self, [before, after]: [Row; 2]) -> Notes {
        self.noted((W, before, after, None))
    }

    fn touch_notes(&self, table: usize, _parts: u64) -> Notes {
        // Any row that the table can hold: what a touch changes does not depend on it.
        let row = if self.split == W && self.kind == Kind::Routed && self.slot(table) == 1 {
            [None, Some(0)]
        } else {
            [Some(0); 2]
        };
        self.noted((W, row, row, Some(table)))
    }

    fn denied(&self, from: usize, details: bool, at: usize) -> Vec<Claim> {
        let table = &self.plans[self.reads(L)].sources[from].name;
        let targets = &self.plans[self.writes(L)].targets;
        let target = targets.iter().position(|target| target.name == *table).unwrap();
        let (knew, at) = (Lsn::ZERO, Lsn(at as u64));
        let parts = &self.parts[self.writes(L)];
        let key = Key::from([Datum::text(KEY)]);
        let operations = denied((parts.records(), parts.cleared()), (target, &key), details);
        let claim = |operation| Claim { operation, whole: None, changed: ALL, knew, at, from: None };
        operations.into_iter().map(claim).collect()
    }

    fn is_there(&self, side: usize, row: Row, target: usize) -> bool {
        match side == self.split {
            true => row[self.slot(target)].is_some(),
            false => row != [None, None],
        }
    }

    fn decide(&self, side: usize, wins: bool, facts: &Locked<'_, Self>, claims: Vec<Claim>) -> Outcome {
        let (plan, parts) = (&self.plans[self.writes(side)], &self.parts[self.writes(side)]);
        let standings = vec![standing(wins); plan.targets.len()];
        let rules = Rules {
            targets: &plan.targets,
            parts: parts.targets(),
            records: parts.records(),
            cleared: parts.cleared(),
            standings: &standings,
            twins: parts.twins(),
        };
        decide(rules, facts, claims)
    }

    fn write(&self, side: usize, row: &mut Row, operations: &[Operation]) {
        for operation in operations {
            let target = &self.plans[self.writes(side)].targets[operation.target];
            let value = |columns: &[u16], values: &[Datum], name: &str| {
                let at = columns.iter().position(|column| target.columns[usize::from(*column)].name == name)?;
                Some((values[at] != Datum::Null).then(|| number(&values[at])))
            };
            let there = self.is_there(side, *row, operation.target);
            let (columns, values) = match &operation.effect {
                Effect::Insert { columns, values } => {
                    assert!(!there, "an insert finds the row: {row:?}");
                    (columns, values)
                }
                Effect::Patch { columns, values, .. } => {
                    assert!(there, "a patch finds no row: {row:?}");
                    (columns, values)
                }
                Effect::Clear { .. } if !there => continue,
                Effect::Clear { columns, values, .. } => (columns, values),
                Effect::Delete { .. } => {
                    assert!(there, "a delete finds no row: {row:?}");
                    match side == self.split {
                        true => row[self.slot(operation.target)] = None,
                        false => *row = [None, None],
                    }
                    continue;
                }
                other => panic!("the model asks for no {other:?}"),
            };
            let value = |name: &str| value(columns, values, name);
            match (self.kind, side == self.split) {
                (Kind::Routed, true) => {
                    row[self.slot(operation.target)] = value("a").unwrap_or(row[self.slot(operation.target)]);
                }
                (Kind::Routed, false) => {
                    let a = value("a").flatten().or(row[0]).or(row[1]);
                    let kind = value("kind").flatten().unwrap_or(u8::from(row[1].is_some()));
                    *row = if kind == 0 { [a, None] } else { [None, a] };
                }
                (Kind::Described, true) => {
                    let name = if self.slot(operation.target) == 0 { "name" } else { "bio" };
                    let new = value(name).unwrap_or(row[self.slot(operation.target)]);
                    row[self.slot(operation.target)] = new;
                }
                (Kind::Described, false) => {
                    *row = [value("name").unwrap_or(row[0]), value("bio").unwrap_or(row[1])];
                }
            }
        }
    }
}

/// The sides that may have the two tables.
pub const SPLITS: [usize; 2] = [W, L];
