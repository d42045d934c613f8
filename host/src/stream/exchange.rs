//! Exchanging the revision inside a running stream: between two transactions, with nothing of the old one left (L11).
//!
//! ```text
//!   lifter    ... batch | Stand ------------- go? --> plan, guest, notes | Exchange | batch by the new revision ...
//!   writer    ... batch | settles, reports -- waits ------------------- records, new plan | batch ...
//! ```
//!
//! While it stands, the lifter reads on if the other link may be waiting for what it reads (L8). Nothing of the stream
//! ends: connections, slot and hold stay as they are, so the pause is only the exchange. A revision that must not be
//! taken any more is let go by dropping the order: the old one goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::checkpoint::{self, Entry, Shapes};
use crate::apply::writer::Writer;
use crate::lsn::Lsn;
use crate::names::TableName;
use crate::plan::Plan;
use crate::problem::Outcome;

use super::batches::Batches;
use super::decided::Ruled;
use super::lifting::Lifting;
use super::notes::Notebook;
use super::reader::{self, Item};
use super::relations::Misfit;
use super::shadow::Shadow;
use super::trial::Trial;
use super::write::Target;
use super::{End, Work};

/// Everything of a stream that follows from a revision, made beside the running one.
pub struct Revised {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Guest, and what rows depend on.
    pub lifting: Lifting,
    /// With another link.
    pub notebook: Option<Notebook>,
    /// For a link that watches: what it tries from here on.
    pub trial: Option<Box<Trial>>,
    /// Columns of a source table that came later and are left out.
    pub left_out: Option<(TableName, Vec<String>)>,
    /// The writer's part.
    pub rewrite: Rewrite,
}

/// What the writer needs of a revision.
pub struct Rewrite {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The artifact's digest.
    pub artifact: [u8; 32],
    /// The artifact as messages name it, if there is one.
    pub label: Option<String>,
    /// Whether what is written is listed for the other link.
    pub lists: bool,
    /// For a link that decides: by what.
    pub ruled: Option<Ruled>,
    /// The shapes of the source's tables that are others from here on.
    pub shapes: Shapes,
    /// A source table that is called something else from here on.
    pub renamed: Option<TableName>,
    /// What the history says of it.
    pub entry: Entry,
}

/// What a running stream is asked for.
pub enum Order {
    /// Stand between two transactions, and go on with another revision once told.
    Exchange(Exchange),
    /// Compare what another revision would write, until that is over.
    Shadow(Box<Shadow>),
    /// Nobody will bring a revision that fits: stop at the change that waits for one.
    GiveUp,
}

/// An exchange. Dropping `go` on the other end lets the old revision go on.
pub struct Exchange {
    /// What takes over.
    pub revised: Box<Revised>,
    /// Everything that the old revision has computed is durable, up to this position.
    pub stood: oneshot::Sender<Lsn>,
    /// The new one may take over.
    pub go: oneshot::Receiver<()>,
    /// It has, and how long nothing could be written because of it.
    pub done: oneshot::Sender<Duration>,
}

/// What a stream runs.
#[derive(Clone, Debug)]
pub struct Now {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Whether its batches are decided.
    pub decides: bool,
}

/// The stream's end of the orders.
pub struct Orders {
    /// The orders.
    pub orders: mpsc::Receiver<Order>,
    /// The table whose columns the link waits at (L12).
    pub awaits: watch::Sender<Option<Misfit>>,
    /// What it runs, told after every exchange.
    pub now: watch::Sender<Now>,
}

impl Batches {
    /// Reading has halted at a misfit, and everything before it is handed on.
    pub(super) fn is_stuck(&self) -> bool {
        self.misfit.is_some() && !self.assembler.has_complete() && !self.assembler.ended()
    }

    /// Carries an order out. `false`: the writer is gone.
    pub(super) async fn obey(
        &mut self,
        order: Order,
        batches: &mpsc::Sender<Work>,
        parcels: &mut mpsc::Receiver<Vec<Item>>,
    ) -> bool {
        match order {
            Order::Exchange(exchange) => self.exchange(exchange, batches, parcels).await,
            Order::GiveUp if self.misfit.is_some() => {
                self.gives_up = true;
                self.read_on();
                true
            }
            Order::Shadow(shadow) => {
                self.shadow = Some(shadow);
                true
            }
            Order::GiveUp => true,
        }
    }

    async fn exchange(
        &mut self,
        exchange: Exchange,
        batches: &mpsc::Sender<Work>,
        parcels: &mut mpsc::Receiver<Vec<Item>>,
    ) -> bool {
        let Exchange { revised, stood, go, done } = exchange;
        let Some(position) = self.stand(batches, parcels).await else { return false };
        if stood.send(position).is_err() || self.meanwhile(parcels, go).await.is_err() {
            // A link that waits at other columns goes on standing there.
            return self.misfit.is_some() || batches.send(Work::GoOn).await.is_ok();
        }
        let Revised { plan, mut lifting, notebook, trial, left_out, mut rewrite } = *revised;
        if self.holds() {
            // The next start reads what is held once more, as it was before the change of columns.
            rewrite.shapes.clear();
        }
        // L11: nothing that the old revision has computed is on its way any more.
        lifting.watch(self.durable.clone());
        left_out.into_iter().for_each(|(table, columns)| self.relations.leave_out(&table, columns));
        self.relations = self.relations.under(&plan);
        self.shadow = None;
        (self.plan, self.lifting) = (plan.clone(), lifting);
        let earlier = self.trial.take();
        self.trial = trial.map(|trial| trial.after(earlier.as_deref()));
        if let Some(notebook) = notebook {
            self.assembler.note_anew(notebook, &self.relations);
        }
        self.now.iter().for_each(|now| drop(now.send_replace(Now { plan: plan.clone(), decides: self.decides })));
        self.read_on();
        batches.send(Work::Exchange(Box::new(rewrite), done)).await.is_ok()
    }

    /// Everything that was handed on is durable, up to the position that is returned; `None`: the writer is gone.
    async fn stand(&mut self, batches: &mpsc::Sender<Work>, parcels: &mut mpsc::Receiver<Vec<Item>>) -> Option<Lsn> {
        let (settled, position) = oneshot::channel();
        let handed = async {
            batches.send(Work::Stand(settled)).await.ok()?;
            position.await.ok()
        };
        self.meanwhile(parcels, handed).await
    }

    /// Waits, and reads on if the other link may need what comes.
    async fn meanwhile<T>(&mut self, parcels: &mut mpsc::Receiver<Vec<Item>>, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        let mut open = true;
        loop {
            let ahead = open && self.reads_ahead();
            tokio::select! {
                biased;
                answer = &mut what => return answer,
                parcel = parcels.recv(), if ahead => match parcel {
                    Some(parcel) => self.take(parcel),
                    None => open = false,
                },
            }
        }
    }

    /// What was read behind a misfit is looked at again.
    fn read_on(&mut self) {
        if self.misfit.take().is_some() {
            self.awaits.send_replace(None);
            let later = std::mem::take(&mut self.later);
            self.take(later);
        }
    }

    /// L12: stands exactly at the misfit until an order decides. The reader goes on talking to the source meanwhile.
    /// `false`: the stream has ended.
    pub(super) async fn await_fit(
        &mut self,
        batches: &mpsc::Sender<Work>,
        parcels: &mut mpsc::Receiver<Vec<Item>>,
        stop: &mut watch::Receiver<bool>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> bool {
        let Some(misfit) = self.misfit.clone() else { return true };
        // A link that watches has nothing to write that would move its position; what it has read behind it is read again
        // at the next start, with the columns of then.
        let read = self.assembler.seen_up_to();
        if self.held.is_some() && !self.holds() && read > self.written {
            let moves = Work::Batch(self.position_only(read));
            if batches.send(moves).await.is_err() {
                return false;
            }
        }
        if self.stand(batches, parcels).await.is_none() {
            return false;
        }
        let says = Work::Awaits(Some(misfit.problem.clone()));
        if batches.send(says).await.is_err() {
            return false;
        }
        self.awaits.send_replace(Some(misfit));
        while self.misfit.is_some() {
            let goes_on = tokio::select! {
                biased;
                () = batches.closed() => false,
                () = reader::told(stop) => {
                    let _ = batches.send(Work::End(Ok(End::Stopped))).await;
                    self.reader_stop.send_replace(true);
                    while parcels.recv().await.is_some() {}
                    false
                }
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, batches, parcels).await,
                    None => self.obey(Order::GiveUp, batches, parcels).await,
                }
            };
            if !goes_on {
                return false;
            }
        }
        batches.send(Work::Awaits(None)).await.is_ok()
    }
}

impl Target<'_> {
    /// The writer's part of an exchange: between two transactions, recorded before the first row of the new revision.
    /// Returns how long nothing could be written because of it.
    pub(super) async fn exchange(&mut self, writer: &mut Writer<'_>, rewrite: Rewrite) -> Outcome<Duration> {
        let Rewrite { plan, artifact, label, lists, ruled, shapes, renamed, entry } = rewrite;
        let (client, identity) = (writer.client(), writer.identity().clone());
        let note = (writer.durable(), &entry);
        checkpoint::record_exchange(client, &identity.migration, identity.link, note, (&shapes, renamed.as_ref()))
            .await?;
        writer.set_artifact(artifact);
        writer.set_plan(plan.clone());
        writer.lists = lists;
        self.plan = plan;
        if let (Some(deciding), Some(ruled)) = (self.deciding.as_deref_mut(), ruled) {
            deciding.ruled = ruled;
        }
        self.live.send_modify(|live| live.artifact = label);
        Ok(self.stood.take().map_or(Duration::ZERO, |since| since.elapsed()))
    }
}
