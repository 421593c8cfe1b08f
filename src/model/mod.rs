//! Plain values: messages, names, claims, declarations. No I/O, no threads, no Python.

mod declare;
mod delivery;
mod message;
pub mod scan;
mod value;

pub use declare::{Binding, Exchange, ExchangeKind, Queue, QueueOptions};
pub use delivery::{Claim, Delivery, Release};
pub use message::{BodyEncoding, Message, Properties};
pub use value::Json;

use std::sync::Arc;

/// A queue, exchange or routing key name: shared, because every message carries some.
pub type Name = Arc<str>;
