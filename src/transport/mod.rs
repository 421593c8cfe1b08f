//! What a broker must offer, and the table of URL schemes.

mod amqp;
mod capability;
mod channel;
mod counters;
mod exchanges;
mod given;
mod login;
pub mod schemes;
mod store;
mod tls_draft;
mod url;

pub use amqp::{
    Agreed, Amqp, AmqpConnection, ExchangeDeclaration, PublishOptions, Rest, Returned, Transaction,
};
pub use capability::{Capability, QueueOrder, Rules};
pub use channel::{Channel, Connection, ConsumeOptions, Declared, Event};
pub use counters::{AmqpCounters, Counter, Counters, Held, Stopwatch};
pub use exchanges::Exchanges;
pub use given::Given;
pub use login::Login;
pub use store::{GetOptions, QueueRef, Store};
pub use tls_draft::TlsDraft;
pub use url::Url;
