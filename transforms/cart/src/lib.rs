//! Carts become rows of their own: `examples/cart/v1.sql` and `v2.sql` are the two sides.
//!
//! Nothing is computed. A cart's key is paired with its customer's by a key map; `product` and blue's `customer` have no
//! rule and are copied as they are.

use falkirk_sdk::{Creates, Step};

falkirk_sdk::export!(step);

/// Both directions.
pub fn step() -> Step {
    let mut step = Step::new("cart", "1", "2");
    let cart = step.map("cart", "customer.id", "cart.id", Creates::Green);

    // A line of release 1 implies its customer's cart: the row itself, and that it is this customer's.
    step.forward("cart_line")
        .output("cart", |to| to.ensure().mapped("id", cart.of("customer_id")))
        .output("customer", |to| to.patch([("id", "customer_id")]).mapped("cart_id", cart.of("customer_id")))
        .output("cart_line", |to| to.same_named().mapped("cart_id", cart.of("customer_id")));

    // Release 2 says itself which cart is whose. A cart that is nobody's, and its lines, are nothing to release 1.
    step.backward("customer").bind(cart, "id", "cart_id").output("customer", |to| to.same_named());
    step.backward("cart");
    step.backward("cart_line").output("cart_line", |to| to.same_named().mapped("customer_id", cart.of("cart_id")));
    step
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn the_step_is_consistent_and_says_what_the_contract_shows() {
        step().check().unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&step().manifest()).unwrap();
        let cart = serde_json::json!({ "blue": "customer.id", "green": "cart.id", "creates": "green" });
        assert_eq!(manifest["maps"]["cart"], cart);
        let forward = serde_json::json!([{ "table": "cart_line", "columns": [], "outputs": [
            { "table": "cart", "write": "ensure", "mapped": { "id": ["cart", "customer_id"] } },
            { "table": "customer", "write": "patch", "match": { "id": "customer_id" },
              "mapped": { "cart_id": ["cart", "customer_id"] } },
            { "table": "cart_line", "same_named": true, "mapped": { "cart_id": ["cart", "customer_id"] } }] }]);
        assert_eq!(manifest["forward"], forward);
        let bind = serde_json::json!([{ "map": "cart", "blue": "id", "green": "cart_id" }]);
        assert_eq!(manifest["backward"][0]["bind"], bind);
        assert_eq!(manifest["backward"][1]["outputs"], serde_json::json!([]));
    }
}
