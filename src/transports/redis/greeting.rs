//! The first words on a link: who we are and which database; and what the server, or a proxy or an
//! ACL before it, lets us do.

use super::Config;
use super::error::{is_misplaced, unexpected};
use super::scripts::Script;
use crate::error::{Error, Result};
use crate::io::link::{Expect, Link};
use crate::io::lock::Mutex;
use crate::protocol::resp::{Command, Parser, Pipeline, ServerError, Value};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Without `RPOP key count` there is no receiving in one step.
const OLDEST: (u32, u32) = (6, 2);
/// The hash of no script.
const NO_HASH: &str = "0000000000000000000000000000000000000000";

/// What may be done on a link. Where something is refused there is a way around it.
#[derive(Debug, Clone)]
pub(super) struct Abilities {
    /// RESP3: pushes come between the replies. Without it a link that listens takes no commands.
    pub(super) pushes: bool,
    /// `CLIENT TRACKING`: the server tells when a list or a binding table has changed.
    pub(super) tracking: bool,
    /// How scripts are run.
    pub(super) scripts: Scripts,
    /// For how long the server has been there; `None` when it does not tell.
    pub(super) uptime: Option<Duration>,
}

/// See [`Abilities::scripts`].
#[derive(Debug, Clone)]
pub(super) enum Scripts {
    /// By their hashes, which stand in the order of [`Script::ALL`].
    Loaded(Vec<Bytes>),
    /// By their text each time: `SCRIPT LOAD` or `EVALSHA` is refused.
    Sent,
    /// Not at all: [`super::plain`] does their work.
    Refused,
}

/// What is refused, and in which words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    Resp3(String),
    Tracking(String),
    Scripts(String),
}

/// Greets the server on a new link. A port behind which nobody answers counts as a failure to
/// connect.
///
/// # Errors
/// `Connection`, `Auth`, `Invalid` for a database that does not exist, `Unsupported` for an old
/// server.
pub(super) async fn greet(
    link: &Arc<Link<Parser>>,
    config: &Config,
    until: Instant,
) -> Result<Abilities> {
    let mut talk = Talk::new(link, config, until);
    let mut refused = Vec::new();
    let mut replies = talk.ask(&hello(config), false).await?;
    let greeted = match replies.next(Talk::optional)? {
        Ok(Value::Map(members)) => {
            talk.check_members(&members)?;
            true
        }
        Ok(Value::Array(items)) => {
            // Understood, and answered in the old protocol.
            refused.push(Refused::Resp3("HELLO 3 is answered in RESP2".to_owned()));
            let mut items = items.into_iter();
            let mut members = Vec::new();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                members.push((key, value));
            }
            talk.check_members(&members)?;
            true
        }
        Ok(reply) => return Err(unexpected("HELLO 3", &reply)),
        Err(error) if error.code() == "NOAUTH" && config.password.is_none() => {
            return Err(talk.no_entry(&error));
        }
        Err(error) => {
            refused.push(Refused::Resp3(talk.words(&error)));
            false
        }
    };
    if !greeted {
        replies = talk.ask(&introduction(config), true).await?;
        talk.check_introduction(&mut replies)?;
        for part in ["server", "replication"] {
            // Who may not ask is not told how old the server is, or which part it plays.
            if let Ok(text) = replies.next(Talk::optional)? {
                talk.check_info(part, &text)?;
            }
        }
    }
    talk.check_database(&mut replies)?;
    let pushes = refused.is_empty();
    let mut tracking = false;
    match replies.next(Talk::optional)? {
        Ok(_) => tracking = pushes,
        Err(error) if pushes => refused.push(Refused::Tracking(talk.words(&error))),
        Err(_) => {} // of no use without pushes
    }
    let mut hashes = Vec::with_capacity(Script::ALL.len());
    for _ in Script::ALL {
        hashes.extend(replies.next(Talk::optional)?.ok().and_then(|hash| hash.as_bytes().cloned()));
    }
    let by_hash = match replies.next(Talk::optional)? {
        Err(error) => error.code() == "NOSCRIPT",
        Ok(reply) => return Err(unexpected("EVALSHA", &reply)),
    };
    let scripts = match replies.next(Talk::optional)? {
        Ok(_) if by_hash && hashes.len() == Script::ALL.len() => Scripts::Loaded(hashes),
        Ok(_) => Scripts::Sent,
        Err(error) => {
            refused.push(Refused::Scripts(talk.words(&error)));
            Scripts::Refused
        }
    };
    tell(link.peer(), config, refused);
    let info = replies.next(Talk::optional)?.ok();
    let uptime = info.and_then(|text| line_of(&text, "uptime_in_seconds").parse().ok());
    Ok(Abilities { pushes, tracking, scripts, uptime: uptime.map(Duration::from_secs) })
}

/// Introduces us on a further link to a server that was greeted before, in RESP2: it listens, or
/// watches keys for others.
///
/// # Errors
/// As [`greet`].
pub(super) async fn introduce(
    link: &Arc<Link<Parser>>,
    config: &Config,
    until: Instant,
) -> Result<()> {
    let mut commands = introduction(config);
    commands.push(select(config));
    let mut talk = Talk::new(link, config, until);
    let mut replies = talk.send(&commands).await?;
    talk.check_introduction(&mut replies)?;
    talk.check_database(&mut replies)
}

fn hello(config: &Config) -> Vec<Command> {
    let mut hello = Command::new("HELLO").arg("3");
    if let Some(password) = &config.password {
        let user = config.username.as_deref().unwrap_or("default");
        hello = hello.arg("AUTH").arg(user).arg(password);
    }
    if let Some(name) = &config.client_name {
        hello = hello.arg("SETNAME").arg(name);
    }
    vec![hello]
}

/// What `HELLO` does, in old words: log-in and name.
fn introduction(config: &Config) -> Vec<Command> {
    let mut commands = Vec::new();
    if let Some(password) = &config.password {
        let mut auth = Command::new("AUTH");
        auth = config.username.iter().fold(auth, |auth, user| auth.arg(user));
        commands.push(auth.arg(password));
    }
    if let Some(name) = &config.client_name {
        commands.push(Command::new("CLIENT").arg("SETNAME").arg(name));
    }
    commands
}

fn select(config: &Config) -> Command {
    Command::new("SELECT").int(config.db)
}

/// One conversation on a link.
struct Talk<'a> {
    link: &'a Arc<Link<Parser>>,
    config: &'a Config,
    until: Instant,
}

impl<'a> Talk<'a> {
    fn new(link: &'a Arc<Link<Parser>>, config: &'a Config, until: Instant) -> Self {
        Self { link, config, until }
    }

    /// Sends `first`, and then everything that is to be known of a server.
    async fn ask(&mut self, first: &[Command], info: bool) -> Result<Replies<'a>> {
        let mut commands = first.to_vec();
        if info {
            commands.extend(["server", "replication"].map(|part| Command::new("INFO").arg(part)));
        }
        commands.push(select(self.config));
        commands.push(Command::new("CLIENT").args(["TRACKING", "ON", "NOLOOP"]));
        for script in Script::ALL {
            commands.push(Command::new("SCRIPT").args(["LOAD", script.text()]));
        }
        commands.push(Command::new("EVALSHA").args([NO_HASH, "0"]));
        commands.push(Command::new("EVAL").args(["return 1", "0"]));
        commands.push(Command::new("INFO").arg("server"));
        self.send(&commands).await
    }

    async fn send(&mut self, commands: &[Command]) -> Result<Replies<'a>> {
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.push(command);
        }
        let left = self.until.saturating_duration_since(Instant::now());
        let patience: Duration = self.config.reply_timeout.min(left);
        let count = pipeline.len();
        let request = self.link.request(pipeline.data(), Expect::Count(count), patience);
        Ok(Replies { peer: self.link.peer(), replies: request.await?.into_iter() })
    }

    fn no_entry(&self, error: &ServerError) -> Error {
        Error::auth(format!("{} refused the log-in: {}", self.link.peer(), self.words(error)))
    }

    /// A refusal as it may be shown: who does not know a command repeats its arguments, such as a
    /// password.
    fn words(&self, error: &ServerError) -> String {
        let text = error.to_string();
        let shown = text.split_once(", with args").map_or(text.as_str(), |(shown, _)| shown);
        match self.config.password.as_deref() {
            Some(password) if !password.is_empty() => shown.replace(password, "**"),
            _ => shown.to_owned(),
        }
    }

    /// A command that can be done without: its reply, or the refusal.
    fn optional(reply: Value) -> Result<Result<Value, ServerError>, ServerError> {
        match reply {
            Value::Error(error) if is_of_the_moment(&error) => Err(error),
            Value::Error(error) => Ok(Err(error)),
            reply => Ok(Ok(reply)),
        }
    }

    fn check_introduction(&self, replies: &mut Replies<'_>) -> Result<()> {
        if self.config.password.is_some()
            && let Err(error) = replies.next(Self::optional)?
        {
            return Err(self.no_entry(&error));
        }
        if self.config.client_name.is_some()
            && let Err(error) = replies.next(Self::optional)?
        {
            tracing::debug!("{} takes no name of a client: {error}", self.link.peer());
        }
        Ok(())
    }

    fn check_database(&self, replies: &mut Replies<'_>) -> Result<()> {
        let peer = self.link.peer();
        match replies.next(Self::optional)? {
            Ok(_) => Ok(()),
            // Where every link begins.
            Err(error) if self.config.db == 0 && error.code() != "NOAUTH" => {
                tracing::debug!("{peer} knows no databases: {error}");
                Ok(())
            }
            Err(error) if matches!(error.code(), "NOAUTH" | "NOPERM") => Err(self.no_entry(&error)),
            Err(error) => {
                let text = format!("{peer} has no database {}", self.config.db);
                Err(Error::invalid(text).with_source(error))
            }
        }
    }

    /// What `HELLO` says of the server: old enough, and the master where it has to be.
    fn check_members(&self, members: &[(Value, Value)]) -> Result<()> {
        let member = |name: &str| {
            let is_it = |key: &Value| key.as_bytes().is_some_and(|key| key == name);
            let found = members.iter().find(|(key, _)| is_it(key));
            found.and_then(|(_, value)| value.as_bytes()).map(|text| String::from_utf8_lossy(text))
        };
        self.check_version(&member("version").unwrap_or_default())?;
        self.check_role(&member("role").unwrap_or_default())
    }

    /// The same out of `INFO`.
    fn check_info(&self, part: &str, text: &Value) -> Result<()> {
        match part {
            "server" => self.check_version(&line_of(text, "redis_version")),
            _ => self.check_role(&line_of(text, "role")),
        }
    }

    fn check_version(&self, version: &str) -> Result<()> {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next())
            && (major, minor) < OLDEST
        {
            return Err(Error::unsupported(format!(
                "{} is version {version}, and 6.2 is the oldest that works",
                self.link.peer()
            )));
        }
        Ok(())
    }

    fn check_role(&self, role: &str) -> Result<()> {
        let must_be_master = self.config.sentinels.is_some() || self.config.cluster.is_some();
        if must_be_master && !matches!(role, "" | "master") {
            return Err(Error::connection(format!(
                "{} is a {role}, although it is said to be the master",
                self.link.peer()
            )));
        }
        Ok(())
    }
}

/// What a line of `INFO` says; nothing without such a line.
fn line_of(info: &Value, name: &str) -> String {
    let text = info.as_bytes().map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

/// Whether an error says how the server is at the moment, and not what it lets us do.
fn is_of_the_moment(error: &ServerError) -> bool {
    let code = error.code();
    is_misplaced(error) || matches!(code, "BUSY" | "OOM" | "MISCONF" | "WRONGPASS")
}

struct Replies<'a> {
    peer: &'a str,
    replies: std::vec::IntoIter<Value>,
}

impl Replies<'_> {
    fn next<T>(&mut self, read: impl FnOnce(Value) -> Result<T, ServerError>) -> Result<T> {
        let reply = self.replies.next().ok_or_else(|| Error::internal("a reply is missing"))?;
        read(reply).map_err(|error| {
            if error.code() == "WRONGPASS" {
                return Error::auth(format!("{} refused the log-in: {error}", self.peer));
            }
            Error::connection(format!("{}: {error}", self.peer))
        })
    }
}

/// Says once in a process what a server refuses, and what is lost by that.
fn tell(peer: &str, config: &Config, refused: Vec<Refused>) {
    static TOLD: Mutex<BTreeSet<(String, Vec<Refused>)>> = Mutex::new(BTreeSet::new());
    if refused.is_empty() {
        return;
    }
    let polling = config.polling_interval.as_secs_f64();
    let waiting = format!(
        "idle consumers look for messages every {polling} s at the latest instead of being told, and \
         each publish to an exchange asks for its bindings"
    );
    let losses: Vec<String> = refused
        .iter()
        .map(|refused| match refused {
            Refused::Resp3(why) => {
                format!("RESP3 ({why}): fanout takes a second connection, {waiting}")
            }
            Refused::Tracking(why) => format!("CLIENT TRACKING ({why}): {waiting}"),
            Refused::Scripts(why) => format!(
                "scripts ({why}): messages are taken one by one, a worker that is killed while it \
                 takes one, or loses its link, may lose it, and one whose claim runs out while it is \
                 put back may come twice"
            ),
        })
        .collect();
    // In a forked child its holder may not exist.
    let new = TOLD.try_lock().is_none_or(|mut told| told.insert((peer.to_owned(), refused)));
    if new {
        tracing::warn!("{peer} refuses {}", losses.join("; it refuses "));
    }
}
