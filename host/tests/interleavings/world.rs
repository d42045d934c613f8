//! The world: two databases with an application and a log each, two links, and every order in which they can move.
//!
//! W is the side that wins, L the other. Positions of W's log are numbers; only their order matters, so they are
//! renumbered after every step, and states that differ in nothing else are one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use falkirk::delta::decide::{Outcome, Rules, decide};
use falkirk::plan::parts::ALL;

use crate::claims::{Locked, Row, Table, mask, standing, write};

/// How much is explored.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Columns beside the key.
    pub columns: usize,
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
}

/// A transaction in W's log that W->L has not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InW {
    Application {
        before: Row,
        after: Row,
    },
    /// L->W touched the row, so that it is sent again whole.
    Reassertion {
        row: Row,
        parts: u64,
    },
}

/// A transaction in L's log that L->W has not durably passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InL {
    Application {
        before: Row,
        after: Row,
    },
    /// W->L wrote everything up to this position of W.
    Marker(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    rows: [Row; 2],
    steps: [u8; 2],
    w_log: Vec<(u8, InW)>,
    l_log: Vec<InL>,
    /// Durable in L with W->L's checkpoint: what of W's log before it L->W may still have to know.
    recent: Vec<(u8, u64)>,
    /// Durable in W with L->W's checkpoint: the last marker before it.
    context: u8,
    /// In memory: how much of `w_log` was decoded and noted; how much of `l_log` was read, all of it markers, and the
    /// last of them. A kill loses both.
    noted: usize,
    read: usize,
    read_context: u8,
}

const W: usize = 0;
const L: usize = 1;

/// Goes through every state that can be reached.
pub fn explore(size: Size, winner: Winner, mode: Mode) -> Found {
    let table = Table::new();
    let mut world = World { table, size, mode, found: Found::default() };
    let mut seen: HashSet<State> = HashSet::new();
    let [blue, green] = size.steps;
    let steps = if winner == Winner::Blue { [blue, green] } else { [green, blue] };
    let mut open = Vec::new();
    for row in [None, Some([0, 0])] {
        let (w_log, l_log, recent) = (Vec::new(), Vec::new(), Vec::new());
        let state =
            State { rows: [row; 2], steps, w_log, l_log, recent, context: 0, noted: 0, read: 0, read_context: 0 };
        open.push(state);
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

struct World {
    table: Table,
    size: Size,
    mode: Mode,
    found: Found,
}

impl World {
    /// Nothing is under way: now both sides have to agree.
    fn look(&mut self, state: &State) {
        let under_way = state.l_log.iter().any(|entry| matches!(entry, InL::Application { .. }));
        if state.w_log.is_empty() && !under_way {
            self.found.ends += 1;
            self.found.divergent += usize::from(state.rows[W] != state.rows[L]);
        }
    }

    fn next(&mut self, state: &State, open: &mut Vec<State>) {
        for side in [W, L] {
            if state.steps[side] > 0 {
                for after in self.choices(state.rows[side]) {
                    open.push(application(state.clone(), side, after).renumbered());
                }
            }
        }
        for count in 1..=state.w_log.len().min(self.size.batch) {
            open.push(self.winner_writes(state.clone(), count).renumbered());
        }
        let changes = state.l_log.iter().filter(|entry| matches!(entry, InL::Application { .. })).count();
        for count in 1..=changes.min(self.size.batch) {
            open.push(self.loser_writes(state.clone(), count).renumbered());
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

    /// Every legal operation of an application.
    fn choices(&self, row: Row) -> Vec<Row> {
        let mut choices = Vec::new();
        let second = if self.size.columns == 2 { 0..2 } else { 0..1 };
        match row {
            None => choices.extend((0..2).flat_map(|a| second.clone().map(move |b| Some([a, b])))),
            Some([a, b]) => {
                choices.push(None);
                choices.push(Some([1 - a, b]));
                if self.size.columns == 2 {
                    choices.push(Some([a, 1 - b]));
                }
            }
        }
        choices
    }

    fn decide(&mut self, wins: bool, locked: &Locked<'_>, claims: Vec<falkirk::delta::decide::Claim>) -> Outcome {
        let count = claims.len();
        let rules = Rules { targets: &self.table.targets, parts: &self.table.parts, standings: &standing(wins) };
        let outcome = decide(rules, locked, claims);
        if outcome.verdict.is_some() {
            let blind = matches!(self.mode, Mode::WithoutRecent | Mode::WithoutWaiting);
            assert!(blind, "{:?}: the model has no second writer", outcome.verdict);
            self.found.stopped += 1;
            return outcome;
        }
        if !wins {
            let agreements = usize::try_from(outcome.agreements).unwrap();
            let said = outcome.operations.len() + outcome.conflicts.len() + agreements;
            assert!(said >= count, "L3: of {count} claims only {said} were written, recorded or agreed to");
        }
        outcome
    }

    /// W->L: its target transaction with the first `count` transactions of its log.
    fn winner_writes(&mut self, mut state: State, count: usize) -> State {
        let entries: Vec<(u8, InW)> = state.w_log.drain(..count).collect();
        let claims = entries.iter().enumerate().map(|(at, (_, entry))| match entry {
            InW::Application { before, after } => self.table.claim(*before, *after, 0, at),
            InW::Reassertion { row, parts } => self.table.reassertion(*row, *parts, 0, at),
        });
        let claims = claims.collect();
        let outcome = self.decide(true, &Locked { row: state.rows[L], changes: &[] }, claims);
        write(&mut state.rows[L], &outcome.operations);
        if self.mode != Mode::WithoutRecent {
            state.recent.extend(entries.iter().map(|(at, entry)| (*at, parts_of(entry))));
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
    /// the moment of its lock: here, all of it.
    fn loser_writes(&mut self, mut state: State, count: usize) -> State {
        let untouched = state.clone();
        if self.mode != Mode::WithoutWaiting {
            state.noted = state.w_log.len();
        }
        let mut known = state.recent.clone();
        known.extend(state.w_log.iter().take(state.noted).map(|(at, entry)| (*at, parts_of(entry))));
        let mut claims = Vec::new();
        let mut context = state.read_context;
        let mut passed = state.read;
        while claims.len() < count {
            match state.l_log[passed] {
                InL::Marker(at) => context = at,
                InL::Application { before, after } if self.mode == Mode::ByValue => {
                    let row = state.rows[W];
                    self.found.conflicts += usize::from(row != before && row != after);
                    if row == before {
                        state.rows[W] = after;
                    }
                    claims.push(self.table.claim(before, after, context, passed));
                }
                InL::Application { before, after } => {
                    claims.push(self.table.claim(before, after, context, passed));
                }
            }
            passed += 1;
        }
        state.l_log.drain(..passed);
        (state.context, state.read, state.read_context) = (context, 0, context);
        if self.mode == Mode::ByValue {
            return state;
        }
        let always = self.mode == Mode::BothAlways;
        let outcome = self.decide(always, &Locked { row: state.rows[W], changes: &known }, claims);
        self.found.reassertions += outcome.reassertions.len();
        if !outcome.reassertions.is_empty() && self.mode != Mode::WithoutReassertion {
            // Like the host: nothing of this is written, the row is touched in a transaction of its own, and the same
            // claims are decided again after it, perhaps by the next life.
            let mut touched = untouched;
            let row = touched.rows[W];
            touched.w_log.push((touched.next_position(), InW::Reassertion { row, parts: ALL }));
            return touched;
        }
        write(&mut state.rows[W], &outcome.operations);
        self.found.conflicts += outcome.conflicts.len();
        self.found.agreements += usize::try_from(outcome.agreements).unwrap();
        state
    }
}

fn parts_of(entry: &InW) -> u64 {
    match entry {
        InW::Application { before, after } => mask(*before, *after),
        InW::Reassertion { parts, .. } => *parts,
    }
}

fn application(mut state: State, side: usize, after: Row) -> State {
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
fn killed(state: State) -> State {
    State { noted: 0, read: 0, read_context: state.context, ..state }
}

impl State {
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
    fn renumbered(mut self) -> State {
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
