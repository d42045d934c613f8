//! The numbers of columns outlive plans: what was noted under one is asked for under the next (L8).

use falkirk::catalog::{Catalog, Table};
use falkirk::manifest::Rule;
use falkirk::names::TableName;
use falkirk::plan::bind::{Binding, bind};
use falkirk::plan::numbering::Numbering;
use falkirk::plan::parts::{EXISTENCE, Parts};
use falkirk::plan::{Columns, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

fn plan(source: &Catalog, target: &Catalog, rule: &Value) -> Plan {
    let rule: Rule = serde_json::from_value(rule.clone()).unwrap();
    bind(&Binding { rules: &[rule], artifact: "test", manifest: None, source, target, include: &[], exclude: &[] })
        .unwrap()
}

/// One table of the same name and columns on both sides, with the computed groups of the forward rule.
fn numbered(columns: &[&str], groups: &[(&[&str], &str)], kept: &Numbering) -> (Parts, Numbering) {
    let table = Catalog::from_iter([Table::of_text("t", columns, [0])]);
    let computed: Vec<Value> = groups.iter().map(|(from, to)| json!({ "from": from, "to": [to] })).collect();
    let asked: Vec<&str> = groups.iter().flat_map(|(from, _)| from.iter().copied()).collect();
    let output = json!({ "table": "t", "same_named": true, "computed": computed });
    let forward = json!({ "table": "t", "columns": asked, "outputs": [output] });
    let backward = json!({ "table": "t", "columns": [], "outputs": [{ "table": "t", "same_named": true }] });
    Parts::numbered(&plan(&table, &table, &forward), &plan(&table, &table, &backward), kept)
}

fn bits((parts, _): &(Parts, Numbering), columns: &[&str], column: &str) -> u64 {
    let at = columns.iter().position(|other| *other == column).expect("a column");
    let bits = parts.forward.of_source(0, [at]);
    let target = u16::try_from(at).expect("a small number");
    assert_eq!(bits, parts.backward.of_target(0, &Columns::from([target])), "both links say the same of {column}");
    bits
}

#[test]
fn l8_a_column_keeps_its_bits_whatever_comes_and_goes_beside_it() {
    let old = ["id", "a", "b", "c"];
    let before = numbered(&old, &[], &Numbering::default());
    let new = ["id", "aa", "b", "c", "d"];
    let after = numbered(&new, &[], &before.1);
    for column in ["b", "c"] {
        assert_eq!(bits(&before, &old, column), bits(&after, &new, column), "{column}");
    }
    // Nobody inherits the bit of a column that is gone: old notes still speak of it.
    let gone = bits(&before, &old, "a");
    assert!(["aa", "d"].iter().all(|column| bits(&after, &new, column) & gone == 0));
    assert_ne!(bits(&after, &new, "aa"), bits(&after, &new, "d"));
    assert_eq!(before.1.redefined_by(&after.1), None);
    // Without a memory the same columns are numbered anew, and notes on one column would be taken for notes on another.
    let fresh = numbered(&new, &[], &Numbering::default());
    assert_eq!(bits(&fresh, &new, "aa"), gone);
}

#[test]
fn l8_a_part_that_splits_keeps_its_bit_and_parts_that_join_are_told() {
    let columns = ["id", "a", "b", "c", "x"];
    let joined = numbered(&columns, &[(&["a", "b"], "x")], &Numbering::default());
    assert_eq!(bits(&joined, &columns, "a"), bits(&joined, &columns, "b"));
    let split = numbered(&columns, &[(&["a"], "x")], &joined.1);
    assert_eq!(bits(&split, &columns, "b"), bits(&joined, &columns, "b"), "more conflicts than there need be");
    assert_eq!(joined.1.redefined_by(&split.1), None);
    let wider = numbered(&columns, &[(&["a", "c"], "x")], &split.1);
    assert_eq!(split.1.redefined_by(&wider.1), Some(("public.t", Some("a"))));
    let both = bits(&split, &columns, "a") | bits(&split, &columns, "c");
    assert_eq!(bits(&wider, &columns, "a") & both, both);
    // A column that was in no part may join one: nothing was noted of it.
    let narrow = numbered(&["id", "a"], &[], &Numbering::default());
    let joins = numbered(&["id", "a", "new"], &[(&["a"], "new")], &narrow.1);
    assert_eq!(narrow.1.redefined_by(&joins.1), None);
}

#[test]
fn the_numbering_survives_being_kept() {
    let (_, numbering) = numbered(&["id", "a", "b"], &[], &Numbering::default());
    let text = serde_json::to_string(&numbering).unwrap();
    assert!(
        text.contains(&TableName::new("public", "t").to_string()) && text.contains(&EXISTENCE.to_string()),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Numbering>(&text).unwrap(), numbering);
}

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Some of the columns, in some order, behind the key.
fn columns() -> impl Strategy<Value = Vec<&'static str>> {
    let some = proptest::sample::subsequence(&NAMES[..], 1..=NAMES.len()).prop_shuffle();
    some.prop_map(|columns| std::iter::once("id").chain(columns).collect())
}

proptest! {
    #[test]
    fn l8_no_history_of_columns_changes_a_columns_bits_or_gives_two_columns_the_same(history in prop::collection::vec(columns(), 1..12)) {
        let mut kept = Numbering::default();
        let mut known = std::collections::BTreeMap::new();
        for columns in &history {
            let now = numbered(columns, &[], &kept);
            prop_assert_eq!(kept.redefined_by(&now.1), None);
            for column in columns {
                let bits = bits(&now, columns, column);
                prop_assert_eq!(*known.entry(*column).or_insert(bits), bits);
            }
            kept = now.1;
        }
        let mut all: Vec<u64> = known.values().copied().collect();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), known.len());
    }
}
