//! A connection to a broker, shared by any number of threads.

use super::Config;
use super::channel::Channel;
use super::shared::Shared;
use crate::error::Result;
use crate::io::generation::PerProcess;
use crate::protocol::amqp::Terms;
use crate::transport::{self, Agreed, AmqpConnection, AmqpCounters, Event, Held, Returned};
use async_trait::async_trait;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// A [`transport::Connection`] that speaks AMQP. Connects on first use; a forked child opens its own.
#[derive(Debug)]
pub struct Connection {
    core: Arc<Core>,
}

/// What a connection and its channels hold.
#[derive(Debug)]
pub(super) struct Core {
    config: Arc<Config>,
    shared: PerProcess<Arc<Shared>>,
}

impl Core {
    /// The state of this process.
    pub(super) fn here(&self) -> &Arc<Shared> {
        self.shared.get_or(|| Shared::new(self.config.clone()))
    }
}

impl Connection {
    /// Not connected yet.
    pub fn new(config: Config) -> Self {
        let core = Core { config: Arc::new(config), shared: PerProcess::new() };
        Self { core: Arc::new(core) }
    }
}

#[async_trait]
impl transport::Connection for Connection {
    async fn connect(&self) -> Result<()> {
        self.core.here().session().await.map(drop)
    }

    fn is_connected(&self) -> bool {
        self.core.shared.get().is_some_and(|shared| shared.live().is_some())
    }

    async fn open_channel(&self) -> Result<Arc<dyn transport::Channel>> {
        Ok(Arc::new(Channel::open(self.core.clone()).await?))
    }

    fn try_next(&self) -> Option<Event> {
        self.core.here().take()
    }

    async fn next(&self) -> Result<Event> {
        self.core.here().next().await
    }

    fn event_fd(&self) -> Result<RawFd> {
        self.core.here().pollset()?.fd()
    }

    fn drive(&self) -> Result<()> {
        self.core.here().drive()
    }

    fn ring(&self) {
        self.core.here().ring();
    }

    /// The broker sends what the windows allow, whoever takes it: nothing to change.
    fn set_event_loop(&self, _on: bool) {}

    fn abandon(&self) {
        let Some(session) = self.core.shared.get().and_then(|shared| shared.live()) else { return };
        for state in session.board.all() {
            let mut frames = Vec::new();
            let consumers = std::mem::take(&mut state.inner.lock().consumers);
            for consumer in consumers {
                // Its parts were sent before: nothing can be wrong with them.
                frames.append(&mut consumer.cancel(state.number).unwrap_or_default());
            }
            // Lost: then there is nobody to tell.
            let _ = session.post(&state, "to cancel consumers", &frames);
        }
    }

    async fn close(&self) -> Result<()> {
        let Some(shared) = self.core.shared.get() else { return Ok(()) };
        let session = shared.take_session();
        if let Some(session) = session {
            session.close().await;
        }
        shared.news.notify();
        Ok(())
    }

    fn amqp(&self) -> Option<&dyn AmqpConnection> {
        Some(self)
    }
}

impl AmqpConnection for Connection {
    fn agreed(&self) -> Option<Agreed> {
        let session = self.core.here().live()?;
        let Terms { heartbeat, channel_max, frame_max, server_properties } = &session.terms;
        Some(Agreed {
            heartbeat: *heartbeat,
            channel_max: *channel_max,
            frame_max: *frame_max,
            server_properties: server_properties.clone(),
        })
    }

    fn blocked(&self) -> Option<String> {
        self.core.here().live()?.board.blocked()
    }

    fn counters(&self) -> Arc<AmqpCounters> {
        self.core.here().counters.clone()
    }

    fn held(&self) -> (Held, Duration) {
        let session = self.core.here().live();
        session.map(|session| session.board.held()).unwrap_or_default()
    }

    fn returned(&self) -> Option<(u64, Returned)> {
        self.core.here().last()?.board.next_returned()
    }

    fn leave(&self) {
        // A parent's is the parent's to close.
        let Some(shared) = self.core.shared.get() else { return };
        if let Some(session) = shared.take_session() {
            session.leave();
        }
        shared.news.notify();
    }
}
