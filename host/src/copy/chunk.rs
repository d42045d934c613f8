//! One chunk: as raw text where nothing needs to look at a row, otherwise row by row through the transform.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::apply::chunk::Chunk;
use crate::apply::copy_in::OpenChunk;
use crate::change::{Event, Image};
use crate::delta::lift::{self, Lifter};
use crate::manifest::Write;
use crate::plan::{Answer, Plan, Source};
use crate::problem::{Blame, Outcome, Problem};
use crate::source::copy_out::{self, Blocks, CopyOut};
use crate::stream::keyed::Keyed;
use crate::transform::Guest;

use super::{Copied, Copy, key_columns};

/// Wide rows are not waited for any longer than this.
const AT_ONCE_BYTES: usize = 4 << 20;

/// Everything that one chunk needs.
pub(super) struct OneChunk<'a> {
    pub(super) copy: &'a Copy<'a>,
    pub(super) chunk: &'a Chunk,
    /// Position in `Plan::sources`.
    pub(super) source: usize,
    pub(super) reader: &'a CopyOut<'a>,
    /// Shared by all chunks: one batch at a time keeps every instance busy.
    pub(super) guest: Option<&'a Mutex<Guest>>,
    pub(super) stop: &'a watch::Receiver<bool>,
}

/// The source column of each target column, if the one output only copies.
pub(super) fn raw_columns(source: &Source) -> Option<(usize, Vec<(usize, u16)>)> {
    match source.rule.outputs.as_slice() {
        [only] if !only.needs_guest() && only.write == Write::Own && !source.depends.is_any() => {
            Some((only.target, only.copied.clone()))
        }
        _ => None,
    }
}

impl OneChunk<'_> {
    pub(super) async fn copy(&self, mut open: OpenChunk<'_>, keyed: Option<&mut Keyed>) -> Outcome<Copied> {
        let source = &self.copy.plan.sources[self.source];
        let done = match raw_columns(source) {
            Some((target, columns)) => self.copy_raw(&mut open, target, &columns).await,
            None => self.copy_rows(&mut open, keyed).await,
        };
        let at = |problem: Problem| problem.table(&source.name).position(self.copy.snapshot.consistent_point);
        if done.map_err(at)? == Copied::Stopped {
            return Ok(Copied::Stopped);
        }
        open.finish().await.map_err(at)?;
        self.copy.live.send_modify(|live| {
            let own = live.tables.iter_mut().find(|table| table.table == source.name);
            own.into_iter().for_each(|table| table.chunks_finished += 1);
        });
        Ok(Copied::All)
    }

    fn query(&self, columns: &[&str]) -> String {
        let source = &self.copy.plan.sources[self.source];
        let (lower, upper) = (self.chunk.lower.as_deref(), self.chunk.upper.as_deref());
        copy_out::range_query(&source.name, columns, &key_columns(source), lower, upper)
    }

    /// Nothing looks at the rows: the source's text goes to the target as it is.
    async fn copy_raw(&self, open: &mut OpenChunk<'_>, target: usize, columns: &[(usize, u16)]) -> Outcome<Copied> {
        let source = &self.copy.plan.sources[self.source];
        let names: Vec<&str> = columns.iter().map(|(from, _)| source.columns[*from].name.as_str()).collect();
        let into: Vec<u16> = columns.iter().map(|(_, to)| *to).collect();
        let mut blocks = self.reader.read(&self.query(&names)).await?;
        while let Some(block) = blocks.next().await? {
            self.count(block.iter().filter(|byte| **byte == b'\n').count());
            open.raw(target, &into, block).await?;
            if *self.stop.borrow() {
                return Ok(Copied::Stopped);
            }
        }
        Ok(Copied::All)
    }

    async fn copy_rows(&self, open: &mut OpenChunk<'_>, mut keyed: Option<&mut Keyed>) -> Outcome<Copied> {
        let plan = &self.copy.plan;
        let source = &plan.sources[self.source];
        let names: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
        let mut blocks = self.reader.read(&self.query(&names)).await?;
        let mut lifter = Lifter::default();
        while let Some(rows) = self.some_rows(&mut blocks, names.len()).await? {
            self.count(rows.len());
            let (rows, mirror) = match keyed.as_deref_mut().filter(|_| source.depends.is_any()) {
                Some(keyed) => keyed.copied(self.source, rows).await?,
                None => (rows, Vec::new()),
            };
            // The guest computes; other chunks and the connections go on meanwhile.
            let span = tracing::info_span!("transform", position = %self.copy.snapshot.consistent_point);
            let answers = span.in_scope(|| tokio::task::block_in_place(|| self.answers(&rows)))?;
            self.push(open, &mut lifter, rows, answers).await?;
            for operation in mirror {
                open.change(operation).await?;
            }
            if *self.stop.borrow() {
                return Ok(Copied::Stopped);
            }
        }
        Ok(Copied::All)
    }

    /// Rows enough to keep every instance of the guest busy; one block of them where no guest is asked.
    async fn some_rows(&self, blocks: &mut Blocks, columns: usize) -> Outcome<Option<Vec<Image>>> {
        let at_once = self.guest.map_or(1, |guest| guest.lock().unwrap_or_else(PoisonError::into_inner).rows_at_once());
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < at_once && bytes < AT_ONCE_BYTES {
            let Some(block) = blocks.next().await? else { break };
            bytes += block.len();
            rows.append(&mut copy_out::parse_rows(&block, columns)?);
        }
        Ok((!rows.is_empty()).then_some(rows))
    }

    async fn push(
        &self,
        open: &mut OpenChunk<'_>,
        lifter: &mut Lifter,
        rows: Vec<Image>,
        answers: Vec<Answer>,
    ) -> Outcome<()> {
        let plan: &Plan = &self.copy.plan;
        let source = &plan.sources[self.source];
        let mut answers = answers.into_iter();
        let mut operations = Vec::new();
        for row in rows {
            let answer = answers.next();
            // The same rules as for the stream: a row that is there came into being.
            lifter
                .lift(self.source, source, &plan.targets, &Event::Insert(row), (None, answer.as_ref()), &mut operations)
                .map_err(|error| {
                    Problem::stop(Blame::Artifact, "BAD_OUTPUT", error)
                        .remedy("correct the transform, ship it as a new artifact and start again: the copy goes on where it was")
                })?;
            for operation in operations.drain(..) {
                open.change(operation).await?;
            }
        }
        Ok(())
    }

    fn answers(&self, rows: &[Image]) -> Outcome<Vec<Answer>> {
        let source = &self.copy.plan.sources[self.source];
        let asked = rows.first().is_some_and(|row| lift::ask(source, &Event::Insert(row.clone())).after);
        match self.guest {
            Some(guest) if asked => {
                let images: Vec<&Image> = rows.iter().collect();
                let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
                guest.answer(&self.copy.plan, source, &images).map_err(|fault| fault.problem)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn count(&self, rows: usize) {
        let name = &self.copy.plan.sources[self.source].name;
        self.copy.live.send_modify(|live| {
            let own = live.tables.iter_mut().find(|table| table.table == *name);
            own.into_iter().for_each(|table| table.rows += rows as u64);
        });
    }
}
