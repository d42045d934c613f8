//! What the users of the demo's shop do in release 1: each deed is one source transaction, as SQL. `new_deeds` has what
//! they do in release 2.
//!
//! Pure: the same seed gives the same deeds. Together they touch every table of release 1 with every kind of change
//! that a link has to carry: inserts, updates of one and of several columns, deletes (with cascades), key changes,
//! rows that move between partitions, and transactions over several tables. A code, a number or an address is never
//! used a second time, since release 2 keeps the marks of deleted coupons. Each user works on a share of the rows that
//! nobody else touches: whoever moves to the other release takes them along.

use std::fmt::Write;

use crate::demo::chance::Chance;
use crate::demo::{new_deeds, seed};

/// One kind of deed: its name and how often it is done, in parts of a thousand.
pub(super) type Kind = (&'static str, u64, fn(&mut User) -> String);

/// The release whose pod a user talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Writes blue.
    One,
    /// Writes green.
    Two,
}

impl Release {
    /// Everything that users of this release do.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Release::One => KINDS,
            Release::Two => new_deeds::KINDS,
        }
    }
}

/// Everything that users of release 1 do.
pub const KINDS: &[Kind] = &[
    ("orders placed", 220, place_order),
    ("orders paid or sent", 130, pay_order),
    ("orders archived", 70, archive_order),
    ("orders reopened", 20, reopen_order),
    ("orders renumbered", 15, renumber_order),
    ("order lines renumbered", 15, renumber_line),
    ("customers registered", 40, register),
    ("customers renamed", 50, rename),
    ("customers' details changed", 60, change_details),
    ("customers deleted", 5, delete_customer),
    ("prices changed", 40, change_price),
    ("products relabelled", 20, relabel),
    ("baskets changed", 110, change_basket),
    ("baskets handed over", 10, hand_over_basket),
    ("sessions refreshed", 80, refresh_session),
    ("sessions ended", 10, end_session),
    ("events recorded", 45, record_event),
    ("events corrected", 10, correct_event),
    ("reviews written", 20, write_review),
    ("reviews renumbered or deleted", 10, drop_review),
    ("coupons issued", 10, issue_coupon),
    ("coupons recoded", 5, recode_coupon),
    ("coupons deleted", 5, delete_coupon),
];

/// Somebody at work in the shop.
pub struct User {
    pub(super) chance: Chance,
    number: u64,
    of: u64,
    used: u64,
}

impl User {
    /// The user with this number of `of` users, for a demo with this seed.
    pub fn new(seed: u64, number: u64, of: u64) -> User {
        User { chance: Chance::new(seed.wrapping_add(number)), number, of: of.max(1), used: 0 }
    }

    /// The next deed in a release: its position in `Release::kinds`, and its SQL.
    pub fn next_deed(&mut self, release: Release) -> (usize, String) {
        let kinds = release.kinds();
        let all: u64 = kinds.iter().map(|(_, often, _)| often).sum();
        let mut point = self.chance.below(all);
        for (kind, (_, often, sql)) in kinds.iter().enumerate() {
            match point.checked_sub(*often) {
                Some(rest) => point = rest,
                None => return (kind, sql(self)),
            }
        }
        (0, kinds[0].2(self))
    }

    /// A text that nobody uses a second time.
    pub(super) fn fresh(&mut self) -> String {
        self.used += 1;
        format!("{}-{}", self.number, self.used)
    }

    /// The condition that a number is of this user's share.
    pub(super) fn own(&self, number: &str) -> String {
        format!("{number} % {} = {}", self.of, self.number)
    }

    /// A number of this user's share, from 1 up to `upto`.
    pub(super) fn own_number(&mut self, upto: u64) -> u64 {
        let first = if self.number == 0 { self.of } else { self.number };
        first + self.chance.below(upto / self.of) * self.of
    }

    /// An own row of a table that is there now, near a random place of its key.
    pub(super) fn some(&mut self, table: &str, upto: u64, condition: &str) -> String {
        let from = self.chance.below(upto) + 1;
        format!("(SELECT id FROM {table} WHERE id >= {from} AND {condition} ORDER BY id LIMIT 1)")
    }

    pub(super) fn customer(&mut self) -> String {
        let own = self.own("id");
        self.some("customer", seed::CUSTOMERS, &own)
    }

    /// An order of an own customer.
    pub(super) fn order(&mut self, condition: &str) -> String {
        let own = self.own("customer_id");
        self.some("orders", seed::ORDERS, &format!("{own} AND {condition}"))
    }

    pub(super) fn product(&mut self) -> u64 {
        self.own_number(seed::PRODUCTS)
    }

    pub(super) fn name(&mut self) -> String {
        let first = self.chance.one_of(seed::FIRST_NAMES);
        let last = self.chance.one_of(seed::LAST_NAMES);
        match self.chance.below(10) {
            0 => last.to_owned(),
            1 => format!("{first} {} {last}", self.chance.one_of(seed::FIRST_NAMES)),
            _ => format!("{first} {last}"),
        }
    }

    /// A basket's list: each article once.
    pub(super) fn items(&mut self) -> String {
        let (first, step) = (self.chance.below(40), self.chance.below(9) + 1);
        let item = |place: u64, quantity: u64| serde_json::json!({ "sku": format!("sku-{}", first + place * step), "quantity": quantity });
        let count = self.chance.below(6);
        let list: Vec<_> = (0..count).map(|place| item(place, self.chance.below(5) + 1)).collect();
        serde_json::Value::from(list).to_string()
    }
}

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
        "BEGIN ISOLATION LEVEL REPEATABLE READ;
         UPDATE basket SET items = '[]' WHERE customer_id = {customer};
         WITH made AS (INSERT INTO orders (customer_id) VALUES ({customer}) RETURNING id)
         INSERT INTO order_line SELECT made.id, line.* FROM made, (VALUES {lines}) AS line;
         UPDATE orders SET total = (SELECT sum(amount) FROM order_line WHERE order_id = orders.id)
         WHERE id = currval('orders_id_seq');
         COMMIT"
    )
}

pub(super) fn pay_order(user: &mut User) -> String {
    let order = user.order("status IN ('new', 'paid')");
    format!("UPDATE orders SET status = CASE status WHEN 'new' THEN 'paid' ELSE 'sent' END WHERE id = {order}")
}

fn archive_order(user: &mut User) -> String {
    let order = user.order("status <> 'archived'");
    format!("UPDATE orders SET status = 'archived' WHERE id = {order}")
}

fn reopen_order(user: &mut User) -> String {
    let order = user.order("status = 'archived'");
    format!("UPDATE orders SET status = 'sent', total = total + 1 WHERE id = {order}")
}

pub(super) fn renumber_order(user: &mut User) -> String {
    let order = user.order("true");
    format!(
        "WITH old AS (SELECT id FROM orders WHERE id = {order} FOR UPDATE),
              moved AS (UPDATE orders SET id = nextval('orders_id_seq') FROM old WHERE orders.id = old.id
                        RETURNING orders.id AS new_id, old.id AS old_id)
         UPDATE order_line SET order_id = moved.new_id FROM moved WHERE order_id = moved.old_id"
    )
}

pub(super) fn renumber_line(user: &mut User) -> String {
    let order = user.order("true");
    format!(
        "UPDATE order_line SET line_no = line_no + 100, quantity = quantity + 1
         WHERE (order_id, line_no) = (SELECT order_id, max(line_no) FROM order_line WHERE order_id = {order} GROUP BY 1)"
    )
}

fn register(user: &mut User) -> String {
    let (name, mail, items) = (user.name(), user.fresh(), user.items());
    format!(
        "BEGIN;
         INSERT INTO customer (name, email, tags) VALUES ('{name}', 'new-{mail}@shop.example', '{{\"new\",\"a, b\"}}');
         INSERT INTO basket VALUES (currval('customer_id_seq'), '{items}');
         INSERT INTO user_session (customer_id, expires_at) VALUES (currval('customer_id_seq'), now() + '1 day');
         COMMIT"
    )
}

fn rename(user: &mut User) -> String {
    let (name, customer) = (user.name(), user.customer());
    format!("UPDATE customer SET name = '{name}' WHERE id = {customer}")
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
            "UPDATE customer SET name = upper(name), email = 'loud-{mail}@shop.example', preferences = '{{}}'
             WHERE id = {customer}"
        ),
    }
}

/// Takes the youngest customer without orders; baskets and sessions go with the customer.
fn delete_customer(user: &mut User) -> String {
    format!(
        "DELETE FROM customer WHERE id = (SELECT id FROM customer c WHERE id > {} AND {}
             AND NOT EXISTS (SELECT FROM orders o WHERE o.customer_id = c.id) ORDER BY id DESC LIMIT 1)",
        seed::CUSTOMERS,
        user.own("id")
    )
}

fn change_price(user: &mut User) -> String {
    let (product, cents) = (user.product(), user.chance.below(99_999) + 1);
    format!("UPDATE product SET price = {cents} / 100.0 WHERE id = {product}")
}

fn relabel(user: &mut User) -> String {
    let (product, text) = (user.product(), user.fresh());
    let status = user.chance.one_of(&["draft", "active", "gone"]);
    format!("UPDATE product SET title = 'Article {text}', status = '{status}' WHERE id = {product}")
}

fn change_basket(user: &mut User) -> String {
    let (customer, items) = (user.own_number(seed::BASKETS), user.items());
    format!("UPDATE basket SET items = '{items}' WHERE customer_id = {customer}")
}

/// The basket gets another key, unless the other customer has a basket.
fn hand_over_basket(user: &mut User) -> String {
    let (from, to) = (user.own_number(seed::BASKETS), user.customer());
    format!(
        "UPDATE basket SET customer_id = heir.id FROM (SELECT {to} AS id) AS heir
         WHERE customer_id = {from} AND NOT EXISTS (SELECT FROM basket taken WHERE taken.customer_id = heir.id)"
    )
}

/// Sessions belong to customers who are never deleted: the seeded ones.
pub(super) fn refresh_session(user: &mut User) -> String {
    let (customer, session, page) = (user.own_number(seed::CUSTOMERS), user.own_number(5_000), user.chance.below(100));
    format!(
        "INSERT INTO user_session VALUES (md5('load {session}')::uuid, {customer}, '{{\"page\": {page}}}', now() + '1 hour')
         ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at"
    )
}

pub(super) fn end_session(user: &mut User) -> String {
    let session = user.own_number(5_000);
    match user.chance.below(3) {
        0 => format!("UPDATE user_session SET id = gen_random_uuid() WHERE id = md5('load {session}')::uuid"),
        _ => format!("DELETE FROM user_session WHERE id = md5('load {session}')::uuid"),
    }
}

pub(super) fn record_event(user: &mut User) -> String {
    let (days, kind, page) =
        (user.chance.below(1_000), user.chance.one_of(&["view", "search", "click"]), user.chance.below(100));
    format!(
        "INSERT INTO event (happened_at, kind, payload)
         VALUES ('2025-01-01 00:00:00+00'::timestamptz + {days} * interval '1 day', '{kind}', '{{\"page\": {page}}}')"
    )
}

/// A new time may move the row to another partition, on either side.
pub(super) fn correct_event(user: &mut User) -> String {
    let own = user.own("id");
    let (event, days) = (user.some("event", seed::EVENTS, &own), user.chance.below(1_000));
    match user.chance.below(3) {
        0 => format!("DELETE FROM event WHERE id = {event}"),
        1 => format!("UPDATE event SET kind = upper(kind) WHERE id = {event}"),
        _ => format!(
            "UPDATE event SET happened_at = '2025-01-01 00:00:00+00'::timestamptz + {days} * interval '1 day'
             WHERE id = {event}"
        ),
    }
}

pub(super) fn write_review(user: &mut User) -> String {
    let (product, stars) = (user.product(), user.chance.below(5) + 1);
    format!(
        "INSERT INTO review (product_id, stars, body) VALUES ({product}, {stars}, repeat('It''s \\ good. ', {stars}))"
    )
}

pub(super) fn drop_review(user: &mut User) -> String {
    let own = user.own("id");
    let review = user.some("review", seed::REVIEWS, &own);
    match user.chance.below(3) {
        0 => format!("DELETE FROM review WHERE id = {review}"),
        1 => format!("UPDATE review SET stars = 6 - stars WHERE id = {review}"),
        _ => format!("UPDATE review SET id = nextval('review_id_seq') WHERE id = {review}"),
    }
}

pub(super) fn issue_coupon(user: &mut User) -> String {
    let (code, percent) = (user.fresh(), user.chance.below(90) + 1);
    format!("INSERT INTO coupon VALUES ('LOAD-{code}', {percent})")
}

pub(super) fn some_coupon(user: &mut User) -> String {
    let (from, own) = (user.chance.below(seed::COUPONS), user.own("ascii(right(code, 1))"));
    format!(
        "(SELECT code FROM coupon WHERE code >= 'SEED-{from}' AND code LIKE 'SEED-%' AND {own} ORDER BY code LIMIT 1)"
    )
}

pub(super) fn recode_coupon(user: &mut User) -> String {
    let (coupon, code) = (some_coupon(user), user.fresh());
    format!("UPDATE coupon SET code = 'SWAP-{code}', percent = 1 + percent % 100 WHERE code = {coupon}")
}

fn delete_coupon(user: &mut User) -> String {
    format!("DELETE FROM coupon WHERE code = {}", some_coupon(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_deeds_and_another_gives_others() {
        let deeds = |seed: u64, number: u64| {
            let mut user = User::new(seed, number, 10);
            (0..200).map(|_| user.next_deed(Release::One)).collect::<Vec<_>>()
        };
        assert_eq!(deeds(1, 1), deeds(1, 1));
        assert_ne!(deeds(1, 1), deeds(1, 2));
        assert_ne!(deeds(1, 1), deeds(9, 1));
    }

    #[test]
    fn every_kind_of_deed_is_done_in_both_releases() {
        for release in [Release::One, Release::Two] {
            let mut user = User::new(7, 1, 4);
            let mut done = vec![0; release.kinds().len()];
            (0..5_000).for_each(|_| done[user.next_deed(release).0] += 1);
            assert!(done.iter().all(|count| *count > 0), "{done:?}");
            assert_eq!(release.kinds().iter().map(|(_, often, _)| often).sum::<u64>(), 1_000);
        }
    }

    #[test]
    fn the_users_shares_are_disjoint_and_leave_nothing_out() {
        let mut owners = [0; 41];
        for number in 0..4 {
            let mut user = User::new(3, number, 4);
            let own: std::collections::BTreeSet<u64> = (0..1_000).map(|_| user.own_number(40)).collect();
            own.iter().for_each(|number| owners[*number as usize] += 1);
        }
        assert_eq!((owners[0], &owners[1..]), (0, &[1; 40][..]));
    }
}
