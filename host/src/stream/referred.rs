//! Rows that cannot be deleted because rows of the target's own refer to them (L8).
//!
//! One side deletes a parent while the other one gives it a child. Keys do not tell either link: the database refuses the
//! deletion here and the child there. No policy may remove a row that nobody has deleted, so it is the deletion that loses,
//! whoever wins: it is recorded, the row is *kept*, and written once more as it is, unsigned, after the transaction that
//! the deletion came with. The other link finds a change of a row that its target does not have, and makes it anew
//! (`Facts::kept`). The child, which waits over there like one of a parked parent (`stream/parked.rs`), follows.
//!
//! Where the reference cascades nothing is refused: the child goes with its parent, and that travels (counter-example 12).

use tokio::sync::watch;

use crate::apply::conflict::KeptRow;
use crate::apply::writer::{Lost, Writer};
use crate::change::Datum;
use crate::delta::decide::{Claim, Reassertion, Standing};
use crate::delta::{Key, Set, SetKind};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::marker::RowDigest;
use crate::names::TableName;
use crate::plan::parts::ALL;
use crate::plan::{Plan, Target};
use crate::problem::Outcome;

use super::decided::{Deciding, PATIENCE_LOCKED, digest};
use super::lost::{place_of, values_of};

impl Deciding {
    /// Whether rows were kept and have not been sent back yet.
    pub(super) fn has_kept(&self) -> bool {
        !self.settled.kept.is_empty()
    }

    /// Whether the target's application changed or removed a row that a change knew as it was before; or removed it, and
    /// the other link has kept what it stands for.
    pub(super) async fn was_changed(&self, plan: &Plan, (target, key): (usize, &Key), knew: Lsn) -> Outcome<bool> {
        self.was_any_changed(plan, target, std::slice::from_ref(key), knew).await
    }

    /// The same of some rows of one table.
    async fn was_any_changed(&self, plan: &Plan, target: usize, keys: &[Key], knew: Lsn) -> Outcome<bool> {
        // Only what the other link has read of the target by now can say so.
        let now = self.target_position().await?;
        if !self.other_applies || !self.theirs.wait(now, PATIENCE_LOCKED).await {
            return Ok(false);
        }
        let is_news = |row: RowDigest| self.theirs.changed(row, knew) != 0 || self.theirs.is_kept(row);
        Ok(keys.iter().any(|key| is_news(digest(plan, target, key))))
    }

    /// Keeps a row that a claim was to delete, if rows refer to it of which the claim's source did not know. Whether it
    /// did; otherwise the two schemas do not agree, and the link stops.
    pub(super) async fn keep(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (key, claim): (&Key, &Claim),
        by: (&TableName, &str),
        live: &watch::Sender<Live>,
    ) -> Outcome<bool> {
        let target = claim.operation.target;
        if !self.other_applies || self.ruled.standings[target] == Standing::Stops {
            return Ok(false);
        }
        let row = digest(plan, target, key);
        let Target { name: table, key: columns, .. } = &plan.targets[target];
        let named = values_of(&plan.targets[target], columns, key);
        let kept = KeptRow { row, table: table.to_string(), key: named, is_open: true };
        let Some(source) = self.source_of(plan, claim.from.as_ref()) else {
            // What the target's application had changed of it lost to the deletion, and so it was denied. What is sent back
            // has to know of that.
            let is_known = self.settled.known.contains(&row);
            self.settled.kept.extend(is_known.then_some(kept));
            return Ok(is_known);
        };
        let referring = writer.referring((target, key), by).await?;
        if let Some(child) = referring.target
            && !self.was_any_changed(plan, child, &referring.keys, claim.knew).await?
        {
            return Ok(false);
        }
        let gone = u128::from_be_bytes(source.digest);
        let lost = Lost {
            target,
            key: key.clone(),
            digest: row.to_be_bytes(),
            kind: "delete",
            position: claim.at,
            values: None,
            winner: None,
            source: Some(source),
            held_by: Some(referring.known_by),
            record: Vec::new(),
        };
        let id = writer.record_open(&lost).await?;
        tracing::warn!(
            "{table}: a row was deleted on one side and is referred to on the other, so it comes back; recorded as {}-{id}",
            self.target_name
        );
        live.send_modify(|live| live.decided.conflicts += 1);
        self.ours.keep(gone);
        self.settled.known.insert(row);
        self.settled.kept.push(kept);
        Ok(true)
    }

    /// What a change of a row comes to that was kept in the same transaction: what the source made anew is written over it,
    /// and nothing need go back.
    pub(super) async fn of_kept(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (row, key): (RowDigest, &Key),
        set: Set,
    ) -> Outcome<Option<Set>> {
        if set.kind != SetKind::Insert || self.settled.kept.iter().all(|kept| kept.row != row) {
            return Ok(Some(set));
        }
        writer.settle_kept(row, self.target_name).await?;
        self.settled.kept.retain(|kept| kept.row != row);
        Ok(as_patch(plan, set, key))
    }

    /// Sends rows back that were kept: whatever the source had deleted comes there again, as it is here. Only between
    /// transactions, and before anything else is decided: that would take them for rows that nobody has touched.
    pub(super) async fn restore(&mut self, writer: &mut Writer<'_>, plan: &Plan) -> Outcome<()> {
        while let Some(kept) = self.settled.kept.first() {
            if let Some((target, key)) = place_of(plan, &kept.table, &kept.key) {
                self.touch(plan, &Reassertion { target, key, parts: ALL }).await?;
            }
            writer.settle_kept(kept.row, self.target_name).await?;
            self.settled.kept.remove(0);
        }
        Ok(())
    }
}

/// An insert as a change of the row that is there. `None`: there is nothing to change.
fn as_patch(plan: &Plan, set: Set, key: &Key) -> Option<Set> {
    let keys = &plan.targets[set.target].key;
    let values = set.values.first()?;
    let (columns, values): (Vec<u16>, Vec<Datum>) = set
        .columns
        .iter()
        .zip(values.iter())
        .filter(|(column, _)| !keys.contains(column))
        .map(|(column, datum)| (*column, datum.clone()))
        .unzip();
    let is_something = !columns.is_empty();
    let patch = Set {
        kind: SetKind::Patch,
        columns: columns.into(),
        keys: vec![key.clone()],
        values: vec![values.into()],
        ..set
    };
    is_something.then_some(patch)
}
