//! `--back` and swaps that change nothing: what there is to say then. Where a revision was taken back by itself, the history
//! says which, when, and why.

use super::wanted::Wanted;
use super::{Linked, Swapped, Swapper, label};
use crate::apply::checkpoint::{self, TakenBack};
use crate::marker::Link;
use crate::pg::session::Session;
use crate::problem::{Blame, Problem};

impl Swapper {
    /// What is wished for runs already.
    pub(super) async fn runs_already(&self, wanted: &Wanted) -> Result<Swapped, Vec<Problem>> {
        let running = self.running.artifact();
        if !wanted.files().is_empty() {
            // By another way; from now on the configuration names it.
            let drafted = self.commanded.draft((&running, &running), wanted.files()).await;
            let draft = drafted.map_err(|problem| vec![problem])?;
            self.commanded.hold(&draft, || true).await;
            self.commanded.tidy(&draft).await;
        }
        let warnings = match wanted.is_back() {
            true => self.taken_back().await.into_iter().collect(),
            false => Vec::new(),
        };
        let is_commanded = self.commanded.is_any().await;
        Ok(Swapped { artifact: label(running.as_deref()), is_commanded, warnings, ..Swapped::default() })
    }

    /// There is nothing to go back to.
    pub(super) async fn no_way_back(&self) -> Problem {
        let mut what =
            "this host has run no other revision, and nothing is kept of one that an earlier host ran".to_owned();
        if let Some(taken_back) = self.taken_back().await {
            what = format!("{what}. {taken_back}");
        }
        Problem::refuse(Blame::Config, "NO_REVISION_BEFORE", what)
            .remedy("swap the file of the revision in that you want")
    }

    /// The last revision that was taken back by itself, unless it runs again.
    async fn taken_back(&self) -> Option<String> {
        let mut newest: Option<(TakenBack, Link)> = None;
        for Linked { link, .. } in &self.links {
            let settings = self.settings.seen_from(*link);
            let Ok(session) = Session::connect(&settings.target().address, "history").await else { continue };
            let taken = checkpoint::last_taken_back(session.client(), &settings.name, *link).await;
            let Ok(Some(taken)) = taken else { continue };
            if newest.as_ref().is_none_or(|(other, _)| other.at < taken.at) {
                newest = Some((taken, *link));
            }
        }
        let (TakenBack { artifact, position, at, reason }, link) = newest?;
        let running = self.running.artifact();
        if running.as_ref().is_some_and(|running| artifact.ends_with(running.digest())) {
            return None;
        }
        let short: String = artifact.chars().take("sha256:".len() + 12).collect();
        let (runs, side) = (label(running.as_deref()), self.settings.seen_from(link).target_name());
        Some(format!(
            "TAKEN_BACK: {short} stopped the {link} link ({reason}, position {position}) and was taken back by itself at \
             {at}; {runs} runs now. falkirk.history in {side} keeps the record, the log of the host the reason in full. To \
             run another revision, swap its file in"
        ))
    }
}
