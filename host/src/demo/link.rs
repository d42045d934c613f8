//! The demo's link: the same one that `falkirk run` runs, in a task of its own, watched.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::live::Live;
use crate::problem::{Blame, Problem};
use crate::show;
use crate::supervisor::{self, Shown, Summary, Until};

/// Longer than this nothing in the demo takes, on the slowest machine that is of any use.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running link.
pub struct Link {
    stop: watch::Sender<bool>,
    live: watch::Receiver<Live>,
    /// `None` once its answer was taken.
    task: Option<JoinHandle<Result<Vec<Summary>, Vec<Problem>>>>,
    show: JoinHandle<()>,
}

impl Link {
    /// Lets it run until it is told to end, and shows it.
    pub fn start(settings: Settings, for_eyes: bool) -> Link {
        let (stop, stopped) = watch::channel(false);
        let (tell, live) = watch::channel(Live::default());
        let (other, _) = watch::channel(Live::default());
        let show = tokio::spawn(show::show(vec![(settings.origin().name(), live.clone())], for_eyes));
        let shown = Shown { origin: tell, other };
        let task = tokio::spawn(async move { supervisor::run(&settings, Until::Told, stopped, shown).await });
        Link { stop, live, task: Some(task), show }
    }

    /// The live state, for whoever wants to watch as well.
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// Waits until the live state is as wished. A link that ends before that is a problem: usually it says which.
    pub async fn until(&mut self, what: &str, wish: impl FnMut(&Live) -> bool) -> Result<(), Vec<Problem>> {
        match tokio::time::timeout(PATIENCE, self.live.wait_for(wish)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => {}
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(ended(format!("the link has not {what} after {seconds} s"), "DEMO_TOO_SLOW"));
            }
        }
        match self.answer().await {
            Err(problems) => Err(problems),
            Ok(_) => Err(ended(format!("the link ended before it had {what}"), "DEMO_LINK_ENDED")),
        }
    }

    /// Tells it to end, and waits until it has finished what it had received.
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

fn ended(what: String, code: &'static str) -> Vec<Problem> {
    vec![Problem::refuse(Blame::Host, code, what).remedy("see the log above; FALKIRK_LOG=debug says more")]
}
