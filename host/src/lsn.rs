//! A position in the write-ahead log. Printed the way PostgreSQL prints it: two hexadecimal halves.

use std::fmt;
use std::str::FromStr;

/// A byte position in a source's write-ahead log.
///
/// Positions of commits are ordered like the commits themselves; positions of single changes are not, which is
/// why nothing in Falkirk ever compares the latter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before everything.
    pub const ZERO: Lsn = Lsn(0);

    /// How many bytes of log lie between `earlier` and this position; 0 if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not two hexadecimal halves with a slash between them.
#[derive(Debug, thiserror::Error)]
#[error("not a log position: expected two hexadecimal halves such as 0/16B3748")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |part: &str| u32::from_str_radix(part, 16).map_err(|_| ParseLsnError);
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_postgresql_does() {
        for text in ["0/0", "0/16B3748", "1A/FFFFFFFF", "FFFFFFFF/1"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "0", "0/", "/0", "x/1", "0/100000000", "-1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} is not a position");
        }
    }
}
