//! The native transport under `kombu_rs.transport.native.Transport`.

use super::channel::Channel;
use super::enter::{deadline, enter, enter_until};
use super::errors::OrRaise;
use super::store::Store;
use super::{overrides, waiters};
use crate::client::{Seeker, Sought};
use crate::io::lock::Mutex;
use crate::transport::schemes::{self, Options};
use crate::transport::{self, Connection as _, Counters, Event, Held, Login, Url};
use crate::virt::{self, Opener};
use pyo3::exceptions::{PyTimeoutError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyType, PyWeakrefMethods, PyWeakrefReference};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most events handed out for one wake-up of an event loop.
const BURST: usize = 64;

/// A transport of the native core: one connection to a broker.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct Transport {
    inner: Arc<virt::Connection>,
    client: Mutex<Option<Py<PyAny>>>,
    channels: Mutex<HashMap<u64, Py<PyWeakrefReference>>>,
    /// A subscription was made, and no drain has told so yet.
    subscribed: AtomicBool,
    plain: overrides::Plain,
    seeker: Seeker,
    login: Login,
    /// Whether user and password may change.
    asks: AtomicBool,
}

impl Transport {
    pub(super) fn open_channel(slf: &Bound<'_, Self>) -> PyResult<Arc<dyn transport::Channel>> {
        enter(slf.py(), slf.get().inner.open_channel())
    }

    /// Whether draining may go straight to the core.
    pub(super) fn is_plain(&self, class: &Bound<'_, PyType>) -> bool {
        self.plain.holds(class)
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

    /// Hands an event to the channel that consumes it.
    fn dispatch(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let channel = self.channels.lock().get(&event.channel).map(|known| known.clone_ref(py));
        let Some(channel) = channel.and_then(|known| known.bind(py).upgrade()) else {
            return Ok(());
        };
        Channel::deliver(channel.cast::<Channel>()?, event)
    }
}

/// Transport options as the core takes them.
fn options_from(options: &Bound<'_, PyAny>) -> PyResult<Options> {
    let mut plain = Options::new();
    for (name, value) in options.cast::<PyDict>()?.iter() {
        let name: String = name.extract()?;
        let value = pythonize::depythonize(&value).map_err(|error| {
            PyTypeError::new_err(format!(
                "transport option {name:?} must be text, a number, a bool, None, or a list or dict \
                 of these: {error}"
            ))
        })?;
        plain.insert(name, value);
    }
    Ok(plain)
}

fn opener(
    py: Python<'_>,
    url: &str,
    options: &Bound<'_, PyAny>,
    login: &Login,
) -> PyResult<Opener> {
    let mut url = Url::parse(url).or_raise(py)?;
    url.login = Some(login.clone());
    let options = options_from(options)?;
    Ok(Arc::new(move || schemes::open(&url, &options)))
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
        let inner = virt::Connection::new(&opener(py, &url, &options, &login)?).or_raise(py)?;
        let client = Mutex::new(client.map(Bound::unbind));
        Ok(Self {
            inner: Arc::new(inner),
            client,
            channels: Mutex::default(),
            subscribed: AtomicBool::new(false),
            plain: overrides::Plain::default(),
            seeker: Seeker::default(),
            login,
            asks: AtomicBool::new(false),
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
        self.inner.change(&opener(py, url, options, &self.login)?).or_raise(py)
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
    fn _open_store(&self) -> Store {
        Store::of(self.inner.clone())
    }

    /// Connects, within ``timeout`` seconds.
    #[pyo3(signature = (timeout=None))]
    fn _connect(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<()> {
        let py = slf.py();
        waiters::look(py)?;
        Self::before_use(slf)?;
        let until = deadline(timeout)?;
        match enter_until(py, slf.get().inner.connect(), until)? {
            Some(()) => Ok(()),
            None => Err(PyTimeoutError::new_err("connecting timed out")),
        }
    }

    /// Waits for a broker that could not be reached. True as soon as it is connected, False after
    /// ``seconds``, None when the broker is there but refuses us.
    fn _await_broker(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<Option<bool>> {
        Self::before_use(slf)?;
        let (py, this) = (slf.py(), slf.get());
        let Some(until) = deadline(Some(seconds))? else { return Ok(Some(false)) };
        let inner: Arc<dyn transport::Connection> = this.inner.clone();
        Ok(match enter_until(py, this.seeker.wait(&inner, until), None)? {
            Some(Sought::Found) => Some(true),
            Some(Sought::Refused) => None,
            Some(Sought::Nothing) | None => Some(false),
        })
    }

    /// Whether a live link is there, as far as known without asking.
    fn _is_connected(&self) -> bool {
        self.inner.is_connected()
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
        let event = match this.inner.try_next() {
            Some(event) => Some(event),
            None => {
                Self::before_use(slf)?;
                enter_until(py, this.inner.next(), deadline(timeout)?)?
            }
        };
        match event {
            Some(event) => this.dispatch(py, event),
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
        let drive = || py.detach(|| this.inner.drive()).or_raise(py);
        drive()?;
        super::logs::flush(py)?;
        for _ in 0..BURST {
            let mut event = this.inner.try_next();
            if event.is_none() {
                // What the callbacks settled gives new credit.
                drive()?;
                event = this.inner.try_next();
            }
            let Some(event) = event else { return Ok(()) };
            if let Err(error) = this.dispatch(py, event) {
                this.inner.ring();
                return Err(error);
            }
        }
        this.inner.ring();
        Ok(())
    }

    /// Gives the link up without a word to the broker.
    fn _abandon(&self) {
        self.inner.abandon();
    }

    /// The numbers of ``kombu_rs.transport.native.Statistics`` by their names.
    fn _statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let used = self.inner.used();
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
        let store = self.inner.store();
        enter(py, store.depth(&queue.into()))?.into_py_dict(py)
    }

    /// Closes the link.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
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
