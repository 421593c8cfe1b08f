//! Dead letters go back to where they came from.

use super::deliveries::{origin, revived};
use super::error::unexpected;
use super::scripts::Script;
use super::session::ScriptCall;
use super::shared::Shared;
use super::unacked::BATCH;
use crate::codec::envelope;
use crate::error::Result;
use crate::model::Name;
use crate::protocol::resp::{Command, Value};
use bytes::Bytes;

/// Dead letters that were found, and how many of them stay because they do not say where to go.
struct Letters {
    call: ScriptCall,
    queues: Vec<Name>,
    stay: usize,
}

impl Shared {
    /// See [`crate::transport::Store::replay`].
    pub(super) async fn replay(&self, dead_letters: &Name, limit: usize) -> Result<usize> {
        let (mut moved, mut stay) = (0, 0);
        for list in self.config.lists(dead_letters) {
            let (more, without_origin) = self.replay_list(&list, limit - moved).await?;
            moved += more;
            stay += without_origin;
        }
        if stay > 0 {
            tracing::warn!(
                "{stay} messages stay in '{dead_letters}': they do not say where they came from"
            );
        }
        Ok(moved)
    }

    /// The oldest first. What was not there at the beginning is left alone, or a message that dies
    /// again at once would be moved for ever.
    async fn replay_list(&self, list: &str, limit: usize) -> Result<(usize, usize)> {
        let session = self.session().await?;
        let what = "to count dead letters";
        let length = session.call(what, &Command::new("LLEN").arg(list)).await?;
        let length = length.as_int().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let (mut moved, mut stay, mut seen) = (0, 0, 0);
        while moved < limit && seen < length {
            let size = BATCH.min(limit - moved).min(length - seen);
            // Those that stay are at the end, where the oldest are.
            let range = Command::new("LRANGE")
                .arg(list)
                .int(-((stay + size) as i64))
                .int(-(stay as i64) - 1);
            let reply = session.call("to read dead letters", &range).await?;
            let kind = unexpected("LRANGE", &reply);
            let mut raw = reply.into_items().ok_or(kind)?;
            if raw.is_empty() {
                break; // somebody else is at it
            }
            seen += raw.len();
            raw.reverse();
            let letters = self.addressed(list, &raw);
            stay += letters.stay;
            if letters.queues.is_empty() {
                continue;
            }
            let reply = session.run("to move dead letters", letters.call).await?;
            let count = reply.as_int().and_then(|n| usize::try_from(n).ok());
            moved += count.ok_or_else(|| unexpected("the replay script", &reply))?;
            for queue in letters.queues {
                self.news.queue_changed(&queue);
            }
        }
        Ok((moved, stay))
    }

    fn addressed(&self, list: &str, raw: &[Value]) -> Letters {
        let mut call = ScriptCall::new(Script::Replay);
        call.key(list);
        let mut letters = Letters { call, queues: Vec::new(), stay: 0 };
        for raw in raw.iter().filter_map(Value::as_bytes) {
            let message = envelope::decode(raw.clone()).ok();
            let Some((message, queue)) =
                message.and_then(|message| origin(&message).map(|queue| (message, queue)))
            else {
                letters.stay += 1;
                continue;
            };
            let message = revived(message);
            letters.call.key(self.config.list_for(&queue, &message));
            letters.call.arg(raw.clone()).arg(Bytes::from(envelope::encode(&message)));
            letters.queues.push(queue);
        }
        letters
    }
}
