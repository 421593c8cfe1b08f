//! What one process knows of an open channel: consumers, mail, what is unsettled, confirms.

use super::confirming::{Outcome, Ticket};
use super::consumers::{Consumer, addressee, find};
use super::error::Reason;
use super::getting::Asked;
use super::lateness::Lateness;
use super::mailbox::Mail;
use super::recent::{MOST, Recent};
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::{Claim, Delivery, Message, Name};
use crate::protocol::amqp::encode::{self, Settle};
use crate::protocol::amqp::{Confirms, Known};
use crate::transport::{Event, Held, Returned};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct ChannelState {
    /// [`crate::transport::Channel::id`].
    pub(super) id: u64,
    /// Its number on the link.
    pub(super) number: u16,
    /// What is added to the channel's own numbers of deliveries: those of its predecessors, which the
    /// broker has closed, and those that a parent process has received mean nothing here.
    base: u64,
    /// The highest number that a delivery had, of predecessors too. Behind no lock, as a forked child
    /// has to know it.
    numbers: Arc<AtomicU64>,
    pub(super) inner: Mutex<Inner>,
    /// Calls that wait for an answer: they hear of the channel's end.
    pub(super) calls: AtomicUsize,
    /// Held where the order on the wire must be that of changes to `inner`: from the number of a publish
    /// to its frames. `inner` itself must not be held then: the link's lock is taken inside of this
    /// one, and `inner` inside of the link's.
    pub(super) in_order: Mutex<()>,
    /// Told of mail, credit and ends.
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) consumers: Vec<Consumer>,
    /// Delivered to the user and not settled, by number.
    ledger: BTreeMap<u64, Unsettled>,
    /// How many of them came by consumers.
    consumed: usize,
    pub(super) limit: u32,
    pub(super) paused: bool,
    /// Between `basic.recover` and its answer: what is here comes again.
    recovering: bool,
    /// `channel.close` was sent.
    closing: bool,
    /// Why it is closed.
    pub(super) end: Option<End>,
    pub(super) confirming: bool,
    pub(super) confirms: Confirms<Ticket>,
    returned: Recent<Returned>,
    /// `basic.get`s without an answer, and whether they need no acknowledgement.
    gets: VecDeque<(Arc<Asked>, bool)>,
    lateness: Lateness,
}

/// A delivery that is not settled.
#[derive(Debug)]
struct Unsettled {
    queue: Name,
    /// Whether it came by a consumer.
    consumed: bool,
    since: Instant,
}

impl Unsettled {
    fn now(queue: &Name, consumed: bool) -> Self {
        Self { queue: queue.clone(), consumed, since: Instant::now() }
    }
}

/// How a channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// By us.
    Closed,
    /// By the broker.
    Refused(Reason),
    /// With its link.
    Lost,
}

/// What to say to the broker about deliveries.
#[derive(Debug, Default)]
pub(super) struct ToSettle {
    pub(super) tags: Vec<u64>,
    base: u64,
    /// The last of them, and with it all that came before it.
    pub(super) together: bool,
}

impl ToSettle {
    /// The frames.
    pub(super) fn encode(&self, channel: u16, how: Settle) -> Vec<u8> {
        let mut out = Vec::new();
        match self.tags.last() {
            Some(last) if self.together => {
                encode::settle(channel, *last - self.base, true, how, &mut out);
            }
            _ => {
                for tag in &self.tags {
                    encode::settle(channel, *tag - self.base, false, how, &mut out);
                }
            }
        }
        out
    }
}

impl ChannelState {
    pub(super) fn new(id: u64, number: u16, numbers: Arc<AtomicU64>, news: Arc<Notify>) -> Self {
        let (inner, in_order) = (Mutex::default(), Mutex::default());
        let (base, calls) = (numbers.load(Ordering::Relaxed), AtomicUsize::new(0));
        Self { id, number, base, numbers, inner, calls, in_order, news }
    }

    /// Whether that number is of a delivery from before this channel was opened.
    pub(super) fn is_earlier(&self, tag: &str) -> bool {
        tag.parse::<u64>().is_ok_and(|tag| (1..=self.base).contains(&tag))
    }

    /// The user's number of what has come with that one of the broker's.
    fn number(&self, tag: u64) -> u64 {
        let tag = tag.saturating_add(self.base);
        self.numbers.fetch_max(tag, Ordering::Relaxed);
        tag
    }

    /// Takes a delivery. `false` when its consumer is gone: it is to go back, and the consumer to be
    /// cancelled, as the broker does not know that.
    pub(super) fn deliver(&self, wire_tag: &Name, tag: u64, message: Message) -> bool {
        let tag = self.number(tag);
        let mut inner = self.inner.lock();
        let Some(consumer) = addressee(&mut inner.consumers, wire_tag) else { return false };
        consumer.hear(&message);
        consumer.mail.push(Mail { tag, message });
        drop(inner);
        self.news.notify();
        true
    }

    /// The next event, if the limit allows one.
    pub(super) fn take(&self) -> Option<Event> {
        let mut inner = self.inner.lock();
        let at = inner.next_ready()?;
        let mut consumer = inner.consumers.remove(at);
        let mail = consumer.mail.pop()?;
        let settled = consumer.options.no_ack;
        let queue = consumer.options.queue.clone();
        let consumer_tag = consumer.options.consumer_tag.clone();
        inner.consumers.push(consumer); // in turn
        if !settled {
            inner.ledger.insert(mail.tag, Unsettled::now(&queue, true));
            inner.consumed += 1;
        }
        drop(inner);
        let delivery = delivery(mail.tag, queue, mail.message, settled);
        Some(Event { channel: self.id, consumer_tag, delivery })
    }

    /// Whether [`ChannelState::take`] would give something.
    pub(super) fn is_ready(&self) -> bool {
        self.inner.lock().next_ready().is_some()
    }

    /// The oldest delivery that the broker waits for: its number and its queue.
    pub(super) fn oldest(&self) -> Option<(u64, Name)> {
        self.inner.lock().oldest()
    }

    /// As [`Lateness::look`]: the oldest delivery and its age, when it is time to warn of it.
    pub(super) fn late(&self, now: Instant, timeout: Duration) -> Option<(u64, Name, Duration)> {
        let mut inner = self.inner.lock();
        let oldest = inner.oldest();
        let last = self.numbers.load(Ordering::Relaxed);
        let tag = oldest.as_ref().map(|(tag, _)| *tag);
        let age = inner.lateness.look(now, timeout, last, tag)?;
        oldest.map(|(tag, queue)| (tag, queue, age))
    }

    /// Whether the windows may have to grow with what is unsettled: where there is no limit.
    pub(super) fn wants_more_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.limit == 0 && inner.consumed.is_power_of_two()
    }

    /// A `basic.get` is sent next.
    pub(super) fn ask(&self, no_ack: bool) -> Arc<Asked> {
        let asked = Arc::new(Asked::default());
        self.inner.lock().gets.push_back((asked.clone(), no_ack));
        asked
    }

    /// It was not sent.
    pub(super) fn unask(&self) {
        self.inner.lock().gets.pop_back();
    }

    /// The oldest `basic.get` is answered, by a message with that number. `false` when nobody waits for
    /// it and it has to go back.
    pub(super) fn answered(&self, tag: Option<u64>) -> bool {
        let asked = self.inner.lock().gets.pop_front();
        asked.zip(tag).is_none_or(|((asked, no_ack), tag)| asked.came(tag) || no_ack)
    }

    /// Notes the answer to `basic.get`.
    pub(super) fn got(&self, tag: u64, queue: &Name, message: Message, no_ack: bool) -> Delivery {
        let tag = self.number(tag);
        let mut inner = self.inner.lock();
        if !no_ack {
            inner.ledger.insert(tag, Unsettled::now(queue, false));
        }
        drop(inner);
        delivery(tag, queue.clone(), message, no_ack)
    }

    /// Takes out of the ledger what an acknowledgement is for. An empty tag with `multiple` is all.
    pub(super) fn settle(&self, tag: &str, multiple: bool) -> ToSettle {
        let mut inner = self.inner.lock();
        let tags: Vec<u64> = match (tag.parse::<u64>(), multiple) {
            (Ok(tag), false) => {
                inner.ledger.contains_key(&tag).then_some(tag).into_iter().collect()
            }
            (Ok(tag), true) if inner.ledger.contains_key(&tag) => {
                inner.ledger.range(..=tag).map(|(tag, _)| *tag).collect()
            }
            // AMQP 0-9-1, `basic.ack`: with `multiple`, 0 is for all.
            (Ok(0), true) => inner.ledger.keys().copied().collect(),
            (Err(_), true) if tag.is_empty() => inner.ledger.keys().copied().collect(),
            _ => Vec::new(),
        };
        for tag in &tags {
            if inner.ledger.remove(tag).is_some_and(|unsettled| unsettled.consumed) {
                inner.consumed -= 1;
            }
        }
        // The broker would take what nobody has seen yet for done, too.
        let last = tags.last().copied().unwrap_or(0);
        let unseen = inner.consumers.iter().filter(|consumer| !consumer.options.no_ack);
        let together = tags.len() > 1
            && !unseen.flat_map(|consumer| consumer.mail.iter()).any(|mail| mail.tag < last);
        drop(inner);
        if !tags.is_empty() {
            self.news.notify();
        }
        ToSettle { tags, base: self.base, together }
    }

    /// Takes one delivery out of the ledger; whether it was there.
    pub(super) fn settle_one(&self, tag: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(held) = inner.ledger.remove(&tag) else { return false };
        inner.consumed -= usize::from(held.consumed);
        drop(inner);
        self.news.notify();
        true
    }

    /// The frame that settles one delivery.
    pub(super) fn encode(&self, tag: u64, how: Settle, out: &mut Vec<u8>) {
        encode::settle(self.number, tag - self.base, false, how, out);
    }

    /// The tags of the ledger, oldest first.
    pub(super) fn unsettled(&self) -> Vec<Name> {
        self.inner.lock().ledger.keys().map(|tag| tag.to_string().into()).collect()
    }

    /// What it holds.
    pub(super) fn held(&self) -> Held {
        let inner = self.inner.lock();
        Held {
            unacked: inner.ledger.len(),
            // Numbers grow with time.
            oldest: inner.ledger.values().next().map(|oldest| oldest.since.elapsed()),
            prefetched: inner.consumers.iter().map(|consumer| consumer.mail.len()).sum(),
        }
    }

    /// How many are unsettled, and the limit.
    pub(super) fn credit(&self) -> (usize, u32) {
        let inner = self.inner.lock();
        (inner.ledger.len(), inner.limit)
    }

    /// Stops handing out what a consumer has, which stays until [`ChannelState::remove`]; its tag on
    /// the wire, which does not change any more, and [`Consumer::cancel_line`].
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn end_consumer(&self, tag: &str) -> Result<Option<(String, Vec<u8>)>> {
        let _in_order = self.in_order.lock();
        let mut inner = self.inner.lock();
        let Some(consumer) = find(&mut inner.consumers, tag) else { return Ok(None) };
        consumer.ending = true;
        Ok(Some((consumer.wire_tag(), consumer.cancel_line(self.number)?)))
    }

    /// Removes a consumer; the numbers of what it had and nobody has seen.
    pub(super) fn remove(&self, tag: &str) -> ToSettle {
        let mut inner = self.inner.lock();
        let at = inner.consumers.iter().position(|c| *c.options.consumer_tag == *tag);
        let Some(at) = at else { return ToSettle::default() };
        let consumer = inner.consumers.remove(at);
        let tags = match consumer.options.no_ack {
            true => Vec::new(),
            false => consumer.mail.iter().map(|mail| mail.tag).collect(),
        };
        ToSettle { tags, base: self.base, together: false }
    }

    /// Removes a consumer; what it had and nobody has seen, which is the user's now.
    pub(super) fn take_over(&self, tag: &str) -> Vec<Event> {
        let mut inner = self.inner.lock();
        let at = inner.consumers.iter().position(|c| *c.options.consumer_tag == *tag);
        let Some(at) = at else { return Vec::new() };
        let Consumer { options, mut mail, .. } = inner.consumers.remove(at);
        let mut events = Vec::new();
        while let Some(mail) = mail.pop() {
            if !options.no_ack {
                inner.ledger.insert(mail.tag, Unsettled::now(&options.queue, true));
                inner.consumed += 1;
            }
            let delivery = delivery(mail.tag, options.queue.clone(), mail.message, options.no_ack);
            let consumer_tag = options.consumer_tag.clone();
            events.push(Event { channel: self.id, consumer_tag, delivery });
        }
        events
    }

    /// The broker has cancelled a consumer: whose it was, and its queue.
    pub(super) fn cancelled(&self, wire_tag: &str) -> Option<(Name, Name)> {
        let mut inner = self.inner.lock();
        let at = inner.consumers.iter().position(|consumer| consumer.is_registered(wire_tag))?;
        let options = inner.consumers.remove(at).options;
        Some((options.consumer_tag, options.queue))
    }

    /// `basic.recover` is on its way: nothing that is here can be settled any more.
    pub(super) fn recover(&self) {
        let mut inner = self.inner.lock();
        inner.recovering = true;
        inner.ledger.clear();
        inner.consumed = 0;
    }

    /// The broker has recovered the channel: from now on everything comes again.
    pub(super) fn recovered(&self) {
        let mut inner = self.inner.lock();
        for consumer in inner.consumers.iter_mut().filter(|consumer| !consumer.options.no_ack) {
            consumer.mail.clear();
        }
        inner.recovering = false;
        drop(inner);
        self.news.notify();
    }

    /// The broker has taken publishes, or not: how many.
    pub(super) fn confirmed(&self, tag: u64, multiple: bool, taken: bool) -> usize {
        let tickets = self.inner.lock().confirms.settle(tag, multiple);
        let outcome = if taken { Outcome::Taken } else { Outcome::NotTaken };
        let count = tickets.len();
        for ticket in tickets {
            ticket.settle(&outcome);
        }
        count
    }

    /// A message came back.
    pub(super) fn came_back(&self, returned: Returned) {
        let known = known(&returned.message);
        let mut inner = self.inner.lock();
        if let Some(ticket) = inner.confirms.returned(&known) {
            ticket.came_back(returned.code, &returned.text);
            return;
        }
        let dropped = inner.returned.push(returned);
        drop(inner);
        if let Some(Returned { code, text, message }) = dropped {
            let properties = &message.properties;
            tracing::warn!(
                target: "kombu.channel",
                "over {MOST} messages came back to channel {} and nobody drains the connection: from \
                 now on the oldest are dropped, the first of them to the exchange '{}' with the \
                 routing key '{}': {code} {text}",
                self.id,
                properties.exchange,
                properties.routing_key
            );
        }
        self.news.notify();
    }

    /// The oldest message that came back.
    pub(super) fn next_returned(&self) -> Option<Returned> {
        self.inner.lock().returned.pop()
    }

    /// It has ended. Whether it was open before.
    pub(super) fn end(&self, how: End) -> bool {
        let mut inner = self.inner.lock();
        if inner.end.is_some() {
            return false;
        }
        inner.consumers.clear();
        inner.ledger.clear();
        inner.consumed = 0;
        let outcome = Outcome::Ended(how.clone());
        inner.end = Some(how);
        let tickets = inner.confirms.settle(0, true);
        drop(inner);
        for ticket in tickets {
            ticket.settle(&outcome);
        }
        self.news.notify();
        true
    }

    /// Whether somebody waits who would be told of the channel's end.
    pub(super) fn is_waited_for(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0 || !self.inner.lock().confirms.is_empty()
    }

    /// Whether anything may be sent on it.
    pub(super) fn may_send(&self) -> bool {
        let inner = self.inner.lock();
        inner.end.is_none() && !inner.closing
    }

    /// `channel.close` is sent, and nothing after it. `false` when it was, or the channel has ended.
    pub(super) fn begin_close(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.end.is_none() && !std::mem::replace(&mut inner.closing, true)
    }

    /// How it ended, if it did.
    pub(super) fn ended(&self) -> Option<End> {
        self.inner.lock().end.clone()
    }
}

/// What a message is known by when it comes back.
pub(super) fn known(message: &Message) -> Known {
    Known {
        exchange: message.properties.exchange.clone(),
        routing_key: message.properties.routing_key.clone(),
        body: message.body.clone(),
    }
}

impl Inner {
    /// How many messages of consumers are unsettled.
    pub(super) fn consumed(&self) -> usize {
        self.consumed
    }

    /// The consumer whose message is handed out next, if the limit allows one.
    fn next_ready(&self) -> Option<usize> {
        if self.paused || self.recovering || self.end.is_some() {
            return None;
        }
        let full = self.limit != 0 && self.consumed >= self.limit as usize;
        self.consumers.iter().position(|consumer| {
            !consumer.mail.is_empty() && !consumer.ending && (!full || consumer.options.no_ack)
        })
    }

    /// See [`ChannelState::oldest`].
    fn oldest(&self) -> Option<(u64, Name)> {
        let seen = self.ledger.first_key_value().map(|(tag, held)| (*tag, &held.queue));
        let unseen = self.consumers.iter().filter(|consumer| !consumer.options.no_ack);
        let unseen = unseen.filter_map(|consumer| {
            consumer.mail.iter().next().map(|mail| (mail.tag, &consumer.options.queue))
        });
        let (tag, queue) = seen.into_iter().chain(unseen).min_by_key(|(tag, _)| *tag)?;
        Some((tag, queue.clone()))
    }
}

fn delivery(tag: u64, queue: Name, message: Message, settled: bool) -> Delivery {
    let claim = Claim { tag: tag.to_string().into(), queue, handle: Bytes::new() };
    Delivery { message, claim, settled }
}
