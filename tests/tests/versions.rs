//! Two steps at once: blue runs release 1, green release 3, and no database of release 2 stands anywhere between them.
//! What arrives is what the two migrations bring when they are run one after the other.

use std::path::Path;

use falkirk_tests::{SOON, Stage, shop_2_3_component, shop_component, shop_schemas, shop_v3_schema, until};

const ROWS: &str = "
    INSERT INTO customer (id, name, email) VALUES (1, 'Ada Lovelace', 'ada@a'), (2, 'Sting', 'sting@a'), (3, 'Mary Ann Jones', 'mary@a');
    INSERT INTO product (id, title, price, status) VALUES (1, 'Boat', 12.50, 'active'), (2, 'Oar', 0.05, 'gone'), (3, 'Rope', 7, 'draft');
    INSERT INTO orders (id, customer_id, status, total) VALUES (1, 1, 'new', 5), (2, 1, 'sent', 6), (3, 2, 'archived', 7), (4, 3, 'paid', 8);
    INSERT INTO order_line VALUES (1, 1, 1, 2, 25), (3, 1, 2, 1, 0.05);
    INSERT INTO review (id, product_id, stars, body) VALUES (1, 1, 5, 'floats');
    INSERT INTO basket VALUES (1, '[{\"sku\": \"a\", \"quantity\": 1}, {\"sku\": \"b\", \"quantity\": 2}]'), (2, '[]');
    INSERT INTO coupon VALUES ('TEN', 10), ('HALF', 50);";

/// Renames, moves between three tables, items that come and go, a deletion that becomes a mark.
const CHANGES: &str = "
    UPDATE customer SET name = 'Ada King' WHERE id = 1;
    UPDATE customer SET email = 'sting@b', tags = '{new}' WHERE id = 2;
    UPDATE product SET price = 13.75, title = 'Ship' WHERE id = 1;
    UPDATE product SET status = 'active' WHERE id = 3;
    UPDATE orders SET status = 'sent' WHERE id = 1;
    UPDATE orders SET status = 'archived', total = 60 WHERE id = 2;
    UPDATE orders SET status = 'paid' WHERE id = 3;
    UPDATE basket SET items = '[{\"sku\": \"b\", \"quantity\": 9}, {\"sku\": \"c\", \"quantity\": 1}]' WHERE customer_id = 1;
    UPDATE basket SET items = '[{\"sku\": \"z\", \"quantity\": 4}]' WHERE customer_id = 2;
    DELETE FROM coupon WHERE code = 'TEN';
    UPDATE coupon SET percent = 40 WHERE code = 'HALF';
    DELETE FROM order_line WHERE order_id = 3;
    INSERT INTO customer (id, name, email) VALUES (4, 'Nobody In Particular', 'nobody@a');
    INSERT INTO orders (id, customer_id, status) VALUES (5, 4, 'sent'), (6, 4, 'archived');
    DELETE FROM orders WHERE id = 4;";

const TABLES: [&str; 11] = [
    "customer",
    "product",
    "orders",
    "sent_orders",
    "archived_orders",
    "order_line",
    "user_session",
    "event",
    "review",
    "basket_line",
    "coupon",
];

/// Full old rows, as `check` asks for.
const FULL: &str = "DO $$ DECLARE t regclass; BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', t);
    END LOOP; END $$";

fn list(files: &[&Path]) -> String {
    let quoted: Vec<String> = files.iter().map(|file| format!("{:?}", file.to_string_lossy())).collect();
    format!("transforms = [{}]\n", quoted.join(", "))
}

/// Names other versions, and another blue, than the usual head does.
fn config(stage: &Stage, direction: &str, more: &str, blue: (&str, &str), green: &str) {
    let path = stage.config(direction, more);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&stage.blue.url(), blue.0);
    let text = text.replace("schema_version = \"2\"", &format!("schema_version = \"{green}\""));
    std::fs::write(path, text.replace("schema_version = \"1\"", &format!("schema_version = \"{}\"", blue.1))).unwrap();
}

fn contents(stage: &Stage) -> Vec<(&'static str, Vec<String>)> {
    TABLES.into_iter().map(|table| (table, stage.green.lines(&format!("SELECT * FROM {table}")))).collect()
}

#[test]
fn counter_example_32_release_1_to_3_at_once_brings_what_the_two_steps_bring_one_after_the_other() {
    let [v1, v2] = shop_schemas();
    let v3 = shop_v3_schema();
    let (one, two) = (shop_component(), shop_2_3_component());
    // Stepwise: 1 to 2, and from there, by a migration of its own, 2 to 3.
    let (first, second) = (Stage::new("versions_first"), Stage::new("versions_second"));
    first.schemas(&v1, &v2);
    second.schemas("", &v3);
    let direct = Stage::new("versions_direct");
    direct.schemas(&v1, &v3);
    for side in [&first.blue, &first.green, &direct.blue] {
        side.sql(FULL);
    }
    first.config("forward", &list(&[one]));
    config(&second, "forward", &list(&[two]), (&first.green.url(), "2"), "3");
    // The order in which they are named does not matter.
    config(&direct, "forward", &list(&[two, one]), (&direct.blue.url(), "1"), "3");
    for blue in [&first.blue, &direct.blue] {
        // Times are part of the rows: both databases get the same.
        blue.sql(&format!("ALTER TABLE customer ALTER created_at SET DEFAULT '2026-01-01'; ALTER TABLE orders ALTER placed_at SET DEFAULT '2026-01-02'; {ROWS}"));
    }
    let follow = || {
        first.falkirk(&["run", "--until", "caught-up"]).expect(0);
        second.falkirk(&["run", "--until", "caught-up"]).expect(0);
        direct.falkirk(&["run", "--until", "caught-up"]).expect(0);
        assert_eq!(contents(&direct), contents(&second));
    };
    follow();
    assert_eq!(
        direct.green.value("SELECT given_name || '/' || family_name || '/' || initials FROM customer WHERE id = 1"),
        "Ada/Lovelace/AL"
    );
    first.blue.sql(CHANGES);
    direct.blue.sql(CHANGES);
    follow();
    assert_eq!(direct.green.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM sent_orders"), "1,5");
    assert_eq!(direct.green.value("SELECT revoked FROM coupon WHERE code = 'TEN'"), "t");
    direct.falkirk(&["verify"]).expect(0);
    // L6: only the e-mail travels; what release 3 made of the name survives.
    direct.green.sql("UPDATE customer SET given_name = 'Mary Ann', family_name = 'Jones' WHERE id = 3");
    direct.blue.sql("UPDATE customer SET email = 'mary@b' WHERE id = 3");
    direct.falkirk(&["run", "--until", "caught-up"]).expect(0);
    assert_eq!(direct.green.value("SELECT given_name || '/' || email FROM customer WHERE id = 3"), "Mary Ann/mary@b");
    for stage in [&second, &direct, &first] {
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn l8_both_links_run_through_two_steps() {
    let [v1, _] = shop_schemas();
    let stage = Stage::new("versions_both");
    stage.schemas(&v1, &shop_v3_schema());
    stage.blue.sql(FULL);
    stage.green.sql(FULL);
    let more = format!("conflict = \"green_wins\"\n{}", list(&[shop_component(), shop_2_3_component()]));
    config(&stage, "both", &more, (&stage.blue.url(), "1"), "3");
    stage.blue.sql(ROWS);
    let running = stage.start_falkirk(&["run"]);
    // What green changes below has to be there first.
    let there = [
        "(SELECT FROM product WHERE id = 2)",
        "(SELECT FROM orders WHERE id = 1)",
        "(SELECT FROM coupon WHERE code = 'HALF')",
    ];
    until("the copy arrives", SOON, || {
        stage.green.count("customer") == 3 && there.iter().all(|row| stage.green.count(row) == 1)
    });
    stage.green.sql(
        "UPDATE customer SET given_name = 'Mary Ann', family_name = 'Smith' WHERE id = 3;
         UPDATE product SET price = 99.9900 WHERE id = 2;
         INSERT INTO customer (id, given_name, family_name, initials, email) VALUES (50, 'Grace', 'Hopper', 'GH', 'grace@a');
         BEGIN; DELETE FROM orders WHERE id = 1;
         INSERT INTO sent_orders SELECT 1, 1, 'sent', 5, '2026-01-02'; COMMIT;
         UPDATE coupon SET revoked = true WHERE code = 'HALF'",
    );
    until("blue holds what green wrote", SOON, || {
        stage.blue.count("(SELECT FROM customer WHERE name IN ('Mary Ann Smith', 'Grace Hopper'))") == 2
            && stage.blue.value("SELECT price FROM product WHERE id = 2") == "99.99"
            && stage.blue.value("SELECT status FROM orders WHERE id = 1") == "sent"
            && stage.blue.count("coupon") == 1
    });
    stage.blue.sql("UPDATE customer SET email = 'hopper@a' WHERE id = 50");
    until("green holds what blue wrote", SOON, || {
        stage.green.value("SELECT given_name || email FROM customer WHERE id = 50") == "Gracehopper@a"
    });
    running.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn missing_and_ambiguous_steps_and_artifacts_beside_the_way_are_said_by_name() {
    let [v1, v2] = shop_schemas();
    let stage = Stage::new("versions_paths");
    stage.schemas(&v1, &v2);
    stage.blue.sql(FULL);
    let (one, two) = (shop_component(), shop_2_3_component());
    let url = stage.blue.url();
    config(&stage, "forward", &list(&[one, two]), (&url, "1"), "4");
    stage
        .falkirk(&["check"])
        .expect(1)
        .says("NO_PATH")
        .says("1 to 2 (shop.wasm@sha256:")
        .says("from one of the versions 1, 2, 3 to one of 4");
    let again = stage.file("again.wasm", std::fs::read(one).unwrap());
    config(&stage, "forward", &list(&[one, two, &again]), (&url, "1"), "3");
    stage.falkirk(&["run"]).expect(1).says("TWO_PATHS").says("(again.wasm@sha256:");
    // What leads elsewhere is said and does no harm.
    config(&stage, "forward", &list(&[one, two]), (&url, "1"), "2");
    stage.falkirk(&["check"]).expect(0).says("shop_2_3.wasm").says("not on the way");
}
