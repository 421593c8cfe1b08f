//! Messages of AMQP between the core and Python: they look as py-amqp's do.

use super::message::Origin;
use super::once::intern;
use super::{body, names};
use crate::model::{self, Message, Name};
use crate::transport::AmqpConnection;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

/// The numbers of `kombu_rs.transport.amqp.Statistics` by their names.
pub(super) fn statistics<'py>(
    py: Python<'py>,
    amqp: &dyn AmqpConnection,
) -> PyResult<Bound<'py, PyDict>> {
    let counters = amqp.counters();
    let (held, blocked) = amqp.held();
    let numbers = PyDict::new(py);
    for (name, counter) in [
        ("published", &counters.published),
        ("confirmed", &counters.confirmed),
        ("nacked", &counters.nacked),
        ("returned", &counters.returned),
        ("received", &counters.received),
        ("acked", &counters.acked),
        ("rejected", &counters.rejected),
        ("reconnects", &counters.reconnects),
        ("heartbeats_sent", &counters.heartbeats_sent),
        ("heartbeats_received", &counters.heartbeats_received),
        ("heartbeats_missed", &counters.heartbeats_missed),
    ] {
        numbers.set_item(name, counter.get())?;
    }
    numbers.set_item("blocked_seconds", (counters.blocked.get() + blocked).as_secs_f64())?;
    numbers.set_item("unacked", held.unacked)?;
    numbers.set_item("oldest_unacked_seconds", held.oldest.map(|age| age.as_secs_f64()))?;
    numbers.set_item("prefetched", held.prefetched)?;
    Ok(numbers)
}

/// A delivery tag as the number that it is.
pub(super) fn number(py: Python<'_>, tag: &str) -> PyResult<Py<PyAny>> {
    match tag.parse::<u64>() {
        Ok(number) => Ok(number.into_pyobject(py)?.into_any().unbind()),
        Err(_) => Ok(py.None()), // it came back
    }
}

/// py-amqp's `delivery_info`.
pub(super) fn delivery_info(
    py: Python<'_>,
    raw: &Message,
    origin: &Origin,
    tag: Py<PyAny>,
) -> PyResult<Py<PyAny>> {
    let info = PyDict::new(py);
    if let Some(consumer) = &origin.consumer_tag {
        info.set_item(intern!(py, "consumer_tag"), &**consumer)?;
    }
    info.set_item(names::delivery_tag(py), tag)?;
    info.set_item(names::redelivered(py), raw.redelivered)?;
    info.set_item(names::exchange(py), &*raw.properties.exchange)?;
    info.set_item(names::routing_key(py), &*raw.properties.routing_key)?;
    info.update(body::object(py, raw.properties.delivery_info_extra.as_bytes())?.as_mapping())?;
    Ok(info.into_any().unbind())
}

/// py-amqp's `properties`.
pub(super) fn properties(py: Python<'_>, raw: &Message, headers: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let given = PyDict::new(py);
    if let Some(kind) = &raw.content_type {
        given.set_item(intern!(py, "content_type"), &**kind)?;
    }
    if let Some(encoding) = &raw.content_encoding {
        given.set_item(intern!(py, "content_encoding"), &**encoding)?;
    }
    given.set_item(intern!(py, "application_headers"), headers)?;
    if let Some(priority) = raw.properties.priority {
        given.set_item(names::priority(py), priority)?;
    }
    if let Some(milliseconds) = raw.properties.expiration {
        given.set_item(names::expiration(py), milliseconds.to_string())?;
    }
    let extra = body::object(py, raw.properties.extra.as_bytes())?;
    let timestamp = intern!(py, "timestamp");
    if let Some(date) = extra.get_item(timestamp)? {
        extra.set_item(timestamp, seconds(&date)?)?;
    }
    given.update(extra.as_mapping())?;
    Ok(given.into_any().unbind())
}

/// The property `timestamp` as py-amqp has it: a number of seconds since 1970.
fn seconds<'py>(date: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = date.py();
    if !date.hasattr(intern!(py, "utctimetuple"))? {
        return Ok(date.clone());
    }
    let parts = date.call_method0(intern!(py, "utctimetuple"))?;
    py.import("calendar")?.getattr("timegm")?.call1((parts,))
}

/// py-amqp's `body`: text when the message names an encoding that fits.
pub(super) fn body(py: Python<'_>, raw: &Message) -> PyResult<Py<PyAny>> {
    let plain = || Ok(PyBytes::new(py, &raw.body).into_any().unbind());
    let Some(encoding) = &raw.content_encoding else { return plain() };
    if encoding.eq_ignore_ascii_case("utf-8") {
        return match std::str::from_utf8(&raw.body) {
            Ok(text) => Ok(PyString::new(py, text).into_any().unbind()),
            Err(_) => plain(),
        };
    }
    match PyBytes::new(py, &raw.body).call_method1(intern!(py, "decode"), (&**encoding,)) {
        Ok(text) if text.is_instance_of::<PyString>() => Ok(text.unbind()),
        _ => plain(),
    }
}

/// A message to publish, from an object with `body` and `properties` as py-amqp's messages have them.
///
/// # Errors
/// `TypeError` or `ValueError` naming what AMQP cannot hold.
pub(super) fn prepared(
    given: &Bound<'_, PyAny>,
    exchange: &str,
    routing_key: &str,
) -> PyResult<Message> {
    let py = given.py();
    let wrong = |_| {
        PyTypeError::new_err("message must be what Channel.prepare_message() or amqp.Message made")
    };
    let properties = given.getattr(intern!(py, "properties")).map_err(wrong)?;
    let properties = properties.cast::<PyDict>()?.copy()?;
    let take = |name: &str| {
        let value = properties.get_item(name)?;
        if value.is_some() {
            properties.del_item(name)?;
        }
        PyResult::Ok(value.filter(|value| !value.is_none()))
    };
    let content_type = take("content_type")?;
    let content_encoding = take("content_encoding")?;
    let headers = take("application_headers")?;
    let text = |value: Option<Bound<'_, PyAny>>| -> PyResult<Option<Name>> {
        value.map(|value| Ok(value.str()?.to_str()?.into())).transpose()
    };
    let mut content_encoding = text(content_encoding)?;
    let content = given.getattr(intern!(py, "body"))?;
    let content = match content.cast::<PyString>() {
        Ok(content) => {
            let encoding = content_encoding.get_or_insert_with(|| "utf-8".into());
            match encoding.eq_ignore_ascii_case("utf-8") {
                true => content.to_str()?.as_bytes().to_vec(),
                false => content.call_method1(intern!(py, "encode"), (&**encoding,))?.extract()?,
            }
        }
        Err(_) => body::body_bytes(&content)?,
    };
    Ok(Message {
        body: content.into(),
        content_type: text(content_type)?,
        content_encoding,
        headers: body::to_json(headers.as_ref())?,
        properties: model::Properties {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            ..body::properties(&properties)?
        },
        ..Message::default()
    })
}
