//! Who is alive: one locked byte per owner in the file `{database}-claims`.
//!
//! A store that takes messages writes its owner number into their rows and holds a lock on the byte
//! at that offset. The kernel frees the lock when the process ends, however it ends, so another
//! worker sees at once that the rows belong to nobody. The lock belongs to the open file
//! description: a forked child closes the descriptor first of all (`io::fork`), a spawned program
//! never gets it, and a machine that comes back has no locks.
//!
//! An owner number carries a mark of the file that it is locked in. If somebody removes the file
//! under live workers, their owners are recognised as locked elsewhere: they get the time to move
//! to the new file before they count as dead.

use crate::error::{Error, Result};
use crate::io::fork::ForkFd;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bits of an owner number below the mark of its file.
const MARK_SHIFT: u32 = 46;

/// What is known about the owner of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It holds its lock.
    Alive,
    /// Nobody holds its lock.
    Dead,
    /// Its lock is in another file, which was replaced or is on another machine.
    Elsewhere,
}

/// The open claims file of one database in one process.
#[derive(Debug)]
pub(super) struct ClaimsFile {
    fd: ForkFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl ClaimsFile {
    /// Opens or creates the file beside `database`.
    ///
    /// # Errors
    /// `Auth` when it may not be written to, else `Connection`.
    pub(super) fn open(database: &Path) -> Result<Self> {
        let mut name = database.as_os_str().to_owned();
        name.push("-claims");
        let path = PathBuf::from(name);
        let failed = |error: std::io::Error| {
            let text = format!("the claims file {} cannot be opened", path.display());
            match error.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    Error::new(crate::error::ErrorKind::Auth, text)
                }
                _ => Error::connection(text),
            }
            .with_source(error)
        };
        // As SQLite does for its own side files: whoever may use the database may use this.
        let mode = std::fs::metadata(database).map_or(0o644, |known| known.mode() & 0o777);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .open(&path)
            .map_err(failed)?;
        let known = file.metadata().map_err(failed)?;
        Ok(Self { fd: ForkFd::new(file.into_raw_fd()), path, identity: (known.dev(), known.ino()) })
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the file that is open here.
    pub(super) fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|known| (known.dev(), known.ino()) == self.identity)
    }

    /// A new owner number, locked.
    ///
    /// # Errors
    /// `Connection` when the file system has no locks.
    pub(super) fn new_owner(&self) -> Result<i64> {
        loop {
            let owner = self.mark() << MARK_SHIFT | random()? & ((1 << MARK_SHIFT) - 1);
            if owner == 0 {
                continue;
            }
            match self.control(libc::F_OFD_SETLK, libc::F_WRLCK, owner) {
                Ok(_) => return Ok(owner),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {} // taken
                Err(error) => {
                    let text = format!("cannot lock the claims file {}", self.path.display());
                    return Err(Error::connection(text).with_source(error));
                }
            }
        }
    }

    /// Frees an owner number of this process.
    pub(super) fn release(&self, owner: i64) {
        // Fails only for arguments that locking accepted; closing the file frees it in any case.
        let _ = self.control(libc::F_OFD_SETLK, libc::F_UNLCK, owner);
    }

    /// What is known about an owner of another process. Owners of this process look dead.
    pub(super) fn look_up(&self, owner: i64) -> Owner {
        if owner >> MARK_SHIFT != self.mark() {
            return Owner::Elsewhere;
        }
        match self.control(libc::F_OFD_GETLK, libc::F_WRLCK, owner) {
            Ok(lock) if i32::from(lock.l_type) == libc::F_UNLCK => Owner::Dead,
            // Not knowing is no reason to run something twice.
            _ => Owner::Alive,
        }
    }

    /// Wakes everybody who watches the file: something was put into a queue.
    pub(super) fn ring(&self) {
        // SAFETY: writes one byte from a live buffer. If it fails (a full disk), waiting workers
        // still see the database's own log change, a little later.
        unsafe { libc::pwrite(self.fd.as_raw_fd(), c"\n".as_ptr().cast(), 1, 0) };
    }

    /// 15 bits that tell this file from another.
    fn mark(&self) -> i64 {
        let mixed =
            (self.identity.0.rotate_left(32) ^ self.identity.1).wrapping_mul(0x9e37_79b9_7f4a_7c15); // Fibonacci hashing: high bits depend on all
        i64::try_from(mixed >> 49).unwrap_or_default()
    }

    fn control(&self, command: i32, kind: i32, offset: i64) -> std::io::Result<libc::flock> {
        // SAFETY: all-zero is a valid flock.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = offset;
        lock.l_len = 1;
        // SAFETY: an open descriptor and a live flock.
        if unsafe { libc::fcntl(self.fd.as_raw_fd(), command, &raw mut lock) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(lock)
    }
}

fn random() -> Result<i64> {
    let mut bytes = [0u8; 8];
    // SAFETY: fills a live buffer of that length; eight bytes are never cut short.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 8 {
        return Err(
            Error::internal("getrandom(2) failed").with_source(std::io::Error::last_os_error())
        );
    }
    Ok(i64::from_ne_bytes(bytes))
}
