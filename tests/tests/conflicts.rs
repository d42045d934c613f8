//! Conflicts as an operator meets them: listed, shown, decided otherwise; a link that stops at one and goes on with a
//! word; one unique value under two keys.

use falkirk_tests::{Finished, SOON, Side, Stage, until};
use nix::sys::signal::Signal;

const ITEM: &str =
    "CREATE TABLE item (id int PRIMARY KEY, flag int, note text); ALTER TABLE item REPLICA IDENTITY FULL";
const PERSON: &str = "CREATE TABLE person (id int PRIMARY KEY, mail text UNIQUE, note text);
    ALTER TABLE person REPLICA IDENTITY FULL";

fn stage(name: &str, schema: &str, policy: &str) -> Stage {
    let stage = Stage::new(name);
    stage.schemas(schema, schema);
    stage.config("both", &format!("conflict = \"{policy}\"\ntransforms = []"));
    stage
}

fn follow(stage: &Stage) -> Finished {
    stage.falkirk(&["run", "--until", "caught-up"])
}

/// One table, copied, with nothing running.
fn items(name: &str, policy: &str) -> Stage {
    let stage = stage(name, ITEM, policy);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 9) n");
    follow(&stage).expect(0);
    stage
}

/// Both sides change the note of a row, and neither knows of it.
fn clash(stage: &Stage, id: u32) {
    stage.blue.sql(&format!("UPDATE item SET note = 'blue secret' WHERE id = {id}"));
    stage.green.sql(&format!("UPDATE item SET note = 'green secret' WHERE id = {id}"));
}

fn notes(stage: &Stage, id: u32) -> [String; 2] {
    [&stage.blue, &stage.green].map(|side| side.value(&format!("SELECT note FROM item WHERE id = {id}")))
}

fn listed(stage: &Stage, more: &[&str]) -> Vec<serde_json::Value> {
    let mut arguments = vec!["conflicts", "list", "--json"];
    arguments.extend(more);
    let json = stage.falkirk(&arguments).expect(0).json();
    json["conflicts"].as_array().cloned().expect("there is a list")
}

fn only_id(stage: &Stage, more: &[&str]) -> String {
    let listed = listed(stage, more);
    assert_eq!(listed.len(), 1, "{listed:?}");
    listed[0]["id"].as_str().expect("an id is text").to_owned()
}

fn same(stage: &Stage, table: &str) -> bool {
    let query = format!("SELECT * FROM {table}");
    stage.same(&query, &query)
}

#[test]
fn counter_example_21_a_decided_conflict_is_listed_and_shown_without_values_and_decided_otherwise() {
    let stage = items("conflict_decided", "green_wins");
    assert!(listed(&stage, &[]).is_empty());
    clash(&stage, 1);
    follow(&stage).expect(0);
    assert_eq!(notes(&stage, 1), ["green secret", "green secret"]);
    let id = only_id(&stage, &["--state", "decided", "--table", "public.item"]);
    assert!(id.starts_with("green-"), "green kept its value: {id}");
    assert!(listed(&stage, &["--state", "open"]).is_empty() && listed(&stage, &["--table", "public.other"]).is_empty());
    let line = stage.falkirk(&["conflicts", "list"]).expect(0).says("\tupdate\tgreen\t").says("\tdecided");
    line.says(&format!("{id}\tpublic.item\t#")).says("/");
    stage.falkirk(&["conflicts", "list", "--values"]).expect(0).says("{\"id\":1}");
    let shown = stage.falkirk(&["conflicts", "show", &id]).expect(0).keeps_quiet_about("secret");
    shown.says("both sides changed the same columns").says(&format!("resolve {id} --take blue")).says("unchanged");
    stage.falkirk(&["conflicts", "show", &id, "--values"]).expect(0).says("blue secret").says("green secret");
    let took = stage.falkirk(&["conflicts", "resolve", &id, "--take", "blue"]).expect(0);
    took.says("the backward link carries them").keeps_quiet_about("secret");
    follow(&stage).expect(0);
    assert_eq!(notes(&stage, 1), ["blue secret", "blue secret"]);
    let resolved = &listed(&stage, &[])[0];
    assert_eq!((&resolved["state"], &resolved["taken"]), (&"resolved".into(), &"blue".into()));
    let by = resolved["resolved_by"].as_str().expect("somebody did it");
    assert!(by.starts_with(&stage.green.role()) && by.contains("process"), "{by}");
    stage.falkirk(&["conflicts", "resolve", &id, "--take", "green"]).expect(1).says("ALREADY_RESOLVED");
    stage.falkirk(&["conflicts", "show", "green-999"]).expect(1).says("CONFLICT_UNKNOWN");
    stage.falkirk(&["clean"]).expect(0);
}

/// Statements give the row a short name; a column of that name must not be taken for the row.
#[test]
fn counter_example_21_columns_with_the_names_that_statements_use_are_recorded_like_any_other() {
    let item = "CREATE TABLE item (id int PRIMARY KEY, t text, c text, s text); ALTER TABLE item REPLICA IDENTITY FULL";
    let stage = stage("conflict_names", item, "green_wins");
    stage.blue.sql("INSERT INTO item VALUES (1, 'old', 'old', 'old')");
    follow(&stage).expect(0);
    for side in [&stage.blue, &stage.green] {
        let name = side.name;
        side.sql(&format!("UPDATE item SET t = '{name} t', c = '{name} c', s = '{name} s' WHERE id = 1"));
    }
    follow(&stage).expect(0);
    let id = only_id(&stage, &[]);
    let shown = stage.falkirk(&["conflicts", "show", &id, "--values"]).expect(0);
    ["blue t", "green t", "blue c", "green c", "blue s", "green s"]
        .iter()
        .fold(shown, |shown, value| shown.says(value));
    stage.falkirk(&["conflicts", "resolve", &id, "--take", "blue"]).expect(0);
    follow(&stage).expect(0);
    assert!(same(&stage, "item"));
    assert_eq!(stage.green.value("SELECT t FROM item"), "blue t");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn what_a_record_says_of_a_row_is_kept_as_long_as_the_retention_says_and_then_erased() {
    let stage = items("conflict_retention", "green_wins");
    let more = "conflict = \"green_wins\"\ntransforms = []\n[retention]\nconflict_values_days = 30";
    stage.config("both", more);
    clash(&stage, 1);
    clash(&stage, 2);
    follow(&stage).expect(0);
    let ids: Vec<String> =
        listed(&stage, &[]).iter().map(|entry| entry["id"].as_str().expect("an id is text").to_owned()).collect();
    // One is a day too old, one a day too young.
    for (id, days) in ids.iter().zip([31, 29]) {
        let number = id.trim_start_matches("green-");
        stage
            .green
            .admin(&format!("UPDATE falkirk.conflict SET at = now() - interval '{days} days' WHERE id = {number}"));
    }
    let host = stage.start_falkirk(&["run"]);
    let erased = "SELECT count(*) FROM falkirk.conflict WHERE erased_at IS NOT NULL";
    until("an old record is erased", SOON, || stage.green.admin(erased)[0][0] == "1");
    host.signal(Signal::SIGTERM);
    host.wait(SOON).expect(143);
    let values = |id: &str| stage.falkirk(&["conflicts", "show", id, "--values"]).expect(0);
    values(&ids[0]).says("both sides changed the same columns").says("erased").keeps_quiet_about("secret");
    values(&ids[1]).says("blue secret").says("green secret");
    let rows = "SELECT count(*) FROM falkirk.conflict AS c WHERE c::text LIKE '%secret%'";
    assert_eq!(stage.green.admin(rows)[0][0], "1", "an erased record holds no value of the row");
    let all = listed(&stage, &["--values"]);
    assert!(all[0]["erased_at"].is_string() && all[1]["erased_at"].is_null(), "{all:?}");
    assert!(all[0]["key"].as_str().is_some_and(|key| key.starts_with('#')), "{all:?}");
    stage.falkirk(&["conflicts", "resolve", &ids[0], "--take", "blue"]).expect(1).says("VALUES_ERASED");
    assert_eq!(notes(&stage, 1), ["green secret", "green secret"]);
    stage.falkirk(&["conflicts", "resolve", &ids[0], "--take", "green"]).expect(0).says("confirmed");
    stage.falkirk(&["conflicts", "resolve", &ids[1], "--take", "blue"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_21_the_losers_values_are_never_written_over_a_row_that_has_changed_since() {
    let stage = items("conflict_changed", "blue_wins");
    clash(&stage, 1);
    clash(&stage, 2);
    stage.blue.sql("DELETE FROM item WHERE id = 3");
    stage.green.sql("UPDATE item SET flag = 7 WHERE id = 3");
    stage.blue.sql("UPDATE item SET flag = 7 WHERE id = 4");
    stage.green.sql("DELETE FROM item WHERE id = 4");
    follow(&stage).expect(0);
    assert!(same(&stage, "item"));
    let ids: Vec<String> =
        listed(&stage, &[]).iter().map(|entry| entry["id"].as_str().unwrap_or_default().to_owned()).collect();
    let [one, two, three, four] = ids.as_slice() else { panic!("four conflicts, not {ids:?}") };
    stage.blue.sql("UPDATE item SET note = 'third' WHERE id = 1");
    let refused = stage.falkirk(&["conflicts", "resolve", one, "--take", "green"]).expect(1);
    refused.says("ROW_CHANGED").says("public.item").keeps_quiet_about("third");
    stage.falkirk(&["conflicts", "resolve", one, "--take", "blue"]).expect(0).says("confirmed");
    // Another column does not matter to a change of this one.
    stage.blue.sql("UPDATE item SET flag = 5 WHERE id = 2");
    stage.falkirk(&["conflicts", "resolve", two, "--take", "green"]).expect(0);
    // The row that blue deleted comes back whole, the one that green deleted goes.
    stage.falkirk(&["conflicts", "resolve", three, "--take", "green"]).expect(0);
    stage.falkirk(&["conflicts", "resolve", four, "--take", "green"]).expect(0);
    follow(&stage).expect(0);
    for side in [&stage.blue, &stage.green] {
        let rows = side.rows("SELECT id, flag, note FROM item WHERE id <= 4 ORDER BY id");
        assert_eq!(rows, [["1", "0", "third"], ["2", "5", "green secret"], ["3", "7", "old"]]);
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_21_under_stop_the_link_stops_at_a_conflict_and_goes_on_with_a_word() {
    for (name, take, left) in [("conflict_stop_b", "blue", "blue secret"), ("conflict_stop_g", "green", "green secret")]
    {
        let stage = items(name, "stop");
        clash(&stage, 1);
        stage.blue.sql("UPDATE item SET note = 'later' WHERE id = 2");
        let stopped = follow(&stage).expect(3).says("CONFLICT").says("falkirk conflicts resolve");
        let stopped = stopped.keeps_quiet_about("secret").keeps_quiet_about("-0`");
        // Both links may have stopped at it, each with a record of its own; one of them is said.
        let open = listed(&stage, &["--state", "open"]);
        let mut ids = open.iter().map(|conflict| conflict["id"].as_str().expect("an id is text"));
        let said = |id: &&str| stopped.err.contains(&format!("resolve {id} "));
        let id = ids.find(said).unwrap_or_else(|| panic!("none of {open:?} is said\n{}", stopped.err)).to_owned();
        follow(&stage).expect(3);
        let again = listed(&stage, &["--state", "open"]);
        assert!(again.len() <= 2, "each link records what it stops at once: {again:?}");
        stage.falkirk(&["conflicts", "show", &id]).expect(0).says("when the link starts again");
        stage.falkirk(&["conflicts", "resolve", &id, "--take", take]).expect(0).says("go on at this change");
        follow(&stage).expect(0);
        assert_eq!(notes(&stage, 1), [left, left]);
        assert!(same(&stage, "item") && listed(&stage, &["--state", "open"]).is_empty());
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn counter_example_21_a_word_says_nothing_about_what_was_changed_after_it() {
    let stage = items("conflict_void", "stop");
    clash(&stage, 1);
    let open = |stage: &Stage| {
        follow(stage).expect(3);
        listed(stage, &["--state", "open"])[0]["id"].as_str().unwrap_or_default().to_owned()
    };
    let id = open(&stage);
    let (kept, other) = if id.starts_with("green") { (&stage.green, "blue") } else { (&stage.blue, "green") };
    kept.sql("UPDATE item SET note = 'before the word' WHERE id = 1");
    let refused = stage.falkirk(&["conflicts", "resolve", &id, "--take", other]).expect(1);
    refused.says("ROW_CHANGED").says("then resolve again");
    stage.falkirk(&["conflicts", "resolve", &id, "--take", other]).expect(0);
    kept.sql("UPDATE item SET note = 'after the word' WHERE id = 1");
    let id = open(&stage);
    assert_eq!(notes(&stage, 1).iter().filter(|note| *note == "after the word").count(), 1, "nobody wrote over it");
    stage.falkirk(&["conflicts", "resolve", &id, "--take", other]).expect(0);
    follow(&stage).expect(0);
    assert!(same(&stage, "item") && notes(&stage, 1)[0].ends_with("secret"));
    stage.falkirk(&["clean"]).expect(0);
}

/// Blue makes person 1 and green person 2, both with one mail; then both links run on.
fn two_persons(name: &str, policy: &str) -> Stage {
    let stage = stage(name, PERSON, policy);
    stage.blue.sql("INSERT INTO person VALUES (10, 'ten', 'old'), (11, 'eleven', 'old')");
    follow(&stage).expect(0);
    stage.blue.sql("INSERT INTO person VALUES (1, 'secret@example', 'of blue')");
    stage.green.sql("INSERT INTO person VALUES (2, 'secret@example', 'of green')");
    stage
}

fn mails(side: &Side) -> Vec<Vec<String>> {
    side.rows("SELECT id, note FROM person WHERE id < 10 ORDER BY id")
}

/// The records of both sides, by the side that holds them.
fn open_pair(stage: &Stage) -> [String; 2] {
    let open = listed(stage, &["--state", "open"]);
    let of = |side: &str| {
        let ids = open.iter().filter_map(|entry| entry["id"].as_str());
        ids.filter(|id| id.starts_with(side)).map(str::to_owned).collect::<Vec<_>>()
    };
    let [blue, green] = [of("blue"), of("green")];
    assert_eq!((blue.len(), green.len()), (1, 1), "{open:?}");
    [blue[0].clone(), green[0].clone()]
}

#[test]
fn l8_counter_example_35_one_unique_value_under_two_keys_is_recorded_as_open_and_the_links_go_on() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = two_persons(&format!("unique_{}", &policy[..4]), policy);
        follow(&stage).expect(0).says("recorded as open").keeps_quiet_about("secret");
        stage.blue.sql("UPDATE person SET note = 'blue goes on' WHERE id IN (1, 10)");
        stage.green.sql("UPDATE person SET note = 'green goes on' WHERE id IN (2, 11)");
        follow(&stage).expect(0).keeps_quiet_about("secret");
        for side in [&stage.blue, &stage.green] {
            let others = side.rows("SELECT id, note FROM person WHERE id >= 10 ORDER BY id");
            assert_eq!(others, [["10", "blue goes on"], ["11", "green goes on"]]);
        }
        assert_eq!(mails(&stage.blue), [["1", "blue goes on"]]);
        assert_eq!(mails(&stage.green), [["2", "green goes on"]]);
        let [blue, green] = open_pair(&stage);
        let shown = stage.falkirk(&["conflicts", "show", &green]).expect(0).keeps_quiet_about("secret");
        shown.says("unique value");
        let shown = stage.falkirk(&["conflicts", "show", &green, "--values"]).expect(0);
        shown.says("{\"id\":1}").says("[{\"id\":\"2\"}]").says("secret@example").says("blue goes on");
        stage.falkirk(&["conflicts", "show", &blue, "--values"]).expect(0).says("{\"id\":2}").says("[{\"id\":\"1\"}]");
        // The application gives way: the links do the rest.
        stage.green.sql("UPDATE person SET mail = 'other@example' WHERE id = 2");
        let running = stage.start_falkirk(&["run"]);
        until("both rows stand on both sides", SOON, || stage.blue.count("person") == 4 && same(&stage, "person"));
        until("the records are closed", SOON, || listed(&stage, &["--state", "open"]).is_empty());
        running.terminate().expect(143);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn l8_counter_example_35_resolve_makes_either_row_give_way() {
    for (name, take) in [("unique_take_b", "blue"), ("unique_take_g", "green")] {
        let stage = two_persons(name, "green_wins");
        let running = stage.start_falkirk(&["run"]);
        until("both are recorded", SOON, || listed(&stage, &["--state", "open"]).len() == 2);
        let [_, green] = open_pair(&stage);
        stage.falkirk(&["conflicts", "resolve", &green, "--take", take]).expect(0).says("gives way");
        until("both sides agree", SOON, || stage.blue.count("person") == 3 && same(&stage, "person"));
        until("the records are closed", SOON, || listed(&stage, &["--state", "open"]).is_empty());
        let left = if take == "blue" { ["1", "of blue"] } else { ["2", "of green"] };
        assert_eq!(mails(&stage.green), [left]);
        running.terminate().expect(143);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn l8_counter_example_35_rows_that_both_sides_have_keep_their_own_value_until_one_gives_way() {
    let stage = stage("unique_update", PERSON, "blue_wins");
    stage.blue.sql("INSERT INTO person VALUES (1, 'one', 'x'), (2, 'two', 'x')");
    follow(&stage).expect(0);
    stage.blue.sql("UPDATE person SET mail = 'secret@example' WHERE id = 1");
    stage.green.sql("UPDATE person SET mail = 'secret@example' WHERE id = 2");
    let running = stage.start_falkirk(&["run"]);
    until("both are recorded", SOON, || listed(&stage, &["--state", "open"]).len() == 2);
    stage.blue.sql("UPDATE person SET note = 'y' WHERE id = 1");
    until("the rest of the row travels", SOON, || stage.green.count("(SELECT FROM person WHERE note = 'y')") == 1);
    let [blue, _] = open_pair(&stage);
    stage.falkirk(&["conflicts", "resolve", &blue, "--take", "blue"]).expect(0).says("gives way");
    until("both sides agree", SOON, || {
        same(&stage, "person")
            && stage.green.count("(SELECT FROM person WHERE id = 1 AND mail = 'secret@example')") == 1
    });
    until("the records are closed", SOON, || listed(&stage, &["--state", "open"]).is_empty());
    assert_eq!(stage.blue.value("SELECT mail FROM person WHERE id = 2"), "two");
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// What refers to persons, and what refers to that.
const LETTERS: &str = "CREATE TABLE letter (id int PRIMARY KEY, person_id int REFERENCES person, note text);
    CREATE TABLE page (id int PRIMARY KEY, letter_id int REFERENCES letter);
    ALTER TABLE letter REPLICA IDENTITY FULL; ALTER TABLE page REPLICA IDENTITY FULL";

#[test]
fn l8_counter_example_35_rows_that_refer_to_a_row_that_waits_wait_with_it_and_come_with_it() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = stage(&format!("unique_letters_{}", &policy[..4]), &format!("{PERSON}; {LETTERS}"), policy);
        follow(&stage).expect(0);
        // In one transaction with the row that they refer to, and later.
        for (side, number) in [(&stage.blue, 1), (&stage.green, 2)] {
            side.sql(&format!(
                "BEGIN; INSERT INTO person VALUES ({number}, 'secret@example', 'x');
                 INSERT INTO letter VALUES ({number}, {number}, 'secret');
                 UPDATE person SET note = 'y' WHERE id = {number}; COMMIT"
            ));
        }
        follow(&stage).expect(0).says("waits with it").keeps_quiet_about("secret");
        for (side, number) in [(&stage.blue, 1), (&stage.green, 2)] {
            side.sql(&format!(
                "INSERT INTO page VALUES ({number}, {number}), (1{number}, {number});
                 INSERT INTO letter VALUES (2{number}, {number}, 'gone soon'), (3{number}, NULL, 'to nobody');
                 UPDATE letter SET note = 'changed' WHERE id = {number}; DELETE FROM page WHERE id = 1{number}"
            ));
        }
        follow(&stage).expect(0).keeps_quiet_about("secret");
        stage.blue.sql("DELETE FROM letter WHERE id = 21");
        stage.green.sql("DELETE FROM letter WHERE id = 22");
        follow(&stage).expect(0);
        for side in [&stage.blue, &stage.green] {
            assert_eq!(side.count("(SELECT FROM letter WHERE note = 'to nobody')"), 2, "what refers to nobody travels");
        }
        let open = listed(&stage, &["--state", "open"]);
        let of_kind = |kind: &str| open.iter().filter(|entry| entry["kind"] == kind).collect::<Vec<_>>();
        // On each side one person, one letter, one page.
        assert_eq!((of_kind("unique").len(), of_kind("parent").len()), (2, 4), "{open:?}");
        let waits = of_kind("parent")[0]["id"].as_str().expect("an id").to_owned();
        stage.falkirk(&["conflicts", "show", &waits]).expect(0).says("waits with it").keeps_quiet_about("secret");
        stage.falkirk(&["conflicts", "resolve", &waits, "--take", "blue"]).expect(1).says("ROW_WAITS");
        let running = stage.start_falkirk(&["run"]);
        stage.green.sql("UPDATE person SET mail = 'other@example' WHERE id = 2");
        until("all of it stands on both sides", SOON, || {
            stage.blue.count("page") == 2 && ["person", "letter", "page"].iter().all(|table| same(&stage, table))
        });
        until("the records are closed", SOON, || listed(&stage, &["--state", "open"]).is_empty());
        assert_eq!(stage.green.value("SELECT note FROM letter WHERE id = 1"), "changed");
        assert_eq!(stage.green.value("SELECT note FROM person WHERE id = 1"), "y");
        running.terminate().expect(143);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn counter_example_35_under_stop_the_link_stops_at_the_second_row_and_goes_on_once_one_gives_way() {
    let stage = two_persons("unique_stop", "stop");
    let stopped = follow(&stage).expect(3).says("UNIQUE_CONFLICT").says("public.person").keeps_quiet_about("secret");
    // Both links may have stopped, each with a record of its own; one of them is said.
    let open = listed(&stage, &["--state", "open"]);
    let mut ids = open.iter().filter_map(|entry| entry["id"].as_str());
    let said = |id: &&str| stopped.err.contains(&format!("recorded as {id} "));
    let id = ids.find(said).unwrap_or_else(|| panic!("none of {open:?} is said\n{}", stopped.err)).to_owned();
    follow(&stage).expect(3);
    // Whichever link that was: the side that holds the record keeps its row.
    let kept = if id.starts_with("green") { "green" } else { "blue" };
    stage.falkirk(&["conflicts", "resolve", &id, "--take", kept]).expect(0);
    follow(&stage).expect(0);
    let left = if kept == "blue" { ["1", "of blue"] } else { ["2", "of green"] };
    until("both sides agree", SOON, || {
        follow(&stage).expect(0);
        same(&stage, "person")
    });
    assert_eq!(mails(&stage.blue), [left]);
    stage.falkirk(&["clean"]).expect(0);
}
