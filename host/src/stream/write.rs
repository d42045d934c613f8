//! The writing end of a stream: takes work, keeps the writer busy, and says what has become durable.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::apply::writer::{Closing, Writer};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::plan::Plan;
use crate::problem::Outcome;

use super::parked::AGAIN;
use super::{Deciding, End, Work, now_us};

/// How long a batch may still be decided once the links are told to stop.
const LAST_DECISION: Duration = Duration::from_secs(1);

/// The writing end. `None`: the lifter ended without a word, because the reader did.
pub(super) async fn write(
    mut writer: Writer<'_>,
    mut work: mpsc::Receiver<Work>,
    mut target: Target<'_>,
    (strict_until, stop): (Option<Lsn>, watch::Receiver<bool>),
) -> Outcome<Option<End>> {
    let mut closings: VecDeque<(Closing, u64)> = VecDeque::new();
    writer.strict = strict_until.is_some();
    loop {
        let next = match work.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                let position = writer.settle().await?;
                target.publish(position, &mut closings);
                match target.wait(&mut work, &mut writer).await? {
                    Some(next) => next,
                    None => continue,
                }
            }
        };
        match next {
            None => return Ok(None),
            Some(Work::End(Ok(end))) => {
                let position = writer.settle().await?;
                target.publish(position, &mut closings);
                return Ok(Some(end));
            }
            Some(Work::End(Err(problem))) => {
                // L3: everything before the change is applied and durable, nothing after it.
                let position = writer.settle().await?;
                target.publish(position, &mut closings);
                return Err(problem);
            }
            Some(Work::CaughtUp) => {
                let position = writer.settle().await?;
                target.publish(position, &mut closings);
                target.live.send_modify(|live| live.caught_up = true);
            }
            Some(Work::Held(held)) => target.live.send_modify(|live| live.waiting = held),
            Some(Work::Claims(claims)) => {
                let Some(deciding) = target.deciding.as_deref_mut() else { continue };
                closings.extend(claims.last.map(|closing| (closing, claims.claims.len() as u64)));
                let strict = strict_until.is_some_and(|until| writer.durable() < until);
                // What waits for the other link, which is told to stop as well, is decided after the next start (L2).
                let position = tokio::select! {
                    decided = deciding.write(&mut writer, target.plan, claims, strict, target.live) => decided?,
                    () = told_a_while_ago(stop.clone()) => return Ok(Some(End::Stopped)),
                };
                target.publish(position, &mut closings);
            }
            Some(Work::Batch(batch)) => {
                writer.strict = strict_until.is_some_and(|until| writer.durable() < until);
                let rows = batch.segments.iter().flatten().map(|set| set.rows() as u64).sum();
                closings.extend(batch.last.map(|closing| (closing, rows)));
                let position = writer.write(batch).await?;
                target.publish(position, &mut closings);
            }
        }
    }
}

async fn told_a_while_ago(mut stop: watch::Receiver<bool>) {
    super::reader::told(&mut stop).await;
    tokio::time::sleep(LAST_DECISION).await;
}

/// Where the writing end writes, and whom it tells.
pub(super) struct Target<'t> {
    pub(super) plan: &'t Plan,
    /// With both links writing.
    pub(super) deciding: Option<&'t mut Deciding>,
    pub(super) durable: &'t watch::Sender<Lsn>,
    pub(super) live: &'t watch::Sender<Live>,
}

impl Target<'_> {
    /// Waits for work. `None`: there was none for a while, and rows that wait for a unique value were tried again.
    async fn wait(
        &mut self,
        work: &mut mpsc::Receiver<Work>,
        writer: &mut Writer<'_>,
    ) -> Outcome<Option<Option<Work>>> {
        let Some(deciding) = self.deciding.as_deref_mut().filter(|deciding| deciding.has_parked()) else {
            return Ok(Some(work.recv().await));
        };
        match tokio::time::timeout(AGAIN, work.recv()).await {
            Ok(next) => Ok(Some(next)),
            Err(_) => deciding.retry(writer, self.plan).await.map(|()| None),
        }
    }

    fn publish(&self, position: Lsn, closings: &mut VecDeque<(Closing, u64)>) {
        let mut transactions = 0;
        let mut rows = 0;
        let mut last = None;
        while let Some((closing, changed)) = closings.pop_front_if(|(closing, _)| closing.position <= position) {
            transactions += closing.transactions;
            rows += changed;
            last = Some(closing);
        }
        let Some(last) = last else { return };
        self.durable.send_replace(position);
        if let Some(deciding) = &self.deciding {
            deciding.forget(last.context);
        }
        self.live.send_modify(|live| {
            live.position = position;
            live.transactions += transactions;
            live.rows_changed += rows;
            live.lag_ms = ((now_us() - last.commit_time_us) / 1_000).max(0) as u64;
        });
    }
}
