//! L12 with two links, as a release is: columns change on both sides, one after the other, while both sides are written.
//! Each link meets the change where its own stream shows it, and nothing differs in the end, whichever was first.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use falkirk_tests::{SOON, Side, Stage, Waiting, swap_component, until};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text, b int); CREATE TABLE other (id int PRIMARY KEY, n int);
    ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE other REPLICA IDENTITY FULL;";

/// Stops the load also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New rows with the numbers from `first` on, every other one, and changes of rows of both sides.
fn write(side: &Side, first: u32, (stop, written): (&AtomicBool, &AtomicU32)) {
    for number in (first..).step_by(2) {
        let _ = side.try_sql(&format!(
            "BEGIN; INSERT INTO t (id, a) VALUES ({number}, 'load'); UPDATE t SET a = 'load {number}' WHERE id = {number} / 2;
             UPDATE other SET n = {number} WHERE id = {number} % 10; INSERT INTO other VALUES ({number}, 0); COMMIT"
        ));
        written.store(number, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

fn same(stage: &Stage) -> bool {
    let (t, other) = ("SELECT * FROM t", "SELECT * FROM other");
    stage.same(t, t) && stage.same(other, other)
}

/// A change comes to blue, then to green; a word of the operator, and both links go on under load. `set` is what a user
/// then does to a row of either side.
fn both_go_on(name: &str, changes: [&str; 2], words: &str, set: &str) {
    let waiting = Waiting::two_way(name, "both", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let mut host = waiting.start();
    let (stop, written) = (AtomicBool::new(false), [AtomicU32::new(0), AtomicU32::new(0)]);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        scope.spawn(|| write(&stage.blue, 20, (&stop, &written[0])));
        scope.spawn(|| write(&stage.green, 21, (&stop, &written[1])));
        let arrived = |side: &Side, odd: u32| side.count(&format!("(SELECT FROM other WHERE id % 2 = {odd})"));
        until("the loads arrive", SOON, || arrived(&stage.green, 0) > 20 && arrived(&stage.blue, 1) > 20);
        stage.blue.sql(changes[0]);
        waiting.waits(&mut host, words);
        stage.green.sql(changes[1]);
        stage.falkirk(&["swap", "--again"]).expect(0);
        let there = written.each_ref().map(|written| written.load(Ordering::Relaxed));
        let seen = |side: &Side, number: u32| side.count(&format!("(SELECT FROM other WHERE id = {number})")) == 1;
        until("both go on", SOON, || seen(&stage.green, there[0]) && seen(&stage.blue, there[1]));
        drop(ends);
    });
    until("everything arrives", SOON, || same(stage));
    assert!(waiting.get("/ready").contains(" 200 "), "{}", waiting.get("/ready"));
    stage.falkirk(&["status"]).keeps_quiet_about("SCHEMA_CHANGED");
    for (side, other, id) in [(&stage.blue, &stage.green, 20), (&stage.green, &stage.blue, 21)] {
        let found = format!("SELECT count(*) FROM t WHERE id = {id} AND {}", set.replace(" = ", "::text = "));
        side.sql(&format!("UPDATE t SET {set} WHERE id = {id}"));
        until("it arrives", SOON, || other.value(&found) == "1");
    }
    // A start finds the shapes that both links stood at.
    host.terminate().expect(143);
    stage.blue.sql("UPDATE t SET a = 'after' WHERE id = 20");
    stage.green.sql("UPDATE t SET a = 'after' WHERE id = 21");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(stage));
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_column_that_was_added_on_both_sides_travels_both_ways_after_one_word() {
    let add = "ALTER TABLE t ADD COLUMN c text DEFAULT 'same'";
    both_go_on("both_added", [add, add], "c was added", "c = 'new'");
}

#[test]
fn l12_a_column_that_got_another_type_on_both_sides_travels_both_ways_after_one_word() {
    let retype = "ALTER TABLE t ALTER COLUMN b TYPE bigint";
    both_go_on("both_retyped", [retype, retype], "b no longer has the type integer", "b = '9000000000'");
}

/// The same where only forward applies, as is usual before users move: the link that watches meets what forward writes.
fn watched_goes_on(name: &str, change: &str, words: &str, set: &str, restarts: bool) {
    let waiting = Waiting::two_way(name, "forward", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
    until("the rows arrive", SOON, || stage.green.count("t") == 2);
    stage.blue.sql(change);
    stage.blue.sql("UPDATE t SET a = 'behind' WHERE id = 1");
    waiting.waits(&mut host, words);
    if restarts {
        host.terminate().expect(143);
        host = stage.start_falkirk(&["run"]);
        waiting.waits(&mut host, words);
    }
    stage.green.sql(change);
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("it goes on", SOON, || same(stage));
    stage.blue.sql(&format!("UPDATE t SET {set} WHERE id = 2"));
    until("what was changed arrives", SOON, || same(stage));
    until("the way back is watched on", SOON, || waiting.get("/ready").contains(" 200 "));
    let tried = || stage.falkirk(&["status"]).expect(0).out.contains("1 rows tried");
    stage.green.sql(&format!("UPDATE t SET {set} WHERE id = 1"));
    until("what green does is tried", SOON, tried);
    host.terminate().expect(143);
    waiting.configure("both", "conflict = \"green_wins\"");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(stage), "what green did before the way back was taken travels");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_columns_that_change_while_the_way_back_is_watched_are_bound_in_both_links() {
    watched_goes_on("watch_added", "ALTER TABLE t ADD COLUMN c text DEFAULT 'same'", "c was added", "c = 'new'", true);
    // Until green is without it as well, it is the backward link that could not write: a start would be refused.
    watched_goes_on("watch_dropped", "ALTER TABLE t DROP COLUMN b", "b was dropped or renamed", "a = 'new'", false);
    watched_goes_on("watch_renamed", "ALTER TABLE t RENAME COLUMN b TO bb", "bb was added", "bb = 7", false);
    let retype = "ALTER TABLE t ALTER COLUMN b TYPE bigint";
    watched_goes_on("watch_retyped", retype, "b no longer has the type integer", "b = 9000000000", true);
}

const BLUE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, more text, back text);
    ALTER TABLE item REPLICA IDENTITY FULL;";
const GREEN: &str = "CREATE TABLE item (id bigint PRIMARY KEY, note text NOT NULL, more text, by text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

/// The rules of `tests/guests-swap`: green's signature is computed `from`, and `copied` travels both ways.
fn rules(from: &str, copied: &str) -> String {
    format!(
        r#"{{ "falkirk": 1, "name": "swap", "from": "1", "to": "2",
  "forward": [ {{ "table": "item", "columns": ["note", "more"], "outputs": [ {{ "table": "item",
      "copied": {{ {copied} }}, "computed": [ {{ "from": [{from}], "to": ["by"] }} ] }} ] }} ],
  "backward": [ {{ "table": "item", "columns": ["note"], "outputs": [ {{ "table": "item",
      "copied": {{ {copied} }}, "computed": [ {{ "from": ["note"], "to": ["back"] }} ] }} ] }} ] }}"#
    )
}

const COPIED: &str = r#""id": "id", "note": "note", "more": "more""#;

fn revision(stage: &Stage, number: u32, from: &str, copied: &str) -> PathBuf {
    swap_component(stage, number, "ok", Some(&rules(from, copied)))
}

#[test]
fn l12_a_revision_that_names_a_new_column_of_both_sides_is_kept_until_both_links_have_met_it() {
    let stage = Stage::new("both_named");
    let first = revision(&stage, 1, "\"note\"", COPIED);
    let migration = format!("conflict = \"green_wins\"\n{}", Stage::transforms(Some(&first)));
    let waiting = Waiting::new(stage, "both", [BLUE, GREEN], &migration);
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("INSERT INTO item VALUES (1, 'old'), (2, 'old')");
    until("the rows arrive", SOON, || stage.green.count("item") == 2);
    let add = "ALTER TABLE item ADD COLUMN extra text";
    stage.blue.sql(add);
    stage.blue.sql("UPDATE item SET extra = 'of blue' WHERE id = 1");
    waiting.waits(&mut host, "extra was added");
    stage.green.sql(add);
    // The backward link has not met the column yet: its rows so far are without it.
    let second = revision(stage, 2, "\"note\"", &format!(r#"{COPIED}, "extra": "extra""#));
    let file = second.to_string_lossy();
    stage.falkirk(&["swap", "--when-fits", &file]).expect(1).says("NO_SUCH_COLUMN").says("extra");
    stage.green.sql("UPDATE item SET extra = 'of green' WHERE id = 2");
    let both = "SELECT id, extra FROM item";
    until("both have it", SOON, || {
        stage.same(both, both) && stage.blue.value("SELECT extra FROM item WHERE id = 2") == "of green"
    });
    assert_eq!(stage.green.value("SELECT extra FROM item WHERE id = 1"), "of blue");
    stage.blue.sql("UPDATE item SET note = 'signed' WHERE id = 1");
    until("the second one signs", SOON, || stage.green.value("SELECT by FROM item WHERE id = 1") == "0002");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// While each link writes a column, neither side can lose it; a revision that lets go of it first makes room.
#[test]
fn l12_a_column_that_a_revision_lets_go_of_is_dropped_on_both_sides_and_holds_neither_link() {
    let stage = Stage::new("both_let_go");
    let first = revision(&stage, 1, "\"note\"", COPIED);
    let migration = format!("conflict = \"green_wins\"\n{}", Stage::transforms(Some(&first)));
    let waiting = Waiting::new(stage, "both", [BLUE, GREEN], &migration);
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("INSERT INTO item VALUES (1, 'old', 'more'), (2, 'old', 'more')");
    until("the rows arrive", SOON, || stage.green.count("item") == 2);
    let without = rules("\"note\"", r#""id": "id", "note": "note""#).replace(r#""note", "more""#, r#""note""#);
    let second = swap_component(stage, 2, "ok", Some(&without));
    stage.falkirk(&["swap", &second.to_string_lossy()]).expect(0);
    let agree = || stage.same("SELECT id, note FROM item", "SELECT id, note FROM item");
    let drops = |side: &Side, id: u32| {
        side.sql("ALTER TABLE item DROP COLUMN more");
        side.sql(&format!("UPDATE item SET note = 'without' WHERE id = {id}"));
    };
    drops(&stage.blue, 1);
    waiting.waits(&mut host, "more was dropped or renamed");
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("it goes on", SOON, agree);
    // The same on the other side needs no other word.
    drops(&stage.green, 2);
    until("it goes on", SOON, agree);
    until("the log says so", SOON, || host.err().contains("bound again here as well"));
    assert!(waiting.get("/ready").contains(" 200 "));
    stage.blue.sql("UPDATE item SET note = 'signed' WHERE id = 1");
    until("the second one signs", SOON, || stage.green.value("SELECT by FROM item WHERE id = 1") == "0002");
    host.terminate().expect(143);
    waiting.configure("both", &format!("conflict = \"green_wins\"\n{}", Stage::transforms(Some(&second))));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

const OTHER: &str = "CREATE TABLE other (id int PRIMARY KEY, n int); ALTER TABLE other REPLICA IDENTITY FULL;";

/// The word to bind the same revision again is about what one link has met; nobody has said anything about another table.
#[test]
fn l12_a_word_for_one_table_is_none_for_another_one_and_ends_with_the_next_revision() {
    let stage = Stage::new("both_word");
    let first = revision(&stage, 1, "\"note\"", COPIED);
    let migration = format!("conflict = \"green_wins\"\n{}", Stage::transforms(Some(&first)));
    let schema = [BLUE, GREEN].map(|table| format!("{table} {OTHER}"));
    let waiting = Waiting::new(stage, "both", [&schema[0], &schema[1]], &migration);
    let stage = &waiting.stage;
    let mut host = waiting.start();
    stage.blue.sql("INSERT INTO item VALUES (1, 'old', 'more'); INSERT INTO other VALUES (1, 1)");
    until("the rows arrive", SOON, || stage.green.count("item") == 1 && stage.green.count("other") == 1);
    let agree = || {
        let (item, other) = ("SELECT id, note FROM item", "SELECT * FROM other");
        stage.same(item, item) && stage.same(other, other)
    };
    let adds = |side: &Side, column: &str| {
        side.sql(&format!(
            "ALTER TABLE item ADD COLUMN {column} int; UPDATE item SET note = note || '.', {column} = 1"
        ));
    };
    let bound = |host: &falkirk_tests::Running| host.err().matches("bound again here as well").count();
    adds(&stage.blue, "only_blue");
    waiting.waits(&mut host, "only_blue was added");
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("it goes on", SOON, agree);
    // Another table is another matter.
    let retype = "ALTER TABLE other ALTER COLUMN n TYPE bigint";
    stage.blue.sql(retype);
    stage.green.sql(&format!("{retype}; UPDATE other SET n = 9000000000"));
    waiting.waits(&mut host, "n no longer has the type integer");
    assert_eq!((bound(&host), stage.blue.value("SELECT n FROM other")), (0, "1".to_owned()));
    stage.falkirk(&["swap", "--again"]).expect(0);
    // What is written to blue shows blue's own change to the other link.
    until("the word holds there", SOON, || bound(&host) == 1);
    until("it goes on", SOON, agree);
    // The first word still holds for its table.
    adds(&stage.green, "only_green");
    until("the word holds there", SOON, || bound(&host) == 2);
    until("it goes on", SOON, agree);
    // A word about a revision ends with it.
    adds(&stage.blue, "only_blue_too");
    waiting.waits(&mut host, "only_blue_too was added");
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("it goes on", SOON, agree);
    stage.falkirk(&["swap", &revision(stage, 2, "\"note\"", COPIED).to_string_lossy()]).expect(0);
    adds(&stage.green, "only_green_too");
    waiting.waits(&mut host, "only_green_too was added");
    assert_eq!(bound(&host), 2, "nobody has said so of the second revision");
    stage.falkirk(&["swap", "--again"]).expect(0);
    until("it goes on", SOON, agree);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// It is not the source's change that the backward link meets, but rows that it cannot write: loudly, with nothing lost.
#[test]
fn l3_a_column_that_one_side_drops_while_the_other_link_writes_it_stops_the_host_at_that_change() {
    let waiting = Waiting::two_way("both_dropped", "both", [TABLE, TABLE], "");
    let stage = &waiting.stage;
    let host = waiting.start();
    stage.blue.sql("ALTER TABLE t DROP COLUMN b");
    stage.green.sql("INSERT INTO t VALUES (1, 'a', 1)");
    host.wait(SOON).expect(3).says("TARGET_SCHEMA").says("public.t");
    assert_eq!(stage.blue.count("t"), 0);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("NO_SUCH_COLUMN").says("column b");
    stage.blue.sql("ALTER TABLE t ADD COLUMN b int");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(stage) && stage.blue.count("t") == 1);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_a_start_with_groups_that_notes_do_not_know_is_refused_while_both_sides_write_and_not_after() {
    let stage = Stage::new("both_groups");
    stage.schemas(BLUE, GREEN);
    let (first, second) = (revision(&stage, 1, "\"note\"", COPIED), revision(&stage, 2, "\"note\", \"more\"", COPIED));
    let configure = |direction: &str, revision: &PathBuf| {
        let migration =
            format!("conflict = \"green_wins\"\nrollback = \"watch\"\n{}", Stage::transforms(Some(revision)));
        stage.config(direction, &migration);
    };
    let follow = || stage.falkirk(&["run", "--until", "caught-up"]);
    configure("both", &first);
    stage.blue.sql("INSERT INTO item VALUES (1, 'old')");
    follow().expect(0);
    // Green's note is decided by itself under the first revision, and as one with `more` under the second.
    stage.blue.sql("UPDATE item SET more = 'of blue' WHERE id = 1");
    configure("both", &second);
    follow().expect(1).says("GROUPS_DIFFER").says("public.item").says("direction = \"forward\"");
    assert_eq!(stage.green.value("SELECT coalesce(more, 'nothing') FROM item"), "nothing", "nothing was written");
    configure("both", &first);
    follow().expect(0);
    assert_eq!(stage.green.value("SELECT more FROM item"), "of blue");
    stage.falkirk(&["clean"]).expect(0);
}

/// What both links have noted of its rows is noted under its name: another name would hide what was changed on both sides.
#[test]
fn l12_l8_a_table_that_gets_another_name_while_two_links_run_stops_the_host_and_says_what_is_left_to_do() {
    for (name, direction) in [("both_renamed", "both"), ("watch_renamed_table", "forward")] {
        let waiting = Waiting::two_way(name, direction, [TABLE, TABLE], "");
        let stage = &waiting.stage;
        let host = waiting.start();
        stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1)");
        until("the row arrives", SOON, || stage.green.count("t") == 1);
        stage.blue.sql("ALTER TABLE t RENAME TO tt; INSERT INTO tt VALUES (2, 'b', 2)");
        let stopped = host.wait(SOON).expect(3).says("SCHEMA_CHANGED").says("public.t is now called public.tt");
        stopped.says("position ").says("falkirk clean").says("rollback = \"none\"");
        assert_eq!(stage.green.count("t"), 1);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("public.t").says("next:");
        stage.falkirk(&["clean"]).expect(0);
    }
}
