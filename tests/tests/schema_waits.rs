//! L12 with an operator at hand: a link whose source's columns change waits exactly there, says so to probe, log and
//! status, keeps its source healthy, and goes on with nothing lost once a revision fits. Nothing differs in silence.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use falkirk_tests::{Running, SOON, Stage, free_port, swap_component, until};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text, b int); CREATE TABLE other (id int PRIMARY KEY);";

struct Waiting {
    stage: Stage,
    port: u16,
}

impl Waiting {
    fn new(name: &str, schema: [&str; 2], more: &str) -> Waiting {
        let (stage, port) = (Stage::one_way(name), free_port());
        stage.schemas(schema[0], schema[1]);
        let more = if more.contains("transforms") { more.to_owned() } else { format!("transforms = []\n{more}") };
        stage.config("forward", &format!("{more}\n[admin]\nlisten = \"127.0.0.1:{port}\"\n"));
        Waiting { stage, port }
    }

    fn start(&self) -> Running {
        let host = self.stage.start_falkirk(&["run"]);
        until("it is ready", SOON, || self.get("/ready").contains(" 200 "));
        host
    }

    /// What a probe gets; nothing before the listener is there.
    fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut answer = String::new();
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    fn waits(&self, host: &mut Running, words: &str) {
        until("it waits", SOON, || {
            let answer = self.get("/ready");
            answer.contains(" 503 ") && answer.contains(words) && answer.contains("SCHEMA_CHANGED")
        });
        until("the log says so", SOON, || host.err().contains("waits for a revision that fits"));
        until("status says so", SOON, || self.stage.falkirk(&["status"]).out.contains(words));
        assert!(host.is_running());
    }
}

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
    let waiting = Waiting::new(name, [TABLE, TABLE], "");
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
    let waiting = Waiting::new("waits_refused", [TABLE, TABLE], "");
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
    let waiting = Waiting::new("waits_ignore", [TABLE, TABLE], "[tables]\nadded_columns = \"ignore\"");
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
    until("the row arrives", SOON, || stage.green.value("SELECT common FROM t WHERE id = 2") == "7");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_columns_that_change_within_a_transaction_that_has_changed_rows_before_stop_the_link() {
    let waiting = Waiting::new("waits_within", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let host = waiting.start();
    stage.blue.sql(
        "BEGIN; INSERT INTO t VALUES (1, 'a', 1); ALTER TABLE t ADD COLUMN c int; INSERT INTO t VALUES (2, 'b', 2, 3); COMMIT",
    );
    host.wait(SOON).expect(3).says("SCHEMA_CHANGED").says("c was added");
    assert_eq!(stage.green.count("t"), 0);
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
    let (stage, port) = (Stage::one_way("waits_loaded"), free_port());
    stage.schemas(BLUE, GREEN);
    let [first, second]: [PathBuf; 2] =
        [swap_component(&stage, 1, "ok", None), swap_component(&stage, 2, "ok", Some(WIDER))];
    let transforms = Stage::transforms(Some(&first));
    stage.config("forward", &format!("{transforms}\n[admin]\nlisten = \"127.0.0.1:{port}\"\n"));
    let waiting = Waiting { stage, port };
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
