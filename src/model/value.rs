//! JSON that is kept as text.
//!
//! Headers and free properties travel through most brokers as JSON text; keeping the text spares a
//! tree of values per message. Whoever needs a member parses it then.

use bytes::Bytes;
use std::fmt;

/// The text of one JSON value, known to be valid JSON (and so valid UTF-8).
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// Takes text that the caller has just parsed or written as JSON.
    pub fn from_valid(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// The empty object, `{}`.
    pub fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// Whether this is an object without members.
    pub fn is_empty_object(&self) -> bool {
        self.0.as_ref() == b"{}"
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, shared.
    pub fn to_shared(&self) -> Bytes {
        self.0.clone()
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::empty_object()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({})", String::from_utf8_lossy(&self.0))
    }
}
