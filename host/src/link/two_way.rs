//! What a link's stream needs beside the other link of its migration.

use std::collections::BTreeSet;

use crate::apply::checkpoint::{self, Checkpoint};
use crate::apply::conflict;
use crate::delta::decide::Standing;
use crate::marker::Link;
use crate::names::TableName;
use crate::pg::catalog;
use crate::pg::session::Session;
use crate::plan::parts::Parts;
use crate::plan::{Output, Plan, Source, Target};
use crate::problem::{Blame, Outcome, Problem};
use crate::stream::keyed::Keyed;
use crate::stream::notes::Notebook;
use crate::stream::seen::from_bytes;
use crate::stream::settled::Settled;
use crate::stream::trial::{State, Trial};
use crate::stream::{Deciding, Part, TwoWay};
use crate::transform::Guest;

use super::{Open, Pair};

impl Open<'_> {
    /// `None` without another link.
    pub(super) async fn two_way(&self, checkpoint: &Checkpoint) -> Outcome<Option<TwoWay>> {
        let Some(pair) = &self.context.pair else { return Ok(None) };
        let back = self.back.as_ref().ok_or_else(no_way_back)?;
        let parts = match self.identity.link {
            Link::Forward => Parts::new(&self.plan, back).forward,
            Link::Backward => Parts::new(back, &self.plan).backward,
        };
        let notebook = Notebook::new(&self.plan, back, parts);
        let link = self.identity.link;
        let part = match (pair.applies, pair.other_applies) {
            (false, _) => Part::Watches(self.trial(link).await?),
            // What the watched side changes meanwhile waits and is decided later: what is written over it has to be decided
            // by the same winner now, or the two decisions would differ (L8).
            (true, false) if self.standings(pair)?.iter().all(|standing| *standing == Standing::Wins) => Part::Applies,
            (true, _) => Part::Decides(Box::new(self.deciding(pair, &notebook, checkpoint).await?)),
        };
        Ok(Some(TwoWay { notebook, seen: pair.seen.clone(), part }))
    }

    /// What a link that watches tries out.
    async fn trial(&self, link: Link) -> Outcome<Option<Box<Trial>>> {
        let settings = &self.context.settings;
        if settings.trial_share <= 0.0 {
            return Ok(None);
        }
        let guest = self.context.artifact.as_ref();
        let guest = guest.map(|artifact| Guest::new(artifact.clone(), link.into(), settings.limits));
        let ends = (&settings.source().address, &settings.target().address);
        Ok(Some(Box::new(Trial {
            plan: self.plan.clone(),
            guest,
            keyed: Keyed::connect_to_read(ends, &self.plan, &settings.name, link).await?,
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
        let names =
            |(source, key): (&Source, &[usize])| key.iter().map(|at| source.columns[*at].name.clone()).collect();
        let keys = self.plan.sources.iter().enumerate();
        let source_keys = keys.map(|(at, source)| Some(names((source, notebook.key_of(at)?)))).collect();
        let nudge = Session::connect_blaming(&settings.target().address, Blame::Target, "nudge").await?;
        Ok(Deciding {
            standings: self.standings(pair)?,
            parts: notebook.parts().clone(),
            source_keys,
            settled: Settled::new(link, &own, &others, parked),
            target_name: settings.target_name(),
            theirs: pair.theirs.clone(),
            nudge,
        })
    }

    /// How this link stands on each of its targets. Without a word on it, a link that applies alone wins: its source is the
    /// one that is written.
    fn standings(&self, pair: &Pair) -> Outcome<Vec<Standing>> {
        let (settings, link) = (&self.context.settings, self.identity.link);
        let mut standings = Vec::new();
        for tables in together(&self.plan, self.back.as_deref()) {
            let standing = match settings.winner(tables.iter())? {
                Some(winner) if winner == link => Standing::Wins,
                Some(_) => Standing::Yields,
                None if !pair.other_applies && settings.conflict.is_none() && settings.conflict_of.is_empty() => {
                    Standing::Wins
                }
                None => Standing::Stops,
            };
            standings.push(standing);
        }
        Ok(standings)
    }
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

fn no_way_back() -> Problem {
    Problem::refuse(
        Blame::Config,
        "NO_WAY_BACK",
        "the rules of the other direction do not fit the two schemas, so the way back is not open",
    )
    .remedy("see `falkirk check`; or set rollback = \"none\" to go in one direction only")
}
