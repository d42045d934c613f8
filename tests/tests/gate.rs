//! The gate: a link whose source, slot or checkpoint is not what it left behind writes nothing and says why.

use std::time::Duration;

use falkirk::pg::address::Address;
use falkirk::source::session::ReplicationSession;
use falkirk_tests::{Finished, SOON, Stage, until, way};
use tokio::runtime::Runtime;

const TABLES: &str = "CREATE TABLE item (id bigint PRIMARY KEY, amount bigint NOT NULL);";

/// A link that has copied ten rows, streamed one and ended.
fn started(stage: &Stage) {
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO item SELECT n, n FROM generate_series(1, 10) n");
    stage.config("forward", "transforms = []");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.blue.sql("INSERT INTO item VALUES (11, 11)");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.count("item"), 11);
}

fn link(name: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    started(&stage);
    stage
}

/// Everything that a host which writes nothing leaves as it was.
fn state(stage: &Stage) -> Vec<String> {
    let counters = "SELECT position, transactions, inserted, updated, deleted, copied FROM falkirk.checkpoint";
    let mut state = stage.green.admin(counters).concat();
    state.push(stage.green.digest("SELECT * FROM item"));
    state
}

/// A further row waits on blue; the link refuses with the code and writes nothing.
#[track_caller]
fn refuses(stage: &Stage, code: &str) -> Finished {
    stage.blue.sql("INSERT INTO item VALUES (100, 100)");
    let before = state(stage);
    let finished = stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says(code);
    assert_eq!(state(stage), before, "a host that was refused has written");
    finished
}

fn slot(stage: &Stage) -> String {
    let like = format!("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '%{}%'", stage.name());
    stage.blue.value(&like)
}

fn drop_slot(stage: &Stage) -> String {
    let slot = slot(stage);
    stage.blue.admin(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    slot
}

/// What this test made is gone from the servers that all tests share.
fn clean(stage: &Stage) {
    let like = format!("slot_name LIKE '%{}%'", stage.name());
    stage.blue.admin(&format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE {like}"));
}

#[test]
fn row_41_a_slot_that_is_missing_is_refused() {
    let stage = link("gate_missing");
    drop_slot(&stage);
    refuses(&stage, "SLOT_MISSING");
}

#[test]
fn row_41_a_slot_of_another_kind_is_refused() {
    let stage = link("gate_plugin");
    let slot = drop_slot(&stage);
    stage.blue.admin(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"));
    refuses(&stage, "SLOT_FOREIGN");
    clean(&stage);
}

#[test]
fn row_41_a_slot_of_another_database_is_refused() {
    let (stage, other) = (link("gate_database"), link("gate_other"));
    let slot = drop_slot(&stage);
    other.blue.admin(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    refuses(&stage, "SLOT_FOREIGN");
    clean(&stage);
    clean(&other);
}

#[test]
fn row_40_a_slot_ahead_of_the_checkpoint_is_a_gap() {
    let stage = link("gate_gap");
    stage.blue.sql("INSERT INTO item VALUES (50, 50)");
    stage.blue.admin(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", slot(&stage)));
    refuses(&stage, "GAP");
    clean(&stage);
}

#[test]
fn row_40_a_slot_that_was_made_anew_is_a_gap() {
    let stage = link("gate_anew");
    stage.blue.sql("INSERT INTO item VALUES (50, 50)");
    let slot = drop_slot(&stage);
    stage.blue.admin(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    refuses(&stage, "GAP");
    clean(&stage);
}

#[test]
fn row_41_a_slot_that_has_lost_log_is_refused() {
    let small = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let stage = Stage::with_own_servers("gate_lost", &small).toward(way!());
    started(&stage);
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'", slot(&stage));
    until("the slot has lost log", SOON, || {
        for _ in 0..4 {
            stage.blue.admin("SELECT pg_logical_emit_message(false, 'noise', 'x'); SELECT pg_switch_wal()");
        }
        stage.blue.admin("CHECKPOINT");
        stage.blue.value(&status) == "lost"
    });
    refuses(&stage, "SLOT_LOST");
    stage.falkirk(&["status"]).expect(0).says("lost");
}

#[test]
fn a_publication_that_was_dropped_is_refused() {
    let stage = link("gate_publication");
    let publication = stage.blue.value("SELECT pubname FROM pg_publication");
    stage.blue.admin(&format!("DROP PUBLICATION \"{publication}\""));
    refuses(&stage, "PUBLICATION");
    clean(&stage);
}

#[test]
fn row_42_another_server_with_the_same_names_is_refused() {
    let (stage, twin) = (link("gate_server"), Stage::with_own_servers("gate_server", &[]).toward(way!()));
    started(&twin);
    let before = state(&stage);
    let path = stage.config("forward", "transforms = []");
    let config = std::fs::read_to_string(&path).expect("the configuration can be read");
    stage.file("falkirk.toml", config.replace(&stage.blue.url(), &twin.blue.url()));
    twin.blue.sql("INSERT INTO item VALUES (100, 100)");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("SOURCE_CHANGED");
    assert_eq!(state(&stage), before);
    clean(&stage);
}

#[test]
fn a_slot_that_is_there_before_the_target_knows_of_it_is_refused() {
    let stage = Stage::one_way("gate_exists").toward(way!());
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO item VALUES (1, 1)");
    let other = link("gate_exists_name");
    let slot_name = slot(&other).replace("gate_exists_name", "gate_exists");
    stage.blue.admin(&format!("SELECT pg_create_logical_replication_slot('{slot_name}', 'pgoutput')"));
    stage.config("forward", "transforms = []");
    stage.falkirk(&["run"]).expect(1).says("SLOT_EXISTS");
    assert_eq!(stage.green.count("item"), 0);
    clean(&stage);
    clean(&other);
}

#[test]
fn row_61_a_checkpoint_that_is_gone_does_not_start_a_second_copy() {
    let stage = link("gate_forgotten");
    stage.green.admin("DELETE FROM falkirk.checkpoint");
    let before = stage.green.digest("SELECT * FROM item");
    stage.falkirk(&["run"]).expect(1).says("TARGET_NOT_EMPTY");
    assert_eq!(stage.green.digest("SELECT * FROM item"), before);
    // Also if somebody empties the target: whoever the slot belongs to may still need it.
    stage.green.sql("TRUNCATE item");
    stage.falkirk(&["run"]).expect(1).says("SLOT_EXISTS");
    assert_eq!(stage.green.count("item"), 0);
    clean(&stage);
}

#[test]
fn row_61_63_a_checkpoint_that_was_set_back_is_a_gap() {
    let stage = link("gate_back");
    stage.green.admin("UPDATE falkirk.checkpoint SET position = position - 1000");
    refuses(&stage, "GAP");
    clean(&stage);
}

#[test]
fn row_61_a_checkpoint_beyond_the_source_is_refused() {
    let stage = link("gate_beyond");
    stage.green.admin("UPDATE falkirk.checkpoint SET position = position + 1000000000000");
    refuses(&stage, "SOURCE_BEHIND");
    clean(&stage);
}

#[test]
fn row_61_a_checkpoint_that_somebody_moves_under_a_running_host_stops_it() {
    let stage = link("gate_moved");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item VALUES (12, 12)");
    until("the host streams", SOON, || stage.green.count("item") == 12);
    stage.green.admin("UPDATE falkirk.checkpoint SET position = position - 8");
    let before = state(&stage);
    stage.blue.sql("INSERT INTO item VALUES (13, 13)");
    host.wait(SOON).expect(3).says("CHECKPOINT_MOVED");
    assert_eq!(state(&stage), before);
    clean(&stage);
}

/// Reads a slot as a second host would, until it is dropped.
fn read_beside(stage: &Stage) -> (Runtime, impl Sized) {
    let runtime = Runtime::new().expect("a runtime can be started");
    let (url, name) = (stage.blue.url(), slot(stage));
    let stream = runtime.block_on(async {
        let address = Address::parse(&url).expect("an address");
        let session = ReplicationSession::connect(&address, "beside").await.expect("a connection");
        session.start(&name, &name, falkirk::lsn::Lsn::ZERO).await.expect("a stream")
    });
    (runtime, stream)
}

#[test]
fn a_slot_that_somebody_else_reads_is_refused() {
    let stage = link("gate_in_use");
    let beside = read_beside(&stage);
    refuses(&stage, "SLOT_IN_USE");
    drop(beside);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.count("item"), 12);
    clean(&stage);
}

#[test]
fn a_second_host_is_refused_and_the_first_goes_on() {
    let stage = link("gate_second");
    let mut first = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item VALUES (12, 12)");
    until("the first host streams", SOON, || stage.green.count("item") == 12);
    stage.falkirk(&["run"]).expect(1).says("LINK_HELD");
    assert!(first.is_running());
    stage.blue.sql("INSERT INTO item VALUES (13, 13)");
    until("the first host goes on", SOON, || stage.green.count("item") == 13);
    first.terminate().expect(143);
    clean(&stage);
}

#[test]
fn l2_a_host_whose_epoch_has_passed_ends_and_writes_nothing() {
    let stage = link("gate_epoch");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO item VALUES (12, 12)");
    until("the host streams", SOON, || stage.green.count("item") == 12);
    stage.green.admin("UPDATE falkirk.checkpoint SET epoch = epoch + 1");
    let before = state(&stage);
    stage.blue.sql("UPDATE item SET amount = amount + 1; INSERT INTO item VALUES (13, 13)");
    host.wait(Duration::from_secs(30)).expect(1).says("FENCED");
    assert_eq!(state(&stage), before);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    clean(&stage);
}
