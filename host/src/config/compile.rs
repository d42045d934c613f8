//! `[compile]`: what compiling a transform may take, and where its code is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::limits::container_mib;
use super::written::small_range;
use crate::problem::Outcome;
use crate::transform::Compiler;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenCompile {
    time_s: i64,
    memory_mib: Option<i64>,
    cache: Option<PathBuf>,
}

impl Default for WrittenCompile {
    fn default() -> Self {
        WrittenCompile { time_s: 30, memory_mib: None, cache: None }
    }
}

impl WrittenCompile {
    pub(super) fn settle(self, base: &Path) -> Outcome<Compiler> {
        let usual = Compiler::default();
        // The links run on beside it: at most half of what the container holds.
        let half = |all: u64| i64::try_from(all / 2).unwrap_or(i64::MAX);
        let fitting =
            || container_mib().map_or(usual.memory_mib.into(), |all| half(all).clamp(64, usual.memory_mib.into()));
        Ok(Compiler {
            program: Compiler::this_program(),
            time: Duration::from_secs(small_range("compile.time_s", self.time_s, 1, 600)?.into()),
            memory_mib: small_range("compile.memory_mib", self.memory_mib.unwrap_or_else(fitting), 64, 16_384)?,
            cache: self.cache.map(|folder| base.join(folder)),
        })
    }
}
