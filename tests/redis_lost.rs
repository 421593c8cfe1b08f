//! Claims whose answer was lost, against a real server (see `redis.rs`) and a proxy between.
#![cfg(feature = "redis")]

use kombu_rs::error::Result;
use kombu_rs::io::task::{either, run, sleep};
use kombu_rs::model::{Delivery, Message, Release};
use kombu_rs::transport::{GetOptions, QueueRef, Store};
use redis_space::{Space, server};
use serde_json::json;
use std::future::{Future, poll_fn};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

mod redis_space;

const LONG: Duration = Duration::from_secs(20);

/// What the proxy does.
#[derive(Default)]
struct Faults {
    /// Answers are thrown away.
    swallow: AtomicBool,
    /// The how manieth question after claims the server does not understand; 0 for none.
    refuse: AtomicU32,
    /// Answers are thrown away from the next question after claims on.
    swallow_claims: AtomicBool,
    /// The answer with this in it is the last: the connection is reset behind it.
    last: Mutex<Option<&'static str>>,
    /// That answer is due.
    asked: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

/// A proxy before the tests' server.
struct Proxy {
    server: String,
    port: u16,
    faults: Arc<Faults>,
}

impl Proxy {
    fn new() -> Self {
        let server = server();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { server: server.clone(), port, faults: Arc::default() };
        let faults = proxy.faults.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                faults.sockets.lock().unwrap().extend(both);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (asked, answered) = (faults.clone(), faults.clone());
                thread::spawn(move || pass(from, to, |data, _| asked.ask(data)));
                thread::spawn(move || {
                    pass(server, client, |data, client| {
                        !answered.swallow.load(Ordering::SeqCst) && answered.answer(data, client)
                    });
                });
            }
        });
        proxy
    }

    fn open(&self, space: &Space) -> Arc<dyn Store> {
        space.open_at(&format!("127.0.0.1:{}", self.port), json!({}))
    }

    /// The number that a command of somebody else is answered with.
    fn number(&self, words: &str) -> i64 {
        let mut server = TcpStream::connect(&self.server).unwrap();
        server.write_all(format!("SELECT 1\r\n{words}\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(server).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        lines.next().unwrap().unwrap().trim_start_matches(':').parse().unwrap()
    }

    fn length(&self, space: &Space, list: &str) -> i64 {
        self.number(&format!("LLEN {}{list}", space.0))
    }

    /// Two calls, for one message each of two queues, whose answers do not come.
    fn lose_two(&self, space: &Space, store: &Arc<dyn Store>) {
        let publisher = space.open_with(json!({}));
        for queue in ["a", "b"] {
            run(publisher.put(&queue.into(), &[message(queue)])).unwrap();
            assert!(take(&**store, &[&format!("not-{queue}")]).unwrap().is_empty());
        }
        self.faults.swallow.store(true, Ordering::SeqCst);
        let calls = ["a", "b"].map(|queue| {
            let store = store.clone();
            thread::spawn(move || take(&*store, &[queue]))
        });
        let claims = format!("ZCARD {}unacked_index", space.0);
        let start = Instant::now();
        while self.number(&claims) != 2 {
            assert!(start.elapsed() < LONG, "two claims");
            thread::sleep(Duration::from_millis(2));
        }
        self.faults.cut();
        for call in calls {
            call.join().unwrap().expect_err("the answer is lost");
        }
    }
}

impl Faults {
    fn ask(&self, data: &mut [u8]) -> bool {
        // Not the word in the text of a script.
        const QUESTION: &[u8] = b"HMGET\r\n";
        let at = data.windows(QUESTION.len()).position(|part| part == QUESTION);
        if let Some(at) = at
            && self.refuse.load(Ordering::SeqCst) > 0
            && self.refuse.fetch_sub(1, Ordering::SeqCst) == 1
        {
            data[at] = b'X';
        }
        if at.is_some() && self.swallow_claims.swap(false, Ordering::SeqCst) {
            self.swallow.store(true, Ordering::SeqCst);
        }
        true
    }

    /// Does `work` until a question after claims is asked, whose answer does not come.
    fn break_off<T>(&self, work: impl Future<Output = Result<T>>) {
        self.swallow_claims.store(true, Ordering::SeqCst);
        let ended = run(either(async { work.await.map(|_| false) }, async {
            while !self.swallow.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(2)).await;
            }
            Ok(true)
        }));
        assert!(ended.unwrap(), "it was not broken off");
        self.cut();
    }

    /// Ends all connections; new ones work.
    fn cut(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.swallow.store(false, Ordering::SeqCst);
    }

    fn answer(&self, data: &[u8], mut client: &TcpStream) -> bool {
        let text = *self.last.lock().unwrap();
        let is_last =
            text.is_some_and(|text| data.windows(text.len()).any(|part| part == text.as_bytes()));
        if !is_last {
            return true;
        }
        while !self.asked.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        client.write_all(data).unwrap();
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
        // SAFETY: a live socket, and an address of the size given. Unlike closing this resets the
        // connection at once, whoever else has the socket.
        let reset = unsafe {
            libc::connect(client.as_raw_fd(), &raw const nowhere, size_of_val(&nowhere) as u32)
        };
        assert_eq!(reset, 0);
        *self.last.lock().unwrap() = None;
        false
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&mut [u8], &TcpStream) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if look(&mut buffer[..count], &to) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn message(text: &str) -> Message {
    Message { body: text.to_owned().into(), ..Message::default() }
}

fn take(store: &dyn Store, queues: &[&str]) -> Result<Vec<Delivery>> {
    let queues: Vec<_> =
        queues.iter().map(|name| QueueRef { name: (*name).into(), no_ack: false }).collect();
    run(store.get(&queues, GetOptions { max: 10, arm: false }))
}

#[test]
fn one_failed_look_does_not_forget_other_lost_answers() {
    let (proxy, space) = (Proxy::new(), Space::new());
    let store = proxy.open(&space);
    proxy.lose_two(&space, &store);
    proxy.faults.refuse.store(1, Ordering::SeqCst);
    take(&*store, &["a", "b"]).expect_err("the first look is refused");
    assert_eq!(proxy.faults.refuse.load(Ordering::SeqCst), 0);
    let mut found: Vec<_> = take(&*store, &["a", "b"]).unwrap();
    found.sort_by(|one, other| one.message.body.cmp(&other.message.body));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0].message.body[..], &found[1].message.body[..]), (&b"a"[..], &b"b"[..]));
}

#[test]
fn what_was_found_and_is_not_wanted_goes_back_although_another_look_fails() {
    let (proxy, space) = (Proxy::new(), Space::new());
    let store = proxy.open(&space);
    proxy.lose_two(&space, &store);
    proxy.faults.refuse.store(2, Ordering::SeqCst);
    take(&*store, &["other"]).expect_err("the second look is refused");
    assert_eq!(proxy.faults.refuse.load(Ordering::SeqCst), 0);
    assert_eq!(proxy.length(&space, "a") + proxy.length(&space, "b"), 1);
    assert!(take(&*store, &["other"]).unwrap().is_empty());
    assert_eq!((proxy.length(&space, "a"), proxy.length(&space, "b")), (1, 1));
    assert_eq!(proxy.number(&format!("ZCARD {}unacked_index", space.0)), 0);
}

#[test]
fn what_came_beside_an_unreadable_message_with_the_last_answer_of_a_link_is_handed_out() {
    let (proxy, space) = (Proxy::new(), Space::new());
    let publisher = space.open_with(json!({}));
    run(publisher.put(&"a".into(), &[message("before")])).unwrap();
    assert_eq!(proxy.number(&format!("LPUSH {}a {{UNREADABLE", space.0)), 2);
    run(publisher.put(&"a".into(), &[message("behind")])).unwrap();
    let store = proxy.open(&space);
    assert!(take(&*store, &["other"]).unwrap().is_empty());
    *proxy.faults.last.lock().unwrap() = Some("UNREADABLE");
    let queues = [QueueRef { name: "a".into(), no_ack: false }];
    let mut get = pin!(store.get(&queues, GetOptions { max: 10, arm: false }));
    let taken = run(poll_fn(|cx| {
        let polled = get.as_mut().poll(cx);
        // Nobody reads until the answer is here, and its connection is lost.
        proxy.faults.asked.store(true, Ordering::SeqCst);
        while proxy.faults.last.lock().unwrap().is_some() {
            thread::sleep(Duration::from_millis(1));
        }
        polled
    }))
    .unwrap();
    let bodies: Vec<_> = taken.iter().map(|delivery| &delivery.message.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"behind"]);
    // Over the next link the claim on the other one ends.
    assert!(take(&*store, &["a"]).unwrap().is_empty());
    let claims = taken.into_iter().map(|delivery| delivery.claim).collect::<Vec<_>>();
    run(store.ack(&claims)).unwrap();
    run(store.close()).unwrap();
    assert_eq!(proxy.number(&format!("ZCARD {}unacked_index", space.0)), 0);
}

#[test]
fn a_refusal_is_an_answer_and_costs_no_message() {
    let (proxy, space) = (Proxy::new(), Space::new());
    let store = proxy.open(&space);
    run(store.put(&"a".into(), &[message("m")])).unwrap();
    assert_eq!(proxy.number(&format!("SADD {}wrong member", space.0)), 1);
    // What was popped before the refusal is not lost with it.
    let taken = take(&*store, &["a", "wrong"]).unwrap();
    assert_eq!(taken.len(), 1);
    for _ in 0..2 {
        let error = take(&*store, &["wrong", "a"]).unwrap_err().to_string();
        assert!(error.contains("WRONGTYPE"), "{error}");
    }
    // Nothing is looked for that was claimed without an answer.
    proxy.faults.refuse.store(1, Ordering::SeqCst);
    assert!(take(&*store, &["a"]).unwrap().is_empty());
    assert_eq!(proxy.faults.refuse.load(Ordering::SeqCst), 1);
}

#[test]
fn a_rejection_outlives_those_who_wait_for_it() {
    let (proxy, space) = (Proxy::new(), Space::new());
    let store = proxy.open(&space);
    run(store.put(&"a".into(), &[message("m")])).unwrap();
    let claims: Vec<_> = take(&*store, &["a"]).unwrap().into_iter().map(|one| one.claim).collect();
    assert_eq!(claims.len(), 1);
    // Whoever rejects goes away; and whoever connects then, while that is made up for.
    proxy.faults.break_off(store.release(&claims, Release::Behind));
    let queues = [QueueRef { name: "other".into(), no_ack: false }];
    proxy.faults.break_off(async {
        loop {
            // The first may notice that the link is lost.
            let _ = store.get(&queues, GetOptions { max: 1, arm: false }).await;
            if proxy.length(&space, "a") == 1 {
                return Ok(());
            }
        }
    });
    let mut again = take(&*store, &["a"]);
    if again.is_err() {
        again = take(&*store, &["a"]);
    }
    let again = again.unwrap();
    assert_eq!(again.len(), 1);
    assert!(again[0].message.redelivered);
}
