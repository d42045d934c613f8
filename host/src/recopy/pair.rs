//! What is to be written, decided from what the revisions make of one source row and what the target holds. Pure.

use crate::apply::compare::Finding;
use crate::change::Datum;
use crate::delta::{Effect, Key, Operation};
use crate::plan::{Columns, Filling, Output, Source, Target};

/// A target row that a revision makes of a source row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Position in the targets of this revision's plan.
    pub(super) target: usize,
    /// Which output of the revision's rule.
    pub(super) output: usize,
    /// The key.
    pub(super) key: Key,
    /// All columns that it writes, the key among them, and their values.
    pub(super) columns: Columns,
    pub(super) values: Box<[Datum]>,
    /// Its key is the source row's whole key, in a table that no other source writes: no other row can stand for it.
    pub(super) is_only_ours: bool,
}

impl Row {
    fn value(&self, column: u16) -> Option<&Datum> {
        self.columns.iter().position(|own| *own == column).map(|place| &self.values[place])
    }

    fn same_place(&self, other: &Row) -> bool {
        self.target == other.target && self.key == other.key
    }
}

/// A row and what the target holds under its key.
pub(super) type Seen = (Row, Finding);

/// What is to become of the rows of one source row.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// What follows from the difference of the revisions.
    pub(super) operations: Vec<Operation>,
    /// What does not agree for another reason: the row, and its columns; none if it is missing.
    pub(super) rest: Vec<(Row, Vec<u16>)>,
    /// Rows that only an older revision makes of this source row, and that may stand for another one by now.
    pub(super) surplus: Vec<Row>,
    /// Such rows that can stand for no other one, and that the target's application has changed since.
    pub(super) unclaimed: Vec<Row>,
    /// The targets of the rows that this revision makes.
    pub(super) looked_at: Vec<usize>,
    /// Nothing can be said before other rows have got their keys.
    pub(super) is_contested: bool,
}

/// Columns that are written together: a computed group, or one copied column. Never the key.
pub(super) fn units(output: &Output, target: &Target) -> Vec<Vec<u16>> {
    let mut units: Vec<Vec<u16>> = Vec::new();
    let free = |column: &u16| !target.key.contains(column);
    for group in &output.groups {
        units.push(group.values.clone().map(|value| output.computed[value]).filter(free).collect());
    }
    let copied = output.columns.iter().zip(&output.filled_by);
    let copied = copied.filter(|(column, filling)| !matches!(filling, Filling::Computed(_)) && free(column));
    units.extend(copied.map(|(column, _)| vec![*column]));
    units.retain(|unit| !unit.is_empty());
    units
}

/// Sets the units of a row that hold any of these columns.
pub(super) fn patch(row: &Row, units: &[Vec<u16>], columns: &[u16]) -> Option<Operation> {
    let whole = units.iter().filter(|unit| unit.iter().any(|column| columns.contains(column))).flatten();
    let mut wanted: Vec<u16> = whole.copied().collect();
    wanted.sort_unstable();
    let (columns, values) = values_of(row, &wanted);
    let effect = Effect::Patch { key: row.key.clone(), columns: columns.as_slice().into(), values: values.into() };
    (!columns.is_empty()).then(|| Operation::of_nobody(row.target, effect))
}

/// The values that a row has for some columns; those that it leaves unset are left out.
fn values_of(row: &Row, columns: &[u16]) -> (Vec<u16>, Vec<Datum>) {
    columns.iter().filter_map(|column| Some((*column, row.value(*column)?.clone()))).unzip()
}

pub(super) fn delete(row: &Row) -> Operation {
    Operation::of_nobody(row.target, Effect::Delete { key: row.key.clone() })
}

pub(super) fn insert(row: &Row) -> Operation {
    Operation::of_nobody(row.target, Effect::Insert { columns: row.columns.clone(), values: row.values.clone() })
}

fn found(finding: &Finding) -> Option<&[u16]> {
    match finding {
        Finding::Same(_) => Some(&[]),
        Finding::Differs(_, columns) => Some(columns),
        Finding::Missing => None,
    }
}

/// L6: only what the revisions make differently, and only where the target still holds what an older one made.
pub(super) fn decide(source: &Source, targets: &[Target], new: &[&Seen], older: &[&Seen]) -> Decided {
    let mut decided = Decided { looked_at: new.iter().map(|(row, _)| row.target).collect(), ..Decided::default() };
    let mut moved: Vec<&Row> = Vec::new();
    for seen in new {
        let output = &source.rule.outputs[seen.0.output];
        let units = units(output, &targets[seen.0.target]);
        // The row that an older revision made of this one under another key, if it is there.
        let before = older.iter().copied().find(|(other, finding)| {
            let one = other.target == seen.0.target && other.output == seen.0.output && output.follows_source;
            let is_free = !new.iter().any(|(row, _)| row.same_place(other));
            one && is_free && found(finding).is_some() && !moved.iter().any(|row| row.same_place(other))
        });
        match (found(&seen.1), before) {
            // Both are there: under the key stands a row that an older revision has made of another source row.
            (Some(_), Some(_)) => return Decided { is_contested: true, ..Decided::default() },
            (Some(differ), None) => patched(seen, differ, &units, older, &mut decided),
            (None, Some(before)) => {
                moved.push(&before.0);
                decided.operations.push(rekeyed(&seen.0, before, &units));
            }
            // An older revision made it too, and it is gone: the target's application deleted it, or it never came.
            (None, None) if older.is_empty() || older.iter().any(|(other, _)| other.same_place(&seen.0)) => {
                decided.rest.push((seen.0.clone(), Vec::new()));
            }
            (None, None) => decided.operations.push(insert(&seen.0)),
        }
    }
    for (row, finding) in older {
        let stays = new.iter().map(|(row, _)| row).chain(moved.iter().copied()).any(|other| other.same_place(row));
        if !stays {
            superfluous(row, finding, &mut decided);
        }
    }
    decided
}

/// A row that is there, with columns that differ from what it should hold.
fn patched(seen: &Seen, differ: &[u16], units: &[Vec<u16>], older: &[&Seen], decided: &mut Decided) {
    let (row, (mut ours, mut rest)) = (&seen.0, (Vec::new(), Vec::new()));
    for unit in units.iter().filter(|unit| unit.iter().any(|column| differ.contains(column))) {
        let wrote = |(other, finding): &&Seen| {
            other.same_place(row) && still_holds(unit, other, finding) && makes_else(unit, row, other)
        };
        let list = if older.iter().any(wrote) { &mut ours } else { &mut rest };
        list.extend(unit.iter().filter(|column| differ.contains(column)));
    }
    decided.operations.extend(patch(row, units, &ours));
    if !rest.is_empty() {
        decided.rest.push((row.clone(), rest));
    }
}

/// A row that stands under the key that an older revision gave it.
fn rekeyed(row: &Row, (other, finding): &Seen, units: &[Vec<u16>]) -> Operation {
    let written = units.iter().filter(|unit| still_holds(unit, other, finding) && makes_else(unit, row, other));
    let mut columns: Vec<u16> = written.flatten().copied().collect();
    columns.sort_unstable();
    let (columns, values) = values_of(row, &columns);
    let (from, to) = (other.key.clone(), row.key.clone());
    let (columns, values) = (columns.as_slice().into(), values.into());
    Operation::of_nobody(row.target, Effect::Rekey { from, to, columns, values })
}

/// A row that only an older revision makes of this source row.
fn superfluous(row: &Row, finding: &Finding, decided: &mut Decided) {
    let goes = |operation: &Operation| matches!(&operation.effect, Effect::Delete { key } if *key == row.key);
    let is_known = decided.operations.iter().any(|one| one.target == row.target && goes(one))
        || decided.surplus.iter().chain(&decided.unclaimed).any(|other| other.same_place(row));
    match (row.is_only_ours, found(finding)) {
        _ if is_known => {}
        (_, None) => {}
        // Nobody else can stand for it, and it is as the older revision made it.
        (true, Some([])) => decided.operations.push(delete(row)),
        // The target's application has changed it since.
        (true, Some(_)) => decided.unclaimed.push(row.clone()),
        (false, Some(_)) => decided.surplus.push(row.clone()),
    }
}

/// Whether the target has what a revision made of a unit.
fn still_holds(unit: &[u16], row: &Row, finding: &Finding) -> bool {
    let made = unit.iter().all(|column| row.value(*column).is_some());
    made && found(finding).is_some_and(|differ| !unit.iter().any(|column| differ.contains(column)))
}

fn makes_else(unit: &[u16], row: &Row, other: &Row) -> bool {
    unit.iter().any(|column| row.value(*column) != other.value(*column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::compare::Place;
    use crate::manifest::Write;
    use crate::names::TableName;
    use crate::plan::{Group, Rule, SourceColumn, TargetColumn};

    /// A source table whose one output has a key, a copied column and a group of two.
    fn source() -> Source {
        let output = Output {
            target: 0,
            write: Write::Own,
            copied: vec![(0, 0), (1, 1)],
            mapped: Vec::new(),
            needs: Vec::new(),
            groups: vec![Group { from: vec![2], values: 0..2 }],
            computed: vec![2, 3],
            columns: [0, 1, 2, 3].into(),
            filled_by: vec![Filling::Copied(0), Filling::Copied(1), Filling::Computed(0), Filling::Computed(1)],
            key: vec![Filling::Copied(0)],
            when: None,
            many: false,
            follows_source: true,
            on_delete_set: None,
            on_remove_null: false,
        };
        Source {
            name: TableName::new("public", "s"),
            columns: Vec::<SourceColumn>::new(),
            generated: Vec::new(),
            key: vec![0],
            full_identity: true,
            identity_key: Vec::new(),
            copy_level: 0,
            refers_to_itself: false,
            rule: Rule { guest_table: None, asked: Vec::new(), outputs: vec![output] },
            depends: Default::default(),
            size_bytes: 0,
            rows_estimate: 0.0,
        }
    }

    fn targets() -> Vec<Target> {
        let column = |name: &str| TargetColumn {
            name: name.into(),
            type_sql: "text".into(),
            cast_sql: "text".into(),
            base_oid: 25,
            case: crate::plan::Case::Text,
            generated: false,
        };
        vec![Target {
            name: TableName::new("public", "t"),
            columns: ["k", "a", "x", "y"].into_iter().map(column).collect(),
            key: [0].into(),
            uniques: Vec::new(),
            cascades: false,
            acts: false,
            shared: false,
            identity_always: [].into(),
            internal: false,
        }]
    }

    fn row(values: [&str; 4]) -> Row {
        let values: Box<[Datum]> = values.iter().map(|value| Datum::text(*value)).collect();
        Row {
            target: 0,
            output: 0,
            key: [values[0].clone()].into(),
            columns: [0, 1, 2, 3].into(),
            values,
            is_only_ours: false,
        }
    }

    /// What is found of `row` where the target holds `held` under its key.
    fn seen(row_of: [&str; 4], held: Option<[&str; 4]>) -> Seen {
        let (row, place) = (row(row_of), Place::at(1, 0, 1));
        let finding = match held {
            None => Finding::Missing,
            Some(held) => {
                match (0..4).filter(|at| held[usize::from(*at)] != row_of[usize::from(*at)]).collect::<Vec<u16>>() {
                    differ if differ.is_empty() => Finding::Same(place),
                    differ => Finding::Differs(place, differ),
                }
            }
        };
        (row, finding)
    }

    fn decided(new: &Seen, older: &[Seen]) -> Decided {
        decide(&source(), &targets(), &[new], &older.iter().collect::<Vec<_>>())
    }

    const OLD: [&str; 4] = ["1", "a", "Mary Ann", "Jones"];
    const NEW: [&str; 4] = ["1", "a", "Mary", "Ann Jones"];

    #[test]
    fn l6_a_group_on_which_the_revisions_differ_is_written_whole_where_the_old_one_still_stands() {
        let done = decided(&seen(NEW, Some(OLD)), &[seen(OLD, Some(OLD))]);
        let [Operation { effect: Effect::Patch { columns, .. }, .. }] = done.operations.as_slice() else { panic!() };
        assert_eq!((&**columns, done.rest.len()), (&[2, 3][..], 0));
    }

    #[test]
    fn l6_what_the_target_corrected_stays_and_what_is_right_already_is_not_touched() {
        let corrected = Some(["1", "a", "Mary A.", "Jones"]);
        let done = decided(&seen(NEW, corrected), &[seen(OLD, corrected)]);
        assert!(done.operations.is_empty() && done.rest == [(row(NEW), vec![2, 3])]);
        let done = decided(&seen(NEW, Some(NEW)), &[seen(OLD, Some(NEW))]);
        assert!(done.operations.is_empty() && done.rest.is_empty());
        // The revisions agree on the copied column: what is wrong there is not their difference.
        let other = Some(["1", "b", "Mary Ann", "Jones"]);
        let done = decided(&seen(NEW, other), &[seen(OLD, other)]);
        assert_eq!((done.operations.len(), &done.rest), (1, &vec![(row(NEW), vec![1])]));
    }

    #[test]
    fn counter_example_13_rows_are_found_under_the_key_that_any_older_revision_gave_them() {
        let (newer, oldest) = (["2", "a", "m", "j"], ["3", "a", "m", "j"]);
        let done = decided(&seen(NEW, None), &[seen(newer, None), seen(oldest, Some(oldest))]);
        let [Operation { effect: Effect::Rekey { from, to, columns, .. }, .. }] = done.operations.as_slice() else {
            panic!()
        };
        assert_eq!((&**from, &**to, &**columns), (&[Datum::text("3")][..], &[Datum::text("1")][..], &[2, 3][..]));
        assert!(done.surplus.is_empty());
        // Both rows are there: the one under its key may be another source row's.
        let done = decided(&seen(NEW, Some(NEW)), &[seen(oldest, Some(oldest))]);
        assert!(done.is_contested && done.operations.is_empty() && done.surplus.is_empty());
    }

    #[test]
    fn l6_what_only_an_older_revision_made_goes_unless_it_has_been_changed_since() {
        let only_ours = |held: [&str; 4]| {
            let (row, finding) = seen(OLD, Some(held));
            (Row { is_only_ours: true, ..row }, finding)
        };
        let done = decide(&source(), &targets(), &[], &[&only_ours(OLD), &only_ours(OLD)]);
        let [Operation { effect: Effect::Delete { key }, .. }] = done.operations.as_slice() else { panic!() };
        assert_eq!((&**key, done.unclaimed.len()), (&[Datum::text("1")][..], 0));
        let done = decide(&source(), &targets(), &[], &[&only_ours(["1", "a", "Mary A.", "Jones"])]);
        assert_eq!((done.operations.len(), done.unclaimed.len()), (0, 1));
    }

    #[test]
    fn a_row_that_is_gone_although_every_revision_makes_it_is_listed_and_not_brought_back() {
        let done = decided(&seen(NEW, None), &[seen(OLD, None)]);
        assert!(done.operations.is_empty() && done.rest == [(row(NEW), Vec::new())]);
        assert!(decided(&seen(NEW, None), &[]).operations.is_empty());
    }
}
