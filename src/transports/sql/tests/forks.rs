//! fork(2) with live stores: both sides go on using the file.

use super::*;
use std::sync::atomic::AtomicBool;

/// Runs `work` in a forked child and returns its process id. The child ends without unwinding into
/// the test harness; 0 is success.
fn fork(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs on this thread alone and ends with _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends the process without running anything else.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    pid
}

fn join(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child ended with {status}");
}

#[test]
fn a_child_neither_returns_nor_settles_what_its_parent_holds() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["held", "free"]);
    let held = get(&store, "q", 1);
    join(fork(|| {
        ack(&store, &held);
        assert_eq!(task::run(store.restore()).unwrap(), 0);
        assert_eq!(bodies(&get(&store, "q", 9)), ["free"]);
        task::run(store.close()).unwrap();
    }));
    // The child's claim came back with its close, the parent's never went.
    assert_eq!(bodies(&get(&store, "q", 9)), ["free"]);
    ack(&store, &held);
    assert_eq!(size(&store, "q"), 0);
}

#[test]
fn a_child_does_not_keep_its_parents_claims_alive() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["x"]);
    // A parent that claims, forks a child that stays, and dies.
    let parent = fork(|| {
        let own = open(&dir.database());
        assert_eq!(get(&own, "q", 1).len(), 1);
        fork(|| {
            put(&own, "child", ["up"]);
            assert_eq!(bodies(&wait(&own, "stop", 1)), ["now"]);
        });
        wait(&own, "child", 1);
        // SAFETY: dies as by kill -9, with its child alive.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(parent, &raw mut status, 0) };
    assert_eq!(bodies(&wait(&store, "q", 1)), ["x"]);
    put(&store, "stop", ["now"]);
    // "child" went back when its taker died; the grandchild takes "stop" and ends.
    let limit = Instant::now() + LIMIT;
    while size(&store, "stop") > 0 {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
}

#[test]
fn forks_under_load_lose_nothing() {
    const FORKS: usize = 60;
    let dir = Dir::new();
    let store = open(&dir.database());
    let stop = AtomicBool::new(false);
    let put_by_threads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    put(&store, "load", ["x"]);
                    put_by_threads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut children = Vec::new();
        for number in 0..FORKS {
            children.push(fork(|| put(&store, "forked", [number])));
            put(&store, "parent", [number]);
            if children.len() == 4 {
                join(children.remove(0));
            }
        }
        children.into_iter().for_each(join);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(size(&store, "load"), put_by_threads.load(Ordering::Relaxed));
    for name in ["forked", "parent"] {
        let mut found: Vec<usize> =
            bodies(&get(&store, name, 10_000)).iter().map(|body| body.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, (0..FORKS).collect::<Vec<_>>(), "{name}");
    }
    drop(store);
    let check: String = stranger(&dir.database())
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
