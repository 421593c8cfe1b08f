//! The URL and the transport options, checked.

use crate::error::{Error, Result};
use crate::io::dial::{Address, DialOptions, Keepalive};
use crate::io::tls::{Tls, TlsOptions, Verify};
use crate::transport::Url;
use crate::transport::schemes::Options;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Kombu's priority steps: a message's priority is rounded down to one of them.
const PRIORITY_STEPS: [i64; 4] = [0, 3, 6, 9];

/// Everything that a Redis store is told. `Debug` shows no password.
#[derive(Clone)]
pub struct Config {
    /// Where the server listens.
    pub address: Address,
    /// Database number.
    pub db: u32,
    /// ACL user; `default` when there is only a password.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// `client_name`, as shown by `CLIENT LIST`.
    pub client_name: Option<String>,
    /// How to connect. The timeout is `socket_connect_timeout`, default 5 s.
    pub dial: DialOptions,
    /// `socket_timeout`: how long a reply may take, default 15 s. The link counts as dead then.
    pub reply_timeout: Duration,
    /// `visibility_timeout`: a claim that was not renewed for so long is given to others, default 3600 s.
    pub visibility_timeout: Duration,
    /// `unacked_restore_interval`: how often to look for such claims, default 10 s, at most a third
    /// of the visibility timeout.
    pub restore_interval: Duration,
    /// `unacked_restore_limit`: at most so many at a time; `None` for all.
    pub restore_limit: Option<usize>,
    /// `ack_emulation`: keep claims until they are acknowledged, default true.
    pub ack_emulation: bool,
    /// `priority_steps`, ascending, default 0, 3, 6, 9.
    pub priority_steps: Vec<i64>,
    /// `sep`, between queue and step and between the parts of a binding.
    pub sep: String,
    /// `global_keyprefix`, before every key and channel.
    pub prefix: String,
    /// `unacked_key`
    pub unacked_key: String,
    /// `unacked_index_key`
    pub unacked_index_key: String,
    /// `fanout_prefix` with the database filled in, `/{db}.` by default.
    pub fanout_prefix: String,
    /// `fanout_patterns`: fanout exchanges take the routing key into account, default true.
    pub fanout_patterns: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address)
            .field("db", &self.db)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "**"))
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads a URL and options. Options in the URL's query count like transport options; those of
    /// the `options` win.
    ///
    /// # Errors
    /// `Invalid` or `Type`, naming the part or option that is wrong and what would be right.
    pub fn parse(url: &Url, options: &Options) -> Result<Self> {
        let mut all: Options = url
            .query
            .iter()
            .map(|(name, value)| (name.clone(), Value::String(value.clone())))
            .collect();
        all.extend(options.iter().map(|(name, value)| (name.clone(), value.clone())));
        // The database of a `redis+socket` URL is in its query.
        let vhost = all.remove("virtual_host");
        let address = address(url)?;
        let db = match (&address, vhost.as_ref().and_then(Value::as_str)) {
            (Address::Unix(_), vhost) => database(vhost.unwrap_or_default())?,
            (_, Some(vhost)) => database(vhost)?,
            _ => database(url.virtual_host.as_deref().unwrap_or_default())?,
        };
        let mut draft = Draft::new(Self {
            address,
            db,
            username: url.userid.clone(),
            password: url.password.clone(),
            client_name: None,
            dial: DialOptions {
                connect_timeout: Duration::from_secs(5),
                keepalive: Some(Keepalive::default()),
                user_timeout: Some(Duration::from_secs(10)),
                tls: None,
            },
            reply_timeout: Duration::from_secs(15),
            visibility_timeout: Duration::from_secs(3600),
            restore_interval: Duration::from_secs(10),
            restore_limit: None,
            ack_emulation: true,
            priority_steps: PRIORITY_STEPS.to_vec(),
            sep: "\x06\x16".into(),
            prefix: String::new(),
            unacked_key: "unacked".into(),
            unacked_index_key: "unacked_index".into(),
            fanout_prefix: format!("/{db}."),
            fanout_patterns: true,
        });
        draft.use_tls = matches!(url.transport.as_str(), "rediss");
        for (name, value) in &all {
            draft.set(name, value)?;
        }
        draft.finish()
    }
}

fn address(url: &Url) -> Result<Address> {
    if url.transport_parts().1 == Some("socket") {
        return match url.socket_path() {
            Some(path) => Ok(Address::Unix(path.into())),
            None => Err(Error::invalid(format!(
                "the URL {url} names no socket: expected redis+socket:///path/to/redis.sock"
            ))),
        };
    }
    let host = url.hostname.clone().unwrap_or_else(|| "localhost".into());
    if host.starts_with('/') {
        return Ok(Address::Unix(host.into()));
    }
    Ok(Address::Tcp { host, port: url.port.unwrap_or(6379) })
}

fn database(text: &str) -> Result<u32> {
    match text.trim_matches('/') {
        "" => Ok(0),
        number => number.parse().map_err(|_| {
            Error::invalid(format!(
                "the database of a Redis URL must be a number from 0 on, not {number:?}"
            ))
        }),
    }
}

/// A configuration in the making, and what can be put together only when all options are known.
struct Draft {
    config: Config,
    use_tls: bool,
    tls: TlsOptions,
    check_hostname: bool,
    keepalive: Option<bool>,
    keepalive_options: Keepalive,
    fanout_prefix: Value,
}

/// Options of Kombu, Celery and redis-py that change nothing here: one link needs no pool, and its
/// health is watched anyway; the others belong to layers above.
const WITHOUT_EFFECT: [&str; 24] = [
    "body_encoding",
    "confirm_publish",
    "connect_retries_timeout",
    "connection_errors",
    "deadletter_queue",
    "driver_type",
    "errback",
    "failover_strategy",
    "health_check_interval",
    "heartbeat",
    "interval_max",
    "interval_start",
    "interval_step",
    "login_method",
    "max_connections",
    "max_retries",
    "polling_interval",
    "queue_order_strategy",
    "retry_errback",
    "retry_on_timeout",
    "retry_policy",
    "unacked_mutex_expire",
    "unacked_mutex_key",
    "unacked_restore_throttle",
];

impl Draft {
    fn new(config: Config) -> Self {
        Self {
            config,
            use_tls: false,
            tls: TlsOptions::default(),
            check_hostname: true,
            keepalive: None,
            keepalive_options: Keepalive::default(),
            fanout_prefix: Value::Null,
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        if value.is_null() {
            return Ok(()); // Kombu's "not given"
        }
        let option = Given { name, value };
        let config = &mut self.config;
        match name {
            "sep" => config.sep = option.non_empty()?,
            "global_keyprefix" => config.prefix = option.text()?,
            "unacked_key" => config.unacked_key = option.non_empty()?,
            "unacked_index_key" => config.unacked_index_key = option.non_empty()?,
            "client_name" => config.client_name = Some(option.non_empty()?),
            "ack_emulation" => config.ack_emulation = option.flag()?,
            "visibility_timeout" => config.visibility_timeout = option.seconds()?,
            "unacked_restore_interval" => config.restore_interval = option.seconds()?,
            "unacked_restore_limit" => config.restore_limit = Some(option.count()?),
            "socket_timeout" => config.reply_timeout = option.seconds()?,
            "socket_connect_timeout" | "connect_timeout" => {
                config.dial.connect_timeout = option.seconds()?;
            }
            "fanout_prefix" => self.fanout_prefix = value.clone(),
            "fanout_patterns" => config.fanout_patterns = option.flag()?,
            "priority_steps" => config.priority_steps = option.steps()?,
            "socket_keepalive" => self.keepalive = Some(option.flag()?),
            "socket_keepalive_options" => option.keepalive(&mut self.keepalive_options)?,
            "ssl" => self.ssl(&option)?,
            _ if name.starts_with("ssl_") => self.ssl_option(&option)?,
            "master_name" | "sentinel_kwargs" | "sentinels" | "min_other_sentinels" => {
                return Err(option.invalid("is for Sentinel, which is not supported yet"));
            }
            "credential_provider" => {
                return Err(option.invalid("is not supported: put user and password into the URL"));
            }
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    fn ssl(&mut self, option: &Given<'_>) -> Result<()> {
        if let Value::Object(members) = option.value {
            self.use_tls = true;
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                self.ssl_option(&Given { name, value })?;
            }
            return Ok(());
        }
        self.use_tls |= option.flag()?;
        Ok(())
    }

    fn ssl_option(&mut self, option: &Given<'_>) -> Result<()> {
        match option.name {
            "ssl_cert_reqs" => {
                self.tls.verify = match option.value {
                    Value::Number(number) if number.as_i64() == Some(2) => Verify::Full,
                    Value::Number(number) if number.as_i64() == Some(0) => Verify::Nothing,
                    Value::String(text) => match text.as_str() {
                        "required" | "CERT_REQUIRED" => Verify::Full,
                        "none" | "CERT_NONE" => Verify::Nothing,
                        _ => return Err(option.invalid("must be 'required' or 'none'")),
                    },
                    _ => return Err(option.invalid("must be 'required' or 'none'")),
                }
            }
            "ssl_check_hostname" => self.check_hostname = option.flag()?,
            "ssl_ca_certs" => self.tls.ca_certs = Some(option.non_empty()?.into()),
            "ssl_certfile" => self.tls.certfile = Some(option.non_empty()?.into()),
            "ssl_keyfile" => self.tls.keyfile = Some(option.non_empty()?.into()),
            name => return Err(unknown(name)),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Config> {
        let mut config = self.config;
        config.fanout_prefix = match &self.fanout_prefix {
            Value::Null | Value::Bool(true) => format!("/{}.", config.db),
            Value::Bool(false) => String::new(),
            Value::String(text) => match text.as_str() {
                "true" | "True" | "1" => format!("/{}.", config.db),
                "false" | "False" | "0" => String::new(),
                text => text.replace("{db}", &config.db.to_string()),
            },
            value => {
                return Err(Given { name: "fanout_prefix", value }
                    .ill_typed("true, false or a text like '/{db}.'"));
            }
        };
        config.dial.keepalive = match self.keepalive {
            Some(false) => None,
            _ => Some(self.keepalive_options),
        };
        let third = config.visibility_timeout / 3;
        config.restore_interval = config.restore_interval.min(third);
        if self.use_tls {
            if !self.check_hostname && self.tls.verify == Verify::Full {
                self.tls.verify = Verify::Chain;
            }
            config.dial.tls = Some(Tls::new(&self.tls)?);
        }
        Ok(config)
    }
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!(
        "the Redis transport knows no option {name:?}; it knows ack_emulation, client_name, \
         fanout_patterns, fanout_prefix, global_keyprefix, priority_steps, queue_order_strategy, sep, \
         socket_connect_timeout, socket_keepalive, socket_keepalive_options, socket_timeout, ssl, \
         unacked_index_key, unacked_key, unacked_restore_interval, unacked_restore_limit, \
         visibility_timeout and those that have no effect here: {}",
        WITHOUT_EFFECT.join(", ")
    ))
}

/// One option as given: in Python, or as text in a URL's query.
struct Given<'a> {
    name: &'a str,
    value: &'a Value,
}

impl Given<'_> {
    fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("the Redis transport option '{}' {what}", self.name))
    }

    fn ill_typed(&self, right: &str) -> Error {
        let kind = match self.value {
            Value::Null => "None",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a dictionary",
        };
        Error::type_error(format!(
            "the Redis transport option '{}' must be {right}, not {kind}",
            self.name
        ))
    }

    fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.ill_typed("a text"))
    }

    fn non_empty(&self) -> Result<String> {
        match self.text()? {
            text if text.is_empty() => Err(self.invalid("must not be empty")),
            text => Ok(text),
        }
    }

    fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Bool(flag) => Ok(*flag),
            Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
            Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(self.ill_typed("true or false")),
            },
            _ => Err(self.ill_typed("true or false")),
        }
    }

    fn number(&self, right: &str) -> Result<f64> {
        match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.ill_typed(right))
    }

    fn seconds(&self) -> Result<Duration> {
        let right = "a number of seconds";
        let seconds = self.number(right)?;
        // A hundred years: far beyond any use, and within what clocks can add.
        if seconds > 0.0 && seconds <= 3.2e9 {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(self.invalid("must be a positive number of seconds"))
    }

    fn count(&self) -> Result<usize> {
        let number = self.number("a number of messages")?;
        if (1.0..=1e9).contains(&number) && number.fract() == 0.0 {
            return Ok(number as usize);
        }
        Err(self.invalid("must be a whole number from 1 on"))
    }

    fn steps(&self) -> Result<Vec<i64>> {
        let right = "a list of whole numbers like [0, 3, 6, 9]";
        let items = self.value.as_array().ok_or_else(|| self.ill_typed(right))?;
        let mut steps = items
            .iter()
            .map(|item| item.as_i64().ok_or_else(|| self.ill_typed(right)))
            .collect::<Result<Vec<_>>>()?;
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() || steps.len() > 256 {
            return Err(self.invalid("must have 1 to 256 steps"));
        }
        Ok(steps)
    }

    /// A dictionary of socket option numbers or names, as redis-py takes it.
    fn keepalive(&self, keepalive: &mut Keepalive) -> Result<()> {
        let right = "a dictionary of TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT";
        let members = self.value.as_object().ok_or_else(|| self.ill_typed(right))?;
        for (name, value) in members {
            let Some(number) =
                value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
            else {
                return Err(self.invalid(&format!("must have a positive number for {name}")));
            };
            let seconds = Duration::from_secs(number.into());
            match (name.as_str(), name.parse()) {
                ("TCP_KEEPIDLE", _) | (_, Ok(libc::TCP_KEEPIDLE)) => keepalive.idle = seconds,
                ("TCP_KEEPINTVL", _) | (_, Ok(libc::TCP_KEEPINTVL)) => keepalive.interval = seconds,
                ("TCP_KEEPCNT", _) | (_, Ok(libc::TCP_KEEPCNT)) => keepalive.count = number,
                _ => return Err(self.ill_typed(right)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
