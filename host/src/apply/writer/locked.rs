//! Target transactions whose rows are decided under locks, while both links write (L8).
//!
//! ```text
//!   open()  BEGIN marker checkpoint held (sent, not awaited) | lock()  which rows are there, FOR UPDATE |
//!   decided by the flow | write()  the decided sets, the new checkpoint
//! ```
//!
//! From `lock` on nobody else changes the rows, so what the flow learns about them holds until COMMIT.

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::{Expected, Writer, number};
use crate::apply::LinkIdentity;
use crate::apply::checkpoint::Counters;
use crate::apply::encode::{self, Ready, Typed};
use crate::apply::fault;
use crate::apply::keys::{Held, held};
use crate::apply::statement::{self, Parameter};
use crate::change::Datum;
use crate::delta::{Key, Set};
use crate::lsn::Lsn;
use crate::marker::{RowDigest, list_to_bytes, returned_to_bytes, row_digest};
use crate::plan::keyed::Adoption;
use crate::plan::{Plan, Target};
use crate::problem::{Blame, Outcome, Problem};

/// How many keys are locked by one statement.
const LOCK_ROWS: usize = 10_000;

/// What a link tells the other one of its source, kept with the checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// The notes.
    pub bytes: Vec<u8>,
    /// What the other link's context has passed is forgotten; `None`: not now.
    pub passed: Option<Lsn>,
}

const RECENT: &str = "INSERT INTO falkirk.recent (migration, link, position, rows) \
    VALUES ($1::text, $2::text, $3::pg_lsn, $4::bytea)";

const PASSED: &str =
    "DELETE FROM falkirk.recent WHERE migration = $1::text AND link = $2::text AND position < $3::pg_lsn";

impl<'c> Writer<'c> {
    /// The connection; for statements outside target transactions only while nothing is sent and open.
    pub fn client(&self) -> &'c Client {
        self.client
    }

    /// Whose transactions it writes.
    pub fn identity(&self) -> &LinkIdentity {
        &self.identity
    }

    /// Opens a transaction of which only the position is known so far. Nothing is awaited: what follows is sent right
    /// behind it.
    pub async fn open(&mut self, position: Lsn) -> Outcome<()> {
        self.usable()?;
        self.broken = true;
        match self.check_all().await {
            Ok(()) => {
                self.commit(false);
                self.begin(position, None, Counters::default(), true);
                self.broken = false;
                Ok(())
            }
            Err(problem) => Err(self.give_up(problem.position(position)).await),
        }
    }

    /// Locks rows of one target and says which of them are there, in the order of `keys`.
    pub async fn lock(&mut self, target: usize, keys: &[Key]) -> Outcome<Vec<bool>> {
        let found = self.lock_all(&[(target, keys)]).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The keys that rows of the target's application hold; kept as they are until the transaction ends, or only looked
    /// at.
    pub async fn held(&mut self, adoption: &Adoption, keys: &[String], locks: bool) -> Outcome<Vec<Held>> {
        match held(self.client, adoption, keys, if locks { "FOR SHARE" } else { "" }).await {
            Ok(pairs) => Ok(pairs),
            Err(problem) => Err(self.give_up(problem).await),
        }
    }

    /// Locks rows of several targets in one round trip: which of each are there. From here on everything that was sent
    /// before is answered too: the checkpoint is held.
    pub async fn lock_all(&mut self, wanted: &[(usize, &[Key])]) -> Outcome<Vec<Vec<bool>>> {
        let locked = self.try_lock(wanted).await;
        // What failed before says why the locks failed.
        if let Err(problem) = self.check_all().await {
            return Err(self.give_up(problem).await);
        }
        match locked {
            Ok(found) => Ok(found),
            Err((target, error)) => {
                let problem = fault::written(&error, self.strict, Some(&self.plan.targets[target]));
                Err(self.give_up(problem).await)
            }
        }
    }

    async fn try_lock(&mut self, wanted: &[(usize, &[Key])]) -> Result<Vec<Vec<bool>>, (usize, tokio_postgres::Error)> {
        let mut asked = Vec::new();
        for (at, (target, keys)) in wanted.iter().enumerate() {
            for part in keys.chunks(LOCK_ROWS) {
                let (described, ready) = keys_of(&self.plan.targets[*target], part);
                let sql = statement::lock(&self.plan.targets[*target], &described);
                let statement = self.statements.get(self.client, sql).await.map_err(|error| (*target, error))?;
                asked.push((at, *target, part.len(), statement, ready));
            }
        }
        let client = self.client;
        let answers = asked.into_iter().map(|(at, target, len, statement, ready)| async move {
            let run = async {
                let rows = client.query_raw(&statement, ready).await?;
                rows.map_ok(|row| row.get::<_, i64>(0)).try_collect::<Vec<i64>>().await
            };
            run.await.map(|places| (at, len, places)).map_err(|error| (target, error))
        });
        let mut found = vec![Vec::new(); wanted.len()];
        for (at, len, places) in try_join_all(answers).await? {
            let mut there = vec![false; len];
            places.into_iter().for_each(|place| there[(place - 1) as usize] = true);
            found[at].extend(there);
        }
        Ok(found)
    }

    /// Counts changes of the open transaction that left nothing to write.
    pub fn agree(&mut self, agreements: u64) {
        if let Some(open) = &mut self.open {
            open.counters.agreements += agreements as i64;
        }
    }

    /// Lets go of an open transaction: nothing of it was written.
    pub async fn abandon(&mut self) -> Outcome<()> {
        self.sent.clear();
        self.open = None;
        self.client.batch_execute("ROLLBACK").await.map_err(|error| fault::refused(&error))
    }

    /// Names rows that this link is about to write and that the other one is to send back (L8).
    pub fn send_back(&mut self, rows: Vec<RowDigest>) {
        if !rows.is_empty() {
            let (marker, bytes) = (self.marker.clone(), returned_to_bytes(self.identity.migration_id, &rows));
            self.send(Expected::Nothing, marker, vec![Ready(Bytes::from(bytes))]);
        }
    }

    /// Signs the rows of sets one by one, for the other link to tell them from what the target does beside (L7).
    pub(super) fn list(&mut self, sets: &[&Set]) {
        let rows = listed(&self.plan, sets);
        if !rows.is_empty() {
            let (marker, bytes) = (self.marker.clone(), list_to_bytes(self.identity.migration_id, &rows));
            self.send(Expected::Nothing, marker, vec![Ready(Bytes::from(bytes))]);
        }
    }

    /// Keeps the notes for the other link, in the open transaction (L8).
    pub(super) async fn keep_recent(&mut self, position: Lsn, recent: &Recent) -> Outcome<()> {
        let text = |text: &str| Ready(Bytes::copy_from_slice(text.as_bytes()));
        let mut whose = vec![text(&self.identity.migration), text(self.identity.link.name())];
        if let Some(passed) = recent.passed {
            let mut parameters = whose.clone();
            parameters.push(number(passed.0 as i64));
            self.send_recent(PASSED, parameters).await?;
        }
        whose.extend([number(position.0 as i64), Ready(Bytes::copy_from_slice(&recent.bytes))]);
        self.send_recent(RECENT, whose).await
    }

    async fn send_recent(&mut self, sql: &str, parameters: Vec<Ready>) -> Outcome<()> {
        let statement = match self.statements.get(self.client, sql.to_owned()).await {
            Ok(statement) => statement,
            Err(error) => {
                // In a transaction that has failed nothing can be prepared: what failed before says why.
                self.check_all().await?;
                return Err(fault::written(&error, self.strict, None));
            }
        };
        self.send(Expected::Nothing, statement, parameters);
        Ok(())
    }
}

/// The rows that sets write, without those that the link keeps for itself.
pub(super) fn listed(plan: &Plan, sets: &[&Set]) -> Vec<RowDigest> {
    let mut rows = Vec::new();
    for set in sets.iter().filter(|set| !plan.targets[set.target].internal) {
        let target = &plan.targets[set.target];
        let digest = |key: &[Datum]| row_digest(&target.name, key.iter().map(text_of));
        let values = |values: &[Datum]| -> Key {
            let at = |column: &u16| set.columns.binary_search(column).ok();
            target.key.iter().filter_map(at).map(|at| values[at].clone()).collect()
        };
        rows.extend(set.keys.iter().chain(&set.new_keys).map(|key| digest(key)));
        if set.keys.is_empty() {
            rows.extend(set.values.iter().map(|row| digest(&values(row))));
        }
    }
    rows
}

pub(super) fn text_of(datum: &Datum) -> &[u8] {
    match datum {
        Datum::Text(text) => text,
        Datum::Null | Datum::Unset => b"",
    }
}

pub(super) fn keys_of(target: &Target, keys: &[Key]) -> (Vec<Parameter>, Vec<Ready>) {
    let columns = target.key.iter().enumerate();
    columns
        .map(|(at, column)| {
            let preferred = Typed::of(target.columns[usize::from(*column)].base_oid);
            let (wire, array) = encode::column(preferred, keys.iter().map(|key| &key[at]));
            (Parameter { column: *column, wire }, array)
        })
        .unzip()
}

/// The other link does not say how far it has read.
pub fn other_link_silent() -> Problem {
    Problem::retry(
        Blame::Host,
        "OTHER_LINK_SILENT",
        "the other link has not read its source up to now, so nothing can be decided",
    )
    .remedy("see why the other link does not run: `falkirk status`")
}
