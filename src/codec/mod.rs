//! Bytes on the wire to values and back. No I/O, no threads, no Python.

pub mod envelope;
pub mod json;
