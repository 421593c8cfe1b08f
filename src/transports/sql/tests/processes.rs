//! Several processes on one file; some are killed.

use super::*;
use std::process::{Child, Command, Stdio};

/// Runs [`helper`] in a process of its own.
pub(super) fn spawn(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", "transports::sql::tests::processes::helper", "--ignored", "--nocapture"])
        .env("KOMBU_SQL_TEST_ROLE", role)
        .env("KOMBU_SQL_TEST_FILE", path)
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary starts")
}

/// The other side of the tests below; run by them alone.
#[test]
#[ignore = "the other process of the tests in this file"]
fn helper() {
    let path = PathBuf::from(std::env::var_os("KOMBU_SQL_TEST_FILE").expect("set by the test"));
    let store = open(&path);
    match std::env::var("KOMBU_SQL_TEST_ROLE").expect("set by the test").as_str() {
        "claim and hang" => {
            assert_eq!(wait(&store, "q", 2).len(), 2);
            put(&store, "claimed", ["yes"]);
            loop {
                std::thread::park();
            }
        }
        "expect a lock" => {
            let other = stranger(&path);
            other.busy_timeout(Duration::ZERO).expect("no timeout");
            let busy = other.execute_batch("BEGIN IMMEDIATE").expect_err("it is locked");
            assert!(super::super::error::is_busy(&busy), "{busy}");
        }
        "put" => put(&store, "q", ["from another process"]),
        "put like stock" => {
            let other = stranger(&path);
            other
                .execute_batch(
                    "BEGIN;
                     INSERT OR IGNORE INTO kombu_queue (name) VALUES ('q');
                     INSERT INTO kombu_message (visible, timestamp, payload, version, queue_id)
                     SELECT 1, NULL, '{\"body\": \"c3RvY2s=\", \"content-encoding\": \"utf-8\", \
                     \"content-type\": \"text/plain\", \"headers\": {}, \"properties\": \
                     {\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}, \
                     \"body_encoding\": \"base64\", \"delivery_tag\": \"t\"}}', 1, id
                     FROM kombu_queue WHERE name = 'q';
                     COMMIT;",
                )
                .expect("the row is written");
        }
        "consume" => loop {
            let got = wait(&store, "q", 5);
            put(&store, "done", bodies(&got));
            ack(&store, &got);
        },
        other => panic!("unknown role {other}"),
    }
}

fn kill(mut child: Child) {
    child.kill().expect("SIGKILL");
    child.wait().expect("the end of the process");
}

pub(super) fn finish(mut child: Child) {
    assert!(child.wait().expect("the end of the process").success());
}

#[test]
fn a_killed_owner_loses_its_claims_at_once() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["one", "two"]);
    let claimant = spawn("claim and hang", &dir.database());
    wait(&store, "claimed", 1);
    assert!(get(&store, "q", 9).is_empty());
    assert_eq!(task::run(store.restore()).unwrap(), 0, "its owner is alive");
    let killed = Instant::now();
    kill(claimant);
    let got = wait(&store, "q", 9);
    assert!(killed.elapsed() < Duration::from_millis(1500), "took {:?}", killed.elapsed());
    assert_eq!(bodies(&got), ["one", "two"]);
    assert!(got.iter().all(|delivery| delivery.message.redelivered));
}

#[test]
fn claims_of_a_dead_run_come_back_when_the_next_one_starts() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["one", "two"]);
    let claimant = spawn("claim and hang", &dir.database());
    wait(&store, "claimed", 1);
    drop(store);
    kill(claimant);
    let next = open(&dir.database());
    assert_eq!(bodies(&get(&next, "q", 9)), ["one", "two"]);
}

#[test]
fn a_write_by_another_process_wakes() {
    for role in ["put", "put like stock"] {
        let dir = Dir::new();
        let store = open(&dir.database());
        assert!(get(&store, "q", 1).is_empty());
        let writer = spawn(role, &dir.database());
        assert_eq!(wait(&store, "q", 1).len(), 1);
        finish(writer);
    }
}

#[test]
fn an_idle_consumer_sleeps() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["x"]);
    let got = get(&store, "q", 1);
    ack(&store, &got);
    assert!(get(&store, "q", 1).is_empty());
    let queues = [queue("q")];
    let polls = std::cell::Cell::new(0);
    let until = Instant::now() + Duration::from_millis(700);
    task::run(async {
        let mut ready = std::pin::pin!(store.ready(&queues));
        let counted = std::future::poll_fn(|cx| {
            polls.set(polls.get() + 1);
            ready.as_mut().poll(cx)
        });
        assert!(task::timeout_at(until, counted).await.is_none(), "woken without cause");
        Ok(())
    })
    .unwrap();
    assert!(polls.get() <= 6, "polled {} times", polls.get());
}

#[test]
fn killed_consumers_lose_nothing() {
    let dir = Dir::new();
    let store = open(&dir.database());
    const COUNT: usize = 600;
    put(&store, "q", 0..COUNT);
    let mut consumers: Vec<Child> = (0..3).map(|_| spawn("consume", &dir.database())).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut kills = 0;
    while seen.len() < COUNT {
        let done = wait(&store, "done", 20);
        ack(&store, &done);
        seen.extend(bodies(&done).iter().map(|body| body.parse::<usize>().unwrap()));
        if seen.len() / 60 > kills {
            kills += 1;
            kill(consumers.remove(0));
            consumers.push(spawn("consume", &dir.database()));
        }
    }
    consumers.into_iter().for_each(kill);
    let check: String = stranger(&dir.database())
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
