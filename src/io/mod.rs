//! Sockets, waiting and liveness: the caller drives, a keeper keeps alive.

pub mod dial;
pub mod fork;
pub mod fork_cell;
pub mod generation;
pub mod identity;
pub mod keeper;
pub mod lead;
pub mod link;
pub mod lock;
pub mod pollset;
pub mod stream;
pub mod task;
pub mod tls;
