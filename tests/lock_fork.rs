//! Children that are forked while threads compete for a mutex. Alone in its process: a thread that
//! comes or goes at the moment of a fork holds a lock of the standard library's (its table of stacks,
//! which only programs in Rust have), and the child's threads would wait for it.

use kombu_rs::io::lock::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CHILDREN: usize = 60;
const THREADS: usize = 8;

/// Threads that compete for two mutexes, so that most of the time some are asleep.
fn compete(rounds: usize, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    let locks: Arc<[Mutex<usize>; 2]> = Arc::default();
    let thread = |start: usize| {
        let (locks, stop) = (locks.clone(), stop.clone());
        std::thread::spawn(move || {
            for round in start..start.saturating_add(rounds) {
                let mut count = locks[round % 2].lock();
                *count += 1;
                std::thread::sleep(Duration::from_micros(1)); // the others fall asleep
                drop(count);
                if stop.load(Ordering::Acquire) {
                    return;
                }
            }
        })
    };
    (0..THREADS).map(thread).collect()
}

fn join(threads: Vec<std::thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn children_of_competing_threads_do_not_hang() {
    let stop = Arc::new(AtomicBool::new(false));
    let busy = compete(usize::MAX, &stop);
    for _ in 0..CHILDREN {
        // SAFETY: the child uses threads and fresh mutexes only, and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the default action of SIGALRM ends a child that hangs.
            unsafe { libc::alarm(20) };
            join(compete(20, &Arc::default()));
            // SAFETY: ends the child without running the test harness's exit code.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "a child hangs");
    }
    stop.store(true, Ordering::Release);
    join(busy);
}
