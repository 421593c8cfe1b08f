//! The exchanges that were declared through a store.

use crate::io::fork::{self, ForkLock, Quiesce};
use crate::io::lock::Mutex;
use crate::model::{Exchange, Name};
use std::collections::HashMap;
use std::sync::{MutexGuard, Once};

/// Held together with any table's own lock, and by the forking thread over a fork: so a child finds
/// every table whole and unlocked. Without it a child could not know what its parent has declared,
/// and would take a topic exchange for a direct one.
static GATE: ForkLock<()> = ForkLock::new(());
static TAKE_PART: Once = Once::new();

struct AtFork;

impl Quiesce for AtFork {
    fn prepare(&self) {
        GATE.hold_for_fork();
    }

    fn resume_parent(&self) {
        GATE.release_in_parent();
    }

    fn resume_child(&self) {
        GATE.release_in_child();
    }
}

/// A table of declared exchanges. Most brokers under a [`super::Store`] know queues only, so the
/// types of exchanges live here: one table a connection, or one for all where the broker itself lives
/// in this process (memory).
#[derive(Debug)]
pub struct Exchanges(Mutex<HashMap<Name, Exchange>>);

impl Default for Exchanges {
    fn default() -> Self {
        TAKE_PART.call_once(|| fork::participate(&AtFork));
        Self(Mutex::default())
    }
}

impl Exchanges {
    fn with<T>(&self, work: impl FnOnce(MutexGuard<'_, HashMap<Name, Exchange>>) -> T) -> T {
        let _gate = GATE.lock();
        work(self.0.lock())
    }

    /// Takes over what `older` holds, also when that is a parent's.
    pub fn inherit(&self, older: &Self) {
        if std::ptr::eq(self, older) {
            return; // shared by all stores of one database
        }
        let known = older.with(|table| table.clone());
        self.with(|mut table| table.extend(known));
    }

    /// The exchange of that name, if it was declared.
    pub fn get(&self, name: &str) -> Option<Exchange> {
        self.with(|table| table.get(name).cloned())
    }

    /// Records a declaration.
    pub fn insert(&self, exchange: Exchange) {
        self.with(|mut table| table.insert(exchange.name.clone(), exchange));
    }

    /// Forgets a deleted exchange.
    pub fn remove(&self, name: &str) {
        self.with(|mut table| table.remove(name));
    }

    /// The names of all declared exchanges, in no particular order.
    pub fn names(&self) -> Vec<Name> {
        self.with(|table| table.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExchangeKind, Json};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn exchange(name: &str) -> Exchange {
        Exchange {
            name: name.into(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
            arguments: Json::empty_object(),
        }
    }

    #[test]
    fn inheriting_from_itself_changes_nothing() {
        let table = Exchanges::default();
        table.insert(exchange("a"));
        table.inherit(&table);
        assert_eq!(table.names(), ["a".into()]);
        let newer = Exchanges::default();
        newer.inherit(&table);
        assert_eq!(newer.get("a"), Some(exchange("a")));
    }

    #[test]
    fn every_child_knows_what_was_declared() {
        let table = Arc::new(Exchanges::default());
        table.insert(exchange("declared"));
        let stop = Arc::new(AtomicBool::new(false));
        let busy: Vec<_> = (0..3)
            .map(|_| {
                let (table, stop) = (table.clone(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Acquire) {
                        table.insert(exchange("other"));
                        table.remove("other");
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            // SAFETY: the child touches the tables only, and leaves with _exit.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: the default action of SIGALRM ends a child that hangs.
                unsafe { libc::alarm(20) };
                let mine = Exchanges::default();
                mine.inherit(&table);
                let known = mine.get("declared").is_some();
                // SAFETY: ends the child without running the test harness's exit code.
                unsafe { libc::_exit(i32::from(!known)) };
            }
            let mut status = 0;
            // SAFETY: waits for the child just made.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0, "the child hangs, or does not know the exchange");
        }
        stop.store(true, Ordering::Release);
        for thread in busy {
            thread.join().expect("no panic");
        }
    }
}
