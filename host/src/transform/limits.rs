//! What one instance of a transform may use (L10).
//!
//! The memory limit is a sum: a limit per memory is none at all for a component that has sixty of them.

use std::ops::RangeInclusive;

use wasmtime::ResourceLimiter;

use super::engine::TICK;
use crate::problem::{Blame, Outcome, Problem};

const MIB: usize = 1024 * 1024;

/// Core instances within one component instance.
const INSTANCES: usize = 16;
/// Memories within one component instance.
const MEMORIES: usize = 4;
/// Tables within one component instance.
const TABLES: usize = 16;
/// Elements of all tables together.
const TABLE_ELEMENTS: usize = 20_000;
/// Handles of component resources alive at once.
pub(super) const HANDLES: usize = 1_000;

/// What `Limits::memory_mib` may be, and so on; the configuration asks for no more.
pub const MEMORY_MIB: RangeInclusive<u32> = 1..=1_024;
/// A call that takes longer than a minute holds the link up for longer than anybody waits.
pub const BATCH_TIME_MS: RangeInclusive<u32> = 10..=60_000;
/// What one call may answer.
pub const OUTPUT_MIB: RangeInclusive<u32> = 1..=1_024;
/// Instances at once.
pub const INSTANCES_AT_ONCE: RangeInclusive<u32> = 1..=64;

/// The limits of one instance, as configured.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// All memories of the instance together.
    pub memory_mib: u32,
    /// One call, of at most 1,000 rows.
    pub batch_time_ms: u32,
    /// What one call may answer.
    pub output_mib: u32,
    /// How many instances of a link's transform work at once.
    pub instances: u32,
    /// The share of calls that are made again to see whether the answers are the same (L9): 0 is none, 1 all.
    pub determinism_share: f64,
    /// What a difference leads to.
    pub on_nondeterminism: OnNondeterminism,
}

/// What follows from a transform that answers the same rows in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNondeterminism {
    /// The link stops at the row.
    Stop,
    /// The log says so, and the first answer counts.
    Warn,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_mib: 64,
            batch_time_ms: 2000,
            output_mib: 64,
            instances: cores(),
            determinism_share: 0.01,
            on_nondeterminism: OnNondeterminism::Stop,
        }
    }
}

impl Limits {
    /// The limits, if each is in its range.
    pub fn checked(self) -> Outcome<Self> {
        let ranges = [
            ("limits.memory_mib", self.memory_mib, MEMORY_MIB),
            ("limits.batch_time_ms", self.batch_time_ms, BATCH_TIME_MS),
            ("limits.output_mib", self.output_mib, OUTPUT_MIB),
            ("limits.instances", self.instances, INSTANCES_AT_ONCE),
        ];
        for (setting, value, range) in ranges {
            if !range.contains(&value) {
                let what = format!("{setting} is {value}, outside {} to {}", range.start(), range.end());
                return Err(Problem::refuse(Blame::Config, "LIMIT_RANGE", what)
                    .remedy(format!("set {setting} to a value within the range")));
            }
        }
        if !(0.0..=1.0).contains(&self.determinism_share) {
            let what = format!("limits.determinism_share is {}, outside 0 to 1", self.determinism_share);
            return Err(Problem::refuse(Blame::Config, "LIMIT_RANGE", what)
                .remedy("set limits.determinism_share to the share of calls to make again, such as 0.01"));
        }
        Ok(self)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_mib as usize * MIB
    }

    pub(super) fn output_bytes(&self) -> usize {
        self.output_mib as usize * MIB
    }

    /// How much input one call gets: small against the memory, so that a batch of large rows is cut, not refused.
    pub(super) fn input_bytes(&self) -> usize {
        self.memory_bytes() / 16
    }
}

/// How many cores this process may use: so many instances can really run at once.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64) as u32)
}

/// A time limit in ticks of the engine's clock; one more, since the first tick may come at once.
pub(super) fn ticks(time_ms: u64) -> u64 {
    time_ms.div_ceil(TICK.as_millis() as u64) + 1
}

/// An instance asked for more than its limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("more than {limit} {unit}")]
pub(super) struct OverLimit {
    limit: usize,
    unit: &'static str,
}

/// Counts what one store's instances hold.
#[derive(Debug)]
pub(super) struct Meter {
    memory_limit_bytes: usize,
    memory_bytes: usize,
    table_elements: usize,
}

impl Meter {
    pub(super) fn new(limits: &Limits) -> Self {
        Meter { memory_limit_bytes: limits.memory_bytes(), memory_bytes: 0, table_elements: 0 }
    }

    /// All memories together, as they are now. A memory never shrinks.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ResourceLimiter for Meter {
    // A refusal is a trap, not a failed `grow`: a transform that adapts to the memory it gets would answer differently
    // under another limit (L9).
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_limit_bytes || maximum.is_some_and(|maximum| desired > maximum) {
            return Err(OverLimit { limit: self.memory_limit_bytes / MIB, unit: "MiB of memory" }.into());
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS || maximum.is_some_and(|maximum| desired > maximum) {
            return Err(OverLimit { limit: TABLE_ELEMENTS, unit: "table elements" }.into());
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l10_the_memory_limit_is_the_sum_over_all_memories() {
        let mut meter = Meter::new(&Limits { memory_mib: 16, ..Limits::default() });
        assert!(meter.memory_growing(0, 10 * MIB, None).unwrap());
        assert!(meter.memory_growing(0, 6 * MIB, None).unwrap());
        assert!(meter.memory_growing(6 * MIB, 6 * MIB + 1, None).is_err());
        assert_eq!(meter.memory_bytes(), 16 * MIB);
        assert!(meter.table_growing(0, TABLE_ELEMENTS, None).unwrap());
        assert!(meter.table_growing(0, 1, None).is_err());
    }

    #[test]
    fn a_limit_outside_its_range_is_refused_with_the_range() {
        assert!(Limits::default().checked().is_ok());
        for limits in [
            Limits { memory_mib: 0, ..Limits::default() },
            Limits { memory_mib: 1_025, ..Limits::default() },
            Limits { batch_time_ms: 9, ..Limits::default() },
            Limits { batch_time_ms: 60_001, ..Limits::default() },
            Limits { output_mib: 1025, ..Limits::default() },
            Limits { instances: 0, ..Limits::default() },
            Limits { determinism_share: f64::NAN, ..Limits::default() },
        ] {
            let problem = limits.checked().unwrap_err();
            assert_eq!(problem.code(), "LIMIT_RANGE");
            assert!(problem.to_string().contains(" to "), "{problem}");
        }
    }
}
