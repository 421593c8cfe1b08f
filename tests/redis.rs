//! The Redis store against a real server, named by `KOMBU_RS_TEST_REDIS` (`redis://host:port`); `make test`
//! starts one.
#![cfg(feature = "redis")]

use kombu_rs::error::{ErrorKind, Result};
use kombu_rs::io::task::{run, timeout_at};
use kombu_rs::model::{
    Binding, Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue, QueueOptions, Release,
};
use kombu_rs::transport::{GetOptions, QueueRef, Store, Url, schemes};
use redis_space::{Space, server};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

mod redis_space;

const LONG: Duration = Duration::from_secs(20);

impl Space {
    fn open(&self) -> Arc<dyn Store> {
        self.open_with(json!({}))
    }
}

fn text(text: &str) -> Message {
    let mut message = Message { body: text.to_owned().into(), ..Message::default() };
    message.properties.delivery_tag = format!("tag-of-{text}");
    message
}

fn with_priority(body: &str, priority: i64) -> Message {
    let mut message = text(body);
    message.properties.priority = Some(priority);
    message
}

fn name(name: &str) -> Name {
    name.into()
}

fn acked(queue: &str) -> QueueRef {
    QueueRef { name: queue.into(), no_ack: false }
}

fn take(store: &dyn Store, queues: &[QueueRef], max: usize) -> Vec<Delivery> {
    run(store.get(queues, GetOptions { max, arm: true })).unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| String::from_utf8(delivery.message.body.to_vec()).unwrap())
        .collect()
}

/// Waits as a consumer does: `get`, then `ready`, until something is there.
fn wait_for(store: &dyn Store, queues: &[QueueRef], max: usize) -> Vec<Delivery> {
    let end = Instant::now() + LONG;
    run(timeout(end, async {
        loop {
            let taken = store.get(queues, GetOptions { max, arm: true }).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            store.ready(queues).await?;
        }
    }))
    .unwrap()
}

async fn timeout<T>(end: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout_at(end, work).await.expect("it took too long")
}

fn size(store: &dyn Store, queue: &str) -> u64 {
    run(store.size(&name(queue))).unwrap()
}

#[test]
fn messages_come_out_in_order_and_by_priority() {
    let store = Space::new().open();
    let queue = name("q");
    run(store.put(&queue, &[with_priority("low", 9), text("a"), text("b")])).unwrap();
    run(store.put(&queue, &[with_priority("middle", 4), text("c")])).unwrap();
    assert_eq!(size(&*store, "q"), 5);
    let taken = take(&*store, &[acked("q")], 10);
    assert_eq!(bodies(&taken), ["a", "b", "c", "middle", "low"]);
    assert!(taken.iter().all(|delivery| !delivery.settled && !delivery.message.redelivered));
    let claims: Vec<_> = taken.into_iter().map(|delivery| delivery.claim).collect();
    run(store.ack(&claims)).unwrap();
    assert_eq!(take(&*store, &[acked("q")], 10), []);
}

#[test]
fn queues_are_taken_from_in_the_order_given() {
    let store = Space::new().open();
    run(store.put(&name("a"), &[text("a1"), text("a2")])).unwrap();
    run(store.put(&name("b"), &[text("b1"), with_priority("b-late", 3)])).unwrap();
    let both = [acked("b"), acked("a")];
    assert_eq!(bodies(&take(&*store, &both, 2)), ["b1", "a1"]);
    assert_eq!(bodies(&take(&*store, &both, 5)), ["a2", "b-late"]);
}

#[test]
fn released_messages_return_to_the_head() {
    let store = Space::new().open();
    let queue = name("q");
    run(store.put(&queue, &["1", "2", "3", "4"].map(text))).unwrap();
    run(store.put(&queue, &[with_priority("5", 3)])).unwrap();
    let taken = take(&*store, &[acked("q")], 5);
    let claims: Vec<_> = taken.iter().map(|delivery| delivery.claim.clone()).collect();
    run(store.release(&claims[3..], Release::Unseen)).unwrap();
    run(store.release(&claims[1..3], Release::Requeue)).unwrap();
    run(store.release(&claims[..1], Release::Discard)).unwrap();
    // A claim that was given back cannot be settled any more.
    run(store.ack(&claims)).unwrap();
    let again = take(&*store, &[acked("q")], 5);
    assert_eq!(bodies(&again), ["2", "3", "4", "5"]);
    let redelivered: Vec<bool> = again.iter().map(|d| d.message.redelivered).collect();
    assert_eq!(redelivered, [true, true, false, false]);
    assert_eq!(again[2].message, taken[3].message, "unseen is as it was");
}

#[test]
fn without_ack_nothing_is_kept() {
    let space = Space::new();
    let store = space.open_with(json!({"visibility_timeout": 0.2}));
    run(store.put(&name("q"), &[text("x")])).unwrap();
    let taken = take(&*store, &[QueueRef { name: "q".into(), no_ack: true }], 5);
    assert!(taken[0].settled);
    std::thread::sleep(Duration::from_millis(300)); // an expiry, if there were one
    assert_eq!(run(store.restore()).unwrap(), 0);
}

#[test]
fn a_waiting_consumer_is_woken_by_another_connection() {
    let space = Space::new();
    let (consumer, producer) = (space.open(), space.open());
    run(producer.connect()).unwrap();
    for round in 0..20 {
        let body = format!("m{round}");
        assert_eq!(take(&*consumer, &[acked("q")], 1), []);
        let mut latency = Duration::MAX;
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                run(producer.put(&name("q"), &[text(&body)])).unwrap();
                Instant::now()
            });
            let taken = wait_for(&*consumer, &[acked("q")], 5);
            assert_eq!(bodies(&taken), std::slice::from_ref(&body));
            latency = sent.join().unwrap().elapsed();
        });
        // The safety net would take a second.
        assert!(latency < Duration::from_millis(900), "woken after {latency:?}");
    }
}

#[test]
fn a_waiting_consumer_is_woken_by_its_own_store() {
    let store = Space::new().open();
    assert_eq!(take(&*store, &[acked("q")], 1), []);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| run(store.put(&name("q"), &[text("mine")])).unwrap());
        assert_eq!(bodies(&wait_for(&*store, &[acked("q")], 5)), ["mine"]);
    });
    assert!(started.elapsed() < Duration::from_millis(900));
}

#[test]
fn claims_of_a_dead_owner_come_back_once() {
    let space = Space::new();
    let options = || json!({"visibility_timeout": 0.5});
    let dead = space.open_with(options());
    run(dead.put(&name("q"), &["1", "2", "3"].map(text))).unwrap();
    run(dead.put(&name("q"), &[with_priority("4", 6)])).unwrap();
    assert_eq!(take(&*dead, &[acked("q")], 4).len(), 4);
    drop(dead); // without a word
    let stores = [space.open_with(options()), space.open_with(options())];
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        let consumers: Vec<_> = stores
            .iter()
            .map(|store| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    let end = Instant::now() + Duration::from_secs(3);
                    while Instant::now() < end {
                        let work = async {
                            let options = GetOptions { max: 2, arm: true };
                            let taken = store.get(&[acked("q")], options).await?;
                            if taken.is_empty() {
                                timeout_at(end, store.ready(&[acked("q")])).await.transpose()?;
                            }
                            Ok(taken)
                        };
                        got.extend(run(work).unwrap());
                    }
                    got
                })
            })
            .collect();
        got = consumers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    });
    let mut sorted = bodies(&got);
    sorted.sort();
    assert_eq!(sorted, ["1", "2", "3", "4"]);
    assert!(got.iter().all(|delivery| delivery.message.redelivered));
}

#[test]
fn held_claims_are_renewed() {
    let space = Space::new();
    let holder = space.open_with(json!({"visibility_timeout": 0.6}));
    run(holder.put(&name("q"), &[text("long")])).unwrap();
    let taken = take(&*holder, &[acked("q")], 1);
    let other = space.open_with(json!({"visibility_timeout": 0.6}));
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(run(other.restore()).unwrap(), 0, "taken from a living owner");
        assert_eq!(take(&*other, &[acked("q")], 1), []);
        std::thread::sleep(Duration::from_millis(50)); // the time that a task takes
    }
    run(holder.ack(&[taken[0].claim.clone()])).unwrap();
}

fn exchange(exchange: &str, kind: ExchangeKind) -> Exchange {
    Exchange {
        name: exchange.into(),
        kind,
        durable: true,
        auto_delete: false,
        arguments: Json::default(),
    }
}

fn binding(exchange: &str, routing_key: &str, queue: &str) -> Binding {
    Binding {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        queue: queue.into(),
        arguments: Json::default(),
    }
}

#[test]
fn binding_tables_are_shared_and_never_stale() {
    let space = Space::new();
    let (one, two) = (space.open(), space.open());
    let topic = exchange("tx", ExchangeKind::Topic);
    assert_eq!(run(two.bindings(&topic)).unwrap(), []);
    let first = binding("tx", "a.*", "q1");
    run(one.bind(&topic, &first)).unwrap();
    assert_eq!(run(one.bindings(&topic)).unwrap(), std::slice::from_ref(&first));
    let end = Instant::now() + LONG;
    while run(two.bindings(&topic)).unwrap() != std::slice::from_ref(&first) {
        assert!(Instant::now() < end);
    }
    run(two.unbind(&topic, &first)).unwrap();
    assert_eq!(run(two.bindings(&topic)).unwrap(), []);
    while !run(one.bindings(&topic)).unwrap().is_empty() {
        assert!(Instant::now() < end);
    }
    run(one.bind(&topic, &first)).unwrap();
    run(one.delete_queue(&name("q1"))).unwrap();
    assert_eq!(run(one.bindings(&topic)).unwrap(), []);
}

#[test]
fn fanout_reaches_everybody_who_listens() {
    let space = Space::new();
    let stores = [space.open(), space.open()];
    let fanout = exchange("fx", ExchangeKind::Fanout);
    for (number, store) in stores.iter().enumerate() {
        let queue = format!("f{number}");
        run(store.bind(&fanout, &binding("fx", "", &queue))).unwrap();
        run(store.subscribe(&queue.as_str().into())).unwrap();
    }
    run(stores[0].put_fanout(&name("fx"), "", &text("all"))).unwrap();
    for (number, store) in stores.iter().enumerate() {
        let taken = wait_for(&**store, &[acked(&format!("f{number}"))], 5);
        assert_eq!(bodies(&taken), ["all"]);
        assert!(taken[0].settled);
    }
    run(stores[1].unsubscribe(&name("f1"))).unwrap();
    run(stores[0].put_fanout(&name("fx"), "", &text("again"))).unwrap();
    assert_eq!(bodies(&wait_for(&*stores[0], &[acked("f0")], 5)), ["again"]);
    assert_eq!(take(&*stores[1], &[acked("f1")], 5), []);
}

#[test]
fn purge_and_delete() {
    let store = Space::new().open();
    let queue = name("q");
    assert!(!run(store.has_queue(&queue)).unwrap());
    run(store.put(&queue, &[text("1"), with_priority("2", 9)])).unwrap();
    assert!(run(store.has_queue(&queue)).unwrap());
    assert_eq!(run(store.purge(&queue)).unwrap(), 2);
    assert_eq!(size(&*store, "q"), 0);
    run(store.put(&queue, &[text("1")])).unwrap();
    run(store.delete_queue(&queue)).unwrap();
    assert!(!run(store.has_queue(&queue)).unwrap());
}

#[test]
fn a_killed_link_is_told_once_and_then_replaced() {
    let space = Space::new();
    let store = space.open_with(json!({"client_name": space.0.trim_end_matches(':')}));
    let fanout = exchange("fx", ExchangeKind::Fanout);
    run(store.bind(&fanout, &binding("fx", "", "f"))).unwrap();
    run(store.subscribe(&name("f"))).unwrap();
    run(store.put(&name("q"), &[text("1")])).unwrap();
    let held = take(&*store, &[acked("q")], 1);
    assert_eq!(take(&*store, &[acked("q"), acked("f")], 1), []);
    let started = Instant::now();
    let error = std::thread::scope(|scope| {
        let killing = space.open();
        scope.spawn(move || kill_client(&space.0, &*killing));
        run(timeout(started + LONG, async {
            loop {
                store.ready(&[acked("q"), acked("f")]).await?;
                store.get(&[acked("q"), acked("f")], GetOptions { max: 1, arm: true }).await?;
            }
            #[allow(unreachable_code)]
            Ok(())
        }))
        .unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains(&server()), "{error}");
    assert!(!store.is_connected());
    // Acknowledging, consuming and fanout go on over a new link.
    run(store.ack(&[held[0].claim.clone()])).unwrap();
    run(store.put_fanout(&name("fx"), "", &text("after"))).unwrap();
    assert_eq!(bodies(&wait_for(&*store, &[acked("q"), acked("f")], 1)), ["after"]);
}

/// Ends the connection of the client with the name of the space, from outside.
fn kill_client(space: &str, any: &dyn Store) {
    run(any.connect()).unwrap();
    let mut link = std::net::TcpStream::connect(server()).unwrap();
    let wanted = format!("name={} ", space.trim_end_matches(':'));
    use std::io::{Read, Write};
    link.write_all(b"CLIENT LIST\r\n").unwrap();
    let mut list = String::new();
    while !list.ends_with("\r\n") || list.len() < 10 {
        let mut room = [0u8; 65536];
        let got = link.read(&mut room).unwrap();
        list.push_str(&String::from_utf8_lossy(&room[..got]));
    }
    let line = list.lines().find(|line| line.contains(&wanted)).expect("the client is listed");
    let id = line.split_whitespace().find_map(|word| word.strip_prefix("id=")).unwrap();
    link.write_all(format!("CLIENT KILL ID {id}\r\n").as_bytes()).unwrap();
    let mut answer = [0u8; 16];
    let got = link.read(&mut answer).unwrap();
    assert_eq!(&answer[..got], b":1\r\n");
}

#[test]
fn a_server_that_is_not_there() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = Url::parse(&format!("redis://:geheim@{address}/0")).unwrap();
    let store = schemes::open(&url, &serde_json::Map::new()).unwrap();
    let error = run(store.connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(!error.to_string().contains("geheim") && !format!("{store:?}").contains("geheim"));
}

#[test]
fn a_server_that_does_not_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = Url::parse(&format!("redis://{address}/0?socket_timeout=0.2")).unwrap();
    let store = schemes::open(&url, &serde_json::Map::new()).unwrap();
    let started = Instant::now();
    let error = run(store.connect()).unwrap_err();
    assert!(started.elapsed() < LONG);
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("late"), "{error}");
}

#[test]
fn a_wrong_password_and_a_wrong_database() {
    let url = Url::parse(&format!("redis://nobody:wrong@{}/0", server())).unwrap();
    let store = schemes::open(&url, &serde_json::Map::new()).unwrap();
    assert_eq!(run(store.connect()).unwrap_err().kind(), ErrorKind::Auth);
    let url = Url::parse(&format!("redis://{}/9999", server())).unwrap();
    let store = schemes::open(&url, &serde_json::Map::new()).unwrap();
    let error = run(store.connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("9999"), "{error}");
}

#[test]
fn eight_threads_share_one_store() {
    let store = Space::new().open();
    let total = 8 * 200;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..200 {
                    let message = text(&format!("{thread}-{round}"));
                    run(store.put(&name("q"), &[message])).unwrap();
                }
            });
        }
        let mut seen = std::collections::HashSet::new();
        while seen.len() < total {
            let taken = wait_for(&*store, &[acked("q")], 50);
            let claims: Vec<_> = taken.iter().map(|delivery| delivery.claim.clone()).collect();
            for body in bodies(&taken) {
                assert!(seen.insert(body));
            }
            run(store.ack(&claims)).unwrap();
        }
    });
    assert_eq!(size(&*store, "q"), 0);
}

#[test]
fn expiring_queues_expire() {
    let store = Space::new().open();
    let queue = name("q");
    let options =
        QueueOptions { expires: Some(Duration::from_millis(300)), ..QueueOptions::default() };
    run(store.declare_queue(&Queue {
        name: queue.clone(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        options,
    }))
    .unwrap();
    let direct = exchange("ex", ExchangeKind::Direct);
    run(store.bind(&direct, &binding("ex", "k", "q"))).unwrap();
    run(store.put(&queue, &[text("1")])).unwrap();
    assert_eq!(size(&*store, "q"), 1);
    let end = Instant::now() + LONG;
    while size(&*store, "q") > 0 {
        assert!(Instant::now() < end);
    }
    assert_eq!(run(store.bindings(&direct)).unwrap(), [binding("ex", "k", "q")]);
}

#[test]
fn a_message_that_cannot_be_read_is_dropped_and_told() {
    let space = Space::new();
    let store = space.open_with(json!({"visibility_timeout": 0.3}));
    run(store.connect()).unwrap();
    let mut link = std::net::TcpStream::connect(server()).unwrap();
    use std::io::{Read, Write};
    link.write_all(format!("SELECT 1\r\nLPUSH {}q garbage\r\n", space.0).as_bytes()).unwrap();
    let mut answer = [0u8; 64];
    let mut got = 0;
    while got < b"+OK\r\n:1\r\n".len() {
        got += link.read(&mut answer).unwrap();
    }
    let error = run(store.get(&[acked("q")], GetOptions { max: 5, arm: true })).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    std::thread::sleep(Duration::from_millis(400)); // longer than a claim lives
    assert_eq!(run(store.restore()).unwrap(), 0);
    assert_eq!(take(&*store, &[acked("q")], 5), []);
    run(store.put(&name("q"), &[text("good")])).unwrap();
    assert_eq!(bodies(&take(&*store, &[acked("q")], 5)), ["good"]);
}

/// A peer between store and server that can swallow what either of them sends, and then hangs up.
struct Hole {
    address: String,
    /// What to swallow: nothing, answers or requests.
    mode: Arc<AtomicU32>,
    swallowed: Arc<AtomicU32>,
}

const NOTHING: u32 = 0;
const ANSWERS: u32 = 1;
const REQUESTS: u32 = 2;

impl Hole {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mode, swallowed) = <(Arc<AtomicU32>, Arc<AtomicU32>)>::default();
        let hole = Self { address, mode: mode.clone(), swallowed: swallowed.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = std::net::TcpStream::connect(self::server()).unwrap();
                let ways = [(&client, &server, REQUESTS), (&server, &client, ANSWERS)];
                for (from, to, kind) in ways {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (mode, swallowed) = (mode.clone(), swallowed.clone());
                    std::thread::spawn(move || pass_on(from, to, kind, &mode, &swallowed));
                }
            }
        });
        hole
    }

    /// Waits until something was swallowed, and lets everything pass again.
    fn close_after_one(&self) {
        let end = Instant::now() + LONG;
        while self.swallowed.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        self.mode.store(NOTHING, Ordering::SeqCst);
    }

    fn open(&self, space: &Space) -> Arc<dyn Store> {
        let url = Url::parse(&format!("redis://{}/1", self.address)).unwrap();
        let options = json!({"global_keyprefix": space.0}).as_object().unwrap().clone();
        schemes::open(&url, &options).unwrap()
    }
}

fn pass_on(
    mut from: std::net::TcpStream,
    mut to: std::net::TcpStream,
    kind: u32,
    mode: &AtomicU32,
    swallowed: &AtomicU32,
) {
    use std::io::{Read, Write};
    let mut room = [0u8; 65536];
    while let Ok(got @ 1..) = from.read(&mut room) {
        if mode.load(Ordering::SeqCst) == kind {
            swallowed.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to.write_all(&room[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn messages_of_an_answer_that_got_lost_are_found_again() {
    let space = Space::new();
    let hole = Hole::new();
    let store = hole.open(&space);
    run(store.put(&name("q"), &["1", "2", "3"].map(text))).unwrap();
    hole.mode.store(ANSWERS, Ordering::SeqCst);
    let error = run(store.get(&[acked("q")], GetOptions { max: 2, arm: true })).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    hole.close_after_one();
    assert_eq!(size(&*store, "q"), 1, "two were claimed");
    let taken = take(&*store, &[acked("q")], 5);
    assert_eq!(bodies(&taken), ["1", "2", "3"]);
    assert!(taken.iter().all(|delivery| !delivery.message.redelivered));
    let claims: Vec<_> = taken.into_iter().map(|delivery| delivery.claim).collect();
    run(store.ack(&claims)).unwrap();
    run(store.close()).unwrap();
}

#[test]
fn acknowledgements_survive_a_lost_link() {
    let space = Space::new();
    let hole = Hole::new();
    let store = hole.open(&space);
    run(store.put(&name("q"), &["1", "2"].map(text))).unwrap();
    let taken = take(&*store, &[acked("q")], 2);
    hole.mode.store(REQUESTS, Ordering::SeqCst);
    let claims: Vec<_> = taken.into_iter().map(|delivery| delivery.claim).collect();
    run(store.ack(&claims)).unwrap(); // as far as anybody can tell
    hole.close_after_one();
    let error = run(store.size(&name("q"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    run(store.connect()).unwrap();
    run(store.close()).unwrap();
    let after = space.open_with(json!({"visibility_timeout": 0.001}));
    assert_eq!(run(after.restore()).unwrap(), 0);
}

/// Sends commands as they are typed, without the store.
fn raw(commands: &[&[&str]]) {
    use std::io::{Read, Write};
    let mut link = std::net::TcpStream::connect(server()).unwrap();
    for command in commands {
        let mut out = format!("*{}\r\n", command.len());
        for word in *command {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        link.write_all(out.as_bytes()).unwrap();
        let mut answer = [0u8; 256];
        let got = link.read(&mut answer).unwrap();
        assert!(got > 0 && answer[0] != b'-', "{}", String::from_utf8_lossy(&answer[..got]));
    }
}

#[test]
fn claims_of_stock_workers_are_routed_again() {
    let space = Space::new();
    let store = space.open_with(json!({"visibility_timeout": 1}));
    let topic = exchange("tx", ExchangeKind::Topic);
    for queue in ["q1", "q2"] {
        run(store.bind(&topic, &binding("tx", "a.#", queue))).unwrap();
    }
    let envelope = |body: &str| {
        format!(
            r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "text/plain", "headers": {{}}, "properties": {{"delivery_info": {{"exchange": "tx", "routing_key": "a.b"}}, "priority": 4, "body_encoding": null, "delivery_tag": "t"}}}}"#
        )
    };
    let (hash, index) = (format!("{}unacked", space.0), format!("{}unacked_index", space.0));
    let known = format!(r#"[{}, "tx", "a.b"]"#, envelope("routed"));
    let unknown = format!(r#"[{}, "gone", "a.b"]"#, envelope("stays"));
    raw(&[
        &["SELECT", "1"],
        &["HSET", &hash, "t-known", &known, "t-unknown", &unknown, "t-junk", "junk"],
        &["ZADD", &index, "100.5", "t-known", "101", "t-unknown", "102", "t-junk", "1", "t-none"],
    ]);
    assert_eq!(run(store.restore()).unwrap(), 1);
    for queue in ["q1", "q2"] {
        let taken = take(&*store, &[acked(queue)], 5);
        assert_eq!(bodies(&taken), ["routed"]);
        assert!(taken[0].message.redelivered);
        run(store.ack(&[taken[0].claim.clone()])).unwrap();
    }
    // What nobody can place stays, but does not come up again at once.
    assert_eq!(run(store.restore()).unwrap(), 0);
}

#[test]
fn ten_thousand_claims_of_a_dead_worker_come_back_once() {
    const COUNT: usize = 10_000;
    let space = Space::new();
    let options = || json!({"visibility_timeout": 2, "unacked_restore_interval": 600});
    let dead = space.open_with(options());
    for hundred in 0..COUNT / 100 {
        let messages: Vec<Message> =
            (0..100).map(|n| text(&format!("{:05}", hundred * 100 + n))).collect();
        run(dead.put(&name("q"), &messages)).unwrap();
    }
    let mut claimed = 0;
    while claimed < COUNT {
        claimed += take(&*dead, &[acked("q")], 1000).len();
    }
    drop(dead);
    let restored = std::sync::atomic::AtomicUsize::new(0);
    let end = Instant::now() + LONG;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let store = space.open_with(options());
                while restored.load(Ordering::SeqCst) < COUNT {
                    assert!(Instant::now() < end, "{restored:?} came back");
                    restored.fetch_add(run(store.restore()).unwrap(), Ordering::SeqCst);
                }
            });
        }
        // Peers that are busy meanwhile are not disturbed.
        let peers: Vec<_> = (0..2)
            .map(|peer| {
                let space = &space;
                scope.spawn(move || {
                    let (store, queue) = (space.open_with(options()), format!("busy{peer}"));
                    for round in 0..200 {
                        run(store.put(&name(&queue), &[text(&round.to_string())])).unwrap();
                        let taken = take(&*store, &[acked(&queue)], 1);
                        assert_eq!(bodies(&taken), [round.to_string()]);
                        run(store.ack(&[taken[0].claim.clone()])).unwrap();
                    }
                })
            })
            .collect();
        peers.into_iter().for_each(|peer| peer.join().unwrap());
    });
    assert_eq!(restored.into_inner(), COUNT);
    let store = space.open_with(options());
    assert_eq!(size(&*store, "q"), COUNT as u64);
    let mut all = Vec::new();
    while all.len() < COUNT {
        let taken = take(&*store, &[QueueRef { name: "q".into(), no_ack: true }], 1000);
        assert!(!taken.is_empty());
        all.extend(bodies(&taken));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), COUNT);
}
