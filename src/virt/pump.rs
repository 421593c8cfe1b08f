//! The pump: the one future of a connection that fetches, against granted credit only.
//!
//! Whoever wants an event polls it: a blocking `next`, or an event loop. It is never dropped half
//! way through a `get`, or messages that were claimed would be known to nobody.

use super::channel::ChannelState;
use super::cycle::FairCycle;
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use crate::io::pollset::Pollset;
use crate::io::task::{self, Notify};
use crate::model::{Claim, Release};
use crate::transport::{Event, GetOptions, Held, QueueOrder, QueueRef, Store};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

pub(super) type Pump = Pin<Box<dyn Future<Output = Error> + Send>>;

/// What one process's half of a connection consists of: what the pump uses, and the pump.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pump: Mutex<PumpSlot>,
    /// What an event loop watches; made when one asks for it.
    pollset: OnceLock<Pollset>,
}

/// What the pump and its drivers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    queue_order: QueueOrder,
    pub(super) channels: Mutex<FairCycle<Arc<ChannelState>>>,
    /// News for the pump: consumers, credit, or an empty mailbox.
    pub(super) changed: Notify,
    /// News for those who wait: mail, or the pump is free.
    arrived: Notify,
    /// A `get` was sent and its answer is not in.
    fetching: AtomicBool,
    pub(super) event_loop: AtomicBool,
}

#[derive(Default)]
struct PumpSlot {
    pump: Option<Pump>,
    taken: bool,
}

impl std::fmt::Debug for PumpSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PumpSlot").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The right to poll the pump; gives it back when dropped.
pub(super) struct Driver<'a> {
    session: &'a Session,
    pump: Option<Pump>,
    /// Driving for the event loop itself, which need not be told that the pump is free again.
    quiet: bool,
}

impl Driver<'_> {
    /// Polls the pump. An error ends it; the next driver starts a new one.
    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Result<()> {
        let Some(pump) = self.pump.as_mut() else { return Ok(()) };
        match pump.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(error) => {
                self.pump = None;
                self.session.shared.fetching.store(false, Ordering::Release);
                Err(error)
            }
        }
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        let mut slot = self.session.pump.lock();
        slot.pump = self.pump.take();
        slot.taken = false;
        drop(slot);
        self.session.shared.arrived.notify();
        if !self.quiet {
            // The pump's last waker was ours: let the event loop leave its own.
            self.session.ring();
        }
    }
}

impl Session {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            shared: Arc::new(Shared::new(store)),
            pump: Mutex::default(),
            pollset: OnceLock::new(),
        }
    }

    /// The right to drive, if nobody has it.
    fn driver(&self) -> Option<Driver<'_>> {
        let mut slot = self.pump.lock();
        if std::mem::replace(&mut slot.taken, true) {
            return None;
        }
        let pump = slot.pump.take().unwrap_or_else(|| Box::pin(pump(self.shared.clone())));
        Some(Driver { session: self, pump: Some(pump), quiet: false })
    }

    /// What an event loop watches.
    ///
    /// # Errors
    /// `Limit` when the process has no descriptors left.
    pub(super) fn pollset(&self) -> Result<&Pollset> {
        if let Some(known) = self.pollset.get() {
            return Ok(known);
        }
        let made = Pollset::new()?;
        Ok(self.pollset.get_or_init(|| made))
    }

    /// Wakes the event loop, if there is one.
    pub(super) fn ring(&self) {
        if let Some(Err(error)) = self.pollset.get().map(Pollset::ring) {
            tracing::error!(target: "kombu.virtual", %error, "cannot wake the event loop");
        }
    }

    /// Polls the pump once for the event loop.
    pub(super) fn drive(&self) -> Result<()> {
        let pollset = self.pollset()?;
        pollset.acknowledge()?;
        let Some(mut driver) = self.driver() else { return Ok(()) }; // it rings when it is done
        driver.quiet = true;
        let polled = pollset.poll_once(std::pin::pin!(std::future::poll_fn(|cx| {
            match driver.poll(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(error),
            }
        })))?;
        match polled {
            Poll::Pending => Ok(()),
            Poll::Ready(error) => {
                self.ring(); // the next turn starts anew
                Err(error)
            }
        }
    }

    /// The next event; waits for one.
    pub(super) async fn next(&self) -> Result<Event> {
        loop {
            let arrived = self.shared.arrived.listen();
            if let Some(event) = self.shared.take() {
                return Ok(event);
            }
            let Some(mut driver) = self.driver() else {
                arrived.await;
                continue;
            };
            return std::future::poll_fn(|cx| {
                let polled = driver.poll(cx);
                // Mail first: what was fetched before the link broke is still good.
                match (self.shared.take(), polled) {
                    (Some(event), _) => Poll::Ready(Ok(event)),
                    (None, Err(error)) => Poll::Ready(Err(error)),
                    (None, Ok(())) => Poll::Pending,
                }
            })
            .await;
        }
    }

    /// Waits until no `get` is under way: what it brings for consumers that are gone goes back.
    pub(super) async fn settle(&self) -> Result<()> {
        while self.shared.fetching.load(Ordering::Acquire) {
            let arrived = self.shared.arrived.listen();
            let Some(mut driver) = self.driver() else {
                if task::is_in_handler() {
                    return Ok(()); // the driver sleeps beneath us; it sends back what comes
                }
                if self.shared.fetching.load(Ordering::Acquire) {
                    arrived.await;
                }
                continue;
            };
            std::future::poll_fn(|cx| match driver.poll(cx) {
                Err(error) => Poll::Ready(Err(error)),
                Ok(()) if self.shared.fetching.load(Ordering::Acquire) => Poll::Pending,
                Ok(()) => Poll::Ready(Ok(())),
            })
            .await?;
        }
        Ok(())
    }
}

impl Shared {
    fn new(store: Arc<dyn Store>) -> Self {
        Self {
            queue_order: store.capability().queue_order,
            store,
            channels: Mutex::default(),
            changed: Notify::default(),
            arrived: Notify::default(),
            fetching: AtomicBool::new(false),
            event_loop: AtomicBool::new(false),
        }
    }

    /// The next event that is in a mailbox, channels in fair rotation.
    pub(super) fn take(&self) -> Option<Event> {
        let asked = self.channels.lock().get(|channel| channel.take().ok_or(()), |()| true);
        let event = asked.and_then(Result::ok);
        if event.is_some() && !self.has_mail() {
            self.changed.notify();
        }
        event
    }

    /// Ends every consumer, without I/O.
    pub(super) fn forget_consumers(&self) {
        for channel in self.channels.lock().resources() {
            channel.remove_consumers();
        }
        self.changed.notify();
    }

    /// What the channels of this connection hold.
    pub(super) fn held(&self) -> Held {
        let mut all = Held::default();
        for channel in self.channels.lock().resources() {
            let held = channel.held();
            all.unacked += held.unacked;
            all.prefetched += held.prefetched;
            all.oldest = all.oldest.max(held.oldest);
        }
        all
    }

    fn has_mail(&self) -> bool {
        self.channels.lock().resources().iter().any(|channel| channel.has_mail())
    }

    /// Whether any channel consumes from a queue.
    pub(super) fn is_consumed(&self, queue: &str) -> bool {
        self.channels.lock().resources().iter().any(|channel| channel.consumes(queue))
    }

    /// Takes messages for a channel, as its credit allows. Whether there were any.
    async fn fetch(&self, channel: &ChannelState, queues: &[QueueRef], max: usize) -> Result<bool> {
        self.fetching.store(true, Ordering::Release);
        let deliveries = self.store.get(queues, GetOptions { max, arm: true }).await?;
        self.store.counters().received.add(deliveries.len());
        let found = !deliveries.is_empty();
        let orphans = channel.receive(deliveries, self.queue_order);
        if !orphans.is_empty() {
            self.give_back(&orphans, Release::Unseen).await?;
        }
        self.fetching.store(false, Ordering::Release);
        self.arrived.notify();
        Ok(found)
    }

    /// Gives claims back that nobody has rejected.
    pub(super) async fn give_back(&self, claims: &[Claim], how: Release) -> Result<()> {
        self.store.release(claims, how).await?;
        self.store.counters().returned.add(claims.len());
        Ok(())
    }

    async fn step(&self) -> Result<()> {
        let changed = self.changed.listen();
        if self.has_mail() {
            // Nothing is fetched while something fetched waits: nobody asked for more.
            changed.await;
            return Ok(());
        }
        let ahead = self.event_loop.load(Ordering::Relaxed);
        let plan: Vec<_> = self
            .channels
            .lock()
            .order()
            .filter_map(|channel| Some((channel.clone(), channel.demand(ahead, self.queue_order)?)))
            .collect();
        let mut waiting = Vec::new();
        let mut found = false;
        for (channel, (queues, max)) in plan {
            found |= self.fetch(&channel, &queues, max).await?;
            waiting.extend(queues);
        }
        if found {
            return Ok(());
        }
        if waiting.is_empty() {
            changed.await;
            return Ok(());
        }
        let ready = self.store.ready(&waiting);
        task::either(ready, async {
            changed.await;
            Ok(())
        })
        .await
    }
}

async fn pump(shared: Arc<Shared>) -> Error {
    loop {
        if let Err(error) = shared.step().await {
            return error;
        }
    }
}
