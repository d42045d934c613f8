//! L6 with the example shop: what only release 2 knows survives whatever release 1 does, and nothing is written that
//! the application did not change.

use std::path::Path;

use falkirk_tests::{Stage, shop_component, shop_schemas};

/// A shop whose blue side holds `rows`, copied to green, with the old rows that the rules need.
fn shop(name: &str, rows: &str) -> Stage {
    let stage = Stage::one_way(name);
    let [blue, green] = shop_schemas();
    stage.schemas(&blue, &green);
    for table in ["customer", "product", "orders", "basket", "coupon"] {
        stage.blue.sql(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
    }
    stage.blue.sql(rows);
    let component: &Path = shop_component();
    stage.config("forward", &Stage::transforms(Some(component)));
    follow(&stage);
    stage
}

/// Everything that blue holds now is in green afterwards.
fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

/// Blue does this, and green follows.
fn blue(stage: &Stage, sql: &str) {
    stage.blue.sql(sql);
    follow(stage);
}

/// The names of customer 1 in green.
fn names(stage: &Stage) -> String {
    stage.green.value("SELECT first_name || '|' || last_name FROM customer WHERE id = 1")
}

const MARY: &str =
    "INSERT INTO customer (id, name, email) VALUES (1, 'Mary Ann Smith', 'mary@x'), (2, 'Bo Li', 'bo@x')";

#[test]
fn counter_example_1_a_corrected_split_survives_until_its_input_changes_and_is_then_written_as_a_whole() {
    let stage = shop("l6_mary", MARY);
    assert_eq!(names(&stage), "Mary|Ann Smith");
    stage.green.sql("UPDATE customer SET first_name = 'Mary Ann', last_name = 'Smith' WHERE id = 1");
    blue(&stage, "UPDATE customer SET email = 'mary@y' WHERE id = 1");
    assert_eq!(names(&stage), "Mary Ann|Smith", "only the e-mail travels");
    assert_eq!(stage.green.value("SELECT email FROM customer WHERE id = 1"), "mary@y");
    blue(&stage, "UPDATE customer SET name = 'Mary Ann Jones' WHERE id = 1");
    assert_eq!(names(&stage), "Mary|Ann Jones", "never a mixture");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_a_group_whose_one_result_did_not_change_is_still_written_whole() {
    let stage = shop("l6_group", MARY);
    stage.green.sql("UPDATE customer SET first_name = 'Wrong' WHERE id = 1");
    // The first name that comes out of it is the same as before: it is written all the same.
    blue(&stage, "UPDATE customer SET name = 'Mary Jones' WHERE id = 1");
    assert_eq!(names(&stage), "Mary|Jones");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_a_column_that_only_green_has_survives_updates_and_a_change_of_the_key() {
    let stage = shop("l6_level", MARY);
    stage
        .green
        .sql("UPDATE customer SET loyalty_level = 'gold', first_name = 'Mary Ann', last_name = 'Smith' WHERE id = 1");
    blue(
        &stage,
        "UPDATE customer SET email = 'mary@z', tags = '{a}' WHERE id = 1; UPDATE customer SET id = 77 WHERE id = 1",
    );
    assert_eq!(
        stage.green.rows("SELECT id, first_name, last_name, email, tags, loyalty_level FROM customer ORDER BY id"),
        [["2", "Bo", "Li", "bo@x", "{}", "basic"], ["77", "Mary Ann", "Smith", "mary@z", "{a}", "gold"]]
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_two_updates_of_different_columns_in_one_transaction_write_these_columns_only() {
    let stage = shop("l6_two", MARY);
    stage
        .green
        .sql("UPDATE customer SET first_name = 'Mary Ann', last_name = 'Smith', loyalty_level = 'silver' WHERE id = 1");
    // Green's own correction of columns that blue does not touch: a list of columns too long would undo it.
    stage.green.sql("UPDATE customer SET preferences = '{\"green\": true}' WHERE id = 1");
    blue(
        &stage,
        "BEGIN; UPDATE customer SET email = 'a@x' WHERE id = 1; UPDATE customer SET tags = '{b}' WHERE id = 1; COMMIT;
         UPDATE customer SET email = 'b@x' WHERE id = 1; UPDATE customer SET tags = '{c}' WHERE id = 1;",
    );
    assert_eq!(
        stage
            .green
            .rows("SELECT first_name, last_name, email, tags, loyalty_level, preferences FROM customer WHERE id = 1"),
        [["Mary Ann", "Smith", "b@x", "{c}", "silver", "{\"green\": true}"]]
    );
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_an_update_that_changes_nothing_writes_nothing() {
    let stage = shop("l6_nothing", MARY);
    stage.green.sql("UPDATE customer SET first_name = 'Mary Ann', last_name = 'Smith', email = 'green@x' WHERE id = 1");
    let before = stage.green.value("SELECT xmin::text FROM customer WHERE id = 1");
    blue(&stage, "UPDATE customer SET name = name, email = email, tags = tags WHERE id = 1");
    assert_eq!(stage.green.value("SELECT xmin::text FROM customer WHERE id = 1"), before);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_9_an_order_stands_in_one_table_and_moves_with_its_status() {
    let rows = "INSERT INTO customer (id, name, email) VALUES (1, 'A B', 'a@x');
        INSERT INTO orders (id, customer_id, status, total) VALUES (1, 1, 'new', 5), (2, 1, 'archived', 6)";
    let stage = shop("l6_route", rows);
    let orders = |table: &str| stage.green.rows(&format!("SELECT id, status, total FROM {table} ORDER BY id"));
    assert_eq!(orders("orders"), [["1", "new", "5.00"]]);
    assert_eq!(orders("archived_orders"), [["2", "archived", "6.00"]]);
    blue(
        &stage,
        "BEGIN; UPDATE orders SET status = 'paid' WHERE id = 1; UPDATE orders SET status = 'archived', total = 7 WHERE id = 1; COMMIT;
         UPDATE orders SET status = 'sent' WHERE id = 2; UPDATE orders SET total = 8 WHERE id = 2;
         INSERT INTO orders (id, customer_id, status) VALUES (3, 1, 'archived'), (4, 1, 'new'); DELETE FROM orders WHERE id = 3",
    );
    assert_eq!(orders("orders"), [["2", "sent", "8.00"], ["4", "new", "0.00"]]);
    assert_eq!(orders("archived_orders"), [["1", "archived", "7.00"]]);
    blue(
        &stage,
        "UPDATE orders SET total = 9 WHERE id = 1; DELETE FROM orders WHERE id = 2; DELETE FROM orders WHERE id = 4",
    );
    assert_eq!(orders("archived_orders"), [["1", "archived", "9.00"]]);
    assert!(orders("orders").is_empty());
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_a_list_becomes_child_rows_and_unchanged_children_keep_what_green_corrected() {
    let rows = r#"INSERT INTO customer (id, name, email) VALUES (1, 'A B', 'a@x');
        INSERT INTO basket VALUES (1, '[{"sku": "a", "quantity": 1}, {"sku": "b", "quantity": 2}, {"sku": "c", "quantity": 3}]')"#;
    let stage = shop("l6_list", rows);
    let items = || stage.green.rows("SELECT sku, quantity FROM basket_item ORDER BY sku");
    assert_eq!(items(), [["a", "1"], ["b", "2"], ["c", "3"]]);
    stage.green.sql("UPDATE basket_item SET quantity = 10 WHERE sku = 'a'");
    let kept = stage.green.value("SELECT xmin::text FROM basket_item WHERE sku = 'a'");
    blue(
        &stage,
        r#"UPDATE basket SET items = '[{"sku": "d", "quantity": 4}, {"sku": "b", "quantity": 5}, {"sku": "a", "quantity": 1}]'"#,
    );
    assert_eq!(items(), [["a", "10"], ["b", "5"], ["d", "4"]], "a stays as green had it, c is gone");
    assert_eq!(stage.green.value("SELECT xmin::text FROM basket_item WHERE sku = 'a'"), kept);
    blue(&stage, "UPDATE basket SET items = '[]'");
    assert!(items().is_empty());
    blue(&stage, r#"UPDATE basket SET items = '[{"sku": "z", "quantity": 1}]'; DELETE FROM basket"#);
    assert!(items().is_empty());
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_a_deletion_becomes_a_mark_and_the_marked_row_keeps_its_columns() {
    let stage = shop("l6_soft", "INSERT INTO coupon VALUES ('SESAME', 10), ('B', 20), ('C', 30)");
    blue(
        &stage,
        "BEGIN; UPDATE coupon SET percent = 11 WHERE code = 'SESAME'; DELETE FROM coupon WHERE code = 'SESAME'; COMMIT; DELETE FROM coupon WHERE code = 'B'",
    );
    assert_eq!(
        stage.green.rows("SELECT code, percent, deleted FROM coupon ORDER BY code"),
        [["B", "20", "t"], ["C", "30", "f"], ["SESAME", "11", "t"]]
    );
    // The marked row is in the way of a new one: the link stops there instead of waking the old one.
    stage.blue.sql("UPDATE coupon SET percent = 31 WHERE code = 'C'; INSERT INTO coupon VALUES ('SESAME', 50)");
    stage
        .falkirk(&["run", "--until", "caught-up"])
        .expect(3)
        .says("CONFLICT")
        .says("coupon_pkey")
        .keeps_quiet_about("SESAME");
    assert_eq!(
        stage.green.value("SELECT percent::text FROM coupon WHERE code = 'C'"),
        "31",
        "what came before is there"
    );
    stage.green.sql("DELETE FROM coupon WHERE code = 'SESAME'");
    follow(&stage);
    assert_eq!(stage.green.value("SELECT percent || ' ' || deleted FROM coupon WHERE code = 'SESAME'"), "50 false");
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l6_computed_and_copied_columns_of_one_row_travel_apart() {
    let stage =
        shop("l6_product", "INSERT INTO product (id, title, price, status) VALUES (1, 'Boat', 12.50, 'active')");
    stage.green.sql("UPDATE product SET label = 'Green boat', price_cents = 999, state = 'withdrawn'");
    blue(&stage, "UPDATE product SET price = 13.00");
    assert_eq!(
        stage.green.rows("SELECT label, price_cents, state, picture FROM product"),
        [["Green boat", "1300", "withdrawn", "~"]]
    );
    blue(&stage, "UPDATE product SET title = 'Ship', picture = '\\x00ff'");
    assert_eq!(
        stage.green.rows("SELECT label, price_cents, state, picture FROM product"),
        [["Ship", "1300", "withdrawn", "\\x00ff"]]
    );
    stage.falkirk(&["clean"]).expect(0);
}
