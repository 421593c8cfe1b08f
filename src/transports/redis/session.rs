//! One live link, with commands and scripts.

use super::Config;
use super::error::{is_misplaced, ours, refused, unexpected};
use super::greeting::{Abilities, Scripts, greet, introduce};
use super::hedge::hedged;
use super::limit::Permit;
use super::plain;
use super::scripts::Script;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::io::dial::{Address, dial};
use crate::io::link::{Expect, Link, Pulse, Traffic};
use crate::io::lock::Mutex;
use crate::io::task::timeout_at;
use crate::protocol::resp::{Command, Parser, Pipeline, Value};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long closing waits for answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A link that has been greeted: the right database, and known what may be done on it.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link<Parser>>,
    config: Arc<Config>,
    address: Address,
    abilities: Abilities,
    shared: Weak<Shared>,
    /// Without pushes: the link that listens to fanout exchanges, once there are some.
    ears: OnceLock<Arc<Link<Parser>>>,
    /// One for each link.
    permits: Mutex<Vec<Permit>>,
    /// An answer nobody waited for said that this is not the server to be at.
    misplaced: Arc<AtomicBool>,
    /// Which state of the fanout subscriptions the server knows.
    pub(super) topics: AtomicU64,
}

impl Session {
    /// Connects; where to, sentinels are asked each time.
    ///
    /// # Errors
    /// `Connection`, `Auth`, or `Unsupported` when the server is too old.
    pub(super) async fn open(config: &Arc<Config>, shared: Weak<Shared>) -> Result<Self> {
        hedged(|| {
            let permit = Permit::take(config)?;
            Ok(Self::connect(config, shared.clone(), permit))
        })
        .await
        .map_err(ours)
    }

    async fn connect(config: &Arc<Config>, shared: Weak<Shared>, permit: Permit) -> Result<Self> {
        let address = match &config.sentinels {
            Some(sentinels) => sentinels.master().await?,
            None => config.address.clone(),
        };
        let until = Instant::now() + config.dial.connect_timeout;
        let incoming = Incoming { shared: shared.clone(), ears: false };
        let link = open_link(&address, config, incoming).await?;
        let abilities = greet(&link, &config.logged_in(), until).await?;
        tracing::debug!("connected to {}, database {}", link.peer(), config.db);
        Ok(Self::new(link, config.clone(), address, abilities, shared, permit))
    }

    fn new(
        link: Arc<Link<Parser>>,
        config: Arc<Config>,
        address: Address,
        abilities: Abilities,
        shared: Weak<Shared>,
        permit: Permit,
    ) -> Self {
        Self {
            link,
            config,
            address,
            abilities,
            shared,
            ears: OnceLock::new(),
            permits: Mutex::new(vec![permit]),
            misplaced: Arc::default(),
            topics: AtomicU64::new(0),
        }
    }

    /// A second link to the same server, for a caller that watches keys: `WATCH` is about all that
    /// is done on a link, and this one has many users.
    pub(super) async fn aside(&self) -> Result<Self> {
        let permit = Permit::take(&self.config).map_err(ours)?;
        let link = self.further_link(false).await.map_err(ours)?;
        let (config, address) = (self.config.clone(), self.address.clone());
        Ok(Self::new(link, config, address, self.abilities.clone(), Weak::new(), permit))
    }

    async fn further_link(&self, ears: bool) -> Result<Arc<Link<Parser>>> {
        let until = Instant::now() + self.config.dial.connect_timeout;
        let traffic = Incoming { shared: self.shared.clone(), ears };
        let link = open_link(&self.address, &self.config, traffic).await?;
        introduce(&link, &self.config.logged_in(), until).await?;
        Ok(link)
    }

    /// What may be done here.
    pub(super) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Options.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The store that it was opened for.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    /// Whether it can be used, as far as known without asking.
    pub(super) fn is_alive(&self) -> bool {
        self.link.is_alive()
            && self.ears.get().is_none_or(|ears| ears.is_alive())
            && !self.misplaced.load(Ordering::Acquire)
    }

    /// What the link shows of life; `None` when it cannot be used any more.
    pub(super) fn pulse(&self) -> Option<Pulse> {
        if let Some(ears) = self.ears.get() {
            ears.tend();
        }
        self.link.pulse().filter(|_| self.is_alive())
    }

    /// Asks for a sign of life. Whether it came shows in the pulse.
    pub(super) async fn ping(&self) {
        let ping = Command::new("PING").pack();
        // An error is in the pulse, too.
        let _ = self.link.tell(&ping, 1, self.config.reply_timeout, Box::new(|_| ())).await;
    }

    /// Where it leads to.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The link for commands.
    pub(super) fn link(&self) -> &Arc<Link<Parser>> {
        &self.link
    }

    /// Waits for pushes: reads and routes what is there, and resolves only when a link is lost.
    pub(super) fn poll_attend(&self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Some(ears) = self.ears.get()
            && let Poll::Ready(error) = ears.poll_attend(cx)
        {
            return Poll::Ready(error);
        }
        self.link.poll_attend(cx)
    }

    /// Ends its links without a word: whoever waits for an answer hears that it is lost.
    pub(super) fn sever(&self, why: &str) {
        for link in self.ears.get().into_iter().chain([&self.link]) {
            link.close(why);
        }
    }

    /// Closes the link. Answers that are on their way are waited for: closing a socket with unread
    /// bytes resets it, and the server would drop what it has not read yet.
    pub(super) async fn close(&self) {
        if self.link.is_owed() {
            let patience = Instant::now() + self.config.reply_timeout.min(LAST_ANSWERS);
            let answered = timeout_at(patience, self.call("PING", &Command::new("PING"))).await;
            if !matches!(answered, Some(Ok(_))) {
                tracing::debug!("{} was closed before all was answered", self.link.peer());
            }
        }
        self.sever("it was closed by this program");
    }

    /// Sends one command; `what` names it in errors.
    pub(super) async fn call(&self, what: &str, command: &Command) -> Result<Value> {
        let request =
            self.link.request(&command.pack(), Expect::Count(1), self.config.reply_timeout);
        let reply = request
            .await
            .map_err(ours)?
            .pop()
            .ok_or_else(|| Error::internal("a reply is missing"))?;
        self.checked(what, reply)
    }

    /// Sends several commands in one write. The first error reply is the error.
    pub(super) async fn call_all(&self, what: &str, pipeline: Pipeline) -> Result<Vec<Value>> {
        let count = pipeline.len();
        let data = pipeline.into_bytes();
        let request = self.link.request(&data, Expect::Count(count), self.config.reply_timeout);
        let replies = request.await.map_err(ours)?;
        replies.into_iter().map(|reply| self.checked(what, reply)).collect()
    }

    /// Hands commands to the kernel. Error replies are logged when somebody reads them; when the
    /// link is lost before there were any, or the server is not the one to be at, `lost` is called.
    pub(super) async fn tell(
        &self,
        pipeline: Pipeline,
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let misplaced = self.misplaced.clone();
        let told = move |replies: Option<Vec<Value>>| {
            let Some(replies) = replies else { return lost() };
            let mut elsewhere = false;
            for reply in replies {
                let Value::Error(error) = reply else { continue };
                elsewhere |= is_misplaced(&error);
                tracing::error!("Redis refused a command that was sent without waiting: {error}");
            }
            if elsewhere {
                // Nothing of it was done: it belongs to the server that the next link leads to.
                misplaced.store(true, Ordering::Release);
                lost();
            }
        };
        let count = pipeline.len();
        let data = pipeline.into_bytes();
        self.link.tell(&data, count, self.config.reply_timeout, Box::new(told)).await.map_err(ours)
    }

    /// Several commands as one step. `None` when a key has changed that this link watches.
    pub(super) async fn transaction(
        &self,
        what: &str,
        commands: &[Command],
    ) -> Result<Option<Vec<Value>>> {
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new("MULTI"));
        for command in commands {
            pipeline.push(command);
        }
        pipeline.push(&Command::new("EXEC"));
        match self.call_all(what, pipeline).await?.pop() {
            Some(Value::Array(replies)) => replies
                .into_iter()
                .map(|reply| self.checked(what, reply))
                .collect::<Result<_>>()
                .map(Some),
            Some(Value::Null) => Ok(None),
            Some(reply) => Err(unexpected("EXEC", &reply)),
            None => Err(Error::internal("a reply is missing")),
        }
    }

    /// Runs a script, or does without one what it would do.
    pub(super) async fn run(&self, what: &str, call: ScriptCall) -> Result<Value> {
        let text = call.script.text().as_bytes();
        let hash = match &self.abilities.scripts {
            Scripts::Loaded(hashes) => &hashes[call.script.number()],
            Scripts::Sent => return self.call(what, &call.command("EVAL", text)).await,
            Scripts::Refused => return Box::pin(plain::run(self, what, &call)).await,
        };
        let command = call.command("EVALSHA", hash);
        let request =
            self.link.request(&command.pack(), Expect::Count(1), self.config.reply_timeout);
        let reply = request
            .await
            .map_err(ours)?
            .pop()
            .ok_or_else(|| Error::internal("a reply is missing"))?;
        match reply {
            // The server has dropped its scripts since the greeting.
            Value::Error(error) if error.code() == "NOSCRIPT" => {
                self.call(what, &call.command("EVAL", text)).await
            }
            reply => self.checked(what, reply),
        }
    }

    /// Listens to these patterns, too.
    pub(super) async fn listen(&self, topics: &[String]) -> Result<()> {
        if self.abilities.pushes {
            return self.subscription(&self.link, "PSUBSCRIBE", topics).await;
        }
        let ears = match self.ears.get() {
            Some(ears) => ears,
            None => {
                let permit = Permit::take(&self.config).map_err(ours)?;
                let link = self.further_link(true).await.map_err(ours)?;
                self.permits.lock().push(permit);
                self.ears.get_or_init(|| link)
            }
        };
        self.subscription(ears, "PSUBSCRIBE", topics).await
    }

    /// Listens to these patterns no more.
    pub(super) async fn unlisten(&self, topics: &[String]) -> Result<()> {
        let ears = if self.abilities.pushes { Some(&self.link) } else { self.ears.get() };
        match ears {
            Some(ears) => self.subscription(ears, "PUNSUBSCRIBE", topics).await,
            None => Ok(()),
        }
    }

    /// Subscriptions are answered by pushes, or by an error in place: an echo behind them tells when
    /// all answers are in.
    async fn subscription(
        &self,
        ears: &Arc<Link<Parser>>,
        command: &str,
        topics: &[String],
    ) -> Result<()> {
        const END: &[u8] = b"kombu-end-of-answers";
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new(command).args(topics));
        pipeline.push(&Command::new("PING").arg(END));
        // A link that listens in RESP2 puts a word before it.
        let is_end = |reply: &Value| match reply {
            Value::Array(items) => items.last().and_then(Value::as_bytes).is_some_and(|t| t == END),
            reply => reply.as_bytes().is_some_and(|text| text == END),
        };
        let request = ears.request(
            &pipeline.into_bytes(),
            Expect::Until(Arc::new(is_end)),
            self.config.reply_timeout,
        );
        for reply in request.await.map_err(ours)? {
            self.checked("a fanout subscription", reply)?;
        }
        Ok(())
    }

    fn checked(&self, what: &str, reply: Value) -> Result<Value> {
        let Value::Error(error) = reply else { return Ok(reply) };
        if is_misplaced(&error) {
            self.link.close(&error.to_string());
        }
        Err(refused(what, &error))
    }
}

async fn open_link(
    address: &Address,
    config: &Config,
    traffic: Incoming,
) -> Result<Arc<Link<Parser>>> {
    let stream = dial(address, &config.dial).await?;
    Ok(Link::new(stream, format!("Redis at {address}"), Parser::default(), traffic))
}

/// A script with its keys and arguments.
#[derive(Debug)]
pub(super) struct ScriptCall {
    pub(super) script: Script,
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Bytes>,
}

impl ScriptCall {
    /// A script without keys and arguments yet.
    pub(super) fn new(script: Script) -> Self {
        Self { script, keys: Vec::new(), args: Vec::new() }
    }

    /// Adds a key.
    pub(super) fn key(&mut self, key: impl Into<String>) -> &mut Self {
        self.keys.push(key.into());
        self
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: impl Into<Bytes>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    fn command(&self, eval: &str, script: &[u8]) -> Command {
        Command::new(eval).arg(script).int(self.keys.len() as i64).args(&self.keys).args(&self.args)
    }
}

/// What comes in unasked.
struct Incoming {
    shared: Weak<Shared>,
    /// Whether the link listens in RESP2, where what is published looks like a reply.
    ears: bool,
}

impl Traffic<Value> for Incoming {
    fn route(&mut self, event: Value) -> Option<Value> {
        let items = match event {
            Value::Push(items) => items,
            Value::Array(items) if self.ears && is_heard(&items) => items,
            reply => return Some(reply),
        };
        if let Some(shared) = self.shared.upgrade() {
            shared.pushed(items);
        }
        None
    }
}

fn is_heard(items: &[Value]) -> bool {
    let kind = items.first().and_then(Value::as_bytes).map(|kind| kind.as_ref());
    matches!(kind, Some(b"pmessage" | b"psubscribe" | b"punsubscribe"))
}
