//! Several instances at once: the same answers, in the same order, and the same row blamed as with one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn many(instances: u32) -> Guest {
    Guest::new(guests(), Direction::Forward, Limits { instances, batch_time_ms: 5_000, ..LIMITS })
}

/// What a batch came to, in a form that can be compared.
fn outcome(guest: &mut Guest, rows: &[Image]) -> Result<Vec<Answer>, (usize, String)> {
    run(guest, "t", rows).map_err(|fault| (fault.row, fault.problem.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn l9_calls_of_any_duration_on_several_instances_answer_and_blame_as_one_instance_does(
        count in 1_usize..6_000,
        slow in prop::collection::vec((0_usize..6_000, 0_u32..2_000_000), 0..8),
        faulty in prop::collection::vec((0_usize..6_000, prop::sample::select(vec!["trap", "reject", "forget", "nul"])), 0..3),
        instances in 2_u32..6,
    ) {
        let slow: Vec<(usize, String)> = slow.into_iter().map(|(row, turns)| (row, format!("turn {turns}"))).collect();
        let marked = faulty.iter().copied().chain(slow.iter().map(|(row, note)| (*row, note.as_str())));
        let rows = rows(count, &marked.collect::<Vec<_>>());
        let alone = outcome(&mut many(1), &rows);
        prop_assert_eq!(&outcome(&mut many(instances), &rows), &alone);
        let first = faulty.iter().map(|(row, _)| *row).filter(|row| *row < count).min();
        prop_assert_eq!(alone.err().map(|(row, _)| row), first);
    }
}

#[test]
fn l3_a_row_that_is_rejected_is_blamed_before_one_of_the_same_call_that_traps() {
    for (first, second) in [("reject", "trap"), ("trap", "reject"), ("nul", "trap"), ("trap", "trap")] {
        let rows = rows(10, &[(4, first), (7, second)]);
        let (row, problem) = outcome(&mut many(1), &rows).unwrap_err();
        assert_eq!(row, 4, "{first} before {second}: {problem}");
    }
}

#[test]
fn calls_of_one_batch_run_on_several_instances_and_a_small_batch_on_one() {
    let mut guest = many(4);
    assert_eq!(guest.rows_at_once(), 4_000);
    // Each answer is how often its instance was called: one instance alone would have counted to eight.
    let counts = |answers: Vec<Answer>| -> BTreeSet<String> { answers.iter().map(note).collect() };
    let busy = counts(run(&mut guest, "calls", &rows(8_000, &[])).unwrap());
    assert!(!busy.is_empty() && busy.len() < 8, "one instance made all calls: {busy:?}");
    let mut guest = many(4);
    for call in 1..=3 {
        let answers = counts(run(&mut guest, "calls", &rows(1_000, &[])).unwrap());
        assert_eq!(answers, [call.to_string()].into());
    }
}

#[test]
fn l10_an_instance_makes_room_for_a_fresh_one_after_a_thousand_calls() {
    let mut guest = many(1);
    let row = rows(1, &[]);
    let last = (0..1_001).map(|_| run(&mut guest, "quick", &row).unwrap()).next_back().unwrap();
    assert_eq!(last[0][0].values[1], Datum::text("1"));
}
