//! The extension module `kombu_rs._native`: the only place that knows Python.

mod amqp;
mod amqp_channel;
mod batch;
mod body;
mod budget;
mod callbacks;
mod channel;
mod connection;
mod consumer;
mod cycle;
mod enter;
mod errors;
mod json;
mod logs;
mod memory;
mod message;
mod names;
mod once;
mod overrides;
mod producer;
mod qos;
mod store;
mod transport;
mod waiters;

use pyo3::prelude::*;

/// The native core of `kombu_rs`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Now, under the GIL: a fork while another thread is about to install the hooks would be missed.
    crate::io::fork::install();
    logs::install();
    module.add_class::<amqp_channel::AmqpChannel>()?;
    module.add_class::<batch::PublishBatch>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<connection::Connection>()?;
    module.add_class::<consumer::Consumer>()?;
    module.add_class::<cycle::FairCycle>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<producer::Producer>()?;
    module.add_class::<qos::QoS>()?;
    module.add_class::<store::Store>()?;
    module.add_class::<transport::Transport>()?;
    budget::register(module)?;
    json::register(module)?;
    memory::register(module)
}
