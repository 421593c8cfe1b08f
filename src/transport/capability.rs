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
