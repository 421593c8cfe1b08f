//! What was under way when a link was lost: acknowledgements and rejections that the server may not
//! have seen, and claims whose messages did not arrive. They are put right over the next link; otherwise they would
//! come again, and only after a visibility timeout.

use super::error::unexpected;
use super::hand::Popped;
use super::session::Session;
use super::shared::Shared;
use crate::codec::envelope;
use crate::error::{ErrorKind, Result};
use crate::io::keeper;
use crate::io::lock::Mutex;
use crate::io::task::sleep_until;
use crate::model::{Claim, Delivery, Name, Release};
use crate::protocol::resp::Command;
use crate::transport::QueueRef;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// A dead link's last commands may reach the server late: look again after this, and once more.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(40)];
/// How long what a connection has left open is tried to be put right when nobody uses it any more.
const FAREWELL: Duration = Duration::from_secs(60);
/// Pause between two such tries.
const FAREWELL_PAUSE: Duration = Duration::from_secs(1);
/// One question is about so many tags at most.
const MOST: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    not_settled: Mutex<Vec<Name>>,
    not_requeued: Mutex<Vec<Claim>>,
    receives: Mutex<Vec<Receive>>,
    not_claimed: Mutex<Vec<Popped>>,
}

/// A call of the receive script whose answer did not come.
#[derive(Debug)]
struct Receive {
    /// First part of its tags.
    tags: String,
    looked: usize,
    next: Instant,
}

impl Unsure {
    /// These claims were settled, but the server may not know.
    pub(super) fn not_settled(&self, tags: Vec<Name>) {
        self.not_settled.lock().extend(tags);
    }

    /// These claims are settled, and the server does not know yet.
    pub(super) fn settling(&self, tags: Vec<Name>) -> Underway<'_, Name> {
        Underway { place: &self.not_settled, items: tags }
    }

    /// These claims are rejected, to be queued again, and the server does not know yet.
    pub(super) fn rejecting(&self, claims: Vec<Claim>) -> Underway<'_, Claim> {
        Underway { place: &self.not_requeued, items: claims }
    }

    /// This message was popped without a script and could not be claimed.
    pub(super) fn not_claimed(&self, message: Popped) {
        self.not_claimed.lock().push(message);
    }

    /// Remembers a call of the receive script, if it is dropped without an answer.
    pub(super) fn watch<'a>(&'a self, tags: &'a str, claims: bool) -> Watch<'a> {
        Watch { unsure: self, tags: claims.then_some(tags) }
    }

    /// For messages on their way to whoever asked for them.
    pub(super) fn hand(&self) -> Found<'_> {
        Found { unsure: self, deliveries: Vec::new() }
    }

    fn look_for(&self, tags: &str) {
        let mut receives = self.receives.lock();
        if !receives.iter().any(|receive| receive.tags == tags) {
            receives.push(Receive { tags: tags.to_owned(), looked: 0, next: Instant::now() });
        }
    }

    /// Takes over what `other` has.
    fn inherit(&self, other: &Self) {
        self.not_settled.lock().append(&mut other.not_settled.lock());
        self.not_requeued.lock().append(&mut other.not_requeued.lock());
        self.receives.lock().append(&mut other.receives.lock());
        self.not_claimed.lock().append(&mut other.not_claimed.lock());
    }

    fn is_empty(&self) -> bool {
        !self.is_unsettled() && self.receives.lock().is_empty()
    }

    /// Whether there are claims that the server may not know to be settled or rejected.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.not_settled.lock().is_empty()
            || !self.not_requeued.lock().is_empty()
            || !self.not_claimed.lock().is_empty()
    }

    fn has_due(&self) -> bool {
        let now = Instant::now();
        self.is_unsettled() || self.receives.lock().iter().any(|receive| receive.next <= now)
    }

    fn due(&self) -> Vec<Receive> {
        let now = Instant::now();
        let mut receives = self.receives.lock();
        if receives.is_empty() {
            return Vec::new();
        }
        let (due, later) =
            std::mem::take(&mut *receives).into_iter().partition(|receive| receive.next <= now);
        *receives = later;
        due
    }
}

/// One call of the receive script; see [`Unsure::watch`].
pub(super) struct Watch<'a> {
    unsure: &'a Unsure,
    tags: Option<&'a str>,
}

impl Watch<'_> {
    /// The answer is here.
    pub(super) fn answered(mut self) {
        self.tags = None;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(tags) = self.tags {
            self.unsure.look_for(tags);
        }
    }
}

/// Claimed messages on their way to whoever asked for them. When he goes away meanwhile, they are looked
/// for again: their claims would be renewed for nobody.
#[derive(Debug)]
pub(super) struct Found<'a> {
    unsure: &'a Unsure,
    deliveries: Vec<Delivery>,
}

impl Found<'_> {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Adds some.
    pub(super) fn extend(&mut self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.deliveries.extend(deliveries);
    }

    /// They are with him who asked, or go another way.
    pub(super) fn arrived(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        for delivery in self.deliveries.iter().filter(|delivery| !delivery.settled) {
            // The tag without its number: those of one call.
            if let Some(end) = delivery.claim.tag.rfind('-') {
                self.unsure.look_for(&delivery.claim.tag[..=end]);
            }
        }
    }
}

/// What is on its way to the server, and nobody else has: kept for the next link when that fails, or whoever
/// does it goes away.
pub(super) struct Underway<'a, T> {
    place: &'a Mutex<Vec<T>>,
    items: Vec<T>,
}

impl<T> Underway<'_, T> {
    /// What it is.
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// The server knows, or it is in other hands.
    pub(super) fn done(mut self) -> Vec<T> {
        std::mem::take(&mut self.items)
    }
}

impl<T> Drop for Underway<'_, T> {
    fn drop(&mut self) {
        self.place.lock().append(&mut self.items);
    }
}

impl Shared {
    /// Settles over a new link what an old one has swallowed.
    pub(super) async fn settle_again(&self, session: &Session) -> Result<()> {
        let tags = std::mem::take(&mut *self.unsure.not_settled.lock());
        if !tags.is_empty() {
            self.settle_tags(session, tags).await?;
        }
        if let Err(error) = self.put_back(session).await {
            tracing::warn!("messages that could not be claimed are not queued again yet: {error}");
            if !session.is_alive() {
                return Err(error);
            }
        }
        let claims = std::mem::take(&mut *self.unsure.not_requeued.lock());
        let rejecting = self.unsure.rejecting(claims);
        let claims: Vec<&Claim> = rejecting.items().iter().collect();
        let Err(error) = self.requeue(session, &claims, "LPUSH").await else {
            rejecting.done();
            return Ok(());
        };
        tracing::warn!("{} rejected messages are not queued again yet: {error}", claims.len());
        // Their leases end, if nothing else: no reason to do without the link.
        if session.is_alive() { Ok(()) } else { Err(error) }
    }

    /// Puts messages back that were popped and could not be claimed.
    pub(super) async fn put_back(&self, session: &Session) -> Result<()> {
        let popped = std::mem::take(&mut *self.unsure.not_claimed.lock());
        if popped.is_empty() {
            return Ok(());
        }
        let popped = Underway { place: &self.unsure.not_claimed, items: popped };
        let mut commands = Vec::with_capacity(popped.items().len() * 3);
        // The last one that goes to the head of a list is the first to come out.
        for message in popped.items().iter().rev() {
            let tag = &message.tag;
            commands.push(Command::new("HDEL").arg(self.config.unacked()).arg(tag));
            commands.push(Command::new("ZREM").arg(self.config.unacked_index()).arg(tag));
            commands.push(Command::new(message.push).arg(&message.list).arg(&message.message));
        }
        session.transaction("to put messages back", &commands).await?;
        popped.done();
        Ok(())
    }

    /// Has the keeper put right what this store leaves open that is given up: its claims would come
    /// again although they were acknowledged, or only when a visibility timeout has passed. It is
    /// done over a link of its own; whoever goes on with this store is not disturbed.
    pub(super) fn bid_farewell(&self) {
        if self.unsure.is_empty() {
            return;
        }
        let heir = Self::new(self.config.clone(), None);
        heir.unsure.inherit(&self.unsure);
        let until = Instant::now() + FAREWELL;
        let job = async move {
            while !heir.unsure.is_empty() && Instant::now() < until {
                if heir.unsure.has_due()
                    && let Err(error) = heir.put_right().await
                {
                    tracing::debug!("what a connection left open is still open: {error}");
                }
                // Waits for the answers: those that do not come are open again.
                heir.close().await;
                if !heir.unsure.is_empty() {
                    sleep_until(Instant::now() + FAREWELL_PAUSE).await;
                }
            }
        };
        if let Err(error) = keeper::spawn(job) {
            tracing::warn!("what a connection left open stays open: {error}");
        }
    }

    /// One try: connecting settles, and claims whose messages did not arrive go back.
    async fn put_right(&self) -> Result<()> {
        let session = self.session().await?;
        self.settle_again(&session).await?;
        self.find_lost(&session, &[], 0, &mut self.unsure.hand()).await
    }

    /// Fetches the messages of claims that were made for this store, but did not arrive. What is not
    /// wanted any more goes back.
    pub(super) async fn find_lost<'a>(
        &'a self,
        session: &Session,
        queues: &[QueueRef],
        max: usize,
        out: &mut Found<'a>,
    ) -> Result<()> {
        let (mut unwanted, mut unreadable, mut failure) = (self.unsure.hand(), Vec::new(), None);
        let mut due = self.unsure.due().into_iter();
        while let Some(mut receive) = due.next() {
            let found = match self.claims_of(session, &receive.tags, &mut unreadable).await {
                Ok(found) => found,
                Err(error) => {
                    self.unsure.receives.lock().extend(std::iter::once(receive).chain(due));
                    failure = Some(error);
                    break;
                }
            };
            if let Some(pause) = LOOK_AGAIN.get(receive.looked).filter(|_| found.is_empty()) {
                receive.looked += 1;
                receive.next = Instant::now() + *pause;
                self.unsure.receives.lock().push(receive);
            }
            for delivery in found {
                let wanted = queues.iter().any(|q| q.name == delivery.claim.queue && !q.no_ack);
                let hand = if wanted && out.len() < max { &mut *out } else { &mut unwanted };
                hand.extend([delivery]);
            }
        }
        self.drop_unreadable(session, unreadable).await;
        if unwanted.len() > 0 {
            let claims: Vec<Claim> = unwanted.arrived().into_iter().map(|one| one.claim).collect();
            // Also after a failure: their leases would be renewed for nobody.
            failure = self.give_back(&claims, Release::Unseen).await.err().or(failure);
        }
        match failure {
            // What is here is not to be lost: the next call tells of the error.
            Some(error) if out.len() == 0 => Err(error),
            _ => Ok(()),
        }
    }

    async fn claims_of(
        &self,
        session: &Session,
        tags: &str,
        unreadable: &mut Vec<Name>,
    ) -> Result<Vec<Delivery>> {
        let names: Vec<Name> = (1..=MOST).map(|number| format!("{tags}{number}").into()).collect();
        let command = Command::new("HMGET")
            .arg(self.config.unacked())
            .args(names.iter().map(|tag| tag.as_bytes()));
        let reply = session.call("to look for claims", &command).await?;
        let kind = unexpected("HMGET", &reply);
        let records = reply.into_items().ok_or(kind)?;
        let mut found = Vec::new();
        for (tag, record) in names.into_iter().zip(&records) {
            let Some(record) = record.as_bytes() else { continue };
            let Ok((raw, _, queue)) = serde_json::from_slice::<(&RawValue, String, String)>(record)
            else {
                continue; // it will be reported when the claim has expired
            };
            match envelope::decode(raw.get().as_bytes().to_vec().into()) {
                Ok(message) => {
                    let claim = Claim {
                        tag: tag.clone(),
                        queue: queue.into(),
                        handle: self.config.claim_handle(self.config.step_of(&message)),
                    };
                    self.held.lock().insert(tag, Instant::now());
                    found.push(Delivery { message, claim, settled: false });
                }
                Err(error) if error.kind() == ErrorKind::Decode => {
                    unreadable.push(tag);
                }
                Err(error) => return Err(error),
            }
        }
        if !found.is_empty() {
            tracing::info!("{} messages of a lost link were found again", found.len());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Message;
    use bytes::Bytes;

    #[test]
    fn only_unanswered_calls_are_remembered() {
        let unsure = Unsure::default();
        unsure.watch("answered-", true).answered();
        drop(unsure.watch("no-claims-", false));
        assert!(unsure.due().is_empty());
        drop(unsure.watch("lost-", true));
        let due = unsure.due();
        assert_eq!((due.len(), due[0].tags.as_str()), (1, "lost-"));
        assert!(unsure.due().is_empty());
    }
    #[test]
    fn messages_that_did_not_arrive_are_looked_for() {
        let unsure = Unsure::default();
        let delivery = |tag: &str| Delivery {
            message: Message::default(),
            claim: Claim { tag: tag.into(), queue: "q".into(), handle: Bytes::new() },
            settled: false,
        };
        let both = || ["ab-1-1", "ab-1-2", "cd-2-1"].map(delivery);
        let mut found = unsure.hand();
        found.extend(both());
        assert_eq!(found.arrived().len(), 3);
        assert!(unsure.due().is_empty());
        unsure.hand().extend(both());
        let due: Vec<_> = unsure.due().into_iter().map(|receive| receive.tags).collect();
        assert_eq!(due, ["ab-1-", "cd-2-"]);
    }
}
