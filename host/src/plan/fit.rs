//! Which source columns may be copied into which target columns by the host alone (counter-examples 26, 29).
//!
//! Only the same type, or an assignment that keeps every value. Everything else needs code: a silent rounding is a
//! lost value (L3).

use crate::catalog::Column;
use crate::plan::Case;

/// Object ids of built-in types; fixed in every PostgreSQL.
pub mod oid {
    /// boolean
    pub const BOOL: u32 = 16;
    /// bytea
    pub const BYTEA: u32 = 17;
    /// name
    pub const NAME: u32 = 19;
    /// bigint
    pub const INT8: u32 = 20;
    /// smallint
    pub const INT2: u32 = 21;
    /// integer
    pub const INT4: u32 = 23;
    /// text
    pub const TEXT: u32 = 25;
    /// real
    pub const FLOAT4: u32 = 700;
    /// double precision
    pub const FLOAT8: u32 = 701;
    /// char(n)
    pub const BPCHAR: u32 = 1042;
    /// varchar
    pub const VARCHAR: u32 = 1043;
    /// time
    pub const TIME: u32 = 1083;
    /// timestamp
    pub const TIMESTAMP: u32 = 1114;
    /// timestamptz
    pub const TIMESTAMPTZ: u32 = 1184;
    /// timetz
    pub const TIMETZ: u32 = 1266;
    /// varbit
    pub const VARBIT: u32 = 1562;
    /// numeric
    pub const NUMERIC: u32 = 1700;
    /// None: a column of a version that no database holds and whose type nothing says.
    pub const UNDECLARED: u32 = u32::MAX;
    /// uuid
    pub const UUID: u32 = 2950;
}

/// The case of the interface in which a type travels: a domain like the type beneath it.
pub fn case(base_oid: u32) -> Case {
    match base_oid {
        oid::BOOL => Case::Boolean,
        oid::INT2 | oid::INT4 | oid::INT8 => Case::Integer,
        oid::FLOAT8 => Case::Float,
        oid::BYTEA => Case::Bytes,
        _ => Case::Text,
    }
}

/// `None` if every value of `source` can be copied into `target`; otherwise why not.
pub fn misfit(source: &Column, target: &Column) -> Option<String> {
    let same_type = source.base_sql == target.base_sql;
    let enum_as_text = source.base_kind == 'e' && is_text(target.base_oid);
    if !(same_type || enum_as_text || widens(source.base_oid, target.base_oid)) {
        return Some(format!("{} does not fit {} without a conversion", source.type_sql, target.type_sql));
    }
    if same_type && source.base_kind == 'e' {
        let missing: Vec<&str> =
            source.labels.iter().filter(|label| !target.labels.contains(label)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Some(format!("the target's enum {} lacks the labels {}", target.cast_sql, missing.join(", ")));
        }
    }
    if !modifier_holds(source, target, same_type) {
        return Some(format!("{} is narrower than {}", target.type_sql, source.type_sql));
    }
    None
}

fn is_text(base_oid: u32) -> bool {
    matches!(base_oid, oid::TEXT | oid::VARCHAR)
}

/// Assignments between built-in types that keep every value and whose text form both types read alike.
fn widens(source: u32, target: u32) -> bool {
    use oid::*;
    match target {
        INT4 => source == INT2,
        INT8 => matches!(source, INT2 | INT4),
        NUMERIC => matches!(source, INT2 | INT4 | INT8),
        TEXT | VARCHAR => matches!(source, TEXT | VARCHAR | NAME | UUID | INT2 | INT4 | INT8),
        _ => false,
    }
}

fn modifier_holds(source: &Column, target: &Column, same_type: bool) -> bool {
    let (from, to) = (source.type_modifier, target.type_modifier);
    if to == -1 || (same_type && from == to) {
        return true;
    }
    match target.base_oid {
        // A bounded text takes what is bounded at least as tightly; nothing tells how long other texts are.
        oid::VARCHAR | oid::VARBIT => same_type && from != -1 && from <= to,
        oid::NUMERIC => {
            let (wide, scale) = numeric(to);
            if same_type {
                let (source_wide, source_scale) = numeric(from);
                from != -1 && source_scale <= scale && source_wide - source_scale <= wide - scale
            } else {
                let digits = match source.base_oid {
                    oid::INT2 => 5,
                    oid::INT4 => 10,
                    _ => 19,
                };
                wide - scale >= digits
            }
        }
        oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ => from != -1 && from <= to,
        _ => false,
    }
}

/// Precision and scale of a numeric modifier. The scale has eleven bits and a sign (PostgreSQL 15).
fn numeric(modifier: i32) -> (i32, i32) {
    let bits = modifier - 4;
    ((bits >> 16) & 0xFFFF, ((bits & 0x7FF) ^ 1024) - 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Identity;

    fn column(base_oid: u32, base_sql: &str, type_modifier: i32) -> Column {
        Column {
            name: "c".into(),
            type_oid: base_oid,
            type_modifier,
            type_sql: base_sql.into(),
            cast_sql: base_sql.into(),
            base_oid,
            base_sql: base_sql.into(),
            base_kind: 'b',
            is_array: false,
            labels: Vec::new(),
            toastable: false,
            not_null: false,
            has_default: false,
            generated: false,
            identity: Identity::No,
            is_virtual: false,
        }
    }

    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7FF)) + 4
    }

    #[test]
    fn counter_example_26_copied_columns_are_of_the_same_type_or_lossless() {
        let fits = |source: &Column, target: &Column| misfit(source, target).is_none();
        let (int4, int8) = (column(oid::INT4, "integer", -1), column(oid::INT8, "bigint", -1));
        let (text, varchar) = (column(oid::TEXT, "text", -1), column(oid::VARCHAR, "character varying", 14));
        assert!(fits(&int4, &int8) && !fits(&int8, &int4));
        assert!(fits(&varchar, &text) && !fits(&text, &varchar));
        assert!(!fits(&text, &int4));
        let price = column(oid::NUMERIC, "numeric", modifier(10, 2));
        assert!(fits(&price, &column(oid::NUMERIC, "numeric", modifier(12, 4))));
        assert!(
            !fits(&price, &column(oid::NUMERIC, "numeric", modifier(10, 4))),
            "two digits before the point are lost"
        );
        assert!(!fits(&price, &column(oid::NUMERIC, "numeric", modifier(10, 1))), "rounding is a lost value");
        assert!(fits(&price, &column(oid::NUMERIC, "numeric", -1)));
        assert!(fits(&int4, &column(oid::NUMERIC, "numeric", modifier(10, 0))));
        assert!(!fits(&int8, &column(oid::NUMERIC, "numeric", modifier(10, 0))));
    }

    #[test]
    fn counter_example_29_float4_is_never_widened_by_the_host() {
        let (float4, float8) = (column(oid::FLOAT4, "real", -1), column(oid::FLOAT8, "double precision", -1));
        assert!(misfit(&float4, &float8).is_some());
        assert_eq!(case(oid::FLOAT4), Case::Text);
        assert_eq!(case(oid::FLOAT8), Case::Float);
    }

    #[test]
    fn an_enum_needs_all_labels_on_the_other_side() {
        let labelled = |labels: &[&str]| Column {
            base_kind: 'e',
            labels: labels.iter().map(ToString::to_string).collect(),
            ..column(90_000, "public.state", -1)
        };
        assert!(misfit(&labelled(&["a"]), &labelled(&["a", "b"])).is_none());
        assert!(misfit(&labelled(&["a", "c"]), &labelled(&["a", "b"])).unwrap().contains("labels c"));
        assert!(misfit(&labelled(&["a"]), &column(oid::TEXT, "text", -1)).is_none());
    }
}
