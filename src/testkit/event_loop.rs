//! An event loop that watches the connection's descriptor.

use super::broker::text;
use super::{Broker, LIMIT, Peer};
use crate::error::Result;
use crate::transport::Event;
use std::time::{Duration, Instant};

/// Whether a descriptor is readable within `wait`, as an event loop finds out.
fn is_readable(fd: i32, wait: Duration) -> bool {
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            0 => return false,
            1 => return true,
            _ => {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "poll: {error}");
            }
        }
    }
}

/// Turns of an event loop until there is an event. The core gets only what the loop gives it.
fn event(peer: &Peer, fd: i32) -> Result<Event> {
    let end = Instant::now() + LIMIT;
    loop {
        peer.connection.drive()?;
        if let Some(event) = peer.connection.try_next() {
            return Ok(event);
        }
        assert!(is_readable(fd, end.saturating_duration_since(Instant::now())), "no wake-up came");
    }
}

/// Turns of an event loop until the descriptor stays silent: nothing is left to do.
fn settle(peer: &Peer, fd: i32) -> Result<Option<Event>> {
    let end = Instant::now() + LIMIT;
    loop {
        peer.connection.drive()?;
        if let Some(event) = peer.connection.try_next() {
            return Ok(Some(event));
        }
        if !is_readable(fd, Duration::from_millis(30)) {
            return Ok(None);
        }
        assert!(Instant::now() < end, "the descriptor is always readable");
    }
}

/// It becomes readable when something is written by another connection, and keeps its number.
pub async fn the_descriptor_tells_of_messages(broker: &Broker) -> Result<()> {
    let queue = broker.name("watched");
    let peer = broker.open_with(&queue).await?;
    let other = broker.open().await?;
    peer.connection.set_event_loop(true);
    let fd = peer.connection.event_fd()?;
    peer.consume(&queue).await?;
    assert_eq!(settle(&peer, fd)?, None);
    for round in 0..3 {
        other.send(&queue, [round, round + 10]).await?;
        for expected in [round, round + 10] {
            let event = event(&peer, fd)?;
            assert_eq!(text(&event.delivery), expected.to_string());
            peer.channel.ack(&event.delivery.claim.tag, false).await?;
        }
        assert_eq!(settle(&peer, fd)?, None);
        assert_eq!(peer.connection.event_fd()?, fd);
    }
    peer.connection.set_event_loop(false);
    other.send(&queue, ["blocking again"]).await?;
    assert_eq!(peer.drain(1).await?, ["blocking again"]);
    other.close().await?;
    peer.close().await
}

/// No busy loop while the prefetch limit is reached; settling a message starts it again.
pub async fn the_descriptor_is_silent_without_credit(broker: &Broker) -> Result<()> {
    let queue = broker.name("credit");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..5).await?;
    peer.connection.set_event_loop(true);
    let fd = peer.connection.event_fd()?;
    peer.channel.qos(2).await?;
    peer.consume(&queue).await?;
    let first = event(&peer, fd)?;
    event(&peer, fd)?;
    assert_eq!(settle(&peer, fd)?, None, "the limit is 2");
    assert_eq!(peer.size(&queue).await?, 3);
    assert_eq!(settle(&peer, fd)?, None);
    peer.channel.ack(&first.delivery.claim.tag, false).await?;
    assert!(is_readable(fd, LIMIT), "there is credit again");
    event(&peer, fd)?;
    peer.channel.qos(0).await?;
    event(&peer, fd)?;
    event(&peer, fd)?;
    assert_eq!(settle(&peer, fd)?, None);
    peer.channel.ack("", true).await?;
    peer.close().await
}
