//! Writes a chunk of the copy: its rows and the record that it is done share one target transaction (L2, L5).
//!
//! Rows arrive by COPY, either as the blocks that the source sent or one by one. A chunk that is done is never written
//! again; one that is not leaves nothing behind.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, CopyInSink};

use super::bound;
use super::chunk::Chunk;
use super::statement::Statements;
use super::{LinkIdentity, checkpoint, fault};
use crate::change::Datum;
use crate::delta::fold::Folder;
use crate::delta::{Effect, Operation, Set, SetKind};
use crate::lsn::Lsn;
use crate::marker::{MarkerKind, PREFIX};
use crate::names::quote_names;
use crate::plan::{Columns, Plan};
use crate::problem::{Blame, Outcome, Problem};

/// Rows of one table and column set that wait for their COPY.
const FLUSH_BYTES: usize = 2 << 20;

/// Operations that COPY cannot write, before they are written.
const FLUSH_OTHERS: usize = 10_000;

/// Writes chunks through one connection, one after another.
pub struct ChunkWriter<'c> {
    client: &'c Client,
    plan: Arc<Plan>,
    identity: LinkIdentity,
    position: Lsn,
}

impl<'c> ChunkWriter<'c> {
    /// A writer for a link whose checkpoint stands at `position` while it copies.
    pub fn new(client: &'c Client, plan: Arc<Plan>, identity: LinkIdentity, position: Lsn) -> Self {
        ChunkWriter { client, plan, identity, position }
    }

    /// Opens a chunk's transaction; `None` if the chunk is done already. `at` is the position of the snapshot that its
    /// rows are read in, for the marker.
    pub async fn begin(&mut self, chunk: &Chunk, at: Lsn) -> Outcome<Option<OpenChunk<'_>>> {
        // A chunk that was dropped half-way left its transaction open; without one this is a warning.
        self.client.batch_execute("ROLLBACK").await.map_err(|error| fault::refused(&error))?;
        let opened = self.open(chunk, at).await;
        if !matches!(opened, Ok(true)) {
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        match opened? {
            false => Ok(None),
            true => Ok(Some(OpenChunk {
                client: self.client,
                plan: &self.plan,
                identity: &self.identity,
                chunk: chunk.clone(),
                waiting: Vec::new(),
                others: Vec::new(),
                stream: None,
                rows: 0,
            })),
        }
    }

    async fn open(&self, chunk: &Chunk, at: Lsn) -> Outcome<bool> {
        let LinkIdentity { migration, link, epoch, .. } = &self.identity;
        // L7: the marker is the first thing in the transaction.
        let marker = self.identity.marker(MarkerKind::Copy, at).to_bytes();
        // FOR SHARE: chunks do not wait for one another, but a host that takes the link over waits for them, and they
        // find its epoch. KEY SHARE would let its update pass.
        let hold = "SELECT FROM falkirk.checkpoint WHERE migration = $1 AND link = $2 AND epoch = $3 AND position = $4 FOR SHARE";
        let record = "SELECT finished_at IS NULL FROM falkirk.chunk \
            WHERE migration = $1 AND link = $2 AND source_table = $3 AND number = $4 FOR UPDATE";
        let run = async {
            self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '30s'").await?;
            let emit = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', $1::bytea)");
            self.client.execute(&emit, &[&marker.as_slice()]).await?;
            let position = PgLsn::from(self.position.0);
            let held = self.client.execute(hold, &[migration, &link.name(), epoch, &position]).await?;
            self.client.batch_execute("SET CONSTRAINTS ALL DEFERRED").await?;
            let table = chunk.table.to_string();
            let open = self.client.query_opt(record, &[migration, &link.name(), &table, &chunk.number]).await?;
            Ok((held, open.map(|row| row.get::<_, bool>(0))))
        };
        let result: Result<(u64, Option<bool>), tokio_postgres::Error> = run.await;
        match result.map_err(|error| fault::refused(&error))? {
            (1, Some(open)) => Ok(open),
            (1, None) => Err(Problem::refuse(Blame::Target, "CHUNK_MISSING", "a chunk of the copy has no record")
                .table(&chunk.table)
                .remedy("nobody but the host may write falkirk.chunk; `falkirk clean` and copy anew")),
            _ => Err(checkpoint::lost_hold(self.client, migration, *link, *epoch, Some(self.position)).await),
        }
    }
}

struct Waiting {
    target: usize,
    columns: Columns,
    rows: BytesMut,
}

/// A chunk whose transaction is open. Dropped without `finish`, it leaves nothing.
pub struct OpenChunk<'w> {
    client: &'w Client,
    plan: &'w Plan,
    identity: &'w LinkIdentity,
    chunk: Chunk,
    waiting: Vec<Waiting>,
    /// Rows to be ensured and patched, which COPY cannot.
    others: Vec<Operation>,
    stream: Option<(usize, Pin<Box<CopyInSink<Bytes>>>)>,
    rows: u64,
}

impl OpenChunk<'_> {
    /// Adds what one row stands for.
    pub async fn change(&mut self, operation: Operation) -> Outcome<()> {
        if let Effect::Insert { columns, values } = &operation.effect {
            return self.push(operation.target, columns, values).await;
        }
        self.others.push(operation);
        match self.others.len() >= FLUSH_OTHERS {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// What COPY cannot write: first the rows that are ensured, which copied rows may point to, then patches.
    async fn write_others(&self, others: &[Vec<Set>], kind: SetKind) -> Outcome<()> {
        let mut statements = Statements::default();
        for set in others.iter().flatten().filter(|set| set.kind == kind) {
            let target = &self.plan.targets[set.target];
            let refused = |error| fault::written(&error, true, Some(target));
            for range in bound::ranges(set, false) {
                let bound = bound::rows(self.client, &mut statements, self.plan, set, range).await.map_err(refused)?;
                let count = self.client.execute_raw(&bound.statement, bound.parameters).await.map_err(refused)?;
                if bound.rows.is_some_and(|rows| rows != count) {
                    let what = "a row that is to be patched is not there";
                    return Err(Problem::stop(Blame::Target, "ROWCOUNT", what).table(&target.name).remedy(
                        "every row of the rule's table must stand for a row that another table's rows own: a foreign key on the source would say so",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Adds one row. `columns` and `values` stand in the same order; `Unset` is not a value of a copied row.
    pub async fn push(&mut self, target: usize, columns: &Columns, values: &[Datum]) -> Outcome<()> {
        let same = |waiting: &Waiting| waiting.target == target && waiting.columns == *columns;
        let at = match self.waiting.iter().position(same) {
            Some(at) => at,
            None => {
                self.waiting.push(Waiting { target, columns: columns.clone(), rows: BytesMut::new() });
                self.waiting.len() - 1
            }
        };
        put_row(values, &mut self.waiting[at].rows);
        match self.waiting[at].rows.len() >= FLUSH_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Hands on a block of whole or cut rows in COPY's text form, as the source sent it: its columns must be `columns`,
    /// in that order. Not to be mixed with `push` for one chunk.
    pub async fn raw(&mut self, target: usize, columns: &[u16], block: Bytes) -> Outcome<()> {
        if self.stream.is_none() {
            self.stream = Some((target, self.copy(target, columns).await?));
        }
        let Some((_, stream)) = &mut self.stream else { return Ok(()) };
        match stream.as_mut().feed(block).await {
            Ok(()) => Ok(()),
            Err(_) => {
                // The sink says only that it is closed; the server's answer says why.
                self.end_stream().await?;
                Err(Problem::retry(Blame::Target, "TARGET_LOST", "the target ended a copy early"))
            }
        }
    }

    /// Writes what waits, parents before children, so that no row of a child overtakes its parent.
    async fn flush(&mut self) -> Outcome<()> {
        let mut folder = Folder::new(&self.plan.targets);
        std::mem::take(&mut self.others).into_iter().for_each(|operation| folder.push(operation));
        let others = folder.finish();
        self.write_others(&others, SetKind::Ensure).await?;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|waiting| waiting.target);
        for Waiting { target, columns, rows } in &mut waiting {
            if rows.is_empty() {
                continue;
            }
            let mut stream = self.copy(*target, columns).await?;
            // A failed feed is told by the answer to `finish`.
            let _ = stream.as_mut().feed(rows.split().freeze()).await;
            self.stream = Some((*target, stream));
            self.end_stream().await?;
        }
        self.waiting = waiting;
        self.write_others(&others, SetKind::Patch).await
    }

    async fn copy(&self, target: usize, columns: &[u16]) -> Outcome<Pin<Box<CopyInSink<Bytes>>>> {
        let table = &self.plan.targets[target];
        let names = quote_names(columns.iter().map(|column| table.columns[*column as usize].name.as_str()));
        let sql = format!("COPY {} ({names}) FROM STDIN", table.name.sql());
        let sink = self.client.copy_in(&sql).await.map_err(|error| fault::written(&error, true, Some(table)))?;
        Ok(Box::pin(sink))
    }

    async fn end_stream(&mut self) -> Outcome<()> {
        if let Some((target, mut stream)) = self.stream.take() {
            let target = &self.plan.targets[target];
            let ended = stream.as_mut().finish().await;
            self.rows += ended.map_err(|error| fault::written(&error, true, Some(target)))?;
        }
        Ok(())
    }

    /// Writes what waits, marks the chunk as done and commits. Reports the number of rows written.
    pub async fn finish(mut self) -> Outcome<u64> {
        match self.write_end().await {
            Ok(()) => Ok(self.rows),
            Err(problem) => {
                let _ = self.client.batch_execute("ROLLBACK").await;
                Err(problem)
            }
        }
    }

    async fn write_end(&mut self) -> Outcome<()> {
        self.end_stream().await?;
        self.flush().await?;
        let LinkIdentity { migration, link, .. } = self.identity;
        let (table, rows) = (self.chunk.table.to_string(), self.rows as i64);
        let update = "UPDATE falkirk.chunk SET finished_at = now(), rows = $5 WHERE migration = $1 AND link = $2 \
            AND source_table = $3 AND number = $4 AND finished_at IS NULL";
        let done = self.client.execute(update, &[migration, &link.name(), &table, &self.chunk.number, &rows]).await;
        if done.map_err(|error| fault::refused(&error))? != 1 {
            return Err(Problem::refuse(
                Blame::Target,
                "CHUNK_MISSING",
                "a chunk's record went away while it was copied",
            )
            .table(&self.chunk.table));
        }
        self.client.batch_execute("COMMIT").await.map_err(|error| fault::written(&error, true, None))
    }
}

fn put_row(values: &[Datum], out: &mut BytesMut) {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b"\t");
        }
        match value {
            Datum::Null | Datum::Unset => out.extend_from_slice(b"\\N"),
            Datum::Text(text) => put_escaped(text, out),
        }
    }
    out.extend_from_slice(b"\n");
}

fn put_escaped(text: &[u8], out: &mut BytesMut) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_escaped_as_copy_reads_them() {
        let mut out = BytesMut::new();
        put_row(&[Datum::text("a\tb\\N"), Datum::Null, Datum::text("")], &mut out);
        assert_eq!(&out[..], b"a\\tb\\\\N\t\\N\t\n");
    }
}
