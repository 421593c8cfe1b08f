use super::*;
use crate::io::fork::ForkFd;
use crate::io::task::{PollWaiter, block_on, run};
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// Lines; those with a leading `>` are pushes.
struct Lines;

impl Decoder for Lines {
    type Event = String;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<String>> {
        let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = buffer.split_to(end + 1);
        String::from_utf8(line[..end].to_vec()).map(Some).map_err(|_| Error::decode("not text"))
    }
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Traffic<String> for Heard {
    fn route(&mut self, event: String) -> Option<String> {
        if event.starts_with('>') {
            self.0.lock().push(event);
            return None;
        }
        Some(event)
    }
}

impl Heard {
    fn told(&self) -> Told<String> {
        let heard = self.0.clone();
        Box::new(move |replies| heard.lock().push(format!("told {replies:?}")))
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn linked() -> (Arc<Link<Lines>>, UnixStream, Heard) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let heard = Heard::default();
    let stream = Stream::new(ForkFd::new(ours.into_raw_fd()));
    (Link::new(stream, "peer:1", Lines, heard.clone()), theirs, heard)
}

/// Answers every line with itself.
fn echo(mut theirs: UnixStream) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut room = [0u8; 4096];
        while let Ok(got) = theirs.read(&mut room) {
            if got == 0 || theirs.write_all(&room[..got]).is_err() {
                return;
            }
        }
    })
}

#[test]
fn replies_come_back_in_order() {
    let (link, theirs, heard) = linked();
    let echoing = echo(theirs);
    let first = link.request(b"a\nb\n", Expect::Count(2), PATIENCE);
    run(link.tell(b"c\n", 1, PATIENCE, heard.told())).unwrap();
    let until: Expect<String> = Expect::Until(Arc::new(|line| line == "end"));
    let last = link.request(b"d\n>push\ne\nend\n", until, PATIENCE);
    assert_eq!(run(last).unwrap(), ["d", "e", "end"]);
    assert_eq!(run(first).unwrap(), ["a", "b"]);
    assert_eq!(*heard.0.lock(), ["told Some([\"c\"])", ">push"]);
    drop(link);
    echoing.join().unwrap();
}

#[test]
fn eight_threads_share_a_link() {
    let (link, theirs, _) = linked();
    let echoing = echo(theirs);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let link = link.clone();
            std::thread::spawn(move || {
                for round in 0..500 {
                    let text = format!("{thread}-{round}");
                    let request =
                        link.request(format!("{text}\n").as_bytes(), Expect::Count(1), PATIENCE);
                    assert_eq!(run(request).unwrap(), [text]);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(link);
    echoing.join().unwrap();
}

/// A pending future that nobody polls must not keep others from reading.
#[test]
fn a_request_set_aside_does_not_lead() {
    let (link, theirs, _) = linked();
    let mut theirs_too = theirs.try_clone().unwrap();
    let mut aside = Box::pin(link.request(b"never\n", Expect::Count(1), PATIENCE));
    let soon = Instant::now() + Duration::from_millis(5);
    assert!(block_on(&mut aside, &PollWaiter, Some(soon)).unwrap().is_none());
    let (send, receive) = mpsc::channel();
    let other = link.clone();
    std::thread::spawn(move || {
        send.send(run(other.request(b"x\n", Expect::Count(1), PATIENCE))).unwrap();
    });
    let mut room = [0u8; 64];
    let mut got = 0;
    while got < b"never\nx\n".len() {
        got += theirs_too.read(&mut room).unwrap();
    }
    theirs_too.write_all(b"1\n2\n").unwrap();
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap().unwrap(), ["2"]);
    assert_eq!(run(aside).unwrap(), ["1"]);
    drop(theirs);
}

#[test]
fn a_lost_link_fails_everybody_and_names_the_peer() {
    let (link, theirs, heard) = linked();
    let one = link.request(b"a\n", Expect::Count(1), PATIENCE);
    let two = link.request(b"b\n", Expect::Count(1), PATIENCE);
    drop(theirs);
    for request in [one, two] {
        let error = run(request).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Connection);
        assert!(error.to_string().contains("peer:1"), "{error}");
    }
    assert!(!link.is_alive());
    assert!(run(link.request(b"c\n", Expect::Count(1), PATIENCE)).is_err());
    assert!(run(link.tell(b"c\n", 1, PATIENCE, heard.told())).is_err());
    assert_eq!(*heard.0.lock(), ["told None"]);
}

#[test]
fn a_late_reply_kills_the_link() {
    let (link, theirs, _) = linked();
    let request = link.request(b"a\n", Expect::Count(1), Duration::from_millis(20));
    let error = run(request).unwrap_err();
    assert!(error.to_string().contains("late"), "{error}");
    assert!(!link.is_alive());
    drop(theirs);
}

#[test]
fn a_dropped_request_does_not_shift_replies() {
    let (link, theirs, _) = linked();
    let echoing = echo(theirs);
    drop(link.request(b"a\n", Expect::Count(1), PATIENCE));
    assert_eq!(run(link.request(b"b\n", Expect::Count(1), PATIENCE)).unwrap(), ["b"]);
    drop(link);
    echoing.join().unwrap();
}

#[test]
fn large_requests_leave_in_pieces() {
    let (link, theirs, heard) = linked();
    let echoing = echo(theirs);
    let mut line = vec![b'x'; 4 << 20];
    line.push(b'\n');
    let reply = run(link.request(&line, Expect::Count(1), PATIENCE)).unwrap();
    assert_eq!(reply[0].len(), 4 << 20);
    run(link.tell(&line, 1, PATIENCE, heard.told())).unwrap();
    drop(link);
    echoing.join().unwrap();
}

#[test]
fn a_reply_without_a_request_is_an_error() {
    let (link, mut theirs, _) = linked();
    theirs.write_all(b"what?\n").unwrap();
    let lost = run(async { Ok(std::future::poll_fn(|cx| link.poll_attend(cx)).await) }).unwrap();
    assert!(lost.to_string().contains("nothing asked"), "{lost}");
}

#[test]
fn a_pulse_tells_silence_from_life() {
    let (link, mut theirs, _) = linked();
    let before = Instant::now();
    let request = link.request(b"a\n", Expect::Count(1), PATIENCE);
    let first = link.pulse().unwrap();
    assert!(first.owed_since.is_some_and(|sent| sent >= before));
    assert_eq!(link.pulse().unwrap(), first, "nothing has happened");
    theirs.write_all(b">news\n").unwrap();
    let second = link.pulse().unwrap();
    assert!(second.heard > first.heard && second.owed_since == first.owed_since);
    theirs.write_all(b"a\n").unwrap();
    let third = link.pulse().unwrap();
    assert!(third.heard >= second.heard && third.owed_since.is_none());
    assert_eq!(run(request).unwrap(), ["a"]);
    drop(theirs);
    assert!(link.pulse().is_none());
}

/// Lanes are what stands before a colon; `!` ends one, `?` is answered at once, `$` ends the link.
#[derive(Default)]
struct Lanes {
    answers: Vec<u8>,
    over: bool,
}

impl Traffic<String> for Lanes {
    fn route(&mut self, event: String) -> Option<String> {
        match event.as_str() {
            "?" => self.answers.extend_from_slice(b"answer\n"),
            "$" => self.over = true,
            _ => return Some(event),
        }
        None
    }

    fn lane(&self, reply: &String) -> u32 {
        reply.split(':').next().and_then(|lane| lane.parse().ok()).unwrap_or(0)
    }

    fn ends_lane(&self, reply: &String) -> bool {
        reply.ends_with('!')
    }

    fn after(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.append(&mut self.answers);
        if self.over { Err(Error::connection("it is over")) } else { Ok(()) }
    }

    fn idle(&mut self, moved: Moved, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(format!("{} {}\n", moved.sent, moved.received).as_bytes());
        Ok(())
    }
}

fn lanes() -> (Arc<Link<Lines>>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let stream = Stream::new(ForkFd::new(ours.into_raw_fd()));
    (Link::new(stream, "peer:1", Lines, Lanes::default()), theirs)
}

#[test]
fn lanes_are_answered_each_in_its_order() {
    let (link, mut theirs) = lanes();
    let ask = |lane| {
        let request = link.request_if(lane, b"x\n", Expect::Count(1), PATIENCE, || true);
        request.expect("it may")
    };
    let (one, two, one_again) = (ask(1), ask(2), ask(1));
    let (three, three_again) = (ask(3), ask(3));
    theirs.write_all(b"2:b\n1:a\n3:gone!\n1:c\n").unwrap();
    assert_eq!(run(one_again).unwrap(), ["1:c"]);
    assert_eq!(run(one).unwrap(), ["1:a"]);
    assert_eq!(run(two).unwrap(), ["2:b"]);
    assert_eq!(run(three).unwrap(), ["3:gone!"]);
    assert!(run(three_again).unwrap().is_empty(), "its lane has ended");
    theirs.write_all(b"4:nobody waits!\n").unwrap();
    let last = link.request(b"y\n", Expect::Count(1), PATIENCE);
    theirs.write_all(b"still alive\n").unwrap();
    assert_eq!(run(last).unwrap(), ["still alive"]);
}

#[test]
fn a_protocol_may_answer_and_end_the_link() {
    let (link, mut theirs) = lanes();
    theirs.write_all(b"?\n").unwrap();
    link.tend();
    let mut room = [0u8; 64];
    let got = theirs.read(&mut room).unwrap();
    // What `idle` says comes behind; it has seen what was moved before.
    assert_eq!(&room[..got], b"answer\n7 2\n".as_slice());
    assert!(link.post(b"posted\n").unwrap());
    run(link.flush(Instant::now() + PATIENCE)).unwrap();
    let waiting = link.request(b"z\n", Expect::Count(1), PATIENCE);
    theirs.write_all(b"?\n$\n").unwrap();
    let error = run(waiting).unwrap_err();
    assert!(error.to_string().contains("it is over"), "{error}");
    assert!(link.post(b"more\n").is_err());
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"posted\nz\nanswer\n");
}
