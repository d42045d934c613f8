//! The copy: existing rows go through the same lifting as the stream's, chunk by chunk, several at once.
//!
//! ```text
//!   slot's snapshot at P --> chunk --COPY TO--> [transform] --COPY FROM--> target, with the chunk's record
//! ```
//!
//! L5, and the subtleties behind it:
//!
//! 1. Rows are only read in a snapshot that a slot made: then its position P says exactly which transactions it holds.
//! 2. A chunk's rows and its record are one target transaction, which also holds the checkpoint at P. So finished chunks
//!    always stand exactly at the checkpoint, and a killed copy leaves whole chunks or nothing.
//! 3. A resumed copy needs a new snapshot at a later P. Before it copies on, the stream brings the finished chunks, and
//!    only them, to that P (`catch_up`). Copy and stream alternate; they never overlap.
//! 4. Parents are copied before their children; chunks of one level run at the same time. Rows that others depend on
//!    (bound pairs, related rows, rows that are patched) are copied before those.

pub mod catch_up;
mod chunk;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, watch};

use crate::apply::LinkIdentity;
use crate::apply::chunk::{self as record, Chunk};
use crate::config::Settings;
use crate::live::{Live, Stage, TableProgress};
use crate::lsn::Lsn;
use crate::manifest::Write;
use crate::pg::session::Session;
use crate::plan::{Output, Plan, Source};
use crate::problem::{Blame, Outcome};
use crate::source::copy_out::{self, CopyOut, KeyColumn};
use crate::source::session::SlotSnapshot;
use crate::stream::keyed::Keyed;
use crate::transform::{Artifact, Guest};

/// What a copy needs.
pub struct Copy<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The artifact, if one is configured.
    pub artifact: Option<Arc<Artifact>>,
    /// Who writes.
    pub identity: LinkIdentity,
    /// The snapshot that is read; its slot's position is the checkpoint.
    pub snapshot: &'a SlotSnapshot,
    /// A session to the target for records.
    pub target: &'a Session,
    /// What is shown.
    pub live: &'a watch::Sender<Live>,
}

/// How a copy ended without a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Every chunk is finished.
    All,
    /// It was told to stop; unfinished chunks have left nothing.
    Stopped,
}

/// The columns by which a table is cut.
fn key_columns(source: &Source) -> Vec<KeyColumn> {
    // One statement satisfies foreign keys of the table to itself; several do not.
    let key: &[usize] = if source.refers_to_itself { &[] } else { &source.key };
    key.iter()
        .map(|column| KeyColumn {
            name: source.columns[*column].name.clone(),
            type_sql: source.columns[*column].type_sql.clone(),
        })
        .collect()
}

/// Cuts every table into chunks and writes them down, once, before the first row moves.
pub async fn plan_chunks(copy: &Copy<'_>) -> Outcome<()> {
    let session = Session::connect_blaming(&copy.settings.source().address, Blame::Source, "copy plan").await?;
    let reader = CopyOut::enter(session.client(), &copy.snapshot.snapshot).await?;
    for source in &copy.plan.sources {
        let key = key_columns(source);
        let chunk_bytes = copy.settings.copy_chunk_bytes;
        let bounds = copy_out::bounds(session.client(), &source.name, &key, source.size_bytes, chunk_bytes).await?;
        let chunks = record::parts(&source.name, bounds);
        record::plan(copy.target.client(), &copy.identity.migration, copy.identity.link, &source.name, &chunks).await?;
    }
    reader.leave().await
}

/// Copies every chunk that is not finished.
pub async fn run(copy: &Copy<'_>, stop: &watch::Receiver<bool>) -> Outcome<Copied> {
    let all = record::list(copy.target.client(), &copy.identity.migration, copy.identity.link).await?;
    show(copy, &all);
    let levels = copy.plan.sources.iter().map(|source| source.copy_level).max().unwrap_or(0);
    let guest = copy.artifact.as_ref().map(|artifact| {
        let settings = copy.settings;
        std::sync::Mutex::new(Guest::new(artifact.clone(), settings.link.into(), settings.limits))
    });
    let mut workers = Vec::new();
    for _ in 0..copy.settings.copy_workers {
        workers.push(Worker::connect(copy).await?);
    }
    for level in 0..=levels {
        let of_level = |chunk: &&Chunk| !chunk.finished && level_of(&copy.plan, chunk) == Some(level);
        let chunks: Vec<Chunk> = all.iter().filter(of_level).cloned().collect();
        let (next, turn) = (AtomicUsize::new(0), Mutex::new(()));
        let runs = workers.iter_mut().map(|worker| worker.run(copy, &chunks, (&next, &turn), (guest.as_ref(), stop)));
        let ended = futures_util::future::try_join_all(runs).await?;
        if ended.contains(&Copied::Stopped) {
            return Ok(Copied::Stopped);
        }
    }
    Ok(Copied::All)
}

fn level_of(plan: &Plan, chunk: &Chunk) -> Option<usize> {
    plan.by_name.get(&chunk.table).map(|source| plan.sources[*source].copy_level)
}

fn show(copy: &Copy<'_>, chunks: &[Chunk]) {
    let table = |source: &Source| {
        let own = || chunks.iter().filter(|chunk| chunk.table == source.name);
        TableProgress {
            table: source.name.clone(),
            rows: own().filter_map(|chunk| chunk.rows).sum::<i64>() as u64,
            rows_estimate: source.rows_estimate.max(0.0) as u64,
            chunks_finished: own().filter(|chunk| chunk.finished).count(),
            chunks: own().count(),
        }
    };
    copy.live.send_modify(|live| {
        live.stage = Stage::Copying;
        live.position = copy.snapshot.consistent_point;
        live.tables = copy.plan.sources.iter().map(table).collect();
    });
}

/// One of the copying sessions: a pair of connections.
struct Worker {
    source: Session,
    target: Session,
    keyed: Option<Keyed>,
}

impl Worker {
    async fn connect(copy: &Copy<'_>) -> Outcome<Worker> {
        let settings = copy.settings;
        Ok(Worker {
            source: Session::connect_blaming(&settings.source().address, Blame::Source, "copy").await?,
            target: Session::connect_blaming(&settings.target().address, Blame::Target, "copy").await?,
            keyed: Keyed::connect(settings, &copy.plan, &copy.identity).await?,
        })
    }

    async fn run(
        &mut self,
        copy: &Copy<'_>,
        chunks: &[Chunk],
        (next, turn): (&AtomicUsize, &Mutex<()>),
        (guest, stop): (Option<&std::sync::Mutex<Guest>>, &watch::Receiver<bool>),
    ) -> Outcome<Copied> {
        let reader = CopyOut::enter(self.source.client(), &copy.snapshot.snapshot).await?;
        let position: Lsn = copy.snapshot.consistent_point;
        let mut writer = crate::apply::copy_in::ChunkWriter::new(
            self.target.client(),
            copy.plan.clone(),
            copy.identity.clone(),
            position,
        );
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(source) = copy.plan.by_name.get(&chunk.table).copied() else { continue };
            // Rows that several chunks write are written by one chunk at a time: two would wait for each other in a circle.
            let shares = |output: &Output| output.write != Write::Own;
            let _turn = match copy.plan.sources[source].rule.outputs.iter().any(shares) {
                true => Some(turn.lock().await),
                false => None,
            };
            let Some(open) = writer.begin(chunk, position).await? else { continue };
            let one = chunk::OneChunk { copy, chunk, source, reader: &reader, guest, stop };
            if one.copy(open, self.keyed.as_mut()).await? == Copied::Stopped {
                return Ok(Copied::Stopped);
            }
        }
        reader.leave().await?;
        Ok(Copied::All)
    }
}
