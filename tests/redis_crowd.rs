//! Waiters that are woken for messages that others take, on a real server (see `redis.rs`).
#![cfg(feature = "redis")]

use kombu_rs::io::task::{run, timeout_at};
use kombu_rs::model::{Delivery, Message};
use kombu_rs::transport::{GetOptions, QueueRef, Store, Url, schemes};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(20);

fn open(test: &str) -> Arc<dyn Store> {
    let server = std::env::var("KOMBU_RS_TEST_REDIS").expect("`make test` starts a server");
    let place = server.trim_start_matches("redis://").split('/').next().unwrap().to_owned();
    let options = json!({"global_keyprefix": format!("crowd{}-{test}:", std::process::id())});
    let url = Url::parse(&format!("redis://{place}/1")).unwrap();
    schemes::open(&url, options.as_object().unwrap()).unwrap()
}

fn queues() -> [QueueRef; 1] {
    [QueueRef { name: "q".into(), no_ack: true }]
}

fn put(store: &dyn Store) {
    run(store.put(&"q".into(), &[Message::default()])).unwrap();
}

fn look(store: &dyn Store) -> Vec<Delivery> {
    run(store.get(&queues(), GetOptions { max: 1, arm: true })).unwrap()
}

/// Whether `ready` resolved within a moment.
fn is_ready(store: &dyn Store) -> bool {
    run(async { timeout_at(Instant::now() + MOMENT, store.ready(&queues())).await.transpose() })
        .unwrap()
        .is_some()
}

fn empty_wake_ups(store: &dyn Store) -> u64 {
    store.counters().empty_wake_ups.get()
}

/// A message comes that `quick` takes, until `slow` has looked for it, too.
fn be_quicker(quick: &dyn Store, slow: &dyn Store, publisher: &dyn Store) {
    put(publisher);
    let (end, before) = (Instant::now() + LONG, empty_wake_ups(slow));
    while look(quick).is_empty() {
        assert!(Instant::now() < end, "the message did not come");
    }
    while empty_wake_ups(slow) == before {
        assert!(Instant::now() < end, "the other one was not woken");
        if is_ready(slow) {
            assert_eq!(look(slow), []);
        }
    }
}

#[test]
fn wake_ups_for_nothing_are_counted() {
    let (quick, slow, publisher) = (open("counted"), open("counted"), open("counted"));
    assert!(look(&*quick).is_empty() && look(&*slow).is_empty());
    be_quicker(&*quick, &*slow, &*publisher);
    assert_eq!((empty_wake_ups(&*quick), empty_wake_ups(&*slow)), (0, 1));
    // Looking without having been told of anything is not in vain.
    assert_eq!(look(&*slow), []);
    assert_eq!(empty_wake_ups(&*slow), 1);
}

#[test]
fn who_is_always_late_looks_cheaply_and_still_finds_what_is_left() {
    let (quick, slow, publisher) = (open("late"), open("late"), open("late"));
    assert!(look(&*quick).is_empty() && look(&*slow).is_empty());
    for _ in 0..10 {
        be_quicker(&*quick, &*slow, &*publisher);
    }
    let scripts = slow.counters().script_calls.get();
    for _ in 0..10 {
        be_quicker(&*quick, &*slow, &*publisher);
    }
    assert_eq!(slow.counters().script_calls.get(), scripts, "it takes no script to see nothing");
    put(&*publisher);
    let end = Instant::now() + LONG;
    while look(&*slow).is_empty() {
        assert!(Instant::now() < end, "the message was not seen");
        is_ready(&*slow);
    }
}
