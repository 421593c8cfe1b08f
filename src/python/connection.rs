//! The native path of `kombu_rs.connection.Connection`: draining events.

use super::once::intern;
use super::overrides;
use super::transport::Transport;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The native base of connections.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Connection {}

impl Connection {
    /// Whether draining is nothing but draining `open`, the transport's connection: nobody has a
    /// `drain_events` of their own on the way, and nothing has to be opened first.
    fn goes_to_core(slf: &Bound<'_, Self>, open: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let Ok(native) = open.cast::<Transport>() else { return Ok(false) };
        if !native.get().is_plain(&open.get_type()) {
            return Ok(false);
        }
        let transport = slf.getattr(intern!(py, "_transport"))?;
        if open.is(&transport) {
            return Ok(true); // connected already: `_connection` came from it
        }
        // AMQP's transport makes connections, of which a lost one is not opened again by draining it.
        if !native.get().is_connected()
            || !overrides::is_plain(&transport.get_type())
            || slf.getattr(intern!(py, "_closed"))?.is_truthy()?
        {
            return Ok(false);
        }
        let own = transport.getattr(intern!(py, "__dict__"))?;
        let own = own.cast::<PyDict>()?;
        Ok(!own.contains(intern!(py, "drain_events"))?
            && !own.contains(intern!(py, "verify_connection"))?)
    }
}

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
        let open = slf.getattr(intern!(py, "_connection"))?;
        if Self::goes_to_core(slf, &open)? {
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
