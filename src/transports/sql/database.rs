//! One database file in this process: its only connection, its owners, its news.
//!
//! There is one connection to a file in a process, shared by its stores under a lock: SQLite
//! writes one transaction at a time anyway, and one connection is what makes the locks of `vfs`
//! sound. The lock is held for one transaction, never while waiting for other processes.
//!
//! Before a fork every connection is closed (the locks are held over the fork), so that neither a
//! descriptor, a mapping nor SQLite's table of open files crosses; both sides open again lazily.
//! Databases are never freed: their number is that of distinct paths, and the fork hooks and the
//! declared bindings need them for the life of the process.

use super::bindings::Bindings;
use super::claims::{ClaimsFile, Owner};
use super::config::{Config, Location, Synchronous};
use super::error::is_fatal;
use super::payload;
use super::schema::Schema;
use super::vfs;
use super::wake::Watch;
use crate::error::Error;
use crate::io::fork::{self, ForkGuard, ForkLock, Quiesce};
use crate::transport::Exchanges;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::task::Waker;
use std::time::{Duration, Instant};

/// From a write to the log until its commit can be seen, with a wide margin.
const SETTLE: Duration = Duration::from_millis(5);
/// From the closing of a dead process's files until its locks are gone, with a wide margin.
const LAST_BREATH: Duration = Duration::from_millis(20);
/// The safety check: news that no watch reported, dead owners.
const TICK: Duration = Duration::from_secs(2);
/// The same where the system refuses a watch.
const TICK_UNWATCHED: Duration = Duration::from_millis(50);
/// How long owners that are locked in another claims file have to move to this one.
const ELSEWHERE_GRACE: Duration = Duration::from_secs(30);
/// Messages of a dead owner that return in one transaction.
const RESTORE_BATCH: usize = 500;

/// Why a step did not work.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite says so; may be worth another try.
    Sql(rusqlite::Error),
    /// Anything else, as it is to be reported.
    Other(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

static ALL: ForkLock<Vec<&'static Database>> = ForkLock::new(Vec::new());
static TAKE_PART: Once = Once::new();

struct Databases;

impl Quiesce for Databases {
    fn prepare(&self) {
        ALL.hold_for_fork();
        // SAFETY: held since the line above.
        for database in unsafe { ALL.held_value() } {
            database.inner.hold_for_fork();
            // SAFETY: held since the line above.
            unsafe { database.inner.held_value() }.rest();
        }
    }

    fn resume_parent(&self) {
        // SAFETY: held since `prepare`.
        for database in unsafe { ALL.held_value() } {
            database.inner.release_in_parent();
        }
        ALL.release_in_parent();
    }

    fn resume_child(&self) {
        // SAFETY: held since `prepare`.
        for database in unsafe { ALL.held_value() } {
            database.inner.release_in_child();
        }
        ALL.release_in_child();
    }
}

/// One database in this process.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) location: Location,
    /// Declared in this process: like bindings, they are not in the database.
    pub(super) exchanges: Exchanges,
    inner: ForkLock<Inner>,
}

impl Database {
    /// The one for `location`.
    pub(super) fn at(location: &Location) -> &'static Self {
        TAKE_PART.call_once(|| fork::participate(&Databases));
        let mut all = ALL.lock();
        if let Some(known) = all.iter().find(|known| known.location == *location) {
            return known;
        }
        let inner = ForkLock::new(Inner::new(location.clone()));
        let made = Box::leak(Box::new(Self {
            location: location.clone(),
            exchanges: Exchanges::default(),
            inner,
        }));
        all.push(made);
        made
    }

    /// Its state, for one step.
    pub(super) fn lock(&self) -> ForkGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        inner.live_in_this_process();
        inner
    }
}

/// What is under the lock.
#[derive(Debug)]
pub(super) struct Inner {
    location: Location,
    generation: u64,
    connection: Option<Connection>,
    /// The file that it is connected to.
    identity: Option<(u64, u64)>,
    synchronous: Option<Synchronous>,
    claims: Option<ClaimsFile>,
    watch: Option<Watch>,
    unwatchable: bool,
    /// Stores in use: (store's number, owner number).
    owners: Vec<(u64, i64)>,
    last_store: u64,
    schemas: Vec<Arc<Schema>>,
    pub(super) bindings: Bindings,
    /// Raised whenever a queue may have got something.
    pub(super) epoch: u64,
    waiters: Vec<Waker>,
    last_rows: i64,
    look_at_log: Option<Instant>,
    restore_at: Option<Instant>,
    tick_at: Instant,
    elsewhere: HashMap<i64, Instant>,
    /// Messages of dead owners that were put back and that no store has counted yet.
    pub(super) restored: usize,
}

impl Inner {
    fn new(location: Location) -> Self {
        Self {
            location,
            generation: fork::generation(),
            connection: None,
            identity: None,
            synchronous: None,
            claims: None,
            watch: None,
            unwatchable: false,
            owners: Vec::new(),
            last_store: 0,
            schemas: Vec::new(),
            bindings: Bindings::default(),
            epoch: 1,
            waiters: Vec::new(),
            last_rows: 0,
            look_at_log: None,
            restore_at: None,
            tick_at: Instant::now(),
            elsewhere: HashMap::new(),
            restored: 0,
        }
    }

    /// Before a fork. Memory has nothing that two processes could share, and would be lost.
    fn rest(&mut self) {
        if self.location != Location::Memory {
            self.close_connection(true);
        }
    }

    fn close_connection(&mut self, keep_log: bool) {
        let Some(connection) = self.connection.take() else { return };
        if keep_log {
            // Without it the last one to close copies the whole log into the database.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        drop(connection);
        self.synchronous = None;
    }

    fn live_in_this_process(&mut self) {
        let generation = fork::generation();
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        self.waiters.clear();
        self.epoch += 1; // whoever was about to wait looks again
        if self.location != Location::Memory {
            // The parent's owners are alive elsewhere; its descriptors were closed at the fork.
            self.owners.clear();
            self.claims = None;
            self.watch = None;
        }
    }

    /// A number for a store, unique in the process.
    pub(super) fn attach(&mut self) -> Result<u64, Failure> {
        self.last_store += 1;
        let owner = match self.claims()? {
            Some(claims) => claims.new_owner()?,
            None => i64::try_from(self.last_store).unwrap_or(i64::MAX),
        };
        self.owners.push((self.last_store, owner));
        self.restore_at = Some(Instant::now()); // what an earlier run left behind
        Ok(self.last_store)
    }

    /// Ends a store: what it still holds returns, and the last one closes the file.
    pub(super) fn detach(&mut self, store: u64, schema: &Arc<Schema>) -> Result<(), Failure> {
        let Some(at) = self.owners.iter().position(|known| known.0 == store) else {
            return Ok(());
        };
        let returned = self.return_all(schema, self.owners[at].1);
        let (_, owner) = self.owners.swap_remove(at);
        if let Some(claims) = &self.claims {
            claims.release(owner); // if returning failed, others see a dead owner
        }
        if self.owners.is_empty() && self.location != Location::Memory {
            self.close_connection(false);
            self.claims = None;
            self.watch = None;
            self.schemas.clear();
        }
        returned
    }

    fn return_all(&mut self, schema: &Schema, owner: i64) -> Result<(), Failure> {
        while self.restore_batch(schema, owner)? == RESTORE_BATCH {}
        Ok(())
    }

    /// The owner number of an attached store.
    pub(super) fn owner(&self, store: u64) -> Option<i64> {
        self.owners.iter().find(|known| known.0 == store).map(|known| known.1)
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Opens the connection if there is none, with the tables of `schema`.
    pub(super) fn open(&mut self, config: &Config, schema: &Arc<Schema>) -> Result<(), Failure> {
        if self.connection.is_some() && self.identity != identity(&self.location) {
            // Somebody removed or replaced the file: what we write would be gone with it.
            tracing::warn!("the SQLite database {} was replaced; opening it anew", self.location);
            self.close_connection(true);
            self.epoch += 1;
        }
        if self.connection.is_none() {
            let connection = connect(&self.location)?;
            for known in &self.schemas {
                known.create(&connection)?;
            }
            self.connection = Some(connection);
            self.identity = identity(&self.location);
        }
        if !self.schemas.iter().any(|known| known.is_same(schema)) {
            schema.create(self.connection()?)?;
            self.schemas.push(schema.clone());
        }
        self.claims()?;
        let wanted = self.synchronous.map_or(config.synchronous, |known| {
            if known == Synchronous::Full { known } else { config.synchronous }
        });
        if self.synchronous != Some(wanted) {
            let value = match wanted {
                Synchronous::Normal => "NORMAL",
                Synchronous::Full => "FULL",
            };
            self.connection()?.pragma_update(None, "synchronous", value)?;
            self.synchronous = Some(wanted);
        }
        Ok(())
    }

    /// The open connection.
    pub(super) fn connection(&self) -> Result<&Connection, Failure> {
        self.connection
            .as_ref()
            .ok_or_else(|| Failure::Other(Error::closed("the SQLite connection is not open")))
    }

    fn claims(&mut self) -> Result<Option<&ClaimsFile>, Failure> {
        let Location::File(path) = &self.location else { return Ok(None) };
        if self.claims.is_none() {
            let claims = ClaimsFile::open(path)?;
            self.watch = match Watch::new(claims.path(), log_path(path, &self.connection)) {
                Ok(watch) => Some(watch),
                Err(error) => {
                    if !std::mem::replace(&mut self.unwatchable, true) {
                        tracing::warn!(
                            "inotify is not available for {} ({error}): looking for messages \
                             {} times a second instead",
                            self.location,
                            1000 / TICK_UNWATCHED.as_millis(),
                        );
                    }
                    None
                }
            };
            self.claims = Some(claims);
        }
        Ok(self.claims.as_ref())
    }

    /// Runs `work` in a write transaction. Nothing of it stays when it fails.
    pub(super) fn transaction<R>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, Failure> {
        let connection = self.connection()?;
        let done = run_transaction(connection, work);
        if let Err(error) = &done {
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            if is_fatal(error) && self.location != Location::Memory {
                self.close_connection(true);
            }
        }
        Ok(done?)
    }

    /// Messages were put: tells other processes, and those who wait here.
    pub(super) fn ring(&mut self) -> Vec<Waker> {
        if let Some(claims) = &self.claims {
            claims.ring();
            if self.watch.is_some() {
                return Vec::new(); // our own watch rings too
            }
        }
        self.announce()
    }

    /// A queue may have got something. The wakers are to be woken without the lock.
    fn announce(&mut self) -> Vec<Waker> {
        self.epoch += 1;
        std::mem::take(&mut self.waiters)
    }

    /// Makes sure that a write after this call raises the epoch.
    pub(super) fn arm(&mut self) -> Result<Vec<Waker>, Failure> {
        if let Some(watch) = &mut self.watch {
            watch.arm_log();
        }
        self.note_rows()
    }

    /// Raises the epoch if rows were added since the last look.
    fn note_rows(&mut self) -> Result<Vec<Waker>, Failure> {
        let rows: f64 = self
            .connection()?
            .prepare_cached("SELECT total(seq) FROM sqlite_sequence")?
            .query_row([], |row| row.get(0))?;
        let rows = rows as i64;
        if std::mem::replace(&mut self.last_rows, rows) == rows {
            return Ok(Vec::new());
        }
        Ok(self.announce())
    }

    /// [`Self::catch_up`] for those who have no time to wait: the safety check alone.
    pub(super) fn catch_up_if_due(&mut self, now: Instant) -> Result<Vec<Waker>, Failure> {
        if self.tick_at <= now { self.catch_up(now) } else { Ok(Vec::new()) }
    }

    /// Takes note of what happened and does what is due.
    pub(super) fn catch_up(&mut self, now: Instant) -> Result<Vec<Waker>, Failure> {
        let mut woken = Vec::new();
        if let Some(watch) = &mut self.watch {
            let news = watch.drain();
            if news.bell {
                woken.extend(self.announce());
            }
            if news.log {
                self.look_at_log.get_or_insert(now + SETTLE);
            }
            if news.death {
                self.restore_at = Some(now + LAST_BREATH);
            }
            if news.moved {
                self.tick_at = now;
            }
        }
        if is_due(&mut self.look_at_log, now) {
            woken.extend(self.arm()?);
        }
        if self.tick_at <= now {
            self.tick_at = now + if self.watch.is_some() { TICK } else { TICK_UNWATCHED };
            self.keep_claims_in_place()?;
            woken.extend(self.arm()?);
            self.restore_at.get_or_insert(now);
        }
        if is_due(&mut self.restore_at, now) {
            match self.restore_dead(now) {
                Ok(0) => {}
                Ok(_) => {
                    self.restore_at = Some(now); // there may be more
                    woken.extend(self.ring());
                    woken.extend(self.announce());
                }
                Err(Failure::Sql(error)) if super::error::is_busy(&error) => {
                    self.restore_at = Some(now + LAST_BREATH);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(woken)
    }

    /// Registers a waiting caller: what to watch, and when to look again at the latest.
    pub(super) fn wait(&mut self, waker: &Waker) -> (Option<i32>, Instant) {
        if !self.waiters.iter().any(|known| known.will_wake(waker)) {
            self.waiters.push(waker.clone());
        }
        let due = [self.look_at_log, self.restore_at].into_iter().flatten();
        (self.watch.as_ref().map(Watch::fd), due.fold(self.tick_at, Instant::min))
    }

    /// Returns up to a batch of messages of each dead owner; how many altogether.
    pub(super) fn restore_dead(&mut self, now: Instant) -> Result<usize, Failure> {
        if self.claims.is_none() {
            return Ok(0);
        }
        let mut restored = 0;
        for schema in self.schemas.clone() {
            let owners: Vec<i64> = self
                .connection()?
                .prepare_cached(&schema.owners)?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for owner in owners {
                if self.is_dead(owner, now) {
                    restored += self.restore_batch(&schema, owner)?;
                }
            }
        }
        self.restored += restored;
        Ok(restored)
    }

    fn is_dead(&mut self, owner: i64, now: Instant) -> bool {
        let Some(claims) = &self.claims else { return false };
        if self.owners.iter().any(|known| known.1 == owner) {
            return false;
        }
        match claims.look_up(owner) {
            Owner::Alive => false,
            Owner::Dead => true,
            Owner::Elsewhere => {
                now.duration_since(*self.elsewhere.entry(owner).or_insert(now)) >= ELSEWHERE_GRACE
            }
        }
    }

    fn restore_batch(&mut self, schema: &Schema, owner: i64) -> Result<usize, Failure> {
        self.transaction(|connection| {
            let rows: Vec<(i64, Option<String>)> = connection
                .prepare_cached(&schema.claimed_by)?
                .query_map((owner, RESTORE_BATCH as i64), |row| {
                    let payload = row.get_ref(1)?.as_bytes().unwrap_or_default();
                    Ok((row.get(0)?, payload::mark_redelivered(payload)))
                })?
                .collect::<rusqlite::Result<_>>()?;
            for (id, changed) in &rows {
                unclaim(connection, schema, *id, owner, changed.as_deref())?;
            }
            Ok(rows.len())
        })
    }

    /// If somebody removed the claims file, moves our owners to a new one.
    fn keep_claims_in_place(&mut self) -> Result<(), Failure> {
        if self.claims.as_ref().is_none_or(ClaimsFile::is_in_place) {
            return Ok(());
        }
        tracing::warn!("the claims file of {} was replaced; taking locks anew", self.location);
        let old = self.claims.take();
        self.watch = None;
        let owners = self.owners.clone();
        let Some(claims) = self.claims()? else { return Ok(()) };
        let moves = owners
            .iter()
            .map(|&(store, owner)| Ok((store, owner, claims.new_owner()?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let schemas = self.schemas.clone();
        self.transaction(|connection| {
            for schema in &schemas {
                let mut rename = connection.prepare_cached(&schema.rename_owner)?;
                for (_, from, to) in &moves {
                    rename.execute((to, from))?;
                }
            }
            Ok(())
        })
        .inspect_err(|_| self.claims = old)?;
        self.owners = moves.into_iter().map(|(store, _, to)| (store, to)).collect();
        Ok(())
    }
}

/// Makes a claimed message ready again, with another payload if one is given.
pub(super) fn unclaim(
    connection: &Connection,
    schema: &Schema,
    id: i64,
    owner: i64,
    changed: Option<&str>,
) -> rusqlite::Result<usize> {
    match changed {
        Some(payload) => {
            connection.prepare_cached(&schema.unclaim_changed)?.execute((id, owner, payload))
        }
        None => connection.prepare_cached(&schema.unclaim)?.execute((id, owner)),
    }
}

/// Device and inode of the database's file; `None` for memory and for a file that is not there.
fn identity(location: &Location) -> Option<(u64, u64)> {
    let Location::File(path) = location else { return None };
    std::fs::metadata(path).ok().map(|known| (known.dev(), known.ino()))
}

fn is_due(when: &mut Option<Instant>, now: Instant) -> bool {
    when.take_if(|when| *when <= now).is_some()
}

fn run_transaction<R>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
) -> rusqlite::Result<R> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let result = work(connection)?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(result)
}

fn connect(location: &Location) -> rusqlite::Result<Connection> {
    vfs::install();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = match location {
        Location::File(path) => Connection::open_with_flags(path, flags)?,
        Location::Memory => Connection::open_in_memory_with_flags(flags)?,
    };
    // A few short sleeps here spare a detour over the caller's event loop for the usual case,
    // somebody else's transaction of some 100 microseconds; the rest of the waiting is the
    // caller's, who can do something else meanwhile.
    connection.busy_handler(Some(|tries: i32| {
        let again = tries < 8;
        if again {
            std::thread::sleep(Duration::from_micros(50 * (u64::try_from(tries).unwrap_or(0) + 1)));
        }
        again
    }))?;
    connection.set_prepared_statement_cache_capacity(64);
    // SQLAlchemy does not check foreign keys either; without an index on them a check is a scan.
    connection.pragma_update(None, "foreign_keys", false)?;
    // Answers with the mode that is in force: a file system without shared memory keeps another,
    // which works as well, only slower.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // Each message changes the same few pages again and again: the longer the log may grow, the
    // fewer of them are copied and synced. 4,000 pages are 16 MB.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 4000, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 32 * 1024 * 1024, |_| Ok(()))?;
    Ok(connection)
}

/// The file that changes with every transaction.
fn log_path(database: &std::path::Path, connection: &Option<Connection>) -> PathBuf {
    let wal = connection.as_ref().is_none_or(|connection| {
        connection
            .pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))
            .is_ok_and(|mode| mode == "wal")
    });
    if !wal {
        return database.to_owned();
    }
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}
