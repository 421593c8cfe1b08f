//! The native channel under `kombu_rs.transport.amqp.Channel`: what only AMQP has.

use super::amqp::prepared;
use super::body;
use super::budget;
use super::channel::{Channel, prefetch_limit, tag_text};
use super::enter::{deadline, enter_until};
use super::message::{Message, Origin};
use super::once::intern;
use super::transport::Transport;
use crate::error::Error;
use crate::model::Name;
use crate::transport::{
    Amqp, ConsumeOptions, ExchangeDeclaration, PublishOptions, Returned, Transaction,
};
use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A channel of a broker that speaks AMQP itself.
#[pyclass(extends = Channel, subclass, frozen, module = "kombu_rs._native")]
pub struct AmqpChannel;

/// The core's channel.
fn core<'a>(slf: &'a Bound<'_, AmqpChannel>) -> PyResult<(&'a Channel, &'a dyn Amqp)> {
    let channel = slf.as_super().get();
    let amqp = channel.inner().amqp();
    let amqp =
        amqp.ok_or_else(|| PyValueError::new_err("the broker does not speak AMQP itself"))?;
    Ok((channel, amqp))
}

impl AmqpChannel {
    /// Consumers have ended with a channel that the broker has closed: their callbacks are dropped.
    pub(super) fn consumers_ended(py: Python<'_>, channel: &Channel, tags: &[Name]) {
        for tag in tags {
            channel.forget_callback(tag);
        }
        let transport = channel.connection(py);
        let Ok(transport) = transport.bind(py).cast::<Transport>() else { return };
        let object = transport.get().channel(py, channel.inner().id()).filter(|_| !tags.is_empty());
        let tags: Vec<&str> = tags.iter().map(|tag| &**tag).collect();
        let told =
            object.map(|object| object.call_method1(intern!(py, "_consumers_ended"), (tags,)));
        if let Some(Err(error)) = told {
            error.write_unraisable(py, None);
        }
    }

    /// Hands a message that came back to the handlers of `basic_return`, or raises.
    pub(super) fn came_back(slf: &Bound<'_, PyAny>, returned: Returned) -> PyResult<()> {
        let py = slf.py();
        let properties = &returned.message.properties;
        let (exchange, key) = (properties.exchange.clone(), properties.routing_key.clone());
        let origin = Some(Origin { consumer_tag: None });
        let channel = slf.clone().unbind();
        let message = Message::delivered(py, returned.message, "", channel, origin)?;
        let errors = py.import("kombu_rs.transport.amqp.errors")?;
        let error = errors.getattr("returned")?.call1((returned.code, returned.text))?;
        slf.call_method1(intern!(py, "_came_back"), (error, &*exchange, &*key, message)).map(drop)
    }
}

#[pymethods]
impl AmqpChannel {
    #[new]
    #[pyo3(signature = (connection, *_args, **_kwargs))]
    fn new(
        connection: &Bound<'_, PyAny>,
        _args: &Bound<'_, pyo3::types::PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let inner = Transport::open_channel(connection.cast::<Transport>()?)?;
        let base = Channel::make(connection.py(), inner, connection.clone().unbind())?;
        Ok(PyClassInitializer::from(base).add_subclass(Self))
    }

    /// Publish a message. In confirm mode this returns when the broker has it.
    ///
    /// Arguments:
    ///     msg: what :meth:`prepare_message` made, or a message of py-amqp.
    ///     exchange, routing_key: where to.
    ///     mandatory: when no queue gets it, it comes back: see ``events["basic_return"]``.
    ///     immediate: no broker of today knows this.
    ///     timeout, confirm_timeout: give up after so many seconds (their sum, in confirm mode).
    ///
    /// Raises:
    ///     TimeoutError: it took longer; the broker may have the message or not.
    ///     MessageNacked: the broker did not take it.
    #[allow(clippy::too_many_arguments, reason = "py-amqp's signature")]
    #[pyo3(signature = (msg, exchange="", routing_key="", mandatory=false, immediate=false,
        timeout=None, confirm_timeout=None, argsig="Bssbb"))]
    fn basic_publish(
        slf: &Bound<'_, Self>,
        msg: &Bound<'_, PyAny>,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        mandatory: Option<bool>,
        immediate: Option<bool>,
        timeout: Option<f64>,
        confirm_timeout: Option<f64>,
        argsig: &str,
    ) -> PyResult<()> {
        let _ = argsig;
        let py = slf.py();
        if immediate == Some(true) {
            return Err(PyValueError::new_err(
                "immediate=True: no broker has it any more (RabbitMQ since 3.0)",
            ));
        }
        let (channel, amqp) = core(slf)?;
        let (exchange, key) = (exchange.unwrap_or_default(), routing_key.unwrap_or_default());
        let mandatory = mandatory.unwrap_or(false);
        let message = prepared(msg, exchange, key)?;
        let patience = match (timeout, confirm_timeout) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0.0) + other.unwrap_or(0.0)),
        };
        let work = amqp.publish_with(vec![message], PublishOptions { mandatory });
        let until = deadline(patience)?.into_iter().chain(budget::deadline(py)?).min();
        match enter_until(py, work, until) {
            Ok(Some(())) => Ok(()),
            Ok(None) => {
                let why = Transport::blocked(channel.connection(py).bind(py))
                    .map_or_else(String::new, |why| {
                        format!(": the broker takes no publishes: {why}")
                    });
                Err(PyTimeoutError::new_err(format!(
                    "the publish to the exchange '{exchange}' with the routing key '{key}' was not \
                     done within its timeout{why}"
                )))
            }
            Err(error) => {
                channel.after_failure(py);
                match mandatory {
                    true => slf
                        .call_method1(
                            intern!(py, "_came_back"),
                            (error.value(py), exchange, key, msg),
                        )
                        .map(drop),
                    false => Err(error),
                }
            }
        }
    }

    /// Have the broker confirm each publish from now on.
    fn _confirm_select(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (channel, amqp) = core(slf)?;
        channel.run(slf.py(), amqp.confirm_select())
    }

    /// Start a consumer.
    #[allow(clippy::too_many_arguments, reason = "AMQP's arguments")]
    #[pyo3(signature = (queue, consumer_tag, no_ack, exclusive, callback, arguments))]
    fn _consume(
        slf: &Bound<'_, Self>,
        queue: &str,
        consumer_tag: &Bound<'_, PyAny>,
        no_ack: bool,
        exclusive: bool,
        callback: Option<Py<PyAny>>,
        arguments: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let options = ConsumeOptions {
            queue: queue.into(),
            consumer_tag: tag_text(consumer_tag)?.into(),
            no_ack,
            arguments: body::to_json(arguments)?,
        };
        core(slf)?.0.start_consumer(slf.py(), options, exclusive, callback)
    }

    /// Limit the unacknowledged messages of each consumer that is started from now on; 0 for no limit.
    fn _limit_each(slf: &Bound<'_, Self>, prefetch_count: Option<i64>) -> PyResult<()> {
        let (channel, amqp) = core(slf)?;
        let limit = prefetch_limit(prefetch_count)?;
        channel.run(slf.py(), amqp.qos_of_each(limit))
    }

    /// Stop a consumer. What has come for it is handed to its callback first, as far as its limits allow.
    fn _cancel(slf: &Bound<'_, Self>, consumer_tag: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (channel, amqp) = core(slf)?;
        let tag = tag_text(consumer_tag)?;
        let events = channel.run(py, amqp.cancel_with(&tag));
        let mut failed = Ok(());
        for event in events? {
            match failed {
                Ok(()) => failed = Channel::deliver(slf.as_super(), event),
                Err(_) => {
                    channel.run(py, channel.inner().reject(&event.delivery.claim.tag, true))?
                }
            }
        }
        channel.forget_callback(&tag);
        failed
    }

    /// Declare an exchange of any type.
    #[allow(clippy::too_many_arguments, reason = "AMQP's arguments")]
    #[pyo3(signature = (exchange, kind, passive, durable, auto_delete, internal, arguments=None))]
    fn _exchange_declare(
        slf: &Bound<'_, Self>,
        exchange: &str,
        kind: &str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (channel, amqp) = core(slf)?;
        let declaration = ExchangeDeclaration {
            name: exchange.into(),
            kind: kind.into(),
            passive,
            durable,
            auto_delete,
            internal,
            arguments: body::to_json(arguments)?,
        };
        channel.run(slf.py(), amqp.declare_exchange(&declaration))
    }

    /// Bind an exchange to another, or (``add=False``) remove such a binding.
    #[pyo3(signature = (add, destination, source, routing_key, arguments=None))]
    fn _exchange_binding(
        slf: &Bound<'_, Self>,
        add: bool,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (channel, amqp) = core(slf)?;
        let arguments = body::to_json(arguments)?;
        let (destination, source, key) = (destination.into(), source.into(), routing_key.into());
        match add {
            true => {
                let bind = amqp.exchange_bind(&destination, &source, &key, &arguments);
                channel.run(slf.py(), bind)
            }
            false => {
                let unbind = amqp.exchange_unbind(&destination, &source, &key, &arguments);
                channel.run(slf.py(), unbind)
            }
        }
    }

    /// ``tx.select``, ``tx.commit`` or ``tx.rollback``.
    fn _transaction(slf: &Bound<'_, Self>, step: &str) -> PyResult<()> {
        let (channel, amqp) = core(slf)?;
        let step = match step {
            "select" => Transaction::Select,
            "commit" => Transaction::Commit,
            "rollback" => Transaction::Rollback,
            other => {
                let error = Error::invalid(format!("tx.{other} is no method of AMQP"));
                return Err(super::errors::to_python(slf.py(), &error));
            }
        };
        channel.run(slf.py(), amqp.transaction(step))
    }

    /// Whether the channel can be used.
    #[getter]
    fn is_open(slf: &Bound<'_, Self>) -> bool {
        let channel = slf.as_super().get();
        !channel.is_closed() && channel.inner().is_open()
    }
}
