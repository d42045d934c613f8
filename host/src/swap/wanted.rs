//! What a wish comes to: artifacts that are loaded beside the running links, and the revision that they make of the one
//! that runs by the time it is exchanged. Nothing is composed for later: a step that was taken back meanwhile would return
//! with what was composed over it (L11).

use std::sync::Arc;

use super::door::{Brought, What};
use super::{Swapper, changed_meanwhile};
use crate::apply::checkpoint::{Became, Entry};
use crate::link::running::{Revision, is_same};
use crate::problem::{Blame, Problem};
use crate::transform::Artifact;

/// What is wished for, whatever runs by then.
#[derive(Clone)]
pub(super) struct Wanted {
    kind: Kind,
    /// Only in the place of this revision.
    only_over: Option<Revision>,
    /// Files that were found in these places of the configuration.
    files: Vec<(usize, Arc<Artifact>)>,
}

#[derive(Clone)]
enum Kind {
    /// Each in the place of the one for its step.
    Steps(Vec<Arc<Artifact>>),
    /// The one that ran before.
    Back(Revision),
    /// The one that runs.
    Again,
}

/// An artifact that may fit columns to come.
#[derive(Clone)]
pub(super) struct Kept {
    artifact: Arc<Artifact>,
    /// It is the file that was found in this place of the configuration.
    place: Option<usize>,
}

impl Wanted {
    /// What was kept, and the configuration's files as far as it was found there.
    pub(super) fn kept(kept: &[Kept]) -> Wanted {
        let files = kept.iter().filter_map(|kept| Some((kept.place?, kept.artifact.clone()))).collect();
        Wanted { files, ..Wanted::steps(kept.iter().map(|kept| kept.artifact.clone()).collect()) }
    }

    pub(super) fn steps(steps: Vec<Arc<Artifact>>) -> Wanted {
        Wanted { kind: Kind::Steps(steps), only_over: None, files: Vec::new() }
    }

    pub(super) fn again() -> Wanted {
        Wanted { kind: Kind::Again, only_over: None, files: Vec::new() }
    }

    /// The same, and only in the place of this revision.
    pub(super) fn only_over(self, running: Revision) -> Wanted {
        Wanted { only_over: Some(running), ..self }
    }

    /// L11: what it makes of the revision that runs now.
    pub(super) fn over(&self, running: &Revision) -> Result<Revision, Problem> {
        if self.only_over.as_ref().is_some_and(|only| !is_same(only.as_deref(), running.as_deref())) {
            return Err(changed_meanwhile());
        }
        match (&self.kind, running) {
            (Kind::Steps(steps), Some(running)) => running.with_steps(steps).map(Some),
            (Kind::Steps(steps), None) => Ok(steps.first().cloned()),
            (Kind::Back(before), _) => Ok(before.clone()),
            (Kind::Again, _) => Ok(running.clone()),
        }
    }

    /// The artifacts that are new, if any are.
    pub(super) fn new_steps(&self) -> Option<&[Arc<Artifact>]> {
        match &self.kind {
            Kind::Steps(steps) => Some(steps),
            Kind::Back(_) | Kind::Again => None,
        }
    }

    /// Whether it is the revision before.
    pub(super) fn is_back(&self) -> bool {
        matches!(self.kind, Kind::Back(_))
    }

    /// Files that were found in the places of configured ones.
    pub(super) fn files(&self) -> &[(usize, Arc<Artifact>)] {
        &self.files
    }

    /// For the log.
    pub(super) fn done(&self) -> &'static str {
        match &self.kind {
            Kind::Steps(_) => "swapped in",
            Kind::Back(_) => "swapped back",
            Kind::Again => "bound again",
        }
    }
}

impl Swapper {
    /// What is wished for, compiled and described beside the running links, within the compiler's limit.
    pub(super) async fn wanted(&self, what: What) -> Result<Wanted, Problem> {
        let files = match what {
            What::Again => return Ok(Wanted::again()),
            What::Back => {
                let Some(before) = self.before.clone() else { return Err(self.no_way_back().await) };
                // What ran before another one is not what was asked for.
                let kind = Kind::Back(before);
                return Ok(Wanted { kind, only_over: Some(self.running.artifact()), files: Vec::new() });
            }
            What::Files(files) => files,
        };
        let (mut steps, mut found) = (Vec::new(), Vec::new());
        for file in files {
            if self.settings.strict && file.pin.is_none() {
                let what = format!("strict = true, and {} comes without a pin", file.name);
                return Err(Problem::refuse(Blame::Config, "UNPINNED", what)
                    .remedy("name it with its digest: `falkirk swap FILE@sha256:...` (sha256sum prints it)"));
            }
            let (digest, place) = (Artifact::digest_of(&file.bytes), file.place);
            match self.loaded(file).await {
                Ok(artifact) => {
                    found.extend(place.map(|place| (place, artifact.clone())));
                    steps.push(artifact);
                }
                Err(problem) => {
                    self.record_refusal(&digest, &problem).await;
                    return Err(problem);
                }
            }
        }
        let wanted = Wanted { files: found, ..Wanted::steps(steps.clone()) };
        if let Err(problem) = wanted.over(&self.running.artifact()) {
            for step in steps {
                self.record_refusal(step.digest(), &problem).await;
            }
            return Err(problem);
        }
        Ok(wanted)
    }

    async fn loaded(&self, file: Brought) -> Result<Arc<Artifact>, Problem> {
        let (limits, compiler) = (self.settings.limits, self.settings.compiler.clone());
        let Brought { name, bytes, pin, .. } = file;
        let load = move || Artifact::from_bytes(&name, &bytes, pin.as_deref(), &limits, &compiler);
        let loaded = tokio::task::spawn_blocking(load).await;
        let lost = |_| Err(Problem::retry(Blame::Host, "TASK_LOST", "loading the artifact ended without an answer"));
        loaded.unwrap_or_else(lost).map(Arc::new)
    }

    /// A file that is no transform is kept in the history like one that does not fit.
    async fn record_refusal(&self, digest: &str, problem: &Problem) {
        let Some(origin) = self.links.first() else { return };
        let artifact = format!("sha256:{digest}");
        let entry =
            Entry { artifact, step: String::new(), outcome: Became::Refused, reason: problem.code().to_owned() };
        self.note(origin, &entry).await;
    }

    /// Keeps artifacts that may fit columns to come.
    pub(super) fn keep(&mut self, wanted: &Wanted) {
        let Some(steps) = wanted.new_steps() else { return };
        self.forget(steps);
        let place = |step: &Arc<Artifact>| wanted.files.iter().find(|(_, file)| Arc::ptr_eq(file, step));
        let kept = |step: &Arc<Artifact>| Kept { artifact: step.clone(), place: place(step).map(|(place, _)| *place) };
        self.next.extend(steps.iter().map(kept));
    }

    /// Whatever was kept for the steps of these artifacts is not wanted any more.
    pub(super) fn forget(&mut self, steps: &[Arc<Artifact>]) {
        let several = self.running.artifact().is_some_and(|running| !running.steps().is_empty());
        self.next.retain(|kept| several && steps.iter().all(|step| !step.is_for_the_step_of(&kept.artifact)));
    }
}
