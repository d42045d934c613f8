//! Turns columns of PostgreSQL text into the wire image of one array a column, without an allocation a value.
//!
//! A conversion is exact or does not happen: a text that is not in the one form that PostgreSQL prints under the pinned
//! settings makes its column travel as `text[]`, and the server's own input function decides (L3). Nothing here may
//! guess, round or trim.

use std::error::Error;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::elements;
use crate::change::Datum;

/// How the elements of one column travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// As text, cast to the column's type in the statement.
    Text,
    /// In the binary form of a built-in type.
    Typed(Typed),
}

/// The built-in types with a binary form that the host writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Typed {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `text` and `varchar`: the same bytes; the assignment applies a length.
    Text,
    /// `bytea`
    Bytea,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    Timestamptz,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
}

impl Typed {
    /// The binary form for a type's object id; `None` for all types that travel as text.
    pub fn of(base_oid: u32) -> Option<Typed> {
        Some(match base_oid {
            16 => Typed::Bool,
            21 => Typed::Int2,
            23 => Typed::Int4,
            20 => Typed::Int8,
            700 => Typed::Float4,
            701 => Typed::Float8,
            1700 => Typed::Numeric,
            25 | 1043 => Typed::Text,
            17 => Typed::Bytea,
            2950 => Typed::Uuid,
            1082 => Typed::Date,
            1114 => Typed::Timestamp,
            1184 => Typed::Timestamptz,
            114 => Typed::Json,
            3802 => Typed::Jsonb,
            _ => return None,
        })
    }

    /// The element's type in SQL, without modifier: as a cast it never truncates.
    pub fn sql(self) -> &'static str {
        match self {
            Typed::Bool => "pg_catalog.bool",
            Typed::Int2 => "pg_catalog.int2",
            Typed::Int4 => "pg_catalog.int4",
            Typed::Int8 => "pg_catalog.int8",
            Typed::Float4 => "pg_catalog.float4",
            Typed::Float8 => "pg_catalog.float8",
            Typed::Numeric => "pg_catalog.numeric",
            Typed::Text => "pg_catalog.text",
            Typed::Bytea => "pg_catalog.bytea",
            Typed::Uuid => "pg_catalog.uuid",
            Typed::Date => "pg_catalog.date",
            Typed::Timestamp => "pg_catalog.timestamp",
            Typed::Timestamptz => "pg_catalog.timestamptz",
            Typed::Json => "pg_catalog.json",
            Typed::Jsonb => "pg_catalog.jsonb",
        }
    }

    fn oid(self) -> u32 {
        match self {
            Typed::Bool => 16,
            Typed::Int2 => 21,
            Typed::Int4 => 23,
            Typed::Int8 => 20,
            Typed::Float4 => 700,
            Typed::Float8 => 701,
            Typed::Numeric => 1700,
            Typed::Text => 25,
            Typed::Bytea => 17,
            Typed::Uuid => 2950,
            Typed::Date => 1082,
            Typed::Timestamp => 1114,
            Typed::Timestamptz => 1184,
            Typed::Json => 114,
            Typed::Jsonb => 3802,
        }
    }

    /// Appends one element's bytes; `None` if the text is not in the form that has an exact image.
    fn put(self, text: &[u8], out: &mut BytesMut) -> Option<()> {
        match self {
            Typed::Bool => out.put_u8(elements::boolean(text)?),
            Typed::Int2 => out.put_i16(elements::integer(text)?),
            Typed::Int4 => out.put_i32(elements::integer(text)?),
            Typed::Int8 => out.put_i64(elements::integer(text)?),
            Typed::Float4 => out.put_f32(elements::float4(text)?),
            Typed::Float8 => out.put_f64(elements::float8(text)?),
            Typed::Numeric => elements::numeric(text, out)?,
            Typed::Text | Typed::Json => out.put_slice(text),
            Typed::Bytea => elements::bytea(text, out)?,
            Typed::Uuid => elements::uuid(text, out)?,
            Typed::Date => out.put_i32(elements::date(text)?),
            Typed::Timestamp => out.put_i64(elements::timestamp(text)?),
            Typed::Timestamptz => out.put_i64(elements::timestamptz(text)?),
            Typed::Jsonb => {
                out.put_u8(1);
                out.put_slice(text);
            }
        }
        Some(())
    }
}

/// A value ready for the wire: what PostgreSQL's binary receive function of its type reads.
#[derive(Clone)]
pub struct Ready(pub Bytes);

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready({} bytes)", self.0.len())
    }
}

impl ToSql for Ready {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // The statement's text names the parameter's type; nothing is left to check.
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }
}

/// The array of one column. Falls back to text if a value has no exact binary image.
///
/// Returns how the column travels in the end.
pub fn column<'a>(preferred: Option<Typed>, values: impl ExactSizeIterator<Item = &'a Datum> + Clone) -> (Wire, Ready) {
    if let Some(typed) = preferred
        && let Some(ready) = array(typed, values.clone())
    {
        return (Wire::Typed(typed), ready);
    }
    // Text has an image for every value, so the second attempt cannot fail.
    let ready = array(Typed::Text, values).unwrap_or(Ready(Bytes::new()));
    (if preferred == Some(Typed::Text) { Wire::Typed(Typed::Text) } else { Wire::Text }, ready)
}

fn array<'a>(typed: Typed, values: impl ExactSizeIterator<Item = &'a Datum> + Clone) -> Option<Ready> {
    let count = values.len();
    let text_bytes: usize =
        values.clone().map(|datum| if let Datum::Text(text) = datum { text.len() } else { 0 }).sum();
    let mut out = BytesMut::with_capacity(20 + count * 8 + text_bytes);
    out.put_i32(1);
    // Whether a null is inside: PostgreSQL reads the flag and then looks at the lengths anyway.
    out.put_i32(i32::from(values.clone().any(|datum| !matches!(datum, Datum::Text(_)))));
    out.put_u32(typed.oid());
    out.put_i32(i32::try_from(count).ok()?);
    out.put_i32(1);
    for datum in values {
        match datum {
            Datum::Null | Datum::Unset => out.put_i32(-1),
            Datum::Text(text) => {
                let at = out.len();
                out.put_i32(0);
                typed.put(text, &mut out)?;
                let length = i32::try_from(out.len() - at - 4).ok()?;
                out[at..at + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
    }
    Some(Ready(out.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l3_a_text_without_exact_image_makes_its_column_travel_as_text() {
        let good = [Datum::text("1"), Datum::Null, Datum::text("-3")];
        let odd = [Datum::text("1"), Datum::text("1e3")];
        assert_eq!(column(Some(Typed::Int4), good.iter()).0, Wire::Typed(Typed::Int4));
        assert_eq!(column(Some(Typed::Int4), odd.iter()).0, Wire::Text);
        assert_eq!(column(None, good.iter()).0, Wire::Text);
    }

    #[test]
    fn debug_of_a_parameter_shows_its_length_only() {
        let (_, ready) = column(Some(Typed::Text), [Datum::text("secret")].iter());
        assert!(!format!("{ready:?}").contains("secret"));
    }
}
