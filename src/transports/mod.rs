//! One folder or file for each broker.

pub mod memory;
