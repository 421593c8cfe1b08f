//! Following the sentinels while a link is up: a switch of the master is noticed at once, also when
//! the old one still answers.

use super::sentinel::Sentinels;
use super::session::Session;
use super::shared::random_share;
use crate::error::{Error, Result};
use crate::io::dial::{Address, dial};
use crate::io::keeper;
use crate::io::link::{Expect, Link, Traffic};
use crate::io::lock::Mutex;
use crate::io::task::{sleep, watch_until};
use crate::protocol::resp::{Command, Parser, Pipeline, Value};
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

/// The channel on which a sentinel tells of a new master.
const CHANNEL: &str = "+switch-master";
/// So often the session is looked at: when it is gone, this ends.
const TICK: Duration = Duration::from_secs(1);
/// So often a sentinel is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Before the next sentinel is tried; up to as much again is added.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts it, for as long as `session` lives.
///
/// # Errors
/// `Limit` when the process can have no more threads.
pub(super) fn start(sentinels: &Sentinels, session: &Arc<Session>) -> Result<()> {
    keeper::spawn(follow(sentinels.clone(), Arc::downgrade(session)))
}

async fn follow(sentinels: Sentinels, session: Weak<Session>) {
    let count = sentinels.nodes.len();
    // Who answered last is likely to be there.
    let mut at = sentinels.turn.load(Ordering::Relaxed);
    while session.upgrade().is_some_and(|session| session.is_alive()) {
        let node = &sentinels.nodes[at % count];
        match listen(&sentinels, node, &session).await {
            Ok(true) => {
                // It knows; the others may not yet.
                sentinels.turn.store(at % count, Ordering::Relaxed);
                return;
            }
            Ok(false) => return,
            Err(error) => tracing::debug!("the sentinel at {node} cannot be followed: {error}"),
        }
        at += 1;
        sleep(PAUSE.mul_f64(1.0 + random_share())).await;
    }
}

/// Listens to one sentinel until the master has switched (`true`) or the session is gone.
async fn listen(sentinels: &Sentinels, node: &Address, session: &Weak<Session>) -> Result<bool> {
    let stream = dial(node, &sentinels.dial).await?;
    let told = Arc::new(Mutex::new(None));
    let traffic = Switches { master: sentinels.master.clone(), told: told.clone() };
    let link = Link::new(stream, format!("the sentinel at {node}"), Parser::default(), traffic);
    let mut hello = Command::new("HELLO").arg("3");
    if let Some(password) = &sentinels.password {
        let user = sentinels.username.as_deref().unwrap_or("default");
        hello = hello.arg("AUTH").arg(user).arg(password);
    }
    let mut pipeline = Pipeline::new();
    pipeline.push(&hello);
    pipeline.push(&Command::new("SUBSCRIBE").arg(CHANNEL)); // answered by a push
    pipeline.push(&Command::new("PING"));
    ask(&link, pipeline, 2).await?;
    let mut ping_at = Instant::now() + PING_EVERY;
    loop {
        let tick = Instant::now() + TICK;
        poll_fn(|cx| {
            if let Poll::Ready(error) = link.poll_attend(cx) {
                return Poll::Ready(Err(error));
            }
            if told.lock().is_some() || Instant::now() >= tick {
                return Poll::Ready(Ok(()));
            }
            watch_until(tick);
            Poll::Pending
        })
        .await?;
        let Some(session) = session.upgrade().filter(|session| session.is_alive()) else {
            return Ok(false);
        };
        if let Some(master) = told.lock().take()
            && master != session.address
        {
            tracing::warn!("the sentinels have made {master} the master: connecting to it");
            session.link().close(&format!("the sentinels have made {master} the master"));
            return Ok(true);
        }
        if Instant::now() >= ping_at {
            ping_at = Instant::now() + PING_EVERY;
            let mut pipeline = Pipeline::new();
            pipeline.push(&Command::new("PING"));
            ask(&link, pipeline, 1).await?;
        }
    }
}

async fn ask(link: &Arc<Link<Parser>>, pipeline: Pipeline, replies: usize) -> Result<()> {
    let data = pipeline.data();
    for reply in link.request(data, Expect::Count(replies), PATIENCE).await? {
        if let Value::Error(error) = reply {
            return Err(Error::connection(error.to_string()));
        }
    }
    Ok(())
}

/// Keeps the latest master that a sentinel has told of.
struct Switches {
    master: String,
    told: Arc<Mutex<Option<Address>>>,
}

impl Traffic<Value> for Switches {
    fn route(&mut self, event: Value) -> Option<Value> {
        let Value::Push(items) = event else { return Some(event) };
        let text = |at: usize| {
            let bytes = items.get(at).and_then(Value::as_bytes);
            bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        if text(0) == "message"
            && text(1) == CHANNEL
            && let Some(address) = switched(&text(2), &self.master)
        {
            *self.told.lock() = Some(address);
        }
        None
    }
}

/// Reads `<name> <old host> <old port> <new host> <new port>`: where the master `name` is now.
fn switched(text: &str, name: &str) -> Option<Address> {
    let words: Vec<&str> = text.split(' ').collect();
    let [master, _, _, host, port] = words[..] else { return None };
    (master == name).then_some(())?;
    Some(Address::Tcp { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn only_our_master_is_followed() {
        let told = Arc::default();
        let mut switches = Switches { master: "m".into(), told: Arc::clone(&told) };
        let mut push = |kind: &'static str, text: &'static str| {
            let items =
                [kind, CHANNEL, text].map(|word| Value::Bulk(Bytes::from_static(word.as_bytes())));
            assert!(switches.route(Value::Push(items.into())).is_none());
            told.lock().take().map(|address| address.to_string())
        };
        assert_eq!(push("message", "m 10.0.0.1 1 10.0.0.2 2").as_deref(), Some("10.0.0.2:2"));
        assert_eq!(push("message", "other 10.0.0.1 1 10.0.0.2 2"), None);
        assert_eq!(push("message", "m 10.0.0.1 1 10.0.0.2 x"), None);
        assert_eq!(push("subscribe", "m 10.0.0.1 1 10.0.0.2 2"), None);
    }
}
