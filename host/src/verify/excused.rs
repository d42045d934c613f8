//! What looks like a difference and is none: rows that wait in open conflicts, rows that are the side's own, and rows that
//! the other release has corrected.
//!
//! | a row that is not as expected | is counted as |
//! |---|---|
//! | an open conflict is about it | waiting: L8 exempts what is recorded as open |
//! | it is surplus, and the rules backward make nothing of it | own: the other side is to have nothing in its place |
//! | it differs, and the rules backward make the source row of it that is there | corrected (counter-example 22) |
//!
//! Where no rule backward makes rows of a table, nobody can tell which of its rows are its own: they stay surplus.

use std::collections::HashSet;
use std::sync::Arc;

use super::either::{self, Differing};
use super::{Ends, Kind, Options, Verdict, asking, shown_key};
use crate::apply::conflict;
use crate::marker::{Link, RowDigest, row_digest};
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::plan::{Plan, Target};
use crate::problem::{Blame, Outcome};
use crate::transform::{Artifact, Limits};

/// Counts rows that are not as expected as what they are.
pub(super) struct Excusing<'v> {
    pub(super) verdict: &'v mut Verdict,
    pub(super) targets: &'v [Target],
    pub(super) options: Options,
}

impl Excusing<'_> {
    /// Takes out of `wrong` what open conflicts are about.
    pub(super) fn waiting(
        &mut self,
        waiting: &HashSet<RowDigest>,
        wrong: Vec<(Kind, Differing)>,
    ) -> Vec<(Kind, Differing)> {
        let waits = |row: &Differing| {
            let key = row.key.iter().map(String::as_bytes);
            waiting.contains(&row_digest(&self.targets[row.target].name, key))
        };
        let (excused, rest): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|(_, row)| waits(row));
        for (kind, row) in &excused {
            self.excuse(*kind, row, Excuse::Waiting);
        }
        rest
    }

    /// Asks the rules backward about the rest.
    pub(super) async fn backward(
        &mut self,
        ends: Ends<'_>,
        back: &Plan,
        (migration, link): (&str, Link),
        artifact: &Option<(Arc<Artifact>, Limits)>,
        wrong: Vec<(Kind, Differing)>,
    ) -> Outcome<()> {
        let rows = |kind: Kind| wrong.iter().filter(move |(own, _)| *own == kind).map(|(_, row)| row.clone());
        let differing: Vec<Differing> = rows(Kind::Differs).filter(|row| !row.columns.is_empty()).collect();
        let surplus: Vec<Differing> = rows(Kind::Surplus).collect();
        if differing.is_empty() && surplus.is_empty() {
            return Ok(());
        }
        let mut answers = asking(back, artifact, link);
        let asked = (differing.as_slice(), surplus.as_slice());
        let (agree, own) = either::asked(ends, self.targets, (back, migration, link), &mut answers, asked).await?;
        for (row, _) in differing.iter().zip(agree).filter(|(_, agrees)| *agrees) {
            self.excuse(Kind::Differs, row, Excuse::Corrected);
        }
        for (row, _) in surplus.iter().zip(own).filter(|(_, own)| *own) {
            self.excuse(Kind::Surplus, row, Excuse::Own);
        }
        Ok(())
    }

    fn excuse(&mut self, kind: Kind, row: &Differing, excuse: Excuse) {
        let name = &self.targets[row.target].name;
        // The verdict leaves out what the link keeps for itself.
        let Some(table) = self.verdict.tables.iter_mut().find(|table| table.table == *name) else { return };
        match kind {
            Kind::Differs => table.rows_differ -= 1,
            Kind::Missing => table.rows_missing -= 1,
            Kind::Surplus => table.rows_surplus -= 1,
        }
        match excuse {
            Excuse::Waiting => table.rows_waiting += 1,
            Excuse::Own => table.rows_own += 1,
            Excuse::Corrected => table.rows_corrected += 1,
        }
        let key = shown_key(self.options, name, &row.key);
        table.sample.retain(|difference| difference.kind != kind || difference.key != key);
    }
}

#[derive(Clone, Copy)]
enum Excuse {
    Waiting,
    Own,
    Corrected,
}

/// The rows of the target that open conflicts are about: those that a link could not write there, and those that the other
/// one could not write to the source.
pub(super) async fn waiting(ends: Ends<'_>, migration: &str, link: Link) -> Outcome<HashSet<RowDigest>> {
    let mut rows = HashSet::new();
    for (address, blame, brought_by) in [(ends.target, Blame::Target, link), (ends.source, Blame::Source, link.other())]
    {
        let session = open(address, blame).await?;
        let Some(session) = session else { continue };
        let waiting = conflict::waiting(session.client(), migration, brought_by).await?;
        rows.extend(waiting.into_iter().filter_map(|row| if brought_by == link { row.target } else { row.source }));
    }
    Ok(rows)
}

/// A session of a side that has records of conflicts.
async fn open(address: &Address, blame: Blame) -> Outcome<Option<Session>> {
    let session = Session::connect_blaming(address, blame, "verify").await?;
    let exists = session.one("SELECT to_regclass('falkirk.conflict') IS NOT NULL").await?.flag(0)?;
    Ok(exists.then_some(session))
}
