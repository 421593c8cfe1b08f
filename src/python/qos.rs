//! `channel.qos`: a view on a channel's prefetch limit and its unacknowledged messages.

use super::channel::Channel;
use super::enter::enter;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How many unacknowledged messages a channel may hold, and which ones it holds.
///
/// Arguments:
///     channel: whose.
///     prefetch_count: the limit to set; 0 for none.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct QoS {
    channel: Py<Channel>,
}

impl QoS {
    fn credit(&self) -> (usize, usize) {
        let (held, limit) = self.channel.get().inner().credit();
        (held, limit as usize)
    }
}

#[pymethods]
impl QoS {
    #[new]
    #[pyo3(signature = (channel, prefetch_count=0))]
    fn new(channel: Bound<'_, Channel>, prefetch_count: u32) -> PyResult<Self> {
        if prefetch_count > 0 {
            enter(channel.py(), channel.get().inner().qos(prefetch_count))?;
        }
        Ok(Self { channel: channel.unbind() })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }

    /// The channel it belongs to.
    #[getter]
    fn channel(&self, py: Python<'_>) -> Py<Channel> {
        self.channel.clone_ref(py)
    }

    /// The limit; 0 for none.
    #[getter]
    fn prefetch_count(&self) -> usize {
        self.credit().1
    }

    #[setter]
    fn set_prefetch_count(&self, py: Python<'_>, value: u32) -> PyResult<()> {
        enter(py, self.channel.get().inner().qos(value))
    }

    /// Whether another message may be taken.
    fn can_consume(&self) -> bool {
        let (held, limit) = self.credit();
        limit == 0 || held < limit
    }

    /// How many messages may be taken now; None without a limit.
    fn can_consume_max_estimate(&self) -> Option<usize> {
        let (held, limit) = self.credit();
        (limit > 0).then(|| limit.saturating_sub(held))
    }

    /// Acknowledge a delivery.
    fn ack(&self, py: Python<'_>, delivery_tag: &Bound<'_, PyAny>) -> PyResult<()> {
        self.channel.get().settle_ack(py, delivery_tag, false)
    }

    /// Reject a delivery: drop it, or put it back with ``requeue``.
    #[pyo3(signature = (delivery_tag, requeue=false))]
    fn reject(
        &self,
        py: Python<'_>,
        delivery_tag: &Bound<'_, PyAny>,
        requeue: bool,
    ) -> PyResult<()> {
        let kwargs = PyDict::new(py);
        kwargs.set_item("requeue", requeue)?;
        self.channel.bind(py).call_method("basic_reject", (delivery_tag,), Some(&kwargs)).map(drop)
    }

    /// Put all unacknowledged messages back.
    fn restore_unacked(&self, py: Python<'_>) -> PyResult<()> {
        enter(py, self.channel.get().inner().recover())
    }

    /// As :meth:`restore_unacked`, when the process ends. Nothing is printed.
    #[pyo3(signature = (stderr=None))]
    fn restore_unacked_once(
        &self,
        py: Python<'_>,
        stderr: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = stderr;
        self.restore_unacked(py)
    }

    fn __repr__(&self) -> String {
        let (held, limit) = self.credit();
        format!("<QoS: {held} unacknowledged, prefetch_count={limit}>")
    }
}
