//! The cart example under load: both releases write the same customers' carts at once, also the first ones, the host is
//! killed, and both sides agree through the transform afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use falkirk_tests::ledger::Dice;
use falkirk_tests::{Side, Stage, cart_component, cart_schemas};

const CUSTOMERS: u64 = 50;
const PRODUCTS: u64 = 30;

/// Blue's lines, and green's as their customers see them.
const OLD: &str = "SELECT product_id, customer_id, quantity FROM cart_line";
const NEW: &str =
    "SELECT l.product_id, c.id AS customer_id, l.quantity FROM cart_line l JOIN customer c ON c.cart_id = l.cart_id";

fn long() -> bool {
    std::env::var("FALKIRK_TORTURE").is_ok_and(|tier| tier == "long")
}

/// A customer of either release: one of the fifty, or one of those who were registered since.
fn customer(dice: &mut Dice) -> String {
    let number = 1 + dice.below(CUSTOMERS);
    match dice.below(5) {
        0 => format!("(SELECT id FROM customer WHERE id > {CUSTOMERS} ORDER BY id DESC LIMIT 1 OFFSET {number} % 7)"),
        _ => number.to_string(),
    }
}

/// What a v1 pod does. Whom it registers gets a cart by a first line.
fn old_release(dice: &mut Dice) -> String {
    let (product, customer, quantity) = (1 + dice.below(PRODUCTS), customer(dice), 1 + dice.below(9));
    match dice.below(11) {
        0..5 => format!(
            "INSERT INTO cart_line SELECT {product}, id, {quantity} FROM customer WHERE id = {customer}
             ON CONFLICT (product_id, customer_id) DO UPDATE SET quantity = excluded.quantity"
        ),
        5 | 6 => format!(
            "UPDATE cart_line SET quantity = {quantity} WHERE product_id = {product} AND customer_id = {customer}"
        ),
        7 | 8 => format!("DELETE FROM cart_line WHERE product_id = {product} AND customer_id = {customer}"),
        9 => format!("UPDATE customer SET name = 'v1 {quantity}' WHERE id = {customer}"),
        _ => format!(
            "WITH made AS (INSERT INTO customer (name) VALUES ('old') RETURNING id)
             INSERT INTO cart_line SELECT {product}, id, {quantity} FROM made"
        ),
    }
}

/// What a v2 pod does. Whom it registers gets a cart at once; who has none gets one when he needs it.
fn new_release(dice: &mut Dice) -> String {
    let (product, customer, quantity) = (1 + dice.below(PRODUCTS), customer(dice), 1 + dice.below(9));
    let cart = format!("(SELECT cart_id FROM customer WHERE id = {customer})");
    match dice.below(14) {
        0..5 => format!(
            "BEGIN; INSERT INTO cart_line SELECT {product}, cart_id, {quantity} FROM customer
             WHERE id = {customer} AND cart_id IS NOT NULL
             ON CONFLICT (product_id, cart_id) DO UPDATE SET quantity = excluded.quantity;
             UPDATE cart SET last_modified = now() WHERE id = {cart}; COMMIT"
        ),
        5 | 6 => {
            format!("UPDATE cart_line SET quantity = {quantity} WHERE product_id = {product} AND cart_id = {cart}")
        }
        7 | 8 => format!("DELETE FROM cart_line WHERE product_id = {product} AND cart_id = {cart}"),
        9 => format!("UPDATE customer SET name = 'v2 {quantity}' WHERE id = {customer}"),
        10..13 => open_cart(&customer, "AND cart_id IS NULL", product, quantity),
        _ => format!(
            "WITH opened AS (INSERT INTO cart (last_modified) VALUES (now()) RETURNING id),
                  filled AS (INSERT INTO cart_line SELECT {product}, id, {quantity} FROM opened)
             INSERT INTO customer (name, cart_id) SELECT 'new', id FROM opened"
        ),
    }
}

/// A customer gets a cart, with a line in it.
fn open_cart(customer: &str, whose: &str, product: u64, quantity: u64) -> String {
    format!(
        "WITH who AS (SELECT id FROM customer WHERE id = {customer} {whose} FOR UPDATE),
              opened AS (INSERT INTO cart (last_modified) SELECT now() FROM who RETURNING id),
              filled AS (INSERT INTO cart_line SELECT {product}, id, {quantity} FROM opened)
         UPDATE customer SET cart_id = opened.id FROM who, opened WHERE customer.id = who.id"
    )
}

/// A v2 pod whose customers throw their carts away, and take new ones while they have one.
fn restless_release(dice: &mut Dice) -> String {
    let (product, customer, quantity) = (1 + dice.below(PRODUCTS), customer(dice), 1 + dice.below(9));
    match dice.below(20) {
        0 => open_cart(&customer, "AND cart_id IS NOT NULL", product, quantity),
        1 => format!("UPDATE customer SET cart_id = NULL WHERE id = {customer}"),
        _ => new_release(dice),
    }
}

/// Writes until told to stop, in a session of its own.
fn write(url: &str, (stop, done): (&AtomicBool, &AtomicU64), mut dice: Dice, release: fn(&mut Dice) -> String) {
    while !stop.load(Ordering::Relaxed) {
        match Side::run(url, &release(&mut dice)) {
            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let excused = ["40P01", "23505", "23503", "40001"].iter().any(|state| error.contains(state));
                assert!(excused, "{error}");
                0
            }
        };
        dice.pause_up_to(Duration::from_millis(16));
    }
}

/// Tells the writers to stop, also when the test has failed.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fifty customers, half of them without a cart, two writers a side, and kills.
fn carts(name: &str, policy: &str, new_release: fn(&mut Dice) -> String) -> Stage {
    let mut dice = Dice::of_this_run(name);
    let stage = Stage::new(name);
    let [blue, green] = cart_schemas();
    stage.schemas(&blue, &green);
    stage.config("both", &format!("conflict = \"{policy}\"\n{}", Stage::transforms(Some(cart_component()))));
    stage.blue.sql(&format!(
        "INSERT INTO product (id, title) SELECT n, 'p' || n FROM generate_series(1, {PRODUCTS}) n;
         INSERT INTO customer (id, name) SELECT n, 'c' || n FROM generate_series(1, {CUSTOMERS}) n;
         INSERT INTO cart_line SELECT 1 + n % {PRODUCTS}, 1 + n % ({CUSTOMERS} / 2), 1 FROM generate_series(1, 100) n"
    ));
    stage.falkirk(&["run", "--until", "caught-up"]).expect(0);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let seconds = if long() { 60 } else { 10 };
    let (host, kills) = std::thread::scope(|scope| {
        let (mut host, mut kills) = (stage.start_falkirk(&["run"]), 0);
        for number in 0..4 {
            let (side, release) = match number % 2 {
                0 => (&stage.blue, old_release as fn(&mut Dice) -> String),
                _ => (&stage.green, new_release),
            };
            let (url, dice, stop, done) = (side.application_url(), dice.fork(), &stop, &done);
            scope.spawn(move || write(&url, (stop, done), dice, release));
        }
        // A host that ends must end the writers as well.
        let _over = Over(&stop);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1_000));
            dice.pause_up_to(Duration::from_millis(3_000));
            assert!(host.is_running(), "the host has ended by itself\n{}", host.err());
            host.kill_9();
            kills += 1;
            host = stage.start_falkirk(&["run"]);
        }
        (host, kills)
    });
    host.terminate().expect(143);
    (0..3).for_each(|_| drop(stage.falkirk(&["run", "--until", "caught-up"]).expect(0)));
    println!(
        "{name}: {} transactions of 4 writers in {seconds} s, {kills} kills, {} lines, {} carts",
        done.into_inner(),
        stage.blue.count("cart_line"),
        stage.green.count("cart")
    );
    stage.assert_same("SELECT id, name FROM customer", "SELECT id, name FROM customer");
    stage.assert_same(OLD, NEW);
    let shared = "(SELECT FROM customer WHERE cart_id IS NOT NULL GROUP BY cart_id HAVING count(*) > 1)";
    assert_eq!(stage.green.count(shared), 0, "a cart is one customer's");
    stage
}

#[test]
fn l8_fifty_customers_of_both_releases_and_kills_end_with_carts_that_are_equal_through_the_transform() {
    for policy in ["green_wins", "blue_wins"] {
        let stage = carts(&format!("cart_load_{policy}"), policy, new_release);
        stage.falkirk(&["verify"]).expect(0);
        stage.falkirk(&["clean"]).expect(0);
    }
}

/// With `make torture` only: one of eight such runs still ended apart, and nobody knows yet why.
#[test]
fn l8_carts_that_release_2_throws_away_and_replaces_while_release_1_writes_through_them_stay_equal() {
    if !long() {
        return;
    }
    for policy in ["green_wins", "blue_wins"] {
        let stage = carts(&format!("cart_restless_{policy}"), policy, restless_release);
        stage.falkirk(&["verify"]).expect(0);
        stage.falkirk(&["clean"]).expect(0);
    }
}
