//! Rows that depend on rows of other tables: related rows as of the change, and columns that are set in rows of others.

use falkirk_tests::{Stage, rules_component, rules_schemas, way};

fn stage(name: &str, rows: &str) -> Stage {
    let stage = Stage::one_way(name).toward(way!());
    let [blue, green] = rules_schemas();
    stage.schemas(&blue, &green);
    stage.blue.sql(rows);
    stage.config("forward", &Stage::transforms(Some(rules_component())));
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn blue(stage: &Stage, sql: &str) {
    stage.blue.sql(sql);
    follow(stage);
}

fn shown(stage: &Stage) -> Vec<String> {
    stage.green.lines("SELECT id, shown FROM booking")
}

const OWNERS: &str = "INSERT INTO owner VALUES (1, 'Zoe'), (2, 'Abe');
    INSERT INTO booking VALUES (10, 1, 'a'), (11, 2, 'b'), (12, NULL, 'c'), (13, 99, 'd')";

#[test]
fn counter_example_4_related_rows_are_those_of_the_change_and_not_of_now() {
    let stage = stage("related_then", OWNERS);
    follow(&stage);
    let copied = [r#"(10,"a for Zoe/1")"#, r#"(11,"b for Abe/2")"#, r#"(12,"c for ")"#, r#"(13,"d for ")"#];
    assert_eq!(shown(&stage), copied, "copied with what they are related to");
    // The rename comes first, the move after; both are read when both are long done.
    stage.blue.sql("UPDATE owner SET name = 'Abe' WHERE id = 1");
    stage.blue.sql("UPDATE booking SET owner_id = 2 WHERE id = 10");
    blue(&stage, "UPDATE owner SET name = 'Ben' WHERE id = 2");
    assert_eq!(shown(&stage)[..2], [r#"(10,"a for Ben/2")"#, r#"(11,"b for Ben/2")"#]);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_4_a_related_change_runs_its_dependants_again_once_a_transaction() {
    let stage = stage("related_again", OWNERS);
    follow(&stage);
    stage.green.sql("UPDATE booking SET own = 'kept', shown = 'corrected' WHERE id = 11");
    blue(
        &stage,
        "BEGIN; UPDATE owner SET name = 'x' WHERE id = 1; UPDATE booking SET note = 'aa' WHERE id = 10;
         UPDATE owner SET name = 'Zed' WHERE id = 1; INSERT INTO booking VALUES (14, 3, 'e'); INSERT INTO owner VALUES (3, 'Late'); COMMIT;
         UPDATE owner SET seen = seen + 1; UPDATE booking SET note = 'b' WHERE id = 11",
    );
    let rows = stage.green.lines("SELECT id, shown, own FROM booking WHERE id IN (10, 11, 14)");
    assert_eq!(
        rows,
        [r#"(10,"aa for Zed/1",green)"#, "(11,corrected,kept)", r#"(14,"e for Late/3",green)"#],
        "a row none of whose inputs changed is not written (L6)"
    );
    blue(
        &stage,
        "DELETE FROM owner WHERE id = 1; BEGIN; UPDATE owner SET id = 99 WHERE id = 3; DELETE FROM booking WHERE id = 11; COMMIT;
         BEGIN; UPDATE booking SET id = 20 WHERE id = 12; UPDATE booking SET owner_id = 99 WHERE id = 20; UPDATE owner SET name = 'End' WHERE id = 99; COMMIT",
    );
    let expected = [r#"(10,"aa for ")"#, r#"(13,"d for End/99")"#, r#"(14,"e for ")"#, r#"(20,"c for End/99")"#];
    assert_eq!(shown(&stage), expected);
    stage.falkirk(&["verify"]).expect(0);
    let mirrors = stage.green.admin("SELECT count(*)::text FROM falkirk.mirror");
    assert_eq!(mirrors, [["6"]], "four bookings and two owners");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_4_batches_that_overlap_see_what_is_on_its_way() {
    let stage = stage("related_flow", "INSERT INTO owner SELECT n, 'o' || n FROM generate_series(1, 20) n");
    let host = stage.start_falkirk(&["run"]);
    for round in 0..60 {
        stage.blue.sql(&format!(
            "INSERT INTO booking SELECT {round} * 20 + n, n, 'r' FROM generate_series(1, 20) n;
             UPDATE owner SET name = 'o' || id || 'r{round}' WHERE id % 5 = {round} % 5;
             UPDATE booking SET owner_id = 1 + (owner_id + {round}) % 20 WHERE id % 7 = {round} % 7"
        ));
    }
    let expected =
        "SELECT b.id, 'r for ' || o.name || '/' || o.id AS shown FROM booking b JOIN owner o ON o.id = b.owner_id";
    falkirk_tests::until("both sides agree", falkirk_tests::SOON, || {
        stage.green.count("booking") == 1200 && stage.same(expected, "SELECT id, shown FROM booking")
    });
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_6_a_patch_lets_go_of_what_it_wrote_and_never_loses_a_row_in_silence() {
    let rows = "INSERT INTO person VALUES (1, 'Ann'), (2, 'Bob'); INSERT INTO profile VALUES (5, 1, 'likes boats'), (6, NULL, 'nobody')";
    let stage = stage("patch_remove", rows);
    follow(&stage);
    let people = || stage.green.lines("SELECT * FROM person");
    assert_eq!(people(), [r#"(1,Ann,"likes boats")"#, "(2,Bob,)"], "the copy writes people before profiles");
    blue(&stage, "UPDATE profile SET person_id = 2 WHERE id = 5");
    assert_eq!(people(), ["(1,Ann,)", r#"(2,Bob,"likes boats")"#], "it moves with its source row");
    blue(
        &stage,
        "UPDATE profile SET person_id = 1 WHERE id = 6; UPDATE person SET name = 'Anna' WHERE id = 1; DELETE FROM profile WHERE id = 5",
    );
    assert_eq!(people(), ["(1,Anna,nobody)", "(2,Bob,)"]);
    stage.falkirk(&["verify"]).expect(0);
    // A person that goes before its profile does is no loss.
    blue(&stage, "DELETE FROM person WHERE id = 1; DELETE FROM profile WHERE id = 6");
    assert_eq!(people(), ["(2,Bob,)"]);
    stage.blue.sql("INSERT INTO profile VALUES (7, 2, 'first')");
    stage.blue.sql("INSERT INTO profile VALUES (8, 77, 'of whom?')");
    let run = stage.falkirk(&["run", "--until", "caught-up"]).expect(3);
    run.says("ROWCOUNT").says("public.person").keeps_quiet_about("of whom");
    assert_eq!(people(), ["(2,Bob,first)"], "what stands before it is written");
    stage.falkirk(&["clean"]).expect(0);
}

/// The rules' component with a manifest of the test's own: its outputs compute nothing, so no code of it runs.
fn with_manifest(stage: &Stage, manifest: &serde_json::Value) -> std::path::PathBuf {
    let mut bytes = std::fs::read(rules_component()).unwrap();
    let old = include_str!("../guests-rules/src/rules.json");
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).expect("the manifest is there");
    let new = format!("{:<width$}", manifest.to_string(), width = old.len());
    assert_eq!(new.len(), old.len(), "there is no room for it");
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    stage.file("own.wasm", bytes)
}

#[test]
fn counter_example_8_a_row_that_either_release_has_made_exists_once_under_two_keys() {
    let stage = Stage::new("keys_both");
    let tables = |key: &str, default: &str| {
        format!(
            "CREATE TABLE account (id {key} {default} PRIMARY KEY, name text);
             CREATE TABLE note (id int PRIMARY KEY, account_id {key} REFERENCES account, body text);
             ALTER TABLE account REPLICA IDENTITY FULL; ALTER TABLE note REPLICA IDENTITY FULL"
        )
    };
    let (old, new) = ("GENERATED BY DEFAULT AS IDENTITY", "DEFAULT gen_random_uuid()");
    stage.schemas(&tables("bigint", old), &tables("uuid", new));
    stage
        .blue
        .sql("INSERT INTO account (name) VALUES ('Ann'), ('Bob'); INSERT INTO note VALUES (1, 1, 'a'), (2, NULL, 'b')");
    let rules = serde_json::json!([
        { "table": "account", "outputs": [{ "table": "account", "same_named": true, "mapped": { "id": ["users", "id"] } }] },
        { "table": "note",
          "outputs": [{ "table": "note", "same_named": true, "mapped": { "account_id": ["users", "account_id"] } }] }
    ]);
    let manifest = serde_json::json!({ "falkirk": 1, "name": "rules", "from": "1", "to": "2",
        "maps": { "users": { "blue": "account.id", "green": "account.id", "creates": "both" } },
        "forward": rules, "backward": rules });
    let file = with_manifest(&stage, &manifest);
    stage.config("both", &format!("conflict = \"blue_wins\"\n{}", Stage::transforms(Some(&file))));
    follow(&stage);
    let seen = "SELECT n.id, n.body, a.name FROM note n LEFT JOIN account a ON a.id = n.account_id";
    let accounts = "SELECT name FROM account";
    stage.assert_same(seen, seen);
    assert_eq!(stage.green.lines(seen), ["(1,a,Ann)", "(2,b,)"], "a reference to nobody stays one");
    // Release 2 makes an account, release 1 edits it and refers to it; nobody gets a second one.
    stage.green.sql("INSERT INTO account (name) VALUES ('Uma')");
    follow(&stage);
    let uma = stage.blue.value("SELECT id::text FROM account WHERE name = 'Uma'");
    stage
        .blue
        .sql(&format!("UPDATE account SET name = 'Umaya' WHERE id = {uma}; INSERT INTO note VALUES (3, {uma}, 'c')"));
    stage.green.sql("UPDATE note SET account_id = (SELECT id FROM account WHERE name = 'Bob') WHERE id = 2");
    follow(&stage);
    stage.assert_same(seen, seen);
    stage.assert_same(accounts, accounts);
    assert_eq!(
        (stage.green.count("account"), stage.blue.lines(seen)),
        (3, ["(1,a,Ann)", "(2,b,Bob)", "(3,c,Umaya)"].map(String::from).to_vec())
    );
    stage.green.sql("DELETE FROM note; DELETE FROM account WHERE name <> 'Ann'");
    follow(&stage);
    assert_eq!(stage.blue.lines(accounts), ["(Ann)"]);
    stage.falkirk(&["clean"]).expect(0);
}
