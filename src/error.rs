//! One error type for the whole core: a kind, the operation, the entity and the cause.
//!
//! A leaf: every other module may use it, it uses none of them. `src/python/errors.rs` maps
//! [`ErrorKind`] to the exception classes of `kombu_rs.exceptions` and to builtin ones.

use std::borrow::Cow;
use std::fmt;

/// The result of every fallible operation of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms that decide how Kombu's callers react.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The link to the broker failed or could not be made; a reconnect may help
    /// (`kombu_rs.exceptions.BrokerConnectionError`, in `connection_errors`).
    Connection,
    /// The broker refused an operation on one channel; the link itself is fine
    /// (`kombu.exceptions.ChannelError`, in `channel_errors`).
    Channel,
    /// A deadline passed (`socket.timeout`, that is `TimeoutError`).
    Timeout,
    /// Credentials or permissions were refused (`kombu_rs.exceptions.BrokerConnectionError`, not worth retrying).
    Auth,
    /// A value given by the user is wrong: URL, option, argument (`ValueError`).
    Invalid,
    /// A value has the wrong type (`TypeError`).
    Type,
    /// Bytes from the broker or a peer cannot be understood (`kombu.exceptions.DecodeError`).
    Decode,
    /// A value cannot be serialised (`kombu.exceptions.EncodeError`).
    Encode,
    /// An entity does not exist (`ChannelError` with code 404).
    NotFound,
    /// The transport cannot do this (`NotImplementedError`).
    Unsupported,
    /// The broker did not take responsibility for a message (`kombu_rs.exceptions.MessageNacked`).
    NotTaken,
    /// The broker cancelled a consumer (`kombu_rs.exceptions.ConsumerCancelled`).
    Cancelled,
    /// A handle was used after it was closed (`kombu.exceptions.RecoverableConnectionError`-like).
    Closed,
    /// A limit is reached: `channel_max`, `max_connections`, a full broker
    /// (`kombu.exceptions.ConnectionLimitExceeded` and friends; of a full broker with a driver
    /// `ChannelError`).
    Limit,
    /// An exception raised by user code (Python) during a callback; carried elsewhere.
    Interrupted,
    /// A bug of ours.
    Internal,
}

/// What a broker that speaks AMQP said when it refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Reply text.
    pub text: String,
    /// Class and method that it is about; zeroes when it named none.
    pub method: (u16, u16),
}

/// An error of the core.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    /// The AMQP reply code, 0 when the broker gave none (AMQP 0-9-1 section 1.6).
    code: u16,
    driver: &'static str,
    reply: Option<Box<Reply>>,
    consumer: Option<Box<(u64, String)>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose text is `message`: it names the operation and the entity, never a password.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let (message, code, driver) = (message.into(), 0, "");
        Self { kind, message, code, driver, reply: None, consumer: None, source: None }
    }

    /// The same error with the cause attached; the cause's text is appended when displayed.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with an AMQP reply code.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.code = code;
        self
    }

    /// The same error with the broker's own words.
    #[must_use]
    pub fn with_reply(mut self, reply: Reply) -> Self {
        self.reply = Some(Box::new(reply));
        self
    }

    /// The same error, of a broker whose own client library has exceptions that programs catch.
    #[must_use]
    pub fn with_driver(mut self, driver: &'static str) -> Self {
        self.driver = driver;
        self
    }

    /// The same error, about a consumer: the number of its channel, and its tag.
    #[must_use]
    pub fn with_consumer(mut self, channel: u64, tag: &str) -> Self {
        self.consumer = Some(Box::new((channel, tag.to_owned())));
        self
    }

    /// What went wrong, as callers react to it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The AMQP reply code, 0 when there is none.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The broker's own words, if [`Error::with_reply`] gave them.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_deref()
    }

    /// The consumer that [`Error::with_consumer`] named.
    pub fn consumer(&self) -> Option<(u64, &str)> {
        self.consumer.as_deref().map(|(channel, tag)| (*channel, &**tag))
    }

    /// The broker that [`Error::with_driver`] named; empty when there is none.
    pub fn driver(&self) -> &'static str {
        self.driver
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Shorthands, one for each kind that the core raises itself.
impl Error {
    /// An error of kind [`ErrorKind::Connection`].
    pub fn connection(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Connection, message)
    }

    /// An error of kind [`ErrorKind::Channel`].
    pub fn channel(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Channel, message)
    }

    /// An error of kind [`ErrorKind::Timeout`].
    pub fn timeout(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    /// An error of kind [`ErrorKind::Auth`].
    pub fn auth(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Auth, message)
    }

    /// An error of kind [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// An error of kind [`ErrorKind::Type`].
    pub fn type_error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Type, message)
    }

    /// An error of kind [`ErrorKind::Decode`].
    pub fn decode(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Decode, message)
    }

    /// An error of kind [`ErrorKind::Encode`].
    pub fn encode(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Encode, message)
    }

    /// An error of kind [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// An error of kind [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An error of kind [`ErrorKind::Closed`].
    pub fn closed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Closed, message)
    }

    /// An error of kind [`ErrorKind::Limit`].
    pub fn limit(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// An error of kind [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}
