//! The way back while only one link applies: what the other one sees of its source's own changes, whether they would
//! fit, and the moves from one direction to another (counter-example 17).

use falkirk_tests::{SOON, Stage, cart_component, cart_schemas, shop_component, shop_schemas, until};
use serde_json::Value;

const ITEM: &str =
    "CREATE TABLE item (id int PRIMARY KEY, flag int, note text); ALTER TABLE item REPLICA IDENTITY FULL";

const FORWARD: &str = "rollback = \"watch\"\ntransforms = []";
const BOTH: &str = "rollback = \"watch\"\nconflict = \"blue_wins\"\ntransforms = []";

fn items(name: &str, more: &str) -> Stage {
    let stage = Stage::new(name);
    stage.schemas(ITEM, ITEM);
    stage.blue.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 20) n");
    stage.config("forward", more);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage
}

fn own_writes(stage: &Stage) {
    stage.green.sql(
        "INSERT INTO item VALUES (100, 1, 'made on green'), (101, 1, 'and gone again');
         UPDATE item SET note = 'green' WHERE id = 1;
         DELETE FROM item WHERE id IN (2, 101)",
    );
}

fn same(stage: &Stage) -> bool {
    stage.same("SELECT * FROM item", "SELECT * FROM item")
}

/// What the watching link has noted.
fn readiness(stage: &Stage) -> Value {
    stage.falkirk(&["status", "--json"]).expect(0).json()["other"]["readiness"].clone()
}

fn changes(stage: &Stage) -> u64 {
    let tables = readiness(stage)["tables"].as_array().cloned().unwrap_or_default();
    tables.iter().filter_map(|table| table["changes"].as_u64()).sum()
}

#[test]
fn counter_example_17_own_writes_on_green_are_shown_while_forward_applies_and_travel_once_both_do() {
    let stage = items("ready_both", FORWARD);
    let running = stage.start_falkirk(&["run"]);
    until("nothing is there to be shown", SOON, || stage.falkirk(&["status"]).out.contains("watching"));
    own_writes(&stage);
    stage.blue.sql("UPDATE item SET note = 'blue' WHERE id = 3");
    until("status shows green's own changes", SOON, || changes(&stage) == 5);
    until("blue's change arrives", SOON, || stage.green.count("(SELECT FROM item WHERE note = 'blue')") == 1);
    let shown = stage.falkirk(&["status"]).expect(0);
    shown.says("a second writer").says("public.item 5").says("2 rows tried").says("0 would not fit");
    assert_eq!(
        stage.blue.count("(SELECT FROM item WHERE note LIKE '%green%')"),
        0,
        "a link that watches writes nothing"
    );
    running.terminate().expect(143);
    stage.config("both", BOTH);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage) && stage.blue.count("(SELECT FROM item WHERE note LIKE '%green%')") == 2);
    let status = stage.falkirk(&["status", "--json"]).expect(0).json();
    assert_eq!((&status["other"]["readiness"], &status["other"]["phase"]), (&Value::Null, &"streaming".into()));
    assert_eq!((&status["applies"], &status["other"]["applies"]), (&true.into(), &true.into()));
    for link in [&status, &status["other"]] {
        assert!(link["conflicts"]["open"].is_number() && link["agreements"].is_number(), "{link}");
    }
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_17_own_writes_on_green_travel_once_backward_applies_and_back_again() {
    let stage = items("ready_backward", FORWARD);
    own_writes(&stage);
    stage.config("backward", FORWARD);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage) && stage.blue.count("(SELECT FROM item WHERE note LIKE '%green%')") == 2);
    stage.blue.sql("INSERT INTO item VALUES (200, 1, 'blue')");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!((changes(&stage), stage.green.count("(SELECT FROM item WHERE id = 200)")), (1, 0));
    stage.config("forward", FORWARD);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage) && stage.green.count("(SELECT FROM item WHERE id = 200)") == 1);
    stage.falkirk(&["clean"]).expect(0);
}

/// What may be changed on both sides while nobody keeps one side's log.
const UNSEEN: &str = "INSERT INTO item VALUES (100, 1, 'made unseen'); UPDATE item SET note = 'unseen' WHERE id = 1;
    DELETE FROM item WHERE id = 2";

#[test]
fn counter_example_17_without_a_way_back_both_is_refused_and_a_recopy_leads_out() {
    for (first, link) in [("forward", &["recopy", "--backward"][..]), ("backward", &["recopy"])] {
        let none = "rollback = \"none\"\ntransforms = []";
        let stage = Stage::new(&format!("ready_none_{first}"));
        stage.schemas(ITEM, ITEM);
        let (from, to) = if first == "forward" { (&stage.blue, &stage.green) } else { (&stage.green, &stage.blue) };
        from.sql("INSERT INTO item SELECT n, 0, 'old' FROM generate_series(1, 20) n");
        stage.config(first, none);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        to.sql(UNSEEN);
        from.sql("UPDATE item SET note = 'followed' WHERE id = 3");
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        stage.config("both", BOTH);
        let advised = format!("`falkirk {}`", link.join(" "));
        let refused = |command: &[&str]| {
            stage.falkirk(command).expect(1).says("NO_WAY_BACK").says(&advised).says("--force");
        };
        refused(&["check"]);
        refused(&["run", "--until", "caught-up"]);
        // The wrong link names the right one.
        let wrong: &[&str] = if first == "forward" { &["recopy"] } else { &["recopy", "--backward"] };
        refused(wrong);
        // It lists first, and the way stays closed.
        let listed = stage.falkirk(link).expect(1);
        listed.says("public.item").says("note").says("not open yet");
        assert!(!same(&stage) && to.count("(SELECT FROM item WHERE id = 2)") == 0, "nothing was written");
        refused(&["check"]);
        refused(&["run", "--until", "caught-up"]);
        let json = stage.falkirk(&[link, &["--force", "--json"]].concat()).expect(0).json();
        assert_eq!((&json["rows_written"], &json["missing"]["rows_written"]), (&2.into(), &1.into()), "{json}");
        stage.falkirk(&["check"]).expect(0);
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        assert!(same(&stage), "both sides are equal");
        // What one side had removed unseen cannot be told from what the other one made: it came back.
        assert_eq!(
            from.rows("SELECT id, note FROM item WHERE id IN (1, 2, 3, 100) ORDER BY id"),
            [["1", "unseen"], ["2", "old"], ["3", "followed"], ["100", "made unseen"]]
        );
        // From here on both links apply like any others.
        to.sql("DELETE FROM item WHERE id = 2; INSERT INTO item VALUES (300, 1, 'seen')");
        from.sql("UPDATE item SET note = 'seen too' WHERE id = 100");
        stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        assert!(same(&stage) && from.count("(SELECT FROM item WHERE id = 2)") == 0);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn counter_example_17_without_a_way_back_one_direction_goes_on_and_another_is_told_to_be_both_first() {
    let stage = items("ready_none", "rollback = \"none\"\ntransforms = []");
    stage.config("backward", BOTH);
    let refused = stage.falkirk(&["run", "--until", "caught-up"]).expect(1);
    refused.says("NO_WAY_BACK").says("direction = \"both\"").says("recopy --backward");
    stage.falkirk(&["check"]).expect(1).says("NO_WAY_BACK");
    stage.config("forward", "rollback = \"none\"\ntransforms = []");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_17_where_rows_depend_on_others_no_recopy_is_advised_but_a_new_copy() {
    let stage = Stage::new("ready_cart");
    let [blue, green] = cart_schemas();
    stage.schemas(&blue, &green);
    let cart = Stage::transforms(Some(cart_component()));
    stage.blue.sql("INSERT INTO customer (id, name) VALUES (1, 'Ann')");
    stage.config("forward", &format!("rollback = \"none\"\n{cart}"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.green.sql("UPDATE customer SET name = 'Bea'");
    stage.config("both", &format!("conflict = \"green_wins\"\n{cart}"));
    for command in [&["check"][..], &["run", "--until", "caught-up"], &["recopy", "--backward", "--force"]] {
        stage.falkirk(command).expect(1).says("NO_WAY_BACK").says("falkirk clean").keeps_quiet_about("recopy");
    }
    stage.falkirk(&["clean"]).expect(0);
    stage.green.sql("TRUNCATE customer, cart, cart_line, product");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(stage.same("SELECT id, name FROM customer", "SELECT id, name FROM customer"));
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_table_that_comes_to_both_sides_later_closes_no_way_and_check_says_what_the_start_does() {
    let stage = items("ready_later", FORWARD);
    let later = "CREATE TABLE keyless (n int); INSERT INTO keyless VALUES (1)";
    stage.blue.sql(later);
    stage.green.sql(later);
    own_writes(&stage);
    stage.config("both", BOTH);
    stage.falkirk(&["check"]).expect(0).keeps_quiet_about("NO_WAY_BACK");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same(&stage) && stage.blue.count("(SELECT FROM item WHERE note LIKE '%green%')") == 2);
    stage.falkirk(&["clean"]).expect(0);
    // Where it was there before the first start, both refuse, for both links.
    for command in [&["check"][..], &["run", "--until", "caught-up"]] {
        stage.falkirk(command).expect(1).says("public.keyless");
    }
}

#[test]
fn what_only_the_way_back_lacks_is_named_by_check_as_by_the_start() {
    let stage = Stage::new("ready_check_back");
    let trigger = "CREATE FUNCTION does() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER does BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION does()";
    stage.schemas(&format!("{ITEM}; {trigger}"), ITEM);
    stage.config("both", BOTH);
    for command in [&["check"][..], &["run", "--until", "caught-up"]] {
        stage.falkirk(command).expect(1).says("TARGET_TRIGGERS").says("public.item");
    }
    stage.config("forward", "rollback = \"none\"\ntransforms = []");
    stage.falkirk(&["check"]).expect(0);
}

#[test]
fn rows_that_blue_could_not_hold_are_counted_by_reason_and_named_without_values_until_they_fit() {
    let stage = Stage::new("ready_unfit");
    let identity = "ALTER TABLE owner REPLICA IDENTITY FULL; ALTER TABLE thing REPLICA IDENTITY FULL";
    stage.schemas(
        &format!(
            "CREATE TABLE owner (id int PRIMARY KEY);
             CREATE TABLE thing (id int PRIMARY KEY, code text UNIQUE, owner_id int REFERENCES owner, note text NOT NULL);
             {identity}"
        ),
        &format!(
            "CREATE TABLE owner (id int PRIMARY KEY);
             CREATE TABLE thing (id int PRIMARY KEY, code text, owner_id int, note text); {identity}"
        ),
    );
    stage.blue.sql("INSERT INTO owner VALUES (1); INSERT INTO thing VALUES (1, 'taken', 1, 'x')");
    stage.config("forward", FORWARD);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    stage.green.sql(
        "INSERT INTO owner VALUES (2);
         INSERT INTO thing VALUES (7654321, 'taken', 1, 'y'), (3, 'c', 99, 'y'), (4, 'd', 2, NULL), (5, 'e', 2, 'y')",
    );
    let running = stage.start_falkirk(&["run"]);
    let unfit = |stage: &Stage| {
        let tables = readiness(stage)["tables"].as_array().cloned().unwrap_or_default();
        let thing = tables.iter().find(|table| table["table"] == "public.thing").cloned().unwrap_or_default();
        let reasons = thing["unfit"].as_array().cloned().unwrap_or_default();
        let reason = |one: &Value| one["reason"].as_str().unwrap_or_default().to_owned();
        (thing["unfit_rows"].as_u64().unwrap_or(0), reasons.iter().map(reason).collect::<Vec<_>>())
    };
    until("all three are found", SOON, || {
        unfit(&stage) == (3, vec!["FOREIGN_KEY".into(), "NOT_NULL".into(), "UNIQUE".into()])
    });
    let shown = stage.falkirk(&["status"]).expect(0).says("5 rows tried").says("3 would not fit").says("#");
    shown.says("NOT_NULL note: 1 rows").says("UNIQUE thing_code_key: 1 rows").keeps_quiet_about("7654321");
    stage.falkirk(&["status", "--values"]).expect(0).says("{\"id\":\"7654321\"}").says("{\"id\":\"4\"}");
    stage.green.sql("UPDATE thing SET note = 'z' WHERE id = 4; DELETE FROM thing WHERE id = 7654321");
    until("what fits by now is named no more", SOON, || unfit(&stage) == (1, vec!["FOREIGN_KEY".into()]));
    assert_eq!(stage.blue.count("thing"), 1, "nothing was written");
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn the_trial_of_the_way_back_runs_the_transform_and_a_share_of_none_leaves_it_out() {
    let stage = Stage::new("ready_shop");
    let [blue, green] = shop_schemas();
    // Both directions read these tables, and some of their rules need old values.
    let full = "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        LOOP EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name); END LOOP; END $$";
    stage.schemas(&format!("{blue};{full}"), &format!("{green};{full}"));
    let transforms = format!("rollback = \"watch\"\n{}", Stage::transforms(Some(shop_component())));
    stage.config("forward", &transforms);
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    // Blue's price has ten digits.
    stage.green.sql(
        "INSERT INTO product (id, label, price_cents, state) VALUES (1, 'fine', 100, 'on_sale'), (2, 'dear', 123456789012345, 'on_sale')",
    );
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let product = readiness(&stage)["tables"][0].clone();
    assert_eq!((&product["tried_rows"], &product["unfit_rows"]), (&2.into(), &1.into()), "{product}");
    let unfit = &product["unfit"][0];
    assert_eq!((&unfit["reason"], &unfit["name"]), (&"VALUE".into(), &"price".into()), "{unfit}");
    stage.config("forward", &format!("{transforms}[rollback]\ntrial_share = 0.0"));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let product = readiness(&stage)["tables"][0].clone();
    assert_eq!((&product["changes"], &product["tried_rows"]), (&2.into(), &0.into()), "{product}");
    stage.config("forward", &format!("{transforms}[rollback]\ntrial_share = 2.0"));
    stage.falkirk(&["check"]).expect(1).says("rollback.trial_share");
    stage.config("forward", &transforms);
    stage.falkirk(&["clean"]).expect(0);
}
