//! Keeping the sequences of both sides apart for as long as a life lasts (counter-example 24). The link that copies does
//! it, for both: before its first row moves, and then again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::problem::{Action, Problem};
use crate::sequences::{self, Given, Kept, Shown};

use super::{Open, Problems};

/// How often the sequences are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// What was warned of: notes, and sequences by side and name.
pub(super) type Said = BTreeSet<String>;

impl Open<'_> {
    /// Sets the sequences apart, where this link is the one that copies. `is_first_start`: the target is empty.
    pub(super) async fn set_apart(&self, is_first_start: bool) -> Result<Said, Problems> {
        let (settings, mut said) = (&self.context.settings, Said::new());
        if settings.link == settings.origin() {
            let kept = sequences::keep(&self.sequences(is_first_start)).await?;
            warn(&kept, &mut said);
        }
        Ok(said)
    }

    /// Keeps them apart. Ends with what no longer allows it; a database that does not answer is looked at again later:
    /// the links know what to do about that.
    pub(super) async fn keep_apart(&self, mut said: Said) -> Problems {
        let settings = &self.context.settings;
        if settings.link != settings.origin() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(EVERY).await;
            match sequences::keep(&self.sequences(false)).await {
                Ok(kept) => warn(&kept, &mut said),
                Err(problems) if problems.iter().any(|problem| problem.action() != Action::Retry) => return problems,
                Err(problems) => problems.iter().for_each(later),
            }
        }
    }

    fn sequences(&self, is_first_start: bool) -> Given<'_> {
        let plans = [Some(&*self.plan), self.back.as_deref()];
        Given { settings: &self.context.settings, plans, is_first_start }
    }
}

fn later(problem: &Problem) {
    tracing::warn!("sequences are looked at again later: {problem}");
}

/// Each matter is spoken of once in a life.
fn warn(kept: &Kept, said: &mut Said) {
    let notes = kept.notes.iter().map(|note| (note.clone(), note));
    let of = |shown: &Shown| format!("{} {}", shown.side, shown.sequence);
    let warnings = kept.shown.iter().filter_map(|shown| Some((of(shown), shown.warning.as_ref()?)));
    for (matter, text) in notes.chain(warnings) {
        if said.insert(matter) {
            tracing::warn!("{text}");
        }
    }
}
