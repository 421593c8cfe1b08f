//! Kombu's words without Python: connections with alternates, pools, producers, consumers.
//!
//! Everything is async and driven by the caller (`io::task::run`). Each operation has one deadline,
//! which covers connecting, failing over and the operation itself.

mod connection;
mod consumer;
mod pool;
mod producer;
mod retry;
mod seeker;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Failover, Link};
pub use consumer::{Consumer, Received};
pub use pool::{Pool, Pooled};
pub use producer::Producer;
pub use retry::RetryPolicy;
pub use seeker::{Seeker, Sought};
