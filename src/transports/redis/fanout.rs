//! Fanout exchanges: PUBLISH and PSUBSCRIBE, and the mailboxes that messages wait in.

use super::Config;
use super::shared::Shared;
use crate::codec::envelope;
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::model::{Binding, Claim, Delivery, Message, Name};
use crate::protocol::resp::Command;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that wait for one queue at most: pub/sub keeps nothing, and a consumer that is stuck
/// must not take all memory. The oldest go first.
const MAILBOX: usize = 100_000;

/// What this store listens to.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    state: Mutex<State>,
    /// Changes with every change of the subscriptions.
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Bound queues and their patterns.
    bound: HashMap<Name, BTreeSet<String>>,
    /// Queues that are received for.
    subscribed: HashSet<Name>,
    mail: HashMap<Name, VecDeque<Bytes>>,
}

impl Fanout {
    /// Takes over what a parent has bound, unless another thread of it was at it.
    pub(super) fn inherit(&self, parent: &Self) {
        if let Some(parent) = parent.state.try_lock() {
            self.state.lock().bound.clone_from(&parent.bound);
        }
    }

    /// A number for the present state of the subscriptions.
    pub(super) fn state(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// All patterns to be subscribed to.
    pub(super) fn topics(&self) -> Vec<String> {
        let state = self.state.lock();
        let topics: BTreeSet<&String> =
            state.subscribed.iter().filter_map(|queue| state.bound.get(queue)).flatten().collect();
        topics.into_iter().cloned().collect()
    }

    /// Files a message; the queues that it is for.
    pub(super) fn received(&self, pattern: &[u8], payload: Bytes) -> Vec<Name> {
        let mut state = self.state.lock();
        let State { bound, subscribed, mail } = &mut *state;
        let queues: Vec<Name> = subscribed
            .iter()
            .filter(|queue| {
                bound.get(*queue).is_some_and(|all| all.iter().any(|p| p.as_bytes() == pattern))
            })
            .cloned()
            .collect();
        for queue in &queues {
            let mailbox = mail.entry(queue.clone()).or_default();
            if mailbox.len() >= MAILBOX {
                mailbox.pop_front();
                tracing::warn!("the fanout queue '{queue}' is full: its oldest message is dropped");
            }
            mailbox.push_back(payload.clone());
        }
        queues
    }

    fn take(&self, queue: &str, max: usize) -> Vec<Bytes> {
        let mut state = self.state.lock();
        match state.mail.get_mut(queue) {
            Some(mailbox) => {
                let count = mailbox.len().min(max);
                mailbox.drain(..count).collect()
            }
            None => Vec::new(),
        }
    }

    /// Binds a queue.
    pub(super) fn bind(&self, config: &Config, binding: &Binding) {
        let pattern = config.topic_pattern(&binding.exchange, &binding.routing_key);
        let mut state = self.state.lock();
        state.bound.entry(binding.queue.clone()).or_default().insert(pattern);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends a binding; the pattern, when no queue needs it any more.
    pub(super) fn unbind(&self, config: &Config, binding: &Binding) -> Option<String> {
        let pattern = config.topic_pattern(&binding.exchange, &binding.routing_key);
        let mut state = self.state.lock();
        if let Some(patterns) = state.bound.get_mut(&binding.queue) {
            patterns.remove(&pattern);
            if patterns.is_empty() {
                state.bound.remove(&binding.queue);
            }
        }
        let needed = state.bound.values().any(|patterns| patterns.contains(&pattern));
        (!needed).then_some(pattern)
    }

    /// Starts receiving for a queue; whether it is bound to a fanout exchange at all.
    pub(super) fn subscribe(&self, queue: &Name) -> bool {
        let mut state = self.state.lock();
        if !state.bound.contains_key(queue) {
            return false;
        }
        if state.subscribed.insert(queue.clone()) {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        true
    }

    /// Stops receiving for a queue; the patterns that no other queue needs.
    pub(super) fn unsubscribe(&self, queue: &str) -> Vec<String> {
        let mut state = self.state.lock();
        state.mail.remove(queue);
        if !state.subscribed.remove(queue) {
            return Vec::new();
        }
        let own = state.bound.get(queue).cloned().unwrap_or_default();
        own.into_iter()
            .filter(|pattern| {
                !state.subscribed.iter().any(|other| {
                    state.bound.get(other).is_some_and(|patterns| patterns.contains(pattern))
                })
            })
            .collect()
    }

    /// Forgets a deleted queue; the patterns that no other queue needs.
    pub(super) fn delete(&self, queue: &str) -> Vec<String> {
        let patterns = self.unsubscribe(queue);
        self.state.lock().bound.remove(queue);
        patterns
    }

    /// How many messages wait for a queue.
    pub(super) fn len(&self, queue: &str) -> usize {
        self.state.lock().mail.get(queue).map_or(0, VecDeque::len)
    }

    /// Drops what waits for a queue; how many.
    pub(super) fn purge(&self, queue: &str) -> usize {
        self.state.lock().mail.remove(queue).map_or(0, |mailbox| mailbox.len())
    }

    /// The connection is closed: nothing is received any more. Bindings stay.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.subscribed.clear();
        state.mail.clear();
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Takes messages out of a queue's mailbox. They are settled: pub/sub knows no claims.
    pub(super) fn take_mail(&self, queue: &Name, max: usize, out: &mut Vec<Delivery>) {
        for (number, payload) in self.fanout.take(queue, max).into_iter().enumerate() {
            match envelope::decode(payload) {
                Ok(message) => {
                    let tag = format!("{}{number}", self.next_tags());
                    let claim =
                        Claim { tag: tag.into(), queue: queue.clone(), handle: Bytes::new() };
                    out.push(Delivery { message, claim, settled: true });
                }
                Err(error) => tracing::error!("a fanout message for '{queue}' is dropped: {error}"),
            }
        }
    }

    /// Publishes to everybody who listens now.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: &Message,
    ) -> Result<()> {
        let topic = self.config.topic(exchange, routing_key);
        let command = Command::new("PUBLISH").arg(topic).arg(envelope::encode(message));
        let session = self.session().await?;
        session.call(&format!("a message for the exchange '{exchange}'"), &command).await?;
        Ok(())
    }

    /// Tells the server that nothing listens to these patterns any more.
    pub(super) async fn unlisten(&self, patterns: Vec<String>) -> Result<()> {
        match self.live() {
            Some(session) if !patterns.is_empty() => {
                session.subscribe("PUNSUBSCRIBE", &patterns).await?;
                // Another queue may have asked for one of them meanwhile.
                let mut again = self.fanout.topics();
                again.retain(|topic| patterns.contains(topic));
                if again.is_empty() {
                    return Ok(());
                }
                session.subscribe("PSUBSCRIBE", &again).await
            }
            _ => Ok(()), // a new link listens to what is needed only
        }
    }
}
