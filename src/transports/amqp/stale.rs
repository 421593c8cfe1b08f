//! Acknowledgements that are dropped, as nothing here is theirs.

use crate::io::generation::PerProcess;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a channel's user was told.
#[derive(Debug, Default)]
pub(super) struct Stale(PerProcess<AtomicBool>);

impl Stale {
    /// One was dropped. Logged once for each channel and process.
    pub(super) fn log(&self, tag: &str) {
        if self.0.get_or(AtomicBool::default).swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            target: "kombu.channel",
            tag,
            "acknowledgements are dropped of what a lost connection or a closed channel delivered, \
             which the broker gives to a consumer again, and of what this process has not received \
             itself, as it was forked later: only its parent can settle that"
        );
    }
}
