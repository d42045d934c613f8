//! L8, exhaustively: every interleaving of two applications and two links on one row, through the rule that the host
//! itself uses. Whenever nothing is under way, both sides must hold the same, and whatever was left out is recorded.
//!
//! The model is small enough to be complete: it holds each state once, and a state is everything that could matter
//! later. It runs the same world with worse rules as well, to show that it would notice.

#[path = "interleavings/claims.rs"]
mod claims;
#[path = "interleavings/world.rs"]
mod world;

use world::{Found, Mode, Size, Winner, explore};

const ONE: Size = Size { columns: 1, steps: [3, 3], batch: 9, memory: true };
const TWO: Size = Size { columns: 2, steps: [3, 3], batch: 9, memory: true };
const SMALL: [u8; 2] = [2, 2];
const POLICIES: [Winner; 2] = [Winner::Blue, Winner::Green];

/// Explores both policies and says what was seen.
fn both(name: &str, size: Size, mode: Mode) -> [Found; 2] {
    POLICIES.map(|winner| {
        let found = explore(size, winner, mode);
        println!(
            "{name}, {winner:?} wins: {} states, {} ends, {} of them divergent; {} conflicts, {} agreements, \
             {} reassertions, {} stops",
            found.states,
            found.ends,
            found.divergent,
            found.conflicts,
            found.agreements,
            found.reassertions,
            found.stopped
        );
        found
    })
}

fn assert_converges(name: &str, size: Size) {
    for found in both(name, size, Mode::Causal) {
        assert_eq!(found.divergent, 0, "{name}: {found:?}");
        assert!(found.ends > 10 && found.conflicts > 10 && found.agreements > 0, "{name} saw too little: {found:?}");
    }
}

#[test]
fn l8_counter_example_31_one_value_converges_in_every_interleaving_batch_cut_and_kill() {
    assert_converges("3 x 3, one column", ONE);
}

#[test]
fn l8_counter_example_11_a_row_of_two_parts_converges_where_deletes_meet_updates_of_either() {
    assert_converges("3 x 3, two columns", TWO);
}

#[test]
fn counter_example_11_a_row_deleted_and_made_anew_diverges_unless_the_winner_asserts_it_again() {
    let size = Size { steps: SMALL, ..TWO };
    assert!(both("without reassertion", size, Mode::WithoutReassertion).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_2_the_same_model_with_comparison_by_value_diverges() {
    let size = Size { steps: SMALL, ..ONE };
    assert!(both("by value", size, Mode::ByValue).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_10_the_same_model_with_both_links_writing_always_diverges() {
    let size = Size { steps: [1, 1], ..ONE };
    assert!(both("both always", size, Mode::BothAlways).iter().all(|found| found.divergent > 0));
}

#[test]
fn counter_example_31_the_same_model_breaks_if_what_the_winner_applied_is_forgotten() {
    let size = Size { steps: SMALL, ..ONE };
    let found = both("without recent", size, Mode::WithoutRecent);
    assert!(found.iter().all(|found| found.divergent > 0 && found.stopped > 0));
}

#[test]
fn counter_example_2_the_same_model_breaks_if_the_loser_does_not_wait_for_the_winners_log() {
    let size = Size { steps: SMALL, ..ONE };
    let found = both("without waiting", size, Mode::WithoutWaiting);
    assert!(found.iter().all(|found| found.divergent > 0 && found.stopped > 0));
}
