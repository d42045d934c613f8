//! What key maps need of the databases: a sequence that may be used, a place to keep pairs.

use crate::names::{quote_name, quote_text};
use crate::plan::Plan;
use crate::plan::keyed::Map;
use crate::problem::{Blame, Problem};

use super::{Findings, Given};

pub(super) async fn check(given: &Given<'_>, plan: &Plan, findings: &mut Findings) -> Result<(), Problem> {
    for map in plan.maps.iter().filter(|map| map.creates) {
        findings.problems.extend(sequence(given, map).await?);
    }
    let source = &findings.source_facts;
    if plan.maps.iter().any(|map| !map.kept_in_target) && !source.can_create && !source.superuser {
        let (database, role) = (quote_name(&source.database), quote_name(&source.role));
        let side = given.settings.source_name();
        findings.problems.push(
            Problem::refuse(
                Blame::Source,
                "PERMISSION_DENIED",
                format!(
                    "the role {} may not create a schema on {side}, where the pairs of a key map are kept",
                    source.role
                ),
            )
            .remedy(format!("GRANT CREATE ON DATABASE {database} TO {role};")),
        );
    }
    Ok(())
}

/// Keys are made by the column's default, and a default that draws from a sequence needs the right to do so.
async fn sequence(given: &Given<'_>, map: &Map) -> Result<Option<Problem>, Problem> {
    let sql = format!(
        "SELECT s, s IS NULL OR has_sequence_privilege(s, 'USAGE') \
         FROM pg_get_serial_sequence({}, {}) AS q(s)",
        quote_text(&map.table.sql()),
        quote_text(&map.column)
    );
    let row = given.target.one(&sql).await?;
    if row.flag(1)? {
        return Ok(None);
    }
    let name = row.get(0).unwrap_or_default();
    let problem = Problem::refuse(
        Blame::Target,
        "PERMISSION_DENIED",
        format!("the map {} makes keys from the sequence {name}, which the role may not use", map.name),
    );
    let remedy = format!("GRANT USAGE ON SEQUENCE {name} TO {};", quote_name(given.target.role()));
    Ok(Some(problem.table(&map.table).column(&map.column).remedy(remedy)))
}
