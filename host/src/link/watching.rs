//! Keeps what a link that watches has found in its target, for `status` and whoever thinks of going back.

use std::time::Duration;

use serde_json::json;

use crate::apply::readiness;
use crate::live::{Trial, Waiting};
use crate::names::TableName;
use crate::pg::session::Session;
use crate::problem::{Blame, Problem};
use crate::stream::End;

use super::Open;

/// How often a report that has changed is kept.
const EVERY: Duration = Duration::from_secs(2);

impl Open<'_> {
    /// Runs a stream that watches, and keeps its report now and then and at its end.
    pub(super) async fn watched(&self, streaming: impl Future<Output = Result<End, Problem>>) -> Result<End, Problem> {
        let target = &self.context.settings.target().address;
        let session = Session::connect_blaming(target, Blame::Target, "watch").await?;
        let mut kept = None;
        let mut streaming = std::pin::pin!(streaming);
        loop {
            let ended = tokio::select! {
                ended = &mut streaming => Some(ended),
                () = tokio::time::sleep(EVERY) => None,
            };
            self.keep_report(&session, &mut kept).await;
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn keep_report(&self, session: &Session, kept: &mut Option<Waiting>) {
        let now = self.live.borrow().waiting.clone();
        if kept.as_ref() == Some(&now) {
            return;
        }
        let (migration, link) = (&self.identity.migration, self.identity.link);
        match readiness::keep(session.client(), migration, link, &report(&now)).await {
            Ok(()) => *kept = Some(now),
            // The link itself will say more about a target that does not answer.
            Err(problem) => tracing::warn!("what was watched could not be kept: {problem}"),
        }
    }
}

fn report(waiting: &Waiting) -> serde_json::Value {
    let table = |(table, changes): (&TableName, &u64)| {
        let trial = waiting.trials.get(table).cloned().unwrap_or_default();
        json!({
            "table": table, "changes": changes, "tried_rows": trial.tried, "skipped_rows": trial.skipped,
            "unfit_rows": trial.unfit_rows, "unfit": reasons(&trial),
        })
    };
    json!({
        "since": waiting.since.map(|since| since.to_string()),
        "transactions": waiting.transactions,
        "tables": waiting.changes.iter().map(table).collect::<Vec<_>>(),
    })
}

fn reasons(trial: &Trial) -> Vec<serde_json::Value> {
    let one = |((reason, name), unfit): (&(String, String), &crate::live::Unfit)| {
        let keys = unfit.sample.iter().map(|key| serde_json::from_str(key).unwrap_or_default());
        json!({ "reason": reason, "name": name, "rows": unfit.rows, "keys": keys.collect::<Vec<serde_json::Value>>() })
    };
    trial.reasons.iter().map(one).collect()
}
