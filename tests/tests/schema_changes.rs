//! L12, L3: a source whose columns change under the link stops it exactly there, and a target that refuses a value stops
//! it exactly there: everything before is applied, nothing behind, and a restart says the same again.

use falkirk_tests::{SOON, Stage, lose_a_deadlock, run_recipe, until, way};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text, b int); CREATE TABLE other (id int PRIMARY KEY);";

fn running(name: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    stage.schemas(TABLE, TABLE);
    stage.blue.sql("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
    stage.config("forward", "transforms = []");
    follow(&stage);
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

/// `change` is made between two rows of blue: the row before it arrives, the row behind it does not, twice the same
/// words are said, and none of them is a value.
fn stops_at(stage: &Stage, change: &str, behind: &str, words: &[&str]) {
    stage.blue.sql("INSERT INTO t (id, a) VALUES (100, 'before'); INSERT INTO other VALUES (100)");
    stage.blue.sql(change);
    stage.blue.sql(behind);
    let already = stage.green.lines("SELECT * FROM t WHERE id <> 100");
    let mut positions = Vec::new();
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("position");
        let run = words.iter().fold(run, |run, word| run.says(word)).keeps_quiet_about("opensesame");
        assert_eq!(stage.green.count("(SELECT FROM t WHERE id = 100)"), 1, "what came before is there");
        assert_eq!(stage.green.count("other"), 1, "what came behind is not");
        assert_eq!(stage.green.lines("SELECT * FROM t WHERE id <> 100"), already);
        let said = run.err.lines().rfind(|line| line.contains("position ")).unwrap_or_default().to_owned();
        positions.push(
            said.split("position ").nth(1).unwrap_or_default().split([',', ')']).next().unwrap_or_default().to_owned(),
        );
    }
    assert!(positions[0].contains('/') && positions[0] == positions[1], "{positions:?}");
    stage.falkirk(&["status"]).says(words[0]);
}

const BEHIND: &str = "INSERT INTO t (id) VALUES (200); INSERT INTO other VALUES (200)";

#[test]
fn l12_a_column_that_was_added_with_a_default_stops_the_link_and_is_named() {
    let stage = running("schema_added");
    // The rows that are there get the default without a word in the stream.
    stops_at(
        &stage,
        "ALTER TABLE t ADD COLUMN c text DEFAULT 'opensesame'",
        BEHIND,
        &["SCHEMA_CHANGED", "c was added", "public.t", "next:"],
    );
    // To undo it on the source is a way on that loses nothing.
    stage.blue.sql("ALTER TABLE t DROP COLUMN c");
    let run = stage.falkirk(&["run", "--until", "caught-up"]);
    assert_eq!(run.code, 3, "the changes that were made with the column still speak of it\n{}", run.err);
    stage.falkirk(&["clean"]).expect(0);
    stage.green.sql("TRUNCATE t, other");
    follow(&stage);
    stage.assert_same("SELECT * FROM t", "SELECT * FROM t");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_column_that_was_dropped_stops_the_link_and_is_named() {
    let stage = running("schema_dropped");
    stops_at(
        &stage,
        "ALTER TABLE t DROP COLUMN b",
        BEHIND,
        &["SCHEMA_CHANGED", "b was dropped or renamed", "public.t", "next:"],
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_rows_from_before_a_column_was_dropped_keep_their_columns_although_the_host_starts_behind_it() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text DEFAULT 'c')";
    let stage = Stage::one_way("schema_middle").toward(way!());
    stage.schemas(schema, schema);
    stage.blue.sql("INSERT INTO t VALUES (1, 'a', 'b', 'c')");
    stage.config("forward", "transforms = []");
    follow(&stage);
    stage.blue.sql("INSERT INTO t VALUES (2, 'a2', 'b2', 'c2')");
    stage.blue.sql("UPDATE t SET a = 'a1', c = 'c1' WHERE id = 1");
    stage.blue.sql("ALTER TABLE t DROP COLUMN a");
    stage.blue.sql("INSERT INTO t VALUES (3, 'b3', 'c3')");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says("SCHEMA_CHANGED").says("a was dropped or renamed");
        assert_eq!(stage.green.lines("SELECT * FROM t"), ["(1,a1,b,c1)", "(2,a2,b2,c2)"]);
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_column_that_was_renamed_stops_the_link_and_both_names_are_said() {
    let stage = running("schema_renamed");
    stops_at(
        &stage,
        "ALTER TABLE t RENAME COLUMN b TO bb",
        BEHIND,
        &["SCHEMA_CHANGED", "b was dropped or renamed", "bb was added"],
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_column_that_got_another_type_stops_the_link_and_is_named() {
    let stage = running("schema_retyped");
    stops_at(
        &stage,
        "ALTER TABLE t ALTER COLUMN b TYPE bigint",
        BEHIND,
        &["SCHEMA_CHANGED", "b no longer has the type integer"],
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_table_that_was_renamed_stops_the_link_and_a_restart_says_so_before_anything_is_written() {
    let stage = running("schema_table");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3)");
    until("it streams", SOON, || stage.green.count("t") == 3);
    stage.blue.sql("ALTER TABLE t RENAME TO tt");
    stage.blue.sql("INSERT INTO tt (id) VALUES (200); INSERT INTO other VALUES (200)");
    host.wait(SOON).expect(3).says("SCHEMA_CHANGED").says("public.t is now called public.tt").says("position");
    for _ in 0..2 {
        stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("public.t").says("next:");
        assert_eq!((stage.green.count("t"), stage.green.count("other")), (3, 0));
    }
    stage.blue.sql("ALTER TABLE tt RENAME TO t");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("SCHEMA_CHANGED");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_table_that_was_dropped_and_made_anew_stops_the_link_and_is_never_taken_for_the_old_one() {
    let stage = running("schema_anew");
    stage.blue.sql("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a text, b int)");
    run_recipe(&stage.blue, "source.sql");
    stage.blue.sql("INSERT INTO t VALUES (1, 'new', 1); INSERT INTO other VALUES (200)");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(1);
        run.says("PUBLICATION_TABLES").says("\"public\".\"t\"").says("next:");
        assert_eq!((stage.green.count("t"), stage.green.count("other")), (2, 0));
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l12_a_change_of_columns_while_the_host_runs_stops_it_at_the_first_row_that_shows_it() {
    let stage = running("schema_live");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3)");
    until("it streams", SOON, || stage.green.count("t") == 3);
    stage.blue.sql("ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 7");
    stage.blue.sql("INSERT INTO other VALUES (1)");
    until("another table goes on", SOON, || stage.green.count("other") == 1);
    stage.blue.sql("UPDATE t SET c = 8 WHERE id = 1");
    host.wait(SOON).expect(3).says("SCHEMA_CHANGED").says("c was added");
    stage.falkirk(&["clean"]).expect(0);
}

/// A green side that is stricter than blue: `more` is added to the table, `change` cannot be written, `mend` mends green.
fn refuses(name: &str, green: &str, change: &str, mend: &str, words: &[&str]) {
    let stage = running(name);
    stage.green.sql(green);
    stops_at(&stage, change, BEHIND, words);
    // Once green is mended the link goes on from where it stopped, and nothing is missing.
    stage.green.sql(mend);
    follow(&stage);
    stage.assert_same("SELECT id, a, b FROM t", "SELECT id, a, b FROM t");
    stage.assert_same("SELECT * FROM other", "SELECT * FROM other");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_55_a_value_that_a_check_refuses_stops_the_link_and_after_mending_nothing_is_lost() {
    refuses(
        "refuse_check",
        "ALTER TABLE t ADD CONSTRAINT no_sesame CHECK (a <> 'opensesame')",
        "UPDATE t SET b = 5 WHERE id = 1; UPDATE t SET a = 'opensesame' WHERE id = 2",
        "ALTER TABLE t DROP CONSTRAINT no_sesame",
        &["CHECK", "no_sesame", "public.t"],
    );
}

#[test]
fn row_55_a_null_that_the_target_refuses_stops_the_link_and_the_column_is_named() {
    refuses(
        "refuse_null",
        "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
        "INSERT INTO t VALUES (7, NULL, 7)",
        "ALTER TABLE t ALTER COLUMN a DROP NOT NULL",
        &["NOT_NULL", "column a", "public.t"],
    );
}

#[test]
fn row_55_a_length_that_a_check_refuses_stops_the_link_without_being_cut() {
    refuses(
        "refuse_long",
        "ALTER TABLE t ADD CONSTRAINT short CHECK (length(a) < 9)",
        "INSERT INTO t VALUES (7, 'opensesame', 7)",
        "ALTER TABLE t DROP CONSTRAINT short",
        &["CHECK", "short", "public.t"],
    );
}

#[test]
fn row_55_a_row_whose_parent_is_missing_in_the_target_stops_the_link() {
    refuses(
        "refuse_parent",
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1), (2);
         ALTER TABLE t ADD CONSTRAINT has_parent FOREIGN KEY (b) REFERENCES parent",
        "INSERT INTO t VALUES (7, 'opensesame', 77)",
        "INSERT INTO parent VALUES (77)",
        &["FOREIGN_KEY", "has_parent", "public.t"],
    );
}

#[test]
fn row_54_a_unique_value_that_is_taken_in_the_target_stops_the_link() {
    refuses(
        "refuse_unique",
        "ALTER TABLE t ADD CONSTRAINT only_one UNIQUE (a)",
        "INSERT INTO t VALUES (7, 'b', 7)",
        "ALTER TABLE t DROP CONSTRAINT only_one",
        &["CONFLICT", "only_one", "public.t"],
    );
}

/// The columns themselves differ: refused by `check` where types tell, by the link where only a value does.
#[test]
fn row_55_a_label_that_only_blue_got_later_stops_the_link_until_green_has_it() {
    let stage = Stage::one_way("refuse_label").toward(way!());
    let schema = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE m (id int PRIMARY KEY, v mood);
         CREATE TABLE w (id int PRIMARY KEY, v varchar(9))";
    stage.schemas(schema, schema);
    stage.blue.sql("INSERT INTO m VALUES (1, 'sad')");
    stage.config("forward", "transforms = []");
    follow(&stage);
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO m VALUES (2, 'ok')");
    until("it streams", SOON, || stage.green.count("m") == 2);
    stage.blue.sql("ALTER TYPE mood ADD VALUE 'happy'");
    stage.blue.sql("INSERT INTO m VALUES (3, 'ok')");
    stage.blue.sql("INSERT INTO m VALUES (4, 'happy')");
    host.wait(SOON).expect(3).says("public.m").says("position").keeps_quiet_about("happy");
    assert_eq!(stage.green.count("m"), 3);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("VALUE_REFUSED").says("public.m");
    stage.green.sql("ALTER TYPE mood ADD VALUE 'happy'");
    follow(&stage);
    stage.assert_same("SELECT * FROM m", "SELECT * FROM m");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_55_a_column_that_green_narrowed_under_way_stops_the_link_with_the_value_whole_or_not_at_all() {
    let stage = running("refuse_narrow");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3)");
    until("it streams", SOON, || stage.green.count("t") == 3);
    stage.green.sql("ALTER TABLE t ALTER COLUMN a TYPE varchar(5)");
    stage.blue.sql("INSERT INTO t VALUES (4, 'fits', 4)");
    stage.blue.sql("INSERT INTO t VALUES (5, 'opensesame', 5)");
    // The batch is refused; the restart finds that nobody can promise anything for such a column any more.
    let stopped = host.wait(SOON).expect(1).says("TOO_LONG").says("public.t").says("position");
    stopped.says("TYPE_MISFIT").says("column a").keeps_quiet_about("opensesame");
    assert_eq!(stage.green.count("(SELECT FROM t WHERE id = 5)"), 0);
    stage.green.sql("ALTER TABLE t ALTER COLUMN a TYPE text");
    follow(&stage);
    stage.assert_same("SELECT * FROM t", "SELECT * FROM t");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_60_sessions_that_end_while_the_link_waits_for_a_lock_are_retried_and_nothing_is_lost() {
    let stage = running("retried");
    let role = stage.green.role();
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3)");
    until("it streams", SOON, || stage.green.count("t") == 3);
    for round in 0..3 {
        // Somebody holds the row, the link waits, and its session is ended meanwhile.
        stage.green.sql("BEGIN; SELECT FROM t WHERE id = 1 FOR UPDATE");
        stage.blue.sql(&format!("UPDATE t SET b = b + 1 WHERE id <= 2; INSERT INTO other VALUES ({round})"));
        let waiting = format!("(SELECT FROM pg_stat_activity WHERE usename = '{role}' AND wait_event_type = 'Lock')");
        until("the link waits for the lock", SOON, || {
            stage.green.admin(&format!("SELECT count(*) FROM {waiting} x"))[0][0] == "1"
        });
        stage.green.admin(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' AND wait_event_type = 'Lock'"
        ));
        stage.green.sql("COMMIT");
        until("it is there", SOON, || stage.green.count("other") == round + 1);
    }
    stage.assert_same("SELECT * FROM t", "SELECT * FROM t");
    host.terminate().expect(143).says("starting again from the checkpoint");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_60_a_deadlock_that_the_link_loses_is_retried() {
    let stage = running("deadlock");
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3)");
    let change = "BEGIN; UPDATE t SET b = 10 WHERE id = 1; INSERT INTO other VALUES (1); UPDATE t SET a = 'z', b = 20 WHERE id = 2; COMMIT";
    let touch = |id: u32| format!("UPDATE t SET a = a WHERE id = {id}");
    let host = lose_a_deadlock(&stage, [&touch(2), &touch(1)], change, || stage.green.count("t") == 3);
    until("it is there", SOON, || stage.same("SELECT * FROM t", "SELECT * FROM t"));
    assert_eq!(stage.green.count("other"), 1);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// Without a rule only the target's own table says that a table is carried.
#[test]
fn l3_a_table_that_the_target_has_lost_is_never_left_out_without_a_word() {
    let stage = running("target_lost");
    stage.green.sql("ALTER TABLE t RENAME TO kept");
    stage.blue.sql("INSERT INTO t VALUES (3, 'c', 3); INSERT INTO other VALUES (1)");
    for command in [&["check"][..], &["run", "--until", "caught-up"]] {
        stage.falkirk(command).expect(1).says("NO_SUCH_TABLE").says("public.t").says("outputs: []");
    }
    assert_eq!(stage.green.count("other"), 0, "nothing was written");
    stage.green.sql("ALTER TABLE kept RENAME TO t");
    follow(&stage);
    stage.assert_same("SELECT * FROM t", "SELECT * FROM t");
    stage.assert_same("SELECT * FROM other", "SELECT * FROM other");
    stage.falkirk(&["clean"]).expect(0);
}
