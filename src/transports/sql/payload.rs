//! The envelope in the `payload` column.

use crate::codec::envelope;
use bytes::Bytes;

/// The same envelope marked as delivered before; `None` when there is nothing to change.
pub(super) fn mark_redelivered(payload: &[u8]) -> Option<String> {
    // What cannot be read was never handed out, so there is nothing to mark either.
    let mut message = envelope::decode(Bytes::copy_from_slice(payload)).ok()?;
    if std::mem::replace(&mut message.redelivered, true) {
        return None;
    }
    String::from_utf8(envelope::encode(&message)).ok()
}
