//! What all users of one store share, in one process.

use super::Config;
use super::bindings::BindingCache;
use super::contact::{Contact, Rest};
use super::error::ours;
use super::fanout::Fanout;
use super::limit::Permit;
use super::maintenance;
use super::news::News;
use super::session::Session;
use super::switches;
use super::unsure::Unsure;
use super::watch;
use crate::error::{Error, Result};
use crate::io::dial::Address;
use crate::io::keeper;
use crate::io::lock::Mutex;
use crate::io::task::{Notify, sleep_until};
use crate::model::{Name, Queue};
use crate::protocol::resp::Value;
use crate::transport::{Counters, Exchanges};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The state behind a [`super::RedisStore`]; a forked child has its own.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) exchanges: Exchanges,
    pub(super) counters: Counters,
    me: Weak<Self>,
    current: Mutex<Option<Arc<Session>>>,
    /// To the node that the slot is being moved to.
    side: Mutex<Option<Arc<Session>>>,
    backoff: Mutex<Backoff>,
    /// The right to the link of `current`: one, also while attempts are made to replace it.
    permit: Mutex<Weak<Permit>>,
    pub(super) contact: Arc<Contact>,
    pub(super) rest: Rest,
    /// When the loss of the last link was noticed.
    lost_since: Mutex<Option<Instant>>,
    pub(super) news: News,
    pub(super) fanout: Fanout,
    pub(super) bindings: BindingCache,
    /// What this store has bound: queue to exchange and member.
    pub(super) bindings_of_queues: Mutex<HashMap<Name, HashSet<(Name, String)>>>,
    /// The claims that this store holds, by tag, and since when: their leases are renewed.
    pub(super) held: Mutex<HashMap<Name, Instant>>,
    /// What was under way when a link was lost.
    pub(super) unsure: Unsure,
    /// Queues that were declared here.
    pub(super) declared: Mutex<HashMap<Name, Queue>>,
    /// Queues that have a consumer here.
    pub(super) consumed: Mutex<HashSet<Name>>,
    /// Told when there is something new to keep alive.
    pub(super) upkeep: Arc<Notify>,
    /// Whether messages were ever taken: then expired claims are looked for.
    pub(super) consuming: AtomicBool,
    maintained: AtomicBool,
    /// First part of all tags of this store, and how many were made.
    tag_head: String,
    tag_count: AtomicU64,
}

/// Failed attempts to connect, in a row.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Shared {
    /// Not connected yet. A child's knows the exchanges, queues and bindings that the parent's has
    /// declared.
    pub(super) fn new(config: Arc<Config>, parent: Option<&Self>) -> Arc<Self> {
        let shared = Self::empty(config);
        if let Some(parent) = parent {
            shared.exchanges.inherit(&parent.exchanges);
            shared.fanout.inherit(&parent.fanout);
            // Taken by another thread at the moment of the fork: then it is never given back here.
            if let Some(declared) = parent.declared.try_lock() {
                shared.declared.lock().clone_from(&declared);
            }
        }
        shared
    }

    fn empty(config: Arc<Config>) -> Arc<Self> {
        let contact = Contact::with_server(&config);
        Arc::new_cyclic(|me| Self {
            config,
            contact,
            rest: Rest::default(),
            exchanges: Exchanges::default(),
            counters: Counters::default(),
            me: me.clone(),
            current: Mutex::default(),
            side: Mutex::default(),
            backoff: Mutex::default(),
            permit: Mutex::default(),
            lost_since: Mutex::default(),
            news: News::default(),
            fanout: Fanout::default(),
            bindings: BindingCache::default(),
            bindings_of_queues: Mutex::default(),
            held: Mutex::default(),
            unsure: Unsure::default(),
            declared: Mutex::default(),
            consumed: Mutex::default(),
            upkeep: Arc::default(),
            consuming: AtomicBool::new(false),
            maintained: AtomicBool::new(false),
            tag_head: format!("{:016x}", random()),
            tag_count: AtomicU64::new(0),
        })
    }

    /// For those who must not keep it alive.
    pub(super) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// The live session, if there is one.
    pub(super) fn live(&self) -> Option<Arc<Session>> {
        self.current.lock().as_ref().filter(|session| session.is_alive()).cloned()
    }

    /// Whether the loss of a link need not be told (yet), as `reconnect_grace` says.
    pub(super) fn is_in_grace(&self) -> bool {
        let grace = self.config.reconnect_grace;
        if grace.is_zero() || self.current.lock().is_none() {
            return false; // closed, or never there
        }
        if self.live().is_some() {
            return true; // there is another one already
        }
        let now = Instant::now();
        now.duration_since(*self.lost_since.lock().get_or_insert(now)) < grace
    }

    /// A session: the live one, or a new one. After several failures in a row it waits a little
    /// before it tries again.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        if let Some(session) = self.live() {
            return self.in_step(session).await;
        }
        let not_before = self.backoff.lock().not_before;
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
        self.connect().await
    }

    /// As [`Shared::session`], without holding back.
    ///
    /// Several callers may connect at the same time; one link is kept. So nobody waits for an
    /// attempt that its caller has set aside.
    pub(super) async fn connect(&self) -> Result<Arc<Session>> {
        if let Some(session) = self.live() {
            return self.in_step(session).await;
        }
        match self.open().await {
            Ok(session) => self.adopt(session).await,
            Err(error) => {
                self.backoff.lock().failed();
                Err(error)
            }
        }
    }

    /// A further session, which has no part in the work yet.
    pub(super) async fn open(&self) -> Result<Session> {
        let permit = self.permit().map_err(ours)?;
        Session::open(&self.config, self.me.clone(), permit).await
    }

    fn permit(&self) -> Result<Arc<Permit>> {
        let mut known = self.permit.lock();
        if let Some(permit) = known.upgrade() {
            return Ok(permit);
        }
        let permit = Arc::new(Permit::take(&self.config)?);
        *known = Arc::downgrade(&permit);
        Ok(permit)
    }

    /// Goes on with a new session, unless another is alive: that one is returned then.
    pub(super) async fn adopt(&self, session: Session) -> Result<Arc<Session>> {
        *self.backoff.lock() = Backoff::default();
        let session = self.install(Arc::new(session))?;
        self.hold_on(&session).await?;
        self.settle_again(&session).await?;
        self.in_step(session).await
    }

    fn install(&self, session: Arc<Session>) -> Result<Arc<Session>> {
        let mut current = self.current.lock();
        if let Some(other) = current.as_ref().filter(|other| other.is_alive()) {
            return Ok(other.clone());
        }
        let old = current.replace(session.clone());
        drop(current);
        self.is_back(session.abilities().uptime);
        *self.lost_since.lock() = None;
        watch::start(&self.me, &session)?;
        if let Some(sentinels) = &self.config.sentinels {
            switches::start(sentinels, &session)?;
        }
        *self.side.lock() = None;
        match old {
            // Not the server to be at. Answers may still be on their way.
            Some(old) if old.is_left() && old.link().is_alive() => {
                keeper::spawn(async move { old.close().await })?;
            }
            // One of its links may still live, with answers to come.
            Some(old) => old.sever("another one takes its place"),
            None => {}
        }
        // What the server knew of the old link is gone with it.
        self.bindings.clear();
        self.news.forget();
        if self.maintained.swap(true, Ordering::AcqRel) {
            self.counters.reconnects.add(1);
        } else {
            maintenance::start(&self.me)?;
        }
        Ok(session)
    }

    /// A session with the node that the slot is being moved to. Its link lives for as long as that
    /// takes and is not counted.
    pub(super) async fn side_session(&self, address: &Address) -> Result<Arc<Session>> {
        let known = self.side.lock().clone();
        if let Some(known) = known.filter(|side| side.is_alive() && side.address == *address) {
            return Ok(known);
        }
        let session = Session::connect_to(address.clone(), &self.config, self.me.clone(), None);
        let session = Arc::new(session.await.map_err(ours)?);
        keeper::tend(session.link())?;
        *self.side.lock() = Some(session.clone());
        Ok(session)
    }

    /// Sees to it that the server knows the fanout subscriptions.
    async fn in_step(&self, session: Arc<Session>) -> Result<Arc<Session>> {
        let state = self.fanout.state();
        if session.topics.load(Ordering::Acquire) != state {
            let topics = self.fanout.topics();
            if !topics.is_empty() {
                session.listen(&topics).await?;
            }
            session.topics.store(state, Ordering::Release);
        }
        Ok(session)
    }

    /// Gives everything up that lives in this process only.
    pub(super) async fn close(&self) {
        let session = self.current.lock().take();
        *self.side.lock() = None;
        if let Some(session) = session {
            session.close().await;
        }
        self.held.lock().clear();
        self.consumed.lock().clear();
        self.fanout.clear();
        self.news.forget();
    }

    /// Closes the link without a word: whoever waits for an answer hears that it is lost.
    pub(super) fn give_up_link(&self) {
        if let Some(session) = self.current.lock().take() {
            session.sever("the connection was given up");
        }
    }

    /// A push from the server. Called while the link is locked. Whether the server is still the one
    /// to be at.
    pub(super) fn pushed(&self, items: Vec<Value>) -> bool {
        let mut items = items.into_iter();
        let Some(kind) = items.next() else { return true };
        match kind.as_bytes().map(|kind| kind.as_ref()) {
            Some(b"invalidate") => match items.next() {
                Some(Value::Array(keys)) => {
                    for key in keys.iter().filter_map(Value::as_bytes) {
                        self.key_changed(key);
                    }
                }
                // The whole database was flushed.
                _ => {
                    self.bindings.clear();
                    self.news.forget();
                }
            },
            Some(kind @ (b"pmessage" | b"smessage")) => {
                let mut text = || items.next().and_then(|item| item.as_bytes().cloned());
                let pattern = text();
                if kind == b"pmessage" {
                    text(); // the channel
                }
                if let (Some(pattern), Some(payload)) = (pattern, text()) {
                    for queue in self.fanout.received(&self.config, &pattern, payload) {
                        self.news.queue_changed(&queue);
                    }
                }
            }
            Some(b"sunsubscribe") => {
                let topic = items.next();
                let topic = topic.as_ref().and_then(Value::as_bytes);
                if topic.is_some_and(|topic| self.fanout.listens_to(topic)) {
                    // Not on our behalf: the slot has moved.
                    self.news.forget();
                    return false;
                }
            }
            _ => {} // answers to subscriptions
        }
        true
    }

    fn key_changed(&self, key: &[u8]) {
        if self.news.key_changed(key) {
            return;
        }
        let exchange = std::str::from_utf8(key).ok().and_then(|key| self.config.exchange_of(key));
        if let Some(exchange) = exchange {
            self.bindings.remove(exchange);
        }
    }

    /// The first part of the tags of one `get`.
    pub(super) fn next_tags(&self) -> String {
        let count = self.tag_count.fetch_add(1, Ordering::Relaxed);
        format!("{}-{count:x}-", self.tag_head)
    }

    /// What a lock says that this store holds; no other says the same.
    pub(super) fn lock_token(&self) -> String {
        format!("kombu-rs-{}", self.tag_head)
    }

    /// Queues with a consumer here that expire when they are not used, and after how long.
    pub(super) fn expiring(&self) -> Vec<(Name, Duration)> {
        let consumed: Vec<Name> = self.consumed.lock().iter().cloned().collect();
        let declared = self.declared.lock();
        let expires = |queue: &Name| declared.get(queue).and_then(|queue| queue.options.expires);
        consumed.into_iter().filter_map(|queue| Some((queue.clone(), expires(&queue)?))).collect()
    }

    /// What was heard of a queue is of no use any more.
    pub(super) fn forget_news(&self, queue: &str) {
        self.news.remove(queue, &self.config.lists(queue));
    }

    /// After how long of being unused a queue expires, if it was declared so here.
    pub(super) fn expiry_of(&self, queue: &str) -> Option<Duration> {
        self.declared.lock().get(queue).and_then(|queue| queue.options.expires)
    }
}

impl Backoff {
    /// The first failure costs nothing; then 0.1 s, 0.2 s and so on up to 2 s, with a random half off.
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            let longest = Duration::from_millis(100 << (self.failures - 2).min(5));
            let delay = longest.min(Duration::from_secs(2)).mul_f64(0.5 + random_share() / 2.0);
            self.not_before = Some(Instant::now() + delay);
        }
    }
}

/// Sixty-four random bits, from the kernel: a forked child must not repeat its parent's.
pub(super) fn random() -> u64 {
    let mut bits = 0u64;
    // SAFETY: writes up to eight bytes into a live u64.
    let got = unsafe { libc::getrandom((&raw mut bits).cast(), 8, 0) };
    if got == 8 {
        return bits;
    }
    // No entropy yet (early boot): the clock and the process will do.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40)
}

/// A random number from 0 to 1.
pub(super) fn random_share() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

/// The text of a queue's record after the message: `, "", "<queue>"]`.
pub(super) fn record_tail(queue: &str) -> Result<String> {
    let name = serde_json::to_string(queue)
        .map_err(|error| Error::internal("a name cannot be written").with_source(error))?;
    Ok(format!(", \"\", {name}]"))
}
