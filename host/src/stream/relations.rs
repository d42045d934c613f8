//! Which source of the plan a relation of the stream is, and whether it still has the shape that the link knows.
//!
//! The cache is keyed by object id and replaced on every description (pitfall 13): names change hands, ids do not.
//! L12: a table whose columns changed under the link is a misfit exactly at the first change that shows it; whether that
//! ends the link or makes it wait is not decided here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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

/// A table whose columns, or whose name, are not those that the link's plan was made for.
#[derive(Clone, Debug)]
pub struct Misfit {
    /// The table as the stream describes it now; a partition under its own name.
    pub relation: Arc<Relation>,
    /// The table of the plan.
    pub table: TableName,
    /// Its name where it has got another one, or another schema.
    pub renamed: Option<TableName>,
    /// Nothing but new columns.
    pub only_added: bool,
    /// Columns of the table that are left out already.
    pub left_out: Vec<String>,
    /// What is wrong, for whoever has to act.
    pub problem: Problem,
}

impl Misfit {
    /// What the table is called now.
    pub fn name(&self) -> &TableName {
        self.renamed.as_ref().unwrap_or(&self.table)
    }

    /// The same, with the revision that was made for other columns.
    pub fn under(self, artifact: Option<&str>) -> Misfit {
        match artifact {
            Some(label) => Misfit { problem: self.problem.artifact(label), ..self },
            None => self,
        }
    }
}

/// The relations of one connection.
#[derive(Debug, Default)]
pub struct Relations {
    bound: HashMap<u32, Bound>,
    left_out: HashSet<TableName>,
    /// Columns that came later and that no rule uses, by the table of the plan.
    left_out_columns: HashMap<TableName, Vec<String>>,
    /// As they were described last: the source does not say it again because another plan holds.
    described: HashMap<u32, Arc<Relation>>,
}

impl Relations {
    /// Nothing is known yet; the stream describes each table before its first change.
    pub fn new(plan: &Plan) -> Self {
        let left_out = plan.left_out.iter().map(|(name, _)| name.clone()).collect();
        Relations { left_out, ..Relations::default() }
    }

    /// The same relations under another plan. What does not fit it is forgotten: the source describes a table again
    /// before its next change if it has changed, and a change without a description ends the link.
    pub fn under(&self, plan: &Plan) -> Relations {
        let mut relations = Relations::new(plan);
        relations.left_out_columns.clone_from(&self.left_out_columns);
        for relation in self.described.values() {
            let _ = relations.describe(plan, relation);
        }
        relations
    }

    /// Leaves columns of a table out from here on.
    pub fn leave_out(&mut self, table: &TableName, columns: Vec<String>) {
        self.left_out_columns.insert(table.clone(), columns);
    }

    fn left_out_of(&self, known: &Source) -> &[String] {
        self.left_out_columns.get(&known.name).map_or(&[], Vec::as_slice)
    }

    /// Whether a description is of a table of the plan whose columns have changed, or which is called something else now.
    pub fn misfit(&self, plan: &Plan, relation: &Arc<Relation>) -> Option<Misfit> {
        if let Some(old) = plan.oids.get(&relation.oid).filter(|old| **old != relation.name) {
            // A partition is found again under its new name by the next start.
            let known = plan.sources.iter().find(|source| source.name == *old)?;
            let problem = renamed(plan, relation, old).remedy(
                "swap in a revision that knows the table by its new name: `falkirk swap FILE`, or `falkirk swap --again` where tables \
                 are copied as they are; or start over with `falkirk clean` and `falkirk run`",
            );
            return Some(Misfit {
                relation: relation.clone(),
                table: known.name.clone(),
                renamed: Some(relation.name.clone()),
                only_added: false,
                left_out: self.left_out_of(known).to_vec(),
                problem,
            });
        }
        let known = &plan.sources[*plan.by_name.get(&relation.name)?];
        let left_out = self.left_out_of(known).to_vec();
        let difference = differences(known, relation, &left_out);
        if difference.is_empty() {
            return None;
        }
        let only_added = difference.iter().all(|(_, what)| what == ADDED);
        let problem = changed(known, &difference);
        let (relation, table) = (relation.clone(), known.name.clone());
        Some(Misfit { relation, table, renamed: None, only_added, left_out, problem })
    }

    /// What a relation is, as it was described last.
    pub fn get(&self, relation: &Relation) -> Option<&Bound> {
        self.bound.get(&relation.oid)
    }

    /// Takes a description. A problem if the table's shape is not the one that the plan was made for.
    pub fn describe(&mut self, plan: &Plan, relation: &Arc<Relation>) -> Outcome<()> {
        self.bound.remove(&relation.oid);
        self.described.remove(&relation.oid);
        if let Some(old) = plan.oids.get(&relation.oid).filter(|old| **old != relation.name) {
            return Err(renamed(plan, relation, old));
        }
        let Some(source) = plan.by_name.get(&relation.name).copied() else {
            if !self.left_out.contains(&relation.name) {
                return Err(unknown(relation));
            }
            self.bound.insert(relation.oid, Bound::LeftOut);
            self.described.insert(relation.oid, relation.clone());
            return Ok(());
        };
        let known = &plan.sources[source];
        let difference = differences(known, relation, self.left_out_of(known));
        if !difference.is_empty() {
            return Err(changed(known, &difference));
        }
        let position = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let order: Vec<usize> = known.columns.iter().filter_map(|column| position(&column.name)).collect();
        let in_order =
            order.len() == relation.columns.len() && order.iter().enumerate().all(|(at, position)| at == *position);
        let bound =
            Bound::Source { source, order: (!in_order).then_some(order), is_partition: relation.name != known.name };
        self.bound.insert(relation.oid, bound);
        self.described.insert(relation.oid, relation.clone());
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
        Event::Truncate { .. } | Event::Denied { .. } => event.clone(),
    }
}

/// Every difference between the columns that the plan knows and those that the stream describes, in words.
fn differences(known: &Source, relation: &Relation, left_out: &[String]) -> Vec<(String, String)> {
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
    let is_ours =
        |name: &String| known.columns.iter().any(|other| other.name == *name) || known.generated.contains(name);
    let is_new = |name: &String| !is_ours(name) && !left_out.contains(name);
    let added = relation.columns.iter().filter(|column| is_new(&column.name));
    found.extend(added.map(|column| (column.name.clone(), ADDED.to_owned())));
    found
}

const ADDED: &str = "was added";

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
        "bring the target to the new columns; a running host goes on once a revision fits (`falkirk swap FILE`, or `falkirk swap --again` \
         for the same one, with [admin] in the configuration); otherwise start over with `falkirk clean` and `falkirk run`",
    )
}

fn renamed(plan: &Plan, relation: &Relation, old: &TableName) -> Problem {
    let known = plan.by_name.contains_key(old);
    let what = format!("the table {old} is now called {}; everything before is applied", relation.name);
    let problem = Problem::stop(Blame::Source, "SCHEMA_CHANGED", what).table(old);
    match known {
        true => problem.remedy(
            "start over with `falkirk clean` and `falkirk run`: what was changed under the new name says so for ever; a running host \
             with [admin] and one link only (rollback = \"none\") waits for a revision that knows the new name",
        ),
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
