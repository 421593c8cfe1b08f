//! Which types still have the native methods: the fast paths ask, once per type.

use crate::io::lock::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::collections::HashMap;

/// A class of ours and the methods that its fast paths go around.
#[derive(Debug)]
pub struct Hooks {
    module: &'static str,
    class: &'static str,
    methods: &'static [&'static str],
}

/// Channels.
pub static CHANNEL: Hooks = Hooks {
    module: "kombu_rs.transport.native",
    class: "Channel",
    methods: &["basic_publish", "prepare_message", "basic_ack", "message_to_python"],
};

/// Transports.
pub static TRANSPORT: Hooks =
    Hooks { module: "kombu_rs.transport.native", class: "Transport", methods: &["drain_events"] };

/// Producers.
pub static PRODUCER: Hooks = Hooks {
    module: "kombu_rs.messaging",
    class: "Producer",
    methods: &["_publish", "_prepare", "_delivery_details", "channel"],
};

type Known = HashMap<(usize, usize), (bool, Py<PyType>)>;

/// What was found, by the addresses of hooks and type. A reference to the type is kept: one that is
/// collected could leave its address to another.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// Whether `class` has all of our own methods that `hooks` names.
pub fn is_plain(hooks: &'static Hooks, class: &Bound<'_, PyType>) -> bool {
    let key = (std::ptr::from_ref(hooks) as usize, class.as_ptr() as usize);
    let known = KNOWN.lock().as_ref().and_then(|known| known.get(&key).map(|found| found.0));
    if let Some(known) = known {
        return known;
    }
    let found = look(hooks, class).unwrap_or(false);
    let entry = (found, class.clone().unbind());
    KNOWN.lock().get_or_insert_default().insert(key, entry);
    found
}

fn look(hooks: &Hooks, class: &Bound<'_, PyType>) -> PyResult<bool> {
    let own = class.py().import(hooks.module)?.getattr(hooks.class)?;
    for name in hooks.methods {
        if !class.getattr(*name)?.is(&own.getattr(*name)?) {
            return Ok(false);
        }
    }
    Ok(true)
}
