//! Which types still have the native methods: the fast paths ask, once per type.

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::collections::HashMap;

/// What was found about a type, by its address. A type that is collected could leave its address to
/// another one, so a reference is kept.
static CHANNELS: Mutex<Option<HashMap<usize, (bool, Py<PyType>)>>> = Mutex::new(None);

/// Methods of a channel that the fast paths go around.
const CHANNEL: [&str; 5] =
    ["basic_publish", "prepare_message", "basic_ack", "message_to_python", "body_encoding"];

/// Whether a channel type has our own `basic_publish`, `basic_ack`, ...: those that
/// `kombu_rs.transport.native.Channel` has.
pub fn is_plain_channel(class: &Bound<'_, PyType>) -> bool {
    let address = class.as_ptr() as usize;
    let known = CHANNELS.lock().as_ref().and_then(|known| known.get(&address).map(|k| k.0));
    if let Some(known) = known {
        return known;
    }
    let found = look(class).unwrap_or(false);
    let entry = (found, class.clone().unbind());
    CHANNELS.lock().get_or_insert_default().insert(address, entry);
    found
}

fn look(class: &Bound<'_, PyType>) -> PyResult<bool> {
    let own = class.py().import("kombu_rs.transport.native")?.getattr("Channel")?;
    for name in CHANNEL {
        if !class.getattr(name)?.is(own.getattr(name)?) {
            return Ok(false);
        }
    }
    Ok(true)
}
