//! Values between PostgreSQL's text and the interface's cases, both ways.
//!
//! The column's type chooses the case, on the way in and on the way out; nothing is guessed from a value, and nothing
//! is converted with a loss. A fault names the column, never the value.

use bytes::Bytes;

use super::instance::Fault;
use super::wire::Value;
use crate::change::{Cell, Datum, Image};
use crate::plan::{Case, Target, fit};

/// Why a cell cannot be handed to a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// An out-of-line value that the log does not repeat: nobody knows it here.
    Unchanged,
    /// Not UTF-8.
    Encoding,
    /// Not the text form of its type.
    Form,
}

/// One cell on its way in.
pub(super) fn into_guest(image: &Image, column: usize, case: Case) -> Result<Value, Unfit> {
    let text = match image.cell(column) {
        Cell::Null => return Ok(Value::Null),
        Cell::Unchanged => return Err(Unfit::Unchanged),
        Cell::Text { .. } => image.text(column).unwrap_or_default(),
    };
    if case == Case::Bytes {
        return unhex(text).map(Value::Bytes).ok_or(Unfit::Form);
    }
    let text = std::str::from_utf8(text).map_err(|_| Unfit::Encoding)?;
    let value = match case {
        Case::Text | Case::Bytes => Some(Value::Text(text.to_owned())),
        Case::Boolean => match text {
            "t" => Some(Value::Boolean(true)),
            "f" => Some(Value::Boolean(false)),
            _ => None,
        },
        Case::Integer => text.parse().ok().map(Value::Integer),
        Case::Float => text.parse().ok().map(Value::Float),
    };
    value.ok_or(Unfit::Form)
}

/// About how many bytes a value takes on its way in.
pub(super) fn weight_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    inside + 16
}

/// One value on its way out, into a column of a target.
pub(super) fn out_of_guest(value: Value, target: &Target, column: u16) -> Result<Datum, Fault> {
    let place = &target.columns[usize::from(column)];
    let bad = |what: String| Err(Fault { code: "BAD_OUTPUT", what });
    let given = case_of(&value).filter(|_| place.base_oid != fit::oid::UNDECLARED);
    if given.is_some_and(|given| given != Case::Text && given != place.case) {
        return bad(format!(
            "it answered {} for {}.{}, which is {}: {} or text was expected",
            given.map_or("null", name_of),
            target.name,
            place.name,
            place.type_sql,
            name_of(place.case)
        ));
    }
    match value {
        Value::Unset if target.key.contains(&column) => {
            bad(format!("it left {}.{} unset, which is a column of the key", target.name, place.name))
        }
        Value::Text(text) if text.contains('\0') => bad(format!(
            "it answered a text with U+0000 for {}.{}, which PostgreSQL cannot hold",
            target.name, place.name
        )),
        Value::Unset => Ok(Datum::Unset),
        Value::Null => Ok(Datum::Null),
        Value::Boolean(true) => Ok(Datum::Text(Bytes::from_static(b"t"))),
        Value::Boolean(false) => Ok(Datum::Text(Bytes::from_static(b"f"))),
        Value::Integer(value) => Ok(Datum::text(itoa::Buffer::new().format(value))),
        Value::Float(value) => Ok(Datum::text(float_text(value))),
        Value::Text(text) => Ok(Datum::text(text)),
        Value::Bytes(bytes) => Ok(Datum::Text(hex(&bytes))),
    }
}

fn case_of(value: &Value) -> Option<Case> {
    match value {
        Value::Unset | Value::Null => None,
        Value::Boolean(_) => Some(Case::Boolean),
        Value::Integer(_) => Some(Case::Integer),
        Value::Float(_) => Some(Case::Float),
        Value::Text(_) => Some(Case::Text),
        Value::Bytes(_) => Some(Case::Bytes),
    }
}

fn name_of(case: Case) -> &'static str {
    match case {
        Case::Boolean => "boolean",
        Case::Integer => "integer",
        Case::Float => "float",
        Case::Bytes => "bytes",
        Case::Text => "text",
    }
}

/// A double as PostgreSQL prints it, so that a value that went through a transform unchanged compares equal: the
/// shortest digits that read back the same, an exponent below -4 and from 15 on, with two digits at least.
fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if (-4..15).contains(&exponent) => value.to_string(),
        Ok(exponent) => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
        Err(_) => scientific,
    }
}

fn hex(bytes: &[u8]) -> Bytes {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 + bytes.len() * 2);
    text.extend_from_slice(b"\\x");
    for byte in bytes {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    Bytes::from(text)
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.strip_prefix(b"\\x")?.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    rest.is_empty().then_some(())?;
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::TableName;
    use crate::plan::TargetColumn;

    const CASES: [Case; 5] = [Case::Boolean, Case::Integer, Case::Float, Case::Bytes, Case::Text];

    /// A table with one column of each case, and the integer as its key.
    fn target() -> Target {
        let column = |case: &Case| TargetColumn {
            name: name_of(*case).into(),
            type_sql: name_of(*case).into(),
            cast_sql: name_of(*case).into(),
            base_oid: 0,
            case: *case,
            generated: false,
        };
        Target {
            name: TableName::new("public", "t"),
            columns: CASES.iter().map(column).collect(),
            key: [1].into(),
            uniques: Vec::new(),
            cascades: false,
            acts: false,
            shared: false,
            identity_always: [].into(),
            internal: false,
        }
    }

    fn there_and_back(text: &str, case: Case) -> Datum {
        let image = Image::from_datums(&[Datum::text(text)]);
        let column = CASES.iter().position(|other| *other == case).unwrap() as u16;
        out_of_guest(into_guest(&image, 0, case).unwrap(), &target(), column).unwrap()
    }

    #[test]
    fn what_postgresql_prints_comes_back_as_it_was() {
        for (case, texts) in [
            (Case::Boolean, &["t", "f"][..]),
            (Case::Integer, &["-9223372036854775808", "9223372036854775807", "9007199254740993", "0", "-1"]),
            (Case::Float, &["NaN", "Infinity", "-Infinity", "-0", "0", "5e-324", "1.7976931348623157e+308", "0.0001"]),
            (Case::Float, &["1e-05", "123456789012345", "1e+15", "1.234567890123456e+15", "0.1", "-2.5", "1e+100"]),
            (Case::Bytes, &["\\x", "\\x00ff10"]),
            (Case::Text, &["", "NULL", "ä\u{10FFFF}\n", "12.50"]),
        ] {
            for text in texts {
                assert_eq!(there_and_back(text, case), Datum::text(*text), "{case:?} {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_double_reads_back_as_itself(bits: u64) {
            let value = f64::from_bits(bits);
            let back: f64 = float_text(value).parse().unwrap();
            prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        }

        #[test]
        fn every_integer_and_every_byte_string_survives(integer: i64, bytes: Vec<u8>) {
            prop_assert_eq!(there_and_back(&integer.to_string(), Case::Integer), Datum::text(integer.to_string()));
            let text = hex(&bytes);
            prop_assert_eq!(unhex(&text), Some(bytes));
        }
    }

    #[test]
    fn null_stays_null_and_an_unchanged_value_is_never_handed_over() {
        let image = Image::from_datums(&[Datum::Null, Datum::Unset]);
        assert_eq!(into_guest(&image, 0, Case::Integer), Ok(Value::Null));
        assert_eq!(into_guest(&image, 1, Case::Text), Err(Unfit::Unchanged));
    }

    #[test]
    fn a_cell_that_is_not_the_text_of_its_type_is_refused() {
        for (text, case) in [("yes", Case::Boolean), ("1.5", Case::Integer), ("", Case::Float), ("\\x0", Case::Bytes)] {
            let image = Image::from_datums(&[Datum::text(text)]);
            assert_eq!(into_guest(&image, 0, case), Err(Unfit::Form));
        }
        let image = Image::from_datums(&[Datum::Text(Bytes::from_static(&[0xff]))]);
        assert_eq!(into_guest(&image, 0, Case::Text), Err(Unfit::Encoding));
    }

    #[test]
    fn row_28_a_wrong_case_a_nul_and_an_unset_key_are_bad_output_that_names_the_column_only() {
        let target = target();
        for (value, column) in [
            (Value::Integer(424_242), 0),
            (Value::Float(1.0), 1),
            (Value::Integer(424_242), 4),
            (Value::Unset, 1),
            (Value::Text("secret\0".into()), 4),
        ] {
            let fault = out_of_guest(value, &target, column).unwrap_err();
            assert_eq!(fault.code, "BAD_OUTPUT");
            assert!(fault.what.contains("public.t."), "{}", fault.what);
            assert!(!fault.what.contains("secret") && !fault.what.contains("424242"), "{}", fault.what);
        }
        for column in 0..5 {
            assert!(out_of_guest(Value::Text("x".into()), &target, column).is_ok(), "text goes everywhere");
            assert_eq!(out_of_guest(Value::Null, &target, column).unwrap(), Datum::Null);
        }
        assert_eq!(out_of_guest(Value::Unset, &target, 0).unwrap(), Datum::Unset);
    }
}
