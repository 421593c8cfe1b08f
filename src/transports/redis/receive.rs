//! Taking messages, and waiting for some without taking any.

use super::error::{ours, unexpected};
use super::news::Snapshot;
use super::scripts::Script;
use super::session::{ScriptCall, Session};
use super::shared::{Shared, random_share, record_tail};
use super::unsure::Found;
use crate::codec::envelope;
use crate::error::{ErrorKind, Result};
use crate::io::task::{sleep, watch_until};
use crate::model::{Claim, Delivery, Name};
use crate::protocol::resp::{Command, Pipeline, Value};
use crate::transport::{GetOptions, QueueOrder, QueueRef};
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

/// One call takes at most so many: a script keeps the server from everything else.
const MOST: usize = 1000;
/// Before a lost link is made anew; up to as much again is added.
const BREATH: Duration = Duration::from_millis(50);
/// The pause grows up to this.
const LONGEST_BREATH: Duration = Duration::from_millis(500);

/// One list that is asked for, and what its messages are.
struct Source<'a> {
    queue: &'a QueueRef,
    step: i64,
    claimed: bool,
}

impl Shared {
    /// See [`crate::transport::Store::get`]. In the time of grace a lost link is made anew here.
    pub(super) async fn receive(
        &self,
        queues: &[QueueRef],
        options: GetOptions,
    ) -> Result<Vec<Delivery>> {
        let mut lost: Option<Instant> = None;
        let mut pause = BREATH;
        loop {
            let error = match self.receive_once(queues, &options).await {
                Err(error) if error.kind() == ErrorKind::Connection && self.is_in_grace() => error,
                done => return done,
            };
            // Also when links are made and lost again, over and over.
            if lost.get_or_insert_with(Instant::now).elapsed() >= self.config.reconnect_grace {
                return Err(error);
            }
            tracing::warn!("waiting for messages goes on over another link: {error}");
            sleep(pause.mul_f64(1.0 + random_share())).await;
            pause = (pause * 2).min(LONGEST_BREATH);
        }
    }

    async fn receive_once(
        &self,
        queues: &[QueueRef],
        options: &GetOptions,
    ) -> Result<Vec<Delivery>> {
        let session = self.session().await?;
        let max = options.max.clamp(1, MOST);
        let mut found = self.unsure.hand();
        self.find_lost(&session, queues, max, &mut found).await?;
        // There are no claims on it: taken when nothing is waited for any more.
        let mail: usize = queues.iter().map(|queue| self.fanout.len(&queue.name)).sum();
        let room = max.saturating_sub(found.len() + mail);
        if room == 0 || queues.is_empty() {
            return Ok(self.hand_out(found, queues, max));
        }
        self.consuming.store(true, Ordering::Relaxed);
        let names = || queues.iter().map(|queue| &queue.name);
        let first_cheaply =
            options.arm && found.len() + mail == 0 && self.news.expects_nothing(names());
        if first_cheaply && !self.has_any(&session, queues).await? {
            return Ok(Vec::new());
        }
        let snapshot =
            options.arm.then(|| self.news.snapshot(names(), |queue| self.config.lists(queue)));
        let (call, sources, tags) = self.receive_call(queues, room, options.arm)?;
        // Until the answer is here nobody knows what was claimed.
        let watch = self.unsure.watch(&tags, sources.iter().any(|source| source.claimed));
        let reply = match session.run_now("to hand out messages", call, || watch.answered()).await {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                self.news.hold_back();
                return Ok(self.hand_out(found, queues, max));
            }
            // What is here is not to be lost: the next call tells of the error. The next call goes over
            // another link, too, when this one was left for it.
            Err(_) if found.len() + mail > 0 || session.is_left() => {
                return Ok(self.hand_out(found, queues, max));
            }
            Err(error) => return Err(error),
        };
        let kind = unexpected("the receive script", &reply);
        let taken = self.deliveries(reply.into_items().ok_or(kind)?, &sources, &tags);
        found.extend(taken.deliveries);
        self.drop_unreadable(&session, taken.unreadable).await;
        let deliveries = self.hand_out(found, queues, max);
        if deliveries.is_empty() {
            if let Some(error) = taken.error {
                return Err(error);
            }
            if let Some(snapshot) = snapshot.filter(|_| !taken.found) {
                self.nothing_found(&session, snapshot).await;
            }
        }
        Ok(deliveries)
    }

    /// Ends the claims on messages that cannot be decoded: nobody can do anything with them, and kept,
    /// they would come again for ever. What came with them does not depend on it.
    pub(super) async fn drop_unreadable(&self, session: &Session, tags: Vec<Name>) {
        if tags.is_empty() {
            return;
        }
        if let Err(error) = self.settle_tags(session, tags).await {
            tracing::warn!("unreadable messages are dropped over the next link: {error}");
        }
    }

    /// What there is for the caller: fanout messages first.
    fn hand_out(&self, found: Found<'_>, queues: &[QueueRef], max: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for queue in queues {
            let room = max.saturating_sub(found.len() + deliveries.len());
            self.take_mail(&queue.name, room, &mut deliveries);
        }
        deliveries.extend(found.arrived());
        if !deliveries.is_empty() {
            self.news.found(deliveries.iter().map(|delivery| &delivery.claim.queue));
        }
        deliveries
    }

    /// Notes a look that found nothing, and armed.
    async fn nothing_found(&self, session: &Session, snapshot: Snapshot) {
        if !self.news.armed(snapshot) {
            return;
        }
        self.counters.empty_wake_ups.add(1);
        if self.news.wonders() {
            self.news.counted(self.count_clients(session).await.unwrap_or_default());
        }
    }

    /// How many clients of the server may be waiting as this one does; an upper limit, and `None`
    /// when the server does not tell.
    async fn count_clients(&self, session: &Session) -> Option<u32> {
        let command = Command::new("INFO").arg("clients");
        let reply = session.call("to count its clients", &command).await.ok()?;
        let text = std::str::from_utf8(reply.as_bytes()?).ok()?;
        text.lines().find_map(|line| line.strip_prefix("tracking_clients:")?.trim().parse().ok())
    }

    fn receive_call<'a>(
        &self,
        queues: &'a [QueueRef],
        max: usize,
        arm: bool,
    ) -> Result<(ScriptCall, Vec<Source<'a>>, String)> {
        let config = &self.config;
        let tags = self.next_tags();
        let mut call = ScriptCall::new(Script::Receive);
        call.key(config.unacked()).key(config.unacked_index());
        call.arg(max.to_string()).arg(if arm { "1" } else { "0" }).arg(tags.clone());
        // How many lists in a row share what is taken; alone, each comes before the next.
        let width = match config.queue_order {
            QueueOrder::RoundRobin => queues.len(),
            QueueOrder::Priority | QueueOrder::Sorted => 1,
        };
        call.arg(width.to_string());
        let claimed = |queue: &QueueRef| config.ack_emulation && !queue.no_ack;
        let tails = queues
            .iter()
            .map(|queue| match claimed(queue) {
                true => record_tail(&queue.name).map(Bytes::from),
                false => Ok(Bytes::new()),
            })
            .collect::<Result<Vec<Bytes>>>()?;
        let lists: Vec<Vec<String>> =
            queues.iter().map(|queue| config.lists(&queue.name)).collect();
        let mut sources = Vec::with_capacity(queues.len() * config.priority_steps.len());
        for (place, step) in config.priority_steps.iter().enumerate() {
            for ((queue, lists), tail) in queues.iter().zip(&lists).zip(&tails) {
                call.key(lists[place].clone()).arg(tail.clone());
                sources.push(Source { queue, step: *step, claimed: claimed(queue) });
            }
        }
        Ok((call, sources, tags))
    }

    fn deliveries(&self, items: Vec<Value>, sources: &[Source<'_>], tags: &str) -> Taken {
        let mut taken = Taken { found: !items.is_empty(), ..Taken::default() };
        let mut held = Vec::new();
        let mut items = items.into_iter();
        let mut number = 0;
        while let (Some(source), Some(raw)) = (items.next(), items.next()) {
            number += 1;
            let source = source.as_int().and_then(|at| sources.get(usize::try_from(at - 1).ok()?));
            let (Some(source), Some(raw)) = (source, raw.as_bytes()) else { continue };
            let tag: Name = format!("{tags}{number}").into();
            match envelope::decode(raw.clone()) {
                Ok(message) => {
                    let settled = source.queue.no_ack;
                    let handle = match source.claimed || settled {
                        true => self.config.claim_handle(source.step),
                        false => raw.clone(),
                    };
                    let queue = source.queue.name.clone();
                    let claim = Claim { tag: tag.clone(), queue, handle };
                    if source.claimed {
                        held.push(tag);
                    }
                    taken.deliveries.push(Delivery { message, claim, settled });
                }
                Err(error) => {
                    tracing::error!(
                        "a message of {} bytes in '{}' is dropped: {error}",
                        raw.len(),
                        source.queue.name
                    );
                    if source.claimed {
                        taken.unreadable.push(tag);
                    }
                    taken.error = Some(error);
                }
            }
        }
        let now = Instant::now();
        self.held.lock().extend(held.into_iter().map(|tag| (tag, now)));
        taken
    }

    /// See [`crate::transport::Store::ready`].
    pub(super) async fn wait(&self, queues: &[QueueRef]) -> Result<()> {
        let Some(session) = self.live() else {
            return Ok(()); // `get` connects, or says why it cannot
        };
        let names = || queues.iter().map(|queue| &queue.name);
        let polling = (!session.abilities().tracking).then_some(self.config.polling_interval);
        let safety = Instant::now() + self.news.patience(polling);
        while self.wait_for_news(&session, queues, safety).await? {
            if !self.news.is_crowded(names()) || self.has_any(&session, queues).await? {
                return Ok(());
            }
        }
        self.news.stayed_quiet();
        Ok(())
    }

    /// Whether news came, and it is time to look after it, before `safety`.
    async fn wait_for_news(
        &self,
        session: &Session,
        queues: &[QueueRef],
        safety: Instant,
    ) -> Result<bool> {
        loop {
            let mut heard = pin!(self.news.notify.listen());
            let end = poll_fn(|cx| {
                // What the next line reads is seen below; it would ring an event loop once more.
                self.news.notify.forget(cx.waker());
                // Reads and routes what is there; gone when the link is lost.
                if let Poll::Ready(error) = session.poll_attend(cx) {
                    // A link that was left is no loss: `get` goes on over the next one.
                    let goes_on = session.is_left() || self.is_in_grace();
                    let end = if goes_on { Ok(true) } else { Err(ours(error)) };
                    return Poll::Ready(Some(end));
                }
                let now = Instant::now();
                let look_at = self.news.look_at(queues.iter().map(|queue| &queue.name), now);
                if look_at.is_some_and(|at| at <= now) {
                    return Poll::Ready(Some(Ok(true)));
                }
                if now >= safety {
                    return Poll::Ready(Some(Ok(false)));
                }
                if heard.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None); // of another queue, or of ours: look again
                }
                watch_until(look_at.map_or(safety, |at| at.min(safety)));
                Poll::Pending
            })
            .await;
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Whether one of the queues has something, found out without taking it; arms if not. One command,
    /// so that looking and arming are one step, and it costs the server little. Who may not ask must
    /// take.
    async fn has_any(&self, session: &Session, queues: &[QueueRef]) -> Result<bool> {
        let names = || queues.iter().map(|queue| &queue.name);
        let snapshot = self.news.snapshot(names(), |queue| self.config.lists(queue));
        let lists = names().flat_map(|queue| self.config.lists(queue));
        let found = match session.call("to look", &Command::new("EXISTS").args(lists)).await {
            Ok(reply) => reply.as_int() != Some(0),
            // What `get` does then: it takes, goes on over another link, or waits for one.
            Err(_) if session.is_alive() || session.is_left() || self.is_in_grace() => true,
            Err(error) => return Err(error),
        };
        if found || names().any(|queue| self.fanout.len(queue) > 0) {
            return Ok(true);
        }
        self.nothing_found(session, snapshot).await;
        Ok(false)
    }

    /// Queues that expire when they are unused: consuming is a use.
    pub(super) async fn refresh_expiry(&self, queues: &[Name]) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for queue in queues {
            if let Some(expires) = self.expiry_of(queue) {
                self.push_expiry(&mut pipeline, queue, expires);
            }
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        self.session().await?.tell(pipeline, || ()).await
    }

    /// Adds the commands that put off a queue's expiry.
    pub(super) fn push_expiry(
        &self,
        pipeline: &mut Pipeline,
        queue: &str,
        expires: std::time::Duration,
    ) {
        for list in self.config.lists(queue) {
            pipeline.push(&Command::new("PEXPIRE").arg(list).arg(expires.as_millis().to_string()));
        }
    }
}

/// What one script call brought.
#[derive(Default)]
struct Taken {
    /// Whether there was anything at all.
    found: bool,
    deliveries: Vec<Delivery>,
    /// Tags of claims on messages that cannot be decoded.
    unreadable: Vec<Name>,
    error: Option<crate::error::Error>,
}
