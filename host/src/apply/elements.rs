//! The binary image of one value of a built-in type, from the text that PostgreSQL prints under the pinned settings.
//!
//! `None` means: not that form, let the server read it. Never an approximation (L3).

use std::str::FromStr;

use bytes::{BufMut, BytesMut};

const EPOCH_DAYS: i64 = 730_425; // days from 0000-03-01 to 2000-01-01 in the proleptic Gregorian calendar
const DAY_US: i64 = 86_400_000_000;

/// `bool`.
pub fn boolean(text: &[u8]) -> Option<u8> {
    match text {
        b"t" | b"true" => Some(1),
        b"f" | b"false" => Some(0),
        _ => None,
    }
}

/// `int2`, `int4`, `int8`; out of range is for the server to refuse.
pub fn integer<N: FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a float's text is one that the server reads to the same bits: no overflow, no underflow, no odd spelling.
fn plain_float(text: &[u8], zero: bool, finite: bool) -> bool {
    let digits_only = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let mantissa = text.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
    digits_only && finite && (!zero || !mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9')))
}

/// `float8`.
pub fn float8(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => {
            let value: f64 = integer(text)?;
            plain_float(text, value == 0.0, value.is_finite()).then_some(value)
        }
    }
}

/// `float4`, read at its own precision: through a `f64` it would be rounded twice.
pub fn float4(text: &[u8]) -> Option<f32> {
    match text {
        b"NaN" => Some(f32::NAN),
        b"Infinity" => Some(f32::INFINITY),
        b"-Infinity" => Some(f32::NEG_INFINITY),
        _ => {
            let value: f32 = integer(text)?;
            plain_float(text, value == 0.0, value.is_finite()).then_some(value)
        }
    }
}

/// `numeric`: base-10000 digits with weight, sign and display scale.
pub fn numeric(text: &[u8], out: &mut BytesMut) -> Option<()> {
    let special = match text {
        b"NaN" => Some(0xC000),
        b"Infinity" => Some(0xD000),
        b"-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        for part in [0, 0, sign, 0] {
            out.put_u16(part);
        }
        return Some(());
    }
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &digits[digits.len()..]),
    };
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if whole.is_empty() || !all_digits || whole.len() > 131_072 || fraction.len() > 16_383 {
        return None;
    }
    let at = out.len();
    for part in [0, 0, 0, fraction.len() as u16] {
        out.put_u16(part);
    }
    let whole_groups = whole.len().div_ceil(4);
    let start = out.len();
    put_group_digits(whole, fraction, out);
    let (first, last) = trim_zero_groups(out, start);
    let kept = (last - first) / 2;
    let weight = if kept == 0 { 0 } else { whole_groups as i32 - 1 - ((first - start) / 2) as i32 };
    out.copy_within(first..last, start);
    out.truncate(start + (last - first));
    let sign: u16 = if negative && kept > 0 { 0x4000 } else { 0 };
    out[at..at + 2].copy_from_slice(&(kept as u16).to_be_bytes());
    out[at + 2..at + 4].copy_from_slice(&(i16::try_from(weight).ok()?).to_be_bytes());
    out[at + 4..at + 6].copy_from_slice(&sign.to_be_bytes());
    Some(())
}

fn put_group_digits(whole: &[u8], fraction: &[u8], out: &mut BytesMut) {
    let group = |digits: &[u8]| digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let (head, rest) = whole.split_at(whole.len() % 4);
    if !head.is_empty() {
        out.put_u16(group(head));
    }
    for digits in rest.chunks(4) {
        out.put_u16(group(digits));
    }
    for digits in fraction.chunks(4) {
        out.put_u16(group(digits) * 10u16.pow(4 - digits.len() as u32));
    }
}

/// Bounds of the groups without the zero groups at both ends, which PostgreSQL never stores.
fn trim_zero_groups(out: &[u8], start: usize) -> (usize, usize) {
    let (mut first, mut last) = (start, out.len());
    while first < last && out[first..first + 2] == [0, 0] {
        first += 2;
    }
    while last > first && out[last - 2..last] == [0, 0] {
        last -= 2;
    }
    (first, last)
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// `bytea` in its hex form.
pub fn bytea(text: &[u8], out: &mut BytesMut) -> Option<()> {
    let digits = text.strip_prefix(b"\\x")?;
    if digits.len() % 2 != 0 {
        return None;
    }
    for pair in digits.chunks_exact(2) {
        out.put_u8(hex(pair[0])? << 4 | hex(pair[1])?);
    }
    Some(())
}

/// `uuid` in its printed form.
pub fn uuid(text: &[u8], out: &mut BytesMut) -> Option<()> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut high = None;
    for (at, byte) in text.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        match high.take() {
            None => high = Some(hex(*byte)?),
            Some(first) => out.put_u8(first << 4 | hex(*byte)?),
        }
    }
    Some(())
}

fn number(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// Days since 2000-01-01 of a date with a year of four digits, not before 0001 and not BC.
fn days(text: &[u8]) -> Option<i64> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(&text[..4])?, number(&text[5..7])?, number(&text[8..])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || day == 0 || day > month_days {
        return None;
    }
    // Years that begin in March put the leap day last.
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = march_year * 365 + march_year.div_euclid(4) - march_year.div_euclid(100)
        + march_year.div_euclid(400)
        + (march_month * 153 + 2) / 5
        + day
        - 1;
    Some(days - EPOCH_DAYS)
}

/// `date`: days since 2000-01-01.
pub fn date(text: &[u8]) -> Option<i32> {
    match text {
        b"infinity" => Some(i32::MAX),
        b"-infinity" => Some(i32::MIN),
        _ => i32::try_from(days(text)?).ok(),
    }
}

/// `timestamp`: microseconds since 2000-01-01.
pub fn timestamp(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => return Some(i64::MAX),
        b"-infinity" => return Some(i64::MIN),
        _ => {}
    }
    if text.len() < 19 || text[10] != b' ' || text[13] != b':' || text[16] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction_us = match &text[19..] {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => number(digits)? * 10i64.pow(6 - digits.len() as u32),
        _ => return None,
    };
    Some(days(&text[..10])? * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction_us)
}

/// `timestamptz`, printed in UTC: microseconds since 2000-01-01 UTC.
pub fn timestamptz(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => Some(i64::MAX),
        b"-infinity" => Some(i64::MIN),
        _ => timestamp(text.strip_suffix(b"+00")?).filter(|value| !matches!(*value, i64::MAX | i64::MIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(build: impl Fn(&mut BytesMut) -> Option<()>) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        build(&mut out).map(|()| out.to_vec())
    }

    #[test]
    fn dates_count_from_the_first_day_of_2000() {
        assert_eq!(date(b"2000-01-01"), Some(0));
        assert_eq!(date(b"2000-03-01"), Some(60));
        assert_eq!(date(b"1999-12-31"), Some(-1));
        assert_eq!(date(b"1970-01-01"), Some(-10_957));
        assert_eq!(date(b"0001-01-01"), Some(-730_119));
        assert_eq!(timestamp(b"2000-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(timestamptz(b"2000-01-02 00:00:00+00"), Some(DAY_US));
    }

    #[test]
    fn l3_odd_spellings_are_left_to_the_server() {
        for text in ["2001-02-29", "0000-01-01", "10000-01-01", "2000-01-01 BC", "2000-1-1", "01/02/2000", "today"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        for text in
            ["2000-01-01 24:00:00", "2000-01-01 00:00:60", "2000-01-01 00:00:00.1234567", "2000-01-01 00:00:00."]
        {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
        for text in ["2000-01-01 00:00:00", "2000-01-01 00:00:00+01", "2000-01-01 00:00:00+00:30", "infinity+00"] {
            assert_eq!(timestamptz(text.as_bytes()), None, "{text}");
        }
        for text in ["1e400", "1e-400", "inf", "nan", " 1", "0x1"] {
            assert_eq!(float8(text.as_bytes()), None, "{text}");
        }
        assert_eq!(float4(b"1e39"), None);
        for text in ["1e3", "32768", "", " 1", "1.0"] {
            assert_eq!(integer::<i16>(text.as_bytes()), None, "{text}");
        }
        for text in ["", "-", ".5", "1e5", "+1", " 1", "1_000"] {
            assert_eq!(bytes(|out| numeric(text.as_bytes(), out)), None, "{text}");
        }
        assert_eq!(bytes(|out| bytea(b"\\x0", out)), None);
        assert_eq!(bytes(|out| bytea(b"\\\\000", out)), None);
        assert_eq!(bytes(|out| uuid(b"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", out)), None);
    }

    #[test]
    fn numeric_digits_are_grouped_from_the_point() {
        let image = |text: &str| bytes(|out| numeric(text.as_bytes(), out)).unwrap();
        assert_eq!(image("0"), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image("-0.00"), [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(image("10000"), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(image("-12345.6"), [0, 3, 0, 1, 0x40, 0, 0, 1, 0, 1, 9, 41, 23, 112]);
        assert_eq!(image("0.0001"), [0, 1, 0xFF, 0xFF, 0, 0, 0, 4, 0, 1]);
    }
}
