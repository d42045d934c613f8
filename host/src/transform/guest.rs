//! A link's transform at work: rows in, answers out, and for every fault the row that causes it.
//!
//! ```text
//!   rows --cut--> calls --spread over instances--> answers, put back in the order of the rows
//! ```
//!
//! Instances share nothing but the next call to take, and the cuts do not depend on how many there are: several give
//! the same answers, and blame the same row, as one (L9). It holds L10: a fault costs one row's stop, never the host.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::artifact::Artifact;
use super::calls::{Blamed, Caller};
use super::instance::Fault;
use super::limits::{Limits, OnNondeterminism};
use super::rows::{self, Cut, Cuts, ROWS};
use super::sample::{self, Sample};
use super::steps;
use super::wire::InputRow;
use crate::change::Image;
use crate::manifest::Direction;
use crate::plan::{Answer, Plan, Source};
use crate::problem::{Blame, Outcome, Problem};

/// Why a batch got no answer, and which of its rows is to blame.
#[derive(Clone, Debug)]
pub struct GuestFault {
    /// Position of the row in the batch; the first row where no single one is to blame.
    pub row: usize,
    /// The problem. It names table and artifact; the caller adds the position.
    pub problem: Problem,
}

/// One link's transform: an artifact, a direction and its instances.
pub struct Guest {
    artifact: Arc<Artifact>,
    /// One for each instance that may run at once; at least one.
    callers: Vec<Caller>,
    sample: Sample,
    limits: Limits,
    /// The guests of a path of several steps, in the order of the link: then they are asked, and nothing else.
    path: Vec<Guest>,
}

/// What a batch asks, and for whom.
#[derive(Clone, Copy)]
struct Task<'a> {
    plan: &'a Plan,
    source: &'a Source,
    table: &'a str,
    on_difference: OnNondeterminism,
}

/// What became of one call.
struct Part {
    start: usize,
    answers: Result<Vec<Answer>, GuestFault>,
}

impl Guest {
    /// A guest without an instance; the first calls start them.
    pub fn new(artifact: Arc<Artifact>, direction: Direction, limits: Limits) -> Self {
        let each = artifact.path.iter().map(|artifact| Guest::new(artifact.clone(), direction, limits));
        let mut path: Vec<Guest> = each.collect();
        if direction == Direction::Backward {
            path.reverse();
        }
        let caller = |_| Caller::new(artifact.clone(), direction, limits);
        Guest {
            callers: (0..limits.instances.max(1)).map(caller).collect(),
            sample: Sample::new(&limits),
            artifact,
            limits,
            path,
        }
    }

    /// Starts an instance, of each step one, so that the first call need not wait for it.
    pub fn warm(&mut self) -> Outcome<()> {
        if self.path.is_empty() {
            return self.callers.iter_mut().take(1).try_for_each(Caller::warm);
        }
        self.path.iter_mut().try_for_each(Guest::warm)
    }

    /// The artifact that answers.
    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// How many rows keep every instance busy.
    pub fn rows_at_once(&self) -> usize {
        self.callers.len() * ROWS
    }

    /// What each row stands for, in the order of the rows. For a rule that needs no code, every answer is empty.
    ///
    /// Blocks while the guest runs, at most `batch_time_ms` a call and some more while a faulty row is looked for.
    pub fn answer(&mut self, plan: &Plan, source: &Source, rows: &[&Image]) -> Result<Vec<Answer>, GuestFault> {
        let Some(table) = &source.rule.guest_table else { return Ok(vec![Answer::new(); rows.len()]) };
        if let Some(chain) = plan.chain.as_ref().filter(|_| !self.path.is_empty()) {
            return steps::answer(&mut self.path, chain, source, rows);
        }
        let cuts = Cuts::new((plan, source), rows, self.limits.input_bytes(), &mut self.sample);
        let task = Task { plan, source, table, on_difference: self.limits.on_nondeterminism };
        let mut parts = spread(&mut self.callers, task, cuts);
        // Calls end in any order. Whoever comes first in the rows comes first here, a fault as well.
        parts.sort_unstable_by_key(|part| part.start);
        let mut answers = Vec::with_capacity(rows.len());
        for part in parts {
            match answers.is_empty() {
                true => answers = part.answers?,
                false => answers.extend(part.answers?),
            }
        }
        Ok(answers)
    }
}

/// Makes all calls. A single one, and the first of several, is made on this thread: small batches pay for nothing.
fn spread(callers: &mut [Caller], task: Task<'_>, mut cuts: Cuts<'_>) -> Vec<Part> {
    let Some((own, others)) = callers.split_first_mut() else { return Vec::new() };
    let Some(first) = cuts.next() else { return Vec::new() };
    let helpers = cuts.left(&first).min(others.len());
    let cuts = Mutex::new(cuts);
    let work = |caller: &mut Caller, mut next: Option<Cut>| {
        let mut parts = Vec::new();
        while let Some(cut) = next {
            let part = Part { start: cut.start, answers: task.answer(caller, cut) };
            if part.answers.is_err() {
                // What stands before the fault is in work already; what comes after it is not asked any more.
                lock(&cuts).end();
            }
            parts.push(part);
            next = lock(&cuts).next();
        }
        parts
    };
    let span = tracing::Span::current();
    thread::scope(|scope| {
        let help = |caller| {
            let (span, work, cuts) = (&span, &work, &cuts);
            let run = move || {
                // In a statement of its own: within the call the lock would be held for as long as it works.
                let next = lock(cuts).next();
                span.in_scope(|| work(caller, next))
            };
            // Without another thread the work takes longer, and that is all.
            thread::Builder::new().name("falkirk-guest".into()).spawn_scoped(scope, run).ok()
        };
        let helpers: Vec<_> = others.iter_mut().take(helpers).filter_map(help).collect();
        let mut parts = work(own, Some(first));
        for helper in helpers {
            parts.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        parts
    })
}

fn lock<'a, 'b>(cuts: &'a Mutex<Cuts<'b>>) -> MutexGuard<'a, Cuts<'b>> {
    cuts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Task<'_> {
    /// L3: the link stops at the first faulty row. A call that trapped has not said what it thinks of the rows before.
    fn before(&self, caller: &mut Caller, inputs: &[InputRow]) -> Option<Blamed> {
        if inputs.is_empty() {
            return None;
        }
        let results = caller.run(self.table, inputs);
        results.and_then(|results| rows::check(self.plan, self.source, results, &mut Vec::new())).err()
    }

    fn answer(&self, caller: &mut Caller, cut: Cut) -> Result<Vec<Answer>, GuestFault> {
        let mut answers = Vec::with_capacity(cut.inputs.len());
        let artifact = caller.artifact().clone();
        if !cut.inputs.is_empty() {
            let checked = match caller.run(self.table, &cut.inputs) {
                Ok(results) => rows::check(self.plan, self.source, results, &mut answers),
                Err(blamed) => Err(self.before(caller, &cut.inputs[..blamed.row]).unwrap_or(blamed)),
            };
            let held = checked.and_then(|()| match cut.again {
                true => self.hold(caller, &cut.inputs, &answers),
                false => Ok(()),
            });
            held.map_err(|Blamed { row, fault }| GuestFault {
                row: cut.start + row,
                problem: self.artifact_problem(&artifact, fault),
            })?;
        }
        match cut.unfit {
            Some(problem) => {
                let row = cut.start + cut.inputs.len();
                Err(GuestFault { row, problem: problem.artifact(artifact.label()) })
            }
            None => Ok(answers),
        }
    }

    /// L9: the same rows, asked again, give the same answers, or the transform is no function of them.
    fn hold(&self, caller: &Caller, inputs: &[InputRow], answers: &[Answer]) -> Result<(), Blamed> {
        let mut others = Vec::with_capacity(answers.len());
        let again = caller.again(self.table, inputs);
        let again = again.and_then(|results| rows::check(self.plan, self.source, results, &mut others));
        let Some(blamed) = sample::difference((self.plan, self.source), answers, &others, again) else { return Ok(()) };
        if self.on_difference == OnNondeterminism::Stop {
            return Err(blamed);
        }
        let (artifact, table) = (caller.artifact().label(), self.source.name.to_string());
        tracing::warn!(artifact, table, code = blamed.fault.code, "{}", blamed.fault.what);
        Ok(())
    }

    fn artifact_problem(&self, artifact: &Artifact, fault: Fault) -> Problem {
        let remedy = match fault.code {
            "ROW_REJECTED" => "correct the row in the source, or swap in a transform that accepts it",
            sample::CODE => {
                "let each answer depend on its row alone, not on counters, clocks or neighbours, and swap it in; \
                 limits.on_nondeterminism = \"warn\" goes on without"
            }
            "TRANSFORM_TIMEOUT" => "correct the transform and swap it in, or raise limits.batch_time_ms",
            "MEMORY_LIMIT" => "correct the transform and swap it in, or raise limits.memory_mib",
            "OUTPUT_TOO_LARGE" => "correct the transform and swap it in, or raise limits.output_mib",
            _ => "correct the transform and swap it in",
        };
        Problem::stop(Blame::Artifact, fault.code, fault.what)
            .table(&self.source.name)
            .artifact(artifact.label())
            .remedy(remedy)
    }
}
