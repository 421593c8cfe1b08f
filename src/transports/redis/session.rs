//! One live link: the greeting, commands and scripts.

use super::Config;
use super::error::{is_misplaced, refused, unexpected};
use super::scripts::Script;
use super::shared::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::io::dial::dial;
use crate::io::keeper;
use crate::io::link::{Expect, Link, Traffic};
use crate::protocol::resp::{Command, Parser, Pipeline, Value};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Without `RPOP key count` there is no receiving in one step.
const OLDEST: (u32, u32) = (6, 2);

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
    /// Connects.
    ///
    /// # Errors
    /// `Connection`, `Auth`, or `Unsupported` naming what the server lacks.
    pub(super) async fn open(config: &Config, shared: Weak<Shared>) -> Result<Self> {
        let stream = dial(&config.address, &config.dial).await?;
        let misplaced = Arc::new(AtomicBool::new(false));
        let peer = format!("Redis at {}", config.address);
        let traffic = Incoming { shared, misplaced: misplaced.clone() };
        let link = Link::new(stream, peer, Parser::default(), traffic);
        let mut session = Self {
            link,
            reply_timeout: config.reply_timeout,
            hashes: Vec::new(),
            misplaced,
            topics: AtomicU64::new(0),
        };
        session.greet(config).await?;
        keeper::tend(&session.link)?;
        tracing::debug!("connected to {}, database {}", session.link.peer(), config.db);
        Ok(session)
    }

    async fn greet(&mut self, config: &Config) -> Result<()> {
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
        let mut replies = self
            .link
            .request(&pipeline.into_bytes(), Expect::Count(count), self.reply_timeout)
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
        check_server(&next("HELLO 3 (the protocol RESP3)")?, &peer)?;
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

    /// Sends one command; `what` names it in errors.
    pub(super) async fn call(&self, what: &str, command: &Command) -> Result<Value> {
        let request = self.link.request(&command.pack(), Expect::Count(1), self.reply_timeout);
        let reply = request.await?.pop().ok_or_else(|| Error::internal("a reply is missing"))?;
        self.checked(what, reply)
    }

    /// Sends several commands in one write. The first error reply is the error.
    pub(super) async fn call_all(&self, what: &str, pipeline: Pipeline) -> Result<Vec<Value>> {
        let count = pipeline.len();
        let data = pipeline.into_bytes();
        let replies = self.link.request(&data, Expect::Count(count), self.reply_timeout).await?;
        replies.into_iter().map(|reply| self.checked(what, reply)).collect()
    }

    /// Hands commands to the kernel; error replies are logged when somebody reads them.
    pub(super) async fn tell(&self, pipeline: Pipeline) -> Result<()> {
        let count = pipeline.len();
        self.link.tell(&pipeline.into_bytes(), count, self.reply_timeout).await
    }

    /// Runs a script.
    pub(super) async fn run(&self, what: &str, call: ScriptCall) -> Result<Value> {
        let hash = &self.hashes[call.script.number()];
        let command = call.command("EVALSHA", hash);
        let request = self.link.request(&command.pack(), Expect::Count(1), self.reply_timeout);
        let reply = request.await?.pop().ok_or_else(|| Error::internal("a reply is missing"))?;
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
        for reply in request.await? {
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

fn check_server(hello: &Value, peer: &str) -> Result<()> {
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
    Ok(())
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
struct Incoming {
    shared: Weak<Shared>,
    misplaced: Arc<AtomicBool>,
}

impl Traffic<Value> for Incoming {
    fn route(&mut self, event: Value) -> Option<Value> {
        let Value::Push(items) = event else { return Some(event) };
        if let Some(shared) = self.shared.upgrade() {
            shared.pushed(items);
        }
        None
    }

    fn unawaited(&mut self, event: Value) {
        let Value::Error(error) = event else { return };
        if is_misplaced(&error) {
            self.misplaced.store(true, Ordering::Release);
        }
        tracing::error!("Redis refused an acknowledgement, the message will come again: {error}");
    }
}
