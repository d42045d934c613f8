//! One folder for each way to misbehave, in `tests/misbehaving`, numbered as the list of bad inputs numbers them: the
//! host lives, its memory stays within bounds, and its message names artifact, table and position (L10).
//!
//! A folder holds `guest.wat`, what makes the guest different from a well-behaved one (`in_text` has the rest), or
//! `component.wat`, all of it; and `expected`: how it ends, the code, and words that the message holds. Rows that need
//! more than a component, or another running link, stand elsewhere: 16 in `bad_inputs.rs`; 17 to 19 also there; 20 in
//! `compile.rs`, and 33 (storms of swaps); a call after a trap in `host/tests/transform.rs`; 31 and 34 in
//! `host/tests/transform/wasi.rs`, and 31 in `guests.rs`; 32 (a file that is replaced while it is read) in `swap.rs` and `swap_load.rs`; guests in
//! Rust, with a panic message and a backtrace, with what the link does before and afterwards, in `guests.rs`.

mod in_text;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use falkirk_tests::{Finished, SOON, Stage};

/// One for the whole transform, and what the host itself needs at most.
const MEMORY_MIB: u64 = 32;
const HOST_MIB: u64 = 64;

const SCHEMA: &str = "CREATE TABLE t (id bigint PRIMARY KEY, note text); ALTER TABLE t REPLICA IDENTITY FULL;";

const MANIFEST: &str = r#"{"falkirk": 1, "name": "bad", "from": "1", "to": "2", "forward": [{"table": "t", "columns": ["id", "note"], "outputs": [{"table": "t", "computed": [{"from": ["id", "note"], "to": ["id", "note"]}]}]}]}"#;

/// The component of a folder.
fn component(folder: &Path) -> Vec<u8> {
    if let Ok(text) = fs::read_to_string(folder.join("component.wat")) {
        return wat::parse_str(text).expect("a component in text form");
    }
    in_text::component(&fs::read_to_string(folder.join("guest.wat")).expect("a guest or a component"), MANIFEST)
}

/// Runs until the stream is caught up or the link stops; how it ended, and the most memory that it held, in MiB.
fn run(stage: &Stage) -> (Finished, u64) {
    let mut host = stage.start_falkirk(&["run", "--until", "caught-up"]);
    let mut peak_mib = 0;
    while host.is_running() {
        let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak_mib = peak_mib.max(kib.unwrap_or(0) / 1_024);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    (host.wait(SOON), peak_mib)
}

fn use_bytes(stage: &Stage, name: &str, bytes: &[u8], pin: &str) {
    let path = stage.file(name, bytes);
    let limits =
        format!("[limits]\nmemory_mib = {MEMORY_MIB}\nbatch_time_ms = 300\noutput_mib = 2\ndeterminism_share = 1.0\n");
    stage.config("forward", &format!("transforms = [\"{}{pin}\"]\n{limits}", path.display()));
}

fn folders() -> Vec<PathBuf> {
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("misbehaving")).expect("the folders are there");
    let mut folders: Vec<PathBuf> = all.map(|entry| entry.expect("a folder can be listed").path()).collect();
    folders.sort();
    folders
}

/// One of the guests is asked for rows: it ends as its folder says, and takes nothing that it may not.
fn is_held(stage: &Stage, folder: &Path) {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a name in letters");
    let expected = fs::read_to_string(folder.join("expected")).expect("it says how it ends");
    let mut lines = expected.lines();
    let (end, code) = lines.next().and_then(|line| line.split_once(' ')).expect("an end and a code");
    use_bytes(stage, &format!("{name}.wasm"), &component(folder), "");
    let (finished, peak_mib) = run(stage);
    println!("{name}: {code}, {peak_mib} MiB at most");
    assert!(peak_mib < MEMORY_MIB + HOST_MIB, "{name}: the host held {peak_mib} MiB");
    let finished = match end {
        "stopped" => finished.expect(3).says("table public.t").says("position "),
        _ => finished.expect(1),
    };
    let finished = finished.says(code).says(&format!("{name}.wasm@sha256:")).keeps_quiet_about("panicked at");
    lines.for_each(|words| drop(finished.clone().says(words)));
    assert_eq!(stage.green.count("t"), 0, "{name}: nothing of the batch may be there");
}

#[test]
fn l10_rows_21_to_30_every_guest_that_misbehaves_is_named_and_held_and_the_host_lives() {
    let stage = Stage::one_way("misbehaving");
    stage.schemas(SCHEMA, SCHEMA);
    let folders = folders();
    assert!(folders.len() >= 40, "some fixtures are gone");
    // What is there already is copied by a guest that gives up on rows only.
    let quiet = component(folders.iter().find(|folder| folder.ends_with("row_22_unreachable")).expect("it is there"));
    use_bytes(&stage, "quiet.wasm", &quiet, "");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.blue.sql("INSERT INTO t SELECT n, 'fine' FROM generate_series(1, 9) n");
    // All of them are tried before the test says which were not held.
    let tried = folders.iter().map(|folder| panic::catch_unwind(AssertUnwindSafe(|| is_held(&stage, folder))));
    let loose = tried.filter(Result::is_err).count();
    assert_eq!(loose, 0, "of {} guests, see above", folders.len());
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l10_rows_15_to_19_a_file_that_is_no_transform_is_refused_before_any_row_moves() {
    let stage = Stage::one_way("misbehaving_files");
    stage.schemas(SCHEMA, SCHEMA);
    let whole = component(&folders()[0]);
    let text = |text: &str| wat::parse_str(text).expect("text of a component or module");
    let newer = r#"(component (instance $i) (export "falkirk:migration/transform@0.2.0" (instance $i)))"#;
    let other = format!("@sha256:{}", "ab".repeat(32));
    let cases: [(&str, Vec<u8>, &str, &str); 11] = [
        ("row_15_empty", Vec::new(), "", "WASM_NOT_COMPONENT"),
        ("row_15_truncated", whole[..whole.len() / 2].to_vec(), "", "WASM_NOT_COMPONENT"),
        ("row_15_text", b"(component)".to_vec(), "", "WASM_NOT_COMPONENT"),
        ("row_15_elf", b"\x7fELF\x02\x01\x01\0".to_vec(), "", "WASM_NOT_COMPONENT"),
        ("row_15_core_module", text("(module)"), "", "WASM_NOT_COMPONENT"),
        ("row_17_another_digest", whole.clone(), &other, "PIN_MISMATCH"),
        ("row_18_sockets", text(r#"(component (import "wasi:sockets/tcp@0.2.6" (instance)))"#), "", "IMPORTS_REFUSED"),
        ("row_18_unknown", text(r#"(component (import "a:b/c@1.0.0" (instance)))"#), "", "IMPORTS_REFUSED"),
        ("row_19_nothing_exported", text("(component)"), "", "WIT_MISMATCH"),
        ("row_19_newer_interface", text(newer), "", "WIT_MISMATCH"),
        ("row_19_older_interface", text(&newer.replace("@0.2.0", "@0.0.9")), "", "WIT_MISMATCH"),
    ];
    for (name, bytes, pin, code) in cases {
        use_bytes(&stage, &format!("{name}.wasm"), &bytes, pin);
        let (finished, peak_mib) = run(&stage);
        finished.expect(1).says(code).says(&format!("{name}.wasm@sha256:")).says("next: ");
        assert!(peak_mib < MEMORY_MIB + HOST_MIB, "{name}: the host held {peak_mib} MiB");
    }
    stage.falkirk(&["clean"]);
}
