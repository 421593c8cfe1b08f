//! AMQP over a store.

mod cycle;

pub use cycle::FairCycle;
