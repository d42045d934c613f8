//! The cart example: a customer's lines become a cart of their own, and back. Keys that one side has and the other does
//! not, a row that several rows imply, a column that another table's rows set, and pairs that the application binds.

use falkirk_tests::{SOON, Stage, cart_component, cart_schemas, free_port, until};

const PRODUCTS: &str = "INSERT INTO product (id, title) VALUES (1, 'boat'), (2, 'oar'), (3, 'rope')";

/// Both schemas and the transform; nothing runs yet.
fn stage(name: &str, direction: &str) -> Stage {
    let stage = Stage::new(name);
    let [blue, green] = cart_schemas();
    stage.schemas(&blue, &green);
    let policy = if direction == "both" { "conflict = \"green_wins\"\n" } else { "" };
    stage.config(direction, &format!("{policy}{}", Stage::transforms(Some(cart_component()))));
    stage
}

fn follow(stage: &Stage) {
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
}

fn blue(stage: &Stage, sql: &str) {
    stage.blue.sql(sql);
    follow(stage);
}

fn green(stage: &Stage, sql: &str) {
    stage.green.sql(sql);
    follow(stage);
}

/// Blue's lines: product, customer, quantity.
fn old_lines(stage: &Stage) -> Vec<String> {
    stage.blue.lines("SELECT product_id, customer_id, quantity FROM cart_line")
}

/// Green's lines as their customers see them: product, customer, quantity.
fn new_lines(stage: &Stage) -> Vec<String> {
    stage.green.lines("SELECT l.product_id, c.id, l.quantity FROM cart_line l JOIN customer c ON c.cart_id = l.cart_id")
}

fn cart_of(stage: &Stage, customer: i32) -> String {
    stage.green.value(&format!("SELECT coalesce(cart_id::text, 'none') FROM customer WHERE id = {customer}"))
}

#[test]
fn a_v1_line_finds_or_creates_the_cart_of_its_customer() {
    let stage = stage("cart_create", "forward");
    stage.blue.sql(PRODUCTS);
    stage.blue.sql(
        "INSERT INTO customer (id, name) VALUES (41, 'Ann'), (42, 'Bob'), (43, 'Eve');
         INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2), (1, 42, 5)",
    );
    stage.falkirk(&["check"]).expect(0);
    follow(&stage);
    assert_eq!(new_lines(&stage), ["(1,41,1)", "(1,42,5)", "(2,41,2)"], "copied");
    assert_eq!(stage.green.count("cart"), 2, "one for each customer who has lines");
    assert_eq!(cart_of(&stage, 43), "none");
    let first = cart_of(&stage, 41);
    blue(
        &stage,
        "INSERT INTO cart_line VALUES (3, 41, 3), (2, 43, 7); UPDATE cart_line SET quantity = 9 WHERE customer_id = 42",
    );
    assert_eq!(new_lines(&stage), ["(1,41,1)", "(1,42,9)", "(2,41,2)", "(2,43,7)", "(3,41,3)"], "streamed");
    assert_eq!((cart_of(&stage, 41), stage.green.count("cart")), (first, 3), "found again after a restart");
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_5_a_cart_that_a_v2_pod_has_deleted_is_there_again_with_the_next_line_of_its_customer() {
    for direction in ["forward", "both"] {
        let stage = stage(&format!("cart_deleted_{direction}"), direction);
        stage.blue.sql(PRODUCTS);
        stage.blue.sql(
            "INSERT INTO customer (id, name) VALUES (41, 'Ann'), (42, 'Bob'); INSERT INTO cart_line VALUES (1, 41, 1), (1, 42, 5)",
        );
        follow(&stage);
        let first = cart_of(&stage, 41);
        blue(&stage, "DELETE FROM cart_line WHERE customer_id = 41");
        assert_eq!(cart_of(&stage, 41), first, "a line that goes takes no cart with it");
        green(
            &stage,
            &format!("UPDATE customer SET cart_id = NULL WHERE id = 41; DELETE FROM cart WHERE id = {first}"),
        );
        assert_eq!(stage.green.count("cart"), 1, "nothing of blue's has changed");
        blue(&stage, "INSERT INTO cart_line VALUES (2, 41, 7)");
        assert_eq!(new_lines(&stage), ["(1,42,5)", "(2,41,7)"]);
        assert_eq!((old_lines(&stage), stage.green.count("cart")), (new_lines(&stage), 2));
        // Only with the backward link on it is known that the pair was let go of.
        assert_eq!(cart_of(&stage, 41) == first, direction == "forward");
        stage.falkirk(&["verify"]).expect(0);
        stage.falkirk(&["clean"]).expect(0);
    }
}

#[test]
fn counter_example_7_a_cart_that_a_v2_pod_has_created_for_the_customer_is_found_and_not_doubled() {
    let stage = stage("cart_found", "forward");
    stage.blue.sql(PRODUCTS);
    stage.blue.sql("INSERT INTO customer (id, name) VALUES (41, 'Ann'), (42, 'Bob')");
    follow(&stage);
    stage.green.sql("INSERT INTO cart (id) VALUES (700); UPDATE customer SET cart_id = 700 WHERE id = 41");
    blue(&stage, "INSERT INTO cart_line VALUES (1, 41, 1), (1, 42, 1)");
    assert_eq!(cart_of(&stage, 41), "700");
    assert_eq!(stage.green.count("cart"), 2, "700 and the one of customer 42");
    assert_eq!(new_lines(&stage), ["(1,41,1)", "(1,42,1)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_5_several_lines_of_one_new_customer_in_one_batch_share_one_cart() {
    let stage = stage("cart_share", "forward");
    stage.blue.sql(PRODUCTS);
    follow(&stage);
    blue(
        &stage,
        "BEGIN; INSERT INTO customer (id, name) VALUES (50, 'New'); INSERT INTO cart_line VALUES (1, 50, 1), (2, 50, 2); COMMIT;
         INSERT INTO cart_line VALUES (3, 50, 3); UPDATE customer SET name = 'Newer' WHERE id = 50;
         UPDATE cart_line SET quantity = quantity + 1 WHERE customer_id = 50",
    );
    assert_eq!(stage.green.count("cart"), 1);
    assert_eq!(new_lines(&stage), ["(1,50,2)", "(2,50,3)", "(3,50,4)"]);
    assert_eq!(stage.green.value("SELECT name FROM customer"), "Newer");
    // A line that moves to another customer takes no cart along.
    blue(
        &stage,
        "INSERT INTO customer (id, name) VALUES (51, 'Other'); UPDATE cart_line SET customer_id = 51 WHERE product_id = 1",
    );
    assert_eq!(new_lines(&stage), ["(1,51,2)", "(2,50,3)", "(3,50,4)"]);
    assert_eq!(stage.green.count("cart"), 2);
    assert_ne!(cart_of(&stage, 50), cart_of(&stage, 51));
    stage.falkirk(&["clean"]).expect(0);
}

/// What a row stands for would have to be looked up, and a key that is missing would be made: no trial writes.
#[test]
fn a_trial_of_rules_with_key_maps_is_refused_by_name_makes_no_key_and_the_running_revision_goes_on() {
    let stage = stage("cart_trial", "forward");
    let path = stage.folder().join("falkirk.toml");
    let text = std::fs::read_to_string(&path).expect("it was written");
    std::fs::write(path, format!("{text}\n[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port())).expect("a file");
    stage.blue.sql(PRODUCTS);
    stage.blue.sql("INSERT INTO customer (id, name) VALUES (41, 'Ann'); INSERT INTO cart_line VALUES (1, 41, 1)");
    let host = stage.start_falkirk(&["run"]);
    until("it streams", SOON, || stage.falkirk(&["status"]).out.contains("streaming"));
    until("the cart is there", SOON, || stage.green.count("cart") == 1);
    // The same code under another digest: an empty section with a name.
    let mut other = std::fs::read(cart_component()).expect("it is there");
    other.extend([0, 2, 1, b'x']);
    let other = stage.file("other.wasm", other).to_string_lossy().into_owned();
    let refused = stage.falkirk(&["swap", &other, "--shadow", "1"]).expect(1);
    refused.says("NOT_SUPPORTED").says("maps or related rows").says("without --shadow");
    stage.blue.sql("INSERT INTO cart_line VALUES (2, 41, 2)");
    until("the line arrives", SOON, || new_lines(&stage) == ["(1,41,1)", "(2,41,2)"]);
    assert_eq!(stage.green.count("cart"), 1);
    // It is the trial that is refused, and not the revision.
    stage.falkirk(&["swap", &other]).expect(0).says("other.wasm");
    stage.blue.sql("INSERT INTO cart_line VALUES (3, 41, 3)");
    until("the line arrives", SOON, || new_lines(&stage).len() == 3);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_5_deleting_a_line_deletes_a_line_and_leaves_the_cart() {
    let stage = stage("cart_delete", "forward");
    stage.blue.sql(PRODUCTS);
    stage
        .blue
        .sql("INSERT INTO customer (id, name) VALUES (41, 'Ann'); INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
    follow(&stage);
    blue(&stage, "DELETE FROM cart_line WHERE product_id = 1");
    assert_eq!(new_lines(&stage), ["(2,41,2)"]);
    let cart = cart_of(&stage, 41);
    blue(&stage, "DELETE FROM cart_line; INSERT INTO cart_line VALUES (3, 41, 3)");
    assert_eq!((new_lines(&stage), cart_of(&stage, 41)), (vec!["(3,41,3)".to_owned()], cart), "the same cart again");
    blue(&stage, "DELETE FROM cart_line; DELETE FROM customer");
    assert_eq!((stage.green.count("cart_line"), stage.green.count("cart"), stage.green.count("customer")), (0, 1, 0));
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
    assert_eq!(stage.green.value("SELECT count(*)::text FROM pg_namespace WHERE nspname = 'falkirk'"), "0");
}

#[test]
fn counter_example_8_keys_are_the_same_after_kill_9_at_any_moment() {
    let stage = stage("cart_kill", "forward");
    stage.blue.sql(PRODUCTS);
    stage.blue.sql("INSERT INTO customer (id, name) SELECT n, 'c' || n FROM generate_series(1, 400) n");
    follow(&stage);
    for round in 0..4 {
        let host = stage.start_falkirk(&["run"]);
        for part in 0..20 {
            let customers = format!("{} AND {}", round * 100 + part * 5 + 1, round * 100 + part * 5 + 5);
            stage.blue.sql(&format!(
                "INSERT INTO cart_line SELECT p, c.id, 1 FROM customer c, generate_series(1, 3) p WHERE c.id BETWEEN {customers}"
            ));
        }
        until("some of it arrives", SOON, || stage.green.count("cart_line") > round as u64 * 300 + 20);
        host.kill_9();
    }
    follow(&stage);
    assert_eq!(stage.green.count("cart"), 400, "one for each customer");
    assert_eq!(new_lines(&stage), old_lines(&stage));
    stage.falkirk(&["clean"]).expect(0);
}

const CARTS: &str = "INSERT INTO cart (id) VALUES (7), (8), (9);
    INSERT INTO customer (id, name, cart_id) VALUES (42, 'Bob', 7), (43, 'Eve', NULL);
    INSERT INTO cart_line VALUES (1, 7, 1), (2, 7, 2), (1, 9, 9), (3, 9, 3), (1, 8, 8)";

#[test]
fn backward_a_line_finds_its_customer_through_the_cart() {
    let stage = stage("cart_back", "backward");
    stage.green.sql(PRODUCTS);
    stage.green.sql(CARTS);
    stage.falkirk(&["check"]).expect(0);
    follow(&stage);
    assert_eq!(old_lines(&stage), ["(1,42,1)", "(2,42,2)"], "a line of nobody's cart does not exist yet");
    green(&stage, "INSERT INTO cart_line VALUES (3, 7, 3); UPDATE cart_line SET quantity = 5 WHERE product_id = 2");
    assert_eq!(old_lines(&stage), ["(1,42,1)", "(2,42,5)", "(3,42,3)"]);
    // A cart that becomes somebody's brings its lines along, however they came before.
    green(&stage, "INSERT INTO cart_line VALUES (2, 8, 1); UPDATE customer SET cart_id = 8 WHERE id = 43");
    assert_eq!(old_lines(&stage), ["(1,42,1)", "(1,43,8)", "(2,42,5)", "(2,43,1)", "(3,42,3)"]);
    green(
        &stage,
        "BEGIN; INSERT INTO cart (id) VALUES (10); INSERT INTO cart_line VALUES (2, 10, 4);
         INSERT INTO customer (id, name, cart_id) VALUES (44, 'Flo', 10); INSERT INTO cart_line VALUES (3, 10, 6); COMMIT;
         DELETE FROM cart_line WHERE cart_id = 8",
    );
    assert_eq!(old_lines(&stage), ["(1,42,1)", "(2,42,5)", "(2,44,4)", "(3,42,3)", "(3,44,6)"]);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_7_rebinding_moves_the_lines() {
    let stage = stage("cart_rebind", "backward");
    stage.green.sql(PRODUCTS);
    stage.green.sql(CARTS);
    follow(&stage);
    green(&stage, "UPDATE customer SET cart_id = 9 WHERE id = 42");
    assert_eq!(old_lines(&stage), ["(1,42,9)", "(3,42,3)"], "the old cart's lines left, the new one's came");
    // In one transaction with changes of the lines themselves, and a cart that goes from one customer to another.
    green(
        &stage,
        "BEGIN; UPDATE cart_line SET quantity = 30 WHERE cart_id = 9 AND product_id = 3; DELETE FROM cart_line WHERE cart_id = 9 AND product_id = 1;
         UPDATE customer SET cart_id = 7 WHERE id = 42; UPDATE customer SET cart_id = 9 WHERE id = 43;
         INSERT INTO cart_line VALUES (2, 9, 20), (3, 7, 70); UPDATE cart_line SET quantity = 10 WHERE cart_id = 7 AND product_id = 1; COMMIT",
    );
    assert_eq!(old_lines(&stage), ["(1,42,10)", "(2,42,2)", "(2,43,20)", "(3,42,70)", "(3,43,30)"]);
    // Two customers swap their carts.
    green(
        &stage,
        "BEGIN; UPDATE customer SET cart_id = 7 WHERE id = 43; UPDATE customer SET cart_id = 9 WHERE id = 42; COMMIT",
    );
    assert_eq!(old_lines(&stage), ["(1,43,10)", "(2,42,20)", "(2,43,2)", "(3,42,30)", "(3,43,70)"]);
    green(&stage, "UPDATE customer SET cart_id = NULL WHERE id = 42");
    assert_eq!(old_lines(&stage), ["(1,43,10)", "(2,43,2)", "(3,43,70)"], "nobody's cart has no lines in release 1");
    // The customer goes, and the lines stay on green alone.
    green(&stage, "DELETE FROM customer WHERE id = 43");
    assert_eq!((old_lines(&stage), stage.blue.count("customer")), (vec![], 1));
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn counter_example_7_a_rebinding_survives_kill_9_between_the_pair_and_the_rows() {
    let stage = stage("cart_rebind_kill", "backward");
    stage.green.sql(PRODUCTS);
    stage.green.sql(CARTS);
    follow(&stage);
    // The rows cannot be written yet, the pair can.
    let lock = "BEGIN; LOCK TABLE cart_line IN SHARE ROW EXCLUSIVE MODE";
    stage.blue.sql(lock);
    let host = stage.start_falkirk(&["run"]);
    stage.green.sql("UPDATE customer SET cart_id = 9 WHERE id = 42");
    let pair = "SELECT green FROM falkirk.key WHERE blue = '42'";
    until("the pair is replaced", SOON, || stage.green.admin(pair) == [["9"]]);
    host.kill_9();
    stage.blue.sql("ROLLBACK");
    follow(&stage);
    assert_eq!(old_lines(&stage), ["(1,42,9)", "(3,42,3)"]);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l8_both_releases_use_the_same_carts_at_the_same_time() {
    let stage = stage("cart_both", "both");
    stage.blue.sql(PRODUCTS);
    stage.blue.sql("INSERT INTO customer (id, name) VALUES (41, 'Ann'), (42, 'Bob'); INSERT INTO cart_line VALUES (1, 41, 1), (2, 41, 2)");
    let host = stage.start_falkirk(&["run"]);
    until("the copy arrives", SOON, || stage.green.count("cart_line") == 2);
    let agree = || new_lines(&stage) == old_lines(&stage);
    // Release 2 opens a cart, release 1 puts a line into it, release 2 another.
    stage.green.sql(
        "BEGIN; INSERT INTO cart (id) VALUES (700); UPDATE customer SET cart_id = 700 WHERE id = 42;
         INSERT INTO cart_line VALUES (3, 700, 3); COMMIT",
    );
    until("release 1 sees the line", SOON, || stage.blue.count("cart_line") == 3);
    stage.blue.sql("INSERT INTO cart_line VALUES (1, 42, 1)");
    until("release 2 sees the line", SOON, || stage.green.count("cart_line") == 4);
    assert_eq!((cart_of(&stage, 42), agree()), ("700".to_owned(), true));
    // Ann's cart was made for release 1's lines; release 2 gives her another, and its lines take the place of those.
    stage.green.sql(
        "BEGIN; INSERT INTO cart (id) VALUES (701); INSERT INTO cart_line VALUES (3, 701, 33);
         UPDATE customer SET cart_id = 701 WHERE id = 41; COMMIT",
    );
    until("the lines have moved", SOON, || stage.blue.count("(SELECT FROM cart_line WHERE customer_id = 41)") == 1);
    until("both sides agree", SOON, agree);
    host.terminate().expect(143);
    stage.falkirk(&["clean"]).expect(0);
}

/// Blue's lines and green's lines of customers' carts, as queries that must give the same.
const OLD: &str = "SELECT product_id, customer_id, quantity FROM cart_line";
const NEW: &str =
    "SELECT l.product_id, c.id AS customer_id, l.quantity FROM cart_line l JOIN customer c ON c.cart_id = l.cart_id";

#[test]
fn l4_a_transaction_too_large_to_be_held_binds_and_moves_its_lines() {
    let stage = stage("cart_large", "backward");
    stage.green.sql("INSERT INTO product (id, title) SELECT n, 'p' FROM generate_series(1, 40000) n");
    stage
        .green
        .sql("INSERT INTO cart (id) VALUES (7), (8); INSERT INTO customer (id, name, cart_id) VALUES (42, 'Bob', 7)");
    stage.green.sql(
        "INSERT INTO cart_line SELECT n, 8, 1 FROM generate_series(1, 40000) n; INSERT INTO cart_line VALUES (1, 7, 7)",
    );
    follow(&stage);
    assert_eq!(old_lines(&stage), ["(1,42,7)"]);
    green(
        &stage,
        "BEGIN; UPDATE cart_line SET quantity = 2 WHERE cart_id = 8; UPDATE customer SET cart_id = 8 WHERE id = 42;
         UPDATE cart_line SET quantity = 3 WHERE cart_id = 8 AND product_id % 2 = 0; COMMIT",
    );
    assert_eq!(stage.blue.count("cart_line"), 40_000);
    stage.assert_same(OLD, NEW);
    stage.falkirk(&["clean"]).expect(0);
}

#[test]
fn l5_a_copy_that_is_killed_goes_on_with_its_pairs_and_mirrors() {
    let stage = stage("cart_resume", "backward");
    stage.green.sql("INSERT INTO product (id, title) SELECT n, 'p' FROM generate_series(1, 300) n");
    stage.green.sql(
        "INSERT INTO cart (id) SELECT n FROM generate_series(1, 400) n;
         INSERT INTO customer (id, name, cart_id) SELECT n, 'c' || n, n FROM generate_series(1, 300) n;
         INSERT INTO cart_line SELECT p, c, 1 FROM generate_series(1, 300) p, generate_series(1, 400) c",
    );
    // Customers are copied before the lines that need their pairs; the lines cannot be written yet.
    stage.blue.sql("BEGIN; LOCK TABLE cart_line IN SHARE ROW EXCLUSIVE MODE");
    let host = stage.start_falkirk(&["run"]);
    until("the customers are copied", SOON, || stage.blue.count("customer") == 300);
    host.kill_9();
    stage.blue.sql("ROLLBACK");
    stage.green.sql(
        "BEGIN; UPDATE customer SET cart_id = id + 100 WHERE id <= 100; COMMIT;
         UPDATE cart_line SET quantity = 5 WHERE cart_id IN (101, 399); DELETE FROM customer WHERE id = 300;
         UPDATE customer SET cart_id = 400 WHERE id = 299; INSERT INTO customer (id, name, cart_id) VALUES (301, 'new', 399)",
    );
    // Customers 101 to 200 lost their carts to the first hundred: a cart is in one pair.
    stage.green.sql("UPDATE customer SET cart_id = NULL WHERE id BETWEEN 101 AND 200");
    follow(&stage);
    stage.assert_same(OLD, NEW);
    green(
        &stage,
        "UPDATE customer SET cart_id = 350 WHERE id = 299; UPDATE cart_line SET quantity = 6 WHERE cart_id = 350",
    );
    stage.assert_same(OLD, NEW);
    stage.falkirk(&["verify"]).expect(0);
    stage.falkirk(&["clean"]).expect(0);
}
