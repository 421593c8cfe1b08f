//! A message as Kombu's virtual transports know it.

use super::{Json, Name};
use bytes::Bytes;

/// How the body is written inside the envelope (`properties.body_encoding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyEncoding {
    /// As it is: the body is text.
    Plain,
    /// Base64, Kombu's default.
    #[default]
    Base64,
}

/// The members of Kombu's `properties` that the core itself reads or writes.
///
/// All other members (`correlation_id`, `reply_to`, `delivery_mode`, ...) stay in `extra`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// `priority`, `None` when absent or null. On virtual transports 0..=9, lower goes first on Redis.
    pub priority: Option<i64>,
    /// `delivery_tag` as the publisher wrote it (a UUID string from Kombu); empty when absent.
    pub delivery_tag: String,
    /// `delivery_info.exchange`: the exchange it was published to, empty for the default exchange.
    pub exchange: Name,
    /// `delivery_info.routing_key`.
    pub routing_key: Name,
    /// All other members of `delivery_info` (`priority` from old publishers, ...), a JSON object.
    /// `redelivered` is not among them: see [`Message::redelivered`].
    pub delivery_info_extra: Json,
    /// Encoding of the body in the envelope.
    pub body_encoding: BodyEncoding,
    /// `expiration` in milliseconds (AMQP: per-message TTL), `None` when absent. On the wire it is
    /// a decimal string; what is not a whole number stays in `extra`.
    pub expiration: Option<u64>,
    /// All other members of `properties`, a JSON object in the publisher's order.
    pub extra: Json,
}

/// One message. Owns its bytes (cheap to clone), holds nothing of Python.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// The body, decoded from the envelope's encoding: what the serializer produced.
    pub body: Bytes,
    /// `content-type`, `None` when null.
    pub content_type: Option<Name>,
    /// `content-encoding`, `None` when null.
    pub content_encoding: Option<Name>,
    /// `headers`, a JSON object. May hold `redelivered`, as stock Kombu writes it on restore.
    pub headers: Json,
    /// `properties`.
    pub properties: Properties,
    /// Whether the message was delivered before and not acknowledged (`headers.redelivered` or
    /// `properties.delivery_info.redelivered`; both are written).
    pub redelivered: bool,
    /// Members of the envelope that Kombu does not know, a JSON object.
    pub extra: Json,
}
