//! `--shadow N`: the new revision lifts the next N changes beside the running one, and what both would write is compared.

use std::time::Duration;

use crate::link::running::{Revision, is_same};
use crate::problem::{Blame, Problem};
use crate::stream::exchange::Order;
use crate::stream::shadow::{Shadow, Shared, Trial};

use super::door::Answer;
use super::{Ready, Swapper};

/// How often it is looked whether enough was seen.
const EVERY: Duration = Duration::from_millis(20);

impl Swapper {
    /// Runs a trial of `changes` changes on every link that writes. Ends early if the new revision fails, if nobody waits
    /// for the answer, if a newer wish comes, or if a link begins to wait for other columns; L11: also if it begins anew,
    /// or if the revision that it is compared with runs no more.
    pub(super) async fn trial(
        &self,
        (running, new): (&Revision, &Revision),
        links: &[usize],
        changes: u64,
        answer: &Answer,
    ) -> Result<Trial, Vec<Problem>> {
        let shared = Shared::default();
        let mut streams = Vec::new();
        for (at, ready) in links.iter().zip(self.prepared(new, links).await?) {
            let Ready { revised, orders, beside, .. } = ready;
            if !self.settings.applies(self.links[*at].link) {
                continue;
            }
            let Some((old, old_plan)) = beside else { return Err(vec![depends()]) };
            let shadow = Shadow { old, old_plan, new: revised.lifting, new_plan: revised.plan, shared: shared.clone() };
            if orders.send(Order::Shadow(Box::new(shadow))).await.is_err() {
                return Err(vec![super::not_now("a link does not stream any more")]);
            }
            streams.push(orders);
        }
        loop {
            let trial = shared.look();
            let waits = || self.links.iter().any(|linked| linked.post.awaits.borrow().is_some());
            let runs = || is_same(self.running.artifact().as_deref(), running.as_deref());
            let streams = || streams.iter().all(|orders| !orders.is_closed());
            if trial.changes >= changes || trial.failed.is_some() {
                shared.end();
                return Ok(trial);
            }
            if answer.is_unwanted() || self.door.is_knocked() || waits() || !runs() || !streams() {
                shared.end();
                return Err(vec![given_up(&trial)]);
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn depends() -> Problem {
    Problem::refuse(
        Blame::Artifact,
        "NOT_SUPPORTED",
        "rows of it depend on others through maps or related rows, and what they stand for cannot be told beside the running link",
    )
    .remedy("try the revision on a copy of the databases, or swap it in without --shadow")
}

fn given_up(trial: &Trial) -> Problem {
    let what = format!("the trial was given up after {} changes; the old revision runs on", trial.changes);
    Problem::refuse(Blame::Host, "TRIAL_ENDED", what)
        .remedy("ask again; it ends when a newer wish comes, or a link waits, begins anew or gets another revision")
}
