//! The one door from Python into native work: the GIL is released, signals are seen, errors mapped.

use super::errors::{OrRaise, to_python};
use super::{budget, logs, waiters};
use crate::error::{Error, ErrorKind, Result};
use crate::io::fork;
use crate::io::task::{self, Driver, Waiter, Wants, Woken};
use pyo3::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The longest timeout that is told apart from "for ever".
const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365);

type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A deadline from a Python timeout in seconds; `None`: none.
///
/// # Errors
/// `ValueError` for seconds that are not a number.
pub fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        let text = format!("timeout must be a number of seconds, got {seconds}");
        return Err(pyo3::exceptions::PyValueError::new_err(text));
    }
    let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST);
    Ok(Some(Instant::now() + wait.min(LONGEST)))
}

/// Runs `future` to its end, or to that of the budget of the call that it belongs to.
///
/// # Errors
/// The future's error as a Python exception, or what a signal handler raised; `TimeoutError` when
/// the budget is used up.
pub fn enter<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    let deadline = budget::deadline(py)?;
    match enter_until(py, future, deadline)? {
        Some(value) => Ok(value),
        None => Err(to_python(py, &Error::timeout("the broker did not answer within the timeout"))),
    }
}

/// Runs `future` until `deadline`; `None` when that passed first (the future is dropped).
///
/// # Errors
/// As [`enter`].
pub fn enter_until<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send,
    deadline: Option<Instant>,
) -> PyResult<Option<T>> {
    // On the heap: under gevent this stack is copied away while another greenlet runs on it.
    let mut future: Work<'_, T> = Box::pin(future);
    let generation = fork::generation();
    let done = match waiters::greenlet_wait(py)? {
        Some(wait) => drive_in_greenlet(py, &mut future, &wait, deadline),
        None => py.detach(|| task::block_on(&mut future, &Detached, deadline)).or_raise(py),
    };
    if !task::is_current(generation) {
        // A child that was forked on top of this call. The call is the parent's: its locks may be
        // held by threads that do not exist here, so it is not even dropped.
        std::mem::forget(future);
    }
    logs::flush(py)?;
    done?.transpose().or_raise(py)
}

/// Sleeps in poll(2) without the GIL; a signal's handler runs at once.
struct Detached;

impl Waiter for Detached {
    fn wait(&self, wants: &Wants) -> Result<()> {
        match task::poll_fds(wants)? {
            Woken::Ready => return Ok(()),
            // A signal may have come between two sleeps: who sleeps again and again, as before a
            // locked file, would never hear of it. Only the main thread runs handlers.
            Woken::TimedOut if !is_main_thread() => return Ok(()),
            Woken::TimedOut | Woken::Interrupted => {}
        }
        task::handle_signals(super::callbacks::check_signals).map_err(|error| {
            super::callbacks::restore(error);
            Error::new(ErrorKind::Interrupted, "a signal handler raised")
        })
    }
}

fn is_main_thread() -> bool {
    // SAFETY: both only ask.
    unsafe { libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid()) }
}

/// As `block_on`, sleeping on the hub of gevent or eventlet. The GIL is released for each poll only:
/// no release may span a switch of greenlets.
fn drive_in_greenlet<T: Send>(
    py: Python<'_>,
    future: &mut Work<'_, T>,
    wait: &Bound<'_, PyAny>,
    deadline: Option<Instant>,
) -> PyResult<Option<Result<T>>> {
    let mut driver = Driver::new(deadline).or_raise(py)?;
    loop {
        let late = driver.is_late();
        if let Poll::Ready(value) = py.detach(|| driver.poll(future.as_mut())) {
            return Ok(Some(value));
        }
        if late {
            return Ok(None);
        }
        let Some(wants) = driver.before_sleep() else { continue };
        let fds: Vec<(i32, u8)> =
            wants.fds.iter().map(|&(fd, interest)| (fd, interest.bits())).collect();
        let timeout =
            wants.until.map(|until| until.saturating_duration_since(Instant::now()).as_secs_f64());
        let waited = wait.call1((fds, timeout));
        driver.after_sleep();
        waited?;
        driver.same_process().or_raise(py)?;
    }
}
