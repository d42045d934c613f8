//! What has to be said, and what may not be left behind.

use crate::source::{SourceFile, Token};

/// The words that a panic outside of tests has to be explained with.
const EXPLAINED: &str = "cannot happen: ";

/// Files that do not open with `//!`.
pub fn unopened(file: &SourceFile) -> Vec<String> {
    let opens = file.lines.first().is_some_and(|line| line.strip_prefix("//! ").is_some_and(|text| text.len() > 15));
    if opens { Vec::new() } else { vec![file.at(1)] }
}

/// Marks of unfinished work, also in tests.
pub fn unfinished(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for (at, token) in file.all.iter().enumerate() {
        let next = |text: &str| file.all.get(at + 1).is_some_and(|next| next.text == text);
        let mark = match token.text.as_str() {
            "todo" | "unimplemented" | "dbg" => next("!"),
            // The one exception: what another test starts as a process of its own, and says so.
            "ignore" => {
                let started = file.all.get(at + 2).is_some_and(|reason| reason.text.starts_with("\"started by "));
                at > 1 && file.all[at - 1].text == "[" && file.all[at - 2].text == "#" && !started
            }
            _ => false,
        };
        if mark {
            found.push(format!("{}: {}", file.at(token.line), token.text));
        }
    }
    let marked =
        |line: &str| line.split("//").nth(1).is_some_and(|note| note.contains("FIXME") || note.contains("TODO"));
    let lines = file.lines.iter().enumerate().filter(|(_, line)| marked(line));
    found.extend(lines.map(|(at, line)| format!("{}: {}", file.at(at + 1), line.trim())));
    found
}

/// Where unsafe code may stand: loading compiled code, and the SDK's generated bindings.
const UNSAFE: &[&str] = &["host/src/transform/trusted.rs", "transforms/sdk/src/wire.rs"];

/// Unsafe code, and leave to write it, anywhere else; also in tests.
pub fn unsafe_code(file: &SourceFile) -> Vec<String> {
    let allowed = UNSAFE.contains(&file.path.as_str());
    let leave = |at: usize| {
        let levels = ["allow", "expect", "warn", "deny"];
        let level = at.checked_sub(2).map(|at| file.all[at].text.as_str());
        // `deny` is what the one exception needs; it stands at the crate's root, and nowhere to soften a `forbid`.
        level.is_some_and(|level| levels.contains(&level)) && !(level == Some("deny") && file.path == "host/src/lib.rs")
    };
    let found = file.all.iter().enumerate().filter(|(at, token)| match token.text.as_str() {
        "unsafe" => true,
        "unsafe_code" => leave(*at),
        _ => false,
    });
    found.filter(|_| !allowed).map(|(_, token)| file.at(token.line)).collect()
}

/// Panics in code that runs, without a reason.
pub fn unexplained_panics(file: &SourceFile) -> Vec<String> {
    let code = &file.code;
    // A file of tests beside its module stands behind `#[cfg(test)]` in that module.
    if file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let is = |at: usize, text: &str| code.get(at).is_some_and(|token| token.text == text);
    let mut found = Vec::new();
    for (at, token) in code.iter().enumerate() {
        let panics = match token.text.as_str() {
            "unwrap" | "expect" | "unwrap_err" | "expect_err" => {
                // A method of ours may have such a name.
                at > 1 && is(at - 1, ".") && is(at + 1, "(") && !is(at - 2, "self")
            }
            "panic" | "unreachable" => is(at + 1, "!"),
            _ => false,
        };
        if panics && !explained(file, code, at) {
            found.push(format!("{}: {}", file.at(token.line), file.lines[token.line - 1].trim()));
        }
    }
    found
}

fn explained(file: &SourceFile, code: &[Token], at: usize) -> bool {
    let line = code[at].line;
    let message = code[at..].iter().take(4).any(|token| token.text.starts_with('"') && token.text.contains(EXPLAINED));
    let noted = |line: &String| line.split("//").skip(1).any(|note| note.contains(EXPLAINED));
    message || file.lines[line.saturating_sub(2)..line].iter().any(noted)
}

#[test]
fn a_panic_without_its_reason_is_found() {
    let count = |text: &str| unexplained_panics(&SourceFile::new("host/src/lsn.rs", text)).len();
    assert_eq!(count("fn a() { b().unwrap(); }"), 1);
    assert_eq!(count("fn a() { b().expect(\"worked\"); }"), 1);
    assert_eq!(count("fn a() { unreachable!() }"), 1);
    assert_eq!(count("fn a() { b().expect(\"cannot happen: b is checked above\"); }"), 0);
    assert_eq!(count("fn a() {\n    // cannot happen: b is checked above\n    b().unwrap();\n}"), 0);
    assert_eq!(count("fn a() {\n    // cannot happen: b is checked above\n\n    b().unwrap();\n}"), 1, "too far away");
    assert_eq!(count("fn a() { b().unwrap_or_default(); self.expect = 1; self.expect(b, c); }"), 0);
    assert_eq!(count("fn a() { self.b.expect(\"worked\"); }"), 1);
    assert_eq!(count("#[cfg(test)] mod tests { fn a() { b().unwrap(); } }"), 0);
}

#[test]
fn unsafe_code_is_found_everywhere_but_in_its_place() {
    let count = |path: &str, text: &str| unsafe_code(&SourceFile::new(path, text)).len();
    assert_eq!(count("host/src/transform/trusted.rs", "#![allow(unsafe_code)] fn a() { unsafe { b() } }"), 0);
    assert_eq!(count("host/src/transform/cache.rs", "#![allow(unsafe_code)] fn a() { unsafe { b() } }"), 2);
    assert_eq!(count("host/tests/a.rs", "#[cfg(test)] mod tests { unsafe fn a() {} }"), 1, "also in tests");
    assert_eq!(count("host/src/lib.rs", "#![deny(unsafe_code)] // unsafe"), 0);
    assert_eq!(count("host/src/main.rs", "#![forbid(unsafe_code)] fn a() { b(\"unsafe\") }"), 0);
}

#[test]
fn unfinished_work_is_found_also_in_tests() {
    let count = |text: &str| unfinished(&SourceFile::new("tests/x.rs", text)).len();
    assert_eq!(count("fn a() { todo!() }"), 1);
    assert_eq!(count("#[cfg(test)] mod tests { #[test] #[ignore] fn a() { dbg!(1); } }"), 2);
    assert_eq!(count("#[test] #[ignore = \"slow\"] fn a() {}"), 1, "a reason alone does not run a test");
    assert_eq!(count("#[test] #[ignore = \"started by the test below\"] fn a() {}"), 0);
    assert_eq!(count("fn a() {} // TODO: b"), 1);
    assert_eq!(count("fn todo() { ignore(\"todo!()\") }"), 0);
}

#[test]
fn a_file_that_says_nothing_about_itself_is_found() {
    let count = |text: &str| unopened(&SourceFile::new("host/src/lsn.rs", text)).len();
    assert_eq!(count("//! A position in the log of changes.\n"), 0);
    assert_eq!(count("//! x\n"), 1);
    assert_eq!(count("use a::b;\n//! A position in the log of changes.\n".split_once('\n').unwrap().0), 1);
    assert_eq!(count(""), 1);
}
