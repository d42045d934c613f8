//! Rows that pass from one source table to another while one target table holds both tables' rows. Pure: the target is
//! a map that refuses what PostgreSQL would refuse.

use std::collections::BTreeMap;

use falkirk::catalog::{Catalog, Table};
use falkirk::change::{Before, Datum, Event, Image};
use falkirk::delta::fold::Folder;
use falkirk::delta::lift::Lifter;
use falkirk::delta::moves::{Lifted, Moves};
use falkirk::delta::{Set, SetKind};
use falkirk::lsn::Lsn;
use falkirk::manifest::Rule;
use falkirk::names::TableName;
use falkirk::plan::Plan;
use falkirk::plan::bind::{Binding, bind};
use falkirk::problem::Problem;
use proptest::prelude::*;

fn table(name: &str, columns: &[&str]) -> Table {
    Table::of_text(name, columns, [0])
}

/// `mail(id, a)` and `letter(id, a)` become `message(id, a, own)`. Each output has further keys of the manifest.
fn bound(outputs: [serde_json::Value; 2]) -> Result<Plan, Vec<Problem>> {
    let source = Catalog::from_iter([table("mail", &["id", "a"]), table("letter", &["id", "a"])]);
    let target = Catalog::from_iter([table("message", &["id", "a", "own"])]);
    let [mail, letter] = outputs.map(|mut output| {
        output["table"] = "message".into();
        output["same_named"] = true.into();
        output
    });
    let rule = |table: &str, output| -> Rule {
        serde_json::from_value(serde_json::json!({ "table": table, "outputs": [output] })).unwrap()
    };
    let rules = [rule("mail", mail), rule("letter", letter)];
    bind(&Binding {
        rules: &rules,
        artifact: "test",
        source: &source,
        target: &target,
        include: &[],
        exclude: &[],
        manifest: None,
    })
}

fn plan() -> Plan {
    bound([serde_json::json!({ "shares": true }), serde_json::json!({ "shares": true })]).unwrap()
}

#[test]
fn counter_example_10_two_owners_of_one_table_are_refused_unless_both_share_it() {
    let share = serde_json::json!({ "shares": true });
    let alone = serde_json::json!({});
    assert!(bound([share.clone(), share.clone()]).is_ok());
    for outputs in [[alone.clone(), alone.clone()], [share.clone(), alone.clone()], [alone, share.clone()]] {
        let problems = bound(outputs).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.code()).collect::<Vec<_>>(), ["TWO_OWNERS"]);
    }
    let soft = serde_json::json!({ "shares": true, "on_delete": { "set": { "own": "t" } } });
    let problems = bound([share, soft]).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code() == "BAD_WRITE"));
}

/// `own` is what the target's own application wrote: no rule knows of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    a: String,
    own: String,
}

/// What the target holds, by key. `Err`: it would have refused.
fn run(rows: &mut BTreeMap<String, Row>, sets: &[Set]) -> Result<(), &'static str> {
    let text = |datum: &Datum| match datum {
        Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        Datum::Null | Datum::Unset => String::new(),
    };
    for set in sets {
        for at in 0..set.rows() {
            match set.kind {
                SetKind::Insert => {
                    let row = Row { a: text(&set.values[at][1]), own: String::new() };
                    if rows.insert(text(&set.values[at][0]), row).is_some() {
                        return Err("the key is taken");
                    }
                }
                SetKind::Patch => {
                    let row = rows.get_mut(&text(&set.keys[at][0])).ok_or("no such row to patch")?;
                    row.a = text(&set.values[at][0]);
                }
                SetKind::Delete => {
                    rows.remove(&text(&set.keys[at][0])).ok_or("no such row to delete")?;
                }
                SetKind::Ensure | SetKind::Clear | SetKind::Rekey | SetKind::Truncate => {
                    unreachable!("no rule here does so")
                }
            }
        }
    }
    Ok(())
}

/// One statement of an application on table 0 or 1.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Insert(usize, u8, u8),
    Update(usize, u8, u8),
    Delete(usize, u8),
    /// To the other table, inserted there first or deleted here first, updated here in between.
    Move(usize, u8, u8, bool),
}

type Source = [BTreeMap<u8, u8>; 2];

fn image(key: u8, a: u8) -> Image {
    Image::from_datums(&[Datum::text(key.to_string()), Datum::text(a.to_string())])
}

/// Carries a deed out on the source. Empty if its database would refuse it, or a key would get two owners.
fn carry_out(source: &mut Source, deed: Deed) -> Vec<(usize, Event)> {
    match deed {
        Deed::Insert(at, key, a) if source.iter().all(|table| !table.contains_key(&key)) => {
            source[at].insert(key, a);
            vec![(at, Event::Insert(image(key, a)))]
        }
        Deed::Update(at, key, a) if source[at].contains_key(&key) => {
            let before = Before::Full(image(key, source[at].insert(key, a).unwrap()));
            vec![(at, Event::Update { before, after: image(key, a) })]
        }
        Deed::Delete(at, key) => {
            let gone = source[at].remove(&key);
            gone.map(|a| (at, Event::Delete(Before::Full(image(key, a))))).into_iter().collect()
        }
        Deed::Move(at, key, a, insert_first) => {
            let Some(old) = source[at].remove(&key) else { return Vec::new() };
            source[1 - at].insert(key, a);
            let insert = (1 - at, Event::Insert(image(key, a)));
            let update = Event::Update { before: Before::Full(image(key, old)), after: image(key, 250) };
            let delete = (at, Event::Delete(Before::Full(image(key, if insert_first { 250 } else { old }))));
            if insert_first { vec![insert, (at, update), delete] } else { vec![delete, insert] }
        }
        Deed::Insert(..) | Deed::Update(..) => Vec::new(),
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    let (table, key, a) = (0..2usize, 0..3u8, 0..9u8);
    prop_oneof![
        2 => (table.clone(), key.clone(), a.clone()).prop_map(|(at, key, a)| Deed::Insert(at, key, a)),
        2 => (table.clone(), key.clone(), a.clone()).prop_map(|(at, key, a)| Deed::Update(at, key, a)),
        1 => (table.clone(), key.clone()).prop_map(|(at, key)| Deed::Delete(at, key)),
        3 => (table, key, a, any::<bool>()).prop_map(|(at, key, a, first)| Deed::Move(at, key, a, first)),
    ]
}

/// Leads the target over transactions that share one batch.
fn lead(
    plan: &Plan,
    batch: &[Vec<(usize, Event)>],
    strictly: bool,
    rows: &mut BTreeMap<String, Row>,
) -> Result<(), &'static str> {
    let mut lifter = Lifter::default();
    let mut folder = Folder::new(&plan.targets);
    folder.one_by_one = strictly;
    let mut moves = Moves::new(&plan.targets);
    let mut fold = |lifted: Lifted| folder.push(lifted.operation);
    for (at, transaction) in batch.iter().enumerate() {
        for (source, event) in transaction {
            let name = TableName::new("public", if *source == 0 { "mail" } else { "letter" });
            let source = plan.by_name[&name];
            let mut operations = Vec::new();
            lifter.lift(source, &plan.sources[source], &plan.targets, event, (None, None), &mut operations).unwrap();
            for operation in operations {
                moves.push(
                    Lsn(at as u64),
                    Lifted { change: 0, operation, whole: None, changed: 0, from: None },
                    &mut fold,
                );
            }
        }
    }
    moves.finish(&mut fold);
    folder.finish().iter().try_for_each(|sets| run(rows, sets))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// L6: whatever moves between the tables, and however it is cut into batches, the target's rows keep what no rule
    /// writes as long as at the end of every transaction one of the tables holds them and no transaction removed them.
    #[test]
    fn l6_a_row_that_moves_between_tables_that_share_keeps_its_complement(
        batches in prop::collection::vec(prop::collection::vec(prop::collection::vec(deed(), 1..4), 1..4), 1..6),
        strictly in any::<bool>(),
    ) {
        let plan = plan();
        let mut source = Source::default();
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        let mut own: BTreeMap<String, String> = BTreeMap::new();
        for (number, batch) in batches.iter().enumerate() {
            let mut transactions = Vec::new();
            for deeds in batch {
                let mut events = Vec::new();
                let mut renewed = Vec::new();
                for deed in deeds {
                    // A row that went and came again in one transaction may be the same or another: not asked here.
                    let key = match *deed { Deed::Insert(_, key, _) | Deed::Update(_, key, _) | Deed::Delete(_, key) | Deed::Move(_, key, ..) => key };
                    if renewed.contains(&key) { continue }
                    if matches!(deed, Deed::Delete(..)) { renewed.push(key) }
                    events.extend(carry_out(&mut source, *deed));
                }
                own.retain(|key, _| source.iter().any(|table| table.contains_key(&key.parse().unwrap())));
                transactions.push(events);
            }
            prop_assert_eq!(lead(&plan, &transactions, strictly, &mut rows), Ok(()));
            // A row without a complement is a new one: no earlier transaction's end saw it.
            for (key, row) in &mut rows {
                if row.own.is_empty() {
                    prop_assert!(!own.contains_key(key), "{key} lost what no rule writes");
                    row.own = format!("{number}");
                    own.insert(key.clone(), row.own.clone());
                }
            }
        }
        let expected: BTreeMap<String, Row> = source.iter().flatten().map(|(key, a)| {
            let key = key.to_string();
            let own = own[&key].clone();
            (key, Row { a: a.to_string(), own })
        }).collect();
        prop_assert_eq!(rows, expected);
    }
}

fn gold() -> BTreeMap<String, Row> {
    [("1".to_owned(), Row { a: "5".into(), own: "gold".into() })].into()
}

#[test]
fn l6_a_move_within_one_transaction_is_a_patch_whether_it_inserts_or_deletes_first() {
    let plan = plan();
    for insert_first in [false, true] {
        for strictly in [false, true] {
            let mut source: Source = [[(1, 5)].into(), BTreeMap::new()];
            let there = carry_out(&mut source, Deed::Move(0, 1, 7, insert_first));
            let back = carry_out(&mut source, Deed::Move(1, 1, 8, insert_first));
            let mut rows = gold();
            lead(&plan, &[there.clone(), back.clone()], strictly, &mut rows).unwrap();
            assert_eq!(rows["1"], Row { a: "8".into(), own: "gold".into() });
            // Both ways within one transaction.
            let mut rows = gold();
            lead(&plan, &[[there, back].concat()], strictly, &mut rows).unwrap();
            assert_eq!(rows["1"], Row { a: "8".into(), own: "gold".into() });
        }
    }
}

#[test]
fn counter_example_10_two_owners_of_one_key_meet_in_the_database_and_never_fold() {
    let plan = plan();
    let insert = |at: usize| vec![(at, Event::Insert(image(1, 5)))];
    let delete = |at: usize| vec![(at, Event::Delete(Before::Full(image(1, 5))))];
    for strictly in [false, true] {
        // The old owner goes only in a later transaction: at the end of the first one the key has two.
        let refused = lead(&plan, &[insert(0), insert(1), delete(0)], strictly, &mut BTreeMap::new());
        assert_eq!(refused, Err("the key is taken"));
        let refused = lead(&plan, &[[insert(0), insert(1)].concat()], strictly, &mut BTreeMap::new());
        assert_eq!(refused, Err("the key is taken"));
    }
    // Deleted and inserted in transactions of their own: another row, which starts without a complement.
    let mut rows = gold();
    lead(&plan, &[delete(0), insert(1)], false, &mut rows).unwrap();
    assert_eq!(rows["1"], Row { a: "5".into(), own: String::new() });
}
