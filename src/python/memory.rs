//! What programs that use `memory://` in their tests need to begin anew.

use super::store;
use crate::transports::memory::MemoryStore;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Forget the queues of ``memory://`` in this process; bindings and exchanges stay.
#[pyfunction]
fn clear_memory_queues(py: Python<'_>) {
    py.detach(MemoryStore::clear_queues);
}

/// The names of the queues of ``memory://`` in this process, sorted.
#[pyfunction]
fn memory_queues() -> Vec<String> {
    MemoryStore::queue_names().iter().map(ToString::to_string).collect()
}

/// The messages in a queue of ``memory://``, the next one first.
#[pyfunction]
fn memory_messages<'py>(py: Python<'py>, queue: &str) -> PyResult<Vec<Bound<'py, PyDict>>> {
    MemoryStore::messages(queue).iter().map(|message| store::message_to(py, message)).collect()
}

/// The queues, exchanges and bindings of ``memory://`` in this process.
#[pyfunction]
fn memory_store(py: Python<'_>) -> PyResult<store::Store> {
    store::Store::memory(py)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(clear_memory_queues, module)?)?;
    module.add_function(wrap_pyfunction!(memory_queues, module)?)?;
    module.add_function(wrap_pyfunction!(memory_messages, module)?)?;
    module.add_function(wrap_pyfunction!(memory_store, module)?)
}
