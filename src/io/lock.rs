//! The mutex that the crate uses: one word, and no state that it shares with other mutexes.
//!
//! `parking_lot` keeps all sleepers of a process in one table with locks of its own. A child forked
//! while another thread is at that table inherits it locked, and hangs when two of the child's
//! threads meet at *any* mutex: 10 of 60 children did, forked while six threads were competing for
//! two mutexes. The standard library's mutex sleeps on its own word.

use std::fmt;
use std::sync::{MutexGuard, PoisonError, TryLockError};

/// `std::sync::Mutex` without poisoning: a panic under a lock is reported where it happens, and what
/// the lock guards is changed in single steps.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock. It must not be held while waiting for anything, nor while Python runs.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, unless somebody has it: the only way to a lock that was inherited through a fork,
    /// whose holder may not exist in this process.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The value, for the only one who has the mutex.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => f.debug_tuple("Mutex").field(&&*value).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_panic_under_the_lock_does_not_close_it() {
        let lock = Arc::new(Mutex::new(1));
        let theirs = lock.clone();
        let panicked = std::thread::spawn(move || {
            let _held = theirs.lock();
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 1);
        assert!(lock.try_lock().is_some());
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        assert_eq!(format!("{lock:?}"), "Mutex(<locked>)");
        drop(held);
    }
}
