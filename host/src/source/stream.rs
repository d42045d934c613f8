//! The stream of a replication connection: frames in, positions out.
//!
//! Cancel-safe throughout: half-read frames and half-sent feedback stay in the connection. L1: the only position that
//! is ever reported is the one that was given to `report`, which is what the target has durably committed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::problem::{Blame, Outcome, Problem};

use super::wire::{Wire, raw_problem, split_frame};

/// Feedback goes out at least this often, also while nothing can be taken (pitfalls 68 and 69); oftener if the source
/// has less patience.
const FEEDBACK_EVERY: Duration = Duration::from_secs(5);
/// And at most this often because of a new durable position.
const FEEDBACK_SPACING: Duration = Duration::from_millis(200);
/// A read that brought less than this emptied the socket; under load a short sleep then saves most of the reads.
const SHORT_READ_BYTES: usize = 64 << 10;
/// After this much silence the source is asked for a word,
const SILENCE_ASK: Duration = Duration::from_secs(30);
/// and after this much the connection counts as lost: a half-open one says nothing at all.
const SILENCE_LOST: Duration = Duration::from_secs(120);
const NAP: Duration = Duration::from_millis(1);
const FAREWELL: Duration = Duration::from_secs(2);

/// What arrives.
#[derive(Debug)]
pub enum Frame {
    /// A message of the output plugin.
    Data {
        /// The message; shares the buffer that it arrived in.
        payload: Bytes,
    },
    /// The source has nothing more before a position.
    Keepalive {
        /// That position.
        wal_end: Lsn,
        /// The source wants an answer at once.
        reply_requested: bool,
    },
}

/// A running stream.
pub struct ReplicationStream {
    wire: Wire,
    durable: Lsn,
    reported: Lsn,
    feedback_at: Instant,
    feedback_every: Duration,
    reply_due: bool,
    nap: bool,
    last_read_was_short: bool,
    heard_at: Instant,
}

impl ReplicationStream {
    /// A stream from a source that gives up a reader after `patience` without a word; zero is never.
    pub(super) fn new(wire: Wire, from: Lsn, patience: Duration) -> Self {
        let third = if patience.is_zero() { FEEDBACK_EVERY } else { patience / 3 };
        // The first feedback asks for an answer: an idle source says at once how far it is.
        ReplicationStream {
            wire,
            durable: from,
            reported: Lsn::ZERO,
            feedback_at: Instant::now(),
            feedback_every: FEEDBACK_EVERY.min(third),
            reply_due: true,
            nap: false,
            last_read_was_short: true,
            heard_at: Instant::now(),
        }
    }

    /// L1: what the target has durably committed; goes out with the next feedback.
    pub fn report(&mut self, durable: Lsn) {
        self.durable = self.durable.max(durable);
        if self.durable > self.reported {
            self.feedback_at = self.feedback_at.min(Instant::now() + FEEDBACK_SPACING);
        }
    }

    /// While there is a backlog, a short sleep after a short read lets more arrive. It costs latency.
    pub fn set_nap(&mut self, nap: bool) {
        self.nap = nap;
    }

    /// Waits for at least one frame and hands out all that are there. Sends feedback when it is due.
    pub async fn next(&mut self, frames: &mut Vec<Frame>) -> Outcome<()> {
        loop {
            if self.reply_due || Instant::now() >= self.feedback_at {
                self.feedback().await?;
            }
            self.take(frames)?;
            if !frames.is_empty() {
                return Ok(());
            }
            if self.nap && self.last_read_was_short {
                self.last_read_was_short = false;
                tokio::time::sleep(NAP).await;
            }
            if self.heard_at.elapsed() >= SILENCE_LOST {
                return Err(Problem::retry(
                    Blame::Source,
                    "CONNECTION_LOST",
                    "the source has said nothing for two minutes",
                ));
            }
            tokio::select! {
                read = self.wire.read_more() => {
                    self.last_read_was_short = read? < SHORT_READ_BYTES;
                    self.heard_at = Instant::now();
                }
                () = tokio::time::sleep_until(self.feedback_at) => {}
            }
        }
    }

    fn take(&mut self, frames: &mut Vec<Frame>) -> Outcome<()> {
        let mut piece = self.wire.take_complete()?;
        while let Some((kind, body)) = split_frame(&mut piece)? {
            match kind {
                b'd' => frames.extend(self.copy_data(body)?),
                b'E' => return Err(raw_problem(kind, &body, "go on with the stream")),
                b'c' => {
                    return Err(Problem::retry(Blame::Source, "CONNECTION_LOST", "the source has ended the stream"));
                }
                // Notices and parameter changes.
                _ => {}
            }
        }
        Ok(())
    }

    fn copy_data(&mut self, mut body: Bytes) -> Outcome<Option<Frame>> {
        let short = || Problem::retry(Blame::Source, "PROTOCOL_ERROR", "a frame of the stream is too short");
        match body.first() {
            Some(b'w') if body.len() >= 25 => {
                body.advance(25);
                Ok(Some(Frame::Data { payload: body }))
            }
            Some(b'k') if body.len() >= 18 => {
                body.advance(1);
                let wal_end = Lsn(body.get_u64());
                body.advance(8);
                let reply_requested = body.get_u8() == 1;
                self.reply_due |= reply_requested;
                Ok(Some(Frame::Keepalive { wal_end, reply_requested }))
            }
            Some(b'w' | b'k') | None => Err(short()),
            Some(_) => Ok(None),
        }
    }

    /// Sends feedback whenever it is due, and never reads. For whoever cannot take frames at the moment.
    pub async fn idle(&mut self) -> Outcome<()> {
        loop {
            tokio::time::sleep_until(self.feedback_at).await;
            self.feedback().await?;
            // Who does not read cannot tell silence from its own deafness.
            self.heard_at = Instant::now();
        }
    }

    async fn feedback(&mut self) -> Outcome<()> {
        self.queue_feedback()?;
        self.wire.flush().await
    }

    fn queue_feedback(&mut self) -> Outcome<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        let ask = self.reported == Lsn::ZERO || self.heard_at.elapsed() >= SILENCE_ASK;
        let mut status = Vec::with_capacity(34);
        status.push(b'r');
        // Written, flushed, applied: one and the same here.
        (0..3).for_each(|_| status.extend_from_slice(&self.durable.0.to_be_bytes()));
        status.extend_from_slice(&(now - 946_684_800_000_000).to_be_bytes());
        status.push(u8::from(ask));
        self.wire.queue_copy_data(&status)?;
        self.reported = self.durable;
        self.reply_due = false;
        self.feedback_at = Instant::now() + self.feedback_every;
        Ok(())
    }

    /// Reports once more and takes leave, so that the source need not find out by itself.
    pub async fn finish(mut self) -> Outcome<()> {
        self.queue_feedback()?;
        self.wire.queue_farewell();
        let farewell = async {
            self.wire.flush().await?;
            // The source hangs up when it has read the farewell, and the feedback before it.
            while self.wire.read_more().await.is_ok() {
                self.wire.take_complete()?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
    }
}
