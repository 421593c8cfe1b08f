//! Consumers of a channel: what has arrived for each, and how much may be on its way.
//!
//! The limit that users set is held here: a message is handed out only when the channel's unsettled
//! ones are fewer. What the broker is told is the *window* of each consumer (`basic.qos` without
//! `global`), which quorum queues and RabbitMQ 4 know, too, where they refuse a limit of the channel.
//! It is wide enough for the limit; when the limit outgrows it the consumer is registered anew under
//! another tag on the wire, and it grows in powers of two so that this is rare.

use crate::error::Result;
use crate::model::{Message, Name};
use crate::protocol::amqp::encode::{self, arguments, name};
use crate::protocol::amqp::{AMQPClass, basic};
use crate::transport::ConsumeOptions;
use std::collections::VecDeque;

/// The window where there is no limit: it grows with what is unsettled.
const UNLIMITED: u16 = 256;
/// Beyond half of this there is no window at all.
const WIDEST: u16 = 32_768;
/// What stands between a consumer's tag and the number of its registration.
const AGAIN: &str = "~kombu-";

/// A message that has arrived and was not handed out yet.
#[derive(Debug)]
pub(super) struct Mail {
    /// The channel's number for the delivery.
    pub(super) tag: u64,
    pub(super) message: Message,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) options: ConsumeOptions,
    pub(super) exclusive: bool,
    pub(super) mail: VecDeque<Mail>,
    /// Being cancelled: nothing is handed out any more.
    pub(super) ending: bool,
    /// What the broker may have on its way; 0 for no limit.
    window: u16,
    registrations: u32,
}

impl Consumer {
    /// A consumer of a channel with that limit (0: none).
    pub(super) fn new(options: ConsumeOptions, exclusive: bool, limit: u32) -> Self {
        let window = match u16::try_from(limit) {
            _ if options.no_ack => 0,
            Ok(0) => UNLIMITED,
            Ok(limit) => limit,
            Err(_) => 0,
        };
        let mail = VecDeque::new();
        Self { options, exclusive, mail, ending: false, window, registrations: 1 }
    }

    /// The tag on the wire.
    pub(super) fn wire_tag(&self) -> String {
        match self.registrations {
            1 => self.options.consumer_tag.to_string(),
            number => format!("{}{AGAIN}{number}", self.options.consumer_tag),
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

    /// Whether it may be registered anew. A stream would begin again where the arguments say, and a
    /// queue with a single active consumer, or an exclusive one, would go to somebody else.
    fn may_register_again(&self) -> bool {
        let arguments = &self.options.arguments;
        !self.exclusive && !self.options.no_ack && arguments.get("x-stream-offset").is_none()
    }

    /// `basic.qos`, to be said before [`Consumer::consume`].
    pub(super) fn qos(&self) -> AMQPClass {
        let qos = basic::Qos { prefetch_count: self.window, global: false };
        AMQPClass::Basic(basic::AMQPMethod::Qos(qos))
    }

    /// `basic.consume`
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn consume(&self, nowait: bool) -> Result<AMQPClass> {
        Ok(AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
            queue: name("the name of a queue", &self.options.queue)?,
            consumer_tag: name("a consumer tag", &self.wire_tag())?,
            no_local: false,
            no_ack: self.options.no_ack,
            exclusive: self.exclusive,
            nowait,
            arguments: arguments(&self.options.arguments)?,
        })))
    }

    /// `basic.cancel` without an answer.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn cancel(&self) -> Result<AMQPClass> {
        let consumer_tag = name("a consumer tag", &self.wire_tag())?;
        let cancel = basic::Cancel { consumer_tag, nowait: true };
        Ok(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))
    }

    /// Registers it anew if its window does not fit any more: the frames to send, to which one answer
    /// is due.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn refit(
        &mut self,
        channel: u16,
        limit: u32,
        unsettled: usize,
    ) -> Result<Option<Vec<u8>>> {
        let mut frames = Vec::new();
        let cancel = self.cancel()?;
        if !self.fit(limit, unsettled) {
            return Ok(None);
        }
        encode::method(channel, cancel, &mut frames)?;
        encode::method(channel, self.qos(), &mut frames)?;
        encode::method(channel, self.consume(true)?, &mut frames)?;
        Ok(Some(frames))
    }

    /// Takes the limit of the channel and how many messages of it are unsettled; whether the consumer
    /// has to be registered anew, with another [`Consumer::window`].
    fn fit(&mut self, limit: u32, unsettled: usize) -> bool {
        if self.ending || !self.may_register_again() {
            return false;
        }
        let now = if self.window == 0 { usize::MAX } else { usize::from(self.window) };
        let limit = limit as usize;
        let wanted = match limit {
            0 if unsettled.saturating_mul(2) < now => return false,
            0 => now.saturating_mul(2).max(usize::from(UNLIMITED)),
            _ if limit > now => limit.next_power_of_two(),
            _ if limit < now / 4 => limit,
            _ => return false,
        };
        let window = u16::try_from(wanted).unwrap_or(u16::MAX);
        self.window = if window > WIDEST { 0 } else { window };
        self.registrations += 1;
        true
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

    fn consumer(limit: u32) -> Consumer {
        let options = ConsumeOptions {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_ack: false,
            arguments: Json::empty_object(),
        };
        Consumer::new(options, false, limit)
    }

    #[test]
    fn the_window_follows_the_limit_in_steps() {
        let mut one = consumer(3);
        assert_eq!((one.window, one.wire_tag().as_str()), (3, "c"));
        assert!(!one.fit(3, 3) && !one.fit(2, 3) && !one.fit(1, 1));
        assert!(one.fit(5, 3));
        assert_eq!((one.window, one.wire_tag().as_str()), (8, "c~kombu-2"));
        assert!(!one.fit(8, 8) && !one.fit(2, 8));
        assert!(one.fit(1, 1));
        assert_eq!(one.window, 1);
        assert!(one.fit(100_000, 1));
        assert_eq!(one.window, 0, "no limit");
        assert!(!one.fit(0, 100_000));
    }

    #[test]
    fn without_a_limit_it_grows_with_what_is_unsettled() {
        let mut one = consumer(0);
        assert_eq!(one.window, UNLIMITED);
        assert!(!one.fit(0, 100));
        assert!(one.fit(0, 128));
        assert_eq!(one.window, 512);
        assert!(one.fit(4, 2));
        assert_eq!(one.window, 4);
        assert!(one.fit(0, 2));
        assert_eq!(one.window, UNLIMITED);
    }

    #[test]
    fn tags_of_all_registrations_are_known_and_no_others() {
        let mut one = consumer(1);
        one.fit(10, 1);
        for (tag, known) in [
            ("c", true),
            ("c~kombu-2", true),
            ("c~kombu-3", false),
            ("c~kombu-x", false),
            ("cc", false),
        ] {
            assert_eq!(one.is_called(tag), known, "{tag}");
        }
    }

    #[test]
    fn some_consumers_are_registered_once() {
        let mut options = consumer(1).options;
        assert!(!Consumer::new(options.clone(), true, 1).fit(10, 1));
        options.arguments = Json::from_valid(r#"{"x-stream-offset": "first"}"#);
        assert!(!Consumer::new(options.clone(), false, 1).fit(10, 1));
        options.no_ack = true;
        assert_eq!(Consumer::new(options, false, 5).window, 0);
    }
}
