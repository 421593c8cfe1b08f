//! Opening a connection (AMQP 0-9-1 section 2.2.4): version, log-in, limits, virtual host.

use super::decoder::{Event, Start};
use super::wire::put_short;
use super::{encode, smaller};
use crate::error::{Error, Reply, Result};
use crate::model::Json;
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::connection::{self, AMQPMethod};
use std::fmt;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Login {
    /// User and password (RFC 4616).
    #[default]
    Plain,
    /// The same in AMQP's own form.
    AmqPlain,
    /// The broker knows already, by a client certificate.
    External,
}

impl Login {
    /// The mechanism's name in SASL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
        }
    }
}

/// What a client wants. `Debug` shows no password.
#[derive(Clone)]
pub struct Wishes {
    /// How to log in.
    pub login: Login,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Virtual host.
    pub vhost: String,
    /// `client-properties`, a JSON object.
    pub properties: Json,
    /// Most channels, 0 for as many as the broker allows.
    pub channel_max: u16,
    /// Largest frame in bytes, 0 for as large as the broker allows.
    pub frame_max: u32,
    /// Seconds between heartbeats, 0 for none; `None` for as the broker says.
    pub heartbeat: Option<u16>,
}

impl fmt::Debug for Wishes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wishes")
            .field("login", &self.login)
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

/// What both sides have agreed upon.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Highest number of a channel.
    pub channel_max: u16,
    /// Largest frame in bytes, 0 for any.
    pub frame_max: u32,
    /// Seconds between heartbeats, 0 for none.
    pub heartbeat: u16,
    /// What the broker says of itself, a JSON object.
    pub server_properties: Json,
}

/// What comes after an event.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send this; the next event will follow.
    Send(Vec<u8>),
    /// The connection is open.
    Open(Terms),
}

/// The machine. [`encode::HEADER`] is to be sent first.
#[derive(Debug)]
pub struct Handshake {
    wishes: Wishes,
    server_properties: Json,
    terms: Option<Terms>,
}

impl Handshake {
    /// At the beginning.
    pub fn new(wishes: Wishes) -> Self {
        Self { wishes, server_properties: Json::empty_object(), terms: None }
    }

    /// Takes an event of channel 0.
    ///
    /// # Errors
    /// `Auth` when the broker refuses user, password or virtual host; `Connection` when it closes for
    /// another reason; `Unsupported` for another version or a way to log in that it does not offer.
    pub fn on(&mut self, event: Event) -> Result<Step> {
        match event {
            Event::Version([major, minor, revision]) => Err(Error::unsupported(format!(
                "the broker speaks AMQP {major}-{minor}-{revision}, and 0-9-1 is needed"
            ))),
            Event::Start(start) => self.start(start),
            Event::Method(0, AMQPClass::Connection(method)) => self.method(method),
            other => Err(unexpected(&other)),
        }
    }

    fn start(&mut self, start: Start) -> Result<Step> {
        let Wishes { login, user, password, .. } = &self.wishes;
        if !start.mechanisms.split(' ').any(|offered| offered == login.name()) {
            return Err(Error::unsupported(format!(
                "the broker offers no log-in by {} (login_method), but by {}",
                login.name(),
                start.mechanisms
            )));
        }
        self.server_properties = start.properties;
        let response = match login {
            Login::Plain => format!("\0{user}\0{password}").into_bytes(),
            Login::AmqPlain => amqplain(user, password)?,
            Login::External => Vec::new(),
        };
        let mut out = Vec::new();
        let start_ok = AMQPMethod::StartOk(connection::StartOk {
            client_properties: encode::arguments(&self.wishes.properties)?,
            mechanism: encode::name("login_method", login.name())?,
            response: encode::long(&response),
            locale: encode::name("locale", "en_US")?,
        });
        encode::method(0, AMQPClass::Connection(start_ok), &mut out)?;
        Ok(Step::Send(out))
    }

    fn method(&mut self, method: AMQPMethod) -> Result<Step> {
        match method {
            AMQPMethod::Tune(tune) => self.tune(&tune),
            AMQPMethod::OpenOk(_) => {
                let terms =
                    self.terms.take().ok_or_else(|| Error::decode("open-ok before tune"))?;
                Ok(Step::Open(terms))
            }
            AMQPMethod::Close(close) => Err(refused(&close, &self.wishes)),
            AMQPMethod::Secure(_) => Err(Error::unsupported(format!(
                "the broker asks for more than {} can answer",
                self.wishes.login.name()
            ))),
            other => Err(unexpected(&Event::Method(0, AMQPClass::Connection(other)))),
        }
    }

    fn tune(&mut self, tune: &connection::Tune) -> Result<Step> {
        let wishes = &self.wishes;
        let channel_max = match smaller(u32::from(wishes.channel_max), u32::from(tune.channel_max))
        {
            0 => u16::MAX,
            limit => limit as u16,
        };
        let terms = Terms {
            channel_max,
            frame_max: smaller(wishes.frame_max, tune.frame_max),
            heartbeat: match wishes.heartbeat {
                None => tune.heartbeat,
                Some(0) => 0,
                Some(own) if tune.heartbeat == 0 => own,
                Some(own) => own.min(tune.heartbeat),
            },
            server_properties: std::mem::take(&mut self.server_properties),
        };
        let mut out = Vec::new();
        let tune_ok = AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: terms.channel_max,
            frame_max: terms.frame_max,
            heartbeat: terms.heartbeat,
        });
        let virtual_host = encode::name("the virtual host", &wishes.vhost)?;
        encode::method(0, AMQPClass::Connection(tune_ok), &mut out)?;
        let open = AMQPMethod::Open(connection::Open { virtual_host });
        encode::method(0, AMQPClass::Connection(open), &mut out)?;
        self.terms = Some(terms);
        Ok(Step::Send(out))
    }
}

/// A table without its length.
fn amqplain(user: &str, password: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in [("LOGIN", user), ("PASSWORD", password)] {
        put_short(&mut out, "a name", name)?;
        out.push(b'S');
        let length = u32::try_from(value.len()).map_err(|_| Error::encode("it is too long"))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    Ok(out)
}

fn refused(close: &connection::Close, wishes: &Wishes) -> Error {
    let text = format!(
        "the broker refused the connection of the user '{}' to the virtual host '{}': {} {}",
        wishes.user, wishes.vhost, close.reply_code, close.reply_text
    );
    let error = match close.reply_code {
        // Access refused; not allowed: no such virtual host.
        403 | 530 => Error::auth(text),
        _ => Error::connection(text),
    };
    let text = close.reply_text.to_string();
    let reply = Reply { text, method: (close.class_id, close.method_id) };
    error.with_code(close.reply_code).with_reply(reply)
}

fn unexpected(event: &Event) -> Error {
    Error::decode(format!("unexpected while the connection was opened: {event:?}"))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
