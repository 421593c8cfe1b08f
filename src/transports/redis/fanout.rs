//! Fanout exchanges: PUBLISH and PSUBSCRIBE, in a cluster SPUBLISH and SSUBSCRIBE if wanted, and the
//! mailboxes that messages wait in.

use super::Config;
use super::shared::Shared;
use crate::codec::envelope;
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::model::{Binding, Claim, Delivery, Message, Name};
use crate::protocol::resp::{Command, Pipeline};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that wait for one queue at most: pub/sub keeps nothing, and a consumer that is stuck
/// must not take all memory. The oldest go first.
const MAILBOX: usize = 100_000;
/// So many messages are remembered, to tell those that come over a second channel.
const SEEN: usize = 1000;

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
    seen: Seen,
}

/// The last messages that came, by pattern (without its prefix) and publisher's tag.
#[derive(Debug, Default)]
struct Seen {
    known: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl Seen {
    /// Remembers a message. Whether it was here before; one without a tag never was.
    fn again(&mut self, pattern: &str, payload: &Bytes) -> bool {
        let Ok(message) = envelope::decode(payload.clone()) else { return false };
        let tag = message.properties.delivery_tag;
        if tag.is_empty() {
            return false;
        }
        let key = (pattern.to_owned(), tag);
        if !self.known.insert(key.clone()) {
            return true;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
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

    /// Whether a topic is one of them.
    pub(super) fn listens_to(&self, topic: &[u8]) -> bool {
        let state = self.state.lock();
        let mut bound = state.subscribed.iter().filter_map(|queue| state.bound.get(queue));
        bound.any(|topics| topics.iter().any(|own| own.as_bytes() == topic))
    }

    /// Files a message; the queues that it is for. Those that come over two channels, for older
    /// peers, are filed once.
    pub(super) fn received(&self, config: &Config, pattern: &[u8], payload: Bytes) -> Vec<Name> {
        let mut state = self.state.lock();
        let State { bound, subscribed, mail, seen } = &mut *state;
        if config.legacy_fanout_prefix.is_some()
            && let Ok(pattern) = std::str::from_utf8(pattern)
            && seen.again(config.pattern_tail(pattern), &payload)
        {
            return Vec::new();
        }
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
        let patterns = config.topic_patterns(&binding.exchange, &binding.routing_key);
        let mut state = self.state.lock();
        state.bound.entry(binding.queue.clone()).or_default().extend(patterns);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends a binding; the patterns that no queue needs any more.
    pub(super) fn unbind(&self, config: &Config, binding: &Binding) -> Vec<String> {
        let mut patterns = config.topic_patterns(&binding.exchange, &binding.routing_key);
        let mut state = self.state.lock();
        if let Some(own) = state.bound.get_mut(&binding.queue) {
            own.retain(|pattern| !patterns.contains(pattern));
            if own.is_empty() {
                state.bound.remove(&binding.queue);
            }
        }
        patterns.retain(|pattern| !state.bound.values().any(|others| others.contains(pattern)));
        patterns
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
        let payload = envelope::encode(message);
        let mut pipeline = Pipeline::new();
        for topic in self.config.topics(exchange, routing_key) {
            pipeline.push(&Command::new(self.config.publish_command()).arg(topic).arg(&payload));
        }
        let session = self.session().await?;
        session.call_all(&format!("a message for the exchange '{exchange}'"), pipeline).await?;
        Ok(())
    }

    /// Tells the server that nothing listens to these patterns any more.
    pub(super) async fn unlisten(&self, patterns: Vec<String>) -> Result<()> {
        match self.live() {
            Some(session) if !patterns.is_empty() => {
                session.unlisten(&patterns).await?;
                // Another queue may have asked for one of them meanwhile.
                let mut again = self.fanout.topics();
                again.retain(|topic| patterns.contains(topic));
                if again.is_empty() {
                    return Ok(());
                }
                session.listen(&again).await
            }
            _ => Ok(()), // a new link listens to what is needed only
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Json;
    use crate::transport::Url;
    use crate::transport::schemes::Options;

    fn config(options: &str) -> Config {
        let options: Options = serde_json::from_str(options).unwrap();
        Config::parse(&Url::parse("redis://h/3").unwrap(), &options).unwrap()
    }

    fn payload(tag: &str) -> Bytes {
        let mut message = Message::default();
        message.properties.delivery_tag = tag.into();
        envelope::encode(&message).into()
    }

    #[test]
    fn what_comes_over_two_channels_is_filed_once() {
        let config = config(r#"{"sentinel_fanout_compat": true}"#);
        let fanout = Fanout::default();
        let queue: Name = "q".into();
        let binding = Binding {
            exchange: "fx".into(),
            routing_key: "".into(),
            queue: queue.clone(),
            arguments: Json::default(),
        };
        fanout.bind(&config, &binding);
        assert!(fanout.subscribe(&queue));
        assert_eq!(fanout.topics(), ["/3.fx", "/{db}.fx"]);
        assert_eq!(fanout.received(&config, b"/3.fx", payload("one")), ["q".into()]);
        assert!(fanout.received(&config, b"/{db}.fx", payload("one")).is_empty());
        assert_eq!(fanout.received(&config, b"/{db}.fx", payload("two")), ["q".into()]);
        assert_eq!(fanout.len("q"), 2);
        for number in 0..SEEN {
            fanout.received(&config, b"/3.fx", payload(&number.to_string()));
        }
        assert_eq!(
            fanout.received(&config, b"/{db}.fx", payload("one")),
            ["q".into()],
            "forgotten"
        );
        assert_eq!(fanout.unbind(&config, &binding), ["/3.fx", "/{db}.fx"]);
    }
}
