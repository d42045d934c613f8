//! Structs whose fields are columns, and what functions over them may answer.
//!
//! The order of a struct's fields is the order of the values; it is known to `step` and to nobody else.

#![forbid(unsafe_code)]

use crate::column::Wrong;
use crate::step::Reject;
use crate::wire::Value;

/// A struct whose fields are columns. Made by [`rows!`](crate::rows).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a row",
    label = "declare it in `falkirk_sdk::rows! {{ struct .. }}`",
    note = "functions of a transform go from one struct declared in `rows!` to another (or to `Result<.., Reject>`)"
)]
pub trait Row: Sized {
    /// The columns: name, and whether the column is asked for as text.
    const COLUMNS: &'static [(&'static str, bool)];

    /// Out of as many values as there are columns. An error names the column.
    fn take(values: &mut dyn Iterator<Item = Value>) -> Result<Self, (&'static str, Wrong)>;

    /// Appends as many values as there are columns.
    fn give(self, values: &mut Vec<Value>);
}

/// Declares structs whose fields are columns.
///
/// A column whose name is no Rust identifier is renamed: `field: i64 = "Column Name"`. Keywords are written raw
/// (`r#type`) and mean the plain name.
///
/// ```
/// falkirk_sdk::rows! {
///     /// What the status is computed from.
///     #[derive(Clone)]
///     pub struct Status { r#type: String, level: Option<i32> = "Level" }
///     struct Nothing {}
/// }
/// ```
///
/// A type that cannot be a column does not compile:
///
/// ```compile_fail
/// falkirk_sdk::rows! { struct Wrong { id: u64 } }
/// ```
#[macro_export]
macro_rules! rows {
    ($($(#[$meta:meta])* $visible:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident : $type:ty $(= $column:literal)?),* $(,)?
    })*) => { $(
        $(#[$meta])*
        #[derive(Debug, PartialEq)]
        $visible struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $crate::Row for $name {
            const COLUMNS: &'static [(&'static str, bool)] = &[
                $(($crate::rows!(@name $field $($column)?), <$type as $crate::Column>::AS_TEXT)),*
            ];

            #[allow(unused_variables)]
            fn take(
                values: &mut dyn Iterator<Item = $crate::Value>,
            ) -> Result<Self, (&'static str, $crate::Wrong)> {
                Ok($name { $($field: {
                    let column = $crate::rows!(@name $field $($column)?);
                    let missing = $crate::Wrong { code: "sdk_missing", expected: "a value" };
                    let value = values.next().ok_or((column, missing))?;
                    <$type as $crate::Column>::take(value).map_err(|wrong| (column, wrong))?
                }),* })
            }

            #[allow(unused_variables)]
            fn give(self, values: &mut Vec<$crate::Value>) {
                $(values.push(<$type as $crate::Column>::give(self.$field));)*
            }
        }
    )* };
    (@name $field:ident) => {{
        // A raw identifier prints with its mark, which is no part of the column's name.
        const NAME: &str = stringify!($field);
        match NAME.as_bytes() {
            [b'r', b'#', ..] => NAME.split_at(2).1,
            _ => NAME,
        }
    }};
    (@name $field:ident $column:literal) => { $column };
}

/// What a function may answer: a `T`, or a `T` unless the row is rejected.
#[diagnostic::on_unimplemented(
    message = "a function of a transform cannot answer `{Self}`",
    label = "expected `{T}` or `Result<{T}, Reject>`"
)]
pub trait Answer<T> {
    /// As a result.
    fn answer(self) -> Result<T, Reject>;
}

impl Answer<bool> for bool {
    fn answer(self) -> Result<bool, Reject> {
        Ok(self)
    }
}

impl<T> Answer<T> for Result<T, Reject> {
    fn answer(self) -> Result<T, Reject> {
        self
    }
}

/// What a computing function may answer: rows of one type, or a rejection.
#[diagnostic::on_unimplemented(
    message = "a computing function cannot answer `{Self}`",
    label = "expected a struct declared in `rows!`, a `Vec` of one for `many`, or a `Result` of these with `Reject`"
)]
pub trait Answers {
    /// The row's type.
    type Row: Row;
    /// All rows.
    type Rows: IntoIterator<Item = Self::Row>;

    /// As a result.
    fn rows(self) -> Result<Self::Rows, Reject>;
}

impl<R: Row> Answers for R {
    type Row = R;
    type Rows = std::iter::Once<R>;

    fn rows(self) -> Result<Self::Rows, Reject> {
        Ok(std::iter::once(self))
    }
}

impl<R: Row> Answers for Result<R, Reject> {
    type Row = R;
    type Rows = std::iter::Once<R>;

    fn rows(self) -> Result<Self::Rows, Reject> {
        self.map(std::iter::once)
    }
}

impl<R: Row> Answers for Vec<R> {
    type Row = R;
    type Rows = Vec<R>;

    fn rows(self) -> Result<Self::Rows, Reject> {
        Ok(self)
    }
}

impl<R: Row> Answers for Result<Vec<R>, Reject> {
    type Row = R;
    type Rows = Vec<R>;

    fn rows(self) -> Result<Self::Rows, Reject> {
        self
    }
}
