//! State that a forked child must not inherit.

use super::fork;
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that exists once per process generation: a child finds a fresh one.
///
/// The parent's value is leaked in the child, never dropped: another thread of the parent may have
/// held its locks, or been in the middle of changing it.
pub struct PerProcess<T> {
    current: AtomicPtr<Node<T>>,
}

struct Node<T> {
    generation: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// Empty: the value is made by the first [`PerProcess::get_or`].
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process, if there is one yet.
    pub fn get(&self) -> Option<&T> {
        let node = self.current.load(Ordering::Acquire);
        // SAFETY: a node is freed only by `drop`, which has `&mut self`; replaced ones are leaked.
        unsafe { node.as_ref() }
            .filter(|node| node.generation == fork::generation())
            .map(|node| &node.value)
    }

    /// The value that an older generation left here, for a child that has none of its own yet. Its
    /// locks may only be *tried*: their holders may not exist in this process.
    pub fn inherited(&self) -> Option<&T> {
        let node = self.current.load(Ordering::Acquire);
        // SAFETY: as in `get`.
        unsafe { node.as_ref() }
            .filter(|node| node.generation != fork::generation())
            .map(|node| &node.value)
    }

    /// The value of this process; made by `make` when there is none. Two threads may both call
    /// `make`; one result is kept, the other dropped.
    pub fn get_or(&self, make: impl FnOnce() -> T) -> &T {
        let seen = self.current.load(Ordering::Acquire);
        if let Some(value) = self.get() {
            return value;
        }
        fork::install();
        let node = Box::into_raw(Box::new(Node { generation: fork::generation(), value: make() }));
        match self.current.compare_exchange(seen, node, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just published; see `get`.
            Ok(_) => unsafe { &(*node).value },
            Err(theirs) => {
                // SAFETY: `node` was never published, so it is still ours alone; `theirs` was
                // published by another thread of this process, so it is of this generation.
                unsafe {
                    drop(Box::from_raw(node));
                    &(*theirs).value
                }
            }
        }
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let node = *self.current.get_mut();
        if self.get().is_some() {
            // SAFETY: of this generation, and nobody else has a reference: `&mut self`.
            drop(unsafe { Box::from_raw(node) });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerProcess").field(&self.get()).finish()
    }
}

// SAFETY: it owns a `T` and hands out `&T`.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
// SAFETY: it owns a `T`.
unsafe impl<T: Send> Send for PerProcess<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_per_process() {
        let cell = PerProcess::new();
        assert!(cell.get().is_none());
        assert_eq!(*cell.get_or(|| 1), 1);
        assert_eq!(*cell.get_or(|| 2), 1);
        assert_eq!(cell.get(), Some(&1));
    }
}
