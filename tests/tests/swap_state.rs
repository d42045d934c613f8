//! A swap meets what is there already (L11): notes and decisions of the old revision, rows that wait for a unique value,
//! what was tried for the way back, a trial that is under way. Each is refused by name, waits, or begins anew.

mod in_text;

use std::path::Path;
use std::time::{Duration, Instant};

use falkirk_tests::{Finished, Open, Running, SOON, Stage, free_port, swap_component, until};

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, more text, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, more text, by text);
    CREATE TABLE extra (id bigint PRIMARY KEY); ALTER TABLE item REPLICA IDENTITY FULL; ALTER TABLE extra REPLICA IDENTITY FULL";

/// The rules of `tests/guests-swap` with one column more: `from` is what green's signature is computed from.
fn rules(from: &str, more_outputs: &str) -> String {
    format!(
        r#"{{ "falkirk": 1, "name": "swap", "from": "1", "to": "2",
  "forward": [ {{ "table": "item", "columns": ["note", "more"], "outputs": [ {{ "table": "item",
      "copied": {{ "id": "id", "note": "note", "more": "more" }}, "computed": [ {{ "from": [{from}], "to": ["by"] }} ] }}{more_outputs} ] }} ],
  "backward": [ {{ "table": "item", "columns": ["note"], "outputs": [ {{ "table": "item",
      "copied": {{ "id": "id", "note": "note", "more": "more" }}, "computed": [ {{ "from": ["note"], "to": ["back"] }} ] }} ] }} ] }}"#
    )
}

/// Two links, ten rows, the first revision at work.
fn running(name: &str, direction: &str, migration: &str, sections: &str) -> (Stage, Running) {
    let stage = Stage::new(name);
    stage.schemas(BLUE, GREEN);
    stage.blue.sql("INSERT INTO item SELECT n, 'old', 'more', NULL FROM generate_series(1, 10) n");
    let first = swap_component(&stage, 1, "ok", Some(&rules("\"note\"", "")));
    let transforms = Stage::transforms(Some(&first));
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    stage.config(direction, &format!("{transforms}{migration}\n{sections}\n{admin}"));
    let host = stage.start_falkirk(&["run"]);
    let phases = |status: &serde_json::Value| {
        ["streaming", "watching"].iter().any(|phase| status["other"]["phase"] == *phase)
            && status["phase"] == "streaming"
    };
    until("both links stream", SOON, || phases(&stage.falkirk(&["status", "--json"]).expect(0).json()));
    until("the rows are there", SOON, || stage.green.count("item") == 10);
    (stage, host)
}

fn swap(stage: &Stage, file: &Path) -> Finished {
    stage.falkirk(&["swap", &file.to_string_lossy()])
}

/// The running revision still signs what blue changes.
fn goes_on(stage: &Stage, number: u32) {
    stage.blue.sql("UPDATE item SET note = note || '!' WHERE id = 1");
    until("it arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    assert_eq!(stage.green.value("SELECT by FROM item WHERE id = 1"), format!("{number:04}"));
}

#[test]
fn l11_where_changes_are_decided_a_revision_with_other_groups_is_refused_and_one_with_the_same_is_not() {
    let (stage, host) = running("swap_groups", "both", "conflict = \"green_wins\"", "");
    let other = swap_component(&stage, 2, "ok", Some(&rules("\"note\", \"more\"", "")));
    swap(&stage, &other).expect(1).says("GROUPS_DIFFER").says("revision_2_ok.wasm@sha256:");
    goes_on(&stage, 1);
    let same = swap_component(&stage, 3, "ok", Some(&rules("\"note\"", "")));
    swap(&stage, &same).expect(0);
    goes_on(&stage, 3);
    host.terminate().expect(143).keeps_quiet_about("starting again");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_a_revision_with_three_faults_is_refused_with_all_three_by_check_and_by_the_running_host_at_once() {
    let (stage, host) = running("swap_faults", "both", "conflict = \"green_wins\"", "");
    // Forward: a source column and an output's column that are not there; backward: a table that is not there.
    let text = rules("\"nothing\"", "").replace(
        "\"more\": \"more\" }, \"computed\": [ { \"from\": [\"nothing\"",
        "\"less\": \"more\" }, \"computed\": [ { \"from\": [\"nothing\"",
    );
    let text = text.replacen("\"backward\": [ { \"table\": \"item\"", "\"backward\": [ { \"table\": \"nowhere\"", 1);
    let faulty = swap_component(&stage, 2, "ok", Some(&text));
    let named = |said: Finished| {
        let said = said.expect(1).says("nothing").says("less").says("nowhere");
        let problems = said.out.matches("\"code\":\"NO_SUCH_").count();
        assert_eq!(problems, 3, "{}", said.out);
        said
    };
    let said = named(stage.falkirk(&["swap", "--json", &faulty.to_string_lossy()]));
    said.says("NO_SUCH_COLUMN").says("NO_SUCH_TABLE").says("revision_2_ok.wasm@sha256:");
    goes_on(&stage, 1);
    host.terminate().expect(143);
    let config = std::fs::read_to_string(stage.folder().join("falkirk.toml")).expect("it is there");
    stage.file("falkirk.toml", config.replace("revision_1_ok", "revision_2_ok"));
    named(stage.falkirk(&["check", "--json"]));
    stage.file("falkirk.toml", config);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_a_link_that_decides_nothing_takes_no_revision_for_which_it_would_have_to() {
    let policies = "[tables]\nconflict = { \"public.extra\" = \"green_wins\" }";
    let (stage, host) = running("swap_winners", "forward", "rollback = \"watch\"\nconflict = \"blue_wins\"", policies);
    let extra = r#", { "table": "extra", "copied": { "id": "id" } }"#;
    let decides = swap_component(&stage, 2, "ok", Some(&rules("\"note\"", extra)));
    swap(&stage, &decides).expect(1).says("WINNERS_DIFFER").says("revision_2_ok.wasm@sha256:");
    goes_on(&stage, 1);
    // Other groups are no matter where nothing is decided.
    swap(&stage, &swap_component(&stage, 3, "ok", Some(&rules("\"note\", \"more\"", "")))).expect(0);
    goes_on(&stage, 3);
    host.terminate().expect(143).keeps_quiet_about("starting again");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn what_was_tried_for_the_way_back_before_a_swap_is_reported_as_not_tried() {
    let (stage, host) = running("swap_way_back", "forward", "rollback = \"watch\"", "");
    let seen = |rows: &str| stage.falkirk(&["status"]).expect(0).out.contains(rows);
    stage.green.sql("UPDATE item SET note = 'of green' WHERE id IN (2, 3)");
    until("both are tried", SOON, || seen("2 rows tried, 0 not tried"));
    swap(&stage, &swap_component(&stage, 2, "ok", Some(&rules("\"note\"", "")))).expect(0);
    stage.green.sql("UPDATE item SET note = 'of green too' WHERE id = 4");
    until("the new revision has tried one", SOON, || seen("1 rows tried, 2 not tried"));
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_newer_wish_ends_a_trial_and_the_trial_after_it_begins_at_nothing() {
    let (stage, host) = running("swap_trials", "both", "conflict = \"green_wins\"", "");
    let shadow = |number: u32, changes: &str| {
        let file = swap_component(&stage, number, "ok", Some(&rules("\"note\"", "")));
        stage.start_falkirk(&["swap", "--json", &file.to_string_lossy(), "--shadow", changes])
    };
    let endless = shadow(2, "1000000");
    until("the trial is under way", SOON, || host.err().matches("compiled").count() >= 2);
    for _ in 0..20 {
        stage.blue.sql("UPDATE item SET note = note || '.'");
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut next = shadow(3, "4");
    let ended = endless.wait(SOON).expect(1).says("TRIAL_ENDED").says("runs on");
    let seen =
        ended.out.split_once("given up after ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(seen.is_some_and(|seen| seen >= 50), "the first trial saw {seen:?} changes");
    until("the next one has seen enough", SOON, || {
        stage.blue.sql("UPDATE item SET note = note || '!' WHERE id = 1");
        std::thread::sleep(Duration::from_millis(30));
        !next.is_running()
    });
    let trial = next.wait(SOON).expect(1).json()["trial"].clone();
    // Of what the first trial saw nothing is counted again.
    assert!((4..20).contains(&trial["changes"].as_u64().expect("a count")), "{trial}");
    assert_eq!(trial["rows"], trial["differing"], "each row is signed otherwise: {trial}");
    goes_on(&stage, 1);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_a_parked_row_is_not_written_while_the_links_stand_and_is_once_the_exchange_is_over() {
    const TABLES: &str = "CREATE TABLE person (id int PRIMARY KEY, mail text UNIQUE, note text); CREATE TABLE t (id int PRIMARY KEY, b int);
        ALTER TABLE person REPLICA IDENTITY FULL; ALTER TABLE t REPLICA IDENTITY FULL";
    let stage = Stage::new("swap_parked");
    stage.schemas(TABLES, TABLES);
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    stage.config("both", &format!("conflict = \"green_wins\"\ntransforms = []\n{admin}"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.blue.sql("INSERT INTO person VALUES (1, 'secret@example', 'of blue')");
    stage.green.sql("INSERT INTO person VALUES (2, 'secret@example', 'of green')");
    let host = stage.start_falkirk(&["run"]);
    let open = || stage.falkirk(&["status", "--json"]).expect(0).json()["conflicts"]["open"] == 1;
    until("blue's row is parked", SOON, open);
    // At other columns the link stands, as it does while another revision is put in, and for as long as wanted.
    stage.blue.sql("ALTER TABLE t ALTER COLUMN b TYPE bigint; INSERT INTO t VALUES (1, 1)");
    until("the forward link stands", SOON, || host.err().contains("waits for a revision that fits"));
    stage.green.sql("UPDATE person SET mail = 'other@example' WHERE id = 2");
    // Rows that wait are tried again every second.
    let gave_way = Instant::now();
    while gave_way.elapsed() < Duration::from_secs(4) {
        assert_eq!(stage.green.count("(SELECT FROM person WHERE id = 1)"), 0, "written while the link stood");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The other link meets the same, so that both are bound to columns that go together.
    stage.green.sql("ALTER TABLE t ALTER COLUMN b TYPE bigint; INSERT INTO t VALUES (2, 2)");
    until("both links stand", SOON, || host.err().matches("waits for a revision that fits").count() == 2);
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("both rows stand on both sides", SOON, || {
        stage.blue.count("person") == 2 && stage.same("SELECT * FROM person", "SELECT * FROM person")
    });
    until("the rest arrives", SOON, || stage.same("SELECT * FROM t", "SELECT * FROM t"));
    host.terminate().expect(143).keeps_quiet_about("secret");
    stage.falkirk(&["clean"]).expect(0);
}

/// As messages name a revision.
fn short(file: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum is there");
    format!("sha256:{}", &String::from_utf8_lossy(&output.stdout)[..12])
}

#[test]
fn l11_a_host_that_starts_with_another_revision_than_wrote_last_says_so_by_name_and_what_to_do() {
    let stage = Stage::one_way("swap_returned");
    stage.schemas(BLUE, GREEN);
    let revision = |number: u32| swap_component(&stage, number, "ok", Some(&rules("\"note\"", "")));
    let (first, second) = (revision(1), revision(2));
    let port = free_port();
    let config = |file: &Path| {
        let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
        stage.config("forward", &(Stage::transforms(Some(file)) + &admin));
    };
    let follow = || stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let status = || stage.falkirk(&["status"]).expect(0);
    let signed = |id: u32| stage.green.value(&format!("SELECT by FROM item WHERE id = {id}"));
    config(&first);
    stage.blue.sql("INSERT INTO item SELECT n, 'old' FROM generate_series(1, 5) n");
    let host = stage.start_falkirk(&["run"]);
    until("it streams", SOON, || status().out.contains("streaming") && stage.green.count("item") == 5);
    swap(&stage, &second).expect(0);
    stage.blue.sql("UPDATE item SET note = 'by the second' WHERE id = 1");
    until("the second writes", SOON, || signed(1) == "0002");
    status().keeps_quiet_about("REVISION_RETURNED");
    host.terminate().expect(143).keeps_quiet_about("REVISION_RETURNED");
    // By the configuration the first one writes again, and what the second one wrote stays.
    stage.blue.sql("UPDATE item SET note = 'by the first' WHERE id = 2");
    let (old, new) = (short(&first), short(&second));
    let words = format!("started with {old}, which the configuration names, and {new} wrote before it");
    let as_configured = stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(0);
    as_configured.says("REVISION_RETURNED").says(&words).says("migration.transforms").says("falkirk recopy --old");
    assert_eq!((signed(1), signed(2)), ("0002".to_owned(), "0001".to_owned()));
    // That is no less so after another start.
    follow().keeps_quiet_about("REVISION_RETURNED");
    status().says("warning: REVISION_RETURNED").says(&words);
    // What was asked for: nothing is left to be said.
    config(&second);
    follow().keeps_quiet_about("REVISION_RETURNED").says("has its revision again");
    status().keeps_quiet_about("REVISION_RETURNED");
    // What the first one wrote meanwhile is mended by its file.
    let mended = stage.falkirk(&["recopy", "--json", "--old", &first.to_string_lossy()]).expect(0).json();
    assert_eq!(mended["rows_rest"], 0, "{mended}");
    assert_eq!((signed(1), signed(2)), ("0002".to_owned(), "0002".to_owned()));
    // A revision that never ran here is a release, and no return.
    config(&revision(3));
    follow().keeps_quiet_about("REVISION_RETURNED");
    status().keeps_quiet_about("REVISION_RETURNED");
    // One that ran long ago is not.
    config(&first);
    follow().says("REVISION_RETURNED").says(&short(&revision(3)));
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_the_stall_of_an_exchange_holds_everything_until_the_new_revision_may_write_and_known_columns_are_not_written_again()
 {
    let (stage, host) = running("swap_stall", "both", "conflict = \"green_wins\"", "");
    let shapes = || stage.green.admin("SELECT source_table, xmin::text FROM falkirk.shape");
    let before = shapes();
    assert_eq!(before.len(), 1, "{before:?}");
    let records = "LOCK TABLE falkirk.history IN SHARE ROW EXCLUSIVE MODE";
    let reader = Open::transaction(&stage.green.administrator_url(), records);
    let file = swap_component(&stage, 2, "ok", Some(&rules("\"note\"", "")));
    let asked = stage.start_falkirk(&["swap", "--json", &file.to_string_lossy()]);
    let waits = format!(
        "SELECT FROM pg_stat_activity WHERE usename = '{}' AND wait_event_type = 'Lock' AND query LIKE '%falkirk.history%'",
        stage.green.role()
    );
    until("the exchange waits for its records", SOON, || !stage.green.admin(&waits).is_empty());
    let held = Instant::now();
    stage.blue.sql("UPDATE item SET note = 'meanwhile' WHERE id = 2");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stage.green.value("SELECT note FROM item WHERE id = 2"), "old", "nothing is written meanwhile");
    let held = held.elapsed();
    reader.commit();
    let stall_us = asked.wait(SOON).expect(0).json()["stall_us"].as_u64().expect("a stall");
    assert!(Duration::from_micros(stall_us) >= held, "{stall_us} us, and it stood for {held:?} at least");
    goes_on(&stage, 2);
    assert_eq!(shapes(), before, "what is known is not written again");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// Turns for a second or so before it can be asked anything, and signs every row `ok`.
const SLOW: &str = "
(func $start (local $turns i32)
  (loop $more
    (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $turns) (i32.const 1000000000)))))
(start $start)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (i32.add (global.get $values) (i32.const 16)) (i32.const 1)))";

#[test]
fn l11_an_instance_of_the_new_revision_is_there_before_it_takes_over_so_that_no_row_waits_for_its_start() {
    let stage = Stage::one_way("swap_warm");
    stage.schemas(BLUE, GREEN);
    stage.blue.sql("INSERT INTO item VALUES (1, 'old')");
    let first = swap_component(&stage, 1, "ok", Some(&rules("\"note\"", "")));
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let limits = "[limits]\nbatch_time_ms = 60000\ndeterminism_share = 0.0\n";
    stage.config("forward", &format!("{}{admin}{limits}", Stage::transforms(Some(&first))));
    let host = stage.start_falkirk(&["run"]);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    let slow = stage.file("slow.wasm", in_text::component(SLOW, &rules("\"note\"", "")));
    let asked = Instant::now();
    swap(&stage, &slow).expect(0);
    let asked = asked.elapsed();
    let changed = Instant::now();
    stage.blue.sql("UPDATE item SET note = 'new'");
    until("the slow one signs", SOON, || stage.green.value("SELECT by FROM item") == "ok");
    let waited = changed.elapsed();
    println!("the swap took {asked:?}, with three starts; the row took {waited:?}");
    // The manifest is asked for in two instances, and a third one is for the rows: without it a row would wait for its start.
    assert!(asked > Duration::from_millis(600), "three starts in {asked:?} are none that a row would wait for");
    assert!(waited < asked / 6, "the swap took {asked:?}, and the first row {waited:?}");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}
