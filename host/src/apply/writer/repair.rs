//! Repairs: rows are written anew beside the running stream, through a connection of their own.
//!
//! ```text
//!   begin()  BEGIN, the checkpoint's row is locked: the stream waits, and the target stands at its position
//!   lock()   the rows to be written are locked, so that what they hold can be looked at
//!   write()  marker, rows, COMMIT
//! ```
//!
//! Like every other transaction of the link they are signed (L7) and fenced by its epoch (L2). They move nothing: the
//! checkpoint stays where the stream has left it.

use bytes::Bytes;
use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, ToSql};

use super::SESSION;
use super::locked::{keys_of, listed};
use crate::apply::statement::{self, Statements};
use crate::apply::{LinkIdentity, bound, checkpoint, fault};
use crate::delta::{Key, Set};
use crate::lsn::Lsn;
use crate::marker::{MarkerKind, PREFIX, list_to_bytes};
use crate::plan::{Plan, Target};
use crate::problem::{Blame, Outcome, Problem};

/// Writes repairs, one transaction after another.
pub struct Repairs<'c> {
    client: &'c Client,
    identity: LinkIdentity,
    /// Lists of the rows it writes follow them, as in the stream.
    lists: bool,
    statements: Statements,
}

impl<'c> Repairs<'c> {
    /// Through a connection that nobody else uses.
    pub async fn start(client: &'c Client, identity: LinkIdentity, lists: bool) -> Outcome<Self> {
        client.batch_execute(SESSION).await.map_err(|error| fault::refused(&error))?;
        Ok(Repairs { client, identity, lists, statements: Statements::default() })
    }

    /// The connection, to look at what the target holds.
    pub fn client(&self) -> &'c Client {
        self.client
    }

    /// Where the checkpoint stands.
    pub async fn position(&self) -> Outcome<Lsn> {
        self.checkpoint("").await
    }

    /// Opens a transaction, and stands the stream still until it ends; the position at which it stands.
    pub async fn begin(&self) -> Outcome<Lsn> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await;
        begin.map_err(|error| fault::refused(&error))?;
        self.checkpoint("FOR UPDATE").await
    }

    async fn checkpoint(&self, lock: &str) -> Outcome<Lsn> {
        let LinkIdentity { migration, link, epoch, .. } = &self.identity;
        // L2: whoever has taken the link over moved the epoch.
        let select =
            format!("SELECT position FROM falkirk.checkpoint WHERE migration = $1 AND link = $2 AND epoch = $3 {lock}");
        let parameters: [&(dyn ToSql + Sync); 3] = [migration, &link.name(), epoch];
        let row = self.client.query_opt(&select, &parameters).await.map_err(|error| fault::refused(&error))?;
        match row {
            Some(row) => Ok(Lsn(row.get::<_, PgLsn>(0).into())),
            None => Err(checkpoint::lost_hold(self.client, migration, *link, *epoch, None).await),
        }
    }

    /// Locks the rows with these keys that are there.
    pub async fn lock(&mut self, target: &Target, keys: &[Key]) -> Outcome<()> {
        let (described, ready) = keys_of(target, keys);
        let run = async {
            let statement = self.statements.get(self.client, statement::lock(target, &described)).await?;
            self.client.execute_raw(&statement, ready).await
        };
        run.await.map(|_| ()).map_err(|error| fault::written(&error, true, Some(target)))
    }

    /// Signs and writes sets, each of which touches exactly the rows that it names, and commits.
    pub async fn write(&mut self, plan: &Plan, position: Lsn, segments: &[Vec<Set>]) -> Outcome<()> {
        let sets: Vec<&Set> = segments.iter().flatten().filter(|set| set.has_work()).collect();
        let emit = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', $1::bytea)");
        // L7: nothing of the transaction was written before its marker.
        let kind = if self.lists { MarkerKind::Listed } else { MarkerKind::Data };
        let marker = self.identity.marker(kind, position).to_bytes();
        let signed = self.client.execute(&emit, &[&marker.as_slice()]).await;
        signed.map_err(|error| fault::refused(&error))?;
        let deferred = self.client.batch_execute("SET CONSTRAINTS ALL DEFERRED").await;
        deferred.map_err(|error| fault::refused(&error))?;
        for set in &sets {
            let target = &plan.targets[set.target];
            let refused = |error| fault::written(&error, true, Some(target));
            for range in bound::ranges(set, false) {
                let bound = bound::rows(self.client, &mut self.statements, plan, set, range).await.map_err(refused)?;
                let count = self.client.execute_raw(&bound.statement, bound.parameters).await.map_err(refused)?;
                if bound.rows.is_some_and(|rows| rows != count) {
                    let what = "a repair does not touch exactly the rows that it has just seen";
                    return Err(Problem::stop(Blame::Target, "ROWCOUNT", what).table(&target.name).remedy(
                        "see whether triggers or rules of the target keep rows from being written, then run it again",
                    ));
                }
            }
        }
        if self.lists {
            let list = Bytes::from(list_to_bytes(self.identity.migration_id, &listed(plan, &sets)));
            let sent = self.client.execute(&emit, &[&list.as_ref()]).await;
            sent.map_err(|error| fault::refused(&error))?;
        }
        self.client.batch_execute("COMMIT").await.map_err(|error| fault::written(&error, true, None))
    }

    /// Leaves everything as it was, and lets the stream go on.
    pub async fn rollback(&self) -> Outcome<()> {
        self.client.batch_execute("ROLLBACK").await.map_err(|error| fault::refused(&error))
    }
}
