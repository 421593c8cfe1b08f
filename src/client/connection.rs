//! A connection with alternates.

use super::retry::{RetryPolicy, chance};
use crate::error::{Error, ErrorKind, Result};
use crate::io::lock::Mutex;
use crate::io::task::{sleep, timeout_at};
use crate::transport::schemes::{self, Options};
use crate::transport::{self, Channel, Url};
use crate::virt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which alternate is next when one fails (Kombu's `failover_strategies`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failover {
    /// In the order given, over and over.
    #[default]
    RoundRobin,
    /// Any of the others.
    Shuffle,
}

/// A broker, or several that stand in for each other. Shared by any number of threads.
#[derive(Debug)]
pub struct Connection {
    alternates: Vec<(Url, Arc<dyn transport::Connection>)>,
    failover: Failover,
    retry: RetryPolicy,
    current: Mutex<Current>,
}

/// Which alternate is in use, and its channel.
#[derive(Debug, Default)]
struct Current {
    place: usize,
    channel: Option<Arc<dyn Channel>>,
}

/// The alternate that an operation runs on.
#[derive(Debug, Clone)]
pub struct Link {
    /// The connection to it.
    pub connection: Arc<dyn transport::Connection>,
    /// The default channel.
    pub channel: Arc<dyn Channel>,
    place: usize,
}

impl Connection {
    /// Takes URLs as Kombu's `Connection` does, several separated by `;`. Does no I/O.
    ///
    /// # Errors
    /// `Invalid` or `Type`: a URL or option that is wrong.
    pub fn new(urls: &str, options: &Options) -> Result<Self> {
        let mut alternates = Vec::new();
        for url in Url::parse_list(urls)? {
            let (own, options) = (url.clone(), options.clone());
            let connection = match schemes::connect(&own, &options)? {
                Some(connection) => connection,
                None => {
                    let open: virt::Opener = Arc::new(move || schemes::open(&own, &options));
                    Arc::new(virt::Connection::new(&open)?)
                }
            };
            alternates.push((url, connection));
        }
        Ok(Self {
            alternates,
            failover: Failover::default(),
            retry: RetryPolicy::default(),
            current: Mutex::default(),
        })
    }

    /// The same with another way to fail over.
    #[must_use]
    pub fn with_failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    /// The same with another retry policy.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The URL in use, without its password and options.
    pub fn as_uri(&self) -> String {
        self.alternates[self.current.lock().place].0.to_string()
    }

    /// Connects to the first alternate that is there (Kombu's `ensure_connection`).
    ///
    /// # Errors
    /// As [`Connection::ensure`].
    pub async fn connect(&self, deadline: Instant) -> Result<()> {
        self.ensure("connecting", deadline, async |_| Ok(())).await
    }

    /// Runs an operation; connects before, and tries again on the next alternate when the link
    /// breaks. After each round of alternates there is a pause. An operation that was broken off may
    /// have taken effect: it may be done twice.
    ///
    /// # Errors
    /// What the operation raised, unless it is of kind `Connection`; that too when there is no
    /// time or no try left. `Timeout`, naming `what`, when the deadline passed meanwhile.
    pub async fn ensure<T>(
        &self,
        what: &str,
        deadline: Instant,
        operation: impl AsyncFn(&Link) -> Result<T>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            let place = self.current.lock().place;
            let work = async {
                self.alternates[place].1.connect().await?;
                operation(&self.link(place).await?).await
            };
            let error = match timeout_at(deadline, work).await {
                Some(Err(error)) if error.kind() == ErrorKind::Connection => error,
                Some(done) => return done,
                None => {
                    let url = &self.alternates[place].0;
                    return Err(Error::timeout(format!("{what} on {url} did not end in time")));
                }
            };
            self.switch(place);
            tries += 1;
            let count = u32::try_from(self.alternates.len()).unwrap_or(u32::MAX);
            let pause = match tries % count {
                0 => self.retry.pause(tries / count - 1),
                _ => Duration::ZERO,
            };
            let enough = self.retry.max_retries.is_some_and(|most| tries > most);
            if enough || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::warn!(target: "kombu.connection", %error, ?pause, "{what} is tried again");
            sleep(pause).await;
        }
    }

    /// An alternate with its default channel.
    async fn link(&self, place: usize) -> Result<Link> {
        let connection = self.alternates[place].1.clone();
        if let Some(channel) = self.channel_of(place) {
            return Ok(Link { connection, channel, place });
        }
        let channel = connection.open_channel().await?;
        let mut current = self.current.lock();
        if current.place == place {
            current.channel = Some(channel.clone());
        }
        Ok(Link { connection, channel, place })
    }

    fn channel_of(&self, place: usize) -> Option<Arc<dyn Channel>> {
        let current = self.current.lock();
        let known = current.channel.as_ref().filter(|channel| channel.is_open());
        known.filter(|_| current.place == place).cloned()
    }

    /// Goes on to another alternate, unless another thread has done so.
    fn switch(&self, failed: usize) {
        let mut current = self.current.lock();
        let count = self.alternates.len();
        if current.place == failed && count > 1 {
            let ahead = match self.failover {
                Failover::RoundRobin => 1,
                Failover::Shuffle => 1 + (chance() * (count - 1) as f64) as usize % (count - 1),
            };
            *current = Current { place: (failed + ahead) % count, channel: None };
            drop(current);
            // Its consumers must not be there any more when it is this one's turn again.
            self.alternates[failed].1.abandon();
        }
    }

    /// Closes all links; unsettled messages go back to their queues.
    ///
    /// # Errors
    /// The first error of a link; the others are closed all the same.
    pub async fn close(&self) -> Result<()> {
        let channel = self.current.lock().channel.take();
        let mut outcome = match channel {
            Some(channel) => channel.close(true).await,
            None => Ok(()),
        };
        for (_, connection) in &self.alternates {
            outcome = outcome.and(connection.close().await);
        }
        outcome
    }
}

impl Link {
    /// Which of the alternates it is, counted from 0.
    pub fn place(&self) -> usize {
        self.place
    }
}
