//! What a store hands out, and the handle by which it is taken back or settled.

use super::{Message, Name};
use bytes::Bytes;

/// A store's handle on one message that was taken and is not settled yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The broker's or store's name for the claim; unique within the store. Becomes the
    /// `delivery_tag` that users see.
    pub tag: Name,
    /// The queue it was taken from.
    pub queue: Name,
    /// Whatever else the store wants to find again (a receipt handle, a row id); empty if nothing.
    pub handle: Bytes,
}

/// One message as it came out of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The handle to settle it with. Also there for `no_ack` deliveries (the tag is shown to
    /// users), but then there is nothing to settle: see [`Delivery::settled`].
    pub claim: Claim,
    /// Whether the store considers it done already (taken with `no_ack`, or fanout).
    pub settled: bool,
}

/// How unsettled messages go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// To the head of the queue, marked `redelivered` (recover, connection closed with messages handed
    /// to the user).
    Requeue,
    /// To the end of the queue, marked `redelivered` (reject with requeue): others that wait come
    /// first, as in Kombu, and whoever rejects one message again and again gets the others, too.
    Behind,
    /// To the head of the queue, unmarked: it was fetched ahead and nobody has seen it.
    Unseen,
    /// Dropped, or dead-lettered where the store does that (reject without requeue).
    Discard,
}
