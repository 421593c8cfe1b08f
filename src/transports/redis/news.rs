//! Which queues may have something: armed by a `get` that found nothing, told by invalidations.
//!
//! One message wakes everybody who waits for its queue. So whoever was woken for nothing holds back:
//! it is armed, but looks again only when a pause has passed, and the pauses grow with each look in
//! vain. Those who find something have none, and so a few take the messages while the others look now
//! and then, each at its own time, whether these few keep up. The more there are, the longer are their
//! pauses: together they look so and so often a second, however many they are.

use super::shared::random_share;
use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::Name;
use bytes::Bytes;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The shortest pause after a look in vain.
const PAUSE_FROM: Duration = Duration::from_micros(200);
/// Each further look in vain makes the pause so many times longer, and each find so many times
/// shorter: who finds something every other time has none to speak of.
const STEP: u32 = 4;
/// The longest for each client that may be waiting for the same queue,
const PAUSE_EACH: Duration = Duration::from_millis(5);
/// but within these limits: so late a waiter notices at the latest that the others do not keep up.
const PAUSE_TO: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// How long a number of clients is good.
const CROWD_AGE: Duration = Duration::from_secs(30);
/// Who has been quiet for longer than its pause looks at once, but for a random part of this.
const SPREAD: Duration = Duration::from_millis(10);
/// How long nothing is looked for while the keys are on their way to another node of a cluster.
const MOVING: Duration = Duration::from_millis(100);
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
    /// `ready`s in a row that nothing came for.
    quiet: u32,
    /// How many clients may be waiting, and since when this is known.
    crowd: Option<(u32, Instant)>,
    /// Until when news is not looked after, of no queue.
    held_back: Option<Instant>,
}

#[derive(Debug, Default)]
struct Watch {
    /// Counts what was heard of the queue.
    heard: u64,
    /// `heard` when a `get` last found nothing and armed.
    armed: Option<u64>,
    /// The last time that it had something there was no more when that was taken.
    trickles: bool,
    pause: Duration,
    /// Until when news is not looked after.
    held_back: Option<Instant>,
    /// The same, so that not all who are told look at the same moment.
    spread: Option<Instant>,
}

impl Watch {
    fn heard(&mut self, now: Instant) {
        if self.armed == Some(self.heard) {
            self.spread = Some(now + self.pause.min(SPREAD).mul_f64(random_share()));
        }
        self.heard += 1;
    }

    fn found(&mut self) {
        self.trickles &= self.armed.is_some();
        self.armed = None;
        self.held_back = None;
        self.pause = match self.pause {
            pause if pause <= PAUSE_FROM => Duration::ZERO,
            pause => pause / STEP,
        };
    }

    fn in_vain(&mut self, now: Instant, longest: Duration) {
        self.pause = (self.pause * STEP).clamp(PAUSE_FROM, longest);
        self.held_back = Some(now + self.pause.mul_f64(0.5 + random_share() / 2.0));
    }

    fn has_news(&self) -> bool {
        self.armed != Some(self.heard)
    }

    /// When to look: `None` while there is no reason to.
    fn look_at(&self, now: Instant) -> Option<Instant> {
        match self.armed {
            _ if !self.has_news() => None,
            Some(_) => Some(self.held_back.max(self.spread).unwrap_or(now)),
            None => Some(now),
        }
    }
}

/// What was known of queues before a request that looks after them.
pub(super) type Snapshot = Vec<(Name, u64)>;

impl News {
    /// To be taken before the request that arms; for [`News::armed`].
    pub(super) fn snapshot<'a>(
        &self,
        queues: impl Iterator<Item = &'a Name>,
        lists: impl Fn(&str) -> Vec<String>,
    ) -> Snapshot {
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

    /// Nothing was there, and the server will tell of changes since the snapshot. Whether there had
    /// been news of one of the queues, which somebody else was quicker to look after.
    pub(super) fn armed(&self, snapshot: Snapshot) -> bool {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let crowd = state.crowd.map_or(0, |(clients, _)| clients);
        let longest = PAUSE_EACH.saturating_mul(crowd).clamp(PAUSE_TO[0], PAUSE_TO[1]);
        let mut in_vain = false;
        for (queue, heard) in snapshot {
            let Some(watch) = state.queues.get_mut(&queue) else { continue };
            if watch.armed.is_some_and(|armed| armed != heard) {
                watch.in_vain(now, longest);
                in_vain = true;
            }
            watch.trickles |= watch.armed.is_none();
            watch.armed = Some(heard);
            watch.spread = None;
        }
        in_vain
    }

    /// There was something in these queues, and may be more.
    pub(super) fn found<'a>(&self, queues: impl Iterator<Item = &'a Name>) {
        let mut state = self.state.lock();
        state.quiet = 0;
        for queue in queues {
            if let Some(watch) = state.queues.get_mut(queue) {
                watch.found();
            }
        }
    }

    /// Nothing can be handed out for a moment, whatever comes.
    pub(super) fn hold_back(&self) {
        let pause = MOVING.mul_f64(0.5 + random_share() / 2.0);
        self.state.lock().held_back = Some(Instant::now() + pause);
    }

    /// Whether a look after what is new will probably be in vain, so that a cheap one should come
    /// first.
    pub(super) fn is_crowded<'a>(&self, mut queues: impl Iterator<Item = &'a Name>) -> bool {
        let state = self.state.lock();
        queues.all(|queue| {
            let crowded = |watch: &Watch| !watch.has_news() || watch.pause > PAUSE_FROM;
            state.queues.get(queue).is_some_and(crowded)
        })
    }

    /// Whether there is hardly anything: no news, or a message was taken of a queue that had no second
    /// one before, either. Then, too, a cheap look should come first.
    pub(super) fn expects_nothing<'a>(&self, mut queues: impl Iterator<Item = &'a Name>) -> bool {
        let state = self.state.lock();
        queues.all(|queue| {
            let expects = |watch: &Watch| match watch.armed {
                Some(armed) => armed == watch.heard,
                None => watch.trickles,
            };
            state.queues.get(queue).is_some_and(expects)
        })
    }

    /// Whether to find out again how many clients may be waiting.
    pub(super) fn wonders(&self) -> bool {
        let crowd = self.state.lock().crowd;
        crowd.is_none_or(|(_, since)| since.elapsed() > CROWD_AGE)
    }

    /// So many clients may be waiting.
    pub(super) fn counted(&self, clients: u32) {
        self.state.lock().crowd = Some((clients, Instant::now()));
    }

    /// When to look after the queues: because one has news, or was never armed.
    pub(super) fn look_at<'a>(
        &self,
        queues: impl Iterator<Item = &'a Name>,
        now: Instant,
    ) -> Option<Instant> {
        let state = self.state.lock();
        let look_at = |queue| state.queues.get(queue).map_or(Some(now), |watch| watch.look_at(now));
        queues.filter_map(look_at).min().map(|at| state.held_back.map_or(at, |until| at.max(until)))
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
        watch.heard(Instant::now());
        drop(state);
        self.notify.notify();
        true
    }

    /// A queue has got something by way of this very store: the server tells others only.
    pub(super) fn queue_changed(&self, queue: &str) {
        let mut state = self.state.lock();
        let Some(watch) = state.queues.get_mut(queue) else { return };
        watch.heard(Instant::now());
        drop(state);
        self.notify.notify();
    }

    /// A queue is deleted, or has no consumer any more. Whoever looks after it all the same begins anew.
    pub(super) fn remove(&self, queue: &str, lists: &[String]) {
        let mut state = self.state.lock();
        if state.queues.remove(queue).is_some() {
            for list in lists {
                state.keys.remove(list.as_bytes());
            }
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

    fn arm(news: &News, queue: &Name) -> bool {
        news.armed(news.snapshot([queue].into_iter(), lists))
    }

    fn look_at(news: &News, queue: &Name) -> Option<Instant> {
        news.look_at([queue].into_iter(), Instant::now())
    }

    /// News comes, and somebody else takes it.
    fn in_vain(news: &News, queue: &Name) {
        assert!(news.key_changed(queue.as_bytes()));
        assert!(look_at(news, queue).is_some());
        assert!(arm(news, queue));
    }

    #[test]
    fn news_between_snapshot_and_arming_is_not_lost() {
        let news = News::default();
        let queue: Name = "q".into();
        let now = Instant::now();
        assert_eq!(news.look_at([&queue].into_iter(), now), Some(now), "never armed");
        assert!(!arm(&news, &queue));
        assert_eq!(look_at(&news, &queue), None);
        let snapshot = news.snapshot([&queue].into_iter(), lists);
        assert!(news.key_changed(b"q:3") && !news.key_changed(b"other"));
        news.armed(snapshot);
        assert!(look_at(&news, &queue).is_some());
        arm(&news, &queue);
        assert_eq!(look_at(&news, &queue), None);
        news.queue_changed("q");
        assert!(look_at(&news, &queue).is_some());
        news.forget();
        assert!(look_at(&news, &queue).is_some());
    }

    #[test]
    fn nothing_is_kept_of_a_queue_that_nobody_consumes() {
        let news = News::default();
        arm(&news, &"q".into());
        arm(&news, &"other".into());
        news.remove("q", &lists("q"));
        let state = news.state.lock();
        assert_eq!((state.queues.len(), state.keys.len()), (1, 2));
    }

    #[test]
    fn who_looks_in_vain_holds_back_ever_longer() {
        let news = News::default();
        let queue: Name = "q".into();
        arm(&news, &queue);
        news.key_changed(b"q");
        assert!(look_at(&news, &queue).unwrap() <= Instant::now(), "nobody else was ever quicker");
        for (clients, longest) in [(1, PAUSE_TO[0]), (100, PAUSE_EACH * 100), (9999, PAUSE_TO[1])] {
            news.counted(clients);
            let begin = Instant::now();
            for _ in 0..20 {
                arm(&news, &queue);
                news.key_changed(b"q");
            }
            assert!(news.is_crowded([&queue].into_iter()));
            let look_at = look_at(&news, &queue).unwrap();
            assert!(look_at >= begin + longest / 2, "it holds back");
            assert!(look_at <= Instant::now() + longest, "but not for ever");
        }
        news.forget();
        assert!(look_at(&news, &queue).unwrap() <= Instant::now(), "the link is new");
    }

    #[test]
    fn who_finds_something_looks_at_once() {
        let news = News::default();
        let queue: Name = "q".into();
        news.counted(9999);
        arm(&news, &queue);
        for _ in 0..20 {
            in_vain(&news, &queue);
        }
        for _ in 0..20 {
            news.key_changed(b"q");
            news.found([&queue].into_iter());
            assert!(look_at(&news, &queue).unwrap() <= Instant::now(), "there may be more");
            assert!(!arm(&news, &queue), "looking for more was not in vain");
        }
        news.key_changed(b"q");
        assert!(look_at(&news, &queue).unwrap() <= Instant::now(), "the pause is gone");
    }

    #[test]
    fn one_message_at_a_time_is_expected_after_one_that_was_alone() {
        let news = News::default();
        let queue: Name = "q".into();
        let find = || {
            news.key_changed(b"q");
            news.found([&queue].into_iter());
        };
        let expects_nothing = || news.expects_nothing([&queue].into_iter());
        assert!(!expects_nothing(), "never looked");
        arm(&news, &queue);
        assert!(expects_nothing(), "no news");
        find();
        assert!(expects_nothing());
        find();
        assert!(!expects_nothing(), "there was a second one");
        arm(&news, &queue);
        find();
        assert!(expects_nothing());
        arm(&news, &queue);
        news.key_changed(b"q");
        assert!(!expects_nothing(), "news");
    }

    #[test]
    fn a_crowd_at_one_queue_does_not_hold_up_another() {
        let news = News::default();
        let (crowded, quiet): (Name, Name) = ("crowded".into(), "quiet".into());
        let both = || [&crowded, &quiet].into_iter();
        news.counted(9999);
        news.armed(news.snapshot(both(), lists));
        for _ in 0..20 {
            assert!(news.key_changed(b"crowded"));
            news.armed(news.snapshot(both(), lists));
        }
        news.key_changed(b"crowded");
        assert!(news.look_at(both(), Instant::now()).unwrap() > Instant::now());
        assert!(news.is_crowded(both()));
        news.key_changed(b"quiet");
        assert!(!news.is_crowded(both()));
        assert!(news.look_at(both(), Instant::now()).unwrap() <= Instant::now());
    }
}
