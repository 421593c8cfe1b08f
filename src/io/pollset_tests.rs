use super::*;
use crate::io::task::{PollWaiter, Waiter, Woken, fd_ready, poll_fds, sleep, watch_fd};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

fn is_readable(pollset: &Pollset, patience: Duration) -> bool {
    let mut fd = libc::pollfd { fd: pollset.fd().unwrap(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&raw mut fd, 1, patience.as_millis() as libc::c_int) == 1 }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_number_stays_while_sockets_come_and_go() {
    let pollset = Pollset::new().unwrap();
    let fd = pollset.fd().unwrap();
    let mut previous = None;
    for round in 0..20 {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // Through the table, so that the closing is noticed; numbers are used again and again.
        let socket = ForkFd::new(std::os::fd::IntoRawFd::into_raw_fd(ours));
        let number = socket.as_raw_fd();
        let mut future = Box::pin(fd_ready(number, Interest::READ));
        assert!(pollset.poll_once(future.as_mut()).unwrap().is_pending());
        assert!(!is_readable(&pollset, Duration::ZERO), "round {round}");
        theirs.write_all(b"x").unwrap();
        assert!(is_readable(&pollset, SOON), "round {round}");
        assert!(pollset.poll_once(future.as_mut()).unwrap().is_ready());
        assert!(!is_readable(&pollset, Duration::ZERO), "a finished future watches nothing");
        // Watched while it is closed, every other time.
        if round % 2 == 0 {
            let mut future = Box::pin(fd_ready(number, Interest::READ));
            assert!(pollset.poll_once(future.as_mut()).unwrap().is_pending());
        }
        previous = Some(number);
        drop(socket);
    }
    assert!(previous.is_some());
    assert_eq!(pollset.fd().unwrap(), fd);
}

#[test]
fn the_timer_rings() {
    let pollset = Pollset::new().unwrap();
    let mut future = Box::pin(sleep(Duration::from_millis(20)));
    assert!(pollset.poll_once(future.as_mut()).unwrap().is_pending());
    assert!(!is_readable(&pollset, Duration::ZERO));
    let end = Instant::now() + SOON;
    loop {
        assert!(is_readable(&pollset, SOON) && Instant::now() < end);
        pollset.acknowledge().unwrap();
        if pollset.poll_once(future.as_mut()).unwrap().is_ready() {
            break;
        }
    }
    assert!(!is_readable(&pollset, Duration::ZERO));
}

#[test]
fn pausing_silences_a_ready_socket() {
    let pollset = Pollset::new().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    let watched = ours.as_raw_fd();
    let mut future = Box::pin(std::future::poll_fn(move |_| {
        watch_fd(watched, Interest::READ);
        Poll::<()>::Pending
    }));
    assert!(pollset.poll_once(future.as_mut()).unwrap().is_pending());
    assert!(is_readable(&pollset, SOON));
    pollset.pause().unwrap();
    assert!(!is_readable(&pollset, Duration::ZERO));
    assert!(pollset.poll_once(future.as_mut()).unwrap().is_pending());
    assert!(is_readable(&pollset, SOON));
    drop(ours);
}

/// With the flag cleared before the bell is silenced this stalls after some twenty items.
#[test]
fn the_doorbell_loses_nothing() {
    let pollset = Arc::new(Pollset::new().unwrap());
    let (send, receive) = mpsc::channel();
    let rings = pollset.clone();
    let pusher = std::thread::spawn(move || {
        for item in 0..20_000u32 {
            send.send(item).unwrap();
            rings.ring().unwrap();
        }
    });
    let mut next = 0;
    while next < 20_000 {
        assert!(is_readable(&pollset, SOON), "stalled after {next} items");
        pollset.acknowledge().unwrap();
        // A bounded burst: what is left rings again.
        for _ in 0..7 {
            match receive.try_recv() {
                Ok(item) => {
                    assert_eq!(item, next);
                    next += 1;
                }
                Err(_) => break,
            }
        }
        pollset.ring().unwrap();
    }
    pusher.join().unwrap();
}

#[test]
fn a_waker_rings_from_another_thread() {
    let pollset = Pollset::new().unwrap();
    let waker = pollset.waker().unwrap();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    assert!(is_readable(&pollset, SOON));
    pollset.acknowledge().unwrap();
    assert!(!is_readable(&pollset, Duration::ZERO));
}

#[test]
fn waiting_works_on_it_too() {
    let pollset = Pollset::new().unwrap();
    let mut wants = Wants::default();
    wants.fds.push((pollset.fd().unwrap(), Interest::READ));
    wants.until = Some(Instant::now() + SOON);
    pollset.ring().unwrap();
    PollWaiter.wait(&wants).unwrap();
    assert_eq!(poll_fds(&wants).unwrap(), Woken::Ready);
}
