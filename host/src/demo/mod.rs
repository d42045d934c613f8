//! `falkirk demo`: the whole story on two private servers that it starts and removes itself.
//!
//! ```text
//!   users   release 1 .................................. one by one to 2 ..... back to 1 ..... to 2 again
//!   links             copy, forward -- compared -- both ............. compared ..... compared ..... compared -- clean
//! ```
//!
//! It touches nothing but its own two servers, and it leaves nothing behind: not after its end, not after a signal, and,
//! thanks to the servers' watchers, not after `kill -9` either; unless it was asked to keep them.

mod acts;
mod chance;
mod crew;
mod deeds;
mod link;
pub mod load;
mod new_deeds;
mod roles;
pub mod seed;
pub mod servers;
pub mod summary;

use std::path::PathBuf;
use std::time::Instant;

use tokio::sync::watch;

use crate::demo::link::Link;
use crate::demo::load::{Load, Pace};
use crate::demo::servers::Servers;
use crate::demo::summary::Report;
use crate::problem::{Blame, Problem};

/// What a demo should be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Leave the servers running and say how to connect.
    pub keep: bool,
    /// The shop's transform as a component; found beside the command's build if not given.
    pub transform: Option<PathBuf>,
    /// How long the acts last in which users are at work, in seconds.
    pub stream_s: u64,
    /// The load.
    pub pace: Pace,
    /// For a person at a terminal: progress bars.
    pub for_eyes: bool,
}

/// How a demo ended.
pub enum Ending {
    /// To the end of the story.
    Done {
        /// Its figures.
        report: Box<Report>,
        /// How to use and to remove the servers, if they were kept.
        kept: Option<String>,
    },
    /// By a signal; everything is removed.
    Interrupted,
}

/// What is on the stage, for whoever has to clear it.
struct Stage {
    began: Instant,
    servers: Servers,
    load: Option<Load>,
    link: Option<Link>,
    configuration: Option<PathBuf>,
}

/// Plays the story. `stop` ends it early.
pub async fn run(options: &Options, mut stop: watch::Receiver<bool>) -> Result<Ending, Vec<Problem>> {
    let transform = component(options).map_err(|problem| vec![problem])?;
    let mut stage = Stage::open().await.map_err(|problem| vec![problem])?;
    let played = tokio::select! {
        biased;
        // An error means that nobody can ask for the end any more.
        Ok(_) = stop.wait_for(|stop| *stop) => None,
        played = acts::play(options, &transform, &mut stage) => Some(played),
    };
    let kept = stage.clear(options.keep && played.is_some()).await.map_err(|problem| vec![problem])?;
    match played {
        None => Ok(Ending::Interrupted),
        Some(Ok(report)) => Ok(Ending::Done { report: Box::new(report), kept }),
        Some(Err(problems)) => {
            // Somebody who asked to keep the servers will want to look at them now.
            kept.iter().for_each(say);
            Err(problems)
        }
    }
}

impl Stage {
    /// A signal is heeded after this: servers that are still being made belong to nobody who could remove them.
    async fn open() -> Result<Stage, Problem> {
        say("two private PostgreSQL servers: blue for release 1, green for release 2");
        let (began, servers) = (Instant::now(), Servers::start(Vec::new()).await?);
        Ok(Stage { began, servers, load: None, link: None, configuration: None })
    }

    /// The load first, then the link, which drains, then the servers: kept, with a text how to go on, or removed.
    async fn clear(self, keep: bool) -> Result<Option<String>, Problem> {
        drop(self.load);
        if let Some(link) = self.link {
            // Whatever it says now, the story has ended already.
            let _ = link.end().await;
        }
        if keep {
            return self.servers.keep(self.configuration.as_deref()).map(Some);
        }
        self.servers.remove().await;
        Ok(None)
    }
}

/// The shop's component: where it was said to be, or where `make transforms` puts it.
fn component(options: &Options) -> Result<PathBuf, Problem> {
    const FILE: &str = "shop_1_2.wasm";
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join(FILE));
    let places = match &options.transform {
        Some(path) => vec![path.clone()],
        None => beside().into_iter().chain([PathBuf::from("target").join(FILE)]).collect(),
    };
    let found = places.iter().find_map(|place| place.canonicalize().ok());
    found.ok_or_else(|| {
        let place = places.first().map_or_else(|| FILE.to_owned(), |place| place.display().to_string());
        Problem::refuse(
            Blame::Config,
            "NO_COMPONENT",
            format!("the shop's transform is not built: there is no {place}"),
        )
        .remedy("run `make transforms`, or `falkirk build transforms/shop -o FILE` and `falkirk demo --transform FILE`")
    })
}

/// One line of the story, for people; standard output is for the summary.
fn say(line: impl std::fmt::Display) {
    eprintln!("{line}");
}
