//! SQL databases with Kombu's table layout (`kombu.transport.sqlalchemy`); here on SQLite.
//!
//! Workers of stock Kombu and of kombu-rs share one file, at the same time and both ways.
//!
//! - **Layout**: `kombu_queue(id, name)` and `kombu_message(id, visible, timestamp, payload,
//!   version, queue_id)`. A message is there to be taken while `visible = 1`; order is
//!   `(timestamp, id)`, and new rows have no timestamp. Stock Kombu leaves taken rows behind as
//!   `visible = 0`; we delete a row when it is acknowledged.
//! - **Claims**: `visible = 0` and `version = -owner`. The owner is alive as long as it holds a
//!   lock in the file `{database}-claims`, see `claims`.
//! - **Wake-ups**: inotify, see `wake`. Nothing is polled but a slow safety check.
//! - **Durability**: write-ahead log with `synchronous=NORMAL`. What was put or acknowledged
//!   survives the death of every process. A power loss or a crash of the operating system may
//!   take back the last transactions (never part of one); `synchronous="full"` in the transport
//!   options syncs each transaction to disk.
//! - **Fork**: connections are closed before a fork and opened again on the next use, on both
//!   sides (sqlite.org/howtocorrupt.html section 2.6), see `database`.
//! - **Bindings** are not in the database, as with stock Kombu: each process declares its own.

mod bindings;
mod claims;
mod config;
mod database;
mod error;
mod payload;
mod schema;
mod store;
mod take;
#[cfg(test)]
mod tests;
mod vfs;
mod wake;

pub use store::{SqlStore, open};
