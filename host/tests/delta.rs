//! The delta rules against the only definition that counts: applying deltas to a target equals transforming the final
//! source. Everything here is pure; the target is a map that refuses what PostgreSQL would refuse.

use std::collections::{BTreeMap, BTreeSet};

use falkirk::catalog::{Catalog, Table, Unique};
use falkirk::change::{Before, Datum, Event, Image};
use falkirk::delta::fold::Folder;
use falkirk::delta::lift::{self, Lifter};
use falkirk::delta::{Effect, Operation, Set, SetKind};
use falkirk::manifest::Rule;
use falkirk::plan::bind::{Binding, bind};
use falkirk::plan::{Answer, OutputRow, Plan};
use proptest::prelude::*;

/// A source table `s(id, a, b, kind, list)` and one target for each way of standing for a row.
fn plan() -> Plan {
    let source = Catalog::from_iter([Table::of_text("s", &["id", "a", "b", "kind", "list"], [0])]);
    let unique =
        Unique { name: "u".into(), columns: vec![1], touches: vec![1], deferrable: false, usable_as_key: false };
    let target = Catalog::from_iter([
        Table::of_text("split", &["id", "a", "b1", "b2", "own"], [0]),
        Table::of_text("open", &["id", "a"], [0]),
        Table::of_text("closed", &["id", "a"], [0]),
        Table::of_text("child", &["id", "k", "v", "own"], [0, 1]),
        Table::of_text("keyed", &["k", "a"], [0]),
        Table { uniques: vec![unique], ..Table::of_text("single", &["id", "u"], [0]) },
    ]);
    let rule: Rule = serde_json::from_value(serde_json::json!({
        "table": "s", "columns": ["id", "b", "kind", "list"],
        "outputs": [
            { "table": "split", "same_named": true, "computed": [ { "from": ["b"], "to": ["b1", "b2"] } ] },
            { "table": "open", "when": ["kind"], "same_named": true },
            { "table": "closed", "when": ["kind"], "same_named": true },
            { "table": "child", "many": true, "copied": { "id": "id" },
              "computed": [ { "from": ["list"], "to": ["k", "v"] } ] },
            { "table": "keyed", "copied": { "a": "a" }, "computed": [ { "from": ["id", "b"], "to": ["k"] } ] },
            { "table": "single", "copied": { "id": "id", "u": "a" } }
        ]
    }))
    .unwrap();
    bind(&Binding {
        rules: &[rule],
        artifact: "test",
        source: &source,
        target: &target,
        include: &[],
        exclude: &[],
        manifest: None,
    })
    .unwrap()
}

type Cell = Option<String>;
type Row = Vec<Cell>;

fn image(row: &Row) -> Image {
    Image::from_datums(&row.iter().map(|cell| cell.clone().map_or(Datum::Null, Datum::text)).collect::<Vec<_>>())
}

/// The transform, as a guest would answer: pure, from the asked columns.
fn answer(row: &Row) -> Answer {
    let text = |column: usize| row[column].clone().unwrap_or_default();
    let values = |values: &[&str]| values.iter().map(|value| Datum::text(*value)).collect::<Vec<_>>();
    let b = text(2);
    let (b1, b2) = b.split_once(' ').unwrap_or((&b, ""));
    let mut answer = vec![OutputRow { output: 0, values: values(&[b1, b2]) }];
    match row[3].as_deref() {
        Some("open") => answer.push(OutputRow { output: 1, values: vec![] }),
        Some("closed") => answer.push(OutputRow { output: 2, values: vec![] }),
        _ => {}
    }
    for item in text(4).split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once(':').unwrap();
        answer.push(OutputRow { output: 3, values: values(&[key, value]) });
    }
    answer.push(OutputRow { output: 4, values: values(&[&format!("{}-{b}", text(0))]) });
    answer
}

/// What a target holds: by table and key, column name to value.
type Content = BTreeMap<(String, Vec<Cell>), BTreeMap<String, Cell>>;

fn plain(datum: &Datum) -> Cell {
    match datum {
        Datum::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        Datum::Null | Datum::Unset => None,
    }
}

#[derive(Default)]
struct Database {
    rows: Content,
}

impl Database {
    fn run(&mut self, plan: &Plan, set: &Set) {
        let target = &plan.targets[set.target];
        let table = target.name.table.clone();
        let named = |columns: &[u16], values: &[Datum]| -> Vec<(String, Cell)> {
            let name = |column: &u16| target.columns[usize::from(*column)].name.clone();
            columns.iter().map(name).zip(values.iter().map(plain)).collect()
        };
        let key = |key: &[Datum]| (table.clone(), key.iter().map(plain).collect::<Vec<_>>());
        let mut seen = BTreeSet::new();
        for at in 0..set.rows() {
            match set.kind {
                SetKind::Ensure | SetKind::Clear => unreachable!("no rule here ensures or patches"),
                SetKind::Insert => {
                    let row: BTreeMap<String, Cell> = named(&set.columns, &set.values[at]).into_iter().collect();
                    let name = |column: &u16| row[&target.columns[usize::from(*column)].name].clone();
                    let place = (table.clone(), target.key.iter().map(name).collect::<Vec<_>>());
                    assert!(self.rows.insert(place, row).is_none(), "insert of a row that exists in {table}");
                }
                SetKind::Patch => {
                    assert!(seen.insert(key(&set.keys[at])), "one statement touches a row twice in {table}");
                    let row = self.rows.get_mut(&key(&set.keys[at])).expect("patch of a row that is not there");
                    row.extend(named(&set.columns, &set.values[at]));
                }
                SetKind::Rekey => {
                    let mut row = self.rows.remove(&key(&set.keys[at])).expect("rekey of a row that is not there");
                    row.extend(named(&target.key, &set.new_keys[at]));
                    row.extend(named(&set.columns, &set.values[at]));
                    assert!(self.rows.insert(key(&set.new_keys[at]), row).is_none(), "rekey onto a row in {table}");
                }
                SetKind::Delete => {
                    self.rows.remove(&key(&set.keys[at])).expect("delete of a row that is not there");
                }
                SetKind::Truncate => {}
            }
            self.check_uniques(plan, set.target);
        }
    }

    /// A plain unique constraint is checked row by row.
    fn check_uniques(&self, plan: &Plan, target: usize) {
        let target = &plan.targets[target];
        for unique in &target.uniques {
            let mut seen = BTreeSet::new();
            for row in self.rows.iter().filter(|((table, _), _)| *table == target.name.table).map(|(_, row)| row) {
                let name = |column: &u16| row.get(&target.columns[usize::from(*column)].name).cloned().flatten();
                let value: Option<Vec<String>> = unique.iter().map(name).collect();
                assert!(value.is_none() || seen.insert(value), "a unique value stands twice in {}", target.name);
            }
        }
    }
}

fn transformed(plan: &Plan, source: &BTreeMap<String, Row>) -> Content {
    let mut database = Database::default();
    let mut lifter = Lifter::default();
    let mut folder = Folder::new(&plan.targets);
    for row in source.values() {
        lift_into(plan, &mut lifter, &Event::Insert(image(row)), (None, Some(row)), &mut folder);
    }
    folder.finish().iter().flatten().for_each(|set| database.run(plan, set));
    database.rows
}

fn lift_into(
    plan: &Plan,
    lifter: &mut Lifter,
    event: &Event,
    (before, after): (Option<&Row>, Option<&Row>),
    folder: &mut Folder<'_>,
) {
    let source = &plan.sources[0];
    let ask = lift::ask(source, event);
    let before = before.filter(|_| ask.before).map(answer);
    let after = after.filter(|_| ask.after).map(answer);
    let mut operations = Vec::new();
    lifter.lift(0, source, &plan.targets, event, (before.as_ref(), after.as_ref()), &mut operations).unwrap();
    operations.into_iter().for_each(|operation| folder.push(operation));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Row),
    Update(usize, usize, Cell),
    Rename(usize, String),
    Delete(usize),
    EndOfBatch,
}

fn row() -> impl Strategy<Value = Row> {
    let word = prop_oneof![Just("x"), Just("x y"), Just("y z"), Just("z")].prop_map(String::from);
    let kind = prop_oneof![Just(None), Just(Some("open".to_owned())), Just(Some("closed".to_owned()))];
    let list = prop_oneof![Just(""), Just("k:1"), Just("k:2"), Just("k:1,l:1"), Just("l:2,m:1")].prop_map(String::from);
    ("[1-4]", "[a-e]", word, kind, list)
        .prop_map(|(id, a, b, kind, list)| vec![Some(id), Some(a), Some(b), kind, Some(list)])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => row().prop_map(Step::Insert),
        5 => (0..4usize, 1..5usize, row()).prop_map(|(at, column, row)| Step::Update(at, column, row[column].clone())),
        1 => (0..4usize, "[1-4]").prop_map(|(at, id)| Step::Rename(at, id)),
        2 => (0..4usize).prop_map(Step::Delete),
        1 => Just(Step::EndOfBatch),
    ]
}

/// Carries a step out on the source: rows by id, column `a` unique over all rows, as the application's own database
/// would have it. `None` if that database would refuse the step.
fn carry_out(source: &mut BTreeMap<String, Row>, step: &Step) -> Option<(Option<Row>, Option<Row>)> {
    let nth = |source: &BTreeMap<String, Row>, at: usize| source.values().nth(at % source.len().max(1)).cloned();
    let id = |row: &Row| row[0].clone().unwrap();
    let (before, after) = match step {
        Step::Insert(row) if source.contains_key(&id(row)) => return None,
        Step::Insert(row) => (None, Some(row.clone())),
        Step::Update(at, column, value) => {
            let before = nth(source, *at)?;
            let mut after = before.clone();
            after[*column] = value.clone();
            (Some(before), Some(after))
        }
        Step::Rename(_, new) if source.contains_key(new) => return None,
        Step::Rename(at, new) => {
            let before = nth(source, *at)?;
            let mut after = before.clone();
            after[0] = Some(new.clone());
            (Some(before), Some(after))
        }
        Step::Delete(at) => (Some(nth(source, *at)?), None),
        Step::EndOfBatch => return None,
    };
    let own = before.as_ref().map(id);
    if let Some(after) = &after
        && source.iter().any(|(key, row)| Some(key) != own.as_ref() && row[1] == after[1])
    {
        return None;
    }
    before.as_ref().map(|row| source.remove(&id(row)));
    after.as_ref().map(|row| source.insert(id(row), row.clone()));
    Some((before, after))
}

fn event_of(before: Option<&Row>, after: Option<&Row>) -> Option<Event> {
    Some(match (before, after) {
        (None, None) => return None,
        (None, Some(after)) => Event::Insert(image(after)),
        (Some(before), None) => Event::Delete(Before::Full(image(before))),
        (Some(before), Some(after)) => Event::Update { before: Before::Full(image(before)), after: image(after) },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// L6, counter-examples 14 and 15: whatever happens to the source and however it is cut into batches, the folded
    /// sets lead the target to what the final source stands for, and no statement meets a row or a value twice.
    #[test]
    fn deltas_applied_to_a_target_equal_the_transformed_source(steps in proptest::collection::vec(step(), 0..40)) {
        let plan = plan();
        let mut source = BTreeMap::new();
        let mut database = Database::default();
        let mut lifter = Lifter::default();
        let mut folder = Folder::new(&plan.targets);
        for step in &steps {
            if matches!(step, Step::EndOfBatch) {
                let full = std::mem::replace(&mut folder, Folder::new(&plan.targets));
                full.finish().iter().flatten().for_each(|set| database.run(&plan, set));
            }
            let Some((before, after)) = carry_out(&mut source, step) else { continue };
            let Some(event) = event_of(before.as_ref(), after.as_ref()) else { continue };
            lift_into(&plan, &mut lifter, &event, (before.as_ref(), after.as_ref()), &mut folder);
        }
        folder.finish().iter().flatten().for_each(|set| database.run(&plan, set));
        prop_assert_eq!(database.rows, transformed(&plan, &source));
    }
}

fn lifted(before: &Row, after: &Row) -> Vec<Operation> {
    let plan = plan();
    let event = event_of(Some(before), Some(after)).unwrap();
    let ask = lift::ask(&plan.sources[0], &event);
    let (old, new) = (ask.before.then(|| answer(before)), ask.after.then(|| answer(after)));
    let mut operations = Vec::new();
    Lifter::default()
        .lift(0, &plan.sources[0], &plan.targets, &event, (old.as_ref(), new.as_ref()), &mut operations)
        .unwrap();
    operations
}

fn base() -> Row {
    ["1", "mail", "Mary Ann Smith", "none", "k:1,l:1"].map(|text| Some(text.to_owned())).to_vec()
}

fn with(column: usize, value: &str) -> Row {
    let mut row = base();
    row[column] = Some(value.to_owned());
    row
}

/// The effects on one table, each with the names of the columns it writes.
fn effects(operations: &[Operation], table: &str) -> Vec<(&'static str, String)> {
    let plan = plan();
    let of_table = operations.iter().filter(|operation| plan.targets[operation.target].name.table == table);
    let mut effects: Vec<_> = of_table
        .map(|operation| {
            let names = |columns: &[u16]| {
                let name = |column: &u16| plan.targets[operation.target].columns[usize::from(*column)].name.as_str();
                columns.iter().map(name).collect::<Vec<_>>().join(" ")
            };
            match &operation.effect {
                Effect::Insert { columns, .. } => ("insert", names(columns)),
                Effect::Patch { columns, .. } => ("patch", names(columns)),
                Effect::Ensure { columns, .. } => ("ensure", names(columns)),
                Effect::Clear { columns, .. } => ("clear", names(columns)),
                Effect::Rekey { columns, .. } => ("rekey", names(columns)),
                Effect::Delete { .. } => ("delete", String::new()),
                Effect::Absent { .. } => ("absent", String::new()),
                Effect::Truncate { .. } => ("truncate", String::new()),
            }
        })
        .collect();
    effects.sort();
    effects
}

#[test]
fn l6_only_the_copied_column_that_changed_travels() {
    assert_eq!(effects(&lifted(&base(), &with(1, "new")), "split"), [("patch", "a".into())]);
}

#[test]
fn counter_example_1_a_group_is_written_as_a_whole_when_its_input_changed() {
    let operations = lifted(&base(), &with(2, "Mary Ann Jones"));
    assert_eq!(effects(&operations, "split"), [("patch", "b1 b2".into())], "first does not differ and is written too");
}

#[test]
fn l6_nothing_changed_nothing_is_written_and_the_guest_is_not_asked() {
    assert!(lifted(&base(), &base()).is_empty());
    let event = event_of(Some(&base()), Some(&base())).unwrap();
    assert_eq!(lift::ask(&plan().sources[0], &event), lift::Ask::default());
}

#[test]
fn counter_example_9_the_guest_decides_where_a_routed_row_goes() {
    let operations = lifted(&with(3, "open"), &with(3, "closed"));
    assert_eq!(effects(&operations, "open"), [("delete", String::new())]);
    assert_eq!(effects(&operations, "closed"), [("insert", "id a".into())]);
}

#[test]
fn l6_a_list_item_that_did_not_change_is_not_written_again() {
    let operations = lifted(&base(), &with(4, "k:1,l:2,m:1"));
    assert_eq!(effects(&operations, "child"), [("insert", "id k v".into()), ("patch", "v".into())]);
}

#[test]
fn counter_example_14_a_changed_key_is_a_rekey_that_keeps_the_complement() {
    let operations = lifted(&base(), &with(0, "2"));
    assert_eq!(effects(&operations, "split"), [("rekey", String::new())]);
    assert_eq!(effects(&operations, "child").len(), 4, "rows of a list are paired by key: two go, two come");
}

#[test]
fn counter_example_10_two_source_rows_on_one_target_row_never_fold_into_one() {
    let plan = plan();
    let source = &plan.sources[0];
    let mut lifter = Lifter::default();
    let mut operations = Vec::new();
    let answered = answer(&base());
    let insert = Event::Insert(image(&base()));
    lifter.lift(0, source, &plan.targets, &insert, (None, Some(&answered)), &mut operations).unwrap();
    let delete = Event::Delete(Before::Full(image(&base())));
    lifter.lift(1, source, &plan.targets, &delete, (Some(&answered), None), &mut operations).unwrap();
    let mut folder = Folder::new(&plan.targets);
    operations.into_iter().for_each(|operation| folder.push(operation));
    let sets: Vec<Set> = folder.finish().into_iter().flatten().collect();
    assert!(sets.iter().any(|set| set.kind == SetKind::Insert), "the insert must meet the other owner in the database");
}
