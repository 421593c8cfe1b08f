//! JSON of Python objects: `json.dumps` and `json.loads` with their defaults, natively.
//!
//! The rule that keeps us equal to the standard library: whatever is not plain sailing (an error,
//! deep nesting, lone surrogates, a mapping with an odd `items()`) is given to Python's own `json`
//! from the start, which then does it or raises its own exception. Only what a hook raises goes out
//! directly.

use super::once::intern;
use crate::codec::json as text;
use memchr::memmem;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString,
    PyStringData, PyTuple,
};

/// Nesting up to here is written natively; beyond it Python's `json` does it, which also finds
/// structures that contain themselves.
const MAX_DEPTH: usize = 200;

/// Why native work stops.
enum Stop {
    /// Python's `json` shall do it.
    Fallback,
    /// A hook raised.
    Raised(PyErr),
}

impl From<PyErr> for Stop {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// Appends `value` as `json.dumps(value, default=hook)` writes it.
///
/// # Errors
/// What `json.dumps` raises: `TypeError` for something that has no JSON form, `ValueError` for a
/// circular reference, `RecursionError`; what the hook raises. `out` is as it was then.
pub fn write_json(
    py: Python<'_>,
    value: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
    hook: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let start = out.len();
    match (Writer { out: &mut *out, hook }).value(value, 0) {
        Ok(()) => Ok(()),
        Err(Stop::Raised(error)) => {
            out.truncate(start);
            Err(error)
        }
        Err(Stop::Fallback) => {
            out.truncate(start);
            let options = PyDict::new(py);
            options.set_item(intern!(py, "default"), hook)?;
            let dumps = py.import(intern!(py, "json"))?.getattr(intern!(py, "dumps"))?;
            let written = dumps.call((value,), Some(&options))?;
            out.extend_from_slice(written.cast::<PyString>()?.to_str()?.as_bytes());
            Ok(())
        }
    }
}

/// Writes one tree.
struct Writer<'a, 'py> {
    out: &'a mut Vec<u8>,
    hook: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> Writer<'_, 'py> {
    fn value(&mut self, value: &Bound<'py, PyAny>, depth: usize) -> Result<(), Stop> {
        // Exact types first: nearly everything is one of them.
        if let Ok(value) = value.cast_exact::<PyString>() {
            self.string(value)
        } else if let Ok(value) = value.cast_exact::<PyDict>() {
            self.dict(value, depth)
        } else if value.is_none() {
            self.put(b"null")
        } else if let Ok(value) = value.cast_exact::<PyInt>() {
            self.int(value)
        } else if let Ok(value) = value.cast::<PyBool>() {
            self.put(if value.is_true() { b"true" } else { b"false" })
        } else if let Ok(value) = value.cast_exact::<PyList>() {
            self.list(value, depth)
        } else if let Ok(value) = value.cast::<PyFloat>() {
            text::write_float(self.out, value.value());
            Ok(())
        } else if let Ok(value) = value.cast::<PyTuple>() {
            self.tuple(value, depth)
        } else if let Ok(value) = value.cast::<PyString>() {
            self.string(value)
        } else if let Ok(value) = value.cast::<PyInt>() {
            self.int(value)
        } else if let Ok(value) = value.cast::<PyList>() {
            self.list(value, depth)
        } else if let Ok(value) = value.cast::<PyDict>() {
            self.mapping(value, depth)
        } else {
            let hook = self.hook.ok_or(Stop::Fallback)?;
            let instead = hook.call1((value,))?;
            self.value(&instead, deeper(depth)?)
        }
    }

    fn put(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn string(&mut self, value: &Bound<'py, PyString>) -> Result<(), Stop> {
        // SAFETY: the characters are read before Python code can run, and the object is alive.
        match unsafe { value.data() } {
            Ok(PyStringData::Ucs1(bytes)) => text::write_latin1(self.out, bytes),
            Ok(PyStringData::Ucs2(units)) => text::write_ucs2(self.out, units),
            Ok(PyStringData::Ucs4(points)) => text::write_ucs4(self.out, points),
            Err(_) => return Err(Stop::Fallback),
        }
        Ok(())
    }

    fn int(&mut self, value: &Bound<'py, PyInt>) -> Result<(), Stop> {
        if let Ok(small) = value.extract::<i64>() {
            text::write_int(self.out, small);
            return Ok(());
        }
        let py = value.py();
        // The type's own: a subclass may show itself otherwise. Too many digits raise, as in `json`.
        let digits = py.get_type::<PyInt>().call_method1(intern!(py, "__repr__"), (value,))?;
        let digits = digits.cast::<PyString>().map_err(|_| Stop::Fallback)?;
        self.put(digits.to_str()?.as_bytes())
    }

    fn list(&mut self, value: &Bound<'py, PyList>, depth: usize) -> Result<(), Stop> {
        let depth = deeper(depth)?;
        self.out.push(b'[');
        let mut index = 0;
        // By index: a hook may change the list.
        while index < value.len() {
            if index > 0 {
                self.put(b", ")?;
            }
            self.value(&value.get_item(index)?, depth)?;
            index += 1;
        }
        self.put(b"]")
    }

    fn tuple(&mut self, value: &Bound<'py, PyTuple>, depth: usize) -> Result<(), Stop> {
        let depth = deeper(depth)?;
        self.out.push(b'[');
        for (index, item) in value.iter_borrowed().enumerate() {
            if index > 0 {
                self.put(b", ")?;
            }
            self.value(&item, depth)?;
        }
        self.put(b"]")
    }

    fn dict(&mut self, value: &Bound<'py, PyDict>, depth: usize) -> Result<(), Stop> {
        let depth = deeper(depth)?;
        let py = value.py();
        let size = value.len();
        self.out.push(b'{');
        let mut position: ffi::Py_ssize_t = 0;
        let mut first = true;
        loop {
            let (mut key, mut item) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: a live dict, the interpreter is attached. The borrowed pointers that it gives
            // are turned into owned ones before anything else runs. A hook may change the dict
            // between two calls: then its size or `position` may not fit any more, which the function
            // itself checks against the dict as it is.
            let (key, item) = unsafe {
                if ffi::PyDict_Next(value.as_ptr(), &mut position, &mut key, &mut item) == 0 {
                    break;
                }
                (Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, item))
            };
            self.member(&key, &item, depth, &mut first)?;
            if value.len() != size {
                return Err(Stop::Fallback);
            }
        }
        self.put(b"}")
    }

    /// A subclass of dict, which may have an order of its own (`OrderedDict`).
    fn mapping(&mut self, value: &Bound<'py, PyDict>, depth: usize) -> Result<(), Stop> {
        if value.is_empty() {
            return self.put(b"{}");
        }
        let depth = deeper(depth)?;
        let items = value.as_mapping().items().map_err(|_| Stop::Fallback)?;
        self.out.push(b'{');
        let mut first = true;
        for item in items {
            let pair = item.cast::<PyTuple>().map_err(|_| Stop::Fallback)?;
            if pair.len() != 2 {
                return Err(Stop::Fallback);
            }
            self.member(&pair.get_item(0)?, &pair.get_item(1)?, depth, &mut first)?;
        }
        self.put(b"}")
    }

    fn member(
        &mut self,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        depth: usize,
        first: &mut bool,
    ) -> Result<(), Stop> {
        if !std::mem::take(first) {
            self.put(b", ")?;
        }
        if let Ok(key) = key.cast::<PyString>() {
            self.string(key)?;
        } else if key.is_instance_of::<PyFloat>() || key.is_instance_of::<PyInt>() || key.is_none()
        {
            self.out.push(b'"');
            self.value(key, depth)?;
            self.out.push(b'"');
        } else {
            return Err(Stop::Fallback);
        }
        self.put(b": ")?;
        self.value(value, depth)
    }
}

fn deeper(depth: usize) -> Result<usize, Stop> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Stop::Fallback) }
}

/// Reads JSON text in UTF-8 as `json.loads(data.decode(), object_hook=hook)` does, for a hook that
/// returns every object as it is except those with exactly the members `__type__` and `__value__`;
/// it is called for these alone.
///
/// # Errors
/// What `json.loads` raises: `json.JSONDecodeError`, `UnicodeDecodeError`, `RecursionError`; what the
/// hook raises.
pub fn read_json<'py>(
    py: Python<'py>,
    data: &[u8],
    hook: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    match parse(py, data) {
        Some(value) => revived(value, data, hook),
        None => {
            let bytes = PyBytes::new(py, data);
            let text = PyString::from_encoded_object(&bytes, Some(c"utf-8"), Some(c"strict"))?;
            python_loads(text.as_any(), hook)
        }
    }
}

fn parse<'py>(py: Python<'py>, data: &[u8]) -> Option<Bound<'py, PyAny>> {
    let parser = jiter::PythonParse {
        allow_inf_nan: true,
        cache_mode: jiter::StringCacheMode::Keys,
        ..jiter::PythonParse::default()
    };
    parser.python_parse(py, data).ok()
}

fn python_loads<'py>(
    data: &Bound<'py, PyAny>,
    hook: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    let options = PyDict::new(py);
    options.set_item(intern!(py, "object_hook"), hook)?;
    let loads = py.import(intern!(py, "json"))?.getattr(intern!(py, "loads"))?;
    loads.call((data,), Some(&options))
}

fn revived<'py>(
    value: Bound<'py, PyAny>,
    data: &[u8],
    hook: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    match hook {
        Some(hook) if may_have_marker(data) => Ok(revive(&value, hook)?.unwrap_or(value)),
        _ => Ok(value),
    }
}

/// Whether the text may spell `__type__`: as it is, or with an escaped ASCII letter in it.
fn may_have_marker(data: &[u8]) -> bool {
    memmem::find(data, b"__type__").is_some()
        || memmem::find_iter(data, b"\\u00")
            .any(|at| matches!(data.get(at + 4), Some(b'5' | b'6' | b'7')))
}

/// Calls the hook from the inside out; `None` when the value stays as it is.
fn revive<'py>(
    value: &Bound<'py, PyAny>,
    hook: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    if let Ok(list) = value.cast_exact::<PyList>() {
        for (index, item) in list.iter().enumerate() {
            if let Some(instead) = revive(&item, hook)? {
                list.set_item(index, instead)?;
            }
        }
    } else if let Ok(dict) = value.cast_exact::<PyDict>() {
        for pair in dict.items() {
            let (key, item) = pair.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>()?;
            if let Some(instead) = revive(&item, hook)? {
                dict.set_item(key, instead)?;
            }
        }
        if dict.len() == 2
            && dict.contains(intern!(py, "__type__"))?
            && dict.contains(intern!(py, "__value__"))?
        {
            return hook.call1((dict,)).map(Some);
        }
    }
    Ok(None)
}

/// Return ``obj`` as JSON text in ASCII, as ``json.dumps(obj, default=default)``.
///
/// Arguments:
///     obj: anything that JSON has, and whatever ``default`` knows.
///     default: called with each value that JSON does not have; its result takes the value's place.
///
/// Raises:
///     TypeError: if something has no JSON form.
///     ValueError: if the data contains itself.
///     RecursionError: if it is nested too deeply.
#[pyfunction]
#[pyo3(signature = (obj, default = None))]
fn json_dumps<'py>(
    obj: &Bound<'py, PyAny>,
    default: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyString>> {
    let mut out = Vec::with_capacity(256);
    write_json(obj.py(), obj, &mut out, default)?;
    match std::str::from_utf8(&out) {
        Ok(text) => Ok(PyString::new(obj.py(), text)),
        Err(_) => Err(PyTypeError::new_err("json.dumps returned something else than ASCII text")),
    }
}

/// Return what JSON text (str, or UTF-8 in bytes, bytearray or memoryview) stands for.
///
/// Arguments:
///     data: the text.
///     object_hook: called with each object that has exactly the members ``__type__`` and
///         ``__value__``; its result takes the object's place.
///
/// Raises:
///     json.JSONDecodeError: if it is not JSON.
///     UnicodeDecodeError: if it is not UTF-8.
///     TypeError: if ``data`` is none of these types.
///     RecursionError: if it is nested too deeply.
#[pyfunction]
#[pyo3(signature = (data, object_hook = None))]
fn json_loads<'py>(
    data: &Bound<'py, PyAny>,
    object_hook: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    if let Ok(text) = data.cast::<PyString>() {
        // A str with lone surrogates has no UTF-8; Python reads it.
        if let Ok(text) = text.to_str()
            && let Some(value) = parse(py, text.as_bytes())
        {
            return revived(value, text.as_bytes(), object_hook);
        }
        return python_loads(data, object_hook);
    }
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return read_json(py, bytes.as_bytes(), object_hook);
    }
    if let Ok(bytes) = data.cast::<PyByteArray>() {
        return read_json(py, &bytes.to_vec(), object_hook);
    }
    if data.is_instance_of::<PyMemoryView>() {
        let bytes = data.call_method0(intern!(py, "tobytes"))?;
        return read_json(py, bytes.cast::<PyBytes>()?.as_bytes(), object_hook);
    }
    // Its TypeError.
    python_loads(data, object_hook)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(json_dumps, module)?)?;
    module.add_function(wrap_pyfunction!(json_loads, module)?)
}
