//! Whether each law that this release claims is enforced somewhere and tested somewhere.

use crate::source::SourceFile;

/// The laws of `ARCHITECTURE.md` that this release claims: all of them.
pub const CLAIMED: &[&str] = &["L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "L11", "L12"];

/// Laws that no line of the host cites, or no test's name.
pub fn breaches(claimed: &[&str], host: &[SourceFile], tests: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for law in claimed {
        if !host.iter().any(|file| cites(file, law)) {
            found.push(format!("{law}: no line of host/src cites it"));
        }
        if !tests.iter().any(|file| names_a_test_after(file, law)) {
            found.push(format!("{law}: no test has it in its name (fn ..._{}_...)", law.to_lowercase()));
        }
    }
    found
}

fn cites(file: &SourceFile, law: &str) -> bool {
    let words = |line: &str| line.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == law);
    file.lines.iter().any(|line| line.contains("//") && words(line))
}

fn names_a_test_after(file: &SourceFile, law: &str) -> bool {
    let law = law.to_lowercase();
    let named = |name: &str| name.split('_').any(|word| word == law);
    file.all.windows(2).enumerate().any(|(at, pair)| {
        pair[0].text == "fn" && named(&pair[1].text) && {
            // The attribute stands close above: `#[test]`, `#[tokio::test(...)]`, or the inside of `proptest!`.
            let before = &file.all[at.saturating_sub(20)..at];
            before.iter().rev().take_while(|token| token.text != "fn").any(|token| token.text == "test")
        }
    })
}

#[test]
fn a_law_without_line_or_test_is_found() {
    let host = |text: &str| vec![SourceFile::new("host/src/lsn.rs", text)];
    let cited = "fn a() {} // L1: only what is durable\n#[cfg(test)] mod tests { #[test] fn l1_holds() {} }";
    assert!(breaches(&["L1"], &host(cited), &host(cited)).is_empty());
    assert_eq!(breaches(&["L2"], &host(cited), &host(cited)).len(), 2);
    assert_eq!(breaches(&["L1"], &host("// L10 is not L1x"), &host("#[test] fn l10_holds() {}")).len(), 2);
    assert_eq!(breaches(&["L1"], &host("// L1"), &host("fn l1_holds() {}")).len(), 1, "not a test");
    assert_eq!(
        breaches(&["L1"], &host("const A: &str = \"L1\";"), &host("#[tokio::test] async fn kill_l1() {}")).len(),
        1
    );
}
