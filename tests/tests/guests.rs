//! Transforms that do their worst while a link runs: the link stops where the change stands (L3), the host ends by its
//! own decision (L10), and a corrected artifact goes on with nothing lost and nothing twice (L11).
//!
//! The transform is `tests/guests`: what a row's note says is what it does to the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use falkirk_tests::{Finished, SOON, Stage, free_port, swap_component, until};

const BLUE: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, note text); ALTER TABLE t REPLICA IDENTITY FULL;
    CREATE TABLE w (id bigint PRIMARY KEY, note text); ALTER TABLE w REPLICA IDENTITY FULL;
    CREATE TABLE count (id bigint PRIMARY KEY, note text); ALTER TABLE count REPLICA IDENTITY FULL;
    CREATE TABLE batch (id bigint PRIMARY KEY, note text); ALTER TABLE batch REPLICA IDENTITY FULL;
    CREATE TABLE plain (id bigint PRIMARY KEY, note text);";

const GREEN: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, note varchar(40));
    CREATE TABLE w (id bigint PRIMARY KEY, note text);
    CREATE TABLE count (id bigint PRIMARY KEY, note text);
    CREATE TABLE batch (id bigint PRIMARY KEY, note text);
    CREATE TABLE plain (id bigint PRIMARY KEY, note text);";

const LIMITS: &str = "[limits]\nmemory_mib = 32\nbatch_time_ms = 400\noutput_mib = 2\n";

/// What a note makes the transform do, and the code that the link must stop with.
const FAULTS: [(&str, &str); 13] = [
    ("trap", "TRANSFORM_TRAP"),
    ("loop", "TRANSFORM_TIMEOUT"),
    ("deep", "TRANSFORM_TRAP"),
    ("memory", "MEMORY_LIMIT"),
    ("output", "OUTPUT_TOO_LARGE"),
    ("unknown output", "BAD_OUTPUT"),
    ("arity", "BAD_OUTPUT"),
    ("nul", "BAD_OUTPUT"),
    ("case", "BAD_OUTPUT"),
    ("unset key", "BAD_OUTPUT"),
    ("forget", "BAD_OUTPUT"),
    ("reject", "ROW_REJECTED"),
    ("long", "TOO_LONG"),
];

/// The transform that misbehaves and the one that follows it, built once by the command itself.
fn artifacts() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
        let build = |name: &str, behave: bool| {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}.wasm", std::process::id()));
            let binary = std::env::var_os("FALKIRK_BIN").map_or_else(beside, PathBuf::from);
            let mut command = Command::new(binary);
            command.arg("build").arg(&folder).arg("-o").arg(&out);
            // A folder for each: otherwise every run would build both anew.
            command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
            if behave {
                command.env("FALKIRK_GUESTS_BEHAVE", "1");
            }
            let output = command.output().expect("the command can be started");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            out
        };
        [build("bad", false), build("good", true)]
    })
}

fn beside() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its program");
    test.ancestors().nth(2).expect("a test lies two folders below the target's profile").join("falkirk")
}

fn stage(name: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(BLUE, GREEN);
    use_artifact(&stage, 0);
    stage
}

fn use_artifact(stage: &Stage, which: usize) {
    let path = artifacts()[which].display();
    stage.config("forward", &format!("transforms = [\"{path}\"]\n{LIMITS}"));
}

/// Ended by the host's own decision, with everything that a person needs to find the row and nothing of the row.
#[track_caller]
fn stopped(finished: Finished, code: &str, table: &str) -> Finished {
    let finished = finished.expect(3).says(code).says(table).says("position ").says("bad.").says("@sha256:");
    finished
        .says("next: ")
        .keeps_quiet_about("panicked at")
        .keeps_quiet_about("secret 4711")
        .keeps_quiet_about("stays inside")
}

fn ids(stage: &Stage, table: &str) -> Vec<i64> {
    let rows = stage.green.rows(&format!("SELECT id FROM {table} ORDER BY id"));
    rows.into_iter().map(|row| row[0].parse().expect("a key is a number")).collect()
}

#[test]
fn l3_and_l10_every_fault_in_the_stream_stops_exactly_at_its_transaction() {
    let stage = stage("guests_stream");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    for (round, (note, code)) in FAULTS.iter().enumerate() {
        let base = 1_000 * round;
        let before: Vec<i64> = ids(&stage, "t");
        stage.blue.sql(&format!("INSERT INTO t SELECT {base} + n, 'fine' FROM generate_series(1, 10) n"));
        // The bad row stands in the midst of a transaction, of a call of the transform and of a batch.
        stage.blue.sql(&format!(
            "INSERT INTO t SELECT {base} + n, CASE n WHEN 50 THEN '{note}' ELSE 'fine' END FROM generate_series(11, 200) n"
        ));
        stage
            .blue
            .sql(&format!("INSERT INTO plain VALUES ({base}, 'after'); INSERT INTO t VALUES ({base} + 300, 'after')"));
        use_artifact(&stage, 0);
        stopped(stage.falkirk(&["run", "--until", "caught-up"]), code, "public.t");
        let there = ids(&stage, "t");
        let first: Vec<i64> = (1..=10).map(|n| base as i64 + n).collect();
        assert_eq!(there, [before, first].concat(), "{note}: everything before the change, nothing of it or after it");
        assert_eq!(stage.green.count(&format!("(SELECT FROM plain WHERE id = {base})")), 0, "{note}");
        stage.falkirk(&["status"]).expect(0).says("stopped by").says(code).keeps_quiet_about("secret 4711");
        use_artifact(&stage, 1);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        for table in ["t", "plain"] {
            let query = format!("SELECT * FROM {table}");
            stage.assert_same(&query, &query);
        }
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l3_and_l10_a_fault_during_the_copy_leaves_nothing_of_its_table_and_a_good_artifact_copies_on() {
    let stage = stage("guests_copy");
    for (note, code) in FAULTS {
        stage.blue.sql(&format!(
            "TRUNCATE t, plain; INSERT INTO plain SELECT n, 'as it is' FROM generate_series(1, 100) n;
             INSERT INTO t SELECT n, CASE n WHEN 2500 THEN '{note}' ELSE 'fine' END FROM generate_series(1, 3000) n"
        ));
        stage.green.sql("TRUNCATE t, plain");
        use_artifact(&stage, 0);
        stopped(stage.falkirk(&["run", "--until", "caught-up"]), code, "public.t");
        assert_eq!(stage.green.count("t"), 0, "{note}");
        // What is changed meanwhile belongs to neither half by itself.
        stage.blue.sql("UPDATE t SET note = note || '!' WHERE id <= 10; DELETE FROM t WHERE id > 2990; DELETE FROM plain WHERE id = 7");
        use_artifact(&stage, 1);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        for table in ["t", "plain"] {
            let query = format!("SELECT * FROM {table}");
            stage.assert_same(&query, &query);
        }
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn row_22_a_fault_ends_a_running_host_with_its_message_and_a_fault_in_an_update_or_delete_as_well() {
    let stage = stage("guests_running");
    stage.blue.sql("INSERT INTO t SELECT n, 'fine' FROM generate_series(1, 20) n");
    let host = stage.start_falkirk(&["run"]);
    until("the copy is there", SOON, || stage.green.count("t") == 20);
    stage.blue.sql("UPDATE t SET note = 'trap' WHERE id = 7");
    let finished = stopped(host.wait(SOON), "TRANSFORM_TRAP", "public.t");
    // The place in the transform's own source, for its author.
    finished.says("explode").says("lib.rs:");
    // A correction in the source comes too late for the change that holds the bad value; the artifact decides.
    stage.blue.sql("UPDATE t SET note = 'fine again' WHERE id = 7");
    stopped(stage.falkirk(&["run", "--until", "caught-up"]), "TRANSFORM_TRAP", "public.t");
    use_artifact(&stage, 1);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM t", "SELECT * FROM t");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_23_a_fault_of_a_whole_batch_stops_the_link_and_says_so() {
    let stage = stage("guests_batch");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    for (table, code, words) in [("batch", "TRANSFORM_TRAP", "rows at once"), ("count", "BAD_OUTPUT", "public.count")] {
        stage.blue.sql(&format!("INSERT INTO {table} SELECT n, 'fine' FROM generate_series(1, 40) n"));
        use_artifact(&stage, 0);
        stopped(stage.falkirk(&["run", "--until", "caught-up"]), code, &format!("public.{table}")).says(words);
        assert_eq!(stage.green.count(table), 0);
        use_artifact(&stage, 1);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        assert_eq!(stage.green.count(table), 40);
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_26_no_row_for_an_insert_is_an_answer_only_where_the_rule_says_when() {
    let stage = stage("guests_when");
    stage.blue.sql("INSERT INTO w VALUES (1, 'fine'), (2, 'forget'), (3, 'fine')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(ids(&stage, "w"), [1, 3]);
    stage.blue.sql(
        "INSERT INTO w VALUES (4, 'forget'), (5, 'fine'); UPDATE w SET note = 'back' WHERE id = 2;
         UPDATE w SET note = 'forget' WHERE id = 3; DELETE FROM w WHERE id = 4",
    );
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.lines("SELECT * FROM w"), ["(1,fine)", "(2,back)", "(5,fine)"]);
    stage.blue.sql("INSERT INTO t VALUES (1, 'forget')");
    stopped(stage.falkirk(&["run", "--until", "caught-up"]), "BAD_OUTPUT", "public.t").says("no row");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_an_artifact_that_is_refused_at_a_restart_writes_nothing_and_the_next_one_goes_on() {
    let stage = stage("guests_restart");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let before = stage.falkirk(&["status", "--json"]).expect(0).json()["checkpoint"].clone();
    stage.blue.sql("INSERT INTO t VALUES (1, 'fine')");
    // A component that does nothing but import an instance without members: linking alone would let it pass.
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend([7, 3, 1, 0x42, 0]);
    let name = b"wasi:sockets/network@0.2.0";
    bytes.extend([10, name.len() as u8 + 5, 1, 0, name.len() as u8]);
    bytes.extend(name);
    bytes.extend([5, 0]);
    let path = stage.file("importing.wasm", &bytes);
    stage.config("forward", &format!("transforms = [\"{}\"]", path.display()));
    for command in [&["check"][..], &["run", "--until", "caught-up"]] {
        let refused = stage.falkirk(command).expect(1).says("IMPORTS_REFUSED").says("wasi:sockets/network@0.2.0");
        refused.says("importing.wasm@sha256:");
    }
    let after = stage.falkirk(&["status", "--json"]).expect(0).json()["checkpoint"].clone();
    assert_eq!((stage.green.count("t"), after), (0, before));
    use_artifact(&stage, 1);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.count("t"), 1);
    stage.falkirk(&["clean"]).expect(0);
}

/// The most memory that a process has held, in MiB.
fn peak_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1_024
}

/// As a runtime does that collects nothing: 2 MiB stay behind at every call, of 32 that it may have.
#[test]
fn l10_a_guest_that_leaks_makes_room_for_a_fresh_one_for_as_long_as_it_runs_and_no_row_hears_of_it() {
    let stage = Stage::one_way("guests_leak");
    stage.schemas(
        "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text); ALTER TABLE item REPLICA IDENTITY FULL",
        "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text)",
    );
    let leaks = swap_component(&stage, 7, "le", None);
    let limits = "[limits]\nmemory_mib = 32\nbatch_time_ms = 2000\ninstances = 1\ndeterminism_share = 0.0\n";
    stage.config("forward", &(Stage::transforms(Some(&leaks)) + limits));
    stage.blue.sql("INSERT INTO item SELECT n, 'old' FROM generate_series(1, 9) n");
    let host = stage.start_falkirk(&["run"]);
    until("it streams", SOON, || stage.green.count("item") == 9);
    const CALLS: u64 = 300;
    // A transaction that has arrived before the next one is made is a call of its own.
    for number in 1..=CALLS {
        stage.blue.sql(&format!("UPDATE item SET note = 'note {number}' WHERE id = {}", number % 9 + 1));
        let arrived = format!("SELECT note FROM item WHERE id = {}", number % 9 + 1);
        until("it arrives", SOON, || stage.green.value(&arrived) == format!("note {number}"));
    }
    let peak = peak_mib(host.pid());
    println!("{CALLS} calls that left 2 MiB each: the host held {peak} MiB at most");
    assert!(peak < 32 + 64, "the host held {peak} MiB");
    assert_eq!(stage.green.count("(SELECT FROM item WHERE by = '0007')"), 9);
    // It goes before it is full: a call that fails for want of memory would be made again.
    host.terminate().expect(143).keeps_quiet_about("a fresh instance answered").keeps_quiet_about("MEMORY_LIMIT");
    stage.falkirk(&["clean"]).expect(0);
}

/// `tests/guests-wasi`, as cargo makes it without the command.
fn talking() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests-wasi");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests-wasi");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--release", "--target", "wasm32-wasip2"]).current_dir(&folder);
    let built = command.env("CARGO_TARGET_DIR", &target).status();
    assert!(built.is_ok_and(|status| status.success()), "`make setup` adds the target wasm32-wasip2");
    target.join("wasm32-wasip2/release/falkirk_test_guests_wasi.wasm")
}

#[test]
fn l10_row_31_what_a_transform_writes_reaches_the_host_s_log_in_bounds_with_artifact_table_and_position() {
    let stage = Stage::one_way("guests_voice");
    let table = "CREATE TABLE t (id bigint PRIMARY KEY, note text); ALTER TABLE t REPLICA IDENTITY FULL";
    stage.schemas(table, table);
    let port = free_port();
    let limits = format!("[limits]\nbatch_time_ms = 5000\n[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    stage.config("forward", &(Stage::transforms(Some(&talking())) + &limits));
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (1, 'fine')");
    until("it streams", SOON, || stage.green.count("t") == 1);
    stage.blue.sql("INSERT INTO t VALUES (2, 'say')");
    until("it arrives", SOON, || stage.green.count("t") == 2);
    let line = |log: &str, part: &str| log.lines().find(|line| line.contains(part)).map(str::to_owned);
    let said = line(&host.err(), "a word with").expect("the word is in the log");
    assert!(said.contains("stdout: a word with \\u{1b}[31mcolour\\u{1b}[0m and a return\\r"), "{said}");
    for part in ["falkirk_test_guests_wasi.wasm@sha256:", "table=\"public.t\"", "position=0/"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(line(&host.err(), "stderr: without an end").is_some());
    stage.blue.sql("INSERT INTO t VALUES (3, 'flood')");
    until("it arrives", SOON, || stage.green.count("t") == 3);
    assert_eq!(host.err().matches("stdout: line ").count(), 100, "a flood is cut");
    let rest = line(&host.err(), "the last of what was left out").expect("what was left out is said");
    assert!(rest.contains("dropped=4900") && rest.contains("line 4999"), "{rest}");
    stage.blue.sql("INSERT INTO t VALUES (4, 'panic')");
    let ended = host.wait(SOON).expect(3).says("TRANSFORM_TRAP").says("public.t").says("position ");
    assert_eq!(
        ended.err.matches("stderr: this is \\u{1b}[31mwhy").count(),
        1,
        "once, however often the row is looked for"
    );
    assert!(!ended.err.contains('\u{1b}'), "nothing of a terminal's is passed on");
    let longest = ended.err.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 1_600, "a line of {longest} bytes");
    let stopped = ended.err.split_once("TRANSFORM_TRAP").map(|(_, behind)| behind.to_owned()).unwrap_or_default();
    assert!(!stopped.contains("why"), "the message stays out of the problem: {stopped}");
    stage.falkirk(&["clean"]).expect(0);
}
