//! From the core's errors to Python's exceptions.
//!
//! The hierarchy is defined in `kombu_rs.exceptions`; here is only who becomes what.

use crate::error::{Error, ErrorKind};
use pyo3::exceptions::{
    PyNotImplementedError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;

mod classes {
    pyo3::import_exception!(kombu_rs.exceptions, BrokerConnectionError);
    pyo3::import_exception!(kombu_rs.exceptions, DecodeError);
    pyo3::import_exception!(kombu_rs.exceptions, EncodeError);
    pyo3::import_exception!(kombu_rs.exceptions, ConnectionLimitExceeded);
}

/// The exception for an error of the core. Raised from inside a wait, `Interrupted` stands for an
/// exception that Python has set already.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let text = error.to_string();
    // What is wrong with an option or a file is no matter of the broker's.
    let ours = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Type);
    if error.driver() == "amqp" && !ours
        || matches!(error.kind(), ErrorKind::NotTaken | ErrorKind::Cancelled)
    {
        return of_amqp(py, error, &text);
    }
    if let Some(error) = of_driver(py, error, &text) {
        return error;
    }
    match error.kind() {
        ErrorKind::Connection | ErrorKind::Auth => classes::BrokerConnectionError::new_err(text),
        // A broker that is full refuses one operation; its link is fine.
        ErrorKind::Limit if !error.driver().is_empty() => amqp(py, "ChannelError", error, &text),
        ErrorKind::Limit => classes::ConnectionLimitExceeded::new_err(text),
        ErrorKind::Timeout => PyTimeoutError::new_err(text),
        ErrorKind::Invalid => PyValueError::new_err(text),
        ErrorKind::Type => PyTypeError::new_err(text),
        ErrorKind::Decode => classes::DecodeError::new_err(text),
        ErrorKind::Encode => classes::EncodeError::new_err(text),
        ErrorKind::Unsupported => PyNotImplementedError::new_err(text),
        ErrorKind::Channel | ErrorKind::NotFound => amqp(py, "ChannelError", error, &text),
        ErrorKind::Closed => amqp(py, "RecoverableConnectionError", error, &text),
        ErrorKind::Interrupted => {
            PyErr::take(py).unwrap_or_else(|| PyRuntimeError::new_err("interrupted"))
        }
        ErrorKind::Internal | ErrorKind::NotTaken | ErrorKind::Cancelled => {
            PyRuntimeError::new_err(text)
        }
    }
}

/// The exception for an error of a broker that speaks AMQP itself, with its own words: py-amqp's names.
/// `kombu_rs.transport.amqp.errors.from_core(kind, code, text, reply, method)` picks the class.
fn of_amqp(py: Python<'_>, error: &Error, text: &str) -> PyErr {
    let kind = match error.kind() {
        ErrorKind::Connection => "connection",
        ErrorKind::Auth => "auth",
        ErrorKind::Closed => "closed",
        ErrorKind::NotTaken => "nacked",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Channel | ErrorKind::NotFound => "channel",
        ErrorKind::Limit => "limit",
        ErrorKind::Unsupported => "unsupported",
        _ => "other",
    };
    let reply = error.reply().map(|reply| (reply.text.as_str(), reply.method));
    let made = py
        .import("kombu_rs.transport.amqp.errors")
        .and_then(|errors| errors.getattr("from_core")?.call1((kind, error.code(), text, reply)));
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// The exception for an error of a broker whose client library the program has imported: then it is
/// one of that library's, too. `kombu_rs.exceptions.driver_error(driver, kind)` picks the class.
fn of_driver(py: Python<'_>, error: &Error, text: &str) -> Option<PyErr> {
    let kind = match error.kind() {
        ErrorKind::Connection => "connection",
        ErrorKind::Auth => "auth",
        ErrorKind::Channel if error.code() == 0 => "channel",
        ErrorKind::Limit => "memory",
        _ => return None,
    };
    if error.driver().is_empty() {
        return None;
    }
    let made = py.import("kombu_rs.exceptions").and_then(|exceptions| {
        let class = exceptions.getattr("driver_error")?.call1((error.driver(), kind))?;
        if class.is_none() { Ok(None) } else { class.call1((text,)).map(Some) }
    });
    match made {
        Ok(made) => made.map(PyErr::from_value),
        Err(failed) => Some(failed),
    }
}

/// An AMQP error: `kombu_rs.exceptions.error_for_code(code, text, None, default)` picks the class.
fn amqp(py: Python<'_>, default: &str, error: &Error, text: &str) -> PyErr {
    let made = py.import("kombu_rs.exceptions").and_then(|exceptions| {
        let default = exceptions.getattr(default)?;
        if error.code() == 0 {
            return default.call1((text,));
        }
        exceptions.getattr("error_for_code")?.call1((error.code(), text, py.None(), default))
    });
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// `?` from core results in functions that return `PyResult`.
pub trait OrRaise<T> {
    /// The value, or the Python exception for the error.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for crate::error::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, &error))
    }
}
