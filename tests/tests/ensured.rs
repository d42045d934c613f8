//! Rows that `ensure` made and the target's application deletes. What is ensured is nobody's: it may go, and it is asserted
//! again whenever a source row that implies it comes or changes (counter-example 5); not by itself, and not by a source row
//! that goes.

use falkirk_tests::{Stage, component_with_manifest, way};

const BLUE: &str = "CREATE TABLE fixture (id int PRIMARY KEY, host text NOT NULL, guest text NOT NULL);
    ALTER TABLE fixture REPLICA IDENTITY FULL; CREATE TABLE other (id int PRIMARY KEY);";
const GREEN: &str = "CREATE TABLE host (name text PRIMARY KEY); CREATE TABLE guest (name text PRIMARY KEY);
    CREATE TABLE other (id int PRIMARY KEY);";
const RULES: &str = r#"{ "falkirk": 1, "name": "rules", "from": "1", "to": "2",
    "forward": [ { "table": "fixture", "columns": [], "outputs": [
        { "table": "host", "write": "ensure", "copied": { "name": "host" } },
        { "table": "guest", "write": "ensure", "copied": { "name": "guest" } } ] } ],
    "backward": [ { "table": "host", "outputs": [] }, { "table": "guest", "outputs": [] } ] }"#;

/// Fixtures on blue: each implies a host and a guest on green.
fn stage(name: &str, link: &str, migration: &str) -> Stage {
    let stage = if link == "both" { Stage::new(name) } else { Stage::one_way(name).toward(way!()) };
    stage.schemas(BLUE, GREEN);
    let rules = component_with_manifest(&stage, RULES);
    stage.config(link, &format!("{migration}{}", Stage::transforms(Some(&rules))));
    stage.blue.sql("INSERT INTO fixture VALUES (1, 'ajax', 'benfica'), (2, 'ajax', 'celtic')");
    follow(&stage);
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

/// The hosts and guests that green holds after blue's statement has arrived.
fn after(stage: &Stage, blue: &str) -> String {
    stage.blue.sql(blue);
    follow(stage);
    let names = |table: &str| stage.green.lines(&format!("SELECT name FROM {table}")).join("");
    format!("{} at {}", names("guest"), names("host"))
}

/// What must happen, whether one link applies or both.
fn deleted_and_asserted(stage: &Stage) {
    assert_eq!(after(stage, ""), "(benfica)(celtic) at (ajax)");
    stage.green.sql("DELETE FROM host");
    assert_eq!(after(stage, ""), "(benfica)(celtic) at ", "nothing of blue's has changed");
    let changed = "UPDATE fixture SET guest = 'dynamo' WHERE id = 1";
    assert_eq!(
        after(stage, changed),
        "(benfica)(celtic)(dynamo) at (ajax)",
        "its host did not change, and is asserted"
    );
    stage.green.sql("DELETE FROM host; DELETE FROM guest WHERE name <> 'celtic'");
    assert_eq!(after(stage, "DELETE FROM fixture WHERE id = 1"), "(celtic) at ", "a row that goes implies nothing");
    stage.green.sql("DELETE FROM guest");
    // Several rows imply it within one transaction, and it comes once.
    let made = "BEGIN; INSERT INTO fixture VALUES (3, 'ajax', 'celtic'); UPDATE fixture SET host = 'basel' WHERE id = 2; COMMIT";
    assert_eq!(after(stage, made), "(celtic) at (ajax)(basel)");
    // Whoever made it: what is there is left as it is.
    stage.green.sql("DELETE FROM host; INSERT INTO host VALUES ('ajax')");
    assert_eq!(after(stage, "UPDATE fixture SET guest = 'dynamo'"), "(celtic)(dynamo) at (ajax)(basel)");
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_5_what_is_ensured_and_was_deleted_comes_back_when_its_source_row_changes() {
    deleted_and_asserted(&stage("ensured_one", "forward", ""));
}

#[test]
fn counter_example_5_it_comes_back_with_both_links_on_whoever_wins() {
    for policy in ["green_wins", "blue_wins"] {
        let migration = format!("conflict = \"{policy}\"\n");
        let stage = stage(&format!("ensured_{}", &policy[..4]), "both", &migration);
        // Neither side knows of the other: there is nothing to decide about a row that is nobody's.
        stage.blue.sql("UPDATE fixture SET guest = 'celtic' WHERE id = 1");
        stage.green.sql("DELETE FROM host; DELETE FROM guest WHERE name = 'celtic'");
        assert_eq!(after(&stage, ""), "(benfica)(celtic) at (ajax)");
        let conflicts = [&stage.blue, &stage.green].map(|side| side.admin("SELECT FROM falkirk.conflict").len());
        assert_eq!(conflicts, [0, 0], "nobody loses");
        stage.blue.sql("UPDATE fixture SET guest = 'benfica' WHERE id = 1");
        deleted_and_asserted(&stage);
    }
}
