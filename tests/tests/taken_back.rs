//! A revision that was taken back stays out (L11): what was composed, compared or kept beside it is put in only in the place
//! of what it was meant for, and whoever takes over by any way is on trial, once.

use std::path::Path;
use std::time::Duration;

use falkirk_tests::{Finished, Open, Running, SOON, Stage, free_port, swap_component, until};

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// Ten rows, the first revision at work in each link, and a setting that takes back within so many rows.
fn running(name: &str, direction: &str, changes: u32) -> (Stage, Running) {
    let stage = if direction == "both" { Stage::new(name) } else { Stage::one_way(name) };
    stage.schemas(BLUE, GREEN);
    stage.blue.sql("INSERT INTO item SELECT n, 'old', NULL FROM generate_series(1, 10) n");
    let first = swap_component(&stage, 1, "ok", None);
    let conflict = if direction == "both" { "conflict = \"green_wins\"\n" } else { "" };
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let transforms = Stage::transforms(Some(&first));
    stage.config(direction, &format!("{transforms}{conflict}take_back_changes = {changes}\n{admin}"));
    let host = stage.start_falkirk(&["run"]);
    let streams = || {
        let status = stage.falkirk(&["status", "--json"]).expect(0).json();
        status["phase"] == "streaming" && (direction != "both" || status["other"]["phase"] == "streaming")
    };
    until("the links stream", SOON, streams);
    until("the rows are there", SOON, || stage.green.count("item") == 10);
    (stage, host)
}

fn swap(stage: &Stage, file: &Path) -> Finished {
    stage.falkirk(&["swap", "--json", &file.to_string_lossy()])
}

fn change(stage: &Stage, id: u32, note: &str) {
    stage.blue.sql(&format!("UPDATE item SET note = '{note}' WHERE id = {id}"));
}

/// Which revision has written a row's newest note.
fn signs(stage: &Stage, id: u32) -> String {
    until("it arrives", SOON, || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item"));
    stage.green.value(&format!("SELECT coalesce(by, '') FROM item WHERE id = {id}"))
}

fn taken_back(stage: &Stage) -> usize {
    stage.green.admin("SELECT FROM falkirk.history WHERE outcome = 'taken back'").len()
}

#[test]
fn l11_a_trial_ends_when_the_revision_that_it_is_compared_with_is_taken_back() {
    let (stage, host) = running("taken_trial", "forward", 1_000_000);
    swap(&stage, &swap_component(&stage, 2, "no", None)).expect(0);
    let third = swap_component(&stage, 3, "ok", None).to_string_lossy().into_owned();
    let asked = stage.start_falkirk(&["swap", "--json", &third, "--shadow", "1000000", "--promote"]);
    until("the third one is compiled", SOON, || host.err().matches("compiled").count() >= 3);
    // Nobody says when the trial has begun.
    for _ in 0..40 {
        change(&stage, 2, "fine");
        std::thread::sleep(Duration::from_millis(50));
    }
    change(&stage, 1, "odd");
    until("the second one is taken back", SOON, || host.err().contains("is taken back"));
    asked.wait(SOON).expect(1).says("TRIAL_ENDED").says("runs on").keeps_quiet_about("after 0 changes");
    assert_eq!(signs(&stage, 1), "0001");
    host.terminate().expect(143).keeps_quiet_about("swapped in artifact=\"revision_3");
    stage.falkirk(&["clean"]).expect(0);
}

/// A link that waits for other columns while the other one cannot come to the end of a transaction: its life is ended.
#[test]
fn l11_a_revision_that_was_put_in_by_ending_the_life_of_a_link_is_on_trial_like_any_other() {
    let (stage, mut host) = running("taken_forced", "both", 100);
    stage.blue.sql("ALTER TABLE item ADD COLUMN more text; UPDATE item SET more = 'x' WHERE id = 1");
    until("the forward link waits", SOON, || host.err().contains("waits for a revision that fits"));
    let held = Open::transaction(&stage.blue.administrator_url(), "SELECT FROM item WHERE id = 5 FOR UPDATE");
    stage.green.sql("UPDATE item SET note = 'of green' WHERE id = 5");
    until("the backward link is held", SOON, || {
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = '{}'";
        !stage.blue.admin(&waits.replace("{}", &stage.blue.role())).is_empty()
    });
    let fails = swap_component(&stage, 2, "no", None);
    swap(&stage, &fails).expect(0).says("revision_2_no.wasm");
    until("the life of the other one was ended", SOON, || host.err().contains("another revision runs now"));
    held.commit();
    change(&stage, 2, "fine");
    assert_eq!(signs(&stage, 2), "0002");
    change(&stage, 3, "odd");
    assert_eq!(signs(&stage, 3), "0001", "the one before it goes on");
    assert!(host.is_running() && taken_back(&stage) == 1);
    host.terminate().expect(143).says("is taken back");
    stage.falkirk(&["clean"]).expect(0);
}

/// Whoever goes back by command does not want it again, whatever the one before it fails on.
#[test]
fn l11_a_revision_that_an_operator_has_gone_back_from_does_not_return_by_itself() {
    let (stage, host) = running("taken_twice", "forward", 100);
    swap(&stage, &swap_component(&stage, 2, "no", None)).expect(0);
    change(&stage, 1, "fine");
    assert_eq!(signs(&stage, 1), "0002");
    swap(&stage, &swap_component(&stage, 3, "ok", None)).expect(0);
    stage.falkirk(&["swap", "--back"]).expect(0).says("revision_2_no.wasm");
    change(&stage, 2, "odd");
    host.wait(SOON).expect(3).says("TRANSFORM_TRAP").says("revision_2_no.wasm").keeps_quiet_about("is taken back");
    assert_eq!(taken_back(&stage), 0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_a_revision_is_taken_back_once_and_never_for_a_failure_behind_its_first_changes() {
    let (stage, mut host) = running("taken_once", "forward", 20);
    let fails = swap_component(&stage, 2, "no", None);
    swap(&stage, &fails).expect(0);
    change(&stage, 1, "odd");
    assert_eq!(signs(&stage, 1), "0001");
    assert!(host.is_running() && taken_back(&stage) == 1);
    // The one that was taken back may be put in again, and is then on trial again.
    swap(&stage, &fails).expect(0);
    for id in 0..30 {
        change(&stage, id % 10 + 1, &format!("fine {id}"));
    }
    assert_eq!(signs(&stage, 7), "0002");
    change(&stage, 2, "odd");
    host.wait(SOON).expect(3).says("TRANSFORM_TRAP").says("revision_2_no.wasm");
    assert_eq!(taken_back(&stage), 1, "once, and not behind the first changes");
    assert_eq!(stage.green.value("SELECT note FROM item WHERE id = 2"), "fine 21", "nothing of it is written");
    // It holds by command, and a start is no trial; by the configuration the first one goes on.
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("REVISION_COMMANDED").says("TRANSFORM_TRAP");
    stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(0);
    assert_eq!(signs(&stage, 2), "0001");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l11_both_links_go_back_at_one_boundary_also_when_only_one_of_them_fails() {
    let (stage, mut host) = running("taken_both", "both", 1_000);
    let signed = |id: u32| stage.blue.value(&format!("SELECT coalesce(back, '') FROM item WHERE id = {id}"));
    let agree = || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item");
    swap(&stage, &swap_component(&stage, 2, "no", None)).expect(0);
    change(&stage, 1, "fine");
    stage.green.sql("UPDATE item SET note = 'fine too' WHERE id = 2");
    until("both arrive", SOON, agree);
    assert_eq!((signs(&stage, 1), signed(2)), ("0002".to_owned(), "0002".to_owned()));
    // The backward link fails; the forward one has nothing to do with it, and goes back all the same.
    stage.green.sql("UPDATE item SET note = 'odd' WHERE id = 3");
    until("it is taken back", SOON, || taken_back_anywhere(&stage) == 1);
    until("it arrives", SOON, agree);
    change(&stage, 4, "after");
    stage.green.sql("UPDATE item SET note = 'after too' WHERE id = 5");
    until("both arrive", SOON, agree);
    assert_eq!(signed(3), "0001");
    assert_eq!((signs(&stage, 4), signed(5)), ("0001".to_owned(), "0001".to_owned()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(host.is_running());
    let log = host.terminate().expect(143).err;
    assert_eq!(log.matches("another revision runs now").count(), 1, "the other link begins anew, once: {log}");
    stage.falkirk(&["clean"]).expect(0);
}

/// The link that failed keeps the record in its target.
fn taken_back_anywhere(stage: &Stage) -> usize {
    let history = "SELECT FROM falkirk.history WHERE outcome = 'taken back'";
    stage.blue.admin(history).len() + stage.green.admin(history).len()
}
