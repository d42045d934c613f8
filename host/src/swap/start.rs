//! What a host needs so that its revisions can be exchanged: made when it starts, gone when it ends.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch as watched;
use tokio::task::JoinSet;

use crate::apply::checkpoint::{self, Became};
use crate::config::Settings;
use crate::link::commanded::{Beginning, Commanded};
use crate::link::exchange::{Desk, desk, entry};
use crate::link::running::{Running, is_same};
use crate::live::Live;
use crate::pg::session::Session;
use crate::problem::Problem;
use crate::transform::Artifact;

use super::door::Door;
use super::probation::Probation;
use super::{Linked, Swapper, watch};

/// The revisions of a host.
pub struct Swaps {
    /// What its links run.
    pub running: Arc<Running>,
    /// What holds by command.
    pub commanded: Arc<Commanded>,
    /// Watches over a revision that has just taken over.
    pub probation: Arc<Probation>,
    desks: Vec<Desk>,
    /// Whoever carries wishes out, and whoever watches the file: they end with this.
    _tasks: JoinSet<()>,
}

impl Swaps {
    /// Starts for a host whose configuration names these artifacts. `lives`: of the origin, and of the other link. `waits`:
    /// it runs until it is told to end, so a revision may come.
    pub fn start(
        settings: &Settings,
        (beginning, configured): (Beginning, &[Arc<Artifact>]),
        waits: bool,
        lives: [watched::Receiver<Live>; 2],
        door: Door,
    ) -> Swaps {
        let Beginning { revision, before, commanded } = beginning;
        let running = Arc::new(Running::after(before.clone().flatten(), revision));
        let commanded = Arc::new(commanded);
        let probation = Probation::new(settings.take_back_changes, running.clone(), lives.to_vec());
        let probation = Arc::new(probation);
        let (mut desks, mut links) = (Vec::new(), Vec::new());
        let all = [settings.origin(), settings.origin().other()];
        for (link, live) in all.into_iter().zip(lives).take(if settings.two_way() { 2 } else { 1 }) {
            let (desk, post) = desk();
            desks.push(desk);
            links.push(Linked { link, post, live });
        }
        let mut tasks = JoinSet::new();
        if settings.watch && waits {
            let paths = settings.transforms.iter().map(|file| file.path.clone());
            let digests = configured.iter().map(|artifact| artifact.digest().to_owned());
            tasks.spawn(watch::watch(paths.zip(digests).collect(), door.clone()));
        }
        let swapper = Swapper {
            settings: settings.clone(),
            links,
            running: running.clone(),
            commanded: commanded.clone(),
            door,
            hopes: waits && (settings.admin.is_some() || settings.watch),
            probation: probation.clone(),
            before,
            next: Vec::new(),
            again: HashSet::new(),
        };
        tasks.spawn(swapper.serve());
        Swaps { running, commanded, probation, desks, _tasks: tasks }
    }

    /// The next link's desk, the origin's first.
    pub fn desk(&mut self) -> Desk {
        match self.desks.is_empty() {
            false => self.desks.remove(0),
            true => desk().0,
        }
    }
}

impl Probation {
    /// L11: a link has stopped. Takes the revision before back if the running one is to blame and still on trial; then
    /// every link begins anew with it, and so does every later host.
    pub async fn takes_back(
        &self,
        commanded: &Commanded,
        (settings, live): (&Settings, &watched::Sender<Live>),
        problems: &[Problem],
    ) -> bool {
        let [problem] = problems else { return false };
        let Some(before) = self.would_return(problem) else { return false };
        let mut failed = None;
        let fails = || {
            failed = self.fails(problem);
            failed.is_some()
        };
        if !commanded.go_back(&before, fails).await {
            // The other link may have failed as well, and been first.
            return is_same(self.runs().as_deref(), before.as_deref());
        }
        tracing::error!("the new revision stopped the link at once, and the one before it is taken back: {problem}");
        let entry = entry(failed.flatten().as_deref(), Became::TakenBack, problem.code());
        let at = live.borrow().position;
        if let Ok(session) = Session::connect(&settings.target().address, "record").await {
            // What became of it is for people; the next life goes on without it.
            let _ = checkpoint::record_revision(session.client(), &settings.name, settings.link, at, &entry).await;
        }
        true
    }
}
