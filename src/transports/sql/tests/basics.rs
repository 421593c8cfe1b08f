//! One process, one store after the other.

use super::*;
use crate::error::ErrorKind;
use crate::model::{Binding, Exchange, ExchangeKind, Json, Queue, QueueOptions, Release};

fn rows(path: &Path) -> i64 {
    let count = "SELECT count(*) FROM kombu_message";
    stranger(path).query_row(count, [], |row| row.get(0)).expect("a count")
}

#[test]
fn first_in_first_out_and_acknowledged_rows_are_gone() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", 0..5);
    assert_eq!(size(&store, "q"), 5);
    let first = get(&store, "q", 3);
    assert_eq!(bodies(&first), ["0", "1", "2"]);
    assert_eq!(size(&store, "q"), 2);
    let second = get(&store, "q", 9);
    assert_eq!(bodies(&second), ["3", "4"]);
    assert!(get(&store, "q", 9).is_empty());
    ack(&store, &first);
    ack(&store, &second);
    assert!(first.iter().all(|d| !d.settled && !d.message.redelivered));
    drop(store);
    assert_eq!(rows(&dir.database()), 0);
}

#[test]
fn requeued_messages_come_first_and_are_marked() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", 0..4);
    let got = get(&store, "q", 3);
    task::run(store.release(&claims(&got[..1]), Release::Requeue)).unwrap();
    task::run(store.release(&claims(&got[1..2]), Release::Unseen)).unwrap();
    task::run(store.release(&claims(&got[2..]), Release::Discard)).unwrap();
    let again = get(&store, "q", 9);
    assert_eq!(bodies(&again), ["0", "1", "3"]);
    let marks: Vec<bool> = again.iter().map(|d| d.message.redelivered).collect();
    assert_eq!(marks, [true, false, false]);
    let plain = |d: &Delivery| (d.message.content_type.clone(), d.message.headers.clone());
    assert_eq!(plain(&again[1]), plain(&got[1]));
}

#[test]
fn what_a_closed_store_held_comes_back() {
    let dir = Dir::new();
    let (first, second) = (open(&dir.database()), open(&dir.database()));
    put(&first, "q", 0..3);
    assert_eq!(get(&first, "q", 2).len(), 2);
    assert_eq!(bodies(&get(&second, "q", 9)), ["2"]);
    task::run(first.close()).unwrap();
    assert_eq!(bodies(&get(&second, "q", 9)), ["0", "1"]);
    drop(second);
    assert!(!first.is_connected());
    assert_eq!(bodies(&get(&first, "q", 9)), ["0", "1", "2"], "and it opens again");
}

#[test]
fn another_store_cannot_settle_a_claim() {
    let dir = Dir::new();
    let (first, second) = (open(&dir.database()), open(&dir.database()));
    put(&first, "q", ["x"]);
    let got = get(&first, "q", 1);
    ack(&second, &got);
    task::run(second.release(&claims(&got), Release::Requeue)).unwrap();
    assert_eq!(size(&first, "q"), 0);
    task::run(first.release(&claims(&got), Release::Unseen)).unwrap();
    assert_eq!(size(&first, "q"), 1);
}

#[test]
fn no_ack_takes_for_good_and_queues_take_turns() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "a", ["a1", "a2"]);
    put(&store, "b", ["b1", "b2"]);
    let queues = [QueueRef { name: "b".into(), no_ack: true }, queue("a")];
    let got = task::run(store.get(&queues, GetOptions { max: 3, arm: false })).unwrap();
    assert_eq!(bodies(&got), ["b1", "a1", "b2"]);
    assert_eq!(got.iter().map(|d| d.settled).collect::<Vec<_>>(), [true, false, true]);
    task::run(store.close()).unwrap();
    assert_eq!(rows(&dir.database()), 2);
}

#[test]
fn queues_are_declared_purged_and_deleted() {
    let dir = Dir::new();
    let store = open(&dir.database());
    let declared = Queue {
        name: "q".into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        options: QueueOptions::default(),
    };
    let name = Name::from("q");
    assert!(!task::run(store.has_queue(&name)).unwrap());
    task::run(store.declare_queue(&declared)).unwrap();
    task::run(store.declare_queue(&declared)).unwrap();
    assert!(task::run(store.has_queue(&name)).unwrap());
    put(&store, "q", 0..3);
    let held = get(&store, "q", 1);
    assert_eq!(task::run(store.purge(&name)).unwrap(), 2);
    task::run(store.release(&claims(&held), Release::Requeue)).unwrap();
    assert_eq!(size(&store, "q"), 1, "a purge spares what is being worked on");
    task::run(store.delete_queue(&name)).unwrap();
    assert!(!task::run(store.has_queue(&name)).unwrap());
    assert_eq!(size(&store, "q"), 0);
    put(&store, "q", ["new"]);
    assert_eq!(bodies(&get(&store, "q", 1)), ["new"]);
}

#[test]
fn bindings_belong_to_the_process_and_path() {
    let dir = Dir::new();
    let exchange = Exchange {
        name: "ex".into(),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    };
    let binding = Binding {
        exchange: "ex".into(),
        routing_key: "a.#".into(),
        queue: "q".into(),
        arguments: Json::empty_object(),
    };
    let store = open(&dir.database());
    task::run(store.bind(&exchange, &binding)).unwrap();
    task::run(store.bind(&exchange, &binding)).unwrap();
    drop(store);
    let store = open(&dir.database());
    assert_eq!(task::run(store.bindings(&exchange)).unwrap(), std::slice::from_ref(&binding));
    let other = Dir::new();
    let elsewhere = open(&other.database());
    assert!(task::run(elsewhere.bindings(&exchange)).unwrap().is_empty());
    task::run(store.unbind(&exchange, &binding)).unwrap();
    assert!(task::run(store.bindings(&exchange)).unwrap().is_empty());
    let fanout = task::run(store.put_fanout(&"ex".into(), "", &message("x"))).unwrap_err();
    assert_eq!(fanout.kind(), ErrorKind::Unsupported);
}

#[test]
fn memory_is_shared_in_the_process() {
    let options = serde_json::Map::new();
    let open = move || {
        let url = Url::parse("sqla+sqlite:///:memory:").unwrap();
        SqlStore::new(Config::new(&url, &options).unwrap())
    };
    let (writer, reader) = (open(), open());
    put(&writer, "mem", ["kept"]);
    drop(writer);
    assert_eq!(bodies(&get(&reader, "mem", 1)), ["kept"]);
    assert!(get(&reader, "mem", 1).is_empty());
    let thread = std::thread::spawn(move || put(&open(), "mem", ["later"]));
    assert_eq!(bodies(&wait(&reader, "mem", 1)), ["later"]);
    thread.join().unwrap();
}

#[test]
fn other_table_names_are_other_queues() {
    let dir = Dir::new();
    let names = serde_json::json!({"queue_tablename": "jobs q", "message_tablename": "jobs m"});
    let (plain, named) = (open(&dir.database()), open_with(&dir.database(), &names));
    put(&plain, "q", ["plain"]);
    put(&named, "q", ["named"]);
    assert_eq!(bodies(&get(&named, "q", 9)), ["named"]);
    let found: String = stranger(&dir.database())
        .query_row("SELECT name FROM \"jobs q\"", [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, "q");
}

#[test]
fn threads_share_a_store() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", 0..400);
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let got = get(&store, "q", 7);
                        if got.is_empty() {
                            return mine;
                        }
                        ack(&store, &got);
                        mine.extend(bodies(&got).iter().map(|body| body.parse::<u32>().unwrap()));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
}
