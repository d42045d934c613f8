//! The publication: it must exist before the slot (pitfalls 16 and 17) and must carry every table, every kind of change
//! and every column.

use crate::catalog::TableKind;
use crate::names::quote_name;
use crate::pg::facts;
use crate::plan::{Plan, Source};
use crate::problem::{Blame, Problem};

use super::{Findings, Given};

/// The statement that makes the link's publication. Changes of partitions are sent under the root's name.
pub fn create_sql(name: &str, plan: &Plan, version_num: u32) -> String {
    let tables: Vec<String> = plan.sources.iter().map(|source| source.name.sql()).collect();
    let generated = if sends_generated(plan, version_num) { ", publish_generated_columns = stored" } else { "" };
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true{generated})",
        quote_name(name),
        tables.join(", ")
    )
}

/// From PostgreSQL 18 on, the application's own updates of a table with full identity fail (42P10) unless the publication
/// sends its stored generated columns. Nobody reads them.
fn sends_generated(plan: &Plan, version_num: u32) -> bool {
    let needs = |source: &Source| source.full_identity && !source.generated.is_empty();
    version_num >= 180_000 && plan.sources.iter().any(needs)
}

pub(super) async fn check(given: &Given<'_>, plan: &Plan, findings: &mut Findings) -> Result<(), Problem> {
    let name = given.settings.slot();
    let version_num = given.source.server_version_num();
    let refuse = |code, what: String| Problem::refuse(Blame::Source, code, what);
    let found = facts::publication(given.source, &name).await?;
    lone_partitions(plan, findings, found.as_ref().is_none_or(|publication| publication.via_root));
    let Some(publication) = found else {
        if given.started_with.is_some() {
            findings.problems.push(
                refuse("PUBLICATION_MISSING", format!("the publication {name} is gone; making it anew would not bring back the changes since (pitfall 16)"))
                    .remedy("`falkirk clean`, then `falkirk run` copies anew"),
            );
            return Ok(());
        }
        findings.problems.extend(not_owned(findings, plan, (&name, version_num)));
        return Ok(());
    };
    let missing: Vec<String> = plan
        .sources
        .iter()
        .filter(|source| !publication.all_tables && !carries(&publication, findings, &source.name))
        .map(|source| source.name.sql())
        .collect();
    if !missing.is_empty() {
        findings.problems.push(
            refuse("PUBLICATION_TABLES", format!("the publication {name} does not carry {}", missing.join(", ")))
                .remedy(format!(
                    "before the first start: ALTER PUBLICATION {} ADD TABLE {};",
                    quote_name(&name),
                    missing.join(", ")
                )),
        );
    }
    let kinds = [publication.insert, publication.update, publication.delete, publication.truncate];
    if kinds.contains(&false) || plan.sources.iter().any(|source| publication.filtered.contains(&source.name)) {
        findings.problems.push(
            refuse(
                "PUBLICATION_FILTERS",
                format!("the publication {name} leaves out rows, columns or kinds of changes"),
            )
            .remedy(format!("drop it and let `falkirk run` make it, or: {};", create_sql(&name, plan, version_num))),
        );
    }
    if sends_generated(plan, version_num) && !publication.generated {
        findings.problems.push(lacks_generated(&name));
    }
    Ok(())
}

/// L3, pitfalls 20 and 21: what is done to one partition alone is not in the stream. Nobody can see it there, so it is
/// said before, by name.
fn lone_partitions(plan: &Plan, findings: &mut Findings, via_root: bool) {
    // Sent under its own name the truncate of a leaf is seen, and stops the link.
    let unseen = if via_root { "TRUNCATE, DETACH or DROP" } else { "DETACH or DROP" };
    for source in &plan.sources {
        let table = findings.source.tables.get(&source.name);
        if table.is_some_and(|table| table.kind == TableKind::Partitioned) {
            findings.warnings.push(format!(
                "{0}: what is done to one of its partitions alone is not in the stream: after {unseen} of a partition its \
                 rows stay in the target, and rows that come by ATTACH do not arrive. DELETE the rows first, or TRUNCATE \
                 {1}; insert new ones through it; afterwards `falkirk verify` shows what was missed",
                source.name,
                source.name.sql()
            ));
        }
    }
}

/// The publication is made at the first start, which only the tables' owner can do.
fn not_owned(findings: &Findings, plan: &Plan, (name, version_num): (&str, u32)) -> Option<Problem> {
    let not_owned = plan.sources.iter().filter(|source| {
        !findings.source_facts.superuser
            && findings.source.tables.get(&source.name).is_some_and(|table| !table.rights.own)
    });
    let not_owned: Vec<String> = not_owned.map(|source| source.name.to_string()).collect();
    if not_owned.is_empty() {
        return None;
    }
    let what = format!("the publication {name} does not exist, and the role does not own {}", not_owned.join(", "));
    let problem = Problem::refuse(Blame::Source, "PUBLICATION_MISSING", what);
    Some(problem.remedy(format!("let the tables' owner run: {};", create_sql(name, plan, version_num))))
}

fn lacks_generated(name: &str) -> Problem {
    let what = format!(
        "the publication {name} does not send generated columns: the application's own updates of tables with \
         REPLICA IDENTITY FULL fail as long as it is there"
    );
    Problem::refuse(Blame::Source, "PUBLICATION_GENERATED", what)
        .remedy(format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored);", quote_name(name)))
}

fn carries(publication: &facts::PublicationFacts, findings: &Findings, table: &crate::names::TableName) -> bool {
    if publication.tables.contains(table) || publication.sends.contains(table) {
        return true;
    }
    let mut leaves = findings.source.tables.values().filter(|leaf| leaf.root.as_ref() == Some(table)).peekable();
    leaves.peek().is_some()
        && leaves.all(|leaf| publication.sends.contains(&leaf.name) || leaf.kind == TableKind::Partitioned)
}
