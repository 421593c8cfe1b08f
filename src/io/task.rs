//! One executor, no reactor: futures are polled by the thread that wants their result.
//!
//! A leaf future that cannot go on says what it waits for ([`watch_fd`], [`watch_until`], or its
//! waker for news from another thread) and returns `Pending`. [`block_on`] then waits through a
//! [`Waiter`] and polls again; under an event loop `Pollset` does the same without blocking. So
//! one code path serves a blocking call, an event loop's callback, a greenlet and an asyncio task.
//!
//! Nothing that another thread or greenlet may touch lives on the stack: greenlets copy C stacks.

use super::fork::{self, ForkFd};
use super::lead::Lead;
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// Readable (or hung up).
    pub const READ: Self = Self(1);
    /// Writable.
    pub const WRITE: Self = Self(2);
    /// Either.
    pub const BOTH: Self = Self(3);

    /// Whether reading is asked for.
    pub fn is_read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether writing is asked for.
    pub fn is_write(self) -> bool {
        self.0 & 2 != 0
    }

    /// As a number: 1 read, 2 write, 3 either.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Both wishes together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a pending future waits for, besides its waker.
#[derive(Debug, Clone, Default)]
pub struct Wants {
    /// Descriptors, each at most once.
    pub fds: Vec<(RawFd, Interest)>,
    /// The earliest instant at which to poll again.
    pub until: Option<Instant>,
    /// Until when the caller waits.
    deadline: Option<Instant>,
    /// Descriptors to read from that have other waiters too: one sleeper is enough. [`block_on`]
    /// turns them into `fds` or follows; others call [`Wants::lead_all`].
    led: Vec<(RawFd, Arc<Lead>)>,
}

impl Wants {
    fn clear(&mut self) {
        self.fds.clear();
        self.until = None;
        self.led.clear();
    }

    /// Watches the shared descriptors whoever else does: for those who do not sleep in [`block_on`].
    pub fn lead_all(&mut self) {
        for (fd, _) in std::mem::take(&mut self.led) {
            self.add(fd, Interest::READ);
        }
    }

    fn add(&mut self, fd: RawFd, interest: Interest) {
        match self.fds.iter_mut().find(|(known, _)| *known == fd) {
            Some((_, known)) => *known = known.union(interest),
            None => self.fds.push((fd, interest)),
        }
    }
}

thread_local! {
    /// How many `block_on` frames of this thread are asleep. Above zero a signal handler or another
    /// greenlet is waiting on top of a sleeper, which may never get to lead: watch, do not follow.
    static ASLEEP: Cell<u32> = const { Cell::new(0) };
    /// How many signal handlers run on top of sleepers of this thread.
    static HANDLERS: Cell<u32> = const { Cell::new(0) };
    static CURRENT: RefCell<Vec<Wants>> = const { RefCell::new(Vec::new()) };
    static PARKERS: RefCell<Vec<Arc<Parker>>> = const { RefCell::new(Vec::new()) };
}

/// Called by a leaf future before it returns `Pending`: poll me again when `fd` is ready.
///
/// # Panics
/// Outside of [`poll_with`]: a bug of the caller, there is nobody who would wait.
pub fn watch_fd(fd: RawFd, interest: Interest) {
    with_current(|wants| wants.add(fd, interest));
}

/// Called by a leaf future before it returns `Pending`: poll me again when `fd` is readable. The
/// future has left its waker with the others that read `fd`, so it need not be watched twice.
///
/// # Panics
/// As [`watch_fd`].
pub fn watch_shared(fd: RawFd, lead: &Arc<Lead>) {
    with_current(|wants| {
        if !wants.led.iter().any(|(known, _)| *known == fd) {
            wants.led.push((fd, lead.clone()));
        }
    });
}

/// Called by a leaf future before it returns `Pending`: poll me again at `instant` at the latest.
///
/// # Panics
/// As [`watch_fd`].
pub fn watch_until(instant: Instant) {
    with_current(|wants| {
        wants.until = Some(wants.until.map_or(instant, |known| known.min(instant)));
    });
}

/// Until when the caller of the future that is being polled waits, if that is limited: the future is
/// polled once more then, and may say why it is not done.
pub fn deadline() -> Option<Instant> {
    CURRENT.with_borrow(|stack| stack.last().and_then(|wants| wants.deadline))
}

fn with_current(change: impl FnOnce(&mut Wants)) {
    CURRENT.with_borrow_mut(|stack| {
        change(stack.last_mut().expect("a leaf future was polled outside of io::task"));
    });
}

/// Runs signal handlers on top of a sleeper; see [`is_in_handler`].
pub fn handle_signals<T>(handlers: impl FnOnce() -> T) -> T {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            HANDLERS.set(HANDLERS.get() - 1);
        }
    }
    HANDLERS.set(HANDLERS.get() + 1);
    let _frame = Frame;
    handlers()
}

/// Whether a call of this thread sleeps beneath the caller, a signal handler: what that call drives
/// stands still until the handler returns, and must not be waited for.
pub fn is_in_handler() -> bool {
    HANDLERS.get() > 0
}

/// Polls once; afterwards `wants` tells what a `Pending` future waits for.
pub fn poll_with<F: Future + ?Sized>(
    future: Pin<&mut F>,
    waker: &Waker,
    wants: &mut Wants,
) -> Poll<F::Output> {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|stack| drop(stack.pop()));
        }
    }
    wants.clear();
    CURRENT.with_borrow_mut(|stack| stack.push(std::mem::take(wants)));
    let frame = Frame;
    let polled = future.poll(&mut Context::from_waker(waker));
    CURRENT.with_borrow_mut(|stack| *wants = std::mem::take(stack.last_mut().expect("own frame")));
    drop(frame);
    polled
}

/// The way in which a caller sleeps: poll(2), a greenlet's hub, ...
pub trait Waiter: Send + Sync {
    /// Returns when a descriptor is ready, at `wants.until`, or without cause.
    ///
    /// # Errors
    /// `Interrupted` when the sleeper must unwind (a signal handler raised).
    fn wait(&self, wants: &Wants) -> Result<()>;
}

/// Sleeps in poll(2), for callers without an interpreter.
#[derive(Debug, Clone, Copy, Default)]
pub struct PollWaiter;

impl Waiter for PollWaiter {
    fn wait(&self, wants: &Wants) -> Result<()> {
        poll_fds(wants).map(drop)
    }
}

/// How a sleep in poll(2) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor is ready.
    Ready,
    /// The time is over.
    TimedOut,
    /// By a signal.
    Interrupted,
}

/// poll(2) over `wants`.
///
/// # Errors
/// `Internal` when the kernel refuses the call.
pub fn poll_fds(wants: &Wants) -> Result<Woken> {
    let mut fds: Vec<libc::pollfd> = wants
        .fds
        .iter()
        .map(|&(fd, interest)| {
            let mut events = 0;
            if interest.is_read() {
                events |= libc::POLLIN;
            }
            if interest.is_write() {
                events |= libc::POLLOUT;
            }
            libc::pollfd { fd, events, revents: 0 }
        })
        .collect();
    let timeout = wants.until.map_or(-1, |until| {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: waking a millisecond early would spin until the instant.
        let millis = left.as_millis() + u128::from(left.subsec_nanos() % 1_000_000 != 0);
        i32::try_from(millis).unwrap_or(i32::MAX)
    });
    // SAFETY: `fds` is a live array of that many pollfd.
    let done = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    if done > 0 {
        return Ok(Woken::Ready);
    }
    if done == 0 {
        return Ok(Woken::TimedOut);
    }
    let error = std::io::Error::last_os_error();
    if error.kind() == std::io::ErrorKind::Interrupted {
        return Ok(Woken::Interrupted);
    }
    Err(Error::internal("poll(2) failed").with_source(error))
}

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// Wakes one sleeping caller: a flag, and an eventfd that is written only if it really sleeps.
#[derive(Debug)]
struct Parker {
    state: AtomicU8,
    bell: ForkFd,
}

impl Parker {
    fn take() -> Result<Arc<Self>> {
        PARKERS.with_borrow_mut(|pool| {
            while let Some(parker) = pool.pop() {
                if parker.bell.is_current() {
                    return Ok(parker);
                }
            }
            // SAFETY: eventfd has no preconditions.
            let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            if fd < 0 {
                return Err(Error::limit("cannot make an eventfd to sleep on")
                    .with_source(std::io::Error::last_os_error()));
            }
            Ok(Arc::new(Self { state: AtomicU8::new(AWAKE), bell: ForkFd::new(fd) }))
        })
    }

    fn silence(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a live u64; the descriptor is non-blocking.
        unsafe { libc::read(self.bell.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING && self.bell.is_current() {
            let one = 1u64;
            // SAFETY: writes eight bytes from a live u64; a full eventfd is readable anyway.
            unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }
}

/// Polls a future for a caller that sleeps in its own way between the polls:
/// [`Driver::poll`], then [`Driver::before_sleep`], sleep, [`Driver::after_sleep`], and again.
#[derive(Debug)]
pub struct Driver {
    parker: Arc<Parker>,
    waker: Waker,
    wants: Wants,
    leads: Vec<(Arc<Lead>, bool)>,
}

impl Driver {
    /// A driver for the calling thread or greenlet, which waits until `deadline`.
    ///
    /// # Errors
    /// `Limit` when the process has no descriptors left.
    pub fn new(deadline: Option<Instant>) -> Result<Self> {
        let parker = Parker::take()?;
        Ok(Self {
            waker: Waker::from(parker.clone()),
            parker,
            wants: Wants { deadline, ..Wants::default() },
            leads: Vec::new(),
        })
    }

    /// Whether the caller does not wait any longer: to be asked before [`Driver::poll`], so that the
    /// future has been polled after its time.
    pub fn is_late(&self) -> bool {
        self.wants.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Polls once.
    pub fn poll<F: Future + ?Sized>(&mut self, future: Pin<&mut F>) -> Poll<F::Output> {
        self.parker.state.store(AWAKE, Ordering::Release);
        poll_with(future, &self.waker, &mut self.wants)
    }

    /// What to sleep on, until the deadline at the latest; `None` when news came in while polling.
    pub fn before_sleep(&mut self) -> Option<&Wants> {
        self.parker
            .state
            .compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        let leads = lead_or_follow(&mut self.wants, &self.waker);
        for (lead, _) in std::mem::replace(&mut self.leads, leads) {
            if !self.leads.iter().any(|(again, _)| Arc::ptr_eq(again, &lead)) {
                lead.pass_on(); // this thread goes to sleep on something else
            }
        }
        self.wants.fds.push((self.parker.bell.as_raw_fd(), Interest::READ));
        self.wants.until = match (self.wants.until, self.wants.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        ASLEEP.set(ASLEEP.get() + 1);
        Some(&self.wants)
    }

    /// Whether the process is still the one that began: a signal handler may have forked, or the
    /// hub of another greenlet, and returned in the child too.
    ///
    /// # Errors
    /// `Connection`, as what was waited for is the parent's.
    pub fn same_process(&self) -> Result<()> {
        if self.parker.bell.is_current() {
            return Ok(());
        }
        Err(Error::connection(
            "the process was forked while the call waited: it goes on in the parent",
        ))
    }

    /// To be called after each sleep, however it ended.
    pub fn after_sleep(&mut self) {
        ASLEEP.set(ASLEEP.get() - 1);
        for (lead, leading) in &self.leads {
            if *leading { lead.release() } else { lead.unfollow(&self.waker) }
        }
        if self.parker.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED {
            self.parker.silence();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for (lead, _) in self.leads.drain(..) {
            lead.pass_on();
        }
        PARKERS.with_borrow_mut(|pool| pool.push(self.parker.clone()));
    }
}

/// Drives `future` to its end in the calling thread. `Ok(None)` when `deadline` passed first; the
/// future can be polled again later.
///
/// # Errors
/// What the waiter raises (`Interrupted`), or `Limit` when there are no descriptors left.
pub fn block_on<F: Future + ?Sized>(
    future: &mut Pin<Box<F>>,
    waiter: &dyn Waiter,
    deadline: Option<Instant>,
) -> Result<Option<F::Output>> {
    let mut driver = Driver::new(deadline)?;
    loop {
        let late = driver.is_late();
        if let Poll::Ready(value) = driver.poll(future.as_mut()) {
            return Ok(Some(value));
        }
        if late {
            return Ok(None);
        }
        let Some(wants) = driver.before_sleep() else { continue };
        let waited = waiter.wait(wants);
        driver.after_sleep();
        waited?;
        driver.same_process()?;
    }
}

/// Before sleeping: which shared descriptors this thread watches for all (`true`) and which others
/// watch for it.
fn lead_or_follow(wants: &mut Wants, waker: &Waker) -> Vec<(Arc<Lead>, bool)> {
    if wants.led.is_empty() {
        return Vec::new();
    }
    if ASLEEP.get() > 0 {
        wants.lead_all();
        return Vec::new();
    }
    let mut leads = Vec::with_capacity(wants.led.len());
    for (fd, lead) in std::mem::take(&mut wants.led) {
        let leading = lead.take_or_follow(waker);
        if leading {
            wants.add(fd, Interest::READ);
        }
        leads.push((lead, leading));
    }
    leads
}

/// Drives `future` to its end, for callers without an interpreter and without a deadline.
///
/// # Errors
/// As [`block_on`], or the future's own.
pub fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = Box::pin(future);
    block_on(&mut future, &PollWaiter, None)?.unwrap_or_else(|| Err(Error::internal("no deadline")))
}

/// Waits until `fd` may be ready: pending once, ready when polled again.
pub async fn fd_ready(fd: RawFd, interest: Interest) {
    let mut asked = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        watch_fd(fd, interest);
        Poll::Pending
    })
    .await;
}

/// Waits until `instant`.
pub async fn sleep_until(instant: Instant) {
    std::future::poll_fn(|_| {
        if Instant::now() >= instant {
            return Poll::Ready(());
        }
        watch_until(instant);
        Poll::Pending
    })
    .await;
}

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    sleep_until(Instant::now() + duration).await;
}

/// `Some(output)`, or `None` when `deadline` passed first (the future is dropped then).
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        if Instant::now() >= deadline {
            return Poll::Ready(None);
        }
        watch_until(deadline);
        Poll::Pending
    })
    .await
}

/// The first of two futures to finish; the other is dropped.
pub async fn either<T>(left: impl Future<Output = T>, right: impl Future<Output = T>) -> T {
    let mut left = std::pin::pin!(left);
    let mut right = std::pin::pin!(right);
    std::future::poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(value),
        Poll::Pending => right.as_mut().poll(cx),
    })
    .await
}

/// Tells any number of waiting futures that something changed. Remembers nothing but a count, so
/// a listener made before the news never misses it.
#[derive(Debug, Default)]
pub struct Notify {
    epoch: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
}

impl Notify {
    /// Wakes every listener.
    pub fn notify(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let wakers = std::mem::take(&mut *self.wakers.lock());
        for waker in wakers {
            waker.wake();
        }
    }

    /// Takes back what a listener has left: whoever looks right now need not be woken for it.
    pub fn forget(&self, waker: &Waker) {
        self.wakers.lock().retain(|known| !known.will_wake(waker));
    }

    /// A future that resolves at the first `notify` after this call.
    pub fn listen(&self) -> impl Future<Output = ()> + Send + '_ {
        let seen = self.epoch.load(Ordering::Acquire);
        std::future::poll_fn(move |cx| {
            if self.epoch.load(Ordering::Acquire) != seen {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.lock();
            if !wakers.iter().any(|known| known.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            drop(wakers);
            // News between the first look and the registration.
            if self.epoch.load(Ordering::Acquire) == seen { Poll::Pending } else { Poll::Ready(()) }
        })
    }
}

/// Whether handles of generation `theirs` may still be used.
pub fn is_current(theirs: u64) -> bool {
    fork::generation() == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_leaves_the_future_for_later() {
        let notify = Arc::new(Notify::default());
        let theirs = notify.clone();
        let mut future: Pin<Box<dyn Future<Output = u8>>> = Box::pin(async move {
            theirs.listen().await;
            7
        });
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(block_on(&mut future, &PollWaiter, Some(soon)).unwrap(), None);
        notify.notify();
        assert_eq!(block_on(&mut future, &PollWaiter, None).unwrap(), Some(7));
    }

    #[test]
    fn another_thread_wakes_a_sleeper() {
        let notify = Arc::new(Notify::default());
        for _ in 0..200 {
            let listener = notify.clone();
            let notifier = notify.clone();
            let mut future: Pin<Box<dyn Future<Output = ()>>> = Box::pin({
                async move {
                    let heard = listener.listen();
                    std::thread::spawn(move || notifier.notify());
                    heard.await;
                }
            });
            let limit = Instant::now() + Duration::from_secs(10);
            assert_eq!(block_on(&mut future, &PollWaiter, Some(limit)).unwrap(), Some(()));
        }
    }

    #[test]
    fn timeouts_nest() {
        let inner = async {
            let never = std::future::pending::<()>();
            timeout_at(Instant::now() + Duration::from_millis(2), never).await
        };
        let outer = timeout_at(Instant::now() + Duration::from_secs(10), inner);
        assert_eq!(run(async { Ok(outer.await) }).unwrap(), Some(None));
    }
}
