//! Connections that are kept for the next user.

use super::Connection;
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use crate::io::task::{Notify, timeout_at};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

type Make = dyn Fn() -> Result<Connection> + Send + Sync;

/// At most so many connections at a time; the one that was used last is handed out first.
pub struct Pool {
    shared: Arc<Shared>,
    make: Box<Make>,
    limit: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<Connection>>,
    /// Handed out.
    busy: usize,
    closed: bool,
}

/// A connection that goes back to its pool when it is dropped.
pub struct Pooled {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool of up to `limit` connections that `make` makes when they are needed.
    pub fn new(
        limit: usize,
        make: impl Fn() -> Result<Connection> + Send + Sync + 'static,
    ) -> Self {
        Self { shared: Arc::default(), make: Box::new(make), limit }
    }

    /// Takes a connection. With a deadline it waits for one that is given back.
    ///
    /// # Errors
    /// `Limit` when all are in use (until the deadline); `Closed`; what making one raises.
    pub async fn acquire(&self, deadline: Option<Instant>) -> Result<Pooled> {
        loop {
            let returned = self.shared.returned.listen();
            if let Some(connection) = self.try_take()? {
                return Ok(Pooled { connection, shared: self.shared.clone() });
            }
            let heard = match deadline {
                Some(deadline) => timeout_at(deadline, returned).await,
                None => None,
            };
            if heard.is_none() {
                return Err(Error::limit(format!(
                    "all {} connections of the pool are in use",
                    self.limit
                )));
            }
        }
    }

    fn try_take(&self) -> Result<Option<Arc<Connection>>> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Error::closed("the connection pool is closed"));
        }
        if let Some(connection) = state.idle.pop() {
            state.busy += 1;
            return Ok(Some(connection));
        }
        if state.busy >= self.limit {
            return Ok(None);
        }
        let connection = (self.make)()?; // does no I/O
        state.busy += 1;
        Ok(Some(Arc::new(connection)))
    }

    /// Closes the idle connections and hands out no more; those in use are dropped when they come back.
    ///
    /// # Errors
    /// The first error of a connection; the others are closed all the same.
    pub async fn close(&self) -> Result<()> {
        let idle = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        self.shared.returned.notify();
        let mut outcome = Ok(());
        for connection in idle {
            outcome = outcome.and(connection.close().await);
        }
        outcome
    }
}

impl Deref for Pooled {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.busy -= 1;
        if !state.closed {
            state.idle.push(self.connection.clone());
        }
        drop(state);
        self.shared.returned.notify();
    }
}
