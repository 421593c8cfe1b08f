//! Consuming.

use super::{Connection, Link};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use crate::model::{Delivery, Json, Name, Queue};
use crate::transport::{Channel, ConsumeOptions};
use std::sync::Arc;
use std::time::Instant;

/// Consumes from queues. After a fail-over it declares and consumes them anew. It takes every event of
/// its connection: give each consumer a connection of its own, from a [`super::Pool`] for example.
#[derive(Debug)]
pub struct Consumer {
    connection: Arc<Connection>,
    queues: Vec<Queue>,
    no_ack: bool,
    prefetch_count: u32,
    /// The channel that consumes.
    channel: Mutex<Option<Arc<dyn Channel>>>,
}

/// A message, to be settled on the channel that it came by.
#[derive(Debug)]
pub struct Received {
    /// The message and its claim.
    pub delivery: Delivery,
    channel: Arc<dyn Channel>,
}

impl Consumer {
    /// A consumer of `queues`, with a limit of `prefetch_count` unsettled messages (0: none).
    pub fn new(
        connection: Arc<Connection>,
        queues: Vec<Queue>,
        no_ack: bool,
        prefetch_count: u32,
    ) -> Self {
        Self { connection, queues, no_ack, prefetch_count, channel: Mutex::default() }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `Timeout` when there was none; as [`Connection::ensure`].
    pub async fn next(&self, deadline: Instant) -> Result<Received> {
        let next = async |link: &Link| {
            self.consume(link).await?;
            let delivery = link.connection.next().await?.delivery;
            Ok(Received { delivery, channel: link.channel.clone() })
        };
        self.connection.ensure("waiting for a message", deadline, next).await
    }

    /// Stops consuming; messages that nobody has seen go back.
    ///
    /// # Errors
    /// What the broker raised.
    pub async fn cancel(&self) -> Result<()> {
        let Some(channel) = self.channel.lock().take() else { return Ok(()) };
        for queue in &self.queues {
            channel.cancel(&tag(queue)).await?;
        }
        Ok(())
    }

    /// Starts consuming on a channel that it does not consume on yet.
    async fn consume(&self, link: &Link) -> Result<()> {
        let id = link.channel.id();
        if self.channel.lock().as_ref().is_some_and(|channel| channel.id() == id) {
            return Ok(());
        }
        link.channel.qos(self.prefetch_count).await?;
        for queue in &self.queues {
            link.channel.queue_declare(queue, false).await?;
            let options = ConsumeOptions {
                queue: queue.name.clone(),
                consumer_tag: tag(queue),
                no_ack: self.no_ack,
                arguments: Json::empty_object(),
            };
            // Still there when an earlier try was broken off half way.
            link.channel.cancel(&options.consumer_tag).await?;
            link.channel.consume(options).await?;
        }
        *self.channel.lock() = Some(link.channel.clone());
        Ok(())
    }
}

fn tag(queue: &Queue) -> Name {
    format!("client:{}", queue.name).into()
}

impl Received {
    /// The message is done.
    ///
    /// # Errors
    /// What the broker raised; `Closed` when it was consumed with `no_ack`.
    pub async fn ack(&self) -> Result<()> {
        self.check()?;
        self.channel.ack(&self.delivery.claim.tag, false).await
    }

    /// The message goes back to its queue, or away.
    ///
    /// # Errors
    /// As [`Received::ack`].
    pub async fn reject(&self, requeue: bool) -> Result<()> {
        self.check()?;
        self.channel.reject(&self.delivery.claim.tag, requeue).await
    }

    fn check(&self) -> Result<()> {
        if self.delivery.settled {
            return Err(Error::closed("the message was consumed with no_ack: it is settled"));
        }
        Ok(())
    }
}
