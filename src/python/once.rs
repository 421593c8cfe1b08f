//! What is found once, while other threads may fork.
//!
//! Nobody waits for another thread here, as `PyOnceLock::get_or_init` does: whoever makes the thing
//! lets go of the GIL, another thread forks, and the child would wait for ever for a thread that it
//! does not have.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// What `cell` holds, made by `make` at first. Two threads may do so at the same time: one result is
/// kept.
///
/// # Errors
/// What `make` raises.
pub fn get_or_make<'a, T>(
    py: Python<'_>,
    cell: &'a PyOnceLock<T>,
    make: impl FnOnce() -> PyResult<T>,
) -> PyResult<&'a T> {
    if let Some(known) = cell.get(py) {
        return Ok(known);
    }
    let made = make()?;
    // Under the GIL from here on; refused when another thread was faster.
    let _ = cell.set(py, made);
    Ok(cell.get(py).expect("it was set above, here or by another thread"))
}

/// A string that Python knows by its address, made when it is first used.
pub struct Interned(&'static str, PyOnceLock<Py<PyString>>);

impl Interned {
    /// Of that text.
    pub const fn new(text: &'static str) -> Self {
        Self(text, PyOnceLock::new())
    }

    /// The string.
    pub fn get<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        let make = || Ok(PyString::intern(py, self.0).unbind());
        get_or_make(py, &self.1, make).expect("making a string does not fail").bind(py)
    }
}

/// `intern!(py, "text")`: as `pyo3::intern!`, without its `get_or_init`. A macro, as each place has a
/// static of its own.
macro_rules! intern {
    ($py:expr, $text:expr) => {{
        static INTERNED: $crate::python::once::Interned =
            $crate::python::once::Interned::new($text);
        INTERNED.get($py)
    }};
}
pub(crate) use intern;
