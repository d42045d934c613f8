//! What must not be believed: configurations, artifacts and targets that are wrong, through the command itself. Each
//! test carries the number of its row in the list of bad inputs. Beside what the unit tests of a row hold, these hold
//! the exit code, that the message names the thing, that nothing is written anywhere, and that no secret is shown.
//!
//! Elsewhere: row 20 in `compile.rs` (bombs for the compiler); rows 21 to 28 also in `guests.rs`, with a running link. Row
//! 14, a skew of clocks under last-write-wins, does not apply: there is no last-write-wins, so no clock decides anything.

use falkirk_tests::{SOON, Stage, lose_a_deadlock, until};

const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, note text);
    CREATE TABLE b (id int PRIMARY KEY, note text);
    CREATE TABLE c (id int PRIMARY KEY, note text);";

fn stage(name: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO a SELECT n, 'n' FROM generate_series(1, 10) n");
    stage
}

/// `check` and `run` both refuse, say all of this, and leave both databases as they were.
#[track_caller]
fn refused(stage: &Stage, code: &str, parts: &[&str]) {
    for command in [&["check"][..], &["run", "--until", "caught-up"], &["run", "--json"]] {
        let mut finished = stage.falkirk(command).expect(1).says(code);
        for part in parts {
            let in_json = serde_json::Value::from(*part).to_string();
            finished = match command.contains(&"--json") {
                true => finished.says(in_json.trim_matches('"')),
                false => finished.says(part),
            };
        }
        finished.keeps_quiet_about("test only").keeps_quiet_about("test%20only").keeps_quiet_about("panicked");
    }
    untouched(stage);
}

#[track_caller]
fn untouched(stage: &Stage) {
    let name = stage.name();
    let left = stage.blue.admin(&format!(
        "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'falkirk\\_{name}\\_%'
         UNION ALL SELECT pubname FROM pg_publication"
    ));
    assert_eq!(left, Vec::<Vec<String>>::new(), "something was made in blue");
    assert_eq!(stage.green.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'falkirk'"), "0");
    assert_eq!(stage.green.count("a"), 0);
}

/// The text of a good configuration.
fn good(stage: &Stage) -> String {
    let path = stage.config("forward", "transforms = []");
    std::fs::read_to_string(path).expect("it was just written")
}

fn write(stage: &Stage, text: impl AsRef<[u8]>) {
    stage.file("falkirk.toml", text);
}

#[test]
fn row_1_an_unknown_key_is_refused_and_the_nearest_named() {
    let stage = stage("row_1");
    write(&stage, good(&stage) + "[tabels]\nexclude = []\n");
    refused(&stage, "CONFIG_UNKNOWN_KEY", &["`tabels`", "did you mean `tables`"]);
    write(&stage, good(&stage).replace("url =", "ulr ="));
    refused(&stage, "CONFIG_UNKNOWN_KEY", &["`ulr`", "did you mean `url`"]);
}

#[test]
fn row_2_a_key_or_a_table_that_is_given_twice_is_refused() {
    let stage = stage("row_2");
    let text = good(&stage);
    let url = text.lines().find(|line| line.starts_with("url =")).expect("there is a url").to_owned();
    write(&stage, text.replace(&url, &format!("{url}\n{url}")));
    refused(&stage, "CONFIG_INVALID", &["line ", "duplicate key"]);
    write(&stage, text + "[tables]\ninclude = [\"public.a\"]\nexclude = [\"a\"]\n");
    refused(&stage, "CONFIG_INVALID", &["both included and excluded", "public.a"]);
}

#[test]
fn row_3_a_password_in_the_file_is_warned_of_and_shown_by_no_command() {
    let stage = stage("row_3");
    good(&stage);
    stage.falkirk(&["check"]).expect(0).says("[blue] url holds a password").keeps_quiet_about("test%20only");
    for command in [&["run", "--until", "caught-up"][..], &["status"], &["check", "--json"], &["clean", "--json"]] {
        stage.falkirk(command).expect(0).keeps_quiet_about("test%20only").keeps_quiet_about("test only");
    }
    // From a file, as Kubernetes mounts secrets, there is nothing to warn of. A wrong password is not repeated either.
    let (blue, green) = (stage.blue.url(), stage.green.url());
    stage.file("blue.url", format!("{blue}\n"));
    let text = good(&stage).replace(&format!("url = \"{blue}\""), "url_file = \"blue.url\"");
    write(&stage, text.replace(&green, &green.replace("test%20only", "another%20one")));
    let finished = stage.falkirk(&["check"]).expect(1).keeps_quiet_about("[blue] url holds");
    finished.keeps_quiet_about("another").keeps_quiet_about("test%20only").says("password");
}

#[test]
fn row_4_the_same_database_on_both_sides_is_refused() {
    let stage = stage("row_4");
    let text = good(&stage);
    write(&stage, text.replace(&stage.green.url(), &stage.blue.url()));
    refused(&stage, "SAME_DATABASE", &["blue and green are the same database"]);
    // Another name for the same place does not hide it.
    let alias = stage.blue.url().replace("127.0.0.1", "localhost");
    write(&stage, text.replace(&stage.green.url(), &alias));
    refused(&stage, "SAME_DATABASE", &["blue and green are the same database"]);
}

#[test]
fn row_5_and_row_6_a_name_that_could_not_stand_in_a_command_is_refused_before_any_connection() {
    let stage = stage("row_5");
    // Nobody listens there: an attempt to connect would be another message.
    let text = good(&stage).replace("127.0.0.1", "127.0.0.9");
    for name in ["", "Row", "ro w", "ro'w", "ro\\\"w", "ro,w", "ro;w", "r\u{f6}w", &"x".repeat(31)] {
        write(&stage, text.replace("name = \"row_5\"", &format!("name = \"{name}\"")));
        refused(&stage, "CONFIG_INVALID", &["[a-z0-9_]{1,30}"]);
    }
}

#[test]
fn row_6_the_longest_name_makes_a_slot_and_a_publication() {
    let name = format!("row_6_{}", "x".repeat(24));
    let stage = stage(&name);
    good(&stage);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.falkirk(&["clean"]).expect(0).says(&format!("removed slot falkirk_{name}_forward"));
}

#[test]
fn row_7_plaintext_to_another_host_is_refused() {
    let stage = stage("row_7");
    let text = good(&stage);
    for mode in ["disable", "prefer", "require", "verify-ca"] {
        let far = format!("postgres://falkirk:test%20only@db.example/app?sslmode={mode}");
        write(&stage, text.replace(&stage.green.url(), &far));
        refused(&stage, "PLAINTEXT_REFUSED", &["db.example", "sslmode"]);
    }
}

#[test]
fn row_8_numbers_out_of_range_are_refused_and_those_that_are_numbers_with_the_range() {
    let stage = stage("row_8");
    for value in ["nan", "\"1 GB\"", "2.5", "99999999999999999999"] {
        write(&stage, good(&stage) + &format!("[copy]\nworkers = {value}\n"));
        refused(&stage, "CONFIG_INVALID", &["line "]);
    }
    for (section, key, value, range) in [
        ("copy", "workers", "0", "between 1 and 32"),
        ("copy", "workers", "-1", "between 1 and 32"),
        ("copy", "workers", "33", "between 1 and 32"),
        ("copy", "chunk_mib", "1000000000000", "between 1 and 1024"),
        ("limits", "batch_time_ms", "0", "between 10 and 60000"),
        ("limits", "instances", "-9223372036854775808", "between 1 and 64"),
    ] {
        write(&stage, good(&stage) + &format!("[{section}]\n{key} = {value}\n"));
        refused(&stage, "CONFIG_INVALID", &[&format!("{section}.{key} = {value} is out of range"), range]);
    }
}

#[test]
fn row_9_limits_that_the_container_cannot_hold_are_refused() {
    let stage = stage("row_9");
    write(&stage, good(&stage) + "[limits]\nmemory_mib = 1024\n[copy]\nworkers = 32\n");
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    match limit.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(bytes) if bytes >> 20 < 33 * 1024 => refused(&stage, "LIMIT_EXCEEDS_CGROUP", &["33792 MiB"]),
        // This machine sets no such limit: nothing to exceed.
        _ => drop(stage.falkirk(&["check"]).expect(0)),
    }
}

#[test]
fn row_10_all_missing_tables_and_rights_are_listed_at_once() {
    let stage = stage("row_10");
    let role = stage.green.role();
    stage.green.admin(&format!("REVOKE SELECT, INSERT ON a FROM \"{role}\"; REVOKE DELETE ON b FROM \"{role}\""));
    stage.green.admin("ALTER TABLE c ENABLE ROW LEVEL SECURITY");
    write(&stage, good(&stage) + "[tables]\nexclude = [\"public.absent_1\", \"other.absent_2\"]\n");
    let parts = [
        "public.absent_1",
        "other.absent_2",
        &format!("GRANT SELECT ON \"public\".\"a\" TO \"{role}\";"),
        &format!("GRANT INSERT ON \"public\".\"a\" TO \"{role}\";"),
        &format!("GRANT DELETE ON \"public\".\"b\" TO \"{role}\";"),
        "ROW_SECURITY",
        "public.c",
    ];
    for command in [&["check"][..], &["run"]] {
        let finished = parts.iter().fold(stage.falkirk(command).expect(1), |finished, part| finished.says(part));
        finished.keeps_quiet_about("panicked");
    }
    untouched(&stage);
}

#[test]
fn row_11_a_table_with_capitals_and_a_dot_in_its_name_works() {
    let stage = Stage::one_way("row_11");
    let tables = "CREATE TABLE \"My.Table\" (\"Id\" int PRIMARY KEY, \"a b\" text, \"say \"\"hi\"\"\" text);
        CREATE TABLE \"My\" (id int PRIMARY KEY); CREATE TABLE a (id int PRIMARY KEY);";
    stage.schemas(tables, tables);
    stage
        .blue
        .sql("INSERT INTO \"My.Table\" VALUES (1, 'x', 'y'); INSERT INTO \"My\" VALUES (1); INSERT INTO a VALUES (1)");
    write(&stage, good(&stage) + "[tables]\ninclude = ['public.\"My.Table\"', '\"My\"']\n");
    stage.falkirk(&["check"]).expect(0).says("My.Table");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.blue.sql("UPDATE \"My.Table\" SET \"say \"\"hi\"\"\" = 'z', \"Id\" = 2; INSERT INTO a VALUES (2)");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.lines("SELECT * FROM \"My.Table\""), ["(2,x,z)"]);
    assert_eq!((stage.green.count("\"My\""), stage.green.count("a")), (1, 0));
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_12_a_configuration_that_is_no_text_or_far_too_large_is_refused() {
    let stage = stage("row_12");
    let text = good(&stage);
    write(&stage, [text.as_bytes(), b"# \xff\xfe\n"].concat());
    refused(&stage, "CONFIG_UNREADABLE", &["falkirk.toml", "UTF-8"]);
    write(&stage, [b"\xef\xbb\xbf", text.as_bytes()].concat());
    refused(&stage, "CONFIG_UNREADABLE", &["falkirk.toml", "byte order mark"]);
    write(&stage, [0_u8; 64]);
    refused(&stage, "CONFIG_INVALID", &["line 1"]);
    for size in [(1_u64 << 20) + 1, 100 << 20] {
        write(&stage, &text);
        let file = std::fs::File::options().write(true).open(stage.folder().join("falkirk.toml"));
        file.and_then(|file| file.set_len(size)).expect("a file can grow");
        refused(&stage, "CONFIG_UNREADABLE", &[&size.to_string(), "1048576"]);
    }
}

#[test]
fn row_13_a_missing_environment_variable_is_named() {
    let stage = stage("row_13");
    let text = good(&stage);
    write(&stage, text.replace(&stage.green.url(), "env:FALKIRK_TEST_OF_ROW_13"));
    refused(&stage, "CONFIG_INVALID", &["[green]", "FALKIRK_TEST_OF_ROW_13"]);
    write(&stage, text.replace(&format!("url = \"{}\"", stage.green.url()), "url_file = \"absent\""));
    refused(&stage, "CONFIG_INVALID", &["[green]", "absent"]);
}

/// A configuration with one artifact of these bytes.
fn artifact(stage: &Stage, name: &str, bytes: impl AsRef<[u8]>, pin: &str) {
    stage.file(name, bytes);
    stage.config("forward", &format!("transforms = [\"{name}{pin}\"]"));
}

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

#[test]
fn row_15_what_is_not_a_component_is_refused_by_name() {
    let stage = stage("row_15");
    let elf = std::fs::read("/proc/self/exe").expect("a process can read its own program");
    let kinds: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"\0as", "not WebAssembly"),
        (b"\0asm\x0d", "cut short"),
        (b"(component)", "text form"),
        (&elf[..4096], "ELF"),
        (b"\0asm\x01\0\0\0", "core module"),
        (b"\0asm\x0d\0\x01\0\x07\x7f", "not a valid component"),
    ];
    for (bytes, part) in kinds {
        artifact(&stage, "wrong.wasm", bytes, "");
        refused(&stage, "WASM_NOT_COMPONENT", &["wrong.wasm", part]);
    }
    stage.config("forward", "transforms = [\"absent.wasm\"]");
    refused(&stage, "WASM_UNREADABLE", &["absent.wasm"]);
}

#[test]
fn row_17_a_pin_that_does_not_match_shows_both_digests() {
    let stage = stage("row_17");
    artifact(&stage, "empty.wasm", COMPONENT, &format!("@sha256:{}", "0".repeat(64)));
    let own = stage.blue.value("SELECT encode(sha256('\\x0061736d0d000100'), 'hex')");
    refused(&stage, "PIN_MISMATCH", &[&"0".repeat(64), &own]);
    artifact(&stage, "empty.wasm", COMPONENT, "@sha256:123");
    refused(&stage, "CONFIG_INVALID", &["empty.wasm", "sha256"]);
    artifact(&stage, "empty.wasm", COMPONENT, &format!("@sha256:{own}"));
    refused(&stage, "WIT_MISMATCH", &["empty.wasm"]);
}

#[test]
fn row_18_imports_are_refused_by_name_and_row_19_a_missing_export_with_the_one_that_is_needed() {
    let stage = stage("row_18");
    let mut importing = COMPONENT.to_vec();
    let name = b"wasi:sockets/tcp@0.2.0";
    importing.extend([7, 3, 1, 0x42, 0, 10, name.len() as u8 + 5, 1, 0, name.len() as u8]);
    importing.extend(name);
    importing.extend([5, 0]);
    artifact(&stage, "importing.wasm", importing, "");
    refused(&stage, "IMPORTS_REFUSED", &["importing.wasm", "wasi:sockets/tcp@0.2.0"]);
    artifact(&stage, "empty.wasm", COMPONENT, "");
    refused(&stage, "WIT_MISMATCH", &["empty.wasm", "falkirk:migration/transform@0.1.0"]);
}

#[test]
fn row_16_precompiled_code_is_refused() {
    let stage = stage("row_16");
    // The head of a 64-bit ELF file as the engine's own serialization writes it: its ABI byte and flags tell.
    let mut head = b"\x7fELF\x02\x01\x01\xc8".to_vec();
    head.resize(64, 0);
    head[16] = 1;
    head[18] = 0x3e;
    head[20] = 1;
    head[48] = 1 << 1;
    head[52] = 64;
    head[58] = 64;
    artifact(&stage, "code.wasm", head, "");
    refused(&stage, "WASM_PRECOMPILED", &["code.wasm"]);
}

/// A link that copied and streams, whose green is stricter or other than blue, as a person could make it.
fn streaming(name: &str, blue: &str, green: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(blue, green);
    good(&stage);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage
}

#[track_caller]
fn stops(stage: &Stage, code: &str, parts: &[&str]) {
    // Twice: a restart comes to the same change again, it does not step over it.
    for _ in 0..2 {
        let finished = stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says(code).says("position ");
        let finished = parts.iter().fold(finished, |finished, part| finished.says(part));
        finished.keeps_quiet_about("471147114").keeps_quiet_about("panicked");
    }
}

#[test]
fn row_54_a_unique_value_that_is_there_already_stops_the_link_and_names_the_constraint() {
    let table = "CREATE TABLE a (id int PRIMARY KEY, note text);";
    let green = "CREATE TABLE a (id int PRIMARY KEY, note text CONSTRAINT only_once UNIQUE);";
    let stage = streaming("row_54", table, green);
    stage.blue.sql("INSERT INTO a VALUES (1, '471147114')");
    stage.blue.sql("INSERT INTO a VALUES (2, '471147114'), (3, 'x')");
    stops(&stage, "CONFLICT", &["public.a", "only_once"]);
    assert_eq!(stage.green.lines("SELECT * FROM a"), ["(1,471147114)"]);
    // Mended in the target, it goes on with nothing lost.
    stage.green.sql("ALTER TABLE a DROP CONSTRAINT only_once");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM a", "SELECT * FROM a");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_55_a_row_that_the_target_cannot_take_stops_the_link_with_table_and_rule() {
    let blue = "CREATE TABLE a (id int PRIMARY KEY, n int, b_id int); CREATE TABLE b (id int PRIMARY KEY);";
    let green = "CREATE TABLE b (id int PRIMARY KEY);
        CREATE TABLE a (id int PRIMARY KEY, n int CONSTRAINT small CHECK (n < 100), b_id int CONSTRAINT known REFERENCES b);";
    let stage = streaming("row_55", blue, green);
    for (row, code, constraint) in
        [("1, 471147114, NULL", "CHECK", "small"), ("2, 1, 471147114", "FOREIGN_KEY", "known")]
    {
        stage.blue.sql(&format!("INSERT INTO a VALUES ({row}), (1000 + {row})"));
        stops(&stage, code, &["public.a", constraint]);
        stage.green.sql(&format!("ALTER TABLE a DROP CONSTRAINT {constraint}"));
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    }
    stage.green.sql("ALTER TABLE a ALTER n SET NOT NULL");
    stage.blue.sql("INSERT INTO a VALUES (5, NULL, NULL)");
    stops(&stage, "NOT_NULL", &["public.a", "column n"]);
    stage.green.sql("ALTER TABLE a ALTER n DROP NOT NULL");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM a", "SELECT * FROM a");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_55_a_column_that_could_not_hold_every_value_is_refused_before_the_first_row_moves() {
    let stage = Stage::one_way("row_55_early");
    let blue = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE a (id int PRIMARY KEY, name varchar(20), mood mood, n int8);";
    let green =
        "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE a (id int PRIMARY KEY, name varchar(10), mood mood, n int4);";
    stage.schemas(blue, green);
    good(&stage);
    refused(&stage, "TYPE_MISFIT", &["public.a", "copied from name", "lacks the labels bad", "copied from n:"]);
}

#[test]
fn row_56_a_row_that_is_not_there_stops_the_link_since_somebody_else_writes() {
    let stage = streaming("row_56", TABLES, TABLES);
    stage.blue.sql("INSERT INTO a SELECT n, 'x' FROM generate_series(1, 5) n");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.green.sql("DELETE FROM a WHERE id = 3");
    stage.blue.sql("UPDATE a SET note = '471147114' WHERE id >= 2");
    stops(&stage, "ROWCOUNT", &["public.a", "patch affected 0 rows instead of 1", "falkirk verify"]);
    assert_eq!(stage.green.count("(SELECT FROM a WHERE note = 'x')"), 4);
    stage.green.sql("INSERT INTO a VALUES (3, 'x')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM a", "SELECT * FROM a");
    // A delete that finds nothing is no agreement either: somebody else has deleted.
    stage.green.sql("DELETE FROM a WHERE id = 4");
    stage.blue.sql("UPDATE a SET note = 'before' WHERE id = 1; DELETE FROM a WHERE id = 4; DELETE FROM a WHERE id = 5");
    stops(&stage, "ROWCOUNT", &["public.a", "delete affected 0 rows instead of 1"]);
    assert_eq!(stage.green.count("(SELECT FROM a WHERE id = 5)"), 1, "nothing behind it is applied");
    stage.green.sql("INSERT INTO a VALUES (4, 'x')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.assert_same("SELECT * FROM a", "SELECT * FROM a");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_57_row_level_security_on_either_side_is_refused() {
    let stage = stage("row_57");
    good(&stage);
    stage.green.sql("ALTER TABLE a ENABLE ROW LEVEL SECURITY");
    refused(&stage, "ROW_SECURITY", &["public.a", &stage.green.role()]);
    stage.green.sql("ALTER TABLE a DISABLE ROW LEVEL SECURITY");
    stage.blue.sql("ALTER TABLE b ENABLE ROW LEVEL SECURITY; ALTER TABLE b FORCE ROW LEVEL SECURITY");
    refused(&stage, "ROW_SECURITY", &["public.b", &stage.blue.role()]);
}

#[test]
fn row_58_triggers_of_the_target_are_refused_unless_they_are_allowed() {
    let stage = stage("row_58");
    stage.green.sql(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note = upper(NEW.note); RETURN NEW; END $$;
         CREATE TRIGGER shouting BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION shout();",
    );
    good(&stage);
    refused(&stage, "TARGET_TRIGGERS", &["public.a", "shouting", "allow_triggers"]);
    write(&stage, good(&stage) + "[tables]\nallow_triggers = [\"public.a\"]\n");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0).says("shouting");
    assert_eq!(stage.green.count("(SELECT FROM a WHERE note = 'N')"), 10);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_59_a_target_that_takes_no_writes_for_a_while_is_waited_for() {
    let stage = streaming("row_59", TABLES, TABLES);
    let mut host = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO a VALUES (1, 'x')");
    until("the first row is there", SOON, || stage.green.count("a") == 1);
    let (role, database) = (stage.green.role(), &stage.green.database);
    // As after a switch of the primary: every session ends, and new ones may only read.
    stage.green.admin(&format!("ALTER ROLE \"{role}\" SET default_transaction_read_only = on"));
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' AND datname = '{database}'"
    );
    stage.green.admin(&end);
    stage.blue.sql("INSERT INTO a VALUES (2, 'y')");
    until("the host has met it", SOON, || !host.is_running() || host.err().contains("READ_ONLY"));
    assert!(host.is_running(), "it is a passing fault\n{}\n{}", host.out(), host.err());
    let confirmed = || {
        let query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'falkirk_row_59_forward'";
        stage.blue.admin(query)[0][0].clone()
    };
    let held =
        stage.falkirk(&["status", "--json"]).expect(0).json()["checkpoint"].as_str().unwrap_or_default().to_owned();
    assert_eq!(stage.blue.value(&format!("SELECT '{}'::pg_lsn <= '{held}'::pg_lsn", confirmed())), "t");
    stage.green.admin(&format!("ALTER ROLE \"{role}\" RESET default_transaction_read_only"));
    until("the second row is there", SOON, || stage.green.count("a") == 2);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn row_60_deadlocks_and_ended_sessions_are_tried_again_and_nothing_is_lost_or_doubled() {
    let stage = streaming("row_60", TABLES, TABLES);
    stage.blue.sql("INSERT INTO a SELECT n, 'x' FROM generate_series(1, 2) n");
    let change = "BEGIN; UPDATE a SET note = 'y' WHERE id = 1; INSERT INTO b VALUES (1, 'z'); UPDATE a SET note = 'y' WHERE id = 2; COMMIT";
    let touch = |id: u32| format!("UPDATE a SET note = note WHERE id = {id}");
    let mut host = lose_a_deadlock(&stage, [&touch(2), &touch(1)], change, || stage.green.count("a") == 2);
    let is_same = |stage: &Stage| {
        ["a", "b", "c"]
            .iter()
            .all(|table| stage.same(&format!("SELECT * FROM {table}"), &format!("SELECT * FROM {table}")))
    };
    until("the change is there", SOON, || {
        assert!(host.is_running(), "{}", host.err());
        is_same(&stage)
    });
    for round in 10..16 {
        stage.blue.sql(&format!(
            "INSERT INTO c SELECT {round} * 1000 + n, 'c' FROM generate_series(1, 300) n; UPDATE a SET note = '{round}'"
        ));
        let side = if round % 2 == 0 { &stage.green } else { &stage.blue };
        side.admin(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
            side.role()
        ));
    }
    until("the rest is there", SOON, || is_same(&stage));
    assert!(host.is_running(), "{}", host.err());
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}
