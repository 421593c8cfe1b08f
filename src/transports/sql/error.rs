//! What SQLite reports, in the core's terms.

use super::config::Location;
use crate::error::Error;
use rusqlite::ErrorCode;

/// Whether others hold the lock that was needed: worth another try.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// Whether the connection should be opened anew before the next use.
pub(super) fn is_fatal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
        )
    )
}

/// The error of a failed `operation` on the database at `location`.
pub(super) fn convert(operation: &str, location: &Location, error: rusqlite::Error) -> Error {
    let what = |text: &str| format!("{operation}: {text} (SQLite database {location})");
    let converted = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::connection(what("the disk is full")),
        Some(ErrorCode::ReadOnly) => Error::new(
            crate::error::ErrorKind::Auth,
            what("the file or its directory may not be written to"),
        ),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            Error::new(crate::error::ErrorKind::Auth, what("permission denied"))
        }
        Some(ErrorCode::NotADatabase) => Error::invalid(what("the file is not a database")),
        Some(ErrorCode::DatabaseCorrupt) => Error::connection(what("the file is damaged")),
        Some(ErrorCode::CannotOpen) => Error::connection(what(
            "the file cannot be opened; does its directory exist, and may it be written to",
        )),
        Some(ErrorCode::TooBig) => Error::invalid(what("the message is too big for SQLite")),
        _ if is_busy(&error) => Error::connection(what("locked by others for too long")),
        _ => Error::connection(what("failed")),
    };
    converted.with_source(error)
}
