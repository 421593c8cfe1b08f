//! The store itself: each method finds the state of this process and goes to work on it.

use super::Config;
use super::error::unexpected;
use super::shared::Shared;
use crate::codec::envelope;
use crate::error::Result;
use crate::io::generation::PerProcess;
use crate::model::{
    Binding, Claim, Delivery, Exchange, ExchangeKind, Message, Name, Queue, Release,
};
use crate::protocol::resp::{Command, Pipeline, Value};
use crate::transport::{Capability, Counters, Exchanges, GetOptions, QueueRef, Rules, Store};
use async_trait::async_trait;
use std::sync::Arc;

/// A connection to Redis, as `virt` sees it.
#[derive(Debug)]
pub struct RedisStore {
    config: Arc<Config>,
    shared: PerProcess<Arc<Shared>>,
}

impl RedisStore {
    /// A store that connects when it is first used.
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), shared: PerProcess::new() }
    }

    fn here(&self) -> &Arc<Shared> {
        self.shared.get_or(|| {
            let parent = self.shared.inherited().map(|shared| &**shared);
            Shared::new(self.config.clone(), parent)
        })
    }
}

impl Drop for RedisStore {
    /// Given up without being closed, as after the loss of a link. A parent's is left alone.
    fn drop(&mut self) {
        if let Some(shared) = self.shared.get() {
            shared.give_up_link();
            shared.bid_farewell();
        }
    }
}

/// The sum of integer replies.
fn sum(what: &str, replies: &[Value]) -> Result<u64> {
    replies.iter().try_fold(0, |total, reply| {
        let number = reply.as_int().and_then(|number| u64::try_from(number).ok());
        Ok(total + number.ok_or_else(|| unexpected(what, reply))?)
    })
}

#[async_trait]
impl Store for RedisStore {
    fn capability(&self) -> Capability {
        Capability {
            fanout: true,
            priority: true,
            notify: true,
            durable: true,
            shared_bindings: true,
            batch: true,
            ordered: true,
            settles_later: true,
            queue_order: self.config.queue_order,
            rules: Rules::Virtual,
        }
    }

    fn exchanges(&self) -> &Exchanges {
        &self.here().exchanges
    }

    fn counters(&self) -> &Counters {
        &self.here().counters
    }

    async fn connect(&self) -> Result<()> {
        self.here().connect().await.map(drop)
    }

    fn is_connected(&self) -> bool {
        self.shared.get().is_some_and(|shared| shared.live().is_some() || shared.is_in_grace())
    }

    async fn close(&self) -> Result<()> {
        if let Some(shared) = self.shared.get() {
            shared.close().await;
            shared.bid_farewell();
        }
        Ok(())
    }

    async fn put(&self, queue: &Name, messages: &[Message]) -> Result<()> {
        let shared = self.here();
        let mut pipeline = Pipeline::new();
        let mut open: Option<(String, Command)> = None;
        for message in messages {
            let list = shared.config.list_for(queue, message);
            match &mut open {
                Some((same, command)) if *same == list => command.push(envelope::encode(message)),
                _ => {
                    if let Some((_, command)) = open.take() {
                        pipeline.push(&command);
                    }
                    let command = Command::new("LPUSH").arg(&list).arg(envelope::encode(message));
                    open = Some((list, command));
                }
            }
        }
        let Some((_, command)) = open else { return Ok(()) };
        pipeline.push(&command);
        if let Some(expires) = shared.expiry_of(queue) {
            shared.push_expiry(&mut pipeline, queue, expires);
        }
        let what = format!("messages for the queue '{queue}'");
        shared.session().await?.call_all(&what, pipeline).await?;
        shared.news.queue_changed(queue);
        Ok(())
    }

    async fn put_fanout(
        &self,
        exchange: &Name,
        routing_key: &str,
        message: &Message,
    ) -> Result<()> {
        self.here().publish(exchange, routing_key, message).await
    }

    async fn get(&self, queues: &[QueueRef], options: GetOptions) -> Result<Vec<Delivery>> {
        self.here().receive(queues, options).await
    }

    async fn ready(&self, queues: &[QueueRef]) -> Result<()> {
        self.here().wait(queues).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<()> {
        self.here().settle(claims).await
    }

    async fn release(&self, claims: &[Claim], how: Release) -> Result<()> {
        self.here().give_back(claims, how).await
    }

    async fn renew(&self, claims: &[Claim]) -> Result<()> {
        let tags: Vec<Name> = claims.iter().map(|claim| claim.tag.clone()).collect();
        self.here().renew_tags(&tags).await
    }

    async fn restore(&self) -> Result<usize> {
        self.here().restore_expired().await
    }

    async fn reclaim(&self, limit: Option<usize>) -> Result<usize> {
        self.here().reclaim(limit).await
    }

    async fn replay(&self, dead_letters: &Name, limit: Option<usize>) -> Result<usize> {
        self.here().replay(dead_letters, limit.unwrap_or(usize::MAX)).await
    }

    async fn sweep(&self, limit: usize) -> Result<usize> {
        self.here().sweep(limit).await
    }

    async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        self.here().declared.lock().insert(queue.name.clone(), queue.clone());
        Ok(())
    }

    async fn has_queue(&self, queue: &Name) -> Result<bool> {
        let shared = self.here();
        if shared.declared.lock().contains_key(queue) {
            return Ok(true);
        }
        let command = Command::new("EXISTS").args(shared.config.lists(queue));
        let what = format!("to look for the queue '{queue}'");
        let reply = shared.session().await?.call(&what, &command).await?;
        Ok(sum("EXISTS", &[reply])? > 0)
    }

    async fn delete_queue(&self, queue: &Name) -> Result<()> {
        let shared = self.here();
        let command = Command::new("DEL").args(shared.config.lists(queue));
        let what = format!("the deletion of the queue '{queue}'");
        shared.session().await?.call(&what, &command).await?;
        shared.declared.lock().remove(queue);
        shared.consumed.lock().remove(queue);
        shared.forget_news(queue);
        shared.unbind_all(queue).await?;
        let unused = shared.fanout.delete(queue);
        shared.unlisten(unused).await
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        let shared = self.here();
        let lists = shared.config.lists(queue);
        let mut commands: Vec<Command> =
            lists.iter().map(|list| Command::new("LLEN").arg(list)).collect();
        commands.push(Command::new("DEL").args(&lists));
        let what = format!("to purge the queue '{queue}'");
        // One step: what comes in between would be dropped and not counted.
        let replies = shared.session().await?.transaction(&what, &commands).await?;
        let replies = replies.unwrap_or_default();
        let dropped = sum("LLEN", replies.get(..lists.len()).unwrap_or_default())?;
        Ok(dropped + shared.fanout.purge(queue) as u64)
    }

    async fn size(&self, queue: &Name) -> Result<u64> {
        Ok(self.depth(queue).await?.into_iter().map(|(_, messages)| messages).sum())
    }

    async fn depth(&self, queue: &Name) -> Result<Vec<(i64, u64)>> {
        let shared = self.here();
        let mut lengths = Pipeline::new();
        for list in shared.config.lists(queue) {
            lengths.push(&Command::new("LLEN").arg(&list));
        }
        let what = format!("the size of the queue '{queue}'");
        let replies = shared.session().await?.call_all(&what, lengths).await?;
        let mut depth = Vec::with_capacity(replies.len());
        for (step, reply) in shared.config.priority_steps.iter().zip(replies) {
            depth.push((*step, sum("LLEN", &[reply])?));
        }
        if let Some((_, messages)) = depth.first_mut() {
            *messages += shared.fanout.len(queue) as u64;
        }
        Ok(depth)
    }

    async fn bind(&self, exchange: &Exchange, binding: &Binding) -> Result<()> {
        let shared = self.here();
        if exchange.kind == ExchangeKind::Fanout {
            shared.fanout.bind(&shared.config, binding);
        }
        shared.bind(exchange, binding).await
    }

    async fn unbind(&self, exchange: &Exchange, binding: &Binding) -> Result<()> {
        let shared = self.here();
        if exchange.kind == ExchangeKind::Fanout {
            let unused = shared.fanout.unbind(&shared.config, binding);
            shared.unlisten(unused).await?;
        }
        shared.unbind(exchange, binding).await
    }

    async fn bindings(&self, exchange: &Exchange) -> Result<Vec<Binding>> {
        Ok(self.here().table(&exchange.name).await?.to_vec())
    }

    async fn delete_exchange(&self, exchange: &Name) -> Result<()> {
        self.here().drop_table(exchange).await
    }

    async fn subscribe(&self, queue: &Name) -> Result<()> {
        let shared = self.here();
        shared.consumed.lock().insert(queue.clone());
        shared.upkeep.notify();
        if shared.fanout.subscribe(queue) {
            shared.session().await?;
        }
        Ok(())
    }

    async fn unsubscribe(&self, queue: &Name) -> Result<()> {
        let shared = self.here();
        shared.consumed.lock().remove(queue);
        shared.forget_news(queue);
        let unused = shared.fanout.unsubscribe(queue);
        shared.unlisten(unused).await
    }
}
