//! What a broker's reply codes mean to Kombu's callers.

use crate::error::{Error, ErrorKind, Reply};

/// The same error, marked as one of AMQP: programs may catch py-amqp's exceptions.
pub(super) fn ours(error: Error) -> Error {
    error.with_driver("amqp")
}

/// Why a broker has closed a channel or a connection, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: u16,
    pub(super) text: String,
    /// The class and the method that it is about.
    pub(super) method: (u16, u16),
}

impl Reason {
    /// The error of an operation on a channel; `what` names it and its entity.
    pub(super) fn refused(&self, what: &str) -> Error {
        let kind = match self.code {
            404 => ErrorKind::NotFound,
            _ => ErrorKind::Channel,
        };
        let text = format!("the broker refused {what} and closed the channel: {self}");
        ours(Error::new(kind, text).with_code(self.code)).with_reply(self.reply())
    }

    /// The error of who uses a connection that the broker has closed.
    pub(super) fn closed(&self, peer: &str) -> Error {
        ours(
            Error::connection(format!("{peer} closed the connection: {self}")).with_code(self.code),
        )
        .with_reply(self.reply())
    }

    fn reply(&self) -> Reply {
        Reply { text: self.text.clone(), method: self.method }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}
