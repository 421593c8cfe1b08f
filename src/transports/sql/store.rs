//! The store: every operation is one transaction.

use super::config::Config;
use super::database::{Database, Failure, Inner, unclaim};
use super::error::{convert, is_busy};
use super::payload;
use super::schema::Schema;
use super::take::{Taken, take_in_turn};
use crate::codec::envelope;
use crate::error::{Error, Result};
use crate::io::fork;
use crate::io::task;
use crate::model::{Binding, Claim, Delivery, Exchange, Message, Name, Queue, Release};
use crate::transport::schemes::Options;
use crate::transport::{Capability, Counters, Exchanges, GetOptions, QueueRef, Store, Url};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The longest pause between two tries on a locked database.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Makes a store from `sqla+sqlite:///...` and the transport options. Nothing is opened yet.
///
/// # Errors
/// `Unsupported` for other SQL dialects, `Invalid` or `Type` naming the URL part or the option.
pub fn open(url: &Url, options: &Options) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(SqlStore::new(Config::new(url, options)?)))
}

/// A [`Store`] on Kombu's tables in an SQLite file.
#[derive(Debug)]
pub struct SqlStore {
    config: Config,
    schema: Arc<Schema>,
    pub(super) database: &'static Database,
    /// Its number at the database, 0 when not attached, and the process that it was attached in.
    number: AtomicU64,
    generation: AtomicU64,
    /// The last `get` found something, so the next one need not look before it takes.
    flowing: AtomicBool,
    /// The database's epoch before the last `get` that found nothing.
    armed: AtomicU64,
    counters: Counters,
}

/// The state of the database with this store attached, its connection open.
struct Session<'a> {
    inner: fork::ForkGuard<'a, Inner>,
    owner: i64,
}

impl SqlStore {
    pub(super) fn new(config: Config) -> Self {
        Self {
            schema: Arc::new(Schema::new(&config.queue_table, &config.message_table)),
            database: Database::at(&config.location),
            config,
            number: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            flowing: AtomicBool::new(false),
            armed: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    fn count_restored(&self, session: &mut Session<'_>) {
        self.counters.restored.add(std::mem::take(&mut session.inner.restored));
    }

    fn is_attached(&self) -> bool {
        // Under the database's lock, so the two need no order of their own.
        self.number.load(Ordering::Relaxed) != 0
            && self.generation.load(Ordering::Relaxed) == fork::generation()
    }

    fn enter(&self) -> Result<Session<'_>, Failure> {
        let mut inner = self.database.lock();
        inner.open(&self.config, &self.schema)?;
        if !self.is_attached() {
            let number = inner.attach()?;
            self.number.store(number, Ordering::Relaxed);
            self.generation.store(fork::generation(), Ordering::Relaxed);
        }
        let owner = inner
            .owner(self.number.load(Ordering::Relaxed))
            .ok_or_else(|| Error::internal("a store without an owner number"))?;
        Ok(Session { inner, owner })
    }

    fn leave(&self) -> Result<(), Failure> {
        let mut inner = self.database.lock();
        if !self.is_attached() {
            return Ok(());
        }
        let number = self.number.swap(0, Ordering::Relaxed);
        // Without a connection (closed at a fork) there may still be claims to return.
        let opened = inner.open(&self.config, &self.schema);
        let detached = inner.detach(number, &self.schema);
        let woken = inner.ring();
        drop(inner);
        wake(woken);
        opened.and(detached)
    }

    /// Runs `step` until the database is not locked by others, at most for the busy timeout.
    async fn patiently<R>(
        &self,
        operation: &str,
        mut step: impl FnMut(Session<'_>) -> Result<R, Failure> + Send,
    ) -> Result<R> {
        let deadline = Instant::now() + self.config.busy_timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            match self.enter().and_then(&mut step) {
                Ok(result) => return Ok(result),
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Sql(error)) => {
                    if !is_busy(&error) || Instant::now() >= deadline {
                        return Err(convert(operation, &self.database.location, error));
                    }
                }
            }
            task::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A write transaction; afterwards waiting consumers are told if `work` says so.
    async fn write<R: Send>(
        &self,
        operation: &str,
        mut work: impl FnMut(&Connection, &Schema, i64) -> rusqlite::Result<(R, bool)> + Send,
    ) -> Result<R> {
        self.patiently(operation, |mut session| {
            let owner = session.owner;
            let (result, news) =
                session.inner.transaction(|connection| work(connection, &self.schema, owner))?;
            if news {
                let woken = session.inner.ring();
                drop(session);
                wake(woken);
            }
            Ok(result)
        })
        .await
    }

    /// Looks for messages without locking; arms the wake-up first. Whether there is something.
    fn look(
        &self,
        queues: &[QueueRef],
        arm: bool,
        mut session: Session<'_>,
    ) -> Result<bool, Failure> {
        let mut woken = session.inner.catch_up(Instant::now())?;
        if arm {
            woken.extend(session.inner.arm()?);
            self.armed.store(session.inner.epoch, Ordering::Relaxed);
        }
        let mut any = false;
        {
            let mut statement =
                session.inner.connection()?.prepare_cached(&self.schema.any_ready)?;
            for queue in queues {
                any = any || statement.exists([&*queue.name])?;
            }
        }
        drop(session);
        wake(woken);
        Ok(any)
    }

    /// Claims what is ready, in one transaction.
    async fn take(&self, queues: &[QueueRef], max: usize) -> Result<Vec<Taken>> {
        self.write("taking messages", |connection, schema, owner| {
            let taken = take_in_turn(connection, schema, owner, queues, max.max(1))?;
            Ok((taken, false))
        })
        .await
    }

    /// Puts aside what cannot be read, so that it is not tried for ever.
    async fn set_aside(&self, ids: &[i64]) -> Result<()> {
        self.write("setting unreadable messages aside", |connection, schema, _| {
            let mut statement = connection.prepare_cached(&schema.set_aside)?;
            for id in ids {
                statement.execute([id])?;
            }
            Ok(((), false))
        })
        .await
    }
}

impl Drop for SqlStore {
    fn drop(&mut self) {
        // What cannot be returned now is restored by the next worker that looks.
        let _ = self.leave();
    }
}

fn wake(woken: Vec<Waker>) {
    for waker in woken {
        waker.wake();
    }
}

/// The row that a claim is about.
fn row_id(claim: &Claim) -> Result<i64> {
    claim.tag.parse().map_err(|_| {
        Error::invalid(format!("{:?} is not a delivery tag of an SQL broker", &*claim.tag))
    })
}

fn row_ids(claims: &[Claim]) -> Result<Vec<i64>> {
    claims.iter().map(row_id).collect()
}

fn queue_id(connection: &Connection, schema: &Schema, queue: &Name) -> rusqlite::Result<i64> {
    let find = || {
        connection
            .prepare_cached(&schema.find_queue)?
            .query_row([&**queue], |row| row.get(0))
            .optional()
    };
    if let Some(known) = find()? {
        return Ok(known);
    }
    connection.prepare_cached(&schema.insert_queue)?.execute([&**queue])?;
    Ok(connection.last_insert_rowid())
}

#[async_trait]
impl Store for SqlStore {
    fn capability(&self) -> Capability {
        Capability {
            fanout: false,
            priority: false,
            notify: true,
            durable: true,
            shared_bindings: false,
            batch: true,
            ordered: true,
            ..Capability::default()
        }
    }

    fn exchanges(&self) -> &Exchanges {
        &self.database.exchanges
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    async fn connect(&self) -> Result<()> {
        self.patiently("opening the database", |_| Ok(())).await
    }

    fn is_connected(&self) -> bool {
        let inner = self.database.lock();
        self.is_attached() && inner.is_open()
    }

    async fn close(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            match self.leave() {
                Ok(()) => return Ok(()),
                Err(Failure::Other(error)) => return Err(error),
                // Already detached: its claims come back as those of a dead owner.
                Err(Failure::Sql(error)) if is_busy(&error) && tries < 1 => tries += 1,
                Err(Failure::Sql(error)) => {
                    return Err(convert("closing", &self.database.location, error));
                }
            }
        }
    }

    async fn put(&self, queue: &Name, messages: &[Message]) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let payloads = messages
            .iter()
            .map(|message| String::from_utf8(envelope::encode(message)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::internal("an envelope is not text").with_source(error))?;
        self.write("putting messages", |connection, schema, _| {
            let queue = queue_id(connection, schema, queue)?;
            let mut statement = connection.prepare_cached(&schema.insert_message)?;
            for payload in &payloads {
                statement.execute((payload, queue))?;
            }
            Ok(((), true))
        })
        .await
    }

    async fn put_fanout(&self, exchange: &Name, _: &str, _: &Message) -> Result<()> {
        Err(Error::unsupported(format!(
            "fanout exchange {exchange:?}: SQL brokers have direct and topic exchanges only"
        )))
    }

    async fn get(&self, queues: &[QueueRef], options: GetOptions) -> Result<Vec<Delivery>> {
        let mut taken = Vec::new();
        if self.flowing.load(Ordering::Relaxed) {
            self.patiently("looking after dead owners", |mut session| {
                let woken = session.inner.catch_up_if_due(Instant::now())?;
                self.count_restored(&mut session);
                drop(session);
                wake(woken);
                Ok(())
            })
            .await?;
            taken = self.take(queues, options.max).await?;
        }
        if taken.is_empty() {
            // Looking needs no lock: an idle consumer does not get in anybody's way.
            let found = self
                .patiently("looking for messages", |session| {
                    self.look(queues, options.arm, session)
                })
                .await?;
            if found {
                taken = self.take(queues, options.max).await?;
            }
        }
        self.flowing.store(!taken.is_empty(), Ordering::Relaxed);
        let mut deliveries = Vec::with_capacity(taken.len());
        let mut unreadable: Option<(Error, Vec<i64>)> = None;
        for row in taken {
            let queue = &queues[row.queue];
            match envelope::decode(row.payload) {
                Ok(message) => deliveries.push(Delivery {
                    message,
                    claim: Claim {
                        tag: row.id.to_string().into(),
                        queue: queue.name.clone(),
                        handle: Bytes::new(),
                    },
                    settled: queue.no_ack,
                }),
                Err(error) => {
                    tracing::error!(
                        "message {} in queue {:?} of {} is set aside: {error}",
                        row.id,
                        &*queue.name,
                        self.database.location
                    );
                    unreadable.get_or_insert((error, Vec::new())).1.push(row.id);
                }
            }
        }
        if let Some((error, ids)) = unreadable {
            self.set_aside(&ids).await?;
            if deliveries.is_empty() {
                return Err(error);
            }
        }
        Ok(deliveries)
    }

    async fn ready(&self, _queues: &[QueueRef]) -> Result<()> {
        // Not `async`: nothing is held between two polls, so it can be dropped at any time.
        std::future::poll_fn(|cx| {
            let now = Instant::now();
            let step = self.enter().and_then(|mut session| {
                let mut woken = session.inner.catch_up(now)?;
                self.count_restored(&mut session);
                if session.inner.epoch != self.armed.load(Ordering::Relaxed) {
                    drop(session);
                    wake(woken);
                    return Ok(Poll::Ready(Ok(())));
                }
                let (fd, until) = session.inner.wait(cx.waker());
                drop(session);
                woken.retain(|waker| !waker.will_wake(cx.waker()));
                wake(woken);
                if let Some(fd) = fd {
                    task::watch_fd(fd, task::Interest::READ);
                }
                task::watch_until(until);
                Ok(Poll::Pending)
            });
            match step {
                Ok(poll) => poll,
                Err(Failure::Sql(error)) if is_busy(&error) => {
                    task::watch_until(now + LONGEST_PAUSE);
                    Poll::Pending
                }
                Err(Failure::Sql(error)) => Poll::Ready(Err(convert(
                    "waiting for messages",
                    &self.database.location,
                    error,
                ))),
                Err(Failure::Other(error)) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<()> {
        let ids = row_ids(claims)?;
        if ids.is_empty() {
            return Ok(());
        }
        self.write("acknowledging messages", |connection, schema, owner| {
            let mut statement = connection.prepare_cached(&schema.settle)?;
            for id in &ids {
                statement.execute([*id, owner])?;
            }
            Ok(((), false))
        })
        .await
    }

    async fn release(&self, claims: &[Claim], how: Release) -> Result<()> {
        if how == Release::Discard {
            return self.ack(claims).await;
        }
        let ids = row_ids(claims)?;
        if ids.is_empty() {
            return Ok(());
        }
        self.write("returning messages", |connection, schema, owner| {
            for id in &ids {
                let mut changed = None;
                if how != Release::Unseen {
                    changed = connection
                        .prepare_cached(&schema.claimed_payload)?
                        .query_row([*id, owner], |row| {
                            let payload = row.get_ref(0)?.as_bytes().unwrap_or_default();
                            Ok(payload::mark_redelivered(payload))
                        })
                        .optional()?
                        .flatten();
                }
                if let (Release::Behind, Some(payload)) = (how, &changed) {
                    let moved = (*id, owner, payload);
                    connection.prepare_cached(&schema.append_changed)?.execute(moved)?;
                    connection.prepare_cached(&schema.settle)?.execute([*id, owner])?;
                    continue;
                }
                unclaim(connection, schema, *id, owner, changed.as_deref())?;
            }
            Ok(((), true))
        })
        .await
    }

    async fn renew(&self, _: &[Claim]) -> Result<()> {
        Ok(()) // a claim lasts as long as its owner's lock
    }

    async fn restore(&self) -> Result<usize> {
        self.reclaim(None).await
    }

    async fn reclaim(&self, limit: Option<usize>) -> Result<usize> {
        let mut restored = 0;
        while limit.is_none_or(|limit| restored < limit) {
            let batch = self
                .patiently("restoring messages", |mut session| {
                    let batch = session.inner.restore_dead(Instant::now())?;
                    self.count_restored(&mut session);
                    if batch > 0 {
                        let woken = session.inner.ring();
                        drop(session);
                        wake(woken);
                    }
                    Ok(batch)
                })
                .await?;
            if batch == 0 {
                break;
            }
            restored += batch;
        }
        Ok(restored)
    }

    async fn replay(&self, _: &Name, _: Option<usize>) -> Result<usize> {
        Err(Error::unsupported("the SQL transport keeps no dead letters"))
    }

    async fn sweep(&self, _: usize) -> Result<usize> {
        Ok(0) // bindings go with their queues
    }

    async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        if self.has_queue(&queue.name).await? {
            return Ok(());
        }
        self.write("declaring a queue", |connection, schema, _| {
            queue_id(connection, schema, &queue.name)?;
            Ok(((), false))
        })
        .await
    }

    async fn has_queue(&self, queue: &Name) -> Result<bool> {
        self.patiently("looking up a queue", |session| {
            let mut statement =
                session.inner.connection()?.prepare_cached(&self.schema.find_queue)?;
            Ok(statement.exists([&**queue])?)
        })
        .await
    }

    async fn delete_queue(&self, queue: &Name) -> Result<()> {
        self.database.lock().bindings.remove_queue(queue);
        self.write("deleting a queue", |connection, schema, _| {
            let id: Option<i64> = connection
                .prepare_cached(&schema.find_queue)?
                .query_row([&**queue], |row| row.get(0))
                .optional()?;
            if let Some(id) = id {
                connection.prepare_cached(&schema.drop_messages)?.execute([id])?;
                connection.prepare_cached(&schema.delete_queue)?.execute([id])?;
            }
            Ok(((), false))
        })
        .await
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        self.write("purging a queue", |connection, schema, _| {
            let dropped = connection.prepare_cached(&schema.purge)?.execute([&**queue])?;
            Ok((dropped as u64, false))
        })
        .await
    }

    async fn size(&self, queue: &Name) -> Result<u64> {
        self.patiently("counting messages", |session| {
            let mut statement =
                session.inner.connection()?.prepare_cached(&self.schema.count_ready)?;
            let count: i64 = statement.query_row([&**queue], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    async fn depth(&self, queue: &Name) -> Result<Vec<(i64, u64)>> {
        Ok(vec![(0, self.size(queue).await?)])
    }

    async fn bind(&self, _: &Exchange, binding: &Binding) -> Result<()> {
        self.database.lock().bindings.add(binding);
        Ok(())
    }

    async fn unbind(&self, _: &Exchange, binding: &Binding) -> Result<()> {
        self.database.lock().bindings.remove(binding);
        Ok(())
    }

    async fn bindings(&self, exchange: &Exchange) -> Result<Vec<Binding>> {
        Ok(self.database.lock().bindings.of(exchange))
    }

    async fn delete_exchange(&self, exchange: &Name) -> Result<()> {
        self.database.lock().bindings.remove_exchange(exchange);
        Ok(())
    }

    async fn subscribe(&self, _: &Name) -> Result<()> {
        Ok(())
    }

    async fn unsubscribe(&self, _: &Name) -> Result<()> {
        Ok(())
    }
}
