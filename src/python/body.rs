//! Bodies, headers and properties between Python objects and JSON text.

use super::json;
use super::names;
use super::once::{get_or_make, intern};
use crate::model::{BodyEncoding, Json, Message, Name, Properties};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PySet, PyString};

/// What `kombu_rs` decides about types, found once.
struct Hooks {
    encode_value: Py<PyAny>,
    object_hook: Py<PyAny>,
    registry: Py<PyAny>,
    own_encoder: Py<PyAny>,
    own_decoder: Py<PyAny>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

fn hooks(py: Python<'_>) -> PyResult<&Hooks> {
    get_or_make(py, &HOOKS, || {
        let types = py.import("kombu_rs.utils.json")?;
        let serialization = py.import("kombu_rs.serialization")?;
        let registry = serialization.getattr("registry")?;
        // What other packages offer may replace our own JSON.
        if registry.getattr("_entry_points_pending")?.is_truthy()? {
            registry.call_method0("_load_entry_points")?;
        }
        Ok(Hooks {
            encode_value: types.getattr("encode_value")?.unbind(),
            object_hook: types.getattr("object_hook")?.unbind(),
            own_encoder: types.getattr("dumps")?.unbind(),
            own_decoder: types.getattr("loads")?.unbind(),
            registry: registry.unbind(),
        })
    })
}

/// The object that JSON text stands for, with Kombu's extended types.
///
/// # Errors
/// As `json.loads`, or what a registered type's decoder raises.
pub fn loads<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    json::read_json(py, text, Some(hooks(py)?.object_hook.bind(py)))
}

/// Appends an object as JSON text, with Kombu's extended types.
///
/// # Errors
/// `TypeError` or `ValueError` for what JSON cannot say.
pub fn dumps(py: Python<'_>, object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    json::write_json(py, object, out, Some(hooks(py)?.encode_value.bind(py)))
}

/// A new dict from the text of a JSON object.
///
/// # Errors
/// As [`loads`].
pub fn object<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    if text == b"{}" {
        return Ok(PyDict::new(py));
    }
    Ok(loads(py, text)?.cast_into::<PyDict>()?)
}

/// A dict (or None) as a JSON object.
///
/// # Errors
/// As [`dumps`]; `TypeError` when it is no dict.
pub fn to_json(dict: Option<&Bound<'_, PyAny>>) -> PyResult<Json> {
    let Some(dict) = dict.filter(|dict| !dict.is_none()) else { return Ok(Json::empty_object()) };
    if dict.len()? == 0 {
        return Ok(Json::empty_object());
    }
    let mut out = Vec::with_capacity(256);
    dumps(dict.py(), dict, &mut out)?;
    if out.first() != Some(&b'{') {
        let text = format!("headers and arguments must be dicts, got {}", dict.get_type().name()?);
        return Err(pyo3::exceptions::PyTypeError::new_err(text));
    }
    Ok(Json::from_valid(out))
}

/// Whether JSON bodies are read and written by this package's own functions, and `accept` (a set of
/// content types, or None) allows them.
///
/// # Errors
/// None in practice: what looking into the registry raises.
pub fn own_json(py: Python<'_>, accept: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    let hooks = hooks(py)?;
    let registry = hooks.registry.bind(py);
    let json = intern!(py, "application/json");
    let decoders = registry.getattr(intern!(py, "_decoders"))?;
    let Ok(decoder) = decoders.get_item(json) else { return Ok(false) };
    if !decoder.is(&hooks.own_decoder) {
        return Ok(false);
    }
    match accept.filter(|accept| !accept.is_none()) {
        Some(accept) => match accept.cast::<PySet>() {
            Ok(accept) => accept.contains(json),
            Err(_) => Ok(false),
        },
        None => Ok(!registry.getattr(intern!(py, "_disabled_content_types"))?.contains(json)?),
    }
}

/// Whether the serializer `name` (None: the default one) is this package's own JSON.
///
/// # Errors
/// As [`own_json`].
pub fn writes_json(py: Python<'_>, name: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    let hooks = hooks(py)?;
    let registry = hooks.registry.bind(py);
    let encoder = match name {
        None => registry.getattr(intern!(py, "_default_encode"))?,
        Some(name) => {
            let encoders = registry.getattr(intern!(py, "_encoders"))?;
            let Ok(entry) = encoders.get_item(name) else { return Ok(false) };
            entry.get_item(2)?
        }
    };
    Ok(encoder.is(&hooks.own_encoder))
}

fn optional_name(value: Option<Bound<'_, PyAny>>) -> PyResult<Option<Name>> {
    match value {
        Some(value) if !value.is_none() => Ok(Some(value.str()?.to_str()?.into())),
        _ => Ok(None),
    }
}

/// The bytes of an encoded body: bytes as they are, text as UTF-8.
///
/// # Errors
/// `TypeError` for anything else: it was not serialized.
pub fn body_bytes(body: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(text) = body.cast::<PyString>() {
        return Ok(text.to_str()?.as_bytes().to_vec());
    }
    if let Ok(bytes) = body.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    if body.is_none() {
        return Ok(Vec::new());
    }
    body.extract::<Vec<u8>>().map_err(|_| {
        let kind = body.get_type().name().map_or_else(|_| String::new(), |name| name.to_string());
        pyo3::exceptions::PyTypeError::new_err(format!(
            "a message body must be bytes or text by now, got {kind}: serialize it first"
        ))
    })
}

/// A message from the dict that `prepare_message` returns.
///
/// # Errors
/// `TypeError` or `ValueError` naming what JSON cannot say or has the wrong type.
pub fn message(
    prepared: &Bound<'_, PyDict>,
    exchange: &str,
    routing_key: &str,
    tag: String,
    encoding: BodyEncoding,
) -> PyResult<Message> {
    let py = prepared.py();
    let get = |key| prepared.get_item(key);
    let properties = match get(names::properties(py))? {
        Some(given) if !given.is_none() => properties(given.cast::<PyDict>()?)?,
        _ => Properties::default(),
    };
    let body = get(names::body(py))?.map_or_else(|| Ok(Vec::new()), |body| body_bytes(&body))?;
    Ok(Message {
        body: body.into(),
        content_type: optional_name(get(names::content_type(py))?)?,
        content_encoding: optional_name(get(names::content_encoding(py))?)?,
        headers: to_json(get(names::headers(py))?.as_ref())?,
        properties: Properties {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            delivery_tag: tag,
            body_encoding: encoding,
            ..properties
        },
        ..Message::default()
    })
}

/// Properties from a dict: the members that the core knows, the rest as JSON.
///
/// # Errors
/// As [`message`].
pub fn properties(given: &Bound<'_, PyDict>) -> PyResult<Properties> {
    let py = given.py();
    let mut known = Properties::default();
    let rest = PyDict::new(py);
    for (key, value) in given.iter() {
        let Ok(key) = key.cast_into::<PyString>() else {
            return Err(pyo3::exceptions::PyTypeError::new_err("property names must be str"));
        };
        match key.to_str()? {
            "priority" => known.priority = value.extract::<Option<i64>>()?,
            "delivery_tag" | "body_encoding" => {}
            "expiration" if !value.is_none() => {
                let text = value.str()?;
                known.expiration = Some(text.to_str()?.parse().map_err(|_| {
                    let text = format!("expiration must be whole milliseconds, got {text}");
                    pyo3::exceptions::PyValueError::new_err(text)
                })?);
            }
            "delivery_info" => {
                if let Ok(info) = value.cast::<PyDict>() {
                    let extra = info.copy()?;
                    for name in [names::exchange(py), names::routing_key(py)] {
                        if extra.contains(name)? {
                            extra.del_item(name)?;
                        }
                    }
                    known.delivery_info_extra = to_json(Some(extra.as_any()))?;
                }
            }
            _ => rest.set_item(key, value)?,
        }
    }
    known.extra = to_json(Some(rest.as_any()))?;
    Ok(known)
}
