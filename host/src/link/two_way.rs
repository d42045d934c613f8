//! What a link's stream needs beside the other link of its migration.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::apply::checkpoint::{self, Checkpoint};
use crate::apply::{conflict, numbering};
use crate::config::Settings;
use crate::delta::decide::Standing;
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::catalog;
use crate::pg::session::Session;
use crate::plan::parts::{LinkParts, Parts};
use crate::plan::{Output, Plan, Source, Target};
use crate::problem::{Blame, Outcome, Problem};
use crate::stream::keyed::Keyed;
use crate::stream::notes::Notebook;
use crate::stream::seen::from_bytes;
use crate::stream::settled::Settled;
use crate::stream::trial::{State, Trial};
use crate::stream::{Deciding, Part, Ruled, TwoWay};
use crate::transform::{Artifact, Guest};

use super::{Open, Pair};

impl Open<'_> {
    /// `None` without another link.
    pub(super) async fn two_way(&self, checkpoint: &Checkpoint) -> Outcome<Option<TwoWay>> {
        let Some(pair) = &self.context.pair else { return Ok(None) };
        let parts = self.parts(pair, &self.plan, self.back.as_deref()).await?;
        let notebook = notebook(&self.plan, self.back.as_deref(), parts)?;
        let part = match pair.applies {
            false => Part::Watches(self.trial(self.plan.clone(), self.artifact.clone()).await?),
            true if self.decides(pair, &self.plan, self.back.as_deref())? => {
                Part::Decides(Box::new(self.deciding(pair, &notebook, checkpoint).await?))
            }
            true => Part::Applies,
        };
        Ok(Some(TwoWay { notebook, seen: pair.seen.clone(), part }))
    }

    /// Whether a link that applies has to decide. One that applies alone need not while it wins everywhere: what the
    /// watched side changes meanwhile waits and is decided later, so what is written over it has to be decided by the
    /// same winner now, or the two decisions would differ (L8).
    pub(super) fn decides(&self, pair: &Pair, plan: &Plan, back: Option<&Plan>) -> Outcome<bool> {
        let wins = || Ok(self.standings(pair, plan, back)?.iter().all(|standing| *standing == Standing::Wins));
        Ok(pair.applies && (pair.other_applies || !wins()?))
    }

    /// What the link's columns have to do with each other, seen from both plans, in the numbers that they have had since
    /// the first start. A problem where notes of changes would come to mean something else and something is decided by
    /// them (L8).
    pub(super) async fn parts(&self, pair: &Pair, plan: &Plan, back: Option<&Plan>) -> Outcome<LinkParts> {
        let back = back.ok_or_else(no_way_back)?;
        let (settings, link) = (&self.context.settings, self.identity.link);
        let (forward, backward) = match link {
            Link::Forward => (plan, back),
            Link::Backward => (back, plan),
        };
        let decided = self.is_decided(pair, (plan, back))?;
        let green = Session::connect(&settings.green.address, "numbering").await?;
        let parts = numbering::keep(green.client(), &settings.name, |kept| {
            let (parts, next) = Parts::numbered(forward, backward, kept);
            match kept.redefined_by(&next) {
                Some(what) if decided => Err(groups_differ(what)),
                _ => Ok((parts, next)),
            }
        });
        let parts = parts.await?;
        Ok(match link {
            Link::Forward => parts.forward,
            Link::Backward => parts.backward,
        })
    }

    /// Whether one of the links decides by what the other one has noted.
    fn is_decided(&self, pair: &Pair, (plan, back): (&Plan, &Plan)) -> Outcome<bool> {
        let (settings, own) = (&self.context.settings, self.identity.link);
        let standings = match pair.applies {
            true => self.standings(pair, plan, Some(back))?,
            false => standings((settings, own.other(), true), back, Some(plan))?,
        };
        Ok(pair.applies && pair.other_applies || standings.iter().any(|standing| *standing != Standing::Wins))
    }

    /// What a link that watches tries out.
    pub(super) async fn trial(&self, plan: Arc<Plan>, artifact: Option<Arc<Artifact>>) -> Outcome<Option<Box<Trial>>> {
        let (settings, link) = (&self.context.settings, self.identity.link);
        if settings.trial_share <= 0.0 {
            return Ok(None);
        }
        let guest = artifact.map(|artifact| Guest::new(artifact, link.into(), settings.limits));
        let ends = (&settings.source().address, &settings.target().address);
        Ok(Some(Box::new(Trial {
            keyed: Keyed::connect_to_read(ends, &plan, &settings.name, link).await?,
            plan,
            guest,
            catalog: catalog::read(&self.target).await?,
            address: settings.target().address.clone(),
            share: settings.trial_share,
            state: State::default(),
        })))
    }

    async fn deciding(&self, pair: &Pair, notebook: &Notebook, checkpoint: &Checkpoint) -> Outcome<Deciding> {
        let (settings, link) = (&self.context.settings, self.identity.link);
        // What the other link noted before this host started; what came since is in memory.
        let source = Session::connect_blaming(&settings.source().address, Blame::Source, "recent").await?;
        let recent = checkpoint::recent(source.client(), &settings.name, link.other(), checkpoint.context).await?;
        for (at, note) in recent.iter().flat_map(|bytes| from_bytes(bytes)) {
            pair.theirs.note(at, &[note]);
        }
        let target = self.target.client();
        let own = conflict::resolutions(target, &settings.name, link).await?;
        let others = conflict::resolutions(source.client(), &settings.name, link.other()).await?;
        let parked = conflict::parked(target, &settings.name, link).await?;
        let kept = conflict::kept(target, &settings.name, link).await?;
        for row in conflict::kept_for(source.client(), &settings.name, link.other()).await? {
            pair.theirs.keep(row);
        }
        let nudge = Session::connect_blaming(&settings.target().address, Blame::Target, "nudge").await?;
        Ok(Deciding {
            ruled: self.ruled(pair, (&self.plan, self.back.as_deref()), notebook)?,
            settled: Settled::new(link, (&own, &others), parked, kept),
            target_name: settings.target_name(),
            theirs: pair.theirs.clone(),
            ours: pair.seen.clone(),
            other_applies: pair.other_applies,
            nudge,
        })
    }

    /// By what the changes of a link are decided, seen from both plans.
    pub(super) fn ruled(
        &self,
        pair: &Pair,
        (plan, back): (&Plan, Option<&Plan>),
        notebook: &Notebook,
    ) -> Outcome<Ruled> {
        let names =
            |(source, key): (&Source, &[usize])| key.iter().map(|at| source.columns[*at].name.clone()).collect();
        let keys = plan.sources.iter().enumerate();
        let source_keys = keys.map(|(at, source)| Some(names((source, notebook.key_of(at)?)))).collect();
        Ok(Ruled { standings: self.standings(pair, plan, back)?, parts: notebook.parts().clone(), source_keys })
    }

    pub(super) fn standings(&self, pair: &Pair, plan: &Plan, back: Option<&Plan>) -> Outcome<Vec<Standing>> {
        standings((&self.context.settings, self.identity.link, !pair.other_applies), plan, back)
    }
}

/// How a link stands on each of its targets. Without a word on it, one that applies alone wins: its source is the one that
/// is written.
fn standings(
    (settings, link, applies_alone): (&Settings, Link, bool),
    plan: &Plan,
    back: Option<&Plan>,
) -> Outcome<Vec<Standing>> {
    let mut standings = Vec::new();
    for tables in together(plan, back) {
        let standing = match settings.winner(tables.iter())? {
            Some(winner) if winner == link => Standing::Wins,
            Some(_) => Standing::Yields,
            None if applies_alone && settings.conflict.is_none() && settings.conflict_of.is_empty() => Standing::Wins,
            None => Standing::Stops,
        };
        standings.push(standing);
    }
    Ok(standings)
}

pub(super) fn notebook(plan: &Plan, back: Option<&Plan>, parts: LinkParts) -> Outcome<Notebook> {
    back.map(|back| Notebook::new(plan, back, parts)).ok_or_else(no_way_back)
}

/// For each target all tables, of either side, whose rows stand for one another with it: they have one winner.
fn together(plan: &Plan, back: Option<&Plan>) -> Vec<BTreeSet<TableName>> {
    let pairs = |plan: &Plan, swap: bool| -> Vec<[(bool, TableName); 2]> {
        let of = |source: &Source| {
            let outputs = source.rule.outputs.iter();
            let pair =
                |output: &Output| [(swap, source.name.clone()), (!swap, plan.targets[output.target].name.clone())];
            outputs.map(pair).collect::<Vec<_>>()
        };
        plan.sources.iter().flat_map(of).collect()
    };
    let mut pairs_of_both = pairs(plan, false);
    pairs_of_both.extend(back.map(|back| pairs(back, true)).unwrap_or_default());
    let reached = |target: &Target| {
        let mut known = BTreeSet::from([(true, target.name.clone())]);
        loop {
            let before = known.len();
            for pair in &pairs_of_both {
                if pair.iter().any(|node| known.contains(node)) {
                    known.extend(pair.clone());
                }
            }
            if known.len() == before {
                return known.into_iter().map(|(_, name)| name).collect();
            }
        }
    };
    plan.targets.iter().map(reached).collect()
}

fn groups_differ((table, column): (&str, Option<&str>)) -> Problem {
    let what = "it computes columns together, or knows rows as one, that the revisions before it did not, and changes that both \
         sides made meanwhile are noted as those knew them";
    let problem = Problem::refuse(Blame::Artifact, "GROUPS_DIFFER", format!("{table}: {what}"));
    let problem = column.map(|column| problem.clone().column(column)).unwrap_or(problem);
    problem.remedy(
        "leave the groups as they are while both sides write; take the new ones once one side alone is written \
         (direction = \"forward\" or \"backward\"), or start over with `falkirk clean` and `falkirk run`",
    )
}

fn no_way_back() -> Problem {
    Problem::refuse(
        Blame::Config,
        "NO_WAY_BACK",
        "the rules of the other direction do not fit the two schemas, so the way back is not open",
    )
    .remedy("see `falkirk check`; or set rollback = \"none\" to go in one direction only")
}
