//! The example shop's step from schema 2 to schema 3: `examples/shop/v2.sql` and `v3.sql` are the two sides.
//!
//! Together with the step from 1 to 2 it leads from 1 to 3, with no database of version 2 anywhere: everything here is
//! of the kinds that the host composes.

use falkirk_sdk::{Reject, Step, rows};

rows! {
    struct Names { first_name: Option<String>, last_name: String }
    struct Initials { initials: String }
    struct Cents { price_cents: i64 }
    struct Price { price: String }
    struct Status { status: String }
}

falkirk_sdk::export!(step);

fn initials(Names { first_name, last_name }: Names) -> Initials {
    let names = [first_name.unwrap_or_default(), last_name];
    Initials { initials: names.iter().filter_map(|name| name.chars().next()).collect() }
}

fn price(Cents { price_cents: cents }: Cents) -> Price {
    let sign = if cents < 0 { "-" } else { "" };
    Price { price: format!("{sign}{}.{:02}00", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100) }
}

/// Exact, by the digits: a fraction of a cent has no place in version 2.
fn cents(Price { price }: Price) -> Result<Cents, Reject> {
    let reject = |code| Reject::new(code, format!("the price {price} has no value in cents")).column("price");
    let (whole, fraction) = price.split_once('.').ok_or_else(|| reject("price_not_finite"))?;
    let (cents, finer) = fraction.split_at_checked(2).ok_or_else(|| reject("price_not_finite"))?;
    if finer.bytes().any(|digit| digit != b'0') {
        return Err(reject("price_too_fine"));
    }
    let price_cents = format!("{whole}{cents}").parse().map_err(|_| reject("price_not_finite"))?;
    Ok(Cents { price_cents })
}

/// Both directions.
pub fn step() -> Step {
    let mut step = Step::new("shop", "2", "3");

    step.forward("customer").output("customer", |to| {
        to.same_named().copied("given_name", "first_name").copied("family_name", "last_name").computed(initials)
    });
    step.backward("customer").output("customer", |to| {
        to.same_named().copied("first_name", "given_name").copied("last_name", "family_name")
    });

    step.forward("product").output("product", |to| to.same_named().computed(price));
    step.backward("product").output("product", |to| to.same_named().computed(cents));

    // What was sent stands in a table of its own from now on.
    let sent = |order: Status| order.status == "sent";
    step.forward("orders")
        .output("orders", move |to| to.same_named().when(move |order: Status| !sent(order)))
        .output("sent_orders", move |to| to.same_named().when(sent));
    step.backward("orders").output("orders", |to| to.same_named().shares());
    step.backward("sent_orders").output("orders", |to| to.same_named().shares());

    step.forward("basket_item").output("basket_line", |to| to.same_named().copied("article", "sku"));
    step.backward("basket_line").output("basket_item", |to| to.same_named().copied("sku", "article"));

    step.forward("coupon").output("coupon", |to| to.same_named().copied("revoked", "deleted"));
    step.backward("coupon").output("coupon", |to| to.same_named().copied("deleted", "revoked"));
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_consistent_and_a_price_comes_back() {
        step().check().unwrap();
        for price_cents in [0, 5, 1_250, 9_999_999_999] {
            assert_eq!(cents(price(Cents { price_cents })).unwrap().price_cents, price_cents);
        }
        assert_eq!(cents(Price { price: "1.0050".into() }).unwrap_err().code, "price_too_fine");
    }
}
