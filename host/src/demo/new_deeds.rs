//! What the users of the demo's shop do in release 2, with its own statements on its own schema. Pure, like `deeds`.
//!
//! Release 2's baskets are only read: the shop's transform has no way back for them.

use std::fmt::Write;

use crate::demo::deeds::{
    Kind, User, correct_event, drop_review, end_session, issue_coupon, pay_order, recode_coupon, record_event,
    refresh_session, renumber_line, renumber_order, some_coupon, write_review,
};
use crate::demo::seed;

/// Everything that users of release 2 do.
pub(super) const KINDS: &[Kind] = &[
    ("orders placed", 220, place_order),
    ("orders paid or sent", 130, pay_order),
    ("orders archived", 70, archive_order),
    ("orders reopened", 20, reopen_order),
    ("orders renumbered", 15, renumber_order),
    ("order lines renumbered", 15, renumber_line),
    ("customers registered", 40, register),
    ("customers renamed", 60, rename),
    ("loyalty levels given", 100, give_level),
    ("customers' details changed", 60, change_details),
    ("customers deleted", 5, delete_customer),
    ("prices changed", 40, change_price),
    ("products relabelled", 30, relabel),
    ("sessions refreshed", 80, refresh_session),
    ("sessions ended", 10, end_session),
    ("events recorded", 45, record_event),
    ("events corrected", 10, correct_event),
    ("reviews written", 20, write_review),
    ("reviews renumbered or deleted", 10, drop_review),
    ("coupons issued", 10, issue_coupon),
    ("coupons recoded", 5, recode_coupon),
    ("coupons withdrawn", 5, withdraw_coupon),
];

fn place_order(user: &mut User) -> String {
    let customer = user.customer();
    let mut lines = String::new();
    for line in 1..=user.chance.below(4) + 1 {
        let (product, quantity, cents) = (user.product(), user.chance.below(5) + 1, user.chance.below(20_000) + 1);
        let comma = if line > 1 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(lines, "{comma}({line}, {product}, {quantity}, {cents} / 100.0)");
    }
    format!(
        "WITH line (line_no, product_id, quantity, amount) AS (VALUES {lines}),
              made AS (INSERT INTO orders (customer_id, total) SELECT {customer}, sum(amount) FROM line RETURNING id)
         INSERT INTO order_line SELECT made.id, line.* FROM made, line"
    )
}

/// An order that is archived leaves one table for the other, in one transaction.
fn archive_order(user: &mut User) -> String {
    let order = user.order("true");
    format!(
        "WITH gone AS (DELETE FROM orders WHERE id = {order} RETURNING id, customer_id, total, placed_at)
         INSERT INTO archived_orders (id, customer_id, total, placed_at) SELECT * FROM gone"
    )
}

fn reopen_order(user: &mut User) -> String {
    let own = user.own("customer_id");
    let order = user.some("archived_orders", seed::ORDERS, &own);
    format!(
        "WITH back AS (DELETE FROM archived_orders WHERE id = {order} RETURNING id, customer_id, total, placed_at)
         INSERT INTO orders (id, customer_id, status, total, placed_at)
         SELECT id, customer_id, 'sent', total + 1, placed_at FROM back"
    )
}

/// A name of release 2: first name, or none, and last name. Release 2 knows which is which; the rules can only guess.
fn names(user: &mut User) -> (String, String) {
    let (name, second) = (user.name(), user.chance.one_of(seed::FIRST_NAMES));
    match name.split_once(' ') {
        Some((first, last)) if user.chance.below(4) == 0 => (format!("'{first} {second}'"), last.to_owned()),
        Some((first, last)) => (format!("'{first}'"), last.to_owned()),
        None => ("NULL".to_owned(), name),
    }
}

fn register(user: &mut User) -> String {
    let ((first, last), mail) = (names(user), user.fresh());
    format!(
        "BEGIN;
         INSERT INTO customer (first_name, last_name, email, loyalty_level)
         VALUES ({first}, '{last}', 'new-{mail}@shop.example', 'silver');
         INSERT INTO user_session (customer_id, expires_at) VALUES (currval('customer_id_seq'), now() + '1 day');
         COMMIT"
    )
}

fn rename(user: &mut User) -> String {
    let ((first, last), customer) = (names(user), user.customer());
    format!("UPDATE customer SET first_name = {first}, last_name = '{last}' WHERE id = {customer}")
}

fn change_details(user: &mut User) -> String {
    let (mail, customer, level) = (user.fresh(), user.customer(), user.chance.below(100));
    match user.chance.below(3) {
        0 => format!("UPDATE customer SET email = 'moved-{mail}@shop.example' WHERE id = {customer}"),
        1 => format!(
            "UPDATE customer SET preferences = preferences || '{{\"level\": {level}}}',
                 tags = array_append(tags[1:3], 'tag {level}') WHERE id = {customer}"
        ),
        _ => format!(
            "UPDATE customer SET last_name = upper(last_name), email = 'loud-{mail}@shop.example', preferences = '{{}}'
             WHERE id = {customer}"
        ),
    }
}

/// Release 1 knows nothing of it.
fn give_level(user: &mut User) -> String {
    let (level, customer) = (user.chance.one_of(&["silver", "gold"]), user.customer());
    format!("UPDATE customer SET loyalty_level = '{level}' WHERE id = {customer}")
}

/// Takes the youngest customer without orders; baskets and sessions go with the customer.
fn delete_customer(user: &mut User) -> String {
    format!(
        "DELETE FROM customer WHERE id = (SELECT id FROM customer c WHERE id > {} AND {}
             AND NOT EXISTS (SELECT FROM orders o WHERE o.customer_id = c.id)
             AND NOT EXISTS (SELECT FROM archived_orders o WHERE o.customer_id = c.id) ORDER BY id DESC LIMIT 1)",
        seed::CUSTOMERS,
        user.own("id")
    )
}

fn change_price(user: &mut User) -> String {
    let (product, cents) = (user.product(), user.chance.below(99_999) + 1);
    format!("UPDATE product SET price_cents = {cents} WHERE id = {product}")
}

fn relabel(user: &mut User) -> String {
    let (product, text) = (user.product(), user.fresh());
    let state = user.chance.one_of(&["hidden", "on_sale", "withdrawn"]);
    format!("UPDATE product SET label = 'Article {text}', state = '{state}' WHERE id = {product}")
}

fn withdraw_coupon(user: &mut User) -> String {
    format!("UPDATE coupon SET deleted = true WHERE code = {}", some_coupon(user))
}
