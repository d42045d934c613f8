//! One column's value between the interface and Rust.
//!
//! The declared type chooses the case, never the value: a whole number in an `f64` field stays a float. It must never
//! convert with a loss; what does not fit is an error of the row.

#![forbid(unsafe_code)]

use crate::wire::Value;

/// Why a value is not what its field declares. It holds no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// A constant name of the reason.
    pub code: &'static str,
    /// What the field declares.
    pub expected: &'static str,
}

const fn wrong_case(expected: &'static str) -> Wrong {
    Wrong { code: "sdk_wrong_type", expected }
}

/// A Rust type that a field of a row may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the type of a column",
    label = "not a column type",
    note = "use bool, i16, i32, i64, f64, String, Vec<u8>, Option<..> of them where NULL is possible, \
            falkirk_sdk::Text for any other PostgreSQL type, or falkirk_sdk::Maybe<..> for a result that may be left unset"
)]
pub trait Column: Sized {
    /// Whether the column is to be handed over as text whatever its type.
    const AS_TEXT: bool = false;

    /// Out of the interface.
    fn take(value: Value) -> Result<Self, Wrong>;

    /// Into the interface.
    fn give(self) -> Value;
}

macro_rules! column {
    ($($type:ty, $case:ident, $expected:literal;)*) => { $(
        impl Column for $type {
            fn take(value: Value) -> Result<Self, Wrong> {
                match value {
                    Value::$case(value) => Ok(value),
                    Value::Null => Err(Wrong { code: "sdk_unexpected_null", expected: concat!($expected, ", not NULL") }),
                    _ => Err(wrong_case($expected)),
                }
            }

            fn give(self) -> Value {
                Value::$case(self)
            }
        }
    )* };
}

column! {
    bool, Boolean, "a boolean";
    i64, Integer, "an integer";
    f64, Float, "a double";
    String, Text, "text";
    Vec<u8>, Bytes, "bytes";
}

macro_rules! narrow {
    ($($type:ty, $expected:literal;)*) => { $(
        impl Column for $type {
            fn take(value: Value) -> Result<Self, Wrong> {
                let wide = i64::take(value)?;
                wide.try_into().map_err(|_| Wrong { code: "sdk_out_of_range", expected: $expected })
            }

            fn give(self) -> Value {
                Value::Integer(self.into())
            }
        }
    )* };
}

narrow! {
    i32, "an integer of 32 bits";
    i16, "an integer of 16 bits";
}

/// Any column as PostgreSQL's own text. As an input the column is asked for `as text`; as a result PostgreSQL reads the
/// text with the column type's own input function.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub String);

impl Column for Text {
    const AS_TEXT: bool = true;

    fn take(value: Value) -> Result<Self, Wrong> {
        String::take(value).map(Text)
    }

    fn give(self) -> Value {
        Value::Text(self.0)
    }
}

impl<T: Column> Column for Option<T> {
    const AS_TEXT: bool = T::AS_TEXT;

    fn take(value: Value) -> Result<Self, Wrong> {
        match value {
            Value::Null => Ok(None),
            value => T::take(value).map(Some),
        }
    }

    fn give(self) -> Value {
        self.map_or(Value::Null, T::give)
    }
}

/// A result that a row may say nothing about: a new row then gets the column's default, an existing one keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Maybe<T> {
    /// Nothing is said.
    #[default]
    Unset,
    /// The value.
    Set(T),
}

impl<T: Column> Column for Maybe<T> {
    const AS_TEXT: bool = T::AS_TEXT;

    fn take(value: Value) -> Result<Self, Wrong> {
        T::take(value).map(Maybe::Set)
    }

    fn give(self) -> Value {
        match self {
            Maybe::Unset => Value::Unset,
            Maybe::Set(value) => value.give(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: Column + Clone + PartialEq + std::fmt::Debug>(value: T) {
        assert_eq!(T::take(value.clone().give()), Ok(value));
    }

    #[test]
    fn every_type_survives_the_interface_at_its_edges() {
        [i64::MIN, -1, 0, 9_007_199_254_740_993, i64::MAX].into_iter().for_each(round);
        [i32::MIN, i32::MAX].into_iter().for_each(round);
        [i16::MIN, i16::MAX].into_iter().for_each(round);
        [0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::INFINITY].into_iter().for_each(round);
        [true, false].into_iter().for_each(round);
        round(String::from("zwölf Boxkämpfer \u{10FFFF}"));
        round(vec![0_u8, 255]);
        round(Text("12.50".into()));
        round(None::<i64>);
        round(Some(Text(String::new())));
    }

    #[test]
    fn a_value_of_another_type_or_range_is_refused_and_never_converted() {
        assert_eq!(i64::take(Value::Float(1.0)).unwrap_err().code, "sdk_wrong_type");
        assert_eq!(f64::take(Value::Integer(1)).unwrap_err().code, "sdk_wrong_type");
        assert_eq!(String::take(Value::Null).unwrap_err().code, "sdk_unexpected_null");
        assert_eq!(i16::take(Value::Integer(32_768)).unwrap_err().code, "sdk_out_of_range");
        assert_eq!(i32::take(Value::Integer(-2_147_483_649)).unwrap_err().code, "sdk_out_of_range");
    }

    #[test]
    fn unset_is_not_null() {
        assert_eq!(Maybe::<Option<i64>>::Unset.give(), Value::Unset);
        assert_eq!(Maybe::Set(None::<i64>).give(), Value::Null);
    }
}
