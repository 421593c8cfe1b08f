//! What all channels of one link share.

use super::consumers::{Kind, Place, Unused};
use super::error::Reason;
use super::mailbox::FULL;
use super::recent::{MOST, Recent};
use super::state::{ChannelState, End, Taken};
use crate::error::{Error, ErrorKind, Result};
use crate::io::lock::Mutex;
use crate::io::task::Notify;
use crate::model::{Json, Name};
use crate::protocol::amqp::encode::Settle;
use crate::transport::{AmqpCounters, Event, Held, Returned};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Of how many declared queues it is known what they are.
const KINDS: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    channels: Mutex<Channels>,
    /// Highest number of a channel.
    pub(super) channel_max: AtomicU16,
    /// Seconds between heartbeats, 0 for none.
    pub(super) heartbeat: AtomicU64,
    open: AtomicBool,
    /// Why the broker has closed the connection.
    pub(super) closed: Mutex<Option<Reason>>,
    /// Why the broker takes no publishes, and since when.
    blocked: Mutex<Option<(String, Instant)>>,
    /// What nobody who waits for an answer was told: for who waits for messages.
    incidents: Mutex<Recent<Incident>>,
    /// Bytes that wait for consumers without acknowledgements.
    pub(super) scales: Arc<AtomicUsize>,
    /// What is known of the queues that were declared here.
    kinds: Mutex<BTreeMap<Name, Kind>>,
    /// What ended channels had for consumers without acknowledgements.
    left: Mutex<VecDeque<Event>>,
    /// A message came back that nobody has asked for yet.
    came_back: AtomicBool,
    pub(super) news: Arc<Notify>,
    pub(super) counters: Arc<AmqpCounters>,
}

/// See [`Board::tell`].
#[derive(Debug)]
struct Incident {
    /// The channel that was closed, if it is about one: who uses it hears of it, too.
    closed: Option<u64>,
    error: Error,
}

#[derive(Debug, Default)]
struct Channels {
    by_number: BTreeMap<u16, Arc<ChannelState>>,
    /// In fair rotation.
    turn: VecDeque<u16>,
    /// Numbers that were used and can be used again; the one that is free for longest first.
    free: VecDeque<u16>,
    last: u16,
}

impl Board {
    pub(super) fn new(news: Arc<Notify>, counters: Arc<AmqpCounters>) -> Arc<Self> {
        Arc::new(Self {
            channels: Mutex::default(),
            channel_max: AtomicU16::new(u16::MAX),
            heartbeat: AtomicU64::new(0),
            open: AtomicBool::new(false),
            closed: Mutex::default(),
            blocked: Mutex::default(),
            incidents: Mutex::default(),
            scales: Arc::default(),
            kinds: Mutex::default(),
            left: Mutex::default(),
            came_back: AtomicBool::new(false),
            news,
            counters,
        })
    }

    /// The connection is open from now on.
    pub(super) fn opened(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// A new channel with a free number; its deliveries are numbered on from `numbers`.
    ///
    /// # Errors
    /// `Limit` when there is none.
    pub(super) fn add(&self, id: u64, numbers: Arc<AtomicU64>) -> Result<Arc<ChannelState>> {
        let mut channels = self.channels.lock();
        let most = self.channel_max.load(Ordering::Relaxed);
        // Used numbers last: what was on its way to a closed channel has arrived by then.
        let number = if channels.last < most {
            channels.last += 1;
            channels.last
        } else {
            channels.free.pop_front().ok_or_else(|| {
                Error::limit(format!(
                    "the connection has {most} channels, as many as it may (channel_max)"
                ))
            })?
        };
        let state = Arc::new(ChannelState::new(id, number, numbers, self.news.clone()));
        channels.by_number.insert(number, state.clone());
        channels.turn.push_back(number);
        Ok(state)
    }

    pub(super) fn channel(&self, number: u16) -> Option<Arc<ChannelState>> {
        self.channels.lock().by_number.get(&number).cloned()
    }

    /// A channel has ended: its number is free.
    pub(super) fn remove(&self, number: u16, how: End) {
        let mut channels = self.channels.lock();
        let Some(state) = channels.by_number.remove(&number) else { return };
        channels.turn.retain(|known| *known != number);
        channels.free.push_back(number);
        drop(channels);
        self.end(&state, how);
    }

    /// A channel has ended. What it had for consumers without acknowledgements is nowhere else any more:
    /// it is handed out all the same.
    pub(super) fn end(&self, state: &ChannelState, how: End) {
        self.left.lock().extend(state.end(how));
    }

    /// The link is gone, and all channels with it.
    pub(super) fn lose(&self) {
        let channels = std::mem::take(&mut *self.channels.lock());
        for state in channels.by_number.into_values() {
            self.end(&state, End::Lost);
        }
        self.set_blocked(None);
        self.news.notify();
    }

    /// Whether it has channels that have not ended.
    pub(super) fn has_channels(&self) -> bool {
        !self.channels.lock().by_number.is_empty()
    }

    /// Something that an ended channel has left.
    pub(super) fn take_left(&self) -> Option<Event> {
        self.left.lock().pop_front()
    }

    /// Whether ended channels have left anything.
    pub(super) fn has_left(&self) -> bool {
        !self.left.lock().is_empty()
    }

    /// Whether anything is left for that consumer of a channel.
    pub(super) fn has_left_for(&self, channel: u64, tag: &Name) -> bool {
        let left = self.left.lock();
        left.iter().any(|event| event.channel == channel && event.consumer_tag == *tag)
    }

    /// The next event, channels in turn.
    pub(super) fn take(&self) -> Option<(Arc<ChannelState>, Taken)> {
        let mut channels = self.channels.lock();
        for _ in 0..channels.turn.len() {
            let number = channels.turn.pop_front()?;
            channels.turn.push_back(number);
            let Some(state) = channels.by_number.get(&number) else { continue };
            if let Some(mut taken) = state.take() {
                let state = state.clone();
                drop(channels);
                if let Some(over) = taken.over.take() {
                    self.tell_cancelled(state.id, over);
                }
                return Some((state, taken));
            }
        }
        None
    }

    /// All open channels.
    pub(super) fn all(&self) -> Vec<Arc<ChannelState>> {
        self.channels.lock().by_number.values().cloned().collect()
    }

    /// Whether nothing should be read for now, as enough waits for consumers without acknowledgements.
    /// Not while somebody waits for what only reading brings: an answer, a confirm, the end of a
    /// block, or messages where none of those that are here can be handed out.
    pub(super) fn is_full(&self) -> bool {
        if self.scales.load(Ordering::Relaxed) < FULL || self.blocked.lock().is_some() {
            return false;
        }
        let states = self.all();
        !states.iter().any(|state| state.is_waited_for())
            && states.iter().any(|state| state.is_ready())
    }

    /// Warns of deliveries that the broker will soon have waited for too long.
    pub(super) fn warn_late(&self, now: Instant, timeout: Duration) {
        for state in self.all() {
            let Some((tag, queue, age)) = state.late(now, timeout) else { continue };
            tracing::warn!(
                target: "kombu.channel",
                "delivery tag {tag} of the queue '{queue}' is not acknowledged for {:.0} s: the broker \
                 closes its channel after {} s (consumer_timeout)",
                age.as_secs_f64(),
                timeout.as_secs_f64()
            );
        }
    }

    /// The broker has cancelled a consumer: its queue is gone, or has moved. Its user is told when
    /// everything that came before is handed out. What to answer.
    pub(super) fn cancelled(&self, number: u16, wire_tag: &str) -> Vec<u8> {
        let Some(state) = self.channel(number) else { return Vec::new() };
        let Some(cancelled) = state.cancelled(wire_tag) else { return Vec::new() };
        if let Some(over) = cancelled.over {
            self.tell_cancelled(state.id, over);
        }
        match state.may_send() {
            true => cancelled.back.encode(number, Settle::Requeue),
            false => Vec::new(),
        }
    }

    fn tell_cancelled(&self, channel: u64, (tag, queue): (Name, Name)) {
        let text = format!(
            "the broker has cancelled the consumer '{tag}': the queue '{queue}' was deleted or has moved"
        );
        let error = Error::new(ErrorKind::Cancelled, text).with_consumer(channel, &tag);
        self.tell(None, super::error::ours(error));
    }

    /// A queue was declared here with these arguments.
    pub(super) fn declared(&self, queue: &Name, arguments: &Json, auto_delete: bool) {
        let place = match arguments.get("x-queue-type") {
            Some(br#""stream""#) => Place::Stream,
            _ if arguments.get("x-single-active-consumer") == Some(b"true") => Place::Line,
            _ => Place::Any,
        };
        let unused = match auto_delete || arguments.get("x-expires").is_some() {
            true => Unused::Goes,
            false => Unused::Stays,
        };
        let quorum = arguments.get("x-queue-type") == Some(br#""quorum""#);
        let kind = Kind { place, unused, quorum };
        let mut kinds = self.kinds.lock();
        if kinds.len() >= KINDS {
            kinds.pop_first();
        }
        kinds.insert(queue.clone(), kind);
    }

    /// A queue was deleted here.
    pub(super) fn deleted(&self, queue: &Name) {
        self.kinds.lock().remove(queue);
    }

    /// What a queue is, as far as known.
    pub(super) fn kind(&self, queue: &Name) -> Kind {
        self.kinds.lock().get(queue).copied().unwrap_or_default()
    }

    /// Some channel has a message that came back.
    pub(super) fn came_back(&self) {
        self.came_back.store(true, Ordering::Release);
    }

    /// A message that came back to some channel and is nobody's error.
    pub(super) fn next_returned(&self) -> Option<(u64, Returned)> {
        if !self.came_back.swap(false, Ordering::AcqRel) {
            return None;
        }
        let states = self.all();
        let (state, returned) =
            states.iter().find_map(|state| Some((state, state.next_returned()?)))?;
        self.came_back(); // there may be more
        Some((state.id, returned))
    }

    /// Something that whoever waits for messages has to know. That a channel was `closed` may be told
    /// to its next user first: see [`Board::told`].
    pub(super) fn tell(&self, closed: Option<u64>, error: Error) {
        let dropped = self.incidents.lock().push(Incident { closed, error });
        if let Some(Incident { error, .. }) = dropped {
            tracing::warn!(
                target: "kombu.connection",
                "over {MOST} errors wait for somebody to drain the connection: from now on the oldest \
                 are dropped, the first of them: {error}"
            );
        }
        self.news.notify();
    }

    /// Somebody was told that this channel is closed, and why: nobody else has to be.
    pub(super) fn told(&self, channel: u64) {
        self.incidents.lock().retain(|incident| incident.closed != Some(channel));
    }

    /// The oldest of what was to be told.
    pub(super) fn incident(&self) -> Option<Error> {
        self.incidents.lock().pop().map(|incident| incident.error)
    }

    /// `connection.blocked` (why) and `connection.unblocked`.
    pub(super) fn block(&self, why: Option<String>) {
        match &why {
            Some(why) => {
                tracing::warn!(target: "kombu.connection", "the broker blocks publishers: {why}")
            }
            None => tracing::info!(target: "kombu.connection", "the broker takes publishes again"),
        }
        self.set_blocked(why);
        self.news.notify();
    }

    fn set_blocked(&self, why: Option<String>) {
        let mut blocked = self.blocked.lock();
        let since = blocked.as_ref().map(|(_, since)| *since);
        match (&why, since) {
            (None, Some(since)) => self.counters.blocked.add(since.elapsed()),
            (None, None) => return,
            (Some(_), _) => {}
        }
        *blocked = why.map(|why| (why, since.unwrap_or_else(Instant::now)));
    }

    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.lock().as_ref().map(|(why, _)| why.clone())
    }

    /// What the channels hold, and for how long the broker has taken no publishes by now.
    pub(super) fn held(&self) -> (Held, Duration) {
        let held = self.all().iter().fold(Held::default(), |all, state| {
            let one = state.held();
            Held {
                unacked: all.unacked + one.unacked,
                oldest: all.oldest.max(one.oldest),
                prefetched: all.prefetched + one.prefetched,
            }
        });
        let since = self.blocked.lock().as_ref().map(|(_, since)| since.elapsed());
        (held, since.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_late_and_run_out() {
        let board = Board::new(Arc::default(), Arc::default());
        board.channel_max.store(3, Ordering::Relaxed);
        let numbers: Vec<u16> =
            (0..2).map(|id| board.add(id, Arc::default()).unwrap().number).collect();
        assert_eq!(numbers, [1, 2]);
        board.remove(1, End::Closed);
        assert_eq!(board.add(3, Arc::default()).unwrap().number, 3);
        assert_eq!(board.add(4, Arc::default()).unwrap().number, 1);
        let error = board.add(5, Arc::default()).unwrap_err();
        assert!(error.to_string().contains("channel_max"), "{error}");
        let state = board.channel(2).unwrap();
        board.lose();
        assert_eq!(state.ended(), Some(End::Lost));
        assert!(board.channel(2).is_none());
    }
}
