//! The load: several users at work in the shop on blue, at a steady pace, until told to stop.
//!
//! A deed that meets another one (a serialization failure, a deadlock) is done again; one that the shop itself declines
//! (a basket that just went to somebody else) is not. Any other problem ends the load and is reported by `stop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::demo::deeds::{KINDS, User};
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};

/// What a load should be like.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Users at a time.
    pub users: u64,
    /// Deeds a second, of all users together.
    pub deeds_per_s: u64,
    /// What the randomness starts from.
    pub seed: u64,
}

/// A load at work.
pub struct Load {
    stop: watch::Sender<bool>,
    users: Vec<JoinHandle<Outcome<()>>>,
    counts: Arc<Counts>,
}

struct Counts {
    done: Vec<AtomicU64>,
    repeated: AtomicU64,
    declined: AtomicU64,
}

/// What a load has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Source transactions by kind, in the order of `KINDS`.
    pub deeds: Vec<(&'static str, u64)>,
    /// How often a deed met another one and was done again.
    pub repeated: u64,
    /// Deeds that the shop declined.
    pub declined: u64,
}

impl Tally {
    /// All deeds.
    pub fn total(&self) -> u64 {
        self.deeds.iter().map(|(_, count)| count).sum()
    }
}

impl Load {
    /// Connects the users and lets them begin.
    pub async fn start(shop: &Address, pace: Pace) -> Outcome<Load> {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::new(Counts {
            done: KINDS.iter().map(|_| AtomicU64::new(0)).collect(),
            repeated: AtomicU64::new(0),
            declined: AtomicU64::new(0),
        });
        let mut users = Vec::new();
        let every = Duration::from_secs(1) * u32::try_from(pace.users).unwrap_or(1) / pace.deeds_per_s.max(1) as u32;
        for number in 0..pace.users {
            let session = Session::connect_blaming(shop, Blame::Source, "demo: a user of the shop").await?;
            session.run("SET search_path = public").await?;
            let user = User::new(pace.seed, number);
            users.push(tokio::spawn(work(session, user, every, stopped.clone(), counts.clone())));
        }
        Ok(Load { stop, users, counts })
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            deeds: KINDS.iter().zip(&self.counts.done).map(|((name, ..), done)| (*name, count(done))).collect(),
            repeated: count(&self.counts.repeated),
            declined: count(&self.counts.declined),
        }
    }

    /// Lets every user finish the deed at hand.
    pub async fn stop(mut self) -> Outcome<Tally> {
        self.stop.send_replace(true);
        for user in std::mem::take(&mut self.users) {
            user.await.unwrap_or_else(|_| Err(lost()))?;
        }
        Ok(self.tally())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `stop` nobody is left; otherwise the demo ends early, and its servers with it.
        self.users.iter().for_each(JoinHandle::abort);
    }
}

async fn work(
    session: Session,
    mut user: User,
    every: Duration,
    mut stop: watch::Receiver<bool>,
    counts: Arc<Counts>,
) -> Outcome<()> {
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            _ = clock.tick() => {}
        }
        let (kind, sql) = user.next_deed();
        match carry_out(&session, &sql, &counts).await? {
            true => counts.done[kind].fetch_add(1, Ordering::Relaxed),
            false => counts.declined.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// True if done, false if declined.
async fn carry_out(session: &Session, sql: &str, counts: &Counts) -> Outcome<bool> {
    loop {
        let Err(problem) = session.run(sql).await else { return Ok(true) };
        // A deed of several statements leaves its failed transaction open; without one this is only a notice.
        session.run("ROLLBACK").await?;
        match problem.code() {
            "SERIALIZATION_FAILURE" | "DEADLOCK" => counts.repeated.fetch_add(1, Ordering::Relaxed),
            "UNIQUE_VIOLATION" | "FOREIGN_KEY_VIOLATION" => return Ok(false),
            _ => return Err(problem),
        };
    }
}

fn lost() -> Problem {
    Problem::refuse(Blame::Host, "TASK_LOST", "a user of the demo's shop ended without an answer")
}
