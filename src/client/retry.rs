//! How often and after which pauses to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Kombu's `retry_policy`. The pause grows by a step each time, and is shortened by chance to as
/// little as half, so that many clients do not come back to a broker all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// `max_retries`: at most so many tries after the first; `None`: until the deadline.
    pub max_retries: Option<u32>,
    /// `interval_start`: the first pause.
    pub interval_start: Duration,
    /// `interval_step`: each pause is longer by this.
    pub interval_step: Duration,
    /// `interval_max`: no pause is longer.
    pub interval_max: Duration,
}

impl Default for RetryPolicy {
    /// No limit but the deadline; pauses of 0.1 s, 0.3 s, 0.5 s, ... up to 2 s.
    fn default() -> Self {
        Self {
            max_retries: None,
            interval_start: Duration::from_millis(100),
            interval_step: Duration::from_millis(200),
            interval_max: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// One try.
    pub const NEVER: Self = Self {
        max_retries: Some(0),
        interval_start: Duration::ZERO,
        interval_step: Duration::ZERO,
        interval_max: Duration::ZERO,
    };

    /// The pause before the try of this number, counted from 0.
    pub fn pause(&self, number: u32) -> Duration {
        let grown = self.interval_start.saturating_add(self.interval_step.saturating_mul(number));
        grown.min(self.interval_max).mul_f64(0.5 + chance() / 2.0)
    }
}

/// A number from 0 to 1 that others cannot foresee: each `RandomState` has other keys.
pub(super) fn chance() -> f64 {
    let random = RandomState::new().hash_one(0);
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_differ() {
        let policy = RetryPolicy::default();
        for (number, longest) in [(0, 100), (1, 300), (2, 500), (50, 2000), (u32::MAX, 2000)] {
            let longest = Duration::from_millis(longest);
            let pauses: Vec<_> = (0..50).map(|_| policy.pause(number)).collect();
            assert!(pauses.iter().all(|pause| *pause <= longest && *pause >= longest / 2));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
        assert_eq!(RetryPolicy::NEVER.pause(3), Duration::ZERO);
    }
}
