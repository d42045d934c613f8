//! The stream: changes out of the source, through the transform, into the target.
//!
//! ```text
//!   source --> reader --> [ one bounded queue ] --> lifter --> [1] --> writer --> target
//!                ^          assemble, ask, lift, fold            |
//!                '------------- durable position ---------------'
//! ```
//!
//! Three tasks and all their channels, made here and nowhere else. Only the writer knows what is durable; it says so by
//! one watched value, which the reader passes on to the source (L1). A problem anywhere ends all three; the link then
//! starts again from the checkpoint, exactly as after a crash (L2).

pub mod assemble;
mod asserted;
mod batches;
mod decided;
pub mod exchange;
pub mod keyed;
pub mod lifting;
mod lost;
pub mod notes;
mod paired;
mod parked;
mod reader;
mod referred;
pub mod relations;
pub mod seen;
pub mod settled;
pub mod shadow;
pub mod touched;
pub mod trial;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch as watch_value};

use crate::apply::writer::{Batch, Writer};
use crate::live::{Live, Waiting};
use crate::lsn::Lsn;
use crate::marker::{Link, MigrationId};
use crate::plan::Plan;
use crate::problem::{Outcome, Problem};
use crate::source::stream::ReplicationStream;

use assemble::{Assembler, Placed};
use batches::Batches;
use decided::Claims;
use exchange::{Now, Order, Orders, Rewrite};
use lifting::Lifting;
use notes::Notebook;
use relations::{Misfit, Relations};
use seen::Seen;
use touched::Touched;
use trial::Trial;

pub use decided::{Deciding, Ruled};

/// Parcels that the queue holds; each is what one read of the socket brought, at most 256 KiB and a frame.
const QUEUE_PARCELS: usize = 16;
/// Microseconds between the epoch of Unix and that of PostgreSQL.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// What is left of a batch's changes, each in its place or gone.
pub type Kept<'a> = std::pin::Pin<Box<dyn Future<Output = Outcome<Vec<Option<Placed>>>> + Send + 'a>>;

/// Decides which changes concern a link that has copied only a part of its rows.
pub trait Filter: Send {
    /// Drops the changes of rows that are still to be copied.
    fn keep<'a>(&'a mut self, changes: Vec<Placed>, relations: &'a Relations) -> Kept<'a>;
}

/// What a stream needs.
pub struct Stream<'c> {
    /// The source, positioned at the checkpoint.
    pub source: ReplicationStream,
    /// The target, at the same checkpoint.
    pub writer: Writer<'c>,
    /// Plan and guest.
    pub lifting: Lifting,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Whose markers are skipped.
    pub own: (MigrationId, Link),
    /// The checkpoint's context.
    pub context: Lsn,
    /// End before the first transaction that committed at or after this position, with the checkpoint exactly there.
    pub until_snapshot: Option<Lsn>,
    /// End as soon as the checkpoint has reached this position.
    pub until_caught_up: Option<Lsn>,
    /// Apply change by change up to this position.
    pub strict_until: Option<Lsn>,
    /// For a link whose copy is not finished.
    pub filter: Option<Box<dyn Filter>>,
    /// Having caught up is said, not acted upon: the other link may still need what this one sees.
    pub lingers: bool,
    /// With another link.
    pub two_way: Option<TwoWay>,
    /// For a stream in which revisions may be exchanged; without it columns that changed end the link.
    pub orders: Option<Orders>,
    /// Which rows have changed, for whoever looks at the source beside the stream.
    pub touched: Arc<Touched>,
}

/// What a stream needs beside another link of its migration.
pub struct TwoWay {
    /// Which rows to note for the other link.
    pub notebook: Notebook,
    /// Where this link's notes go.
    pub seen: Arc<Seen>,
    /// What this link does.
    pub part: Part,
}

/// What one of two links does.
pub enum Part {
    /// It reads, and writes nothing but its position while its source has no changes of its own.
    /// Changes of its source's own are counted, and tried if that is wanted.
    Watches(Option<Box<Trial>>),
    /// It is the only one that writes.
    Applies,
    /// Both write: every batch is decided (L8).
    Decides(Box<Deciding>),
}

/// How a stream ended without a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// It reached the position that it was to reach.
    Reached,
}

/// What the lifter hands to the writer.
enum Work {
    Batch(Batch),
    Claims(Claims),
    Held(Waiting),
    /// Settle, and say up to where.
    Stand(oneshot::Sender<Lsn>),
    /// The exchange for which it settled does not take place.
    GoOn,
    /// Another revision computes what follows; say how long nothing could be written because of that.
    Exchange(Box<Rewrite>, oneshot::Sender<Duration>),
    /// The link waits at columns that its plan was not made for, or no longer.
    Awaits(Option<Problem>),
    CaughtUp,
    End(Result<End, Problem>),
}

/// Runs until told to stop, until a position is reached or until a problem.
pub async fn run(
    stream: Stream<'_>,
    stop: watch_value::Receiver<bool>,
    live: &watch_value::Sender<Live>,
) -> Outcome<End> {
    let from = stream.writer.durable();
    let (queue, parcels) = mpsc::channel(QUEUE_PARCELS);
    let (batches, work) = mpsc::channel(1);
    let (durable, durable_seen) = watch_value::channel(from);
    let (reader_stop, reader_stopped) = watch_value::channel(false);
    let reader = tokio::spawn(reader::read(stream.source, queue, durable_seen, reader_stopped));
    let mut assembler = Assembler::new((from, stream.context), stream.until_snapshot, stream.own);
    assembler.one_by_one = stream.strict_until.is_some();
    let (watches, mut deciding) = part(stream.two_way, &mut assembler);
    let mut lifting = stream.lifting;
    lifting.watch(durable.subscribe());
    let (orders, awaits, now) = ordered(stream.orders);
    let middle = Batches {
        assembler,
        relations: Relations::new(&stream.plan),
        plan: stream.plan.clone(),
        lifting,
        filter: stream.filter,
        until_snapshot: stream.until_snapshot,
        until_caught_up: stream.until_caught_up,
        lingers: stream.lingers,
        strict_until: stream.strict_until,
        decides: deciding.is_some(),
        theirs: deciding.as_ref().map(|deciding| deciding.theirs.clone()),
        held: watches.is_some().then(Waiting::default),
        trial: watches.flatten(),
        written: from,
        written_at: Instant::now(),
        reader_stop,
        durable: durable.subscribe(),
        misfit: None,
        awaits,
        gives_up: now.is_none(),
        now,
        later: Vec::new(),
        shadow: None,
        touched: stream.touched,
        forgot_at: Instant::now(),
    };
    // The guest computes for milliseconds at a time: a thread of its own keeps the runtime's threads free for I/O.
    let (runtime, told) = (tokio::runtime::Handle::current(), stop.clone());
    let middle = tokio::task::spawn_blocking(move || runtime.block_on(middle.run(parcels, batches, told, orders)));
    let target = write::Target::new(stream.plan, deciding.as_deref_mut(), &durable, live);
    let ended = write::write(stream.writer, work, target, (stream.strict_until, stop)).await;
    drop(durable);
    let read = reader.await.unwrap_or_else(|_| Err(task_lost("reader")));
    middle.await.map_err(|_| task_lost("lifter"))?;
    match (ended, read) {
        (Err(problem), _) => Err(problem),
        (Ok(None), Err(problem)) => Err(problem),
        (Ok(None), Ok(())) => Err(task_lost("reader")),
        // What was to be written is written; that the source could not be told is no problem of this run.
        (Ok(Some(end)), _) => Ok(end),
    }
}

/// Whether the link only watches, and how it decides; the assembler takes notes for the other one.
fn part(two_way: Option<TwoWay>, assembler: &mut Assembler) -> (Watches, Option<Box<Deciding>>) {
    let Some(TwoWay { notebook, seen, part }) = two_way else { return (None, None) };
    seen.bind(assembler.from());
    assembler.notebook = Some((notebook, seen));
    match part {
        Part::Watches(trial) => (Some(trial), None),
        Part::Applies => (None, None),
        Part::Decides(deciding) => (None, Some(deciding)),
    }
}

/// A link that only watches may try the way back.
type Watches = Option<Option<Box<Trial>>>;
type Awaits = watch_value::Sender<Option<Misfit>>;

fn ordered(orders: Option<Orders>) -> (mpsc::Receiver<Order>, Awaits, Option<watch_value::Sender<Now>>) {
    match orders {
        Some(Orders { orders, awaits, now }) => (orders, awaits, Some(now)),
        None => (mpsc::channel(1).1, watch_value::channel(None).0, None),
    }
}

fn task_lost(task: &str) -> Problem {
    Problem::retry(crate::problem::Blame::Host, "TASK_LOST", format!("the {task} ended without an answer"))
}

/// Now, microseconds since 2000-01-01 UTC.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64 - EPOCH_2000_US
}
