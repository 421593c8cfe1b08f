//! Publishing.

use super::{Connection, Link};
use crate::error::Result;
use crate::io::identity;
use crate::io::lock::Mutex;
use crate::model::{Exchange, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Publishes through a connection, to one exchange unless a message names another.
#[derive(Debug)]
pub struct Producer {
    connection: Arc<Connection>,
    exchange: Option<Exchange>,
    /// The channel that the exchange was declared on.
    declared: Mutex<Option<u64>>,
}

impl Producer {
    /// A producer for `exchange`, which is declared when it is first needed; `None` for the default
    /// exchange, where the routing key is the name of a queue.
    pub fn new(connection: Arc<Connection>, exchange: Option<Exchange>) -> Self {
        Self { connection, exchange, declared: Mutex::default() }
    }

    /// Publishes messages in one go. Those that name no exchange go to the producer's; those without a
    /// delivery tag get one.
    ///
    /// # Errors
    /// As [`Connection::ensure`]. After an error some may have been published.
    pub async fn publish(&self, mut messages: Vec<Message>, deadline: Instant) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for message in &mut messages {
            let properties = &mut message.properties;
            if let Some(exchange) = &self.exchange
                && properties.exchange.is_empty()
            {
                properties.exchange = exchange.name.clone();
            }
            if properties.delivery_tag.is_empty() {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                properties.delivery_tag = format!("{}-{number:x}", identity::unique());
            }
        }
        let publish = async |link: &Link| {
            self.declare(link).await?;
            link.channel.publish(messages.clone()).await
        };
        self.connection.ensure("publishing", deadline, publish).await
    }

    async fn declare(&self, link: &Link) -> Result<()> {
        let Some(exchange) = &self.exchange else { return Ok(()) };
        let channel = link.channel.id();
        if *self.declared.lock() != Some(channel) {
            link.channel.exchange_declare(exchange, false).await?;
            *self.declared.lock() = Some(channel);
        }
        Ok(())
    }
}
