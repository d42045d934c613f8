//! A revision that has just taken over is watched: if it stops a link at once, the one before it is taken back, once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::link::running::{Revision, Running};
use crate::live::Live;
use crate::problem::{Action, Problem};

/// Watches over the revision that took over last.
pub struct Probation {
    /// For so many rows; 0: never.
    limit: u64,
    running: Arc<Running>,
    lives: Vec<watch::Receiver<Live>>,
    on_trial: Mutex<Option<OnTrial>>,
    /// Counts how often lives had to begin anew for the sake of a revision.
    renewed: watch::Sender<u64>,
}

struct OnTrial {
    new: Revision,
    before: Revision,
    rows: u64,
}

impl Probation {
    /// For links that run `running`; a revision is on trial for `limit` rows.
    pub fn new(limit: u64, running: Arc<Running>, lives: Vec<watch::Receiver<Live>>) -> Self {
        Probation { limit, running, lives, on_trial: Mutex::new(None), renewed: watch::channel(0).0 }
    }

    /// A revision takes over.
    pub(super) fn begins(&self, new: Revision, before: Revision) {
        *self.lock() = (self.limit > 0).then(|| OnTrial { new, before, rows: self.rows() });
    }

    /// Whatever runs now is not on trial.
    pub(super) fn ends(&self) {
        *self.lock() = None;
    }

    /// A link has stopped. The revision that is to be taken back, if the running one is still on trial and to blame.
    pub(super) fn would_return(&self, problem: &Problem) -> Option<Revision> {
        let is_to_blame = problem.action() == Action::Stop && problem.at_artifact().is_some();
        let on_trial = self.lock();
        let trial = on_trial.as_ref().filter(|_| is_to_blame)?;
        let rows = self.rows();
        (rows - trial.rows.min(rows) <= self.limit).then(|| trial.before.clone())
    }

    /// Takes that one back; all links begin anew with it. Returns the one that failed.
    pub(super) fn fails(&self, problem: &Problem) -> Option<Revision> {
        self.would_return(problem)?;
        let mut on_trial = self.lock();
        let OnTrial { new, before, .. } = on_trial.take()?;
        // L11: one that was put in meanwhile stays.
        if !self.running.exchange(new.as_deref(), before.as_ref()) {
            return None;
        }
        drop(on_trial);
        self.renew();
        Some(new)
    }

    /// What runs now.
    pub(super) fn runs(&self) -> Revision {
        self.running.artifact()
    }

    /// Another revision runs: lives that are under way begin anew.
    pub(super) fn renew(&self) {
        self.renewed.send_modify(|times| *times += 1);
    }

    /// Changes when every life has to begin anew.
    pub fn renewed(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    fn rows(&self) -> u64 {
        self.lives.iter().map(|live| live.borrow().rows_changed).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OnTrial>> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
