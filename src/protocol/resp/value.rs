//! What a server answers.

use bytes::Bytes;
use std::fmt;

/// One reply, or one part of an aggregate reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `_`, and the null bulk string and null array of RESP2.
    Null,
    /// `#t` or `#f`.
    Bool(bool),
    /// `:`
    Int(i64),
    /// `,`
    Double(f64),
    /// `(`: decimal digits, as sent.
    BigNumber(Bytes),
    /// `+`
    Simple(Bytes),
    /// `$`
    Bulk(Bytes),
    /// `=`: the text, without its three-letter format.
    Verbatim(Bytes),
    /// `-` or `!`
    Error(ServerError),
    /// `*`
    Array(Vec<Value>),
    /// `%`
    Map(Vec<(Value, Value)>),
    /// `~`
    Set(Vec<Value>),
    /// `>`: not a reply, sent by the server on its own account.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of any kind of string.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Simple(text) | Self::Bulk(text) | Self::Verbatim(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an integer reply.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of an array or set.
    pub fn into_items(self) -> Option<Vec<Self>> {
        match self {
            Self::Array(items) | Self::Set(items) => Some(items),
            _ => None,
        }
    }

    /// What kind of value this is, for error messages; never its content.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) => "integer",
            Self::Double(_) => "double",
            Self::BigNumber(_) => "big number",
            Self::Simple(_) => "simple string",
            Self::Bulk(_) => "bulk string",
            Self::Verbatim(_) => "verbatim string",
            Self::Error(_) => "error",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Set(_) => "set",
            Self::Push(_) => "push",
        }
    }
}

/// An error reply: `WRONGTYPE Operation against a key ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError(Bytes);

impl ServerError {
    /// From the line as sent, without `-` and line end.
    pub fn new(line: impl Into<Bytes>) -> Self {
        Self(line.into())
    }

    /// Its first word: `ERR`, `NOSCRIPT`, `OOM`, ...
    pub fn code(&self) -> &str {
        let word = self.0.split(|byte| *byte == b' ').next().unwrap_or_default();
        std::str::from_utf8(word).unwrap_or("ERR")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::error::Error for ServerError {}
