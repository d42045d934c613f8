//! The publication: it must exist before the slot (pitfalls 16 and 17) and must carry every table, every kind of change
//! and every column.

use crate::names::quote_name;
use crate::pg::facts;
use crate::plan::Plan;
use crate::problem::{Blame, Problem};

use super::{Findings, Given};

/// The statement that makes the link's publication. Changes of partitions are sent under the root's name.
pub fn create_sql(name: &str, plan: &Plan) -> String {
    let tables: Vec<String> = plan.sources.iter().map(|source| source.name.sql()).collect();
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        quote_name(name),
        tables.join(", ")
    )
}

pub(super) async fn check(given: &Given<'_>, plan: &Plan, findings: &mut Findings) -> Result<(), Problem> {
    let name = given.settings.slot();
    let refuse = |code, what: String| Problem::refuse(Blame::Source, code, what);
    let Some(publication) = facts::publication(given.source, &name).await? else {
        if given.started_with.is_some() {
            findings.problems.push(
                refuse("PUBLICATION_MISSING", format!("the publication {name} is gone; making it anew would not bring back the changes since (pitfall 16)"))
                    .remedy("`falkirk clean`, then `falkirk run` copies anew"),
            );
            return Ok(());
        }
        let not_owned = plan.sources.iter().filter(|source| {
            !findings.source_facts.superuser
                && findings.source.tables.get(&source.name).is_some_and(|table| !table.rights.own)
        });
        let not_owned: Vec<String> = not_owned.map(|source| source.name.to_string()).collect();
        if !not_owned.is_empty() {
            findings.problems.push(
                refuse(
                    "PUBLICATION_MISSING",
                    format!(
                        "the publication {name} does not exist, and the role does not own {}",
                        not_owned.join(", ")
                    ),
                )
                .remedy(format!("let the tables' owner run: {};", create_sql(&name, plan))),
            );
        }
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
            .remedy(format!("drop it and let `falkirk run` make it, or: {};", create_sql(&name, plan))),
        );
    }
    Ok(())
}

fn carries(publication: &facts::PublicationFacts, findings: &Findings, table: &crate::names::TableName) -> bool {
    if publication.tables.contains(table) || publication.sends.contains(table) {
        return true;
    }
    let mut leaves = findings.source.tables.values().filter(|leaf| leaf.root.as_ref() == Some(table)).peekable();
    leaves.peek().is_some()
        && leaves
            .all(|leaf| publication.sends.contains(&leaf.name) || leaf.kind == crate::catalog::TableKind::Partitioned)
}
