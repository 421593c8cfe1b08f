//! Making connections, without ever blocking longer than asked.

use super::fork::ForkFd;
use super::stream::{Received, Stream};
use super::task::{Interest, Notify, fd_ready, timeout_at};
use super::tls::{Tls, TlsOptions};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use bytes::BytesMut;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp {
        /// Name, IPv4 or IPv6 address (without brackets).
        host: String,
        /// Port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// TCP keepalive: probes that find out about a peer that is gone without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer until the link counts as dead.
    pub count: u32,
}

impl Default for Keepalive {
    /// A dead peer is noticed after 20 s: 11 s of silence and 3 probes 3 s apart.
    fn default() -> Self {
        Self { idle: Duration::from_secs(11), interval: Duration::from_secs(3), count: 3 }
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// For everything from the name look-up to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// `None` switches keepalive off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// Speak TLS. The files that are named here are read for each connection: they may be renewed
    /// while the program runs.
    pub tls: Option<TlsOptions>,
}

/// Connects to `address`.
///
/// # Errors
/// `Connection` naming the address and the cause, within the connect timeout; `Invalid` naming a file
/// for TLS that cannot be used.
pub async fn dial(address: &Address, options: &DialOptions) -> Result<Stream> {
    let deadline = Instant::now() + options.connect_timeout;
    match timeout_at(deadline, connect(address, options)).await {
        Some(connected) => connected,
        None => Err(Error::connection(format!(
            "cannot connect to {address}: no answer within {:.1} s{}",
            options.connect_timeout.as_secs_f64(),
            if options.tls.is_some() { " (does it speak TLS?)" } else { "" }
        ))),
    }
}

async fn connect(address: &Address, options: &DialOptions) -> Result<Stream> {
    let mut stream = match address {
        Address::Unix(path) => {
            let target =
                SockAddr::unix(path).map_err(|error| refused(address).with_source(error))?;
            let socket = open(Domain::UNIX, None).map_err(|e| refused(address).with_source(e))?;
            connect_socket(socket, &target).await.map_err(|e| refused(address).with_source(e))?
        }
        Address::Tcp { host, port } => {
            let mut failure = None;
            let mut connected = None;
            for target in look_up(host, *port).await? {
                match connect_tcp(target, options).await {
                    Ok(stream) => {
                        connected = Some(stream);
                        break;
                    }
                    Err(error) => failure = Some(error),
                }
            }
            match (connected, failure) {
                (Some(stream), _) => stream,
                (None, Some(error)) => return Err(refused(address).with_source(error)),
                (None, None) => {
                    return Err(refused(address).with_source("the name has no addresses"));
                }
            }
        }
    };
    if let Some(tls) = &options.tls {
        let host = match address {
            Address::Tcp { host, .. } => host.as_str(),
            Address::Unix(_) => "localhost",
        };
        stream = stream.under_tls(Tls::new(tls)?.session(host)?);
        handshake(&mut stream).await.map_err(|error| {
            Error::connection(format!("TLS with {address} failed")).with_source(error)
        })?;
    }
    Ok(stream)
}

fn refused(address: &Address) -> Error {
    Error::connection(format!("cannot connect to {address}"))
}

fn open(domain: Domain, protocol: Option<Protocol>) -> std::io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, protocol)?; // close-on-exec
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn connect_tcp(target: SocketAddr, options: &DialOptions) -> std::io::Result<Stream> {
    let socket = open(Domain::for_address(target), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = options.keepalive {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count),
        )?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(options.user_timeout)?;
    connect_socket(socket, &target.into()).await
}

async fn connect_socket(socket: Socket, target: &SockAddr) -> std::io::Result<Stream> {
    let pending = match socket.connect(target) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
        Err(error) => return Err(error),
    };
    let fd = ForkFd::new(socket.into_raw_fd());
    if pending {
        fd_ready(fd.as_raw_fd(), Interest::WRITE).await;
        if !fd.is_current() {
            return Err(std::io::Error::other("the process has forked meanwhile"));
        }
        // SAFETY: `fd` is open: it is of this process and dropped below.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        let socket = SockRef::from(&borrowed);
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        socket.peer_addr()?; // polled early: not connected yet, and no error to tell
    }
    Ok(Stream::new(fd))
}

/// The addresses of a host. A name is looked up on a thread of its own: getaddrinfo(3) blocks.
async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    type Answer = (Notify, Mutex<Option<std::io::Result<Vec<SocketAddr>>>>);
    let answer: Arc<Answer> = Arc::default();
    let heard = answer.0.listen();
    let theirs = answer.clone();
    let target = (host.to_owned(), port);
    std::thread::Builder::new()
        .name("kombu-resolver".into())
        .spawn(move || {
            *theirs.1.lock() = Some(target.to_socket_addrs().map(Iterator::collect));
            theirs.0.notify();
        })
        .map_err(|error| {
            Error::limit("cannot start a thread to look up a name").with_source(error)
        })?;
    heard.await;
    let found = answer.1.lock().take();
    found.unwrap_or_else(|| Err(std::io::Error::other("no answer"))).map_err(|error| {
        Error::connection(format!("cannot connect to {host}:{port}: the name cannot be resolved"))
            .with_source(error)
    })
}

async fn handshake(stream: &mut Stream) -> std::io::Result<()> {
    let mut early = BytesMut::new();
    loop {
        stream.send(&[])?;
        if !stream.is_handshaking() && !stream.wants_write() {
            return Ok(());
        }
        if !stream.is_current() {
            return Err(std::io::Error::other("the process has forked meanwhile"));
        }
        let received = stream.receive(&mut early).map_err(|error| {
            let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            match of_tls {
                Some(rustls::Error::InvalidMessage(_)) => {
                    std::io::Error::other(format!("{error}: does the server speak TLS?"))
                }
                _ => error,
            }
        })?;
        match received {
            Received::End => {
                return Err(std::io::Error::other("the server has closed: does it speak TLS?"));
            }
            Received::Nothing => {
                let interest = if stream.wants_write() { Interest::BOTH } else { Interest::READ };
                fd_ready(stream.as_raw_fd(), interest).await;
            }
            Received::More | Received::Last => {}
        }
    }
}
