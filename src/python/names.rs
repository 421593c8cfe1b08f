//! Interned strings that the message path uses as keys.

use super::once::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// `exchange`.
pub fn exchange(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "exchange")
}

/// `routing_key`.
pub fn routing_key(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "routing_key")
}

/// `redelivered`.
pub fn redelivered(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "redelivered")
}

/// `delivery_info`.
pub fn delivery_info(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "delivery_info")
}

/// `priority`.
pub fn priority(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "priority")
}

/// `body_encoding`.
pub fn body_encoding(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "body_encoding")
}

/// `delivery_tag`.
pub fn delivery_tag(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "delivery_tag")
}

/// `expiration`.
pub fn expiration(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "expiration")
}

/// `headers`.
pub fn headers(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "headers")
}

/// `properties`.
pub fn properties(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "properties")
}

/// `body`.
pub fn body(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "body")
}

/// `content-type`.
pub fn content_type(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "content-type")
}

/// `content-encoding`.
pub fn content_encoding(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "content-encoding")
}
