//! Binding how an output's row is written: mapped columns, the row that a patch finds, and what does not go together.

use std::collections::BTreeMap;

use super::{Binder, Frame};
use crate::catalog::Table;
use crate::manifest::{self, Mapped, Matched, OnDelete, OnRemove, Write};
use crate::plan::keyed::{MappedKey, Need};
use crate::plan::{Filling, fit};
use crate::problem::{Blame, Problem};

impl Frame<'_> {
    /// The cell of related rows behind the row's own cells and its mapped keys.
    pub(super) fn related_cell(&self, number: usize) -> usize {
        self.columns.len() + self.depends.mapped.len() + number
    }
}

impl Binder<'_> {
    /// Adds the columns that are filled through a map.
    pub(super) fn mapped(
        &mut self,
        frame: &Frame<'_>,
        declared: &manifest::Output,
        target: &Table,
        fillings: &mut BTreeMap<u16, Filling>,
    ) {
        for (name, mapped) in &declared.mapped {
            let (Some(column), Some(cell)) = (self.writable(target, name), self.cell(frame, mapped)) else { continue };
            if fillings.insert(column, Filling::Mapped(cell)).is_some() {
                self.written_twice(target, name);
            }
            self.check_mapped(frame, cell, target, column);
        }
    }

    /// The cell of a mapped key; `None` where a problem was told already.
    fn cell(&self, frame: &Frame<'_>, Mapped(map, column): &Mapped) -> Option<usize> {
        let map = self.maps.iter().position(|known| known.name == *map)?;
        let key = MappedKey { map, column: frame.column(column)? };
        let number = frame.depends.mapped.iter().position(|mapped| *mapped == key)?;
        Some(frame.columns.len() + number)
    }

    fn check_mapped(&mut self, frame: &Frame<'_>, cell: usize, target: &Table, column: u16) {
        let map = frame.depends.mapped[cell - frame.columns.len()].map;
        let to = &target.columns[usize::from(column)];
        let Some(why) = self.map_columns[map].1.and_then(|key| fit::misfit(key, to)) else { return };
        self.problem(
            Problem::refuse(
                Blame::Artifact,
                "MAP_TYPE",
                format!("the column cannot hold the keys of map {}: {why}", self.maps[map].name),
            )
            .table(&target.name)
            .column(&to.name)
            .remedy("map another column, or make the types equal"),
        );
    }

    /// The key of the row that a patch writes, ascending, and where each value comes from.
    pub(super) fn matched(
        &mut self,
        frame: &Frame<'_>,
        declared: &manifest::Output,
        target: &Table,
        key: &[usize],
    ) -> (Vec<u16>, Vec<Filling>) {
        let mut key: Vec<u16> = key.iter().map(|column| *column as u16).collect();
        key.sort_unstable();
        let mut fillings = Vec::new();
        for column in &key {
            let name = &target.columns[usize::from(*column)].name;
            match declared.matching.get(name) {
                Some(Matched::Column(source)) => match frame.column(source) {
                    Some(source) => fillings.push(Filling::Copied(source)),
                    None => self.missing_source_column(frame, source),
                },
                Some(Matched::Mapped(mapped)) => {
                    if let Some(cell) = self.cell(frame, mapped) {
                        self.check_mapped(frame, cell, target, *column);
                        fillings.push(Filling::Mapped(cell));
                    }
                }
                None => self.bad_write(
                    target,
                    name,
                    "`match` must name every column of the key of the row that the patch writes",
                ),
            }
        }
        let more = declared
            .matching
            .keys()
            .find(|name| !key.iter().any(|column| target.columns[usize::from(*column)].name == **name));
        if let Some(name) = more {
            self.bad_write(target, name, "`match` names a column that is no part of the target's key");
        }
        (key, fillings)
    }

    /// The mapped cells without which the row does not exist. A NULL stays NULL where the target's column allows it.
    pub(super) fn needs(
        &self,
        frame: &Frame<'_>,
        target: &Table,
        fillings: &BTreeMap<u16, Filling>,
        key: &[u16],
        key_fillings: &[Filling],
    ) -> Vec<Need> {
        let own = frame.columns.len();
        let mut needs: Vec<Need> = Vec::new();
        let mut add = |filling: &Filling, nullable: bool| {
            let Filling::Mapped(cell) = *filling else { return };
            match needs.iter_mut().find(|need| need.cell == cell) {
                Some(need) => need.nullable &= nullable,
                None => needs.push(Need { cell, column: frame.depends.mapped[cell - own].column, nullable }),
            }
        };
        for (column, filling) in fillings {
            add(filling, !target.columns[usize::from(*column)].not_null && !key.contains(column));
        }
        key_fillings.iter().for_each(|filling| add(filling, false));
        needs
    }

    /// Cells of related rows that a group depends on.
    pub(super) fn related_inputs(&mut self, frame: &Frame<'_>, numbers: &[usize]) -> Vec<usize> {
        let known = frame.depends.related.len();
        if numbers.iter().any(|number| *number >= known) {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "BAD_RELATED",
                    "a group depends on a related table that the rule does not name",
                )
                .table(&frame.table.name)
                .remedy("a group's `related` holds positions, from 0, in the rule's `related`"),
            );
        }
        numbers.iter().filter(|number| **number < known).map(|number| frame.related_cell(*number)).collect()
    }

    /// Counter-examples 5, 6: what goes with which way of writing.
    pub(super) fn check_write(
        &mut self,
        frame: &Frame<'_>,
        declared: &manifest::Output,
        target: &Table,
        key: &[usize],
    ) {
        let table = &frame.table.name;
        let own = declared.write == Write::Own;
        if !own && (declared.many || declared.follows.is_some() || declared.on_delete != OnDelete::Delete) {
            self.bad_write(target, &table.to_string(), "`many`, `follows` and `on_delete` go with `write: own` only");
        }
        if declared.shares && (!own || declared.many || declared.on_delete != OnDelete::Delete) {
            let what = "`shares` goes with `write: own` only, and neither with `many` nor with `on_delete: set`";
            self.bad_write(target, &table.to_string(), what);
        }
        let patch = declared.write == Write::Patch;
        if !patch && (!declared.matching.is_empty() || declared.on_remove.is_some()) {
            self.bad_write(target, &table.to_string(), "`match` and `on_remove` go with `write: patch` only");
        }
        let written = || {
            declared
                .mapped
                .keys()
                .chain(declared.copied.keys())
                .chain(declared.computed.iter().flat_map(|group| &group.to))
        };
        for name in written().filter(|_| patch) {
            let Some(column) = target.column(name) else { continue };
            if key.contains(&column) {
                self.bad_write(
                    target,
                    name,
                    "a patch never writes the key of the row: name the column in `match` only",
                );
            } else if declared.on_remove == Some(OnRemove::Null) && target.columns[column].not_null {
                self.bad_write(target, name, "`on_remove: null` would set a column that refuses NULL");
            }
        }
    }

    fn bad_write(&mut self, target: &Table, column: &str, what: &str) {
        self.problem(
            Problem::refuse(Blame::Artifact, "BAD_WRITE", what.to_owned())
                .table(&target.name)
                .column(column)
                .remedy("correct the output's declaration in the transform"),
        );
    }
}
