//! Between the model's rows and what the host's rule takes and gives.

use std::sync::Arc;

use falkirk::change::Datum;
use falkirk::delta::decide::{Claim, Outcome, Rules, Standing, decide};
use falkirk::delta::{Effect, Key, Operation};
use falkirk::lsn::Lsn;
use falkirk::names::TableName;
use falkirk::plan::parts::{ALL, EXISTENCE};
use falkirk::plan::{Case, Columns, Target, TargetColumn};

use crate::locked::{Locked, Notes};
use crate::world::Shape;

/// The row: absent, or a small number in each column; columns that a model does not use stay 0.
pub type Row = Option<[u8; 2]>;

/// The one table, with a key and two columns, and its parts.
pub struct Table {
    /// Columns beside the key that are used.
    used: usize,
    targets: Vec<Target>,
    parts: Vec<Box<[u64]>>,
    key: Key,
    every: Columns,
    subsets: [Columns; 4],
    numbers: [Datum; 4],
}

impl Table {
    pub fn new(used: usize) -> Table {
        let column = |name: &str| TargetColumn {
            name: name.into(),
            type_sql: "text".into(),
            cast_sql: "text".into(),
            base_oid: 25,
            case: Case::Text,
            generated: false,
        };
        let target = Target {
            name: TableName::new("public", "t"),
            columns: ["id", "a", "b"].map(column).into(),
            key: Arc::from([0]),
            uniques: Vec::new(),
            cascades: false,
            acts: false,
            shared: false,
            identity_always: [].into(),
            internal: false,
        };
        Table {
            used,
            targets: vec![target],
            parts: vec![Box::from([EXISTENCE, 1, 2])],
            key: Box::from([Datum::text("7")]),
            every: Arc::from([0, 1, 2]),
            subsets: [Arc::from([]), Arc::from([1]), Arc::from([2]), Arc::from([1, 2])],
            numbers: ["0", "1", "2", "3"].map(Datum::text),
        }
    }

    fn number(&self, number: u8) -> Datum {
        self.numbers[usize::from(number)].clone()
    }

    fn whole(&self, row: [u8; 2]) -> (Columns, Box<[Datum]>) {
        (self.every.clone(), Box::from([self.key[0].clone(), self.number(row[0]), self.number(row[1])]))
    }

    /// What a change of the application asks for.
    fn claim(&self, before: Row, after: Row, knew: u8, at: usize) -> Claim {
        let changed = mask(before, after);
        let effect = match (before, after) {
            (_, None) => Effect::Delete { key: self.key.clone() },
            (None, Some(row)) => {
                let (columns, values) = self.whole(row);
                Effect::Insert { columns, values }
            }
            (Some(_), Some(row)) => {
                let columns = self.subsets[changed as usize].clone();
                let values = columns.iter().map(|column| self.number(row[usize::from(*column) - 1])).collect();
                Effect::Patch { key: self.key.clone(), columns, values }
            }
        };
        self.with(effect, after, changed, knew, at)
    }

    /// What a reassertion asks for.
    fn reassertion(&self, row: Row, parts: u64, knew: u8, at: usize) -> Claim {
        let key = self.key.clone();
        let effect = match row {
            Some(_) => Effect::Patch { key, columns: self.subsets[0].clone(), values: Box::from([]) },
            None => Effect::Delete { key },
        };
        self.with(effect, row, parts, knew, at)
    }

    fn with(&self, effect: Effect, row: Row, changed: u64, knew: u8, at: usize) -> Claim {
        let operation = Operation { target: 0, owner_before: 1, owner_after: 1, effect };
        let whole = row.map(|row| self.whole(row));
        let from = Some((0, self.key.clone()));
        Claim { operation, whole, changed, knew: Lsn(knew.into()), at: Lsn(at as u64), from }
    }
}

/// The parts that a change changes.
fn mask(before: Row, after: Row) -> u64 {
    match (before, after) {
        (Some(before), Some(after)) => {
            (0..2).filter(|column| before[*column] != after[*column]).fold(0, |mask, column| mask | 1 << column)
        }
        _ => ALL,
    }
}

impl Shape for Table {
    type Row = Row;

    fn starts(&self) -> Vec<Row> {
        vec![None, Some([0, 0])]
    }

    fn choices(&self, _side: usize, row: Row) -> Vec<Row> {
        let mut choices = Vec::new();
        let second = if self.used == 2 { 0..2 } else { 0..1 };
        match row {
            None => choices.extend((0..2).flat_map(|a| second.clone().map(move |b| Some([a, b])))),
            Some([a, b]) => {
                choices.push(None);
                choices.push(Some([1 - a, b]));
                if self.used == 2 {
                    choices.push(Some([a, 1 - b]));
                }
            }
        }
        choices
    }

    fn is_sound(&self, _side: usize, _row: Row) -> bool {
        true
    }

    fn claims(&self, _side: usize, [before, after]: [Row; 2], knew: u8, at: usize) -> Vec<Claim> {
        vec![self.claim(before, after, knew, at)]
    }

    fn touched(&self, row: Row, _table: usize, parts: u64, at: usize) -> Vec<Claim> {
        vec![self.reassertion(row, parts, 0, at)]
    }

    fn notes(&self, [before, after]: [Row; 2]) -> Notes {
        let mask = mask(before, after);
        [mask, mask, mask, 0]
    }

    fn touch_notes(&self, _table: usize, _parts: u64) -> Notes {
        [ALL, ALL, ALL, 0]
    }

    fn denied(&self, _from: usize, _details: bool, at: usize) -> Vec<Claim> {
        vec![self.with(Effect::Delete { key: self.key.clone() }, None, ALL, 0, at)]
    }

    fn is_there(&self, _side: usize, row: Row, _table: usize) -> bool {
        row.is_some()
    }

    fn decide(&self, _side: usize, wins: bool, facts: &Locked<'_, Self>, claims: Vec<Claim>) -> Outcome {
        let standings = [standing(wins)];
        let rules = Rules {
            targets: &self.targets,
            parts: &self.parts,
            records: &[],
            cleared: &[],
            standings: &standings,
            twins: &[Box::from([0])],
        };
        decide(rules, facts, claims)
    }

    fn write(&self, _side: usize, row: &mut Row, operations: &[Operation]) {
        for operation in operations {
            match &operation.effect {
                Effect::Insert { values, .. } => {
                    assert!(row.is_none(), "an insert finds the row");
                    *row = Some([number(&values[1]), number(&values[2])]);
                }
                Effect::Patch { columns, values, .. } => {
                    let row = row.as_mut().expect("a patch finds no row");
                    for (column, value) in columns.iter().zip(values) {
                        row[usize::from(*column) - 1] = number(value);
                    }
                }
                Effect::Delete { .. } => assert!(row.take().is_some(), "a delete finds no row"),
                other => panic!("the model asks for no {other:?}"),
            }
        }
    }
}

/// A value of a row.
pub fn number(datum: &Datum) -> u8 {
    match datum {
        Datum::Text(text) => text[0] - b'0',
        _ => panic!("the model has no nulls"),
    }
}

/// Who wins, as the host's rule takes it.
pub fn standing(wins: bool) -> Standing {
    if wins { Standing::Wins } else { Standing::Yields }
}
