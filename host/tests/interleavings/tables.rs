//! Two sides of which one holds in one table what the other one holds in two, and the plans of both links.

use falkirk::catalog::{Catalog, Table};
use falkirk::manifest::Rule;
use falkirk::plan::Plan;
use falkirk::plan::bind::{Binding, bind};

/// Tables of text columns; `key` says how many of the first columns are the key.
pub fn catalog(tables: &[(&str, &[&str], usize)]) -> Catalog {
    tables.iter().map(|(name, columns, key)| Table::of_text(name, columns, 0..*key)).collect()
}

/// The plans of both links, forward first; rules are JSON.
pub fn plans(sides: [&Catalog; 2], rules: [serde_json::Value; 2]) -> [Plan; 2] {
    let [blue, green] = sides;
    let [forward, backward] = rules.map(|rules| -> Vec<Rule> { serde_json::from_value(rules).unwrap() });
    let plan = |rules: &[Rule], source, target| {
        let binding = Binding { rules, artifact: "test", manifest: None, source, target, include: &[], exclude: &[] };
        bind(&binding).unwrap_or_else(|problems| panic!("{problems:?}"))
    };
    [plan(&forward, blue, green), plan(&backward, green, blue)]
}

/// A row of blue's `parcel` stands in green's `open` or in its `done`, as its kind says.
pub fn routed() -> [Plan; 2] {
    let blue = catalog(&[("parcel", &["id", "kind", "a"], 1)]);
    let green = catalog(&[("open", &["id", "kind", "a"], 1), ("done", &["id", "kind", "a"], 1)]);
    let to = |table: &str| serde_json::json!({ "table": table, "when": ["kind"], "same_named": true });
    let forward = serde_json::json!([{ "table": "parcel", "columns": ["kind"], "outputs": [to("open"), to("done")] }]);
    let back = |table: &str| serde_json::json!({ "table": table, "outputs": [{ "table": "parcel", "same_named": true, "shares": true }] });
    plans([&blue, &green], [forward, serde_json::json!([back("open"), back("done")])])
}

/// A row of blue's `member` is a row of green's `member`, and one of its `bio` if it has one.
pub fn described() -> [Plan; 2] {
    let blue = catalog(&[("member", &["id", "name", "bio"], 1)]);
    let green = catalog(&[("member", &["id", "name"], 1), ("bio", &["id", "bio"], 1)]);
    let forward = serde_json::json!([{ "table": "member", "columns": ["bio"], "outputs": [
        { "table": "member", "same_named": true },
        { "table": "bio", "when": ["bio"], "same_named": true } ] }]);
    let backward = serde_json::json!([
        { "table": "member", "outputs": [{ "table": "member", "same_named": true }] },
        { "table": "bio", "outputs": [{ "table": "member", "write": "patch", "match": { "id": "id" },
            "copied": { "bio": "bio" }, "on_remove": "null" }] } ]);
    plans([&blue, &green], [forward, backward])
}
