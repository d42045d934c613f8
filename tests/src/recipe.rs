//! Runs the files of `examples/roles` as psql would, without psql.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::Side;

/// Runs one of the recipes on a side, as its administrator.
#[track_caller]
pub fn run_recipe(side: &Side, file: &str) {
    // Grants to one role from two sessions at a time fail with an internal error of the server.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/roles").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (role, owner) = (side.role(), side.owner());
    let values = [
        ("role", role.as_str()),
        ("owner", owner.as_str()),
        ("password", side.password()),
        ("schema", "public"),
        ("DBNAME", side.database.as_str()),
    ];
    let text = fill_in(&without_comments(&text), &values);
    let parts: Vec<&str> = text.split("\\gexec").collect();
    for (place, part) in parts.iter().enumerate() {
        // What stands before \gexec is a query whose answers are statements.
        let (statements, query) = match place + 1 < parts.len() {
            true => part.rsplit_once(';').unwrap_or(("", part)),
            false => (*part, ""),
        };
        side.admin(statements);
        for row in side.admin(query) {
            side.admin(&row.join(" "));
        }
    }
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

fn fill_in(text: &str, values: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in values {
        text = text.replace(&format!(":\"{name}\""), &format!("\"{}\"", value.replace('"', "\"\"")));
        text = text.replace(&format!(":'{name}'"), &format!("'{}'", value.replace('\'', "''")));
    }
    assert!(!text.contains(":\"") && !text.contains(":'"), "a recipe uses a variable that nobody sets:\n{text}");
    text
}
