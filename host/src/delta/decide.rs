//! Deciding: what is written of a link's operations while both links write (L8). Pure: the facts come as a trait.
//!
//! Of two sides one wins a table. The link that reads the winner writes everything; the other one writes an operation
//! unless the winner's application changed the same part of the row without the loser's having known of it. Values never
//! decide (counter-example 2): what counts is the position up to which the loser's application could know the winner's.
//!
//! | operation | finds | the winner's link | the loser's link |
//! |---|---|---|---|
//! | insert | a row | sets all its columns | is lost, or stops: nobody can have put it there |
//! | patch | no row | inserts the whole row | is lost, or stops |
//! | delete | no row | agrees | agrees |
//! | rekey | no row, or its new key taken | as a delete and an insert | as a delete and an insert |
//! | any | what it expects | writes it | writes the parts that the winner did not change |
//! | ensure | a row | agrees | agrees |
//! | patch of others' rows | no row | is lost | is lost, or stops |
//!
//! What the link keeps for itself in the target is nobody's to change, and always written.

use std::collections::HashMap;

use crate::change::Datum;
use crate::delta::{ANY_OWNER, Effect, Key, Operation, Whole};
use crate::lsn::Lsn;
use crate::plan::parts::EXISTENCE;
use crate::plan::{Columns, Target};

/// How a link stands on a table while both write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its source wins.
    Wins,
    /// Its target wins.
    Yields,
    /// Nobody does: a conflict stops the link.
    Stops,
}

/// An operation that wants to be written.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The operation.
    pub operation: Operation,
    /// The complete row that it stands for; needed for patches and rekeys.
    pub whole: Option<Whole>,
    /// What the source's application could know of the target: the position of the other link's last marker before it.
    pub knew: Lsn,
    /// The commit position in the source.
    pub at: Lsn,
}

/// What is known of the target's rows, as they are locked.
pub trait Facts {
    /// Whether the row is there.
    fn exists(&self, target: usize, key: &Key) -> bool;
    /// The parts of the row that the target's application changed at or after a position.
    fn changed(&self, target: usize, key: &Key, after: Lsn) -> u64;
    /// What an operator has decided for this row and a change that committed at this position.
    fn resolved(&self, _target: usize, _key: &Key, _at: Lsn) -> Option<Standing> {
        None
    }
}

/// What kind of change was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An insert of a row that the winner's application had inserted, or deleted.
    Insert,
    /// A change of columns.
    Update,
    /// A delete of a row that the winner's application had changed.
    Delete,
}

/// An operation, or a part of one, that is not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Position in `Plan::targets`.
    pub target: usize,
    /// The row.
    pub key: Key,
    /// What was lost.
    pub kind: Kind,
    /// The columns that would have been written, ascending; none for a delete.
    pub columns: Columns,
    /// Their values.
    pub values: Box<[Datum]>,
    /// The commit position of the change.
    pub at: Lsn,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Decided {
    /// In source order, to be folded.
    pub operations: Vec<Operation>,
    /// What is not.
    pub conflicts: Vec<Conflict>,
    /// Operations that found their work done by the other side.
    pub agreements: u64,
}

/// Why a batch cannot be decided.
#[derive(Debug, PartialEq, Eq)]
pub enum Halt {
    /// A conflict, and nobody wins.
    Conflict(Conflict),
    /// The row is not as both links left it, and its application has not changed it: somebody else has.
    Unexpected {
        /// Position in `Plan::targets`.
        target: usize,
        /// The commit position of the change that found it so.
        at: Lsn,
    },
    /// A table was emptied: the rows that the other side has changed meanwhile cannot be told (counter-example 11).
    Truncate {
        /// Position in `Plan::targets`.
        target: usize,
        /// The commit position.
        at: Lsn,
    },
}

/// What is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'r> {
    /// The targets of the plan.
    pub targets: &'r [Target],
    /// How the link stands, by target.
    pub standings: &'r [Standing],
    /// The part of each column, by target.
    pub parts: &'r [Vec<u64>],
}

/// Decides claims in source order.
pub fn decide(rules: Rules<'_>, claims: &[Claim], facts: &dyn Facts) -> Result<Decided, Halt> {
    let mut deciding = Deciding { rules, facts, there: HashMap::new(), decided: Decided::default() };
    claims.iter().try_for_each(|claim| deciding.claim(claim))?;
    Ok(deciding.decided)
}

struct Deciding<'d> {
    rules: Rules<'d>,
    facts: &'d dyn Facts,
    /// Rows that operations of this batch made or removed.
    there: HashMap<(usize, Key), bool>,
    decided: Decided,
}

impl Deciding<'_> {
    fn claim(&mut self, claim: &Claim) -> Result<(), Halt> {
        let target = claim.operation.target;
        if self.rules.targets[target].internal {
            self.decided.operations.push(claim.operation.clone());
            return Ok(());
        }
        match &claim.operation.effect {
            Effect::Ensure { columns, values } => {
                let key = key_of(&self.rules.targets[target], columns, values);
                self.push(claim, claim.operation.effect.clone());
                self.there.insert((target, key), true);
                Ok(())
            }
            Effect::Clear { key, columns, values } => match self.exists(target, key) {
                true => self.patch(claim, key, (columns, values)),
                false => {
                    self.decided.agreements += 1;
                    Ok(())
                }
            },
            Effect::Insert { columns, values } => {
                let key = key_of(&self.rules.targets[target], columns, values);
                self.insert(claim, &key, (columns, values))
            }
            Effect::Patch { key, columns, values } => self.patch(claim, key, (columns, values)),
            Effect::Delete { key } => self.delete(claim, key),
            Effect::Rekey { from, to, .. } => self.rekey(claim, from, to),
            Effect::Truncate { .. } => Err(Halt::Truncate { target, at: claim.at }),
        }
    }

    fn exists(&self, target: usize, key: &Key) -> bool {
        let known = self.there.get(&(target, key.clone())).copied();
        known.unwrap_or_else(|| self.facts.exists(target, key))
    }

    fn standing(&self, claim: &Claim, key: &Key) -> Standing {
        let target = claim.operation.target;
        self.facts.resolved(target, key, claim.at).unwrap_or(self.rules.standings[target])
    }

    /// L8: what the winner's application did without the loser's having known of it.
    fn changed(&self, claim: &Claim, key: &Key) -> u64 {
        match self.standing(claim, key) {
            Standing::Wins => 0,
            Standing::Yields | Standing::Stops => self.facts.changed(claim.operation.target, key, claim.knew),
        }
    }

    fn push(&mut self, claim: &Claim, effect: Effect) {
        let Operation { target, owner_before, owner_after, .. } = claim.operation;
        match &effect {
            Effect::Insert { columns, values } => {
                let key = key_of(&self.rules.targets[target], columns, values);
                self.there.insert((target, key), true);
            }
            Effect::Delete { key } => {
                self.there.insert((target, key.clone()), false);
            }
            Effect::Rekey { from, to, .. } => {
                self.there.insert((target, from.clone()), false);
                self.there.insert((target, to.clone()), true);
            }
            Effect::Ensure { .. } | Effect::Clear { .. } | Effect::Patch { .. } | Effect::Truncate { .. } => {}
        }
        self.decided.operations.push(Operation { target, owner_before, owner_after, effect });
    }

    fn unexpected(&self, claim: &Claim) -> Halt {
        Halt::Unexpected { target: claim.operation.target, at: claim.at }
    }

    fn lose(&mut self, claim: &Claim, key: &Key, kind: Kind, lost: (Columns, Box<[Datum]>)) -> Result<(), Halt> {
        let (columns, values) = lost;
        let target = claim.operation.target;
        let conflict = Conflict { target, key: key.clone(), kind, columns, values, at: claim.at };
        if self.standing(claim, key) == Standing::Stops {
            return Err(Halt::Conflict(conflict));
        }
        self.decided.conflicts.push(conflict);
        Ok(())
    }

    fn insert(&mut self, claim: &Claim, key: &Key, (columns, values): (&Columns, &[Datum])) -> Result<(), Halt> {
        if self.changed(claim, key) != 0 {
            return self.lose(claim, key, Kind::Insert, (columns.clone(), values.into()));
        }
        let target = claim.operation.target;
        match (self.exists(target, key), self.standing(claim, key)) {
            (false, _) => self.push(claim, Effect::Insert { columns: columns.clone(), values: values.into() }),
            (true, Standing::Wins) => self.overwrite(claim, key, (columns, values)),
            (true, _) => return Err(self.unexpected(claim)),
        }
        Ok(())
    }

    /// Sets all columns that an insert would have written, but the key.
    fn overwrite(&mut self, claim: &Claim, key: &Key, (columns, values): (&Columns, &[Datum])) {
        let key_columns = &self.rules.targets[claim.operation.target].key;
        let rest = columns.iter().zip(values).filter(|(column, _)| !key_columns.contains(column));
        let (columns, values): (Vec<u16>, Vec<Datum>) = rest.map(|(column, value)| (*column, value.clone())).unzip();
        let effect = Effect::Patch { key: key.clone(), columns: columns.as_slice().into(), values: values.into() };
        self.push(claim, effect);
    }

    fn patch(&mut self, claim: &Claim, key: &Key, (columns, values): (&Columns, &[Datum])) -> Result<(), Halt> {
        let target = claim.operation.target;
        let changed = self.changed(claim, key);
        if changed & EXISTENCE != 0 {
            return self.lose(claim, key, Kind::Update, (columns.clone(), values.into()));
        }
        if !self.exists(target, key) {
            if claim.operation.owner_before == ANY_OWNER {
                return self.lose(claim, key, Kind::Update, (columns.clone(), values.into()));
            }
            return match (self.standing(claim, key), &claim.whole) {
                (Standing::Wins, Some((columns, values))) => {
                    self.push(claim, Effect::Insert { columns: columns.clone(), values: values.clone() });
                    Ok(())
                }
                _ => Err(self.unexpected(claim)),
            };
        }
        let parts = &self.rules.parts[target];
        let is_lost = |column: &u16| parts[usize::from(*column)] & changed != 0;
        if !columns.iter().any(is_lost) {
            self.push(claim, Effect::Patch { key: key.clone(), columns: columns.clone(), values: values.into() });
            return Ok(());
        }
        let select = |wanted: bool| -> (Columns, Box<[Datum]>) {
            let some = columns.iter().zip(values).filter(|(column, _)| is_lost(column) == wanted);
            let (columns, values): (Vec<u16>, Vec<Datum>) =
                some.map(|(column, value)| (*column, value.clone())).unzip();
            (columns.as_slice().into(), values.into())
        };
        let (lost, (columns, values)) = (select(true), select(false));
        if !columns.is_empty() {
            self.push(claim, Effect::Patch { key: key.clone(), columns, values });
        }
        self.lose(claim, key, Kind::Update, lost)
    }

    fn delete(&mut self, claim: &Claim, key: &Key) -> Result<(), Halt> {
        if !self.exists(claim.operation.target, key) {
            self.decided.agreements += 1;
            return Ok(());
        }
        if self.changed(claim, key) != 0 {
            return self.lose(claim, key, Kind::Delete, (Columns::from([]), Box::from([])));
        }
        self.push(claim, Effect::Delete { key: key.clone() });
        Ok(())
    }

    fn rekey(&mut self, claim: &Claim, from: &Key, to: &Key) -> Result<(), Halt> {
        let target = claim.operation.target;
        let (from_there, to_there) = (self.exists(target, from), self.exists(target, to));
        if self.changed(claim, from) | self.changed(claim, to) == 0 && from_there && !to_there {
            self.push(claim, claim.operation.effect.clone());
            return Ok(());
        }
        let Some((columns, values)) = &claim.whole else { return Err(self.unexpected(claim)) };
        self.delete(claim, from)?;
        self.insert(claim, to, (columns, values))
    }
}

/// The key among the columns and values of an insert.
pub fn key_of(target: &Target, columns: &[u16], values: &[Datum]) -> Key {
    let value = |column: &u16| columns.binary_search(column).map_or(Datum::Null, |at| values[at].clone());
    target.key.iter().map(value).collect()
}
