//! Binding tables: sets in Redis, kept in memory until the server says that they have changed.

use super::error::unexpected;
use super::scripts::Script;
use super::session::ScriptCall;
use super::shared::Shared;
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::model::{Binding, Exchange, Name};
use crate::protocol::resp::{Command, Pipeline};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One script call looks at so many exchanges at most.
const SWEEP_MOST: usize = 1000;

/// The tables that were read and have not changed since, as far as the server has told.
#[derive(Debug, Default)]
pub(super) struct BindingCache {
    tables: Mutex<HashMap<Name, Entry>>,
    questions: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    /// The number of the latest question. An invalidation removes it, and then its answer is not
    /// kept; nor are the answers to earlier questions.
    Asked(u64),
    Known(Arc<[Binding]>),
}

impl BindingCache {
    fn known(&self, exchange: &str) -> Option<Arc<[Binding]>> {
        match self.tables.lock().get(exchange) {
            Some(Entry::Known(table)) => Some(table.clone()),
            _ => None,
        }
    }

    fn ask(&self, exchange: &Name) -> u64 {
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        self.tables.lock().insert(exchange.clone(), Entry::Asked(number));
        number
    }

    fn answered(&self, exchange: &str, number: u64, table: &Arc<[Binding]>) {
        if let Some(entry) = self.tables.lock().get_mut(exchange)
            && matches!(entry, Entry::Asked(latest) if *latest == number)
        {
            *entry = Entry::Known(table.clone());
        }
    }

    /// The table of an exchange has changed.
    pub(super) fn remove(&self, exchange: &str) {
        self.tables.lock().remove(exchange);
    }

    /// All may have changed.
    pub(super) fn clear(&self) {
        self.tables.lock().clear();
    }
}

impl Shared {
    /// The bindings of an exchange.
    pub(super) async fn table(&self, exchange: &Name) -> Result<Arc<[Binding]>> {
        let session = self.session().await?;
        // An invalidation may wait in the socket.
        session.link().tend();
        if session.is_alive()
            && session.abilities().tracking
            && let Some(table) = self.bindings.known(exchange)
        {
            return Ok(table);
        }
        let question = self.bindings.ask(exchange);
        let command = Command::new("SMEMBERS").arg(self.config.binding_set(exchange));
        let what = format!("the bindings of the exchange '{exchange}'");
        let members = match session.call(&what, &command).await {
            Ok(reply) => {
                let kind = unexpected("SMEMBERS", &reply);
                reply.into_items().ok_or(kind)?
            }
            Err(error) => {
                self.bindings.remove(exchange);
                return Err(error);
            }
        };
        let mut table = Vec::with_capacity(members.len());
        for member in &members {
            let Some(text) = member.as_bytes() else { continue };
            match self.config.binding_from(exchange, &String::from_utf8_lossy(text)) {
                Ok(binding) => table.push(binding),
                Err(error) => tracing::error!("{error}"),
            }
        }
        let table: Arc<[Binding]> = table.into();
        self.bindings.answered(exchange, question, &table);
        Ok(table)
    }

    /// Adds a binding.
    pub(super) async fn bind(&self, exchange: &Exchange, binding: &Binding) -> Result<()> {
        let config = &self.config;
        let member = config.binding_member(exchange.kind, binding);
        if let Some(expires) = self.expiry_of(&binding.queue) {
            self.bind_expiring(&exchange.name, &member, expires).await?;
        } else {
            let mut pipeline = Pipeline::new();
            for set in [config.binding_set(&exchange.name), config.permanent_set(&exchange.name)] {
                pipeline.push(&Command::new("SADD").arg(set).arg(&member));
            }
            let what = format!("a binding of the exchange '{}'", exchange.name);
            self.session().await?.call_all(&what, pipeline).await?;
            // The server tells others only.
            self.bindings.remove(&exchange.name);
        }
        self.bindings_of_queues
            .lock()
            .entry(binding.queue.clone())
            .or_default()
            .insert((exchange.name.clone(), config.binding_member(exchange.kind, binding)));
        Ok(())
    }

    /// Adds a binding that is swept when it is not renewed.
    async fn bind_expiring(&self, exchange: &str, member: &str, expires: Duration) -> Result<()> {
        let life = self.binding_life(expires);
        let mut call = ScriptCall::new(Script::BindExpiring);
        call.key(self.config.binding_set(exchange)).key(self.config.binding_deadlines());
        call.arg(member.to_owned()).arg(exchange.to_owned()).arg(life.as_millis().to_string());
        let what = format!("a binding of the exchange '{exchange}'");
        self.session().await?.run(&what, call).await?;
        // The server tells others only; and of a key once, until it is read again.
        self.bindings.remove(exchange);
        Ok(())
    }

    /// How long the bindings of an expiring queue live after they were last renewed: twice as long as
    /// the queue, and no shorter than what is configured.
    pub(super) fn binding_life(&self, expires: Duration) -> Duration {
        (expires * 2).max(self.config.min_binding_life)
    }

    /// Drops the binding tables of exchanges whose deadline has passed, unless a queue that does not
    /// expire is bound there; how many exchanges were looked at.
    pub(super) async fn sweep(&self, limit: usize) -> Result<usize> {
        let session = self.session().await?;
        let mut call = ScriptCall::new(Script::Overdue);
        call.key(self.config.binding_deadlines()).arg(limit.min(SWEEP_MOST).to_string());
        let reply = session.run("to look for unused bindings", call).await?;
        let kind = unexpected("the script for unused bindings", &reply);
        let overdue = reply.into_items().ok_or(kind)?;
        let mut call = ScriptCall::new(Script::Sweep);
        call.key(self.config.binding_deadlines());
        let mut exchanges = Vec::with_capacity(overdue.len());
        for exchange in overdue.iter().filter_map(|name| name.as_bytes()) {
            let exchange = String::from_utf8_lossy(exchange).into_owned();
            call.key(self.config.binding_set(&exchange)).key(self.config.permanent_set(&exchange));
            call.arg(exchange.clone());
            exchanges.push(exchange);
        }
        if exchanges.is_empty() {
            return Ok(0);
        }
        session.run("to sweep bindings", call).await?;
        for exchange in &exchanges {
            // The server tells others only.
            self.bindings.remove(exchange);
        }
        Ok(exchanges.len())
    }

    /// Renews the bindings that this store has made for an expiring queue.
    pub(super) async fn bind_again(&self, queue: &Name) -> Result<()> {
        let Some(expires) = self.expiry_of(queue) else { return Ok(()) };
        let own = self.bindings_of_queues.lock().get(queue).cloned().unwrap_or_default();
        for (exchange, member) in own {
            self.bind_expiring(&exchange, &member, expires).await?;
        }
        Ok(())
    }

    /// Removes a binding.
    pub(super) async fn unbind(&self, exchange: &Exchange, binding: &Binding) -> Result<()> {
        let member = self.config.binding_member(exchange.kind, binding);
        if let Some(own) = self.bindings_of_queues.lock().get_mut(&binding.queue) {
            own.remove(&(exchange.name.clone(), member.clone()));
        }
        self.remove_members(vec![(exchange.name.clone(), member)]).await
    }

    /// Removes the bindings that this store has made for a queue that is deleted.
    pub(super) async fn unbind_all(&self, queue: &Name) -> Result<()> {
        let own = self.bindings_of_queues.lock().remove(queue).unwrap_or_default();
        self.remove_members(own.into_iter().collect()).await
    }

    async fn remove_members(&self, members: Vec<(Name, String)>) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        for (exchange, member) in &members {
            let set = self.config.binding_set(exchange);
            pipeline.push(&Command::new("SREM").arg(set).arg(member));
            let permanent = self.config.permanent_set(exchange);
            pipeline.push(&Command::new("SREM").arg(permanent).arg(member));
        }
        self.session().await?.call_all("the removal of bindings", pipeline).await?;
        for (exchange, _) in &members {
            self.bindings.remove(exchange);
        }
        Ok(())
    }

    /// Drops the whole table of an exchange.
    pub(super) async fn drop_table(&self, exchange: &Name) -> Result<()> {
        let keys = [self.config.binding_set(exchange), self.config.permanent_set(exchange)];
        let what = format!("the deletion of the exchange '{exchange}'");
        self.session().await?.call(&what, &Command::new("DEL").args(keys)).await?;
        self.bindings.remove(exchange);
        for own in self.bindings_of_queues.lock().values_mut() {
            own.retain(|(other, _)| other != exchange);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_an_invalidation_overtook_is_not_kept() {
        let cache = BindingCache::default();
        let (exchange, table): (Name, Arc<[Binding]>) = ("ex".into(), Arc::new([]));
        let first = cache.ask(&exchange);
        cache.answered("ex", first, &table);
        assert!(cache.known("ex").is_some());
        cache.remove("ex");
        let second = cache.ask(&exchange);
        cache.remove("ex");
        cache.answered("ex", second, &table);
        assert!(cache.known("ex").is_none());
        let third = cache.ask(&exchange);
        cache.answered("ex", second, &table);
        assert!(cache.known("ex").is_none());
        cache.answered("ex", third, &table);
        assert!(cache.known("ex").is_some());
    }
}
