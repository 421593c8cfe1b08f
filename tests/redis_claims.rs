//! What becomes of messages that are delivered and not settled, against a real server (see `redis.rs`):
//! they are counted, are dead letters in the end, and come back one worker at a time.
#![cfg(feature = "redis")]

use kombu_rs::io::task::{run, timeout_at};
use kombu_rs::model::{Binding, Claim, Delivery, Exchange, ExchangeKind, Json, Message, Release};
use kombu_rs::transport::{GetOptions, QueueRef, Store};
use redis_space::{Space, server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod redis_space;

const LONG: Duration = Duration::from_secs(20);

impl Space {
    /// One command; the answer as the server writes it. `KEY:` in a word stands for the prefix.
    fn command(&self, words: &[&str]) -> String {
        let mut out = String::from("SELECT 1\r\n");
        out.push_str(&format!("*{}\r\n", words.len()));
        for word in words {
            let word = word.replace("KEY:", &self.0);
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        out.push_str("QUIT\r\n");
        let mut link = TcpStream::connect(server()).unwrap();
        link.write_all(out.as_bytes()).unwrap();
        let mut answers = String::new();
        link.read_to_string(&mut answers).unwrap();
        let answer = answers.strip_prefix("+OK\r\n").and_then(|rest| rest.strip_suffix("+OK\r\n"));
        let answer = answer.unwrap_or_else(|| panic!("{answers}")).trim_end().to_owned();
        assert!(!answer.starts_with('-'), "{answer}");
        answer
    }
}

fn message(text: &str) -> Message {
    let mut message = Message { body: text.to_owned().into(), ..Message::default() };
    message.properties.exchange = "ex".into();
    message.properties.routing_key = "key".into();
    message
}

fn put(store: &dyn Store, queue: &str, messages: &[Message]) {
    run(store.put(&queue.into(), messages)).unwrap();
}

fn take(store: &dyn Store, queue: &str, max: usize) -> Vec<Delivery> {
    let queues = [QueueRef { name: queue.into(), no_ack: false }];
    run(store.get(&queues, GetOptions { max, arm: false })).unwrap()
}

fn take_one(store: &dyn Store, queue: &str) -> (Message, Claim) {
    let end = Instant::now() + LONG;
    loop {
        if let Some(delivery) = take(store, queue, 1).pop() {
            return (delivery.message, delivery.claim);
        }
        assert!(Instant::now() < end, "nothing came to {queue}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn size(store: &dyn Store, queue: &str) -> u64 {
    run(store.size(&queue.into())).unwrap()
}

fn header(message: &Message, name: &str) -> Value {
    message.headers.get(name).map_or(Value::Null, |text| serde_json::from_slice(text).unwrap())
}

fn release(store: &dyn Store, claim: Claim, how: Release) {
    run(store.release(&[claim], how)).unwrap();
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The owner lives, but its claims are not renewed: they expire.
fn short_lived() -> Value {
    json!({"visibility_timeout": 0.3, "renew_leases": false})
}

#[test]
fn deliveries_that_came_to_nothing_are_counted() {
    let space = Space::new();
    let store = space.open_with(json!({}));
    put(&*store, "q", &[message("m")]);
    for (how, before) in [
        (Release::Unseen, Value::Null),
        (Release::Behind, Value::Null),
        (Release::Unseen, json!(1)),
        (Release::Requeue, json!(1)),
    ] {
        let (message, claim) = take_one(&*store, "q");
        assert_eq!(header(&message, "x-delivery-count"), before, "before {how:?}");
        assert_eq!(message.redelivered, before != Value::Null, "before {how:?}");
        release(&*store, claim, how);
    }
    // Without renewal a claim expires even though its owner is there, as in Kombu.
    let store = space.open_with(short_lived());
    let (message, old) = take_one(&*store, "q");
    assert_eq!(header(&message, "x-delivery-count"), 2);
    let (message, _) = take_one(&*store, "q");
    assert_eq!(header(&message, "x-delivery-count"), 3);
    // Who had it before does not count it once more.
    release(&*store, old, Release::Behind);
    let (message, _) = take_one(&*store, "q");
    assert_eq!(header(&message, "x-delivery-count"), 4);
}

#[test]
fn what_is_delivered_too_often_is_a_dead_letter() {
    for how in [Some(Release::Behind), Some(Release::Requeue), None] {
        let space = Space::new();
        let mut options = if how.is_none() { short_lived() } else { json!({}) };
        options["delivery_limit"] = json!(2);
        let store = space.open_with(options);
        let mut poison = message("poison");
        poison.properties.priority = Some(6);
        put(&*store, "q", &[poison]);
        for _ in 0..2 {
            let (_, claim) = take_one(&*store, "q");
            if let Some(how) = how {
                release(&*store, claim, how);
            }
        }
        wait_until("the death", || size(&*store, "q.dead") == 1);
        assert_eq!(size(&*store, "q"), 0);
        assert_eq!(space.command(&["HLEN", "KEY:unacked"]), ":0");
        assert_eq!(space.command(&["ZCARD", "KEY:unacked_index"]), ":0");
        assert_eq!(space.command(&["LLEN", "KEY:q.dead\x06\x166"]), ":1", "of its priority");
        let (letter, claim) = take_one(&*store, "q.dead");
        assert_eq!(&letter.body[..], b"poison");
        assert_eq!(header(&letter, "x-last-death-reason"), "delivery_limit");
        assert_eq!(header(&letter, "x-last-death-queue"), "q");
        assert_eq!(header(&letter, "x-death")[0]["routing-keys"], json!(["key"]));
        assert_eq!((&*letter.properties.exchange, &*letter.properties.routing_key), ("ex", "key"));
        // It may be looked at as often as one likes.
        release(&*store, claim, Release::Requeue);
        for _ in 0..3 {
            let (_, claim) = take_one(&*store, "q.dead");
            release(&*store, claim, Release::Behind);
        }
        assert_eq!(size(&*store, "q.dead"), 1, "{how:?}");
    }
}

#[test]
fn a_claim_of_a_stock_worker_may_die_in_several_queues() {
    let space = Space::new();
    let options =
        json!({"visibility_timeout": 1, "delivery_limit": 1, "dead_letter_queue": "dead"});
    let store = space.open_with(options);
    let exchange = Exchange {
        name: "ex".into(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    };
    for queue in ["q1", "q2"] {
        let binding = Binding {
            exchange: "ex".into(),
            routing_key: "key".into(),
            queue: queue.into(),
            arguments: Json::empty_object(),
        };
        run(store.bind(&exchange, &binding)).unwrap();
    }
    let record = r#"[{"body": "b", "headers": {"a": 1}, "properties": {"delivery_info": {"exchange": "ex", "routing_key": "key"}, "delivery_tag": "t"}}, "ex", "key"]"#;
    space.command(&["HSET", "KEY:unacked", "t", record]);
    space.command(&["ZADD", "KEY:unacked_index", "100.5", "t"]);
    assert_eq!(run(store.restore()).unwrap(), 0);
    let mut from: Vec<Value> = take(&*store, "dead", 5)
        .iter()
        .map(|letter| header(&letter.message, "x-last-death-queue"))
        .collect();
    from.sort_by_key(Value::to_string);
    assert_eq!(from, [json!("q1"), json!("q2")]);
    assert_eq!(run(store.restore()).unwrap(), 0, "it is done with");
}

#[test]
fn dead_letters_are_replayed() {
    let space = Space::new();
    let store = space.open_with(json!({"delivery_limit": 1, "dead_letter_queue": "dead"}));
    for number in 0..450 {
        let queue = if number % 2 == 0 { "even" } else { "odd" };
        put(&*store, queue, &[message(&number.to_string())]);
    }
    put(&*store, "dead", &[message("from elsewhere")]);
    for queue in ["even", "odd"] {
        for claim in take(&*store, queue, 1000).into_iter().map(|delivery| delivery.claim) {
            release(&*store, claim, Release::Behind);
        }
    }
    space.command(&["LPUSH", "KEY:dead", "no message"]);
    assert_eq!(size(&*store, "dead"), 452);
    let dead = "dead".into();
    assert_eq!(run(store.replay(&dead, Some(3))).unwrap(), 3);
    assert_eq!((size(&*store, "even"), size(&*store, "dead")), (3, 449), "the oldest");
    assert_eq!(run(store.replay(&dead, Some(0))).unwrap(), 0);
    assert_eq!(run(store.replay(&dead, None)).unwrap(), 447);
    assert_eq!(run(store.replay(&dead, None)).unwrap(), 0);
    assert_eq!(size(&*store, "dead"), 2, "what does not say where it came from");
    for (queue, parity) in [("even", 0), ("odd", 1)] {
        let again = take(&*store, queue, 1000);
        let numbers: Vec<usize> = again
            .iter()
            .map(|letter| std::str::from_utf8(&letter.message.body).unwrap().parse().unwrap())
            .collect();
        assert!(numbers.iter().copied().eq((0..225).map(|n| n * 2 + parity)), "{numbers:?}");
        for letter in again {
            assert_eq!(header(&letter.message, "x-delivery-count"), Value::Null);
            assert!(letter.message.redelivered);
        }
    }
}

fn expire_some(space: &Space, count: usize) {
    let dead = space.open_with(json!({}));
    put(&*dead, "q", &vec![message("m"); count]);
    assert_eq!(take(&*dead, "q", count).len(), count);
    drop(dead);
    // An hour ago, for all that others know.
    let tags = space.command(&["ZRANGE", "KEY:unacked_index", "0", "-1"]);
    let tags = tags.lines().filter(|line| !line.starts_with(['*', '$']));
    let scores: Vec<&str> = tags.flat_map(|tag| ["1", tag]).collect();
    space.command(&[&["ZADD", "KEY:unacked_index"], scores.as_slice()].concat());
}

#[test]
fn one_worker_at_a_time_restores() {
    let space = Space::new();
    expire_some(&space, 250);
    let store = space.open_with(json!({"unacked_restore_limit": 120}));
    // As redis-py's locks are, with which stock workers take their turns.
    for holder in [["a stock worker", "PX", "300000"], ["kombu-rs-of-a-peer", "PX", "5000"]] {
        space.command(&[&["SET", "KEY:unacked_mutex"], &holder[..]].concat());
        assert_eq!(run(store.restore()).unwrap(), 0);
        assert_eq!(size(&*store, "q"), 0);
    }
    // It was a stock worker's for too long: that has died.
    space.command(&["SET", "KEY:unacked_mutex", "a stock worker", "PX", "290000"]);
    for expected in [120, 120, 10, 0] {
        assert_eq!(run(store.restore()).unwrap(), expected);
        assert_eq!(space.command(&["EXISTS", "KEY:unacked_mutex"]), ":0", "the turn has ended");
    }
    assert_eq!(size(&*store, "q"), 250);
}

#[test]
fn the_turn_of_a_dead_worker_ends() {
    let space = Space::new();
    expire_some(&space, 1000);
    let options = json!({"unacked_mutex_expire": 0.5, "unacked_mutex_key": "turn"});
    let dying = space.open_with(options.clone());
    wait_until("a turn that is given up half way", || {
        let until = Instant::now() + Duration::from_millis(20);
        let ended = run(async { Ok(timeout_at(until, dying.restore()).await) }).unwrap();
        assert!(ended.is_none(), "it came to its end");
        space.command(&["EXISTS", "KEY:turn"]) == ":1"
    });
    let left = space.command(&["PTTL", "KEY:turn"]);
    let left: i64 = left.trim_start_matches(':').parse().unwrap();
    assert!((1..=500).contains(&left), "{left}");
    let other = space.open_with(options);
    wait_until("the end of the turn", || run(other.restore()).unwrap() > 0);
    assert_eq!(size(&*other, "q"), 1000, "once each");
}
