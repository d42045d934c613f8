//! Licences and sources of the dependencies, from `deny.toml` and cargo's own answer: the part of the audit that needs
//! no other tool. Holes that became known are `make audit`'s business.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::source::root;

/// Dependencies with another licence or another source.
pub fn breaches() -> Vec<String> {
    let rules: toml::Table = toml::from_str(&fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let allowed: Vec<&str> =
        rules["licenses"]["allow"].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect();
    let denied: Vec<&str> =
        rules["bans"]["deny"].as_array().unwrap().iter().map(|item| item["crate"].as_str().unwrap()).collect();
    let packages = packages();
    let sources: BTreeSet<&str> = packages.iter().filter_map(|package| package["source"].as_str()).collect();
    let mut found = Vec::new();
    if sources.len() > 1 || sources.iter().any(|source| !source.starts_with("registry+")) {
        found.push(format!("more than one source: {sources:?}"));
    }
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("no licence");
        if !satisfied(licence, &allowed) {
            found.push(format!("{name}: {licence}"));
        }
        if denied.contains(&name) {
            found.push(format!("{name}: is banned"));
        }
    }
    found
}

fn packages() -> Vec<serde_json::Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1"]).current_dir(root());
    let output = command.output().expect("cargo runs: it runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo answers in JSON");
    metadata["packages"].as_array().expect("a workspace has packages").clone()
}

/// Whether the allowed licences satisfy an expression of `OR`, `AND`, brackets and the old `/`.
fn satisfied(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = either(&words, &mut at, allowed);
    result && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= both(words, at, allowed);
    }
    result
}

fn both(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    if words.get(*at) == Some(&"(") {
        *at += 1;
        let result = either(words, at, allowed);
        *at += 1;
        return result;
    }
    let mut name = words.get(*at).copied().unwrap_or_default().to_owned();
    *at += 1;
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&name.as_str())
}

#[test]
fn a_licence_that_is_not_allowed_is_found_in_every_expression() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"];
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR BSD-3-Clause) AND ISC", "no licence"] {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}
