//! Transforms at work in the host: real components, built by `falkirk::build`, that do their worst.

#[path = "transform/determinism.rs"]
mod determinism;
#[path = "transform/parallel.rs"]
mod parallel;
#[path = "transform/wasi.rs"]
mod wasi;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use falkirk::build;
use falkirk::change::{Datum, Image};
use falkirk::link::running::Running;
use falkirk::manifest::Write;
use falkirk::names::TableName;
use falkirk::plan::{Answer, Case, Filling, Group, Output, OutputRow, Plan, Rule, Source, SourceColumn};
use falkirk::plan::{Target, TargetColumn};
use falkirk::problem::{Action, Blame};
use falkirk::transform::{Artifact, Compiler, Direction, Guest, GuestFault, Limits, OnNondeterminism};

/// Tests of single faults look at the first time that rows are asked about; `determinism.rs` looks at the second.
const LIMITS: Limits = Limits {
    memory_mib: 32,
    batch_time_ms: 400,
    output_mib: 2,
    instances: 1,
    determinism_share: 0.0,
    on_nondeterminism: OnNondeterminism::Stop,
};

fn load(package: &str) -> Arc<Artifact> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.wasm"));
    let report = build::build(&folder, &out).unwrap();
    let artifact = Artifact::load(&out, Some(&report.sha256), &Limits::default(), &Compiler::default()).unwrap();
    assert_eq!(report.size_bytes, out.metadata().unwrap().len());
    Arc::new(artifact)
}

fn guests() -> Arc<Artifact> {
    static BUILT: OnceLock<Arc<Artifact>> = OnceLock::new();
    Arc::clone(BUILT.get_or_init(|| load("tests/guests")))
}

fn shop() -> Arc<Artifact> {
    static BUILT: OnceLock<Arc<Artifact>> = OnceLock::new();
    Arc::clone(BUILT.get_or_init(|| load("transforms/shop")))
}

/// A plan with one rule: `asked` source columns go to the guest, `computed` target columns come back.
fn plan(table: &str, asked: &[(&str, Case)], computed: &[(&str, Case)], key: &[u16]) -> Plan {
    let name = TableName::new("public", table);
    let from = |(name, case): &(&str, Case)| SourceColumn {
        name: (*name).into(),
        type_oid: 0,
        type_modifier: -1,
        type_sql: format!("{case:?}"),
        case: *case,
    };
    let to = |(name, case): &(&str, Case)| TargetColumn {
        name: (*name).into(),
        type_sql: format!("{case:?}"),
        cast_sql: format!("{case:?}"),
        base_oid: 0,
        case: *case,
        generated: false,
    };
    let columns: Vec<u16> = (0..computed.len() as u16).collect();
    let output = Output {
        target: 0,
        write: Write::Own,
        copied: Vec::new(),
        mapped: Vec::new(),
        needs: Vec::new(),
        groups: vec![Group { from: (0..asked.len()).collect(), values: 0..computed.len() }],
        computed: columns.clone(),
        filled_by: (0..columns.len()).map(Filling::Computed).collect(),
        columns: columns.into(),
        key: key.iter().map(|column| Filling::Computed(usize::from(*column))).collect(),
        when: None,
        many: false,
        follows_source: true,
        on_delete_set: None,
        on_remove_null: false,
    };
    let source = Source {
        name: name.clone(),
        columns: asked.iter().map(from).collect(),
        generated: Vec::new(),
        key: vec![0],
        full_identity: true,
        identity_key: Vec::new(),
        copy_level: 0,
        refers_to_itself: false,
        rule: Rule {
            guest_table: Some(table.into()),
            asked: (0..asked.len()).map(|column| (column, false)).collect(),
            outputs: vec![output],
        },
        depends: Default::default(),
        size_bytes: 0,
        rows_estimate: 0.0,
    };
    let target = Target {
        name: name.clone(),
        columns: computed.iter().map(to).collect(),
        key: key.into(),
        uniques: Vec::new(),
        cascades: false,
        acts: false,
        shared: false,
        identity_always: [].into(),
        internal: false,
    };
    Plan {
        sources: vec![source],
        targets: vec![target],
        by_name: [(name, 0)].into(),
        oids: [].into(),
        left_out: Vec::new(),
        maps: Vec::new(),
        mirror: None,
        chain: None,
    }
}

const ECHO: [(&str, Case); 2] = [("id", Case::Integer), ("note", Case::Text)];

/// Rows of the echo rule; the ones named get another note.
fn rows(count: usize, marked: &[(usize, &str)]) -> Vec<Image> {
    let note = |row| marked.iter().find(|(marked, _)| *marked == row).map_or("fine", |(_, note)| note);
    (0..count).map(|row| Image::from_datums(&[Datum::text(row.to_string()), Datum::text(note(row))])).collect()
}

fn run(guest: &mut Guest, table: &str, rows: &[Image]) -> Result<Vec<Answer>, GuestFault> {
    let plan = plan(table, &ECHO, &ECHO, &[0]);
    guest.answer(&plan, &plan.sources[0], &rows.iter().collect::<Vec<_>>())
}

/// What a row was answered for its note. Printed by itself a value shows its length only.
fn note(answer: &Answer) -> String {
    match &answer[0].values[1] {
        Datum::Text(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => format!("{other:?}"),
    }
}

fn guest() -> Guest {
    Guest::new(guests(), Direction::Forward, LIMITS)
}

/// The fault of one marked row among many, which must name that row and nothing of its values.
fn fault(note: &str) -> String {
    let mut guest = guest();
    let fault = run(&mut guest, "t", &rows(100, &[(70, note)])).unwrap_err();
    assert_eq!(fault.row, 70, "{}", fault.problem);
    assert_eq!((fault.problem.action(), fault.problem.blame()), (Action::Stop, Blame::Artifact));
    let text = fault.problem.to_string();
    assert!(text.contains("public.t") && text.contains("guests.wasm@sha256:"), "{text}");
    assert!(!text.contains("4711") && !text.contains("stays inside"), "{text}");
    assert_eq!(run(&mut guest, "t", &rows(3, &[])).unwrap().len(), 3, "the guest goes on after a fault");
    text
}

#[test]
fn rows_come_back_in_order_over_many_calls_and_in_both_directions() {
    for direction in [Direction::Forward, Direction::Backward] {
        let mut guest = Guest::new(guests(), direction, LIMITS);
        let rows = rows(2_500, &[]);
        let answers = run(&mut guest, "t", &rows).unwrap();
        for (row, answer) in rows.iter().zip(&answers) {
            assert_eq!(*answer, [OutputRow { output: 0, values: vec![row.datum(0), row.datum(1)] }]);
        }
        assert_eq!(answers.len(), 2_500);
        assert!(run(&mut guest, "t", &[]).unwrap().is_empty());
    }
}

#[test]
fn row_22_a_panic_names_its_row_and_the_place_in_the_transform() {
    let text = fault("trap");
    assert!(text.starts_with("TRANSFORM_TRAP") && text.contains("explode") && text.contains("src/lib.rs:"), "{text}");
}

#[test]
fn row_21_a_loop_ends_at_the_deadline_and_names_its_row() {
    let started = Instant::now();
    let text = fault("loop");
    assert!(text.starts_with("TRANSFORM_TIMEOUT"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(20), "the search for the row took {:?}", started.elapsed());
}

#[test]
fn row_24_a_memory_grab_and_an_endless_recursion_name_their_row() {
    let text = fault("memory");
    assert!(text.starts_with("MEMORY_LIMIT") && text.contains("32 MiB"), "{text}");
    let text = fault("deep");
    assert!(text.starts_with("TRANSFORM_TRAP"), "{text}");
}

#[test]
fn row_25_an_answer_that_is_too_large_names_its_row() {
    assert!(fault("output").starts_with("OUTPUT_TOO_LARGE"));
}

#[test]
fn row_27_and_28_answers_that_do_not_fit_the_rule_are_bad_output_of_their_row() {
    for (note, part) in [
        ("unknown output", "output 7"),
        ("arity", "1 values"),
        ("nul", "U+0000"),
        ("case", "integer"),
        ("unset key", "column of the key"),
        ("twice", "two rows"),
        ("forget", "no row"),
    ] {
        let text = fault(note);
        assert!(text.starts_with("BAD_OUTPUT") && text.contains(part), "{note}: {text}");
    }
    let answers = run(&mut guest(), "t", &rows(1, &[(0, "unset")])).unwrap();
    assert_eq!(answers[0][0].values[1], Datum::Unset);
}

#[test]
fn a_rejection_shows_its_code_and_column_and_never_its_message() {
    let text = fault("reject");
    assert!(text.starts_with("ROW_REJECTED") && text.contains("not_finite") && text.contains("note"), "{text}");
    assert!(fault("reject oddly").contains("no printable code"));
}

#[test]
fn the_first_of_several_faulty_rows_is_named() {
    let rows = rows(1_500, &[(1_100, "trap"), (1_400, "trap"), (1_499, "reject")]);
    assert_eq!(run(&mut guest(), "t", &rows).unwrap_err().row, 1_100);
}

#[test]
fn a_wrong_count_is_bad_output_of_the_batch() {
    let fault = run(&mut guest(), "count", &rows(5, &[])).unwrap_err();
    assert_eq!((fault.row, fault.problem.code()), (0, "BAD_OUTPUT"));
}

#[test]
fn row_23_a_trap_that_needs_more_than_one_row_is_reported_as_what_it_is() {
    let fault = run(&mut guest(), "batch", &rows(8, &[])).unwrap_err();
    assert_eq!(fault.problem.code(), "TRANSFORM_TRAP");
    assert!(fault.problem.to_string().contains("with 2 rows at once but not with fewer"), "{}", fault.problem);
    assert!(run(&mut guest(), "batch", &rows(1, &[])).is_ok());
}

#[test]
fn l9_an_instance_that_went_stale_or_leaks_is_replaced_and_no_row_is_blamed() {
    for (table, calls) in [("stale", 5), ("leak", 30)] {
        let mut guest = guest();
        for _ in 0..calls {
            assert_eq!(run(&mut guest, table, &rows(4, &[])).unwrap().len(), 4);
        }
    }
}

#[test]
fn l11_a_guest_is_warmed_by_an_instance_within_its_own_limits() {
    assert!(Guest::new(guests(), Direction::Forward, LIMITS).warm().is_ok());
    let problem = Guest::new(guests(), Direction::Forward, Limits { memory_mib: 1, ..LIMITS }).warm().unwrap_err();
    assert_eq!((problem.code(), problem.action()), ("MEMORY_LIMIT", Action::Refuse));
    assert!(problem.to_string().contains("guests.wasm@sha256:"), "{problem}");
}

#[test]
fn large_rows_are_cut_into_calls_that_fit_the_memory_and_the_output() {
    let limits = Limits { memory_mib: 16, batch_time_ms: 2_000, output_mib: 16, ..LIMITS };
    let mut guest = Guest::new(guests(), Direction::Forward, limits);
    let note = "x".repeat(700_000);
    let rows: Vec<Image> =
        (0..40).map(|row| Image::from_datums(&[Datum::text(row.to_string()), Datum::text(note.clone())])).collect();
    assert_eq!(run(&mut guest, "t", &rows).unwrap().len(), 40);
}

#[test]
fn an_unchanged_value_is_never_handed_to_a_transform() {
    let mut rows = rows(4, &[]);
    rows[2] = Image::from_datums(&[Datum::text("2"), Datum::Unset]);
    let fault = run(&mut guest(), "t", &rows).unwrap_err();
    assert_eq!((fault.row, fault.problem.code(), fault.problem.blame()), (2, "TOAST_UNRESOLVED", Blame::Source));
    assert!(fault.problem.next_step().unwrap().contains("REPLICA IDENTITY FULL"));
    rows[1] = Image::from_datums(&[Datum::text("1"), Datum::text("trap")]);
    assert_eq!(run(&mut guest(), "t", &rows).unwrap_err().row, 1, "the earlier row comes first");
}

#[test]
fn a_rule_without_code_never_calls_the_transform() {
    let mut plan = plan("t", &ECHO, &ECHO, &[0]);
    plan.sources[0].rule.guest_table = None;
    let rows = rows(2, &[(0, "trap")]);
    let answers = guest().answer(&plan, &plan.sources[0], &rows.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(answers, vec![Answer::new(); 2]);
}

/// A component out of a core module's text and the interface's text, without any SDK.
fn component(interface: &str, module: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("migration.wit", interface).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut bytes = wat::parse_str(module).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, encoding, false).unwrap();
    build::encode(&bytes).unwrap()
}

/// A module whose describe answers `manifest`, `shrink` bytes less at every call.
fn describing(manifest: &str, shrink: i32) -> String {
    let name = "falkirk:migration/transform@0.1.0";
    let text = manifest.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
    format!(
        r#"(module (memory (export "memory") 1) (global $length (mut i32) (i32.const {}))
        (data (i32.const 64) "{text}")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "{name}#describe") (result i32)
            (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (global.get $length))
            (global.set $length (i32.sub (global.get $length) (i32.const {shrink}))) (i32.const 0))
        (func (export "{name}#forward") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "{name}#backward") (param i32 i32 i32 i32) (result i32) unreachable))"#,
        manifest.len(),
    )
}

const INTERFACE: &str = include_str!("../../wit/migration.wit");
const MANIFEST: &str = r#"{"falkirk": 1, "name": "shop", "from": "1", "to": "2"}  "#;

fn refusal(bytes: &[u8]) -> String {
    Artifact::from_bytes("x.wasm", bytes, None, &LIMITS, &Compiler::default()).unwrap_err().to_string()
}

#[test]
fn a_transform_written_without_an_sdk_is_accepted_and_one_whose_manifest_changes_is_not() {
    let artifact = Artifact::from_bytes(
        "x.wasm",
        &component(INTERFACE, &describing(MANIFEST, 0)),
        None,
        &LIMITS,
        &Compiler::default(),
    );
    assert_eq!(artifact.unwrap().manifest().name, "shop");
    assert!(refusal(&component(INTERFACE, &describing(MANIFEST, 1))).starts_with("DESCRIBE_NOT_CONSTANT"));
}

/// Who exchanges it looks at what runs first; meanwhile it may have been taken back, or another one may have been put in.
#[test]
fn l11_a_revision_takes_the_place_of_the_one_that_was_looked_at_and_of_no_other() {
    let revision = |name: &str| {
        let manifest = MANIFEST.replace("shop", name);
        let bytes = component(INTERFACE, &describing(&manifest, 0));
        Arc::new(Artifact::from_bytes(name, &bytes, None, &LIMITS, &Compiler::default()).unwrap())
    };
    let [first, second, third] = ["a", "b", "c"].map(revision);
    let running = Running::new(Some(first.clone()));
    let now = || running.artifact().map(|artifact| artifact.digest().to_owned());
    let digest = |artifact: &Artifact| Some(artifact.digest().to_owned());
    assert!(running.exchange(Some(&first), Some(&first)) && !running.was_exchanged(), "it runs already");
    assert!(running.exchange(Some(&first), Some(&second)) && running.was_exchanged());
    assert!(!running.exchange(Some(&first), Some(&third)), "the first one runs no more");
    assert!(!running.exchange(None, Some(&third)), "nor is it nothing that runs");
    assert_eq!(now(), digest(&second));
    assert!(running.exchange(Some(&second), Some(&first)), "taken back");
    assert!(!running.exchange(Some(&second), Some(&second)), "it is not bound anew");
    assert_eq!(now(), digest(&first));
    let earlier: Vec<_> = running.earlier().iter().map(|artifact| digest(artifact)).collect();
    assert_eq!(earlier, [digest(&second), digest(&first)]);
}

#[test]
fn a_manifest_that_is_wrong_is_refused_with_its_place() {
    for (manifest, parts) in [
        ("", &["not JSON"][..]),
        (r#"{"falkirk": 2, "news": 1}"#, &["format 2", "speaks 1"]),
        (r#"{"falkirk": 1, "name": "s", "from": "1", "to": "2", "extra": 1}"#, &["extra"]),
        (
            r#"{"falkirk": 1, "name": "s", "from": "1", "to": "2", "forward": [{"table": "a"},
                {"table": "b", "outputs": [{"table": "b", "same_name": true}]}]}"#,
            &["forward[1].outputs[0]", "same_name"],
        ),
    ] {
        let problem = refusal(&component(INTERFACE, &describing(manifest, 0)));
        assert!(problem.starts_with("MANIFEST_INVALID"), "{problem}");
        assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
    }
}

#[test]
fn row_19_an_interface_with_other_types_under_the_same_name_is_refused() {
    let other = INTERFACE.replace("related: list<list<row>>,", "");
    assert_ne!(other, INTERFACE);
    assert!(refusal(&component(&other, &describing(MANIFEST, 0))).starts_with("WIT_MISMATCH"));
}

fn customer() -> Plan {
    let asked = [("name", Case::Text)];
    let mut plan = plan("customer", &asked, &[("first_name", Case::Text), ("last_name", Case::Text)], &[]);
    plan.sources[0].rule.guest_table = Some("public.customer".into());
    plan
}

#[test]
fn the_shop_splits_names_in_the_host_and_says_what_it_is() {
    let shop = shop();
    let manifest = shop.manifest();
    assert_eq!((manifest.name.as_str(), manifest.from.as_str(), manifest.to.as_str()), ("shop", "1", "2"));
    assert!(shop.label().starts_with("shop.wasm@sha256:") && shop.digest().len() == 64);
    let plan = customer();
    let rows = ["Mary Ann Jones", "Sting"].map(|name| Image::from_datums(&[Datum::text(name)]));
    let mut guest = Guest::new(shop, Direction::Forward, Limits::default());
    let answers = guest.answer(&plan, &plan.sources[0], &rows.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(answers[0][0].values, [Datum::text("Mary"), Datum::text("Ann Jones")]);
    assert_eq!(answers[1][0].values, [Datum::Null, Datum::text("Sting")]);
}

#[test]
fn row_20_and_l10_what_becomes_more_code_than_fits_is_refused_and_its_compiler_ended() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transform/compiler.sh");
    let compiler = Compiler { program: Some(program), ..Compiler::default() };
    let empty_component = b"\0asm\x0d\0\x01\0";
    let problem = Artifact::from_bytes("x.wasm", empty_component, None, &LIMITS, &compiler).unwrap_err();
    assert_eq!((problem.code(), problem.action()), ("COMPILE_TOO_LARGE", Action::Refuse));
    let said = problem.to_string();
    assert!(said.contains("x.wasm@sha256:") && said.contains("256 MiB") && said.contains("smaller"), "{said}");
}
