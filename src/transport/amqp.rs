//! What only a broker that speaks AMQP itself can do, beyond [`Channel`].

use super::{AmqpCounters, Channel, Connection, ConsumeOptions, Event, Held};
use crate::error::Result;
use crate::model::{Json, Message, Name};
use async_trait::async_trait;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishOptions {
    /// A message that reaches no queue comes back: with confirms it is the error of its publish,
    /// without it is one of [`Amqp::returned`].
    pub mandatory: bool,
}

/// A mandatory message that reached no queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Returned {
    /// Reply code (312: no route).
    pub code: u16,
    /// Reply text.
    pub text: String,
    /// The message, with the exchange and the routing key that it was published to.
    pub message: Message,
}

/// `exchange.declare` with everything that AMQP has for it: brokers have types of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDeclaration {
    /// Its name.
    pub name: Name,
    /// Its type, such as `direct` or `x-delayed-message`.
    pub kind: Name,
    /// Only ask whether it is there.
    pub passive: bool,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Takes messages of other exchanges only.
    pub internal: bool,
    /// Arguments, a JSON object.
    pub arguments: Json,
}

/// What a connection and its broker have agreed on, and what the broker says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreed {
    /// Seconds between heartbeats, 0 for none.
    pub heartbeat: u16,
    /// Highest number of a channel.
    pub channel_max: u16,
    /// Largest frame in bytes, 0 for no limit.
    pub frame_max: u32,
    /// `server-properties`, a JSON object.
    pub server_properties: Json,
}

/// What only a connection to a broker that speaks AMQP itself knows.
pub trait AmqpConnection: Connection {
    /// What was agreed; `None` while there is no live link.
    fn agreed(&self) -> Option<Agreed>;

    /// Why the broker takes no publishes (`connection.blocked`); `None` while it does.
    fn blocked(&self) -> Option<String>;

    /// What was done so far.
    fn counters(&self) -> Arc<AmqpCounters>;

    /// What its channels hold now, and for how long the broker has taken no publishes by now.
    fn held(&self) -> (Held, Duration);

    /// A message that came back and is nobody's error, and [`super::Channel::id`] of its channel.
    fn returned(&self) -> Option<(u64, Returned)>;

    /// [`Connection::close`] without waiting: the broker is told, and the link closed when it has
    /// answered, or after two seconds.
    fn leave(&self);
}

/// What is left to do of an operation.
pub type Rest<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// See the module.
#[async_trait]
pub trait Amqp: Channel {
    /// [`Channel::ack`] of one delivery, which nearly always is done at once, without a future: there is
    /// an acknowledgement for each message. `None` then; otherwise what is to be waited for.
    fn begin_ack(&self, tag: u64) -> Option<Rest<'_>>;

    /// `basic.publish`. In confirm mode it returns when the broker has confirmed all messages.
    async fn publish_with(&self, messages: Vec<Message>, options: PublishOptions) -> Result<()>;

    /// A message that came back and is nobody's error.
    fn returned(&self) -> Option<Returned>;

    /// `basic.qos` without `global`: each consumer that begins from now on may have so many unsettled
    /// messages, 0 for no limit, beside the limit that all share ([`Channel::qos`]). For those that have
    /// begun with a limit a higher one holds, too: queues that know no shared limit would else leave
    /// them without messages, when tasks with an ETA use up their limit.
    async fn qos_of_each(&self, prefetch_count: u32) -> Result<()>;

    /// `basic.cancel`. What has come for the consumer and its limits allow is handed over, unsettled; the
    /// rest goes back.
    async fn cancel_with(&self, consumer_tag: &str) -> Result<Vec<Event>>;

    /// Opens a channel that the broker has closed again, without its consumers and what it has
    /// delivered; one that is open, or was closed otherwise, stays as it is. The tags of consumers that
    /// are over: nothing of them will be handed out any more.
    async fn revive(&self) -> Result<Vec<Name>>;

    /// `confirm.select`: from now on publishes wait for the broker's answer.
    async fn confirm_select(&self) -> Result<()>;

    /// `exchange.declare`
    async fn declare_exchange(&self, exchange: &ExchangeDeclaration) -> Result<()>;

    /// `exchange.bind`: messages go from `source` to `destination`, too.
    async fn exchange_bind(
        &self,
        destination: &Name,
        source: &Name,
        key: &Name,
        arguments: &Json,
    ) -> Result<()>;

    /// `exchange.unbind`
    async fn exchange_unbind(
        &self,
        destination: &Name,
        source: &Name,
        key: &Name,
        arguments: &Json,
    ) -> Result<()>;

    /// `basic.consume`, exclusively if asked for: nobody else may consume from the queue.
    async fn consume_with(&self, options: ConsumeOptions, exclusive: bool) -> Result<()>;

    /// `tx.select`, `tx.commit` or `tx.rollback`.
    async fn transaction(&self, step: Transaction) -> Result<()>;
}

/// The methods of AMQP's class `tx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// From now on publishes and acknowledgements are part of transactions.
    Select,
    /// Does what was said since the last one.
    Commit,
    /// Forgets what was said since the last one.
    Rollback,
}
