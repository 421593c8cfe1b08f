//! How the calling thread sleeps: poll(2), or a greenlet hub where the process is patched for one.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static LOOKED: AtomicBool = AtomicBool::new(false);
static WAIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Looks again whether gevent or eventlet have patched the process; called when a connection is made.
///
/// # Errors
/// What importing the helper raises.
pub fn look(py: Python<'_>) -> PyResult<()> {
    if WAIT.get(py).is_none() {
        let found = py.import("kombu_rs._greenlets")?.getattr("find_wait")?.call0()?;
        if !found.is_none() {
            let _ = WAIT.set(py, found.unbind());
        }
    }
    LOOKED.store(true, Ordering::Release);
    Ok(())
}

/// The function `wait(fds, timeout)` that parks the current greenlet; `None` where threads block.
///
/// # Errors
/// As [`look`].
pub fn greenlet_wait(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    if !LOOKED.load(Ordering::Acquire) {
        look(py)?;
    }
    Ok(WAIT.get(py).map(|wait| wait.bind(py).clone()))
}
