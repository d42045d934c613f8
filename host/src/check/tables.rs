//! What the tables must allow: rights, no hidden rows, no triggers that would act twice, an empty target before the copy.

use crate::catalog::{Catalog, ForeignKey, Identity, ReplicaIdentity, Table};
use crate::manifest::Write;
use crate::names::{TableName, quote_name};
use crate::plan::{Filling, Plan};
use crate::problem::{Blame, Problem};

use super::{Findings, Given};

pub(super) fn check(given: &Given<'_>, plan: &Plan, findings: &mut Findings) {
    let mut problems = Vec::new();
    let source_role = &findings.source_facts.role;
    for table in plan.sources.iter().filter_map(|source| findings.source.tables.get(&source.name)) {
        if !table.rights.select {
            problems.push(denied(Blame::Source, table, "SELECT", source_role));
        }
        hidden_rows(Blame::Source, table, source_role, &mut problems);
        virtual_columns(table, &mut problems);
    }
    for table in plan.targets.iter().filter_map(|target| findings.target.tables.get(&target.name)) {
        target_table(given, table, &findings.target_facts.role, &mut problems, &mut findings.warnings);
        cascades(table, plan, &mut problems, &mut findings.warnings);
    }
    deferrable_uniques(plan, &findings.source, &findings.target, &mut problems);
    without_full_identity(plan, &findings.source, &mut findings.warnings);
    identities_that_take_no_update(plan, &findings.source, &mut findings.warnings);
    findings.problems.extend(problems);
}

fn denied(blame: Blame, table: &Table, right: &str, role: &str) -> Problem {
    Problem::refuse(blame, "PERMISSION_DENIED", format!("the role {role} lacks {right}"))
        .table(&table.name)
        .remedy(format!("GRANT {right} ON {} TO {};", table.name.sql(), quote_name(role)))
}

/// Pitfall 57, row 57: hidden rows would be lost without a word, so they are an error instead (`row_security = off`).
fn hidden_rows(blame: Blame, table: &Table, role: &str, problems: &mut Vec<Problem>) {
    if table.row_security {
        problems.push(
            Problem::refuse(blame, "ROW_SECURITY", format!("row-level security hides rows from the role {role}"))
                .table(&table.name)
                .remedy(format!(
                    "ALTER ROLE {} BYPASSRLS; or ALTER TABLE {} DISABLE ROW LEVEL SECURITY;",
                    quote_name(role),
                    table.name.sql()
                )),
        );
    }
}

/// PostgreSQL publishes no virtual column, and refuses the application's own updates of a published table that has one
/// under full identity (42P10).
fn virtual_columns(table: &Table, problems: &mut Vec<Problem>) {
    let column = table.columns.iter().find(|column| column.is_virtual);
    if let Some(column) = column.filter(|_| table.identity == ReplicaIdentity::Full) {
        let what = "a table with a virtual generated column cannot be published with REPLICA IDENTITY FULL: its own \
                    application could no longer update it";
        let problem = Problem::refuse(Blame::Source, "VIRTUAL_COLUMN", what).table(&table.name).column(&column.name);
        problems.push(
            problem.remedy(format!(
                "ALTER TABLE {} REPLICA IDENTITY DEFAULT; or make the column STORED",
                table.name.sql()
            )),
        );
    }
}

fn target_table(given: &Given<'_>, table: &Table, role: &str, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let rights = &table.rights;
    let needed =
        [("SELECT", rights.select), ("INSERT", rights.insert), ("UPDATE", rights.update), ("DELETE", rights.delete)];
    for (right, _) in needed.iter().filter(|(_, held)| !held) {
        problems.push(denied(Blame::Target, table, right, role));
    }
    if !rights.truncate {
        warnings.push(format!(
            "{}: the role {role} may not TRUNCATE it: a truncate on the source would stop the link",
            table.name
        ));
    }
    hidden_rows(Blame::Target, table, role, problems);
    let allowed = given.settings.allow_triggers.contains(&table.name);
    if !table.triggers.is_empty() && !allowed {
        let name = table.name.sql();
        problems.push(
            Problem::refuse(Blame::Target, "TARGET_TRIGGERS", format!("triggers would fire for every row that the link writes: {}", table.triggers.join(", ")))
                .table(&table.name)
                .remedy(format!(
                    "ALTER TABLE {name} DISABLE TRIGGER USER; until the target's release starts, or list the table in [tables] allow_triggers if they may fire"
                )),
        );
    }
    if !table.triggers.is_empty() && allowed {
        warnings.push(format!("{}: triggers fire for what the link writes: {}", table.name, table.triggers.join(", ")));
        if given.settings.two_way() && given.copies && given.started_with.is_none() {
            warnings.push(format!(
                "{}: what its triggers write elsewhere while existing rows are copied stays on this side; what they \
                 write later travels",
                table.name
            ));
        }
    }
}

/// What the target's own foreign keys would do beside the link.
fn cascades(table: &Table, plan: &Plan, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let key = table.row_key();
    let written = |name: &TableName| plan.targets.iter().any(|target| target.name == *name);
    for foreign_key in table.foreign_keys.iter().filter(|foreign_key| written(&foreign_key.parent)) {
        let in_key = foreign_key.columns.iter().any(|column| key.contains(column));
        if foreign_key.on_update == 'c' && in_key {
            problems.push(
                Problem::refuse(
                    Blame::Target,
                    "CASCADE_OF_KEY",
                    format!("{} changes this table's key when a key of {} changes, beside the link, which changes it as well", foreign_key.name, foreign_key.parent),
                )
                .table(&table.name)
                .remedy(format!(
                    "make {} ON UPDATE NO ACTION DEFERRABLE INITIALLY DEFERRED in the target: the link brings both rows in one transaction",
                    foreign_key.name
                )),
            );
        }
        warnings.extend(deeds(table, foreign_key));
    }
}

/// Everything that a foreign key of the target does by itself when the link writes a parent (L7).
fn deeds(table: &Table, foreign_key: &ForeignKey) -> Vec<String> {
    let ForeignKey { name, parent, on_delete, on_update, .. } = foreign_key;
    let columns = foreign_key.columns.iter().map(|column| table.columns[*column].name.as_str());
    let columns = columns.collect::<Vec<_>>().join(", ");
    let own = "what the source does not do as well is this side's own change";
    let deleted = match on_delete {
        'c' => Some(format!("deletes its rows together with those of {parent}; the link takes that for agreement")),
        'n' => Some(format!("sets {columns} to NULL where a row of {parent} is deleted; {own}")),
        'd' => Some(format!("sets {columns} to its default where a row of {parent} is deleted; {own}")),
        _ => None,
    };
    let updated = match on_update {
        'c' => Some(format!("carries a changed key of {parent} into {columns}; {own}")),
        'n' => Some(format!("sets {columns} to NULL where a key of {parent} changes; {own}")),
        'd' => Some(format!("sets {columns} to its default where a key of {parent} changes; {own}")),
        _ => None,
    };
    let said = [deleted, updated].into_iter().flatten();
    said.map(|deed| format!("{}: {name} {deed}", table.name)).collect()
}

/// Pitfall 54: a swap that the source may make inside a transaction must be legal in the target as well.
fn deferrable_uniques(plan: &Plan, source: &Catalog, target: &Catalog, problems: &mut Vec<Problem>) {
    for bound in &plan.sources {
        let Some(from) = source.tables.get(&bound.name) else { continue };
        for unique in from.uniques.iter().filter(|unique| unique.deferrable && !unique.columns.is_empty()) {
            for output in &bound.rule.outputs {
                let copied = |column: &usize| {
                    let name = &from.columns[*column].name;
                    let source = bound.columns.iter().position(|column| column.name == *name)?;
                    output.copied.iter().find(|(from, _)| *from == source).map(|(_, to)| usize::from(*to))
                };
                let Some(columns) = unique.columns.iter().map(copied).collect::<Option<Vec<usize>>>() else { continue };
                let Some(to) = target.tables.get(&plan.targets[output.target].name) else { continue };
                let same = |other: &&crate::catalog::Unique| !other.deferrable && same_set(&other.columns, &columns);
                if let Some(strict) = to.uniques.iter().find(same) {
                    problems.push(
                        Problem::refuse(
                            Blame::Target,
                            "UNIQUE_NOT_DEFERRABLE",
                            format!("the source's {} may be checked at the end of a transaction, the target's {} may not: a swap of values would fail", unique.name, strict.name),
                        )
                        .table(&to.name)
                        .remedy(format!(
                            "recreate it in the target: ALTER TABLE {0} DROP CONSTRAINT \"{1}\", ADD CONSTRAINT \"{1}\" UNIQUE (...) DEFERRABLE;",
                            to.name.sql(),
                            strict.name
                        )),
                    );
                }
            }
        }
    }
}

fn same_set(a: &[usize], b: &[usize]) -> bool {
    a.len() == b.len() && a.iter().all(|column| b.contains(column))
}

/// Pitfall 25: an identity column that is GENERATED ALWAYS takes rows but no update, so the link would stop at the first
/// change of such a value. Where the source's own column is like that, its application cannot change the value either.
fn identities_that_take_no_update(plan: &Plan, source: &Catalog, warnings: &mut Vec<String>) {
    for bound in &plan.sources {
        let fixed = |cell: usize| {
            let column = bound.columns.get(cell).and_then(|column| {
                source.tables.get(&bound.name)?.columns.iter().find(|other| other.name == column.name)
            });
            column.is_some_and(|column| column.identity == Identity::Always)
        };
        for output in bound.rule.outputs.iter().filter(|output| output.write != Write::Ensure) {
            let target = &plan.targets[output.target];
            let updated = |column: &u16| {
                let filled = output.columns.iter().position(|other| other == column);
                let by = filled.map(|at| output.filled_by[at]);
                let moves_on = target.key.contains(column) && !output.follows_source;
                by.is_some_and(|by| !moves_on && !matches!(by, Filling::Copied(cell) if fixed(cell)))
            };
            let columns: Vec<u16> = target.identity_always.iter().copied().filter(updated).collect();
            for column in &columns {
                let name = &target.columns[usize::from(*column)].name;
                warnings.push(format!(
                    "{}: column {name} is GENERATED ALWAYS AS IDENTITY and takes no update: the link would stop where \
                     the source changes a value of it. To let it take one: {} (a short exclusive lock, no row is \
                     rewritten, and SET GENERATED ALWAYS brings it back once nothing is streamed into it)",
                    target.name,
                    target.by_default_sql(&[*column])
                ));
            }
        }
    }
}

fn without_full_identity(plan: &Plan, catalog: &Catalog, warnings: &mut Vec<String>) {
    for source in plan.sources.iter().filter(|source| !source.full_identity && source.rule.guest_table.is_some()) {
        warnings.push(format!(
            "{}: without REPLICA IDENTITY FULL every update writes all columns of its outputs, also where the target's own release has corrected one (L6). \
             To send old rows: {}",
            source.name,
            catalog.full_identity(&source.name)
        ));
    }
}

/// Row 80 of the pitfalls: a copy into rows that are there already would double or mix them.
pub(super) async fn check_empty(given: &Given<'_>, plan: &Plan, findings: &mut Findings) -> Result<(), Problem> {
    for target in &plan.targets {
        let readable =
            findings.target.tables.get(&target.name).is_some_and(|table| table.rights.select && !table.row_security);
        if !readable {
            continue;
        }
        let row = given.target.one(&format!("SELECT EXISTS (SELECT FROM {})", target.name.sql())).await?;
        if row.flag(0)? {
            findings.problems.push(
                Problem::refuse(Blame::Target, "TARGET_NOT_EMPTY", "the table has rows before the first copy")
                    .table(&target.name)
                    .remedy(format!(
                        "TRUNCATE {}; if they are leftovers, or exclude the table in [tables]",
                        target.name.sql()
                    )),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l7_counter_example_12_every_action_of_a_foreign_key_is_listed() {
        let table = Table::of_text("child", &["id", "parent_id"], 0..1);
        let listed = |on_delete: char, on_update: char| {
            let parent = TableName::new("public", "parent");
            let key = ForeignKey {
                name: "child_fkey".into(),
                columns: vec![1],
                parent,
                parent_columns: vec!["id".into()],
                deferrable: false,
                on_delete,
                on_update,
            };
            deeds(&table, &key)
        };
        assert!(listed('a', 'r').is_empty());
        for (delete, update, said) in [
            ('c', 'a', "deletes its rows together with those of public.parent"),
            ('n', 'a', "sets parent_id to NULL where a row of public.parent is deleted"),
            ('d', 'a', "sets parent_id to its default where a row of public.parent is deleted"),
            ('a', 'c', "carries a changed key of public.parent into parent_id"),
            ('a', 'n', "sets parent_id to NULL where a key of public.parent changes"),
            ('a', 'd', "sets parent_id to its default where a key of public.parent changes"),
        ] {
            let listed = listed(delete, update);
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert!(listed[0].starts_with(&format!("public.child: child_fkey {said}")), "{listed:?}");
        }
        assert_eq!(listed('n', 'c').len(), 2);
    }
}
