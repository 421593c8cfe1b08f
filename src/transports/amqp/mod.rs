//! AMQP 0-9-1: RabbitMQ and its relatives.
//!
//! The machine in [`crate::protocol::amqp`] over one [`crate::io::link::Link`], which threads share;
//! the keeper sends heartbeats and notices a dead broker, whether anybody uses the link or not.

mod board;
mod channel;
mod config;
mod confirming;
mod connection;
mod consumers;
mod error;
mod fitting;
mod getting;
mod lateness;
mod mailbox;
mod publish;
mod recent;
mod session;
mod shared;
mod stale;
mod state;
#[cfg(test)]
mod tests;
mod traffic;

pub use config::Config;
pub use connection::Connection;

use crate::error::Result;
use crate::transport::Url;
use crate::transport::schemes::Options;
use std::sync::Arc;

/// The line of the scheme table: makes a connection, does no I/O.
///
/// # Errors
/// `Invalid` or `Type` naming the part of the URL or the option that is wrong.
pub fn open(url: &Url, options: &Options) -> Result<Arc<dyn crate::transport::Connection>> {
    Ok(Arc::new(Connection::new(Config::parse(url, options)?)))
}
