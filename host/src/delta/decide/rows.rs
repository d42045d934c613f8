//! What deciding does with single rows: their keys, some of their columns, claims made out of claims.

use super::{Claim, Facts, Judge, Judged, Reassertion, Verdict};
use crate::change::Datum;
use crate::delta::{ANY_OWNER, Effect, Key, Operation};
use crate::plan::parts::{ALL, EXISTENCE};
use crate::plan::{Columns, Target};

/// One reassertion a row, in the order of the first.
pub(super) fn joined(reassertions: Vec<Reassertion>) -> Vec<Reassertion> {
    let mut rows: Vec<Reassertion> = Vec::new();
    for reassertion in reassertions {
        let same = |row: &&mut Reassertion| row.target == reassertion.target && row.key == reassertion.key;
        match rows.iter_mut().find(same) {
            Some(row) => row.parts |= reassertion.parts,
            None => rows.push(reassertion),
        }
    }
    rows
}

/// The key among the columns and values of an insert.
pub fn key_of(target: &Target, columns: &Columns, values: &[Datum]) -> Key {
    let value = |column: &u16| columns.binary_search(column).ok().map(|at| values[at].clone());
    target.key.iter().filter_map(value).collect()
}

/// The columns that are wanted, with their values.
pub(super) fn select(columns: &Columns, values: &[Datum], wanted: impl Fn(&u16) -> bool) -> (Columns, Box<[Datum]>) {
    let pairs = columns.iter().zip(values).filter(|(column, _)| wanted(column));
    let (columns, values): (Vec<u16>, Vec<Datum>) = pairs.map(|(column, value)| (*column, value.clone())).unzip();
    (columns.into(), values.into())
}

/// A claim that asks for something else.
pub(super) fn part_of(claim: &Claim, effect: Effect) -> Claim {
    Claim { operation: Operation { effect, ..claim.operation.clone() }, ..claim.clone() }
}

/// Nothing explains the row.
pub(super) fn unexpected(claim: &Claim, key: Key) -> Box<Verdict> {
    Box::new(Verdict::Unexpected { target: claim.operation.target, key, at: claim.at })
}

impl<F: Facts> Judge<'_, F> {
    /// Counter-example 35: what a claim on a parked or kept row comes to, which is the whole of it. Only its owner knows that.
    pub(super) fn anew(&self, claim: &Claim, key: &Key) -> Option<(Claim, Key)> {
        let target = claim.operation.target;
        let comes_whole = self.facts.parked(target, key) || self.facts.kept(target, key);
        if claim.operation.owner_before == ANY_OWNER || !comes_whole {
            return None;
        }
        let (columns, values) = claim.whole.clone()?;
        let key = key_of(&self.rules.targets[target], &columns, &values);
        let insert = part_of(claim, Effect::Insert { columns, values });
        Some((Claim { whole: None, ..insert }, key))
    }

    /// Whether the row's key has become another one's, or the row another's, with the pair of keys that it follows from:
    /// that is as much as if all of the row had changed. What is new on both sides only comes together (counter-example 7);
    /// so does what this transaction made itself.
    pub(super) fn moved(&self, claim: &Claim, key: &Key, here: bool) -> u64 {
        let target = claim.operation.target;
        let is_new = matches!(claim.operation.effect, Effect::Insert { .. }) && !here;
        let is_ours = self.exists.get(&(target, key.clone())) == Some(&true);
        if !is_new && !is_ours && self.facts.moved(target, key, claim.knew) { ALL } else { 0 }
    }

    /// A row that is new under a key which the winner has just moved: whoever stood under the key before takes the source's
    /// row with it, on its way there. What is written here is sent behind that.
    pub(super) fn come_back(&mut self, claim: &Claim, key: &Key, effect: &Effect) {
        let target = claim.operation.target;
        let is_ours = self.exists.get(&(target, key.clone())) == Some(&true);
        if matches!(effect, Effect::Insert { .. }) && !is_ours && self.facts.moved(target, key, claim.knew) {
            self.outcome.returned.push((target, key.clone()));
        }
    }

    /// Whether this transaction has made a row that is sent back.
    pub(super) fn comes_back(&self, target: usize, key: &Key) -> bool {
        self.outcome.returned.iter().any(|(at, returned)| *at == target && returned == key)
    }

    /// Whether a patch of nobody's asks for a pair of keys that is there.
    pub(super) fn agrees(
        &self,
        claim: &Claim,
        key: &Key,
        (columns, values): (&Columns, &[Datum]),
        column: u16,
    ) -> bool {
        let value = columns.iter().position(|other| *other == column).map(|at| &values[at]);
        let holds = |value: &Datum| self.facts.holds(claim.operation.target, key, column, value);
        claim.operation.owner_before == ANY_OWNER && value.is_some_and(holds)
    }

    /// Whether one of both sides' changes concerns if, or where, the row is there.
    pub(super) fn is_of_existence(&self, claim: &Claim, key: &Key) -> bool {
        (claim.changed | self.facts.changed(claim.operation.target, key, claim.knew)) & EXISTENCE != 0
    }

    /// What an operator's word makes win over a row that came or went: nothing of that row's stays, for the other link
    /// leaves out all of it.
    pub(super) fn win_whole(&mut self, claim: Claim, key: Key) -> Judged {
        match (&claim.operation.effect, &claim.whole) {
            (Effect::Patch { .. }, Some((columns, values))) if claim.operation.owner_before != ANY_OWNER => {
                self.write_row(&claim, key, columns, values);
                Ok(())
            }
            _ => self.win(claim, key),
        }
    }

    /// A patch that writes something.
    pub(super) fn patch(&mut self, claim: &Claim, key: Key, columns: Columns, values: Box<[Datum]>) {
        if !columns.is_empty() {
            self.apply(claim, Effect::Patch { key, columns, values });
        }
    }

    /// Makes the row be there with these values.
    pub(super) fn write_row(&mut self, claim: &Claim, key: Key, columns: &Columns, values: &[Datum]) {
        let target = claim.operation.target;
        if self.exists(target, &key) {
            let (columns, values) = self.without_details(target, self.without_key(target, columns, values));
            self.patch(claim, key, columns, values);
        } else {
            self.apply(claim, Effect::Insert { columns: columns.clone(), values: values.into() });
        }
    }

    /// The columns of a patch, and all others of the row that belong to a part which the application changed: the
    /// loser's change of such a column loses, so it has to be overwritten.
    pub(super) fn with_parts(
        &self,
        claim: &Claim,
        (columns, values): (&Columns, &[Datum]),
        (all, whole): &(Columns, Box<[Datum]>),
    ) -> (Columns, Box<[Datum]>) {
        let target = claim.operation.target;
        let parts = &self.rules.parts[target];
        let key = &self.rules.targets[target].key;
        let wanted = if claim.changed == ALL { ALL } else { claim.changed & !EXISTENCE };
        let added = |column: &u16| {
            !columns.contains(column) && !key.contains(column) && parts[usize::from(*column)] & wanted != 0
        };
        let (more, more_values) = select(all, whole, added);
        if more.is_empty() {
            return (columns.clone(), values.into());
        }
        let own = columns.iter().copied().zip(values.iter().cloned());
        let mut pairs: Vec<(u16, Datum)> = own.chain(more.iter().copied().zip(more_values)).collect();
        pairs.sort_by_key(|(column, _)| *column);
        let (columns, values): (Vec<u16>, Vec<Datum>) = pairs.into_iter().unzip();
        (columns.into(), values.into())
    }

    pub(super) fn without_key(&self, target: usize, columns: &Columns, values: &[Datum]) -> (Columns, Box<[Datum]>) {
        let key = &self.rules.targets[target].key;
        select(columns, values, |column| !key.contains(column))
    }
}
