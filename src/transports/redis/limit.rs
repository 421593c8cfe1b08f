//! `max_connections`: how many links this process may have to one server.

use super::Config;
use crate::error::{Error, Result};
use crate::io::fork;
use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use std::collections::HashMap;

/// How many links there are, by server. A child's are its own.
static OPEN: PerProcess<Mutex<HashMap<String, usize>>> = PerProcess::new();

/// The right to one link, for as long as it is there.
#[derive(Debug)]
pub(super) struct Permit {
    server: String,
    generation: u64,
}

impl Permit {
    /// Takes the right to a link. Links are counted with and without a limit: connections to one
    /// server may have different ones.
    ///
    /// # Errors
    /// `Connection`, as in Kombu, when there are as many links as `max_connections` allows.
    pub(super) fn take(config: &Config) -> Result<Self> {
        let server = config.server();
        let mut open = OPEN.get_or(Mutex::default).lock();
        let count = open.entry(server.clone()).or_default();
        if let Some(most) = config.max_connections.filter(|most| *count >= *most) {
            return Err(Error::connection(format!(
                "Too many connections: this process has {count} to Redis at {server}, and the \
                 transport option 'max_connections' allows {most}"
            )));
        }
        *count += 1;
        Ok(Self { server, generation: fork::generation() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return; // the parent's
        }
        let Some(open) = OPEN.get() else { return };
        let mut open = open.lock();
        if let Some(count) = open.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.server);
            }
        }
    }
}
