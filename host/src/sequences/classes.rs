//! Which sequences hand out numbers that meet, and which keys nobody keeps apart. Pure: plans and lists in, classes out.
//!
//! ```text
//!   blue    orders_id_seq ---> orders.id ----.-- copied --> orders.id          <--- orders_id_seq            green
//!                                            '-- copied --> archived_orders.id <--- archived_orders_id_seq
//! ```
//!
//! A column that is copied to the other side, in either direction, joins the sequences that feed both ends, whatever the
//! tables are called, split or merged. A sequence of which no column is known is joined with the one of its name.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::Write;
use crate::names::TableName;
use crate::pg::sequences::Sequence;
use crate::plan::Plan;

use super::{Side, side_name};

/// Sequences whose numbers meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// They hand out numbers on both sides.
    pub members: Vec<(Side, Sequence)>,
}

/// What the sequences of both sides have to do with each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Those that are kept apart.
    pub kept: Vec<Class>,
    /// Those that are not, and why.
    pub notes: Vec<String>,
    /// Tables that a link writes whose keys no sequence keeps apart: natural keys, uuids.
    pub unprotected: Vec<TableName>,
}

type Column<'a> = (Side, &'a TableName, &'a str);

/// What is joined: columns and sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node<'a> {
    Column(Column<'a>),
    Sequence(Side, usize),
}

/// The classes of both sides' sequences. `plans`: those of the links there are, each with its link; the one that copies
/// first.
pub fn classes(blue: &[Sequence], green: &[Sequence], plans: &[(Side, &Plan)]) -> Classes {
    let lists = [(Side::Forward, blue), (Side::Backward, green)];
    let columns = Columns::of(plans);
    let mut joined = Joined::default();
    columns.copied.iter().for_each(|(from, to)| joined.join(Node::Column(*from), Node::Column(*to)));
    let mut all = BTreeMap::new();
    for (side, list) in lists {
        for (at, sequence) in list.iter().enumerate() {
            let fed = sequence.feeds.iter().map(|(table, column)| (side, table, column.as_str()));
            let fed: Vec<Column> = fed.filter(|column| columns.known.contains(column)).collect();
            let is_free = sequence.feeds.is_empty() && columns.schemas.contains(&(side, sequence.name.schema.as_str()));
            if fed.is_empty() && !is_free {
                continue;
            }
            let node = Node::Sequence(side, at);
            fed.into_iter().for_each(|column| joined.join(node, Node::Column(column)));
            all.insert(node, sequence);
        }
    }
    by_name(&all, &mut joined);
    // In the order of the lists.
    let mut groups: Vec<(Node, Vec<(Side, &Sequence)>)> = Vec::new();
    for (node, sequence) in &all {
        let (Node::Sequence(side, _), root) = (node, joined.root(*node)) else { continue };
        match groups.iter_mut().find(|(other, _)| *other == root) {
            Some((_, members)) => members.push((*side, sequence)),
            None => groups.push((root, vec![(*side, sequence)])),
        }
    }
    let mut found = Classes::default();
    let mut protected = BTreeSet::new();
    for (root, members) in groups {
        match judge(&members, &columns) {
            Ok(class) => {
                found.kept.push(class);
                protected.insert(root);
            }
            Err(note) => found.notes.extend(note),
        }
    }
    let is_kept =
        |column: &Column| columns.mapped.contains(column) || protected.contains(&joined.root(Node::Column(*column)));
    let unprotected = columns.keys.iter().filter(|(_, key)| !key.iter().any(is_kept));
    found.unprotected = unprotected.map(|(table, _)| (*table).clone()).collect();
    found
}

/// A class that can be kept apart, or what is to be said of it, if anything.
fn judge(members: &[(Side, &Sequence)], columns: &Columns<'_>) -> Result<Class, Option<String>> {
    if let Some((side, odd)) = members.iter().find(|(_, sequence)| sequence.increment < 1 || sequence.cycles) {
        let what = "counts down or in circles: its numbers are not kept apart from the other side's";
        return Err(Some(format!("sequence {} of {} {what}", odd.name, side_name(*side))));
    }
    let on = |side: Side| members.iter().any(|(own, _)| *own == side);
    if on(Side::Forward) && on(Side::Backward) {
        let members = members.iter().map(|(side, sequence)| (*side, (*sequence).clone())).collect();
        return Ok(Class { members });
    }
    Err(members.iter().find_map(|(side, sequence)| alone(*side, sequence, columns)))
}

/// What is to be said of a sequence without one on the other side: nothing, if no key of a migrated table hangs on it.
fn alone(side: Side, sequence: &Sequence, columns: &Columns<'_>) -> Option<String> {
    let (name, own, other) = (&sequence.name, side_name(side), side_name(side.other()));
    if sequence.feeds.is_empty() {
        return Some(format!(
            "sequence {name} of {own} feeds no column, and {other} has none of its name: if both applications hand out \
             such numbers, they are not kept apart"
        ));
    }
    let is_key = |(table, column): &&(TableName, String)| {
        let column = (side, table, column.as_str());
        columns.key_columns.contains(&column) && !columns.mapped.contains(&column)
    };
    let (table, column) = sequence.feeds.iter().find(is_key)?;
    Some(format!(
        "sequence {name} of {own} hands out {table}.{column}, and none of {other} hands out what stands for it there: \
         its numbers are not kept apart"
    ))
}

/// Joins each sequence that feeds no column with the one of its name on the other side.
fn by_name<'a>(all: &BTreeMap<Node<'a>, &'a Sequence>, joined: &mut Joined<'a>) {
    let named: BTreeMap<(Side, &TableName), Node> = all
        .iter()
        .filter_map(|(node, sequence)| match node {
            Node::Sequence(side, _) => Some(((*side, &sequence.name), *node)),
            Node::Column(_) => None,
        })
        .collect();
    for ((side, name), node) in &named {
        let Some(other) = named.get(&(side.other(), *name)) else { continue };
        if all[node].feeds.is_empty() || all[other].feeds.is_empty() {
            joined.join(*node, *other);
        }
    }
}

/// What the plans say of columns.
#[derive(Default)]
struct Columns<'a> {
    /// Every column that a link reads or fills, or finds rows by.
    known: BTreeSet<Column<'a>>,
    /// From and to.
    copied: Vec<(Column<'a>, Column<'a>)>,
    /// Columns of keys.
    key_columns: BTreeSet<Column<'a>>,
    /// Key columns of maps: their values are paired, and need not differ.
    mapped: BTreeSet<Column<'a>>,
    /// Schemas with tables of the migration.
    schemas: BTreeSet<(Side, &'a str)>,
    /// By table of the first plan's target whose rows are somebody's own: its key.
    keys: BTreeMap<&'a TableName, Vec<Column<'a>>>,
}

impl<'a> Columns<'a> {
    fn of(plans: &[(Side, &'a Plan)]) -> Self {
        let mut columns = Columns::default();
        for (number, (link, plan)) in plans.iter().enumerate() {
            columns.read(*link, plan);
            columns.written(*link, plan, number == 0);
        }
        columns
    }

    fn read(&mut self, link: Side, plan: &'a Plan) {
        for source in &plan.sources {
            self.schemas.insert((link, &source.name.schema));
            let column = |at: &usize| source.columns.get(*at).map(|column| (link, &source.name, column.name.as_str()));
            let key: Vec<Column> = source.key.iter().filter_map(column).collect();
            self.key_columns.extend(&key);
            self.known.extend(source.columns.iter().map(|column| (link, &source.name, column.name.as_str())));
        }
        self.mapped.extend(plan.maps.iter().map(|map| (link.other(), &map.table, map.column.as_str())));
    }

    fn written(&mut self, link: Side, plan: &'a Plan, is_first: bool) {
        for source in &plan.sources {
            for output in source.rule.outputs.iter().filter(|output| output.write != Write::Patch) {
                let target = &plan.targets[output.target];
                let column = |at: u16| (link.other(), &target.name, target.columns[usize::from(at)].name.as_str());
                self.schemas.insert((link.other(), &target.name.schema));
                let copied = output.copied.iter().filter_map(|(from, to)| {
                    let from = source.columns.get(*from)?;
                    Some(((link, &source.name, from.name.as_str()), column(*to)))
                });
                self.copied.extend(copied);
                self.known.extend(output.columns.iter().map(|at| column(*at)));
                let key: Vec<Column> = target.key.iter().map(|at| column(*at)).collect();
                self.key_columns.extend(&key);
                if is_first && output.write == Write::Own {
                    self.keys.insert(&target.name, key);
                }
            }
        }
    }
}

/// Sets that grow together.
#[derive(Default)]
struct Joined<'a>(BTreeMap<Node<'a>, Node<'a>>);

impl<'a> Joined<'a> {
    fn root(&self, node: Node<'a>) -> Node<'a> {
        let mut at = node;
        while let Some(above) = self.0.get(&at) {
            at = *above;
        }
        at
    }

    fn join(&mut self, one: Node<'a>, other: Node<'a>) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.0.insert(one.max(other), one.min(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Table};
    use crate::manifest::{Direction, Manifest};
    use crate::plan::bind::{Binding, bind_what_fits};

    /// Tables of text columns; the first one is the key.
    fn catalog(tables: &[(&str, &[&str])]) -> Catalog {
        tables.iter().map(|(name, columns)| Table::of_text(name, columns, 0..1)).collect()
    }

    /// A sequence of `public`, and the columns of `public` that draw from it.
    fn sequence(name: &str, feeds: &[(&str, &str)]) -> Sequence {
        let public = |name: &str| TableName::new("public", name);
        Sequence {
            name: public(name),
            feeds: feeds.iter().map(|(table, column)| (public(table), (*column).to_owned())).collect(),
            last: Some(0),
            most: i64::MAX.into(),
            increment: 1,
            cache: 1,
            cycles: false,
            may_set: true,
        }
    }

    fn found(manifest: serde_json::Value, catalogs: [&Catalog; 2], blue: &[Sequence], green: &[Sequence]) -> Classes {
        let mut whole = serde_json::json!({ "falkirk": 1, "name": "t", "from": "1", "to": "2" });
        whole.as_object_mut().unwrap().append(&mut manifest.as_object().unwrap().clone());
        let manifest: Manifest = serde_json::from_value(whole).unwrap();
        let plan = |direction: Direction, source, target| {
            let rules = manifest.rules(direction);
            let manifest = Some((&manifest, direction));
            let binding = Binding { rules, artifact: "", manifest, source, target, include: &[], exclude: &[] };
            let (plan, problems) = bind_what_fits(&binding);
            assert!(problems.is_empty(), "{problems:?}");
            plan
        };
        let forward = plan(Direction::Forward, catalogs[0], catalogs[1]);
        let backward = plan(Direction::Backward, catalogs[1], catalogs[0]);
        classes(blue, green, &[(Side::Forward, &forward), (Side::Backward, &backward)])
    }

    /// `blue.a green.a, ...`, one class a line.
    fn lines(found: &Classes) -> Vec<String> {
        let member = |(side, sequence): &(Side, Sequence)| format!("{}.{}", side_name(*side), sequence.name.table);
        let class = |class: &Class| class.members.iter().map(member).collect::<Vec<_>>().join(" ");
        found.kept.iter().map(class).collect()
    }

    fn as_it_is() -> serde_json::Value {
        serde_json::json!({})
    }

    #[test]
    fn tables_that_are_copied_as_they_are_pair_by_column_and_free_sequences_by_name() {
        let both = catalog(&[("item", &["id", "note"]), ("coupon", &["code"])]);
        let blue = [sequence("item_id_seq", &[("item", "id")]), sequence("number", &[])];
        let green = [sequence("numbers_of_items", &[("item", "id")]), sequence("number", &[]), sequence("alone", &[])];
        let found = found(as_it_is(), [&both, &both], &blue, &green);
        assert_eq!(lines(&found), ["blue.item_id_seq green.numbers_of_items", "blue.number green.number"]);
        assert_eq!(found.unprotected, [TableName::new("public", "coupon")]);
        assert_eq!(found.notes.len(), 1);
        assert!(found.notes[0].contains("public.alone of green"), "{:?}", found.notes);
    }

    #[test]
    fn counter_example_24_renamed_split_and_merged_tables_pair_by_what_is_copied() {
        let blue = catalog(&[("orders", &["id", "kind"]), ("a", &["id", "x"]), ("b", &["id", "x"])]);
        let green = catalog(&[("open", &["number", "kind"]), ("done", &["number", "kind"]), ("c", &["id", "x"])]);
        let order = |table: &str| serde_json::json!({ "table": table, "when": ["kind"], "same_named": true, "copied": { "number": "id" } });
        let merged = serde_json::json!({ "table": "c", "shares": true, "same_named": true });
        let back = |table: &str, when: bool| {
            let when = if when { serde_json::json!(["x"]) } else { serde_json::Value::Null };
            let mut output = serde_json::json!({ "table": table, "same_named": true });
            if !when.is_null() {
                output["when"] = when;
            }
            output
        };
        let order_back =
            serde_json::json!({ "table": "orders", "shares": true, "same_named": true, "copied": { "id": "number" } });
        let manifest = serde_json::json!({
            "forward": [
                { "table": "orders", "columns": ["kind"], "outputs": [order("open"), order("done")] },
                { "table": "a", "columns": [], "outputs": [merged] },
                { "table": "b", "columns": [], "outputs": [merged] }],
            "backward": [
                { "table": "open", "columns": [], "outputs": [order_back] },
                { "table": "done", "columns": [], "outputs": [order_back] },
                { "table": "c", "columns": ["x"], "outputs": [back("a", true), back("b", true)] }] });
        let blue_sequences = [
            sequence("orders_seq", &[("orders", "id")]),
            sequence("a_seq", &[("a", "id")]),
            sequence("b_seq", &[("b", "id")]),
        ];
        let green_sequences = [
            sequence("open_seq", &[("open", "number")]),
            sequence("done_seq", &[("done", "number")]),
            sequence("c_seq", &[("c", "id")]),
        ];
        let found = found(manifest, [&blue, &green], &blue_sequences, &green_sequences);
        assert_eq!(
            lines(&found),
            ["blue.orders_seq green.open_seq green.done_seq", "blue.a_seq blue.b_seq green.c_seq"]
        );
        assert_eq!((found.notes, found.unprotected), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_sequence_of_a_key_without_another_one_is_said_and_its_table_is_not_protected() {
        let both = catalog(&[("item", &["id", "note"])]);
        let fed = sequence("item_id_seq", &[("item", "id")]);
        let alone = found(as_it_is(), [&both, &both], &[], std::slice::from_ref(&fed));
        assert_eq!((lines(&alone).len(), alone.unprotected.len()), (0, 1));
        assert!(alone.notes[0].contains("public.item_id_seq of green hands out public.item.id"), "{:?}", alone.notes);
        let circle = Sequence { cycles: true, ..fed.clone() };
        let odd = found(as_it_is(), [&both, &both], &[circle], &[fed]);
        assert!(lines(&odd).is_empty() && odd.notes[0].contains("in circles"), "{:?}", odd.notes);
        // No key, no matter.
        let note = sequence("note_seq", &[("item", "note")]);
        assert_eq!(found(as_it_is(), [&both, &both], &[], &[note]).notes, [""; 0]);
    }

    #[test]
    fn one_sequence_behind_two_tables_joins_them_and_tables_of_nobody_are_left_alone() {
        let both = catalog(&[("item", &["id"]), ("thing", &["id"])]);
        let shared = |name: &str| sequence(name, &[("item", "id"), ("thing", "id")]);
        let other = sequence("other_seq", &[("other", "id")]);
        let green = [sequence("i", &[("item", "id")]), sequence("t", &[("thing", "id")]), other.clone()];
        let found = found(as_it_is(), [&both, &both], &[shared("all"), other], &green);
        assert_eq!(lines(&found), ["blue.all green.i green.t"]);
    }

    #[test]
    fn keys_that_a_map_pairs_need_no_other_sequence() {
        let blue = catalog(&[("person", &["id", "name"])]);
        let mut green = catalog(&[("person", &["key", "name"])]);
        green.tables.values_mut().for_each(|table| table.columns[0].has_default = true);
        let rule = |to: &str, from: &str| {
            serde_json::json!([{ "table": "person", "columns": [], "outputs": [
                { "table": "person", "same_named": true, "mapped": { (to): ["person", from] } }] }])
        };
        let manifest = serde_json::json!({
            "maps": { "person": { "blue": "person.id", "green": "person.key", "creates": "green" } },
            "forward": rule("key", "id"), "backward": rule("id", "key") });
        let found = found(manifest, [&blue, &green], &[sequence("s", &[("person", "id")])], &[]);
        assert_eq!((lines(&found).len(), found.notes, found.unprotected), (0, Vec::new(), Vec::new()));
    }
}
