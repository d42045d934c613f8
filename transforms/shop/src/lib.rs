//! The example shop's step from schema 1 to schema 2: `examples/shop/v1.sql` and `v2.sql` are the two sides.
//!
//! `order_line`, `user_session`, `event` and `review` have no rule: both sides hold them alike, and the host copies them.

mod convert;
#[cfg(test)]
mod tests;

use convert::{cents, items, join, price, split, state, status};
use falkirk_sdk::{Step, rows};

rows! {
    struct Name { name: String }
    struct Names { first_name: Option<String>, last_name: String }
    struct Price { price: String }
    struct Cents { price_cents: i64 }
    struct Status { status: String }
    struct State { state: String }
    struct Items { items: String }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item { sku: String, quantity: i64 }
    struct Deleted { deleted: bool }
}

falkirk_sdk::export!(step);

/// Both directions.
pub fn step() -> Step {
    let mut step = Step::new("shop", "1", "2");

    step.forward("customer").output("customer", |to| to.same_named().computed(split));
    step.backward("customer").output("customer", |to| to.same_named().computed(join));
    // What a later step may read of what this one computes.
    step.types("2", "customer", [("first_name", "text"), ("last_name", "text")]);
    step.types("2", "product", [("price_cents", "bigint")]);

    let forward = step.forward("product");
    forward.output("product", |to| to.same_named().copied("label", "title").computed(cents).computed(state));
    let backward = step.backward("product");
    backward.output("product", |to| to.same_named().copied("title", "label").computed(price).computed(status));

    // An order moves to the other table when its status says so.
    let archived = |order: Status| order.status == "archived";
    step.forward("orders")
        .output("orders", move |to| to.same_named().when(move |order: Status| !archived(order)))
        .output("archived_orders", move |to| to.same_named().when(archived));
    // Both of green's tables are blue's one. An order stands in one of them at a time.
    step.backward("orders").output("orders", |to| to.same_named().shares());
    step.backward("archived_orders").output("orders", |to| to.same_named().shares());

    step.forward("basket").output("basket_item", |to| to.copied("customer_id", "customer_id").many(items));
    // No way back for basket_item: a basket would have several rows as its owners, and its list needs all of them.

    // A deletion becomes a mark. A code that is used again finds the marked row in its way, and the link stops there.
    step.forward("coupon").output("coupon", |to| to.same_named().on_delete_set([("deleted", Some("t"))]));
    let backward = step.backward("coupon");
    backward.output("coupon", |to| to.same_named().when(|coupon: Deleted| !coupon.deleted));
    step
}
