//! Cleaning up: slot, publication and the migration's rows in the `falkirk` schema; the schema itself once it is empty.
//!
//! Rows of the application are never touched. What the role may not undo is named with its SQL.

use crate::catalog::ReplicaIdentity;
use crate::config::Settings;
use crate::names::{quote_name, quote_text};
use crate::pg::session::Session;
use crate::pg::{catalog, facts};
use crate::problem::{Blame, Outcome, Problem};

/// What was removed, and what is left to people.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Things that are gone.
    pub removed: Vec<String>,
    /// Things that only their owner should undo, with the SQL.
    pub left: Vec<String>,
}

/// Removes everything of a migration from both databases. May be repeated.
pub async fn clean(settings: &Settings) -> Outcome<Cleaned> {
    let mut cleaned = Cleaned::default();
    let links = [settings.origin(), settings.origin().other()];
    // Slots first: while one is read, a host runs, and nothing may be taken from under it.
    for settings in links.map(|link| settings.seen_from(link)) {
        let source = Session::connect_blaming(&settings.source().address, Blame::Source, "clean").await?;
        slot(&settings, &source, &mut cleaned).await?;
        publication(&settings, &source, &mut cleaned).await?;
        identities(&source, &mut cleaned).await?;
    }
    for settings in links.map(|link| settings.seen_from(link)) {
        let target = Session::connect_blaming(&settings.target().address, Blame::Target, "clean").await?;
        records(&settings, &target, &mut cleaned).await?;
    }
    Ok(cleaned)
}

async fn slot(settings: &Settings, source: &Session, cleaned: &mut Cleaned) -> Outcome<()> {
    let name = settings.slot();
    let Some(slot) = facts::slot(source, &name).await? else { return Ok(()) };
    if let Some(pid) = slot.active_pid {
        return Err(Problem::refuse(
            Blame::Host,
            "SLOT_IN_USE",
            format!("a host still reads the slot {name} (server process {pid})"),
        )
        .remedy("end the host first"));
    }
    source.run(&format!("SELECT pg_drop_replication_slot({})", quote_text(&name))).await?;
    cleaned.removed.push(format!("slot {name}"));
    Ok(())
}

async fn publication(settings: &Settings, source: &Session, cleaned: &mut Cleaned) -> Outcome<()> {
    let name = settings.slot();
    let Some(publication) = facts::publication(source, &name).await? else { return Ok(()) };
    let sql = format!("DROP PUBLICATION {}", quote_name(&name));
    if publication.own || source.is_superuser() {
        source.run(&sql).await?;
        cleaned.removed.push(format!("publication {name}"));
    } else {
        cleaned.left.push(format!("publication {name}, which another role owns: {sql};"));
    }
    Ok(())
}

async fn records(settings: &Settings, target: &Session, cleaned: &mut Cleaned) -> Outcome<()> {
    let exists = target.one("SELECT to_regclass('falkirk.migration') IS NOT NULL").await?;
    if !exists.flag(0)? {
        return Ok(());
    }
    let name = quote_text(&settings.name);
    let deleted = target.touch(&format!("DELETE FROM falkirk.migration WHERE name = {name}")).await?;
    if deleted > 0 {
        cleaned.removed.push(format!("checkpoint and records of {} in {}", settings.name, settings.target_name()));
    }
    let others = target.one("SELECT EXISTS (SELECT FROM falkirk.migration)").await?;
    let own = target
        .one("SELECT pg_has_role(current_user, nspowner, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname = 'falkirk'")
        .await?;
    if !others.flag(0)? && own.flag(0)? {
        target.run("SET client_min_messages = error; DROP SCHEMA falkirk CASCADE").await?;
        cleaned.removed.push(format!("schema falkirk of {}", settings.target_name()));
    }
    Ok(())
}

/// Falkirk never changes a replica identity itself, so it does not change one back either.
async fn identities(source: &Session, cleaned: &mut Cleaned) -> Outcome<()> {
    let catalog = catalog::read(source).await?;
    let full = catalog.tables.values().filter(|table| {
        table.identity == ReplicaIdentity::Full && !table.primary_key.is_empty() && table.root.is_none()
    });
    cleaned.left.extend(full.map(|table| {
        format!(
            "{} has REPLICA IDENTITY FULL; if only Falkirk needed it: ALTER TABLE {} REPLICA IDENTITY DEFAULT;",
            table.name,
            table.name.sql()
        )
    }));
    Ok(())
}
