//! Names of tables and columns, and how they are written into SQL.
//!
//! Every name that reaches a statement goes through here; nothing else in Falkirk quotes.

use std::fmt;
use std::str::FromStr;

/// A table's name with its schema.
///
/// Written `schema.table`; a part that holds a dot, a quote or upper-case letters may be written in double quotes
/// as in SQL. Unlike SQL, an unquoted part keeps its case. A name without a schema is in `public`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema, unquoted.
    pub schema: String,
    /// The table, unquoted.
    pub table: String,
}

impl TableName {
    /// A name from its two parts, taken literally.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        TableName { schema: schema.into(), table: table.into() }
    }

    /// The name as SQL: both parts quoted.
    pub fn sql(&self) -> String {
        format!("{}.{}", quote_name(&self.schema), quote_name(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &str| match text.contains(['.', '"']) {
            true => quote_name(text),
            false => text.to_owned(),
        };
        write!(f, "{}.{}", part(&self.schema), part(&self.table))
    }
}

/// A name was empty, had an open quote or more than two parts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a table name: `{0}`; write schema.table, with double quotes around a part that holds a dot")]
pub struct ParseNameError(String);

impl FromStr for TableName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseNameError(text.to_owned());
        let mut parts = vec![String::new()];
        let mut quoted = false;
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            let part = parts.last_mut().ok_or_else(error)?;
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => {
                    letters.next();
                    part.push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                '\0' => return Err(error()),
                other => part.push(other),
            }
        }
        if quoted || parts.iter().any(String::is_empty) {
            return Err(error());
        }
        match <[String; 2]>::try_from(parts) {
            Ok([schema, table]) => Ok(TableName { schema, table }),
            Err(mut parts) if parts.len() == 1 => Ok(TableName::new("public", parts.remove(0))),
            Err(_) => Err(error()),
        }
    }
}

impl serde::Serialize for TableName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TableName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One name as a quoted SQL identifier.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Several names as quoted SQL identifiers with commas between them.
pub fn quote_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_name).collect::<Vec<_>>().join(", ")
}

/// A text as an SQL literal. Right for every setting of `standard_conforming_strings`.
pub fn quote_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_11_names_with_dots_case_and_quotes_survive_a_round_trip() {
        for (text, schema, table) in [
            ("customer", "public", "customer"),
            ("app.customer", "app", "customer"),
            ("app.\"My.Table\"", "app", "My.Table"),
            ("\"a\"\"b\".c", "a\"b", "c"),
            ("App.Customer", "App", "Customer"),
        ] {
            let name: TableName = text.parse().unwrap();
            assert_eq!(name, TableName::new(schema, table));
            assert_eq!(name.to_string().parse::<TableName>().unwrap(), name);
        }
        for text in ["", ".", "a.", "a.b.c", "\"open", "a\0b"] {
            assert!(text.parse::<TableName>().is_err(), "{text:?} is not a table name");
        }
    }

    #[test]
    fn quoting_leaves_nothing_for_sql_to_read() {
        assert_eq!(TableName::new("a\"b", "c d").sql(), "\"a\"\"b\".\"c d\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert_eq!(quote_text("a\\'b"), " E'a\\\\''b'");
    }
}
