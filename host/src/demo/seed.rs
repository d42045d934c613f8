//! The rows that the demo's shop has before anything happens: release 1, on blue.
//!
//! All of them are made by the server itself, by arithmetic on row numbers: the same rows every time, in seconds.

/// How many customers there are; their ids run from 1.
pub const CUSTOMERS: u64 = 40_000;
/// How many products there are.
pub const PRODUCTS: u64 = 2_000;
/// How many orders there are.
pub const ORDERS: u64 = 60_000;
/// How many customers, from the first on, have a basket.
pub const BASKETS: u64 = 8_000;
/// How many sessions there are.
pub const SESSIONS: u64 = 12_000;
/// How many events there are.
pub const EVENTS: u64 = 25_000;
/// How many reviews there are.
pub const REVIEWS: u64 = 12_000;
/// How many coupons there are.
pub const COUPONS: u64 = 1_000;

/// First names, two of them with a letter beyond ASCII.
pub const FIRST_NAMES: &[&str] =
    &["Anna", "Bruno", "Chloé", "Dilara", "Emil", "Fatou", "Günter", "Hana", "Ivo", "Jamila"];
/// Last names; some hold a blank.
pub const LAST_NAMES: &[&str] =
    &["Smith", "Okafor", "van der Berg", "Nguyen", "Kowalska", "Øster", "de la Cruz", "Yamada", "Brown", "Haddad"];

/// The statements, each with the table that it fills.
pub fn statements() -> Vec<(&'static str, String)> {
    let mut all = people_and_goods();
    all.extend(what_they_left());
    all
}

fn people_and_goods() -> Vec<(&'static str, String)> {
    let list = |names: &[&str]| format!("(ARRAY['{}'])", names.join("','"));
    let (first, last) = (list(FIRST_NAMES), list(LAST_NAMES));
    vec![
        (
            "customer",
            format!(
                "INSERT INTO customer (name, email, created_at, preferences, tags)
                 SELECT CASE n % 20 WHEN 0 THEN '' ELSE {first}[1 + n % 10] || ' ' END || {last}[1 + n / 10 % 10],
                        'customer-' || n || '@shop.example', '2024-01-01'::timestamptz + n * interval '17 minutes',
                        jsonb_build_object('news', n % 2 = 0, 'note', repeat('x', n % 40)),
                        CASE n % 4 WHEN 0 THEN '{{}}' ELSE ARRAY['tag ' || n % 7, 'a,\"b'] END
                 FROM generate_series(1, {CUSTOMERS}) n"
            ),
        ),
        (
            // Every fourth has a picture that is stored out of line.
            "product",
            format!(
                "INSERT INTO product (title, price, picture, status)
                 SELECT 'Article ' || n, (n * 37 % 99999 + 1) / 100.0,
                        CASE n % 4 WHEN 0 THEN (SELECT decode(string_agg(md5(n || '-' || part), ''), 'hex')
                                                FROM generate_series(1, 200) part) END,
                        (ARRAY['draft', 'active', 'active', 'gone'])[1 + n % 4]::product_status
                 FROM generate_series(1, {PRODUCTS}) n"
            ),
        ),
        (
            "orders",
            format!(
                "INSERT INTO orders (customer_id, status, total, placed_at)
                 SELECT 1 + n * 7 % {CUSTOMERS}, (ARRAY['new', 'paid', 'sent', 'archived', 'sent'])[1 + n % 5],
                        (n * 131 % 500000) / 100.0, '2024-06-01'::timestamptz + n * interval '11 minutes'
                 FROM generate_series(1, {ORDERS}) n"
            ),
        ),
        (
            "order_line",
            format!(
                "INSERT INTO order_line
                 SELECT n, line, 1 + (n + line) % {PRODUCTS}, 1 + n % 5, (n * line * 53 % 90000) / 100.0
                 FROM generate_series(1, {ORDERS}) n, generate_series(1, 1 + n % 2) line"
            ),
        ),
    ]
}

fn what_they_left() -> Vec<(&'static str, String)> {
    vec![
        (
            "user_session",
            format!(
                "INSERT INTO user_session
                 SELECT md5('seed ' || n)::uuid, 1 + n * 3 % {CUSTOMERS}, jsonb_build_object('page', n % 100),
                        '2026-06-01'::timestamptz + n * interval '1 minute'
                 FROM generate_series(1, {SESSIONS}) n"
            ),
        ),
        (
            "event",
            format!(
                "INSERT INTO event (happened_at, kind, payload)
                 SELECT '2025-01-01 00:00:00+00'::timestamptz + n * interval '55 minutes', (ARRAY['view', 'search', 'click'])[1 + n % 3],
                        jsonb_build_object('page', n % 100)
                 FROM generate_series(1, {EVENTS}) n"
            ),
        ),
        (
            "review",
            format!(
                "INSERT INTO review (product_id, stars, body)
                 SELECT 1 + n % {PRODUCTS}, 1 + n % 5, CASE n % 3 WHEN 0 THEN '' ELSE E'line\\tone\\nline ' || n END
                 FROM generate_series(1, {REVIEWS}) n"
            ),
        ),
        (
            "basket",
            format!(
                "INSERT INTO basket
                 SELECT n, (SELECT coalesce(jsonb_agg(jsonb_build_object('sku', 'sku-' || item * 3 + n % 5, 'quantity', 1 + item)), '[]')
                            FROM generate_series(1, n % 4) item)
                 FROM generate_series(1, {BASKETS}) n"
            ),
        ),
        ("coupon", format!("INSERT INTO coupon SELECT 'SEED-' || n, 1 + n % 100 FROM generate_series(1, {COUPONS}) n")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_has_two_hundred_thousand_rows_over_nine_tables() {
        let lines = ORDERS + ORDERS / 2;
        assert!(CUSTOMERS + PRODUCTS + ORDERS + lines + BASKETS + SESSIONS + EVENTS + REVIEWS + COUPONS >= 200_000);
        let statements = statements();
        assert_eq!(statements.len(), 9);
        assert!(statements.iter().all(|(table, sql)| sql.contains(&format!("INTO {table}"))));
    }
}
