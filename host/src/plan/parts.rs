//! Parts: which columns of a table stand or fall together when both links run.
//!
//! Two changes conflict if they overlap and neither knew of the other. "Overlap" has to mean the same thing on both
//! sides, whatever the transform looks like. Forward may compute `display` from `(name, title)` and backward `name`
//! from `display`: a green change of `display` reaches only `name`, a blue change of `title` reaches only `display`, and
//! still one of the two is lost. So neither direction's groups alone are the unit. A part is a connected component:
//!
//! - a copied pair joins its source and its target column;
//! - a computed group joins everything in its `from` and `to`;
//! - an output of `many` rows joins all its groups and copied pairs.
//!
//! Both plans join the same columns, so both links see the same parts (L8). Key columns join nothing: a change of a key
//! is one row's end and another's beginning. Columns on which the existence or the key of another row depends (`when`,
//! inputs of a key) belong to their part and carry [`EXISTENCE`] besides.
//!
//! A mask may say too much, never too little: what it says too much only makes a conflict out of two changes that would
//! have gone together.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::TableName;
use crate::plan::{Columns, Filling, Output, Plan};

/// The bit that overlaps every other one: whether the row is there.
pub const EXISTENCE: u64 = 1 << 63;

/// What an insert, a delete and either end of a change of key change: everything.
pub const ALL: u64 = u64::MAX;

/// Bits for parts. Tables with more parts share bits, which only makes two parts into one.
const BITS: u64 = 63;

/// The parts of both sides' tables, in the numbers of both plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// In the numbers of the forward plan.
    pub forward: LinkParts,
    /// In the numbers of the backward plan.
    pub backward: LinkParts,
}

/// Parts as one link's plan numbers tables and columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkParts {
    sources: Vec<Box<[u64]>>,
    targets: Vec<Box<[u64]>>,
}

impl LinkParts {
    /// The mask of columns of `Plan::sources[source]`: what a change of them changes.
    pub fn of_source(&self, source: usize, columns: impl IntoIterator<Item = usize>) -> u64 {
        columns.into_iter().fold(0, |mask, column| mask | self.sources[source][column])
    }

    /// How many columns `Plan::sources[source]` has.
    pub fn source_columns(&self, source: usize) -> usize {
        self.sources[source].len()
    }

    /// The mask of columns of `Plan::targets[target]`: what writing them changes.
    pub fn of_target(&self, target: usize, columns: &Columns) -> u64 {
        columns.iter().fold(0, |mask, column| mask | self.targets[target][usize::from(*column)])
    }

    /// The bits of every column of every target, in the plan's order.
    pub fn targets(&self) -> &[Box<[u64]>] {
        &self.targets
    }
}

/// A column of a side: whether green, the table, the column's name.
type Node<'p> = (bool, &'p TableName, &'p str);

/// The columns that rules touch, and which of them were joined.
#[derive(Default)]
struct Graph<'p> {
    numbers: BTreeMap<Node<'p>, usize>,
    joined_to: Vec<usize>,
    /// Columns on which existence depends, besides whatever part they belong to.
    existence: BTreeSet<Node<'p>>,
    /// Keys: existence and nothing else.
    keys: BTreeSet<Node<'p>>,
}

impl<'p> Graph<'p> {
    fn number(&mut self, node: Node<'p>) -> usize {
        let next = self.joined_to.len();
        let number = *self.numbers.entry(node).or_insert(next);
        if number == next {
            self.joined_to.push(next);
        }
        number
    }

    fn root(&self, mut number: usize) -> usize {
        while self.joined_to[number] != number {
            number = self.joined_to[number];
        }
        number
    }

    /// The smaller number becomes the root, so that the result does not depend on who joined first.
    fn join(&mut self, nodes: &[Node<'p>]) {
        let free: Vec<Node<'p>> = nodes.iter().copied().filter(|node| !self.keys.contains(node)).collect();
        let roots: Vec<usize> = free.into_iter().map(|node| self.number(node)).collect();
        for pair in roots.windows(2) {
            let (one, other) = (self.root(pair[0]), self.root(pair[1]));
            self.joined_to[one.max(other)] = one.min(other);
        }
    }

    fn note_keys(&mut self, plan: &'p Plan, reads_green: bool) {
        for source in &plan.sources {
            let key =
                source.key.iter().map(|column| (reads_green, &source.name, source.columns[*column].name.as_str()));
            self.keys.extend(key);
        }
        for target in &plan.targets {
            let name = |column: &u16| target.columns[usize::from(*column)].name.as_str();
            self.keys.extend(target.key.iter().map(|column| (!reads_green, &target.name, name(column))));
        }
    }

    fn note_rules(&mut self, plan: &'p Plan, reads_green: bool) {
        for source in &plan.sources {
            for output in &source.rule.outputs {
                let from = |column: usize| (reads_green, &source.name, source.columns[column].name.as_str());
                let target = &plan.targets[output.target];
                let to = |column: u16| (!reads_green, &target.name, target.columns[usize::from(column)].name.as_str());
                let mut sets: Vec<Vec<Node<'p>>> = Vec::new();
                sets.extend(output.copied.iter().map(|(source, target)| vec![from(*source), to(*target)]));
                sets.extend(output.groups.iter().map(|group| {
                    let written = output.computed[group.values.clone()].iter().map(|column| to(*column));
                    // Behind a row's own columns stand related rows: they are other rows.
                    let own = group.from.iter().filter(|column| **column < source.columns.len());
                    own.map(|column| from(*column)).chain(written).collect()
                }));
                let mapped = output.columns.iter().zip(&output.filled_by).filter_map(|(column, filling)| {
                    let need = output.needs.iter().find(|need| *filling == Filling::Mapped(need.cell))?;
                    Some(vec![from(need.column), to(*column)])
                });
                sets.extend(mapped);
                if output.many {
                    sets = vec![sets.concat()];
                }
                sets.iter().for_each(|set| self.join(set));
                let decides = decides_existence(output).into_iter().filter(|column| *column < source.columns.len());
                self.existence.extend(decides.map(from));
            }
        }
    }

    /// Parts are numbered inside each table first, so that two parts share a bit only where a table has too many.
    fn bits(&self) -> BTreeMap<Node<'p>, u64> {
        let mut tables: BTreeMap<usize, BTreeSet<(bool, &TableName)>> = BTreeMap::new();
        for (node, number) in &self.numbers {
            tables.entry(self.root(*number)).or_default().insert((node.0, node.1));
        }
        let mut taken: BTreeMap<(bool, &TableName), u64> = BTreeMap::new();
        let mut bit_of: BTreeMap<usize, u64> = BTreeMap::new();
        for (at, (part, tables)) in (0u64..).zip(&tables) {
            let used = tables.iter().fold(0, |used, table| used | taken.get(table).copied().unwrap_or(0));
            let free = u64::from((!used).trailing_zeros());
            let bit = 1 << if free < BITS { free } else { at % BITS };
            tables.iter().for_each(|table| *taken.entry(*table).or_default() |= bit);
            bit_of.insert(*part, bit);
        }
        let mut bits: BTreeMap<Node<'p>, u64> = BTreeMap::new();
        for (node, number) in &self.numbers {
            bits.insert(*node, bit_of[&self.root(*number)]);
        }
        for node in self.existence.union(&self.keys) {
            *bits.entry(*node).or_default() |= EXISTENCE;
        }
        bits
    }
}

/// The source columns on which it depends whether a row of the output is there, and under which key.
fn decides_existence(output: &Output) -> Vec<usize> {
    let mut columns = output.when.clone().unwrap_or_default();
    for part in &output.key {
        match part {
            Filling::Copied(source) => columns.push(*source),
            Filling::Mapped(cell) => {
                columns.extend(output.needs.iter().filter(|need| need.cell == *cell).map(|need| need.column));
            }
            Filling::Computed(value) => {
                let group = output.groups.iter().filter(|group| group.values.contains(value));
                columns.extend(group.flat_map(|group| group.from.iter().copied()));
            }
        }
    }
    columns
}

impl Parts {
    /// The parts of a migration, from the plans of both its links.
    pub fn new(forward: &Plan, backward: &Plan) -> Parts {
        let mut graph = Graph::default();
        for (plan, reads_green) in [(forward, false), (backward, true)] {
            graph.note_keys(plan, reads_green);
        }
        for (plan, reads_green) in [(forward, false), (backward, true)] {
            graph.note_rules(plan, reads_green);
        }
        let bits = graph.bits();
        Parts { forward: of_link(&bits, forward, false), backward: of_link(&bits, backward, true) }
    }
}

fn of_link<'p>(bits: &BTreeMap<Node<'p>, u64>, plan: &'p Plan, reads_green: bool) -> LinkParts {
    let sources = plan.sources.iter().map(|source| {
        let names = source.columns.iter().map(|column| column.name.as_str());
        of_table(bits, reads_green, &source.name, names)
    });
    let targets = plan.targets.iter().map(|target| {
        let names = target.columns.iter().map(|column| column.name.as_str());
        of_table(bits, !reads_green, &target.name, names)
    });
    LinkParts { sources: sources.collect(), targets: targets.collect() }
}

fn of_table<'p>(
    bits: &BTreeMap<Node<'p>, u64>,
    green: bool,
    table: &'p TableName,
    columns: impl Iterator<Item = &'p str>,
) -> Box<[u64]> {
    columns.map(|column| bits.get(&(green, table, column)).copied().unwrap_or(0)).collect()
}
