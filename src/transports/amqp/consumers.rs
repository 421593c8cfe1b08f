//! Consumers of a channel: what has arrived for each, and how much may be on its way.
//!
//! The limit that users set is held here: a message is handed out only when the channel's unsettled
//! ones are fewer. What the broker is told is the *window* of each consumer (`basic.qos` without
//! `global`), which quorum queues and RabbitMQ 4 know, too, where they refuse a limit of the channel.
//! It is wide enough for the limit; when the limit outgrows it the consumer is registered anew under
//! another tag on the wire, and it grows in powers of two so that this is rare. What may not lose its
//! place by that is treated by its [`Place`].

use super::mailbox::Mailbox;
use crate::error::{Error, Result};
use crate::model::{Message, Name};
use crate::protocol::amqp::encode::{self, arguments, name};
use crate::protocol::amqp::{AMQPClass, basic};
use crate::transport::ConsumeOptions;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// The window where there is no limit: it grows with what is unsettled.
const UNLIMITED: u16 = 256;
/// Beyond half of this there is no window at all.
const WIDEST: u16 = 32_768;
/// How wide a window is at least that will not grow by being registered anew.
const ROOMY: u16 = 1024;
/// How much wider the first stand-in's window is.
const STEP: u16 = 32;
/// What stands between a consumer's tag and the number of its registration.
const AGAIN: &str = "~kombu-";

/// What a consumer would lose by being registered anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: in its queue all consumers are equal, or it is the only one that may consume.
    Any,
    /// The queue, which has a single active consumer at a time (`x-single-active-consumer`). So others
    /// stand in line right behind it, with wider windows, and take its place one after the other.
    Line,
    /// Where it reads in a stream. So its window is wide from the beginning: a stream's messages are
    /// everybody's, and what waits here is kept from nobody.
    Stream,
}

/// One registration of a consumer on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registration {
    /// The how manieth of this consumer it is.
    number: u32,
    /// What the broker may have on its way for it; 0 for no limit.
    window: u16,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) options: ConsumeOptions,
    pub(super) exclusive: bool,
    pub(super) mail: Mailbox,
    /// The broker has confirmed all of it. It is not cancelled before: a classic queue of RabbitMQ 3.10
    /// ends the connection when it has still to confirm what is cancelled.
    pub(super) confirmed: bool,
    /// Being cancelled: nothing is handed out any more.
    pub(super) ending: bool,
    place: Place,
    /// Whether anything has come for it: then its [`Place`] is certain.
    heard: bool,
    current: Registration,
    /// Those that stand in line behind it, in order.
    in_line: VecDeque<Registration>,
    registrations: u32,
}

impl Consumer {
    /// A consumer of a channel with that limit (0: none).
    pub(super) fn new(options: ConsumeOptions, exclusive: bool, limit: u32, place: Place) -> Self {
        let place = match options.arguments.get("x-stream-offset") {
            Some(_) => Place::Stream,
            None => place,
        };
        let window = match (u16::try_from(limit), place) {
            _ if options.no_ack => 0,
            // Streams refuse to be without one.
            (Ok(limit), Place::Stream) => limit.max(ROOMY),
            (Err(_), Place::Stream) => u16::MAX,
            (Ok(0), _) => UNLIMITED,
            (Ok(limit), _) => limit,
            (Err(_), _) => 0,
        };
        let mut consumer = Self {
            options,
            exclusive,
            mail: Mailbox::default(),
            confirmed: false,
            ending: false,
            place,
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

    fn next_registration(&mut self, window: u16) -> Registration {
        self.registrations += 1;
        Registration { number: self.registrations, window }
    }

    fn stand_in_line(&mut self, window: u16) -> Registration {
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
    pub(super) fn hear(&mut self, message: &Message) {
        if !self.heard {
            self.heard = true;
            if message.headers.get("x-stream-offset").is_some() {
                self.place = Place::Stream;
            }
        }
    }

    /// Whether a tag on the wire is this one's, now or from before.
    pub(super) fn is_called(&self, wire_tag: &str) -> bool {
        match wire_tag.strip_prefix(&*self.options.consumer_tag) {
            Some("") => true,
            Some(rest) => rest
                .strip_prefix(AGAIN)
                .is_some_and(|number| number.parse().is_ok_and(|n: u32| n <= self.registrations)),
            None => false,
        }
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
        let mut methods = Vec::new();
        for registration in std::iter::once(&self.current).chain(&self.in_line) {
            methods.push(self.qos_of(*registration));
            methods.push(self.consume_as(*registration, false)?);
        }
        Ok(methods)
    }

    fn qos_of(&self, registration: Registration) -> AMQPClass {
        let qos = basic::Qos { prefetch_count: registration.window, global: false };
        AMQPClass::Basic(basic::AMQPMethod::Qos(qos))
    }

    fn consume_as(&self, registration: Registration, nowait: bool) -> Result<AMQPClass> {
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

    fn cancel_of(&self, registration: Registration) -> Result<AMQPClass> {
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

    /// Registers it anew if its window does not fit any more: the frames to send, to which one answer
    /// is due. Takes the limit of the channel and how many messages of it are unsettled.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn refit(
        &mut self,
        channel: u16,
        limit: u32,
        unsettled: usize,
    ) -> Result<Option<Vec<u8>>> {
        let Some(window) = self.fitting(limit, unsettled) else { return Ok(None) };
        let mut frames = Vec::new();
        let (mut over, new) = match self.place {
            Place::Any => {
                let new = self.next_registration(window);
                (vec![std::mem::replace(&mut self.current, new)], new)
            }
            Place::Stream => return Ok(None),
            Place::Line => {
                let wide = |next: &Registration| next.window >= window;
                let last = self.in_line.len().saturating_sub(1);
                let at = self.in_line.iter().position(wide).unwrap_or(last);
                let mut over = vec![self.current];
                over.extend(self.in_line.drain(..at));
                let Some(next) = self.in_line.pop_front() else { return Ok(None) };
                self.current = next;
                // A classic queue looks at who is active now when the next one comes.
                (over, self.stand_in_line(WIDEST))
            }
        };
        // From behind: the one in front must not be followed by another that ends, too.
        let mut cancels = Vec::new();
        while let Some(registration) = over.pop() {
            encode::method(channel, self.cancel_of(registration)?, &mut cancels)?;
        }
        // In between nobody consumes, and those with lower priorities are served: so not with one. Else
        // the order counts more, which a quorum queue does not keep among two consumers.
        let without_gap = self.options.arguments.get("x-priority").is_some() && !self.exclusive;
        if !without_gap {
            frames.append(&mut cancels);
        }
        encode::method(channel, self.qos_of(new), &mut frames)?;
        encode::method(channel, self.consume_as(new, true)?, &mut frames)?;
        frames.append(&mut cancels);
        Ok(Some(frames))
    }

    /// The window that fits better than what it has, 0 for none.
    fn fitting(&self, limit: u32, unsettled: usize) -> Option<u16> {
        if self.ending || !self.confirmed || self.options.no_ack {
            return None;
        }
        let now = match self.current.window {
            0 => usize::MAX,
            window => usize::from(window),
        };
        let limit = limit as usize;
        let wanted = match limit {
            0 if unsettled.saturating_mul(2) < now => return None,
            0 => now.saturating_mul(2).max(usize::from(UNLIMITED)),
            _ if limit > now => limit.next_power_of_two(),
            _ if limit < now / 4 && self.place == Place::Any => limit,
            _ => return None,
        };
        let window = u16::try_from(wanted).unwrap_or(u16::MAX);
        match self.place {
            Place::Stream => None,
            Place::Line if now >= usize::from(WIDEST) => None,
            Place::Line => Some(window.min(WIDEST)),
            Place::Any if window > WIDEST => Some(0),
            Place::Any => Some(window),
        }
    }
}

/// The consumer of that tag among others.
pub(super) fn find<'a>(consumers: &'a mut [Consumer], tag: &str) -> Option<&'a mut Consumer> {
    consumers.iter_mut().find(|consumer| *consumer.options.consumer_tag == *tag)
}

/// The consumer that a delivery came for.
pub(super) fn addressee<'a>(
    consumers: &'a mut [Consumer],
    wire_tag: &Name,
) -> Option<&'a mut Consumer> {
    consumers.iter_mut().find(|consumer| consumer.is_called(wire_tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Json;

    fn options() -> ConsumeOptions {
        ConsumeOptions {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_ack: false,
            arguments: Json::empty_object(),
        }
    }

    fn registered(options: ConsumeOptions, limit: u32, place: Place) -> Consumer {
        Consumer { confirmed: true, ..Consumer::new(options, false, limit, place) }
    }

    fn consumer(limit: u32) -> Consumer {
        registered(options(), limit, Place::Any)
    }

    fn refit(one: &mut Consumer, limit: u32, unsettled: usize) -> bool {
        one.refit(1, limit, unsettled).unwrap().is_some()
    }

    fn state(one: &Consumer) -> (u16, String) {
        (one.current.window, one.wire_tag())
    }

    #[test]
    fn the_window_follows_the_limit_in_steps() {
        let mut one = consumer(3);
        assert_eq!(state(&one), (3, "c".into()));
        assert!(!refit(&mut one, 3, 3) && !refit(&mut one, 2, 3) && !refit(&mut one, 1, 1));
        assert!(refit(&mut one, 5, 3));
        assert_eq!(state(&one), (8, "c~kombu-2".into()));
        assert!(!refit(&mut one, 8, 8) && !refit(&mut one, 2, 8));
        assert!(refit(&mut one, 1, 1));
        assert_eq!(one.current.window, 1);
        assert!(refit(&mut one, 100_000, 1));
        assert_eq!(one.current.window, 0, "no limit");
        assert!(!refit(&mut one, 0, 100_000));
    }

    #[test]
    fn without_a_limit_it_grows_with_what_is_unsettled() {
        let mut one = consumer(0);
        assert_eq!(one.current.window, UNLIMITED);
        assert!(!refit(&mut one, 0, 100));
        assert!(refit(&mut one, 0, 128));
        assert_eq!(one.current.window, 512);
        assert!(refit(&mut one, 4, 2));
        assert_eq!(one.current.window, 4);
        assert!(refit(&mut one, 0, 2));
        assert_eq!(one.current.window, UNLIMITED);
    }

    #[test]
    fn tags_of_all_registrations_are_known_and_no_others() {
        let mut one = consumer(1);
        refit(&mut one, 10, 1);
        for (tag, known) in [
            ("c", true),
            ("c~kombu-2", true),
            ("c~kombu-3", false),
            ("c~kombu-x", false),
            ("cc", false),
        ] {
            assert_eq!(one.is_called(tag), known, "{tag}");
        }
        assert!(one.is_registered("c~kombu-2") && !one.is_registered("c"));
    }

    #[test]
    fn a_single_active_consumer_is_followed_by_those_who_stand_in_line() {
        let mut one = registered(options(), 4, Place::Line);
        let windows = |one: &Consumer| one.in_line.iter().map(|r| r.window).collect::<Vec<_>>();
        assert_eq!((state(&one), windows(&one)), ((4, "c".into()), vec![ROOMY, WIDEST]));
        assert!(one.is_registered("c") && one.is_registered("c~kombu-3"));
        assert!(refit(&mut one, 5, 4));
        assert_eq!((state(&one), windows(&one)), ((1024, "c~kombu-2".into()), vec![WIDEST; 2]));
        assert!(!refit(&mut one, 1024, 4) && !refit(&mut one, 1, 4), "it does not shrink");
        assert!(refit(&mut one, 0, 600), "no limit, and half of the window is unsettled");
        assert_eq!(state(&one), (WIDEST, "c~kombu-3".into()));
        assert!(!refit(&mut one, 100_000, 4));
        // Those between are passed over.
        let mut one = registered(options(), 4, Place::Line);
        assert!(refit(&mut one, 5000, 4));
        assert_eq!((state(&one), windows(&one)), ((WIDEST, "c~kombu-3".into()), vec![WIDEST]));
        // Nothing to grow to.
        assert!(windows(&registered(options(), 100_000, Place::Line)).is_empty());
    }

    #[test]
    fn consumers_of_streams_are_registered_once_with_room() {
        let mut given = options();
        given.arguments = Json::from_valid(r#"{"x-stream-offset": "first"}"#);
        for (mut one, window) in [
            (registered(given, 1, Place::Any), 1024),
            (registered(options(), 2000, Place::Stream), 2000),
            (registered(options(), 100_000, Place::Stream), u16::MAX),
        ] {
            assert_eq!(one.current.window, window);
            assert!(!refit(&mut one, 50_000, 1) && !refit(&mut one, 1, 1));
        }
        let mut given = options();
        given.no_ack = true;
        let error = registered(given, 1, Place::Stream).register_all().unwrap_err();
        assert!(error.to_string().contains("no_ack must be false"), "{error}");
        let mut unknown = consumer(1);
        let headers = Json::from_valid(r#"{"x-stream-offset": 7}"#);
        unknown.hear(&Message { headers, ..Message::default() });
        assert!(!refit(&mut unknown, 10, 1), "its first message told");
    }

    #[test]
    fn without_acknowledgements_there_is_no_window() {
        let mut given = options();
        given.no_ack = true;
        let mut one = registered(given, 5, Place::Any);
        assert_eq!(one.current.window, 0);
        assert!(!refit(&mut one, 1, 0));
    }
}
