//! One live link: the greeting, commands and scripts.

use super::Config;
use super::error::{is_misplaced, ours, refused, unexpected};
use super::scripts::Script;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::io::dial::dial;
use crate::io::keeper;
use crate::io::link::{Expect, Link, Traffic};
use crate::io::task::timeout_at;
use crate::protocol::resp::{Command, Parser, Pipeline, Value};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Without `RPOP key count` there is no receiving in one step.
const OLDEST: (u32, u32) = (6, 2);
/// How long closing waits for answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A link that has been greeted: RESP3, the right database, tracking on, scripts known.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link<Parser>>,
    reply_timeout: Duration,
    hashes: Vec<Bytes>,
    /// An answer nobody waited for said that this is not the server to be at.
    misplaced: Arc<AtomicBool>,
    /// Which state of the fanout subscriptions the server knows.
    pub(super) topics: AtomicU64,
}

impl Session {
    /// Connects; where to, sentinels are asked each time.
    ///
    /// # Errors
    /// `Connection`, `Auth`, or `Unsupported` naming what the server lacks.
    pub(super) async fn open(config: &Config, shared: Weak<Shared>) -> Result<Self> {
        Self::connect(config, shared).await.map_err(ours)
    }

    async fn connect(config: &Config, shared: Weak<Shared>) -> Result<Self> {
        let address = match &config.sentinels {
            Some(sentinels) => sentinels.master().await?,
            None => config.address.clone(),
        };
        let until = Instant::now() + config.dial.connect_timeout;
        let stream = dial(&address, &config.dial).await?;
        let misplaced = Arc::new(AtomicBool::new(false));
        let peer = format!("Redis at {address}");
        let link = Link::new(stream, peer, Parser::default(), Incoming(shared));
        let mut session = Self {
            link,
            reply_timeout: config.reply_timeout,
            hashes: Vec::new(),
            misplaced,
            topics: AtomicU64::new(0),
        };
        session.greet(config, until).await?;
        keeper::tend(&session.link)?;
        tracing::debug!("connected to {}, database {}", session.link.peer(), config.db);
        Ok(session)
    }

    /// Greets the server. A port behind which nobody answers counts as a failure to connect.
    async fn greet(&mut self, config: &Config, until: Instant) -> Result<()> {
        let mut hello = Command::new("HELLO").arg("3");
        if let Some(password) = &config.password {
            let user = config.username.as_deref().unwrap_or("default");
            hello = hello.arg("AUTH").arg(user).arg(password);
        }
        if let Some(name) = &config.client_name {
            hello = hello.arg("SETNAME").arg(name);
        }
        let mut pipeline = Pipeline::new();
        pipeline.push(&hello);
        pipeline.push(&Command::new("SELECT").int(config.db));
        pipeline.push(&Command::new("CLIENT").args(["TRACKING", "ON", "NOLOOP"]));
        for script in Script::ALL {
            pipeline.push(&Command::new("SCRIPT").args(["LOAD", script.text()]));
        }
        let count = pipeline.len();
        let patience = self.reply_timeout.min(until.saturating_duration_since(Instant::now()));
        let mut replies = self
            .link
            .request(&pipeline.into_bytes(), Expect::Count(count), patience)
            .await?
            .into_iter();
        let peer = self.link.peer().to_owned();
        let mut next = |what: &str| match replies.next() {
            Some(Value::Error(error)) => Err(match error.code() {
                "NOAUTH" | "WRONGPASS" => {
                    Error::auth(format!("{peer} refused the log-in: {error}"))
                }
                _ if is_misplaced(&error) => Error::connection(format!("{peer}: {error}")),
                _ => Error::unsupported(format!("{peer} refused {what}, which is needed: {error}")),
            }),
            Some(reply) => Ok(reply),
            None => Err(Error::internal("a reply is missing")),
        };
        let hello = next("HELLO 3 (the protocol RESP3)")?;
        check_server(&hello, &peer, config.sentinels.is_some())?;
        match next("SELECT") {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Err(Error::invalid(format!("{peer} has no database {}", config.db))
                    .with_source(error));
            }
            selected => selected?,
        };
        next("CLIENT TRACKING")?;
        for _ in Script::ALL {
            let reply = next("SCRIPT LOAD")?;
            let hash = reply.as_bytes().ok_or_else(|| unexpected("SCRIPT LOAD", &reply))?;
            self.hashes.push(hash.clone());
        }
        Ok(())
    }

    /// Whether it can be used, as far as known without asking.
    pub(super) fn is_alive(&self) -> bool {
        self.link.is_alive() && !self.misplaced.load(Ordering::Acquire)
    }

    /// The link, to wait on for pushes.
    pub(super) fn link(&self) -> &Arc<Link<Parser>> {
        &self.link
    }

    /// Closes the link. Answers that are on their way are waited for: closing a socket with unread
    /// bytes resets it, and the server would drop what it has not read yet.
    pub(super) async fn close(&self) {
        if self.link.is_owed() {
            let patience = Instant::now() + self.reply_timeout.min(LAST_ANSWERS);
            let answered = timeout_at(patience, self.call("PING", &Command::new("PING"))).await;
            if !matches!(answered, Some(Ok(_))) {
                tracing::debug!("{} was closed before all was answered", self.link.peer());
            }
        }
        self.link.close("it was closed by this program");
    }

    /// Sends one command; `what` names it in errors.
    pub(super) async fn call(&self, what: &str, command: &Command) -> Result<Value> {
        let request = self.link.request(&command.pack(), Expect::Count(1), self.reply_timeout);
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
        let request = self.link.request(&data, Expect::Count(count), self.reply_timeout);
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
        self.link.tell(&data, count, self.reply_timeout, Box::new(told)).await.map_err(ours)
    }

    /// Runs a script.
    pub(super) async fn run(&self, what: &str, call: ScriptCall) -> Result<Value> {
        let hash = &self.hashes[call.script.number()];
        let command = call.command("EVALSHA", hash);
        let request = self.link.request(&command.pack(), Expect::Count(1), self.reply_timeout);
        let reply = request
            .await
            .map_err(ours)?
            .pop()
            .ok_or_else(|| Error::internal("a reply is missing"))?;
        match reply {
            // The server has dropped its scripts since the greeting.
            Value::Error(error) if error.code() == "NOSCRIPT" => {
                let text = call.script.text();
                self.call(what, &call.command("EVAL", text.as_bytes())).await
            }
            reply => self.checked(what, reply),
        }
    }

    /// `PSUBSCRIBE` or `PUNSUBSCRIBE`. They are answered by pushes, or by an error in place: an echo
    /// behind them tells when all answers are in.
    pub(super) async fn subscribe(&self, command: &str, topics: &[String]) -> Result<()> {
        const END: &[u8] = b"kombu-end-of-answers";
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new(command).args(topics));
        pipeline.push(&Command::new("ECHO").arg(END));
        let is_end = |reply: &Value| reply.as_bytes().is_some_and(|text| text == END);
        let request = self.link.request(
            &pipeline.into_bytes(),
            Expect::Until(Arc::new(is_end)),
            self.reply_timeout,
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

/// What the greeting says of the server: old enough, and the master where it has to be.
fn check_server(hello: &Value, peer: &str, must_be_master: bool) -> Result<()> {
    let Value::Map(members) = hello else { return Err(unexpected("HELLO 3", hello)) };
    let member = |name: &str| {
        let found = members.iter().find(|(key, _)| key.as_bytes().is_some_and(|key| key == name));
        found.and_then(|(_, value)| value.as_bytes()).map(|text| String::from_utf8_lossy(text))
    };
    let version = member("version").unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST
    {
        return Err(Error::unsupported(format!(
            "{peer} is version {version}, and 6.2 is the oldest that works"
        )));
    }
    match member("role") {
        Some(role) if must_be_master && role != "master" => Err(Error::connection(format!(
            "{peer} is a {role}, although a sentinel says that it is the master"
        ))),
        _ => Ok(()),
    }
}

/// A script with its keys and arguments.
#[derive(Debug)]
pub(super) struct ScriptCall {
    script: Script,
    keys: Vec<String>,
    args: Vec<Bytes>,
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
struct Incoming(Weak<Shared>);

impl Traffic<Value> for Incoming {
    fn route(&mut self, event: Value) -> Option<Value> {
        let Value::Push(items) = event else { return Some(event) };
        if let Some(shared) = self.0.upgrade() {
            shared.pushed(items);
        }
        None
    }
}
