//! What both servers must be: versions, settings, rights of the roles, and not one and the same database.

use crate::pg::facts::ServerFacts;
use crate::problem::{Action, Blame, Problem};

use super::{Findings, Given};
use crate::names::quote_name;

const VERSION_LEAST: u32 = 140_000;
const VERSION_TESTED_MOST: u32 = 189_999;

pub(super) fn check(given: &Given<'_>, findings: &mut Findings) {
    let (source, target) = (&findings.source_facts, &findings.target_facts);
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    for (side, facts) in [(given.settings.source_name(), source), (given.settings.target_name(), target)] {
        if facts.version_num < VERSION_LEAST {
            problems.push(
                refuse(
                    "VERSION",
                    format!(
                        "{side} runs PostgreSQL {}; 14 is the oldest that sends markers",
                        facts.version_num / 10_000
                    ),
                )
                .remedy("upgrade the server"),
            );
        }
        if facts.version_num > VERSION_TESTED_MOST {
            warnings.push(format!(
                "{side} runs PostgreSQL {}, which is newer than what was tested",
                facts.version_num / 10_000
            ));
        }
        if facts.encoding == "SQL_ASCII" {
            problems.push(
                refuse("ENCODING", format!("{side} has the encoding SQL_ASCII: its text has no known letters"))
                    .remedy("use a database with the encoding UTF8"),
            );
        }
        if !facts.fsync {
            warnings.push(format!("{side} runs with fsync = off: after a crash nothing is certain (L1)"));
        }
    }
    if same_database(source, target) {
        problems.push(
            Problem::refuse(Blame::Config, "SAME_DATABASE", "blue and green are the same database")
                .remedy("correct the addresses in [blue] and [green]"),
        );
    }
    source_problems(given, source, &mut problems, &mut warnings);
    target_problems(given, target, &mut problems);
    findings.problems.extend(problems);
    findings.warnings.extend(warnings);
}

fn refuse(code: &'static str, what: String) -> Problem {
    Problem::refuse(Blame::Source, code, what)
}

/// Row 4.
fn same_database(source: &ServerFacts, target: &ServerFacts) -> bool {
    source.system_id.is_some() && source.system_id == target.system_id && source.database_oid == target.database_oid
}

fn source_problems(given: &Given<'_>, source: &ServerFacts, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let side = given.settings.source_name();
    if source.in_recovery {
        problems.push(
            refuse("STANDBY", format!("{side} is a standby: its slots can be lost at any moment (pitfall 76)"))
                .remedy(format!("name the primary in [{side}]")),
        );
    }
    if source.wal_level != "logical" {
        problems.push(
            refuse("WAL_LEVEL", format!("{side} has wal_level = {}", source.wal_level))
                .remedy("ALTER SYSTEM SET wal_level = 'logical'; then restart the server"),
        );
    }
    if !source.can_replicate && !source.superuser {
        problems.push(refuse("PERMISSION_DENIED", format!("the role {} may not replicate", source.role)).remedy(
            format!(
                "ALTER ROLE {} REPLICATION; (on managed services, grant the service's own replication role)",
                quote_name(&source.role)
            ),
        ));
    }
    // Besides the link's own slot the copy holds a temporary one.
    let wanted = if given.started_with.is_none() { 2 } else { 1 };
    if source.slots_used + wanted > source.max_replication_slots + u32::from(given.started_with.is_some()) {
        problems.push(
            refuse(
                "NO_FREE_SLOT",
                format!(
                    "{} of {} replication slots are in use on {side}",
                    source.slots_used, source.max_replication_slots
                ),
            )
            .remedy("ALTER SYSTEM SET max_replication_slots to more, then restart; or drop slots that nobody uses"),
        );
    }
    if source.max_slot_wal_keep_size_bytes.is_none() {
        warnings.push(format!("{side} has no max_slot_wal_keep_size: while the host is down, it keeps all its log"));
    }
    if source.idle_replication_slot_timeout_s.is_some_and(|seconds| seconds > 0) {
        warnings.push(format!("{side} removes slots that are idle for long (idle_replication_slot_timeout): a long pause would need a new copy"));
    }
}

fn target_problems(given: &Given<'_>, target: &ServerFacts, problems: &mut Vec<Problem>) {
    let refuse = |code, what: String| Problem::refuse(Blame::Target, code, what);
    let side = given.settings.target_name();
    if target.in_recovery || target.read_only {
        // Row 59: a link that has started was right about its target. It waits for the primary to come back.
        let action = if given.started_with.is_some() { Action::Retry } else { Action::Refuse };
        problems.push(
            refuse(
                "READ_ONLY",
                format!("{side} takes no writes: it is a standby, or default_transaction_read_only is on"),
            )
            .with_action(action)
            .remedy(format!("name the primary in [{side}], or ALTER ROLE ... SET default_transaction_read_only = off")),
        );
    }
    if !target.can_create && !target.superuser {
        problems.push(refuse("PERMISSION_DENIED", format!("the role {} may not create a schema on {side}", target.role))
            .remedy(format!("GRANT CREATE ON DATABASE {} TO {1}; or create the schema once: CREATE SCHEMA falkirk AUTHORIZATION {1};", quote_name(&target.database), quote_name(&target.role))));
    }
}
