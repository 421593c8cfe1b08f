//! What one process knows of an open channel: consumers, mail, what is unsettled, confirms.

use super::confirming::{Outcome, Ticket};
use super::consumers::{Consumer, Kind, Origin, addressee, find, position};
use super::error::Reason;
use super::fitting::{Credit, Refit};
use super::getting::Asked;
use super::lateness::Lateness;
use super::recent::{MOST, Recent};
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::{Claim, Delivery, Message, Name};
use crate::protocol::amqp::encode::{self, Settle};
use crate::protocol::amqp::{Confirms, Known};
use crate::transport::{ConsumeOptions, Event, Held, Returned};
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
    /// How many consumers have begun.
    begun: u32,
    /// What all consumers share, 0 for no limit.
    pub(super) limit: u32,
    /// What each consumer that begins now has for itself, 0 for no limit.
    pub(super) each: u32,
    pub(super) paused: bool,
    /// Between `basic.recover` and its answer: what is here comes again.
    recovering: bool,
    /// `channel.close` was sent.
    closing: bool,
    /// Why it is closed.
    pub(super) end: Option<End>,
    /// The tags of the consumers that ended with it.
    ended_with: Vec<Name>,
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
    /// By which consumer it came, if by any.
    origin: Option<Origin>,
    since: Instant,
}

impl Unsettled {
    fn now(queue: &Name, origin: Option<Origin>) -> Self {
        Self { queue: queue.clone(), origin, since: Instant::now() }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Kept,
    /// Its consumer is gone: it is to go back, and the consumer to be cancelled, as the broker does not
    /// know that.
    ToNobody,
    /// It is to go back: see [`Consumer::is_too_late`].
    TooLate,
}

/// What was taken to be handed out.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) event: Event,
    /// A window does not fit any more.
    pub(super) wants_fitting: bool,
    /// It was the last of a consumer that the broker has cancelled: its tag and its queue.
    pub(super) over: Option<(Name, Name)>,
}

/// What is left of a consumer that the broker has cancelled.
#[derive(Debug)]
pub(super) struct Cancelled {
    /// Its tag and its queue, if its user is to be told now.
    pub(super) over: Option<(Name, Name)>,
    /// What it may not have any more.
    pub(super) back: ToSettle,
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

    /// Takes a delivery.
    pub(super) fn deliver(&self, wire_tag: &Name, tag: u64, message: Message) -> Delivered {
        let tag = self.number(tag);
        let mut inner = self.inner.lock();
        let Some((at, registration)) = addressee(&inner.consumers, wire_tag) else {
            return Delivered::ToNobody;
        };
        let credit = inner.credit(&inner.consumers[at]);
        let recovering = inner.recovering;
        let consumer = &mut inner.consumers[at];
        if recovering && !consumer.options.no_ack {
            return Delivered::Kept; // it comes again, and cannot be settled
        }
        if consumer.is_too_late(registration, credit) {
            return Delivered::TooLate;
        }
        consumer.take_in(tag, message, registration);
        drop(inner);
        self.news.notify();
        Delivered::Kept
    }

    /// The next event, if the limits allow one.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut inner = self.inner.lock();
        let at = inner.next_ready()?;
        let mut consumer = inner.consumers.remove(at);
        let event = inner.hand_out(self.id, &mut consumer)?;
        let over = (consumer.gone && consumer.mail.is_empty()).then(|| consumer.name());
        if over.is_none() {
            inner.consumers.push(consumer); // in turn
        }
        Some(Taken { event, wants_fitting: inner.wants_fitting(), over })
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
            inner.ledger.insert(tag, Unsettled::now(queue, None));
        }
        drop(inner);
        delivery(tag, queue.clone(), message, no_ack)
    }

    /// Takes out of the ledger what an acknowledgement is for, and whether a window does not fit any more.
    /// An empty tag with `multiple` is all.
    pub(super) fn settle(&self, tag: &str, multiple: bool) -> (ToSettle, bool) {
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
            inner.settle(*tag);
        }
        // The broker would take what nobody has seen yet for done, too.
        let last = tags.last().copied().unwrap_or(0);
        let unseen = inner.consumers.iter().filter(|consumer| !consumer.options.no_ack);
        let together = tags.len() > 1
            && !unseen.flat_map(|consumer| consumer.mail.iter()).any(|mail| mail.tag < last);
        let wants_fitting = inner.wants_fitting();
        drop(inner);
        if !tags.is_empty() {
            self.news.notify();
        }
        (ToSettle { tags, base: self.base, together }, wants_fitting)
    }

    /// Takes one delivery out of the ledger. `None` when it was not there; or whether a window does not
    /// fit any more.
    pub(super) fn settle_one(&self, tag: u64) -> Option<bool> {
        let mut inner = self.inner.lock();
        if !inner.settle(tag) {
            return None;
        }
        let wants_fitting = inner.wants_fitting();
        drop(inner);
        self.news.notify();
        Some(wants_fitting)
    }

    /// What registers those consumers anew whose windows do not fit any more.
    pub(super) fn refit(&self) -> Vec<Refit> {
        let mut inner = self.inner.lock();
        let mut all = Vec::new();
        if inner.recovering {
            return all; // what is here cannot be given back; it is done afterwards
        }
        for at in 0..inner.consumers.len() {
            let credit = inner.credit(&inner.consumers[at]);
            // What was registered before can be encoded.
            all.extend(inner.consumers[at].refit(self.number, self.base, credit).ok().flatten());
        }
        all
    }

    /// Sets what each consumer that begins from now on has for itself.
    pub(super) fn limit_each(&self, each: u32) {
        let mut inner = self.inner.lock();
        inner.each = each;
        for consumer in &mut inner.consumers {
            consumer.follow(each);
        }
    }

    /// Takes over the limits of the channel that the broker has closed before this one.
    pub(super) fn succeed(&self, predecessor: &Self) {
        let (limit, each) = {
            let inner = predecessor.inner.lock();
            (inner.limit, inner.each)
        };
        let mut inner = self.inner.lock();
        (inner.limit, inner.each) = (limit, each);
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

    /// How many are unsettled, and the limit that all share, or else that of each consumer.
    pub(super) fn credit(&self) -> (usize, u32) {
        let inner = self.inner.lock();
        let limit = if inner.limit == 0 { inner.each } else { inner.limit };
        (inner.ledger.len(), limit)
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
        let Some(at) = position(&inner.consumers, tag) else { return ToSettle::default() };
        self.to_settle(inner.consumers.remove(at).give_back(0))
    }

    /// Removes a consumer. What it had and its limits allow is the user's now, the rest goes back.
    pub(super) fn take_over(&self, tag: &str) -> (Vec<Event>, ToSettle) {
        let mut inner = self.inner.lock();
        let Some(at) = position(&inner.consumers, tag) else { return Default::default() };
        let mut consumer = inner.consumers.remove(at);
        let back = self.to_settle(consumer.give_back(inner.credit(&consumer).room));
        let handed_out = || inner.hand_out(self.id, &mut consumer);
        (std::iter::from_fn(handed_out).collect(), back)
    }

    /// The broker has cancelled a consumer. What it had and its limits allow will be handed out: it can
    /// be settled as before.
    pub(super) fn cancelled(&self, wire_tag: &str) -> Option<Cancelled> {
        let mut inner = self.inner.lock();
        let living = |consumer: &Consumer| !consumer.gone && consumer.is_registered(wire_tag);
        let at = inner.consumers.iter().position(living)?;
        let room = inner.credit(&inner.consumers[at]).room;
        let consumer = &mut inner.consumers[at];
        consumer.gone = true;
        let back = self.to_settle(consumer.give_back(room));
        let over = match consumer.mail.is_empty() {
            true => Some(inner.consumers.remove(at).name()),
            false => None,
        };
        Some(Cancelled { over, back })
    }

    fn to_settle(&self, tags: Vec<u64>) -> ToSettle {
        ToSettle { tags, base: self.base, together: false }
    }

    /// `basic.recover` is on its way: nothing that is here can be settled any more.
    pub(super) fn recover(&self) {
        let mut inner = self.inner.lock();
        inner.recovering = true;
        inner.forget_ledger();
    }

    /// The broker has recovered the channel: from now on everything comes again.
    pub(super) fn recovered(&self) {
        let mut inner = self.inner.lock();
        for consumer in inner.consumers.iter_mut().filter(|consumer| !consumer.options.no_ack) {
            consumer.mail.clear();
            (consumer.outstanding, consumer.counted) = (0, 0);
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

    /// It has ended: what was here for consumers without acknowledgements, which the broker does not have
    /// any more, unless we have closed it.
    pub(super) fn end(&self, how: End) -> Vec<Event> {
        let mut inner = self.inner.lock();
        if inner.end.is_some() {
            return Vec::new();
        }
        let closing = inner.closing || how == End::Closed;
        let mut left = Vec::new();
        for mut consumer in std::mem::take(&mut inner.consumers) {
            inner.ended_with.push(consumer.options.consumer_tag.clone());
            while consumer.options.no_ack && !closing && !consumer.ending {
                let Some(event) = inner.hand_out(self.id, &mut consumer) else { break };
                left.push(event);
            }
        }
        inner.forget_ledger();
        let outcome = Outcome::Ended(how.clone());
        inner.end = Some(how);
        let tickets = inner.confirms.settle(0, true);
        drop(inner);
        for ticket in tickets {
            ticket.settle(&outcome);
        }
        self.news.notify();
        left
    }

    /// The tags of the consumers that ended with it; once.
    pub(super) fn ended_with(&self) -> Vec<Name> {
        std::mem::take(&mut self.inner.lock().ended_with)
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
    /// A new consumer, with the limits of now.
    pub(super) fn new_consumer(
        &mut self,
        options: ConsumeOptions,
        exclusive: bool,
        kind: Kind,
    ) -> Consumer {
        self.begun += 1;
        Consumer::new(self.begun, options, exclusive, (self.each, self.limit), kind)
    }

    /// What a consumer may be given now.
    fn credit(&self, consumer: &Consumer) -> Credit {
        let room = |limit: u32, held: usize| match limit {
            0 => usize::MAX,
            limit => (limit as usize).saturating_sub(held),
        };
        let room = room(self.limit, self.consumed).min(room(consumer.own, consumer.seen));
        Credit { limit: consumer.limit(self.limit), room }
    }

    /// Whether a window does not fit any more.
    fn wants_fitting(&self) -> bool {
        self.consumers.iter().any(|consumer| consumer.wants_fitting(self.credit(consumer)))
    }

    /// Hands the oldest message of a consumer to the user.
    fn hand_out(&mut self, channel: u64, consumer: &mut Consumer) -> Option<Event> {
        let mail = consumer.mail.pop()?;
        let options = &consumer.options;
        if !options.no_ack {
            consumer.seen += 1;
            self.consumed += 1;
            let origin = Origin { consumer: consumer.id, registration: mail.registration };
            self.ledger.insert(mail.tag, Unsettled::now(&options.queue, Some(origin)));
        }
        let delivery = delivery(mail.tag, options.queue.clone(), mail.message, options.no_ack);
        Some(Event { channel, consumer_tag: options.consumer_tag.clone(), delivery })
    }

    /// Takes a delivery out of the ledger; whether it was there.
    fn settle(&mut self, tag: u64) -> bool {
        let Some(held) = self.ledger.remove(&tag) else { return false };
        if let Some(origin) = held.origin {
            self.consumed -= 1;
            let consumer = self.consumers.iter_mut().find(|one| one.id == origin.consumer);
            if let Some(consumer) = consumer {
                consumer.settled(origin.registration, true);
            }
        }
        true
    }

    /// What was handed out cannot be settled any more.
    fn forget_ledger(&mut self) {
        self.ledger.clear();
        self.consumed = 0;
        for consumer in &mut self.consumers {
            consumer.seen = 0;
        }
    }

    /// The consumer whose message is handed out next, if the limits allow one.
    fn next_ready(&self) -> Option<usize> {
        if self.paused || self.recovering || self.end.is_some() {
            return None;
        }
        self.consumers.iter().position(|consumer| {
            let allowed =
                || consumer.options.no_ack || consumer.gone || self.credit(consumer).room > 0;
            !consumer.mail.is_empty() && !consumer.ending && allowed()
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
