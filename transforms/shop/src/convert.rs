//! What the columns mean: pure functions from one release's values to the other's.

use std::collections::BTreeSet;

use falkirk_sdk::Reject;

use crate::{Cents, Item, Items, Name, Names, Price, State, Status};

/// The first word is the first name. `join` restores every name that went through here.
pub fn split(Name { name }: Name) -> Names {
    match name.split_once(' ') {
        Some((first, last)) => Names { first_name: Some(first.into()), last_name: last.into() },
        None => Names { first_name: None, last_name: name },
    }
}

pub fn join(Names { first_name, last_name }: Names) -> Name {
    Name { name: first_name.map_or_else(|| last_name.clone(), |first| format!("{first} {last_name}")) }
}

/// Exact, by the digits: a price never becomes a double.
pub fn cents(Price { price }: Price) -> Result<Cents, Reject> {
    let reject = |code| Reject::new(code, format!("the price {price} has no value in cents")).column("price");
    let (sign, digits) = price.strip_prefix('-').map_or((1, price.as_str()), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !(whole.to_owned() + fraction).bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(reject("price_not_finite"));
    }
    if fraction.len() > 2 {
        return Err(reject("price_too_fine"));
    }
    let cents = format!("{whole}{fraction:0<2}").parse::<i64>().map_err(|_| reject("price_too_large"))?;
    Ok(Cents { price_cents: sign * cents })
}

pub fn price(Cents { price_cents: cents }: Cents) -> Price {
    let sign = if cents < 0 { "-" } else { "" };
    Price { price: format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100) }
}

/// Release 1's statuses and release 2's states.
const STATES: [(&str, &str); 3] = [("draft", "hidden"), ("active", "on_sale"), ("gone", "withdrawn")];

pub fn state(Status { status }: Status) -> Result<State, Reject> {
    let found = STATES.into_iter().find(|(old, _)| *old == status).map(|(_, new)| State { state: new.into() });
    found.ok_or_else(|| Reject::new("unknown_status", status).column("status"))
}

pub fn status(State { state }: State) -> Result<Status, Reject> {
    let found = STATES.into_iter().find(|(_, new)| *new == state).map(|(old, _)| Status { status: old.into() });
    found.ok_or_else(|| Reject::new("unknown_state", state).column("state"))
}

pub fn items(Items { items }: Items) -> Result<Vec<Item>, Reject> {
    let reject = |code, why: String| Reject::new(code, why).column("items");
    let items: Vec<Item> = serde_json::from_str(&items).map_err(|error| reject("bad_items", error.to_string()))?;
    let mut seen = BTreeSet::new();
    match items.iter().find(|item| !seen.insert(&item.sku)) {
        Some(item) => Err(reject("sku_twice", item.sku.clone())),
        None => Ok(items),
    }
}
