//! The bindings of `wit/migration.wit`, generated.

#![allow(missing_docs)]

wasmtime::component::bindgen!({ path: "../wit", world: "migration", additional_derives: [PartialEq] });

pub use exports::falkirk::migration::transform::{InputRow, OutputRow, Rejection, Value};

/// What one call answers: a result for each row.
pub type Results = Vec<Result<Vec<OutputRow>, Rejection>>;
