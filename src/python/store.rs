//! `kombu_rs._native.Store`: what the hooks of `virtual.Channel` do on a native channel. Messages are
//! the dicts that Kombu's envelopes stand for.

use super::body;
use super::enter::{deadline, enter, enter_until};
use super::errors::OrRaise;
use crate::codec::envelope;
use crate::model::{Binding, Exchange, ExchangeKind, Message, Name, Queue, QueueOptions};
use crate::routing;
use crate::transport::{GetOptions, QueueRef, Url, schemes};
use crate::virt::{self, Opener};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

/// The queues, exchanges and bindings that a transport sees.
#[pyclass(frozen, module = "kombu_rs._native")]
pub struct Store {
    connection: Arc<virt::Connection>,
}

/// The message that a dict says.
///
/// # Errors
/// `TypeError` when it is no dict; what JSON cannot say; `DecodeError` naming the member that is wrong.
pub(super) fn message_from(py: Python<'_>, raw: &Bound<'_, PyAny>) -> PyResult<Message> {
    let json = body::to_json(Some(raw))?;
    envelope::decode(json.as_bytes().to_vec().into()).or_raise(py)
}

/// The dict that a message is.
///
/// # Errors
/// What a decoder of a registered type raises.
pub(super) fn message_to<'py>(py: Python<'py>, message: &Message) -> PyResult<Bound<'py, PyDict>> {
    body::object(py, &envelope::encode(message))
}

fn kind(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
    }
}

fn binding(
    queue: &str,
    exchange: &str,
    routing_key: &str,
    arguments: Option<&Bound<'_, PyAny>>,
) -> PyResult<Binding> {
    Ok(Binding {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        queue: queue.into(),
        arguments: body::to_json(arguments)?,
    })
}

impl Store {
    pub(super) fn of(connection: Arc<virt::Connection>) -> Self {
        Self { connection }
    }

    /// The store of `memory://` in this process.
    ///
    /// # Errors
    /// None in practice: it has no options.
    pub(super) fn memory(py: Python<'_>) -> PyResult<Self> {
        let url = Url::parse("memory://").or_raise(py)?;
        let open: Opener = Arc::new(move || schemes::open(&url, &schemes::Options::new()));
        Ok(Self::of(Arc::new(virt::Connection::new(&open).or_raise(py)?)))
    }

    fn exchange(&self, name: &str) -> PyResult<Exchange> {
        let known = self.connection.store().exchanges().get(name);
        known.ok_or_else(|| PyKeyError::new_err(name.to_owned()))
    }
}

#[pymethods]
impl Store {
    /// Put a message into a queue.
    fn put(&self, py: Python<'_>, queue: &str, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let (store, message) = (self.connection.store(), message_from(py, message)?);
        enter(py, store.put(&queue.into(), std::slice::from_ref(&message)))?;
        store.counters().published.add(1);
        Ok(())
    }

    /// Publish a message to everybody who listens to a fanout exchange.
    fn put_fanout(
        &self,
        py: Python<'_>,
        exchange: &str,
        message: &Bound<'_, PyAny>,
        routing_key: &str,
    ) -> PyResult<()> {
        let (store, message) = (self.connection.store(), message_from(py, message)?);
        enter(py, store.put_fanout(&exchange.into(), routing_key, &message))?;
        store.counters().published.add(1);
        Ok(())
    }

    /// Take the next message out of a queue; None when there is none within ``timeout`` seconds (None:
    /// wait for ever).
    #[pyo3(signature = (queue, timeout=0.0))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        queue: &str,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let store = self.connection.store();
        let queues = [QueueRef { name: queue.into(), no_ack: true }];
        let until = deadline(timeout)?;
        let patient = timeout != Some(0.0);
        let options = GetOptions { max: 1, arm: patient };
        loop {
            let taken = enter(py, store.get(&queues, options))?.pop();
            if let Some(delivery) = taken {
                store.counters().received.add(1);
                return message_to(py, &delivery.message).map(Some);
            }
            if !patient || enter_until(py, store.ready(&queues), until)?.is_none() {
                return Ok(None);
            }
        }
    }

    /// How many messages are in a queue.
    fn size(&self, py: Python<'_>, queue: &str) -> PyResult<u64> {
        let store = self.connection.store();
        enter(py, store.size(&queue.into()))
    }

    /// Remove all messages of a queue; returns how many.
    fn purge(&self, py: Python<'_>, queue: &str) -> PyResult<u64> {
        let store = self.connection.store();
        enter(py, store.purge(&queue.into()))
    }

    /// Make a queue.
    fn declare(&self, py: Python<'_>, queue: &str) -> PyResult<()> {
        let store = self.connection.store();
        let queue = Queue {
            name: queue.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            options: QueueOptions::default(),
        };
        enter(py, store.declare_queue(&queue))
    }

    /// Whether a queue is there.
    fn has(&self, py: Python<'_>, queue: &str) -> PyResult<bool> {
        let store = self.connection.store();
        enter(py, store.has_queue(&queue.into()))
    }

    /// Delete a queue, with its messages.
    fn delete(&self, py: Python<'_>, queue: &str) -> PyResult<()> {
        let store = self.connection.store();
        enter(py, store.delete_queue(&queue.into()))
    }

    /// The names of the exchanges that were declared.
    fn exchanges(&self) -> Vec<String> {
        self.connection.store().exchanges().names().iter().map(ToString::to_string).collect()
    }

    /// How an exchange was declared.
    ///
    /// Raises:
    ///     KeyError: it was not.
    fn declaration<'py>(&self, py: Python<'py>, exchange: &str) -> PyResult<Bound<'py, PyDict>> {
        let known = self.exchange(exchange)?;
        let declaration = PyDict::new(py);
        declaration.set_item("type", kind(known.kind))?;
        declaration.set_item("durable", known.durable)?;
        declaration.set_item("auto_delete", known.auto_delete)?;
        declaration.set_item("arguments", body::object(py, known.arguments.as_bytes())?)?;
        Ok(declaration)
    }

    /// An exchange's bindings, each as ``(queue, routing_key, arguments)``.
    ///
    /// Raises:
    ///     KeyError: there is no such exchange.
    fn bindings<'py>(
        &self,
        py: Python<'py>,
        exchange: &str,
    ) -> PyResult<Vec<(String, String, Bound<'py, PyDict>)>> {
        let store = self.connection.store();
        let known = virt::known_exchange(&*store, &exchange.into())
            .ok_or_else(|| PyKeyError::new_err(exchange.to_owned()))?;
        enter(py, store.bindings(&known))?
            .iter()
            .map(|binding| {
                let arguments = body::object(py, binding.arguments.as_bytes())?;
                Ok((binding.queue.to_string(), binding.routing_key.to_string(), arguments))
            })
            .collect()
    }

    /// The queues that a message gets into.
    #[pyo3(signature = (exchange, routing_key, headers=None))]
    fn lookup(
        &self,
        py: Python<'_>,
        exchange: &str,
        routing_key: &str,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<String>> {
        let store = self.connection.store();
        let Some(known) = virt::known_exchange(&*store, &exchange.into()) else {
            return Ok(Vec::new());
        };
        let headers = body::to_json(headers)?;
        let bindings = enter(py, store.bindings(&known))?;
        let queues = routing::route(known.kind, &bindings, routing_key, &headers);
        Ok(queues.iter().map(ToString::to_string).collect())
    }

    /// Bind a queue to an exchange.
    ///
    /// Raises:
    ///     KeyError: there is no such exchange.
    #[pyo3(signature = (queue, exchange, routing_key, arguments=None))]
    fn bind(
        &self,
        py: Python<'_>,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let known = self.exchange(exchange)?;
        let binding = binding(queue, exchange, routing_key, arguments)?;
        let store = self.connection.store();
        enter(py, store.bind(&known, &binding))
    }

    /// Remove a binding.
    ///
    /// Raises:
    ///     KeyError: there is no such exchange.
    #[pyo3(signature = (queue, exchange, routing_key, arguments=None))]
    fn unbind(
        &self,
        py: Python<'_>,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let known = self.exchange(exchange)?;
        let binding = binding(queue, exchange, routing_key, arguments)?;
        let store = self.connection.store();
        enter(py, store.unbind(&known, &binding))
    }

    /// Forget an exchange and its bindings.
    fn forget(&self, py: Python<'_>, exchange: &str) -> PyResult<()> {
        let store = self.connection.store();
        let name: Name = exchange.into();
        enter(py, store.delete_exchange(&name))?;
        store.exchanges().remove(&name);
        Ok(())
    }
}
