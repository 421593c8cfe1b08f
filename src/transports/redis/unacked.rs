//! Claims: settled, given back and renewed.

use super::deliveries::Return;
use super::error::unexpected;
use super::scripts::Script;
use super::session::{ScriptCall, Session};
use super::shared::{Shared, record_tail};
use crate::codec::envelope;
use crate::error::{ErrorKind, Result};
use crate::model::{Claim, Name, Release};
use crate::protocol::resp::{Command, Pipeline, Value};
use bytes::Bytes;

/// Claims in one script call: enough to be fast, few enough not to keep the server busy.
pub(super) const BATCH: usize = 200;

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
        let settling = self.unsure.settling(tags);
        let told = match self.session().await {
            Ok(session) => self.settle_tags(&session, settling.done()).await,
            Err(error) => {
                drop(settling);
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
                shared.upkeep.notify();
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
        if !self.config.ack_emulation {
            return self.put_unclaimed_back(claims, how).await;
        }
        let mut order: Vec<&Claim> = {
            let mut held = self.held.lock();
            claims.iter().filter(|claim| held.remove(&claim.tag).is_some()).collect()
        };
        if how == Release::Behind {
            // Whoever rejected them has had his say; others are left to their lease.
            let rejecting = self.unsure.rejecting(order.into_iter().cloned().collect());
            self.move_claims(&rejecting.items().iter().collect::<Vec<_>>(), how).await?;
            rejecting.done();
            return Ok(());
        }
        // The last one that goes to the head of a list is the first to come out.
        order.reverse();
        self.move_claims(&order, how).await
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

    pub(super) fn call_on_claims(&self, script: Script) -> ScriptCall {
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
        for claim in claims {
            self.news.queue_changed(&claim.queue);
        }
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
        let mut queues = Vec::new();
        for (claim, record) in claims.iter().zip(&records) {
            // Missing: it has expired, and somebody has restored it.
            let Some(record) = record.as_bytes() else { continue };
            let tail = record_tail(&claim.queue)?;
            let Some(raw) = record.len().checked_sub(tail.len()).and_then(|end| record.get(1..end))
            else {
                continue;
            };
            let Return { queue, list, how, payload } =
                match envelope::decode(Bytes::copy_from_slice(raw)) {
                    Ok(message) => self.config.send_back(message, &claim.queue, push),
                    Err(_) => Return {
                        queue: claim.queue.clone(),
                        list: self.config.list_of_claim(claim),
                        how: push,
                        payload: Bytes::copy_from_slice(raw),
                    },
                };
            call.key(list).arg(claim.tag.to_string()).arg(how).arg(payload);
            queues.push(queue);
        }
        if !queues.is_empty() {
            let reply = session.run("to requeue messages", call).await?;
            self.tally("the requeue script", &reply)?;
        }
        for queue in queues {
            self.news.queue_changed(&queue);
        }
        Ok(())
    }

    /// What a script says that sends messages back: how many are in their queues again, and how many
    /// are dead letters. Tells of these.
    pub(super) fn tally(&self, script: &str, reply: &Value) -> Result<(usize, usize)> {
        let numbers: Option<Vec<usize>> = reply.clone().into_items().and_then(|items| {
            items.iter().map(|item| usize::try_from(item.as_int()?).ok()).collect()
        });
        let Some([returned, dead]) = numbers.as_deref() else {
            return Err(unexpected(script, reply));
        };
        if *dead > 0 {
            let limit = self.config.delivery_limit.as_ref().map_or(0, |limit| limit.deliveries);
            tracing::warn!(
                "{dead} messages are dead letters now: they were delivered {limit} times and never \
                 acknowledged"
            );
        }
        Ok((*returned, *dead))
    }

    /// Renews the lease on claims.
    pub(super) async fn renew_tags(&self, tags: &[Name]) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        self.renew_over(&*self.session().await?, tags).await
    }

    /// Renews what is held over a new link, before anything else: nobody could while there was none.
    pub(super) async fn hold_on(&self, session: &Session) -> Result<()> {
        let held: Vec<Name> = self.held.lock().keys().cloned().collect();
        if !self.config.renew_leases || held.is_empty() {
            return Ok(());
        }
        match self.renew_over(session, &held).await {
            Err(error) if session.is_alive() => {
                tracing::warn!("claims could not be renewed, it is tried again: {error}");
                Ok(())
            }
            renewed => renewed,
        }
    }

    async fn renew_over(&self, session: &Session, tags: &[Name]) -> Result<()> {
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
}
