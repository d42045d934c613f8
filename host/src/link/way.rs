//! Whether the log says everything that either side's application has changed since a link first wrote: a slot that is
//! made later says nothing of what was before it (counter-example 17).
//!
//! Where it does not, both links may not simply apply: the sides would stay apart. `falkirk recopy` is the way out. It
//! makes the slot, compares the rows, writes what differs, and only then calls the way open.

use crate::apply::checkpoint::{self, Checkpoint, Phase};
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::marker::Link;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Blame, Outcome, Problem};
use crate::recopy;

/// A link whose slot does not reach back to where the other one began to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The link.
    pub link: Link,
    /// A position of the other link's source, or of its own slot if it has one by now.
    pub position: Lsn,
    /// It has a slot by now, and the rows from before are not all compared yet.
    pub reopening: bool,
}

/// The link that is closed, if one is. Writes nothing.
pub async fn closed(settings: &Settings) -> Outcome<Option<Closed>> {
    let source = Session::connect_blaming(&settings.source().address, Blame::Source, "way back").await?;
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "way back").await?;
    closed_between(settings, &source, &target).await
}

/// The same, for whoever is connected.
pub(super) async fn closed_between(settings: &Settings, source: &Session, target: &Session) -> Outcome<Option<Closed>> {
    let (link, other) = (settings.link, settings.link.other());
    let own = begun(target, &settings.name, link).await?;
    let theirs = begun(source, &settings.name, other).await?;
    // A link that was only made ready by its slot has written nothing.
    let has_written = |checkpoint: &Checkpoint, link: Link| {
        let counters = &checkpoint.counters;
        let counted = counters.copied > 0 || counters.transactions > 0;
        link == settings.origin() || checkpoint.phase == Phase::Copying || counted
    };
    for (link, own, theirs) in [(link, &own, &theirs), (other, &theirs, &own)] {
        match (own, theirs) {
            (Some(own), _) if own.phase == Phase::Reopening => {
                return Ok(Some(Closed { link, position: own.position, reopening: true }));
            }
            (None, Some(theirs)) if has_written(theirs, link.other()) => {
                return Ok(Some(Closed { link, position: theirs.position, reopening: false }));
            }
            _ => {}
        }
    }
    Ok(None)
}

async fn begun(target: &Session, migration: &str, link: Link) -> Outcome<Option<Checkpoint>> {
    if !target.one("SELECT to_regclass('falkirk.checkpoint') IS NOT NULL").await?.flag(0)? {
        return Ok(None);
    }
    let checkpoint = checkpoint::load(target.client(), migration, link).await?;
    Ok(checkpoint.filter(|checkpoint| checkpoint.phase != Phase::Preparing))
}

/// Whether a repair can compare all rows, both ways.
pub(super) fn can_be_compared(plans: [Option<&Plan>; 2]) -> bool {
    plans.into_iter().flatten().all(recopy::looks_at_all)
}

/// What it means that a link is closed, and the way out of it.
pub fn why_closed(settings: &Settings, closed: &Closed, plans: [Option<&Plan>; 2]) -> Problem {
    let (link, other) = (closed.link, closed.link.other());
    let seen = settings.seen_from(link);
    let source = seen.source_name();
    let what = match closed.reopening {
        true => {
            format!("the {link} link has a slot by now, but the rows of {source} from before it are not all compared")
        }
        false => format!(
            "the {other} link has written {source} without the {link} link's slot: what its application changed since is \
             not known"
        ),
    };
    let repair = if link == Link::Backward { "falkirk recopy --backward" } else { "falkirk recopy" };
    let both = if settings.direction_is_both() { "" } else { "direction = \"both\" and " };
    let remedy = match can_be_compared(plans) {
        true => format!(
            "{both}`{repair}`, while no application writes {source}: it makes the slot and lists the rows that differ; with \
             `--force`, while nobody writes at all, it brings {source}'s over, and the way is open. Or set rollback = \
             \"none\" to go on in one direction only"
        ),
        false => {
            "rows that depend on key maps or on other rows cannot be compared and written over, so the way out is \
                  `falkirk clean` and a new copy with rollback = \"watch\"; or set rollback = \"none\" to go on in one \
                  direction only"
                .to_owned()
        }
    };
    Problem::refuse(Blame::Config, "NO_WAY_BACK", what).position(closed.position).remedy(remedy)
}

/// All rows from before the link's slot agree: from now on it is a link like any other. Nobody runs it meanwhile.
pub async fn reopened(settings: &Settings) -> Outcome<()> {
    let target = Session::connect_blaming(&settings.target().address, Blame::Target, "way back").await?;
    let (client, link) = (target.client(), settings.link);
    match begun(&target, &settings.name, link).await? {
        Some(own) if own.phase == Phase::Reopening => {
            checkpoint::set_phase(client, &settings.name, link, own.epoch, Phase::Streaming).await
        }
        _ => Ok(()),
    }
}
