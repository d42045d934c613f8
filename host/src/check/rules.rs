//! The rules of a link: those of the one artifact, or of several composed (`versions`).

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::manifest::{Direction, Manifest};
use crate::plan::Plan;
use crate::plan::bind::{self, Binding};
use crate::problem::{Blame, Problem};
use crate::versions::{self, Composed};

use super::Given;

/// The rules of one direction.
pub(super) enum Rules<'a> {
    /// None: every table is copied as it is.
    Nothing,
    /// Those of a single artifact, as they stand in its manifest.
    Single(&'a Manifest, Direction),
    /// Those of a path of several.
    Path(Box<Composed>),
}

impl<'a> Rules<'a> {
    /// Of the loaded artifacts, for a link that reads the first catalog and writes the second.
    pub(super) fn of(given: &Given<'a>, direction: Direction, catalogs: (&Catalog, &Catalog)) -> Self {
        let Some(artifact) = given.artifact else { return Rules::Nothing };
        match artifact.steps().as_slice() {
            [] => Rules::Single(artifact.manifest(), direction),
            steps => {
                let composed = versions::compose(steps, direction, catalogs, &given.settings.exclude);
                Rules::Path(Box::new(composed))
            }
        }
    }

    /// What should be known.
    pub(super) fn notes(&self) -> Vec<String> {
        match self {
            Rules::Path(composed) => composed.notes.clone(),
            _ => Vec::new(),
        }
    }

    /// The plan of what fits, and what does not. `given` says all but the rules.
    pub(super) fn bind(&self, given: &Binding<'_>) -> (Plan, Vec<Problem>) {
        match self {
            Rules::Nothing => bind::bind_what_fits(given),
            Rules::Single(manifest, direction) => bind::bind_what_fits(&Binding {
                rules: manifest.rules(*direction),
                manifest: Some((manifest, *direction)),
                ..*given
            }),
            Rules::Path(composed) => {
                let (mut plan, more) = bind::bind_what_fits(&Binding { rules: &composed.rules, ..*given });
                let mut problems = composed.problems.clone();
                problems.extend(more);
                if problems.is_empty() {
                    plan.chain = Some(Arc::new(composed.chain(&plan)));
                }
                (plan, problems)
            }
        }
    }
}

/// Whether the artifact leads from blue's version to green's. Several were put into their order when they were loaded.
pub(super) fn wrong_step(given: &Given<'_>) -> Option<Problem> {
    let artifact = given.artifact?;
    let manifest = artifact.manifest();
    let (from, to) = (&given.settings.blue.schema_version, &given.settings.green.schema_version);
    if (&manifest.from, &manifest.to) == (from, to) {
        return None;
    }
    let what = format!(
        "the transform leads from version {} to {}, the configuration from {from} to {to}",
        manifest.from, manifest.to
    );
    Some(
        Problem::refuse(Blame::Config, "WRONG_STEP", what)
            .artifact(artifact.label())
            .remedy("name the artifact of this step in `transforms`, or correct schema_version"),
    )
}
