//! The decision rule, line by line, and which columns stand or fall together. That the rule as a whole converges is
//! shown in `interleavings.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use falkirk::catalog::{Catalog, Table};
use falkirk::change::Datum;
use falkirk::delta::decide::{Claim, Facts, Lost, Outcome, Rules, Standing, Verdict, decide};
use falkirk::delta::{Effect, Key, Operation};
use falkirk::lsn::Lsn;
use falkirk::manifest::Rule;
use falkirk::names::TableName;
use falkirk::plan::bind::{Binding, bind};
use falkirk::plan::parts::{ALL, EXISTENCE, Parts};
use falkirk::plan::{Case, Columns, Plan, Target, TargetColumn};

const A: u64 = 1;
const B: u64 = 2;
const STATUS: u64 = 4 | EXISTENCE;

#[derive(Default)]
struct Rows {
    there: Vec<&'static str>,
    changed: Vec<(&'static str, u64, u64)>,
    resolved: HashMap<&'static str, Standing>,
    parked: Vec<&'static str>,
    kept: Vec<&'static str>,
    moved: Vec<&'static str>,
}

fn name(key: &Key) -> &str {
    let Datum::Text(text) = &key[0] else { panic!("a key is a text") };
    std::str::from_utf8(text).unwrap()
}

impl Facts for Rows {
    fn exists(&self, _target: usize, key: &Key) -> bool {
        self.there.contains(&name(key))
    }

    fn changed(&self, _target: usize, key: &Key, after: Lsn) -> u64 {
        let later = self.changed.iter().filter(|(row, at, _)| *row == name(key) && *at > after.0);
        later.fold(0, |mask, (_, _, parts)| mask | parts)
    }

    fn resolved(&self, _claim: &Claim, key: &Key) -> Option<Standing> {
        self.resolved.get(name(key)).copied()
    }

    fn parked(&self, _target: usize, key: &Key) -> bool {
        self.parked.contains(&name(key))
    }

    fn kept(&self, _target: usize, key: &Key) -> bool {
        self.kept.contains(&name(key))
    }

    fn moved(&self, _target: usize, key: &Key, _after: Lsn) -> bool {
        self.moved.contains(&name(key))
    }
}

fn key(row: &str) -> Key {
    Box::from([Datum::text(row)])
}

fn values(texts: &[&str]) -> Box<[Datum]> {
    texts.iter().map(|text| Datum::text(*text)).collect()
}

fn insert(row: &str) -> Effect {
    Effect::Insert { columns: Arc::from([0, 1, 2]), values: values(&[row, "a", "b"]) }
}

fn patch(row: &str, columns: &[u16]) -> Effect {
    let texts = columns.iter().map(|column| ["", "a", "b", "s"][usize::from(*column)]).collect::<Vec<_>>();
    Effect::Patch { key: key(row), columns: Arc::from(columns), values: values(&texts) }
}

fn delete(row: &str) -> Effect {
    Effect::Delete { key: key(row) }
}

fn rekey(from: &str, to: &str) -> Effect {
    Effect::Rekey { from: key(from), to: key(to), columns: Arc::from([]), values: Box::from([]) }
}

/// A claim that knew the target up to 10 and stands at `at`.
fn claim(effect: Effect, at: u64) -> Claim {
    let (row, changed) = match &effect {
        Effect::Patch { key, columns, .. } => {
            let bits = columns.iter().fold(0, |mask, column| mask | [EXISTENCE, A, B, STATUS][usize::from(*column)]);
            (Some(name(key).to_owned()), bits)
        }
        Effect::Rekey { to, .. } => (Some(name(to).to_owned()), ALL),
        _ => (None, ALL),
    };
    let whole = row.map(|row| (Columns::from([0, 1, 2]), values(&[&row, "a", "b"])));
    let operation = Operation { target: 0, owner_before: 1, owner_after: 1, effect };
    Claim { operation, whole, changed, knew: Lsn(10), at: Lsn(at), from: None }
}

fn judge(standing: Standing, facts: &Rows, claims: Vec<Claim>) -> Outcome {
    let column = |name: &str| TargetColumn {
        name: name.into(),
        type_sql: "text".into(),
        cast_sql: "text".into(),
        base_oid: 25,
        case: Case::Text,
        generated: false,
    };
    let target = Target {
        name: TableName::new("public", "t"),
        columns: ["id", "a", "b", "status"].map(column).into(),
        key: Arc::from([0]),
        uniques: Vec::new(),
        cascades: false,
        acts: false,
        shared: false,
        identity_always: [].into(),
        internal: false,
    };
    let parts: [Box<[u64]>; 1] = [Box::from([EXISTENCE, A, B, STATUS])];
    let (targets, standings) = ([target], [standing]);
    let twins: [Box<[usize]>; 1] = [Box::from([0])];
    let rules =
        Rules { targets: &targets, parts: &parts, records: &[], cleared: &[], standings: &standings, twins: &twins };
    decide(rules, facts, claims)
}

fn effects(outcome: &Outcome) -> Vec<Effect> {
    outcome.operations.iter().map(|operation| operation.effect.clone()).collect()
}

fn one(standing: Standing, facts: &Rows, effect: Effect) -> Outcome {
    judge(standing, facts, vec![claim(effect, 20)])
}

fn there(rows: &[&'static str]) -> Rows {
    Rows { there: rows.to_vec(), ..Rows::default() }
}

fn changed(rows: &[&'static str], row: &'static str, at: u64, parts: u64) -> Rows {
    Rows { changed: vec![(row, at, parts)], ..there(rows) }
}

#[test]
fn counter_example_10_the_winners_insert_writes_the_columns_of_a_row_that_exists() {
    assert_eq!(effects(&one(Standing::Wins, &there(&[]), insert("x"))), [insert("x")]);
    assert_eq!(effects(&one(Standing::Wins, &there(&["x"]), insert("x"))), [patch("x", &[1, 2])]);
}

#[test]
fn counter_example_11_the_winners_patch_inserts_the_whole_row_where_it_is_gone() {
    assert_eq!(effects(&one(Standing::Wins, &there(&["x"]), patch("x", &[1]))), [patch("x", &[1])]);
    assert_eq!(effects(&one(Standing::Wins, &there(&[]), patch("x", &[1]))), [insert("x")]);
    let unknown = Claim { whole: None, ..claim(patch("x", &[1]), 20) };
    assert!(matches!(judge(Standing::Wins, &there(&[]), vec![unknown]).verdict, Some(Verdict::Unexpected { .. })));
}

#[test]
fn the_winners_patch_writes_every_column_of_the_parts_that_changed() {
    let wide = Claim { changed: A | B, ..claim(patch("x", &[1]), 20) };
    assert_eq!(effects(&judge(Standing::Wins, &there(&["x"]), vec![wide])), [patch("x", &[1, 2])]);
    let asserted = Claim { changed: B, ..claim(patch("x", &[]), 20) };
    assert_eq!(effects(&judge(Standing::Wins, &there(&["x"]), vec![asserted])), [patch("x", &[2])]);
}

#[test]
fn counter_example_11_a_delete_of_a_row_that_is_gone_is_agreement_on_both_links() {
    for standing in [Standing::Wins, Standing::Yields, Standing::Stops] {
        let outcome = one(standing, &changed(&[], "x", 15, ALL), delete("x"));
        assert_eq!((outcome.agreements, outcome.operations.len(), outcome.conflicts.len()), (1, 0, 0));
        assert_eq!(outcome.verdict, None);
    }
}

#[test]
fn counter_example_14_the_winners_rekey_ends_with_the_whole_row_under_the_new_key() {
    let whole = Effect::Rekey { from: key("x"), to: key("y"), columns: Arc::from([1, 2]), values: values(&["a", "b"]) };
    let rekeyed = |rows: &[&'static str]| effects(&one(Standing::Wins, &there(rows), rekey("x", "y")));
    assert_eq!(rekeyed(&["x"]), [whole]);
    assert_eq!(rekeyed(&[]), [insert("y")]);
    assert_eq!(rekeyed(&["y"]), [patch("y", &[1, 2])]);
    assert_eq!(rekeyed(&["x", "y"]), [delete("x"), patch("y", &[1, 2])]);
}

#[test]
fn counter_example_11_a_truncate_always_ends_the_batch_before_its_transaction() {
    for standing in [Standing::Wins, Standing::Yields, Standing::Stops] {
        let truncate = claim(Effect::Truncate { targets: vec![0] }, 21);
        let claims = vec![claim(patch("x", &[1]), 20), claim(patch("x", &[2]), 21), truncate];
        let outcome = judge(standing, &there(&["x"]), claims);
        assert_eq!(effects(&outcome), [patch("x", &[1])], "L4: nothing of the transaction that holds it");
        assert_eq!(outcome.verdict, Some(Verdict::Truncate { target: 0, at: Lsn(21) }));
    }
}

#[test]
fn the_loser_writes_what_the_winner_did_not_change_or_what_it_knew_of() {
    for (facts, effect) in [
        (there(&["x"]), patch("x", &[1])),
        (changed(&["x"], "x", 15, B), patch("x", &[1])),
        (changed(&["x"], "x", 10, ALL), patch("x", &[1])),
        (changed(&["x"], "z", 15, ALL), delete("x")),
        (changed(&[], "x", 10, ALL), insert("x")),
        (there(&["x"]), rekey("x", "y")),
    ] {
        let outcome = one(Standing::Yields, &facts, effect.clone());
        assert_eq!((effects(&outcome), outcome.conflicts.len()), (vec![effect], 0));
    }
}

#[test]
fn counter_example_2_the_losers_patch_loses_the_columns_of_the_winners_parts_only() {
    let outcome = one(Standing::Yields, &changed(&["x"], "x", 15, B), patch("x", &[1, 2]));
    assert_eq!(effects(&outcome), [patch("x", &[1])]);
    let conflict = &outcome.conflicts[0];
    assert_eq!((conflict.lost, &*conflict.columns, &conflict.values), (Lost::Patch, &[2][..], &values(&["b"])));
    assert_eq!((conflict.knew, conflict.at), (Lsn(10), Lsn(20)));
    assert!(outcome.reassertions.is_empty(), "the winner's change of the part is on its way");
}

#[test]
fn existence_on_either_side_loses_all_and_the_winner_asserts_what_nothing_else_undoes() {
    for (parts, effect, columns, again) in [
        (ALL, patch("x", &[1, 2]), 2, 0),
        (STATUS, patch("x", &[1]), 1, A),
        (A, patch("x", &[2, 3]), 2, B | 4),
        (A, delete("x"), 0, ALL),
        (ALL, delete("x"), 0, 0),
        (A, insert("x"), 3, ALL),
    ] {
        let outcome = one(Standing::Yields, &changed(&["x"], "x", 15, parts), effect);
        assert_eq!((outcome.operations.len(), outcome.conflicts.len()), (0, 1));
        assert_eq!(outcome.conflicts[0].columns.len(), columns);
        assert_eq!(outcome.reassertions.first().map_or(0, |row| row.parts), again);
    }
    let gone = one(Standing::Yields, &changed(&[], "x", 15, ALL), patch("x", &[1]));
    assert_eq!((gone.conflicts.len(), gone.reassertions.len()), (1, 0));
}

#[test]
fn counter_example_14_a_rekey_in_conflict_is_a_delete_and_an_insert_each_decided_by_itself() {
    let to = one(Standing::Yields, &changed(&["x", "y"], "y", 15, ALL), rekey("x", "y"));
    assert_eq!((effects(&to), to.conflicts[0].lost), (vec![delete("x")], Lost::Insert));
    let from = one(Standing::Yields, &changed(&["x"], "x", 15, A), rekey("x", "y"));
    assert_eq!((effects(&from), from.conflicts[0].lost), (vec![insert("y")], Lost::Delete));
    assert_eq!(from.reassertions.len(), 1);
}

#[test]
fn a_row_that_is_not_as_expected_without_a_recorded_change_is_a_second_writer() {
    for (facts, effect) in [
        (there(&[]), patch("x", &[1])),
        (there(&["x"]), insert("x")),
        (there(&["x", "y"]), rekey("x", "y")),
        (there(&[]), rekey("x", "y")),
    ] {
        let outcome = judge(Standing::Yields, &facts, vec![claim(patch("ok", &[]), 19), claim(effect, 20)]);
        assert!(matches!(outcome.verdict, Some(Verdict::Unexpected { target: 0, at: Lsn(20), .. })));
        assert!(outcome.operations.is_empty() && outcome.conflicts.is_empty());
    }
}

#[test]
fn counter_example_21_where_nobody_wins_a_conflict_stops_until_an_operator_decided() {
    let claims = || vec![claim(patch("y", &[1]), 20), claim(patch("y", &[2]), 21), claim(patch("x", &[1]), 21)];
    let mut facts = changed(&["x", "y"], "x", 15, A);
    let stopped = judge(Standing::Stops, &facts, claims());
    assert_eq!(effects(&stopped), [patch("y", &[1])], "L4: the conflict's transaction is held back whole");
    assert!(matches!(&stopped.verdict, Some(Verdict::Stop(conflict)) if conflict.key == key("x")));
    facts.resolved.insert("x", Standing::Wins);
    assert_eq!(judge(Standing::Stops, &facts, claims()).operations.len(), 3);
    facts.resolved.insert("x", Standing::Yields);
    let yielded = judge(Standing::Stops, &facts, claims());
    assert_eq!((yielded.operations.len(), yielded.conflicts.len(), yielded.verdict), (2, 1, None));
}

#[test]
fn counter_example_35_a_change_of_a_parked_row_tries_the_whole_row_again() {
    for standing in [Standing::Wins, Standing::Yields, Standing::Stops] {
        let facts = Rows { parked: vec!["x"], ..there(&["y"]) };
        assert_eq!(effects(&one(standing, &facts, patch("x", &[1]))), [insert("x")]);
        assert_eq!(effects(&one(standing, &facts, rekey("x", "z"))), [insert("z")]);
        assert_eq!(one(standing, &facts, delete("x")).agreements, 1);
    }
    let facts = Rows { parked: vec!["x"], ..changed(&[], "x", 15, ALL) };
    let outcome = one(Standing::Yields, &facts, patch("x", &[1]));
    assert_eq!((outcome.operations.len(), outcome.conflicts.len()), (0, 1), "the target's application made one since");
}

#[test]
fn l8_a_kept_row_comes_back_whole_and_is_not_denied_while_it_is_on_its_way() {
    let from = |effect| Claim { from: Some((0, key("x"))), ..claim(effect, 20) };
    for standing in [Standing::Wins, Standing::Yields, Standing::Stops] {
        let facts = Rows { kept: vec!["x"], ..Rows::default() };
        assert_eq!(effects(&judge(standing, &facts, vec![from(patch("x", &[]))])), [insert("x")]);
    }
    // What was changed before the deletion was known of loses to it.
    let facts = Rows { kept: vec!["x"], ..changed(&[], "x", 15, ALL) };
    let outcome = judge(Standing::Yields, &facts, vec![from(patch("x", &[1]))]);
    assert_eq!((outcome.operations.len(), outcome.conflicts.len(), outcome.absences.len()), (0, 1, 0));
    let facts = changed(&[], "x", 15, ALL);
    assert_eq!(judge(Standing::Yields, &facts, vec![from(insert("x"))]).absences.len(), 1, "nobody keeps this one");
}

#[test]
fn l8_a_row_that_is_new_under_a_pair_that_the_winner_has_replaced_is_sent_back_behind_that() {
    let facts = || Rows { moved: vec!["x"], ..Rows::default() };
    let outcome = judge(Standing::Yields, &facts(), vec![claim(insert("x"), 20), claim(insert("y"), 21)]);
    assert_eq!((effects(&outcome), &outcome.returned), (vec![insert("x"), insert("y")], &vec![(0, key("x"))]));
    for standing in [Standing::Wins, Standing::Stops] {
        assert!(one(standing, &facts(), insert("x")).returned.is_empty());
    }
}

#[test]
fn l8_a_row_that_is_sent_back_may_be_made_again_before_it_has_arrived() {
    // The other link took it away on the source in between, with the pair that it was under before.
    let facts = Rows { moved: vec!["x"], ..Rows::default() };
    let outcome = judge(Standing::Yields, &facts, vec![claim(insert("x"), 20), claim(insert("x"), 21)]);
    assert_eq!((outcome.operations.len(), outcome.returned.len(), outcome.conflicts.len()), (2, 1, 0));
    assert!(matches!(&outcome.operations[1].effect, Effect::Patch { key: own, .. } if *own == key("x")));
    assert!(outcome.verdict.is_none());
    let twice = judge(Standing::Yields, &Rows::default(), vec![claim(insert("x"), 20), claim(insert("x"), 21)]);
    assert!(matches!(twice.verdict, Some(Verdict::Unexpected { .. })), "nothing explains that");
}

#[test]
fn counter_example_21_of_a_row_that_is_gone_the_whole_of_the_losers_is_recorded() {
    let gone = one(Standing::Yields, &changed(&[], "x", 15, ALL), patch("x", &[1]));
    assert_eq!((gone.conflicts[0].lost, &*gone.conflicts[0].columns), (Lost::Patch, &[0, 1, 2][..]));
}

#[test]
fn counter_example_31_existence_is_followed_through_a_batch() {
    for standing in [Standing::Wins, Standing::Yields] {
        let claims = vec![insert("x"), patch("x", &[1]), rekey("x", "y"), patch("y", &[2]), delete("y"), insert("y")];
        let claims = claims.into_iter().zip(20..).map(|(effect, at)| claim(effect, at)).collect();
        let outcome = judge(standing, &there(&[]), claims);
        assert_eq!((outcome.operations.len(), outcome.agreements, outcome.verdict), (6, 0, None));
    }
}

fn catalog(name: &str, columns: &[&str]) -> Catalog {
    Catalog::from_iter([Table::of_text(name, columns, [0])])
}

fn plan(source: &Catalog, target: &Catalog, rule: serde_json::Value) -> Plan {
    let rule: Rule = serde_json::from_value(rule).unwrap();
    bind(&Binding { rules: &[rule], artifact: "test", manifest: None, source, target, include: &[], exclude: &[] })
        .unwrap()
}

/// Blue `p(id, name, title, mail, status, own)`, green `q(id, display, mail, status, extra)`.
fn parts() -> Parts {
    let blue = catalog("p", &["id", "name", "title", "mail", "status", "own"]);
    let green = catalog("q", &["id", "display", "mail", "status", "extra"]);
    let forward = serde_json::json!({ "table": "p", "columns": ["name", "title", "status"], "outputs": [
        { "table": "q", "when": ["status"], "same_named": true,
          "computed": [ { "from": ["name", "title"], "to": ["display"] } ] } ] });
    let backward = serde_json::json!({ "table": "q", "columns": ["display"], "outputs": [
        { "table": "p", "same_named": true, "computed": [ { "from": ["display"], "to": ["name"] } ] } ] });
    Parts::new(&plan(&blue, &green, forward), &plan(&green, &blue, backward))
}

#[test]
fn l8_columns_that_either_direction_joins_are_one_part_on_both_sides() {
    let parts = parts();
    let blue = |columns: &[usize]| parts.forward.of_source(0, columns.iter().copied());
    let green = |columns: &[usize]| parts.backward.of_source(0, columns.iter().copied());
    assert_eq!(blue(&[1]), blue(&[2]), "the title joins the name, though nothing of green goes to it");
    assert_eq!(blue(&[1]), green(&[1]));
    assert_eq!(blue(&[3]), green(&[2]));
    assert_eq!(blue(&[1, 2]) & blue(&[3]), 0);
    assert_eq!(blue(&[1]).count_ones() + blue(&[3]).count_ones(), 2);
    assert_eq!((blue(&[5]), green(&[4])), (0, 0), "no rule touches them");
    assert_eq!((blue(&[0]), green(&[0])), (EXISTENCE, EXISTENCE));
    assert_eq!((blue(&[4]) & EXISTENCE, blue(&[4]).count_ones()), (EXISTENCE, 2), "rows come and go by the status");
}

#[test]
fn both_plans_give_one_table_the_same_parts() {
    let parts = parts();
    for column in 0..5_u16 {
        let at = usize::from(column);
        assert_eq!(parts.forward.of_target(0, &Columns::from([column])), parts.backward.of_source(0, [at]));
        assert_eq!(parts.backward.of_target(0, &Columns::from([column])), parts.forward.of_source(0, [at]));
    }
    assert_eq!(parts, self::parts(), "the same plans, the same parts");
}
