//! Against real files in temporary directories.

mod basics;
mod faults;
mod forks;
mod processes;

use super::SqlStore;
use super::config::Config;
use crate::io::task;
use crate::model::{Claim, Delivery, Message, Name};
use crate::transport::{GetOptions, QueueRef, Store, Url};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No condition takes longer than this, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kombu-sql-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("broker.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> SqlStore {
    open_with(path, &serde_json::json!({}))
}

fn open_with(path: &Path, options: &serde_json::Value) -> SqlStore {
    let url = Url::parse(&format!("sqla+sqlite:///{}", path.display())).expect("a URL");
    let options = options.as_object().expect("an object");
    SqlStore::new(Config::new(&url, options).expect("a configuration"))
}

fn queue(name: &str) -> QueueRef {
    QueueRef { name: name.into(), no_ack: false }
}

fn message(body: impl ToString) -> Message {
    Message {
        body: body.to_string().into_bytes().into(),
        content_type: Some("text/plain".into()),
        content_encoding: Some("utf-8".into()),
        ..Message::default()
    }
}

fn put(store: &SqlStore, name: &str, bodies: impl IntoIterator<Item = impl ToString>) {
    let messages: Vec<Message> = bodies.into_iter().map(message).collect();
    task::run(store.put(&Name::from(name), &messages)).expect("messages are put");
}

fn get(store: &SqlStore, name: &str, max: usize) -> Vec<Delivery> {
    task::run(store.get(&[queue(name)], GetOptions { max, arm: true })).expect("messages are taken")
}

/// Waits for messages as a consumer does, through `ready`.
fn wait(store: &SqlStore, name: &str, max: usize) -> Vec<Delivery> {
    let limit = Instant::now() + LIMIT;
    task::run(async {
        loop {
            let got = store.get(&[queue(name)], GetOptions { max, arm: true }).await?;
            if !got.is_empty() {
                return Ok(got);
            }
            let queues = [queue(name)];
            let woken = task::timeout_at(limit, store.ready(&queues)).await;
            woken.expect("a message within the limit")?;
        }
    })
    .expect("messages are taken")
}

fn ack(store: &SqlStore, deliveries: &[Delivery]) {
    task::run(store.ack(&claims(deliveries))).expect("messages are acknowledged");
}

fn claims(deliveries: &[Delivery]) -> Vec<Claim> {
    deliveries.iter().map(|delivery| delivery.claim.clone()).collect()
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8_lossy(&d.message.body).into_owned()).collect()
}

fn size(store: &SqlStore, name: &str) -> u64 {
    task::run(store.size(&Name::from(name))).expect("messages are counted")
}

/// A second connection, to look into the file or to lock it. Not quite like another process's, as
/// SQLite keeps one table of locks in a process.
fn stranger(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).expect("the file opens");
    connection.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    connection
}
