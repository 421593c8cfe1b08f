//! What an error reply means to Kombu's callers.

use crate::error::{Error, ErrorKind};
use crate::protocol::resp::{ServerError, Value};

/// The same error, marked as one of Redis: programs may catch redis-py's exceptions. A limit of this
/// process is none of Redis.
pub(super) fn ours(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Limit => error,
        _ => error.with_driver("redis"),
    }
}

/// The error for a refused command. `what` names the operation and the entity.
pub(super) fn refused(what: &str, error: &ServerError) -> Error {
    let kind = match error.code() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Auth,
        _ if is_misplaced(error) => ErrorKind::Connection,
        "OOM" => ErrorKind::Limit,
        _ => ErrorKind::Channel,
    };
    Error::new(kind, format!("Redis refused {what}: {error}")).with_driver("redis")
}

/// Whether this server cannot do it but another one, or this one later, could: connect again.
pub(super) fn is_misplaced(error: &ServerError) -> bool {
    matches!(
        error.code(),
        "READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS" | "CLUSTERDOWN" | "TRYAGAIN"
    )
}

/// The error for a reply of a kind that the command does not have.
pub(super) fn unexpected(what: &str, reply: &Value) -> Error {
    Error::decode(format!("Redis answered {what} with a {}", reply.kind()))
}
