//! Sockets, waiting and liveness: the caller drives, a keeper keeps alive.

pub mod fork;
pub mod task;
