//! Records: rows of several tables of one side that stand together for one row of the other side.
//!
//! ```text
//!   blue                 green
//!   orders(7) <--------> orders(7) or archived_orders(7)      owners: one of them is there, and is the row
//!   member(7) <--------> member(7) and member_bio(7)          a detail: its being there is a value of the row
//! ```
//!
//! While both links write, neither row of a record can be decided alone: a row that one side moves to the other table and
//! the other side changes where it was is one conflict, in whatever table it is met. So the tables form a *family*, and
//! notes and questions name the record: the family, and the key in an order that its tables share (L8).
//!
//! A family is what one source table's own rows stand for under that table's whole key. What has a mapped or a computed
//! key is no part of one. A *detail* is a table of the family whose own rule on the way back patches the row instead of
//! owning it: then its being there and all its columns are one part of the row, and nothing that concerns the existence
//! of the record (`parts`).

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::Write;
use crate::names::TableName;
use crate::plan::{Filling, Output, Plan, Source};

/// How the rows of one table belong to records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// One name for all tables of the family.
    pub family: TableName,
    /// Where the key's values stand, in an order that all tables of the family share: columns of a source, positions in
    /// a target's key.
    pub order: Box<[usize]>,
    /// What a row says by being there: a detail its part, an owner everything but its details.
    pub says: u64,
    /// Whether it is a detail.
    pub is_detail: bool,
}

/// A table of a side: whether green, and its name.
pub(super) type Place<'p> = (bool, &'p TableName);

/// Tables with the columns of their keys.
type Tables<'p> = BTreeMap<Place<'p>, Vec<&'p str>>;

/// A column of a side.
type Node<'p> = (bool, &'p TableName, &'p str);

/// A table of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member<'p> {
    /// The smallest name among its tables.
    pub(super) family: &'p TableName,
    /// The key's columns in the order that all tables of the family share.
    pub(super) order: Vec<&'p str>,
}

/// The families of both sides.
#[derive(Default)]
pub(super) struct Families<'p> {
    pub(super) members: BTreeMap<Place<'p>, Member<'p>>,
    /// A detail, and the table of the other side whose rows it describes.
    pub(super) details: BTreeSet<(Place<'p>, Place<'p>)>,
}

/// An output under the whole key of its source row.
struct Tie<'p> {
    source: Place<'p>,
    target: Place<'p>,
    /// Source and target columns of the key.
    key: Vec<(&'p str, &'p str)>,
    write: Write,
}

impl<'p> Families<'p> {
    /// From the plans of both links.
    pub(super) fn new(forward: &'p Plan, backward: &'p Plan) -> Self {
        let ties: Vec<Tie<'p>> = ties(forward, false).chain(ties(backward, true)).collect();
        let classes = classes(&ties);
        let mut families = Families::default();
        for tables in together(&ties) {
            families.add(&tables, &classes);
        }
        let detail = |tie: &&Tie<'p>| {
            let way_there =
                ties.iter().any(|own| own.write == Write::Own && (own.source, own.target) == (tie.target, tie.source));
            let owns =
                ties.iter().any(|own| own.write == Write::Own && (own.source, own.target) == (tie.source, tie.target));
            tie.write == Write::Patch && way_there && !owns && families.members.contains_key(&tie.source)
        };
        let details: BTreeSet<_> = ties.iter().filter(detail).map(|tie| (tie.source, tie.target)).collect();
        families.details = details.into_iter().filter(|(detail, _)| families.has_owner(*detail, &ties)).collect();
        families
    }

    /// What is described must be a row that somebody owns.
    fn has_owner(&self, detail: Place<'p>, ties: &[Tie<'p>]) -> bool {
        let family = |place: &Place<'p>| self.members.get(place).map(|member| (place.0, member.family));
        ties.iter().any(|tie| tie.write == Write::Own && family(&tie.source) == family(&detail))
    }

    fn add(&mut self, tables: &Tables<'p>, classes: &BTreeMap<Node<'p>, usize>) {
        let Some((_, name)) = tables.keys().next().copied() else { return };
        let mut members = BTreeMap::new();
        let mut shared: Option<Vec<usize>> = None;
        for (place, key) in tables {
            let mut order: Vec<(usize, &'p str)> =
                key.iter().map(|column| (classes[&(place.0, place.1, *column)], *column)).collect();
            order.sort_unstable();
            order.dedup_by_key(|(class, _)| *class);
            let classes: Vec<usize> = order.iter().map(|(class, _)| *class).collect();
            if order.len() != key.len() || shared.get_or_insert(classes.clone()) != &classes {
                return;
            }
            let order = order.into_iter().map(|(_, column)| column).collect();
            members.insert(*place, Member { family: name, order });
        }
        if members.len() > 1 {
            self.members.extend(members);
        }
    }

    /// The family of a table, or the table itself.
    pub(super) fn name_of(&self, green: bool, table: &'p TableName) -> Place<'p> {
        (green, self.members.get(&(green, table)).map_or(table, |member| member.family))
    }

    /// What notes on rows of a table are about, in words that change when that does; empty for rows by themselves.
    pub(super) fn described(&self, place: Place<'p>) -> String {
        let detail = if self.details.iter().any(|(detail, _)| *detail == place) { " as a detail" } else { "" };
        let member = self.members.get(&place);
        member.map_or_else(String::new, |member| format!("{} by {}{detail}", member.family, member.order.join(", ")))
    }

    /// Whether an output writes a detail, or a detail's rule describes the output's row.
    pub(super) fn is_detail(&self, source: Place<'p>, target: Place<'p>) -> bool {
        self.details.contains(&(source, target)) || self.details.contains(&(target, source))
    }
}

/// The tables that own rows of one source table stand in, joined over all source tables; with their keys.
fn together<'p>(ties: &[Tie<'p>]) -> Vec<Tables<'p>> {
    let mut families: Vec<(BTreeSet<Place<'p>>, Tables<'p>)> = Vec::new();
    for tie in ties.iter().filter(|tie| tie.write == Write::Own) {
        let key = tie.key.iter().map(|(_, column)| *column).collect();
        let mut joined = (BTreeSet::from([tie.source]), BTreeMap::from([(tie.target, key)]));
        families.retain_mut(|(sources, tables)| {
            let meets = sources.contains(&tie.source) || tables.contains_key(&tie.target);
            if meets {
                joined.0.append(sources);
                joined.1.append(tables);
            }
            !meets
        });
        families.push(joined);
    }
    families.into_iter().map(|(_, tables)| tables).collect()
}

/// Which key columns hold one value: numbers that depend on the names only.
fn classes<'p>(ties: &[Tie<'p>]) -> BTreeMap<Node<'p>, usize> {
    let pairs = ties.iter().flat_map(|tie| {
        let node =
            |(from, to): &(&'p str, &'p str)| ((tie.source.0, tie.source.1, *from), (tie.target.0, tie.target.1, *to));
        tie.key.iter().map(node).collect::<Vec<_>>()
    });
    let pairs: Vec<(Node<'p>, Node<'p>)> = pairs.collect();
    let nodes: BTreeSet<Node<'p>> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
    let mut classes: BTreeMap<Node<'p>, usize> = nodes.into_iter().zip(0..).collect();
    for (from, to) in &pairs {
        let (one, other) = (classes[from], classes[to]);
        let joined = one.min(other);
        classes.values_mut().filter(|class| [one, other].contains(class)).for_each(|class| *class = joined);
    }
    classes
}

fn ties(plan: &Plan, reads_green: bool) -> impl Iterator<Item = Tie<'_>> {
    plan.sources.iter().flat_map(move |source| {
        source.rule.outputs.iter().filter_map(move |output| tie(plan, reads_green, source, output))
    })
}

fn tie<'p>(plan: &'p Plan, reads_green: bool, source: &'p Source, output: &Output) -> Option<Tie<'p>> {
    let target = &plan.targets[output.target];
    if output.write == Write::Ensure || !under_whole_key(source, output) {
        return None;
    }
    let copied = |filling: &Filling| match filling {
        Filling::Copied(column) => Some(source.columns[*column].name.as_str()),
        Filling::Computed(_) | Filling::Mapped(_) => None,
    };
    let to = target.key.iter().map(|column| target.columns[usize::from(*column)].name.as_str());
    let key = output.key.iter().filter_map(copied).zip(to).collect();
    Some(Tie { source: (reads_green, &source.name), target: (!reads_green, &target.name), key, write: output.write })
}

/// Whether an output's row has the whole key of its source row, as it is.
pub fn under_whole_key(source: &Source, output: &Output) -> bool {
    let copied: Option<BTreeSet<usize>> = output
        .key
        .iter()
        .map(|filling| match filling {
            Filling::Copied(column) => Some(*column),
            Filling::Computed(_) | Filling::Mapped(_) => None,
        })
        .collect();
    let key: BTreeSet<usize> = source.key.iter().copied().collect();
    !output.many && copied.is_some_and(|copied| copied == key && copied.len() == output.key.len())
}
