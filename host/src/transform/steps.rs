//! Several artifacts on one path, which a link runs as if they were one.
//!
//! The rules that they are together are composed elsewhere (`versions`); here each artifact's guest is asked in turn.
//! Every fault names the artifact whose guest it is, so that an author of one step never looks into another's code.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::artifact::{Artifact, hex};
use super::guest::{Guest, GuestFault};
use crate::change::Image;
use crate::manifest::Manifest;
use crate::plan::chain::{Broken, Chain};
use crate::plan::{Answer, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::versions::{self, Step};

impl Artifact {
    /// The one artifact that leads from one version to another, or several that do so together. The digest of several is
    /// the sha256 of theirs, one a line, in the order of the path. A single one is handed back as it is: what it leads
    /// from and to is checked with everything else.
    pub fn joined(artifacts: Vec<Arc<Artifact>>, from: &str, to: &str) -> Outcome<Option<Arc<Artifact>>> {
        if artifacts.len() < 2 {
            return Ok(artifacts.into_iter().next());
        }
        let steps: Vec<Step<'_>> = artifacts.iter().map(|artifact| artifact.step()).collect();
        let path = versions::path(&steps, from, to)?;
        let beside = artifacts.iter().enumerate().filter(|(position, _)| !path.contains(position));
        let beside = beside.map(|(_, artifact)| artifact.label().to_owned()).collect();
        let path: Vec<Arc<Artifact>> = path.into_iter().map(|position| artifacts[position].clone()).collect();
        let (labels, digests): (Vec<&str>, Vec<&str>) =
            path.iter().map(|artifact| (artifact.label(), artifact.digest())).unzip();
        let (label, digest) = match digests.as_slice() {
            [only] => (labels[0].into(), (*only).to_owned()),
            several => (labels.join(" + ").into(), hex(&Sha256::digest(several.join("\n")))),
        };
        let first = &path[0];
        let manifest = Manifest { from: from.to_owned(), to: to.to_owned(), ..first.manifest().clone() };
        let (ready, allowance, file) = (first.ready().clone(), first.allowance.clone(), first.file.clone());
        let path = if path.len() == 1 { Vec::new() } else { path };
        Ok(Some(Arc::new(Artifact { label, digest, manifest, ready, allowance, path, beside, file })))
    }

    /// The artifacts of single steps that it consists of, in their order.
    pub fn parts(self: &Arc<Self>) -> Vec<Arc<Artifact>> {
        if self.path.is_empty() { vec![self.clone()] } else { self.path.clone() }
    }

    /// This revision with each of these artifacts in the place of the one that implements the same step. A revision of a
    /// single artifact is replaced whole: whether what is new leads the right way is checked with everything else.
    pub fn with_steps(self: &Arc<Self>, new: &[Arc<Artifact>]) -> Outcome<Arc<Artifact>> {
        let (from, to) = (&self.manifest.from, &self.manifest.to);
        if self.path.is_empty() {
            return Ok(Artifact::joined(new.to_vec(), from, to)?.unwrap_or_else(|| self.clone()));
        }
        let mut path = self.path.clone();
        for step in new {
            let Some(place) = path.iter_mut().find(|artifact| step.is_for_the_step_of(artifact)) else {
                return Err(self.no_such_step(step));
            };
            *place = step.clone();
        }
        let named = |problem: Problem| match new {
            [only] => problem.artifact(only.label()),
            _ => problem,
        };
        Ok(Artifact::joined(path, from, to).map_err(named)?.unwrap_or_else(|| self.clone()))
    }

    /// Whether both lead from one version to the same other one.
    pub fn is_for_the_step_of(&self, other: &Artifact) -> bool {
        (&self.manifest.from, &self.manifest.to) == (&other.manifest.from, &other.manifest.to)
    }

    fn no_such_step(&self, new: &Artifact) -> Problem {
        let each = |artifact: &Arc<Artifact>| {
            format!("{} to {} ({})", artifact.manifest.from, artifact.manifest.to, artifact.label)
        };
        let steps: Vec<String> = self.path.iter().map(each).collect();
        let what = format!(
            "this host runs several transforms as one, {}, and this one leads from version {} to {}: it takes the place of \
             none of them",
            steps.join(" then "),
            new.manifest.from,
            new.manifest.to
        );
        Problem::refuse(Blame::Config, "NO_SUCH_STEP", what).artifact(new.label()).remedy(
            "bring a revision of one of these steps; for another way name its artifacts in migration.transforms and \
             start the host again",
        )
    }

    /// From which version to which, as the history says it; of several steps each one with its digest.
    pub fn way(&self) -> String {
        let step = |artifact: &Artifact| format!("{} -> {}", artifact.manifest.from, artifact.manifest.to);
        if self.path.is_empty() {
            return step(self);
        }
        let each = self.path.iter().map(|artifact| format!("{} (sha256:{})", step(artifact), artifact.digest));
        each.collect::<Vec<_>>().join(", ")
    }

    fn step(&self) -> Step<'_> {
        Step { manifest: self.manifest(), label: self.label() }
    }

    /// The steps of a path of several, from blue to green; empty for a single one, whose rules need no composing.
    pub fn steps(&self) -> Vec<Step<'_>> {
        self.path.iter().map(|artifact| artifact.step()).collect()
    }

    /// Artifacts that were loaded as well and do not lead from blue's version to green's.
    pub fn beside(&self) -> &[String] {
        &self.beside
    }
}

/// Asks the guests of a path in turn. They stand in the order of the link.
pub(super) fn answer(
    guests: &mut [Guest],
    chain: &Chain,
    source: &Source,
    rows: &[&Image],
) -> Result<Vec<Answer>, GuestFault> {
    let mut ask = |step: usize, plan: &_, table: &Source, images: &[&Image]| match guests.get_mut(step) {
        Some(guest) => guest.answer(plan, table, images).map_err(|fault| (fault.row, fault.problem)),
        None => Err((0, Problem::stop(Blame::Host, "STEP_MISSING", "a step of the path has no artifact"))),
    };
    let broken = match chain.answer(source, rows, &mut ask) {
        Ok(answers) => return Ok(answers),
        Err(broken) => broken,
    };
    Err(match broken {
        Broken::Guest(row, problem) => GuestFault { row, problem },
        Broken::Value { row, step, table, column, unset } => {
            let what = match unset {
                true => {
                    "it leaves a column to its default, and the next step reads it: only a database of the version between knows the default"
                }
                false => "it answers a text that is not in the form of the column's type, and the next step reads it",
            };
            let problem = Problem::stop(Blame::Artifact, "BAD_OUTPUT", what).table(&table).column(&column);
            let problem = problem.remedy("answer a value of the column's own case, or migrate in one step");
            let label = guests.get(step).map_or("", |guest| guest.artifact().label());
            GuestFault { row, problem: problem.artifact(label) }
        }
    })
}
