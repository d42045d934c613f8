//! Calls of one instance after the other, and the search for the row that causes a fault.
//!
//! ```text
//!   rows --live instance--> results
//!             | fault
//!             v
//!   fresh instance --still--> halves, each in a fresh instance --> the row
//! ```
//!
//! It holds L9's word that the cut of a batch does not matter: where it does matter, that is reported as the fault that
//! it is.

use std::sync::Arc;

use super::artifact::Artifact;
use super::instance::{Fault, Instance};
use super::limits::Limits;
use super::wire::{InputRow, Results};
use crate::manifest::Direction;
use crate::problem::{Blame, Outcome, Problem};

/// A fault of a call and the row, within the call, that causes it.
pub(super) struct Blamed {
    pub(super) row: usize,
    pub(super) fault: Fault,
}

/// Whoever calls: an artifact, a direction and at most one live instance.
pub(super) struct Caller {
    artifact: Arc<Artifact>,
    direction: Direction,
    limits: Limits,
    live: Option<Instance>,
    /// Whether what the transform writes is for the log.
    heard: bool,
}

impl Caller {
    pub(super) fn new(artifact: Arc<Artifact>, direction: Direction, limits: Limits) -> Self {
        Caller { artifact, direction, limits, live: None, heard: true }
    }

    pub(super) fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// Starts the instance that the first call goes to.
    pub(super) fn warm(&mut self) -> Outcome<()> {
        let refuse =
            |Fault { code, what }| Problem::refuse(Blame::Artifact, code, what).artifact(self.artifact.label());
        self.live = Some(Instance::fresh(&self.artifact, &self.limits).map_err(refuse)?);
        Ok(())
    }

    /// One call's results, or the row that keeps it from answering.
    pub(super) fn run(&mut self, table: &str, inputs: &[InputRow]) -> Result<Results, Blamed> {
        let time_ms = u64::from(self.limits.batch_time_ms);
        self.live.take_if(|instance| instance.is_spent());
        let reused = self.live.is_some();
        let fault = match self.call(table, inputs, (time_ms, self.heard)) {
            Ok(results) => return Ok(results),
            Err(fault) => fault,
        };
        // An instance that served before may have leaked; that is not the row's doing, and a fresh one shows it.
        if reused && let Ok(results) = self.call(table, inputs, (time_ms, false)) {
            tracing::warn!(artifact = self.artifact.label(), code = fault.code, "a fresh instance answered instead");
            return Ok(results);
        }
        Err(self.bisect(table, inputs, fault))
    }

    /// The same rows again, in a fresh instance and in other calls.
    pub(super) fn again(&self, table: &str, inputs: &[InputRow]) -> Result<Results, Blamed> {
        let mut other = Caller { heard: false, ..Caller::new(self.artifact.clone(), self.direction, self.limits) };
        // An odd number first: rows change their place in the call, and from even to odd places.
        let (head, tail) = inputs.split_at(inputs.len().min((inputs.len() / 3) | 1));
        let mut results = other.run(table, head)?;
        if !tail.is_empty() {
            let rest = other.run(table, tail);
            results.extend(rest.map_err(|Blamed { row, fault }| Blamed { row: head.len() + row, fault })?);
        }
        Ok(results)
    }

    /// One call in the live instance, or in a fresh one. After a fault there is none.
    fn call(&mut self, table: &str, inputs: &[InputRow], how: (u64, bool)) -> Result<Results, Fault> {
        let mut instance = match self.live.take() {
            Some(instance) => instance,
            None => Instance::fresh(&self.artifact, &self.limits)?,
        };
        let results = instance.call(self.direction, table, inputs, how)?;
        if results.len() != inputs.len() {
            let what = format!("it answered {} results for {} rows", results.len(), inputs.len());
            return Err(Fault { code: "BAD_OUTPUT", what });
        }
        self.live = Some(instance);
        Ok(results)
    }

    /// Narrows a fault down to its first row, each try in a fresh instance. `fault` is the one of all rows together.
    fn bisect(&mut self, table: &str, inputs: &[InputRow], mut fault: Fault) -> Blamed {
        let (mut start, mut end) = (0, inputs.len());
        let full_ms = u64::from(self.limits.batch_time_ms);
        while end - start > 1 {
            let middle = start + (end - start) / 2;
            let mut halves = [(start, middle), (middle, end)].into_iter();
            let narrower = halves.find_map(|(from, to)| {
                // Fewer rows get less time, so that looking for a loop does not take ten times the limit; but never
                // so little that a busy machine looks like a loop.
                let time_ms = (full_ms * (to - from) as u64 / inputs.len() as u64).max(full_ms / 4);
                self.live = None;
                let fault = self.call(table, &inputs[from..to], (time_ms, false)).err()?;
                Some((from, to, fault))
            });
            match narrower {
                Some((from, to, inner)) => (start, end, fault) = (from, to, inner),
                None => {
                    // L9: neither half fails, so the answer depends on the cut. That is a fault of its own.
                    fault.what = format!("{}, with {} rows at once but not with fewer", fault.what, end - start);
                    break;
                }
            }
        }
        self.live = None;
        Blamed { row: start, fault }
    }
}
