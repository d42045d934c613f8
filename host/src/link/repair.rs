//! Mends rows beside the stream of a running link, whenever somebody asks for it (`recopy`).

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Open, setup};
use crate::apply::LinkIdentity;
use crate::problem::{Blame, Problem};
use crate::recopy::desk::Job;
use crate::recopy::{self, Site};
use crate::stream::touched::Touched;

impl Open<'_> {
    /// Carries out one order after the other; never ends by itself. What it has begun ends with it.
    pub(super) async fn mend(&self, touched: &Arc<Touched>) -> Problem {
        loop {
            let Job { order, taken, mut answer } = self.context.recopies.next(self.identity.link).await;
            if taken.send(()).is_err() {
                continue;
            }
            // L11: it is the running revision that signs, not the one with which this life began.
            let artifact = self.context.running.artifact();
            let artifact = artifact.map_or([0; 32], |artifact| setup::digest_bytes(artifact.digest()));
            let site = Site {
                settings: self.context.settings.clone(),
                identity: LinkIdentity { artifact, ..self.identity.clone() },
                running: self.context.running.clone(),
                touched: touched.clone(),
                is_paired: self.context.pair.is_some(),
            };
            // A task of its own: what the transform computes here is not to keep the stream waiting.
            let mut task = JoinSet::new();
            task.spawn(recopy::run(site, order));
            let ended = tokio::select! {
                ended = task.join_next() => ended,
                () = answer.closed() => {
                    tracing::info!("nobody waits for the repair any more: it ends; what was mended stays so");
                    continue;
                }
            };
            let lost = || Problem::retry(Blame::Host, "TASK_LOST", "the repair ended without an answer");
            let ended = ended.and_then(Result::ok).unwrap_or_else(|| Err(vec![lost()]));
            if let Err(problems) = &ended {
                problems.iter().for_each(|problem| tracing::warn!("the repair ends: {problem}"));
            }
            // Whoever asked may have gone away just now.
            let _ = answer.send(ended);
        }
    }
}
