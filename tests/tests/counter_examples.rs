//! Counter-examples of the contract, end to end: what a rule once allowed and must not.

use std::path::PathBuf;

use falkirk_tests::{Open, SOON, Stage, rules_component, rules_schemas, until, way};

fn rules(name: &str, rows: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    let [blue, green] = rules_schemas();
    stage.schemas(&blue, &green);
    stage.blue.sql(rows);
    stage.config("forward", &Stage::transforms(Some(rules_component())));
    stage
}

/// Tables that are copied as they are.
fn plain(name: &str, schema: &str, rows: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    stage.schemas(schema, schema);
    stage.blue.sql(rows);
    stage.config("forward", "transforms = []");
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn blue(stage: &Stage, sql: &str) {
    stage.blue.sql(sql);
    follow(stage);
}

/// The rules' component with another manifest: `place` and the room behind it become `with`.
fn other_manifest(stage: &Stage, place: &str, with: &str) -> PathBuf {
    let mut bytes = std::fs::read(rules_component()).unwrap();
    let start =
        bytes.windows(place.len()).position(|window| window == place.as_bytes()).expect("the manifest is there");
    let room = bytes[start + place.len()..].iter().take_while(|byte| **byte == b' ').count();
    let text = format!("{with:<width$}", width = place.len() + room);
    assert_eq!(text.len(), place.len() + room, "there is no room for {with}");
    bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
    stage.file("other.wasm", bytes)
}

#[test]
fn counter_example_10_two_source_rows_for_one_target_row_stop_the_link_and_neither_is_lost() {
    let stage = rules("ce_10_two", "INSERT INTO code VALUES (1, 'Abc')");
    follow(&stage);
    stage.blue.sql("INSERT INTO code VALUES (2, 'xyz')");
    stage.blue.sql("INSERT INTO code VALUES (3, 'aBC')");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says("CONFLICT").says("public.folded").says("position").keeps_quiet_about("abc");
        assert_eq!(stage.green.lines("SELECT code FROM folded"), ["(abc)", "(xyz)"]);
    }
    // The row that goes was the second one's, which never came: the first one's target row stays.
    stage.green.sql("DELETE FROM folded WHERE code = 'abc'");
    follow(&stage);
    assert_eq!(stage.green.lines("SELECT code FROM folded"), ["(abc)", "(xyz)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_10_a_key_that_goes_from_row_to_row_is_applied_in_source_order() {
    let stage = rules("ce_10_hand", "INSERT INTO code VALUES (1, 'a')");
    follow(&stage);
    blue(
        &stage,
        "BEGIN; DELETE FROM code WHERE id = 1; INSERT INTO code VALUES (2, 'A'); DELETE FROM code WHERE id = 2;
         INSERT INTO code VALUES (3, 'a'), (4, 'b'); UPDATE code SET label = 'c' WHERE id = 3;
         UPDATE code SET label = 'a' WHERE id = 4; UPDATE code SET label = 'B' WHERE id = 3; COMMIT",
    );
    assert_eq!(stage.green.lines("SELECT code FROM folded"), ["(a)", "(b)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_10_a_target_row_that_is_there_already_stops_the_link() {
    let stage = plain("ce_10_there", "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')");
    follow(&stage);
    stage.green.sql("INSERT INTO t VALUES (5, 'green')");
    stage.blue.sql("UPDATE t SET v = 'b'");
    stage.blue.sql("INSERT INTO t VALUES (5, 'blue')");
    let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
    run.says("CONFLICT").says("t_pkey").says("public.t").keeps_quiet_about("blue'");
    assert_eq!(stage.green.lines("SELECT * FROM t"), ["(1,b)", "(5,green)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_14_a_row_keeps_or_loses_what_green_added_as_its_rule_says_when_its_key_changes() {
    let stage = rules("ce_14", "INSERT INTO tag VALUES (1, 'red'), (2, 'blue')");
    follow(&stage);
    stage.green.sql("UPDATE tag_kept SET votes = 7; UPDATE tag_new SET votes = 7");
    blue(&stage, "UPDATE tag SET name = 'green' WHERE id = 1");
    assert_eq!(stage.green.lines("SELECT * FROM tag_kept"), ["(blue,7)", "(green,7)"]);
    assert_eq!(stage.green.lines("SELECT * FROM tag_new"), ["(blue,7)", "(green,0)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_14_rows_that_swap_their_keys_through_a_third_value_keep_their_complement() {
    let stage = rules("ce_14_swap", "INSERT INTO tag VALUES (1, 'a'), (2, 'b')");
    follow(&stage);
    stage.green.sql("UPDATE tag_kept SET votes = CASE name WHEN 'a' THEN 1 ELSE 2 END");
    blue(
        &stage,
        "BEGIN; UPDATE tag SET name = 'x' WHERE id = 1; UPDATE tag SET name = 'a' WHERE id = 2;
         UPDATE tag SET name = 'b' WHERE id = 1; COMMIT",
    );
    assert_eq!(stage.green.lines("SELECT * FROM tag_kept"), ["(a,2)", "(b,1)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_15_unique_values_that_pass_from_row_to_row_arrive_in_source_order() {
    let schema = "CREATE TABLE u (id int PRIMARY KEY, v text UNIQUE, n int)";
    let stage = plain("ce_15", schema, "INSERT INTO u SELECT n, 'v' || n, 0 FROM generate_series(1, 20) n");
    follow(&stage);
    // The link is not running: all of it comes in one batch.
    blue(
        &stage,
        "BEGIN; UPDATE u SET v = 'f' WHERE id = 1; UPDATE u SET v = 'v1' WHERE id = 2; COMMIT;
         BEGIN; UPDATE u SET v = 'third' WHERE id = 3; UPDATE u SET v = 'v3' WHERE id = 4; UPDATE u SET v = 'v4' WHERE id = 3; COMMIT;
         UPDATE u SET v = 'gone' WHERE id = 5; UPDATE u SET v = 'v5' WHERE id = 6; UPDATE u SET v = 'v6' WHERE id = 7;
         UPDATE u SET n = 1; DELETE FROM u WHERE id = 8; INSERT INTO u VALUES (30, 'v8', 0);
         UPDATE u SET v = 'v9x' WHERE id = 9; INSERT INTO u VALUES (31, 'v9', 0); DELETE FROM u WHERE id = 31;
         UPDATE u SET v = 'v9' WHERE id = 10; UPDATE u SET v = 'v10' WHERE id = 9;
         BEGIN; DELETE FROM u WHERE id = 11; UPDATE u SET v = 'v11' WHERE id = 12; UPDATE u SET id = 11 WHERE id = 12; COMMIT;",
    );
    stage.assert_same("SELECT * FROM u", "SELECT * FROM u");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_15_a_swap_under_a_deferrable_constraint_needs_one_in_the_target_and_then_works() {
    let stage = Stage::one_way("ce_15_defer").toward(way!());
    let of = |how: &str| format!("CREATE TABLE u (id int PRIMARY KEY, v int, CONSTRAINT u_v UNIQUE (v) {how}); ");
    stage.schemas(&of("DEFERRABLE"), &of(""));
    stage.blue.sql("INSERT INTO u VALUES (1, 1), (2, 2), (3, 3)");
    stage.config("forward", "transforms = []");
    stage.falkirk(&["check"]).expect(1).says("UNIQUE_NOT_DEFERRABLE").says("u_v").says("ALTER TABLE \"public\".\"u\"");
    stage.green.sql("ALTER TABLE u DROP CONSTRAINT u_v, ADD CONSTRAINT u_v UNIQUE (v) DEFERRABLE");
    stage.falkirk(&["check"]).expect(0);
    follow(&stage);
    blue(
        &stage,
        "UPDATE u SET v = 4 - v; BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE u SET v = 3 WHERE id = 1; UPDATE u SET v = 1 WHERE id = 3; COMMIT",
    );
    stage.assert_same("SELECT * FROM u", "SELECT * FROM u");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_16_parents_are_copied_before_their_children_by_several_workers_at_once() {
    let schema = "
        CREATE TABLE z_parent (id int PRIMARY KEY, pad text);
        CREATE TABLE a_child (id int PRIMARY KEY, parent int NOT NULL REFERENCES z_parent, pad text);
        CREATE TABLE a_grandchild (id int PRIMARY KEY, child int NOT NULL REFERENCES a_child);
        CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree, pad text);";
    let rows = "
        INSERT INTO z_parent SELECT n, repeat('p', 500) FROM generate_series(1, 6000) n;
        INSERT INTO a_child SELECT n, 6001 - n, repeat('c', 500) FROM generate_series(1, 6000) n;
        INSERT INTO a_grandchild SELECT n, 6001 - n FROM generate_series(1, 6000) n;
        INSERT INTO tree SELECT n, nullif(6000 - n + 1, n), repeat('t', 500) FROM generate_series(1, 6000) n;";
    let stage = plain("ce_16", schema, rows);
    stage.config("forward", "transforms = []\n[copy]\nworkers = 4\nchunk_mib = 1");
    follow(&stage);
    blue(
        &stage,
        "BEGIN; INSERT INTO z_parent VALUES (9001, ''); INSERT INTO a_child VALUES (9001, 9001, ''); INSERT INTO a_grandchild VALUES (9001, 9001); COMMIT;
         INSERT INTO tree VALUES (9001, NULL, ''), (9002, 9001, ''); UPDATE tree SET up = 9002 WHERE id = 9001;
         DELETE FROM a_grandchild WHERE child = 10; DELETE FROM a_child WHERE id = 10; DELETE FROM z_parent WHERE id = 5991;
         UPDATE a_grandchild SET child = 9001 WHERE id < 9; BEGIN; UPDATE tree SET up = NULL WHERE up IN (9001, 9002);
         DELETE FROM tree WHERE id IN (9001, 9002); COMMIT;",
    );
    for table in ["z_parent", "a_child", "a_grandchild", "tree"] {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_16_a_copy_that_goes_on_finds_the_parents_that_were_born_since_its_first_snapshot() {
    let schema = "
        CREATE TABLE z_parent (id int PRIMARY KEY, pad text);
        CREATE TABLE a_child (id int PRIMARY KEY, parent int NOT NULL REFERENCES z_parent, pad text);";
    let rows = "
        INSERT INTO z_parent SELECT n, repeat('p', 500) FROM generate_series(1, 6000) n;
        INSERT INTO a_child SELECT n, 6001 - n, repeat('c', 500) FROM generate_series(1, 6000) n; ANALYZE";
    let stage = plain("ce_16_resume", schema, rows);
    stage.config("forward", "transforms = []\n[copy]\nworkers = 2\nchunk_mib = 1");
    // Nobody may write children, so the parents are finished at the first snapshot and the children are not begun.
    let lock = Open::transaction(&stage.green.application_url(), "LOCK TABLE a_child IN SHARE MODE");
    let host = stage.start_falkirk(&["run"]);
    let chunks = "SELECT t::text FROM falkirk.chunk t WHERE finished_at IS NOT NULL";
    let exists = || stage.green.admin("SELECT to_regclass('falkirk.chunk') IS NOT NULL").concat() == ["t"];
    until("the parents are copied", SOON, || exists() && stage.green.count("z_parent") == 6000);
    let waits = "(SELECT FROM pg_locks WHERE NOT granted AND relation = 'a_child'::regclass)";
    until("the children wait", SOON, || stage.green.count(waits) > 0);
    let finished = stage.green.admin(chunks);
    host.kill_9();
    lock.commit();
    assert_eq!(stage.green.count("a_child"), 0);
    // What the next snapshot holds of the children needs parents that no chunk will bring any more.
    stage.blue.sql(
        "INSERT INTO z_parent VALUES (9001, 'born'), (9002, 'born'); INSERT INTO a_child VALUES (9001, 9001, 'new');
         UPDATE a_child SET parent = 9002 WHERE id = 10;
         BEGIN; UPDATE a_child SET parent = 9002 WHERE parent = 7; DELETE FROM z_parent WHERE id = 7; COMMIT",
    );
    follow(&stage);
    let now = stage.green.admin(chunks);
    assert!(
        !finished.is_empty() && finished.iter().all(|chunk| now.contains(chunk)),
        "a finished chunk was copied again"
    );
    for table in ["z_parent", "a_child"] {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_16_foreign_keys_in_a_circle_are_refused_with_the_sql_that_opens_it() {
    let schema = "
        CREATE TABLE hen (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen);
        ALTER TABLE hen ADD CONSTRAINT hen_egg FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;";
    let rows = "BEGIN; INSERT INTO hen VALUES (1, 1); INSERT INTO egg VALUES (1, 1); COMMIT";
    let stage = plain("ce_16_circle", schema, rows);
    let check = stage.falkirk(&["check", "--json"]).expect(1);
    let problem = &check.json()["problems"][0];
    assert_eq!(problem["code"], "FOREIGN_KEY_CYCLE", "{}", check.out);
    run_printed(&stage, problem["next_step"].as_str().unwrap(), "green");
    follow(&stage);
    blue(&stage, "BEGIN; INSERT INTO hen VALUES (2, 2); INSERT INTO egg VALUES (2, 2); COMMIT");
    stage.assert_same("SELECT * FROM hen", "SELECT * FROM hen");
    stage.assert_same("SELECT * FROM egg", "SELECT * FROM egg");
    stage.falkirk(&["clean"]).expect(0);
}

/// Runs the first statement of a printed next step, as the application's owner.
fn run_printed(stage: &Stage, next_step: &str, side: &str) {
    let start = ["ALTER ", "SET "].iter().filter_map(|word| next_step.find(word)).min().expect("SQL is printed");
    let end = next_step.rfind(';').map_or(next_step.len(), |end| end + 1);
    let side = if side == "blue" { &stage.blue } else { &stage.green };
    side.sql(&next_step[start..end]);
}

#[test]
fn counter_example_18_a_manifest_with_a_key_that_nobody_knows_is_refused() {
    let stage = rules("ce_18_key", "");
    for (place, with, key) in [
        ("\"falkirk\": 1,", "\"falkirk\": 1, \"rulez\": [],", "rulez"),
        ("\"table\": \"member\",  ", "\"table\": \"member\", \"whenever\": [\"note\"],", "whenever"),
    ] {
        let file = other_manifest(&stage, place, with);
        stage.config("forward", &Stage::transforms(Some(&file)));
        stage.falkirk(&["check"]).expect(1).says(key).says("other.wasm");
        stage.falkirk(&["run"]).expect(1).says(key);
    }
    let file = other_manifest(&stage, "\"falkirk\": 1,", "\"falkirk\": 2,");
    stage.config("forward", &Stage::transforms(Some(&file)));
    stage.falkirk(&["check"]).expect(1).says("other.wasm");
}

#[test]
fn counter_example_18_what_does_not_fit_the_databases_is_refused_by_name_before_anything_is_made() {
    let stage = rules("ce_18_part", "");
    let member = "\"table\": \"member\",  ";
    for (place, with, part) in [
        (
            "\"falkirk\": 1,",
            r#""falkirk": 1, "maps": {"m": {"blue": "a.b", "green": "c.d", "creates": "green"}},"#,
            "NO_SUCH_COLUMN",
        ),
        (member, r#""table": "member", "on_remove": "null","#, "BAD_WRITE"),
        (member, r#""table": "member", "write": "patch", "match": {"note": "note"},"#, "BAD_WRITE"),
        (member, r#""table": "member", "mapped": {"id": ["m", "id"]},"#, "NO_SUCH_MAP"),
    ] {
        let file = other_manifest(&stage, place, with);
        stage.config("forward", &Stage::transforms(Some(&file)));
        stage.falkirk(&["run"]).expect(1).says(part).says("other.wasm");
    }
    assert_eq!(
        stage.blue.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name LIKE '%ce_18_part%'"),
        "0"
    );
    assert_eq!(stage.green.value("SELECT count(*)::text FROM pg_namespace WHERE nspname = 'falkirk'"), "0");
}

#[test]
fn counter_example_19_an_unset_column_gets_its_default_on_insert_and_stays_as_it_is_on_update() {
    let stage = rules("ce_19", "INSERT INTO member VALUES (1, 'plain'), (2, 'vip')");
    follow(&stage);
    let members = || stage.green.lines("SELECT id, note, level FROM member");
    assert_eq!(members(), ["(1,plain,basic)", "(2,vip,gold)"]);
    stage.green.sql("UPDATE member SET level = 'silver' WHERE id = 1");
    blue(
        &stage,
        "UPDATE member SET note = 'other' WHERE id = 1; UPDATE member SET note = 'plain' WHERE id = 2;
         INSERT INTO member VALUES (3, 'plain'), (4, 'vip'); BEGIN; INSERT INTO member VALUES (5, 'x');
         UPDATE member SET note = 'vip' WHERE id = 5; UPDATE member SET note = 'y' WHERE id = 5; COMMIT",
    );
    assert_eq!(members(), ["(1,other,silver)", "(2,plain,gold)", "(3,plain,basic)", "(4,vip,gold)", "(5,y,gold)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_20_a_fault_of_the_transform_stops_at_its_one_row_and_what_came_before_is_there() {
    let stage = rules("ce_20", "INSERT INTO trial VALUES (1, 'fine')");
    follow(&stage);
    for (first, note, code) in
        [(100, "trap", "TRANSFORM_TRAP"), (200, "reject", "ROW_REJECTED"), (300, "miscount", "BAD_OUTPUT")]
    {
        // One of very many rows, in a transaction of its own, with others before and behind it.
        stage.blue.sql(&format!(
            "INSERT INTO trial SELECT {first} + n, 'before' FROM generate_series(1, 40) n;
             INSERT INTO trial VALUES ({first} + 50, '{note}'); INSERT INTO trial VALUES ({first} + 60, 'behind')"
        ));
        // As one message: one transaction. All of it or nothing.
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says(code).says("public.trial").says("position").says("guests-rules.wasm").keeps_quiet_about("4711");
        assert_eq!(stage.green.count(&format!("(SELECT FROM trial WHERE id > {first})")), 0);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says(code);
        // What is faulty is mended in the artifact; here the source is healed by going round the row.
        stage.falkirk(&["clean"]).expect(0);
        stage.blue.sql(&format!("DELETE FROM trial WHERE note = '{note}'"));
        stage.green.sql("TRUNCATE trial, tag_kept, tag_new, folded, member");
        follow(&stage);
        stage.assert_same("SELECT id, note FROM trial", "SELECT id, answer FROM trial");
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_20_transactions_before_the_faulty_row_are_applied_and_none_behind_it() {
    let stage = rules("ce_20_before", "INSERT INTO trial VALUES (1, 'fine')");
    follow(&stage);
    for sql in [
        "INSERT INTO trial SELECT n, 'before' FROM generate_series(10, 20) n",
        "INSERT INTO member VALUES (1, 'vip')",
        "BEGIN; INSERT INTO trial VALUES (21, 'same'); INSERT INTO trial VALUES (22, 'trap'); COMMIT",
        "INSERT INTO trial VALUES (23, 'behind')",
    ] {
        stage.blue.sql(sql);
    }
    let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("TRANSFORM_TRAP");
    assert_eq!(stage.green.count("trial"), 12, "{}", run.err);
    assert_eq!(stage.green.count("member"), 1);
    stage.falkirk(&["status"]).says("TRANSFORM_TRAP");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_20_a_faulty_row_stops_the_copy_and_names_the_table() {
    let stage = rules(
        "ce_20_copy",
        "INSERT INTO trial SELECT n, CASE n WHEN 700 THEN 'trap' ELSE 'fine' END FROM generate_series(1, 2000) n",
    );
    stage.falkirk(&["run"]).expect(3).says("TRANSFORM_TRAP").says("public.trial").says("guests-rules.wasm");
    assert_eq!(stage.green.count("trial"), 0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_25a_check_prints_the_sql_for_old_rows_and_clean_says_how_to_undo_it() {
    let stage = rules("ce_25a", "");
    stage.blue.sql("ALTER TABLE code REPLICA IDENTITY DEFAULT");
    let check = stage.falkirk(&["check", "--json"]).expect(1);
    let problem = &check.json()["problems"][0];
    assert_eq!(problem["code"], "NEEDS_FULL_IDENTITY", "{}", check.out);
    assert_eq!(problem["table"], "public.code");
    let sql = problem["next_step"].as_str().unwrap();
    for part in [
        "SET lock_timeout = '2s';",
        "\"public\".\"code\" REPLICA IDENTITY FULL;",
        "a short exclusive lock",
        "row more each",
    ] {
        assert!(sql.contains(part), "no `{part}`: the SQL, its lock and its cost\n{sql}");
    }
    stage.falkirk(&["run"]).expect(1).says("NEEDS_FULL_IDENTITY").says(sql);
    // Falkirk itself has changed nothing, and what it printed is all that was wanted.
    let identity = || stage.blue.value("SELECT relreplident::text FROM pg_class WHERE oid = 'code'::regclass");
    assert_eq!(identity(), "d");
    run_printed(&stage, sql, "blue");
    assert_eq!(identity(), "f");
    stage.falkirk(&["check"]).expect(0).keeps_quiet_about("REPLICA IDENTITY FULL");
    // A rule that works without old rows: said with the same words, not refused.
    stage.blue.sql("ALTER TABLE member ALTER note SET STORAGE PLAIN, REPLICA IDENTITY DEFAULT");
    let warned = stage.falkirk(&["check"]).expect(0).says("public.member: without REPLICA IDENTITY FULL");
    warned.says("ALTER TABLE \"public\".\"member\" REPLICA IDENTITY FULL; (a short exclusive lock");
    follow(&stage);
    assert_eq!(identity(), "f");
    stage.falkirk(&["clean"]).expect(0).says("ALTER TABLE \"public\".\"code\" REPLICA IDENTITY DEFAULT");
}

#[test]
fn counter_example_26_columns_whose_types_could_lose_a_value_are_refused_by_name() {
    let stage = Stage::one_way("ce_26").toward(way!());
    stage.schemas(
        "CREATE TABLE t (id int PRIMARY KEY, a bigint, b text, c numeric(10,2), d timestamptz, e int, f varchar(9))",
        "CREATE TABLE t (id bigint PRIMARY KEY, a int, b varchar(5), c numeric(10,1), d timestamp, e bigint, f text)",
    );
    stage.config("forward", "transforms = []");
    let check = stage.falkirk(&["check", "--json"]).expect(1);
    let columns: Vec<String> = check.json()["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["column"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(columns, ["a", "b", "c", "d"], "all at once, and not what widens: {}", check.out);
}

#[test]
fn counter_example_27_a_column_that_both_sides_get_later_is_not_copied_before_somebody_looked() {
    let stage = rules("ce_27", "INSERT INTO member VALUES (1, 'a')");
    follow(&stage);
    for side in [&stage.blue, &stage.green] {
        side.sql("ALTER TABLE member ADD COLUMN nickname text DEFAULT 'none'");
    }
    stage.blue.sql("UPDATE member SET nickname = 'nick'");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says("SCHEMA_CHANGED").says("nickname was added").says("public.member");
        assert_eq!(stage.green.value("SELECT nickname FROM member"), "none");
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_29_a_short_float_is_never_widened_and_arrives_with_its_own_digits() {
    let stage = Stage::one_way("ce_29").toward(way!());
    stage.schemas(
        "CREATE TABLE t (id int PRIMARY KEY, v real)",
        "CREATE TABLE t (id int PRIMARY KEY, v double precision)",
    );
    stage.config("forward", "transforms = []");
    stage.falkirk(&["check"]).expect(1).says("column v").says("public.t");
    stage.green.sql("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v real)");
    stage.schemas("", "");
    stage.blue.sql("INSERT INTO t VALUES (1, 0.1), (2, 1e-45)");
    follow(&stage);
    blue(&stage, "INSERT INTO t VALUES (3, 0.1), (4, 16777217)");
    stage.assert_same("SELECT id, v::text FROM t", "SELECT id, v::text FROM t");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_56_the_link_notices_a_second_writer_by_the_rows_that_are_missing() {
    let stage = plain(
        "second_writer",
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    follow(&stage);
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (3, 'c')");
    until("it streams", SOON, || stage.green.count("t") == 3);
    stage.green.sql("DELETE FROM t WHERE id = 2");
    stage.blue.sql("UPDATE t SET v = 'x' WHERE id = 1; UPDATE t SET v = 'x' WHERE id = 2");
    host.wait(SOON).expect(3).says("public.t").says("position");
    stage.falkirk(&["clean"]).expect(0);
}
