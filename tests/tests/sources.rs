//! What real schemas hold: out-of-line values, keys that change, truncates, partitions, identity and generated columns,
//! foreign keys, deferred constraints, triggers, row-level security, odd names. Each is either right, or refused by
//! `check` with the SQL that mends it, which is then run.

use falkirk_tests::{SOON, Stage, Way, run_recipe, until, way};

fn stage(name: &str, blue: &str, green: &str, rows: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    stage.schemas(blue, green);
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

#[track_caller]
fn same(stage: &Stage, tables: &[&str]) {
    for table in tables {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
}

fn clean(stage: &Stage) {
    stage.falkirk(&["clean"]).expect(0);
}

/// `check` refuses with `code`; its next step, up to the last semicolon, is run on `side`; then it passes.
fn refused_and_mended(stage: &Stage, code: &str, side: &str) {
    let check = stage.falkirk(&["check", "--json"]).expect(1);
    let problems = check.json()["problems"].as_array().unwrap().clone();
    assert!(problems.iter().all(|problem| problem["code"] == code), "{}", check.out);
    stage.falkirk(&["run"]).expect(1).says(code);
    let side = if side == "blue" { &stage.blue } else { &stage.green };
    for problem in problems {
        let step = problem["next_step"].as_str().unwrap();
        let start = ["ALTER ", "SET ", "GRANT ", "CREATE "]
            .iter()
            .filter_map(|word| step.find(word))
            .min()
            .expect("SQL is printed");
        let end = ["; or ", "; until "].iter().find_map(|word| step.find(word)).or(step.rfind(';'));
        let end = end.expect("SQL ends with a semicolon");
        side.admin(&step[start..=end]);
    }
    stage.falkirk(&["check"]).expect(0).says("ready");
}

const LONG: &str = "(SELECT string_agg(md5((n + 7)::text), '') FROM generate_series(1, 3000) n)";

#[test]
fn pitfall_10_an_out_of_line_value_that_did_not_change_stays_whatever_the_replica_identity_is() {
    let schema = "
        CREATE TABLE by_key (id int PRIMARY KEY, body text, n int);
        CREATE TABLE by_full (id int PRIMARY KEY, body text, n int); ALTER TABLE by_full REPLICA IDENTITY FULL;
        CREATE TABLE by_index (id int, code int NOT NULL, body text, n int);
        CREATE UNIQUE INDEX by_index_code ON by_index (code); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;";
    let rows = format!(
        "INSERT INTO by_key SELECT i, {LONG} || i, 0 FROM generate_series(1, 3) i;
         INSERT INTO by_full SELECT i, {LONG} || i, 0 FROM generate_series(1, 3) i;
         INSERT INTO by_index SELECT i, i * 10, {LONG} || i, 0 FROM generate_series(1, 3) i;"
    );
    let stage = stage("toast", schema, schema, &rows);
    follow(&stage);
    for table in ["by_key", "by_full", "by_index"] {
        // Alone, after an insert in the same batch, with a change of the key, and with a change of the value itself.
        stage.blue.sql(&format!(
            "UPDATE {table} SET n = 1 WHERE id = 1; UPDATE {table} SET id = 22, n = 2 WHERE id = 2;
             UPDATE {table} SET body = body || '!' WHERE id = 3; UPDATE {table} SET n = 9 WHERE id = 3;"
        ));
        let columns = if table == "by_index" { "(id, code, body, n) SELECT 4, 40" } else { "(id, body, n) SELECT 4" };
        stage.blue.sql(&format!(
            "BEGIN; INSERT INTO {table} {columns}, {LONG}, 0; UPDATE {table} SET n = 5 WHERE id = 4; UPDATE {table} SET id = 44 WHERE id = 4; COMMIT"
        ));
    }
    stage.blue.sql("UPDATE by_index SET code = 11 WHERE id = 1");
    follow(&stage);
    same(&stage, &["by_key", "by_full", "by_index"]);
    clean(&stage);
}

#[test]
fn pitfall_9_a_key_that_is_stored_out_of_line_still_finds_its_row() {
    // Incompressible enough to be out of line, short enough for an index.
    let schema = "CREATE TABLE t (k text PRIMARY KEY, body text, n int); ALTER TABLE t ALTER k SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL";
    let key = "(SELECT string_agg(md5((n + i)::text), '') FROM generate_series(1, 70) n)";
    let rows = format!("INSERT INTO t SELECT {key}, {LONG}, i FROM generate_series(1, 4) i");
    for (name, identity) in [("toast_key", "DEFAULT"), ("toast_key_full", "FULL")] {
        let stage = stage(name, &format!("{schema}; ALTER TABLE t REPLICA IDENTITY {identity}"), schema, &rows);
        follow(&stage);
        blue(
            &stage,
            "UPDATE t SET n = n + 10; UPDATE t SET k = k || 'x' WHERE n = 12; DELETE FROM t WHERE n = 13; UPDATE t SET body = 'short' WHERE n = 14; UPDATE t SET n = 99 WHERE n = 12",
        );
        same(&stage, &["t"]);
        clean(&stage);
    }
}

#[test]
fn pitfall_8_keys_that_change_move_their_rows_and_leave_nothing_behind() {
    let schema = "
        CREATE TABLE t (a int, b text, v text, PRIMARY KEY (b, a));
        CREATE TABLE parent (id int PRIMARY KEY, v text);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);";
    let rows = "INSERT INTO t SELECT n, 'b' || n, 'v' FROM generate_series(1, 9) n; INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (1, 1)";
    let stage = stage("keys", schema, schema, rows);
    follow(&stage);
    blue(
        &stage,
        "UPDATE t SET a = 100 WHERE a = 1; UPDATE t SET b = 'x', v = 'w' WHERE a = 2; UPDATE t SET a = a + 1000 WHERE a BETWEEN 3 AND 5;
         BEGIN; UPDATE t SET a = 50 WHERE a = 6; UPDATE t SET a = 51, v = 'z' WHERE a = 50; DELETE FROM t WHERE a = 51; INSERT INTO t VALUES (6, 'b6', 'new'); COMMIT;
         BEGIN; UPDATE t SET a = -7, b = 'b' WHERE a = 7; UPDATE t SET a = 7, b = 'b7' WHERE a = 8; UPDATE t SET a = 8, b = 'b8' WHERE a = -7; COMMIT;
         BEGIN; UPDATE parent SET id = 2; UPDATE child SET parent = 2; COMMIT; BEGIN; UPDATE child SET parent = 3; UPDATE parent SET id = 3; COMMIT;",
    );
    same(&stage, &["t", "parent", "child"]);
    clean(&stage);
}

#[test]
fn pitfall_27_truncates_of_one_and_of_several_tables_arrive_in_their_place() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); CREATE TABLE c (id int PRIMARY KEY);";
    let stage = stage(
        "truncates",
        schema,
        schema,
        "INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1)",
    );
    follow(&stage);
    blue(
        &stage,
        "INSERT INTO a VALUES (3); BEGIN; INSERT INTO c VALUES (2); TRUNCATE a, b; INSERT INTO a VALUES (9); COMMIT; INSERT INTO b VALUES (9, 9);
         BEGIN; TRUNCATE c; TRUNCATE a CASCADE; INSERT INTO a VALUES (10); INSERT INTO c VALUES (10); COMMIT;",
    );
    same(&stage, &["a", "b", "c"]);
    assert_eq!((stage.green.count("a"), stage.green.count("b")), (1, 0));
    clean(&stage);
}

#[test]
fn pitfall_27_a_truncate_that_the_role_may_not_make_stops_the_link_there() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY)";
    let stage = stage("truncate_right", schema, schema, "INSERT INTO a VALUES (1)");
    stage.green.sql(&format!("REVOKE TRUNCATE ON a FROM \"{}\"", stage.green.role()));
    stage.falkirk(&["check"]).expect(0).says("may not TRUNCATE");
    follow(&stage);
    stage.blue.sql("INSERT INTO a VALUES (2)");
    stage.blue.sql("TRUNCATE a");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("TARGET_RIGHTS").says("public.a").says("position");
    assert_eq!(stage.green.count("a"), 2);
    stage.green.sql(&format!("GRANT TRUNCATE ON a TO \"{}\"", stage.green.role()));
    follow(&stage);
    assert_eq!(stage.green.count("a"), 0);
    clean(&stage);
}

const PARTS: &str = "
    CREATE TABLE p (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE p_old PARTITION OF p FOR VALUES FROM (MINVALUE) TO ('2026-01-01');";
/// A leaf whose columns stand in another order, with a hole between them.
const ODD_LEAF: &str = "
    CREATE TABLE p_new (v text, gone int, day date NOT NULL, id int NOT NULL); ALTER TABLE p_new DROP COLUMN gone;
    ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');";
const PLAIN_PARTS: &str = "CREATE TABLE p (id int, day date, v text, PRIMARY KEY (id, day));";
const PART_ROWS: &str = "INSERT INTO p SELECT n, date '2025-12-20' + n, 'v' || n FROM generate_series(1, 30) n";
const PART_CHANGES: &str = "
    INSERT INTO p VALUES (100, '2025-01-01', 'old'), (101, '2026-06-01', 'new'); UPDATE p SET v = v || '!' WHERE id < 20;
    UPDATE p SET day = day + 200 WHERE id = 3; UPDATE p SET day = day - 200 WHERE id = 25; DELETE FROM p WHERE id IN (5, 26);
    BEGIN; UPDATE p SET day = '2026-02-02' WHERE id = 100; UPDATE p SET v = 'twice' WHERE id = 100; UPDATE p SET day = '2025-02-02' WHERE id = 100; COMMIT;";

#[test]
fn pitfall_19_partitions_arrive_in_a_table_that_is_not_partitioned() {
    let stage = stage("parts_root", &format!("{PARTS}{ODD_LEAF}"), PLAIN_PARTS, PART_ROWS);
    follow(&stage);
    same(&stage, &["p"]);
    blue(&stage, PART_CHANGES);
    same(&stage, &["p"]);
    // A partition that comes later carries rows that come later.
    blue(
        &stage,
        "CREATE TABLE p_2027 PARTITION OF p FOR VALUES FROM ('2027-01-01') TO ('2028-01-01'); INSERT INTO p VALUES (200, '2027-03-03', 'later'); UPDATE p SET v = 'x' WHERE id = 200",
    );
    same(&stage, &["p"]);
    blue(&stage, "TRUNCATE p");
    assert_eq!(stage.green.count("p"), 0);
    clean(&stage);
}

#[test]
fn pitfall_19_partitions_arrive_also_when_the_publication_names_the_leaves() {
    let green = "CREATE TABLE p (v text, id int, day date, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
        CREATE TABLE p_0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE p_1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);";
    let stage = stage("parts_leaf", &format!("{PARTS}{ODD_LEAF}"), green, PART_ROWS);
    let slot = stage.slot();
    stage.blue.sql(&format!("CREATE PUBLICATION {slot} FOR TABLE p WITH (publish_via_partition_root = false)"));
    follow(&stage);
    let query = "SELECT id, day, v FROM p";
    stage.assert_same(query, query);
    blue(&stage, PART_CHANGES);
    stage.assert_same(query, query);
    // The rows of one leaf are gone, and the target has no such leaf: nobody could follow.
    stage.blue.sql("INSERT INTO p VALUES (300, '2025-05-05', 'before')");
    stage.blue.sql("TRUNCATE p_old");
    for _ in 0..2 {
        stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("position").says("p_old");
    }
    assert_eq!(stage.green.count("(SELECT FROM p WHERE id = 300)"), 1, "what came before is there");
    clean(&stage);
}

/// What of `p` the target has and the source has not, and the other way round.
fn off(stage: &Stage, code: i32) -> [u64; 2] {
    let verdict = stage.falkirk(&["verify", "--json"]).expect(code).json();
    let table = verdict["tables"].as_array().unwrap().iter().find(|table| table["table"] == "public.p");
    ["rows_surplus", "rows_missing"].map(|count| table.unwrap_or_else(|| panic!("{verdict}"))[count].as_u64().unwrap())
}

#[test]
fn l3_pitfall_20_21_what_is_done_to_one_partition_alone_is_warned_of_by_name_and_found_by_verify() {
    let stage = stage("parts_alone", &format!("{PARTS}{ODD_LEAF}"), PLAIN_PARTS, PART_ROWS);
    let check = stage.falkirk(&["check", "--json"]).expect(0).json();
    let warnings = check["warnings"].as_array().unwrap();
    let warning = warnings.iter().filter_map(|warning| warning.as_str()).find(|text| text.starts_with("public.p: "));
    let warning = warning.unwrap_or_else(|| panic!("no warning: {check}"));
    for part in ["TRUNCATE, DETACH or DROP", "ATTACH", "TRUNCATE \"public\".\"p\"", "falkirk verify"] {
        assert!(warning.contains(part), "{warning}");
    }
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0).says("what is done to one of its partitions alone");
    assert_eq!(off(&stage, 0), [0, 0]);
    // The source says nothing of these: green keeps the rows, and the link goes on.
    let old: u64 = stage.blue.count("p_old");
    blue(&stage, "TRUNCATE p_old; INSERT INTO p VALUES (500, '2026-05-05', 'behind')");
    assert_eq!(stage.green.count("(SELECT FROM p WHERE id = 500)"), 1);
    assert_eq!(off(&stage, 1), [old, 0]);
    stage.green.sql("DELETE FROM p WHERE day < '2026-01-01'");
    blue(
        &stage,
        "CREATE TABLE p_2027 (id int NOT NULL, day date NOT NULL, v text); INSERT INTO p_2027 VALUES (600, '2027-01-01', 'x')",
    );
    blue(&stage, "ALTER TABLE p ATTACH PARTITION p_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')");
    assert_eq!(off(&stage, 1), [0, 1]);
    let new: u64 = stage.blue.count("p_new");
    blue(&stage, "ALTER TABLE p DETACH PARTITION p_2027; ALTER TABLE p DETACH PARTITION p_new; DELETE FROM p_new");
    assert_eq!(off(&stage, 1), [new, 0]);
    stage.green.sql("DELETE FROM p");
    // As the warning says, nothing is missed: rows come through the root, and go before their partition does.
    blue(
        &stage,
        "ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         INSERT INTO p VALUES (700, '2026-07-07', 'x'), (701, '2025-07-07', 'y')",
    );
    assert_eq!(stage.green.count("p"), 2);
    blue(&stage, "DELETE FROM p_new; ALTER TABLE p DETACH PARTITION p_new");
    assert_eq!(off(&stage, 0), [0, 0]);
    assert_eq!(stage.green.count("p"), 1);
    blue(&stage, "TRUNCATE p");
    assert_eq!(stage.green.count("p"), 0);
    clean(&stage);
}

#[test]
fn pitfall_24_25_identity_and_generated_columns_are_neither_in_the_way_nor_written() {
    let schema = "
        CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, doubled int GENERATED ALWAYS AS (n * 2) STORED, v text);
        CREATE TABLE inner_key (a int, b int GENERATED ALWAYS AS IDENTITY, v text, PRIMARY KEY (a));";
    // The computed column stands elsewhere and computes something else in green.
    let green = "
        CREATE TABLE always (doubled int GENERATED ALWAYS AS (n * 3) STORED, v text, n int, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
        CREATE TABLE inner_key (a int, b int, v text, PRIMARY KEY (a));";
    let stage = stage(
        "identity",
        schema,
        green,
        "INSERT INTO always (n, v) VALUES (1, 'a'), (2, 'b'); INSERT INTO inner_key (a, v) VALUES (1, 'x')",
    );
    follow(&stage);
    blue(
        &stage,
        "INSERT INTO always (n, v) VALUES (3, 'c'); UPDATE always SET n = 10 WHERE id = 1; UPDATE always SET v = 'z' WHERE id = 2;
         INSERT INTO always (id, n) OVERRIDING SYSTEM VALUE VALUES (77, 7); DELETE FROM always WHERE id = 2; INSERT INTO inner_key (a, v) VALUES (2, 'y');
         UPDATE inner_key SET a = 5 WHERE a = 1;",
    );
    stage.assert_same("SELECT id, n, v FROM always", "SELECT id, n, v FROM always");
    stage.assert_same("SELECT a, b, v FROM inner_key", "SELECT a, b, v FROM inner_key");
    assert_eq!(stage.green.value("SELECT doubled::text FROM always WHERE id = 1"), "30");
    clean(&stage);
}

#[test]
fn pitfall_25_an_identity_column_that_takes_no_updates_stops_the_link_at_the_key_that_changed() {
    let schema = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)";
    let blue = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let stage = stage("identity_key", blue, schema, "INSERT INTO t VALUES (1, 'a')");
    // Said before, with the SQL that lets it follow; and again where it happens.
    let sql = "SET lock_timeout = '2s'; ALTER TABLE \"public\".\"t\" ALTER COLUMN \"id\" SET GENERATED BY DEFAULT;";
    stage.falkirk(&["check"]).expect(0).says("public.t: column id is GENERATED ALWAYS AS IDENTITY").says(sql);
    follow(&stage);
    stage.blue.sql("INSERT INTO t VALUES (2, 'b')");
    stage.blue.sql("UPDATE t SET id = 9 WHERE id = 1");
    for _ in 0..2 {
        let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
        run.says("GENERATED_COLUMN").says("public.t").says("position").says(&format!("next: {sql}"));
        assert_eq!(stage.green.lines("SELECT * FROM t"), ["(1,a)", "(2,b)"], "what came before is there");
    }
    stage.green.sql(sql);
    follow(&stage);
    same(&stage, &["t"]);
    stage.falkirk(&["check"]).expect(0).keeps_quiet_about("GENERATED ALWAYS");
    clean(&stage);
}

#[test]
fn pitfall_25_an_identity_column_that_neither_side_can_change_is_not_warned_of() {
    let schema = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)";
    let stage = stage("identity_both", schema, schema, "");
    stage.falkirk(&["check"]).expect(0).keeps_quiet_about("GENERATED ALWAYS");
    stage.blue.sql("ALTER TABLE t ALTER id SET GENERATED BY DEFAULT");
    stage.falkirk(&["check"]).expect(0).says("column id is GENERATED ALWAYS AS IDENTITY");
}

#[test]
fn pitfall_55_a_child_before_its_parent_in_one_transaction_arrives() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED);";
    // Green checks at once: the link must bring parents first by itself.
    let green = "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent);";
    let stage = stage("child_first", schema, green, "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1)");
    follow(&stage);
    blue(
        &stage,
        "BEGIN; INSERT INTO child VALUES (2, 2); INSERT INTO parent VALUES (2); COMMIT;
         BEGIN; DELETE FROM parent WHERE id = 1; DELETE FROM child WHERE id = 1; COMMIT;
         BEGIN; INSERT INTO child SELECT n, n FROM generate_series(10, 500) n; UPDATE child SET parent = 501 WHERE id = 2;
         INSERT INTO parent SELECT generate_series(10, 501); COMMIT;",
    );
    same(&stage, &["parent", "child"]);
    clean(&stage);
}

#[test]
fn pitfall_55_a_parent_that_is_made_anew_under_its_children_arrives_where_the_target_may_wait_as_well() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent DEFERRABLE);";
    let stage = stage("parent_anew", schema, schema, "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1)");
    follow(&stage);
    blue(
        &stage,
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM parent WHERE id = 1; INSERT INTO parent VALUES (1); COMMIT;
         BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE child SET parent = 2; INSERT INTO parent VALUES (2); COMMIT",
    );
    same(&stage, &["parent", "child"]);
    clean(&stage);
}

#[test]
fn pitfall_6_a_key_that_the_replica_identity_does_not_send_is_refused_with_the_sql() {
    let schema =
        "CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL, v text); CREATE UNIQUE INDEX t_code ON t (code);";
    let blue_schema = format!("{schema} ALTER TABLE t REPLICA IDENTITY USING INDEX t_code");
    let stage = stage("identity_index", &blue_schema, schema, "INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b')");
    refused_and_mended(&stage, "NEEDS_FULL_IDENTITY", "blue");
    follow(&stage);
    blue(&stage, "UPDATE t SET id = 5 WHERE id = 1; UPDATE t SET code = 10 * code; DELETE FROM t WHERE id = 2");
    same(&stage, &["t"]);
    clean(&stage);
}

#[test]
fn l7_cascades_of_both_sides_agree_also_in_a_transaction_that_is_too_large_to_be_held() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY, v text);
        CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE, v text);
        CREATE TABLE weak (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL);";
    let rows = "INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 15000) n;
        INSERT INTO child SELECT n, 1 + n % 15000, 'c' FROM generate_series(1, 30000) n; INSERT INTO weak SELECT n, n FROM generate_series(1, 100) n";
    let stage = stage("cascades", schema, schema, rows);
    follow(&stage);
    // 45,000 changes in one transaction, of which the target makes two thirds by itself.
    blue(
        &stage,
        "UPDATE child SET v = 'd' WHERE id = 5; DELETE FROM parent WHERE id <> 7; INSERT INTO parent VALUES (1, 'again'); INSERT INTO child VALUES (1, 1, 'again')",
    );
    same(&stage, &["parent", "child", "weak"]);
    assert_eq!(stage.green.count("parent"), 2);
    clean(&stage);
}

#[test]
fn l7_cascades_agree_also_when_a_batch_is_applied_change_by_change() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE);
        CREATE TABLE strict (id int PRIMARY KEY, v int);";
    let stage = stage(
        "cascades_strict",
        schema,
        schema,
        "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 1), (3, 2)",
    );
    follow(&stage);
    stage.green.sql("ALTER TABLE strict ADD CONSTRAINT small CHECK (v < 5)");
    stage.blue.sql("DELETE FROM parent WHERE id = 1");
    stage.blue.sql("BEGIN; DELETE FROM parent WHERE id = 2; INSERT INTO strict VALUES (1, 9); COMMIT");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("small");
    assert_eq!(stage.green.lines("SELECT * FROM child"), ["(3,2)"]);
    stage.green.sql("ALTER TABLE strict DROP CONSTRAINT small");
    follow(&stage);
    same(&stage, &["parent", "child", "strict"]);
    clean(&stage);
}

#[test]
fn a_cascade_that_would_change_keys_beside_the_link_is_refused_with_the_way_out() {
    let of = |how: &str| {
        format!("CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (parent int, n int, PRIMARY KEY (parent, n), CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parent {how});")
    };
    let stage = stage(
        "cascade_key",
        &of("ON UPDATE CASCADE"),
        &of("ON UPDATE CASCADE"),
        "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1)",
    );
    stage.falkirk(&["check"]).expect(1).says("CASCADE_OF_KEY").says("of_parent").says("DEFERRABLE INITIALLY DEFERRED");
    stage.green.sql("ALTER TABLE child DROP CONSTRAINT of_parent, ADD CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parent DEFERRABLE INITIALLY DEFERRED");
    follow(&stage);
    blue(&stage, "UPDATE parent SET id = 2");
    same(&stage, &["parent", "child"]);
    clean(&stage);
}

#[test]
fn pitfall_56_triggers_of_the_target_are_refused_with_the_sql_and_may_be_allowed() {
    let green = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE audit (n int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (new.id); RETURN new; END';
        CREATE TRIGGER noting AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();";
    let stage =
        stage("triggers", "CREATE TABLE t (id int PRIMARY KEY, v text)", green, "INSERT INTO t VALUES (1, 'a')");
    stage.falkirk(&["check"]).expect(1).says("TARGET_TRIGGERS").says("noting").says("allow_triggers");
    stage.config("forward", "transforms = []\n[tables]\nallow_triggers = [\"public.t\"]");
    stage.falkirk(&["check"]).expect(0).says("triggers fire for what the link writes: noting");
    stage.config("forward", "transforms = []");
    refused_and_mended(&stage, "TARGET_TRIGGERS", "green");
    follow(&stage);
    assert_eq!(stage.green.count("audit"), 0, "a trigger that is off does not fire");
    clean(&stage);
    stage.green.sql("ALTER TABLE t ENABLE TRIGGER USER; TRUNCATE t");
    stage.config("forward", "transforms = []\n[tables]\nallow_triggers = [\"public.t\"]");
    follow(&stage);
    assert_eq!(stage.green.count("audit"), 1);
    clean(&stage);
}

#[test]
fn pitfall_57_row_level_security_of_the_source_is_refused_with_the_sql() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let hidden = format!(
        "{schema}; ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY; CREATE POLICY visible ON t USING (id > 5)"
    );
    let stage = stage("rls_source", &hidden, schema, "");
    stage.blue.admin("INSERT INTO t VALUES (1, 'hidden'), (6, 'shown')");
    refused_and_mended(&stage, "ROW_SECURITY", "blue");
    follow(&stage);
    assert_eq!(stage.green.count("t"), 2);
    clean(&stage);
}

#[test]
fn pitfall_57_row_level_security_of_the_target_is_refused_with_the_sql() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let hidden =
        format!("{schema}; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY visible ON t USING (id > 5)");
    let stage = stage("rls_target", schema, &hidden, "INSERT INTO t VALUES (1, 'a'), (6, 'b')");
    refused_and_mended(&stage, "ROW_SECURITY", "green");
    follow(&stage);
    blue(&stage, "UPDATE t SET v = 'c'");
    assert_eq!(stage.green.admin("SELECT count(*) FROM t WHERE v = 'c'")[0][0], "2");
    clean(&stage);
}

#[test]
fn pitfall_1_a_table_without_a_key_is_refused_before_a_publication_breaks_the_application() {
    let stage = stage(
        "keyless",
        "CREATE TABLE t (id int NOT NULL, v text)",
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, 'a')",
    );
    stage.falkirk(&["check"]).expect(1).says("NO_REPLICA_IDENTITY").says("REPLICA IDENTITY FULL");
    stage.falkirk(&["run"]).expect(1).says("NO_REPLICA_IDENTITY");
    stage.blue.sql("UPDATE t SET v = 'the application goes on'");
    stage.blue.sql("ALTER TABLE t REPLICA IDENTITY FULL");
    stage.falkirk(&["check"]).expect(0);
    follow(&stage);
    blue(&stage, "UPDATE t SET v = 'b'; INSERT INTO t VALUES (2, NULL); DELETE FROM t WHERE id = 1");
    same(&stage, &["t"]);
    clean(&stage);
}

#[test]
fn row_11_odd_names_of_tables_and_columns_in_other_schemas_arrive() {
    let schema = r#"
        CREATE SCHEMA "Sh.op"; CREATE SCHEMA archive;
        CREATE TABLE "Sh.op"."My.Table" ("Id" int PRIMARY KEY, "select" text, "a ""quoted"" one" int, "ünï" text, "x.y" jsonb);
        CREATE TABLE archive.t (id int PRIMARY KEY, v text); CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE "T" (id int PRIMARY KEY, v text);
        CREATE TABLE "it's, a 'name'" (id int PRIMARY KEY, v text);"#;
    let stage = Stage::one_way("names").toward(way!());
    stage.schemas(schema, schema);
    for (side, rights) in [(&stage.blue, "SELECT"), (&stage.green, "SELECT, INSERT, UPDATE, DELETE, TRUNCATE")] {
        let role = side.role();
        for name in ["\"Sh.op\"", "archive"] {
            side.sql(&format!("GRANT USAGE ON SCHEMA {name} TO \"{role}\"; GRANT {rights} ON ALL TABLES IN SCHEMA {name} TO \"{role}\""));
        }
    }
    let tables = ["\"Sh.op\".\"My.Table\"", "archive.t", "t", "\"T\"", "\"it's, a 'name'\""];
    let fill = |id: u32| {
        tables[1..].iter().map(|table| format!("INSERT INTO {table} VALUES ({id}, '{id}');")).collect::<String>()
            + &format!("INSERT INTO {} VALUES ({id}, 's', {id}, 'ü', '{{}}');", tables[0])
    };
    stage.blue.sql(&fill(1));
    stage.config("forward", "transforms = []");
    follow(&stage);
    stage.blue.sql(&fill(2));
    blue(
        &stage,
        r#"UPDATE "Sh.op"."My.Table" SET "select" = 'from', "a ""quoted"" one" = 7, "x.y" = '[1]' WHERE "Id" = 1; UPDATE "Sh.op"."My.Table" SET "Id" = 9 WHERE "Id" = 2;
           UPDATE "T" SET v = 'upper'; UPDATE t SET v = 'lower'; UPDATE archive.t SET v = 'archive'; DELETE FROM "it's, a 'name'" WHERE id = 1"#,
    );
    same(&stage, &tables);
    clean(&stage);
}

#[test]
fn include_and_exclude_choose_tables_and_names_that_do_not_exist_are_refused() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE \"C.d\" (id int PRIMARY KEY)";
    let stage = stage(
        "choose",
        schema,
        schema,
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO \"C.d\" VALUES (1)",
    );
    stage.config("forward", "transforms = []\n[tables]\nexclude = [\"public.nope\"]");
    stage.falkirk(&["check"]).expect(1).says("NO_SUCH_TABLE").says("public.nope");
    stage.config("forward", "transforms = []\n[tables]\nexclude = [\"b\"]");
    stage.falkirk(&["check"]).expect(0).says("excluded by the configuration");
    stage.config("forward", "transforms = []\n[tables]\ninclude = [\"public.a\", \"public.\\\"C.d\\\"\"]");
    follow(&stage);
    blue(
        &stage,
        "INSERT INTO a VALUES (2); INSERT INTO b VALUES (2); INSERT INTO \"C.d\" VALUES (2); UPDATE b SET id = 3 WHERE id = 2",
    );
    same(&stage, &["a", "\"C.d\""]);
    assert_eq!(stage.green.count("b"), 0);
    clean(&stage);
}

#[test]
fn rights_that_are_missing_are_named_with_the_grant_that_mends_them() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let stage = stage("rights", schema, schema, "INSERT INTO t VALUES (1, 'a')");
    stage.green.sql(&format!("REVOKE UPDATE, DELETE ON t FROM \"{}\"", stage.green.role()));
    refused_and_mended(&stage, "PERMISSION_DENIED", "green");
    follow(&stage);
    blue(&stage, "UPDATE t SET v = 'b'");
    same(&stage, &["t"]);
    clean(&stage);
}

#[test]
fn pitfall_17_a_table_that_comes_later_is_neither_streamed_nor_in_the_way() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY)";
    let stage = stage("later", schema, schema, "INSERT INTO t VALUES (1)");
    follow(&stage);
    for side in [&stage.blue, &stage.green] {
        side.sql("CREATE TABLE late (id int PRIMARY KEY)");
    }
    run_recipe(&stage.green, "target.sql");
    run_recipe(&stage.blue, "source.sql");
    let host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO late VALUES (1); INSERT INTO t VALUES (2)");
    until("the known table goes on", SOON, || stage.green.count("t") == 2);
    assert_eq!(stage.green.count("late"), 0);
    host.terminate().expect(143);
    clean(&stage);
}

#[test]
fn pitfall_27_a_truncate_of_rows_that_are_only_marked_as_deleted_is_refused_in_the_stream() {
    // Only the shop's rules forward mark rows.
    if way!() == Way::Backward {
        return;
    }
    let stage = Stage::one_way("truncate_soft").toward(way!());
    let [blue, green] = falkirk_tests::shop_schemas();
    stage.schemas(&blue, &green);
    for table in ["customer", "product", "orders", "basket", "coupon"] {
        stage.blue.sql(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
    }
    stage.blue.sql("INSERT INTO coupon VALUES ('A', 10)");
    stage.config("forward", &Stage::transforms(Some(falkirk_tests::shop_component())));
    follow(&stage);
    stage.blue.sql("INSERT INTO coupon VALUES ('B', 20)");
    stage.blue.sql("TRUNCATE coupon");
    for _ in 0..2 {
        stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("public.coupon").says("position");
    }
    assert_eq!(stage.green.lines("SELECT * FROM coupon"), ["(A,10,f)", "(B,20,f)"]);
    clean(&stage);
}
