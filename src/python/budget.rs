//! One time limit for all that a call does: connecting, declaring, sending, waiting for the answer.
//!
//! It is a context variable, so that greenlets and threads have their own.

use super::once::{get_or_make, intern};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many budgets there are in this process: with none nobody has to ask Python.
static BUDGETS: AtomicUsize = AtomicUsize::new(0);

/// Until when what native code does now must end, if a budget says so.
///
/// # Errors
/// What Python raises when it is asked for a context variable.
pub fn deadline(py: Python<'_>) -> PyResult<Option<Instant>> {
    Ok(left(py)?.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.max(0.0))))
}

/// The seconds that are left; negative when they are over.
fn left(py: Python<'_>) -> PyResult<Option<f64>> {
    if BUDGETS.load(Ordering::Relaxed) == 0 {
        return Ok(None);
    }
    let until: Option<f64> = variable(py)?.call_method0(intern!(py, "get"))?.extract()?;
    until.map(|until| Ok(until - now(py)?)).transpose()
}

fn now(py: Python<'_>) -> PyResult<f64> {
    py.import(intern!(py, "time"))?.call_method0(intern!(py, "monotonic"))?.extract()
}

fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = get_or_make(py, &VARIABLE, || {
        let variables = py.import("contextvars")?;
        let made = variables.call_method1("ContextVar", ("kombu_rs.budget",))?;
        made.call_method1("set", (py.None(),))?;
        Ok(made.unbind())
    })?;
    Ok(made.bind(py))
}

/// A time limit that is in force until it is dropped.
pub struct Budget<'py>(Bound<'py, PyAny>);

impl<'py> Budget<'py> {
    /// At most `seconds`, or what is left of the budget that is in force already.
    ///
    /// # Errors
    /// `TypeError` or `ValueError` for what is no number of seconds.
    pub fn start(seconds: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Self>> {
        let Some(seconds) = seconds.filter(|seconds| !seconds.is_none()) else { return Ok(None) };
        let py = seconds.py();
        let seconds: f64 = seconds.extract().map_err(|_| {
            let text = format!("timeout must be a number of seconds, got {seconds:?}");
            pyo3::exceptions::PyTypeError::new_err(text)
        })?;
        if seconds == 0.0 {
            return Ok(None);
        }
        if seconds.is_nan() || seconds < 0.0 {
            let text = format!("timeout must be a positive number of seconds, got {seconds}");
            return Err(pyo3::exceptions::PyValueError::new_err(text));
        }
        let seconds = match left(py)? {
            Some(outer) => seconds.min(outer),
            None => seconds,
        };
        let token = variable(py)?.call_method1(intern!(py, "set"), (now(py)? + seconds,))?;
        BUDGETS.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Self(token)))
    }
}

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        BUDGETS.fetch_sub(1, Ordering::Relaxed);
        let py = self.0.py();
        let reset = variable(py)
            .and_then(|variable| variable.call_method1(intern!(py, "reset"), (&self.0,)));
        if let Err(error) = reset {
            error.write_unraisable(py, None);
        }
    }
}

/// The seconds that are left of the time limit of the call that is under way; None without one.
#[pyfunction]
fn budget(py: Python<'_>) -> PyResult<Option<f64>> {
    left(py)
}

/// Adds the functions to the native module.
///
/// # Errors
/// What Python raises.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(budget, module)?)
}
