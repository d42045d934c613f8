//! What deciding does with single rows: their keys, some of their columns, claims made out of claims.

use super::{Claim, Reassertion, Verdict};
use crate::change::Datum;
use crate::delta::{Effect, Key, Operation};
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

/// The key of a claim that inserts.
pub(super) fn insert_key(target: &Target, claim: &Claim) -> Key {
    match &claim.operation.effect {
        Effect::Insert { columns, values } => key_of(target, columns, values),
        _ => Key::default(),
    }
}

/// A claim that asks for something else.
pub(super) fn part_of(claim: &Claim, effect: Effect) -> Claim {
    Claim { operation: Operation { effect, ..claim.operation.clone() }, ..claim.clone() }
}

/// Nothing explains the row.
pub(super) fn unexpected(claim: &Claim, key: Key) -> Box<Verdict> {
    Box::new(Verdict::Unexpected { target: claim.operation.target, key, at: claim.at })
}
