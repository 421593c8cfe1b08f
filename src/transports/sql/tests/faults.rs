//! What is broken, locked, full or replaced.

use super::*;
use crate::error::ErrorKind;
use std::fs::File;

#[test]
fn a_file_that_is_no_database() {
    let dir = Dir::new();
    std::fs::write(dir.database(), "x".repeat(4096)).unwrap();
    let error = task::run(open(&dir.database()).connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("not a database"), "{error}");
    assert!(error.to_string().contains("broker.db"), "{error}");
}

#[test]
fn a_directory_that_is_missing() {
    let dir = Dir::new();
    let store = open(&dir.0.join("missing/broker.db"));
    let error = task::run(store.connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.to_string().contains("directory"), "{error}");
    std::fs::create_dir(dir.0.join("missing")).unwrap();
    task::run(store.connect()).expect("the directory has come to be");
}

#[test]
fn a_full_disk_puts_all_or_nothing() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["before"]);
    let limit = |pages: i64| {
        let inner = store.database.lock();
        let connection = inner.connection().unwrap();
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .expect("the limit is set");
    };
    limit(1); // SQLite keeps it at the present size
    let big = vec![message("small"), message("x".repeat(100_000))];
    let error = task::run(store.put(&"q".into(), &big)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    limit(1_000_000);
    assert_eq!(bodies(&get(&store, "q", 9)), ["before"]);
    task::run(store.put(&"q".into(), &big)).expect("there is space again");
}

#[test]
fn a_database_that_stays_locked() {
    let dir = Dir::new();
    let store = open_with(&dir.database(), &serde_json::json!({"busy_timeout": 0.2}));
    task::run(store.connect()).unwrap();
    let other = stranger(&dir.database());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = task::run(store.put(&"q".into(), &[message("x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.to_string().contains("locked"), "{error}");
    assert_eq!(size(&store, "q"), 0, "reading needs no lock");
    other.execute_batch("ROLLBACK").unwrap();
    put(&store, "q", ["x"]);
}

#[test]
fn a_lock_outlives_somebody_elses_close() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["x"]);
    let inner = store.database.lock();
    inner.connection().unwrap().execute_batch("BEGIN IMMEDIATE").unwrap();
    for suffix in ["", "-shm", "-wal"] {
        let name = format!("{}{suffix}", dir.database().display());
        drop(File::options().read(true).write(true).open(name).unwrap());
    }
    processes::finish(processes::spawn("expect a lock", &dir.database()));
    inner.connection().unwrap().execute_batch("COMMIT").unwrap();
}

#[test]
fn what_cannot_be_read_is_reported_once() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["good"]);
    stranger(&dir.database())
        .execute_batch("UPDATE kombu_message SET payload = '{\"body\": '")
        .unwrap();
    let options = GetOptions { max: 9, arm: false };
    let error = task::run(store.get(&[queue("q")], options)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    put(&store, "q", ["next"]);
    assert_eq!(bodies(&get(&store, "q", 9)), ["next"]);
    task::run(store.close()).unwrap();
    assert_eq!(size(&store, "q"), 1, "the unreadable one does not come back");
}

#[test]
fn a_claims_file_that_is_removed() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["held"]);
    let held = get(&store, "q", 1);
    let claims_file = format!("{}-claims", dir.database().display());
    std::fs::remove_file(&claims_file).unwrap();
    assert!(get(&store, "q", 1).is_empty()); // takes note of it, and locks anew
    assert!(Path::new(&claims_file).exists());
    assert_eq!(task::run(store.restore()).unwrap(), 0);
    ack(&store, &held);
    assert_eq!(size(&store, "q"), 0);
    drop(store);
    let count = "SELECT count(*) FROM kombu_message";
    let left: i64 = stranger(&dir.database()).query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_database_that_is_removed() {
    let dir = Dir::new();
    let store = open(&dir.database());
    put(&store, "q", ["gone"]);
    for suffix in ["", "-shm", "-wal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", dir.database().display()));
    }
    put(&store, "q", ["new"]);
    assert_eq!(bodies(&get(&store, "q", 9)), ["new"]);
    assert!(dir.database().exists());
}
