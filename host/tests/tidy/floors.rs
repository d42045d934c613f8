//! Which module may know which.

use crate::source::{SourceFile, Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Ground,
    Contracts,
    Stages,
    Flows,
    Control,
    Edge,
}

const FLOORS: &[(Floor, &[&str])] = &[
    (Floor::Ground, &["catalog", "change", "lsn", "names", "problem", "live", "marker", "pg"]),
    // The delta rules are no stage: they are pure, and what they give out is what the apply stage takes.
    (Floor::Contracts, &["manifest", "plan", "delta", "versions"]),
    (Floor::Stages, &["source", "decode", "transform", "apply"]),
    (
        Floor::Flows,
        &[
            "link",
            "copy",
            "recopy",
            "stream",
            "check",
            "status",
            "clean",
            "verify",
            "conflicts",
            "sequences",
            "build",
            "cluster",
        ],
    ),
    (Floor::Control, &["supervisor", "swap"]),
    (Floor::Edge, &["admin", "cli", "config", "show", "demo", "main"]),
];

/// Settings are plain data that the edge fills in once; whoever runs a flow may read them. How they are read from a
/// file stays at the edge.
const SETTINGS: &[&str] = &["Settings"];

/// Imports that point up or sideways, and modules without a floor.
pub fn breaches(file: &SourceFile) -> Vec<String> {
    let module = file.module();
    // `lib` declares the modules; it belongs to no floor.
    if module == "lib" {
        return Vec::new();
    }
    let Some(own) = floor(module) else {
        return vec![format!("{}: the module `{module}` has no floor", file.path)];
    };
    imports(file)
        .into_iter()
        .filter(|import| !import.is_allowed_from(module, own))
        .map(|Import { module: other, line, .. }| {
            let theirs = floor(&other).map_or_else(|| "no floor".to_owned(), |floor| format!("{floor:?}"));
            format!("{}: `{module}` ({own:?}) uses `{other}` ({theirs})", file.at(line))
        })
        .collect()
}

struct Import {
    module: String,
    /// What of it is used, as far as that stands beside it.
    names: Vec<String>,
    line: usize,
}

impl Import {
    fn is_allowed_from(&self, module: &str, own: Floor) -> bool {
        if self.module == module {
            return true;
        }
        let plain = !self.names.is_empty() && self.names.iter().all(|name| SETTINGS.contains(&name.as_str()));
        if self.module == "config" && plain {
            return own >= Floor::Flows;
        }
        match floor(&self.module) {
            None => false,
            Some(Floor::Stages) => own > Floor::Stages,
            Some(theirs) => theirs <= own,
        }
    }
}

fn floor(module: &str) -> Option<Floor> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// What follows `crate::` (`falkirk::` in the binary), or `super::` in a file right below `host/src`.
fn imports(file: &SourceFile) -> Vec<Import> {
    let at_top = file.path.matches('/').count() == 2;
    let mut found = Vec::new();
    for (at, token) in file.code.iter().enumerate() {
        let text = token.text.as_str();
        let starts = text == "crate" || (text == "falkirk" && file.module() == "main") || (text == "super" && at_top);
        if starts && is(&file.code, at + 1, "::") {
            first_names(&file.code, at + 2, &mut found);
        }
    }
    found
}

/// The modules named at the head of a path: `a::b` names `a`, `{a::b, c}` names `a` and `c`.
fn first_names(code: &[Token], at: usize, found: &mut Vec<Import>) {
    let Some(token) = code.get(at) else { return };
    if token.text != "{" {
        // A name with a capital is an item of the crate's root, of which there are none: it has no floor, and is shown.
        found.push(Import { module: token.text.clone(), names: second_names(code, at + 1), line: token.line });
        return;
    }
    for head in heads(code, at) {
        first_names(code, head, found);
    }
}

fn second_names(code: &[Token], at: usize) -> Vec<String> {
    if !is(code, at, "::") {
        return Vec::new();
    }
    let heads = if is(code, at + 1, "{") { heads(code, at + 1) } else { vec![at + 1] };
    heads.into_iter().filter_map(|head| code.get(head)).map(|token| token.text.clone()).collect()
}

/// Where the members of the group that opens at `open` begin.
fn heads(code: &[Token], open: usize) -> Vec<usize> {
    let mut depth = 0;
    let mut heads = Vec::new();
    for (at, token) in code.iter().enumerate().skip(open) {
        let before = depth;
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let opens = before == 0 || (depth == 1 && token.text == ",");
        if opens && !is(code, at + 1, "}") {
            heads.push(at + 1);
        }
    }
    heads
}

fn is(code: &[Token], at: usize, text: &str) -> bool {
    code.get(at).is_some_and(|token| token.text == text)
}

#[test]
fn an_import_that_points_up_or_beside_is_found_in_every_spelling() {
    let count = |path: &str, text: &str| breaches(&SourceFile::new(path, text)).len();
    assert_eq!(count("host/src/lsn.rs", "use crate::names::TableName;"), 0, "ground may know ground");
    assert_eq!(count("host/src/lsn.rs", "use crate::plan::Plan;"), 1, "up");
    assert_eq!(count("host/src/lsn.rs", "use super::plan::Plan;"), 1, "up by super");
    assert_eq!(count("host/src/apply/a.rs", "use super::b; use crate::apply::c; use crate::plan::Plan;"), 0);
    assert_eq!(count("host/src/apply/a.rs", "use crate::{lsn::Lsn, decode::{self, a}, plan};"), 1, "beside");
    assert_eq!(count("host/src/apply/a.rs", "fn a() -> crate::source::B { crate::decode::c() }"), 2, "without use");
    assert_eq!(count("host/src/apply/a.rs", "#[cfg(test)] mod tests { use crate::source::B; }"), 0, "a test may");
    assert_eq!(count("host/src/fresh.rs", ""), 1, "a module without a floor");
    assert_eq!(count("host/src/link/a.rs", "use crate::fresh::A;"), 1, "a module without a floor is used");
    assert_eq!(count("host/src/link/a.rs", "use crate::supervisor::A;"), 1);
    assert_eq!(count("host/src/main.rs", "fn main() { falkirk::cli::main() }"), 0);
}

#[test]
fn a_flow_may_read_settings_and_not_how_they_are_parsed() {
    let count = |path: &str, text: &str| breaches(&SourceFile::new(path, text)).len();
    assert_eq!(count("host/src/link/a.rs", "use crate::config::Settings;"), 0);
    assert_eq!(count("host/src/link/a.rs", "use crate::config::{Settings};"), 0);
    assert_eq!(count("host/src/link/a.rs", "use crate::config::parse;"), 1);
    assert_eq!(count("host/src/link/a.rs", "use crate::config::{Settings, parse};"), 1);
    assert_eq!(count("host/src/link/a.rs", "use crate::config;"), 1);
    assert_eq!(count("host/src/apply/a.rs", "use crate::config::Settings;"), 1, "a stage takes what it needs");
}
