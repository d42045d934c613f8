//! Which source of the plan a relation of the stream is, and whether it still has the shape that the link knows.
//!
//! The cache is keyed by object id and replaced on every description (pitfall 13): names change hands, ids do not.
//! L12: a table whose columns changed under the link is a problem exactly at the first change that shows it.

use std::collections::{HashMap, HashSet};

use crate::change::{Before, Event, Image, Relation};
use crate::names::TableName;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome, Problem};

/// What a relation is to the link.
#[derive(Clone, Debug)]
pub enum Bound {
    /// A table of the plan.
    Source {
        /// Position in `Plan::sources`.
        source: usize,
        /// For each column of the plan its position in the relation; `None` if the order is the same.
        order: Option<Vec<usize>>,
        /// The stream names a partition, not the table itself.
        is_partition: bool,
    },
    /// A table that is left out on purpose.
    LeftOut,
}

/// The relations of one connection.
#[derive(Debug, Default)]
pub struct Relations {
    bound: HashMap<u32, Bound>,
    left_out: HashSet<TableName>,
}

impl Relations {
    /// Nothing is known yet; the stream describes each table before its first change.
    pub fn new(plan: &Plan) -> Self {
        Relations { bound: HashMap::new(), left_out: plan.left_out.iter().map(|(name, _)| name.clone()).collect() }
    }

    /// What a relation is, as it was described last.
    pub fn get(&self, relation: &Relation) -> Option<&Bound> {
        self.bound.get(&relation.oid)
    }

    /// Takes a description. A problem if the table's shape is not the one that the plan was made for.
    pub fn describe(&mut self, plan: &Plan, relation: &Relation) -> Outcome<()> {
        if let Some(old) = plan.oids.get(&relation.oid).filter(|old| **old != relation.name) {
            return Err(renamed(plan, relation, old));
        }
        let Some(source) = plan.by_name.get(&relation.name).copied() else {
            if !self.left_out.contains(&relation.name) {
                return Err(unknown(relation));
            }
            self.bound.insert(relation.oid, Bound::LeftOut);
            return Ok(());
        };
        let known = &plan.sources[source];
        let difference = differences(known, relation);
        if !difference.is_empty() {
            return Err(changed(known, &difference));
        }
        let position = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let order: Vec<usize> = known.columns.iter().filter_map(|column| position(&column.name)).collect();
        let in_order = order.iter().enumerate().all(|(at, position)| at == *position);
        let bound =
            Bound::Source { source, order: (!in_order).then_some(order), is_partition: relation.name != known.name };
        self.bound.insert(relation.oid, bound);
        Ok(())
    }
}

/// An image with its cells in the plan's order.
pub fn reordered(image: &Image, order: &[usize]) -> Image {
    Image::from_datums(&order.iter().map(|position| image.datum(*position)).collect::<Vec<_>>())
}

/// An event with the cells of its images in the plan's order.
pub fn in_order(event: &Event, order: &[usize]) -> Event {
    let old = |before: &Before| match before {
        Before::Absent => Before::Absent,
        Before::Key(image) => Before::Key(reordered(image, order)),
        Before::Full(image) => Before::Full(reordered(image, order)),
    };
    match event {
        Event::Insert(image) => Event::Insert(reordered(image, order)),
        Event::Update { before, after } => Event::Update { before: old(before), after: reordered(after, order) },
        Event::Delete(before) => Event::Delete(old(before)),
        Event::Truncate { .. } => event.clone(),
    }
}

/// Every difference between the columns that the plan knows and those that the stream describes, in words.
fn differences(known: &Source, relation: &Relation) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for column in &known.columns {
        match relation.columns.iter().find(|other| other.name == column.name) {
            None => found.push((column.name.clone(), "was dropped or renamed".to_owned())),
            Some(other) if (other.type_oid, other.type_modifier) != (column.type_oid, column.type_modifier) => {
                found.push((column.name.clone(), format!("no longer has the type {}", column.type_sql)));
            }
            Some(_) => {}
        }
    }
    let added = relation.columns.iter().filter(|column| known.columns.iter().all(|other| other.name != column.name));
    found.extend(added.map(|column| (column.name.clone(), "was added".to_owned())));
    found
}

fn changed(known: &Source, differences: &[(String, String)]) -> Problem {
    let words: Vec<String> = differences.iter().map(|(column, what)| format!("{column} {what}")).collect();
    Problem::stop(
        Blame::Source,
        "SCHEMA_CHANGED",
        format!("the table's columns changed under the link: {}; everything before is applied", words.join(", ")),
    )
    .table(&known.name)
    .column(&differences[0].0)
    .remedy(
        "undo the change on the source and start again; or, to go on with the new columns, bring the target to them and \
         start over with `falkirk clean` and `falkirk run`",
    )
}

fn renamed(plan: &Plan, relation: &Relation, old: &TableName) -> Problem {
    let known = plan.by_name.contains_key(old);
    let what = format!("the table {old} is now called {}; everything before is applied", relation.name);
    let problem = Problem::stop(Blame::Source, "SCHEMA_CHANGED", what).table(old);
    match known {
        true => problem.remedy("give it its old name again, or start over with `falkirk clean` and `falkirk run`"),
        false => problem.remedy("start the host again"),
    }
}

fn unknown(relation: &Relation) -> Problem {
    Problem::stop(
        Blame::Source,
        "UNKNOWN_TABLE",
        "the publication sends a table that was not there, or had another name, when the link started",
    )
    .table(&relation.name)
    .remedy("start the host again if it is a new partition; otherwise take the table out of the publication, or exclude it in [tables]")
}
