//! Deciding rows that stand for another side's row together with rows of other tables (`plan::records`; L8).
//!
//! A conflict is one of the record: whoever asks for one of its rows hears what was done to any. What is asserted again
//! is its rows as they are, owners first, because a detail finds its row only after that.

use super::{Absence, Claim, Facts, Judge, Lost, Reassertion};
use crate::change::Datum;
use crate::delta::{ANY_OWNER, Effect, Key, Operation};
use crate::plan::Columns;
use crate::plan::parts::{ALL, EXISTENCE};
use crate::plan::records::Record;

/// Columns, ascending, and their values.
pub(super) type Pairs = (Columns, Box<[Datum]>);

impl<F: Facts> Judge<'_, F> {
    fn record(&self, target: usize) -> Option<&Record> {
        self.rules.records.get(target)?.as_ref()
    }

    /// The part of a detail; `None` for a row whose existence is that of its record.
    pub(super) fn detail(&self, target: usize) -> Option<u64> {
        self.record(target).filter(|record| record.is_detail).map(|record| record.says)
    }

    /// Whether a claim only repeats a detail of which nothing changed: whether it is there is not for this change to say.
    pub(super) fn is_beside(&self, claim: &Claim) -> bool {
        claim.changed != ALL && self.detail(claim.operation.target).is_some_and(|part| claim.changed & part == 0)
    }

    /// Whether a claim on a row of others finds it gone as it may: removed by its own side, or with nothing to let go of.
    pub(super) fn lets_go(&self, claim: &Claim, key: &Key, theirs: u64) -> bool {
        let removed = self.exists.get(&(claim.operation.target, key.clone())) == Some(&false);
        let clears = matches!(claim.operation.effect, Effect::Clear { .. });
        claim.operation.owner_before == ANY_OWNER && (removed || (clears && theirs == 0))
    }

    /// Where the row of a delete stands that does not find it: the target's application has moved it to another table of
    /// its record, so the delete is of that one.
    pub(super) fn stands_elsewhere(&self, claim: &Claim, key: &Key, theirs: u64) -> Option<(Claim, Key)> {
        let row_goes = claim.changed == ALL && claim.operation.owner_before != ANY_OWNER;
        let target = claim.operation.target;
        if theirs == 0 || !row_goes || self.detail(target).is_some() {
            return None;
        }
        let stands = |(other, key): &(usize, Key)| {
            let is_ours = self.exists.contains_key(&(*other, key.clone()));
            *other != target && self.detail(*other).is_none() && !is_ours && self.exists(*other, key)
        };
        let (other, key) = self.kin(target, key).into_iter().find(stands)?;
        let effect = Effect::Delete { key: key.clone() };
        Some((
            Claim { operation: Operation { target: other, effect, ..claim.operation.clone() }, ..claim.clone() },
            key,
        ))
    }

    /// What a claim on a row says has changed, beside the columns that it writes.
    pub(super) fn ours(&self, claim: &Claim) -> u64 {
        let of_nobody = claim.operation.owner_before == ANY_OWNER;
        if of_nobody || self.detail(claim.operation.target).is_some() { 0 } else { claim.changed }
    }

    /// What lost: everything, or the parts of some columns.
    pub(super) fn lost_parts(&self, claim: &Claim, lost: Lost, columns: &Columns) -> u64 {
        let target = claim.operation.target;
        let written = || {
            let parts = &self.rules.parts[target];
            columns.iter().fold(0, |mask, column| mask | parts[usize::from(*column)]) & !EXISTENCE
        };
        match (lost, self.detail(target)) {
            (Lost::Insert | Lost::Delete, Some(part)) if claim.changed != ALL => part,
            (Lost::Insert | Lost::Delete, _) => ALL,
            // The existence of a row that a patch loses against is no part of what the patch wrote.
            (Lost::Patch, _) if self.ours(claim) == ALL => ALL,
            (Lost::Patch, _) => written(),
        }
    }

    /// What of the record has to be sent anew because nothing on its way undoes what lost.
    pub(super) fn assert_again(&mut self, claim: &Claim, key: &Key, parts: u64) {
        let rows: Vec<(usize, Key)> = self
            .kin(claim.operation.target, key)
            .into_iter()
            .filter(|(target, key)| self.exists(*target, key))
            .collect();
        let changed = |(target, key): &(usize, Key)| self.facts.changed_row(*target, key, claim.knew);
        // The record's rows are sent together: a detail that was on its way alone may have found no row.
        let together = parts == ALL && rows.iter().any(|(target, _)| self.detail(*target).is_some());
        let needed = |row: &&(usize, Key)| match together {
            true => !self.facts.asserted(row.0, &row.1),
            false => self.concerned(row.0, parts) & !changed(row) != 0 || self.is_overtaken(claim, row, parts),
        };
        let again = |(target, key): &(usize, Key)| Reassertion { target: *target, key: key.clone(), parts };
        let again: Vec<Reassertion> = rows.iter().filter(needed).map(again).collect();
        self.outcome.reassertions.extend(again);
    }

    /// Whether the row came after it was decided that it must not be there and before that was said: perhaps its removal
    /// is on its way behind it.
    fn is_overtaken(&self, claim: &Claim, (target, key): &(usize, Key), parts: u64) -> bool {
        let denied = || self.facts.denied_since(*target, key, claim.knew);
        parts == ALL && denied() && !self.facts.asserted(*target, key)
    }

    /// What lost as a whole must not stay on the source where nothing stands for it here; nor what describes it. A row that
    /// is kept there is on its way back: to deny it would be to answer each attempt with a denial.
    pub(super) fn assert_absent(&mut self, claim: &Claim, key: &Key, parts: u64) {
        let target = claim.operation.target;
        let Some(from) = claim.from.as_ref().filter(|_| parts == ALL) else { return };
        let is_twin = self.rules.twins.get(target).is_some_and(|twins| twins.contains(&from.0));
        let is_said = |absence: &Absence| absence.target == target && absence.key == *key;
        if !is_twin
            || self.facts.kept(target, key)
            || self.facts.denied(target, key)
            || self.outcome.absences.iter().any(is_said)
        {
            return;
        }
        let gone = |(target, key): &(usize, Key)| !self.exists(*target, key);
        let kin = self.kin(target, key);
        let details = !kin.iter().all(gone);
        if !details || kin.iter().any(|row| self.detail(row.0).is_some() && gone(row)) {
            self.outcome.absences.push(Absence { target, key: key.clone(), from: from.clone(), details });
        }
    }

    /// Which of some parts a table of the record has.
    fn concerned(&self, target: usize, parts: u64) -> u64 {
        match self.record(target) {
            Some(_) if parts != ALL => {
                let own = self.rules.parts[target].iter().fold(0, |mask, bits| mask | bits);
                parts & own & !EXISTENCE
            }
            _ => parts,
        }
    }

    /// The rows that a record of this row's may consist of, itself among them; owners first.
    pub(super) fn kin(&self, target: usize, key: &Key) -> Vec<(usize, Key)> {
        kin(self.rules.records, target, key)
    }

    /// A row that comes anew has no details before they come themselves.
    pub(super) fn without_details(&self, target: usize, (columns, values): Pairs) -> Pairs {
        let cleared = self.rules.cleared.get(target).map(|columns| &columns[..]).unwrap_or_default();
        let nulls = cleared.iter().filter(|column| !columns.contains(column)).map(|column| (*column, Datum::Null));
        let own = columns.iter().copied().zip(values.iter().cloned());
        let mut pairs: Vec<(u16, Datum)> = own.chain(nulls).collect();
        pairs.sort_by_key(|(column, _)| *column);
        let (columns, values): (Vec<u16>, Vec<Datum>) = pairs.into_iter().unzip();
        (columns.into(), values.into())
    }
}

/// The rows that the record of a row may consist of, itself among them; owners first.
pub fn kin(records: &[Option<Record>], target: usize, key: &Key) -> Vec<(usize, Key)> {
    let Some(own) = records.get(target).and_then(Option::as_ref) else { return vec![(target, key.clone())] };
    let of_family = |(at, record): (usize, &Option<Record>)| {
        let record = record.as_ref().filter(|record| record.family == own.family)?;
        let mut theirs = key.clone();
        for (to, from) in record.order.iter().zip(&own.order) {
            theirs[*to] = key[*from].clone();
        }
        Some((record.is_detail, at, theirs))
    };
    let mut rows: Vec<(bool, usize, Key)> = records.iter().enumerate().filter_map(of_family).collect();
    rows.sort_by_key(|(is_detail, at, _)| (*is_detail, *at));
    rows.into_iter().map(|(_, at, key)| (at, key)).collect()
}

/// What the other link asks for when it denies a row ([`super::Absence`]): no row of its record is to be there; or
/// nothing in the columns that only details fill.
pub fn denied(
    (records, cleared): (&[Option<Record>], &[Columns]),
    (target, key): (usize, &Key),
    details: bool,
) -> Vec<Operation> {
    if !details {
        let rows = kin(records, target, key).into_iter().rev();
        return rows.map(|(target, key)| Operation::of_nobody(target, Effect::Delete { key })).collect();
    }
    let columns = cleared.get(target).filter(|columns| !columns.is_empty()).cloned();
    let clear = |columns: Columns| {
        let values = columns.iter().map(|_| Datum::Null).collect();
        Operation::of_nobody(target, Effect::Clear { key: key.clone(), columns, values })
    };
    columns.map(clear).into_iter().collect()
}

/// Within one transaction, patches of other owners' rows come after those rows: in which order an application writes
/// the two is its own affair, and a patch that finds no row is left out.
pub fn details_last(claims: &mut [Claim]) {
    for transaction in claims.chunk_by_mut(|one, other| one.at == other.at) {
        transaction.sort_by_key(|claim| {
            let of_nobody = claim.operation.owner_before == ANY_OWNER;
            of_nobody && matches!(claim.operation.effect, Effect::Patch { .. } | Effect::Clear { .. })
        });
    }
}
