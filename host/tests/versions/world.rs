//! A small application in three versions: a split, a rename, a computed column from a computed one, routing at both
//! steps, a list, a soft delete. Its transforms are plain functions here.

use std::collections::BTreeMap;

use falkirk::catalog::{Catalog, Column, Table};
use falkirk::change::{Datum, Image};
use falkirk::manifest::{Direction, Manifest};
use falkirk::plan::{Answer, OutputRow, Source};
use serde_json::{Value as Json, json};

fn column(name: &str) -> Column {
    // Numbers are numbers, and what is marked is a truth value; everything else is text.
    let (oid, sql) = match name {
        "n" => (20, "bigint"),
        "deleted" | "revoked" => (16, "boolean"),
        _ => (25, "text"),
    };
    Column::plain(name, oid, sql)
}

pub fn table(name: &str, columns: &[&str], keys: usize) -> Table {
    Table::plain(name, columns.iter().map(|name| column(name)), 0..keys)
}

pub fn catalog(tables: Vec<Table>) -> Catalog {
    tables.into_iter().collect()
}

/// Versions 1, 2 and 3.
pub fn catalogs() -> [Catalog; 3] {
    let same = |name| table(name, &["id", "status", "note"], 1);
    [
        catalog(vec![
            table("customer", &["id", "name", "email"], 1),
            table("orders", &["id", "status", "note"], 1),
            table("basket", &["id", "items"], 1),
            table("coupon", &["code", "percent"], 1),
            table("plain", &["id", "note"], 1),
        ]),
        catalog(vec![
            table("customer", &["id", "first", "last", "email", "level"], 1),
            same("orders"),
            same("archived"),
            table("item", &["id", "sku", "n"], 2),
            table("coupon", &["code", "percent", "deleted"], 1),
            table("plain", &["id", "note"], 1),
        ]),
        catalog(vec![
            table("customer", &["id", "given", "family", "initials", "email", "level"], 1),
            same("orders"),
            same("shipped"),
            same("archived"),
            table("line", &["id", "article", "n", "big"], 2),
            table("coupon", &["code", "percent", "revoked"], 1),
            table("plain", &["id", "note"], 1),
        ]),
    ]
}

pub fn manifest(json: Json) -> Manifest {
    Manifest::parse(&json.to_string()).unwrap()
}

/// The steps from 1 to 2 and from 2 to 3.
pub fn manifests() -> [Manifest; 2] {
    let one = json!({ "falkirk": 1, "name": "shop", "from": "1", "to": "2",
        "types": { "2": { "customer": { "first": "text", "last": "text" }, "item": { "n": "bigint" } } },
        "forward": [
            { "table": "customer", "columns": ["name"], "outputs": [
                { "table": "customer", "same_named": true,
                  "computed": [ { "from": ["name"], "to": ["first", "last"] } ] } ] },
            { "table": "orders", "columns": ["status"], "outputs": [
                { "table": "orders", "when": ["status"], "same_named": true },
                { "table": "archived", "when": ["status"], "same_named": true } ] },
            { "table": "basket", "columns": ["items"], "outputs": [
                { "table": "item", "many": true, "copied": { "id": "id" },
                  "computed": [ { "from": ["items"], "to": ["sku", "n"] } ] } ] },
            { "table": "coupon", "outputs": [
                { "table": "coupon", "same_named": true, "on_delete": { "set": { "deleted": "t" } } } ] } ],
        "backward": [
            { "table": "customer", "columns": ["first", "last"], "outputs": [
                { "table": "customer", "same_named": true,
                  "computed": [ { "from": ["first", "last"], "to": ["name"] } ] } ] },
            { "table": "orders", "outputs": [ { "table": "orders", "same_named": true, "shares": true } ] },
            { "table": "archived", "outputs": [ { "table": "orders", "same_named": true, "shares": true } ] },
            { "table": "coupon", "columns": ["deleted"], "outputs": [
                { "table": "coupon", "same_named": true, "when": ["deleted"] } ] } ] });
    let two = json!({ "falkirk": 1, "name": "shop", "from": "2", "to": "3",
        "forward": [
            { "table": "customer", "columns": ["first", "last"], "outputs": [
                { "table": "customer", "same_named": true, "copied": { "given": "first", "family": "last" },
                  "computed": [ { "from": ["first", "last"], "to": ["initials"] } ] } ] },
            { "table": "orders", "columns": ["status"], "outputs": [
                { "table": "orders", "when": ["status"], "same_named": true },
                { "table": "shipped", "when": ["status"], "same_named": true } ] },
            { "table": "item", "columns": ["n"], "outputs": [
                { "table": "line", "same_named": true, "copied": { "article": "sku" },
                  "computed": [ { "from": ["n"], "to": ["big"] } ] } ] },
            { "table": "coupon", "outputs": [
                { "table": "coupon", "same_named": true, "copied": { "revoked": "deleted" } } ] } ],
        "backward": [
            { "table": "customer", "outputs": [
                { "table": "customer", "same_named": true, "copied": { "first": "given", "last": "family" } } ] },
            { "table": "orders", "outputs": [ { "table": "orders", "same_named": true, "shares": true } ] },
            { "table": "shipped", "outputs": [ { "table": "orders", "same_named": true, "shares": true } ] },
            { "table": "line", "outputs": [
                { "table": "item", "same_named": true, "copied": { "sku": "article" } } ] },
            { "table": "coupon", "outputs": [
                { "table": "coupon", "same_named": true, "copied": { "deleted": "revoked" } } ] } ] });
    [manifest(one), manifest(two)]
}

fn text(source: &Source, image: &Image, name: &str) -> String {
    let column = source.columns.iter().position(|column| column.name == name).expect("the rule asks for it");
    String::from_utf8(image.text(column).unwrap_or_default().to_vec()).unwrap()
}

/// What the guest of one step answers for a row. `from` is the version that it reads.
pub fn answer(direction: Direction, from: usize, source: &Source, image: &Image) -> Answer {
    let text = |name: &str| text(source, image, name);
    let one = |output: usize, values: &[&str]| {
        vec![OutputRow { output, values: values.iter().map(|value| Datum::text(*value)).collect() }]
    };
    let name = source.name.table.as_str();
    match (direction, from, name) {
        (Direction::Forward, 1, "customer") => {
            let name = text("name");
            let (first, last) = name.split_once(' ').unwrap_or(("", &name));
            one(0, &[first, last])
        }
        (Direction::Forward, 1, "orders") => one(usize::from(text("status") == "archived"), &[]),
        (Direction::Forward, 1, "basket") => {
            let items = text("items");
            let items = items.split(',').filter_map(|item| item.split_once(':'));
            items.flat_map(|(sku, n)| one(0, &[sku, n])).collect()
        }
        (Direction::Forward, 2, "customer") => {
            one(0, &[&[text("first"), text("last")].iter().filter_map(|name| name.chars().next()).collect::<String>()])
        }
        (Direction::Forward, 2, "orders") => one(usize::from(text("status") == "sent"), &[]),
        (Direction::Forward, 2, "item") => {
            one(0, &[if text("n").parse::<i64>().unwrap() > 4 { "big" } else { "small" }])
        }
        (Direction::Backward, 2, "customer") => one(0, &[format!("{} {}", text("first"), text("last")).trim_start()]),
        (Direction::Backward, 2, "coupon") if text("deleted") != "t" => one(0, &[]),
        _ => Vec::new(),
    }
}

/// The rows of a database: by table and key.
pub type Content = BTreeMap<(String, Vec<String>), BTreeMap<String, Option<String>>>;
