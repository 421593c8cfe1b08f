//! One folder or file for each broker.

#[cfg(feature = "amqp")]
pub mod amqp;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sql;
