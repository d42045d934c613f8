//! What does not compose, and what is said of it.

use falkirk::manifest::{Direction, Manifest};
use falkirk::versions::{Step, compose};
use serde_json::{Value as Json, json};

use super::world::{catalog, manifest, table};

/// Two steps over one table `t(id, a, b)` that both ends have; only what a case changes is written.
fn step(from: &str, rule: Json, more: Json) -> Manifest {
    let to = if from == "1" { "2" } else { "3" };
    let mut json = json!({ "falkirk": 1, "name": "shop", "from": from, "to": to, "forward": [rule] });
    for (key, value) in more.as_object().unwrap() {
        json[key] = value.clone();
    }
    manifest(json)
}

fn rule(columns: &[&str], output: Json) -> Json {
    let mut output = output;
    output["table"] = json!("t");
    json!({ "table": "t", "columns": columns, "outputs": [output] })
}

/// What composing the two says: code, column and the whole text of each problem.
fn said(one: &Manifest, two: &Manifest) -> Vec<(String, String)> {
    let (source, target) = (catalog(vec![table("t", &["id", "a", "b"], 1)]), table("t", &["id", "a", "b", "c"], 1));
    let steps = [Step { manifest: one, label: "one.wasm" }, Step { manifest: two, label: "two.wasm" }];
    let composed = compose(&steps, Direction::Forward, (&source, &catalog(vec![target])), &[]);
    composed.problems.iter().map(|problem| (problem.code().to_owned(), problem.to_string())).collect()
}

#[track_caller]
fn refused(one: Json, two: Json, code: &str, needles: &[&str]) {
    let (one, two) = (step("1", one, json!({})), step("2", two, json!({})));
    let said = said(&one, &two);
    let found = said.iter().any(|(own, text)| own == code && needles.iter().all(|needle| text.contains(needle)));
    assert!(found, "{code} {needles:?} is not among {said:#?}");
}

fn as_it_is() -> Json {
    rule(&[], json!({ "same_named": true }))
}

#[test]
fn counter_example_32_rules_that_need_more_than_their_row_are_refused_by_name() {
    let with = |key: &str, value: Json| {
        let mut rule = as_it_is();
        rule[key] = value;
        rule
    };
    let related = with("related", json!([{ "table": "u", "on": { "id": "id" }, "columns": ["a"] }]));
    refused(related, as_it_is(), "NOT_COMPOSABLE", &["related rows", "public.t", "one.wasm"]);
    refused(
        as_it_is(),
        with("bind", json!([{ "map": "m", "blue": "a", "green": "b" }])),
        "NOT_COMPOSABLE",
        &["bind", "two.wasm"],
    );
    for (output, name) in [
        (json!({ "same_named": true, "write": "ensure" }), "ensure"),
        (json!({ "write": "patch", "match": { "id": "id" } }), "patch"),
        (json!({ "same_named": true, "mapped": { "a": ["m", "a"] } }), "key map"),
    ] {
        refused(rule(&[], output), as_it_is(), "NOT_COMPOSABLE", &[name]);
    }
    let maps = json!({ "maps": { "m": { "blue": "t.id", "green": "t.id", "creates": "green" } } });
    let said = said(&step("1", as_it_is(), maps), &step("2", as_it_is(), json!({})));
    assert!(said[0].1.contains("the key map m"), "{said:?}");
}

#[test]
fn a_column_that_is_computed_and_then_read_needs_a_type_that_says_its_form() {
    let one = || rule(&["a"], json!({ "same_named": true, "computed": [{ "from": ["a"], "to": ["x"] }] }));
    let two = || rule(&["x"], json!({ "same_named": true, "computed": [{ "from": ["x"], "to": ["c"] }] }));
    refused(one(), two(), "TYPE_UNKNOWN", &["column x", r#"{"2": {"public.t": {"x": "#, "two.wasm"]);
    let typed = |kind: &str| step("1", one(), json!({ "types": { "2": { "t": { "x": kind, "a": "text" } } } }));
    let two = step("2", two(), json!({}));
    for exact in ["text", "bigint", "boolean", "double precision", "character varying(20)"] {
        assert_eq!(said(&typed(exact), &two), [], "{exact}");
    }
    for inexact in ["numeric(10,2)", "jsonb", "timestamptz", "char(3)"] {
        let said = said(&typed(inexact), &two);
        assert!(said[0].0 == "TYPE_UNKNOWN" && said[0].1.contains(inexact), "{said:?}");
    }
}

#[test]
fn a_column_that_the_step_before_does_not_fill_is_not_read() {
    let two = rule(&["x"], json!({ "same_named": true, "computed": [{ "from": ["x"], "to": ["c"] }] }));
    refused(as_it_is(), two, "COLUMN_UNKNOWN", &["column x", "version 2", "two.wasm"]);
    let copies = rule(&[], json!({ "same_named": true, "copied": { "c": "x" } }));
    refused(as_it_is(), copies, "COLUMN_UNKNOWN", &["column x"]);
}

#[test]
fn a_column_that_was_used_up_and_stands_at_both_ends_is_in_doubt_until_a_manifest_says_what_it_is() {
    // `a` became `x`; whether version 2 still has an `a`, only its database knows. Version 3 has one.
    let one = rule(&[], json!({ "same_named": true, "copied": { "x": "a" } }));
    refused(one.clone(), as_it_is(), "COLUMN_IN_DOUBT", &["column a", "version 2", "null"]);
    for (said_of, copied) in [(json!("text"), true), (Json::Null, false)] {
        let one = step("1", one.clone(), json!({ "types": { "2": { "t": { "a": said_of } } } }));
        let two = step("2", as_it_is(), json!({}));
        assert_eq!(said(&one, &two), []);
        let steps = [Step { manifest: &one, label: "one.wasm" }, Step { manifest: &two, label: "two.wasm" }];
        let ends = || catalog(vec![table("t", &["id", "a", "b"], 1)]);
        let composed = compose(&steps, Direction::Forward, (&ends(), &ends()), &[]);
        assert_eq!(composed.rules[0].outputs[0].copied.contains_key("a"), copied);
    }
    let (one, two) =
        (json!({ "types": { "2": { "t": { "b": "text" } } } }), json!({ "types": { "2": { "t": { "b": "int" } } } }));
    let said = said(&step("1", as_it_is(), one), &step("2", as_it_is(), two));
    assert_eq!(said[0].0, "TYPES_DIFFER");
}

#[test]
fn soft_deletes_that_the_next_step_reads_drops_or_contradicts_are_refused() {
    let marked = || rule(&[], json!({ "same_named": true, "on_delete": { "set": { "gone": "t" } } }));
    refused(
        marked(),
        rule(&["gone"], json!({ "same_named": true, "when": ["gone"] })),
        "NOT_COMPOSABLE",
        &["reads the mark"],
    );
    refused(marked(), as_it_is(), "NOT_COMPOSABLE", &["drops the mark"]);
    let routed = rule(&["a"], json!({ "same_named": true, "when": ["a"] }));
    let soft = rule(&[], json!({ "same_named": true, "on_delete": { "set": { "c": "t" } } }));
    refused(routed, soft, "NOT_COMPOSABLE", &["soft delete"]);
}

#[test]
fn a_list_whose_key_a_later_step_computes_anew_is_refused() {
    let list = rule(&["a"], json!({ "many": true, "computed": [{ "from": ["a"], "to": ["id", "b"] }] }));
    let anew = rule(&["b"], json!({ "same_named": true, "computed": [{ "from": ["b"], "to": ["id"] }] }));
    let one = step("1", list, json!({ "types": { "2": { "t": { "b": "text" } } } }));
    let said = said(&one, &step("2", anew, json!({})));
    assert!(said[0].0 == "NOT_COMPOSABLE" && said[0].1.contains("follow their key"), "{said:?}");
}

#[test]
fn a_table_without_a_rule_beside_another_ones_rows_and_a_rule_for_no_table_are_refused() {
    let other = json!({ "table": "t", "outputs": [{ "table": "u", "same_named": true }] });
    let into = json!({ "table": "u", "outputs": [{ "table": "t", "same_named": true }] });
    let (one, two) = (step("1", other.clone(), json!({})), step("2", into, json!({})));
    assert_eq!(said(&one, &two), []);
    let unknown = json!({ "table": "nowhere", "outputs": [{ "table": "t", "same_named": true }] });
    refused(unknown, as_it_is(), "NO_SUCH_TABLE", &["public.nowhere"]);
    refused(json!({ "table": "nowhere", "outputs": [{ "table": "t" }] }), as_it_is(), "TWO_OWNERS", &["public.t"]);
}
