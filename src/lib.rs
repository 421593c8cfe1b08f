//! kombu-rs: the native core under the Python package `kombu_rs`.
//!
//! Arrows point one way: `python -> client -> virt -> routing, codec -> model`;
//! `transports` stand on `protocol` and `io` and meet `virt` only through
//! [`transport::Store`]. See `ARCHITECTURE.md`.

pub mod client;
pub mod codec;
pub mod error;
pub mod io;
pub mod model;
pub mod protocol;
#[cfg(feature = "python")]
mod python;
pub mod routing;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod transport;
pub mod transports;
pub mod virt;
