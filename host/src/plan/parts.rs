//! Parts: which columns of a table stand or fall together when both links run.
//!
//! Two changes conflict if they overlap and neither knew of the other. "Overlap" has to mean the same thing on both
//! sides, whatever the transform looks like. Forward may compute `display` from `(name, title)` and backward `name`
//! from `display`: a green change of `display` reaches only `name`, a blue change of `title` reaches only `display`, and
//! still one of the two is lost. So neither direction's groups alone are the unit. A part is a connected component:
//!
//! - a copied pair joins its source and its target column;
//! - a computed group joins everything in its `from` and `to`;
//! - an output of `many` rows joins all its groups and copied pairs;
//! - a detail (`records`) is one part with everything that it depends on.
//!
//! Both plans join the same columns, so both links see the same parts (L8). Key columns join nothing: a change of a key
//! is one row's end and another's beginning. Columns on which the existence or the key of another row depends (`when`,
//! inputs of a key) belong to their part and carry [`EXISTENCE`] besides.
//!
//! A mask may say too much, never too little: what it says too much only makes a conflict out of two changes that would
//! have gone together.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::Write;
use crate::names::TableName;
use crate::plan::numbering::Numbering;
use crate::plan::records::{Families, Place, Record};
use crate::plan::{Columns, Filling, Output, Plan};

/// The bit that overlaps every other one: whether the row is there.
pub const EXISTENCE: u64 = 1 << 63;

/// No part's bit: in notes of what changed, that the row was there afterwards. What concerns existence and lacks it removed
/// the row.
pub const THERE: u64 = 1 << 62;

/// What an insert, a delete and either end of a change of key change: everything.
pub const ALL: u64 = u64::MAX;

/// Bits for parts. Tables with more parts share bits, which only makes two parts into one.
const BITS: u64 = 62;

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
    source_records: Vec<Option<Record>>,
    target_records: Vec<Option<Record>>,
    cleared: Vec<Columns>,
    routed: Vec<bool>,
    twins: Vec<Box<[usize]>>,
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

    /// How the rows of `Plan::sources[source]` belong to records of several tables; `None`: each is one by itself.
    pub fn source_record(&self, source: usize) -> Option<&Record> {
        self.source_records.get(source)?.as_ref()
    }

    /// The same for every target, in the plan's order.
    pub fn records(&self) -> &[Option<Record>] {
        &self.target_records
    }

    /// For every target, the columns that are NULL in a new row until a detail of it comes.
    pub fn cleared(&self) -> &[Columns] {
        &self.cleared
    }

    /// For every target, the sources of whose rows each comes and goes with its own row of the target, on both links.
    pub fn twins(&self) -> &[Box<[usize]>] {
        &self.twins
    }

    /// Whether a source row that stands for no row of the target says that none is there. It cannot where its key may be
    /// that of another source row.
    pub fn says_absent(&self, target: usize) -> bool {
        self.routed.get(target).copied().unwrap_or(false)
    }
}

/// A column of a side: whether green, the table, the column's name.
type Node<'p> = (bool, &'p TableName, &'p str);
type Bits<'p> = BTreeMap<Node<'p>, u64>;

/// The columns that rules touch, and which of them were joined.
#[derive(Default)]
struct Graph<'p> {
    numbers: BTreeMap<Node<'p>, usize>,
    joined_to: Vec<usize>,
    /// Columns on which existence depends, besides whatever part they belong to.
    existence: BTreeSet<Node<'p>>,
    /// Keys: existence and nothing else.
    keys: BTreeSet<Node<'p>>,
    families: Families<'p>,
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
                let own = |column: &usize| *column < source.columns.len();
                let is_detail = self.families.is_detail((reads_green, &source.name), (!reads_green, &target.name));
                if is_detail {
                    sets.push(output.when.iter().flatten().copied().filter(own).map(from).collect());
                }
                if output.many || is_detail {
                    sets = vec![sets.concat()];
                }
                sets.iter().for_each(|set| self.join(set));
                let when = output.when.as_deref().filter(|_| !is_detail).unwrap_or_default();
                let decides = when.iter().copied().chain(inputs_of_key(output)).filter(own);
                self.existence.extend(decides.map(from));
            }
        }
    }

    /// Parts are numbered inside each family of tables first, so that two parts share a bit only where one has too many.
    /// What had bits before keeps them (`plan::numbering`).
    fn bits(&self, kept: &Numbering) -> Bits<'p> {
        let mut parts: BTreeMap<usize, (BTreeSet<Place<'p>>, u64)> = BTreeMap::new();
        let mut taken: BTreeMap<Place<'p>, u64> = BTreeMap::new();
        for (node, number) in &self.numbers {
            let (table, (tables, bits)) = ((node.0, node.1), parts.entry(self.root(*number)).or_default());
            let name = self.families.name_of(node.0, node.1);
            tables.insert(name);
            *bits |= kept.bits(*node) & !EXISTENCE;
            *taken.entry(name).or_default() |= kept.bits_of_table(table) & !EXISTENCE;
        }
        for (at, (tables, bits)) in (0u64..).zip(parts.values_mut()).filter(|(_, (_, bits))| *bits == 0) {
            let used = tables.iter().fold(0, |used, table| used | taken.get(table).copied().unwrap_or(0));
            let free = u64::from((!used).trailing_zeros());
            *bits = 1 << if free < BITS { free } else { at % BITS };
            tables.iter().for_each(|table| *taken.entry(*table).or_default() |= *bits);
        }
        let mut bits: Bits<'p> =
            self.numbers.iter().map(|(node, number)| (*node, parts[&self.root(*number)].1)).collect();
        for node in self.existence.union(&self.keys) {
            *bits.entry(*node).or_default() |= EXISTENCE;
        }
        bits.iter_mut().for_each(|(node, bits)| *bits |= kept.bits(*node));
        bits
    }

    /// Everything that was kept, and what is new.
    fn numbering(&self, bits: &Bits<'p>, kept: &Numbering, plans: [(&'p Plan, bool); 2]) -> Numbering {
        let mut numbering = kept.clone();
        bits.iter().for_each(|(node, bits)| numbering.set_bits(*node, *bits));
        for (plan, reads_green) in plans {
            let own = plan.targets.iter().filter(|target| !target.internal);
            let targets = own.map(|target| (!reads_green, &target.name));
            for place in plan.sources.iter().map(|source| (reads_green, &source.name)).chain(targets) {
                numbering.set_record(place, self.families.described(place));
            }
        }
        numbering
    }
}

/// The source columns on which it depends under which key a row of the output is there.
fn inputs_of_key(output: &Output) -> Vec<usize> {
    let mut columns = Vec::new();
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
        Parts::numbered(forward, backward, &Numbering::default()).0
    }

    /// The same where columns have been numbered before; and all numbers from now on.
    pub fn numbered(forward: &Plan, backward: &Plan, kept: &Numbering) -> (Parts, Numbering) {
        let mut graph = Graph { families: Families::new(forward, backward), ..Graph::default() };
        for (plan, reads_green) in [(forward, false), (backward, true)] {
            graph.note_keys(plan, reads_green);
        }
        for (plan, reads_green) in [(forward, false), (backward, true)] {
            graph.note_rules(plan, reads_green);
        }
        let bits = graph.bits(kept);
        let numbering = graph.numbering(&bits, kept, [(forward, false), (backward, true)]);
        let of = |plan, back, reads_green| LinkParts {
            twins: twins(plan, back),
            ..of_link(&graph.families, &bits, plan, reads_green)
        };
        (Parts { forward: of(forward, backward, false), backward: of(backward, forward, true) }, numbering)
    }
}

fn of_link<'p>(families: &Families<'p>, bits: &Bits<'p>, plan: &'p Plan, reads_green: bool) -> LinkParts {
    let sources = plan.sources.iter().map(|source| {
        let names: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
        let record =
            record(families, bits, (reads_green, &source.name), |name| names.iter().position(|own| *own == name));
        (of_table(bits, reads_green, &source.name, names.iter().copied()), record)
    });
    let targets = plan.targets.iter().map(|target| {
        let names: Vec<&str> = target.columns.iter().map(|column| column.name.as_str()).collect();
        let in_key = |name: &str| target.key.iter().position(|column| names[usize::from(*column)] == name);
        let record = record(families, bits, (!reads_green, &target.name), in_key);
        (of_table(bits, !reads_green, &target.name, names.iter().copied()), record)
    });
    let (sources, source_records) = sources.unzip();
    let (targets, target_records) = targets.unzip();
    let cleared = (0..plan.targets.len()).map(|target| cleared(families, plan, reads_green, target)).collect();
    let routed = (0..plan.targets.len()).map(|target| has_one_source(families, plan, reads_green, target)).collect();
    LinkParts { sources, targets, source_records, target_records, cleared, routed, twins: Vec::new() }
}

fn of_table<'p>(
    bits: &Bits<'p>,
    green: bool,
    table: &'p TableName,
    columns: impl Iterator<Item = &'p str>,
) -> Box<[u64]> {
    columns.map(|column| bits.get(&(green, table, column)).copied().unwrap_or(0)).collect()
}

/// `at`: where a column of the key stands.
fn record<'p>(
    families: &Families<'p>,
    bits: &Bits<'p>,
    place: (bool, &'p TableName),
    at: impl Fn(&str) -> Option<usize>,
) -> Option<Record> {
    let member = families.members.get(&place)?;
    let order = member.order.iter().map(|column| at(column)).collect::<Option<_>>()?;
    let kin = families.members.iter().filter(|((green, _), other)| *green == place.0 && other.family == member.family);
    let is_detail = |place: &(bool, &TableName)| families.details.iter().any(|(detail, _)| detail == place);
    let part = |table: &TableName| {
        let columns = bits.iter().filter(|((green, name, _), _)| *green == place.0 && *name == table);
        columns.fold(0, |mask, (_, bits)| mask | bits) & !EXISTENCE
    };
    let details = kin.filter(|(place, _)| is_detail(place)).fold(0, |mask, ((_, table), _)| mask | part(table));
    let is_detail = is_detail(&place) && part(place.1) != 0;
    let says = if is_detail { part(place.1) } else { ALL & !details };
    Some(Record { family: member.family.clone(), order, says, is_detail })
}

/// The columns of a target that only details of its rows fill.
fn cleared(families: &Families<'_>, plan: &Plan, reads_green: bool, target: usize) -> Columns {
    let name = &plan.targets[target].name;
    let details = plan.sources.iter().filter(|source| {
        families
            .details
            .iter()
            .any(|(detail, of)| *detail == (reads_green, &source.name) && *of == (!reads_green, name))
    });
    let outputs = details.flat_map(|source| &source.rule.outputs);
    let nulls =
        outputs.filter(|output| output.target == target && output.write == Write::Patch && output.on_remove_null);
    let columns: BTreeSet<u16> = nulls.flat_map(|output| output.columns.iter().copied()).collect();
    columns.into_iter().collect()
}

/// By target of `plan`: sources whose rows own one row of it, and are owned by it on the way back.
fn twins(plan: &Plan, back: &Plan) -> Vec<Box<[usize]>> {
    let owns = |plan: &Plan, source: usize, table: &TableName| {
        let own = |output: &&Output| output.write == Write::Own && plan.targets[output.target].name == *table;
        let mut outputs = plan.sources[source].rule.outputs.iter().filter(own);
        matches!((outputs.next(), outputs.next()), (Some(output), None) if !output.many)
    };
    let way_back = |table: &TableName| back.sources.iter().position(|source| source.name == *table);
    let of = |target: &TableName| -> Box<[usize]> {
        let Some(way_back) = way_back(target) else { return Box::from([]) };
        let is_twin = |source: &usize| owns(plan, *source, target) && owns(back, way_back, &plan.sources[*source].name);
        (0..plan.sources.len()).filter(is_twin).collect()
    };
    plan.targets.iter().map(|target| of(&target.name)).collect()
}

/// Whether no two source rows with one key could both stand in the target.
fn has_one_source(families: &Families<'_>, plan: &Plan, reads_green: bool, target: usize) -> bool {
    let owns = |output: &Output| output.target == target && output.write == Write::Own;
    let owners = plan.sources.iter().filter(|source| source.rule.outputs.iter().any(owns));
    let names: BTreeSet<_> = owners.map(|source| families.name_of(reads_green, &source.name)).collect();
    names.len() == 1
}
