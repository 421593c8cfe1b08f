//! `Channel.create_publish_batch`: messages that go out together.

use super::body;
use super::channel::{Channel, publisher_tag};
use super::enter::enter;
use crate::io::lock::Mutex;
use crate::model::Message;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Messages collected for one channel.
///
/// Arguments:
///     channel: where they will be published.
///     max_size: send whenever so many have come together.
#[pyclass(frozen, module = "kombu_rs._native")]
pub struct PublishBatch {
    channel: Py<Channel>,
    max_size: usize,
    /// None once the batch is closed.
    pending: Mutex<Option<Vec<Message>>>,
}

impl PublishBatch {
    pub(super) fn make(channel: Py<Channel>, max_size: usize) -> Self {
        Self { channel, max_size, pending: Mutex::new(Some(Vec::new())) }
    }

    /// Collects a message; sends when there are enough.
    pub(super) fn add(&self, py: Python<'_>, message: Message) -> PyResult<()> {
        let full = {
            let mut pending = self.pending.lock();
            let Some(pending) = pending.as_mut() else {
                return Err(PyRuntimeError::new_err("the publish batch is closed"));
            };
            pending.push(message);
            pending.len() >= self.max_size
        };
        if full { self.flush(py) } else { Ok(()) }
    }
}

#[pymethods]
impl PublishBatch {
    /// Collect a message that ``Channel.prepare_message`` made.
    #[pyo3(signature = (message, exchange="", routing_key="", **_kwargs))]
    fn publish(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyDict>,
        exchange: &str,
        routing_key: &str,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let encoding = Channel::encoding(self.channel.bind(py))?;
        let tag = publisher_tag();
        self.add(py, body::message(message, exchange, routing_key, tag, encoding)?)
    }

    /// Send what was collected.
    ///
    /// Raises:
    ///     OperationalError: the broker cannot be reached. What was collected is dropped: some of it
    ///         may have arrived.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let ready = self.pending.lock().as_mut().map(std::mem::take).unwrap_or_default();
        if ready.is_empty() {
            return Ok(());
        }
        enter(py, self.channel.get().inner().publish(ready))
    }

    /// Drop what was collected.
    fn discard(&self) {
        if let Some(pending) = self.pending.lock().as_mut() {
            pending.clear();
        }
    }

    /// Refuse further messages; what was collected is dropped.
    fn close(&self) {
        *self.pending.lock() = None;
    }
}
