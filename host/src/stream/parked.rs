//! Rows that cannot be written because of others: one holds a unique value of theirs (counter-example 35), or the one that
//! they refer to is not there.
//!
//! Neither link can tell from a key that two rows of different keys claim one value: the database refuses the second
//! one. Both links meet it, each on its side. Such a row is *parked*: it stays on its own side, what it should be here
//! is recorded as open with the keys of both rows, and the link goes on (under `stop` it does not). Every later change of
//! the row tries again with the whole of it, and so does the link now and then: as soon as one of the two rows has given
//! way, whoever made it, both sides agree again and the records are closed. L8 exempts what is recorded as open.
//!
//! A row that refers to a parked row waits for it, under its own record, and is written as soon as that one is. So does a
//! row whose parent the target's application has removed meanwhile: either it falls with it, where that removal cascades,
//! or the parent comes back (`stream/referred.rs`).

use std::time::Duration;

use tokio::sync::watch;

use crate::apply::conflict::ParkedRow;
use crate::apply::writer::attempt::Attempt;
use crate::apply::writer::{Batch, Closing, Lost, Writer};
use crate::change::Datum;
use crate::delta::decide::{Claim, Standing};
use crate::delta::fold::Folder;
use crate::delta::{Effect, Key, Operation, Set, SetKind};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::marker::RowDigest;
use crate::names::TableName;
use crate::plan::Plan;
use crate::problem::{Blame, Outcome, Problem};

use super::decided::{Deciding, digest, keys_of};
use super::lost::{Named, datum_of, place_of, values_of};
use super::now_us;

/// How often rows are tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// Why a row is parked: the keys, as JSON, of the rows that hold its value; of the parked row that it refers to; of the one
/// that was removed.
enum Why {
    Taken(Option<String>),
    Waits(String),
    Gone(String),
}

impl Why {
    /// The kind of the record, in words, and the rows behind it.
    fn told(self) -> (&'static str, &'static str, Option<String>) {
        match self {
            Why::Taken(rows) => ("unique", "a unique value stands under two keys, one on each side", rows),
            Why::Waits(row) => {
                ("parent", "a row refers to one that waits for a unique value, and waits with it", Some(row))
            }
            Why::Gone(row) => {
                ("parent", "a row refers to one that was removed here meanwhile, and waits for it", Some(row))
            }
        }
    }
}

impl Deciding {
    /// Whether rows wait for a unique value.
    pub(super) fn has_parked(&self) -> bool {
        !self.settled.parked.is_empty()
    }

    /// Whether any of these claims is about a row that is parked.
    pub(super) fn concerns_parked(&self, plan: &Plan, claims: &[Claim]) -> bool {
        let parked = |claim: &Claim| {
            let keys = keys_of(plan, &claim.operation);
            keys.iter().any(|key| self.settled.parked.contains_key(&digest(plan, claim.operation.target, key)))
        };
        self.has_parked() && claims.iter().any(parked)
    }

    /// Writes decided operations one by one, in the open transaction.
    pub(super) async fn write_each(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (operations, claims): (Vec<Operation>, &[Claim]),
        strict: bool,
        live: &watch::Sender<Live>,
    ) -> Outcome<()> {
        self.let_go_of_deleted(writer, plan, claims).await?;
        let mut causes = claims.iter().peekable();
        for operation in operations {
            let target = operation.target;
            let Some(key) = keys_of(plan, &operation).into_iter().next() else { continue };
            // Operations stand in the order of the claims that they come from.
            let about =
                |claim: &&Claim| claim.operation.target == target && keys_of(plan, &claim.operation).contains(&key);
            while causes.next_if(|claim| !about(claim)).is_some() {}
            let cause = causes.peek().copied().or_else(|| claims.iter().rfind(about));
            let mut folder = Folder::new(&plan.targets);
            folder.one_by_one = true;
            folder.push(operation);
            for set in folder.finish().into_iter().flatten().filter(Set::has_work) {
                let row = digest(plan, target, &key);
                let Some(set) = self.of_parked(writer, plan, row, set).await? else { continue };
                let Some(set) = self.of_kept(writer, plan, (row, &key), set).await? else { continue };
                let attempt = writer.attempt(&set, false).await?;
                if matches!(attempt, Attempt::Written) {
                    self.written(writer, plan, row, &set).await?;
                    continue;
                }
                let Some(claim) = cause else { return Err(unexplained(plan, target)) };
                let why = match attempt {
                    Attempt::Written | Attempt::Taken => Why::Taken(writer.holders(&set, &key).await?),
                    Attempt::Orphan { foreign_key, problem } => {
                        match self.parent(writer, plan, (&set, claim), &foreign_key).await? {
                            Some(why) => why,
                            None => return writer.abandon().await.and(Err(problem)),
                        }
                    }
                    Attempt::Referred { by, foreign_key, problem } => {
                        if !self.keep(writer, plan, (&key, claim), (&by, &foreign_key), live).await? {
                            return writer.abandon().await.and(Err(problem));
                        }
                        continue;
                    }
                };
                self.park(writer, plan, (&set, &key, claim, why), strict, live).await?;
            }
        }
        Ok(())
    }

    /// What a change of a row comes to that was parked by an earlier one of the same batch: it never came, so a patch is the
    /// whole of it once more, and a delete is nothing but its end.
    async fn of_parked(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        row: RowDigest,
        set: Set,
    ) -> Outcome<Option<Set>> {
        let Some(parked) = self.settled.parked.get(&row).filter(|parked| !parked.there) else { return Ok(Some(set)) };
        match set.kind {
            SetKind::Patch => {
                let mut parked = parked.clone();
                parked.values.extend(values_in(plan, &set));
                Ok(Some(again(plan, &parked).map_or(set, |(whole, _)| whole)))
            }
            SetKind::Delete => {
                writer.settle_parked(row).await?;
                self.settled.parked.remove(&row);
                Ok(None)
            }
            _ => Ok(Some(set)),
        }
    }

    /// What a row without its parent waits for, if that is parked or was removed by the target's application.
    async fn parent(
        &self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (set, claim): (&Set, &Claim),
        foreign_key: &str,
    ) -> Outcome<Option<Why>> {
        let (table, columns) = writer.parent(set.target, foreign_key).await?;
        let values = values_in(plan, set);
        if let Some(parked) = self.parked_parent(&table, &columns, &values) {
            return Ok(Some(Why::Waits(listed(&parked.key))));
        }
        // By its key alone can it be told whose removal that was; under `stop` nobody waits for what nobody decides.
        let is_stopped = self.ruled.standings[set.target] == Standing::Stops;
        let Some((target, key, named)) = parent_of(plan, &table, &columns, &values).filter(|_| !is_stopped) else {
            return Ok(None);
        };
        let gone = self.was_changed(plan, (target, &key), claim.knew).await?;
        Ok(gone.then(|| Why::Gone(listed(&named))))
    }

    /// The parked row among those of a table that a row with these values refers to; `columns`: those of both, by pairs.
    fn parked_parent(&self, table: &TableName, columns: &[(String, String)], values: &Named) -> Option<&ParkedRow> {
        let is_parent = |parked: &&ParkedRow| {
            let same = |(child, parent): &(String, String)| {
                let value = parked.values.get(parent).or_else(|| parked.key.get(parent));
                value.is_some() && values.get(child) == value
            };
            parked.table == table.to_string() && !columns.is_empty() && columns.iter().all(same)
        };
        self.settled.parked.values().find(is_parent)
    }

    /// A parked row that its own side has deleted, or given another key, waits for nothing any more.
    async fn let_go_of_deleted(&mut self, writer: &mut Writer<'_>, plan: &Plan, claims: &[Claim]) -> Outcome<()> {
        for claim in claims {
            let (Effect::Delete { key } | Effect::Absent { key } | Effect::Rekey { from: key, .. }) =
                &claim.operation.effect
            else {
                continue;
            };
            let row = digest(plan, claim.operation.target, key);
            if self.settled.parked.remove(&row).is_some() {
                writer.settle_parked(row).await?;
            }
        }
        Ok(())
    }

    /// A row was written: if it was parked, it may be no longer.
    async fn written(&mut self, writer: &mut Writer<'_>, plan: &Plan, row: RowDigest, set: &Set) -> Outcome<()> {
        let Some(parked) = self.settled.parked.get(&row) else { return Ok(()) };
        let names: Vec<&str> = set
            .columns
            .iter()
            .map(|column| plan.targets[set.target].columns[usize::from(*column)].name.as_str())
            .collect();
        let whole = set.kind != SetKind::Patch || parked.values.keys().all(|name| names.contains(&name.as_str()));
        if whole {
            writer.settle_parked(row).await?;
            self.settled.parked.remove(&row);
        }
        Ok(())
    }

    /// Records that a row cannot be written, and goes on or does not.
    async fn park(
        &mut self,
        writer: &mut Writer<'_>,
        plan: &Plan,
        (set, key, claim, why): (&Set, &Key, &Claim, Why),
        strict: bool,
        live: &watch::Sender<Live>,
    ) -> Outcome<()> {
        let row = digest(plan, set.target, key);
        if self.settled.lets_go(row, claim.at) {
            return Ok(());
        }
        let table = &plan.targets[set.target].name;
        let stops = self.ruled.standings[set.target] == Standing::Stops;
        if stops && !strict {
            writer.abandon().await?;
            let what = "a unique value stands under two keys, one on each side";
            return Err(Problem::strictly(Blame::Source, "UNIQUE_CONFLICT", what).table(table).position(claim.at));
        }
        let values = values_in(plan, set);
        let (kind, what, held_by) = why.told();
        let lost = Lost {
            target: set.target,
            key: key.clone(),
            digest: row.to_be_bytes(),
            kind,
            position: claim.at,
            values: Some(serde_json::Value::Object(values.clone()).to_string()),
            winner: None,
            source: self.source_of(plan, claim.from.as_ref()),
            held_by,
            record: Vec::new(),
        };
        if stops {
            // Nothing of its transaction is written, but the record is.
            writer.abandon().await?;
        }
        let id = format!("{}-{}", self.target_name, writer.record_open(&lost).await?);
        if stops {
            return Err(stopped(&id).table(table).position(claim.at));
        }
        tracing::warn!("{table}: {what}; recorded as open: {id}");
        live.send_modify(|live| live.decided.open += 1);
        let there = set.kind == SetKind::Patch;
        let target = &plan.targets[set.target];
        let key = values_of(target, &target.key, key);
        let parked =
            ParkedRow { row, table: table.to_string(), values, key, there, position: claim.at, decided: false };
        self.settled.parked.insert(row, parked);
        Ok(())
    }

    /// Tries the parked rows again, each in a transaction of its own. Only between transactions.
    pub(super) async fn retry(&mut self, writer: &mut Writer<'_>, plan: &Plan) -> Outcome<()> {
        let mut rows: Vec<ParkedRow> = self.settled.parked.values().cloned().collect();
        // Where nobody wins, the record stands before its change is written; and parents came first.
        rows.retain(|parked| parked.position < writer.durable());
        rows.sort_by_key(|parked| parked.position);
        for parked in rows {
            let Some((set, key)) = again(plan, &parked) else { continue };
            let position = writer.durable();
            writer.open(position).await?;
            let here = writer.lock(set.target, std::slice::from_ref(&key)).await?.first().copied().unwrap_or(false);
            match writer.still_parked(parked.row, (set.target, &key)).await? {
                // Its own side's application has changed the same here since: that travels, and this is over.
                None => {
                    writer.settle_parked(parked.row).await?;
                    self.settled.parked.remove(&parked.row);
                }
                Some(true) if here == parked.there && matches!(writer.attempt(&set, true).await?, Attempt::Written) => {
                    writer.settle_parked(parked.row).await?;
                    self.settled.parked.remove(&parked.row);
                }
                Some(_) => {
                    writer.abandon().await?;
                    continue;
                }
            }
            let closing = Closing { position, commit_time_us: now_us(), transactions: 0, context: Lsn::ZERO };
            writer.write(Batch { segments: Vec::new(), first: None, last: Some(closing), recent: None }).await?;
            writer.settle().await?;
            tracing::info!("{}: a row that waited for another one waits no longer", parked.table);
        }
        Ok(())
    }
}

/// The row that a parked one is to become, as a set of its own. `None` if its table is not written any more.
fn again(plan: &Plan, parked: &ParkedRow) -> Option<(Set, Key)> {
    let (target, key) = place_of(plan, &parked.table, &parked.key)?;
    let columns = &plan.targets[target].columns;
    let mut pairs: Vec<(u16, Datum)> = Vec::new();
    for (name, value) in &parked.values {
        let column = columns.iter().position(|column| column.name == *name)?;
        pairs.push((column as u16, datum_of(value)));
    }
    pairs.sort_by_key(|(column, _)| *column);
    let (columns, values): (Vec<u16>, Vec<Datum>) = pairs.into_iter().unzip();
    let (kind, keys) = match parked.there {
        true => (SetKind::Patch, vec![key.clone()]),
        false => (SetKind::Insert, Vec::new()),
    };
    let set = Set {
        target,
        kind,
        columns: columns.into(),
        keys,
        new_keys: Vec::new(),
        values: vec![values.into()],
        truncated: Vec::new(),
    };
    Some((set, key))
}

fn values_in(plan: &Plan, set: &Set) -> Named {
    values_of(&plan.targets[set.target], &set.columns, set.values.first().map(AsRef::as_ref).unwrap_or_default())
}

fn stopped(id: &str) -> Problem {
    let what =
        format!("a unique value stands under two keys, one on each side, and no side is to win; recorded as {id}");
    Problem::stop(Blame::Source, "UNIQUE_CONFLICT", what).remedy(format!(
        "`falkirk conflicts show {id}`, then change one of the two rows or `falkirk conflicts resolve {id} --take \
         blue|green`, and start again: the link goes on at this change"
    ))
}

/// The key of the row that one with these values refers to, if it is that row's key by which it does.
fn parent_of(
    plan: &Plan,
    table: &TableName,
    columns: &[(String, String)],
    values: &Named,
) -> Option<(usize, Key, Named)> {
    let target = plan.targets.iter().position(|target| target.name == *table)?;
    let key = plan.targets[target].key.iter().map(|column| {
        let name = &plan.targets[target].columns[usize::from(*column)].name;
        let (child, _) = columns.iter().find(|(_, parent)| parent == name)?;
        Some((name.clone(), values.get(child)?.as_str()?.to_owned()))
    });
    let key: Vec<(String, String)> = key.collect::<Option<_>>()?;
    let texts = key.iter().map(|(_, text)| Datum::text(text)).collect();
    Some((target, texts, key.into_iter().map(|(name, text)| (name, text.into())).collect()))
}

/// A key, as records list those of rows that are in the way.
fn listed(key: &Named) -> String {
    serde_json::Value::Array(vec![key.clone().into()]).to_string()
}

fn unexplained(plan: &Plan, target: usize) -> Problem {
    let what = "a row that no change asks for takes a unique value that another row holds";
    Problem::stop(Blame::Host, "UNIQUE_CONFLICT", what).table(&plan.targets[target].name)
}
