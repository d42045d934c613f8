//! Both links at once: what each side's application writes reaches the other side, and comes back from nowhere.

use falkirk::marker::{Denial, MigrationId, PREFIX, row_digest};
use falkirk::names::TableName;
use falkirk_tests::{Open, SOON, Stage, until};

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

#[test]
fn l8_a_row_made_while_its_removal_finds_none_does_not_stay_on_one_side() {
    let stage = Stage::new("both_denied");
    let tables = format!("{ITEM}; CREATE TABLE slow (id int PRIMARY KEY); ALTER TABLE slow REPLICA IDENTITY FULL");
    stage.schemas(&tables, &tables);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 20) n");
    stage.config("both", "conflict = \"blue_wins\"\ntransforms = []");
    let running = stage.start_falkirk(&["run"]);
    until("the copy arrives", SOON, || stage.green.count("item") == 20);
    // Once written, a table's statement is prepared: forward then looks for its rows before it waits for this table.
    stage.blue.sql("INSERT INTO slow VALUES (0)");
    until("its first row arrives", SOON, || stage.green.count("slow") == 1);
    // Both sides delete the row, and blue does not hear of green's delete.
    let deaf = Open::transaction(&stage.blue.administrator_url(), "LOCK TABLE falkirk.checkpoint IN EXCLUSIVE MODE");
    stage.green.sql("DELETE FROM item WHERE id = 7");
    // Forward looks for the row, finds none, and has to wait before it may commit.
    let late = Open::transaction(&stage.green.administrator_url(), "LOCK TABLE slow IN ACCESS EXCLUSIVE MODE");
    stage.blue.sql("BEGIN; DELETE FROM item WHERE id = 7; INSERT INTO slow VALUES (1); COMMIT");
    until("forward waits", SOON, || {
        stage.green.admin("SELECT FROM pg_locks WHERE relation = 'slow'::regclass AND NOT granted").len() == 1
    });
    stage.green.sql("INSERT INTO item VALUES (7, 1, 'made meanwhile')");
    drop(late);
    until("forward has gone on", SOON, || stage.green.count("slow") == 2);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE id = 7)"), 1, "what is not there cannot be locked");
    drop(deaf);
    until("the row is gone on both sides", SOON, || stage.green.count("item") == 19 && same(&stage));
    // What is said of the row is heard before the batch ends that records why.
    until("L3: it is recorded", SOON, || stage.blue.admin("SELECT kind FROM falkirk.conflict") == [["insert"]]);
    stage.green.sql("INSERT INTO item VALUES (7, 2, 'made after it')");
    until("a later one stays", SOON, || stage.blue.count("item") == 20 && same(&stage));
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_a_denial_is_carried_out_with_both_links_on_and_one_alone_refuses_it_by_name() {
    let stage = items("both_needed", "blue_wins");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    // As the backward link would have said it before the host was stopped.
    let id = stage.blue.admin("SELECT replace(id::text, '-', '') FROM falkirk.migration")[0][0].clone();
    let id = u128::from_str_radix(&id, 16).expect("an id is hexadecimal").to_be_bytes();
    let table = TableName::new("public", "item");
    let row = row_digest(&table, std::iter::once(b"3".as_slice()));
    let denial = Denial { row, record: 0, details: false, table, key: vec!["3".to_owned()] };
    let hex: String = denial.to_bytes(MigrationId(id)).iter().map(|byte| format!("{byte:02x}")).collect();
    stage.blue.admin(&format!("SELECT pg_logical_emit_message(true, '{PREFIX}', '\\x{hex}'::bytea)"));
    stage.config("forward", "rollback = \"watch\"\nconflict = \"blue_wins\"\ntransforms = []");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(3).says("BOTH_NEEDED").says("public.item");
    assert_eq!(stage.green.count("item"), 20, "nothing is written");
    stage.config("both", "conflict = \"blue_wins\"\ntransforms = []");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(stage.green.count("(SELECT FROM item WHERE id = 3)"), 0);
    assert_eq!((stage.green.count("item"), stage.blue.count("item")), (19, 20), "only what was denied is removed");
    stage.falkirk(&["clean"]).expect(0);
}

const FAMILY: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, note text);
    CREATE TABLE child (id int PRIMARY KEY, parent_id int NOT NULL REFERENCES parent ON DELETE CASCADE, note text);
    CREATE TABLE trail (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text);
    ALTER TABLE parent REPLICA IDENTITY FULL;
    ALTER TABLE child REPLICA IDENTITY FULL;
    ALTER TABLE trail REPLICA IDENTITY FULL;";

#[test]
fn l7_counter_example_12_what_cascades_and_triggers_do_beside_the_link_travels_and_what_the_link_wrote_does_not() {
    let stage = Stage::new("both_beside");
    // Only green keeps a trail: its trigger's rows are green's own.
    let trigger = "
        CREATE FUNCTION keep_trail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.trail (note) VALUES (TG_OP || ' ' || NEW.note); RETURN NULL; END $$;
        CREATE TRIGGER keep_trail AFTER INSERT OR UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION keep_trail();";
    stage.schemas(FAMILY, FAMILY);
    // The trigger writes as whoever fires it.
    stage.config("both", "conflict = \"blue_wins\"\ntransforms = []\n[tables]\nallow_triggers = [\"public.parent\"]");
    stage.blue.sql("INSERT INTO parent VALUES (1, 'one'), (2, 'two'); INSERT INTO child VALUES (10, 1, 'ten')");
    let follow = || stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    follow();
    stage.green.sql(trigger);
    // A child that blue does not know of yet, and blue deletes its parent.
    let running = stage.start_falkirk(&["run"]);
    stage.green.sql("INSERT INTO child VALUES (20, 2, 'twenty')");
    until("the child arrives", SOON, || stage.blue.count("child") == 2);
    running.terminate().expect(143);
    stage.green.sql("INSERT INTO child VALUES (11, 1, 'eleven')");
    stage
        .blue
        .sql("DELETE FROM child WHERE parent_id = 1; DELETE FROM parent WHERE id = 1; UPDATE parent SET note = 'zwei'");
    for _ in 0..3 {
        follow();
    }
    for table in ["parent", "child", "trail"] {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
    assert_eq!(
        stage.blue.rows("SELECT id FROM child"),
        [["20"]],
        "the child that died by the cascade died on both sides"
    );
    assert_eq!(stage.blue.lines("SELECT note FROM trail WHERE note LIKE 'UPDATE%'"), ["(\"UPDATE zwei\")"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l7_counter_example_12_references_that_are_set_to_null_and_rows_that_a_trigger_updates_travel() {
    let stage = Stage::new("both_set_null");
    let tables = "
        CREATE TABLE parent (id int PRIMARY KEY, note text);
        CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE SET NULL, note text);
        CREATE TABLE tally (id int PRIMARY KEY, gone int NOT NULL);
        ALTER TABLE parent REPLICA IDENTITY FULL;
        ALTER TABLE child REPLICA IDENTITY FULL;
        ALTER TABLE tally REPLICA IDENTITY FULL;";
    // Only green counts: what its trigger updates is green's own.
    let trigger = "
        CREATE FUNCTION count_gone() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE public.tally SET gone = gone + 1; RETURN NULL; END $$;
        CREATE TRIGGER count_gone AFTER DELETE ON parent FOR EACH ROW EXECUTE FUNCTION count_gone();";
    stage.schemas(tables, tables);
    stage.config("both", "conflict = \"blue_wins\"\ntransforms = []\n[tables]\nallow_triggers = [\"public.parent\"]");
    stage.blue.sql(
        "INSERT INTO parent VALUES (1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO tally VALUES (1, 0);
         INSERT INTO child VALUES (10, 1, 'ten'), (20, 2, 'twenty'), (30, 3, 'thirty')",
    );
    let follow = || stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    follow();
    stage.green.sql(trigger);
    let listed = "public.child: child_parent_id_fkey sets parent_id to NULL where a row of public.parent is deleted";
    stage.falkirk(&["check"]).expect(0).says(listed).says("triggers fire for what the link writes: count_gone");
    // A child that the other side does not know of yet, when that one deletes its parent.
    stage.green.sql("INSERT INTO child VALUES (11, 1, 'eleven'); UPDATE child SET note = 'on green' WHERE id = 10");
    stage.blue.sql("DELETE FROM parent WHERE id = 1");
    for _ in 0..3 {
        follow();
    }
    stage.blue.sql("INSERT INTO child VALUES (21, 2, 'twenty-one')");
    stage.green.sql("DELETE FROM parent WHERE id = 2");
    for _ in 0..3 {
        follow();
    }
    for table in ["parent", "child", "tally"] {
        let query = format!("SELECT * FROM {table}");
        stage.assert_same(&query, &query);
    }
    let children = "SELECT id, coalesce(parent_id, 0) FROM child ORDER BY id";
    assert_eq!(stage.blue.rows(children), [["10", "0"], ["11", "0"], ["20", "0"], ["21", "0"], ["30", "3"]]);
    assert_eq!(stage.blue.value("SELECT gone FROM tally"), "2", "what the trigger did beside the link travels once");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l5_l8_a_copy_that_is_stopped_in_the_middle_goes_on_with_both_links_and_both_sides_writing() {
    const ROWS: u64 = 100_000;
    let stage = Stage::new("both_mid_copy");
    stage.schemas(ITEM, ITEM);
    stage
        .blue
        .sql(&format!("INSERT INTO item SELECT n, 0, repeat('r', 200) FROM generate_series(1, {ROWS}) n; ANALYZE"));
    let copy = "[copy]\nchunk_mib = 1";
    stage.config("forward", &format!("rollback = \"watch\"\ntransforms = []\n{copy}"));
    let host = stage.start_falkirk(&["run"]);
    let finished = "SELECT FROM falkirk.chunk WHERE finished_at IS NOT NULL";
    let exists = "SELECT to_regclass('falkirk.chunk') IS NOT NULL";
    until("a chunk is copied", SOON, || {
        stage.green.admin(exists).concat() == ["t"] && stage.green.admin(finished).len() > 1
    });
    host.terminate().expect(143);
    let left = || stage.green.admin("SELECT FROM falkirk.chunk WHERE finished_at IS NULL").len();
    assert!(left() > 0 && stage.green.count("item") < ROWS, "the copy was over before the host was asked to end");
    // Green's users come while most rows are not there yet.
    stage.green.sql(
        "UPDATE item SET note = 'green' WHERE id IN (SELECT id FROM item ORDER BY id LIMIT 20);
         DELETE FROM item WHERE id IN (SELECT id FROM item ORDER BY id DESC LIMIT 20);
         INSERT INTO item SELECT 1000000 + n, 1, 'made on green' FROM generate_series(1, 20) n",
    );
    stage.config("both", &format!("conflict = \"blue_wins\"\ntransforms = []\n{copy}"));
    let host = stage.start_falkirk(&["run"]);
    let mut round = 0;
    until("the rest is copied while both sides write", SOON, || {
        round += 1;
        stage.green.sql(&format!(
            "INSERT INTO item VALUES (2000000 + {round}, 1, 'made on green');
             UPDATE item SET flag = {round} WHERE id % 97 = 0 AND id < 5000;
             DELETE FROM item WHERE id = {round} * 3"
        ));
        stage.blue.sql(&format!(
            "INSERT INTO item VALUES (3000000 + {round}, 2, 'made on blue');
             UPDATE item SET note = 'blue' WHERE id = {ROWS} - {round} OR id % 89 = 0 AND id < 5000;
             DELETE FROM item WHERE id = {round} * 3 + 1"
        ));
        left() == 0
    });
    host.terminate().expect(143);
    for _ in 0..2 {
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    }
    stage.assert_same("SELECT * FROM item", "SELECT * FROM item");
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE note = 'made on green')"), 20 + round);
    assert_eq!(stage.blue.count("(SELECT FROM item WHERE note = 'made on blue')"), round);
    stage.falkirk(&["clean"]).expect(0);
}
