//! One link applies and the other one only watches for a while: what the watched side writes waits, is not lost, and
//! both sides agree once both links apply.

use falkirk_tests::{SOON, Stage, until};

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, note text);
    ALTER TABLE item REPLICA IDENTITY FULL;";

const ALL: &str = "SELECT * FROM item";

fn turn(stage: &Stage, direction: &str, policy: &str) {
    stage.config(direction, &format!("rollback = \"watch\"\nconflict = \"{policy}\"\ntransforms = []"));
}

/// Forty rows on both sides, and the forward link alone has brought them there.
fn stage(name: &str, policy: &str) -> Stage {
    let stage = Stage::new(name);
    stage.schemas(TABLES, TABLES);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 0, 'old' FROM generate_series(1, 40) n");
    turn(&stage, "forward", policy);
    follow(&stage);
    assert_eq!(stage.green.count("item"), 40);
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

/// Until nothing more moves: what one link writes last, the other one has read.
fn agree(stage: &Stage) {
    (0..3).for_each(|_| follow(stage));
    stage.assert_same(ALL, ALL);
}

#[test]
fn l1_counter_example_17_what_green_wrote_while_only_forward_applied_reaches_blue_once_both_do() {
    let stage = stage("stopped_back", "green_wins");
    let host = stage.start_falkirk(&["run"]);
    // Green's own rows and columns, and blue's, over many transactions; the host is killed and started in between.
    let write = |part: u32| {
        stage.green.sql(&format!(
            "INSERT INTO item VALUES (1000 + {part}, {part}, 0, 'green'); UPDATE item SET a = {part} WHERE id BETWEEN 1 AND 10;
             UPDATE item SET note = 'green {part}' WHERE id = 1000 + {part} - 1; DELETE FROM item WHERE id = 31 + {part} / 10"
        ));
        stage.blue.sql(&format!(
            "INSERT INTO item VALUES (2000 + {part}, {part}, 0, 'blue'); UPDATE item SET a = {part} WHERE id BETWEEN 11 AND 20"
        ));
    };
    (0..50).for_each(write);
    until("blue's rows arrive", SOON, || stage.green.count("(SELECT FROM item WHERE id >= 2000)") == 50);
    host.kill_9();
    let host = stage.start_falkirk(&["run"]);
    (50..90).for_each(write);
    until("blue's rows arrive", SOON, || stage.green.count("(SELECT FROM item WHERE id >= 2000)") == 90);
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE note LIKE 'green%')"), 0, "only forward applies");
    host.terminate().expect(143);
    turn(&stage, "both", "green_wins");
    agree(&stage);
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE note LIKE 'green%')"), 90);
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE id <= 40)"), 40 - 9, "what green deleted is gone");
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE id <= 20 AND a = 89)"), 20);
    for side in [&stage.blue, &stage.green] {
        assert_eq!(side.admin("SELECT count(*) FROM falkirk.conflict")[0][0], "0", "nobody met anybody");
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l1_what_blue_wrote_while_only_backward_applied_reaches_green_once_both_do() {
    let stage = stage("stopped_forth", "blue_wins");
    turn(&stage, "both", "blue_wins");
    follow(&stage);
    turn(&stage, "backward", "blue_wins");
    let host = stage.start_falkirk(&["run"]);
    for part in 0..50 {
        stage.blue.sql(&format!(
            "INSERT INTO item VALUES (2000 + {part}, {part}, 0, 'blue'); UPDATE item SET a = {part} WHERE id <= 10;
             DELETE FROM item WHERE id = 31 + {part} / 10"
        ));
        stage.green.sql(&format!("INSERT INTO item VALUES (1000 + {part}, {part}, 0, 'green')"));
    }
    until("green's rows arrive", SOON, || stage.blue.count("(SELECT FROM item WHERE note = 'green')") == 50);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE note = 'blue')"), 0, "only backward applies");
    host.terminate().expect(143);
    turn(&stage, "both", "blue_wins");
    agree(&stage);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE note = 'blue')"), 50);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE id <= 10 AND a = 49)"), 10);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE id <= 40)"), 35);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_what_both_sides_changed_while_only_forward_applied_is_decided_once_both_do() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = stage(&format!("stopped_{policy}"), policy);
        let host = stage.start_falkirk(&["run"]);
        // Before, after and at the same time as blue's changes of the same and of another column arrive.
        stage.green.sql("UPDATE item SET a = 2, note = 'green' WHERE id BETWEEN 1 AND 10");
        stage.blue.sql("UPDATE item SET a = 1, b = 1 WHERE id BETWEEN 1 AND 20");
        until("blue's changes arrive", SOON, || stage.green.count("(SELECT FROM item WHERE b = 1)") == 20);
        stage.green.sql("UPDATE item SET a = 3, note = 'green' WHERE id BETWEEN 11 AND 15");
        host.terminate().expect(143);
        stage.green.sql("UPDATE item SET a = 4 WHERE id BETWEEN 16 AND 30");
        stage.blue.sql(
            "UPDATE item SET a = 5, b = 5 WHERE id BETWEEN 16 AND 30; DELETE FROM item WHERE id BETWEEN 31 AND 33",
        );
        turn(&stage, "both", policy);
        agree(&stage);
        let a = |from: u32, to: u32| {
            stage.blue.lines(&format!("SELECT DISTINCT a, b, note FROM item WHERE id BETWEEN {from} AND {to}"))
        };
        let green = policy == "green_wins";
        // Green wrote 1 to 10 without knowing of blue's change.
        assert_eq!(a(1, 10), [if green { "(2,1,green)" } else { "(1,1,green)" }], "{policy}");
        assert_eq!(a(11, 15), ["(3,1,green)"], "{policy}: green knew of blue's change");
        assert_eq!(a(16, 30), [if green { "(4,5,old)" } else { "(5,5,old)" }], "{policy}");
        assert_eq!(stage.green.count("item"), 37);
        stage.falkirk(&["clean"]).expect(0);
    }
}
