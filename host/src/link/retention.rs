//! Erases what records of conflicts say of rows once it has been kept long enough.

use std::convert::Infallible;
use std::time::Duration;

use crate::apply::conflict;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome};

use super::Open;

/// How often it is looked for records that are old enough; the settings speak of days.
const EVERY: Duration = Duration::from_secs(3_600);

impl Open<'_> {
    /// Erases now and then, for as long as the link streams; it never ends.
    pub(super) async fn erase_old_values(&self) -> Infallible {
        loop {
            // The link itself will say more about a target that does not answer.
            if let Err(problem) = self.erase().await {
                tracing::warn!("values in old records of conflicts could not be erased: {problem}");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn erase(&self) -> Outcome<()> {
        let settings = &self.context.settings;
        let session = Session::connect_blaming(&settings.target().address, Blame::Target, "retention").await?;
        let (migration, link, days) = (&self.identity.migration, self.identity.link, settings.conflict_values_days);
        let erased = conflict::erase_values(session.client(), migration, link, days).await?;
        if erased > 0 {
            tracing::info!(records = erased, older_than_days = days, "values in records of conflicts are erased");
        }
        Ok(())
    }
}
