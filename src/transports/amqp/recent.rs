//! A queue of what nobody has to ask for: it drops its oldest when it is full.

use std::collections::VecDeque;

/// How many it holds.
pub(super) const MOST: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent<T> {
    items: VecDeque<T>,
    overflowed: bool,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), overflowed: false }
    }
}

impl<T> Recent<T> {
    /// Appends. The first one ever that had to go for it: that is worth a line in the log.
    #[must_use]
    pub(super) fn push(&mut self, item: T) -> Option<T> {
        self.items.push_back(item);
        let dropped = (self.items.len() > MOST).then(|| self.items.pop_front()).flatten()?;
        (!std::mem::replace(&mut self.overflowed, true)).then_some(dropped)
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// Keeps those that `wanted` says.
    pub(super) fn retain(&mut self, wanted: impl FnMut(&T) -> bool) {
        self.items.retain(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_is_shown_once() {
        let mut recent = Recent::default();
        assert!((0..MOST).all(|item| recent.push(item).is_none()));
        assert_eq!(recent.push(MOST), Some(0));
        assert_eq!(recent.push(MOST + 1), None, "it was told that some are dropped");
        assert_eq!((recent.pop(), recent.items.len()), (Some(2), MOST - 1));
    }
}
