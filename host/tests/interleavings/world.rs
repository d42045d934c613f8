//! The world: two databases with an application and a log each, two links, and every order in which they can move.
//!
//! W is the side that wins, L the other. Positions of W's log are numbers; only their order matters, so they are
//! renumbered after every step, and states that differ in nothing else are one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use falkirk::delta::decide::{Claim, Outcome, Reassertion};
use falkirk::delta::{Effect, Operation};
use falkirk::plan::parts::ALL;

use crate::locked::{Locked, Notes, Said};

/// What stands on the two sides for one row, and what a change of it asks for. Sides are [`W`] and [`L`].
pub trait Shape {
    /// What a side holds. Equal on both sides means that they agree.
    type Row: Copy + Eq + Hash + Debug;
    /// What both sides hold at the start.
    fn starts(&self) -> Vec<Self::Row>;
    /// Every legal transaction of an application.
    fn choices(&self, side: usize, row: Self::Row) -> Vec<Self::Row>;
    /// Whether the rule may ever leave a side like this.
    fn is_sound(&self, side: usize, row: Self::Row) -> bool;
    /// What a transaction of a side's application asks of the other side.
    fn claims(&self, side: usize, rows: [Self::Row; 2], knew: u8, at: usize) -> Vec<Claim>;
    /// What W asks when one of its tables was touched.
    fn touched(&self, row: Self::Row, table: usize, parts: u64, at: usize) -> Vec<Claim>;
    /// What W's transaction changed.
    fn notes(&self, rows: [Self::Row; 2]) -> Notes;
    /// What a touch changed.
    fn touch_notes(&self, table: usize, parts: u64) -> Notes;
    /// What W asks for when L's row of this claim must not be there.
    fn denied(&self, from: usize, details: bool, at: usize) -> Vec<Claim>;
    /// Whether a side has the row of a table.
    fn is_there(&self, side: usize, row: Self::Row, table: usize) -> bool;
    /// Decides claims on a side.
    fn decide(&self, side: usize, wins: bool, facts: &Locked<'_, Self>, claims: Vec<Claim>) -> Outcome;
    /// Writes to a side, which refuses what PostgreSQL would refuse.
    fn write(&self, side: usize, row: &mut Self::Row, operations: &[Operation]);
}

/// How much is explored.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How many operations the applications make at most, blue's first.
    pub steps: [u8; 2],
    /// How many source transactions one target transaction holds at most.
    pub batch: usize,
    /// Whether what links hold in memory is part of the state, and kills of it are steps.
    pub memory: bool,
}

/// The policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    Blue,
    Green,
}

/// The rule of the host, and worse ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Causal,
    WithoutReassertion,
    WithoutRecent,
    WithoutWaiting,
    ByValue,
    BothAlways,
    /// A change is known by its table and key, not by what it stands for.
    ByTable,
    /// Nobody says that a row is not in the other table.
    WithoutAbsence,
    /// What lost stays where nothing removes it.
    WithoutDenial,
    /// A row that came while it was denied is not asserted.
    WithoutCorrection,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    pub states: usize,
    pub ends: usize,
    pub divergent: usize,
    pub stopped: usize,
    pub conflicts: usize,
    pub agreements: usize,
    pub reassertions: usize,
    pub denials: usize,
}

/// A transaction in W's log that W->L has not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InW<R> {
    Application {
        before: R,
        after: R,
    },
    /// L->W touched the row of a table, so that it is sent again whole.
    Reassertion {
        row: R,
        table: usize,
        parts: u64,
    },
    /// L->W said that L's row, of this source of its plan, must not be there.
    Denial {
        from: usize,
        details: bool,
    },
}

/// A transaction in L's log that L->W has not durably passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InL<R> {
    Application {
        before: R,
        after: R,
    },
    /// W->L wrote everything up to this position of W.
    Marker(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State<R> {
    rows: [R; 2],
    steps: [u8; 2],
    w_log: Vec<(u8, InW<R>)>,
    l_log: Vec<InL<R>>,
    /// Durable in L with W->L's checkpoint: what of W's log before it L->W may still have to know.
    recent: Vec<(u8, Notes)>,
    /// How often the host may still die between asserting rows again and writing.
    deaths: u8,
    /// Durable in W with L->W's checkpoint: the last marker before it.
    context: u8,
    /// In memory: how much of `w_log` was decoded and noted; how much of `l_log` was read, all of it markers, and the
    /// last of them. A kill loses both.
    noted: usize,
    read: usize,
    read_context: u8,
}

pub const W: usize = 0;
pub const L: usize = 1;

/// Goes through every state that can be reached.
pub fn explore<S: Shape>(shape: S, size: Size, winner: Winner, mode: Mode) -> Found {
    let starts = shape.starts();
    let mut world = World { shape, size, mode, found: Found::default() };
    let mut seen: HashSet<State<S::Row>> = HashSet::new();
    let [blue, green] = size.steps;
    let steps = if winner == Winner::Blue { [blue, green] } else { [green, blue] };
    let mut open = Vec::new();
    for row in starts {
        let (w_log, l_log, recent, deaths) = (Vec::new(), Vec::new(), Vec::new(), 1);
        let (context, noted, read, read_context) = (0, 0, 0, 0);
        open.push(State { rows: [row; 2], steps, w_log, l_log, recent, deaths, context, noted, read, read_context });
    }
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        world.look(&state);
        world.next(&state, &mut open);
    }
    Found { states: seen.len(), ..world.found }
}

struct World<S> {
    shape: S,
    size: Size,
    mode: Mode,
    found: Found,
}

impl<S: Shape> World<S> {
    /// Nothing is under way: now both sides have to agree.
    fn look(&mut self, state: &State<S::Row>) {
        let under_way = state.l_log.iter().any(|entry| matches!(entry, InL::Application { .. }));
        if state.w_log.is_empty() && !under_way {
            self.found.ends += 1;
            self.found.divergent += usize::from(state.rows[W] != state.rows[L]);
        }
        let sound = [W, L].iter().all(|side| self.shape.is_sound(*side, state.rows[*side]));
        assert!(sound || self.mode != Mode::Causal, "{state:?}");
    }

    fn next(&mut self, state: &State<S::Row>, open: &mut Vec<State<S::Row>>) {
        for side in [W, L] {
            if state.steps[side] > 0 {
                for after in self.shape.choices(side, state.rows[side]) {
                    open.push(application(state.clone(), side, after).renumbered());
                }
            }
        }
        for count in 1..=state.w_log.len().min(self.size.batch) {
            open.push(self.winner_writes(state.clone(), count, None).renumbered());
            for after in self.passing(state, count) {
                open.push(self.winner_writes(state.clone(), count, Some(after)).renumbered());
            }
        }
        let changes = state.l_log.iter().filter(|entry| matches!(entry, InL::Application { .. })).count();
        for count in 1..=changes.min(self.size.batch) {
            open.extend(self.loser_writes(state.clone(), count).into_iter().map(State::renumbered));
        }
        if self.size.memory {
            if let Some(InL::Marker(context)) = state.l_log.get(state.read) {
                let read = State { read: state.read + 1, read_context: *context, ..state.clone() };
                open.push(read.renumbered());
            }
            if state.noted < state.w_log.len() {
                open.push(State { noted: state.noted + 1, ..state.clone() });
            }
            open.push(killed(state.clone()).renumbered());
        }
    }

    /// What L's application can make of a row that is not there while W->L is about to commit: where there is no row,
    /// nothing is locked.
    fn passing(&mut self, state: &State<S::Row>, count: usize) -> Vec<S::Row> {
        let absent = self.shape.starts()[0];
        let free = state.steps[L] > 0 && state.rows[L] == absent;
        if free && self.winner_writes(state.clone(), count, None).rows[L] == absent {
            self.shape.choices(L, absent)
        } else {
            Vec::new()
        }
    }

    /// W->L: its target transaction with the first `count` transactions of its log. `passing`: what L's application makes
    /// of the row between what is decided and its commit.
    fn winner_writes(&mut self, mut state: State<S::Row>, count: usize, passing: Option<S::Row>) -> State<S::Row> {
        let entries: Vec<(u8, InW<S::Row>)> = state.w_log.drain(..count).collect();
        let claims = entries.iter().enumerate().flat_map(|(at, (_, entry))| match entry {
            InW::Application { before, after } => self.shape.claims(W, [*before, *after], 0, at),
            InW::Reassertion { row, table, parts } => self.shape.touched(*row, *table, *parts, at),
            InW::Denial { from, details } => self.shape.denied(*from, *details, at),
        });
        let claims = claims.collect();
        let row = state.rows[L];
        let (shape, said) = (&self.shape, Said::default());
        // What is asked of W's own log does not matter to the winner.
        let locked = Locked { shape, side: L, row, changes: &[], said: &said, by_table: false };
        let outcome = decided(self.mode, &mut self.found, true, &locked, claims);
        self.shape.write(L, &mut state.rows[L], &outcome.operations);
        if let Some(after) = passing {
            state = application(state, L, after);
        }
        if self.mode != Mode::WithoutRecent {
            state.recent.extend(entries.iter().map(|(at, entry)| (*at, self.notes_of(entry))));
        }
        state.noted = state.noted.saturating_sub(count);
        let (last, _) = entries[count - 1];
        let unread = state.read < state.l_log.len();
        match state.l_log.last_mut() {
            Some(InL::Marker(marker)) if unread => *marker = last,
            _ => state.l_log.push(InL::Marker(last)),
        }
        state
    }

    /// L->W: its target transaction with the next `count` changes of its log. It waits until W's log is decoded up to
    /// the moment of its lock: here, all of it. Where rows have to be asserted again first, it also may die after that.
    fn loser_writes(&mut self, state: State<S::Row>, count: usize) -> Vec<State<S::Row>> {
        let mut states = Vec::new();
        self.loser_settles(state, count, &Said::default(), &mut states);
        states
    }

    fn loser_settles(&mut self, mut state: State<S::Row>, count: usize, said: &Said, states: &mut Vec<State<S::Row>>) {
        let (again, denies, decided) = self.loser_decides(&state, count, said);
        if !again.is_empty() || denies.is_some() {
            // Like the host: nothing of this is written, the rows are touched in transactions of their own, and
            // the same claims are decided again after that, perhaps by the next life.
            let mut ways = vec![state.clone()];
            if let Some((from, details)) = denies {
                // Where there is no row, nothing is locked: W's application may be first.
                if state.steps[W] > 0 {
                    let choices = self.shape.choices(W, state.rows[W]);
                    ways.extend(choices.into_iter().map(|after| application(state.clone(), W, after)));
                }
                for way in &mut ways {
                    let position = way.next_position();
                    way.w_log.push((position, InW::Denial { from, details }));
                }
            }
            for mut way in ways {
                let mut said = said.clone();
                said.denied |= denies.is_some();
                for Reassertion { target: table, parts, .. } in &again {
                    let (position, row) = (way.next_position(), way.rows[W]);
                    if self.shape.is_there(W, row, *table) {
                        way.w_log.push((position, InW::Reassertion { row, table: *table, parts: *parts }));
                        said.asserted.push(*table);
                    } else {
                        said.barred.push(*table);
                    }
                }
                if way.deaths > 0 {
                    states.push(State { deaths: way.deaths - 1, ..way.clone() });
                }
                self.loser_settles(way, count, &said, states);
            }
            return;
        }
        let Decided { outcome, passed, context } = decided;
        state.l_log.drain(..passed);
        if self.mode != Mode::WithoutWaiting {
            state.noted = state.w_log.len();
        }
        (state.context, state.read, state.read_context) = (context, 0, context);
        match outcome {
            Ok(outcome) => {
                self.shape.write(W, &mut state.rows[W], &outcome.operations);
                self.found.conflicts += outcome.conflicts.len();
                self.found.agreements += usize::try_from(outcome.agreements).unwrap();
            }
            Err(row) => state.rows[W] = row,
        }
        states.push(state);
    }

    /// What has to be asserted again or denied first, and what is decided.
    fn loser_decides(
        &mut self,
        state: &State<S::Row>,
        count: usize,
        said: &Said,
    ) -> (Vec<Reassertion>, Denied, Decided<S::Row>) {
        let noted = if self.mode == Mode::WithoutWaiting { state.noted } else { state.w_log.len() };
        let mut known = state.recent.clone();
        known.extend(state.w_log.iter().take(noted).map(|(at, entry)| (*at, self.notes_of(entry))));
        let (mut row, mut claims) = (state.rows[W], Vec::new());
        let (mut context, mut passed, mut changes) = (state.read_context, state.read, 0);
        while changes < count {
            match state.l_log[passed] {
                InL::Marker(at) => context = at,
                InL::Application { before, after } => {
                    self.found.conflicts += usize::from(self.mode == Mode::ByValue && row != before && row != after);
                    if self.mode == Mode::ByValue && row == before {
                        row = after;
                    }
                    claims.extend(self.shape.claims(L, [before, after], context, passed));
                    changes += 1;
                }
            }
            passed += 1;
        }
        if self.mode == Mode::ByValue {
            return (Vec::new(), None, Decided { outcome: Err(row), passed, context });
        }
        let (shape, by_table) = (&self.shape, self.mode == Mode::ByTable);
        let locked = Locked { shape, side: W, row: state.rows[W], changes: &known, said, by_table };
        let outcome = decided(self.mode, &mut self.found, self.mode == Mode::BothAlways, &locked, claims);
        self.found.reassertions += outcome.reassertions.len();
        let waits = !matches!(self.mode, Mode::WithoutReassertion | Mode::WithoutWaiting);
        let mut again = if waits { outcome.reassertions.clone() } else { Vec::new() };
        if said.denied && self.mode == Mode::WithoutCorrection {
            again.clear();
        }
        self.found.denials += outcome.absences.len();
        let denies = outcome.absences.first().filter(|_| waits && self.mode != Mode::WithoutDenial);
        let denies = denies.map(|absence| (absence.from.0, absence.details));
        (again, denies, Decided { outcome: Ok(outcome), passed, context })
    }

    fn notes_of(&self, entry: &InW<S::Row>) -> Notes {
        match entry {
            InW::Application { before, after } => self.shape.notes([*before, *after]),
            InW::Reassertion { table, parts, .. } => self.shape.touch_notes(*table, *parts),
            InW::Denial { .. } => [ALL; 4],
        }
    }
}

/// The source of L's plan whose row has to be denied, and whether only its details.
type Denied = Option<(usize, bool)>;

/// What comes of the next changes of L.
struct Decided<R> {
    /// By value: what W holds then.
    outcome: Result<Outcome, R>,
    passed: usize,
    context: u8,
}

/// Decides, and looks at what was said.
fn decided<S: Shape>(
    mode: Mode,
    found: &mut Found,
    wins: bool,
    locked: &Locked<'_, S>,
    mut claims: Vec<Claim>,
) -> Outcome {
    if mode == Mode::WithoutAbsence {
        claims.retain(|claim| !matches!(claim.operation.effect, Effect::Absent { .. }));
    }
    let count = claims.iter().filter(|claim| asks(claim)).count();
    let outcome = locked.shape.decide(locked.side, wins, locked, claims);
    if outcome.verdict.is_some() {
        // What is asserted again first may explain it.
        let stops = outcome.reassertions.is_empty() && outcome.absences.is_empty();
        assert!(mode != Mode::Causal || !stops, "{:?}: the model has no second writer", outcome.verdict);
        found.stopped += usize::from(stops);
        return outcome;
    }
    if !wins {
        let agreements = usize::try_from(outcome.agreements).unwrap();
        let said = outcome.operations.len() + outcome.conflicts.len() + agreements;
        assert!(said >= count, "L3: of {count} claims only {said} were written, recorded or agreed to");
    }
    outcome
}

/// Whether a claim asks for anything to be written.
fn asks(claim: &Claim) -> bool {
    match &claim.operation.effect {
        Effect::Absent { .. } => false,
        Effect::Patch { columns, .. } => !columns.is_empty(),
        _ => true,
    }
}

fn application<R: Copy>(mut state: State<R>, side: usize, after: R) -> State<R> {
    let before = std::mem::replace(&mut state.rows[side], after);
    state.steps[side] -= 1;
    if side == W {
        state.w_log.push((state.next_position(), InW::Application { before, after }));
    } else {
        state.l_log.push(InL::Application { before, after });
    }
    state
}

/// Both links lose what they held in memory and go on from their checkpoints.
fn killed<R>(state: State<R>) -> State<R> {
    State { noted: 0, read: 0, read_context: state.context, ..state }
}

impl<R> State<R> {
    fn positions(&self) -> BTreeSet<u8> {
        let mut positions = BTreeSet::from([self.context, self.read_context]);
        positions.extend(self.w_log.iter().map(|(at, _)| *at));
        positions.extend(self.recent.iter().map(|(at, _)| *at));
        positions.extend(self.l_log.iter().filter_map(|entry| match entry {
            InL::Marker(at) => Some(*at),
            InL::Application { .. } => None,
        }));
        positions
    }

    fn next_position(&self) -> u8 {
        self.positions().last().map_or(0, |last| last + 1)
    }

    /// `recent` loses what L->W has durably passed, at once: that is the hardest case. Then positions get new numbers.
    fn renumbered(mut self) -> State<R> {
        let context = self.context;
        self.recent.retain(|(at, _)| *at > context);
        let numbers: BTreeMap<u8, u8> = self.positions().into_iter().zip(0..).collect();
        self.w_log.iter_mut().for_each(|(at, _)| *at = numbers[at]);
        self.recent.iter_mut().for_each(|(at, _)| *at = numbers[at]);
        for entry in &mut self.l_log {
            if let InL::Marker(at) = entry {
                *at = numbers[at];
            }
        }
        self.context = numbers[&self.context];
        self.read_context = numbers[&self.read_context];
        self
    }
}
