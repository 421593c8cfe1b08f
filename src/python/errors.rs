//! From the core's errors to Python's exceptions.
//!
//! The hierarchy is defined in `kombu_rs.exceptions`; here is only who becomes what.

use crate::error::{Error, ErrorKind};
use pyo3::exceptions::{
    PyNotImplementedError, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;

mod classes {
    pyo3::import_exception!(kombu_rs.exceptions, OperationalError);
    pyo3::import_exception!(kombu_rs.exceptions, DecodeError);
    pyo3::import_exception!(kombu_rs.exceptions, EncodeError);
    pyo3::import_exception!(kombu_rs.exceptions, ConnectionLimitExceeded);
}

/// The exception for an error of the core. Raised from inside a wait, `Interrupted` stands for an
/// exception that Python has set already.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Connection | ErrorKind::Auth => classes::OperationalError::new_err(text),
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
        ErrorKind::Internal => PyRuntimeError::new_err(text),
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
