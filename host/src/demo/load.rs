//! The load: several users at work in the shop, each in one release at a time, at a steady pace, until told to stop.
//!
//! A deed that meets another one (a serialization failure, a deadlock) is done again; one that the shop itself declines
//! (a basket that just went to somebody else) is not. Any other problem ends the user and is reported by whoever lets it
//! rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::demo::deeds::{Release, User};
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

/// Users at work or at rest.
pub struct Load {
    shops: [Option<Address>; 2],
    users: Vec<Place>,
    every: Duration,
    counts: Arc<[Counts; 2]>,
}

/// Where a user is.
enum Place {
    AtRest(User),
    AtWork(Release, watch::Sender<bool>, JoinHandle<Outcome<User>>),
    /// Ended with a problem.
    Lost,
}

struct Counts {
    done: Vec<AtomicU64>,
    repeated: AtomicU64,
    declined: AtomicU64,
}

/// What a load has done in one release.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Source transactions by kind.
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

fn place(release: Release) -> usize {
    match release {
        Release::One => 0,
        Release::Two => 1,
    }
}

impl Load {
    /// Connects the users to release 1 and lets them begin.
    pub async fn start(shop: &Address, pace: Pace) -> Outcome<Load> {
        let counts = |release: Release| Counts {
            done: release.kinds().iter().map(|_| AtomicU64::new(0)).collect(),
            repeated: AtomicU64::new(0),
            declined: AtomicU64::new(0),
        };
        let users = (0..pace.users).map(|number| Place::AtRest(User::new(pace.seed, number, pace.users)));
        let mut load = Load {
            shops: [Some(shop.clone()), None],
            users: users.collect(),
            every: Duration::from_secs(1) * u32::try_from(pace.users).unwrap_or(1) / pace.deeds_per_s.max(1) as u32,
            counts: Arc::new([counts(Release::One), counts(Release::Two)]),
        };
        for number in 0..load.users.len() {
            load.work(number, Release::One).await?;
        }
        Ok(load)
    }

    /// Where release 2 is.
    pub fn open_release_2(&mut self, shop: Address) {
        self.shops[place(Release::Two)] = Some(shop);
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Lets a user who is at rest begin in a release.
    pub async fn work(&mut self, number: usize, release: Release) -> Outcome<()> {
        let Place::AtRest(user) = std::mem::replace(&mut self.users[number], Place::Lost) else { return Err(lost()) };
        let shop = self.shops[place(release)].as_ref().ok_or_else(lost)?;
        let session = Session::connect_blaming(shop, Blame::Source, "demo: a user of the shop").await?;
        session.run("SET search_path = public").await?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(work(session, (user, release), self.every, stopped, self.counts.clone()));
        self.users[number] = Place::AtWork(release, stop, task);
        Ok(())
    }

    /// Lets a user finish the deed at hand, and no other. Which release it was at, if it was at work.
    pub async fn rest(&mut self, number: usize) -> Outcome<Option<Release>> {
        match std::mem::replace(&mut self.users[number], Place::Lost) {
            Place::AtWork(release, stop, task) => {
                stop.send_replace(true);
                self.users[number] = Place::AtRest(task.await.unwrap_or_else(|_| Err(lost()))?);
                Ok(Some(release))
            }
            Place::AtRest(user) => {
                self.users[number] = Place::AtRest(user);
                Ok(None)
            }
            Place::Lost => Err(lost()),
        }
    }

    /// What was done in release 1 so far.
    pub fn tally(&self) -> Tally {
        self.tally_of(Release::One)
    }

    /// What was done in a release so far.
    pub fn tally_of(&self, release: Release) -> Tally {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts[place(release)];
        Tally {
            deeds: release.kinds().iter().zip(&counts.done).map(|((name, ..), done)| (*name, count(done))).collect(),
            repeated: count(&counts.repeated),
            declined: count(&counts.declined),
        }
    }

    /// Lets every user finish the deed at hand.
    pub async fn stop(mut self) -> Outcome<Tally> {
        for number in 0..self.users.len() {
            self.rest(number).await?;
        }
        Ok(self.tally())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `stop` nobody is at work; otherwise the demo ends early, and its servers with it.
        for user in &self.users {
            if let Place::AtWork(_, _, task) = user {
                task.abort();
            }
        }
    }
}

async fn work(
    session: Session,
    (mut user, release): (User, Release),
    every: Duration,
    mut stop: watch::Receiver<bool>,
    counts: Arc<[Counts; 2]>,
) -> Outcome<User> {
    let counts = &counts[place(release)];
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(user),
            _ = clock.tick() => {}
        }
        let (kind, sql) = user.next_deed(release);
        match carry_out(&session, &sql, counts).await? {
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
