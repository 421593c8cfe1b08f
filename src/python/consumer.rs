//! The native path of `kombu_rs.messaging.Consumer`: from a delivery to the callbacks.

use super::channel::Channel;
use super::message::Message;
use super::once::intern;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The native base of consumers.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Consumer {}

impl Consumer {
    /// The message as Python's, checked and (without `on_message`) decoded. `None` when it was handed
    /// to `on_decode_error` already.
    fn prepared<'py>(
        slf: &Bound<'py, Self>,
        message: &mut Bound<'py, PyAny>,
        decode: bool,
        on_decode_error: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let channel = slf.getattr(intern!(py, "channel"))?;
        if !message.is_instance_of::<Message>() || Channel::native(&channel).is_none() {
            let convert = channel.getattr_opt(intern!(py, "message_to_python"))?;
            if let Some(convert) = convert.filter(|convert| !convert.is_none()) {
                *message = convert.call1((&*message,))?;
            }
        }
        let accept = slf.getattr(intern!(py, "accept"))?;
        if let Ok(native) = message.cast::<Message>() {
            if !accept.is_none() {
                native.get().set_accept(accept.unbind());
            }
            if native.get().has_errors(py) {
                let handler = (!on_decode_error.is_none()).then_some(on_decode_error);
                Message::_reraise_error(native, handler)?;
                return Ok(None);
            }
            return match decode {
                // A class derived from ours may decode in its own way.
                true if native.is_exact_instance_of::<Message>() => {
                    Message::decode(native).map(|body| Some(body.into_bound(py)))
                }
                true => message.call_method0(intern!(py, "decode")).map(Some),
                false => Ok(Some(py.None().into_bound(py))),
            };
        }
        if !accept.is_none() {
            message.setattr(intern!(py, "accept"), accept)?;
        }
        if message.getattr(intern!(py, "errors"))?.is_truthy()? {
            message.call_method1(intern!(py, "_reraise_error"), (on_decode_error,))?;
            return Ok(None);
        }
        match decode {
            true => message.call_method0(intern!(py, "decode")).map(Some),
            false => Ok(Some(py.None().into_bound(py))),
        }
    }
}

#[pymethods]
impl Consumer {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {}
    }

    /// Make the raw message a ``Message``, decode it and hand it to the application: what the channel
    /// calls for each delivery.
    fn _receive_callback<'py>(
        slf: &Bound<'py, Self>,
        mut message: Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let on_message = slf.getattr(intern!(py, "on_message"))?;
        let on_message = if on_message.is_truthy()? { Some(on_message) } else { None };
        let on_decode_error = slf.getattr(intern!(py, "on_decode_error"))?;
        let decoded =
            match Self::prepared(slf, &mut message, on_message.is_none(), &on_decode_error) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => return Ok(py.None()),
                Err(error) => {
                    let handled =
                        on_decode_error.is_truthy()? && error.is_instance_of::<PyException>(py);
                    if !handled {
                        return Err(error);
                    }
                    on_decode_error.call1((message, error.value(py)))?;
                    return Ok(py.None());
                }
            };
        match on_message {
            Some(on_message) => on_message.call1((message,)).map(Bound::unbind),
            None => slf.call_method1(intern!(py, "receive"), (decoded, message)).map(Bound::unbind),
        }
    }
}
