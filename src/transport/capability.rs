//! What a store can do: gates both behaviour and the conformance cases.

/// The abilities of one [`super::Store`]. A case of the conformance suite that needs an ability is
/// run exactly for the stores that say they have it, never by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capability {
    /// Fanout exchanges: `put_fanout` and `subscribe` work.
    pub fanout: bool,
    /// Messages of a more urgent priority are taken first.
    pub priority: bool,
    /// `ready` wakes on a write by another process, without polling.
    pub notify: bool,
    /// Messages survive the process, and claims of a dead owner come back.
    pub durable: bool,
    /// Bindings are kept in the broker, seen by every process.
    pub shared_bindings: bool,
    /// Several messages go in or out in one request.
    pub batch: bool,
    /// One queue with one consumer is first in, first out.
    pub ordered: bool,
    /// A claim that could not be settled for want of a link is settled over the next one: whoever
    /// asked for it need not ask again.
    pub settles_later: bool,
    /// Which of a channel's queues come first, among messages of one priority.
    pub queue_order: QueueOrder,
    /// Whose rules hold where the two differ.
    pub rules: Rules,
}

/// Whose rules hold where Kombu's virtual transports and a broker that speaks AMQP differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// Kombu's: an error leaves the channel open, unknown queues are empty ones, what was fetched ahead
    /// goes back unmarked, a message that is rejected and requeued goes behind the others, where a
    /// message would go can be looked up.
    #[default]
    Virtual,
    /// AMQP 0-9-1's and RabbitMQ's: an error closes its channel, unknown queues are not found, whatever
    /// was delivered goes back to its place marked as redelivered, messages have no tag of their
    /// publisher's, integers in headers have 64 bits.
    Amqp,
}

/// In which order the queues that a channel consumes are asked (Kombu's `queue_order_strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueOrder {
    /// In turn: a queue that always has something does not starve the others.
    #[default]
    RoundRobin,
    /// As they were consumed from: a later one is asked when the earlier ones are empty.
    Priority,
    /// By their names: a later one is asked when the earlier ones are empty.
    Sorted,
}
