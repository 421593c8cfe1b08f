//! The native channel under `kombu_rs.transport.native.Channel`.

use super::amqp_channel::AmqpChannel;
use super::budget::Budget;
use super::enter::enter;
use super::message::{Message, Origin};
use super::transport::Transport;
use super::{batch, body, names, overrides};
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::model::{self, BodyEncoding, Exchange, ExchangeKind, Name, Queue, QueueOptions};
use crate::transport::{self, ConsumeOptions, Event};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PySet};
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// A channel of a native transport: what Kombu calls ``virtual.Channel``.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Channel {
    inner: Arc<dyn transport::Channel>,
    /// Kombu's name for the transport object.
    connection: Mutex<Option<Py<PyAny>>>,
    callbacks: Mutex<HashMap<Name, Py<PyAny>>>,
    no_ack_consumers: Py<PySet>,
    closed: AtomicBool,
    /// The broker speaks AMQP itself.
    amqp: bool,
    plain: overrides::Plain,
}

static NEXT_TAG: AtomicU64 = AtomicU64::new(1);

/// A delivery tag that no other publisher writes.
pub(super) fn publisher_tag() -> String {
    let number = NEXT_TAG.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number:x}", crate::io::identity::unique())
}

/// `application/json`, shared.
pub(super) fn json_type() -> Name {
    static NAME: LazyLock<Name> = LazyLock::new(|| "application/json".into());
    NAME.clone()
}

/// `utf-8`, shared.
pub(super) fn utf8() -> Name {
    static NAME: LazyLock<Name> = LazyLock::new(|| "utf-8".into());
    NAME.clone()
}

impl Channel {
    pub(super) fn make(
        py: Python<'_>,
        inner: Arc<dyn transport::Channel>,
        connection: Py<PyAny>,
    ) -> PyResult<Self> {
        Ok(Self {
            amqp: inner.amqp().is_some(),
            inner,
            connection: Mutex::new(Some(connection)),
            callbacks: Mutex::default(),
            no_ack_consumers: PySet::empty(py)?.unbind(),
            closed: AtomicBool::new(false),
            plain: overrides::Plain::default(),
        })
    }

    /// To be called before the core may have to make a link.
    pub(super) fn before_use(&self, py: Python<'_>) -> PyResult<()> {
        let connection = self.connection(py);
        connection.bind(py).cast::<Transport>().map_or(Ok(()), Transport::before_use)
    }

    /// The core's channel.
    pub(super) fn inner(&self) -> &Arc<dyn transport::Channel> {
        &self.inner
    }

    /// The native channel under an object, when its methods are the native ones.
    pub(super) fn native<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Self>> {
        let native = object.cast::<Self>().ok()?;
        native.get().plain.holds(&object.get_type()).then_some(native)
    }

    pub(super) fn settle_ack(
        &self,
        py: Python<'_>,
        tag: &Bound<'_, PyAny>,
        multiple: bool,
    ) -> PyResult<()> {
        if let Some(amqp) = self.inner.amqp()
            && !multiple
            && tag.is_exact_instance_of::<PyInt>()
            && let Ok(number) = tag.extract()
        {
            return match py.detach(|| amqp.begin_ack(number)) {
                Some(rest) => self.run(py, rest),
                None => Ok(()),
            };
        }
        let tag = tag_text(tag)?;
        self.run(py, self.inner.ack(&tag, multiple))
    }

    /// Runs an operation of the core's channel. A channel that the broker closes meanwhile is opened
    /// again, as programs that handle the error expect.
    pub(super) fn run<T: Send>(
        &self,
        py: Python<'_>,
        future: impl Future<Output = Result<T>> + Send,
    ) -> PyResult<T> {
        enter(py, future).inspect_err(|_| self.after_failure(py))
    }

    /// An operation has failed.
    pub(super) fn after_failure(&self, py: Python<'_>) {
        if self.amqp {
            Transport::note_failure(self.connection(py).bind(py));
            self.revive(py);
        }
    }

    /// Whether it has consumers.
    pub(super) fn has_consumers(&self) -> bool {
        !self.is_closed() && !self.callbacks.lock().is_empty()
    }

    /// Opens the channel again if the broker has closed it.
    pub(super) fn revive(&self, py: Python<'_>) {
        if let Some(amqp) = self.inner.amqp()
            && !self.is_closed()
            && !self.inner.is_open()
        {
            // The link may be lost meanwhile: the next operation tells.
            let over = enter(py, amqp.revive()).unwrap_or_default();
            AmqpChannel::consumers_ended(py, self, &over);
        }
    }

    /// A message that this channel has taken from a queue.
    pub(super) fn received(
        slf: &Bound<'_, Self>,
        delivery: model::Delivery,
        consumer_tag: Option<&Name>,
    ) -> PyResult<Py<Message>> {
        let channel = slf.clone().into_any().unbind();
        let tag = &delivery.claim.tag;
        let from = match slf.get().amqp {
            true => Some(Origin { consumer_tag: consumer_tag.cloned() }),
            false => None,
        };
        Message::delivered(slf.py(), delivery.message, tag, channel, from)
    }

    /// Starts a consumer whose messages go to `callback`.
    pub(super) fn start_consumer(
        &self,
        py: Python<'_>,
        options: ConsumeOptions,
        exclusive: bool,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let key = options.consumer_tag.clone();
        let no_ack = options.no_ack;
        // Before the consumer exists: its first message may be here at once, for another thread.
        if let Some(callback) = callback {
            self.callbacks.lock().insert(key.clone(), callback);
        }
        self.before_use(py)?;
        let started = match self.inner.amqp() {
            Some(amqp) => self.run(py, amqp.consume_with(options, exclusive)),
            None => self.run(py, self.inner.consume(options)),
        };
        if let Err(error) = started {
            self.forget_callback(&key);
            return Err(error);
        }
        if no_ack {
            self.no_ack_consumers.bind(py).add(&*key)?;
        }
        Ok(())
    }

    /// A consumer has ended.
    pub(super) fn forget_callback(&self, tag: &str) {
        let gone = self.callbacks.lock().remove(tag);
        drop(gone);
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Hands a delivery to its consumer's callback.
    pub(super) fn deliver(slf: &Bound<'_, Self>, event: Event) -> PyResult<()> {
        let py = slf.py();
        let callback =
            slf.get().callbacks.lock().get(&event.consumer_tag).map(|found| found.clone_ref(py));
        let Some(callback) = callback else {
            // Cancelled meanwhile, by another thread.
            let this = slf.get();
            return match event.delivery.settled {
                true => Ok(()),
                false => this.run(py, this.inner.reject(&event.delivery.claim.tag, true)),
            };
        };
        let message = Self::received(slf, event.delivery, Some(&event.consumer_tag))?;
        callback.call1(py, (message,)).map(drop)
    }

    pub(super) fn encoding(slf: &Bound<'_, Self>) -> PyResult<BodyEncoding> {
        let encoding = slf.getattr(super::once::intern!(slf.py(), "body_encoding"))?;
        if encoding.is_none() {
            return Ok(BodyEncoding::Plain);
        }
        match encoding.str()?.to_str()? {
            "base64" => Ok(BodyEncoding::Base64),
            other => Err(PyValueError::new_err(format!(
                "body_encoding must be 'base64' or None, got {other:?}"
            ))),
        }
    }
}

/// A delivery tag as text; AMQP users may pass numbers.
pub(super) fn tag_text(tag: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(tag.str()?.to_str()?.to_owned())
}

/// A prefetch limit as the core takes it.
pub(super) fn prefetch_limit(count: Option<i64>) -> PyResult<u32> {
    let count = count.unwrap_or(0);
    u32::try_from(count).map_err(|_| {
        let most = u32::MAX;
        let text = format!("prefetch_count must be from 0 (no limit) to {most}, got {count}");
        PyValueError::new_err(text)
    })
}

fn kind(name: &str) -> PyResult<ExchangeKind> {
    match name {
        "direct" => Ok(ExchangeKind::Direct),
        "topic" => Ok(ExchangeKind::Topic),
        "fanout" => Ok(ExchangeKind::Fanout),
        "headers" => Ok(ExchangeKind::Headers),
        other => Err(PyValueError::new_err(format!(
            "unknown exchange type {other:?}: direct, topic, fanout and headers are there"
        ))),
    }
}

fn millis(arguments: &Bound<'_, PyDict>, name: &str) -> PyResult<Option<Duration>> {
    let Some(value) = arguments.get_item(name)?.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    match value.extract::<f64>() {
        Ok(millis) if millis >= 0.0 && millis.is_finite() => {
            Ok(Some(Duration::from_secs_f64(millis / 1000.0)))
        }
        _ => Err(PyValueError::new_err(format!(
            "queue argument {name} must be milliseconds, got {}",
            value.repr()?
        ))),
    }
}

fn queue_options(arguments: Option<&Bound<'_, PyDict>>) -> PyResult<QueueOptions> {
    let Some(arguments) = arguments else { return Ok(QueueOptions::default()) };
    let number = |name: &str| -> PyResult<Option<u64>> {
        arguments.get_item(name)?.filter(|value| !value.is_none()).map(|v| v.extract()).transpose()
    };
    Ok(QueueOptions {
        expires: millis(arguments, "x-expires")?,
        message_ttl: millis(arguments, "x-message-ttl")?,
        max_length: number("x-max-length")?,
        max_priority: number("x-max-priority")?.and_then(|n| u8::try_from(n).ok()),
        arguments: body::to_json(Some(arguments.as_any()))?,
    })
}

fn text(value: Option<&str>) -> Name {
    value.unwrap_or_default().into()
}

#[pymethods]
impl Channel {
    #[new]
    #[pyo3(signature = (connection, **_kwargs))]
    fn new(connection: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let py = connection.py();
        let inner = Transport::open_channel(connection.cast::<Transport>()?)?;
        Self::make(py, inner, connection.clone().unbind())
    }

    /// The transport (Kombu's name for it).
    #[getter]
    pub(super) fn connection(&self, py: Python<'_>) -> Py<PyAny> {
        self.connection.lock().as_ref().map_or_else(|| py.None(), |c| c.clone_ref(py))
    }

    #[setter]
    fn set_connection(&self, value: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut *self.connection.lock(), value);
        drop(old);
    }

    /// The channel's number.
    #[getter]
    fn channel_id(&self) -> u64 {
        self.inner.id()
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.is_closed()
    }

    /// Consumer tags whose messages need no acknowledgement.
    #[getter]
    pub(super) fn no_ack_consumers(&self, py: Python<'_>) -> Py<PySet> {
        self.no_ack_consumers.clone_ref(py)
    }

    #[setter]
    fn set_no_ack_consumers(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let tags = self.no_ack_consumers.bind(value.py());
        let new: Vec<Bound<'_, PyAny>> = if value.is_none() {
            Vec::new()
        } else {
            value.try_iter()?.collect::<PyResult<_>>()?
        };
        tags.clear();
        new.iter().try_for_each(|tag| tags.add(tag))
    }

    #[setter]
    fn set_closed(&self, value: bool) {
        self.closed.store(value, Ordering::Release);
    }

    /// Note that a method of this object alone was replaced: native code must call it by name.
    fn _hooked(&self) {
        self.plain.replace();
    }

    /// Whether nothing that native code goes around was replaced, in the object or its class.
    fn _is_plain(slf: &Bound<'_, Self>) -> bool {
        slf.get().plain.holds(&slf.get_type())
    }

    /// Declare an exchange.
    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    #[pyo3(signature = (exchange=None, r#type="direct", durable=false, auto_delete=false,
        arguments=None, nowait=false, passive=false, **_kwargs))]
    fn exchange_declare(
        &self,
        py: Python<'_>,
        exchange: Option<&str>,
        r#type: Option<&str>,
        durable: bool,
        auto_delete: bool,
        arguments: Option<&Bound<'_, PyAny>>,
        nowait: bool,
        passive: bool,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let _ = nowait; // AMQP only: there is nothing to wait for
        let exchange = Exchange {
            name: text(exchange),
            kind: kind(r#type.unwrap_or("direct"))?,
            durable,
            auto_delete,
            arguments: body::to_json(arguments)?,
        };
        self.before_use(py)?;
        self.run(py, self.inner.exchange_declare(&exchange, passive))
    }

    /// Delete an exchange and its bindings.
    #[pyo3(signature = (exchange, if_unused=false, nowait=false))]
    fn exchange_delete(
        &self,
        py: Python<'_>,
        exchange: &str,
        if_unused: bool,
        nowait: bool,
    ) -> PyResult<()> {
        let _ = nowait;
        self.run(py, self.inner.exchange_delete(&exchange.into(), if_unused))
    }

    /// Declare a queue; returns ``(name, messages, consumers)``.
    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    #[pyo3(signature = (queue=None, passive=false, durable=false, exclusive=false,
        auto_delete=true, nowait=false, arguments=None, **_kwargs))]
    fn _queue_declare(
        &self,
        py: Python<'_>,
        queue: Option<&str>,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        nowait: bool,
        arguments: Option<&Bound<'_, PyDict>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<(String, u64, u64)> {
        let _ = nowait;
        let queue = Queue {
            name: text(queue),
            durable,
            exclusive,
            auto_delete,
            options: queue_options(arguments)?,
        };
        self.before_use(py)?;
        let declared = self.run(py, self.inner.queue_declare(&queue, passive))?;
        Ok((declared.queue.to_string(), declared.messages, declared.consumers))
    }

    /// Delete a queue; returns how many messages went with it.
    #[pyo3(signature = (queue, if_unused=false, if_empty=false, **_kwargs))]
    fn queue_delete(
        &self,
        py: Python<'_>,
        queue: &str,
        if_unused: bool,
        if_empty: bool,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        self.run(py, self.inner.queue_delete(&queue.into(), if_unused, if_empty))
    }

    /// Remove the ready messages of a queue; returns how many.
    #[pyo3(signature = (queue, **_kwargs))]
    fn queue_purge(
        &self,
        py: Python<'_>,
        queue: &str,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        self.run(py, self.inner.queue_purge(&queue.into()))
    }

    /// Bind a queue to an exchange.
    #[pyo3(signature = (queue, exchange=None, routing_key="", arguments=None, **_kwargs))]
    fn queue_bind(
        &self,
        py: Python<'_>,
        queue: &str,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        arguments: Option<&Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let arguments = body::to_json(arguments)?;
        let (queue, exchange, key) = (text(Some(queue)), text(exchange), text(routing_key));
        self.before_use(py)?;
        self.run(py, self.inner.queue_bind(&queue, &exchange, &key, &arguments))
    }

    /// Remove a binding.
    #[pyo3(signature = (queue, exchange=None, routing_key="", arguments=None, **_kwargs))]
    fn queue_unbind(
        &self,
        py: Python<'_>,
        queue: &str,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        arguments: Option<&Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let arguments = body::to_json(arguments)?;
        let (queue, exchange, key) = (text(Some(queue)), text(exchange), text(routing_key));
        self.run(py, self.inner.queue_unbind(&queue, &exchange, &key, &arguments))
    }

    /// Publish a message that :meth:`prepare_message` made, within ``timeout`` seconds if that is
    /// given.
    ///
    /// Raises:
    ///     TimeoutError: it took longer. The message may have arrived all the same.
    #[pyo3(signature = (message, exchange=None, routing_key=None, *, timeout=None, **_kwargs))]
    fn basic_publish(
        slf: &Bound<'_, Self>,
        message: &Bound<'_, PyAny>,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        timeout: Option<&Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let _budget = Budget::start(timeout)?;
        let prepared = message.cast::<PyDict>().map_err(|_| {
            PyTypeError::new_err("message must be what Channel.prepare_message() returned")
        })?;
        let exchange = exchange.unwrap_or_default();
        let routing_key = routing_key.unwrap_or_default();
        let tag = publisher_tag();
        let message = body::message(prepared, exchange, routing_key, tag, Self::encoding(slf)?)?;
        slf.get().before_use(slf.py())?;
        slf.get().run(slf.py(), slf.get().inner.publish(vec![message]))
    }

    /// A batch that collects messages and sends them together.
    #[pyo3(signature = (max_size=1000))]
    fn create_publish_batch(slf: &Bound<'_, Self>, max_size: usize) -> batch::PublishBatch {
        batch::PublishBatch::new(slf.clone().unbind(), max_size)
    }

    /// Consume from a queue: ``callback(message)`` is called for each message.
    #[pyo3(signature = (queue, no_ack=false, callback=None, consumer_tag=None, arguments=None, **_kwargs))]
    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    fn basic_consume(
        &self,
        py: Python<'_>,
        queue: &str,
        no_ack: Option<bool>,
        callback: Option<Py<PyAny>>,
        consumer_tag: Option<&Bound<'_, PyAny>>,
        arguments: Option<&Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let tag = match consumer_tag.filter(|tag| !tag.is_none()) {
            Some(tag) => tag_text(tag)?,
            None => publisher_tag(),
        };
        let options = ConsumeOptions {
            queue: queue.into(),
            consumer_tag: tag.as_str().into(),
            no_ack: no_ack.unwrap_or(false),
            arguments: body::to_json(arguments)?,
        };
        self.start_consumer(py, options, false, callback)?;
        Ok(tag)
    }

    /// Stop consuming. Messages that were fetched ahead go back to the queue.
    #[pyo3(signature = (consumer_tag, **_kwargs))]
    fn basic_cancel(
        &self,
        py: Python<'_>,
        consumer_tag: &Bound<'_, PyAny>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let tag = tag_text(consumer_tag)?;
        // The callback last: until then another thread may deliver.
        let cancelled = match self.is_closed() {
            true => Ok(()),
            false => self.run(py, self.inner.cancel(&tag)),
        };
        self.forget_callback(&tag);
        self.no_ack_consumers.bind(py).discard(&tag)?;
        cancelled
    }

    /// Take one message, or None when the queue is empty.
    #[pyo3(signature = (queue, no_ack=false, **_kwargs))]
    fn basic_get(
        slf: &Bound<'_, Self>,
        queue: &str,
        no_ack: Option<bool>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<Py<Message>>> {
        let py = slf.py();
        let no_ack = no_ack.unwrap_or(false);
        let this = slf.get();
        let taken = this.run(py, this.inner.get(&queue.into(), no_ack))?;
        taken.map(|taken| Self::received(slf, taken, None)).transpose()
    }

    /// Acknowledge a delivery (all up to it with ``multiple``).
    #[pyo3(signature = (delivery_tag, multiple=false))]
    fn basic_ack(
        &self,
        py: Python<'_>,
        delivery_tag: &Bound<'_, PyAny>,
        multiple: bool,
    ) -> PyResult<()> {
        self.settle_ack(py, delivery_tag, multiple)
    }

    /// Reject a delivery: drop it, or put it back with ``requeue``.
    #[pyo3(signature = (delivery_tag, requeue=false))]
    fn basic_reject(
        &self,
        py: Python<'_>,
        delivery_tag: &Bound<'_, PyAny>,
        requeue: bool,
    ) -> PyResult<()> {
        let tag = tag_text(delivery_tag)?;
        self.run(py, self.inner.reject(&tag, requeue))
    }

    /// Put all unacknowledged messages of the channel back.
    #[pyo3(signature = (requeue=false))]
    fn basic_recover(&self, py: Python<'_>, requeue: bool) -> PyResult<()> {
        if !requeue {
            return Err(pyo3::exceptions::PyNotImplementedError::new_err(
                "basic_recover without requeue is not there on this transport: say requeue=True",
            ));
        }
        self.run(py, self.inner.recover())
    }

    /// Put messages back that nobody has settled in time, about ``limit``; returns how many.
    #[pyo3(signature = (limit=None))]
    fn _reclaim(&self, py: Python<'_>, limit: Option<usize>) -> PyResult<usize> {
        self.run(py, self.inner.reclaim(limit))
    }

    /// Move dead letters back to the queues that they came from, at most ``limit``; returns how many.
    #[pyo3(signature = (dead_letters, limit=None))]
    fn _replay(&self, py: Python<'_>, dead_letters: &str, limit: Option<usize>) -> PyResult<usize> {
        let queue = dead_letters.into();
        self.run(py, self.inner.replay(&queue, limit))
    }

    /// Drop the bindings of queues that have expired; returns of how many exchanges.
    #[pyo3(signature = (limit=100))]
    fn _sweep(&self, py: Python<'_>, limit: usize) -> PyResult<usize> {
        self.run(py, self.inner.sweep(limit))
    }

    /// Limit the number of unacknowledged messages; 0 for no limit.
    #[pyo3(signature = (prefetch_size=0, prefetch_count=0, apply_global=false))]
    fn basic_qos(
        &self,
        py: Python<'_>,
        prefetch_size: u64,
        prefetch_count: Option<i64>,
        apply_global: bool,
    ) -> PyResult<()> {
        let _ = (prefetch_size, apply_global); // AMQP only: here the limit is the channel's
        self.run(py, self.inner.qos(prefetch_limit(prefetch_count)?))
    }

    /// Pause (``False``) or go on with deliveries.
    #[pyo3(signature = (active=true))]
    fn flow(&self, py: Python<'_>, active: bool) -> PyResult<()> {
        self.run(py, self.inner.flow(active))
    }

    /// Number of ready messages of a queue.
    fn _size(&self, py: Python<'_>, queue: &str) -> PyResult<u64> {
        let queue = Queue {
            name: queue.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            options: QueueOptions::default(),
        };
        match self.run(py, self.inner.queue_declare(&queue, true)) {
            Ok(declared) => Ok(declared.messages),
            Err(_) => Ok(0),
        }
    }

    /// The queues that a message would go to.
    #[pyo3(signature = (exchange, routing_key, headers=None))]
    fn _lookup(
        &self,
        py: Python<'_>,
        exchange: &str,
        routing_key: &str,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<String>> {
        let mut probe = model::Message { headers: body::to_json(headers)?, ..Default::default() };
        probe.properties.routing_key = routing_key.into();
        let queues = self.run(py, self.inner.lookup(&exchange.into(), &probe))?;
        Ok(queues.iter().map(ToString::to_string).collect())
    }

    /// The dict that :meth:`basic_publish` takes.
    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    #[pyo3(signature = (body, priority=None, content_type=None, content_encoding=None,
        headers=None, properties=None))]
    fn prepare_message<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyAny>,
        priority: Option<&Bound<'py, PyAny>>,
        content_type: Option<&Bound<'py, PyAny>>,
        content_encoding: Option<&Bound<'py, PyAny>>,
        headers: Option<&Bound<'py, PyAny>>,
        properties: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let properties = match properties {
            Some(given) if given.is_truthy()? => given.clone(),
            _ => PyDict::new(py).into_any(),
        };
        let properties = properties.cast_into::<PyDict>()?;
        if !properties.contains(names::delivery_info(py))? {
            properties.set_item(names::delivery_info(py), PyDict::new(py))?;
        }
        if !properties.contains(names::priority(py))? {
            let zero = 0i32.into_pyobject(py)?.into_any();
            let priority = priority.filter(|p| !p.is_none()).unwrap_or(&zero);
            properties.set_item(names::priority(py), priority)?;
        }
        let message = PyDict::new(py);
        message.set_item(names::body(py), body)?;
        message.set_item(names::content_encoding(py), content_encoding)?;
        message.set_item(names::content_type(py), content_type)?;
        match headers.filter(|headers| !headers.is_none()) {
            Some(headers) => message.set_item(names::headers(py), headers)?,
            None => message.set_item(names::headers(py), PyDict::new(py))?,
        }
        message.set_item(names::properties(py), properties)?;
        Ok(message)
    }

    /// A message is one already when it comes from this channel.
    fn message_to_python<'py>(&self, raw_message: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        raw_message
    }

    /// Nothing to do: kept for Kombu's pidbox.
    fn after_reply_message_received(&self, queue: &str) -> PyResult<()> {
        let _ = queue;
        Ok(())
    }

    /// Tags of the unacknowledged messages, oldest first.
    fn _unacked(&self) -> Vec<String> {
        self.inner.unsettled().iter().map(ToString::to_string).collect()
    }

    /// Number of unacknowledged messages, and the prefetch limit (0: none).
    fn _credit(&self) -> (usize, u32) {
        self.inner.credit()
    }

    /// Closes the core's channel: consumers end, unacknowledged messages go back if ``restore``,
    /// within so many seconds.
    #[pyo3(signature = (restore, timeout=None))]
    fn _close(
        &self,
        py: Python<'_>,
        restore: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _budget = Budget::start(timeout)?;
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let callbacks = std::mem::take(&mut *self.callbacks.lock());
        drop(callbacks);
        self.run(py, self.inner.close(restore))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(connection) = self.connection.try_lock() {
            visit.call(&*connection)?;
        }
        if let Some(callbacks) = self.callbacks.try_lock() {
            for callback in callbacks.values() {
                visit.call(callback)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let callbacks = std::mem::take(&mut *self.callbacks.lock());
        let connection = self.connection.lock().take();
        drop((callbacks, connection));
    }
}
