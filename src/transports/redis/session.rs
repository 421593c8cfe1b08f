//! One live link, with commands and scripts.

use super::Config;
use super::error::{is_misplaced, is_moving, ours, refused, unexpected};
use super::greeting::{Abilities, Scripts, greet, introduce};
use super::hedge::hedged;
use super::limit::Permit;
use super::plain;
use super::scripts::Script;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::io::dial::{Address, dial};
use crate::io::link::{Expect, Link, Pulse, Traffic};
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
    /// Where the server is.
    pub(super) address: Address,
    abilities: Abilities,
    shared: Weak<Shared>,
    /// Without pushes: the link that listens to fanout exchanges, once there are some.
    ears: OnceLock<Arc<Link<Parser>>>,
    /// The server has said that it is not the one to be at.
    misplaced: Arc<AtomicBool>,
    /// Which state of the fanout subscriptions the server knows.
    pub(super) topics: AtomicU64,
}

impl Session {
    /// Connects; where to, sentinels or nodes are asked each time. `permit` is held for as long as the
    /// link lives.
    ///
    /// # Errors
    /// `Connection`, `Auth`, or `Unsupported` when the server is too old.
    pub(super) async fn open(
        config: &Arc<Config>,
        shared: Weak<Shared>,
        permit: Arc<Permit>,
    ) -> Result<Self> {
        hedged(|| Self::connect(config, shared.clone(), permit.clone())).await.map_err(ours)
    }

    async fn connect(
        config: &Arc<Config>,
        shared: Weak<Shared>,
        permit: Arc<Permit>,
    ) -> Result<Self> {
        let address = match (&config.sentinels, &config.cluster) {
            (Some(sentinels), _) => sentinels.master().await?,
            (_, Some(cluster)) => cluster.master(config).await?,
            _ => config.address.clone(),
        };
        let connected = Self::connect_to(address, config, shared, Some(permit)).await;
        if let (Err(_), Some(cluster)) = (&connected, &config.cluster) {
            cluster.doubt();
        }
        connected
    }

    /// Connects to this server; without a permit the link is not counted.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(super) async fn connect_to(
        address: Address,
        config: &Arc<Config>,
        shared: Weak<Shared>,
        permit: Option<Arc<Permit>>,
    ) -> Result<Self> {
        let until = Instant::now() + config.dial.connect_timeout;
        let misplaced = Arc::<AtomicBool>::default();
        let incoming =
            Incoming { shared: shared.clone(), misplaced: misplaced.clone(), ears: false, permit };
        let link = open_link(&address, config, incoming).await?;
        let abilities = greet(&link, &config.logged_in(), until).await?;
        if config.cluster.is_some() && matches!(abilities.scripts, Scripts::Refused) {
            return Err(Error::unsupported(format!(
                "{} refuses scripts, which are needed in a cluster",
                link.peer()
            )));
        }
        tracing::debug!("connected to {}, database {}", link.peer(), config.db);
        Ok(Self { misplaced, ..Self::new(link, config.clone(), address, abilities, shared) })
    }

    fn new(
        link: Arc<Link<Parser>>,
        config: Arc<Config>,
        address: Address,
        abilities: Abilities,
        shared: Weak<Shared>,
    ) -> Self {
        Self {
            link,
            config,
            address,
            abilities,
            shared,
            ears: OnceLock::new(),
            misplaced: Arc::default(),
            topics: AtomicU64::new(0),
        }
    }

    /// A second link to the same server, for a caller that watches keys: `WATCH` is about all that
    /// is done on a link, and this one has many users. It lives for a moment and is not counted.
    pub(super) async fn aside(&self) -> Result<Self> {
        let link = self.further_link(false, None).await.map_err(ours)?;
        let (config, address) = (self.config.clone(), self.address.clone());
        Ok(Self::new(link, config, address, self.abilities.clone(), Weak::new()))
    }

    async fn further_link(
        &self,
        ears: bool,
        permit: Option<Arc<Permit>>,
    ) -> Result<Arc<Link<Parser>>> {
        let until = Instant::now() + self.config.dial.connect_timeout;
        let (shared, misplaced) = (self.shared.clone(), self.misplaced.clone());
        let traffic = Incoming { shared, misplaced, ears, permit };
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
            && !self.is_left()
    }

    /// The server is not the one to be at: whoever uses the store next connects anew.
    pub(super) fn leave(&self) {
        self.misplaced.store(true, Ordering::Release);
    }

    /// Whether [`Session::leave`] was called, or what amounts to it.
    pub(super) fn is_left(&self) -> bool {
        self.misplaced.load(Ordering::Acquire)
    }

    /// Whether the server is a node of a cluster: what it refuses may be for another one.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.config.cluster.is_some()
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
        let reply = self.reply(&command.pack(), Moving::Wait).await?;
        self.checked(what, reply)
    }

    /// Sends several commands in one write. The first error reply is the error.
    pub(super) async fn call_all(&self, what: &str, pipeline: Pipeline) -> Result<Vec<Value>> {
        let replies = self.exchange(pipeline.data(), pipeline.len()).await?;
        let mut checked = Vec::with_capacity(replies.len());
        for (at, reply) in replies.into_iter().enumerate() {
            let reply = self.followed(pipeline.command(at), reply, Moving::Wait).await?;
            checked.push(self.checked(what, reply)?);
        }
        Ok(checked)
    }

    /// Sends what is packed and waits for the replies.
    pub(super) async fn exchange(&self, data: &[u8], count: usize) -> Result<Vec<Value>> {
        let patience = self.config.reply_timeout;
        self.link.request(data, Expect::Count(count), patience).await.map_err(ours)
    }

    /// The reply to one command, wherever it leads.
    async fn reply(&self, command: &[u8], moving: Moving) -> Result<Value> {
        let reply = self.exchange(command, 1).await?.pop();
        let reply = reply.ok_or_else(|| Error::internal("a reply is missing"))?;
        self.followed(command, reply, moving).await
    }

    /// Hands commands to the kernel. Error replies are logged when somebody reads them; when the
    /// link is lost before there were any, or the server is not the one to be at, `lost` is called.
    pub(super) async fn tell(
        &self,
        pipeline: Pipeline,
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let (misplaced, in_cluster) = (self.misplaced.clone(), self.is_in_cluster());
        let told = move |replies: Option<Vec<Value>>| {
            let Some(replies) = replies else { return lost() };
            let (mut elsewhere, mut later) = (false, false);
            for reply in replies {
                let Value::Error(error) = reply else { continue };
                let moved = in_cluster && error.code() == "MOVED";
                let moving = in_cluster && is_moving(&error);
                if moved || moving {
                    tracing::debug!("a command that was sent without waiting comes again: {error}");
                } else {
                    tracing::error!(
                        "Redis refused a command that was sent without waiting: {error}"
                    );
                }
                elsewhere |= moved || is_misplaced(&error);
                later |= moving;
            }
            if elsewhere {
                // Nothing of it was done: it belongs to the server that the next link leads to.
                misplaced.store(true, Ordering::Release);
            }
            if elsewhere || later {
                lost();
            }
        };
        let (count, patience) = (pipeline.len(), self.config.reply_timeout);
        self.link.tell(pipeline.data(), count, patience, Box::new(told)).await.map_err(ours)
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
        if matches!(self.abilities.scripts, Scripts::Refused) {
            return Box::pin(plain::run(self, what, &call)).await;
        }
        let reply = self.script_reply(&call, Moving::Wait).await?;
        self.checked(what, reply)
    }

    /// As [`Session::run`]; `None` when the keys are on their way to another node of a cluster.
    /// `answered` is called when the server has answered, be it with a refusal: then nothing was done
    /// that the caller does not hear of.
    pub(super) async fn run_now(
        &self,
        what: &str,
        call: ScriptCall,
        answered: impl FnOnce() + Send,
    ) -> Result<Option<Value>> {
        if matches!(self.abilities.scripts, Scripts::Refused) {
            let done = self.run(what, call).await;
            if !done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Connection) {
                answered();
            }
            return done.map(Some);
        }
        let moving = if self.is_in_cluster() { Moving::Tell } else { Moving::Wait };
        let reply = self.script_reply(&call, moving).await?;
        answered();
        match reply {
            Value::Error(error) if self.is_in_cluster() && is_moving(&error) => Ok(None),
            reply => self.checked(what, reply).map(Some),
        }
    }

    async fn script_reply(&self, call: &ScriptCall, moving: Moving) -> Result<Value> {
        let sent = Instant::now();
        let reply = self.run_script(call, moving).await?;
        if let Some(shared) = self.shared() {
            shared.counters.script_calls.add(1);
            shared.counters.script_time.add(sent.elapsed());
            shared.contact.heard(Instant::now());
            shared.was_cut_off(sent.elapsed());
        }
        Ok(reply)
    }

    async fn run_script(&self, call: &ScriptCall, moving: Moving) -> Result<Value> {
        if let Scripts::Loaded(hashes) = &self.abilities.scripts {
            let command = call.command("EVALSHA", &hashes[call.script.number()]).pack();
            match self.reply(&command, moving).await? {
                // The server has dropped its scripts since the greeting.
                Value::Error(error) if error.code() == "NOSCRIPT" => {}
                reply => return Ok(reply),
            }
        }
        let text = call.script.text().as_bytes();
        self.reply(&call.command("EVAL", text).pack(), moving).await
    }

    /// Listens to these patterns, too.
    pub(super) async fn listen(&self, topics: &[String]) -> Result<()> {
        if self.abilities.pushes {
            return self.subscription(&self.link, self.config.subscribe_command(), topics).await;
        }
        let ears = match self.ears.get() {
            Some(ears) => ears,
            None => {
                let permit = Permit::take(&self.config).map_err(ours)?;
                let link = self.further_link(true, Some(Arc::new(permit))).await.map_err(ours)?;
                self.ears.get_or_init(|| link)
            }
        };
        self.subscription(ears, self.config.subscribe_command(), topics).await
    }

    /// Listens to these patterns no more.
    pub(super) async fn unlisten(&self, topics: &[String]) -> Result<()> {
        let ears = if self.abilities.pushes { Some(&self.link) } else { self.ears.get() };
        match ears {
            Some(ears) => self.subscription(ears, self.config.unsubscribe_command(), topics).await,
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
            pipeline.data(),
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
        match error.code() {
            // Followed for as long as a reply may take.
            "MOVED" if self.is_in_cluster() => {
                Err(ours(Error::connection(format!("Redis refused {what}: {error}"))))
            }
            "MOVED" | "CROSSSLOT" if !self.is_in_cluster() => Err(ours(Error::new(
                ErrorKind::Channel,
                format!(
                    "Redis refused {what}: {} is a node of a cluster, for which the URL begins with \
                     rediscluster:// or redisclusters:// ({error})",
                    self.link.peer()
                ),
            ))),
            _ => Err(refused(what, &error)),
        }
    }
}

/// What to do while keys are on their way to another node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moving {
    /// Try again, for as long as a reply may take.
    Wait,
    /// The error is the answer.
    Tell,
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

    /// Adds several arguments.
    pub(super) fn args<T: Into<Bytes>>(&mut self, args: impl IntoIterator<Item = T>) -> &mut Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    fn command(&self, eval: &str, script: &[u8]) -> Command {
        Command::new(eval).arg(script).int(self.keys.len() as i64).args(&self.keys).args(&self.args)
    }
}

/// What comes in unasked.
struct Incoming {
    shared: Weak<Shared>,
    misplaced: Arc<AtomicBool>,
    /// Whether the link listens in RESP2, where what is published looks like a reply.
    ears: bool,
    /// The right to the link.
    permit: Option<Arc<Permit>>,
}

impl Traffic<Value> for Incoming {
    fn route(&mut self, event: Value) -> Option<Value> {
        let items = match event {
            Value::Push(items) => items,
            Value::Array(items) if self.ears && is_heard(&items) => items,
            reply => return Some(reply),
        };
        if let Some(shared) = self.shared.upgrade()
            && !shared.pushed(items)
        {
            self.misplaced.store(true, Ordering::Release);
        }
        None
    }

    /// Whoever is to make another link in its place finds room for it.
    fn lost(&mut self, heard: Instant) {
        self.permit = None;
        if let Some(shared) = self.shared.upgrade() {
            shared.contact.heard(heard);
        }
    }
}

fn is_heard(items: &[Value]) -> bool {
    let kind = items.first().and_then(Value::as_bytes).map(|kind| kind.as_ref());
    matches!(
        kind,
        Some(
            b"pmessage"
                | b"psubscribe"
                | b"punsubscribe"
                | b"smessage"
                | b"ssubscribe"
                | b"sunsubscribe"
        )
    )
}
