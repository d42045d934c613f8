//! Small tables and odd rules, each for one counter-example, for tests of whole links.
//!
//! The manifest is a constant with room in it: a test makes another manifest by writing into that room of the built
//! component, without building again. It must never share code with the SDK's `Step`, which would not let it answer
//! wrongly.
#![cfg(target_family = "wasm")]

use falkirk_sdk::Value;
use falkirk_sdk::wire::{Guest, InputRow, OutputRow, Rejection, export_bindings};

type Results = Vec<Result<Vec<OutputRow>, Rejection>>;

struct Rules;

export_bindings!(Rules with_types_in falkirk_sdk::wire);

impl Guest for Rules {
    fn describe() -> String {
        include_str!("rules.json").into()
    }

    fn forward(table: String, rows: Vec<InputRow>) -> Results {
        let miscounts = rows.iter().any(|row| text(row) == "miscount");
        let mut results: Results = match table.rsplit('.').next() {
            Some("booking") => rows.iter().map(booking).collect(),
            _ => rows.iter().map(|row| answer(&table, text(row))).collect(),
        };
        if miscounts {
            results.pop();
        }
        results
    }

    /// The same: a test that exchanges the sides in the manifest needs no other component.
    fn backward(table: String, rows: Vec<InputRow>) -> Results {
        Rules::forward(table, rows)
    }
}

fn text(row: &InputRow) -> &str {
    match row.values.first() {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

/// A note and the names of the related owners, each with its key.
fn booking(row: &InputRow) -> Result<Vec<OutputRow>, Rejection> {
    let owner = |owner: &Vec<Value>| match owner.as_slice() {
        [Value::Text(name), Value::Text(id)] => format!("{name}/{id}"),
        _ => "?".to_owned(),
    };
    let owners: Vec<String> = row.related[0].iter().map(owner).collect();
    let shown = Value::Text(format!("{} for {}", text(row), owners.join("+")));
    Ok(vec![OutputRow { output: 0, values: vec![shown] }])
}

fn answer(table: &str, text: &str) -> Result<Vec<OutputRow>, Rejection> {
    let value = match (table.rsplit('.').next(), text) {
        // Two labels that differ in case are one code.
        (Some("code"), label) => Value::Text(label.to_lowercase()),
        (Some("member"), "vip") => Value::Text("gold".into()),
        (Some("member"), _) => Value::Unset,
        (_, "trap") => panic!("a message that stays inside"),
        (_, "reject") => {
            return Err(Rejection { column: Some(0), code: "not_wanted".into(), message: "secret 4711".into() });
        }
        (_, text) => Value::Text(text.into()),
    };
    Ok(vec![OutputRow { output: 0, values: vec![value] }])
}
