//! A mutex that can be held across fork(2) and freed in the child.
//!
//! A child inherits a locked mutex together with waiters that do not exist in it, and nobody there
//! may unlock it. This one is a single word: the child stores zero.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A futex-based mutex around a value.
pub struct ForkLock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the word admits one thread at a time to the value.
unsafe impl<T: Send> Sync for ForkLock<T> {}
// SAFETY: owns the value.
unsafe impl<T: Send> Send for ForkLock<T> {}

impl<T> ForkLock<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock. It must not be held while waiting for anything, nor while Python runs.
    pub fn lock(&self) -> ForkGuard<'_, T> {
        self.acquire();
        ForkGuard(self)
    }

    /// Takes the lock before a fork, without a guard. Ended by [`Self::release_in_parent`] in the
    /// parent and [`Self::release_in_child`] in the child.
    pub fn hold_for_fork(&self) {
        self.acquire();
    }

    /// The value, between [`Self::hold_for_fork`] and its end.
    ///
    /// # Safety
    /// The calling thread holds the lock by `hold_for_fork`, and no other reference is alive.
    #[allow(clippy::mut_from_ref)] // the lock is what makes it unique, as in a guard
    pub unsafe fn held_value(&self) -> &mut T {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.value.get() }
    }

    /// Ends [`Self::hold_for_fork`] in the process that forked.
    pub fn release_in_parent(&self) {
        self.release();
    }

    /// Ends [`Self::hold_for_fork`] in the child: one store, as nobody can be waiting there.
    pub fn release_in_child(&self) {
        self.word.store(FREE, Ordering::Release);
    }

    fn acquire(&self) {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            // SAFETY: waits on a live word; returns at once if it changed.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.word.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    CONTENDED,
                    std::ptr::null::<libc::timespec>(),
                );
            }
        }
    }

    fn release(&self) {
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            // SAFETY: wakes one waiter of a live word.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.word.as_ptr(),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    1,
                );
            }
        }
    }
}

impl<T> fmt::Debug for ForkLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkLock").finish_non_exhaustive()
    }
}

/// Frees its [`ForkLock`] when dropped.
#[derive(Debug)]
pub struct ForkGuard<'a, T>(&'a ForkLock<T>);

impl<T> Deref for ForkGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for ForkGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed uniquely.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for ForkGuard<'_, T> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn counts_are_not_lost_under_contention() {
        let count = Arc::new(ForkLock::new(0u32));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let count = count.clone();
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        *count.lock() += 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*count.lock(), 40_000);
    }
}
