//! Expired claims: their messages go back to their queues.
//!
//! Each change is a comparison and a move in one step, so that any number of workers may do it at the
//! same time without harm. But they would only be in each other's way, and in that of everybody else:
//! so the keepers take turns, by the lock that stock workers use as well, and whose turn it is does a
//! little at a time and leaves the server to others in between. (Measured: 10,000 claims, restored by
//! four workers at full speed, took 0.5 s, in which these did a sixth of their work.)

use super::deliveries::Return;
use super::error::unexpected;
use super::scripts::Script;
use super::session::ScriptCall;
use super::shared::Shared;
use super::unacked::BATCH;
use crate::codec::envelope;
use crate::error::Result;
use crate::io::task::sleep_until;
use crate::model::Name;
use crate::protocol::resp::{Command, Value};
use crate::routing::topic_matches;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// So many claims at a time, while others want to use the server.
const PORTION: usize = 100;
/// After each portion there is a pause so many times as long as that took.
const PAUSE_FACTOR: u32 = 20;
/// The pauses, however quick or slow the server is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// A turn of which nothing more is heard ends after this: whoever had it has died, or is a stock worker
/// with a lot to restore, which does not suffer from others doing the same.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A claim that was not renewed.
struct Expired {
    tag: String,
    score: String,
    record: Option<Bytes>,
}

/// What one keeper restores before the next one may.
#[derive(Debug)]
pub(super) struct Turn {
    left: usize,
    restored: usize,
    /// Somebody asks for it, who knows better than to wait for owners that may come back.
    asked: bool,
}

impl Shared {
    /// A turn that has not begun.
    pub(super) fn turn(&self) -> Turn {
        Turn { left: self.config.restore_limit.unwrap_or(usize::MAX), restored: 0, asked: false }
    }

    /// Restores some expired claims, if it is nobody else's turn. Returns the pause until there are
    /// more to restore; none at the end of the turn.
    pub(super) async fn restore_some(&self, turn: &mut Turn) -> Result<Option<Duration>> {
        let begin = Instant::now();
        let batch = self.expired(PORTION.min(turn.left), true).await?;
        if !batch.is_empty() {
            // The answer may have been long in coming.
            if turn.asked || self.rests_until().is_none() {
                turn.restored += self.move_back(&batch).await?.0;
            } else {
                turn.left = 0;
            }
            turn.left = turn.left.saturating_sub(batch.len());
            if turn.left > 0 && batch.len() == PORTION {
                let pause = begin.elapsed() * PAUSE_FACTOR;
                return Ok(Some(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)));
            }
            let mut call = ScriptCall::new(Script::EndTurn);
            call.key(self.config.unacked_mutex()).arg(self.lock_token());
            self.session().await?.run("to end a turn at restoring", call).await?;
        }
        tell_restored(turn.restored);
        Ok(None)
    }

    /// See [`crate::transport::Store::restore`].
    pub(super) async fn restore_expired(&self) -> Result<usize> {
        let mut turn = Turn { asked: true, ..self.turn() };
        while let Some(pause) = self.restore_some(&mut turn).await? {
            sleep_until(Instant::now() + pause).await;
        }
        Ok(turn.restored)
    }

    /// See [`crate::transport::Store::reclaim`]. Somebody waits for it: it is done at once, whoever
    /// else may be at it.
    pub(super) async fn reclaim(&self, limit: Option<usize>) -> Result<usize> {
        let limit = limit.unwrap_or(usize::MAX);
        let lease = self.config.visibility_timeout;
        let overdue: Vec<(Name, Instant)> = {
            let mut held = self.held.lock();
            let overdue = held.extract_if(|_, since| since.elapsed() >= lease);
            overdue.take(limit).collect()
        };
        if let Err(error) = self.lapse(&overdue).await {
            self.held.lock().extend(overdue);
            return Err(error);
        }
        let mut restored = 0;
        while restored < limit {
            let size = BATCH.min(limit - restored);
            let batch = self.expired(size, false).await?;
            if batch.is_empty() {
                break;
            }
            let (returned, dead) = self.move_back(&batch).await?;
            restored += returned;
            if batch.len() < size || returned + dead == 0 {
                break; // none moved: others are at it
            }
        }
        tell_restored(restored);
        Ok(restored)
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

    /// Expired claims; with `in_turn`, none while others restore, and nobody else's turn after that.
    async fn expired(&self, count: usize, in_turn: bool) -> Result<Vec<Expired>> {
        let mut call = self.call_on_claims(Script::Expired);
        call.arg(format!("{:.6}", self.config.visibility_timeout.as_secs_f64()));
        call.arg(count.to_string());
        if in_turn {
            // Stock workers' locks end after the whole time, ours sooner.
            let expire = self.config.unacked_mutex_expire;
            let silence = expire.min(LONGEST_SILENCE);
            call.key(self.config.unacked_mutex()).arg(self.lock_token());
            call.arg(silence.as_millis().max(1).to_string());
            call.arg((expire - silence).as_millis().to_string());
        }
        let reply = self.session().await?.run("to list expired claims", call).await?;
        let kind = unexpected("the script for expired claims", &reply);
        let mut parts = reply.into_items().ok_or(kind)?.into_iter();
        let mut part = || parts.next().and_then(Value::into_items).unwrap_or_default();
        let (scores, records) = (part(), part());
        let text =
            |value: &Value| value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned());
        Ok(scores
            .chunks_exact(2)
            .zip(records)
            .filter_map(|(claim, record)| {
                Some(Expired {
                    tag: text(&claim[0])?,
                    score: text(&claim[1])?,
                    record: record.as_bytes().cloned(),
                })
            })
            .collect())
    }

    /// How many of them went back to their queues, and how many are dead letters now.
    async fn move_back(&self, batch: &[Expired]) -> Result<(usize, usize)> {
        let mut returns = Vec::with_capacity(batch.len());
        for claim in batch {
            returns.push(match &claim.record {
                Some(record) => self.destinations(&claim.tag, record).await?,
                None => Vec::new(),
            });
        }
        let mut call = self.call_on_claims(Script::Restore);
        call.arg(batch.len().to_string());
        call.args(batch.iter().map(|claim| claim.tag.clone()));
        call.args(batch.iter().map(|claim| claim.score.clone()));
        call.args(returns.iter().map(|lists| lists.len().to_string()));
        let mut queues = Vec::new();
        for Return { queue, list, how, payload } in returns.into_iter().flatten() {
            call.key(list).arg(how).arg(payload);
            queues.push(queue);
        }
        let reply = self.session().await?.run("to restore messages", call).await?;
        for queue in queues {
            self.news.queue_changed(&queue);
        }
        let moved = self.tally("the restore script", &reply)?;
        self.counters.restored.add(moved.0);
        Ok(moved)
    }

    /// Where the message of a record goes. Our records name the queue; those of stock Kombu name the
    /// exchange that the message came from, and so it goes to all queues that it may have come from,
    /// as there.
    async fn destinations(&self, tag: &str, record: &Bytes) -> Result<Vec<Return>> {
        let parsed = serde_json::from_slice::<(&RawValue, Option<String>, Option<String>)>(record);
        let (raw, exchange, routing_key) = match parsed {
            Ok((raw, exchange, key)) => {
                (raw.get(), exchange.unwrap_or_default(), key.unwrap_or_default())
            }
            Err(error) => {
                tracing::error!("the claim '{tag}' cannot be read and stays: {error}");
                return Ok(Vec::new());
            }
        };
        let Ok(message) = envelope::decode(Bytes::copy_from_slice(raw.as_bytes())) else {
            tracing::error!("the message of the claim '{tag}' cannot be read and stays");
            return Ok(Vec::new());
        };
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
        Ok(queues
            .iter()
            .map(|queue| self.config.send_back(message.clone(), queue, "RPUSH"))
            .collect())
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

fn tell_restored(count: usize) {
    if count > 0 {
        tracing::warn!("{count} messages that nobody acknowledged in time are queued again");
    }
}
