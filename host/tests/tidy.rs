//! Holds the sources to the rules of `ARCHITECTURE.md` and `CONTRIBUTING.md` that the compiler does not know.
//!
//! Each failure names its rule and its cure. It must never judge what a person should judge: every rule here can be
//! decided from the text alone. The rules themselves are tested on small strings at the end, so that they can fail.

#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/homes.rs"]
mod homes;
#[path = "tidy/laws.rs"]
mod laws;
#[path = "tidy/lengths.rs"]
mod lengths;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/reasons.rs"]
mod reasons;
#[path = "tidy/source.rs"]
mod source;

use source::SourceFile;

/// Fails with all breaches at once: a run that shows one at a time wastes the reader's time.
fn hold(rule: &str, cure: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\nrule: {rule}\ncure: {cure}\n  {}\n", breaches.join("\n  "));
}

fn each(check: impl Fn(&SourceFile) -> Vec<String>) -> Vec<String> {
    source::host().iter().flat_map(check).collect()
}

#[test]
fn imports_point_down_the_floors() {
    hold(
        "imports point down: edge > control > flows > stages > contracts > ground, and stages do not know each other",
        "move what both need down to plan, catalog or the ground, or let the flow above pass it in; a new module gets \
         its floor in host/tests/tidy/floors.rs",
        each(floors::breaches),
    );
}

#[test]
fn every_third_party_name_has_one_home() {
    hold(
        "the names of a third-party crate stand in its home only, so that replacing it touches one folder",
        "put a type or function of ours over it in the home, and use that",
        each(homes::breaches),
    );
}

#[test]
fn files_and_functions_are_short() {
    hold(
        "a file has at most 500 lines and a function at most 60; the longer ones are listed with their length, which \
         may only shrink",
        "split by what changes together; if a listed one has shrunk, lower its number in host/tests/tidy/lengths.rs",
        lengths::breaches(&source::host()),
    );
}

#[test]
fn every_file_opens_by_saying_what_it_does() {
    hold(
        "a file opens with `//!`: what it does, what it must never do, which law it holds",
        "write that, for someone who has not seen the file",
        each(reasons::unopened),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    hold(
        "no todo!, unimplemented!, dbg!, FIXME or ignored test",
        "finish it, or take it out and say so where the work is planned",
        source::everything().iter().flat_map(reasons::unfinished).collect(),
    );
}

#[test]
fn unsafe_code_stands_in_one_module_of_the_host() {
    hold(
        "unsafe code stands in host/src/transform/trusted.rs, which loads what this program compiled, and in the SDK's \
         generated bindings",
        "do without; what needs it here would need an audit and a line in ARCHITECTURE.md",
        source::everything().iter().flat_map(reasons::unsafe_code).collect(),
    );
}

#[test]
fn every_panic_says_why_it_cannot_happen() {
    hold(
        "outside of tests no unwrap, expect, panic! or unreachable! without `cannot happen: ` and the reason",
        "return a Problem; if it really cannot happen, say why in the message or in a comment on the line or above it",
        each(reasons::unexplained_panics),
    );
}

#[test]
fn every_claimed_law_is_cited_where_it_is_enforced_and_in_the_name_of_a_test() {
    hold(
        "every law of laws::CLAIMED stands as `L5` in host/src and as `l5` in the name of a test",
        "cite it at the line that enforces it; name the test that would fail if that line were gone",
        laws::breaches(laws::CLAIMED, &source::host(), &source::everything()),
    );
}

#[test]
fn numbers_of_something_carry_its_unit_last() {
    hold(
        "a number of milliseconds, bytes, ... says so at the end of its name",
        "`lag_bytes`, not `lag` or `bytes_lag`",
        each(names::breaches),
    );
}

#[test]
fn dependencies_have_the_allowed_licences_and_one_source() {
    hold(
        "every dependency has a licence of deny.toml and comes from the default registry",
        "choose another crate; a licence is added to deny.toml only with its reason",
        dependencies::breaches(),
    );
}
