//! Consumers of a channel: what has arrived for each, and how much may be on its way.
//!
//! The limits that users set are held here: a message is handed out only when fewer are unsettled.
//! What the broker is told is the *window* of each consumer (`basic.qos` without `global`), which
//! quorum queues and RabbitMQ 4 know, too, where they refuse a limit of the channel. It follows the
//! limit by another registration under another tag on the wire: see [`super::fitting`]. What may not
//! lose its place by that is treated by its [`Place`].

use super::mailbox::{Mail, Mailbox};
use crate::error::{Error, Result};
use crate::model::{Message, Name};
use crate::protocol::amqp::encode::{self, arguments, name};
use crate::protocol::amqp::{AMQPClass, basic};
use crate::transport::ConsumeOptions;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// The window where there is no limit: it grows with what is unsettled.
pub(super) const UNLIMITED: u16 = 256;
/// Beyond half of this there is no window at all.
pub(super) const WIDEST: u16 = 32_768;
/// How wide a window is at least that will not grow by being registered anew.
const ROOMY: u16 = 1024;
/// How much wider the first stand-in's window is.
const STEP: u16 = 32;
/// What stands between a consumer's tag and the number of its registration.
const AGAIN: &str = "~kombu-";

/// What a consumer would lose by being registered anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Place {
    /// Nothing: in its queue all consumers are equal, or it is the only one that may consume.
    #[default]
    Any,
    /// Its queue, which may be deleted with its last consumer, or the right to be the only one. So its
    /// window is wide from the beginning: nobody else may consume.
    Only,
    /// The queue, which has a single active consumer at a time (`x-single-active-consumer`). So others
    /// stand in line right behind it, with wider windows, and take its place one after the other.
    Line,
    /// Where it reads in a stream. So its window is wide from the beginning: a stream's messages are
    /// everybody's, and what waits here is kept from nobody.
    Stream,
}

/// What is known of a queue; the default of one that was not declared here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) place: Place,
    pub(super) unused: Unused,
    /// A quorum queue: what is given back loses its place and counts as a delivery.
    pub(super) quorum: bool,
}

impl Default for Kind {
    fn default() -> Self {
        // It may be a quorum queue: nothing is given back that would be dropped after some times.
        Self { place: Place::Any, unused: Unused::Unknown, quorum: true }
    }
}

/// What becomes of a queue when nobody consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unused {
    #[default]
    Unknown,
    /// It stays as it is.
    Stays,
    /// It is deleted, at once or later.
    Goes,
}

/// One registration of a consumer on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registration {
    /// The how manieth of this consumer it is.
    pub(super) number: u32,
    /// What the broker may have on its way for it; 0 for no limit.
    pub(super) window: u16,
}

/// Where a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// [`Consumer::id`]
    pub(super) consumer: u32,
    /// [`Registration::number`]
    pub(super) registration: u32,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Its number among those of its channel.
    pub(super) id: u32,
    pub(super) options: ConsumeOptions,
    pub(super) exclusive: bool,
    pub(super) mail: Mailbox,
    /// The broker has confirmed all of it. It is not cancelled before: a classic queue of RabbitMQ 3.10
    /// ends the connection when it has still to confirm what is cancelled.
    pub(super) confirmed: bool,
    /// Being cancelled: nothing is handed out any more.
    pub(super) ending: bool,
    /// The broker has cancelled it: what is here is handed out, and then its user is told.
    pub(super) gone: bool,
    /// Its own limit, 0 for none.
    pub(super) own: u32,
    /// The one that it began with.
    began_with: u32,
    /// Delivered and not settled, handed out or not.
    pub(super) outstanding: usize,
    /// Those of them that came for the current registration: the broker counts them against its window.
    pub(super) counted: usize,
    /// How many are handed out and not settled.
    pub(super) seen: usize,
    /// The limit that the current registration was made for, 0 for none.
    pub(super) fitted: u32,
    /// The lowest limit that it had, 0 for none.
    pub(super) least: u32,
    pub(super) place: Place,
    pub(super) unused: Unused,
    pub(super) quorum: bool,
    /// The current registration is cancelled, and there will be another one when the limit allows more.
    pub(super) pausing: bool,
    /// Whether anything has come for it: then its [`Place`] is certain.
    heard: bool,
    pub(super) current: Registration,
    /// Those that stand in line behind it, in order.
    pub(super) in_line: VecDeque<Registration>,
    registrations: u32,
}

impl Consumer {
    /// A consumer of a channel with a limit of its own and one that it shares (0: none).
    pub(super) fn new(
        id: u32,
        options: ConsumeOptions,
        exclusive: bool,
        (own, shared): (u32, u32),
        kind: Kind,
    ) -> Self {
        let place = match (options.arguments.get("x-stream-offset"), kind.place) {
            (Some(_), _) => Place::Stream,
            (None, Place::Any) if exclusive && kind.unused == Unused::Goes => Place::Only,
            (None, place) => place,
        };
        let limit = lower(own, shared);
        let window = match (u16::try_from(limit), place) {
            _ if options.no_ack => 0,
            (Ok(limit @ 1..), Place::Only) => limit.max(ROOMY),
            (_, Place::Only) => 0,
            // Streams refuse to be without one.
            (Ok(limit), Place::Stream) => limit.max(ROOMY),
            (Err(_), Place::Stream) => u16::MAX,
            (Ok(0), _) => UNLIMITED,
            (Ok(limit), _) => limit,
            (Err(_), _) => 0,
        };
        let mut consumer = Self {
            id,
            options,
            exclusive,
            mail: Mailbox::default(),
            confirmed: false,
            ending: false,
            gone: false,
            own,
            began_with: own,
            outstanding: 0,
            counted: 0,
            seen: 0,
            fitted: limit,
            least: limit,
            place,
            unused: kind.unused,
            quorum: kind.quorum,
            pausing: false,
            heard: false,
            current: Registration { number: 1, window },
            in_line: VecDeque::new(),
            registrations: 1,
        };
        if place == Place::Line && (1..WIDEST).contains(&window) {
            let roomy = window.saturating_mul(STEP).clamp(ROOMY, WIDEST);
            for window in [roomy, WIDEST] {
                consumer.stand_in_line(window);
            }
        }
        consumer
    }

    /// Has what waits for it weighed there, if nothing else limits that.
    pub(super) fn weighed(mut self, scales: &Arc<AtomicUsize>) -> Self {
        if self.options.no_ack {
            self.mail = Mailbox::weighed(scales.clone());
        }
        self
    }

    pub(super) fn next_registration(&mut self, window: u16) -> Registration {
        self.registrations += 1;
        Registration { number: self.registrations, window }
    }

    pub(super) fn stand_in_line(&mut self, window: u16) -> Registration {
        let last = self.next_registration(window);
        self.in_line.push_back(last);
        last
    }

    fn tag(&self, number: u32) -> String {
        match number {
            1 => self.options.consumer_tag.to_string(),
            number => format!("{}{AGAIN}{number}", self.options.consumer_tag),
        }
    }

    /// The tag on the wire.
    pub(super) fn wire_tag(&self) -> String {
        self.tag(self.current.number)
    }

    /// Whether a registration that is not cancelled has that tag on the wire.
    pub(super) fn is_registered(&self, wire_tag: &str) -> bool {
        let mut all = std::iter::once(&self.current).chain(&self.in_line);
        all.any(|registration| self.tag(registration.number) == wire_tag)
    }

    /// Its first message tells what its queue is.
    fn hear(&mut self, message: &Message) {
        if !self.heard {
            self.heard = true;
            if message.headers.get("x-stream-offset").is_some() {
                self.place = Place::Stream;
            }
        }
    }

    /// The number of its registration with a tag on the wire, of now or from before.
    pub(super) fn registration(&self, wire_tag: &str) -> Option<u32> {
        match wire_tag.strip_prefix(&*self.options.consumer_tag)? {
            "" => Some(1),
            rest => {
                let number = rest.strip_prefix(AGAIN)?.parse().ok()?;
                (number <= self.registrations).then_some(number)
            }
        }
    }

    /// Its tag and its queue.
    pub(super) fn name(&self) -> (Name, Name) {
        (self.options.consumer_tag.clone(), self.options.queue.clone())
    }

    /// The limit that it has, together with the one that it shares; 0 for none.
    pub(super) fn limit(&self, shared: u32) -> u32 {
        lower(self.own, shared)
    }

    /// Those that begin later have a limit of `own`. It follows a higher one, as Celery raises it for
    /// each task with an ETA, but it keeps what it began with.
    pub(super) fn follow(&mut self, own: u32) {
        if self.began_with != 0 && own != 0 {
            self.own = own.max(self.began_with);
        }
    }

    /// Takes a delivery for the registration of that number.
    pub(super) fn take_in(&mut self, tag: u64, message: Message, registration: u32) {
        self.hear(&message);
        if !self.options.no_ack {
            self.outstanding += 1;
            self.counted += usize::from(self.is_current(registration));
        }
        self.mail.push(Mail { tag, message, registration });
    }

    /// A delivery for the registration of that number is settled, or given back.
    pub(super) fn settled(&mut self, registration: u32, seen: bool) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.seen = self.seen.saturating_sub(usize::from(seen));
        if self.is_current(registration) {
            self.counted = self.counted.saturating_sub(1);
        }
    }

    /// Whether the broker serves the registration of that number.
    pub(super) fn is_current(&self, registration: u32) -> bool {
        registration == self.current.number && !self.pausing
    }

    /// What waits for it beyond the `room` that its limits leave: their numbers. It goes back.
    pub(super) fn give_back(&mut self, room: usize) -> Vec<u64> {
        if self.options.no_ack {
            return Vec::new();
        }
        let back = self.mail.split_off(room);
        for mail in &back {
            self.settled(mail.registration, false);
        }
        back.into_iter().map(|mail| mail.tag).collect()
    }

    /// What registers it and those who stand in line behind it; each is answered.
    ///
    /// # Errors
    /// `Encode`; `Invalid` for what the broker would answer with other words, or with the end of the
    /// whole connection.
    pub(super) fn register_all(&self) -> Result<Vec<AMQPClass>> {
        if self.place == Place::Stream && self.options.no_ack {
            return Err(Error::invalid(format!(
                "no_ack must be false for the consumer of '{}', which is a stream: streams send \
                 more only when it acknowledges",
                self.options.queue
            )));
        }
        if !self.options.no_ack {
            // Or it could not be registered anew.
            name("a consumer tag with the number of its registration", &self.tag(u32::MAX))?;
        }
        let mut methods = Vec::new();
        for registration in std::iter::once(&self.current).chain(&self.in_line) {
            methods.push(self.qos_of(*registration));
            methods.push(self.consume_as(*registration, false)?);
        }
        Ok(methods)
    }

    pub(super) fn qos_of(&self, registration: Registration) -> AMQPClass {
        let qos = basic::Qos { prefetch_count: registration.window, global: false };
        AMQPClass::Basic(basic::AMQPMethod::Qos(qos))
    }

    pub(super) fn consume_as(&self, registration: Registration, nowait: bool) -> Result<AMQPClass> {
        Ok(AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
            queue: name("the name of a queue", &self.options.queue)?,
            consumer_tag: name("a consumer tag", &self.tag(registration.number))?,
            no_local: false,
            no_ack: self.options.no_ack,
            exclusive: self.exclusive,
            nowait,
            arguments: arguments(&self.options.arguments)?,
        })))
    }

    pub(super) fn cancel_of(&self, registration: Registration) -> Result<AMQPClass> {
        let consumer_tag = name("a consumer tag", &self.tag(registration.number))?;
        let cancel = basic::Cancel { consumer_tag, nowait: true };
        Ok(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))
    }

    /// The frames that cancel those who stand in line, who would take over otherwise.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn cancel_line(&self, channel: u16) -> Result<Vec<u8>> {
        let mut frames = Vec::new();
        for registration in &self.in_line {
            encode::method(channel, self.cancel_of(*registration)?, &mut frames)?;
        }
        Ok(frames)
    }

    /// The frames that cancel all of it, without an answer.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn cancel(&self, channel: u16) -> Result<Vec<u8>> {
        let mut frames = self.cancel_line(channel)?;
        encode::method(channel, self.cancel_of(self.current)?, &mut frames)?;
        Ok(frames)
    }
}

/// The lower of two limits, of which 0 is none.
pub(super) fn lower(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) => one.min(other),
    }
}

/// Where the consumer of that tag is among others; one that the broker has cancelled if there is no
/// other.
pub(super) fn position(consumers: &[Consumer], tag: &str) -> Option<usize> {
    let called = |consumer: &Consumer| *consumer.options.consumer_tag == *tag;
    let living = consumers.iter().position(|consumer| called(consumer) && !consumer.gone);
    living.or_else(|| consumers.iter().position(called))
}

/// The consumer of that tag among others, unless the broker has cancelled it.
pub(super) fn find<'a>(consumers: &'a mut [Consumer], tag: &str) -> Option<&'a mut Consumer> {
    let at = position(consumers, tag)?;
    Some(&mut consumers[at]).filter(|consumer| !consumer.gone)
}

/// Where the consumer is that a delivery came for, and the number of its registration.
pub(super) fn addressee(consumers: &[Consumer], wire_tag: &Name) -> Option<(usize, u32)> {
    consumers.iter().enumerate().filter(|(_, consumer)| !consumer.gone).find_map(
        |(at, consumer)| {
            let registration = consumer.registration(wire_tag)?;
            Some((at, registration))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Json;

    fn consumer(own: u32) -> Consumer {
        let options = ConsumeOptions {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_ack: false,
            arguments: Json::empty_object(),
        };
        Consumer::new(1, options, false, (own, 0), Kind::default())
    }

    #[test]
    fn tags_of_all_registrations_are_known_and_no_others() {
        let mut one = consumer(1);
        one.current = one.next_registration(10);
        for (tag, known) in [
            ("c", Some(1)),
            ("c~kombu-2", Some(2)),
            ("c~kombu-3", None),
            ("c~kombu-x", None),
            ("cc", None),
        ] {
            assert_eq!(one.registration(tag), known, "{tag}");
        }
        assert!(one.is_registered("c~kombu-2") && !one.is_registered("c"));
    }

    #[test]
    fn a_limit_of_its_own_is_never_lower_than_at_the_beginning() {
        let mut one = consumer(4);
        for (said, limit) in [(6, 6), (5, 5), (1, 4), (0, 4)] {
            one.follow(said);
            assert_eq!((one.limit(0), one.limit(2), one.limit(9)), (limit, 2, limit), "{said}");
        }
        let mut one = consumer(0);
        one.follow(3);
        assert_eq!(one.limit(0), 0, "none stays none");
    }
}
