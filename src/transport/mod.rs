//! What a broker must offer, and the table of URL schemes.

mod amqp;
mod capability;
mod channel;
mod counters;
mod exchanges;
mod login;
pub mod schemes;
mod store;
mod url;

pub use amqp::{
    Agreed, Amqp, AmqpConnection, ExchangeDeclaration, PublishOptions, Rest, Returned, Transaction,
};
pub use capability::{Capability, QueueOrder, Rules};
pub use channel::{Channel, Connection, ConsumeOptions, Declared, Event};
pub use counters::{Counter, Counters, Held, Stopwatch};
pub use exchanges::Exchanges;
pub use login::Login;
pub use store::{GetOptions, QueueRef, Store};
pub use url::Url;
