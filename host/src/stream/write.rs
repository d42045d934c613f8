//! The writing end of a stream: takes work, keeps the writer busy, and says what has become durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::writer::{Closing, Writer};
use crate::live::Live;
use crate::lsn::Lsn;
use crate::plan::Plan;
use crate::problem::Outcome;

use super::decided::Claims;
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
    target.look_again(&mut writer, &mut closings).await?;
    loop {
        let next = match work.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                target.settle(&mut writer, &mut closings).await?;
                match target.wait(&mut work, &mut writer).await? {
                    Some(next) => next,
                    None => continue,
                }
            }
        };
        match next {
            None => return Ok(None),
            Some(Work::End(end)) => {
                // L3: everything before a change that ends it is applied and durable, nothing after it.
                target.settle(&mut writer, &mut closings).await?;
                return end.map(Some);
            }
            Some(Work::CaughtUp) => {
                target.settle(&mut writer, &mut closings).await?;
                target.live.send_modify(|live| live.caught_up = true);
            }
            Some(Work::Stand(settled)) => target.stand(&mut writer, &mut closings, settled).await?,
            Some(Work::GoOn) => target.stood = None,
            Some(Work::Exchange(rewrite, done)) => {
                let stall = target.exchange(&mut writer, *rewrite).await?;
                // Whoever asked may have lost patience.
                let _ = done.send(stall);
            }
            Some(Work::Awaits(problem)) => {
                target.live.send_modify(|live| live.awaits = problem.map(|problem| problem.to_string()))
            }
            Some(Work::Held(held)) => target.live.send_modify(|live| live.waiting = held),
            Some(Work::Claims(claims)) => {
                let strict = strict_until.is_some_and(|until| writer.durable() < until);
                let decided = target.decide(&mut writer, &mut closings, (claims, strict), &stop).await?;
                if decided.is_none() {
                    return Ok(Some(End::Stopped));
                }
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

/// Both links are told to stop at once, and what is to be decided waits for what the other one reads: what is not decided
/// soon is decided after the next start (L2). `None`: it was not.
async fn in_time(decided: impl Future<Output = Outcome<Lsn>>, stop: &watch::Receiver<bool>) -> Outcome<Option<Lsn>> {
    let mut stop = stop.clone();
    let told_a_while_ago = async {
        super::reader::told(&mut stop).await;
        tokio::time::sleep(LAST_DECISION).await;
    };
    tokio::select! {
        decided = decided => decided.map(Some),
        () = told_a_while_ago => Ok(None),
    }
}

/// Where the writing end writes, and whom it tells.
pub(super) struct Target<'t> {
    pub(super) plan: Arc<Plan>,
    /// With both links writing.
    pub(super) deciding: Option<&'t mut Deciding>,
    pub(super) durable: &'t watch::Sender<Lsn>,
    pub(super) live: &'t watch::Sender<Live>,
    /// Nothing is written since then, for the sake of an exchange.
    pub(super) stood: Option<Instant>,
    /// When rows that wait for others are tried again.
    pub(super) tries_at: Instant,
}

impl<'t> Target<'t> {
    pub(super) fn new(
        plan: Arc<Plan>,
        deciding: Option<&'t mut Deciding>,
        durable: &'t watch::Sender<Lsn>,
        live: &'t watch::Sender<Live>,
    ) -> Target<'t> {
        Target { plan, deciding, durable, live, stood: None, tries_at: Instant::now() }
    }

    /// Decides and writes a batch. `None`: not in time.
    async fn decide(
        &mut self,
        writer: &mut Writer<'_>,
        closings: &mut VecDeque<(Closing, u64)>,
        (claims, strict): (Claims, bool),
        stop: &watch::Receiver<bool>,
    ) -> Outcome<Option<()>> {
        let Some(deciding) = self.deciding.as_deref_mut() else { return Ok(Some(())) };
        let is_closed = claims.last.is_some();
        closings.extend(claims.last.map(|closing| (closing, claims.claims.len() as u64)));
        let decided = deciding.write(writer, &self.plan, claims, strict, self.live);
        let Some(position) = in_time(decided, stop).await? else { return Ok(None) };
        self.publish(position, closings);
        if is_closed {
            self.look_again(writer, closings).await?;
        }
        Ok(Some(()))
    }

    /// Between two transactions: sends rows back that were kept, and tries those again that wait for others, now and then
    /// and never for longer than the link works in between.
    async fn look_again(&mut self, writer: &mut Writer<'_>, closings: &mut VecDeque<(Closing, u64)>) -> Outcome<()> {
        let (keeps, waits) = match &self.deciding {
            Some(deciding) => (deciding.has_kept(), deciding.has_parked() && Instant::now() >= self.tries_at),
            None => (false, false),
        };
        if !keeps && !waits {
            return Ok(());
        }
        self.settle(writer, closings).await?;
        let Some(deciding) = self.deciding.as_deref_mut() else { return Ok(()) };
        if keeps {
            deciding.restore(writer, &self.plan).await?;
        }
        if waits {
            let began = Instant::now();
            deciding.retry(writer, &self.plan).await?;
            self.tries_at = Instant::now() + AGAIN.max(began.elapsed());
        }
        Ok(())
    }

    /// Waits for work. `None`: there was none for a while, and rows that wait for others were tried again.
    async fn wait(
        &mut self,
        work: &mut mpsc::Receiver<Work>,
        writer: &mut Writer<'_>,
    ) -> Outcome<Option<Option<Work>>> {
        // L11: what the old revision computed is not written any more while another one takes over.
        let (stands, plan) = (self.stood.is_some(), &self.plan);
        let Some(deciding) = self.deciding.as_deref_mut().filter(|deciding| !stands && deciding.has_parked()) else {
            return Ok(Some(work.recv().await));
        };
        match tokio::time::timeout(AGAIN, work.recv()).await {
            Ok(next) => Ok(Some(next)),
            Err(_) => deciding.retry(writer, plan).await.map(|()| None),
        }
    }

    /// L11: settles, says up to where, and writes nothing more until it is told what comes.
    async fn stand(
        &mut self,
        writer: &mut Writer<'_>,
        closings: &mut VecDeque<(Closing, u64)>,
        settled: oneshot::Sender<Lsn>,
    ) -> Outcome<()> {
        let position = self.settle(writer, closings).await?;
        self.stood = Some(Instant::now());
        // Whoever asked may have been told to stop meanwhile.
        let _ = settled.send(position);
        Ok(())
    }

    async fn settle(&mut self, writer: &mut Writer<'_>, closings: &mut VecDeque<(Closing, u64)>) -> Outcome<Lsn> {
        let position = writer.settle().await?;
        self.publish(position, closings);
        Ok(position)
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
