//! Write a Falkirk transform in Rust.
//!
//! A transform says which target rows a source row stands for. Columns that only move are named once and moved by the
//! host; columns that need code are computed by plain functions from one struct to another. The field names of the
//! structs are the column names, so what a function reads and writes stands in its signature, and nobody counts
//! positions:
//!
//! ```
//! use falkirk_sdk::{Step, rows};
//!
//! rows! {
//!     struct Name { name: Option<String> }
//!     struct Names { first_name: Option<String>, last_name: Option<String> }
//! }
//!
//! fn split(Name { name }: Name) -> Names {
//!     match name.as_deref().and_then(|name| name.split_once(' ')) {
//!         Some((first, last)) => Names { first_name: Some(first.into()), last_name: Some(last.into()) },
//!         None => Names { first_name: name, last_name: None },
//!     }
//! }
//!
//! fn step() -> Step {
//!     let mut step = Step::new("shop", "1", "2");
//!     step.forward("customer").output("customer", |output| output.same_named().computed(split));
//!     step
//! }
//!
//! falkirk_sdk::export!(step);
//! # step().check().unwrap();
//! ```
//!
//! | to say | write |
//! |---|---|
//! | the row goes to this table | `.output("table", \|output\| ...)` |
//! | columns keep their names | `.same_named()` |
//! | a column gets another name | `.copied("target_column", "source_column")` |
//! | columns are computed | `.computed(function)`: one group, written as a whole |
//! | the row exists only sometimes | `.when(function)`, answering `bool` |
//! | one row stands for any number | `.many(function)`, answering a `Vec` |
//! | a changed key is another row | `.follows_key()` (default for `many`; `.follows_source()` otherwise) |
//! | a delete becomes a mark | `.on_delete_set([("deleted", Some("t"))])` |
//! | the way back loses something | `.lossy(function)` instead of `.computed(function)` |
//! | this row is impossible | return `Err(Reject::new("code", "message"))` |
//! | leave the column as it is | a field of type [`Maybe`], [`Maybe::Unset`] |
//! | keys differ between the sides | `let cart = step.map("cart", "customer.id", "cart.id", Creates::Green)`, then `.mapped("cart_id", cart.of("customer_id"))` |
//! | the application itself pairs two keys | `step.backward("customer").bind(cart, "id", "cart_id")` |
//! | several rows imply one row | `.ensure()` |
//! | columns of another table's row are set | `.patch([("id", "customer_id")])`, `.on_remove_null()` |
//! | a value needs rows of another table | `let owners = rule.related::<Owner>("owner", [("owner_id", "id")])`, then `.computed_with(owners, function)` |
//! | rows of this table stand for nothing | `step.forward("table")` without an output |
//!
//! Field types: `bool`, `i16`, `i32`, `i64`, `f64`, `String`, `Vec<u8>`, `Option` of them where NULL is possible, and
//! [`Text`] to be handed any column as PostgreSQL's own text (numeric, timestamps, json, arrays and enums arrive as text
//! in any case, so `String` does for them).
//!
//! A transform is a pure function: same row, same answer. There is nothing to import that could make it otherwise.
//! [`testing`] runs a step without WebAssembly.

// So that the macros' `falkirk_sdk::` paths also mean this crate inside itself.
extern crate self as falkirk_sdk;

mod column;
mod keyed;
mod manifest;
mod row;
mod step;
pub mod testing;
pub mod wire;

pub use column::{Column, Maybe, Text, Wrong};
pub use keyed::{Creates, Map, Mapped, Matched, Related};
pub use row::{Answer, Answers, Row};
pub use step::{Direction, Output, Reject, Rule, Step};
pub use wire::Value;
