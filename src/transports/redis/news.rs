//! Which queues may have something: armed by a `get` that found nothing, told by invalidations.

use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::Name;
use bytes::Bytes;
use std::collections::HashMap;
use std::time::Duration;

/// A wake-up that found nothing makes the next one wait a random time up to twice as long.
const SPREAD_FROM: Duration = Duration::from_micros(200);
const SPREAD_TO: Duration = Duration::from_millis(10);
/// The same while the keys are on their way to another node of a cluster.
const SPREAD_MOVING: Duration = Duration::from_millis(100);
/// Lost wake-ups (a full tracking table tells in time, but proxies may not) are made up for by
/// looking anyway, less and less often.
const SAFETY_FROM: Duration = Duration::from_secs(1);
const SAFETY_TO: Duration = Duration::from_secs(5);
/// The same where the server may not tell of anything: from here up to `polling_interval`.
const POLL_FROM: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct News {
    state: Mutex<State>,
    /// Told whenever something came.
    pub(super) notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Name, Watch>,
    /// List key to queue, of all queues that were ever armed.
    keys: HashMap<Bytes, Name>,
    /// A `ready` was ended by news, and no `get` has followed yet.
    woken: bool,
    spread: Duration,
    /// `ready`s in a row that nothing came for.
    quiet: u32,
}

#[derive(Debug, Default)]
struct Watch {
    /// Counts what was heard of the queue.
    heard: u64,
    /// `heard` when a `get` last found nothing and armed.
    armed: Option<u64>,
}

impl News {
    /// To be taken before the request that arms; for [`News::armed`].
    pub(super) fn snapshot<'a>(
        &self,
        queues: impl Iterator<Item = &'a Name>,
        lists: impl Fn(&str) -> Vec<String>,
    ) -> Vec<(Name, u64)> {
        let mut state = self.state.lock();
        queues
            .map(|queue| {
                if !state.queues.contains_key(queue) {
                    state.queues.insert(queue.clone(), Watch::default());
                    for list in lists(queue) {
                        state.keys.insert(list.into(), queue.clone());
                    }
                }
                (queue.clone(), state.queues[queue].heard)
            })
            .collect()
    }

    /// Nothing was there, and the server will tell of changes since the snapshot.
    pub(super) fn armed(&self, snapshot: Vec<(Name, u64)>) {
        let mut state = self.state.lock();
        for (queue, heard) in snapshot {
            if let Some(watch) = state.queues.get_mut(&queue) {
                watch.armed = Some(heard);
            }
        }
    }

    /// How a `get` ended: adapts the random delay and the safety net.
    pub(super) fn looked(&self, found: bool) {
        let mut state = self.state.lock();
        if found {
            state.quiet = 0;
        }
        if std::mem::take(&mut state.woken) {
            state.spread = match found {
                true if state.spread <= SPREAD_FROM => Duration::ZERO,
                true => state.spread / 2,
                false => (state.spread * 2).clamp(SPREAD_FROM, SPREAD_TO),
            };
        }
    }

    /// Nothing can be handed out for a moment: the next `ready` may wait a little.
    pub(super) fn hold_back(&self) {
        self.state.lock().spread = SPREAD_MOVING;
    }

    /// Whether one of the queues has news since it was armed, or never was.
    pub(super) fn is_there<'a>(&self, mut queues: impl Iterator<Item = &'a Name>) -> bool {
        let state = self.state.lock();
        queues.any(|queue| {
            state.queues.get(queue).is_none_or(|watch| watch.armed != Some(watch.heard))
        })
    }

    /// A `ready` ends because of news: for how long to hold back at most.
    pub(super) fn wake_up(&self) -> Duration {
        let mut state = self.state.lock();
        state.woken = true;
        state.spread
    }

    /// For how long to wait without news; `polling`: at most, where the server tells of none.
    pub(super) fn patience(&self, polling: Option<Duration>) -> Duration {
        let quiet = self.state.lock().quiet;
        let (from, to) = polling.map_or((SAFETY_FROM, SAFETY_TO), |longest| (POLL_FROM, longest));
        (from * 2u32.pow(quiet.min(8))).min(to)
    }

    /// A `ready` ended for lack of news.
    pub(super) fn stayed_quiet(&self) {
        let mut state = self.state.lock();
        state.quiet = state.quiet.saturating_add(1);
    }

    /// A list has changed. Whether it is one of a queue that was armed here.
    pub(super) fn key_changed(&self, key: &[u8]) -> bool {
        let mut state = self.state.lock();
        let State { queues, keys, .. } = &mut *state;
        let Some(watch) = keys.get(key).and_then(|queue| queues.get_mut(queue)) else {
            return false;
        };
        watch.heard += 1;
        drop(state);
        self.notify.notify();
        true
    }

    /// A queue has got something by way of this very store: the server tells others only.
    pub(super) fn queue_changed(&self, queue: &str) {
        let mut state = self.state.lock();
        let Some(watch) = state.queues.get_mut(queue) else { return };
        watch.heard += 1;
        drop(state);
        self.notify.notify();
    }

    /// A queue is deleted.
    pub(super) fn remove(&self, queue: &str) {
        let mut state = self.state.lock();
        if state.queues.remove(queue).is_some() {
            state.keys.retain(|_, known| **known != *queue);
        }
    }

    /// Nothing is armed any more: the link is new, or everything was flushed.
    pub(super) fn forget(&self) {
        for watch in self.state.lock().queues.values_mut() {
            watch.armed = None;
        }
        self.notify.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(queue: &str) -> Vec<String> {
        vec![queue.to_owned(), format!("{queue}:3")]
    }

    #[test]
    fn news_between_snapshot_and_arming_is_not_lost() {
        let news = News::default();
        let queue: Name = "q".into();
        let both = || [&queue].into_iter();
        assert!(news.is_there(both()), "never armed");
        let snapshot = news.snapshot(both(), lists);
        news.armed(snapshot);
        assert!(!news.is_there(both()));
        let snapshot = news.snapshot(both(), lists);
        assert!(news.key_changed(b"q:3") && !news.key_changed(b"other"));
        news.armed(snapshot);
        assert!(news.is_there(both()));
        let snapshot = news.snapshot(both(), lists);
        news.armed(snapshot);
        assert!(!news.is_there(both()));
        news.queue_changed("q");
        assert!(news.is_there(both()));
        news.forget();
        assert!(news.is_there(both()));
    }

    #[test]
    fn useless_wake_ups_spread_out() {
        let news = News::default();
        assert_eq!(news.wake_up(), Duration::ZERO);
        news.looked(false);
        assert_eq!(news.wake_up(), SPREAD_FROM);
        for _ in 0..20 {
            news.wake_up();
            news.looked(false);
        }
        assert_eq!(news.wake_up(), SPREAD_TO);
        for _ in 0..20 {
            news.wake_up();
            news.looked(true);
        }
        assert_eq!(news.wake_up(), Duration::ZERO);
    }
}
