//! Living through fork(2): a process generation, and descriptors that a child gives up at once.
//!
//! A child must not use, close politely or drop the parent's links. The hook that runs in the child
//! touches atomics only: it raises the generation and closes the registered descriptors (or the
//! broker would go on counting the links, and an epoll set would be shared with the parent). Every
//! handle remembers its generation; one of an older generation is forgotten, never dropped.
//!
//! A library whose own state a child must not inherit (SQLite believes that it holds its locks) is
//! brought to rest before the fork: see [`Quiesce`] and [`ForkLock`].

mod lock;
mod quiesce;

pub use lock::{ForkGuard, ForkLock};
pub use quiesce::{Quiesce, participate};

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Descriptors that a child can give up; beyond that many, a child merely keeps them open.
const SLOTS: usize = 8192;
const FREE: RawFd = -1;

static GENERATION: AtomicU64 = AtomicU64::new(1);
static FDS: [AtomicI32; SLOTS] = [const { AtomicI32::new(FREE) }; SLOTS];
static CLOSINGS: AtomicU64 = AtomicU64::new(0);
static INSTALL: Once = Once::new();

/// The number of this process in its line of forks since the library was loaded: 1, then 2 in a
/// child, 3 in its child.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// How many [`ForkFd`] were closed so far: while it stays the same, no number was used again.
pub fn closings() -> u64 {
    CLOSINGS.load(Ordering::Acquire)
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    for slot in &FDS {
        let fd = slot.swap(FREE, Ordering::AcqRel);
        if fd != FREE {
            // SAFETY: close(2) is async-signal-safe; the table owns the descriptor in this process.
            unsafe { libc::close(fd) };
        }
    }
    quiesce::resume_child();
}

extern "C" fn before_fork() {
    quiesce::prepare();
}

extern "C" fn in_parent() {
    quiesce::resume_parent();
}

/// Installs the hooks, once per process image. Called by everything that registers.
pub fn install() {
    INSTALL.call_once(|| {
        // SAFETY: the hooks are `extern "C"` functions; the one in the child touches atomics and
        // close(2) only.
        let failed =
            unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0, "pthread_atfork refused the fork hook");
    });
}

/// An owned descriptor that a forked child closes at once and then forgets.
#[derive(Debug)]
pub struct ForkFd {
    fd: RawFd,
    slot: Option<usize>,
    generation: u64,
}

impl ForkFd {
    /// Takes ownership of `fd`.
    pub fn new(fd: RawFd) -> Self {
        install();
        let slot = FDS.iter().position(|slot| {
            slot.compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        Self { fd, slot, generation: generation() }
    }

    /// Whether the descriptor belongs to this process; if not, it must not be used.
    pub fn is_current(&self) -> bool {
        self.generation == generation()
    }
}

impl AsRawFd for ForkFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for ForkFd {
    fn drop(&mut self) {
        if !self.is_current() {
            return; // the hook closed it; the number may be somebody else's by now
        }
        if let Some(slot) = self.slot {
            FDS[slot].store(FREE, Ordering::Release);
        }
        CLOSINGS.fetch_add(1, Ordering::AcqRel);
        // SAFETY: owned, of this generation, closed exactly once.
        unsafe { libc::close(self.fd) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_free_again_after_drop() {
        // SAFETY: eventfd has no preconditions.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        let owned = ForkFd::new(fd);
        assert!(owned.is_current());
        let slot = owned.slot.expect("the table is not full");
        assert_eq!(FDS[slot].load(Ordering::Acquire), fd);
        drop(owned);
        assert_ne!(FDS[slot].load(Ordering::Acquire), fd);
    }
}
