//! Exchanges, queues and bindings as they are declared.

use super::{Json, Name};
use std::time::Duration;

/// The exchange types of AMQP 0-9-1 section 3.1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Routing key equal to the binding key.
    Direct,
    /// Binding keys with `*` (one word) and `#` (any number of words).
    Topic,
    /// Every bound queue.
    Fanout,
    /// Matches on message headers, `x-match` all or any.
    Headers,
}

/// A declared exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its name; the empty name is the default exchange.
    pub name: Name,
    /// Its type.
    pub kind: ExchangeKind,
    /// Survives a restart of the broker, where the broker tells the two apart.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Declaration arguments, a JSON object.
    pub arguments: Json,
}

/// Options of a queue declaration that virtual transports know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueOptions {
    /// `x-expires`: the queue goes away after being unused for so long.
    pub expires: Option<Duration>,
    /// `x-message-ttl`.
    pub message_ttl: Option<Duration>,
    /// `x-max-length`, in messages.
    pub max_length: Option<u64>,
    /// `x-max-priority`.
    pub max_priority: Option<u8>,
    /// All arguments as declared, a JSON object.
    pub arguments: Json,
}

/// A declared queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    /// Its name.
    pub name: Name,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Only for the connection that declared it.
    pub exclusive: bool,
    /// Deleted when its last consumer is gone.
    pub auto_delete: bool,
    /// The rest.
    pub options: QueueOptions,
}

/// One row of an exchange's binding table.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The exchange it belongs to.
    pub exchange: Name,
    /// Binding key.
    pub routing_key: Name,
    /// The queue that messages go to.
    pub queue: Name,
    /// Binding arguments, a JSON object (`x-match` and header values for a headers exchange).
    pub arguments: Json,
}
