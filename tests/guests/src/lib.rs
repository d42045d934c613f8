//! A transform that misbehaves on request, for the host's tests.
//!
//! A row is `(id, note)` and comes back as it is, unless its note or the table's name asks for something else. It uses
//! the bindings without the rest of the SDK, which would not let it answer wrongly. Built with `FALKIRK_GUESTS_BEHAVE`
//! set, it never misbehaves: the corrected artifact that follows a bad one.
#![cfg(target_family = "wasm")]

use std::cell::Cell;
use std::hint::black_box;

use falkirk_sdk::Value;
use falkirk_sdk::wire::{Guest, InputRow, OutputRow, Rejection, export_bindings};

type Results = Vec<Result<Vec<OutputRow>, Rejection>>;

struct Misbehaving;

const BEHAVES: bool = option_env!("FALKIRK_GUESTS_BEHAVE").is_some();

export_bindings!(Misbehaving with_types_in falkirk_sdk::wire);

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Guest for Misbehaving {
    fn describe() -> String {
        // `w` may leave a row out, `t` may not.
        r#"{"falkirk": 1, "name": "guests", "from": "1", "to": "2", "forward": [
            {"table": "t", "columns": ["id", "note"],
                "outputs": [{"table": "t", "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]},
            {"table": "w", "columns": ["id", "note"],
                "outputs": [{"table": "w", "when": ["note"], "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]},
            {"table": "count", "columns": ["id", "note"],
                "outputs": [{"table": "count", "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]},
            {"table": "batch", "columns": ["id", "note"],
                "outputs": [{"table": "batch", "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]}
        ]}"#
        .into()
    }

    fn forward(table: String, rows: Vec<InputRow>) -> Results {
        CALLS.set(CALLS.get() + 1);
        match table.strip_prefix("public.").unwrap_or(&table) {
            _ if BEHAVES => rows.into_iter().map(|row| Ok(vec![OutputRow { output: 0, values: row.values }])).collect(),
            // One result is missing.
            "count" => rows.into_iter().skip(1).map(answer).collect(),
            // Fails only for more than one row: the answer depends on the cut.
            "batch" if rows.len() > 1 => explode(),
            // Fails only in an instance that served before.
            "stale" if CALLS.get() > 1 => explode(),
            // Tells how many neighbours the row has in its call.
            "neighbours" => {
                let count = rows.len();
                rows.into_iter().map(|row| tell(row, count)).collect()
            }
            // Tells the row's place in its call, so far as even and odd go.
            "place" => rows.into_iter().enumerate().map(|(at, row)| tell(row, at % 2)).collect(),
            // Fails for few rows.
            "eighth" if rows.len() < 8 => explode(),
            // Tells how often this instance was called, and takes its time.
            "calls" | "quick" => {
                turn(if table == "calls" { 100_000_000 } else { 0 });
                rows.into_iter().map(|row| tell(row, CALLS.get() as usize)).collect()
            }
            // Keeps some memory for ever.
            "leak" => {
                std::mem::forget(black_box(vec![1_u8; 4 << 20]));
                rows.into_iter().map(answer).collect()
            }
            _ => rows.into_iter().map(answer).collect(),
        }
    }

    fn backward(_: String, rows: Vec<InputRow>) -> Results {
        rows.into_iter().map(|row| Ok(vec![OutputRow { output: 0, values: row.values }])).collect()
    }
}

#[inline(never)]
fn explode() -> ! {
    panic!("a message that stays inside")
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "it is to exhaust the stack")]
fn dig(depth: u64) -> u64 {
    black_box(dig(black_box(depth + 1)) + depth)
}

#[inline(never)]
fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// Turns for as long as the note's number says.
fn turn(turns: u32) {
    for turn in 0..turns {
        black_box(turn);
    }
}

fn tell(InputRow { mut values, .. }: InputRow, number: usize) -> Result<Vec<OutputRow>, Rejection> {
    values[1] = Value::Text(number.to_string());
    Ok(vec![OutputRow { output: 0, values }])
}

fn answer(InputRow { mut values, .. }: InputRow) -> Result<Vec<OutputRow>, Rejection> {
    let note = match &values[1] {
        Value::Text(note) => note.clone(),
        _ => String::new(),
    };
    let mut output = 0;
    match note.as_str() {
        "trap" => explode(),
        "loop" => spin(),
        "deep" => drop(black_box(dig(0))),
        "memory" => {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            loop {
                kept.push(black_box(vec![1; 1 << 20]));
            }
        }
        "output" => values[1] = Value::Text("x".repeat(3 << 20)),
        "unknown output" => output = 7,
        "arity" => drop(values.pop()),
        "nul" => values[1] = Value::Text("a\0b".into()),
        "long" => values[1] = Value::Text("x".repeat(100)),
        "case" => values[1] = Value::Integer(1),
        "unset" => values[1] = Value::Unset,
        "unset key" => values[0] = Value::Unset,
        "forget" => return Ok(Vec::new()),
        "twice" => {
            let row = OutputRow { output, values };
            return Ok(vec![row.clone(), row]);
        }
        "reject" => {
            return Err(Rejection { column: Some(1), code: "not_finite".into(), message: "secret 4711".into() });
        }
        "reject oddly" => {
            return Err(Rejection { column: Some(99), code: "secret 4711\n".into(), message: String::new() });
        }
        other => turn(other.strip_prefix("turn ").and_then(|turns| turns.parse().ok()).unwrap_or(0)),
    }
    Ok(vec![OutputRow { output, values }])
}
