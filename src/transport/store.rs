//! The trait under every virtual transport: queues that messages go into and come out of.

use super::{Capability, Counters, Exchanges};
use crate::error::Result;
use crate::model::{Binding, Claim, Delivery, Exchange, Message, Name, Queue, Release};
use async_trait::async_trait;
use std::fmt::Debug;

/// A queue to take from, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueRef {
    /// Its name.
    pub name: Name,
    /// Taken messages are done at once: no claim is kept (AMQP `no-ack`).
    pub no_ack: bool,
}

/// How many messages `get` may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetOptions {
    /// At most so many over all queues together; at least 1.
    pub max: usize,
    /// Arm the wake-up for [`Store::ready`] in the same atomic step when nothing is found.
    pub arm: bool,
}

/// One connection's view of a broker that knows queues but not AMQP.
///
/// `virt` makes AMQP of it. All methods are driven by the calling thread (`io::task`); they may be
/// called by several threads at a time. A method whose future is dropped half way may have taken
/// effect; only [`Store::ready`] is made to be dropped. There are no default methods, so that a
/// wrapper cannot silently lose the wrapped store's better version.
///
/// Order: `get` takes more urgent priorities first; among equals one message of each queue in turn,
/// in the order given (the caller rotates them for fairness); each queue first in first out.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// What this store can do.
    fn capability(&self) -> Capability;

    /// The exchanges declared through this store.
    fn exchanges(&self) -> &Exchanges;

    /// What was done over this store.
    fn counters(&self) -> &Counters;

    /// Connects if it is not connected (again after a lost link or a fork) within the connect timeout.
    ///
    /// # Errors
    /// `Connection` naming host and port, `Auth` when credentials were refused.
    async fn connect(&self) -> Result<()>;

    /// Whether a live link is there, as far as known without asking.
    fn is_connected(&self) -> bool;

    /// Gives everything back that the store itself holds (links, subscriptions, local mailboxes whose
    /// messages return to their queues). Claims are released by `virt` before. Idempotent.
    async fn close(&self) -> Result<()>;

    /// Appends messages to one queue; returns when the broker has them.
    async fn put(&self, queue: &Name, messages: &[Message]) -> Result<()>;

    /// Publishes to everybody subscribed to a fanout exchange (`capability().fanout`).
    async fn put_fanout(&self, exchange: &Name, routing_key: &str, message: &Message)
    -> Result<()>;

    /// Takes up to `options.max` messages that are there now, claiming each (unless `no_ack`) in the
    /// same atomic step. Never waits for messages. Returns an empty vector when there are none.
    async fn get(&self, queues: &[QueueRef], options: GetOptions) -> Result<Vec<Delivery>>;

    /// Resolves when one of the queues may have something since the last `get` with `arm` that
    /// found nothing. May resolve without cause. Dropping it is free.
    async fn ready(&self, queues: &[QueueRef]) -> Result<()>;

    /// Settles claims: the messages are done. Write-through: handed to the broker before this returns,
    /// or over the next link where [`Capability::settles_later`] says so. An error means that they come
    /// again.
    async fn ack(&self, claims: &[Claim]) -> Result<()>;

    /// Ends claims without settling: the messages go back, or away (see [`Release`]). With several
    /// claims, messages return to the head of their queues in the order of `claims`.
    async fn release(&self, claims: &[Claim], how: Release) -> Result<()>;

    /// Extends the lease on held claims, where the store has leases.
    async fn renew(&self, claims: &[Claim]) -> Result<()>;

    /// Returns messages whose owner died (lease over, owner's lock gone) to their queues; how many.
    async fn restore(&self) -> Result<usize>;

    /// As [`Store::restore`], for somebody who asks: about `limit` messages (whole batches), and with
    /// them those that this store itself has held for longer than a lease without settling them.
    async fn reclaim(&self, limit: Option<usize>) -> Result<usize>;

    /// Moves dead letters, the oldest first, from the queue that they were put into back to the
    /// queues that they came from; at most `limit`. How many. `Unsupported` where there are none.
    async fn replay(&self, dead_letters: &Name, limit: Option<usize>) -> Result<usize>;

    /// Drops what is still kept for queues that have expired: the binding tables of at most `limit`
    /// exchanges; how many.
    async fn sweep(&self, limit: usize) -> Result<usize>;

    /// Declares a queue (idempotent).
    async fn declare_queue(&self, queue: &Queue) -> Result<()>;

    /// Whether a queue is known or has messages (passive declare).
    async fn has_queue(&self, queue: &Name) -> Result<bool>;

    /// Deletes a queue with its messages and, in stores that keep them, its bindings.
    async fn delete_queue(&self, queue: &Name) -> Result<()>;

    /// Drops all ready messages of a queue; how many.
    async fn purge(&self, queue: &Name) -> Result<u64>;

    /// Number of ready messages.
    async fn size(&self, queue: &Name) -> Result<u64>;

    /// Number of ready messages of each priority that the store tells apart (0 where it does not),
    /// the most urgent first.
    async fn depth(&self, queue: &Name) -> Result<Vec<(i64, u64)>>;

    /// Adds a binding. For a fanout exchange the store remembers that `queue` listens to it.
    async fn bind(&self, exchange: &Exchange, binding: &Binding) -> Result<()>;

    /// Removes a binding.
    async fn unbind(&self, exchange: &Exchange, binding: &Binding) -> Result<()>;

    /// The bindings of an exchange.
    async fn bindings(&self, exchange: &Exchange) -> Result<Vec<Binding>>;

    /// Drops the whole binding table of a deleted exchange.
    async fn delete_exchange(&self, exchange: &Name) -> Result<()>;

    /// Starts receiving for a queue that is bound to fanout exchanges; a no-op for other queues.
    async fn subscribe(&self, queue: &Name) -> Result<()>;

    /// Stops receiving for such a queue.
    async fn unsubscribe(&self, queue: &Name) -> Result<()>;
}
