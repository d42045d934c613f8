//! L12 with an operator at hand: a link whose source's columns change waits exactly there, says so to probe, log and
//! status, keeps its source healthy, and goes on with nothing lost once a revision fits. Nothing differs in silence.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use falkirk_tests::{SOON, Side, Stage, Waiting, swap_component, until};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text, b int); CREATE TABLE other (id int PRIMARY KEY);";

/// Ends the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn source_is_told(stage: &Stage) -> String {
    let slot = format!("falkirk_{}_forward", stage.name());
    let asked = format!(
        "SELECT reply_time FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = '{slot}'"
    );
    stage.blue.admin(&asked).first().map_or_else(String::new, |row| row[0].clone())
}

/// `change` on blue makes the link wait; `mend` brings green to it; bound again, the link goes on under load.
fn waits_and_goes_on(name: &str, change: &str, words: &str, mend: &str, columns: &str) {
    let waiting = Waiting::one_way(name, [TABLE, TABLE], "");
    let stage = &waiting.stage;
    stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
    let mut host = waiting.start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        scope.spawn(|| {
            for number in 10.. {
                let _ = stage.blue.try_sql(&format!("BEGIN; INSERT INTO t (id, a) VALUES ({number}, 'load');
                    UPDATE t SET a = 'load {number}' WHERE id = {number} / 2 + 5; INSERT INTO other VALUES ({number}); COMMIT"));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        until("the load arrives", SOON, || stage.green.count("other") > 20);
        stage.blue.sql(change);
        waiting.waits(&mut host, words);
        let told = source_is_told(stage);
        let there = stage.green.count("other");
        until("the source still hears from the link", SOON, || source_is_told(stage) > told);
        assert_eq!(stage.green.count("other"), there, "nothing behind the change is applied");
        assert!(stage.blue.count("other") > there);
        stage.green.sql(mend);
        stage.falkirk(&["swap", "--again"]).expect(0);
        until("it goes on", SOON, || stage.green.count("other") > there + 20);
        drop(ends);
    });
    let (t, other) = (format!("SELECT {columns} FROM t"), "SELECT * FROM other");
    until("everything arrives", SOON, || stage.same(&t, &t) && stage.same(other, other));
    assert!(waiting.get("/ready").contains(" 200 "));
    stage.falkirk(&["status"]).keeps_quiet_about("SCHEMA_CHANGED");
    // A start finds the shapes that the link stood at, and the rows from before are not looked at again.
    host.terminate().expect(143);
    stage.blue.sql("INSERT INTO t (id, a) VALUES (5, 'after')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(stage.same(&t, &t));
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_column_that_was_added_makes_the_link_wait_until_it_is_bound_again() {
    let add = "ALTER TABLE t ADD COLUMN c text DEFAULT 'same'";
    waits_and_goes_on("waits_added", add, "c was added", add, "*");
}

#[test]
fn l12_a_column_that_was_dropped_makes_the_link_wait_until_it_is_bound_again() {
    let drop = "ALTER TABLE t DROP COLUMN b";
    waits_and_goes_on("waits_dropped", drop, "b was dropped or renamed", "SELECT 1", "id, a");
}

#[test]
fn l12_a_column_that_was_renamed_makes_the_link_wait_until_it_is_bound_again() {
    let rename = "ALTER TABLE t RENAME COLUMN b TO bb";
    waits_and_goes_on("waits_renamed", rename, "bb was added", rename, "*");
}

#[test]
fn l12_a_column_that_got_another_type_makes_the_link_wait_until_it_is_bound_again() {
    let retype = "ALTER TABLE t ALTER COLUMN b TYPE bigint";
    waits_and_goes_on("waits_retyped", retype, "b no longer has the type integer", retype, "*");
}

#[test]
fn l12_what_does_not_fit_is_refused_in_full_and_the_link_waits_on_also_after_a_restart() {
    let waiting = Waiting::one_way("waits_refused", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("ALTER TABLE t ALTER COLUMN b TYPE bigint; INSERT INTO t VALUES (1, 'a', 9000000000)");
    waiting.waits(&mut host, "b no longer has the type integer");
    stage.falkirk(&["swap", "--again"]).expect(1).says("TYPE_MISFIT").says("column b");
    assert!(waiting.get("/ready").contains(" 503 ") && host.is_running());
    host.terminate().expect(143);
    let mut host = stage.start_falkirk(&["run"]);
    waiting.waits(&mut host, "b no longer has the type integer");
    assert_eq!(stage.green.count("t"), 0);
    stage.green.sql("ALTER TABLE t ALTER COLUMN b TYPE bigint");
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("the row arrives", SOON, || stage.same("SELECT * FROM t", "SELECT * FROM t"));
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_by_policy_a_new_column_that_no_rule_uses_is_left_out_and_said_and_one_that_would_be_used_is_not() {
    let waiting = Waiting::one_way("waits_ignore", [TABLE, TABLE], "[tables]\nadded_columns = \"ignore\"");
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("ALTER TABLE t ADD COLUMN only_blue text DEFAULT 'x'; INSERT INTO t VALUES (1, 'a', 1, 'y')");
    until("the row arrives", SOON, || stage.green.lines("SELECT * FROM t") == ["(1,a,1)"]);
    until("the log says so", SOON, || host.err().contains("only_blue was added"));
    assert!(waiting.get("/ready").contains(" 200 "));
    // Both sides have the second one: to leave it out would be a difference.
    stage.green.sql("ALTER TABLE t ADD COLUMN common int");
    stage.blue.sql("ALTER TABLE t ADD COLUMN common int; INSERT INTO t VALUES (2, 'b', 2, 'y', 7)");
    waiting.waits(&mut host, "common was added");
    stage.falkirk(&["swap", "--again"]).expect(0).says("rows from before common was added");
    until("the row arrives", SOON, || stage.green.count("(SELECT FROM t WHERE id = 2 AND common = 7)") == 1);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_columns_that_change_within_a_transaction_that_has_changed_rows_before_stop_the_link() {
    let waiting = Waiting::one_way("waits_within", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let host = waiting.start();
    stage.blue.sql(
        "BEGIN; INSERT INTO t VALUES (1, 'a', 1); ALTER TABLE t ADD COLUMN c int; INSERT INTO t VALUES (2, 'b', 2, 3); COMMIT",
    );
    host.wait(SOON).expect(3).says("SCHEMA_CHANGED").says("c was added");
    assert_eq!(stage.green.count("t"), 0);
    stage.falkirk(&["clean"]).expect(0);
}

/// As most migrations fill a new column.
#[test]
fn l12_columns_that_change_and_are_filled_in_one_transaction_make_the_link_wait_before_it() {
    for (name, first) in [("waits_filled", ""), ("waits_filled_behind", "INSERT INTO other VALUES (1);")] {
        let waiting = Waiting::one_way(name, [TABLE, TABLE], "");
        let stage = &waiting.stage;
        let mut host = waiting.start();
        stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
        until("the rows arrive", SOON, || stage.green.count("t") == 2);
        stage.blue.sql(&format!("BEGIN; {first} ALTER TABLE t ADD COLUMN c text; UPDATE t SET c = a; COMMIT"));
        waiting.waits(&mut host, "c was added");
        assert_eq!(stage.green.count("other"), 0, "nothing of the transaction is applied");
        stage.green.sql("ALTER TABLE t ADD COLUMN c text");
        stage.falkirk(&["swap", "--again"]).expect(0);
        let (t, other) = ("SELECT * FROM t", "SELECT * FROM other");
        until("everything arrives", SOON, || stage.same(t, t) && stage.same(other, other));
        assert_eq!(stage.green.value("SELECT c FROM t WHERE id = 2"), "b");
        host.terminate().expect(143);
        stage.falkirk(&["clean"]).expect(0);
    }
}

/// Neither is in the log: what the server computes while it rewrites a table is never decoded.
#[test]
fn l12_what_the_source_computed_for_rows_from_before_is_warned_of_and_found_by_verify() {
    let volatile = "ALTER TABLE t ADD COLUMN c timestamptz DEFAULT clock_timestamp()";
    let using = "ALTER TABLE t ALTER COLUMN b TYPE bigint USING b * 100";
    let plain = "ALTER TABLE t ALTER COLUMN b TYPE bigint";
    let cases = [
        ("waits_volatile", volatile, "ALTER TABLE t ADD COLUMN c timestamptz", "rows from before c was added"),
        ("waits_using", using, plain, "rows from before b got another type"),
    ];
    for (name, change, mend, warning) in cases {
        let waiting = Waiting::one_way(name, [TABLE, TABLE], "");
        let stage = &waiting.stage;
        let mut host = waiting.start();
        stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1)");
        until("the row arrives", SOON, || stage.green.count("t") == 1);
        stage.blue.sql(change);
        stage.blue.sql("INSERT INTO t (id, a, b) VALUES (2, 'b', 2)");
        waiting.waits(&mut host, "SCHEMA_CHANGED");
        stage.green.sql(mend);
        stage.falkirk(&["swap", "--again"]).expect(0).says(warning).says("falkirk verify");
        let behind = "SELECT * FROM t WHERE id = 2";
        until("what came after it arrives whole", SOON, || stage.same(behind, behind));
        host.terminate().expect(143);
        stage.falkirk(&["verify"]).expect(1).says("public.t");
        stage.falkirk(&["clean"]).expect(0);
    }
}

/// From then on the column holds what the application writes, and not what both sides compute.
#[test]
fn l12_a_generated_column_that_becomes_an_ordinary_one_makes_the_link_wait() {
    let generated = "CREATE TABLE t (id int PRIMARY KEY, a text, b int GENERATED ALWAYS AS (id * 2) STORED);
        CREATE TABLE other (id int PRIMARY KEY);";
    let waiting = Waiting::one_way("waits_expression", [generated, generated], "");
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("INSERT INTO t VALUES (1, 'a')");
    until("the row arrives", SOON, || stage.same("SELECT * FROM t", "SELECT * FROM t"));
    let drop = "ALTER TABLE t ALTER COLUMN b DROP EXPRESSION";
    stage.blue.sql(drop);
    stage.blue.sql("INSERT INTO t VALUES (2, 'b', 7)");
    waiting.waits(&mut host, "b was added");
    stage.green.sql(drop);
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("the row arrives", SOON, || stage.same("SELECT * FROM t", "SELECT * FROM t"));
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

const BLUE: &str =
    "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL); ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, by text, extra text);";
const WIDER: &str = r#"{ "falkirk": 1, "name": "swap", "from": "1", "to": "2", "forward": [
    { "table": "item", "columns": ["note"], "outputs": [ { "table": "item",
        "copied": { "id": "id", "note": "note", "extra": "extra" }, "computed": [ { "from": ["note"], "to": ["by"] } ] } ] } ],
  "backward": [] }"#;

#[test]
fn l12_a_revision_that_was_loaded_before_takes_over_exactly_where_the_columns_change() {
    let stage = Stage::one_way("waits_loaded");
    let [first, second]: [PathBuf; 2] =
        [swap_component(&stage, 1, "ok", None), swap_component(&stage, 2, "ok", Some(WIDER))];
    let waiting = Waiting::new(stage, "forward", [BLUE, GREEN], &Stage::transforms(Some(&first)));
    let stage = &waiting.stage;
    let host = waiting.start();
    let file = second.to_string_lossy().into_owned();
    stage.falkirk(&["swap", "--when-fits", &file]).expect(1).says("extra");
    stage.blue.sql("INSERT INTO item VALUES (1, 'before')");
    stage.blue.sql("ALTER TABLE item ADD COLUMN extra text; INSERT INTO item VALUES (2, 'behind', 'x')");
    until("both rows arrive", SOON, || stage.green.count("item") == 2);
    let rows = stage.green.lines("SELECT id, note, by, extra FROM item");
    assert_eq!(rows, ["(1,before,0001,)", "(2,behind,0002,x)"]);
    let outcomes = stage.green.admin("SELECT outcome FROM falkirk.history WHERE outcome = 'took over'");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    host.terminate().expect(143).says("took over where the columns changed");
    stage.falkirk(&["clean"]).expect(0);
}

/// Writes to a table under the name that it has: `names` are the one of before and the one of after. Every number once.
fn load_of(stage: &Stage, names: [&str; 2], columns: &str, stop: &AtomicBool) {
    let url = stage.blue.application_url();
    for number in 10.. {
        let into = |name: &str| {
            let sql = format!(
                "BEGIN; INSERT INTO {name} {columns} VALUES ({number}, 'load'); INSERT INTO other VALUES ({number});
                 UPDATE {name} SET {} = 'load {number}' WHERE id = {number} / 2 + 5; COMMIT",
                if columns.contains("note") { "note" } else { "a" }
            );
            Side::run(&url, &sql).is_ok()
        };
        if !into(names[0]) {
            assert!(into(names[1]), "the table is there under one of its names");
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

#[test]
fn l12_a_table_that_was_renamed_makes_a_link_alone_wait_until_it_is_bound_under_its_new_name_and_nothing_is_lost() {
    let waiting = Waiting::one_way("waits_new_name", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
    let mut host = waiting.start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        scope.spawn(|| load_of(stage, ["t", "tt"], "(id, a)", &stop));
        until("the load arrives", SOON, || stage.green.count("other") > 20);
        let rename = "ALTER TABLE t RENAME TO tt";
        stage.blue.sql(rename);
        waiting.waits(&mut host, "public.t is now called public.tt");
        let there = stage.green.count("other");
        assert!(stage.green.count("t") == there + 2, "everything before is applied");
        // Green knows no such table yet.
        stage.falkirk(&["swap", "--again"]).expect(1).says("public.tt");
        until("the load goes on", SOON, || stage.blue.count("other") > there + 20);
        assert_eq!(stage.green.count("other"), there, "nothing behind it is applied");
        stage.green.sql(rename);
        stage.falkirk(&["swap", "--again"]).expect(0);
        until("it goes on", SOON, || stage.green.count("other") > there + 20);
        drop(ends);
    });
    let both = ["SELECT * FROM tt", "SELECT * FROM other"];
    until("everything arrives", SOON, || both.iter().all(|all| stage.same(all, all)));
    let shapes = || stage.green.admin("SELECT source_table FROM falkirk.shape ORDER BY 1");
    assert_eq!(shapes(), [["public.other"], ["public.tt"]], "the old name is forgotten");
    // A start knows it by its new name, and takes another table of the old one for another.
    host.terminate().expect(143);
    stage.blue.sql(
        "UPDATE tt SET a = 'after' WHERE id = 1; DELETE FROM tt WHERE id = 2; INSERT INTO tt VALUES (5, 'new', 5)",
    );
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    both.iter().for_each(|all| stage.assert_same(all, all));
    assert!(waiting.get("/ready").is_empty());
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_table_that_was_moved_to_another_schema_is_followed_by_a_revision_that_was_kept_for_it_under_load() {
    let stage = Stage::one_way("waits_new_schema");
    let moved = r#"{ "falkirk": 1, "name": "swap", "from": "1", "to": "2", "forward": [
        { "table": "moved.item", "columns": ["note"], "outputs": [ { "table": "item",
            "copied": { "id": "id", "note": "note" }, "computed": [ { "from": ["note"], "to": ["by"] } ] } ] } ], "backward": [] }"#;
    let [first, second]: [PathBuf; 2] =
        [swap_component(&stage, 1, "ok", None), swap_component(&stage, 2, "ok", Some(moved))];
    let other = "CREATE TABLE other (id int PRIMARY KEY);";
    let schemas = [format!("CREATE SCHEMA moved; {BLUE} {other}"), format!("{GREEN} {other}")];
    let waiting = Waiting::new(stage, "forward", [&schemas[0], &schemas[1]], &Stage::transforms(Some(&first)));
    let stage = &waiting.stage;
    let mut host = waiting.start();
    let file = second.to_string_lossy().into_owned();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        scope.spawn(|| load_of(stage, ["item", "moved.item"], "(id, note)", &stop));
        until("the load arrives", SOON, || stage.green.count("other") > 20);
        stage.falkirk(&["swap", "--when-fits", &file]).expect(1).says("moved.item");
        stage.blue.sql("ALTER TABLE item SET SCHEMA moved");
        until("the other one takes over", SOON, || stage.green.count("(SELECT FROM item WHERE by = '0002')") > 20);
        drop(ends);
    });
    let (blue, green) = ("SELECT id, note FROM moved.item", "SELECT id, note FROM item");
    until("everything arrives", SOON, || stage.same(blue, green));
    let taken = stage.green.admin("SELECT FROM falkirk.history WHERE outcome = 'took over'");
    assert_eq!(taken.len(), 1);
    assert!(host.is_running() && waiting.get("/ready").contains(" 200 "));
    host.terminate().expect(143).says("took over where the columns changed");
    // Another start goes on with it; one with the first one finds no such table, and writes nothing.
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0).says("REVISION_COMMANDED");
    stage.falkirk(&["run", "--configured", "--until", "caught-up"]).expect(1).says("public.item");
    stage.falkirk(&["clean"]).expect(0);
}
