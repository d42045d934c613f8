//! L8, exhaustively: every interleaving of two applications and two links on one row, through the rule that the host
//! itself uses. Whenever nothing is under way, both sides must hold the same, and whatever was left out is recorded.
//!
//! The model is small enough to be complete: it holds each state once, and a state is everything that could matter
//! later. It runs the same world with worse rules as well, to show that it would notice.

#[path = "interleavings/claims.rs"]
mod claims;
#[path = "interleavings/locked.rs"]
mod locked;
#[path = "interleavings/records.rs"]
mod records;
#[path = "interleavings/tables.rs"]
mod tables;
#[path = "interleavings/world.rs"]
mod world;

use claims::Table;
use records::{Kind, Records, SPLITS};
use world::{Found, Mode, Size, Winner, explore};

const FULL: Size = Size { steps: [3, 3], batch: 9, memory: true };
const SMALL: Size = Size { steps: [2, 2], ..FULL };

/// The largest worlds take minutes and gigabytes: they are for `make torture`.
fn large(size: Size, quick: Size) -> Size {
    if std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long") { size } else { quick }
}
const POLICIES: [Winner; 2] = [Winner::Blue, Winner::Green];

fn say(name: &str, found: Found) -> Found {
    println!(
        "{name}: {} states, {} ends, {} of them divergent; {} conflicts, {} agreements, {} reassertions, {} denials, {} stops",
        found.states,
        found.ends,
        found.divergent,
        found.conflicts,
        found.agreements,
        found.reassertions,
        found.denials,
        found.stopped
    );
    found
}

/// Explores both policies over a table of so many columns, and says what was seen. Where both sides make equally many
/// steps, the two are the same world with the names exchanged.
fn both(name: &str, columns: usize, size: Size, mode: Mode) -> [Found; 2] {
    let of = |winner| say(&format!("{name}, {winner:?} wins"), explore(Table::new(columns), size, winner, mode));
    match size.steps[0] == size.steps[1] {
        true => [of(Winner::Blue); 2],
        false => POLICIES.map(of),
    }
}

/// The same over rows that one side holds in two tables: once the winner, once the loser.
fn split(name: &str, kind: Kind, size: Size, mode: Mode) -> [Found; 2] {
    let of = |split| {
        let found = explore(Records::new(kind, split), size, Winner::Blue, mode);
        say(&format!("{name}, the {} has two tables", ["winner", "loser"][split]), found)
    };
    SPLITS.map(of)
}

fn assert_converged(name: &str, found: [Found; 2]) {
    for found in found {
        assert_eq!(found.divergent, 0, "{name}: {found:?}");
        assert!(found.ends > 10 && found.conflicts > 10 && found.agreements > 0, "{name} saw too little: {found:?}");
    }
}

fn assert_converges(name: &str, columns: usize, size: Size) {
    assert_converged(name, both(name, columns, size, Mode::Causal));
}

#[test]
fn l8_counter_example_31_one_value_converges_in_every_interleaving_batch_cut_and_kill() {
    assert_converges("3 x 3, one column", 1, FULL);
}

#[test]
fn l8_counter_example_11_a_row_of_two_parts_converges_where_deletes_meet_updates_of_either() {
    assert_converges("two columns", 2, large(FULL, Size { steps: [3, 2], ..FULL }));
}

#[test]
fn counter_example_11_a_row_deleted_and_made_anew_diverges_unless_the_winner_asserts_it_again() {
    assert!(both("without reassertion", 2, SMALL, Mode::WithoutReassertion).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_2_the_same_model_with_comparison_by_value_diverges() {
    assert!(both("by value", 1, SMALL, Mode::ByValue).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_10_the_same_model_with_both_links_writing_always_diverges() {
    let size = Size { steps: [1, 1], ..FULL };
    assert!(both("both always", 1, size, Mode::BothAlways).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_31_the_same_model_breaks_if_what_the_winner_applied_is_forgotten() {
    let found = both("without recent", 1, SMALL, Mode::WithoutRecent);
    assert!(found.iter().all(|found| found.divergent > 0 && found.stopped > 0));
}

#[test]
fn counter_example_2_the_same_model_breaks_if_the_loser_does_not_wait_for_the_winners_log() {
    let found = both("without waiting", 1, SMALL, Mode::WithoutWaiting);
    assert!(found.iter().all(|found| found.divergent > 0 && found.stopped > 0));
}

#[test]
fn l8_a_row_made_while_its_removal_finds_none_stays_on_one_side_unless_the_winner_denies_it() {
    let found = both("without denial", 1, SMALL, Mode::WithoutDenial);
    assert!(found.iter().all(|found| found.divergent > 0));
}

#[test]
fn l8_a_row_made_while_it_is_denied_is_lost_unless_it_is_asserted() {
    let size = Size { steps: [3, 3], ..FULL };
    let found = both("without correction", 1, size, Mode::WithoutCorrection);
    assert!(found.iter().all(|found| found.divergent > 0));
}

#[test]
fn l8_a_row_that_one_side_routes_to_one_of_two_tables_converges_in_every_interleaving() {
    assert_converged("routed", split("routed", Kind::Routed, SMALL, Mode::Causal));
}

#[test]
fn l8_a_row_that_another_tables_row_describes_converges_in_every_interleaving() {
    assert_converged(
        "described",
        split("described", Kind::Described, large(SMALL, Size { steps: [2, 1], ..SMALL }), Mode::Causal),
    );
}

#[test]
fn l8_a_routed_row_diverges_if_changes_are_known_by_table_only() {
    let found = split("by table", Kind::Routed, SMALL, Mode::ByTable);
    assert!(found[0].divergent > 0, "the side with two tables wins");
}

#[test]
fn l8_a_routed_row_diverges_if_nobody_says_where_it_is_not() {
    let found = split("without absence", Kind::Routed, SMALL, Mode::WithoutAbsence);
    assert!(found[1].divergent > 0, "the side with two tables loses");
}
