//! How long files and functions may be.

use crate::source::{SourceFile, end_of_item};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 60;

/// A listed one has this room before its number must follow it down, so that not every edit touches the list.
const ROOM: usize = 15;

/// Longer than allowed when the rule came, and why each is still one file. No file is added.
const LONG_FILES: &[(&str, usize)] = &[];

/// Longer than allowed when the rule came. No function is added.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Files and functions over their limit, and entries of the lists that have had their day.
pub fn breaches(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let listed = LONG_FILES.iter().find(|(path, _)| *path == file.path).map(|(_, lines)| *lines);
        found.extend(judge(&file.path, file.lines.len(), FILE_LINES, listed));
        for (name, line, lines) in functions(file) {
            let listed = LONG_FUNCTIONS.iter().find(|(path, function, _)| *path == file.path && *function == name);
            let what = format!("{}: fn {name}", file.at(line));
            found.extend(judge(&what, lines, FUNCTION_LINES, listed.map(|(_, _, lines)| *lines)));
        }
    }
    let paths = LONG_FILES.iter().map(|(path, _)| path).chain(LONG_FUNCTIONS.iter().map(|(path, _, _)| path));
    let gone = paths.filter(|path| !files.iter().any(|file| file.path == **path));
    found.extend(gone.map(|path| format!("{path}: is listed and not there: take it off the list")));
    found
}

fn judge(what: &str, lines: usize, limit: usize, listed: Option<usize>) -> Option<String> {
    match listed {
        None if lines > limit => Some(format!("{what}: {lines} lines, allowed are {limit}")),
        Some(_) if lines <= limit => Some(format!("{what}: {lines} lines are allowed by now: take it off the list")),
        Some(most) if lines > most => Some(format!("{what}: grew from {most} to {lines} lines")),
        Some(most) if lines + ROOM < most => {
            Some(format!("{what}: shrank from {most} to {lines} lines: lower its number"))
        }
        _ => None,
    }
}

/// Name, first line and number of lines of each function with a body.
fn functions(file: &SourceFile) -> Vec<(String, usize, usize)> {
    let code = &file.code;
    let mut found = Vec::new();
    for at in 0..code.len().saturating_sub(1) {
        let name = &code[at + 1].text;
        // `fn(` is a type.
        if code[at].text != "fn" || !name.starts_with(|first: char| first.is_alphabetic() || first == '_') {
            continue;
        }
        let last = &code[end_of_item(code, at) - 1];
        found.push((name.clone(), code[at].line, last.line + 1 - code[at].line));
    }
    found
}

#[test]
fn a_long_function_is_measured_from_its_name_to_its_last_brace() {
    let text = "impl A {\n    fn b(f: fn(u8) -> u8) -> C\n    where\n        D: E,\n    {\n        f()\n    }\n    fn g();\n}\n";
    let measured = functions(&SourceFile::new("host/src/apply/x.rs", text));
    assert_eq!(measured, [("b".to_owned(), 2, 6), ("g".to_owned(), 8, 1)]);
    let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES));
    let file = SourceFile::new("host/src/apply/x.rs", &long);
    assert!(breaches(&[file])[0].contains("fn a: 62 lines"));
}

#[test]
fn the_list_of_long_ones_only_shrinks() {
    assert!(judge("x", 501, 500, None).is_some());
    assert!(judge("x", 500, 500, None).is_none());
    assert!(judge("x", 701, 500, Some(700)).is_some(), "it may not grow");
    assert!(judge("x", 690, 500, Some(700)).is_none());
    assert!(judge("x", 600, 500, Some(700)).is_some(), "the number follows it down");
    assert!(judge("x", 400, 500, Some(700)).is_some(), "the entry goes");
}
