//! JSON between Python objects and text.
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

pub fn write_json(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
    hook: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let kwargs = PyDict::new(py);
    kwargs.set_item("default", hook)?;
    let text = py.import("json")?.getattr("dumps")?.call((object,), Some(&kwargs))?;
    out.extend_from_slice(text.cast::<pyo3::types::PyString>()?.to_str()?.as_bytes());
    Ok(())
}

pub fn read_json<'py>(
    py: Python<'py>,
    text: &[u8],
    hook: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = PyDict::new(py);
    kwargs.set_item("object_hook", hook)?;
    py.import("json")?.getattr("loads")?.call((PyBytes::new(py, text),), Some(&kwargs))
}
