//! A transform whose revisions differ by a few bytes of the built component: a number, with which each signs the rows
//! that it writes, and how it misbehaves.
//!
//! Mark and manifest are constants that a test writes over (`falkirk_tests::swap_component`). It must never share code
//! with the SDK's `Step`, which would not let it answer wrongly.
#![cfg(target_family = "wasm")]

use std::hint::black_box;

use falkirk_sdk::Value;
use falkirk_sdk::wire::{Guest, InputRow, OutputRow, Rejection, export_bindings};

type Results = Vec<Result<Vec<OutputRow>, Rejection>>;

/// Number and manner.
static MARK: [u8; 16] = *b"revision 0000 ok";

struct Signing;

export_bindings!(Signing with_types_in falkirk_sdk::wire);

fn mark() -> (&'static str, &'static str) {
    let mark = std::str::from_utf8(black_box(&MARK)).unwrap_or("");
    (&mark[9..13], &mark[14..])
}

impl Guest for Signing {
    fn describe() -> String {
        match mark().1 {
            "tr" => panic!("a message that stays inside"),
            "lo" => loop {
                black_box(());
            },
            "me" => {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                loop {
                    kept.push(black_box(vec![1; 1 << 20]));
                }
            }
            _ => include_str!("rules.json").into(),
        }
    }

    fn forward(_: String, rows: Vec<InputRow>) -> Results {
        rows.iter().map(sign).collect()
    }

    fn backward(_: String, rows: Vec<InputRow>) -> Results {
        rows.iter().map(sign).collect()
    }
}

/// Signs a row; one manner fails at every row, one only where the note says so.
fn sign(row: &InputRow) -> Result<Vec<OutputRow>, Rejection> {
    let (number, manner) = mark();
    if manner == "le" {
        std::mem::forget(black_box(vec![1_u8; 2 << 20]));
    }
    let note = match row.values.first() {
        Some(Value::Text(note)) => note.as_str(),
        _ => "",
    };
    if manner == "rt" || (manner == "no" && note.starts_with("odd")) {
        panic!("a message that stays inside");
    }
    Ok(vec![OutputRow { output: 0, values: vec![Value::Text(number.into())] }])
}
