//! The exchanges that were declared through a store.

use crate::model::{Exchange, Name};
use crate::io::lock::Mutex;
use std::collections::HashMap;

/// A table of declared exchanges. Most brokers under a [`super::Store`] know queues only, so the
/// types of exchanges live here: one table a connection, or one for all where the broker itself lives
/// in this process (memory).
#[derive(Debug, Default)]
pub struct Exchanges(Mutex<HashMap<Name, Exchange>>);

impl Exchanges {
    /// Takes over what `older` holds, unless some other thread is at it right now (in a forked child,
    /// that thread will never finish).
    pub fn inherit(&self, older: &Self) {
        if let Some(older) = older.0.try_lock() {
            self.0.lock().extend(older.iter().map(|(name, kind)| (name.clone(), kind.clone())));
        }
    }

    /// The exchange of that name, if it was declared.
    pub fn get(&self, name: &str) -> Option<Exchange> {
        self.0.lock().get(name).cloned()
    }

    /// Records a declaration.
    pub fn insert(&self, exchange: Exchange) {
        self.0.lock().insert(exchange.name.clone(), exchange);
    }

    /// Forgets a deleted exchange.
    pub fn remove(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// The names of all declared exchanges, in no particular order.
    pub fn names(&self) -> Vec<Name> {
        self.0.lock().keys().cloned().collect()
    }
}
