//! The settings that every connection of Falkirk pins, replication and ordinary ones alike.
//!
//! A role's or a database's own settings would silently change the text of values otherwise: `extra_float_digits = 0`
//! turns 0.30000000000000004 into 0.3, `DateStyle` moves days and months (pitfalls 29 and 30). Startup parameters win
//! over both; a pooler may drop them, therefore they are asked back.

/// Name and value of each pinned setting, sent with the startup message.
pub const PINS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
    ("xmloption", "content"),
    ("row_security", "off"),
    ("search_path", ""),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// Those that decide what a value looks like or whether a row is seen: the first of the list, up to `search_path`. `SHOW`
/// must answer with exactly what was asked for.
pub const VERIFIED: &[(&str, &str)] = PINS.split_at(11).0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_shapes_a_value_is_asked_back_and_no_time_limit_is() {
        assert_eq!(VERIFIED.last(), Some(&("search_path", "")));
        assert!(PINS[VERIFIED.len()..].iter().all(|(name, _)| name.contains("timeout") || name.contains("keepalives")));
    }
}
