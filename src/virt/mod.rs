//! AMQP over a [`Store`](crate::transport::Store): channels, consumers, credit, acknowledgement.
//!
//! (`virtual` is a reserved word in Rust.)

mod channel;
mod connection;
mod cycle;
mod ledger;
mod publish;
mod pump;

pub use connection::{Connection, Opener};
pub use cycle::{FairCycle, next_turn};
pub use publish::known_exchange;
