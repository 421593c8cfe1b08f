//! The native base of `kombu_rs.utils.scheduling.FairCycle`.

use super::once::intern;
use crate::io::lock::Mutex;
use crate::virt;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Ask resources in turn, so that a busy one cannot starve the others.
///
/// Arguments:
///     fun (Callable): Called as ``fun(resource, callback, **kwargs)``.
///     resources (Sequence): What to ask; may change between calls.
///     predicate (type): Exception by which ``fun`` says "nothing here".
///
/// It has no `dict` of its own, the Python class brings one: CPython 3.11 and 3.12 make such a dict
/// before the fields below are written, and a collection that this sets off would visit them.
#[pyclass(subclass, frozen, weakref, module = "kombu_rs._native")]
pub struct FairCycle {
    fun: Mutex<Py<PyAny>>,
    resources: Mutex<Py<PyAny>>,
    predicate: Mutex<Py<PyAny>>,
    pos: Mutex<usize>,
}

/// What an attribute is now.
fn read<'py>(py: Python<'py>, attribute: &Mutex<Py<PyAny>>) -> Bound<'py, PyAny> {
    attribute.lock().clone_ref(py).into_bound(py)
}

/// Sets an attribute; what it was is dropped when the lock is free again.
fn write(attribute: &Mutex<Py<PyAny>>, value: Py<PyAny>) {
    let old = std::mem::replace(&mut *attribute.lock(), value);
    drop(old);
}

#[pymethods]
impl FairCycle {
    #[new]
    #[pyo3(signature = (fun, resources, predicate=None))]
    fn new(
        py: Python<'_>,
        fun: Py<PyAny>,
        resources: Py<PyAny>,
        predicate: Option<Py<PyAny>>,
    ) -> Self {
        let default = || py.get_type::<pyo3::exceptions::PyException>().into_any().unbind();
        Self {
            fun: Mutex::new(fun),
            resources: Mutex::new(resources),
            predicate: Mutex::new(predicate.unwrap_or_else(default)),
            pos: Mutex::new(0),
        }
    }

    /// What is called for each resource.
    #[getter]
    fn fun<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        read(py, &self.fun)
    }

    #[setter]
    fn set_fun(&self, value: Py<PyAny>) {
        write(&self.fun, value);
    }

    /// What is asked.
    #[getter]
    fn resources<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        read(py, &self.resources)
    }

    #[setter]
    fn set_resources(&self, value: Py<PyAny>) {
        write(&self.resources, value);
    }

    /// The exception that says "nothing here".
    #[getter]
    fn predicate<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        read(py, &self.predicate)
    }

    #[setter]
    fn set_predicate(&self, value: Py<PyAny>) {
        write(&self.predicate, value);
    }

    /// Whose turn it is, as an index.
    #[getter]
    fn pos(&self) -> usize {
        *self.pos.lock()
    }

    #[setter]
    fn set_pos(&self, value: usize) {
        *self.pos.lock() = value;
    }

    fn _next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let resources = read(py, &self.resources);
        let count = resources.len()?;
        let turn = virt::next_turn(&mut self.pos.lock(), count);
        match turn {
            Some(turn) => resources.get_item(turn),
            None => Err(PyErr::from_value(read(py, &self.predicate).call0()?)),
        }
    }

    /// Return the result of the next resource that has one.
    ///
    /// Raises:
    ///     predicate: as the last resource raised it, after one round in vain.
    #[pyo3(signature = (callback, **kwargs))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        callback: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let mut tried = 0;
        loop {
            // A subclass may have its own.
            let resource = slf.call_method0(intern!(py, "_next"))?;
            match read(py, &this.fun).call((resource, callback), kwargs) {
                Err(error) if error.matches(py, read(py, &this.predicate))? => {
                    tried += 1;
                    if tried >= read(py, &this.resources).len()? {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Do nothing; there for pollers that must be closed.
    fn close(&self) {}

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let resources = read(py, &self.resources);
        let count = resources.len()?;
        Ok(format!("<FairCycle: {}/{count} {}>", self.pos(), resources.str()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds a lock has the object, so it is no garbage.
        for attribute in [&self.fun, &self.resources, &self.predicate] {
            if let Some(attribute) = attribute.try_lock() {
                visit.call(&*attribute)?;
            }
        }
        Ok(())
    }
}
