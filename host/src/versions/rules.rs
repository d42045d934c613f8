//! What manifests say that composing has to know, and the rules that come out of it.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use super::flow::{Flow, Origin};
use crate::manifest::{Asked, Follows, Group, OnDelete, Output, Rule, Write};
use crate::names::TableName;

/// What the manifests say of a column of a version: nothing, that it does not exist, or its type.
pub(super) fn declared<'a>(
    steps: &[Step<'a>],
    version: &str,
    table: &TableName,
    column: &str,
) -> Option<Option<&'a str>> {
    let said = |step: &Step<'a>| step.manifest.types.get(version)?.get(table)?.get(column);
    steps.iter().find_map(said).map(Option::as_deref)
}

/// Columns of a version of which two manifests say different things.
pub(super) fn clashes(steps: &[Step<'_>], version: &str) -> Vec<(TableName, String)> {
    let all = steps.iter().filter_map(|step| step.manifest.types.get(version)).flatten();
    let columns = all.flat_map(|(table, columns)| columns.iter().map(move |(column, said)| (table, column, said)));
    let differs = |(table, column, said): &(&TableName, &String, &Option<String>)| {
        declared(steps, version, table, column) != Some(said.as_deref())
    };
    columns.filter(differs).map(|(table, column, _)| (table.clone(), column.clone())).collect()
}

/// What of a rule does not compose: it needs more than the row itself, or writes rows of others.
pub(super) fn uncomposable(rule: &Rule) -> Option<&'static str> {
    let outputs = || rule.outputs.iter();
    if !rule.related.is_empty() {
        return Some("related rows");
    }
    if !rule.bind.is_empty() {
        return Some("`bind`");
    }
    if outputs().any(|output| output.write == Write::Ensure) {
        return Some("`write: ensure`");
    }
    if outputs().any(|output| output.write == Write::Patch || !output.matching.is_empty()) {
        return Some("`write: patch`");
    }
    outputs().any(|output| !output.mapped.is_empty()).then_some("columns filled through a key map")
}

/// The rule of one table of the first version.
pub(super) fn rule_of(table: TableName, flows: &[Flow]) -> Rule {
    let outputs: Vec<Output> = flows.iter().map(output_of).collect();
    let read = outputs
        .iter()
        .flat_map(|output| output.computed.iter().flat_map(|group| &group.from).chain(output.when.iter().flatten()));
    let columns: BTreeSet<&String> = read.collect();
    let columns = columns.into_iter().cloned().map(Asked::Natural).collect();
    Rule { table, columns, related: Vec::new(), bind: Vec::new(), outputs }
}

fn output_of(flow: &Flow) -> Output {
    let mut copied = BTreeMap::new();
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (name, held) in &flow.columns {
        match &held.origin {
            Origin::Copied(column) => {
                copied.insert(name.clone(), column.clone());
            }
            Origin::Computed { unit, inputs, lossy, .. } => {
                let group = groups.entry(*unit).or_insert_with(|| Group {
                    from: inputs.iter().cloned().collect(),
                    related: Vec::new(),
                    to: Vec::new(),
                    lossy: *lossy,
                });
                group.to.push(name.clone());
            }
        }
    }
    Output {
        table: flow.table.clone(),
        write: Write::Own,
        shares: flow.shares,
        copied,
        same_named: false,
        computed: groups.into_values().collect(),
        when: flow.when.as_ref().map(|columns| columns.iter().cloned().collect()),
        many: flow.many,
        follows: flow.keyed_at.filter(|_| !flow.many).map(|_| Follows::Key),
        on_delete: flow.marks.clone().map_or(OnDelete::Delete, OnDelete::Set),
        mapped: BTreeMap::new(),
        matching: BTreeMap::new(),
        on_remove: None,
    }
}
