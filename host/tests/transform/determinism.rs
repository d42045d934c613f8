//! L9 sampled: rows are asked about again in a fresh instance and in other calls.

use super::*;

fn sampling(share: f64, on_nondeterminism: OnNondeterminism) -> Guest {
    Guest::new(guests(), Direction::Forward, Limits { determinism_share: share, on_nondeterminism, ..LIMITS })
}

#[test]
fn row_30_and_l9_an_answer_out_of_the_instance_s_memory_or_the_batch_s_cut_stops_with_its_row_and_column() {
    for (table, count, row) in [("quick", 9, 3), ("neighbours", 9, 0), ("place", 9, 3), ("place", 2, 1)] {
        let fault = run(&mut sampling(1.0, OnNondeterminism::Stop), table, &rows(count, &[])).unwrap_err();
        let text = fault.problem.to_string();
        assert_eq!((fault.problem.code(), fault.row), ("NOT_DETERMINISTIC", row), "{table}: {text}");
        assert_eq!((fault.problem.action(), fault.problem.blame()), (Action::Stop, Blame::Artifact));
        assert!(text.contains(&format!("public.{table}.note")) && text.contains("guests.wasm@sha256:"), "{text}");
    }
    let fault = run(&mut sampling(1.0, OnNondeterminism::Stop), "eighth", &rows(9, &[])).unwrap_err();
    assert_eq!(fault.problem.code(), "NOT_DETERMINISTIC");
    assert!(fault.problem.to_string().contains("it trapped"), "{}", fault.problem);
}

#[test]
fn row_30_and_l9_a_share_of_the_calls_is_held_and_the_first_call_of_a_table_among_them() {
    let mut guest = sampling(0.000_1, OnNondeterminism::Stop);
    assert_eq!(run(&mut guest, "t", &rows(9, &[])).unwrap().len(), 9, "another table's sample");
    assert!(run(&mut guest, "neighbours", &rows(9, &[])).is_err());
    assert!(run(&mut guest, "neighbours", &rows(9, &[])).is_ok(), "the share is small");
    assert!(run(&mut sampling(0.0, OnNondeterminism::Stop), "neighbours", &rows(9, &[])).is_ok());
}

#[test]
fn row_30_a_warning_lets_the_first_answer_count() {
    let mut guest = sampling(1.0, OnNondeterminism::Warn);
    for _ in 0..3 {
        let answers = run(&mut guest, "neighbours", &rows(9, &[])).unwrap();
        assert!(answers.iter().all(|answer| answer[0].values[1] == Datum::text("9")));
    }
}

#[test]
fn l9_a_pure_transform_passes_with_every_call_made_again_on_several_instances() {
    let limits = Limits { determinism_share: 1.0, instances: 3, ..LIMITS };
    let mut guest = Guest::new(guests(), Direction::Forward, limits);
    for count in [1, 2, 3, 1_000, 3_500] {
        assert_eq!(run(&mut guest, "t", &rows(count, &[])).unwrap().len(), count);
    }
    // A row that is to blame is blamed, whether or not its call is a sample.
    let fault = run(&mut guest, "t", &rows(2_500, &[(1_300, "trap"), (2_200, "nul")])).unwrap_err();
    assert_eq!((fault.row, fault.problem.code()), (1_300, "TRANSFORM_TRAP"));
}
