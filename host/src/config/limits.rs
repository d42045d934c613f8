//! What each transform instance may take, and all of them together.

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::written::{invalid, small_range};
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::{Limits, OnNondeterminism, cores, limits};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenLimits {
    memory_mib: i64,
    batch_time_ms: i64,
    output_mib: i64,
    instances: Option<i64>,
    determinism_share: f64,
    on_nondeterminism: OnNondeterminism,
}

impl Default for WrittenLimits {
    fn default() -> Self {
        let usual = Limits::default();
        WrittenLimits {
            memory_mib: usual.memory_mib.into(),
            batch_time_ms: usual.batch_time_ms.into(),
            output_mib: usual.output_mib.into(),
            instances: None,
            determinism_share: usual.determinism_share,
            on_nondeterminism: usual.on_nondeterminism,
        }
    }
}

impl WrittenLimits {
    /// Limits for so many links at once.
    pub(super) fn settle(&self, links: u64) -> Outcome<Limits> {
        let within = |name: &str, value: i64, range: RangeInclusive<u32>| {
            small_range(&format!("limits.{name}"), value, *range.start(), *range.end())
        };
        // With less hardly any language's runtime starts.
        let memory_mib = within("memory_mib", self.memory_mib, 16..=*limits::MEMORY_MIB.end())?;
        let container_mib = container_mib();
        let instances = match self.instances {
            Some(instances) => within("instances", instances, limits::INSTANCES_AT_ONCE)?,
            // As many as there are cores, and no more than the container holds.
            None => (2..=cores())
                .rev()
                .find(|count| container_mib.is_none_or(|limit| all_mib(memory_mib, *count, links) <= limit))
                .unwrap_or(1),
        };
        within_container(all_mib(memory_mib, instances, links), container_mib)?;
        if !(0.0..=1.0).contains(&self.determinism_share) {
            let share = self.determinism_share;
            return Err(invalid(format!(
                "limits.determinism_share = {share} is out of range: it must be between 0 and 1"
            )));
        }
        Ok(Limits {
            memory_mib,
            batch_time_ms: within("batch_time_ms", self.batch_time_ms, limits::BATCH_TIME_MS)?,
            output_mib: within("output_mib", self.output_mib, limits::OUTPUT_MIB)?,
            instances,
            determinism_share: self.determinism_share,
            on_nondeterminism: self.on_nondeterminism,
        })
    }
}

/// What all transform instances together may take: those of the links, and one that is being tried.
fn all_mib(memory_mib: u32, instances: u32, links: u64) -> u64 {
    u64::from(memory_mib) * (u64::from(instances) * links + 1)
}

/// What the container allows, if it limits memory at all.
pub(super) fn container_mib() -> Option<u64> {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    limit.trim().parse::<u64>().ok().map(|bytes| bytes >> 20)
}

/// Pitfalls, section 6, row 9: limits that the container cannot hold would end as a kill in the night.
pub(super) fn within_container(wanted_mib: u64, limit_mib: Option<u64>) -> Outcome<()> {
    match limit_mib {
        Some(limit_mib) if wanted_mib > limit_mib => Err(Problem::refuse(
            Blame::Config,
            "LIMIT_EXCEEDS_CGROUP",
            format!("all transform instances together may take {wanted_mib} MiB, the container allows {limit_mib} MiB"),
        )
        .remedy("lower limits.memory_mib or limits.instances, or give the container more memory")),
        _ => Ok(()),
    }
}
