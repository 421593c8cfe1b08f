//! A store with a live link goes through fork(2): both sides go on, and nothing is mixed up.
//!
//! Alone in its program: a child must not inherit the locks of other tests.
#![cfg(feature = "redis")]

use kombu_rs::io::task::run;
use kombu_rs::model::{Message, Name};
use kombu_rs::transport::{GetOptions, QueueRef, Store, Url, schemes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FORKS: usize = 500;

fn open(prefix: &str) -> Arc<dyn Store> {
    let url = std::env::var("KOMBU_RS_TEST_REDIS")
        .expect("KOMBU_RS_TEST_REDIS must name a Redis server; `make test` starts one");
    let url = if url.contains("://") { url } else { format!("redis://{url}") };
    let options = serde_json::json!({"global_keyprefix": prefix}).as_object().unwrap().clone();
    schemes::open(&Url::parse(&url).unwrap(), &options).unwrap()
}

fn text(text: String) -> Message {
    Message { body: text.into(), ..Message::default() }
}

fn take(store: &dyn Store, queue: &Name, max: usize) -> Vec<(String, kombu_rs::model::Claim)> {
    let queues = [QueueRef { name: queue.clone(), no_ack: false }];
    run(store.get(&queues, GetOptions { max, arm: true }))
        .unwrap()
        .into_iter()
        .map(|d| (String::from_utf8(d.message.body.to_vec()).unwrap(), d.claim))
        .collect()
}

/// What a child does with the parent's store; 0 when all is well.
fn child(store: &dyn Store, number: usize) -> i32 {
    // SAFETY: a child that hangs is killed and seen as such.
    unsafe { libc::alarm(60) };
    let queue: Name = format!("child{number}").into();
    let work = || {
        if store.is_connected() {
            return 2; // the parent's link is not ours
        }
        run(store.put(&queue, &[text(format!("c{number}"))])).unwrap();
        let got = take(store, &queue, 5);
        if got.len() != 1 || got[0].0 != format!("c{number}") {
            return 3;
        }
        run(store.ack(&[got[0].1.clone()])).unwrap();
        run(store.close()).unwrap();
        0
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(4)
}

#[test]
fn both_sides_go_on_after_a_fork() {
    let store = open(&format!("fork-test-{}:", std::process::id()));
    run(store.connect()).unwrap();
    let held_queue: Name = "held".into();
    run(store.put(&held_queue, &[text("held".into())])).unwrap();
    let held = take(&*store, &held_queue, 1);
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Load on the link at the moments of the forks: every answer is checked by its number.
        for thread in 0..2 {
            let (store, stop, rounds) = (&store, &stop, &rounds);
            scope.spawn(move || {
                let queue: Name = format!("load{thread}").into();
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    run(store.put(&queue, &[text(format!("{number}"))])).unwrap();
                    let got = take(&**store, &queue, 5);
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0].0, number.to_string());
                    run(store.ack(&[got[0].1.clone()])).unwrap();
                    number += 1;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(240);
        for number in 0..FORKS {
            // At a moment with load before it.
            let before = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) == before {
                assert!(Instant::now() < end, "the parent stalled before fork {number}");
                std::hint::spin_loop();
            }
            // SAFETY: the child uses the store, whose promise this is, and leaves by _exit.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            if pid == 0 {
                let code = child(&*store, number);
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(code) };
            }
            let mut status = 0;
            // SAFETY: waits for the child just made.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, 0, "child {number} ended with status {status:#x}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Nothing was given back or settled by a child.
    assert_eq!(take(&*store, &held_queue, 5).len(), 0);
    run(store.ack(&[held[0].1.clone()])).unwrap();
    run(store.close()).unwrap();
}
