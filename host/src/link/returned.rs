//! A host that begins with another revision than wrote last: the configuration has got its way over one that was put in
//! by command (`commanded`), or names an earlier one again. The log and `status` say so by name, and the history keeps it.
//!
//! Nothing is decided here. Rows that the revision before wrote stay as they are.

use super::Open;
use super::exchange::entry;
use crate::apply::checkpoint::{self, Newest};
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::problem::Outcome;

/// What the history says of a revision that took another one's place because a host started with it.
const IN_PLACE_OF: &str = "in the place of ";

impl Open<'_> {
    /// L11: notes the revision that writes from `at` on in this life.
    pub(super) async fn note_start(&self, at: Lsn) -> Outcome<()> {
        let (client, migration, link) = (self.target.client(), &self.identity.migration, self.identity.link);
        let mut entry = entry(self.artifact.as_deref(), checkpoint::Became::Started, "");
        match checkpoint::newest_revision(client, migration, link).await? {
            // It has begun before; what was to be said of that is still so.
            Some(newest) if newest.artifact == entry.artifact => entry.reason = newest.reason,
            // Whoever exchanged it has said so.
            Some(_) if self.context.running.was_exchanged() => {}
            // What was asked for: it is the one that the other had taken the place of.
            Some(newest) if newest.reason.strip_prefix(IN_PLACE_OF) == Some(&entry.artifact) => {
                let meanwhile = short(&newest.artifact);
                tracing::info!(
                    "the {link} link has its revision again; rows that {meanwhile} wrote meanwhile keep its values"
                );
            }
            Some(newest) => {
                let is_known = checkpoint::writers(client, migration, link).await?.contains(&entry.artifact);
                match newest.was_swapped_in || is_known {
                    true => {
                        entry.reason = format!("{IN_PLACE_OF}{}", newest.artifact);
                        tracing::warn!("{}", text(link, &entry.artifact, &newest.artifact));
                    }
                    // A new one, by the configuration: that is how releases come.
                    false => tracing::info!("the {link} link begins with another revision than wrote last"),
                }
            }
            None => {}
        }
        checkpoint::record_revision(client, migration, link, at, &entry).await
    }
}

/// What `status` says of the newest note: a host has started with another revision than the one that wrote before.
pub fn returned(link: Link, newest: &Newest) -> Option<String> {
    let before = newest.reason.strip_prefix(IN_PLACE_OF).filter(|_| !newest.was_swapped_in)?;
    Some(text(link, &newest.artifact, before))
}

fn text(link: Link, now: &str, before: &str) -> String {
    let (now, before) = (short(now), short(before));
    format!(
        "REVISION_RETURNED: the {link} link was started with {now}, which the configuration names, and {before} wrote before \
         it. If {before} is to run: swap its file in, or name it in migration.transforms and start the host again. If not: rows that it wrote keep its values until they change; \
         `falkirk recopy --old FILE`, with its file, mends them"
    )
}

/// As labels name an artifact.
fn short(artifact: &str) -> String {
    artifact.chars().take("sha256:".len() + 12).collect()
}
