//! Counter-examples of the contract that need both links.

use std::time::Duration;

use falkirk_tests::{SOON, Stage, shop_component, shop_schemas, until};

fn both(name: &str, blue: &str, green: &str, more: &str) -> Stage {
    let stage = Stage::new(name);
    stage.schemas(blue, green);
    stage.config("both", &format!("conflict = \"blue_wins\"\ntransforms = []\n{more}"));
    stage
}

fn conflicts(stage: &Stage) -> [String; 2] {
    [&stage.blue, &stage.green].map(|side| side.admin("SELECT count(*) FROM falkirk.conflict")[0][0].clone())
}

#[test]
fn counter_example_3_what_the_target_holds_is_compared_with_nothing_so_no_type_and_no_trigger_stops_a_link() {
    // Types without an equality of their own, padded ones, rounded ones; and a trigger that rewrites what is written.
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, price numeric(10,2), document json, place point, code char(5), note text);
        ALTER TABLE t REPLICA IDENTITY FULL;";
    let trigger = "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.note = upper(NEW.note); RETURN NEW; END $$;
        CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION loud();";
    let more = "[tables]\nallow_triggers = [\"public.t\"]\n";
    let stage = both("ce_3", table, &format!("{table}{trigger}"), more);
    stage.blue.sql(r#"INSERT INTO t VALUES (1, 1.005, '{"a": 1, "a":  2}', '(1.5,-2)', 'a', 'quiet')"#);
    let host = stage.start_falkirk(&["run"]);
    until("the copy arrives", SOON, || stage.green.count("t") == 1);
    let rest = "SELECT id, price, document::text, place::text, code FROM t";
    for (side, other, price) in [
        (&stage.blue, &stage.green, "2.01"),
        (&stage.green, &stage.blue, "3.01"),
        (&stage.blue, &stage.green, "4.01"),
        (&stage.green, &stage.blue, "5.01"),
    ] {
        // There and back again within one transaction as well: nothing but who knew of whom counts.
        side.sql(&format!(
            r#"BEGIN; UPDATE t SET price = 0, note = 'other'; UPDATE t SET price = {price}4, note = 'quiet', code = 'b';
            UPDATE t SET document = '{{"b":  {price}}}', place = '({price},NaN)'; COMMIT"#
        ));
        until("the other side has it", SOON, || other.value("SELECT price FROM t") == price);
    }
    stage.assert_same(rest, rest);
    assert_eq!(stage.green.value("SELECT note FROM t"), "QUIET");
    assert_eq!(conflicts(&stage), ["0", "0"], "nobody met anybody");
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_33_two_hosts_never_share_the_links_and_one_that_lost_either_writes_neither() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL;";
    let stage = both("ce_33", table, table, "");
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let first = stage.start_falkirk(&["run"]);
    stage.blue.sql("INSERT INTO t VALUES (1, 1)");
    stage.green.sql("INSERT INTO t VALUES (2, 2)");
    let same = || stage.same("SELECT * FROM t", "SELECT * FROM t");
    until("the first host carries both ways", SOON, || stage.green.count("t") == 2 && same());
    stage.falkirk(&["run"]).expect(1).says("LINK_HELD");
    stage.blue.sql("INSERT INTO t VALUES (3, 3)");
    stage.green.sql("INSERT INTO t VALUES (4, 4)");
    until("it still does", SOON, || stage.green.count("t") == 4 && same());
    // Somebody takes over one link: the host that has lost it must not go on with the other one.
    stage.blue.admin("UPDATE falkirk.checkpoint SET epoch = epoch + 1");
    stage.green.sql("INSERT INTO t VALUES (5, 5)");
    first.wait(Duration::from_secs(30)).expect(1).says("FENCED");
    stage.blue.sql("INSERT INTO t VALUES (6, 6)");
    assert_eq!(
        (stage.blue.count("(SELECT FROM t WHERE id = 5)"), stage.green.count("(SELECT FROM t WHERE id = 6)")),
        (0, 0)
    );
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(same() && stage.green.count("t") == 6);
    stage.falkirk(&["clean"]).expect(0);
}

const FULL: &str = "DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name); END LOOP; END $$";

#[test]
fn l8_counter_example_22_a_corrected_split_and_an_odd_name_agree_and_a_wrong_value_does_not() {
    let stage = Stage::new("ce_22");
    let [blue, green] = shop_schemas();
    stage.schemas(&format!("{blue};{FULL}"), &format!("{green};{FULL}"));
    stage.config("both", &format!("conflict = \"green_wins\"\n{}", Stage::transforms(Some(shop_component()))));
    stage.blue.sql(
        "INSERT INTO customer (id, name, email) VALUES (1, 'Mary Ann Smith', 'mary@x'), (2, 'Ann  Smith', 'ann@x'), (3, 'Bo', 'bo@x')",
    );
    let follow = || drop(stage.falkirk(&["run", "--until", "caught-up"]).expect(0));
    follow();
    stage.green.sql("UPDATE customer SET first_name = 'Mary Ann', last_name = 'Smith' WHERE id = 1");
    (0..2).for_each(|_| follow());
    assert_eq!(
        stage.blue.value("SELECT name FROM customer WHERE id = 1"),
        "Mary Ann Smith",
        "nothing of it is blue's to know"
    );
    let customer = |code: i32| {
        let verdict = stage.falkirk(&["verify", "--json"]).expect(code).json();
        let tables = verdict["tables"].as_array().unwrap().clone();
        let table = tables.into_iter().find(|table| table["table"] == "public.customer").unwrap();
        ["rows_compared", "rows_differ", "rows_corrected"].map(|name| table[name].as_u64().unwrap())
    };
    assert_eq!(customer(0), [3, 0, 1]);
    // The correction, and beside it a value that nobody can have meant.
    stage.green.sql("UPDATE customer SET email = 'wrong@x' WHERE id = 1");
    assert_eq!(customer(1), [3, 1, 0]);
    stage
        .green
        .sql("UPDATE customer SET email = 'mary@x' WHERE id = 1; UPDATE customer SET last_name = 'Smyth' WHERE id = 1");
    assert_eq!(customer(1), [3, 1, 0]);
    (0..2).for_each(|_| follow());
    assert_eq!(
        (customer(0), stage.blue.value("SELECT name FROM customer WHERE id = 1").as_str()),
        ([3, 0, 1], "Mary Ann Smyth")
    );
    stage.falkirk(&["clean"]).expect(0);
}
