//! Names that no other process makes.

use super::generation::PerProcess;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

fn make() -> String {
    // RandomState is seeded by the operating system once per thread and then counts up; process id
    // and time set processes apart that share a seed through fork.
    let word = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        hasher.write_u128(now.map_or(0, |age| age.as_nanos()));
        hasher.finish()
    };
    format!("{:016x}{:016x}", word(), word())
}

/// 32 hexadecimal digits that are this process's own, also right after a fork.
pub fn unique() -> Arc<String> {
    static PROCESS: PerProcess<Arc<String>> = PerProcess::new();
    PROCESS.get_or(|| Arc::new(make())).clone()
}
