//! A transform built with the whole standard library for WASI, for the host's tests: a row's note is what it asks the
//! world for, and the answer is what the world said.
#![cfg(target_family = "wasm")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use falkirk_sdk::Value;
use falkirk_sdk::wire::{Guest, InputRow, OutputRow, Rejection, export_bindings};

struct Asking;

export_bindings!(Asking with_types_in falkirk_sdk::wire);

impl Guest for Asking {
    fn describe() -> String {
        r#"{"falkirk": 1, "name": "asking", "from": "1", "to": "2", "forward": [
            {"table": "t", "columns": ["id", "note"],
                "outputs": [{"table": "t", "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]}]}"#
            .into()
    }

    fn forward(_: String, rows: Vec<InputRow>) -> Vec<Result<Vec<OutputRow>, Rejection>> {
        rows.into_iter().map(answer).collect()
    }

    fn backward(_: String, rows: Vec<InputRow>) -> Vec<Result<Vec<OutputRow>, Rejection>> {
        rows.into_iter().map(answer).collect()
    }
}

fn answer(InputRow { mut values, .. }: InputRow) -> Result<Vec<OutputRow>, Rejection> {
    let Value::Text(note) = &values[1] else { return Ok(vec![OutputRow { output: 0, values }]) };
    let said = ask(note);
    values[1] = Value::Text(said);
    Ok(vec![OutputRow { output: 0, values }])
}

fn ask(note: &str) -> String {
    match note {
        "time" => {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            format!("{time} {:?}", Instant::now())
        }
        "order" => {
            let map: HashMap<u32, u32> = (0..50).map(|key| (key, key)).collect();
            map.keys().fold(String::new(), |mut text, key| {
                let _ = write!(text, "{key} ");
                text
            })
        }
        "world" => {
            let (variables, arguments) = (std::env::vars().count(), std::env::args().count());
            let root = std::fs::read_dir("/").map_or(0, Iterator::count);
            let (read, wrote) = (std::fs::read("/etc/passwd").is_ok(), std::fs::write("/tmp/x", "x").is_ok());
            let input = std::io::stdin().lines().count();
            format!("{variables} variables, {arguments} arguments, {root} files, {read}, {wrote}, {input} lines")
        }
        "sleep" => {
            std::thread::sleep(Duration::from_secs(86_400));
            "slept".into()
        }
        "say" => {
            println!("a word with \x1b[31mcolour\x1b[0m and a return\r");
            eprint!("without an end");
            "said".into()
        }
        "flood" => {
            (0..5_000).for_each(|line| println!("line {line}"));
            "flooded".into()
        }
        "panic" => {
            (0..500).for_each(|_| println!("before"));
            panic!("this is \x1b[31mwhy\n{}", "x".repeat(5_000))
        }
        "exit" => std::process::exit(0),
        other => other.into(),
    }
}
