//! Wire protocols without sockets: bytes in, events out.

use crate::error::Result;
use bytes::BytesMut;

#[cfg(feature = "amqp")]
pub mod amqp;
pub mod resp;

/// Turns bytes from the peer into events. Keeps no descriptor, never waits.
pub trait Decoder: Send + 'static {
    /// One complete unit of the protocol.
    type Event: Send + 'static;

    /// The next event, taken off the front of `buffer`; `None` when its end is not there yet.
    ///
    /// # Errors
    /// `Decode` when the bytes are not of this protocol. The stream cannot be used any further.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Self::Event>>;
}
