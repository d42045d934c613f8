//! Parts: which columns of a table stand or fall together in a conflict.
//!
//! Two changes conflict if each would overwrite something that the other depends on. For that to mean the same seen from
//! either side, columns are joined across both sides and both directions: whatever one group computes from or into, and
//! whatever is copied into each other, is one part. Say green shows `display = f(name, title)` and blue gets back only
//! `name = b(display)`: a blue change of `title` and a green change of `display` touch no common column when seen from
//! blue alone, and would leave the sides apart; as parts they overlap.

use std::collections::HashMap;

use crate::marker::Link;
use crate::names::TableName;
use crate::plan::Plan;

/// The part that every change of a row's existence touches, and that overlaps all others.
pub const EXISTENCE: u64 = 1 << 63;

/// A column of one side: `Forward` reads blue, so it stands for blue here, `Backward` for green.
type Node = (Link, TableName, String);

/// The parts of both sides' columns.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    bits: HashMap<Node, u64>,
}

/// Joins nodes into sets.
#[derive(Default)]
struct Sets {
    nodes: HashMap<Node, usize>,
    parents: Vec<usize>,
}

impl Sets {
    fn node(&mut self, node: Node) -> usize {
        let next = self.parents.len();
        let at = *self.nodes.entry(node).or_insert(next);
        if at == next {
            self.parents.push(next);
        }
        at
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    fn join(&mut self, nodes: impl IntoIterator<Item = Node>) {
        let mut first = None;
        for node in nodes {
            let at = self.node(node);
            let root = self.root(at);
            match first {
                None => first = Some(root),
                Some(first) => self.parents[root] = first,
            }
        }
    }

    fn add(&mut self, plan: &Plan, link: Link) {
        for source in &plan.sources {
            let own = source.columns.len();
            // A mapped key stands for the column that it is found by; related rows are other rows.
            let column = |cell: usize| match cell < own {
                true => Some(cell),
                false => source.depends.mapped.get(cell - own).map(|mapped| mapped.column),
            };
            let from = |cell: usize| Some((link, source.name.clone(), source.columns[column(cell)?].name.clone()));
            for output in &source.rule.outputs {
                let target = &plan.targets[output.target];
                let to =
                    |column: u16| (link.other(), target.name.clone(), target.columns[usize::from(column)].name.clone());
                let moved = output.copied.iter().chain(&output.mapped);
                let copied = moved.map(|(source, column)| from(*source).into_iter().chain([to(*column)]).collect());
                let groups = output.groups.iter().map(|group| {
                    let values = group.values.clone().map(|value| to(output.computed[value]));
                    group.from.iter().filter_map(|source| from(*source)).chain(values).collect()
                });
                let all: Vec<Vec<Node>> = copied.chain(groups).collect();
                match output.many {
                    true => self.join(all.into_iter().flatten()),
                    false => all.into_iter().for_each(|nodes| self.join(nodes)),
                }
            }
        }
    }
}

impl Parts {
    /// The parts that two plans of one migration make.
    pub fn new(forward: &Plan, backward: &Plan) -> Parts {
        let mut sets = Sets::default();
        sets.add(forward, Link::Forward);
        sets.add(backward, Link::Backward);
        let mut nodes: Vec<(Node, usize)> = sets.nodes.clone().into_iter().collect();
        nodes.sort();
        let mut numbers = HashMap::new();
        let mut bits = HashMap::new();
        for (node, at) in nodes {
            let next = numbers.len();
            let number = *numbers.entry(sets.root(at)).or_insert(next);
            // More parts than bits only make some conflicts wider than they need to be.
            bits.insert(node, 1 << (number % 63));
        }
        Parts { bits }
    }

    /// The part of a column of the side that `reader` reads; 0 for one that no rule touches.
    pub fn of(&self, reader: Link, table: &TableName, column: &str) -> u64 {
        self.bits.get(&(reader, table.clone(), column.to_owned())).copied().unwrap_or(0)
    }
}
