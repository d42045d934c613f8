//! Both links at once: what each side's application writes reaches the other side, and comes back from nowhere.

use falkirk_tests::{SOON, Stage, until};

const ITEM: &str =
    "CREATE TABLE item (id int PRIMARY KEY, flag int, note text); ALTER TABLE item REPLICA IDENTITY FULL";

/// One table on both sides, and both links.
fn items(name: &str, policy: &str) -> Stage {
    let stage = Stage::new(name);
    stage.schemas(ITEM, ITEM);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 20) n");
    stage.config("both", &format!("conflict = \"{policy}\"\ntransforms = []"));
    stage
}

fn same(stage: &Stage) -> bool {
    stage.same("SELECT * FROM item", "SELECT * FROM item")
}

#[test]
fn l8_what_either_side_writes_reaches_the_other() {
    let stage = items("both_plain", "green_wins");
    let running = stage.start_falkirk(&["run"]);
    until("the copy arrives", SOON, || stage.green.count("item") == 20);
    stage.green.sql("UPDATE item SET note = 'green' WHERE id = 1; INSERT INTO item VALUES (100, 1, 'made on green')");
    stage.blue.sql("UPDATE item SET note = 'blue' WHERE id = 2; INSERT INTO item VALUES (200, 1, 'made on blue')");
    until("both sides hold all of it", SOON, || stage.green.count("item") == 22 && same(&stage));
    stage.green.sql("DELETE FROM item WHERE id IN (2, 200); UPDATE item SET id = 101 WHERE id = 100");
    until("both sides agree", SOON, || stage.blue.count("item") == 20 && same(&stage));
    assert_eq!(stage.blue.value("SELECT note FROM item WHERE id = 101"), "made on green");
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_caught_up_means_that_both_links_are() {
    let stage = items("both_caught_up", "blue_wins");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.green.sql("UPDATE item SET note = 'green' WHERE id <= 10");
    stage.blue.sql("UPDATE item SET note = 'blue' WHERE id > 10");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage));
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE note = 'green')"), 10);
    stage.falkirk(&["clean"]).expect(0);
}
