//! What the targets must hold by the contract's words, and a database that carries out what the host makes of it.

use super::*;

/// What the targets must hold, by output and key, as the contract says it.
#[derive(Default)]
pub struct Model {
    pub rows: BTreeMap<(usize, Vec<String>), Values>,
}

pub static KEPT: AtomicU64 = AtomicU64::new(0);
pub static REKEYED: AtomicU64 = AtomicU64::new(0);

impl Model {
    pub fn change(&mut self, spec: &Spec, before: Option<&Row>, after: Option<&Row>) {
        let changed = |column: usize| match (before, after) {
            (Some(before), Some(after)) => !spec.full_identity || before[column] != after[column],
            _ => true,
        };
        for (at, output) in spec.outputs.iter().enumerate() {
            let made = |row: Option<&Row>| row.map(|row| spec.made(at, row)).unwrap_or_default();
            let (mut old, new) = (made(before), made(after));
            let mut written = Vec::new();
            for made in new {
                let is_same = |earlier: &Made| match output.key {
                    KeyFrom::Items => earlier.key == made.key,
                    _ => !output.follows_key || earlier.key == made.key,
                };
                let earlier = old.iter().position(is_same).map(|place| old.swap_remove(place));
                let row = earlier.as_ref().map(|earlier| self.rows.remove(&(at, earlier.key.clone())).unwrap());
                written.push((made.key.clone(), write(row, earlier.as_ref(), &made, &changed, output.key)));
            }
            for gone in old {
                self.rows.remove(&(at, gone.key)).unwrap();
            }
            for (key, row) in written {
                assert!(self.rows.insert((at, key), row).is_none(), "the function gives one key to two rows");
            }
        }
    }
}

/// A row after a change: anew, or with the copied columns that changed and the groups of which an input did (L6).
pub fn write(
    row: Option<Values>,
    earlier: Option<&Made>,
    made: &Made,
    changed: &dyn Fn(usize) -> bool,
    key: KeyFrom,
) -> Values {
    let anew = row.is_none();
    let mut row = row.unwrap_or_default();
    let green = row.values().any(|value| value.starts_with('g'));
    for (column, from, value) in &made.copied {
        if anew || changed(*from) {
            set(&mut row, column, value.clone());
        }
    }
    for (number, (from, columns)) in made.groups.iter().enumerate() {
        let differs = || earlier.is_none_or(|earlier| earlier.groups[number].1 != *columns);
        // All rows of a list share its inputs, so there the values say which of them changed.
        if anew || from.iter().any(|input| changed(*input)) && (key != KeyFrom::Items || differs()) {
            for (column, said) in columns {
                match said {
                    Said::Text(text) => set(&mut row, column, Some(text.clone())),
                    Said::Null => set(&mut row, column, None),
                    Said::Unset => {}
                }
            }
        }
    }
    let rekeyed = earlier.is_some_and(|earlier| earlier.key != made.key);
    if green && row.values().any(|value| value.starts_with('g')) {
        KEPT.fetch_add(1, Ordering::Relaxed);
        REKEYED.fetch_add(u64::from(rekeyed), Ordering::Relaxed);
    }
    row
}

pub fn set(row: &mut Values, column: &'static str, value: Cell) {
    match value {
        Some(value) => drop(row.insert(column, value)),
        None => drop(row.remove(column)),
    }
}

/// The target, which refuses what PostgreSQL would refuse.
#[derive(Default)]
pub struct Database {
    pub rows: BTreeMap<(usize, Vec<String>), Values>,
}

impl Database {
    pub fn run(&mut self, plan: &Plan, set_of: &Set) {
        let target = &plan.targets[set_of.target];
        let output: usize = target.name.table[1..].parse().unwrap();
        let place = |values: &[Datum]| (output, values.iter().map(|value| plain(value).unwrap()).collect::<Vec<_>>());
        let write = |row: &mut Values, values: &[Datum]| {
            for (column, value) in set_of.columns.iter().zip(values) {
                if !target.key.contains(column) {
                    set(row, TARGET[usize::from(*column)], plain(value));
                }
            }
        };
        let mut seen = BTreeSet::new();
        for at in 0..set_of.rows() {
            match set_of.kind {
                SetKind::Insert => {
                    let value = |column: &u16| {
                        let at_column = set_of.columns.iter().position(|other| other == column).unwrap();
                        set_of.values[at][at_column].clone()
                    };
                    let key: Vec<Datum> = target.key.iter().map(value).collect();
                    let mut row = Values::new();
                    write(&mut row, &set_of.values[at]);
                    assert!(self.rows.insert(place(&key), row).is_none(), "insert of a row that exists");
                }
                SetKind::Patch => {
                    assert!(seen.insert(place(&set_of.keys[at])), "one statement touches a row twice");
                    let row = self.rows.get_mut(&place(&set_of.keys[at])).expect("patch of a row that is not there");
                    write(row, &set_of.values[at]);
                }
                SetKind::Rekey => {
                    let mut row = self.rows.remove(&place(&set_of.keys[at])).expect("rekey of a missing row");
                    write(&mut row, &set_of.values[at]);
                    assert!(self.rows.insert(place(&set_of.new_keys[at]), row).is_none(), "rekey onto a row");
                }
                SetKind::Delete => {
                    self.rows.remove(&place(&set_of.keys[at])).expect("delete of a row that is not there");
                }
                SetKind::Truncate | SetKind::Ensure | SetKind::Clear => unreachable!("no rule here asks for it"),
            }
        }
    }
}

pub fn plain(datum: &Datum) -> Cell {
    match datum {
        Datum::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        Datum::Null | Datum::Unset => None,
    }
}
