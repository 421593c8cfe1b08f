//! The Redis store where something is refused, and a proxy between: `KOMBU_RS_TEST_REDIS` names a server,
//! `KOMBU_RS_TEST_REDIS_BARE` one without scripts, RESP3 and `CLIENT`; `make test` starts them.
#![cfg(feature = "redis")]

use kombu_rs::error::Result;
use kombu_rs::io::task::{either, run, sleep};
use kombu_rs::model::{
    Binding, Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue, QueueOptions,
};
use kombu_rs::transport::{GetOptions, QueueRef, Store, Url, schemes};
use std::future::pending;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A proxy that asks the server for RESP2 where its clients ask for RESP3, and keeps answers back.
struct Proxy {
    port: u16,
    /// Answers are kept back from the next command of this name on.
    armed: Arc<Mutex<Option<&'static str>>>,
    held: Arc<AtomicBool>,
    server: String,
}

impl Proxy {
    fn new(variable: &str) -> Self {
        let url = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} must name a Redis server; `make test` does"));
        let server = url.trim_start_matches("redis://").split('/').next().unwrap().to_owned();
        let of_proxy = server.clone();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { port, armed: Arc::default(), held: Arc::default(), server: of_proxy };
        let (armed, held) = (proxy.armed.clone(), proxy.held.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (armed, held, kept) = (armed.clone(), held.clone(), held.clone());
                thread::spawn(move || {
                    pass(from, to, |data| {
                        const ASKED: &[u8] = b"HELLO\r\n$1\r\n3";
                        if let Some(at) = place(data, ASKED) {
                            data[at + ASKED.len() - 1] = b'2';
                        }
                        let mut armed = armed.lock().unwrap();
                        if armed.is_some_and(|name| place(data, name.as_bytes()).is_some()) {
                            *armed = None;
                            held.store(true, Ordering::SeqCst);
                        }
                    });
                });
                thread::spawn(move || {
                    pass(server, client, |_| {
                        while kept.load(Ordering::SeqCst) {
                            thread::sleep(Duration::from_millis(1));
                        }
                    });
                });
            }
        });
        proxy
    }

    fn hold_at(&self, name: &'static str) {
        *self.armed.lock().unwrap() = Some(name);
    }

    fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// A command of somebody else, past the proxy; its answer is a number.
    fn tell(&self, words: &str) -> i64 {
        let mut server = TcpStream::connect(&self.server).unwrap();
        server.write_all(format!("SELECT 3\r\n{words}\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(server).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        lines.next().unwrap().unwrap().trim_start_matches(':').parse().unwrap()
    }

    fn open(&self, space: &str) -> Arc<dyn Store> {
        let url = Url::parse(&format!("redis://127.0.0.1:{}/3", self.port)).unwrap();
        let mut options = schemes::Options::new();
        let prefix = format!("{space}-{}:", std::process::id());
        options.insert("global_keyprefix".into(), prefix.into());
        schemes::open(&url, &options).unwrap()
    }
}

/// Completes when answers are kept back.
async fn is_held(proxy: &Proxy) {
    while !proxy.held.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1)).await;
    }
}

fn place(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|part| part == what)
}

fn pass(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&mut [u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

const ONE: GetOptions = GetOptions { max: 1, arm: true };

fn acked(queue: &str) -> QueueRef {
    QueueRef { name: queue.into(), no_ack: false }
}

/// The next message, as a consumer waits for it.
async fn next(store: &dyn Store, queues: &[QueueRef]) -> Result<Delivery> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(delivery) = store.get(queues, ONE).await?.pop() {
            return Ok(delivery);
        }
        assert!(Instant::now() < end, "it took too long");
        store.ready(queues).await?;
    }
}

fn message(body: &str) -> Message {
    Message { body: body.to_owned().into(), ..Message::default() }
}

#[test]
fn a_greeting_that_is_answered_in_resp2_is_an_answer() {
    let proxy = Proxy::new("KOMBU_RS_TEST_REDIS");
    let store = proxy.open("old");
    let (queue, listener): (Name, Name) = ("q".into(), "listener".into());
    let exchange = Exchange {
        name: "news".into(),
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    };
    let binding = Binding {
        exchange: exchange.name.clone(),
        routing_key: "".into(),
        queue: listener.clone(),
        arguments: Json::empty_object(),
    };
    let options = QueueOptions::default();
    let declared = Queue { name: listener.clone(), options, ..Queue::default() };
    let queues = [acked("q"), acked("listener")];
    run(async {
        store.declare_queue(&declared).await?;
        store.bind(&exchange, &binding).await?;
        store.subscribe(&listener).await?;
        store.put(&queue, &[message("direct")]).await?;
        let direct = next(&*store, &queues).await?;
        assert_eq!(&direct.message.body[..], b"direct");
        store.ack(&[direct.claim]).await?;
        store.put_fanout(&exchange.name, "", &message("fanned")).await?;
        assert_eq!(&next(&*store, &queues).await?.message.body[..], b"fanned");
        store.close().await
    })
    .unwrap();
}

#[test]
fn a_message_that_is_popped_when_its_caller_has_gone_goes_back() {
    let proxy = Proxy::new("KOMBU_RS_TEST_REDIS_BARE");
    let store = proxy.open("gone");
    let queue: Name = "q".into();
    let queues = [acked("q")];
    run(async {
        store.put(&queue, &["1", "2"].map(message)).await?;
        proxy.hold_at("RPOP");
        let popping = async {
            is_held(&proxy).await;
            None
        };
        let taken = either(async { Some(store.get(&queues, ONE).await) }, popping).await;
        assert!(taken.is_none(), "the pop is answered too early: {taken:?}");
        proxy.release();
        assert_eq!(store.size(&queue).await?, 1, "it is popped");
        for body in ["1", "2"] {
            let delivery = next(&*store, &queues).await?;
            assert_eq!(String::from_utf8_lossy(&delivery.message.body), body);
            store.ack(&[delivery.claim]).await?;
        }
        assert!(store.get(&queues, ONE).await?.is_empty());
        store.close().await
    })
    .unwrap();
}

#[test]
fn a_claim_that_is_renewed_while_it_is_restored_stays() {
    let proxy = Proxy::new("KOMBU_RS_TEST_REDIS_BARE");
    let store = proxy.open("raced");
    let index = format!("raced-{}:unacked_index", std::process::id());
    let queue: Name = "q".into();
    run(async {
        store.put(&queue, &[message("1")]).await?;
        let claim = next(&*store, &[acked("q")]).await?.claim;
        assert_eq!(proxy.tell(&format!("ZADD {index} CH 1 {}", claim.tag)), 1);
        proxy.hold_at("WATCH");
        let renewing = async {
            is_held(&proxy).await;
            proxy.tell(&format!("ZADD {index} CH 9999999999 {}", claim.tag));
            proxy.release();
            pending().await
        };
        assert_eq!(either(store.restore(), renewing).await?, 0);
        assert_eq!(store.size(&queue).await?, 0);
        assert_eq!(proxy.tell(&format!("ZADD {index} CH 1 {}", claim.tag)), 1);
        assert_eq!(store.restore().await?, 1);
        assert!(next(&*store, &[acked("q")]).await?.message.redelivered);
        store.close().await
    })
    .unwrap();
}
