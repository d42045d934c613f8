//! Units stand last in names. Only what the text decides: fields, constants and parameters with a number's type.

use crate::source::SourceFile;

const NUMBERS: &[&str] = &["u8", "u16", "u32", "u64", "usize", "i16", "i32", "i64", "f32", "f64"];
const UNITS: &[&str] = &["ms", "us", "ns", "seconds", "secs", "minutes", "bytes", "kib", "mib", "gib"];
/// Measures that say nothing without a unit.
const MEASURES: &[&str] = &["timeout", "interval", "lag", "delay", "period", "age", "deadline", "elapsed"];

/// Names whose unit is missing or stands in front.
pub fn breaches(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for triple in file.code.windows(3) {
        let [name, colon, kind] = triple else { continue };
        if colon.text != ":" || !NUMBERS.contains(&kind.text.as_str()) {
            continue;
        }
        let lower = name.text.to_lowercase();
        let mut words = lower.split('_').filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let last = words.next_back();
        let unit_first = last.is_some_and(|last| UNITS.contains(&first) && !UNITS.contains(&last));
        let measure = MEASURES.contains(&last.unwrap_or(first));
        if unit_first || measure {
            found.push(format!("{}: `{}: {}`", file.at(name.line), name.text, kind.text));
        }
    }
    found
}

#[test]
fn a_number_without_its_unit_last_is_found() {
    let count = |text: &str| breaches(&SourceFile::new("host/src/lsn.rs", text)).len();
    assert_eq!(count("struct A { lag: u64, timeout: u32, flush_interval: usize }"), 3);
    assert_eq!(count("struct A { bytes_sent: u64 } const MS_LIMIT: u64 = 1;"), 2);
    assert_eq!(count("struct A { lag_bytes: u64, batch_time_ms: u64, rows: u64, bytes: u64, timeout: Duration }"), 0);
}
