//! One descriptor that an event loop watches, whatever goes on behind it.
//!
//! An epoll instance whose number stays the same while sockets come and go inside of it. Besides
//! the sockets it holds a doorbell (an eventfd: news from other threads, and work that is left over
//! in user space) and a timer. It is level-triggered. Linux only: `ARCHITECTURE.md` says what other
//! systems need.

use super::fork::{self, ForkFd};
use super::generation::PerProcess;
use super::task::{Interest, Wants, poll_with};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

#[cfg(not(target_os = "linux"))]
compile_error!("the event loop descriptor needs epoll, eventfd and timerfd: Linux only for now");

/// See the module. A forked child finds a new, empty one in its place, with another number.
#[derive(Debug, Default)]
pub struct Pollset {
    inner: PerProcess<Inner>,
}

#[derive(Debug)]
struct Inner {
    epoll: ForkFd,
    timer: ForkFd,
    bell: Arc<Bell>,
    waker: Waker,
    mirror: Mutex<Mirror>,
}

/// What epoll and the timer have been told.
#[derive(Debug, Default)]
struct Mirror {
    fds: HashMap<RawFd, Interest>,
    /// [`fork::closings`] when `fds` was right.
    closings: u64,
    until: Option<Instant>,
}

#[derive(Debug)]
struct Bell {
    fd: ForkFd,
    pending: AtomicBool,
}

impl Bell {
    /// The pusher's half of the order that loses nothing: push first, then ring.
    fn ring(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) && self.fd.is_current() {
            let one = 1u64;
            // SAFETY: writes eight bytes from a live u64; a full eventfd is readable anyway.
            unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// The drainer's half: silence, then clear the flag, then drain. The other way round, a ring
    /// between the two would find the flag set and its news would wait for ever.
    fn acknowledge(&self) {
        drain(&self.fd);
        self.pending.store(false, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

fn drain(fd: &ForkFd) {
    let mut count = 0u64;
    // SAFETY: reads eight bytes into a live u64; the descriptor is non-blocking.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
}

fn checked(fd: RawFd, what: &str) -> Result<ForkFd> {
    if fd >= 0 {
        return Ok(ForkFd::new(fd));
    }
    Err(Error::limit(format!("cannot make {what} for the event loop"))
        .with_source(std::io::Error::last_os_error()))
}

impl Inner {
    fn new() -> Result<Self> {
        // SAFETY: these calls have no preconditions.
        let (epoll, timer, bell) = unsafe {
            (
                checked(libc::epoll_create1(libc::EPOLL_CLOEXEC), "an epoll set")?,
                checked(
                    libc::timerfd_create(
                        libc::CLOCK_MONOTONIC,
                        libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
                    ),
                    "a timer",
                )?,
                checked(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK), "a doorbell")?,
            )
        };
        let bell = Arc::new(Bell { fd: bell, pending: AtomicBool::new(false) });
        let waker = Waker::from(bell.clone());
        let inner = Self { epoll, timer, bell, waker, mirror: Mutex::default() };
        for fd in [inner.timer.as_raw_fd(), inner.bell.fd.as_raw_fd()] {
            inner
                .control(libc::EPOLL_CTL_ADD, fd, Interest::READ)
                .map_err(|error| Error::limit("cannot fill an epoll set").with_source(error))?;
        }
        Ok(inner)
    }

    fn control(&self, how: libc::c_int, fd: RawFd, interest: Interest) -> std::io::Result<()> {
        let mut events = 0;
        if interest.is_read() {
            events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if interest.is_write() {
            events |= libc::EPOLLOUT;
        }
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: `event` lives through the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), how, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn mirror(&self, wants: &Wants) -> Result<()> {
        let mut mirror = self.mirror.lock();
        // A closed descriptor leaves epoll by itself, and its number may be another socket's now.
        let closings = fork::closings();
        let unsure = std::mem::replace(&mut mirror.closings, closings) != closings;
        mirror.fds.retain(|&fd, _| {
            let wanted = wants.fds.iter().any(|(known, _)| *known == fd);
            if !wanted {
                // Fails when the descriptor is closed: then it is out already.
                let _ = self.control(libc::EPOLL_CTL_DEL, fd, Interest::READ);
            }
            wanted
        });
        for &(fd, interest) in &wants.fds {
            let known = mirror.fds.insert(fd, interest);
            if known == Some(interest) && !unsure {
                continue;
            }
            let how = if known.is_some() { libc::EPOLL_CTL_MOD } else { libc::EPOLL_CTL_ADD };
            let done =
                self.control(how, fd, interest).or_else(|error| match error.raw_os_error() {
                    Some(libc::ENOENT) => self.control(libc::EPOLL_CTL_ADD, fd, interest),
                    Some(libc::EEXIST) => self.control(libc::EPOLL_CTL_MOD, fd, interest),
                    _ => Err(error),
                });
            if let Err(error) = done {
                mirror.fds.remove(&fd);
                return Err(Error::limit("cannot watch a socket").with_source(error));
            }
        }
        match (wants.until, mirror.until) {
            (None, None) => {}
            // Set for earlier: it rings once too often, which is cheaper than setting it each time.
            (Some(wanted), Some(set)) if set <= wanted && set > Instant::now() => {}
            (wanted, _) => {
                mirror.until = wanted;
                self.set_timer(wanted);
            }
        }
        Ok(())
    }

    fn set_timer(&self, until: Option<Instant>) {
        let left = until.map_or(Duration::ZERO, |until| {
            // Zero would switch the timer off.
            until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1))
        });
        let setting = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(left.subsec_nanos()),
            },
        };
        // SAFETY: `setting` lives through the call; nothing is written back.
        unsafe {
            libc::timerfd_settime(
                self.timer.as_raw_fd(),
                0,
                &raw const setting,
                std::ptr::null_mut(),
            );
        }
    }
}

impl Pollset {
    /// A new, silent one.
    ///
    /// # Errors
    /// `Limit` when the process has no descriptors left.
    pub fn new() -> Result<Self> {
        let pollset = Self::default();
        pollset.inner()?;
        Ok(pollset)
    }

    fn inner(&self) -> Result<&Inner> {
        if let Some(inner) = self.inner.get() {
            return Ok(inner);
        }
        let inner = Inner::new()?;
        Ok(self.inner.get_or(|| inner))
    }

    /// The descriptor to watch for reading. The same number for the life of the process.
    ///
    /// # Errors
    /// As [`Pollset::new`], in a forked child.
    pub fn fd(&self) -> Result<RawFd> {
        Ok(self.inner()?.epoll.as_raw_fd())
    }

    /// Makes the descriptor readable when woken.
    ///
    /// # Errors
    /// As [`Pollset::new`], in a forked child.
    pub fn waker(&self) -> Result<Waker> {
        Ok(self.inner()?.waker.clone())
    }

    /// Makes the descriptor readable: something is left to do.
    ///
    /// # Errors
    /// As [`Pollset::new`], in a forked child.
    pub fn ring(&self) -> Result<()> {
        self.inner()?.bell.ring();
        Ok(())
    }

    /// Silences doorbell and timer. To be called *before* looking for work: news that come
    /// afterwards ring again.
    ///
    /// # Errors
    /// As [`Pollset::new`], in a forked child.
    pub fn acknowledge(&self) -> Result<()> {
        let inner = self.inner()?;
        inner.bell.acknowledge();
        let mut mirror = inner.mirror.lock();
        if mirror.until.is_some_and(|until| until <= Instant::now()) {
            mirror.until = None;
            drain(&inner.timer);
        }
        Ok(())
    }

    /// Polls `future` once and watches what it waits for, and nothing else any more.
    ///
    /// # Errors
    /// `Limit` when the kernel refuses to watch a descriptor.
    pub fn poll_once<F: Future + ?Sized>(&self, future: Pin<&mut F>) -> Result<Poll<F::Output>> {
        let inner = self.inner()?;
        let mut wants = Wants::default();
        let polled = poll_with(future, &inner.waker, &mut wants);
        wants.lead_all();
        if polled.is_ready() {
            wants = Wants::default();
        }
        inner.mirror(&wants)?;
        Ok(polled)
    }

    /// Watches no sockets and no timer until the next [`Pollset::poll_once`]: consuming is paused.
    ///
    /// # Errors
    /// As [`Pollset::new`], in a forked child.
    pub fn pause(&self) -> Result<()> {
        self.inner()?.mirror(&Wants::default())
    }
}

#[cfg(test)]
#[path = "pollset_tests.rs"]
mod tests;
