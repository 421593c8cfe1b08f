//! A connection over a store.

use super::channel::Channel;
use super::pump::Session;
use crate::error::Result;
use crate::io::fork_cell::ForkCell;
use crate::transport::{self, Event, Store};
use async_trait::async_trait;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Opens a store; called once per process generation. Does not connect.
pub type Opener = Arc<dyn Fn() -> Result<Arc<dyn Store>> + Send + Sync>;

/// A [`transport::Connection`] over any [`Store`].
#[derive(Debug)]
pub struct Connection {
    cell: Arc<ForkCell<Session>>,
}

impl Connection {
    /// A connection over the store that `open` makes; connects on first use.
    ///
    /// # Errors
    /// What `open` raises: bad URL parts or options.
    pub fn new(open: &Opener) -> Result<Self> {
        let first = crate::io::lock::Mutex::new(Some(open()?));
        let open = open.clone();
        let cell = ForkCell::new(move |parent: Option<&Session>| {
            let Some(parent) = parent else {
                let store = first.lock().take().expect("made once in the first process");
                return Session::new(store);
            };
            let store = open().expect("the same options opened a store in the parent");
            store.exchanges().inherit(parent.shared.store.exchanges());
            Session::new(store)
        });
        cell.get();
        Ok(Self { cell: Arc::new(cell) })
    }

    /// The store of this process.
    pub fn store(&self) -> Arc<dyn Store> {
        self.cell.get().shared.store.clone()
    }
}

#[async_trait]
impl transport::Connection for Connection {
    async fn connect(&self) -> Result<()> {
        self.cell.get().shared.store.connect().await
    }

    fn is_connected(&self) -> bool {
        self.cell.is_current() && self.cell.get().shared.store.is_connected()
    }

    async fn open_channel(&self) -> Result<Arc<dyn transport::Channel>> {
        Ok(Arc::new(Channel::open(self.cell.clone())))
    }

    fn try_next(&self) -> Option<Event> {
        self.cell.get().shared.take()
    }

    async fn next(&self) -> Result<Event> {
        self.cell.get().next().await
    }

    fn event_fd(&self) -> Result<RawFd> {
        self.cell.get().pollset()?.fd()
    }

    fn drive(&self) -> Result<()> {
        self.cell.get().drive()
    }

    fn ring(&self) {
        self.cell.get().ring();
    }

    fn set_event_loop(&self, on: bool) {
        let session = self.cell.get();
        session.shared.event_loop.store(on, Ordering::Relaxed);
        session.shared.changed.notify();
    }

    fn abandon(&self) {
        if self.cell.is_current() {
            self.cell.get().shared.forget_consumers();
        }
    }

    async fn close(&self) -> Result<()> {
        if !self.cell.is_current() {
            return Ok(()); // the parent's: not ours to close
        }
        let session = self.cell.get();
        let settled = session.settle().await;
        // Also over a lost link: what the store holds here is given up all the same.
        session.shared.store.close().await?;
        settled
    }
}
