//! Binding what rows depend on besides themselves: key maps, pairs, related rows, mirrors, and the order of copying that
//! follows from them.

use super::{Binder, Frame};
use crate::catalog::{Column, ReplicaIdentity};
use crate::manifest::{self, Creates, Direction, KeyColumn, Mapped, Write};
use crate::names::TableName;
use crate::plan::keyed::{Adoption, BoundPair, Dependence, MIRROR_COLUMNS, MIRROR_KEY, Map, MappedKey, RelatedTable};
use crate::plan::{Case, Plan, Target, TargetColumn, fit};
use crate::problem::{Blame, Problem};

/// The table that holds all mirrors of a target.
pub fn mirror_table() -> TableName {
    TableName::new("falkirk", "mirror")
}

fn rebinds(rules: &[manifest::Rule], map: &str) -> bool {
    rules.iter().flat_map(|rule| &rule.bind).any(|bind| bind.map == map)
}

impl<'a> Binder<'a> {
    /// All maps of the manifest, as this link sees them.
    pub(super) fn bind_maps(&mut self) {
        let Some((manifest, direction)) = self.given.manifest else { return };
        for (name, map) in &manifest.maps {
            let forward = direction == Direction::Forward;
            let (from, to) = if forward { (&map.blue, &map.green) } else { (&map.green, &map.blue) };
            let (own, other) = match forward {
                true => (&manifest.forward, &manifest.backward),
                false => (&manifest.backward, &manifest.forward),
            };
            let source = self.key_column(name, from, true);
            let target = self.key_column(name, to, false);
            let creates = map.creates == Creates::Both || (map.creates == Creates::Green) == forward;
            if creates && target.is_some_and(|column| !column.has_default) {
                self.problem(
                    Problem::refuse(Blame::Target, "MAP_NO_DEFAULT", format!("the map {name} makes keys of this column, which has no default to make them from"))
                        .table(&to.table)
                        .column(&to.column)
                        .remedy("give the column a default (an identity, a sequence, gen_random_uuid()), or let the other side create the keys"),
                );
            }
            let adopts = other.iter().flat_map(|rule| rule.bind.iter().map(move |bind| (rule, bind)));
            let adopts = adopts.filter(|(_, bind)| bind.map == *name).filter_map(|(rule, bind)| {
                let keys = if forward { (&bind.blue, &bind.green) } else { (&bind.green, &bind.blue) };
                let table = self.given.target.tables.get(&rule.table)?;
                let type_sql = table.columns[table.column(keys.0)?].cast_sql.clone();
                let (source_key, target_key) = (keys.0.clone(), keys.1.clone());
                Some(Adoption { table: rule.table.clone(), source_key, target_key, type_sql })
            });
            let adopts = adopts.collect();
            self.maps.push(Map {
                name: name.clone(),
                source_is_blue: forward,
                kept_in_target: (map.creates == Creates::Blue) != forward,
                creates,
                table: to.table.clone(),
                column: to.column.clone(),
                bound_here: rebinds(own, name),
                rebound: rebinds(own, name) || rebinds(other, name),
                adopts,
            });
            self.map_columns.push((source, target));
        }
    }

    fn key_column(&mut self, map: &str, key: &KeyColumn, of_source: bool) -> Option<&'a Column> {
        let given = self.given;
        let catalog = if of_source { given.source } else { given.target };
        let found = catalog.tables.get(&key.table);
        let column = found.and_then(|table| Some(&table.columns[table.column(&key.column)?]));
        if column.is_none() {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "NO_SUCH_COLUMN",
                    format!("the map {map} names a column that is not there, or that the role may not see"),
                )
                .table(&key.table)
                .column(&key.column)
                .remedy("correct the name in the transform, or check schema_version and the role's rights"),
            );
        }
        column
    }

    fn map(&mut self, frame: &Frame<'_>, name: &str) -> Option<usize> {
        let found = self.maps.iter().position(|map| map.name == name);
        if found.is_none() {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "NO_SUCH_MAP",
                    format!("the rule uses the map {name}, which the manifest does not declare"),
                )
                .table(&frame.table.name)
                .remedy("declare it in the manifest's `maps`"),
            );
        }
        found
    }

    /// A column whose values are keys of one side of a map.
    fn holds_key(&mut self, table: &TableName, column: &Column, key: Option<&Column>, map: usize) {
        let Some(key) = key else { return };
        if fit::misfit(column, key).is_some() && fit::misfit(key, column).is_some() {
            let what = format!(
                "the column's type {} is not that of the keys of map {}, {}",
                column.type_sql, self.maps[map].name, key.type_sql
            );
            self.problem(
                Problem::refuse(Blame::Artifact, "MAP_TYPE", what)
                    .table(table)
                    .column(&column.name)
                    .remedy("map another column, or make the types equal"),
            );
        }
    }

    /// What the rows of the frame's table depend on.
    pub(super) fn depends(&mut self, frame: &Frame<'_>) -> Dependence {
        let mut depends = Dependence::default();
        for mapped in every_mapped(frame.rule) {
            let (Some(map), Some(column)) = (self.map(frame, &mapped.0), self.source_column(frame, &mapped.1)) else {
                continue;
            };
            let key = MappedKey { map, column };
            if !depends.mapped.contains(&key) {
                self.holds_key(&frame.table.name, frame.columns[column], self.map_columns[map].0, map);
                depends.mapped.push(key);
            }
        }
        for related in &frame.rule.related {
            depends.related.extend(self.related(frame, related));
        }
        for bind in &frame.rule.bind {
            depends.binds.extend(self.pair(frame, bind));
        }
        let through = |pair: &BoundPair| depends.mapped.iter().any(|mapped| mapped.map == pair.map);
        if depends.binds.iter().any(through) {
            self.problem(
                Problem::refuse(
                    Blame::Artifact,
                    "KEY_CYCLE",
                    "the rule binds pairs of a map and maps its own rows through it",
                )
                .table(&frame.table.name)
                .remedy("copy the bound columns instead of mapping them"),
            );
        }
        if (depends.is_any() || self.is_related(&frame.table.name)) && frame.table.row_key().is_empty() {
            self.problem(
                Problem::refuse(
                    Blame::Source,
                    "NO_KEY",
                    "rows that depend on others, or that others depend on, need a key to be told apart by",
                )
                .table(&frame.table.name)
                .remedy(format!("ALTER TABLE {} ADD PRIMARY KEY (...)", frame.table.name.sql())),
            );
        }
        let rebound = depends.mapped.iter().any(|mapped| self.maps[mapped.map].bound_here);
        if rebound || !depends.related.is_empty() {
            depends.mirror = Some((0..frame.columns.len()).collect());
        }
        depends
    }

    fn source_column(&mut self, frame: &Frame<'_>, name: &str) -> Option<usize> {
        let found = frame.column(name);
        if found.is_none() {
            self.missing_source_column(frame, name);
        }
        found
    }

    fn pair(&mut self, frame: &Frame<'_>, bind: &manifest::Bind) -> Option<BoundPair> {
        let map = self.map(frame, &bind.map)?;
        let (source_key, target_key) = match self.maps[map].source_is_blue {
            true => (&bind.blue, &bind.green),
            false => (&bind.green, &bind.blue),
        };
        let (source_key, target_key) = (self.source_column(frame, source_key)?, self.source_column(frame, target_key)?);
        let (source, target) = self.map_columns[map];
        self.holds_key(&frame.table.name, frame.columns[source_key], source, map);
        self.holds_key(&frame.table.name, frame.columns[target_key], target, map);
        Some(BoundPair { map, source_key, target_key })
    }

    fn related(&mut self, frame: &Frame<'_>, related: &manifest::Related) -> Option<RelatedTable> {
        let given = self.given;
        let refuse =
            |what: &str| Problem::refuse(Blame::Artifact, "BAD_RELATED", what.to_owned()).table(&frame.table.name);
        let Some(other) = given.source.tables.get(&related.table).filter(|_| related.table != frame.table.name) else {
            let what = format!(
                "rows of {} cannot be related: it is not there, not visible, or the rule's own table",
                related.table
            );
            self.problem(refuse(&what).remedy("name another table of the source"));
            return None;
        };
        let columns: Vec<&Column> = other.columns.iter().filter(|column| !column.generated).collect();
        let position = |name: &str| columns.iter().position(|column| column.name == name);
        let mut missing = Vec::new();
        let mut find = |name: &str| {
            let found = position(name);
            missing.extend(found.is_none().then(|| name.to_owned()));
            found
        };
        let on: Vec<(&String, Option<usize>)> = related.on.iter().map(|(own, theirs)| (own, find(theirs))).collect();
        let handed = related.columns.iter().filter_map(|asked| Some((find(asked.name())?, asked.as_text()))).collect();
        for name in missing {
            let what = format!("the related table {} has no column {name}", related.table);
            self.problem(refuse(&what).remedy("correct the transform's `related`"));
        }
        if on.is_empty() {
            self.problem(refuse("`related` names no columns to find rows by").remedy("fill its `on`"));
        }
        let on = on.into_iter().filter_map(|(own, theirs)| Some((self.source_column(frame, own)?, theirs?))).collect();
        Some(RelatedTable { table: related.table.clone(), source: usize::MAX, on, columns: handed })
    }

    /// Counter-examples 4, 7: what changed, and what a row was written as, is only known from whole old rows.
    pub(super) fn check_full(&mut self, frame: &Frame<'_>) {
        let related = self.is_related(&frame.table.name);
        let patches = frame.rule.outputs.iter().any(|output| output.write == Write::Patch);
        if frame.table.identity != ReplicaIdentity::Full && (frame.depends.is_any() || patches || related) {
            let remedy = self.given.source.full_identity(&frame.table.name);
            self.problem(
                Problem::refuse(Blame::Source, "NEEDS_FULL_IDENTITY", "key maps, related rows and patches need whole old rows, which the table's replica identity does not send")
                    .table(&frame.table.name)
                    .remedy(remedy),
            );
        }
    }

    /// Whether a rule asks for rows of the table.
    pub(super) fn is_related(&self, table: &TableName) -> bool {
        self.given.rules.iter().flat_map(|rule| &rule.related).any(|related| related.table == *table)
    }
}

/// Every mapped key of a rule, in the order of the outputs.
fn every_mapped(rule: &manifest::Rule) -> impl Iterator<Item = &Mapped> {
    rule.outputs.iter().flat_map(|output| {
        let matched = output.matching.values().filter_map(|matched| match matched {
            manifest::Matched::Mapped(mapped) => Some(mapped),
            manifest::Matched::Column(_) => None,
        });
        output.mapped.values().chain(matched)
    })
}

/// Gives related tables their positions and mirrors. To be called once the sources stand in their order.
pub(super) fn resolve_related(plan: &mut Plan) {
    for at in 0..plan.sources.len() {
        for number in 0..plan.sources[at].depends.related.len() {
            let related = plan.sources[at].depends.related[number].clone();
            let Some(source) = plan.by_name.get(&related.table).copied() else { continue };
            plan.sources[at].depends.related[number].source = source;
            let other = &mut plan.sources[source];
            let wanted =
                related.on.iter().map(|(_, theirs)| *theirs).chain(related.columns.iter().map(|(column, _)| *column));
            let mut columns: Vec<usize> = wanted.chain(other.key.iter().copied()).collect();
            columns.extend(other.depends.mirror.iter().flatten());
            columns.sort_unstable();
            columns.dedup();
            other.depends.mirror = Some(columns);
        }
    }
}

/// The table that holds the mirrors, as a target like any other: its rows are operations of the same transaction (L2).
pub(super) fn mirror_target() -> Target {
    let column = |(name, sql, base_oid): &(&str, &str, u32)| TargetColumn {
        name: (*name).into(),
        type_sql: (*sql).into(),
        cast_sql: (*sql).into(),
        base_oid: *base_oid,
        case: Case::Text,
        generated: false,
    };
    Target {
        name: mirror_table(),
        columns: MIRROR_COLUMNS.iter().map(column).collect(),
        key: (0..MIRROR_KEY as u16).collect::<Vec<_>>().as_slice().into(),
        uniques: Vec::new(),
        cascades: false,
        acts: false,
        shared: false,
        identity_always: [].into(),
        internal: true,
    }
}
