//! One non-blocking socket, plain or under TLS.

use super::fork::ForkFd;
use bytes::BytesMut;
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

/// Room offered to one read.
const ROOM: usize = 32 << 10;
const MOST_ROOM: usize = 1 << 20;

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes; there may be more.
    More,
    /// Bytes, and for now nothing else (a short read).
    Last,
    /// Nothing now.
    Nothing,
    /// The peer has closed.
    End,
}

/// A connected socket that never blocks.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// Over a connected, non-blocking descriptor.
    pub fn new(fd: ForkFd) -> Self {
        Self { socket: Socket(fd), tls: None }
    }

    /// The same socket under TLS; the handshake goes on with the next reads and writes.
    #[must_use]
    pub fn under_tls(self, session: ClientConnection) -> Self {
        Self { tls: Some(Box::new(session)), ..self }
    }

    /// Whether it belongs to this process.
    pub fn is_current(&self) -> bool {
        self.socket.0.is_current()
    }

    /// Appends what is there to `input`.
    ///
    /// # Errors
    /// As read(2) and TLS report them; never `WouldBlock`.
    pub fn receive(&mut self, input: &mut BytesMut) -> io::Result<Received> {
        let Some(tls) = &mut self.tls else { return self.socket.receive(input) };
        let got = match tls.read_tls(&mut self.socket) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) => return Err(error),
        };
        let state = tls.process_new_packets().map_err(|error| {
            // Tells the peer why, if it still listens.
            let _ = tls.write_tls(&mut self.socket);
            io::Error::new(ErrorKind::InvalidData, error)
        })?;
        let start = input.len();
        input.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut input[start..])?;
        let ended = got == 0 || (state.peer_has_closed() && input.len() == start);
        Ok(if ended { Received::End } else { Received::More })
    }

    /// Writes a part of `data`; how much. 0 when the socket takes nothing now.
    ///
    /// # Errors
    /// As write(2) reports them; never `WouldBlock`.
    pub fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.send(data) };
        let taken = if data.is_empty() { 0 } else { tls.writer().write(data)? };
        self.flush_tls()?;
        Ok(taken)
    }

    /// Whether bytes wait inside for the socket to become writable.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Bytes that the kernel has, and that the peer has not acknowledged yet; as far as it is known.
    pub fn untaken(&self) -> usize {
        let mut count: libc::c_int = 0;
        if !self.is_current() {
            return 0;
        }
        // SAFETY: the descriptor is open and ours; TIOCOUTQ writes one int.
        let done =
            unsafe { libc::ioctl(self.socket.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if done == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
    }

    /// Ends the connection in both directions; the descriptor stays open until this is dropped.
    pub fn shut_down(&self) {
        if self.is_current() {
            // SAFETY: the descriptor is open and ours.
            unsafe { libc::shutdown(self.socket.0.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }

    /// Whether the TLS handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.0.as_raw_fd()
    }
}

#[derive(Debug)]
struct Socket(ForkFd);

impl Socket {
    fn receive(&self, input: &mut BytesMut) -> io::Result<Received> {
        // More at a time while something large comes in.
        input.reserve(input.len().clamp(ROOM, MOST_ROOM));
        let room = input.spare_capacity_mut();
        let offered = room.len();
        let got = self.recv(room.as_mut_ptr().cast(), offered)?;
        match got {
            None => Ok(Received::Nothing),
            Some(0) => Ok(Received::End),
            Some(got) => {
                // SAFETY: the kernel has just initialised `got` bytes of the spare room.
                unsafe { input.set_len(input.len() + got) };
                Ok(if got < offered { Received::Last } else { Received::More })
            }
        }
    }

    fn recv(&self, room: *mut libc::c_void, length: usize) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: both callers pass memory of that length which they own.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), room, length, libc::MSG_DONTWAIT) };
            if let Ok(got) = usize::try_from(got) {
                return Ok(Some(got));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    fn send(&self, data: &[u8]) -> io::Result<usize> {
        loop {
            // SAFETY: `data` is a live slice of that length.
            let sent = unsafe {
                libc::send(
                    self.0.as_raw_fd(),
                    data.as_ptr().cast(),
                    data.len(),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                return Ok(sent);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        }
    }
}

/// The face that rustls wants to see.
impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.recv(room.as_mut_ptr().cast(), room.len())?.ok_or_else(|| ErrorKind::WouldBlock.into())
    }
}

/// The face that rustls wants to see.
impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.send(data)? {
            0 if !data.is_empty() => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
