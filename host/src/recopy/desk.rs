//! Where the links of a host are asked to mend rows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::Repaired;
use crate::marker::Link;
use crate::problem::{Blame, Problem};

/// How long a running link may not be streaming yet.
pub const READY_PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Only rows of this source table, with or without its schema.
    pub table: Option<String>,
    /// Also rows that do not agree for another reason.
    pub force: bool,
    /// Nothing but rows that the target does not have at all.
    pub only_missing: bool,
    /// Files of earlier revisions, newest first.
    pub older: Vec<Older>,
    /// Show keys as they are, instead of hashes.
    pub values: bool,
}

/// The file of an earlier revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// Its name, for messages.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The digest that it must have, 64 hexadecimal digits.
    pub pin: Option<String>,
}

/// An order and whom to answer.
pub(crate) struct Job {
    pub(crate) order: Order,
    /// Whoever asked hears that it is being carried out.
    pub(crate) taken: oneshot::Sender<()>,
    pub(crate) answer: oneshot::Sender<Result<Repaired, Vec<Problem>>>,
}

#[derive(Debug)]
struct Counter {
    jobs: mpsc::Sender<Job>,
    taking: Mutex<mpsc::Receiver<Job>>,
}

impl Counter {
    fn new() -> Self {
        let (jobs, taking) = mpsc::channel(1);
        Counter { jobs, taking: Mutex::new(taking) }
    }
}

/// Where the links are asked: whoever holds it asks, and a link that streams takes.
#[derive(Clone, Debug)]
pub struct Desk(Arc<[Counter; 2]>);

impl Default for Desk {
    fn default() -> Self {
        Desk(Arc::new([Counter::new(), Counter::new()]))
    }
}

impl Desk {
    fn counter(&self, link: Link) -> &Counter {
        &self.0[usize::from(link == Link::Backward)]
    }

    /// Has a link mend its rows, and waits for what becomes of it. Going away ends it; what was mended stays so.
    /// `patience`: for how long the link may not be streaming yet; without it, however long that takes.
    pub async fn ask(&self, link: Link, order: Order, patience: Option<Duration>) -> Result<Repaired, Vec<Problem>> {
        let ((taken, is_taken), (answer, answered)) = (oneshot::channel(), oneshot::channel());
        let job = Job { order, taken, answer };
        let handed = async {
            self.counter(link).jobs.send(job).await.ok()?;
            is_taken.await.ok()
        };
        let handed = match patience {
            None => handed.await,
            Some(patience) => tokio::time::timeout(patience, handed).await.ok().flatten(),
        };
        handed.ok_or_else(|| vec![not_now(link)])?;
        answered.await.unwrap_or_else(|_| Err(vec![interrupted(link)]))
    }

    /// The next order for a link, from somebody who still waits.
    pub(crate) async fn next(&self, link: Link) -> Job {
        let mut jobs = self.counter(link).taking.lock().await;
        loop {
            match jobs.recv().await {
                Some(job) if job.taken.is_closed() => {}
                Some(job) => return job,
                None => std::future::pending().await,
            }
        }
    }
}

fn not_now(link: Link) -> Problem {
    let what = format!("the {link} link does not stream: it is not run, or starts, copies existing rows, or waits");
    Problem::refuse(Blame::Host, "LINK_NOT_STREAMING", what)
        .remedy("see `falkirk status`, and ask again once it streams")
}

fn interrupted(link: Link) -> Problem {
    let what = format!("the {link} link began anew meanwhile; the rows that were mended so far stay so");
    Problem::refuse(Blame::Host, "LINK_BEGAN_ANEW", what)
        .remedy("run `falkirk recopy` again: it goes on where rows are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_a_link_that_begins_anew_is_told_so() {
        let desk = Desk::default();
        let asked = {
            let desk = desk.clone();
            tokio::spawn(async move { desk.ask(Link::Backward, Order::default(), None).await })
        };
        let job = desk.next(Link::Backward).await;
        job.taken.send(()).expect("somebody waits");
        drop(job.answer);
        assert_eq!(asked.await.expect("nobody panics").expect_err("no answer")[0].code(), "LINK_BEGAN_ANEW");
    }

    #[tokio::test]
    async fn a_link_that_does_not_stream_is_not_waited_for_and_its_order_is_forgotten() {
        let desk = Desk::default();
        let refused = desk
            .ask(Link::Forward, Order::default(), Some(Duration::from_millis(1)))
            .await
            .expect_err("nobody takes it");
        assert_eq!(refused[0].code(), "LINK_NOT_STREAMING");
        let next = tokio::time::timeout(Duration::from_millis(1), desk.next(Link::Forward)).await;
        assert!(next.is_err(), "nobody waits for it any more");
    }
}
