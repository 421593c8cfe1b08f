//! Who watches a shared descriptor while several threads wait for news from it.
//!
//! Every waiter of a link may read it, but one sleeper on the descriptor is enough: the others are
//! woken through their wakers. Leadership is held only *while asleep* in [`super::task::block_on`],
//! so a future that was set aside (a paused consumer, a call whose deadline passed) never leads,
//! and nobody waits for somebody who does not look.

use super::fork;
use crate::io::lock::Mutex;
use std::sync::Arc;
use std::task::Waker;

/// The right to sleep on one descriptor for everybody else.
#[derive(Debug)]
pub struct Lead {
    generation: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    followers: Vec<Waker>,
}

impl Lead {
    /// A free leadership, of this process.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { generation: fork::generation(), state: Mutex::default() })
    }

    /// A child must not touch the lock: another thread of the parent may have held it.
    fn is_current(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Takes the lead, or is remembered as a follower that [`Lead::pass_on`] may wake.
    pub(super) fn take_or_follow(&self, waker: &Waker) -> bool {
        if !self.is_current() {
            return true;
        }
        let mut state = self.state.lock();
        if state.taken {
            state.followers.push(waker.clone());
            return false;
        }
        state.taken = true;
        true
    }

    /// Gives the lead up, after sleeping as leader.
    pub(super) fn release(&self) {
        if self.is_current() {
            self.state.lock().taken = false;
        }
    }

    /// After sleeping as follower: this waker needs no news any more.
    pub(super) fn unfollow(&self, waker: &Waker) {
        if self.is_current() {
            self.state.lock().followers.retain(|known| !known.will_wake(waker));
        }
    }

    /// Wakes one follower if nobody leads: it will take the lead when it sleeps again.
    pub(super) fn pass_on(&self) {
        if !self.is_current() {
            return;
        }
        let mut state = self.state.lock();
        let next = if state.taken { None } else { state.followers.pop() };
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_follower_is_woken_only_when_nobody_leads() {
        let lead = Lead::new();
        let (one, two) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (leader, follower) = (Waker::from(one.clone()), Waker::from(two.clone()));
        assert!(lead.take_or_follow(&leader));
        assert!(!lead.take_or_follow(&follower));
        lead.pass_on();
        assert_eq!(two.0.load(Ordering::SeqCst), 0);
        lead.release();
        lead.pass_on();
        assert_eq!(two.0.load(Ordering::SeqCst), 1);
        assert!(lead.take_or_follow(&follower));
        lead.unfollow(&follower);
    }
}
