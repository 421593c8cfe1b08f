//! Parts of the core that come to rest before a fork.

use super::ForkLock;

/// Something with state that a child must not inherit half way.
///
/// The three calls come from the forking thread. With Python that thread holds the GIL, so nobody
/// may take the GIL while holding a lock that `prepare` waits for.
pub trait Quiesce: Send + Sync {
    /// Before the fork: take the locks and give up what must not cross. Locks stay held.
    fn prepare(&self);

    /// After the fork, in the parent: free the locks.
    fn resume_parent(&self);

    /// After the fork, in the child: free the locks, with atomic stores alone (only
    /// async-signal-safe calls are allowed there).
    fn resume_child(&self);
}

static PARTICIPANTS: ForkLock<Vec<&'static dyn Quiesce>> = ForkLock::new(Vec::new());

/// From now on `participant` takes part in every fork of this process and of its children.
pub fn participate(participant: &'static dyn Quiesce) {
    super::install();
    PARTICIPANTS.lock().push(participant);
}

pub(super) fn prepare() {
    PARTICIPANTS.hold_for_fork();
    // SAFETY: held by this thread since the line above.
    for participant in unsafe { PARTICIPANTS.held_value() } {
        participant.prepare();
    }
}

pub(super) fn resume_parent() {
    // SAFETY: held by this thread since `prepare`.
    for participant in unsafe { PARTICIPANTS.held_value() } {
        participant.resume_parent();
    }
    PARTICIPANTS.release_in_parent();
}

pub(super) fn resume_child() {
    // SAFETY: held by this thread since `prepare`.
    for participant in unsafe { PARTICIPANTS.held_value() } {
        participant.resume_child();
    }
    PARTICIPANTS.release_in_child();
}
