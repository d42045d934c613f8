//! The parts of a manifest by which rows depend on more than themselves: key maps, bound pairs, related rows, and
//! writing rows that others own.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Asked;
use crate::names::TableName;

/// A key map: pairs of a blue key and a green key that stand for each other, each key in at most one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Blue's key column.
    pub blue: KeyColumn,
    /// Green's key column.
    pub green: KeyColumn,
    /// Whose missing key may be made, from its column's own default. The pairs are kept on that side (`both`: green).
    pub creates: Creates,
}

/// Which side's keys a map may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Creates {
    /// Blue's, for green keys without one.
    Blue,
    /// Green's, for blue keys without one.
    Green,
    /// Either.
    Both,
}

/// A key column: `table.column` or `schema.table.column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// The table.
    pub table: TableName,
    /// The column.
    pub column: String,
}

impl fmt::Display for KeyColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column.contains(['.', '"']) {
            true => write!(f, "{}.\"{}\"", self.table, self.column.replace('"', "\"\"")),
            false => write!(f, "{}.{}", self.table, self.column),
        }
    }
}

impl FromStr for KeyColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || format!("`{text}` is no key column: write table.column or schema.table.column");
        let mut quoted = false;
        let dots = text.char_indices().filter(|(_, letter)| {
            quoted ^= *letter == '"';
            *letter == '.' && !quoted
        });
        let (dot, _) = dots.last().ok_or_else(error)?;
        let table = text[..dot].parse().map_err(|_| error())?;
        // A column is read like a table's own part of its name.
        let column: TableName = text[dot + 1..].parse().map_err(|_| error())?;
        Ok(KeyColumn { table, column: column.table })
    }
}

impl Serialize for KeyColumn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyColumn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Two columns of a rule's table that are a pair of a map where both are not null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// The map.
    pub map: String,
    /// The column that holds blue's key.
    pub blue: String,
    /// The column that holds green's key.
    pub green: String,
}

/// Rows of another source table that the guest is handed with a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Related {
    /// The other source table.
    pub table: TableName,
    /// Which of its rows: column of the rule's table to the equal column of the other.
    pub on: BTreeMap<String, String>,
    /// The columns that the guest is handed, in this order.
    pub columns: Vec<Asked>,
}

/// Through which map a column is filled, and from which source column: `["map", "column"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mapped(
    /// The map.
    pub String,
    /// The column of the rule's table that holds the other side's key.
    pub String,
);

/// Where a patch finds a value of the key of the row that it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Matched {
    /// In this column of the rule's table.
    Column(String),
    /// Through a map.
    Mapped(Mapped),
}

/// What happens to the columns of a patch when its source row goes, or comes to stand for another row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemove {
    /// They keep their values.
    #[default]
    Keep,
    /// They become NULL.
    Null,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_column_is_split_at_its_last_dot_outside_of_quotes() {
        for (text, schema, table, column) in [
            ("customer.id", "public", "customer", "id"),
            ("app.customer.id", "app", "customer", "id"),
            ("app.\"a.b\".\"c.d\"", "app", "a.b", "c.d"),
        ] {
            let read: KeyColumn = text.parse().unwrap();
            assert_eq!(read, KeyColumn { table: TableName::new(schema, table), column: column.into() });
            assert_eq!(read.to_string().parse::<KeyColumn>().unwrap(), read);
        }
        for text in ["customer", "", "a.b.c.d", ".id", "a."] {
            assert!(text.parse::<KeyColumn>().is_err(), "{text:?} is no key column");
        }
    }
}
