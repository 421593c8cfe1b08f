//! A connection over a store.

use super::channel::Channel;
use super::pump::Session;
use crate::error::{Error, Result};
use crate::io::fork;
use crate::io::fork_cell::ForkCell;
use crate::io::lock::Mutex;
use crate::transport::{self, Event, Held, Store};
use async_trait::async_trait;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// Opens a store; called once per process generation. Does not connect.
pub type Opener = Arc<dyn Fn() -> Result<Arc<dyn Store>> + Send + Sync>;

/// A [`transport::Connection`] over any [`Store`].
#[derive(Debug)]
pub struct Connection {
    cell: Arc<ForkCell<Session>>,
    recipe: Arc<Recipe>,
}

/// How to make the store, here and in forked children. Nothing of it is locked there.
struct Recipe {
    open: Opener,
    changed: OnceLock<Opener>,
    /// What checking the recipe has made already, in the process of that generation.
    ready: Mutex<Option<Arc<dyn Store>>>,
    generation: u64,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe").finish_non_exhaustive()
    }
}

impl Recipe {
    fn make(&self) -> Arc<dyn Store> {
        if self.generation == fork::generation()
            && let Some(store) = self.ready.lock().take()
        {
            return store;
        }
        let open = self.changed.get().unwrap_or(&self.open);
        open().expect("the same options opened a store before")
    }
}

impl Connection {
    /// A connection over the store that `open` makes; connects on first use.
    ///
    /// # Errors
    /// What `open` raises: bad URL parts or options.
    pub fn new(open: &Opener) -> Result<Self> {
        let recipe = Arc::new(Recipe {
            open: open.clone(),
            changed: OnceLock::new(),
            ready: Mutex::new(Some(open()?)),
            generation: fork::generation(),
        });
        let theirs = recipe.clone();
        let cell = ForkCell::new(move |parent: Option<&Session>| {
            let store = theirs.make();
            if let Some(parent) = parent {
                store.exchanges().inherit(parent.shared.store.exchanges());
            }
            Session::new(store)
        });
        Ok(Self { cell: Arc::new(cell), recipe })
    }

    /// Uses the store that `open` makes instead: once, before the first use. Channels that were
    /// opened already move with it.
    ///
    /// # Errors
    /// What `open` raises; `Invalid` when it is too late.
    pub fn change(&self, open: &Opener) -> Result<()> {
        let store = open()?;
        let late =
            || Error::invalid("the connection is in use: its options cannot change any more");
        if self.cell.is_current() || self.recipe.changed.set(open.clone()).is_err() {
            return Err(late());
        }
        *self.recipe.ready.lock() = Some(store);
        Ok(())
    }

    /// The store of this process and what its channels hold; `None` before the first use, which this
    /// is not.
    pub fn used(&self) -> Option<(Arc<dyn Store>, Held)> {
        self.cell.is_current().then(|| {
            let session = self.cell.get();
            (session.shared.store.clone(), session.shared.held())
        })
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
