//! What must go on while Python is busy: one native thread per process that never takes the GIL.
//!
//! It is a small executor. Its tasks read links that nobody drove lately, finish writes, renew
//! leases and return messages of dead owners. It is started on first need; after a fork the child
//! starts its own, with none of the parent's tasks.

use super::fork::ForkFd;
use super::generation::PerProcess;
use super::link::Link;
use super::task::{Interest, Wants, poll_with, sleep};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use crate::protocol::Decoder;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// How often a link that nobody drives is looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

static KEEPER: PerProcess<Keeper> = PerProcess::new();

#[derive(Default)]
struct Keeper {
    arrived: Mutex<Arrivals>,
}

#[derive(Default)]
struct Arrivals {
    jobs: Vec<Job>,
    bell: Option<Arc<Bell>>,
}

struct Bell {
    fd: ForkFd,
    rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) && self.fd.is_current() {
            let one = 1u64;
            // SAFETY: writes eight bytes from a live u64; a full eventfd is readable anyway.
            unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    fn silence(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a live u64; the descriptor is non-blocking.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
        self.rung.store(false, Ordering::Release);
    }
}

struct TaskWaker {
    bell: Arc<Bell>,
    woken: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.bell.ring();
    }
}

struct Task {
    job: Job,
    wants: Wants,
    waker: Arc<TaskWaker>,
}

/// Runs `job` on the keeper's thread. It must never block and never touch Python; it should end by
/// itself when what it cares for is gone (hold a `Weak`).
///
/// # Errors
/// `Limit` when the process can have no more threads or descriptors.
pub fn spawn(job: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let keeper = KEEPER.get_or(Keeper::default);
    let mut arrived = keeper.arrived.lock();
    let bell = match &arrived.bell {
        Some(bell) => bell.clone(),
        None => {
            let bell = start(keeper)?;
            arrived.bell = Some(bell.clone());
            bell
        }
    };
    arrived.jobs.push(Box::pin(job));
    drop(arrived);
    bell.ring();
    Ok(())
}

/// Reads `link` when nobody else does, until it is dropped or dead.
///
/// # Errors
/// As [`spawn`].
pub fn tend<D: Decoder>(link: &Arc<Link<D>>) -> Result<()> {
    tend_every(TEND_EVERY, link)
}

/// As [`tend`], so often.
///
/// # Errors
/// As [`spawn`].
pub fn tend_every<D: Decoder>(interval: Duration, link: &Arc<Link<D>>) -> Result<()> {
    let link = Arc::downgrade(link);
    spawn(async move {
        loop {
            sleep(interval).await;
            match link.upgrade() {
                Some(link) if link.is_alive() => link.tend(),
                _ => return,
            }
        }
    })
}

fn start(keeper: &'static Keeper) -> Result<Arc<Bell>> {
    // SAFETY: eventfd has no preconditions.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::limit("cannot make an eventfd for the keeper")
            .with_source(std::io::Error::last_os_error()));
    }
    let bell = Arc::new(Bell { fd: ForkFd::new(fd), rung: AtomicBool::new(false) });
    let theirs = bell.clone();
    let masked = MaskedSignals::new();
    let started =
        std::thread::Builder::new().name("kombu-keeper".into()).spawn(move || run(keeper, &theirs));
    drop(masked);
    started.map_err(|error| Error::limit("cannot start the keeper's thread").with_source(error))?;
    Ok(bell)
}

/// Signals belong to the threads that sleep in Python's name: a handler must interrupt them, and
/// so the keeper (which inherits the mask) must not receive any.
struct MaskedSignals(libc::sigset_t);

impl MaskedSignals {
    fn new() -> Self {
        // SAFETY: both sets are initialised by the calls themselves before they are read.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for MaskedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` has stored.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

fn run(keeper: &Keeper, bell: &Arc<Bell>) {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        bell.silence();
        for job in std::mem::take(&mut keeper.arrived.lock().jobs) {
            let waker = Arc::new(TaskWaker { bell: bell.clone(), woken: AtomicBool::new(true) });
            tasks.push(Task { job, wants: Wants::default(), waker });
        }
        let now = Instant::now();
        tasks.retain_mut(|task| !task.is_due(now) || task.goes_on());
        wait(&mut tasks, bell);
    }
}

impl Task {
    fn is_due(&self, now: Instant) -> bool {
        self.waker.woken.load(Ordering::Acquire)
            || self.wants.until.is_some_and(|until| until <= now)
    }

    fn goes_on(&mut self) -> bool {
        self.waker.woken.store(false, Ordering::Release);
        let waker = Waker::from(self.waker.clone());
        let polled = catch_unwind(AssertUnwindSafe(|| {
            poll_with(self.job.as_mut(), &waker, &mut self.wants)
        }));
        self.wants.lead_all();
        match polled {
            Ok(polled) => polled.is_pending(),
            Err(_) => {
                tracing::error!("a task of the keeper has panicked; it is given up");
                false
            }
        }
    }
}

/// Sleeps until a task has something to do; marks those whose descriptors are ready.
fn wait(tasks: &mut [Task], bell: &Bell) {
    let mut until: Option<Instant> = None;
    let mut owners = Vec::new();
    let mut fds = vec![pollfd(bell.fd.as_raw_fd(), Interest::READ)];
    for (index, task) in tasks.iter().enumerate() {
        until = match (until, task.wants.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for &(fd, interest) in &task.wants.fds {
            fds.push(pollfd(fd, interest));
            owners.push(index);
        }
    }
    let timeout = until.map_or(-1, |until| {
        let left = until.saturating_duration_since(Instant::now());
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    });
    // SAFETY: `fds` is a live array of that many pollfd.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    if ready <= 0 {
        return;
    }
    for (fd, owner) in fds[1..].iter().zip(owners) {
        if fd.revents != 0 {
            tasks[owner].waker.woken.store(true, Ordering::Release);
        }
    }
}

fn pollfd(fd: i32, interest: Interest) -> libc::pollfd {
    let mut events = 0;
    if interest.is_read() {
        events |= libc::POLLIN;
    }
    if interest.is_write() {
        events |= libc::POLLOUT;
    }
    libc::pollfd { fd, events, revents: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::task::{Notify, run as run_here, timeout_at};

    #[test]
    fn tasks_sleep_wake_and_survive_a_panic() {
        let done = Arc::new(Notify::default());
        let start = Arc::new(Notify::default());
        let heard = done.listen();
        spawn(async { panic!("on purpose") }).unwrap();
        let (theirs, signal) = (done.clone(), start.clone());
        let armed = Arc::new(AtomicBool::new(false));
        let seen = armed.clone();
        spawn(async move {
            sleep(Duration::from_millis(2)).await;
            let started = signal.listen();
            seen.store(true, Ordering::Release);
            started.await;
            theirs.notify();
        })
        .unwrap();
        while !armed.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        start.notify();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(run_here(async { Ok(timeout_at(deadline, heard).await) }).unwrap().is_some());
    }
}
