//! `kombu_rs.message.Message`: a received message.

use super::channel::Channel;
use super::once::intern;
use super::{amqp, body, names, store};
use crate::io::lock::Mutex;
use crate::model;
use pyo3::exceptions::{PyAttributeError, PyBrokenPipeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use std::sync::Arc;

/// What the broker was told about a message (Kombu's `_state`).
const RECEIVED: &str = "RECEIVED";
const SETTLED: [&str; 3] = ["ACK", "REJECTED", "REQUEUED"];

/// A message as a consumer gets it.
///
/// Arguments:
///     body: the body, encoded, as bytes or text.
///     delivery_tag: what the channel calls this delivery.
///     content_type: how the body is serialized, such as ``application/json``.
///     content_encoding: the character set, ``utf-8``, or ``binary``.
///     delivery_info: where it came from: ``exchange``, ``routing_key``, ...
///     properties: AMQP properties, such as ``correlation_id`` and ``reply_to``.
///     headers: the application's headers.
///     postencode: encode the body (text) with this codec.
///     accept: content types that may be decoded; None: all that are enabled.
///     channel: where to acknowledge.
///
/// What goes wrong while it is made is kept in ``errors`` and raised when it is consumed: the
/// consumer must be able to reject it.
#[pyclass(subclass, dict, weakref, frozen, module = "kombu_rs.message")]
pub struct Message {
    parts: Mutex<Parts>,
}

/// How a message of a broker that speaks AMQP itself came: then it looks as py-amqp's do.
#[derive(Clone)]
pub(super) struct Origin {
    /// The consumer that it came to; `None` for the answer to `basic.get`, and for one that came back.
    pub(super) consumer_tag: Option<model::Name>,
}

/// Parts that came from the broker become Python objects when they are first asked for.
///
/// Every field that the collector visits is an `Option`: with `dict`, CPython 3.11 and 3.12 allocate
/// the dict while the object is all zeroes, and a collection may look at it then.
#[derive(Default)]
struct Parts {
    raw: Option<Arc<model::Message>>,
    origin: Option<Origin>,
    channel: Option<Py<PyAny>>,
    delivery_tag: Option<Py<PyAny>>,
    content_type: Option<Py<PyAny>>,
    content_encoding: Option<Py<PyAny>>,
    delivery_info: Option<Py<PyAny>>,
    headers: Option<Py<PyAny>>,
    properties: Option<Py<PyAny>>,
    body: Option<Py<PyAny>>,
    decoded: Option<Py<PyAny>>,
    accept: Option<Py<PyAny>>,
    errors: Option<Py<PyAny>>,
    state: Option<Py<PyAny>>,
    envelope: Option<Py<PyAny>>,
}

fn name(py: Python<'_>, name: Option<&model::Name>) -> Py<PyAny> {
    name.map_or_else(|| py.None(), |name| PyString::new(py, name).into_any().unbind())
}

impl Message {
    /// A delivered message. What its headers say of compression is undone.
    pub(super) fn delivered(
        py: Python<'_>,
        raw: model::Message,
        tag: &str,
        channel: Py<PyAny>,
        origin: Option<Origin>,
    ) -> PyResult<Py<Self>> {
        let delivery_tag = match &origin {
            Some(_) => amqp::number(py, tag)?,
            None => PyString::new(py, tag).into_any().unbind(),
        };
        let compressed = memchr::memmem::find(raw.headers.as_bytes(), b"\"compression\"").is_some();
        let parts = Parts {
            raw: Some(Arc::new(raw)),
            origin,
            channel: Some(channel),
            delivery_tag: Some(delivery_tag),
            ..Parts::default()
        };
        let message = Py::new(py, Self { parts: Mutex::new(parts) })?;
        if compressed {
            let bound = message.bind(py);
            let this = bound.get();
            let packed = this
                .raw()
                .map_or_else(|| py.None(), |raw| PyBytes::new(py, &raw.body).into_any().unbind());
            let body = this.decompressed(py, packed, &this.headers(py)?)?;
            this.parts.lock().body = Some(body);
        }
        Ok(message)
    }

    /// Undoes the compression that the headers name; a failure goes to `errors`.
    fn decompressed(
        &self,
        py: Python<'_>,
        body: Py<PyAny>,
        headers: &Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let Ok(headers) = headers.bind(py).cast::<PyDict>() else { return Ok(body) };
        let Some(method) = headers.get_item(intern!(py, "compression"))? else { return Ok(body) };
        if !method.is_truthy()? {
            return Ok(body);
        }
        let decompress = py.import("kombu_rs.message")?.getattr("decompress")?;
        match decompress.call1((&body, method)) {
            Ok(plain) => Ok(plain.unbind()),
            Err(error) => {
                self.note(py, error)?;
                Ok(body)
            }
        }
    }

    fn note(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        let info = (error.get_type(py), error.value(py), error.traceback(py));
        self.errors(py)?.bind(py).cast::<PyList>()?.append(info)
    }

    fn raw(&self) -> Option<Arc<model::Message>> {
        self.parts.lock().raw.clone()
    }

    fn origin(&self) -> Option<Origin> {
        self.parts.lock().origin.clone()
    }

    /// The part that `cell` holds, made from the broker's message when it is not there yet.
    fn part(
        &self,
        py: Python<'_>,
        cell: impl Fn(&mut Parts) -> &mut Option<Py<PyAny>>,
        make: impl FnOnce(&model::Message) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(known) = cell(&mut self.parts.lock()).as_ref() {
            return Ok(known.clone_ref(py));
        }
        let Some(raw) = self.raw() else { return Ok(py.None()) };
        let made = make(&raw)?;
        Ok(cell(&mut self.parts.lock()).get_or_insert(made).clone_ref(py))
    }

    fn get(
        &self,
        py: Python<'_>,
        cell: impl Fn(&mut Parts) -> &mut Option<Py<PyAny>>,
    ) -> Py<PyAny> {
        cell(&mut self.parts.lock()).as_ref().map_or_else(|| py.None(), |part| part.clone_ref(py))
    }

    fn set(&self, cell: impl Fn(&mut Parts) -> &mut Option<Py<PyAny>>, value: Py<PyAny>) {
        let old = cell(&mut self.parts.lock()).replace(value);
        drop(old); // outside of the lock: its finalizer may be Python code
    }

    /// Checks that the broker may still be told what to do with this message.
    fn unsettled<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let channel = this.channel(py).into_bound(py);
        let refuse = |text: String| -> PyErr {
            match slf.getattr("MessageStateError").and_then(|class| class.call1((text,))) {
                Ok(error) => PyErr::from_value(error),
                Err(error) => error,
            }
        };
        if channel.is_none() {
            return Err(refuse("This message does not have a receiving channel".into()));
        }
        if this.acknowledged(py)? {
            let state = this.state(py);
            return Err(refuse(format!("Message already acknowledged with state: {state}")));
        }
        Ok(channel)
    }

    fn tell(slf: &Bound<'_, Self>, requeue: bool, state: &str) -> PyResult<()> {
        let py = slf.py();
        let channel = Self::unsettled(slf)?;
        let tag = slf.get().delivery_tag(py);
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "requeue"), requeue)?;
        channel.call_method(intern!(py, "basic_reject"), (tag,), Some(&kwargs))?;
        slf.get().set(|parts| &mut parts.state, PyString::intern(py, state).into_any().unbind());
        Ok(())
    }

    fn log(
        py: Python<'_>,
        logger: &Bound<'_, PyAny>,
        format: &str,
        tag: Py<PyAny>,
        error: &PyErr,
    ) -> PyResult<()> {
        let kwargs = PyDict::new(py);
        kwargs.set_item("exc_info", true)?;
        let value = error.value(py);
        logger.call_method("critical", (format, tag, value), Some(&kwargs)).map(drop)
    }
}

#[pymethods]
impl Message {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        // What `inspect` shows of the class; that of `__init__` it does not see.
        text_signature = "(body=None, delivery_tag=None, content_type=None, content_encoding=None, \
            delivery_info=None, properties=None, headers=None, postencode=None, accept=None, \
            channel=None, **kwargs)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { parts: Mutex::default() }
    }

    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    #[pyo3(signature = (
        body=None, delivery_tag=None, content_type=None, content_encoding=None, delivery_info=None,
        properties=None, headers=None, postencode=None, accept=None, channel=None, **_kwargs
    ))]
    fn __init__(
        slf: &Bound<'_, Self>,
        body: Option<Bound<'_, PyAny>>,
        delivery_tag: Option<Py<PyAny>>,
        content_type: Option<Py<PyAny>>,
        content_encoding: Option<Py<PyAny>>,
        delivery_info: Option<Py<PyAny>>,
        properties: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        postencode: Option<&str>,
        accept: Option<Py<PyAny>>,
        channel: Option<Py<PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let or_empty = |given: Option<Bound<'_, PyAny>>| -> PyResult<Py<PyAny>> {
            match given {
                Some(given) if given.is_truthy()? => Ok(given.unbind()),
                _ => Ok(PyDict::new(py).into_any().unbind()),
            }
        };
        let headers = or_empty(headers)?;
        let properties = or_empty(properties)?;
        let delivery_info = delivery_info.unwrap_or_else(|| PyDict::new(py).into_any().unbind());
        // A derived class may have said before what the message came in.
        let envelope = this.parts.lock().envelope.take();
        *this.parts.lock() = Parts {
            envelope,
            channel,
            delivery_tag,
            content_type,
            content_encoding,
            delivery_info: Some(delivery_info),
            properties: Some(properties),
            headers: Some(headers.clone_ref(py)),
            accept,
            ..Parts::default()
        };
        let Some(body) = body else { return Ok(()) };
        let mut body = this.decompressed(py, body.unbind(), &headers)?;
        if let (Some(codec), true) = (postencode, body.bind(py).is_instance_of::<PyString>()) {
            match body.bind(py).call_method1(intern!(py, "encode"), (codec,)) {
                Ok(encoded) => body = encoded.unbind(),
                Err(error) => this.note(py, error)?,
            }
        }
        this.set(|parts| &mut parts.body, body);
        Ok(())
    }

    /// The exception class for acknowledging twice.
    #[classattr]
    #[pyo3(name = "MessageStateError")]
    fn message_state_error(py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.import("kombu_rs.exceptions")?.getattr("MessageStateError")?.unbind())
    }

    /// Where to acknowledge; None when there is nowhere.
    #[getter]
    fn channel(&self, py: Python<'_>) -> Py<PyAny> {
        self.get(py, |parts| &mut parts.channel)
    }

    #[setter]
    fn set_channel(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.channel, value);
    }

    /// What the channel calls this delivery.
    #[getter]
    fn delivery_tag(&self, py: Python<'_>) -> Py<PyAny> {
        self.get(py, |parts| &mut parts.delivery_tag)
    }

    #[setter]
    fn set_delivery_tag(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.delivery_tag, value);
    }

    /// How the body is serialized, such as ``application/json``.
    #[getter]
    fn content_type(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.part(
            py,
            |parts| &mut parts.content_type,
            |raw| Ok(name(py, raw.content_type.as_ref())),
        )
    }

    #[setter]
    fn set_content_type(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.content_type, value);
    }

    /// The character set of the body, ``utf-8``, or ``binary``.
    #[getter]
    fn content_encoding(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.part(
            py,
            |parts| &mut parts.content_encoding,
            |raw| Ok(name(py, raw.content_encoding.as_ref())),
        )
    }

    #[setter]
    fn set_content_encoding(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.content_encoding, value);
    }

    /// Where the message came from: ``exchange``, ``routing_key``, ...
    #[getter]
    fn delivery_info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.part(
            py,
            |parts| &mut parts.delivery_info,
            |raw| {
                if let Some(origin) = self.origin() {
                    return amqp::delivery_info(py, raw, &origin, self.delivery_tag(py));
                }
                let properties = &raw.properties;
                let info = body::object(py, properties.delivery_info_extra.as_bytes())?;
                info.set_item(names::exchange(py), &*properties.exchange)?;
                info.set_item(names::routing_key(py), &*properties.routing_key)?;
                if raw.redelivered {
                    info.set_item(names::redelivered(py), true)?;
                }
                Ok(info.into_any().unbind())
            },
        )
    }

    #[setter]
    fn set_delivery_info(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.delivery_info, value);
    }

    /// The application's headers.
    #[getter]
    fn headers(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.part(
            py,
            |parts| &mut parts.headers,
            |raw| {
                let headers = body::object(py, raw.headers.as_bytes())?;
                if raw.redelivered && self.origin().is_none() {
                    headers.set_item(names::redelivered(py), true)?;
                }
                Ok(headers.into_any().unbind())
            },
        )
    }

    #[setter]
    fn set_headers(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.headers, value);
    }

    /// AMQP properties, such as ``correlation_id`` and ``reply_to``.
    #[getter]
    fn properties(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(known) = self.parts.lock().properties.as_ref() {
            return Ok(known.clone_ref(py));
        }
        if self.origin().is_some() {
            let headers = self.headers(py)?;
            let make = |raw: &model::Message| amqp::properties(py, raw, headers);
            return self.part(py, |parts| &mut parts.properties, make);
        }
        let info = self.delivery_info(py)?;
        self.part(
            py,
            |parts| &mut parts.properties,
            |raw| {
                let known = &raw.properties;
                let properties = body::object(py, known.extra.as_bytes())?;
                properties.set_item(names::delivery_info(py), info)?;
                properties.set_item(names::priority(py), known.priority)?;
                if let model::BodyEncoding::Base64 = known.body_encoding {
                    properties.set_item(names::body_encoding(py), "base64")?;
                }
                if let Some(expiration) = known.expiration {
                    properties.set_item(names::expiration(py), expiration.to_string())?;
                }
                // What acknowledges this delivery, not what the publisher called the message.
                properties.set_item(names::delivery_tag(py), self.delivery_tag(py))?;
                Ok(properties.into_any().unbind())
            },
        )
    }

    #[setter]
    fn set_properties(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.properties, value);
    }

    /// The body as it was serialized: bytes. Text where it came over AMQP and names its encoding.
    #[getter]
    fn body(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.part(
            py,
            |parts| &mut parts.body,
            |raw| match self.origin() {
                Some(_) => amqp::body(py, raw),
                None => Ok(PyBytes::new(py, &raw.body).into_any().unbind()),
            },
        )
    }

    #[setter]
    fn set_body(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.body, value);
    }

    /// Content types that may be decoded; None: all that are enabled.
    #[getter]
    fn accept(&self, py: Python<'_>) -> Py<PyAny> {
        self.get(py, |parts| &mut parts.accept)
    }

    #[setter]
    pub(super) fn set_accept(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.accept, value);
    }

    /// What went wrong while the message was made: tuples as of ``sys.exc_info()``.
    #[getter]
    fn errors(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(known) = self.parts.lock().errors.as_ref() {
            return Ok(known.clone_ref(py));
        }
        let fresh = PyList::empty(py).into_any().unbind();
        Ok(self.parts.lock().errors.get_or_insert(fresh).clone_ref(py))
    }

    #[setter]
    fn set_errors(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.errors, value);
    }

    #[getter(_state)]
    fn state(&self, py: Python<'_>) -> Py<PyAny> {
        self.parts.lock().state.as_ref().map_or_else(
            || PyString::intern(py, RECEIVED).into_any().unbind(),
            |state| state.clone_ref(py),
        )
    }

    #[setter(_state)]
    fn set_state(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.state, value);
    }

    #[getter(_decoded_cache)]
    fn decoded_cache(&self, py: Python<'_>) -> Py<PyAny> {
        self.get(py, |parts| &mut parts.decoded)
    }

    #[setter(_decoded_cache)]
    fn set_decoded_cache(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.decoded, value);
    }

    /// The envelope that the message came in, as a dict.
    #[getter(_raw)]
    fn envelope(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let known = self.part(
            py,
            |parts| &mut parts.envelope,
            |raw| store::message_to(py, raw).map(|dict| dict.into_any().unbind()),
        )?;
        if known.is_none(py) {
            return Err(PyAttributeError::new_err("the message did not come in an envelope"));
        }
        Ok(known)
    }

    #[setter(_raw)]
    fn set_envelope(&self, value: Py<PyAny>) {
        self.set(|parts| &mut parts.envelope, value);
    }

    /// Return the message as a dict, to put it into a queue again.
    fn serializable(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let serializable = slf.py().import("kombu_rs.message")?.getattr("_serializable")?;
        serializable.call1((slf,)).map(Bound::unbind)
    }

    /// Whether it was acknowledged, rejected or requeued.
    #[getter]
    fn acknowledged(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(state) = self.parts.lock().state.as_ref().map(|state| state.clone_ref(py)) else {
            return Ok(false);
        };
        let state = state.bind(py).str()?;
        Ok(SETTLED.contains(&state.to_str()?))
    }

    /// Raises the first error of the delivery, or hands it to ``callback(message, exc)``.
    #[pyo3(signature = (callback=None))]
    pub(super) fn _reraise_error(
        slf: &Bound<'_, Self>,
        callback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !slf.get().has_errors(py) {
            return Ok(());
        }
        let first = slf.get().errors(py)?.bind(py).get_item(0)?;
        let error = first.get_item(1)?;
        match callback {
            Some(callback) => callback.call1((slf, error)).map(drop),
            None => Err(PyErr::from_value(error)),
        }
    }

    /// Acknowledge: the message was handled. The broker forgets it.
    ///
    /// Does nothing for a consumer that needs no acknowledgements.
    ///
    /// Arguments:
    ///     multiple: and all that came before it on this channel.
    ///
    /// Raises:
    ///     MessageStateError: already acknowledged, rejected or requeued; or no channel.
    #[pyo3(signature = (multiple=false))]
    fn ack(slf: &Bound<'_, Self>, multiple: bool) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let channel = this.channel(py).into_bound(py);
        let native = Channel::native(&channel);
        let no_ack = match native {
            Some(native) => native.get().no_ack_consumers(py).into_bound(py).into_any(),
            None if channel.is_none() => py.None().into_bound(py),
            None => channel.getattr(intern!(py, "no_ack_consumers"))?,
        };
        if !no_ack.is_none() && no_ack.len()? > 0 {
            let info = this.delivery_info(py)?.into_bound(py);
            let tag = info.call_method1(intern!(py, "get"), (intern!(py, "consumer_tag"),))?;
            if !tag.is_none() && no_ack.contains(tag)? {
                return Ok(());
            }
        }
        let channel = Self::unsettled(slf)?;
        let tag = this.delivery_tag(py);
        match native {
            Some(native) => native.get().settle_ack(py, tag.bind(py), multiple)?,
            None => {
                let kwargs = PyDict::new(py);
                kwargs.set_item(intern!(py, "multiple"), multiple)?;
                channel.call_method(intern!(py, "basic_ack"), (tag,), Some(&kwargs))?;
            }
        }
        this.set(|parts| &mut parts.state, intern!(py, "ACK").clone().into_any().unbind());
        Ok(())
    }

    /// :meth:`ack`, but log the given errors instead of raising them.
    #[pyo3(signature = (logger, errors, multiple=false))]
    fn ack_log_error(
        slf: &Bound<'_, Self>,
        logger: &Bound<'_, PyAny>,
        errors: &Bound<'_, PyAny>,
        multiple: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "multiple"), multiple)?;
        let Err(error) = slf.call_method(intern!(py, "ack"), (), Some(&kwargs)) else {
            return Ok(());
        };
        let broken = error.is_instance_of::<PyBrokenPipeError>(py);
        if !broken && !error.matches(py, errors)? {
            return Err(error);
        }
        let tag = slf.get().delivery_tag(py);
        Self::log(py, logger, "Couldn't ack %r, reason:%r", tag, &error)?;
        if broken { Err(error) } else { Ok(()) }
    }

    /// :meth:`reject`, but log the given errors instead of raising them.
    #[pyo3(signature = (logger, errors, requeue=false))]
    fn reject_log_error(
        slf: &Bound<'_, Self>,
        logger: &Bound<'_, PyAny>,
        errors: &Bound<'_, PyAny>,
        requeue: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "requeue"), requeue)?;
        match slf.call_method(intern!(py, "reject"), (), Some(&kwargs)) {
            Err(error) if error.matches(py, errors)? => {
                let tag = slf.get().delivery_tag(py);
                Self::log(py, logger, "Couldn't reject %r, reason: %r", tag, &error)
            }
            other => other.map(drop),
        }
    }

    /// Reject: the broker drops the message, or dead-letters it.
    ///
    /// Arguments:
    ///     requeue: put it back into the queue instead, for anyone to take.
    ///
    /// Raises:
    ///     MessageStateError: already acknowledged, rejected or requeued; or no channel.
    #[pyo3(signature = (requeue=false))]
    fn reject(slf: &Bound<'_, Self>, requeue: bool) -> PyResult<()> {
        Self::tell(slf, requeue, "REJECTED")
    }

    /// Put the message back into the queue, for anyone to take.
    ///
    /// Raises:
    ///     MessageStateError: already acknowledged, rejected or requeued; or no channel.
    fn requeue(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::tell(slf, true, "REQUEUED")
    }

    /// Return the decoded body; decodes once.
    ///
    /// Raises:
    ///     ContentDisallowed: ``accept`` does not allow the content type.
    ///     DecodeError: the body is not what its content type says.
    pub(super) fn decode(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let known = this.decoded_cache(py);
        if !known.is_none(py) {
            return Ok(known);
        }
        let own = slf.get_type().is(PyType::new::<Self>(py));
        let decoded = match own {
            true => this._decode(py)?,
            false => slf.call_method0(intern!(py, "_decode"))?.unbind(),
        };
        this.set_decoded_cache(decoded.clone_ref(py));
        Ok(decoded)
    }

    fn _decode(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(decoded) = self.decode_json(py)? {
            return Ok(decoded);
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "accept"), self.accept(py))?;
        let loads = py.import("kombu_rs.message")?.getattr("loads")?;
        let args = (self.body(py)?, self.content_type(py)?, self.content_encoding(py)?);
        loads.call(args, Some(&kwargs)).map(Bound::unbind)
    }

    /// The decoded body, as :meth:`decode`.
    #[getter]
    fn payload(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let known = slf.get().decoded_cache(slf.py());
        if !known.is_none(slf.py()) {
            return Ok(known);
        }
        Ok(slf.call_method0(intern!(slf.py(), "decode"))?.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let describe = slf.py().import("kombu_rs.message")?.getattr("_describe")?;
        describe.call1((slf,)).map(Bound::unbind)
    }

    /// For copies and pickles.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let reduce = slf.py().import("kombu_rs.message")?.getattr("_reduce")?;
        reduce.call1((slf,)).map(Bound::unbind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Nobody holds the lock while Python runs, so this never fails in practice.
        let Some(parts) = self.parts.try_lock() else { return Ok(()) };
        visit.call(&parts.channel)?;
        visit.call(&parts.delivery_info)?;
        visit.call(&parts.headers)?;
        visit.call(&parts.properties)?;
        visit.call(&parts.decoded)?;
        visit.call(&parts.errors)?;
        visit.call(&parts.envelope)
    }

    fn __clear__(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        drop(parts);
    }
}

impl Message {
    /// Whether making the message went wrong.
    pub(super) fn has_errors(&self, py: Python<'_>) -> bool {
        let errors = self.parts.lock().errors.as_ref().map(|errors| errors.clone_ref(py));
        errors.is_some_and(|errors| errors.bind(py).is_truthy().unwrap_or(true))
    }

    /// The body decoded natively: JSON straight from the broker, allowed, and the registry's own
    /// decoder. `None` where any of that does not hold or the text is no JSON: then Python decides.
    fn decode_json(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let (raw, accept) = {
            let parts = self.parts.lock();
            let untouched = parts.body.is_none()
                && parts.content_type.is_none()
                && parts.content_encoding.is_none();
            let (Some(raw), true) = (&parts.raw, untouched) else { return Ok(None) };
            (raw.clone(), parts.accept.as_ref().map(|accept| accept.clone_ref(py)))
        };
        let native = raw.content_type.as_deref() == Some("application/json")
            && raw.content_encoding.as_deref().is_some_and(|e| e.eq_ignore_ascii_case("utf-8"));
        if !native || !body::own_json(py, accept.as_ref().map(|accept| accept.bind(py)))? {
            return Ok(None);
        }
        Ok(body::loads(py, &raw.body).ok().map(Bound::unbind))
    }
}
