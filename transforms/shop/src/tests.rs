//! The step's rules, run natively through the SDK's harness.

use falkirk_sdk::testing::{TargetRow, backward, forward, target};
use falkirk_sdk::{Reject, Value};

use crate::step;

fn one(rows: Result<Vec<TargetRow>, Reject>) -> TargetRow {
    let [row] = <[TargetRow; 1]>::try_from(rows.unwrap()).unwrap();
    row
}

fn code(rows: Result<Vec<TargetRow>, Reject>) -> String {
    rows.unwrap_err().code
}

#[test]
fn the_step_is_consistent_and_names_its_versions() {
    step().check().unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&step().manifest()).unwrap();
    assert_eq!((&manifest["name"], &manifest["from"], &manifest["to"]), (&"shop".into(), &"1".into(), &"2".into()));
}

#[test]
fn a_name_splits_at_its_first_blank_and_comes_back_as_it_was() {
    for (name, first, last) in [
        ("Ada Lovelace", Some("Ada"), "Lovelace"),
        ("Mary Ann Jones", Some("Mary"), "Ann Jones"),
        ("Sting", None, "Sting"),
        ("", None, ""),
        (" x", Some(""), "x"),
        ("a  b ", Some("a"), " b "),
    ] {
        let green = target("customer", &[("first_name", first.into()), ("last_name", last.into())]);
        assert_eq!(one(forward(&step(), "customer", &[("name", name.into())])), green);
        let back = backward(&step(), "customer", &[("first_name", first.into()), ("last_name", last.into())]);
        assert_eq!(one(back), target("customer", &[("name", name.into())]));
    }
}

#[test]
fn a_corrected_split_still_means_the_same_blue_name() {
    let corrected = [("first_name", "Mary Ann".into()), ("last_name", "Smith".into())];
    assert_eq!(
        one(backward(&step(), "customer", &corrected)),
        target("customer", &[("name", "Mary Ann Smith".into())])
    );
}

fn product(price: &str, status: &str) -> Result<Vec<TargetRow>, Reject> {
    forward(&step(), "product", &[("title", "Boat".into()), ("price", price.into()), ("status", status.into())])
}

#[test]
fn a_price_becomes_cents_exactly_and_comes_back() {
    for (price, cents) in
        [("0.00", 0), ("12.50", 1_250), ("0.01", 1), ("99999999.99", 9_999_999_999_i64), ("-0.05", -5)]
    {
        let green = [("label", "Boat".into()), ("price_cents", cents.into()), ("state", "on_sale".into())];
        assert_eq!(one(product(price, "active")), target("product", &green));
        let blue = [("title", "Boat".into()), ("price", price.into()), ("status", "active".into())];
        assert_eq!(one(backward(&step(), "product", &green)), target("product", &blue));
    }
    assert_eq!(one(product("12", "gone")).values["price_cents"], Value::Integer(1_200));
    assert_eq!(one(product("1.5", "draft")).values["price_cents"], Value::Integer(150));
}

#[test]
fn a_price_that_cents_cannot_hold_rejects_the_row() {
    assert_eq!(code(product("1.005", "active")), "price_too_fine");
    assert_eq!(code(product("1.000", "active")), "price_too_fine");
    for price in ["NaN", "Infinity", "-Infinity", "", "-", ".", "1e5", "+1"] {
        assert_eq!(code(product(price, "active")), "price_not_finite", "{price}");
    }
    assert_eq!(code(product("99999999999999999999.00", "active")), "price_too_large");
}

#[test]
fn an_enum_label_that_nobody_mapped_rejects_the_row() {
    let reject = product("1.00", "borrowed").unwrap_err();
    assert_eq!((reject.code.as_str(), reject.column.as_deref()), ("unknown_status", Some("status")));
}

#[test]
fn an_order_stands_in_exactly_one_table() {
    for (status, table) in [("new", "orders"), ("sent", "orders"), ("archived", "archived_orders")] {
        assert_eq!(one(forward(&step(), "orders", &[("status", status.into())])), target(table, &[]));
    }
    for table in ["orders", "archived_orders"] {
        assert_eq!(one(backward(&step(), table, &[])), target("orders", &[]));
    }
}

fn basket(items: &str) -> Result<Vec<TargetRow>, Reject> {
    forward(&step(), "basket", &[("customer_id", 7.into()), ("items", items.into())])
}

#[test]
fn a_basket_becomes_one_row_for_each_item() {
    assert_eq!(basket("[]").unwrap(), []);
    let item = |sku: &str, quantity: i64| {
        target("basket_item", &[("customer_id", 7.into()), ("sku", sku.into()), ("quantity", quantity.into())])
    };
    let items = r#"[{"sku": "a", "quantity": 1}, {"quantity": 2, "sku": "b"}]"#;
    assert_eq!(basket(items).unwrap(), [item("a", 1), item("b", 2)]);
}

#[test]
fn a_basket_that_says_something_else_rejects_the_row() {
    for items in ["{}", "[1]", r#"[{"sku": "a"}]"#, r#"[{"sku": "a", "quantity": 1, "gift": true}]"#] {
        assert_eq!(code(basket(items)), "bad_items");
    }
    assert_eq!(code(basket(r#"[{"sku": "a", "quantity": 1}, {"sku": "a", "quantity": 2}]"#)), "sku_twice");
}

#[test]
fn a_deleted_coupon_is_a_mark_in_green_and_no_row_in_blue() {
    assert_eq!(one(forward(&step(), "coupon", &[])), target("coupon", &[]));
    assert_eq!(one(backward(&step(), "coupon", &[("deleted", false.into())])), target("coupon", &[]));
    assert_eq!(backward(&step(), "coupon", &[("deleted", true.into())]).unwrap(), []);
    assert!(step().manifest().contains(r#""on_delete":{"set":{"deleted":"t"}}"#));
}
