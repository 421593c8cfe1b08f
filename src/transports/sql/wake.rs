//! Waking when another process wrote: inotify, no polling.
//!
//! Two files are watched. Whoever puts messages with kombu-rs writes a byte into the claims file
//! after the commit (the *bell*). Stock Kombu does not, so the database's own log is watched too;
//! but the log changes a moment *before* a commit can be seen, and with every acknowledgement. So
//! a change there means "look a little later whether rows were added", and its watch fires once
//! until it is armed again.
//!
//! The claims file being closed by a writer means that a worker may have died.

use crate::io::fork::ForkFd;
use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What happened since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Somebody put messages.
    pub(super) bell: bool,
    /// The log was written to.
    pub(super) log: bool,
    /// A process closed the claims file.
    pub(super) death: bool,
    /// The claims file was removed or renamed.
    pub(super) moved: bool,
}

/// The watches on one database.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: ForkFd,
    claims: i32,
    log: Option<i32>,
    log_path: PathBuf,
}

impl Watch {
    /// Watches the claims file now, and the log whenever [`Self::arm_log`] says so.
    ///
    /// # Errors
    /// When the system's limit of inotify instances or watches is reached.
    pub(super) fn new(claims: &Path, log: PathBuf) -> std::io::Result<Self> {
        // SAFETY: no preconditions.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let inotify = ForkFd::new(fd);
        let mask = libc::IN_MODIFY
            | libc::IN_CLOSE_WRITE
            | libc::IN_ATTRIB
            | libc::IN_DELETE_SELF
            | libc::IN_MOVE_SELF;
        let claims = add(inotify.as_raw_fd(), claims, mask)?;
        Ok(Self { inotify, claims, log: None, log_path: log })
    }

    /// The descriptor that becomes readable with news.
    pub(super) fn fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }

    /// From now on the next write to the log is news. False when it cannot be watched (it is not
    /// there yet).
    pub(super) fn arm_log(&mut self) -> bool {
        if self.log.is_none() {
            let mask = libc::IN_MODIFY | libc::IN_ONESHOT;
            self.log = add(self.inotify.as_raw_fd(), &self.log_path, mask).ok();
        }
        self.log.is_some()
    }

    /// Reads what happened, without waiting.
    pub(super) fn drain(&mut self) -> News {
        const HEADER: usize = size_of::<libc::inotify_event>();
        let mut news = News::default();
        let mut buffer = [0u8; 64 * HEADER];
        loop {
            // SAFETY: fills at most the live buffer; the descriptor is non-blocking.
            let got = unsafe {
                libc::read(self.inotify.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
            };
            let Some(mut rest) = usize::try_from(got).ok().and_then(|got| buffer.get(..got)) else {
                return news;
            };
            let full = rest.len() + HEADER > buffer.len();
            while rest.len() >= HEADER {
                // SAFETY: the kernel wrote whole events; read unaligned from checked bytes.
                let event: libc::inotify_event =
                    unsafe { std::ptr::read_unaligned(rest.as_ptr().cast()) };
                self.note(event.wd, event.mask, &mut news);
                let whole = HEADER + event.len as usize; // no names: files are watched
                rest = rest.get(whole..).unwrap_or_default();
            }
            if !full {
                return news;
            }
        }
    }

    fn note(&mut self, wd: i32, mask: u32, news: &mut News) {
        if mask & libc::IN_Q_OVERFLOW != 0 {
            self.log = None; // its one shot may be among what was lost
            *news = News { bell: true, log: true, death: true, moved: true };
        } else if Some(wd) == self.log {
            // Fired, or the log was removed: either way it is to be armed again.
            self.log = None;
            news.log = true;
        } else if wd == self.claims {
            news.bell |= mask & libc::IN_MODIFY != 0;
            news.death |= mask & libc::IN_CLOSE_WRITE != 0;
            let gone =
                libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_IGNORED;
            news.moved |= mask & gone != 0;
        }
    }
}

fn add(inotify: RawFd, path: &Path, mask: u32) -> std::io::Result<i32> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an open inotify descriptor and a valid C string.
    let wd = unsafe { libc::inotify_add_watch(inotify, path.as_ptr(), mask) };
    if wd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(wd) }
}
