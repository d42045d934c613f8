//! Runs a step without WebAssembly, for an author's `cargo test`.
//!
//! Rows go through the same functions, positions and conversions as in the artifact. What only the host does is left
//! out: columns that `same_named` copies and columns that are mapped are not shown, since what they hold is the two
//! databases' matter.
//!
//! ```
//! use falkirk_sdk::{Step, rows, testing};
//!
//! rows! { struct Price { price: String } struct Cents { cents: i64 } }
//!
//! let mut step = Step::new("shop", "1", "2");
//! step.forward("product").output("product", |output| {
//!     output.copied("label", "title").computed(|Price { price }: Price| Cents { cents: price.len() as i64 })
//! });
//!
//! let rows = testing::forward(&step, "product", &[("title", "Boat".into()), ("price", "12.50".into())]).unwrap();
//! assert_eq!(rows, [testing::target("product", &[("label", "Boat".into()), ("cents", 5.into())])]);
//! ```

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::manifest::TableName;
use crate::step::{Direction, Reject, Step};
use crate::wire::Value;

/// A target row as the step makes it: its table and the columns that it computes or copies by name.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRow {
    /// The table; without its schema if that is `public`.
    pub table: String,
    /// The columns.
    pub values: BTreeMap<String, Value>,
}

/// A target row to compare with.
pub fn target(table: &str, values: &[(&str, Value)]) -> TargetRow {
    let values = values.iter().map(|(column, value)| ((*column).to_owned(), value.clone())).collect();
    TargetRow { table: TableName::parse(table).plain(), values }
}

/// The green rows that a blue row stands for.
///
/// # Panics
/// If the step is inconsistent, has no rule for the table, or reads a column that is not given.
pub fn forward(step: &Step, table: &str, row: &[(&str, Value)]) -> Result<Vec<TargetRow>, Reject> {
    run(step, Direction::Forward, table, row, &[])
}

/// Like [`forward`], with the related rows: a list for each related table of the rule, in order.
pub fn forward_with(
    step: &Step,
    table: &str,
    row: &[(&str, Value)],
    related: &[Vec<Vec<Value>>],
) -> Result<Vec<TargetRow>, Reject> {
    run(step, Direction::Forward, table, row, related)
}

/// The blue rows that a green row stands for. Panics like [`forward`].
pub fn backward(step: &Step, table: &str, row: &[(&str, Value)]) -> Result<Vec<TargetRow>, Reject> {
    run(step, Direction::Backward, table, row, &[])
}

fn run(
    step: &Step,
    direction: Direction,
    table: &str,
    row: &[(&str, Value)],
    related: &[Vec<Vec<Value>>],
) -> Result<Vec<TargetRow>, Reject> {
    if let Err(faults) = step.check() {
        panic!("the step is inconsistent: {faults}");
    }
    let Some(rule) = step.rule(direction, table) else { panic!("there is no {direction:?} rule for table {table}") };
    let cell = |name: &str| match row.iter().find(|(column, _)| *column == name) {
        Some((_, value)) => value.clone(),
        None => panic!("the rule for table {table} reads column {name}, which the test's row does not have"),
    };
    let mut answers = rule.row(rule.columns.iter().map(|(name, _)| cell(name)).collect(), related)?;
    let mut rows = Vec::new();
    for (position, output) in rule.outputs.iter().enumerate() {
        let copied = || output.copied.iter().map(|(to, from)| (to.clone(), cell(from)));
        let row = |values| TargetRow { table: output.table.plain(), values };
        if !output.needs_code() {
            rows.push(row(copied().collect()));
        }
        for answer in answers.extract_if(.., |answer| answer.output as usize == position) {
            let names = output.groups.iter().flat_map(|group| group.to).map(|(name, _)| (*name).to_owned());
            rows.push(row(copied().chain(names.zip(answer.values)).collect()));
        }
    }
    Ok(rows)
}

macro_rules! from {
    ($($type:ty, $case:ident;)*) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$case(value.into())
            }
        }
    )* };
}

from! {
    bool, Boolean;
    i32, Integer;
    i64, Integer;
    f64, Float;
    &str, Text;
    String, Text;
    Vec<u8>, Bytes;
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, T::into)
    }
}
