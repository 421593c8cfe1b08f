//! The broker that a case runs on, and a client of it.

use super::LIMIT;
use crate::error::{Error, Result};
use crate::io::task;
use crate::model::{Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue};
use crate::transport::{Capability, Channel, Connection, ConsumeOptions, Event, Rules};
use crate::virt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Makes a connection to the broker; called for each that a case needs.
pub type Connect = Arc<dyn Fn() -> Result<Arc<dyn Connection>> + Send + Sync>;

/// A broker under test.
pub struct Broker {
    connect: Connect,
    capability: Capability,
    /// Part of every name, so that cases can share a broker.
    space: String,
}

impl Broker {
    /// A broker that `connect` connects to and that can do what `capability` says.
    pub fn new(connect: Connect, capability: Capability) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let space = format!("{}-{number}", crate::io::identity::unique());
        Self { connect, capability, space }
    }

    /// A broker over the stores that `open` makes.
    ///
    /// # Errors
    /// What `open` raises.
    pub fn over_stores(open: virt::Opener) -> Result<Self> {
        let capability = open()?.capability();
        let connect: Connect =
            Arc::new(move || Ok(Arc::new(virt::Connection::new(&open)?) as Arc<dyn Connection>));
        Ok(Self::new(connect, capability))
    }

    /// A broker that speaks AMQP itself, by connections that `connect` makes.
    pub fn speaking_amqp(connect: Connect) -> Self {
        let capability = Capability {
            fanout: true,
            notify: true,
            durable: true,
            shared_bindings: true,
            batch: true,
            ordered: true,
            rules: Rules::Amqp,
            ..Capability::default()
        };
        Self::new(connect, capability)
    }

    /// What it can do.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// Whether AMQP's rules hold, not those of Kombu's virtual transports.
    pub(super) fn is_amqp(&self) -> bool {
        self.capability.rules == Rules::Amqp
    }

    /// A name that no other case uses.
    pub fn name(&self, what: &str) -> Name {
        format!("{what}-{}", self.space).into()
    }

    /// A new connection with a channel.
    ///
    /// # Errors
    /// What connecting raises.
    pub async fn open(&self) -> Result<Peer> {
        let connection = (self.connect)()?;
        connection.connect().await?;
        let channel = connection.open_channel().await?;
        Ok(Peer { connection, channel })
    }

    /// A new connection with a channel, and a declared queue.
    pub(super) async fn open_with(&self, queue: &Name) -> Result<Peer> {
        let peer = self.open().await?;
        peer.declare(queue).await?;
        Ok(peer)
    }
}

/// A message with a text for its body, to the queue of that name.
pub(super) fn message(queue: &Name, body: impl ToString) -> Message {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut message = Message {
        body: body.to_string().into(),
        content_type: Some("text/plain".into()),
        content_encoding: Some("utf-8".into()),
        ..Message::default()
    };
    message.properties.delivery_tag = format!("tag-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    message.properties.routing_key = queue.clone();
    message
}

/// Messages for one queue.
pub(super) fn messages<B: ToString>(
    queue: &Name,
    bodies: impl IntoIterator<Item = B>,
) -> Vec<Message> {
    bodies.into_iter().map(|body| message(queue, body)).collect()
}

/// The text of a delivery.
pub(super) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

/// A connection and its first channel.
#[derive(Debug)]
pub struct Peer {
    /// The connection.
    pub connection: Arc<dyn Connection>,
    /// A channel of it.
    pub channel: Arc<dyn Channel>,
}

impl Peer {
    /// The same connection with a channel that is open: an error may have closed this one.
    pub(super) async fn after_error(self) -> Result<Self> {
        if self.channel.is_open() {
            return Ok(self);
        }
        let channel = self.connection.open_channel().await?;
        Ok(Self { channel, ..self })
    }

    /// Waits until a broker that sends by itself has sent so much to consumers that this is left.
    pub(super) async fn wait_for_size(&self, queue: &Name, left: u64) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while self.size(queue).await? != left {
            assert!(Instant::now() < end, "'{queue}' does not come down to {left} messages");
            task::sleep(Duration::from_millis(5)).await;
        }
        // What was sent before this answer is here.
        self.size(queue).await.map(drop)
    }

    /// Declares a plain queue.
    pub(super) async fn declare(&self, queue: &Name) -> Result<()> {
        let queue = Queue { name: queue.clone(), durable: true, ..Queue::default() };
        self.channel.queue_declare(&queue, false).await.map(drop)
    }

    /// Declares an exchange.
    pub(super) async fn exchange(&self, name: &Name, kind: ExchangeKind) -> Result<()> {
        let exchange = Exchange {
            name: name.clone(),
            kind,
            durable: true,
            auto_delete: false,
            arguments: Json::empty_object(),
        };
        self.channel.exchange_declare(&exchange, false).await
    }

    /// Publishes texts to a queue, one by one.
    pub(super) async fn send<B: ToString>(
        &self,
        queue: &Name,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<()> {
        for message in messages(queue, bodies) {
            self.channel.publish(vec![message]).await?;
        }
        Ok(())
    }

    /// Consumes from a queue with acknowledgements, under the queue's name as tag.
    pub(super) async fn consume(&self, queue: &Name) -> Result<()> {
        self.consume_as(queue, queue, false).await
    }

    /// Consumes from a queue.
    pub(super) async fn consume_as(&self, queue: &Name, tag: &Name, no_ack: bool) -> Result<()> {
        let options = ConsumeOptions {
            queue: queue.clone(),
            consumer_tag: tag.clone(),
            no_ack,
            arguments: Json::empty_object(),
        };
        self.channel.consume(options).await
    }

    /// The next event; an error when none comes.
    pub(super) async fn next(&self) -> Result<Event> {
        match task::timeout_at(Instant::now() + LIMIT, self.connection.next()).await {
            Some(event) => event,
            None => Err(Error::timeout("no message came")),
        }
    }

    /// Whether no event comes for a little while.
    pub(super) async fn is_quiet(&self) -> bool {
        let soon = Instant::now() + Duration::from_millis(30);
        task::timeout_at(soon, self.connection.next()).await.is_none()
    }

    /// The texts of the next `count` events, each acknowledged.
    pub(super) async fn drain(&self, count: usize) -> Result<Vec<String>> {
        let mut texts = Vec::with_capacity(count);
        for _ in 0..count {
            let event = self.next().await?;
            self.channel.ack(&event.delivery.claim.tag, false).await?;
            texts.push(text(&event.delivery));
        }
        Ok(texts)
    }

    /// Takes everything that is ready in a queue, and acknowledges it: texts, and whether marked
    /// as redelivered.
    pub(super) async fn empty(&self, queue: &Name) -> Result<Vec<(String, bool)>> {
        let mut all = Vec::new();
        while let Some(delivery) = self.channel.get(queue, false).await? {
            all.push((text(&delivery), delivery.message.redelivered));
            self.channel.ack(&delivery.claim.tag, false).await?;
        }
        Ok(all)
    }

    /// The number of ready messages.
    pub(super) async fn size(&self, queue: &Name) -> Result<u64> {
        let queue = Queue { name: queue.clone(), durable: true, ..Queue::default() };
        Ok(self.channel.queue_declare(&queue, false).await?.messages)
    }

    /// Closes the channel, giving back what is open, and the connection.
    pub(super) async fn close(&self) -> Result<()> {
        self.channel.close(true).await?;
        self.connection.close().await
    }
}
