//! The native transport under `kombu_rs.transport.native.Transport`.

use super::amqp_channel::AmqpChannel;
use super::channel::Channel;
use super::enter::{deadline, enter, enter_until};
use super::errors::{OrRaise, to_python};
use super::once::intern;
use super::store::Store;
use super::{overrides, waiters};
use crate::client::{Seeker, Sought};
use crate::error::{Error, Result};
use crate::io::fork;
use crate::io::lock::Mutex;
use crate::model::Name;
use crate::transport::schemes::{self, Options};
use crate::transport::{self, Counters, Event, Held, Login, Returned, Url};
use crate::virt::{self, Opener};
use pyo3::exceptions::{PyTimeoutError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyType, PyWeakrefMethods, PyWeakrefReference};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

/// Most events handed out for one wake-up of an event loop.
const BURST: usize = 64;

/// Seconds of a wait that is cut short: other greenlets have their turn.
const SHORT: f64 = 0.0001;
/// Waits that are as long are not cut short: Celery's are of 0.1 seconds.
const LONG: f64 = 0.11;
/// Messages that were handed out in this process, over all connections.
static HANDED_OUT: AtomicU64 = AtomicU64::new(0);

/// A transport of the native core: one connection to a broker.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Transport {
    inner: Arc<dyn transport::Connection>,
    /// The same, when it is one over a store.
    over_store: Option<Arc<virt::Connection>>,
    /// A broker that speaks AMQP itself: what is known of the link to it.
    link: Mutex<Link>,
    client: Mutex<Option<Py<PyAny>>>,
    channels: Mutex<HashMap<u64, Py<PyWeakrefReference>>>,
    /// A subscription was made, and no drain has told so yet.
    subscribed: AtomicBool,
    plain: overrides::Plain,
    seeker: Seeker,
    login: Login,
    /// Whether user and password may change.
    asks: AtomicBool,
    /// [`HANDED_OUT`] when a wait was last cut short; see [`Transport::waits_for_little`].
    cut_short: AtomicU64,
}

/// What was told of a link already.
#[derive(Default)]
struct Link {
    /// It was made, in the process of that generation: it is not replaced silently.
    made: Option<u64>,
    closed: bool,
    /// Somebody has got an error for its loss.
    told: bool,
    /// Why the broker takes no publishes.
    blocked: Option<String>,
}

/// What a wait for events ends with.
enum Step {
    Event(Event),
    /// A message came back to a channel.
    Returned(u64, Returned),
    /// The broker has cancelled a channel's consumer.
    Cancelled(u64, Name, Error),
    /// The broker takes no publishes, and why; or it does again.
    Blocked(Option<String>),
}

impl Transport {
    pub(super) fn open_channel(slf: &Bound<'_, Self>) -> PyResult<Arc<dyn transport::Channel>> {
        slf.get().still_there().or_raise(slf.py())?;
        enter(slf.py(), slf.get().inner.open_channel())
    }

    /// Why the broker of a transport takes no publishes.
    pub(super) fn blocked(object: &Bound<'_, PyAny>) -> Option<String> {
        object.cast::<Self>().ok()?.get().inner.amqp()?.blocked()
    }

    /// An error when a link to a broker that speaks AMQP was closed or lost: whoever uses it has to
    /// know that queues and consumers may be gone with it.
    fn still_there(&self) -> Result<()> {
        self.not_closed()?;
        if self.is_lost() {
            self.tell_loss();
            return Err(Error::closed("the connection to the broker is lost").with_driver("amqp"));
        }
        Ok(())
    }

    fn not_closed(&self) -> Result<()> {
        match self.inner.amqp().is_some() && self.link.lock().closed {
            true => Err(Error::closed("the connection is closed").with_driver("amqp")),
            false => Ok(()),
        }
    }

    /// Whether a link to a broker that speaks AMQP was made in this process, and is gone.
    fn is_lost(&self) -> bool {
        let made_here = self.link.lock().made == Some(fork::generation());
        self.inner.amqp().is_some() && made_here && !self.inner.is_connected()
    }

    /// Whether any of its channels has consumers.
    fn has_consumers(&self, py: Python<'_>) -> bool {
        self.open_channels(py).iter().any(|channel| {
            channel.cast::<Channel>().is_ok_and(|channel| channel.get().has_consumers())
        })
    }

    /// Whether a wait for events should end at once: the connection has no consumers, and since this
    /// was so last time messages came over another one. Celery's loop for greenlets looks into the
    /// connection of its events after each message, for 0.1 s, which would make ten tasks a second of
    /// any number. What can come there (blocks, messages that came back) is there, or comes later.
    fn waits_for_little(&self, py: Python<'_>) -> PyResult<bool> {
        if self.inner.amqp().is_none() || waiters::greenlet_wait(py)?.is_none() {
            return Ok(false);
        }
        let handed_out = HANDED_OUT.load(Ordering::Relaxed);
        if self.cut_short.load(Ordering::Relaxed) == handed_out || self.has_consumers(py) {
            return Ok(false);
        }
        self.cut_short.store(handed_out, Ordering::Relaxed);
        Ok(true)
    }

    /// Somebody gets an error: if the link is lost, it says so.
    fn tell_loss(&self) {
        if self.is_lost() {
            self.link.lock().told = true;
        }
    }

    /// An operation on one of a transport's channels has failed.
    pub(super) fn note_failure(object: &Bound<'_, PyAny>) {
        if let Ok(transport) = object.cast::<Self>() {
            transport.get().tell_loss();
        }
    }

    /// What the broker said beside messages.
    fn notice(&self) -> Option<Step> {
        let amqp = self.inner.amqp()?;
        if let Some((channel, returned)) = amqp.returned() {
            return Some(Step::Returned(channel, returned));
        }
        let now = amqp.blocked();
        let mut link = self.link.lock();
        if link.blocked == now {
            return None;
        }
        link.blocked.clone_from(&now);
        Some(Step::Blocked(now))
    }

    /// The error of a wait, or the consumer that it is about.
    fn failed(error: Error) -> Result<Step> {
        match error.consumer().map(|(channel, tag)| (channel, tag.into())) {
            Some((channel, tag)) => Ok(Step::Cancelled(channel, tag, error)),
            None => Err(error),
        }
    }

    fn store_connection(&self) -> Result<&Arc<virt::Connection>> {
        self.over_store.as_ref().ok_or_else(|| {
            Error::unsupported("a broker that speaks AMQP itself shows no store of messages")
        })
    }

    fn step_here(&self) -> Option<Step> {
        self.notice().or_else(|| self.inner.try_next().map(Step::Event))
    }

    async fn next_step(&self) -> Result<Step> {
        let mut next = self.inner.next();
        std::future::poll_fn(|cx| {
            if let Some(step) = self.notice() {
                return Poll::Ready(Ok(step));
            }
            match next.as_mut().poll(cx) {
                Poll::Ready(Ok(event)) => Poll::Ready(Ok(Step::Event(event))),
                Poll::Ready(Err(error)) => Poll::Ready(Self::failed(error)),
                Poll::Pending => match self.notice() {
                    Some(step) => Poll::Ready(Ok(step)),
                    None => Poll::Pending,
                },
            }
        })
        .await
    }

    pub(super) fn channel<'py>(&self, py: Python<'py>, id: u64) -> Option<Bound<'py, PyAny>> {
        let known = self.channels.lock().get(&id).map(|known| known.clone_ref(py))?;
        known.bind(py).upgrade()
    }

    /// A wait has failed: opens the channels again that the broker has closed.
    fn after_failure(&self, py: Python<'_>) {
        self.tell_loss();
        if self.inner.amqp().is_none() || !self.inner.is_connected() {
            return;
        }
        for channel in self.open_channels(py) {
            if let Ok(channel) = channel.cast::<Channel>() {
                channel.get().revive(py);
            }
        }
    }

    fn open_channels<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let ids: Vec<u64> = self.channels.lock().keys().copied().collect();
        ids.into_iter().filter_map(|id| self.channel(py, id)).collect()
    }

    /// Whether draining may go straight to the core.
    pub(super) fn is_plain(&self, class: &Bound<'_, PyType>) -> bool {
        self.plain.holds(class)
    }

    /// Whether a live link is there, as far as known without asking.
    pub(super) fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    /// To be called before the core may have to make a link: asks for user and password anew where
    /// they change. The core cannot ask: it may be the keeper that connects.
    pub(super) fn before_use(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.asks.load(Ordering::Relaxed) && !this.inner.is_connected() {
            slf.call_method0(intern!(slf.py(), "_renew_login"))?;
        }
        Ok(())
    }

    /// Hands what has come to whom it is for.
    fn dispatch(slf: &Bound<'_, Self>, step: Step) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        match step {
            Step::Event(event) => {
                HANDED_OUT.fetch_add(1, Ordering::Relaxed);
                match this.channel(py, event.channel) {
                    Some(channel) => Channel::deliver(channel.cast::<Channel>()?, event),
                    None => Ok(()),
                }
            }
            Step::Returned(id, returned) => match this.channel(py, id) {
                Some(channel) => AmqpChannel::came_back(&channel, returned),
                None => Ok(()),
            },
            Step::Cancelled(id, tag, error) => match this.channel(py, id) {
                Some(channel) => {
                    channel.cast::<Channel>()?.get().forget_callback(&tag);
                    let error = to_python(py, &error);
                    channel.call_method1("_on_cancelled", (&*tag, error.value(py))).map(drop)
                }
                None => Err(to_python(py, &error)),
            },
            Step::Blocked(why) => slf.call_method1("_on_blocked_state", (why,)).map(drop),
        }
    }
}

/// Transport options as the core takes them.
fn options_from(options: &Bound<'_, PyAny>) -> PyResult<Options> {
    let mut plain = Options::new();
    for (name, value) in options.cast::<PyDict>()?.iter() {
        let name: String = name.extract()?;
        let value = plain_value(&value).map_err(|error| {
            PyTypeError::new_err(format!(
                "transport option {name:?} must be text, a number, a bool, None, or a list or dict \
                 of these: {error}"
            ))
        })?;
        plain.insert(name, value);
    }
    Ok(plain)
}

/// As JSON. Keys of dictionaries may be whole numbers, such as those of socket options.
fn plain_value(value: &Bound<'_, PyAny>) -> PyResult<serde_json::Value> {
    let Ok(members) = value.cast::<PyDict>() else {
        return Ok(pythonize::depythonize(value)?);
    };
    let mut plain = Options::new();
    for (key, value) in members.iter() {
        let key = match key.extract::<i64>() {
            Ok(number) => number.to_string(),
            Err(_) => key.extract()?,
        };
        plain.insert(key, plain_value(&value)?);
    }
    Ok(serde_json::Value::Object(plain))
}

fn opener(url: Url, options: Options) -> Opener {
    Arc::new(move || schemes::open(&url, &options))
}

#[pymethods]
impl Transport {
    #[new]
    #[classmethod]
    #[pyo3(signature = (client=None, **_kwargs))]
    fn new(
        cls: &Bound<'_, PyType>,
        client: Option<Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let py = cls.py();
        let parameters = cls.call_method1("_parameters", (client.clone(),))?;
        let (url, options): (String, Bound<'_, PyAny>) = parameters.extract()?;
        let login = Login::default();
        let (mut url, options) = (Url::parse(&url).or_raise(py)?, options_from(&options)?);
        url.login = Some(login.clone());
        let speaks_amqp = schemes::connect(&url, &options).or_raise(py)?;
        let (inner, over_store) = match speaks_amqp {
            Some(inner) => (inner, None),
            None => {
                let inner = virt::Connection::new(&opener(url, options)).or_raise(py)?;
                let inner = Arc::new(inner);
                (inner.clone() as Arc<dyn transport::Connection>, Some(inner))
            }
        };
        let client = Mutex::new(client.map(Bound::unbind));
        Ok(Self {
            inner,
            over_store,
            link: Mutex::default(),
            client,
            channels: Mutex::default(),
            subscribed: AtomicBool::new(false),
            plain: overrides::Plain::default(),
            seeker: Seeker::default(),
            login,
            asks: AtomicBool::new(false),
            cut_short: AtomicU64::new(0),
        })
    }

    /// The connection that made the transport.
    #[getter]
    fn client(&self, py: Python<'_>) -> Py<PyAny> {
        self.client.lock().as_ref().map_or_else(|| py.None(), |client| client.clone_ref(py))
    }

    #[setter]
    fn set_client(&self, value: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut *self.client.lock(), value);
        drop(old);
    }

    /// Has the connection use another URL and other options: once, before its first use.
    fn _configure(&self, py: Python<'_>, url: &str, options: &Bound<'_, PyAny>) -> PyResult<()> {
        let (mut url, options) = (Url::parse(url).or_raise(py)?, options_from(options)?);
        url.login = Some(self.login.clone());
        self.store_connection().or_raise(py)?.change(&opener(url, options)).or_raise(py)
    }

    /// Sets user and password of the links to come. ``_renew_login`` is called for others from now on
    /// whenever the connection is used while there is no link.
    #[pyo3(signature = (username, password))]
    fn _log_in_as(&self, username: Option<String>, password: Option<String>) {
        self.login.set(username, password);
        self.asks.store(true, Ordering::Relaxed);
    }

    /// Note that an attribute of this object alone was replaced: native code must not go around it.
    fn _hooked(&self) {
        self.plain.replace();
    }

    /// Whether nothing that native code goes around was replaced, in the object or its class.
    fn _is_plain(slf: &Bound<'_, Self>) -> bool {
        slf.get().plain.holds(&slf.get_type())
    }

    /// The queues, exchanges and bindings that the transport sees.
    fn _open_store(&self, py: Python<'_>) -> PyResult<Store> {
        Ok(Store::of(self.store_connection().or_raise(py)?.clone()))
    }

    /// What was agreed on with a broker that speaks AMQP itself, and what it says of itself; None
    /// without a live link.
    fn _agreed<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(agreed) = self.inner.amqp().and_then(|amqp| amqp.agreed()) else {
            return Ok(None);
        };
        let known = PyDict::new(py);
        known.set_item("heartbeat", agreed.heartbeat)?;
        known.set_item("channel_max", agreed.channel_max)?;
        known.set_item("frame_max", agreed.frame_max)?;
        let properties = super::body::object(py, agreed.server_properties.as_bytes())?;
        known.set_item("server_properties", properties)?;
        Ok(Some(known))
    }

    /// Connects, within ``timeout`` seconds.
    #[pyo3(signature = (timeout=None))]
    fn _connect(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<()> {
        let py = slf.py();
        waiters::look(py)?;
        Self::before_use(slf)?;
        let until = deadline(timeout)?;
        match enter_until(py, slf.get().inner.connect(), until)? {
            Some(()) => {
                let mut link = slf.get().link.lock();
                *link = Link { made: Some(fork::generation()), ..Link::default() };
                Ok(())
            }
            None => Err(PyTimeoutError::new_err("connecting timed out")),
        }
    }

    /// Waits for a broker that could not be reached. True as soon as it is connected, False after
    /// ``seconds``, None when the broker is there but refuses us.
    fn _await_broker(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<Option<bool>> {
        Self::before_use(slf)?;
        let (py, this) = (slf.py(), slf.get());
        let Some(until) = deadline(Some(seconds))? else { return Ok(Some(false)) };
        Ok(match enter_until(py, this.seeker.wait(&this.inner, until), None)? {
            Some(Sought::Found) => Some(true),
            Some(Sought::Refused) => None,
            Some(Sought::Nothing) | None => Some(false),
        })
    }

    /// Whether a live link is there, as far as known without asking.
    fn _is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    /// Whether consumers were lost with the link and nobody knows: who waits for messages has to be
    /// told before there is another link, on which nothing would ever come.
    fn _has_to_tell(&self, py: Python<'_>) -> bool {
        self.is_lost() && !self.link.lock().told && self.has_consumers(py)
    }

    /// Somebody gets an error for a link that is lost.
    fn _tell_loss(&self) {
        self.tell_loss();
    }

    /// Remembers a channel: its deliveries find it by number.
    fn _add_channel(&self, channel: &Bound<'_, Channel>) -> PyResult<()> {
        let weak = PyWeakrefReference::new(channel.as_any())?.unbind();
        let old = self.channels.lock().insert(channel.get().inner().id(), weak);
        drop(old);
        Ok(())
    }

    /// Forgets a closed channel.
    fn _remove_channel(&self, channel: &Bound<'_, Channel>) {
        let old = self.channels.lock().remove(&channel.get().inner().id());
        drop(old);
    }

    /// Waits for one event and hands it to its consumer.
    ///
    /// Raises:
    ///     TimeoutError: nothing came within ``timeout`` seconds (None: wait for ever).
    #[pyo3(signature = (connection=None, timeout=None))]
    pub(super) fn drain_events(
        slf: &Bound<'_, Self>,
        connection: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let _ = connection;
        let (py, this) = (slf.py(), slf.get());
        let step = match this.step_here() {
            Some(step) => Some(step),
            None => {
                Self::before_use(slf)?;
                this.not_closed().or_raise(py)?;
                let timeout = match timeout {
                    Some(LONG..) | None => timeout,
                    Some(_) if !this.waits_for_little(py)? => timeout,
                    Some(timeout) => Some(timeout.min(SHORT)),
                };
                enter_until(py, this.next_step(), deadline(timeout)?)
                    .inspect_err(|_| this.after_failure(py))?
            }
        };
        match step {
            Some(step) => Self::dispatch(slf, step),
            // In Kombu the answer to a subscription is an event, which ends the wait.
            None if this.subscribed.swap(false, Ordering::Relaxed) => Ok(()),
            None => Err(PyTimeoutError::new_err("timed out")),
        }
    }

    /// Note that a fanout exchange was subscribed to.
    fn _subscribed(&self) {
        self.subscribed.store(true, Ordering::Relaxed);
    }

    /// The descriptor for an event loop; the same one for the life of the transport.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.inner.event_fd().or_raise(py)
    }

    /// Tells whether an event loop drives the transport.
    fn _set_event_loop(&self, on: bool) {
        self.inner.set_event_loop(on);
        if on {
            self.inner.ring();
        }
    }

    /// Hands out what is there, for an event loop whose descriptor became readable.
    #[pyo3(signature = (*_args))]
    fn on_readable(slf: &Bound<'_, Self>, _args: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        Self::before_use(slf)?;
        let drive = || match py.detach(|| this.inner.drive()) {
            Ok(()) => Ok(this.step_here()),
            Err(error) => Self::failed(error).map(Some),
        };
        let drive = || drive().or_raise(py).inspect_err(|_| this.after_failure(py));
        let mut step = drive()?;
        super::logs::flush(py)?;
        for _ in 0..BURST {
            let Some(now) = step else { return Ok(()) };
            if let Err(error) = Self::dispatch(slf, now) {
                this.inner.ring();
                return Err(error);
            }
            step = this.step_here();
            if step.is_none() {
                // What the callbacks settled gives new credit.
                step = drive()?;
            }
        }
        if let Some(last) = step {
            this.inner.ring();
            Self::dispatch(slf, last)?;
        }
        this.inner.ring();
        Ok(())
    }

    /// Gives the link up without a word to the broker.
    fn _abandon(&self) {
        self.inner.abandon();
    }

    /// The numbers of ``kombu_rs.transport.native.Statistics`` by their names, or of
    /// ``kombu_rs.transport.amqp.Statistics``.
    fn _statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(amqp) = self.inner.amqp() {
            return super::amqp::statistics(py, amqp);
        }
        let used = self.store_connection().or_raise(py)?.used();
        let held = used.as_ref().map_or_else(Held::default, |(_, held)| *held);
        let unused = Counters::default();
        let counters = used.as_ref().map_or(&unused, |(store, _)| store.counters());
        let numbers = PyDict::new(py);
        for (name, counter) in [
            ("published", &counters.published),
            ("received", &counters.received),
            ("acked", &counters.acked),
            ("rejected", &counters.rejected),
            ("returned", &counters.returned),
            ("restored", &counters.restored),
            ("renewed", &counters.renewed),
            ("reconnects", &counters.reconnects),
            ("empty_wake_ups", &counters.empty_wake_ups),
            ("script_calls", &counters.script_calls),
        ] {
            numbers.set_item(name, counter.get())?;
        }
        numbers.set_item("script_seconds", counters.script_time.get().as_secs_f64())?;
        numbers.set_item("unacked", held.unacked)?;
        numbers.set_item("oldest_unacked_seconds", held.oldest.map(|age| age.as_secs_f64()))?;
        numbers.set_item("prefetched", held.prefetched)?;
        Ok(numbers)
    }

    /// Number of ready messages of each priority.
    fn _depth<'py>(&self, py: Python<'py>, queue: &str) -> PyResult<Bound<'py, PyDict>> {
        let store = self.store_connection().or_raise(py)?.store();
        enter(py, store.depth(&queue.into()))?.into_py_dict(py)
    }

    /// As ``_close``, without waiting for the broker. AMQP only.
    fn _leave(&self) {
        self.link.lock().closed = true;
        if let Some(amqp) = self.inner.amqp() {
            amqp.leave();
        }
    }

    /// Closes the link.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        self.link.lock().closed = true;
        enter(py, self.inner.close())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(client) = self.client.try_lock() {
            visit.call(&*client)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let client = self.client.lock().take();
        drop(client);
    }
}
