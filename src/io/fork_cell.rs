//! A value that every process makes for itself.

use super::fork;
use super::generation::PerProcess;
use std::fmt;
use std::sync::Arc;

type Make<T> = Box<dyn Fn(Option<&T>) -> T + Send + Sync>;

/// A [`PerProcess`] value and the recipe for it: a forked child's first [`ForkCell::get`] makes a new
/// one and forgets the parent's.
pub struct ForkCell<T> {
    held: PerProcess<Arc<T>>,
    make: Make<T>,
}

impl<T> ForkCell<T> {
    /// A cell that makes its value with `make` when it is first asked for, here and in every forked
    /// child. `make` is given the parent's value, whose locks it may only *try* to take.
    pub fn new(make: impl Fn(Option<&T>) -> T + Send + Sync + 'static) -> Self {
        fork::install();
        Self { held: PerProcess::new(), make: Box::new(make) }
    }

    /// This process's value.
    pub fn get(&self) -> Arc<T> {
        self.held
            .get_or(|| Arc::new((self.make)(self.held.inherited().map(|value| &**value))))
            .clone()
    }

    /// Whether this process has a value already; `false` right after a fork.
    pub fn is_current(&self) -> bool {
        self.held.get().is_some()
    }
}

impl<T> fmt::Debug for ForkCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkCell").field("is_current", &self.is_current()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_makes_its_own_from_its_parents() {
        let cell = ForkCell::new(|parent: Option<&u8>| parent.map_or(1, |value| value + 1));
        assert_eq!(*cell.get(), 1);
        assert_eq!(*cell.get(), 1);
        // SAFETY: the child only touches the cell and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let fresh = !cell.is_current() && *cell.get() == 2 && *cell.get() == 2;
            // SAFETY: ends the child without running the test harness's exit code.
            unsafe { libc::_exit(i32::from(!fresh)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "the child did not make its own value");
        assert_eq!(*cell.get(), 1);
    }
}
