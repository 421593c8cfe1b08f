//! What keeps Redis tidy, against a real server (see `redis.rs`): overdue claims, expired bindings; and
//! the order in which queues are asked.
#![cfg(feature = "redis")]

use kombu_rs::io::task::run;
use kombu_rs::model::{
    Binding, Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue, QueueOptions, Release,
};
use kombu_rs::transport::{GetOptions, QueueOrder, QueueRef, Store};
use redis_space::Space;
use serde_json::json;
use std::time::{Duration, Instant};

mod redis_space;

const LONG: Duration = Duration::from_secs(20);

fn message(text: &str) -> Message {
    Message { body: text.to_owned().into(), ..Message::default() }
}

fn acked(queue: &str) -> QueueRef {
    QueueRef { name: queue.into(), no_ack: false }
}

fn take(store: &dyn Store, queues: &[&str], max: usize) -> Vec<Delivery> {
    let queues: Vec<_> = queues.iter().map(|queue| acked(queue)).collect();
    run(store.get(&queues, GetOptions { max, arm: false })).unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8(d.message.body.to_vec()).unwrap()).collect()
}

fn put(store: &dyn Store, queue: &str, texts: &[&str]) {
    let messages: Vec<Message> = texts.iter().map(|text| message(text)).collect();
    run(store.put(&queue.into(), &messages)).unwrap();
}

fn expiring(queue: &str, milliseconds: Option<u64>) -> Queue {
    let expires = milliseconds.map(Duration::from_millis);
    Queue {
        name: queue.into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        options: QueueOptions { expires, ..QueueOptions::default() },
    }
}

fn direct(exchange: &str) -> Exchange {
    Exchange {
        name: exchange.into(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    }
}

fn bind(store: &dyn Store, exchange: &str, queue: &str) {
    let binding = Binding {
        exchange: exchange.into(),
        routing_key: "k".into(),
        queue: queue.into(),
        arguments: Json::empty_object(),
    };
    run(store.bind(&direct(exchange), &binding)).unwrap();
}

fn bound(store: &dyn Store, exchange: &str) -> Vec<Name> {
    let bindings = run(store.bindings(&direct(exchange))).unwrap();
    bindings.into_iter().map(|binding| binding.queue).collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn overdue_claims_of_a_living_owner_come_back_to_who_asks() {
    let space = Space::new();
    let store = space.open_with(json!({"visibility_timeout": 0.6}));
    put(&*store, "q", &["1", "2", "3"]);
    let taken = take(&*store, &["q"], 3);
    let since = Instant::now();
    assert_eq!(run(store.reclaim(None)).unwrap(), 0, "they are not overdue");
    // Renewed all the while, and so not taken by others.
    let other = space.open_with(json!({"visibility_timeout": 0.6}));
    while since.elapsed() < Duration::from_millis(900) {
        assert_eq!(run(other.reclaim(None)).unwrap(), 0);
    }
    run(store.ack(&[taken[0].claim.clone()])).unwrap();
    assert_eq!(run(store.reclaim(Some(1))).unwrap(), 1);
    assert_eq!(run(store.reclaim(None)).unwrap(), 1);
    let again = take(&*other, &["q"], 3);
    let mut texts = bodies(&again);
    texts.sort_unstable();
    assert_eq!(texts, ["2", "3"]);
    assert!(again.iter().all(|delivery| delivery.message.redelivered));
    // Whoever had them before has nothing to say any more.
    let old: Vec<_> = taken.into_iter().map(|delivery| delivery.claim).collect();
    run(store.ack(&old)).unwrap();
    run(store.release(&old, Release::Requeue)).unwrap();
    assert_eq!(run(store.size(&"q".into())).unwrap(), 0);
    let claims: Vec<_> = again.into_iter().map(|delivery| delivery.claim).collect();
    run(other.release(&claims, Release::Unseen)).unwrap();
    assert_eq!(run(other.size(&"q".into())).unwrap(), 2, "the claims were still good");
}

#[test]
fn rejected_messages_go_behind_those_that_wait() {
    let store = Space::new().open_with(json!({}));
    put(&*store, "q", &["1", "2", "3"]);
    let taken = take(&*store, &["q"], 2);
    let claims: Vec<_> = taken.into_iter().map(|delivery| delivery.claim).collect();
    run(store.release(&claims, Release::Behind)).unwrap();
    let again = take(&*store, &["q"], 3);
    assert_eq!(bodies(&again), ["3", "1", "2"]);
    assert_eq!(
        again.iter().map(|d| d.message.redelivered).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[test]
fn the_first_queues_come_first_where_that_is_asked_for() {
    for (strategy, order) in
        [("round_robin", QueueOrder::RoundRobin), ("priority", QueueOrder::Priority)]
    {
        let store = Space::new().open_with(json!({"queue_order_strategy": strategy}));
        assert_eq!(store.capability().queue_order, order);
        put(&*store, "b", &["b1", "b2"]);
        put(&*store, "a", &["a1", "a2"]);
        let expected: &[&str] = match order {
            QueueOrder::RoundRobin => &["b1", "a1", "b2"],
            _ => &["b1", "b2", "a1"],
        };
        assert_eq!(bodies(&take(&*store, &["b", "a"], 3)), expected, "{strategy}");
    }
}

#[test]
fn bindings_of_expired_queues_are_swept() {
    let store = Space::new().open_with(json!({"min_binding_ttl": 200, "keyprefix_queue": "b(%s)"}));
    run(store.declare_queue(&expiring("short", Some(50)))).unwrap();
    run(store.declare_queue(&expiring("long", None))).unwrap();
    bind(&*store, "alone", "short");
    bind(&*store, "shared", "short");
    bind(&*store, "shared", "long");
    assert_eq!(run(store.sweep(10)).unwrap(), 0, "nothing is overdue");
    assert_eq!(bound(&*store, "alone"), ["short".into()]);
    let mut swept = 0;
    wait_until("the sweep", || {
        swept += run(store.sweep(1)).unwrap();
        swept == 2
    });
    assert!(bound(&*store, "alone").is_empty());
    assert_eq!(bound(&*store, "shared").len(), 2, "one queue there does not expire");
    assert_eq!(run(store.sweep(10)).unwrap(), 0, "it is not looked at again");
}

#[test]
fn bindings_of_consumed_queues_are_kept() {
    let space = Space::new();
    let store = space.open_with(json!({"min_binding_ttl": 400}));
    run(store.declare_queue(&expiring("q", Some(100)))).unwrap();
    bind(&*store, "ex", "q");
    run(store.subscribe(&"q".into())).unwrap();
    take(&*store, &["q"], 1);
    let other = space.open_with(json!({}));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(run(other.sweep(10)).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(50));
    }
    run(store.unsubscribe(&"q".into())).unwrap();
    wait_until("the sweep", || run(other.sweep(10)).unwrap() == 1);
    assert!(bound(&*other, "ex").is_empty());
    assert!(bound(&*store, "ex").is_empty(), "its own memory was told");
}

#[test]
fn a_binding_that_the_keeper_renews_is_not_taken_for_the_whole_table() {
    let space = Space::new();
    let store = space.open_with(json!({"min_binding_ttl": 400}));
    run(store.declare_queue(&expiring("q", Some(100)))).unwrap();
    bind(&*store, "ex", "q");
    run(store.subscribe(&"q".into())).unwrap();
    take(&*store, &["q"], 1);
    let other = space.open_with(json!({}));
    run(other.delete_exchange(&"ex".into())).unwrap();
    assert!(bound(&*store, "ex").is_empty());
    wait_until("the renewal", || bound(&*other, "ex") == ["q".into()]);
    wait_until("that it knows", || bound(&*store, "ex") == ["q".into()]);
    // And it hears of the next change.
    bind(&*other, "ex", "second");
    wait_until("that it hears", || bound(&*store, "ex").len() == 2);
}
