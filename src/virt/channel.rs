//! A channel over a store: consumers, credit, mailbox and ledger.

use super::cycle::FairCycle;
use super::ledger::Ledger;
use super::publish;
use super::pump::Session;
use crate::error::{Error, Result};
use crate::io::fork_cell::ForkCell;
use crate::io::lock::Mutex;
use crate::model::{
    Binding, Claim, Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue, Release,
};
use crate::routing;
use crate::transport::{
    self, ConsumeOptions, Declared, Event, GetOptions, Held, QueueOrder, QueueRef, Store,
};
use async_trait::async_trait;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most messages fetched at a time, however large the credit.
const BATCH: usize = 100;
/// Messages fetched at a time for an event loop when there is no prefetch limit.
const UNLIMITED_BATCH: usize = 16;
/// AMQP 0-9-1 section 1.6: `not-found`, `not-allowed`, `precondition-failed`.
const NOT_FOUND: u16 = 404;
const NOT_ALLOWED: u16 = 530;
const PRECONDITION_FAILED: u16 = 406;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static NEXT_QUEUE: AtomicU64 = AtomicU64::new(1);

/// A [`transport::Channel`] over any [`Store`].
#[derive(Debug)]
pub(super) struct Channel {
    id: u64,
    session: Arc<ForkCell<Session>>,
    state: ForkCell<Arc<ChannelState>>,
}

/// What one process knows of a channel.
#[derive(Debug)]
pub(super) struct ChannelState {
    id: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    consumers: Vec<ConsumeOptions>,
    queues: FairCycle<QueueRef>,
    mailbox: VecDeque<Delivery>,
    /// Deliveries in the mailbox that count against the prefetch limit.
    unsettled_mail: usize,
    ledger: Ledger,
    prefetch: u32,
    active: bool,
    open: bool,
    registered: bool,
}

impl Inner {
    /// The next delivery in the mailbox that has a consumer, and that consumer. Those of consumers that
    /// are being cancelled are on their way back.
    fn next_mail(&self) -> Option<(usize, usize)> {
        self.mailbox.iter().enumerate().find_map(|(mail, delivery)| {
            let consumer = self.consumers.iter().position(|c| c.queue == delivery.claim.queue)?;
            Some((mail, consumer))
        })
    }
}

impl ChannelState {
    fn new(id: u64) -> Self {
        let inner = Inner {
            consumers: Vec::new(),
            queues: FairCycle::default(),
            mailbox: VecDeque::new(),
            unsettled_mail: 0,
            ledger: Ledger::default(),
            prefetch: 0,
            active: true,
            open: true,
            registered: false,
        };
        Self { id, inner: Mutex::new(inner) }
    }

    pub(super) fn has_mail(&self) -> bool {
        let inner = self.inner.lock();
        inner.active && inner.next_mail().is_some()
    }

    /// What it holds.
    pub(super) fn held(&self) -> Held {
        let inner = self.inner.lock();
        Held {
            unacked: inner.ledger.len(),
            oldest: inner.ledger.oldest(),
            prefetched: inner.mailbox.len(),
        }
    }

    /// The next event of the mailbox; from now on its message is the user's to settle.
    pub(super) fn take(&self) -> Option<Event> {
        let mut inner = self.inner.lock();
        if !inner.active {
            return None;
        }
        let (mail, consumer) = inner.next_mail()?;
        let delivery = inner.mailbox.remove(mail)?;
        if !delivery.settled {
            inner.unsettled_mail -= 1;
            inner.ledger.append(delivery.claim.clone());
        }
        // Several consumers of one queue take turns.
        let consumer = inner.consumers.remove(consumer);
        let consumer_tag = consumer.consumer_tag.clone();
        inner.consumers.push(consumer);
        Some(Event { channel: self.id, consumer_tag, delivery })
    }

    /// Puts fetched messages into the mailbox. Returns the claims of those whose consumer is gone.
    pub(super) fn receive(&self, deliveries: Vec<Delivery>, order: QueueOrder) -> Vec<Claim> {
        let mut inner = self.inner.lock();
        let mut orphans = Vec::new();
        for delivery in deliveries {
            let queue = delivery.claim.queue.clone();
            if inner.consumers.iter().any(|consumer| consumer.queue == queue) {
                if order == QueueOrder::RoundRobin {
                    inner.queues.served(|known| known.name == queue);
                }
                inner.unsettled_mail += usize::from(!delivery.settled);
                inner.mailbox.push_back(delivery);
            } else if !delivery.settled {
                orphans.push(delivery.claim);
            }
        }
        orphans
    }

    /// What may be fetched now: the queues in their order and how many messages. `ahead`: for an
    /// event loop, which takes what is there in bursts; otherwise one event is asked for, and only a
    /// prefetch limit allows to fetch more than that.
    pub(super) fn demand(&self, ahead: bool, order: QueueOrder) -> Option<(Vec<QueueRef>, usize)> {
        let inner = self.inner.lock();
        if !inner.active || !inner.open {
            return None;
        }
        let held = inner.ledger.len() + inner.unsettled_mail;
        let credit = match inner.prefetch as usize {
            0 if ahead => UNLIMITED_BATCH,
            0 => 1,
            limit => limit.saturating_sub(held).min(BATCH),
        };
        let open = |queue: &&QueueRef| credit > 0 || queue.no_ack;
        let mut queues: Vec<QueueRef> = inner.queues.order().filter(open).cloned().collect();
        if order == QueueOrder::Sorted {
            queues.sort_by(|a, b| a.name.cmp(&b.name));
        }
        // A message taken with no_ack cannot be given back: one at a time, as it is asked for.
        let one = queues.iter().any(|queue| queue.no_ack);
        let max = if one { 1 } else { credit.max(1) };
        (!queues.is_empty()).then_some((queues, max))
    }

    /// Claims to settle: one, all up to `tag` (`multiple`), or all (`multiple` and an empty tag).
    fn take_claims(&self, tag: &str, multiple: bool) -> Vec<Claim> {
        let ledger = &mut self.inner.lock().ledger;
        match (multiple, tag.is_empty()) {
            (true, true) => ledger.take_all(),
            (true, false) => ledger.take_up_to(tag),
            (false, _) => ledger.take(tag).into_iter().collect(),
        }
    }

    /// Removes a consumer: its queue, and whether that queue has no other here.
    fn remove_consumer(&self, consumer_tag: &str) -> Option<(Name, bool)> {
        let mut inner = self.inner.lock();
        let at = inner.consumers.iter().position(|c| &*c.consumer_tag == consumer_tag)?;
        let queue = inner.consumers.remove(at).queue;
        let last = !inner.consumers.iter().any(|consumer| consumer.queue == queue);
        if last {
            inner.queues.retain(|known| known.name != queue);
        }
        Some((queue, last))
    }

    /// Whether it has a consumer for a queue.
    pub(super) fn consumes(&self, queue: &str) -> bool {
        self.inner.lock().consumers.iter().any(|consumer| *consumer.queue == *queue)
    }

    pub(super) fn remove_consumers(&self) -> Vec<ConsumeOptions> {
        let mut inner = self.inner.lock();
        inner.queues.retain(|_| false);
        std::mem::take(&mut inner.consumers)
    }

    /// Closes for good; the claims that are still open.
    fn shut(&self) -> Vec<Claim> {
        let mut inner = self.inner.lock();
        inner.open = false;
        inner.ledger.take_all()
    }

    /// Takes back what is in the mailbox for queues without a consumer (`all`: everything).
    fn unmail(&self, all: bool) -> Vec<Claim> {
        let mut inner = self.inner.lock();
        let mail = std::mem::take(&mut inner.mailbox);
        let (gone, kept): (Vec<_>, Vec<_>) = mail.into_iter().partition(|delivery| {
            all || !inner.consumers.iter().any(|c| c.queue == delivery.claim.queue)
        });
        inner.unsettled_mail = kept.iter().filter(|delivery| !delivery.settled).count();
        inner.mailbox = kept.into();
        gone.into_iter().filter(|delivery| !delivery.settled).map(|d| d.claim).collect()
    }
}

impl Channel {
    pub(super) fn open(session: Arc<ForkCell<Session>>) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let state = ForkCell::new(move |_| Arc::new(ChannelState::new(id)));
        Self { id, session, state }
    }

    /// The session and this channel's state in it.
    fn parts(&self) -> Result<(Arc<Session>, Arc<ChannelState>)> {
        let session = self.session.get();
        let state = Arc::clone(&*self.state.get());
        let mut inner = state.inner.lock();
        if !inner.open {
            return Err(Error::closed("the channel is closed"));
        }
        let register = !std::mem::replace(&mut inner.registered, true);
        drop(inner);
        if register {
            session.shared.channels.lock().push(state.clone());
        }
        Ok((session, state))
    }

    fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(self.parts()?.0.shared.store.clone())
    }

    fn exchange(store: &dyn Store, name: &Name) -> Exchange {
        store.exchanges().get(name).unwrap_or_else(|| publish::undeclared(name))
    }
}

#[async_trait]
impl transport::Channel for Channel {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_open(&self) -> bool {
        self.state.get().inner.lock().open
    }

    async fn exchange_declare(&self, exchange: &Exchange, passive: bool) -> Result<()> {
        let store = self.store()?;
        let name = &exchange.name;
        match store.exchanges().get(name) {
            Some(_) if passive => Ok(()),
            None if passive => Err(Error::not_found(format!(
                "NOT_FOUND - no exchange '{name}' is declared on this connection"
            ))
            .with_code(NOT_FOUND)),
            Some(known) if !equivalent(&known, exchange) => Err(Error::channel(format!(
                "Cannot redeclare exchange '{name}' with different type, durable or autodelete \
                 value: it is {}, asked for {}",
                shown(&known),
                shown(exchange)
            ))
            .with_code(NOT_ALLOWED)),
            _ => {
                store.exchanges().insert(exchange.clone());
                Ok(())
            }
        }
    }

    async fn exchange_delete(&self, exchange: &Name, if_unused: bool) -> Result<()> {
        let store = self.store()?;
        let known = Self::exchange(&*store, exchange);
        if if_unused && !store.bindings(&known).await?.is_empty() {
            return Err(Error::channel(format!(
                "PRECONDITION_FAILED - exchange '{exchange}' is in use"
            ))
            .with_code(PRECONDITION_FAILED));
        }
        store.delete_exchange(exchange).await?;
        store.exchanges().remove(exchange);
        Ok(())
    }

    async fn lookup(&self, exchange: &Name, message: &Message) -> Result<Vec<Name>> {
        publish::route(&*self.store()?, exchange, message).await
    }

    async fn queue_declare(&self, queue: &Queue, passive: bool) -> Result<Declared> {
        let store = self.store()?;
        let mut queue = queue.clone();
        if queue.name.is_empty() {
            let number = NEXT_QUEUE.fetch_add(1, Ordering::Relaxed);
            let id = crate::io::identity::unique();
            queue.name = format!("amq.gen-{id}-{number}").into();
        }
        if !passive {
            store.declare_queue(&queue).await?;
        } else if !store.has_queue(&queue.name).await? {
            return Err(Error::not_found(format!(
                "NOT_FOUND - no queue '{}' in vhost",
                queue.name
            ))
            .with_code(NOT_FOUND));
        }
        let messages = store.size(&queue.name).await?;
        Ok(Declared { queue: queue.name, messages, consumers: 0 })
    }

    async fn queue_bind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        let store = self.store()?;
        if exchange.is_empty() {
            return Ok(()); // every queue is bound to the default exchange by its name
        }
        let exchange = Self::exchange(&*store, exchange);
        if exchange.kind == ExchangeKind::Headers {
            routing::check_arguments(args)?;
        }
        store.bind(&exchange, &binding(queue, &exchange.name, key, args)).await
    }

    async fn queue_unbind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        let store = self.store()?;
        let binding = binding(queue, exchange, key, args);
        store.unbind(&Self::exchange(&*store, exchange), &binding).await
    }

    async fn queue_purge(&self, queue: &Name) -> Result<u64> {
        self.store()?.purge(queue).await
    }

    async fn queue_delete(&self, queue: &Name, if_unused: bool, if_empty: bool) -> Result<u64> {
        let (session, state) = self.parts()?;
        let used = state.inner.lock().consumers.iter().any(|consumer| consumer.queue == *queue);
        let messages = session.shared.store.size(queue).await?;
        let refused = match () {
            () if if_unused && used => Some("has consumers"),
            () if if_empty && messages > 0 => Some("is not empty"),
            () => None,
        };
        if let Some(why) = refused {
            return Err(Error::channel(format!("PRECONDITION_FAILED - queue '{queue}' {why}"))
                .with_code(PRECONDITION_FAILED));
        }
        session.shared.store.delete_queue(queue).await?;
        Ok(messages)
    }

    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        publish::publish(&*self.store()?, messages).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<()> {
        let (session, state) = self.parts()?;
        let tag = &options.consumer_tag;
        if state.inner.lock().consumers.iter().any(|consumer| consumer.consumer_tag == *tag) {
            return Err(Error::channel(format!(
                "NOT_ALLOWED - the channel already has a consumer with the tag '{tag}'"
            ))
            .with_code(NOT_ALLOWED));
        }
        session.shared.store.subscribe(&options.queue).await?;
        let mut inner = state.inner.lock();
        let queue = QueueRef { name: options.queue.clone(), no_ack: options.no_ack };
        inner.queues.retain(|known| known.name != queue.name);
        inner.queues.push(queue);
        inner.consumers.push(options);
        drop(inner);
        session.shared.changed.notify();
        Ok(())
    }

    async fn cancel(&self, consumer_tag: &str) -> Result<()> {
        let (session, state) = self.parts()?;
        let Some((queue, last)) = state.remove_consumer(consumer_tag) else { return Ok(()) };
        session.shared.changed.notify();
        if !last {
            return Ok(());
        }
        // As in `close`, each step is tried.
        let mut outcome = session.settle().await;
        let unseen = state.unmail(false);
        if !unseen.is_empty() {
            outcome = outcome.and(session.shared.give_back(&unseen, Release::Unseen).await);
        }
        if !session.shared.is_consumed(&queue) {
            outcome = outcome.and(session.shared.store.unsubscribe(&queue).await);
        }
        outcome
    }

    async fn get(&self, queue: &Name, no_ack: bool) -> Result<Option<Delivery>> {
        let (session, state) = self.parts()?;
        let queues = [QueueRef { name: queue.clone(), no_ack }];
        let options = GetOptions { max: 1, arm: false };
        let taken = session.shared.store.get(&queues, options).await?.pop();
        session.shared.store.counters().received.add(usize::from(taken.is_some()));
        if let Some(delivery) = taken.as_ref().filter(|delivery| !delivery.settled) {
            state.inner.lock().ledger.append(delivery.claim.clone());
        }
        Ok(taken)
    }

    async fn ack(&self, tag: &str, multiple: bool) -> Result<()> {
        let (session, state) = self.parts()?;
        let claims = state.take_claims(tag, multiple);
        if claims.is_empty() {
            tracing::debug!(target: "kombu.virtual", tag, "ack of an unknown delivery tag dropped");
            return Ok(());
        }
        let store = &session.shared.store;
        let done = store.ack(&claims).await;
        if done.is_ok() {
            store.counters().acked.add(claims.len());
        }
        session.shared.changed.notify();
        done
    }

    async fn reject(&self, tag: &str, requeue: bool) -> Result<()> {
        let (session, state) = self.parts()?;
        let taken = state.take_claims(tag, false).pop();
        let Some(claim) = taken else {
            tracing::debug!(target: "kombu.virtual", tag, "reject of an unknown delivery tag dropped");
            return Ok(());
        };
        let how = if requeue { Release::Behind } else { Release::Discard };
        let store = &session.shared.store;
        let done = store.release(std::slice::from_ref(&claim), how).await;
        if done.is_ok() {
            store.counters().rejected.add(1);
        } else if !store.capability().settles_later {
            // Still the user's, who may say it again.
            state.inner.lock().ledger.append(claim);
        }
        session.shared.changed.notify();
        done
    }

    async fn recover(&self) -> Result<()> {
        let (session, state) = self.parts()?;
        let claims = state.take_claims("", true);
        let done = session.shared.give_back(&claims, Release::Requeue).await;
        session.shared.changed.notify();
        done
    }

    async fn reclaim(&self, limit: Option<usize>) -> Result<usize> {
        let restored = self.store()?.reclaim(limit).await?;
        self.session.get().shared.changed.notify();
        Ok(restored)
    }

    async fn replay(&self, dead_letters: &Name, limit: Option<usize>) -> Result<usize> {
        let moved = self.store()?.replay(dead_letters, limit).await?;
        self.session.get().shared.changed.notify();
        Ok(moved)
    }

    async fn sweep(&self, limit: usize) -> Result<usize> {
        self.store()?.sweep(limit).await
    }

    async fn qos(&self, prefetch_count: u32) -> Result<()> {
        let (session, state) = self.parts()?;
        state.inner.lock().prefetch = prefetch_count;
        session.shared.changed.notify();
        Ok(())
    }

    async fn flow(&self, active: bool) -> Result<()> {
        let (session, state) = self.parts()?;
        state.inner.lock().active = active;
        session.shared.changed.notify();
        Ok(())
    }

    fn unsettled(&self) -> Vec<Name> {
        self.state.get().inner.lock().ledger.tags()
    }

    fn credit(&self) -> (usize, u32) {
        let state = self.state.get();
        let inner = state.inner.lock();
        (inner.ledger.len(), inner.prefetch)
    }

    async fn close(&self, restore: bool) -> Result<()> {
        if !self.state.is_current() {
            return Ok(()); // the parent's: nothing of it is ours
        }
        let Ok((session, state)) = self.parts() else { return Ok(()) };
        let consumers = state.remove_consumers();
        session.shared.changed.notify();
        let settled = session.settle().await;
        session.shared.channels.lock().retain(|known| known.id != self.id);
        let unseen = state.unmail(true);
        let held = state.shut();
        // Each step is tried even if the link broke in an earlier one: claims that are not given back
        // now stay away until their lease is over.
        let store = &session.shared.store;
        let mut outcome = settled;
        if !unseen.is_empty() {
            outcome = outcome.and(session.shared.give_back(&unseen, Release::Unseen).await);
        }
        if restore && !held.is_empty() {
            outcome = outcome.and(session.shared.give_back(&held, Release::Requeue).await);
        }
        for consumer in consumers {
            if session.shared.is_consumed(&consumer.queue) {
                continue; // by another channel
            }
            outcome = outcome.and(store.unsubscribe(&consumer.queue).await);
        }
        outcome
    }
}

/// Whether a second declaration asks for what there is, as Kombu's `ExchangeType.equivalent` says.
fn equivalent(known: &Exchange, asked: &Exchange) -> bool {
    let parsed = |arguments: &Json| serde_json::from_slice::<Value>(arguments.as_bytes()).ok();
    known.kind == asked.kind
        && known.durable == asked.durable
        && known.auto_delete == asked.auto_delete
        && (known.arguments == asked.arguments
            || parsed(&known.arguments) == parsed(&asked.arguments))
}

/// An exchange's declaration for an error message.
fn shown(exchange: &Exchange) -> String {
    format!(
        "{:?}, durable={}, auto_delete={}, arguments={}",
        exchange.kind,
        exchange.durable,
        exchange.auto_delete,
        String::from_utf8_lossy(exchange.arguments.as_bytes())
    )
}

fn binding(queue: &Name, exchange: &Name, key: &Name, args: &Json) -> Binding {
    Binding {
        exchange: exchange.clone(),
        routing_key: key.clone(),
        queue: queue.clone(),
        arguments: args.clone(),
    }
}
