//! What each step does to a row: its rule bound to the tables of the versions on either side of it, which no database
//! holds but the first and the last.

use std::collections::{BTreeMap, HashMap};

use super::Composed;
use super::flow::{Flow, Kind, Origin};
use crate::catalog::Catalog;
use crate::manifest::{self, Asked, Write};
use crate::names::TableName;
use crate::plan::chain::Chain;
use crate::plan::{Filling, Group, Output, Plan, Rule, Source, SourceColumn, Target, TargetColumn, fit};

type Tables = BTreeMap<TableName, BTreeMap<String, Kind>>;

/// Where a column's values come from, and of which table of the first version.
type Origins<'f> = Vec<(&'f Origin, &'f TableName)>;

/// The versions between the first and the last, as far as they are known.
pub(super) struct Between {
    source: Tables,
    /// After the first step, the second, and so on, without the last.
    versions: Vec<Tables>,
    /// The rules of each step.
    rules: Vec<Vec<manifest::Rule>>,
}

impl Between {
    pub(super) fn new(source: &Catalog) -> Self {
        let columns = |table: &crate::catalog::Table| {
            table.columns.iter().map(|column| (column.name.clone(), Kind::of_source(column))).collect()
        };
        let source = source.tables.iter().map(|(name, table)| (name.clone(), columns(table))).collect();
        Between { source, versions: Vec::new(), rules: Vec::new() }
    }

    /// Adds the next version: what the rows that come to it look like. `declared` says a column's type.
    pub(super) fn add(&mut self, flows: &[Flow], declared: &dyn Fn(&TableName, &str) -> Option<String>) {
        let mut origins: BTreeMap<&TableName, BTreeMap<&str, Origins<'_>>> = BTreeMap::new();
        for flow in flows {
            let table = origins.entry(&flow.table).or_default();
            for (name, held) in &flow.columns {
                table.entry(name).or_default().push((&held.origin, &flow.source));
            }
        }
        let kind = |table: &TableName, name: &str, origins: &[(&Origin, &TableName)]| {
            let kinds = origins.iter().map(|(origin, source)| match origin {
                Origin::Copied(column) => self.source.get(*source)?.get(column).cloned(),
                Origin::Computed { .. } => None,
            });
            Kind::of(kinds.collect(), declared(table, name).as_deref())
        };
        let tables = origins.iter().map(|(table, columns)| {
            let columns = columns.iter().map(|(name, origins)| ((*name).to_owned(), kind(table, name, origins)));
            ((*table).clone(), columns.collect())
        });
        let tables = tables.collect();
        self.versions.push(tables);
    }

    /// What is known of a column of the version that a step leads to.
    pub(super) fn kind(&self, step: usize, table: &TableName, column: &str) -> Option<&Kind> {
        self.versions.get(step)?.get(table)?.get(column)
    }

    pub(super) fn keep_rules<'r>(&mut self, rules: impl Iterator<Item = &'r [manifest::Rule]>) {
        self.rules = rules.map(<[manifest::Rule]>::to_vec).collect();
    }
}

impl Composed {
    /// What the steps do to a row, in turn. `plan` is what these rules were bound to.
    pub fn chain(&self, plan: &Plan) -> Chain {
        let between = &self.between;
        let steps = between.rules.iter().enumerate().map(|(step, rules)| {
            let targets = match between.versions.get(step) {
                Some(tables) => tables.iter().map(|(name, columns)| target(name, columns)).collect(),
                None => plan.targets.clone(),
            };
            let inputs: Vec<(TableName, Vec<SourceColumn>)> = match step.checked_sub(1) {
                None => plan.sources.iter().map(|source| (source.name.clone(), source.columns.clone())).collect(),
                Some(before) => {
                    let columns = |columns: &BTreeMap<String, Kind>| columns.iter().map(source_column).collect();
                    between.versions[before].iter().map(|(name, table)| (name.clone(), columns(table))).collect()
                }
            };
            step_plan(inputs, targets, rules)
        });
        let steps = steps.collect();
        Chain { steps, trails: self.trails.iter().map(|(table, trails)| (table.clone(), trails.clone())).collect() }
    }
}

fn source_column((name, kind): (&String, &Kind)) -> SourceColumn {
    SourceColumn {
        name: name.clone(),
        type_oid: 0,
        type_modifier: -1,
        type_sql: kind.type_sql.clone(),
        case: kind.case,
    }
}

fn target(name: &TableName, columns: &BTreeMap<String, Kind>) -> Target {
    let column = |(name, kind): (&String, &Kind)| TargetColumn {
        name: name.clone(),
        type_sql: kind.type_sql.clone(),
        cast_sql: kind.type_sql.clone(),
        // Nobody reads it but the last version's column, whose type decides.
        base_oid: if kind.undeclared { fit::oid::UNDECLARED } else { 0 },
        case: kind.case,
        generated: false,
    };
    Target {
        name: name.clone(),
        columns: columns.iter().map(column).collect(),
        key: [].into(),
        uniques: Vec::new(),
        cascades: false,
        acts: false,
        shared: false,
        identity_always: [].into(),
        internal: true,
    }
}

fn step_plan(inputs: Vec<(TableName, Vec<SourceColumn>)>, targets: Vec<Target>, rules: &[manifest::Rule]) -> Plan {
    let by_name: HashMap<TableName, usize> =
        inputs.iter().enumerate().map(|(number, (name, _))| (name.clone(), number)).collect();
    let source = |(name, columns): (TableName, Vec<SourceColumn>)| {
        let rule = rules.iter().find(|rule| rule.table == name);
        let rule = rule.map_or_else(|| as_it_is(&name, &columns, &targets), |rule| bound(rule, &columns, &targets));
        Source {
            name,
            columns,
            generated: Vec::new(),
            key: Vec::new(),
            full_identity: true,
            identity_key: Vec::new(),
            copy_level: 0,
            refers_to_itself: false,
            rule,
            depends: Default::default(),
            size_bytes: 0,
            rows_estimate: 0.0,
        }
    };
    let sources = inputs.into_iter().map(source).collect();
    Plan {
        sources,
        targets,
        by_name,
        oids: HashMap::new(),
        left_out: Vec::new(),
        maps: Vec::new(),
        mirror: None,
        chain: None,
    }
}

fn as_it_is(table: &TableName, columns: &[SourceColumn], targets: &[Target]) -> Rule {
    let target = targets.iter().position(|target| target.name == *table);
    let outputs = target.map(|index| output(index, same_named(columns, &targets[index], &[])));
    Rule { guest_table: None, asked: Vec::new(), outputs: outputs.into_iter().collect() }
}

fn same_named(columns: &[SourceColumn], target: &Target, taken: &[u16]) -> Vec<(usize, u16)> {
    let both = |(number, column): (usize, &SourceColumn)| Some((number, position(target, &column.name)?));
    let own = columns.iter().enumerate().filter_map(both);
    own.filter(|(_, to)| !taken.contains(to) && !target.columns[usize::from(*to)].generated).collect()
}

fn position(target: &Target, name: &str) -> Option<u16> {
    let position = target.columns.iter().position(|column| column.name == name)?;
    u16::try_from(position).ok()
}

/// A rule of one step. Its names have been checked when the steps were composed and the composed rules bound.
fn bound(rule: &manifest::Rule, columns: &[SourceColumn], targets: &[Target]) -> Rule {
    let from = |name: &str| columns.iter().position(|column| column.name == name);
    let outputs: Vec<Output> = rule
        .outputs
        .iter()
        .map(|declared| {
            let Some(index) = targets.iter().position(|target| target.name == declared.table) else {
                // Nothing of it goes on.
                return output(usize::MAX, Vec::new());
            };
            let target = &targets[index];
            let to = |name: &String| position(target, name);
            let copied = declared.copied.iter().filter_map(|(name, source)| Some((from(source)?, to(name)?)));
            let mut copied: Vec<(usize, u16)> = copied.collect();
            let mut computed = Vec::new();
            let mut groups = Vec::new();
            for group in &declared.computed {
                let start = computed.len();
                computed.extend(group.to.iter().filter_map(to));
                groups.push(Group { from: Vec::new(), values: start..computed.len() });
            }
            if declared.same_named {
                let mut taken = computed.clone();
                taken.extend(declared.copied.keys().filter_map(to));
                copied.extend(same_named(columns, target, &taken));
            }
            Output {
                groups,
                computed,
                when: declared.when.as_ref().map(|_| Vec::new()),
                many: declared.many,
                ..output(index, copied)
            }
        })
        .collect();
    let calls_guest = outputs.iter().any(Output::needs_guest);
    Rule {
        guest_table: calls_guest.then(|| rule.table.to_string()),
        asked: rule.columns.iter().filter_map(|asked: &Asked| Some((from(asked.name())?, asked.as_text()))).collect(),
        outputs,
    }
}

/// An output that copies. What only writing needs is left out: nothing is ever written from it.
fn output(target: usize, copied: Vec<(usize, u16)>) -> Output {
    let columns: Vec<u16> = copied.iter().map(|(_, to)| *to).collect();
    Output {
        target,
        write: Write::Own,
        filled_by: copied.iter().map(|(from, _)| Filling::Copied(*from)).collect(),
        columns: columns.into(),
        copied,
        mapped: Vec::new(),
        needs: Vec::new(),
        groups: Vec::new(),
        computed: Vec::new(),
        key: Vec::new(),
        when: None,
        many: false,
        follows_source: true,
        on_delete_set: None,
        on_remove_null: false,
    }
}
