//! Looking for a broker that could not be reached, while somebody waits to try again.

use crate::error::{ErrorKind, Result};
use crate::io::generation::PerProcess;
use crate::io::keeper;
use crate::io::lock::Mutex;
use crate::io::task::{Notify, sleep, timeout_at};
use crate::transport::Connection;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Between two attempts; up to as much again is added, by chance.
const PAUSE: Duration = Duration::from_millis(400);
/// How long the search goes on when nobody waits any more: whoever does may look away for a moment.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// Tries to connect on the keeper's thread, so that an attempt goes on when a waiter's patience ends.
#[derive(Debug, Default)]
pub struct Seeker {
    search: PerProcess<Arc<Search>>,
}

#[derive(Debug, Default)]
struct Search {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Until when it goes on; `None` when it does not run.
    until: Option<Instant>,
    /// It ended as the broker is there, but refuses us.
    refused: bool,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// The connection is there.
    Found,
    /// The time is up.
    Nothing,
    /// The broker is there and refuses us: to wait for it is no use.
    Refused,
}

impl Seeker {
    /// Waits for `connection` until then at most.
    ///
    /// # Errors
    /// `Limit` when the process can have no more threads.
    pub async fn wait(&self, connection: &Arc<dyn Connection>, until: Instant) -> Result<Sought> {
        let search = self.search.get_or(Arc::default);
        loop {
            let ended = search.ended.listen();
            if connection.is_connected() {
                return Ok(Sought::Found);
            }
            {
                let mut state = search.state.lock();
                if std::mem::take(&mut state.refused) {
                    return Ok(Sought::Refused);
                }
                if state.until.replace(until + AFTERWARDS).is_none() {
                    keeper::spawn(seek(Arc::downgrade(connection), search.clone()))?;
                }
            }
            if timeout_at(until, ended).await.is_none() {
                return Ok(if connection.is_connected() { Sought::Found } else { Sought::Nothing });
            }
        }
    }
}

async fn seek(connection: Weak<dyn Connection>, search: Arc<Search>) {
    let mut refused = false;
    loop {
        sleep(PAUSE.mul_f64(1.0 + super::retry::chance())).await;
        let Some(connection) = connection.upgrade() else { break };
        if search.state.lock().until.is_none_or(|until| until < Instant::now()) {
            break;
        }
        match connection.connect().await {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::Connection => {}
            Err(error) => {
                tracing::debug!("the broker is there, and refuses us: {error}");
                refused = true;
                break;
            }
        }
    }
    *search.state.lock() = State { until: None, refused };
    search.ended.notify();
}
