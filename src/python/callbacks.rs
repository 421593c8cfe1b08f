//! The only place that takes the GIL back from native code.

use pyo3::prelude::*;

/// Runs pending signal handlers.
///
/// # Errors
/// What a handler raised (`KeyboardInterrupt`, ...).
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub fn check_signals() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// Sets an exception as the current one, to be found by whoever returns to Python.
#[allow(clippy::disallowed_methods, reason = "the one place that may")]
pub fn restore(error: PyErr) {
    Python::attach(|py| error.restore(py));
}
