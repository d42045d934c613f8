//! The shop with both links on: rows that go to the other side and back, edited on each side on the way.

use falkirk_tests::{Running, SOON, Stage, shop_component, shop_schemas, until};

const TABLES: &str = "DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name); END LOOP; END $$";

fn shop(name: &str, policy: &str) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = shop_schemas();
    stage.schemas(&format!("{blue};{TABLES}"), &format!("{green};{TABLES}"));
    stage.config("both", &format!("conflict = \"{policy}\"\n{}", Stage::transforms(Some(shop_component()))));
    stage
}

const CUSTOMERS: &str = "SELECT id, name, email, tags FROM customer";
const NEW_CUSTOMERS: &str =
    "SELECT id, coalesce(first_name || ' ', '') || last_name AS name, email, tags FROM customer";
const PRODUCTS: &str = "SELECT id, title, (price * 100)::bigint AS cents, status::text FROM product";
const NEW_PRODUCTS: &str =
    "SELECT id, label, price_cents, CASE state WHEN 'hidden' THEN 'draft' WHEN 'on_sale' THEN 'active'
    ELSE 'gone' END AS status FROM product";
const ORDERS: &str = "SELECT id, customer_id, status, total FROM orders";
const NEW_ORDERS: &str = "SELECT id, customer_id, status, total FROM orders
    UNION ALL SELECT id, customer_id, status, total FROM archived_orders";
const COUPONS: &str = "SELECT code, percent FROM coupon";
const NEW_COUPONS: &str = "SELECT code, percent FROM coupon WHERE NOT deleted";

fn agree(stage: &Stage) -> bool {
    let pairs = [(CUSTOMERS, NEW_CUSTOMERS), (PRODUCTS, NEW_PRODUCTS), (ORDERS, NEW_ORDERS), (COUPONS, NEW_COUPONS)];
    pairs.iter().all(|(blue, green)| stage.same(blue, green))
}

fn agreed(stage: &Stage) {
    until("both sides agree", SOON, || agree(stage));
}

const ROWS: &str =
    "INSERT INTO customer (id, name, email) VALUES (1, 'Mary Ann Smith', 'mary@x'), (2, 'Bo Li', 'bo@x');
    INSERT INTO product (id, title, price, status) VALUES (1, 'Boat', 12.50, 'active');
    INSERT INTO orders (id, customer_id, status, total) VALUES (1, 1, 'new', 5), (2, 1, 'archived', 6);
    INSERT INTO coupon VALUES ('SESAME', 10), ('B', 20)";

fn started(stage: &Stage) -> Running {
    stage.blue.sql(ROWS);
    stage.falkirk(&["check"]).expect(0).says("ready");
    let host = stage.start_falkirk(&["run"]);
    until("the copy arrives", SOON, || stage.green.count("coupon") == 2 && agree(stage));
    host
}

#[test]
fn l8_the_shop_binds_both_ways_and_an_order_that_green_archives_is_archived_on_blue() {
    let stage = shop("round_orders", "green_wins");
    let host = started(&stage);
    for (first, then) in [
        (
            "INSERT INTO archived_orders SELECT id, customer_id, 'archived', total, placed_at FROM orders WHERE id = 1",
            "DELETE FROM orders WHERE id = 1",
        ),
        (
            "DELETE FROM archived_orders WHERE id = 1",
            "INSERT INTO orders (id, customer_id, status, total) VALUES (1, 1, 'paid', 7)",
        ),
    ] {
        stage.green.sql(&format!("BEGIN; {first}; {then}; COMMIT"));
        let status = if first.starts_with("INSERT") { "archived" } else { "paid" };
        until("blue has it", SOON, || stage.blue.value("SELECT status FROM orders WHERE id = 1") == status);
        agreed(&stage);
    }
    stage.blue.sql(
        "UPDATE orders SET status = 'archived', total = 8 WHERE id = 1; UPDATE orders SET status = 'sent' WHERE id = 2",
    );
    until("green has it", SOON, || stage.green.lines("SELECT id FROM archived_orders") == ["(1)"]);
    agreed(&stage);
    stage.green.sql("UPDATE archived_orders SET total = 9; INSERT INTO orders (id, customer_id, total) VALUES (30, 2, 3); DELETE FROM orders WHERE id = 2");
    agreed(&stage);
    assert_eq!(stage.blue.lines("SELECT id, status, total FROM orders"), ["(1,archived,9.00)", "(30,new,3.00)"]);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn a_row_that_goes_blue_green_blue_green_with_edits_on_each_side_keeps_every_value_that_each_side_ever_owned() {
    let stage = shop("round_trip", "green_wins");
    let host = started(&stage);
    let green =
        || stage.green.rows("SELECT first_name, last_name, email, loyalty_level, tags FROM customer WHERE id = 1");
    // Green: corrects the split and gives a level. Neither is blue's to know, so nothing of it may come back changed.
    stage
        .green
        .sql("UPDATE customer SET first_name = 'Mary Ann', last_name = 'Smith', loyalty_level = 'gold' WHERE id = 1");
    stage.green.sql("UPDATE customer SET tags = '{seen}' WHERE id = 1");
    until("blue has the tag", SOON, || stage.blue.value("SELECT tags::text FROM customer WHERE id = 1") == "{seen}");
    assert_eq!(stage.blue.value("SELECT name FROM customer WHERE id = 1"), "Mary Ann Smith");
    // Blue: another e-mail. The correction and the level stay.
    stage.blue.sql("UPDATE customer SET email = 'mary@y' WHERE id = 1");
    until("green has the e-mail", SOON, || green()[0][2] == "mary@y");
    assert_eq!(green(), [["Mary Ann", "Smith", "mary@y", "gold", "{seen}"]]);
    // Green: another last name, which is blue's name as a whole.
    stage.green.sql("UPDATE customer SET last_name = 'Jones' WHERE id = 1");
    until("blue has the name", SOON, || stage.blue.value("SELECT name FROM customer WHERE id = 1") == "Mary Ann Jones");
    assert_eq!(stage.blue.value("SELECT email FROM customer WHERE id = 1"), "mary@y");
    // Blue: a key of its own choice. It is the same customer.
    stage.blue.sql(
        "UPDATE customer SET tags = '{seen,blue}' WHERE id = 1; UPDATE customer SET email = 'mary@z' WHERE id = 1",
    );
    until("green has both", SOON, || green() == [["Mary Ann", "Jones", "mary@z", "gold", "{seen,blue}"]]);
    // A product, whose three columns all are computed or renamed.
    stage.green.sql("UPDATE product SET price_cents = 1999 WHERE id = 1");
    stage.blue.sql("UPDATE product SET status = 'gone' WHERE id = 1");
    stage.green.sql("UPDATE product SET label = 'Ship' WHERE id = 1");
    stage.blue.sql("UPDATE product SET picture = '\\x00ff' WHERE id = 1");
    let product = "(1,Ship,1999,\"\\\\x00ff\",withdrawn)";
    until("the product is whole", SOON, || stage.green.lines("SELECT * FROM product") == [product]);
    until("on both sides", SOON, || stage.blue.lines("SELECT * FROM product") == ["(1,Ship,19.99,\"\\\\x00ff\",gone)"]);
    agreed(&stage);
    // A coupon that green marks is gone on blue; one that blue deletes is marked on green.
    stage.green.sql("UPDATE coupon SET deleted = true WHERE code = 'B'");
    stage.blue.sql("DELETE FROM coupon WHERE code = 'SESAME'");
    until("both are gone on blue", SOON, || stage.blue.count("coupon") == 0);
    until("both are marked on green", SOON, || stage.green.count("(SELECT FROM coupon WHERE deleted)") == 2);
    host.terminate().expect(143);
    // And once more through a restart: nothing moves by itself.
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert!(agree(&stage));
    assert_eq!(green(), [["Mary Ann", "Jones", "mary@z", "gold", "{seen,blue}"]]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_an_order_that_both_sides_change_at_once_ends_in_one_table_whoever_wins() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = shop(&format!("round_{policy}"), policy);
        let host = started(&stage);
        // Neither side knows of the other's change: the links are down while both are made.
        host.terminate().expect(143);
        stage.blue.sql("UPDATE orders SET total = 50 WHERE id = 1; UPDATE orders SET status = 'sent' WHERE id = 2");
        stage.green.sql(
            "BEGIN; INSERT INTO archived_orders SELECT id, customer_id, 'archived', total, placed_at FROM orders WHERE id = 1;
             DELETE FROM orders WHERE id = 1; UPDATE archived_orders SET total = 60 WHERE id = 2; COMMIT",
        );
        for _ in 0..2 {
            stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
        }
        stage.assert_same(ORDERS, NEW_ORDERS);
        stage.falkirk(&["clean"]).expect(0);
    }
}
