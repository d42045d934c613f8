//! Where wishes for another revision come in. One waits at most: a newer one takes its place (swap storms).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::lsn::Lsn;
use crate::marker::Link;
use crate::names::TableName;
use crate::problem::{Blame, Problem};
use crate::stream::shadow::Trial;

/// What is wished for.
pub struct Wish {
    /// Which revision.
    pub what: What,
    /// If it does not fit the source's columns: keep it until they change.
    pub when_fits: bool,
    /// First lift so many changes beside the running revision, and compare.
    pub shadow: Option<u64>,
    /// Put it in although the comparison found differences.
    pub promote: bool,
}

impl Wish {
    /// For a revision that is to be put in at once.
    pub fn now(what: What) -> Self {
        Wish { what, when_fits: false, shadow: None, promote: false }
    }
}

/// Which revision is wished for.
pub enum What {
    /// These files, at once.
    Files(Vec<Brought>),
    /// The one before the running one.
    Back,
    /// The running one, bound to the columns as they are now.
    Again,
}

/// An artifact's file.
pub struct Brought {
    /// Its name, for messages.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The digest that it must have, 64 hexadecimal digits.
    pub pin: Option<String>,
    /// It was found in this place of the configuration.
    pub place: Option<usize>,
}

/// What a wish has led to.
#[derive(Clone, Debug, Default)]
pub struct Swapped {
    /// The artifact that runs now.
    pub artifact: String,
    /// The one that ran before; empty if nothing was exchanged.
    pub before: String,
    /// Something was exchanged.
    pub is_new: bool,
    /// What runs now is not what the configuration names, and holds all the same.
    pub is_commanded: bool,
    /// From where on it writes, by link.
    pub positions: Vec<(Link, Lsn)>,
    /// How long nothing could be written because of the exchange, at most of the links.
    pub stall: Duration,
    /// What should be known.
    pub warnings: Vec<String>,
    /// Tables of the other side that stand for those at whose columns a link waited.
    pub stands_in: Vec<TableName>,
    /// What a trial has found.
    pub trial: Option<Trial>,
}

/// A wish and whom to answer.
pub(super) struct Job {
    pub(super) wish: Wish,
    pub(super) answer: Answer,
}

pub(super) struct Answer(oneshot::Sender<Result<Swapped, Vec<Problem>>>);

impl Answer {
    /// Whoever asked may have gone away: the wish is carried out all the same.
    pub(super) fn give(self, what: Result<Swapped, Vec<Problem>>) {
        let _ = self.0.send(what);
    }

    /// Whoever asked has gone away.
    pub(super) fn is_unwanted(&self) -> bool {
        self.0.is_closed()
    }
}

/// Where wishes come in.
#[derive(Clone, Default)]
pub struct Door(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Option<Job>>,
    ring: Notify,
}

impl Door {
    /// Wishes for a revision, and waits for what becomes of it.
    pub async fn wish(&self, wish: Wish) -> Result<Swapped, Vec<Problem>> {
        let (answer, answered) = oneshot::channel();
        let job = Job { wish, answer: Answer(answer) };
        let older = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).replace(job);
        if let Some(older) = older {
            older.answer.give(Err(vec![superseded()]));
        }
        self.0.ring.notify_one();
        answered.await.unwrap_or_else(|_| {
            Err(vec![Problem::refuse(Blame::Host, "HOST_ENDS", "the host ends; the revision was not put in")])
        })
    }

    /// A wish waits.
    pub(super) fn is_knocked(&self) -> bool {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The next wish.
    pub(super) async fn next(&self) -> Job {
        loop {
            let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = waiting {
                return job;
            }
            self.0.ring.notified().await;
        }
    }
}

pub(super) const SUPERSEDED: &str = "SUPERSEDED";

fn superseded() -> Problem {
    Problem::refuse(Blame::Host, SUPERSEDED, "a newer revision came before this one could be put in")
        .remedy("nothing; the newer one is being put in")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wish that can be told from others by its number.
    fn wish(number: u64) -> Wish {
        Wish { shadow: Some(number), ..Wish::now(What::Again) }
    }

    #[tokio::test]
    async fn row_33_of_many_wishes_the_newest_is_carried_out_and_the_others_are_told_so() {
        let door = Door::default();
        let mut wishes = Vec::new();
        for number in 0..10 {
            let door = door.clone();
            wishes.push(tokio::spawn(async move { door.wish(wish(number)).await }));
            // One thread takes turns: it has come to the door before the next one is made.
            tokio::task::yield_now().await;
        }
        let Job { wish, answer } = door.next().await;
        assert_eq!(wish.shadow, Some(9), "an older one than the newest is carried out");
        assert!(!door.is_knocked(), "only one waits");
        answer.give(Ok(Swapped { is_new: true, ..Swapped::default() }));
        for (number, wish) in wishes.into_iter().enumerate() {
            match wish.await.expect("nobody panics") {
                Ok(swapped) => assert!(number == 9 && swapped.is_new),
                Err(problems) => assert!(number < 9 && problems[0].code() == "SUPERSEDED"),
            }
        }
    }

    #[tokio::test]
    async fn whoever_wishes_of_a_host_that_ends_is_told_so() {
        let door = Door::default();
        let wished = {
            let door = door.clone();
            tokio::spawn(async move { door.wish(wish(0)).await })
        };
        drop(door.next().await);
        let answer = wished.await.expect("nobody panics");
        assert_eq!(answer.expect_err("it was not put in")[0].code(), "HOST_ENDS");
    }
}
