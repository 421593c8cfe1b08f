//! SQLite's file locks as open-file-description locks.
//!
//! POSIX record locks belong to the process: as soon as anybody in it closes any descriptor of a
//! file, all of the process's locks on that file are gone (sqlite.org/howtocorrupt.html section
//! 2.2). Python's own `sqlite3` in the same process, opening the broker's file for a result
//! backend, would do just that. Locks of an open file description are immune, and the two kinds
//! exclude each other, so other programs see no difference.
//!
//! SQLite assumes that any descriptor of a process may release its locks. That holds here because
//! each process has at most one connection to a file, see `database`.

use rusqlite::ffi;
use std::ffi::{c_int, c_void};
use std::sync::Once;

static INSTALL: Once = Once::new();

/// Gives SQLite its `fcntl`. Once per process, before the first connection is opened.
pub(super) fn install() {
    INSTALL.call_once(|| {
        // SAFETY: the default VFS is static once SQLite is initialised; `fcntl` has the calling
        // convention of the variadic original on Linux for three integer arguments.
        unsafe {
            if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
                return;
            }
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            let Some(set) = vfs.as_ref().and_then(|known| known.xSetSystemCall) else { return };
            let ours = std::mem::transmute::<*const (), unsafe extern "C" fn()>(fcntl as *const ());
            set(vfs, c"fcntl".as_ptr(), Some(ours));
        }
    });
}

unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let ours = match command {
        libc::F_SETLK => libc::F_OFD_SETLK,
        libc::F_SETLKW => libc::F_OFD_SETLKW,
        libc::F_GETLK => libc::F_OFD_GETLK,
        // SAFETY: handed through as SQLite gave it.
        other => return unsafe { libc::fcntl(fd, other, argument) },
    };
    let lock = argument.cast::<libc::flock>();
    // SAFETY: the three commands come with a `struct flock`.
    unsafe {
        (*lock).l_pid = 0; // fcntl(2): required for the OFD commands
        libc::fcntl(fd, ours, lock)
    }
}
