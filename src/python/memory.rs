//! What programs that use `memory://` in their tests need to begin anew.

use crate::transports::memory::MemoryStore;
use pyo3::prelude::*;

/// Forget all queues, bindings and exchanges of ``memory://`` in this process.
#[pyfunction]
fn reset_memory(py: Python<'_>) {
    py.detach(MemoryStore::reset);
}

/// Adds the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(reset_memory, module)?)
}
