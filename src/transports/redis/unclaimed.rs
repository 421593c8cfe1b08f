//! `ack_emulation=False`: messages are delivered without a claim. What is not acknowledged is put back by
//! the process that has it, as stock Kombu does; what it has when it is killed is lost.

use super::deliveries::Return;
use super::hand::Popped;
use super::shared::Shared;
use crate::codec::envelope;
use crate::error::Result;
use crate::model::{Claim, Release};

impl Shared {
    /// Queues messages again; a claim's handle is the message as it was in its list. Over the next
    /// link when there is none.
    pub(super) async fn put_unclaimed_back(&self, claims: &[Claim], how: Release) -> Result<()> {
        let push = if how == Release::Behind { "LPUSH" } else { "RPUSH" };
        for claim in claims {
            let raw = claim.handle.clone();
            // It was decoded when it was delivered.
            let message = envelope::decode(raw.clone())?;
            let (list, message, push) = match how {
                Release::Unseen => (self.config.list_for(&claim.queue, &message), raw, push),
                _ => match self.config.send_back(message, &claim.queue, push) {
                    Return { list, payload, how: "DEAD", .. } => (list, payload, "LPUSH"),
                    Return { list, payload, .. } => (list, payload, push),
                },
            };
            self.unsure.not_claimed(Popped { list, tag: claim.tag.to_string(), message, push });
        }
        let session = self.session().await?;
        self.put_back(&session).await?;
        for claim in claims {
            self.news.queue_changed(&claim.queue);
        }
        Ok(())
    }
}
