//! What has arrived for a consumer and was not handed out yet.
//!
//! Consumers with acknowledgements have a window, and the broker keeps to it. Without them it sends as
//! fast as the link takes, so what waits for those is weighed, for the whole link: beyond [`FULL`]
//! nothing is read any more (see [`super::board::Board::is_full`]), and TCP holds the broker back.

use crate::model::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may wait for the consumers without acknowledgements of one link.
pub(super) const FULL: usize = 16 << 20;
/// What a message takes beside its body and its headers, about.
const OVERHEAD: usize = 512;

/// A message that has arrived and was not handed out yet.
#[derive(Debug)]
pub(super) struct Mail {
    /// The channel's number for the delivery.
    pub(super) tag: u64,
    pub(super) message: Message,
    /// The number of the registration that it came for.
    pub(super) registration: u32,
}

impl Mail {
    fn weight(&self) -> usize {
        OVERHEAD + self.message.body.len() + self.message.headers.as_bytes().len()
    }
}

/// The mail of one consumer.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: VecDeque<Mail>,
    /// Where it is weighed, if it is.
    scales: Option<Arc<AtomicUsize>>,
}

impl Mailbox {
    /// One that is weighed.
    pub(super) fn weighed(scales: Arc<AtomicUsize>) -> Self {
        Self { mail: VecDeque::new(), scales: Some(scales) }
    }

    pub(super) fn push(&mut self, mail: Mail) {
        if let Some(scales) = &self.scales {
            scales.fetch_add(mail.weight(), Ordering::Relaxed);
        }
        self.mail.push_back(mail);
    }

    pub(super) fn pop(&mut self) -> Option<Mail> {
        let mail = self.mail.pop_front()?;
        if let Some(scales) = &self.scales {
            scales.fetch_sub(mail.weight(), Ordering::Relaxed);
        }
        Some(mail)
    }

    /// Takes out all but the oldest `keep`.
    pub(super) fn split_off(&mut self, keep: usize) -> VecDeque<Mail> {
        let taken = self.mail.split_off(keep.min(self.mail.len()));
        if let Some(scales) = &self.scales {
            scales.fetch_sub(taken.iter().map(Mail::weight).sum(), Ordering::Relaxed);
        }
        taken
    }

    pub(super) fn clear(&mut self) {
        while self.pop().is_some() {}
    }

    pub(super) fn len(&self) -> usize {
        self.mail.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mail.is_empty()
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Mail> {
        self.mail.iter()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_weighs_nothing_any_more() {
        let scales: Arc<AtomicUsize> = Arc::default();
        let weight = || scales.load(Ordering::Relaxed);
        let mut mailbox = Mailbox::weighed(scales.clone());
        for tag in 1..4 {
            let message = Message { body: vec![0; 1000].into(), ..Message::default() };
            mailbox.push(Mail { tag, message, registration: 1 });
        }
        let all = weight();
        assert!(all > 3000, "{all}");
        assert_eq!(mailbox.pop().map(|mail| mail.tag), Some(1));
        assert_eq!(weight(), all / 3 * 2);
        assert_eq!(mailbox.split_off(1).len(), 1);
        assert_eq!(weight(), all / 3);
        drop(mailbox);
        assert_eq!(weight(), 0);
    }
}
