//! One folder or file for each broker.

pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sql;
