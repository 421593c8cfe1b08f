//! Claims: settled, given back, renewed, and taken from owners who are gone.

use super::error::unexpected;
use super::scripts::Script;
use super::session::{ScriptCall, Session};
use super::shared::{Shared, record_tail};
use crate::codec::envelope;
use crate::error::{ErrorKind, Result};
use crate::model::{Claim, Name, Release};
use crate::protocol::resp::{Command, Pipeline, Value};
use crate::routing::topic_matches;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::time::Instant;

/// Claims in one script call: enough to be fast, few enough not to keep the server busy.
const BATCH: usize = 200;

/// A claim that was not renewed.
struct Expired {
    tag: String,
    score: String,
    record: Option<Bytes>,
}

impl Shared {
    /// The commands that end claims.
    pub(super) fn settle_commands(&self, tags: &[Name]) -> Pipeline {
        let mut pipeline = Pipeline::new();
        let text = || tags.iter().map(|tag| tag.as_bytes());
        pipeline.push(&Command::new("ZREM").arg(self.config.unacked_index()).args(text()));
        pipeline.push(&Command::new("HDEL").arg(self.config.unacked()).args(text()));
        pipeline
    }

    /// Ends claims: the commands are with the kernel when this returns, the answers are checked
    /// when somebody reads them. Claims outlive links: what a lost link has swallowed is sent again
    /// over the next one, and so is what finds no link at all. That is no error: whoever is told of
    /// one expects the message again, and may leave its work to that.
    pub(super) async fn settle(&self, claims: &[Claim]) -> Result<()> {
        let tags = self.let_go(claims);
        if tags.is_empty() {
            return Ok(());
        }
        let count = tags.len();
        let told = match self.session().await {
            Ok(session) => self.settle_tags(&session, tags).await,
            Err(error) => {
                self.unsure.not_settled(tags);
                Err(error)
            }
        };
        match told {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                tracing::warn!("{count} messages are settled over the next link: {error}");
                Ok(())
            }
            told => told,
        }
    }

    /// Sends the commands that end claims.
    pub(super) async fn settle_tags(&self, session: &Session, tags: Vec<Name>) -> Result<()> {
        let pipeline = self.settle_commands(&tags);
        let shared = self.weak();
        let lost = move || {
            if let Some(shared) = shared.upgrade() {
                shared.unsure.not_settled(tags);
            }
        };
        session.tell(pipeline, lost).await
    }

    /// Forgets that claims are held; those that were.
    fn let_go(&self, claims: &[Claim]) -> Vec<Name> {
        let mut held = self.held.lock();
        claims.iter().filter_map(|claim| Some(held.remove_entry(&claim.tag)?.0)).collect()
    }

    /// See [`crate::transport::Store::release`].
    pub(super) async fn give_back(&self, claims: &[Claim], how: Release) -> Result<()> {
        if how == Release::Discard {
            return self.settle(claims).await;
        }
        let mut order: Vec<&Claim> = {
            let mut held = self.held.lock();
            claims.iter().filter(|claim| held.remove(&claim.tag).is_some()).collect()
        };
        if how != Release::Behind {
            // The last one that goes to the head of a list is the first to come out.
            order.reverse();
        }
        let moved = self.move_claims(&order, how).await;
        if moved.is_err() && how == Release::Behind {
            // Whoever rejected them has had his say; others are left to their lease.
            self.unsure.not_requeued(order.into_iter().cloned().collect());
        }
        moved?;
        for claim in claims {
            self.news.queue_changed(&claim.queue);
        }
        Ok(())
    }

    async fn move_claims(&self, claims: &[&Claim], how: Release) -> Result<()> {
        if how == Release::Unseen {
            for batch in claims.chunks(BATCH) {
                self.unseen(batch).await?;
            }
            return Ok(());
        }
        let session = self.session().await?;
        self.requeue(&session, claims, if how == Release::Behind { "LPUSH" } else { "RPUSH" }).await
    }

    fn call_on_claims(&self, script: Script) -> ScriptCall {
        let mut call = ScriptCall::new(script);
        call.key(self.config.unacked()).key(self.config.unacked_index());
        call
    }

    async fn unseen(&self, claims: &[&Claim]) -> Result<()> {
        let mut call = self.call_on_claims(Script::Unseen);
        for claim in claims {
            call.key(self.config.list_of_claim(claim));
            call.arg(claim.tag.to_string()).arg(record_tail(&claim.queue)?.len().to_string());
        }
        self.session().await?.run("to take messages back", call).await?;
        Ok(())
    }

    /// Queues claimed messages again, as redelivered ones. `push`: which end of the list they go to.
    pub(super) async fn requeue(
        &self,
        session: &Session,
        claims: &[&Claim],
        push: &'static str,
    ) -> Result<()> {
        for batch in claims.chunks(BATCH) {
            self.requeue_batch(session, batch, push).await?;
        }
        Ok(())
    }

    async fn requeue_batch(
        &self,
        session: &Session,
        claims: &[&Claim],
        push: &'static str,
    ) -> Result<()> {
        let tags = claims.iter().map(|claim| claim.tag.as_bytes());
        let command = Command::new("HMGET").arg(self.config.unacked()).args(tags);
        let reply = session.call("to read claims", &command).await?;
        let kind = unexpected("HMGET", &reply);
        let records = reply.into_items().ok_or(kind)?;
        let mut call = self.call_on_claims(Script::Requeue);
        call.arg(push);
        let mut count = 0;
        for (claim, record) in claims.iter().zip(&records) {
            // Missing: it has expired, and somebody has restored it.
            let Some(record) = record.as_bytes() else { continue };
            let tail = record_tail(&claim.queue)?;
            let Some(raw) = record.len().checked_sub(tail.len()).and_then(|end| record.get(1..end))
            else {
                continue;
            };
            call.key(self.config.list_of_claim(claim));
            call.arg(claim.tag.to_string()).arg(redelivered(raw));
            count += 1;
        }
        if count > 0 {
            session.run("to requeue messages", call).await?;
        }
        Ok(())
    }

    /// Renews the lease on claims.
    pub(super) async fn renew_tags(&self, tags: &[Name]) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        let session = self.session().await?;
        for batch in tags.chunks(BATCH * 5) {
            let mut call = ScriptCall::new(Script::Renew);
            call.key(self.config.unacked_index());
            for tag in batch {
                call.arg(tag.to_string());
            }
            session.run("to renew claims", call).await?;
            self.counters.renewed.add(batch.len());
        }
        Ok(())
    }

    /// See [`crate::transport::Store::restore`].
    pub(super) async fn restore_expired(&self) -> Result<usize> {
        self.restore(self.config.restore_limit.unwrap_or(usize::MAX)).await
    }

    /// See [`crate::transport::Store::reclaim`].
    pub(super) async fn reclaim(&self, limit: Option<usize>) -> Result<usize> {
        let lease = self.config.visibility_timeout;
        let overdue: Vec<(Name, Instant)> = {
            let mut held = self.held.lock();
            let overdue = held.extract_if(|_, since| since.elapsed() >= lease);
            overdue.take(limit.unwrap_or(usize::MAX)).collect()
        };
        if let Err(error) = self.lapse(&overdue).await {
            self.held.lock().extend(overdue);
            return Err(error);
        }
        self.restore(limit.unwrap_or(usize::MAX)).await
    }

    /// Ends the lease on claims, which were renewed until now.
    async fn lapse(&self, claims: &[(Name, Instant)]) -> Result<()> {
        let session = self.session().await?;
        for batch in claims.chunks(BATCH * 5) {
            let mut command = Command::new("ZADD").arg(self.config.unacked_index()).arg("XX");
            for (tag, _) in batch {
                command = command.arg("0").arg(tag.as_bytes());
            }
            session.call("to end claims", &command).await?;
        }
        Ok(())
    }

    async fn restore(&self, limit: usize) -> Result<usize> {
        let mut restored = 0;
        while restored < limit {
            let size = BATCH.min(limit - restored);
            let batch = self.expired(size).await?;
            if batch.is_empty() {
                break;
            }
            let moved = self.move_back(&batch).await?;
            restored += moved;
            if batch.len() < size || moved == 0 {
                break; // none moved: others are at it
            }
        }
        self.counters.restored.add(restored);
        if restored > 0 {
            tracing::warn!("{restored} messages that nobody acknowledged in time are queued again");
        }
        Ok(restored)
    }

    async fn expired(&self, count: usize) -> Result<Vec<Expired>> {
        let mut call = self.call_on_claims(Script::Expired);
        call.arg(format!("{:.6}", self.config.visibility_timeout.as_secs_f64()));
        call.arg(count.to_string());
        let reply = self.session().await?.run("to list expired claims", call).await?;
        let kind = unexpected("the script for expired claims", &reply);
        let items = reply.into_items().ok_or(kind)?;
        let text =
            |value: &Value| value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned());
        Ok(items
            .chunks_exact(3)
            .filter_map(|item| {
                Some(Expired {
                    tag: text(&item[0])?,
                    score: text(&item[1])?,
                    record: item[2].as_bytes().cloned(),
                })
            })
            .collect())
    }

    async fn move_back(&self, batch: &[Expired]) -> Result<usize> {
        let mut call = self.call_on_claims(Script::Restore);
        let mut queues = Vec::new();
        for claim in batch {
            let (payload, lists) = match &claim.record {
                Some(record) => self.destinations(&claim.tag, record).await?,
                None => (Vec::new(), Vec::new()),
            };
            call.arg(claim.tag.clone()).arg(claim.score.clone()).arg(payload);
            call.arg(lists.len().to_string());
            for (queue, list) in lists {
                queues.push(queue);
                call.key(list);
            }
        }
        let reply = self.session().await?.run("to restore messages", call).await?;
        let restored = reply.as_int().and_then(|n| usize::try_from(n).ok());
        for queue in queues {
            self.news.queue_changed(&queue);
        }
        restored.ok_or_else(|| unexpected("the restore script", &reply))
    }

    /// The message of a record, and the queues and lists that it goes to. Our records name the
    /// queue; those of stock Kombu name the exchange that the message came from, and so it goes to
    /// all queues that it may have come from, as there.
    async fn destinations(
        &self,
        tag: &str,
        record: &Bytes,
    ) -> Result<(Vec<u8>, Vec<(Name, String)>)> {
        let nowhere = (Vec::new(), Vec::new());
        let parsed = serde_json::from_slice::<(&RawValue, Option<String>, Option<String>)>(record);
        let (raw, exchange, routing_key) = match parsed {
            Ok((raw, exchange, key)) => {
                (raw.get(), exchange.unwrap_or_default(), key.unwrap_or_default())
            }
            Err(error) => {
                tracing::error!("the claim '{tag}' cannot be read and stays: {error}");
                return Ok(nowhere);
            }
        };
        let Ok(mut message) = envelope::decode(Bytes::copy_from_slice(raw.as_bytes())) else {
            tracing::error!("the message of the claim '{tag}' cannot be read and stays");
            return Ok(nowhere);
        };
        message.redelivered = true;
        let queues: Vec<Name> = if exchange.is_empty() {
            vec![routing_key.into()]
        } else {
            self.route_again(&exchange, &routing_key).await?
        };
        if queues.is_empty() {
            tracing::error!(
                "the claim '{tag}' stays: the exchange '{exchange}' has no binding for it any more"
            );
        }
        let lists = queues
            .into_iter()
            .map(|queue| {
                let list = self.config.list_for(&queue, &message);
                (queue, list)
            })
            .collect();
        Ok((envelope::encode(&message), lists))
    }

    /// A direct or a topic exchange: the table does not say which, but a key that is equal matches
    /// in both.
    async fn route_again(&self, exchange: &str, routing_key: &str) -> Result<Vec<Name>> {
        let table = self.table(&exchange.into()).await?;
        let mut queues: Vec<Name> = Vec::new();
        for binding in table.iter() {
            let matches = *binding.routing_key == *routing_key
                || topic_matches(&binding.routing_key, routing_key);
            if matches && !queues.contains(&binding.queue) {
                queues.push(binding.queue.clone());
            }
        }
        Ok(queues)
    }
}

/// The message marked as delivered before; as it is when it cannot be read.
fn redelivered(raw: &[u8]) -> Vec<u8> {
    match envelope::decode(Bytes::copy_from_slice(raw)) {
        Ok(mut message) => {
            message.redelivered = true;
            envelope::encode(&message)
        }
        Err(_) => raw.to_vec(),
    }
}
