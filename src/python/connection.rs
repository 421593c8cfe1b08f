//! The native path of `kombu_rs.connection.Connection`: draining events.

use super::transport::Transport;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The native base of connections.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Connection {}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {}
    }

    /// Wait for an event (a message, mostly) and handle it.
    ///
    /// Arguments:
    ///     timeout: give up after so many seconds. Default: wait for ever.
    ///
    /// Raises:
    ///     socket.timeout: nothing came in time.
    #[pyo3(signature = (**kwargs))]
    fn drain_events(
        slf: &Bound<'_, Self>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        // Connected already: `_transport` is what `_connection` came from.
        let open = slf.getattr(intern!(py, "_connection"))?;
        if open.is_instance_of::<Transport>()
            && open.cast::<Transport>()?.get().is_plain(&open.get_type())
            && open.is(&slf.getattr(intern!(py, "_transport"))?)
        {
            let timeout = match kwargs {
                None => Some(None),
                Some(kwargs) => match (kwargs.len(), kwargs.get_item(intern!(py, "timeout"))?) {
                    (0, _) => Some(None),
                    (1, Some(timeout)) => Some(timeout.extract::<Option<f64>>()?),
                    _ => None,
                },
            };
            if let Some(timeout) = timeout {
                Transport::drain_events(open.cast::<Transport>()?, None, timeout)?;
                return Ok(py.None());
            }
        }
        let transport = slf.getattr(intern!(py, "transport"))?;
        let connection = slf.getattr(intern!(py, "connection"))?;
        transport.call_method(intern!(py, "drain_events"), (connection,), kwargs).map(Bound::unbind)
    }
}
