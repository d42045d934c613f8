//! The reading end: takes frames from the source, decodes them and puts them into the one bounded queue.
//!
//! It is a task of its own, so that the source keeps hearing from the host while the target is slow (pitfall 68), and it
//! is the only place that tells the source of a position. L1: that position is the durable one, never a received one.

use tokio::sync::{mpsc, watch};

use crate::decode::{Decoder, Message};
use crate::lsn::Lsn;
use crate::problem::Outcome;
use crate::source::stream::{Frame, ReplicationStream};

/// What travels in the queue.
#[derive(Debug)]
pub enum Item {
    /// A decoded message.
    Message(Message),
    /// The source has nothing more before this position.
    Idle(Lsn),
}

/// Reads until `stop` is set or the queue's other end is gone; then reports what becomes durable until nobody can make
/// anything durable any more.
pub async fn read(
    mut stream: ReplicationStream,
    queue: mpsc::Sender<Vec<Item>>,
    mut durable: watch::Receiver<Lsn>,
    mut stop: watch::Receiver<bool>,
) -> Outcome<()> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = told(&mut stop) => break,
            // Nobody takes anything more, whether or not the source still says something.
            () = queue.closed() => break,
            Ok(()) = durable.changed() => stream.report(*durable.borrow_and_update()),
            read = stream.next(&mut frames) => {
                read?;
                let items = decode(&mut decoder, &mut frames)?;
                // A short sleep after a short read costs latency, so only while more is waiting than is being read.
                stream.set_nap(queue.capacity() < queue.max_capacity());
                if !hand_on(&mut stream, &queue, items, &mut durable).await? {
                    break;
                }
            }
        }
    }
    drop(queue);
    report_the_rest(stream, durable).await
}

/// Waits until `stop` is set, or until nobody can set it any more.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn decode(decoder: &mut Decoder, frames: &mut Vec<Frame>) -> Outcome<Vec<Item>> {
    let mut items = Vec::with_capacity(frames.len());
    for frame in frames.drain(..) {
        match frame {
            Frame::Data { payload } => items.extend(decoder.decode(payload)?.map(Item::Message)),
            Frame::Keepalive { wal_end, reply_requested } => {
                tracing::trace!(%wal_end, reply_requested, "keepalive");
                items.push(Item::Idle(wal_end));
            }
        }
    }
    Ok(items)
}

/// Waits for a place in the queue, and goes on talking to the source meanwhile. `false`: nobody takes anything more.
async fn hand_on(
    stream: &mut ReplicationStream,
    queue: &mpsc::Sender<Vec<Item>>,
    items: Vec<Item>,
    durable: &mut watch::Receiver<Lsn>,
) -> Outcome<bool> {
    loop {
        tokio::select! {
            biased;
            permit = queue.reserve() => {
                return Ok(permit.map(|permit| permit.send(items)).is_ok());
            }
            Ok(()) = durable.changed() => stream.report(*durable.borrow_and_update()),
            idle = stream.idle() => idle?,
        }
    }
}

async fn report_the_rest(mut stream: ReplicationStream, mut durable: watch::Receiver<Lsn>) -> Outcome<()> {
    loop {
        tokio::select! {
            changed = durable.changed() => match changed {
                Ok(()) => stream.report(*durable.borrow_and_update()),
                Err(_) => break,
            },
            idle = stream.idle() => idle?,
        }
    }
    stream.report(*durable.borrow());
    stream.finish().await
}
