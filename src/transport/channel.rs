//! AMQP's words: what the client layer talks to, whatever the broker.

use super::{Amqp, AmqpConnection};
use crate::error::Result;
use crate::model::{Delivery, Exchange, Json, Message, Name, Queue};
use async_trait::async_trait;
use std::fmt::Debug;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A delivery on its way to a consumer.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// [`Channel::id`] of the channel that consumes.
    pub channel: u64,
    /// The consumer's tag.
    pub consumer_tag: Name,
    /// The message.
    pub delivery: Delivery,
}

/// The answer to a queue declaration (AMQP `queue.declare-ok`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The queue's name, made up when it was declared with an empty one.
    pub queue: Name,
    /// Number of ready messages.
    pub messages: u64,
    /// Number of consumers, 0 where the broker does not know.
    pub consumers: u64,
}

/// A consumer's wishes (AMQP `basic.consume`).
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeOptions {
    /// The queue to consume from.
    pub queue: Name,
    /// Its tag, unique within the channel.
    pub consumer_tag: Name,
    /// Messages are done when they are delivered.
    pub no_ack: bool,
    /// Consumer arguments, a JSON object.
    pub arguments: Json,
}

/// One connection to a broker, shared by any number of threads.
#[async_trait]
pub trait Connection: Debug + Send + Sync + 'static {
    /// Connects if there is no live link (also after a fork).
    ///
    /// # Errors
    /// `Connection` naming host and port, within the connect timeout; `Auth`.
    async fn connect(&self) -> Result<()>;

    /// Whether a live link is there, as far as known without asking.
    fn is_connected(&self) -> bool;

    /// Opens a channel.
    async fn open_channel(&self) -> Result<Arc<dyn Channel>>;

    /// An event that is already here.
    fn try_next(&self) -> Option<Event>;

    /// The next event; waits for one. Dropping the future loses nothing.
    async fn next(&self) -> Result<Event>;

    /// The descriptor for an event loop to watch for reading: the same one for the life of the
    /// connection in this process, whatever happens to its links.
    ///
    /// # Errors
    /// `Limit` when the process has no descriptors left.
    fn event_fd(&self) -> Result<RawFd>;

    /// Makes progress without blocking, on behalf of an event loop: call when [`Connection::event_fd`]
    /// is readable, then take events with [`Connection::try_next`], then [`Connection::drive`] again
    /// or [`Connection::ring`] if some were left.
    ///
    /// # Errors
    /// The link broke; the next call connects again.
    fn drive(&self) -> Result<()>;

    /// Makes [`Connection::event_fd`] readable.
    fn ring(&self);

    /// Tells that an event loop drives the connection (`true`) or that blocking callers do.
    fn set_event_loop(&self, on: bool);

    /// Stops consuming at once, without a word to the broker. What is unsettled stays so, and can
    /// still be settled.
    fn abandon(&self);

    /// Closes the link. Idempotent.
    async fn close(&self) -> Result<()>;

    /// What only a broker that speaks AMQP can tell; `None` for virtual channels.
    fn amqp(&self) -> Option<&dyn AmqpConnection> {
        None
    }
}

/// One channel (AMQP 0-9-1 section 1.2): the unit of consumers, credit and acknowledgement.
#[async_trait]
pub trait Channel: Debug + Send + Sync + 'static {
    /// Its number, unique within the process.
    fn id(&self) -> u64;

    /// Whether it can still be used.
    fn is_open(&self) -> bool;

    /// `exchange.declare`. `NotFound` when passive and unknown.
    async fn exchange_declare(&self, exchange: &Exchange, passive: bool) -> Result<()>;

    /// `exchange.delete`.
    async fn exchange_delete(&self, exchange: &Name, if_unused: bool) -> Result<()>;

    /// The type, bindings and queues a message would go to: `exchange` and `routing_key` as in publish.
    async fn lookup(&self, exchange: &Name, message: &Message) -> Result<Vec<Name>>;

    /// `queue.declare`. `NotFound` when passive and unknown.
    async fn queue_declare(&self, queue: &Queue, passive: bool) -> Result<Declared>;

    /// `queue.bind`.
    async fn queue_bind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()>;

    /// `queue.unbind`.
    async fn queue_unbind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()>;

    /// `queue.purge`; how many messages went.
    async fn queue_purge(&self, queue: &Name) -> Result<u64>;

    /// `queue.delete`; how many messages went with it.
    async fn queue_delete(&self, queue: &Name, if_unused: bool, if_empty: bool) -> Result<u64>;

    /// `basic.publish`, of messages whose properties name exchange and routing key. Returns when the
    /// broker has them.
    async fn publish(&self, messages: Vec<Message>) -> Result<()>;

    /// `basic.consume`.
    async fn consume(&self, options: ConsumeOptions) -> Result<()>;

    /// `basic.cancel`. Messages fetched ahead for the consumer go back unseen.
    async fn cancel(&self, consumer_tag: &str) -> Result<()>;

    /// `basic.get`.
    async fn get(&self, queue: &Name, no_ack: bool) -> Result<Option<Delivery>>;

    /// `basic.ack`; all up to `tag` with `multiple`, all that are open with an empty tag. An unknown
    /// tag is dropped: after a reconnect the broker has requeued the message.
    async fn ack(&self, tag: &str, multiple: bool) -> Result<()>;

    /// `basic.reject`.
    async fn reject(&self, tag: &str, requeue: bool) -> Result<()>;

    /// `basic.recover`: everything unsettled goes back to its queue.
    async fn recover(&self) -> Result<()>;

    /// Puts messages back that nobody has settled within a lease, those of this connection included;
    /// about `limit`. How many.
    async fn reclaim(&self, limit: Option<usize>) -> Result<usize>;

    /// Moves dead letters back to the queues that they came from; at most `limit`. How many.
    async fn replay(&self, dead_letters: &Name, limit: Option<usize>) -> Result<usize>;

    /// Drops the bindings of queues that have expired, of at most `limit` exchanges. How many.
    async fn sweep(&self, limit: usize) -> Result<usize>;

    /// `basic.qos`: at most so many unsettled messages, 0 for no limit.
    async fn qos(&self, prefetch_count: u32) -> Result<()>;

    /// `channel.flow`: deliveries go on (`true`) or pause.
    async fn flow(&self, active: bool) -> Result<()>;

    /// The tags of delivered messages that are not settled, oldest first.
    fn unsettled(&self) -> Vec<Name>;

    /// The number of unsettled messages, and the limit (0: none).
    fn credit(&self) -> (usize, u32);

    /// Closes it: consumers are cancelled, unsettled messages go back if `restore`. Idempotent.
    async fn close(&self, restore: bool) -> Result<()>;

    /// What only a broker that speaks AMQP can do; `None` on virtual channels.
    fn amqp(&self) -> Option<&dyn Amqp> {
        None
    }
}
