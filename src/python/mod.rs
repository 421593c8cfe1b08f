//! The extension module `kombu_rs._native`: the only place that knows Python.

mod body;
mod callbacks;
mod channel;
mod enter;
mod errors;
mod json;
mod message;
mod names;
mod overrides;
mod qos;
mod transport;
mod waiters;

use pyo3::prelude::*;

/// The native core of `kombu_rs`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<channel::Channel>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<qos::QoS>()?;
    module.add_class::<transport::Transport>()?;
    json::register(module)
}
