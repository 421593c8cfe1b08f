//! Deliveries that stay without an acknowledgement for so long that the broker will close their channel
//! (RabbitMQ's `consumer_timeout`).
//!
//! The time of a delivery is not noted with each: now and then the highest number is, and what has a
//! lower one came before that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The times of deliveries of a channel.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// Numbers that had come at a time, both ascending.
    marks: VecDeque<(u64, Instant)>,
    /// The last delivery that was warned of.
    warned: u64,
}

impl Lateness {
    /// Looks at `now`: `last` is the highest number that came, `oldest` the lowest that is not
    /// settled. How old that one is, when a warning is due: after four fifths of the timeout, once.
    pub(super) fn look(
        &mut self,
        now: Instant,
        timeout: Duration,
        last: u64,
        oldest: Option<u64>,
    ) -> Option<Duration> {
        let Some(oldest) = oldest else {
            self.marks.clear();
            return None;
        };
        while self.marks.front().is_some_and(|(tag, _)| *tag < oldest) {
            self.marks.pop_front();
        }
        // So a hundred of them are enough.
        let due = |&(tag, at): &(u64, Instant)| tag < last && now >= at + timeout / 100;
        if self.marks.back().is_none_or(due) {
            self.marks.push_back((last, now));
        }
        let (_, came) = self.marks.front()?;
        let age = now.saturating_duration_since(*came);
        if age < timeout * 4 / 5 || oldest <= self.warned {
            return None;
        }
        self.warned = oldest;
        Some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(100);

    #[test]
    fn each_delivery_is_warned_of_once_before_its_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lateness = Lateness::default();
        assert_eq!(lateness.look(at(0), TIMEOUT, 0, None), None);
        assert_eq!(lateness.look(at(10), TIMEOUT, 3, Some(1)), None);
        assert_eq!(lateness.look(at(60), TIMEOUT, 7, Some(2)), None);
        let age = Some(Duration::from_secs(80));
        assert_eq!(lateness.look(at(90), TIMEOUT, 7, Some(2)), age, "2 came until 10");
        assert_eq!(lateness.look(at(91), TIMEOUT, 7, Some(2)), None, "once");
        assert_eq!(lateness.look(at(92), TIMEOUT, 7, Some(5)), None, "5 came until 60");
        assert_eq!(lateness.look(at(140), TIMEOUT, 7, Some(5)), age);
        assert_eq!(lateness.look(at(200), TIMEOUT, 7, None), None);
        assert_eq!(lateness.look(at(300), TIMEOUT, 8, Some(8)), None, "it is new");
    }

    #[test]
    fn it_needs_little() {
        let mut now = Instant::now();
        let mut lateness = Lateness::default();
        for tag in 1..10_000 {
            now += TIMEOUT / 10_000;
            lateness.look(now, TIMEOUT, tag, Some(1));
        }
        assert!(lateness.marks.len() <= 101, "{}", lateness.marks.len());
    }
}
