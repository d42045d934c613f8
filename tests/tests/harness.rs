//! The harness itself: what it compares, writes and starts.

use std::path::Path;
use std::process::Command;

use falkirk_tests::{SOON, Stage, free_port, until};

const SCHEMA: &str = "CREATE TABLE t (id int, name text)";

#[test]
fn a_difference_between_the_sides_is_found_whatever_the_order_of_rows() {
    let stage = Stage::one_way("difference");
    stage.schemas(SCHEMA, SCHEMA);
    stage.blue.sql("INSERT INTO t VALUES (1, 'a'), (2, NULL), (2, NULL)");
    stage.green.sql("INSERT INTO t VALUES (2, NULL), (1, 'a'), (2, NULL)");
    stage.assert_same("SELECT * FROM t", "SELECT id, name FROM t");
    stage.green.sql("UPDATE t SET name = '' WHERE ctid IN (SELECT ctid FROM t WHERE id = 2 LIMIT 1)");
    assert!(!stage.same("SELECT * FROM t", "SELECT * FROM t"));
}

#[test]
fn psql_reads_the_recipes_as_the_harness_does() {
    if Command::new("psql").arg("--version").output().is_err() {
        eprintln!("not tried: no psql on this machine");
        return;
    }
    let stage = Stage::new("recipes");
    let by_harness = Stage::new("recipes_2");
    stage.blue.sql(SCHEMA);
    by_harness.schemas(SCHEMA, SCHEMA);
    // Twice: the recipes say of themselves that they can be run again.
    for file in ["source.sql", "target.sql", "source.sql", "target.sql"] {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", &stage.blue.administrator_url()]);
        for (name, value) in [("role", stage.blue.role()), ("owner", stage.blue.owner())] {
            psql.arg(format!("--set={name}={value}"));
        }
        psql.args(["--set=schema=public", "--set=password=it's \"secret\""]);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/roles").join(file);
        let output = psql.arg("--file").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let rights = |stage: &Stage| {
        let rows = stage.blue.admin(
            "SELECT relacl::text, (SELECT datacl::text FROM pg_database \
             WHERE datname = current_database()), (SELECT rolreplication::text || rolsuper FROM pg_roles \
             WHERE rolname = 'falkirk_' || current_database()) FROM pg_class WHERE relname = 't'",
        );
        rows[0].join(" ").replace(stage.name(), "NAME")
    };
    assert_eq!(rights(&stage), rights(&by_harness));
}

#[test]
fn the_configuration_keeps_settings_of_the_migration_before_the_sections() {
    let stage = Stage::one_way("configuration");
    let more = "transforms = [\"a.wasm\"]\non_error = \"stop\"\n[limits]\nmemory_mib = 1\n";
    let text = std::fs::read_to_string(stage.config("forward", more)).unwrap();
    let (head, rest) = text.split_once("[blue]").unwrap();
    assert!(head.contains("transforms = [\"a.wasm\"]\non_error = \"stop\""), "{text}");
    assert!(rest.contains("[green]") && rest.ends_with("[limits]\nmemory_mib = 1"), "{text}");
}

#[test]
fn the_command_is_built_and_runs_in_the_folder_of_its_stage() {
    let stage = Stage::one_way("command");
    let finished = stage.falkirk(&["--version"]).expect(0);
    assert!(finished.err.is_empty(), "{finished:?}");
}

#[test]
fn waiting_ends_when_the_condition_holds() {
    let port = free_port();
    let mut left = 3;
    until("the count is down", SOON, || {
        left -= 1;
        left == 0
    });
    assert!(port > 0);
}
