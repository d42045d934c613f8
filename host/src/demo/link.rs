//! The demo's links: the same ones that `falkirk run` runs, in a task of their own, watched.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::live::Live;
use crate::problem::{Blame, Problem};
use crate::recopy;
use crate::show;
use crate::supervisor::{self, Shown, Summary, Until};
use crate::swap::Door;

/// Longer than this nothing in the demo takes, on the slowest machine that is of any use.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Running links: one applies and the other one watches, or both apply.
pub struct Link {
    stop: watch::Sender<bool>,
    live: watch::Receiver<Live>,
    other: watch::Receiver<Live>,
    /// `None` once its answer was taken.
    task: Option<JoinHandle<Result<Vec<Summary>, Vec<Problem>>>>,
    show: JoinHandle<()>,
}

impl Link {
    /// Lets them run until they are told to end, and shows them.
    pub fn start(settings: Settings, for_eyes: bool) -> Link {
        let (stop, stopped) = watch::channel(false);
        let (tell, live) = watch::channel(Live::default());
        let (tell_other, other) = watch::channel(Live::default());
        let origin = settings.origin();
        let links = vec![(origin.name(), live.clone()), (origin.other().name(), other.clone())];
        let show = tokio::spawn(show::show(links, for_eyes));
        let shown = Shown { origin: tell, other: tell_other };
        let doors = (Door::default(), recopy::Desk::default());
        let task = tokio::spawn(async move { supervisor::run(&settings, Until::Told, stopped, shown, doors).await });
        Link { stop, live, other, task: Some(task), show }
    }

    /// The forward link's live state, for whoever wants to watch as well.
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// The backward link's.
    pub fn back(&self) -> watch::Receiver<Live> {
        self.other.clone()
    }

    /// Waits until the live states, forward and backward, are as wished. Links that end before that are a problem: usually
    /// they say which.
    pub async fn until(&mut self, what: &str, wish: impl Fn(&Live, &Live) -> bool) -> Result<(), Vec<Problem>> {
        let (mut live, mut other) = (self.live.clone(), self.other.clone());
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if wish(&live.borrow_and_update(), &other.borrow_and_update()) {
                    return true;
                }
                let changed = tokio::select! {
                    changed = live.changed() => changed,
                    changed = other.changed() => changed,
                };
                if changed.is_err() {
                    return false;
                }
            }
        });
        match waited.await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(ended(format!("the link has not {what} after {seconds} s"), "DEMO_TOO_SLOW"));
            }
        }
        self.ended_before(what).await
    }

    /// Links that have ended say why.
    pub async fn ended_before(&mut self, what: &str) -> Result<(), Vec<Problem>> {
        match self.answer().await {
            Err(problems) => Err(problems),
            Ok(_) => Err(ended(format!("the link ended before it had {what}"), "DEMO_LINK_ENDED")),
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells them to end, and waits until they have finished what they had received.
    pub async fn end(mut self) -> Result<Vec<Summary>, Vec<Problem>> {
        self.stop.send_replace(true);
        let summary = self.answer().await;
        // It ends by itself when nobody can change what is shown any more.
        let _ = self.show.await;
        summary
    }

    async fn answer(&mut self) -> Result<Vec<Summary>, Vec<Problem>> {
        let broken = || Err(ended("the link ended without an answer".to_owned(), "DEMO_LINK_ENDED"));
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|_| broken()),
            None => broken(),
        }
    }
}

pub(super) fn ended(what: String, code: &'static str) -> Vec<Problem> {
    vec![Problem::refuse(Blame::Host, code, what).remedy("see the log above; FALKIRK_LOG=debug says more")]
}
