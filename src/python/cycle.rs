//! The native base of `kombu_rs.utils.scheduling.FairCycle`.

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
    fun: Py<PyAny>,
    resources: Py<PyAny>,
    predicate: Py<PyAny>,
    pos: Mutex<usize>,
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
        Self { fun, resources, predicate: predicate.unwrap_or_else(default), pos: Mutex::new(0) }
    }

    /// What is called for each resource.
    #[getter]
    fn fun(&self, py: Python<'_>) -> Py<PyAny> {
        self.fun.clone_ref(py)
    }

    /// What is asked.
    #[getter]
    fn resources(&self, py: Python<'_>) -> Py<PyAny> {
        self.resources.clone_ref(py)
    }

    /// The exception that says "nothing here".
    #[getter]
    fn predicate(&self, py: Python<'_>) -> Py<PyAny> {
        self.predicate.clone_ref(py)
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
        let resources = self.resources.bind(py);
        let count = resources.len()?;
        let turn = virt::next_turn(&mut self.pos.lock(), count);
        match turn {
            Some(turn) => resources.get_item(turn),
            None => Err(PyErr::from_value(self.predicate.bind(py).call0()?)),
        }
    }

    /// Return the result of the next resource that has one.
    ///
    /// Raises:
    ///     predicate: as the last resource raised it, after one round in vain.
    #[pyo3(signature = (callback, **kwargs))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        callback: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut tried = 0;
        loop {
            let resource = self._next(py)?;
            match self.fun.bind(py).call((resource, callback), kwargs) {
                Err(error) if error.matches(py, self.predicate.bind(py))? => {
                    tried += 1;
                    if tried >= self.resources.bind(py).len()? {
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
        let resources = self.resources.bind(py);
        let count = resources.len()?;
        Ok(format!("<FairCycle: {}/{count} {}>", self.pos(), resources.str()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.fun)?;
        visit.call(&self.resources)
    }
}
