//! Earlier revisions: what they made of a row is what the target may still hold.

use std::sync::Arc;

use super::{Older, Order, Site};
use crate::apply::checkpoint;
use crate::config::Settings;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::Artifact;

/// Earlier revisions, newest first: those that were brought, then those that this host has run; the latter are marked.
pub(super) async fn earlier(site: &Site, order: &Order, now: Option<&Artifact>) -> Outcome<Vec<(Arc<Artifact>, bool)>> {
    let mut earlier: Vec<(Arc<Artifact>, bool)> = Vec::new();
    for older in order.older.clone() {
        let settings = site.settings.clone();
        let load = tokio::task::spawn_blocking(move || brought(&settings, &older)).await;
        let lost = |_| Err(Problem::retry(Blame::Host, "TASK_LOST", "loading an artifact ended without an answer"));
        earlier.push((load.unwrap_or_else(lost)?, false));
    }
    earlier.extend(site.running.earlier().into_iter().map(|artifact| (artifact, true)));
    let mut known: Vec<String> = now.iter().map(|artifact| artifact.digest().to_owned()).collect();
    earlier.retain(|(artifact, _)| {
        let is_new = !known.iter().any(|digest| digest == artifact.digest());
        known.push(artifact.digest().to_owned());
        is_new
    });
    Ok(earlier)
}

/// An earlier revision out of its file; one of several steps takes the place of the configured one.
fn brought(settings: &Settings, older: &Older) -> Outcome<Arc<Artifact>> {
    let (limits, Older { name, bytes, pin }) = (&settings.limits, older);
    if settings.strict && pin.is_none() {
        let what = format!("strict = true, and {name} comes without a pin");
        return Err(Problem::refuse(Blame::Config, "UNPINNED", what)
            .remedy("name it with its digest: `falkirk recopy --old FILE@sha256:...` (falkirk.history has it)"));
    }
    let artifact = Arc::new(Artifact::from_bytes(name, bytes, pin.as_deref(), limits, &settings.compiler)?);
    let (from, to) = (&settings.blue.schema_version, &settings.green.schema_version);
    let step = |artifact: &Artifact| (artifact.manifest().from.clone(), artifact.manifest().to.clone());
    if step(&artifact) == (from.clone(), to.clone()) {
        return Ok(artifact);
    }
    let mut steps = vec![artifact.clone()];
    for file in &settings.transforms {
        let other = Artifact::load(&file.path, file.pin.as_deref(), limits, &settings.compiler)?;
        if step(&other) != step(&artifact) {
            steps.push(Arc::new(other));
        }
    }
    Ok(Artifact::joined(steps, from, to)?.unwrap_or(artifact))
}

/// Revisions that have written and that are not at hand: what they made of rows is not known.
pub(super) async fn unknown(site: &Site, target: &Session, at_hand: &[Arc<Artifact>]) -> Outcome<Vec<String>> {
    let here: Vec<String> = at_hand.iter().map(|artifact| format!("sha256:{}", artifact.digest())).collect();
    let mut written = checkpoint::writers(target.client(), &site.settings.name, site.settings.link).await?;
    written.retain(|artifact| artifact != "none" && !here.contains(artifact));
    Ok(written)
}
