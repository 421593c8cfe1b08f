//! One socket with many users: threads share it, and their requests pipeline by themselves.
//!
//! There is no reader thread. Whoever polls a pending request reads what is there under a short
//! lock, completes everybody's slots in order and routes what the server sent on its own account;
//! [`Lead`] decides which of the sleepers watches the socket. A reply that is late kills the link:
//! later ones could no longer be told apart from it.

use super::fork;
use super::lead::Lead;
use super::stream::{Received, Stream};
use super::task::{Interest, watch_fd, watch_shared, watch_until};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use crate::protocol::Decoder;
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Bytes that one turn reads at most before it lets others have the lock.
const BURST: usize = 4 << 20;

/// What becomes of events that are no replies. Called under the link's lock: must be short
/// and must not use the link.
pub trait Traffic<E>: Send + 'static {
    /// Takes an event that the peer sent on its own account; gives back what is a reply.
    fn route(&mut self, event: E) -> Option<E>;

    /// Which requests a reply may answer: those of one lane are answered in their order, lanes are
    /// independent of each other. One lane for all, unless the protocol has channels.
    fn lane(&self, _reply: &E) -> u32 {
        0
    }

    /// Whether a reply is the last of its lane: it ends every request that still waits there.
    fn ends_lane(&self, _reply: &E) -> bool {
        false
    }

    /// Whether nothing more should be read for now: what is here has to be taken first, and the peer
    /// waits. Only asked while nobody waits for a reply and everything is sent, so that nobody waits
    /// in vain; who waits for pushes must find some.
    fn is_full(&self) -> bool {
        false
    }

    /// Called after events were routed. What it appends to `out` is sent.
    ///
    /// # Errors
    /// The link is of no more use; its users are told why, after `out` was sent.
    fn after(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    /// Called now and then, whether anybody uses the link or not: see [`Link::tend`]. What it appends
    /// to `out` is sent.
    ///
    /// # Errors
    /// As [`Traffic::after`].
    fn idle(&mut self, _moved: Moved, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    /// Called once, when the link is lost or closed; `heard`: when bytes came last. By then it says that
    /// it is not alive.
    fn lost(&mut self, _heard: Instant) {}
}

/// How many bytes a link has moved since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Taken by the kernel.
    pub sent: u64,
    /// Read.
    pub received: u64,
}

/// Called with the replies to a request that nobody waits for, or with `None` when the link was
/// lost before they came. Called under the link's lock: must be short and must not use the link.
pub type Told<E> = Box<dyn FnOnce(Option<Vec<E>>) + Send>;

/// Which replies a request gets.
#[derive(Clone)]
pub enum Expect<E> {
    /// So many.
    Count(usize),
    /// All up to and including the first that satisfies this.
    Until(Arc<dyn Fn(&E) -> bool + Send + Sync>),
}

impl<E> fmt::Debug for Expect<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "Count({count})"),
            Self::Until(_) => f.write_str("Until"),
        }
    }
}

/// What a link shows of life; see [`Link::pulse`]. One that has not changed: nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When bytes came last.
    pub heard: Instant,
    /// When the oldest request was sent that has no answer yet.
    pub owed_since: Option<Instant>,
    /// Bytes that the peer has not taken yet.
    pub untaken: usize,
}

/// A live connection that speaks the protocol of `D`.
pub struct Link<D: Decoder> {
    generation: u64,
    fd: RawFd,
    peer: String,
    lead: Arc<Lead>,
    dead: AtomicBool,
    state: ManuallyDrop<Mutex<State<D>>>,
}

struct State<D: Decoder> {
    stream: Stream,
    decoder: D,
    traffic: Box<dyn Traffic<D::Event>>,
    input: BytesMut,
    /// When bytes came last.
    heard: Instant,
    /// What the socket did not take yet.
    output: BytesMut,
    slots: VecDeque<Entry<D::Event>>,
    /// Wakers of those who wait for pushes or for output to leave.
    attendants: Vec<Waker>,
    failure: Option<String>,
    moved: Moved,
}

struct Entry<E> {
    lane: u32,
    expect: Expect<E>,
    sent: Instant,
    deadline: Instant,
    receiver: Receiver<E>,
}

enum Receiver<E> {
    Waiting(Arc<Mutex<Slot<E>>>),
    Told(Vec<E>, Told<E>),
}

struct Slot<E> {
    replies: Vec<E>,
    done: bool,
    waker: Option<Waker>,
}

impl<D: Decoder> Link<D> {
    /// Over a connected stream; `peer` names it in errors.
    pub fn new(
        stream: Stream,
        peer: impl Into<String>,
        decoder: D,
        traffic: impl Traffic<D::Event>,
    ) -> Arc<Self> {
        Arc::new(Self {
            generation: fork::generation(),
            fd: stream.as_raw_fd(),
            peer: peer.into(),
            lead: Lead::new(),
            dead: AtomicBool::new(false),
            state: ManuallyDrop::new(Mutex::new(State {
                stream,
                decoder,
                traffic: Box::new(traffic),
                input: BytesMut::new(),
                heard: Instant::now(),
                output: BytesMut::new(),
                slots: VecDeque::new(),
                attendants: Vec::new(),
                failure: None,
                moved: Moved::default(),
            })),
        })
    }

    /// Whether it can be used, as far as known without asking.
    pub fn is_alive(&self) -> bool {
        self.is_current() && !self.dead.load(Ordering::Acquire)
    }

    /// Whether it was made by this process (and not by its parent).
    pub fn is_current(&self) -> bool {
        self.generation == fork::generation()
    }

    /// The peer, as in errors.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The state, unless it is a parent's: its lock may be held by a thread that is not here.
    fn state(&self) -> Result<&Mutex<State<D>>> {
        if self.is_current() {
            Ok(&self.state)
        } else {
            Err(Error::connection(format!(
                "the connection to {} was made before this process was forked",
                self.peer
            )))
        }
    }

    /// Sends `data` now and returns a future of its replies.
    ///
    /// The future resolves to `Connection` when the link is or gets lost, also when the replies are
    /// not there after `patience`. Dropping it is free; the replies are then skipped.
    pub fn request(
        self: &Arc<Self>,
        data: &[u8],
        expect: Expect<D::Event>,
        patience: Duration,
    ) -> Request<D> {
        let (entry, mut request) = self.waiting(0, expect, patience);
        request.refused = self.submit(data, Some(entry), || true).err();
        request
    }

    /// As [`Link::request`], to be answered by replies of that [lane](Traffic::lane). With a reply that
    /// [ends the lane](Traffic::ends_lane) it resolves to what there is, maybe nothing. `None`, and
    /// nothing is sent, when `may` says no: see [`Link::post_if`].
    pub fn request_if(
        self: &Arc<Self>,
        lane: u32,
        data: &[u8],
        expect: Expect<D::Event>,
        patience: Duration,
        may: impl FnOnce() -> bool,
    ) -> Option<Request<D>> {
        let (entry, mut request) = self.waiting(lane, expect, patience);
        request.refused = match self.submit(data, Some(entry), may) {
            Ok(None) => return None,
            sent => sent.err(),
        };
        Some(request)
    }

    /// Who is owed replies, and what they resolve.
    fn waiting(
        self: &Arc<Self>,
        lane: u32,
        expect: Expect<D::Event>,
        patience: Duration,
    ) -> (Entry<D::Event>, Request<D>) {
        let sent = Instant::now();
        let deadline = sent + patience;
        let slot = Arc::new(Mutex::new(Slot { replies: Vec::new(), done: false, waker: None }));
        let receiver = Receiver::Waiting(slot.clone());
        let request = Request { link: self.clone(), slot, deadline, refused: None };
        (Entry { lane, expect, sent, deadline, receiver }, request)
    }

    /// Hands `data` to the kernel; when somebody reads its replies, `told` gets them.
    ///
    /// # Errors
    /// `Connection` when the link is lost or takes nothing for `patience`. `told` is called then too.
    pub async fn tell(
        self: &Arc<Self>,
        data: &[u8],
        replies: usize,
        patience: Duration,
        told: Told<D::Event>,
    ) -> Result<()> {
        let sent = Instant::now();
        let deadline = sent + patience;
        let receiver = Receiver::Told(Vec::with_capacity(replies), told);
        let entry = Entry { lane: 0, expect: Expect::Count(replies), sent, deadline, receiver };
        match self.submit(data, Some(entry), || true)? {
            Some(false) => self.flush(deadline).await,
            _ => Ok(()),
        }
    }

    /// Sends `data`, which is not answered, as far as the socket takes it now. `false` when something is
    /// left, for which [`Link::flush`] waits.
    ///
    /// # Errors
    /// `Connection` when the link is lost.
    pub fn post(&self, data: &[u8]) -> Result<bool> {
        Ok(self.submit(data, None, || true)?.unwrap_or(true))
    }

    /// As [`Link::post`], if `may` says so. It is asked where what comes in is routed, under the same
    /// lock: what was routed before `data` is sent is known to it. `None` when it says no.
    ///
    /// # Errors
    /// `Connection` when the link is lost.
    pub fn post_if(&self, data: &[u8], may: impl FnOnce() -> bool) -> Result<Option<bool>> {
        self.submit(data, None, may)
    }

    /// Waits until everything has been handed to the kernel.
    ///
    /// # Errors
    /// `Connection` when the link is lost, or takes nothing until `deadline`.
    pub async fn flush(&self, deadline: Instant) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx, deadline)).await
    }

    /// Sends as far as the socket takes it, if `may` says so; whether nothing is left.
    fn submit(
        &self,
        data: &[u8],
        entry: Option<Entry<D::Event>>,
        may: impl FnOnce() -> bool,
    ) -> Result<Option<bool>> {
        let lost = |entry: Option<Entry<D::Event>>| entry.and_then(|entry| entry.receiver.lost());
        let mut state = match self.state() {
            Ok(state) => state.lock(),
            Err(error) => {
                lost(entry);
                return Err(error);
            }
        };
        if let Some(failure) = &state.failure {
            lost(entry);
            return Err(Error::connection(failure.clone()));
        }
        if !may() {
            return Ok(None);
        }
        state.slots.extend(entry);
        if let Err(error) = state.write(data) {
            let wakers = self.fail(&mut state, &error);
            drop(state);
            wake_all(wakers);
            return Err(error_of(self, &error));
        }
        Ok(Some(state.has_left()))
    }

    /// Pending until everything has left for the kernel.
    fn poll_flush(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<Result<()>> {
        let mut wakers = Vec::new();
        let polled = {
            let mut state = self.state()?.lock();
            if state.has_left() {
                return Poll::Ready(Ok(()));
            }
            self.turn(&mut state, &mut wakers);
            if let Some(failure) = &state.failure {
                Poll::Ready(Err(Error::connection(failure.clone())))
            } else if state.has_left() {
                Poll::Ready(Ok(()))
            } else if Instant::now() >= deadline {
                wakers.append(&mut self.fail(&mut state, &"it takes no more data"));
                Poll::Ready(Err(error_of(self, &"it takes no more data")))
            } else {
                state.attend(cx.waker());
                watch_fd(self.fd, Interest::BOTH);
                watch_until(deadline);
                Poll::Pending
            }
        };
        wake_all(wakers);
        polled
    }

    /// Waits for pushes: reads and routes what is there, arranges to be polled again, and resolves
    /// only when the link is lost. The caller looks at what its [`Traffic`] collected.
    pub fn poll_attend(&self, cx: &mut Context<'_>) -> Poll<Error> {
        let mut wakers = Vec::new();
        let polled = {
            let mut state = match self.state() {
                Ok(state) => state.lock(),
                Err(error) => return Poll::Ready(error),
            };
            self.turn(&mut state, &mut wakers);
            if let Some(failure) = &state.failure {
                Poll::Ready(Error::connection(failure.clone()))
            } else {
                state.attend(cx.waker());
                self.watch(&state);
                Poll::Pending
            }
        };
        wake_all(wakers);
        polled
    }

    /// Reads and writes what is possible now; notices late replies. For links that nobody drove
    /// lately.
    pub fn tend(&self) {
        let Ok(state) = self.state() else { return };
        // Held: somebody is driving it this moment.
        let Some(mut state) = state.try_lock() else { return };
        let mut wakers = Vec::new();
        self.turn(&mut state, &mut wakers);
        if state.failure.is_none()
            && let Err(error) = state.idle()
        {
            wakers.append(&mut self.fail(&mut state, &error));
        }
        let now = Instant::now();
        let mut first = state.slots.iter().enumerate().filter(|(at, e)| *at == 0 || e.lane != 0);
        if first.any(|(_, entry)| entry.deadline <= now) {
            wakers.append(&mut self.fail(&mut state, &"a reply is late"));
        }
        drop(state);
        wake_all(wakers);
    }

    /// Whether replies are still to come.
    pub fn is_owed(&self) -> bool {
        self.state().is_ok_and(|state| !state.lock().slots.is_empty())
    }

    /// Reads and writes as [`Link::tend`]; then, what it shows of life. `None` when it is lost.
    pub fn pulse(&self) -> Option<Pulse> {
        self.tend();
        let state = self.state().ok()?.lock();
        if state.failure.is_some() {
            return None;
        }
        Some(Pulse {
            heard: state.heard,
            owed_since: state.slots.front().map(|entry| entry.sent),
            untaken: state.output.len() + state.stream.untaken(),
        })
    }

    /// Ends the link on purpose; everybody who still waits gets an error.
    pub fn close(&self, why: &str) {
        let Ok(state) = self.state() else { return };
        let wakers = self.fail(&mut state.lock(), &why);
        wake_all(wakers);
    }

    fn watch(&self, state: &State<D>) {
        if !state.has_left() {
            watch_fd(self.fd, Interest::WRITE);
        }
        watch_shared(self.fd, &self.lead);
    }

    /// Writes and reads what is possible without waiting.
    fn turn(&self, state: &mut State<D>, wakers: &mut Vec<Waker>) {
        if state.failure.is_some() {
            return;
        }
        if let Err(error) = state.work(wakers) {
            wakers.append(&mut self.fail(state, &error));
        }
    }

    /// Marks the link dead; the wakers of everybody who waits.
    fn fail(&self, state: &mut State<D>, cause: &dyn fmt::Display) -> Vec<Waker> {
        let mut wakers = std::mem::take(&mut state.attendants);
        // Known here before the peer can know.
        self.dead.store(true, Ordering::Release);
        if state.failure.is_none() {
            state.failure = Some(error_of(self, cause).to_string());
            state.stream.shut_down();
            state.traffic.lost(state.heard);
        }
        for entry in state.slots.drain(..) {
            wakers.extend(entry.receiver.lost());
        }
        wakers
    }
}

fn error_of<D: Decoder>(link: &Link<D>, cause: &dyn fmt::Display) -> Error {
    Error::connection(format!("the connection to {} is lost: {cause}", link.peer))
}

fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl<D: Decoder> State<D> {
    fn has_left(&self) -> bool {
        self.output.is_empty() && !self.stream.wants_write()
    }

    fn attend(&mut self, waker: &Waker) {
        if !self.attendants.iter().any(|known| known.will_wake(waker)) {
            self.attendants.push(waker.clone());
        }
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        let mut left = data;
        if self.has_left() {
            while !left.is_empty() {
                match self.stream.send(left)? {
                    0 => break,
                    sent => {
                        left = &left[sent..];
                        self.moved.sent += sent as u64;
                    }
                }
            }
        }
        self.output.extend_from_slice(left);
        Ok(())
    }

    fn work(&mut self, wakers: &mut Vec<Waker>) -> Result<()> {
        let lost = |error: std::io::Error| Error::connection(error.to_string());
        while !self.has_left() {
            let sent = self.stream.send(&self.output).map_err(lost)?;
            self.output.advance(sent);
            self.moved.sent += sent as u64;
            if sent == 0 {
                break;
            }
        }
        let mut read = 0;
        loop {
            if self.slots.is_empty() && self.has_left() && self.traffic.is_full() {
                return Ok(());
            }
            let before = self.input.len();
            let received = self.stream.receive(&mut self.input).map_err(lost)?;
            read += self.input.len() - before;
            self.moved.received += (self.input.len() - before) as u64;
            if matches!(received, Received::More | Received::Last) {
                self.heard = Instant::now();
                let decoded = self.decode(wakers);
                let mut out = Vec::new();
                let after = self.traffic.after(&mut out);
                self.write(&out).map_err(lost)?;
                decoded.and(after)?;
            }
            match received {
                Received::End => return Err(Error::connection("the peer has closed it")),
                Received::More if read < BURST => {}
                _ => return Ok(()),
            }
        }
    }

    /// Takes events off the input while there are whole ones.
    fn decode(&mut self, wakers: &mut Vec<Waker>) -> Result<()> {
        while let Some(event) = self.decoder.decode(&mut self.input)? {
            let Some(reply) = self.traffic.route(event) else { continue };
            let lane = self.traffic.lane(&reply);
            if self.traffic.ends_lane(&reply) {
                self.end_lane(lane, reply, wakers);
            } else {
                self.complete(lane, reply, wakers)?;
            }
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let mut out = Vec::new();
        let idle = self.traffic.idle(self.moved, &mut out);
        let written = self.write(&out).map_err(|error| Error::connection(error.to_string()));
        idle.and(written)
    }

    /// Ends all requests of a lane; the oldest one gets the reply.
    fn end_lane(&mut self, lane: u32, reply: D::Event, wakers: &mut Vec<Waker>) {
        let (ended, others) =
            self.slots.drain(..).partition::<VecDeque<_>, _>(|entry| entry.lane == lane);
        self.slots = others;
        let mut reply = Some(reply);
        for entry in ended {
            match entry.receiver {
                Receiver::Waiting(slot) => {
                    let mut slot = slot.lock();
                    slot.replies.extend(reply.take());
                    slot.done = true;
                    wakers.extend(slot.waker.take());
                }
                Receiver::Told(mut replies, told) => {
                    replies.extend(reply.take());
                    told(Some(replies));
                }
            }
        }
    }

    /// Gives a reply to the oldest request of its lane.
    fn complete(&mut self, lane: u32, reply: D::Event, wakers: &mut Vec<Waker>) -> Result<()> {
        let Some(at) = self.slots.iter().position(|entry| entry.lane == lane) else {
            return Err(Error::decode("a reply came that nothing asked for"));
        };
        let entry = &mut self.slots[at];
        let last = match &mut entry.expect {
            Expect::Count(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Expect::Until(is_last) => is_last(&reply),
        };
        match &mut entry.receiver {
            Receiver::Waiting(slot) => {
                let mut slot = slot.lock();
                slot.replies.push(reply);
                if last {
                    slot.done = true;
                    wakers.extend(slot.waker.take());
                }
            }
            Receiver::Told(replies, _) => replies.push(reply),
        }
        if !last {
            return Ok(());
        }
        if let Some(Entry { receiver: Receiver::Told(replies, told), .. }) = self.slots.remove(at) {
            told(Some(replies));
        }
        Ok(())
    }
}

impl<E> Receiver<E> {
    /// No replies will come; the waker of who waits for them.
    fn lost(self) -> Option<Waker> {
        match self {
            Self::Waiting(slot) => slot.lock().waker.take(),
            Self::Told(_, told) => {
                told(None);
                None
            }
        }
    }
}

impl<D: Decoder> Drop for Link<D> {
    fn drop(&mut self) {
        if self.is_current() {
            // SAFETY: dropped nowhere else, and not used afterwards. A parent's state is leaked: a
            // thread of the parent may have been changing it at the moment of the fork.
            unsafe { ManuallyDrop::drop(&mut self.state) };
        }
    }
}

impl<D: Decoder> fmt::Debug for Link<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("alive", &self.is_alive()).finish()
    }
}

/// The replies to come; see [`Link::request`].
pub struct Request<D: Decoder> {
    link: Arc<Link<D>>,
    slot: Arc<Mutex<Slot<D::Event>>>,
    deadline: Instant,
    refused: Option<Error>,
}

impl<D: Decoder> Future for Request<D> {
    type Output = Result<Vec<D::Event>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let link = self.link.clone();
        let mut wakers = Vec::new();
        let polled = {
            let mut state = link.state()?.lock();
            // Out of the slot first: whoever is polled needs no wake-up.
            let ready = |slot: &mut Slot<D::Event>| {
                slot.done.then(|| Poll::Ready(Ok(std::mem::take(&mut slot.replies))))
            };
            let mut slot = self.slot.lock();
            slot.waker = None;
            if let Some(done) = ready(&mut slot) {
                return done;
            }
            drop(slot);
            link.turn(&mut state, &mut wakers);
            let mut slot = self.slot.lock();
            if let Some(done) = ready(&mut slot) {
                done
            } else if let Some(failure) = &state.failure {
                Poll::Ready(Err(Error::connection(failure.clone())))
            } else if Instant::now() >= self.deadline {
                drop(slot);
                wakers.append(&mut link.fail(&mut state, &"a reply is late"));
                Poll::Ready(Err(error_of(&link, &"a reply is late")))
            } else {
                slot.waker = Some(cx.waker().clone());
                link.watch(&state);
                watch_until(self.deadline);
                Poll::Pending
            }
        };
        wake_all(wakers);
        polled
    }
}

impl<D: Decoder> fmt::Debug for Request<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("link", &self.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
