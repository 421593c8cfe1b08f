//! The native path of `kombu_rs.messaging.Producer`: one call into the core for a message.

use super::batch::PublishBatch;
use super::budget::Budget;
use super::channel::Channel;
use super::once::intern;
use super::{body, overrides};
use crate::io::lock::Mutex;
use crate::model::Message;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySet, PyString, PyTuple};

/// The native base of producers.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
#[derive(Default)]
pub struct Producer {
    /// Entities that were published with lately, and their hashes.
    hashes: Mutex<Vec<(Py<PyAny>, Py<PyAny>)>>,
}

/// Most entities whose hashes are kept.
const HASHES: usize = 8;

/// The arguments of `publish` that the native path looks at.
struct Call<'a, 'py> {
    body: &'a Bound<'py, PyAny>,
    routing_key: Option<&'a Bound<'py, PyAny>>,
    delivery_mode: Option<&'a Bound<'py, PyAny>>,
    priority: Option<&'a Bound<'py, PyAny>>,
    serializer: Option<&'a Bound<'py, PyAny>>,
    headers: Option<&'a Bound<'py, PyAny>>,
    exchange: Option<&'a Bound<'py, PyAny>>,
    declare: Option<&'a Bound<'py, PyAny>>,
    properties: &'a Bound<'py, PyDict>,
}

/// What the native path found to do.
struct Ready<'py> {
    channel: Bound<'py, Channel>,
    message: Message,
    batch: Option<Bound<'py, PyAny>>,
}

impl Producer {
    /// The entity's hash, which is Python code: asked for once.
    fn hash<'py>(&self, entity: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = entity.py();
        let found = self
            .hashes
            .lock()
            .iter()
            .find(|(known, _)| known.is(entity))
            .map(|(_, hash)| hash.clone_ref(py));
        if let Some(hash) = found {
            return Ok(hash.into_bound(py));
        }
        let hash = entity.hash()?.into_pyobject(py)?.into_any();
        let entry = (entity.clone().unbind(), hash.clone().unbind());
        let mut hashes = self.hashes.lock();
        let old = (hashes.len() == HASHES).then(|| hashes.remove(0));
        hashes.push(entry);
        drop(hashes);
        drop(old);
        Ok(hash)
    }

    /// Whether all that has to be declared before publishing is, on the channel's connection.
    fn all_declared(
        slf: &Bound<'_, Self>,
        channel: &Bound<'_, Channel>,
        own_exchange: &Bound<'_, PyAny>,
        declare: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let mut entities: Vec<Bound<'_, PyAny>> = Vec::new();
        if let Some(declare) = declare.filter(|declare| !declare.is_none()) {
            if !declare.is_instance_of::<PyList>() && !declare.is_instance_of::<PyTuple>() {
                return Ok(false);
            }
            entities.extend(declare.try_iter()?.collect::<PyResult<Vec<_>>>()?);
        }
        if slf.getattr(intern!(py, "auto_declare"))?.is_truthy()?
            && own_exchange.getattr(intern!(py, "name"))?.is_truthy()?
        {
            entities.push(own_exchange.clone());
        }
        if entities.is_empty() {
            return Ok(true);
        }
        let client = channel.get().connection(py).into_bound(py).getattr(intern!(py, "client"))?;
        let declared = client.getattr(intern!(py, "declared_entities"))?;
        let Ok(declared) = declared.cast::<PySet>() else { return Ok(false) };
        for entity in entities {
            if entity.is_none() {
                continue;
            }
            let cached = entity.getattr(intern!(py, "can_cache_declaration"))?.is_truthy()?;
            if !cached || !declared.contains(slf.get().hash(&entity)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The message, if nothing asks for the generic path.
    fn ready<'py>(slf: &Bound<'py, Self>, call: &Call<'_, 'py>) -> PyResult<Option<Ready<'py>>> {
        let py = slf.py();
        if !overrides::is_plain(&slf.get_type()) {
            return Ok(None);
        }
        if slf.getattr(intern!(py, "compression"))?.is_truthy()? {
            return Ok(None);
        }
        let mut channel = slf.getattr(intern!(py, "_channel"))?;
        if !channel.is_instance_of::<Channel>() {
            channel = slf.getattr(intern!(py, "channel"))?;
        }
        let Some(native) = Channel::native(&channel) else { return Ok(None) };
        if native.get().is_closed() {
            return Ok(None);
        }
        let own_exchange = slf.getattr(intern!(py, "exchange"))?;
        if !Self::all_declared(slf, native, &own_exchange, call.declare)? {
            return Ok(None);
        }
        let Some((exchange, delivery_mode)) = Self::details(call, &own_exchange)? else {
            return Ok(None);
        };
        let own_serializer = slf.getattr(intern!(py, "serializer"))?;
        let serializer = call
            .serializer
            .filter(|given| !given.is_none())
            .or_else(|| (!own_serializer.is_none()).then_some(&own_serializer));
        // Without a serializer, text and bytes go as they are.
        let raw = call.body.is_instance_of::<PyString>() || call.body.is_instance_of::<PyBytes>();
        if (serializer.is_none() && raw) || !body::writes_json(py, serializer)? {
            return Ok(None);
        }
        let routing_key = match call.routing_key.filter(|key| !key.is_none()) {
            Some(key) => key.clone(),
            None => slf.getattr(intern!(py, "routing_key"))?,
        };
        let (Ok(routing_key), Ok(exchange)) =
            (routing_key.cast::<PyString>(), exchange.cast::<PyString>())
        else {
            return Ok(None);
        };
        let encoding = Channel::encoding(native)?;
        let mut text = Vec::with_capacity(512);
        if body::dumps(py, call.body, &mut text).is_err() {
            return Ok(None); // the generic path says what is wrong
        }
        call.properties.set_item(intern!(py, "delivery_mode"), delivery_mode)?;
        let mut properties = body::properties(call.properties)?;
        if properties.priority.is_none() {
            let Some(priority) = call.priority else { return Ok(None) };
            let Ok(priority) = priority.extract::<Option<i64>>() else { return Ok(None) };
            properties.priority = Some(priority.unwrap_or(0));
        }
        properties.exchange = exchange.to_str()?.into();
        properties.routing_key = routing_key.to_str()?.into();
        properties.delivery_tag = super::channel::publisher_tag();
        properties.body_encoding = encoding;
        let message = Message {
            body: text.into(),
            content_type: Some(super::channel::json_type()),
            content_encoding: Some(super::channel::utf8()),
            headers: body::to_json(call.headers)?,
            properties,
            ..Message::default()
        };
        let batch = slf.getattr(intern!(py, "_batch_local"))?;
        let batch = batch.getattr_opt(intern!(py, "state"))?.filter(|state| !state.is_none());
        Ok(Some(Ready { channel: native.clone(), message, batch }))
    }

    /// The exchange's name and the delivery mode, as `_delivery_details` finds them.
    fn details<'py>(
        call: &Call<'_, 'py>,
        own_exchange: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let py = own_exchange.py();
        let given = call.exchange.filter(|given| given.is_truthy().unwrap_or(true));
        let (name, entity) = match given {
            Some(name) if name.is_instance_of::<PyString>() => (name.clone(), own_exchange),
            Some(entity) => {
                if !entity.is_instance(&own_exchange.get_type())? {
                    return Ok(None);
                }
                (entity.getattr(intern!(py, "name"))?, entity)
            }
            None => (own_exchange.getattr(intern!(py, "name"))?, own_exchange),
        };
        let mode = match call.delivery_mode.filter(|mode| mode.is_truthy().unwrap_or(true)) {
            Some(mode) => mode.clone(),
            None => entity.getattr(intern!(py, "delivery_mode"))?,
        };
        // None: persistent, Kombu's default. Names and odd numbers: the generic path knows.
        let mode = match mode.extract::<Option<i64>>() {
            Ok(None | Some(0)) => 2i64,
            Ok(Some(mode)) => mode,
            Err(_) => return Ok(None),
        };
        Ok(Some((name, mode.into_pyobject(py)?.into_any())))
    }
}

/// Whether `retry_policy` is what `Connection.ensure` takes; otherwise the generic path says what is
/// wrong with it.
fn is_retry_policy(policy: &Bound<'_, PyAny>) -> bool {
    const KNOWN: [&str; 7] = [
        "max_retries",
        "interval_start",
        "interval_step",
        "interval_max",
        "errback",
        "on_revive",
        "retry_errors",
    ];
    let known = |name: &Bound<'_, PyAny>| {
        name.cast::<PyString>().is_ok_and(|name| KNOWN.iter().any(|known| name == known))
    };
    policy.is_none()
        || policy.cast::<PyDict>().is_ok_and(|policy| policy.iter().all(|(name, _)| known(&name)))
}

#[pymethods]
impl Producer {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    /// Publish a message.
    ///
    /// Arguments:
    ///     body: what to send; serialized unless ``content_type`` says that it is encoded.
    ///     routing_key: default: the producer's.
    ///     delivery_mode: ``"persistent"`` (2, default) or ``"transient"`` (1).
    ///     mandatory: return it when no queue gets it.
    ///     immediate: return it when no consumer can take it now. RabbitMQ refuses this.
    ///     priority: 0 to 9.
    ///     content_type, content_encoding: of a body that is already encoded.
    ///     serializer: name of the serializer. Default: the producer's.
    ///     headers: the application's headers.
    ///     compression: name of the compression. Default: the producer's.
    ///     exchange: an exchange or its name. Default: the producer's.
    ///     retry: try again when the connection is lost.
    ///     retry_policy: arguments of :meth:`~kombu_rs.Connection.ensure`.
    ///     declare: exchanges and queues to declare first (once per connection).
    ///     expiration: drop the message after so many seconds.
    ///     timeout: give up after so many seconds. On the native transports that is for all of it:
    ///         connecting, declaring, sending, the answer and further tries; the message may have
    ///         arrived all the same. 0 and None: no limit but those of the connection.
    ///     confirm_timeout: give up waiting for the broker's confirm after so many seconds.
    ///     properties: further AMQP properties, such as ``reply_to`` (a name, or a queue whose
    ///         name is taken after it is declared) and ``correlation_id``.
    ///
    /// Raises:
    ///     EncodeError: the body cannot be serialized.
    ///     OperationalError: the broker cannot be reached (with ``retry``).
    #[allow(clippy::too_many_arguments, reason = "Kombu's signature")]
    #[pyo3(signature = (
        body, routing_key=None, delivery_mode=None, mandatory=None, immediate=None, priority=None,
        content_type=None, content_encoding=None, serializer=None, headers=None, compression=None,
        exchange=None, retry=None, retry_policy=None, declare=None, expiration=None, timeout=None,
        confirm_timeout=None, **properties
    ), text_signature = "($self, body, routing_key=None, delivery_mode=None, mandatory=False, \
        immediate=False, priority=0, content_type=None, content_encoding=None, serializer=None, \
        headers=None, compression=None, exchange=None, retry=False, retry_policy=None, \
        declare=None, expiration=None, timeout=None, confirm_timeout=None, **properties)")]
    fn publish<'py>(
        slf: &Bound<'py, Self>,
        body: &Bound<'py, PyAny>,
        routing_key: Option<&Bound<'py, PyAny>>,
        delivery_mode: Option<&Bound<'py, PyAny>>,
        mandatory: Option<&Bound<'py, PyAny>>,
        immediate: Option<&Bound<'py, PyAny>>,
        priority: Option<&Bound<'py, PyAny>>,
        content_type: Option<&Bound<'py, PyAny>>,
        content_encoding: Option<&Bound<'py, PyAny>>,
        serializer: Option<&Bound<'py, PyAny>>,
        headers: Option<&Bound<'py, PyAny>>,
        compression: Option<&Bound<'py, PyAny>>,
        exchange: Option<&Bound<'py, PyAny>>,
        retry: Option<&Bound<'py, PyAny>>,
        retry_policy: Option<&Bound<'py, PyAny>>,
        declare: Option<&Bound<'py, PyAny>>,
        expiration: Option<&Bound<'py, PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        confirm_timeout: Option<&Bound<'py, PyAny>>,
        properties: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let _budget = Budget::start(timeout)?;
        let zero = 0i32.into_pyobject(py)?.into_any();
        let priority = Some(priority.unwrap_or(&zero));
        let truthy =
            |flag: Option<&Bound<'py, PyAny>>| flag.map_or(Ok(false), |flag| flag.is_truthy());
        let (mandatory, immediate, retry) =
            (truthy(mandatory)?, truthy(immediate)?, truthy(retry)?);
        let simple = !mandatory
            && !immediate
            && content_type.is_none()
            && compression.is_none_or(|compression| !compression.is_truthy().unwrap_or(true))
            && expiration.is_none()
            && confirm_timeout.is_none()
            && (!retry || retry_policy.is_none_or(is_retry_policy));
        let plain_reply = |properties: &Bound<'py, PyDict>| -> PyResult<bool> {
            let reply_to = properties.get_item(intern!(py, "reply_to"))?;
            Ok(reply_to.is_none_or(|queue| queue.is_none() || queue.is_instance_of::<PyString>()))
        };
        let given = properties.map_or_else(|| Ok(PyDict::new(py)), |given| given.copy())?;
        if simple && plain_reply(&given)? {
            let own = given.copy()?;
            let call = Call {
                body,
                routing_key,
                delivery_mode,
                priority,
                serializer,
                headers,
                exchange,
                declare,
                properties: &own,
            };
            if let Some(Ready { channel, message, batch }) = Self::ready(slf, &call)? {
                if let Some(state) = batch {
                    let session = state.call_method1(intern!(py, "_get_session"), (&channel,))?;
                    if let Ok(session) = session.cast::<PublishBatch>() {
                        session.get().add(py, message)?;
                        return Ok(py.None());
                    }
                } else {
                    channel.get().before_use(py)?;
                    match channel.get().run(py, channel.get().inner().publish(vec![message])) {
                        Ok(()) => return Ok(py.None()),
                        Err(error) if !retry => return Err(error),
                        Err(_) => {} // the generic path tries again by the policy
                    }
                }
            }
        }
        for (name, value) in [
            ("routing_key", routing_key),
            ("delivery_mode", delivery_mode),
            ("priority", priority),
            ("content_type", content_type),
            ("content_encoding", content_encoding),
            ("serializer", serializer),
            ("headers", headers),
            ("compression", compression),
            ("exchange", exchange),
            ("retry_policy", retry_policy),
            ("declare", declare),
            ("expiration", expiration),
            ("timeout", timeout),
            ("confirm_timeout", confirm_timeout),
        ] {
            if let Some(value) = value {
                given.set_item(name, value)?;
            }
        }
        for (name, value) in [("mandatory", mandatory), ("immediate", immediate), ("retry", retry)]
        {
            given.set_item(name, value)?;
        }
        slf.call_method("_publish_generic", (body,), Some(&given)).map(Bound::unbind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(hashes) = self.hashes.try_lock() else { return Ok(()) };
        for (entity, _) in hashes.iter() {
            visit.call(entity)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let hashes = std::mem::take(&mut *self.hashes.lock());
        drop(hashes);
    }
}
