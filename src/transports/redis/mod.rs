//! Redis (6.2 or later, and servers that speak like it), on stock Kombu's keys.
//!
//! Old and new workers may share queues: lists, binding sets, `unacked` records and fanout channels
//! are those of Kombu 5.7. What differs is how they are used: receiving pops and records the claim
//! in one script, waiting pops nothing (the server tells through client-side caching when a list
//! changes), held claims are renewed, and one link serves commands, wake-ups and fanout.
//!
//! Where a server, proxy or ACL refuses RESP3, `CLIENT TRACKING` or scripts it goes on without, and a
//! warning says what is lost: fanout on a second link, polling, and the work of scripts in single
//! commands ([`plain`]).

mod ask;
mod bindings;
mod cluster;
mod config;
mod contact;
mod deliveries;
mod error;
mod fanout;
mod follow;
mod given;
mod greeting;
mod hand;
mod hedge;
mod keys;
mod limit;
mod maintenance;
mod news;
mod plain;
mod receive;
mod replay;
mod restore;
mod scripts;
mod sentinel;
mod session;
mod shared;
mod store;
mod switches;
mod unacked;
mod unclaimed;
mod unsure;
mod watch;

pub use config::Config;
pub use store::RedisStore;

use crate::error::Result;
use crate::transport::schemes::Options;
use crate::transport::{Store, Url};
use std::sync::Arc;

/// The line of the scheme table: makes a store, does no I/O.
///
/// # Errors
/// `Invalid` or `Type` naming the part of the URL or the option that is wrong.
pub fn open(url: &Url, options: &Options) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(RedisStore::new(Config::parse(url, options)?)))
}
