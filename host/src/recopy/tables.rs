//! Which source tables a repair looks at.

use crate::manifest::Write;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Outcome, Problem};

/// The tables that are looked at, and those that are left alone.
pub(super) struct Tables {
    /// Positions in the plan.
    pub(super) sources: Vec<usize>,
    /// Names, and why.
    pub(super) left_out: Vec<(String, String)>,
}

/// Those whose rows stand for rows of their own and depend on nothing else; only the one that is named, if one is.
pub(super) fn wanted(plan: &Plan, named: Option<&str>) -> Outcome<Tables> {
    let is_named =
        |source: &Source| named.is_none_or(|named| source.name.to_string() == named || source.name.table == named);
    let mut tables = Tables { sources: Vec::new(), left_out: Vec::new() };
    // Parents first, as in a copy: a row that only this revision makes may be one.
    let mut order: Vec<usize> = (0..plan.sources.len()).collect();
    order.sort_by_key(|index| plan.sources[*index].copy_level);
    for index in order {
        let source = &plan.sources[index];
        if source.rule.outputs.is_empty() || !is_named(source) {
            continue;
        }
        match unfit(source) {
            None => tables.sources.push(index),
            Some(why) => tables.left_out.push((source.name.to_string(), why.to_owned())),
        }
    }
    match (named, tables.sources.as_slice(), tables.left_out.first()) {
        (Some(named), [], None) => {
            Err(Problem::refuse(Blame::Config, "NO_SUCH_TABLE", format!("no rows of a source table {named} are moved"))
                .remedy("name a table of the link's source; `falkirk check` lists them"))
        }
        (Some(_), [], Some((table, why))) => {
            Err(Problem::refuse(Blame::Config, "TABLE_DEPENDS", format!("{table} cannot be mended: {why}"))
                .remedy("its rows are compared by `falkirk verify`; `falkirk clean` and `falkirk run` copy them anew"))
        }
        (Some(named), [_, _, ..], _) => {
            Err(Problem::refuse(Blame::Config, "NO_SUCH_TABLE", format!("there are several tables {named}"))
                .remedy("name it with its schema"))
        }
        _ => Ok(tables),
    }
}

/// Whether a repair looks at every table from which rows travel.
pub fn looks_at_all(plan: &Plan) -> bool {
    plan.sources.iter().filter(|source| !source.rule.outputs.is_empty()).all(|source| unfit(source).is_none())
}

fn unfit(source: &Source) -> Option<&'static str> {
    if source.depends.is_any() {
        return Some("its rows depend on key maps or related rows, or others depend on them");
    }
    let others = source.rule.outputs.iter().any(|output| output.write != Write::Own);
    others.then_some("its rows are ensured in, or patched into, rows of others")
}
