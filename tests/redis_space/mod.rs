//! The server of the tests of Redis, and each test's own part of it.

use kombu_rs::transport::{Store, Url, schemes};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `host:port` of the server, from `KOMBU_RS_TEST_REDIS`.
pub fn server() -> String {
    let url = std::env::var("KOMBU_RS_TEST_REDIS")
        .expect("KOMBU_RS_TEST_REDIS must name a Redis server; `make test` starts one");
    let place = url.strip_prefix("redis://").unwrap_or(&url);
    place.split('/').next().unwrap_or(place).to_owned()
}

/// The prefix of a test's keys in database 1: stores opened by it share them, other tests do not see
/// them.
pub struct Space(pub String);

impl Space {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(format!("test{}-{number}-{}:", std::process::id(), now.as_nanos()))
    }

    /// A store with transport options, a JSON object.
    pub fn open_with(&self, options: Value) -> Arc<dyn Store> {
        self.open_at(&server(), options)
    }

    /// The same, over a proxy at `host:port`.
    pub fn open_at(&self, place: &str, options: Value) -> Arc<dyn Store> {
        let Value::Object(mut options) = options else { panic!("options are an object") };
        options.insert("global_keyprefix".into(), self.0.clone().into());
        schemes::open(&Url::parse(&format!("redis://{place}/1")).unwrap(), &options).unwrap()
    }
}
