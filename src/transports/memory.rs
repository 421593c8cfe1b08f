//! `memory://`: queues in this process, shared by all its connections (as in Kombu).
//!
//! A forked child starts with an empty broker of its own.

use crate::error::{Error, Result};
use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::{Binding, Claim, Delivery, Exchange, Message, Name, Queue, Release};
use crate::transport::{Capability, Counters, Exchanges, GetOptions, QueueRef, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The broker: what all connections of the process share.
#[derive(Debug, Default)]
struct Broker {
    queues: Mutex<HashMap<Name, VecDeque<Message>>>,
    bindings: Mutex<HashMap<Name, Vec<Binding>>>,
    exchanges: Exchanges,
    written: Notify,
    next_tag: AtomicU64,
}

fn broker() -> Arc<Broker> {
    static BROKER: PerProcess<Arc<Broker>> = PerProcess::new();
    BROKER.get_or(Arc::default).clone()
}

/// One connection to the broker of this process.
#[derive(Debug)]
pub struct MemoryStore {
    broker: Arc<Broker>,
    /// Open claims by tag; the number tells their order.
    claimed: Mutex<HashMap<Name, Claimed>>,
    counters: Counters,
}

#[derive(Debug)]
struct Claimed {
    order: u64,
    queue: Name,
    message: Message,
}

/// Connects to the broker of this process. Any option is taken: there is nothing to tune, and
/// programs pass the options of their real broker in tests.
///
/// # Errors
/// None.
pub fn open(_options: &crate::transport::schemes::Options) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(MemoryStore {
        broker: broker(),
        claimed: Mutex::default(),
        counters: Counters::default(),
    }))
}

impl MemoryStore {
    /// Forgets the queues of this process; bindings and exchanges stay.
    pub fn clear_queues() {
        broker().queues.lock().clear();
    }

    /// The names of the queues of this process, sorted.
    pub fn queue_names() -> Vec<Name> {
        let mut names: Vec<Name> = broker().queues.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The ready messages of a queue, the next one first.
    pub fn messages(queue: &str) -> Vec<Message> {
        broker().queues.lock().get(queue).map_or_else(Vec::new, |q| q.iter().cloned().collect())
    }

    fn claim(&self, queue: &QueueRef, message: Message) -> Delivery {
        let order = self.broker.next_tag.fetch_add(1, Ordering::Relaxed);
        let tag: Name = format!("{}-{order:x}", crate::io::identity::unique()).into();
        let claim = Claim { tag: tag.clone(), queue: queue.name.clone(), handle: Bytes::new() };
        if !queue.no_ack {
            let claimed = Claimed { order, queue: queue.name.clone(), message: message.clone() };
            self.claimed.lock().insert(tag, claimed);
        }
        Delivery { message, claim, settled: queue.no_ack }
    }

    /// Puts messages at the end of their queues, in the order given.
    fn append(&self, claimed: Vec<Claimed>) {
        let mut queues = self.broker.queues.lock();
        for Claimed { queue, mut message, .. } in claimed {
            message.redelivered = true;
            queues.entry(queue).or_default().push_back(message);
        }
        drop(queues);
        self.broker.written.notify();
    }

    /// Puts messages back at the head of their queues, in the order given.
    fn give_back(&self, claimed: Vec<Claimed>, redelivered: bool) {
        let mut queues = self.broker.queues.lock();
        for Claimed { queue, mut message, .. } in claimed.into_iter().rev() {
            message.redelivered |= redelivered;
            queues.entry(queue).or_default().push_front(message);
        }
        drop(queues);
        self.broker.written.notify();
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn capability(&self) -> Capability {
        Capability {
            fanout: true,
            priority: false,
            notify: false,
            durable: false,
            shared_bindings: false,
            batch: true,
            ordered: true,
            ..Capability::default()
        }
    }

    fn exchanges(&self) -> &Exchanges {
        &self.broker.exchanges
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    async fn connect(&self) -> Result<()> {
        Ok(())
    }

    fn is_connected(&self) -> bool {
        true
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, queue: &Name, messages: &[Message]) -> Result<()> {
        let mut queues = self.broker.queues.lock();
        match queues.get_mut(queue) {
            Some(queue) => queue.extend(messages.iter().cloned()),
            None => drop(queues.insert(queue.clone(), messages.iter().cloned().collect())),
        }
        drop(queues);
        self.broker.written.notify();
        Ok(())
    }

    async fn put_fanout(&self, exchange: &Name, _key: &str, message: &Message) -> Result<()> {
        let bound: Vec<Name> = self
            .broker
            .bindings
            .lock()
            .get(exchange)
            .into_iter()
            .flatten()
            .map(|binding| binding.queue.clone())
            .collect();
        for queue in bound {
            self.put(&queue, std::slice::from_ref(message)).await?;
        }
        Ok(())
    }

    async fn get(&self, queues: &[QueueRef], options: GetOptions) -> Result<Vec<Delivery>> {
        let mut taken = Vec::new();
        let mut ready = self.broker.queues.lock();
        // One from each queue in turn, so that no queue waits for a whole batch of another.
        loop {
            let before = taken.len();
            for queue in queues {
                if taken.len() == options.max {
                    break;
                }
                let head = ready.get_mut(&queue.name).and_then(VecDeque::pop_front);
                taken.extend(head.map(|message| (queue, message)));
            }
            if taken.len() == before || taken.len() == options.max {
                break;
            }
        }
        drop(ready);
        Ok(taken.into_iter().map(|(queue, message)| self.claim(queue, message)).collect())
    }

    async fn ready(&self, queues: &[QueueRef]) -> Result<()> {
        loop {
            let written = self.broker.written.listen();
            let found = {
                let ready = self.broker.queues.lock();
                queues.iter().any(|q| ready.get(&q.name).is_some_and(|queue| !queue.is_empty()))
            };
            if found {
                return Ok(());
            }
            written.await;
        }
    }

    async fn ack(&self, claims: &[Claim]) -> Result<()> {
        let mut claimed = self.claimed.lock();
        for claim in claims {
            claimed.remove(&claim.tag);
        }
        Ok(())
    }

    async fn release(&self, claims: &[Claim], how: Release) -> Result<()> {
        let mut claimed = self.claimed.lock();
        let taken: Vec<_> = claims.iter().filter_map(|claim| claimed.remove(&claim.tag)).collect();
        drop(claimed);
        match how {
            Release::Requeue => self.give_back(taken, true),
            Release::Unseen => self.give_back(taken, false),
            Release::Behind => self.append(taken),
            Release::Discard => {}
        }
        Ok(())
    }

    async fn renew(&self, _claims: &[Claim]) -> Result<()> {
        Ok(()) // a claim lasts as long as its connection
    }

    async fn restore(&self) -> Result<usize> {
        Ok(0) // claims of a dropped connection are given back by its Drop
    }

    async fn reclaim(&self, _limit: Option<usize>) -> Result<usize> {
        Ok(0) // a claim has no lease
    }

    async fn replay(&self, _dead_letters: &Name, _limit: Option<usize>) -> Result<usize> {
        Err(Error::unsupported("the memory transport keeps no dead letters"))
    }

    async fn sweep(&self, _limit: usize) -> Result<usize> {
        Ok(0) // bindings go with their queues
    }

    async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        self.broker.queues.lock().entry(queue.name.clone()).or_default();
        Ok(())
    }

    async fn has_queue(&self, queue: &Name) -> Result<bool> {
        Ok(self.broker.queues.lock().contains_key(queue))
    }

    async fn delete_queue(&self, queue: &Name) -> Result<()> {
        self.broker.queues.lock().remove(queue);
        for bindings in self.broker.bindings.lock().values_mut() {
            bindings.retain(|binding| binding.queue != *queue);
        }
        Ok(())
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        let mut queues = self.broker.queues.lock();
        Ok(queues.get_mut(queue).map_or(0, |queue| queue.drain(..).count() as u64))
    }

    async fn size(&self, queue: &Name) -> Result<u64> {
        Ok(self.broker.queues.lock().get(queue).map_or(0, |queue| queue.len() as u64))
    }

    async fn depth(&self, queue: &Name) -> Result<Vec<(i64, u64)>> {
        Ok(vec![(0, self.size(queue).await?)])
    }

    async fn bind(&self, _exchange: &Exchange, binding: &Binding) -> Result<()> {
        let mut tables = self.broker.bindings.lock();
        let table = tables.entry(binding.exchange.clone()).or_default();
        if !table.contains(binding) {
            table.push(binding.clone());
        }
        Ok(())
    }

    async fn unbind(&self, _exchange: &Exchange, binding: &Binding) -> Result<()> {
        if let Some(table) = self.broker.bindings.lock().get_mut(&binding.exchange) {
            table.retain(|known| known != binding);
        }
        Ok(())
    }

    async fn bindings(&self, exchange: &Exchange) -> Result<Vec<Binding>> {
        Ok(self.broker.bindings.lock().get(&exchange.name).cloned().unwrap_or_default())
    }

    async fn delete_exchange(&self, exchange: &Name) -> Result<()> {
        self.broker.bindings.lock().remove(exchange);
        Ok(())
    }

    async fn subscribe(&self, _queue: &Name) -> Result<()> {
        Ok(()) // fanout messages are put into the bound queues
    }

    async fn unsubscribe(&self, _queue: &Name) -> Result<()> {
        Ok(())
    }
}

impl Drop for MemoryStore {
    /// A connection that was dropped without being closed gives its claims back.
    fn drop(&mut self) {
        let mut claimed: Vec<_> =
            self.claimed.get_mut().drain().map(|(_, claimed)| claimed).collect();
        claimed.sort_by_key(|claimed| claimed.order);
        if !claimed.is_empty() {
            self.give_back(claimed, true);
        }
    }
}
