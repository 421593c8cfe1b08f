//! The bindings that this process declared on one database.

use crate::model::{Binding, Exchange, Name};

/// A binding table: exchange by exchange, in the order of declaration.
#[derive(Debug, Default)]
pub(super) struct Bindings(Vec<Binding>);

impl Bindings {
    /// Adds a binding; the same one twice counts once.
    pub(super) fn add(&mut self, binding: &Binding) {
        if !self.0.contains(binding) {
            self.0.push(binding.clone());
        }
    }

    /// Removes a binding.
    pub(super) fn remove(&mut self, binding: &Binding) {
        self.0.retain(|known| known != binding);
    }

    /// Those of one exchange.
    pub(super) fn of(&self, exchange: &Exchange) -> Vec<Binding> {
        self.0.iter().filter(|known| known.exchange == exchange.name).cloned().collect()
    }

    /// Forgets an exchange.
    pub(super) fn remove_exchange(&mut self, exchange: &Name) {
        self.0.retain(|known| known.exchange != *exchange);
    }

    /// Forgets a queue.
    pub(super) fn remove_queue(&mut self, queue: &Name) {
        self.0.retain(|known| known.queue != *queue);
    }
}
