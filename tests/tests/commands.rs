//! The commands as a person and a program meet them: help, exit codes, JSON, pipes, what `check` prints and what it is
//! worth, `clean`, and a first start that was cut off.

use std::time::Duration;

use falkirk_tests::{SOON, Stage, until};
use nix::sys::signal::Signal;
use serde_json::Value;

const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, note text);
    CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a);
    CREATE TABLE only_here (id int PRIMARY KEY);";

const GREEN: &str = "
    CREATE TABLE a (id int PRIMARY KEY, note text);
    CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a);";

fn stage(name: &str) -> Stage {
    let stage = Stage::one_way(name);
    stage.schemas(TABLES, GREEN);
    stage.blue.sql("INSERT INTO a SELECT n, 'n' FROM generate_series(1, 100) n; INSERT INTO b SELECT n, n FROM generate_series(1, 50) n");
    stage.config("forward", "transforms = []");
    stage
}

#[track_caller]
fn nothing_left(stage: &Stage) {
    let name = stage.name();
    let slots = format!("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'falkirk\\_{name}\\_%'");
    assert_eq!(stage.blue.admin(&slots), Vec::<Vec<String>>::new());
    assert_eq!(stage.blue.admin("SELECT pubname FROM pg_publication"), Vec::<Vec<String>>::new());
    for side in [&stage.blue, &stage.green] {
        assert_eq!(side.admin("SELECT nspname FROM pg_namespace WHERE nspname = 'falkirk'"), Vec::<Vec<String>>::new());
    }
}

#[track_caller]
fn same(stage: &Stage) {
    for table in ["a", "b"] {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
}

#[test]
fn every_command_has_help_and_wrong_usage_ends_with_2() {
    let stage = Stage::one_way("cmd_help");
    stage.falkirk(&["--version"]).expect(0).says("falkirk ");
    let help = stage.falkirk(&["--help"]).expect(0);
    for command in ["check", "run", "status", "clean", "build"] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{}", help.out);
        stage.falkirk(&[command, "--help"]).expect(0).says("Usage: falkirk").says("--help");
        stage.falkirk(&[command, "--no-such-flag"]).expect(2).says("--no-such-flag");
    }
    for wrong in [&["chekc"][..], &[], &["run", "--until", "never"], &["run", "extra"], &["build"], &["build", "."]] {
        stage.falkirk(wrong).expect(2);
    }
}

#[test]
fn a_missing_configuration_is_named_by_every_command_with_1() {
    let stage = Stage::one_way("cmd_missing");
    for command in ["check", "run", "status", "clean"] {
        stage.falkirk(&[command, "-c", "no/such.toml"]).expect(1).says("CONFIG_UNREADABLE").says("no/such.toml");
        let json = stage.falkirk(&[command, "--json"]).expect(1).json();
        assert_eq!(
            (&json["ok"], &json["problems"][0]["code"]),
            (&Value::from(false), &Value::from("CONFIG_UNREADABLE"))
        );
    }
    stage.falkirk(&["build", "no/such/folder", "-o", "x.wasm"]).expect(1).says("BUILD_FAILED").says("no/such/folder");
    assert!(!stage.folder().join("x.wasm").exists());
}

#[test]
fn a_server_that_is_not_there_is_named_without_its_password() {
    let stage = stage("cmd_no_server");
    let text = std::fs::read_to_string(stage.folder().join("falkirk.toml")).expect("it was written");
    let port = falkirk_tests::free_port();
    let nobody = format!("postgres://falkirk:hidden@127.0.0.1:{port}/app");
    stage.file("falkirk.toml", text.replace(&stage.green.url(), &nobody));
    for command in ["check", "status", "clean"] {
        let finished = stage.falkirk(&[command]).expect(1).says(&format!("127.0.0.1:{port}"));
        finished.keeps_quiet_about("hidden").keeps_quiet_about("test%20only");
    }
}

#[test]
fn json_has_the_fields_that_programs_rely_on() {
    let stage = stage("cmd_json");
    let status = stage.falkirk(&["status", "--json"]).expect(0).json();
    assert_eq!((&status["phase"], &status["checkpoint"]), (&Value::from("not started"), &Value::Null));
    let check = stage.falkirk(&["check", "--json"]).expect(0).json();
    assert_eq!(check["ok"], true);
    let tables = check["tables"].as_array().expect("there is a list");
    assert_eq!(tables.len(), 3);
    assert!(
        tables.iter().all(|table| table["table"].is_string() && table["how"].is_string() && table["into"].is_string())
    );
    assert!(check["warnings"].is_array());
    let run = stage.falkirk(&["run", "--until", "caught-up", "--json"]).expect(0).json();
    assert_eq!(
        (&run["ok"], &run["rows_copied"], &run["rows_changed"]),
        (&Value::from(true), &Value::from(150), &Value::from(0))
    );
    assert!(run["position"].as_str().is_some_and(|text| text.contains('/')) && run["transactions"].is_u64());
    stage
        .blue
        .sql("INSERT INTO a VALUES (1000, 'x'); UPDATE a SET note = 'y' WHERE id <= 5; DELETE FROM b WHERE id <= 3");
    let run = stage.falkirk(&["run", "--until", "caught-up", "--json"]).expect(0).json();
    assert_eq!(run["rows_changed"], 9);
    let status = stage.falkirk(&["status", "--json"]).expect(0).json();
    let wanted = [
        ("migration", Value::from("cmd_json")),
        ("link", "forward".into()),
        ("phase", "streaming".into()),
        ("consistent", true.into()),
        ("running", false.into()),
        ("copied_rows", 150.into()),
        ("inserted_rows", 1.into()),
        ("updated_rows", 5.into()),
        ("deleted_rows", 3.into()),
        ("problem", Value::Null),
    ];
    for (field, value) in wanted {
        assert_eq!(status[field], value, "{field}");
    }
    for field in ["host", "checkpoint", "source_position", "artifact", "slot"] {
        assert!(status[field].is_string(), "{field}: {status}");
    }
    for field in ["lag_bytes", "lag_seconds", "transactions", "retained_wal_bytes"] {
        assert!(status[field].is_number(), "{field}: {status}");
    }
    assert!(status["chunks"].is_array() && status["warnings"].is_array());
    let clean = stage.falkirk(&["clean", "--json"]).expect(0).json();
    assert_eq!((&clean["ok"], clean["removed"].as_array().map(Vec::len)), (&Value::from(true), Some(4)), "{clean}");
    assert!(clean["left"].is_array());
}

#[test]
fn a_problem_as_json_has_code_blame_and_next_step_and_a_log_as_json_is_json() {
    let stage = stage("cmd_problem");
    stage.green.sql("INSERT INTO a VALUES (1, 'there before')");
    let json = stage.falkirk(&["run", "--json"]).expect(1).json();
    let problem = &json["problems"][0];
    assert_eq!((&problem["code"], &problem["table"]), (&Value::from("TARGET_NOT_EMPTY"), &Value::from("public.a")));
    assert_eq!((&problem["blame"], &problem["action"]), (&Value::from("target"), &Value::from("refuse")));
    assert!(problem["next_step"].is_string() && problem["what"].is_string());
    nothing_left(&stage);
    stage.green.sql("TRUNCATE a CASCADE");
    let finished = stage.falkirk(&["--log", "json", "run", "--until", "caught-up"]).expect(0);
    for line in finished.err.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_pipe_gets_plain_lines_and_check_lists_every_table_and_how_it_travels() {
    let stage = stage("cmd_pipe");
    let check = stage.falkirk(&["check"]).expect(0).says("ready: `falkirk run` may start");
    for line in
        ["public.a\tcopied as it is\tpublic.a", "public.b\tcopied as it is\tpublic.b", "public.only_here\tleft out: "]
    {
        assert!(check.out.lines().any(|out| out.starts_with(line)), "{line:?} is not in\n{}", check.out);
    }
    let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let status = stage.falkirk(&["status"]).expect(0).says("phase\tstreaming");
    let clean = stage.falkirk(&["clean"]).expect(0);
    for finished in [check, run, status, clean] {
        assert!(!(finished.out + &finished.err).contains('\u{1b}'), "an escape sequence in a pipe");
    }
}

#[test]
fn signals_end_a_running_link_with_130_and_143_and_it_goes_on_where_it_was() {
    let stage = stage("cmd_signals");
    for (signal, code, id) in [(Signal::SIGINT, 130, 1001), (Signal::SIGTERM, 143, 1002)] {
        let host = stage.start_falkirk(&["run"]);
        stage.blue.sql(&format!("INSERT INTO a VALUES ({id}, 'x')"));
        until("the row is there", SOON, || stage.green.count(&format!("(SELECT FROM a WHERE id = {id})")) == 1);
        host.signal(signal);
        host.wait(SOON).expect(code).says("done at");
        stage.blue.sql(&format!("UPDATE a SET note = '{id}'"));
    }
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    same(&stage);
    stage.falkirk(&["clean"]).expect(0);
}

/// The first statement of a next step that can be run as it stands.
fn statement(next_step: &str) -> Option<String> {
    let verbs = ["GRANT ", "ALTER ", "CREATE ", "TRUNCATE ", "SET "];
    let runnable = next_step.split_inclusive(';').filter(|part| part.ends_with(';') && !part.contains("..."));
    runnable
        .filter_map(|part| verbs.iter().filter_map(|verb| part.find(verb)).min().map(|at| part[at..].to_owned()))
        .next()
}

#[test]
fn the_sql_that_check_prints_mends_what_it_found() {
    let stage = Stage::one_way("cmd_mend");
    let more = "CREATE TABLE keyless (n int); CREATE TABLE hidden (id int PRIMARY KEY);";
    let keyed = "CREATE TABLE keyless (n int PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY);";
    stage.schemas(&format!("{TABLES}{more}"), &format!("{GREEN}{keyed}"));
    stage.config("forward", "transforms = []");
    let (blue, green) = (stage.blue.role(), stage.green.role());
    stage
        .blue
        .admin(&format!("REVOKE \"{}\" FROM \"{blue}\"; ALTER ROLE \"{blue}\" NOREPLICATION", stage.blue.owner()));
    stage.blue.admin(&format!("REVOKE SELECT ON a FROM \"{blue}\""));
    stage.green.admin(&format!("REVOKE SELECT, INSERT, UPDATE, DELETE ON a, b FROM \"{green}\""));
    stage.green.admin(&format!("REVOKE CREATE ON DATABASE \"{}\" FROM \"{green}\"", stage.green.database));
    stage.green.admin("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; INSERT INTO b VALUES (1, NULL)");
    stage.green.admin(
        "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER noise BEFORE INSERT ON b FOR EACH ROW EXECUTE FUNCTION quiet()",
    );
    let mut rounds = 0;
    loop {
        let found = stage.falkirk(&["check", "--json"]);
        let json = found.json();
        if json["ok"] == true {
            break;
        }
        rounds += 1;
        assert!(rounds <= 4, "four rounds of mending were not enough: {json:#}");
        for problem in json["problems"].as_array().expect("there is a list") {
            let next = problem["next_step"].as_str().unwrap_or_default();
            let sql = statement(next).unwrap_or_else(|| panic!("no statement to run in {problem:#}"));
            let side = if problem["blame"] == "source" { &stage.blue } else { &stage.green };
            side.admin(&sql);
        }
    }
    assert!(rounds >= 1);
    stage.blue.sql("INSERT INTO keyless VALUES (1); INSERT INTO a VALUES (1, 'x')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!((stage.green.count("keyless"), stage.green.count("a")), (1, 1));
    // The owner made the publication, so only the owner removes it; the command says how.
    let left = stage.falkirk(&["clean", "--json"]).expect(0).json();
    let left: Vec<&str> = left["left"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let publication = left.iter().find(|text| text.contains("DROP PUBLICATION")).expect("what is left is named");
    stage.blue.admin(&publication[publication.find("DROP").unwrap_or_default()..]);
    nothing_left(&stage);
}

#[test]
fn clean_leaves_nothing_may_be_repeated_and_the_migration_can_be_run_again() {
    let stage = stage("cmd_clean");
    stage.falkirk(&["clean"]).expect(0).says("nothing of cmd_clean was there");
    for round in 0..2 {
        let host = stage.start_falkirk(&["run"]);
        until("the copy is there", SOON, || stage.green.count("b") == 50);
        until("the slot is read", SOON, || stage.falkirk(&["status"]).out.contains("running"));
        stage.falkirk(&["clean"]).expect(1).says("SLOT_IN_USE").says("end the host first");
        stage.blue.sql(&format!("UPDATE a SET note = '{round}'"));
        until("the change is there", SOON, || stage.same("SELECT * FROM a", "SELECT * FROM a"));
        host.terminate().expect(143);
        stage
            .falkirk(&["clean"])
            .expect(0)
            .says("removed slot")
            .says("removed publication")
            .says("removed schema falkirk");
        nothing_left(&stage);
        stage.falkirk(&["clean"]).expect(0).says("nothing of cmd_clean was there");
        assert_eq!(stage.green.count("a"), 100, "rows of the application stay");
        // With its rows still there it is not run again by mistake; without them it is.
        stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("TARGET_NOT_EMPTY");
        stage.green.sql("TRUNCATE a, b");
    }
}

#[test]
fn pitfall_61_a_first_start_that_is_killed_while_the_slot_is_made_starts_anew() {
    let stage = stage("cmd_preparing");
    // A transaction that is open holds the slot back: the host is caught between publication and snapshot.
    stage.blue.sql("BEGIN; INSERT INTO a VALUES (5000, 'late')");
    let host = stage.start_falkirk(&["run"]);
    let slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'falkirk_cmd_preparing_forward'";
    until("the slot is being made", SOON, || !stage.blue.admin(slot).is_empty());
    stage.falkirk(&["status"]).expect(0).says("preparing");
    host.kill_9();
    stage.blue.sql("COMMIT");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    same(&stage);
    stage.falkirk(&["clean"]).expect(0);
    nothing_left(&stage);
}

#[test]
fn pitfall_61_a_slot_that_was_made_and_never_read_is_made_anew() {
    let stage = stage("cmd_unread_slot");
    for wait_ms in [0, 30, 60, 100, 150, 200, 300] {
        let host = stage.start_falkirk(&["run"]);
        until("the publication is there", SOON, || !stage.blue.admin("SELECT 1 FROM pg_publication").is_empty());
        // Somewhere between the slot and the end of the copy.
        std::thread::sleep(Duration::from_millis(wait_ms));
        host.kill_9();
        stage.blue.sql(&format!(
            "INSERT INTO a VALUES (6000 + {wait_ms}, 'x'); UPDATE a SET note = '{wait_ms}' WHERE id % 3 = 0"
        ));
    }
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    same(&stage);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_slot_that_the_target_knows_nothing_of_is_refused_and_clean_removes_it() {
    let stage = stage("cmd_foreign_slot");
    stage.blue.admin("SELECT pg_create_logical_replication_slot('falkirk_cmd_foreign_slot_forward', 'pgoutput')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(1).says("SLOT_EXISTS").says("falkirk clean");
    assert_eq!(stage.green.count("a"), 0);
    stage.falkirk(&["clean"]).expect(0).says("removed slot");
    nothing_left(&stage);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    same(&stage);
    stage.falkirk(&["clean"]).expect(0);
}
