//! Binding one output: where each of its target columns comes from, and everything that would not work.

use std::collections::{BTreeMap, BTreeSet};

use super::{Binder, Frame};
use crate::catalog::{Column, ForeignKey, Identity, ReplicaIdentity, Table};
use crate::change::Datum;
use crate::manifest::{self, OnDelete};
use crate::names::{TableName, quote_name};
use crate::plan::{Columns, Filling, Group, Output, Target, TargetColumn, fit};
use crate::problem::{Blame, Problem};

impl<'a> Binder<'a> {
    pub(super) fn output(&mut self, frame: &Frame<'_>, index: usize, by_rule: bool) -> Option<Output> {
        let declared = &frame.rule.outputs[index];
        let (target, key) = self.found(frame, declared)?;
        let (mut fillings, computed, groups) = self.fillings(frame, declared, target, by_rule);
        self.mapped(frame, declared, target, &mut fillings);
        self.check_write(frame, declared, target, &key);
        let is_patch = declared.write == manifest::Write::Patch;
        let in_key = |column: &u16| key.contains(&usize::from(*column));
        let claimed = |column: &&u16| declared.write == manifest::Write::Own || !in_key(column);
        let claimant = Claimant { table: frame.table.name.clone(), write: declared.write, shares: declared.shares };
        self.claim(target, &claimant, fillings.keys().filter(claimed));
        if !is_patch {
            self.check_not_null(target, &fillings);
        }
        let target_id = self.target_id(target);
        self.targets[target_id].shared |= declared.shares;
        let (key, key_fillings) = match is_patch {
            false => self.key(target, &key, &fillings),
            true => self.matched(frame, declared, target, &key),
        };
        let when = self.when(frame, declared);
        let on_delete_set = self.soft_delete(declared, target, &key);
        self.check_many(declared, target);
        let from = |of: fn(&Filling) -> Option<usize>| {
            fillings.iter().filter_map(move |(column, filling)| Some((of(filling)?, *column))).collect()
        };
        let output = Output {
            target: target_id,
            write: declared.write,
            copied: from(|filling| if let Filling::Copied(source) = filling { Some(*source) } else { None }),
            mapped: from(|filling| if let Filling::Mapped(cell) = filling { Some(*cell) } else { None }),
            needs: self.needs(frame, target, &fillings, &key, &key_fillings),
            groups,
            computed,
            columns: fillings.keys().copied().collect::<Vec<u16>>().as_slice().into(),
            filled_by: fillings.values().copied().collect(),
            key: key_fillings,
            when,
            many: declared.many,
            follows_source: !declared.many
                && declared.write == manifest::Write::Own
                && declared.follows != Some(manifest::Follows::Key),
            on_delete_set,
            on_remove_null: declared.on_remove == Some(manifest::OnRemove::Null),
        };
        self.check_old_values(frame, &output);
        Some(output)
    }

    /// The output's table and the positions of its key.
    fn found(&mut self, frame: &Frame<'_>, declared: &manifest::Output) -> Option<(&'a Table, Vec<usize>)> {
        let given = self.given;
        let Some(target) = given.target.tables.get(&declared.table) else {
            self.problem(
                Problem::refuse(
                    Blame::Target,
                    "NO_SUCH_TABLE",
                    format!("the target does not have the table {}, or the role may not see it", declared.table),
                )
                .table(&frame.table.name)
                .remedy("create the target's schema before the migration starts, or grant the role its rights"),
            );
            return None;
        };
        let key = target.row_key();
        if key.is_empty() {
            self.problem(
                Problem::refuse(Blame::Target, "NO_KEY", "the target table has no key by which a row could be found")
                    .table(&target.name)
                    .remedy(format!("ALTER TABLE {} ADD PRIMARY KEY (...)", target.name.sql())),
            );
            return None;
        }
        Some((target, key))
    }

    /// Whether the row exists may hang on any related row.
    fn when(&mut self, frame: &Frame<'_>, declared: &manifest::Output) -> Option<Vec<usize>> {
        let mut when = self.inputs(frame, declared.when.as_deref())?;
        when.extend((0..frame.depends.related.len()).map(|number| frame.related_cell(number)));
        Some(when)
    }

    /// The key's columns, ascending, and where each comes from.
    fn key(&mut self, target: &Table, key: &[usize], fillings: &BTreeMap<u16, Filling>) -> (Vec<u16>, Vec<Filling>) {
        let mut key: Vec<u16> = key.iter().map(|column| *column as u16).collect();
        key.sort_unstable();
        let mut key_fillings = Vec::new();
        for column in &key {
            match fillings.get(column) {
                Some(filling) => key_fillings.push(*filling),
                None => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "KEY_NOT_FILLED",
                        "no copied and no computed column fills a column of the target's key",
                    )
                    .table(&target.name)
                    .column(&target.columns[usize::from(*column)].name)
                    .remedy("copy or compute every column of the target table's key"),
                ),
            }
        }
        (key, key_fillings)
    }

    fn check_many(&mut self, declared: &manifest::Output, target: &Table) {
        if declared.many && declared.follows == Some(manifest::Follows::Source) {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "MANY_FOLLOWS_KEY",
                    "an output with `many` cannot follow its source row: its rows are paired by key",
                )
                .table(&target.name)
                .remedy("leave `follows` out, or set it to key"),
            );
        }
    }

    /// Target column to where it comes from; the computed columns in the guest's order; the groups.
    fn fillings(
        &mut self,
        frame: &Frame<'_>,
        declared: &manifest::Output,
        target: &Table,
        by_rule: bool,
    ) -> (BTreeMap<u16, Filling>, Vec<u16>, Vec<Group>) {
        let mut fillings = BTreeMap::new();
        let mut computed = Vec::new();
        let mut groups = Vec::new();
        for group in &declared.computed {
            let mut from = self.inputs(frame, Some(&group.from)).unwrap_or_default();
            from.extend(self.related_inputs(frame, &group.related));
            let start = computed.len();
            for name in &group.to {
                if let Some(column) = self.writable(target, name) {
                    if fillings.insert(column, Filling::Computed(computed.len())).is_some() {
                        self.written_twice(target, name);
                    }
                    computed.push(column);
                }
            }
            groups.push(Group { from, values: start..computed.len() });
        }
        for (name, source_name) in &declared.copied {
            let Some(column) = self.writable(target, name) else { continue };
            let Some(source) = frame.column(source_name) else {
                self.missing_source_column(frame, source_name);
                continue;
            };
            if fillings.insert(column, Filling::Copied(source)).is_some() {
                self.written_twice(target, name);
            }
            self.check_fit(frame, source, target, column, by_rule);
        }
        if declared.same_named {
            for (source, from) in frame.columns.iter().enumerate() {
                let Some(column) = target.column(&from.name).map(|column| column as u16) else {
                    if !by_rule {
                        self.problem(
                            Problem::refuse(Blame::Target, "NO_SUCH_COLUMN", "the table is copied as it is, but the target's table lacks a column")
                                .table(&target.name)
                                .column(&from.name)
                                .remedy("add the column to the target, declare a rule for the table, or exclude the table in [tables]"),
                        );
                    }
                    continue;
                };
                let taken = fillings.contains_key(&column);
                // A patch finds its row by what `match` says; `mapped` fills its columns itself.
                let other_way = declared.matching.contains_key(&from.name) || declared.mapped.contains_key(&from.name);
                if taken || other_way || target.columns[usize::from(column)].generated {
                    continue;
                }
                fillings.insert(column, Filling::Copied(source));
                self.check_fit(frame, source, target, column, by_rule);
            }
        }
        (fillings, computed, groups)
    }

    pub(super) fn written_twice(&mut self, target: &Table, column: &str) {
        self.problem(
            Problem::refuse(Blame::Artifact, "TWO_WRITERS", "one output writes the column twice")
                .table(&target.name)
                .column(column)
                .remedy("name it once, in `copied` or in one computed group"),
        );
    }

    pub(super) fn writable(&mut self, target: &Table, name: &str) -> Option<u16> {
        let what = match target.column(name) {
            Some(column) if !target.columns[column].generated => return Some(column as u16),
            Some(_) => "the rule writes a generated column, which the database computes itself",
            None => "the rule writes a column that the target table does not have",
        };
        self.problem(
            Problem::refuse(Blame::Artifact, "NO_SUCH_COLUMN", what)
                .table(&target.name)
                .column(name)
                .remedy("correct the transform, or check that the target has the schema version that it is made for"),
        );
        None
    }

    fn check_fit(&mut self, frame: &Frame<'_>, source: usize, target: &Table, column: u16, by_rule: bool) {
        let to = &target.columns[usize::from(column)];
        if let Some(why) = fit::misfit(frame.columns[source], to) {
            let remedy = match by_rule {
                true => "compute the column in the transform, or change its type in the target",
                false => "declare a rule for the table that computes the column, or change its type in the target",
            };
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "TYPE_MISFIT",
                    format!("the column cannot be copied from {}: {why}", frame.columns[source].name),
                )
                .table(&target.name)
                .column(&to.name)
                .remedy(remedy),
            );
        }
    }

    /// Counter-examples 6 and 10: two outputs that write one column of one table are refused. Several may ensure one row,
    /// one may ensure the row that another owns, and outputs of several source tables may share a table: then each row
    /// has one of them as its owner, and a key that two claim is refused by the target itself.
    fn claim<'k>(&mut self, target: &Table, own: &Claimant, columns: impl Iterator<Item = &'k u16>) {
        let mut others = BTreeSet::new();
        for column in columns {
            let place = (target.name.clone(), target.columns[usize::from(*column)].name.clone());
            let writers = self.writers.entry(place).or_default();
            others.extend(writers.iter().filter(|other| !own.agrees(other)).map(|other| other.table.clone()));
            writers.push(own.clone());
        }
        for other in others {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "TWO_OWNERS",
                    format!("rows of {other} and of {} would both write the same columns of it", own.table),
                )
                .table(&target.name)
                .remedy(
                    "let one source table own the target's rows; if no two of their rows ever have one key, declare \
                     `shares` on each of these outputs; merging two owners into one row is not supported",
                ),
            );
        }
    }

    fn check_not_null(&mut self, target: &Table, fillings: &BTreeMap<u16, Filling>) {
        for (position, column) in target.columns.iter().enumerate() {
            let filled = fillings.contains_key(&(position as u16)) || column.has_default || column.generated;
            if column.not_null && !filled && column.identity == Identity::No {
                self.problem(
                    Problem::refuse(
                        Blame::Target,
                        "NOT_NULL_UNFILLED",
                        "the column refuses NULL, has no default, and nothing fills it",
                    )
                    .table(&target.name)
                    .column(&column.name)
                    .remedy(format!(
                        "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT ...; or compute it in the transform",
                        target.name.sql(),
                        quote_name(&column.name)
                    )),
                );
            }
        }
    }

    /// Source positions of a rule's inputs, each of which the guest must be handed.
    fn inputs(&mut self, frame: &Frame<'_>, names: Option<&[String]>) -> Option<Vec<usize>> {
        let mut positions = Vec::new();
        for name in names? {
            let asked = frame.rule.columns.iter().any(|column| column.name() == name);
            match frame.column(name) {
                Some(position) if asked => positions.push(position),
                Some(_) => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "INPUT_NOT_ASKED",
                        "an output depends on a column that the rule does not hand to the guest",
                    )
                    .table(&frame.table.name)
                    .column(name)
                    .remedy("add it to the rule's `columns`"),
                ),
                None => self.missing_source_column(frame, name),
            }
        }
        Some(positions)
    }

    fn soft_delete(&mut self, declared: &manifest::Output, target: &Table, key: &[u16]) -> Option<Vec<(u16, Datum)>> {
        let OnDelete::Set(set) = &declared.on_delete else { return None };
        let mut columns = BTreeMap::new();
        for (name, value) in set {
            match self.writable(target, name) {
                Some(column) if !key.contains(&column) && !declared.many => {
                    columns.insert(column, value.clone().map_or(Datum::Null, Datum::text));
                }
                Some(_) => self.problem(
                    Problem::refuse(
                        Blame::Artifact,
                        "SOFT_DELETE",
                        "`on_delete: set` cannot change a key and does not go with `many`",
                    )
                    .table(&target.name)
                    .column(name)
                    .remedy("set another column"),
                ),
                None => {}
            }
        }
        Some(columns.into_iter().collect())
    }

    /// Whether the output can be carried out with what the table's replica identity sends.
    fn check_old_values(&mut self, frame: &Frame<'_>, output: &Output) {
        let table = frame.table;
        if table.identity == ReplicaIdentity::Full {
            return;
        }
        let in_identity = |source: usize| {
            table.identity_key.iter().any(|column| table.columns[*column].name == frame.columns[source].name)
        };
        let toastable = |source: &usize| frame.columns[*source].toastable && !in_identity(*source);
        let why = if output.when.is_some() {
            "an output exists only for some rows (`when`)"
        } else if output.many {
            "an output stands for many rows"
        } else if output.key.iter().any(|part| !matches!(part, Filling::Copied(source) if in_identity(*source))) {
            "the target's key does not come from the columns of the replica identity"
        } else if output.groups.iter().flat_map(|group| &group.from).any(toastable) {
            "a computed column reads a value that may be stored out of line, which an update does not repeat"
        } else {
            return;
        };
        self.problem(
            Problem::refuse(
                Blame::Source,
                "NEEDS_FULL_IDENTITY",
                format!("the rule needs old values that the table's replica identity does not send: {why}"),
            )
            .table(&table.name)
            .remedy(self.given.source.full_identity(&table.name)),
        );
    }

    fn is_cascaded_from(&self, table: &Table) -> bool {
        let acts =
            |key: &ForeignKey| ['c', 'n', 'd'].iter().any(|action| [key.on_delete, key.on_update].contains(action));
        let keys = self.given.target.tables.values().flat_map(|other| &other.foreign_keys);
        keys.filter(|key| key.parent == table.name).any(acts)
    }

    fn target_id(&mut self, table: &Table) -> usize {
        if let Some(id) = self.target_ids.get(&table.name) {
            return *id;
        }
        let set = |columns: &[usize]| -> Columns {
            let mut columns: Vec<u16> = columns.iter().map(|column| *column as u16).collect();
            columns.sort_unstable();
            columns.as_slice().into()
        };
        let key = set(&table.row_key());
        let uniques = table.uniques.iter().filter(|unique| !unique.deferrable).map(|unique| set(&unique.touches));
        self.targets.push(Target {
            name: table.name.clone(),
            columns: table.columns.iter().map(target_column).collect(),
            uniques: uniques.filter(|unique| *unique != key).collect(),
            key,
            cascades: table.foreign_keys.iter().any(|foreign_key| foreign_key.on_delete == 'c'),
            acts: !table.triggers.is_empty() || self.is_cascaded_from(table),
            shared: false,
            identity_always: (0..table.columns.len() as u16)
                .filter(|column| table.columns[usize::from(*column)].identity == Identity::Always)
                .collect(),
            internal: false,
        });
        self.target_ids.insert(table.name.clone(), self.targets.len() - 1);
        self.targets.len() - 1
    }
}

/// An output that writes a column.
#[derive(Clone)]
pub(super) struct Claimant {
    table: TableName,
    write: manifest::Write,
    shares: bool,
}

impl Claimant {
    fn agrees(&self, other: &Claimant) -> bool {
        let ensure = |claimant: &Claimant| claimant.write == manifest::Write::Ensure;
        (ensure(self) && ensure(other)) || (self.shares && other.shares && self.table != other.table)
    }
}

fn target_column(column: &Column) -> TargetColumn {
    TargetColumn {
        name: column.name.clone(),
        type_sql: column.type_sql.clone(),
        // Beneath a domain: a domain with a modifier would cut values short inside the cast.
        cast_sql: column.base_sql.clone(),
        base_oid: column.base_oid,
        case: fit::case(column.base_oid),
        generated: column.generated,
    }
}
