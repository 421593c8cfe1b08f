//! `Channel.create_publish_batch`: messages that go out together.

use super::channel::{Channel, publisher_tag};
use super::{amqp, body};
use crate::io::lock::Mutex;
use crate::model::Message;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

mod classes {
    pyo3::import_exception!(kombu_rs.exceptions, BatchPublishError);
}

/// Messages collected for one channel.
///
/// Arguments:
///     channel: where they will be published.
///     max_size: send whenever so many have come together.
#[pyclass(frozen, module = "kombu_rs._native")]
pub struct PublishBatch {
    channel: Py<Channel>,
    max_size: usize,
    state: Mutex<State>,
}

enum State {
    Open(Vec<Message>),
    /// Something was sent, and nobody knows how much of it arrived.
    Failed,
    Aborted,
    Closed,
}

impl State {
    /// What was collected so far.
    fn pending(&mut self) -> PyResult<&mut Vec<Message>> {
        match self {
            Self::Open(pending) => Ok(pending),
            Self::Failed => Err(classes::BatchPublishError::new_err(
                "the publish batch cannot go on after its previous failure",
            )),
            Self::Aborted => Err(PyRuntimeError::new_err("the publish batch was aborted")),
            Self::Closed => Err(PyRuntimeError::new_err("the publish batch is closed")),
        }
    }
}

impl PublishBatch {
    /// Collects a message; sends when there are enough.
    pub(super) fn add(&self, py: Python<'_>, message: Message) -> PyResult<()> {
        let full = {
            let mut state = self.state.lock();
            let pending = state.pending()?;
            pending.push(message);
            pending.len() >= self.max_size
        };
        if full { self.flush(py) } else { Ok(()) }
    }

    fn end(&self, how: State) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Closed) {
            *state = how;
        }
    }
}

#[pymethods]
impl PublishBatch {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }

    #[new]
    #[pyo3(signature = (channel, max_size=1000))]
    pub(super) fn new(channel: Py<Channel>, max_size: usize) -> Self {
        Self { channel, max_size, state: Mutex::new(State::Open(Vec::new())) }
    }

    /// Collect a message that ``Channel.prepare_message`` made.
    ///
    /// Raises:
    ///     BatchPublishError: sending has failed before.
    ///     RuntimeError: the batch was aborted or closed.
    #[pyo3(signature = (message, exchange="", routing_key="", **_kwargs))]
    fn publish(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        exchange: &str,
        routing_key: &str,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.state.lock().pending()?;
        if self.channel.get().inner().amqp().is_some() {
            return self.add(py, amqp::prepared(message, exchange, routing_key)?);
        }
        let encoding = Channel::encoding(self.channel.bind(py))?;
        let tag = publisher_tag();
        let message = message.cast::<PyDict>()?;
        self.add(py, body::message(message, exchange, routing_key, tag, encoding)?)
    }

    /// Send what was collected.
    ///
    /// Raises:
    ///     BatchPublishError: it could not be sent, now or before, or nobody knows how much of it
    ///         arrived: nothing of it is sent again.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let ready = match &mut *self.state.lock() {
            State::Aborted | State::Closed => return Ok(()),
            state => std::mem::take(state.pending()?),
        };
        if ready.is_empty() {
            return Ok(());
        }
        let channel = self.channel.get();
        channel.before_use(py)?;
        channel.run(py, channel.inner().publish(ready)).map_err(|error| {
            self.end(State::Failed);
            if !error.is_instance_of::<PyException>(py) {
                return error; // a signal handler's KeyboardInterrupt
            }
            let text = format!("a batch was not sent as a whole, delivery is uncertain: {error}");
            let failed = classes::BatchPublishError::new_err(text);
            failed.set_cause(py, Some(error));
            failed
        })
    }

    /// Drop what was collected, and refuse further messages.
    fn discard(&self) {
        self.end(State::Aborted);
    }

    /// Refuse further messages; what was collected is dropped.
    fn close(&self) {
        *self.state.lock() = State::Closed;
    }
}
