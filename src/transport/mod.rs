//! What a broker must offer, and the table of URL schemes.

mod capability;
mod store;

pub use capability::Capability;
pub use store::{GetOptions, QueueRef, Store};
