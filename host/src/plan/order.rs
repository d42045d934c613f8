//! The order of the targets: a foreign key's parent before its children (counter-examples 15, 16).
//!
//! Copy fills tables in this order, and a set-wise batch inserts along it and deletes against it.

use std::collections::BTreeMap;

use crate::catalog::Catalog;
use crate::manifest::Write;
use crate::names::quote_name;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Problem};

/// Sorts the plan's targets, parents first, and its sources by the last of the targets they fill. Returns a problem
/// for each cycle of foreign keys between different tables: no order of copying satisfies one.
pub fn parents_first(plan: &mut Plan, catalog: &Catalog) -> Vec<Problem> {
    let mut waiting: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (id, target) in plan.targets.iter().enumerate() {
        let foreign_keys = catalog.tables.get(&target.name).map(|table| table.foreign_keys.as_slice()).unwrap_or(&[]);
        let parent = |name: &crate::names::TableName| plan.targets.iter().position(|target| target.name == *name);
        let parents = foreign_keys.iter().filter_map(|key| parent(&key.parent)).filter(|parent| *parent != id);
        waiting.insert(id, parents.collect());
    }
    let mut order: Vec<usize> = Vec::new();
    let mut levels = vec![0; plan.targets.len()];
    let mut level = 0;
    let mut problems = Vec::new();
    while !waiting.is_empty() {
        let ready: Vec<usize> = waiting
            .iter()
            .filter(|(_, parents)| parents.iter().all(|id| order.contains(id)))
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            problems.push(cycle(plan, catalog, &waiting));
            break;
        }
        for id in ready {
            waiting.remove(&id);
            order.push(id);
            levels[id] = level;
        }
        level += 1;
    }
    order.extend(waiting.into_keys());
    for source in &mut plan.sources {
        source.copy_level = source.rule.outputs.iter().map(|output| levels[output.target]).max().unwrap_or(0);
    }
    problems.extend(depended_on_first(plan));
    renumber(plan, &order);
    problems
}

/// Raises the copy levels until rows that others depend on are copied before: the owners of patched rows, tables that
/// bind pairs, related tables (counter-examples 4 and 6). A problem where no order does.
fn depended_on_first(plan: &mut Plan) -> Option<Problem> {
    let owns = |source: &Source, target: usize| {
        source.rule.outputs.iter().any(|output| output.write == Write::Own && output.target == target)
    };
    let needs = |one: &Source, other: &Source| {
        let outputs = &one.rule.outputs;
        let patches = outputs.iter().any(|output| output.write == Write::Patch && owns(other, output.target));
        let bound = |map: usize| other.depends.binds.iter().any(|bound| bound.map == map);
        let maps = one.depends.mapped.iter().any(|mapped| bound(mapped.map));
        patches || maps || one.depends.related.iter().any(|related| related.table == other.name)
    };
    let count = plan.sources.len();
    let others: Vec<Vec<usize>> = plan
        .sources
        .iter()
        .map(|one| {
            (0..count)
                .filter(|other| plan.sources[*other].name != one.name && needs(one, &plan.sources[*other]))
                .collect()
        })
        .collect();
    for _ in 0..=count {
        let mut raised = None;
        for (at, others) in others.iter().enumerate() {
            let least = others.iter().map(|other| plan.sources[*other].copy_level + 1).max().unwrap_or(0);
            if plan.sources[at].copy_level < least {
                plan.sources[at].copy_level = least;
                raised = Some(at);
            }
        }
        raised?;
    }
    let on_cycle = (0..count).find(|at| !others[*at].is_empty())?;
    Some(
        Problem::refuse(
            Blame::Artifact,
            "KEY_CYCLE",
            "rules need each other's rows (patches, bound keys, related rows): no order of copying satisfies them",
        )
        .table(&plan.sources[on_cycle].name)
        .remedy("take one of the dependences out of the transform"),
    )
}

fn renumber(plan: &mut Plan, order: &[usize]) {
    let mut new_of = vec![0; order.len()];
    order.iter().enumerate().for_each(|(new, old)| new_of[*old] = new);
    plan.targets = order.iter().map(|old| plan.targets[*old].clone()).collect();
    for source in &mut plan.sources {
        source.rule.outputs.iter_mut().for_each(|output| output.target = new_of[output.target]);
    }
    plan.sources.sort_by_key(|source| (source.copy_level, source.name.clone()));
}

fn cycle(plan: &Plan, catalog: &Catalog, waiting: &BTreeMap<usize, Vec<usize>>) -> Problem {
    let on_cycle: Vec<&str> = waiting.keys().map(|id| plan.targets[*id].name.table.as_str()).collect();
    let mut mend = Vec::new();
    for target in waiting.keys().map(|id| &plan.targets[*id]) {
        let Some(table) = catalog.tables.get(&target.name) else { continue };
        for key in table.foreign_keys.iter().filter(|key| on_cycle.contains(&key.parent.table.as_str())) {
            mend.push(format!("ALTER TABLE {} DROP CONSTRAINT {};", target.name.sql(), quote_name(&key.name)));
        }
    }
    Problem::refuse(
        Blame::Target,
        "FOREIGN_KEY_CYCLE",
        format!("foreign keys form a circle between {}: no order of copying satisfies them", on_cycle.join(", ")),
    )
    .remedy(format!(
        "drop one of them before the copy and add it again as NOT VALID, then VALIDATE it, after the copy: {}",
        mend.join(" ")
    ))
}
