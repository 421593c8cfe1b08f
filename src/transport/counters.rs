//! What a store has done, counted; and what a connection holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows; counting costs a few nanoseconds and orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `number` more.
    pub fn add(&self, number: usize) {
        self.0.fetch_add(number as u64, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Time spent altogether.
#[derive(Debug, Default)]
pub struct Stopwatch(AtomicU64);

impl Stopwatch {
    /// Counts `time` more, in whole nanoseconds.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much so far.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What was done over one store, since it was made: a forked child's start at zero. `virt` counts
/// what its users do, the store the rest. What a store does not do stays zero.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages put into queues, one for each queue; a fanout message counts once.
    pub published: Counter,
    /// Messages taken from queues, those that go back unseen included.
    pub received: Counter,
    /// Messages acknowledged.
    pub acked: Counter,
    /// Messages rejected, to be queued again or not.
    pub rejected: Counter,
    /// Messages given back unsettled: recovered, or by closing and cancelling.
    pub returned: Counter,
    /// Messages of owners that are gone, put back into their queues by this store.
    pub restored: Counter,
    /// Leases on claims renewed, once for each claim and renewal.
    pub renewed: Counter,
    /// Links made after the first.
    pub reconnects: Counter,
    /// Times that news of a queue made the store look for messages that others had taken.
    pub empty_wake_ups: Counter,
    /// Scripts run by the server.
    pub script_calls: Counter,
    /// From sending scripts to their answers.
    pub script_time: Stopwatch,
}

/// What was done over a connection to a broker that speaks AMQP itself, since it was made, over all
/// its links: a forked child's start at zero.
#[derive(Debug, Default)]
pub struct AmqpCounters {
    /// Messages published, whatever became of them.
    pub published: Counter,
    /// Publishes that the broker has confirmed (`basic.ack`).
    pub confirmed: Counter,
    /// Publishes that the broker did not take (`basic.nack`).
    pub nacked: Counter,
    /// Mandatory messages that came back as no queue got them.
    pub returned: Counter,
    /// Messages that the broker has sent, those that go back unseen included.
    pub received: Counter,
    /// Messages acknowledged.
    pub acked: Counter,
    /// Messages rejected, to be queued again or not.
    pub rejected: Counter,
    /// Links made after the first.
    pub reconnects: Counter,
    /// Heartbeats sent: when nothing else was said for half an interval.
    pub heartbeats_sent: Counter,
    /// Heartbeats of the broker.
    pub heartbeats_received: Counter,
    /// Intervals in which nothing at all came from the broker; after two the link is given up.
    pub heartbeats_missed: Counter,
    /// For how long the broker took no publishes (`connection.blocked`), when it takes them again.
    pub blocked: Stopwatch,
}

/// What a connection holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Messages delivered and not settled.
    pub unacked: usize,
    /// For how long the oldest of them has been so.
    pub oldest: Option<Duration>,
    /// Messages fetched ahead, not delivered yet.
    pub prefetched: usize,
}
