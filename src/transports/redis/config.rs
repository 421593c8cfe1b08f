//! The URL and the transport options, checked.

use super::cluster::Cluster;
use super::deliveries::DeliveryLimit;
use super::given::{client_name, count_or_none, given, keepalive, pause, steps, template};
use super::keys::Template;
use super::sentinel::Sentinels;
use crate::error::{Error, Result};
use crate::io::dial::{Address, DialOptions, Keepalive};
use crate::transport::schemes::Options;
use crate::transport::{Given, Login, QueueOrder, TlsDraft, Url};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Kombu's priority steps: a message's priority is rounded down to one of them.
const PRIORITY_STEPS: [i64; 4] = [0, 3, 6, 9];

/// Everything that a Redis store is told. `Debug` shows no password.
#[derive(Clone)]
pub struct Config {
    /// Where the server listens, or the first sentinel or node.
    pub address: Address,
    /// Who knows where the server is.
    pub sentinels: Option<Sentinels>,
    /// How to find the node of a cluster.
    pub cluster: Option<Cluster>,
    /// Database number.
    pub db: u32,
    /// ACL user; `default` when there is only a password.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// User and password that change: they take the place of those above.
    pub login: Option<Login>,
    /// `client_name`, as shown by `CLIENT LIST`.
    pub client_name: Option<String>,
    /// How to connect. The timeout is `socket_connect_timeout`, default 5 s.
    pub dial: DialOptions,
    /// `socket_timeout`: how long a reply may take, default 15 s. The link counts as dead then.
    pub reply_timeout: Duration,
    /// `health_check_interval`: a link that was silent for so long is asked for a sign of life;
    /// default 25 s, `None` (0) for never. Where messages are waited for it is 2 s at most.
    pub health_check_interval: Option<Duration>,
    /// `reconnect_grace`: for how long after the loss of a link whoever waits for messages goes on
    /// waiting while it is made anew; default 0: they hear of it at once, as in Kombu.
    pub reconnect_grace: Duration,
    /// `max_connections`: how many links this process may have to the server; `None` (0) for any
    /// number.
    pub max_connections: Option<usize>,
    /// `visibility_timeout`: a claim that was not renewed for so long is given to others, default 3600 s.
    pub visibility_timeout: Duration,
    /// `renew_leases`: renew held claims, default true. Otherwise a claim ends after the visibility
    /// timeout however well its owner is, as in Kombu.
    pub renew_leases: bool,
    /// `delivery_limit` and `dead_letter_queue`: `None` for as many deliveries as it takes.
    pub delivery_limit: Option<DeliveryLimit>,
    /// `unacked_restore_interval`: how often to look for such claims, default 10 s, at most a third
    /// of the visibility timeout.
    pub restore_interval: Duration,
    /// `unacked_restore_limit`: at most so many at a time, 0 for leaving it to others; `None` for all.
    pub restore_limit: Option<usize>,
    /// `polling_interval`: the longest pause between two looks for messages where the server may not
    /// tell of them, default 0.25 s.
    pub polling_interval: Duration,
    /// `ack_emulation`: keep claims until they are acknowledged, default true.
    pub ack_emulation: bool,
    /// `priority_steps`, ascending, default 0, 3, 6, 9.
    pub priority_steps: Vec<i64>,
    /// `sep`, between queue and step and between the parts of a binding.
    pub sep: String,
    /// `global_keyprefix`, before every key and channel; in a cluster behind the hash tag.
    pub prefix: String,
    /// `unacked_key`
    pub unacked_key: String,
    /// `unacked_index_key`
    pub unacked_index_key: String,
    /// `unacked_mutex_key`: who restores expired claims.
    pub unacked_mutex_key: String,
    /// `unacked_mutex_expire`: how long at most after he was last heard of, default 300 s.
    pub unacked_mutex_expire: Duration,
    /// `keyprefix_queue`: the set of an exchange's bindings.
    pub binding_key: Template,
    /// `keyprefix_binding_permanent`: those to queues that do not expire.
    pub permanent_key: Template,
    /// `keyprefix_binding_deadlines`: until when the bindings of expiring queues are kept.
    pub deadlines_key: String,
    /// `min_binding_ttl` (milliseconds): how long the bindings of an expiring queue live at least
    /// after they were last renewed, default an hour.
    pub min_binding_life: Duration,
    /// `queue_order_strategy`: `round_robin` (default), `priority` or `sorted`.
    pub queue_order: QueueOrder,
    /// `fanout_prefix` with the database filled in, `/{db}.` by default; or `keyprefix_fanout`, as it is.
    pub fanout_prefix: String,
    /// `sentinel_fanout_compat`: a second prefix, for peers before Kombu 5.4, which did not fill in
    /// the database; or `legacy_keyprefix_fanout`, as it is.
    pub legacy_fanout_prefix: Option<String>,
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
        let sentinels = match url.transport.as_str() {
            "sentinel" => Some(Sentinels::parse(url, &mut all)?),
            _ => None,
        };
        let address = match &sentinels {
            Some(sentinels) => sentinels.first().clone(),
            None => address(url)?,
        };
        let cluster = match url.transport_parts().0 {
            "rediscluster" | "redisclusters" => Some(Cluster::parse(url, &address, &mut all)?),
            _ => None,
        };
        let db = match (&address, vhost.as_ref().and_then(Value::as_str)) {
            (Address::Unix(_), vhost) => database(vhost.unwrap_or_default())?,
            (_, Some(vhost)) => database(vhost)?,
            _ => database(url.virtual_host.as_deref().unwrap_or_default())?,
        };
        if cluster.is_some() && db != 0 {
            return Err(Error::invalid(format!(
                "a Redis cluster has the database 0 only, not {db}: to keep applications apart give \
                 each its own hash_tag"
            )));
        }
        let mut draft = Draft::new(Self {
            address,
            sentinels,
            cluster,
            db,
            username: url.userid.clone(),
            password: url.password.clone(),
            login: url.login.clone(),
            client_name: None,
            dial: DialOptions {
                connect_timeout: Duration::from_secs(5),
                keepalive: Some(Keepalive::default()),
                user_timeout: Some(Duration::from_secs(10)),
                tls: None,
            },
            reply_timeout: Duration::from_secs(15),
            health_check_interval: Some(Duration::from_secs(25)),
            reconnect_grace: Duration::ZERO,
            max_connections: None,
            visibility_timeout: Duration::from_secs(3600),
            renew_leases: true,
            delivery_limit: None,
            restore_interval: Duration::from_secs(10),
            restore_limit: None,
            polling_interval: Duration::from_millis(250),
            ack_emulation: true,
            priority_steps: PRIORITY_STEPS.to_vec(),
            sep: "\x06\x16".into(),
            prefix: String::new(),
            unacked_key: "unacked".into(),
            unacked_index_key: "unacked_index".into(),
            unacked_mutex_key: "unacked_mutex".into(),
            unacked_mutex_expire: Duration::from_secs(300),
            binding_key: Template::new("_kombu.binding.", ""),
            permanent_key: Template::new("_kombu.binding_permanent.", ""),
            deadlines_key: "_kombu.binding_deadlines".into(),
            min_binding_life: Duration::from_secs(3600),
            queue_order: QueueOrder::RoundRobin,
            fanout_prefix: format!("/{db}."),
            legacy_fanout_prefix: None,
            fanout_patterns: true,
        });
        draft.tls.wanted = matches!(url.transport.as_str(), "rediss" | "redisclusters");
        for (name, value) in &all {
            draft.set(name, value)?;
        }
        draft.finish()
    }
}

impl Config {
    /// Names the server, for what this process knows of it. Behind sentinels it is the master, wherever
    /// that is.
    pub(super) fn server(&self) -> String {
        match &self.sentinels {
            Some(sentinels) => format!("{} ({})", sentinels.first(), sentinels.master),
            None => self.address.to_string(),
        }
    }

    /// With the user and the password of the moment.
    pub(super) fn logged_in(&self) -> Cow<'_, Self> {
        let Some((username, password)) = self.login.as_ref().and_then(Login::get) else {
            return Cow::Borrowed(self);
        };
        Cow::Owned(Self { username, password, ..self.clone() })
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
    tls: TlsDraft,
    keepalive: Option<bool>,
    keepalive_options: Keepalive,
    fanout_prefix: Value,
    fanout_compat: bool,
    keyprefix_fanout: Option<String>,
    delivery_limit: Option<usize>,
    dead_letter_queue: Option<String>,
}

/// Options of Kombu, Celery and redis-py that change nothing here: one link needs no pool, and its
/// health is watched anyway; the others belong to layers above.
const WITHOUT_EFFECT: [&str; 19] = [
    "body_encoding",
    "confirm_publish",
    "connect_retries_timeout",
    "connection_errors",
    "deadletter_queue",
    "driver_type",
    "errback",
    "failover_strategy",
    "heartbeat",
    "interval_max",
    "interval_start",
    "interval_step",
    "login_method",
    "max_retries",
    "reauth_check_interval",
    "retry_errback",
    "retry_on_timeout",
    "retry_policy",
    "unacked_restore_throttle",
];

impl Draft {
    fn new(config: Config) -> Self {
        Self {
            config,
            tls: TlsDraft::new("ssl_", false),
            keepalive: None,
            keepalive_options: Keepalive::default(),
            fanout_prefix: Value::Null,
            fanout_compat: false,
            keyprefix_fanout: None,
            delivery_limit: None,
            dead_letter_queue: None,
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        if value.is_null() {
            return Ok(()); // Kombu's "not given"
        }
        let option = given(name, value);
        let config = &mut self.config;
        match name {
            "sep" => config.sep = option.non_empty()?,
            "global_keyprefix" => config.prefix = option.text()?,
            "unacked_key" => config.unacked_key = option.non_empty()?,
            "unacked_index_key" => config.unacked_index_key = option.non_empty()?,
            "keyprefix_queue" => config.binding_key = template(&option)?,
            "keyprefix_binding_permanent" => config.permanent_key = template(&option)?,
            "keyprefix_binding_deadlines" => config.deadlines_key = option.non_empty()?,
            "min_binding_ttl" => config.min_binding_life = option.milliseconds()?,
            "queue_order_strategy" => config.queue_order = queue_order(&option)?,
            "client_name" => config.client_name = Some(client_name(&option)?),
            "ack_emulation" => config.ack_emulation = option.flag()?,
            "visibility_timeout" => config.visibility_timeout = option.seconds()?,
            "renew_leases" => config.renew_leases = option.flag()?,
            "delivery_limit" => self.delivery_limit = Some(option.count("a number of deliveries")?),
            "dead_letter_queue" => self.dead_letter_queue = Some(option.non_empty()?),
            "unacked_restore_interval" => config.restore_interval = option.seconds()?,
            "unacked_restore_limit" => {
                config.restore_limit = Some(option.whole()? as usize);
            }
            "unacked_mutex_key" => config.unacked_mutex_key = option.non_empty()?,
            "unacked_mutex_expire" => config.unacked_mutex_expire = option.seconds()?,
            "polling_interval" => config.polling_interval = pause(&option)?,
            "socket_timeout" => config.reply_timeout = option.seconds()?,
            "health_check_interval" => config.health_check_interval = option.seconds_or_none()?,
            "reconnect_grace" => {
                config.reconnect_grace = option.seconds_or_none()?.unwrap_or_default();
            }
            "max_connections" => {
                config.max_connections = count_or_none(&option, "a number of connections")?;
            }
            "socket_connect_timeout" | "connect_timeout" => {
                config.dial.connect_timeout = option.seconds()?;
            }
            "fanout_prefix" => self.fanout_prefix = value.clone(),
            "keyprefix_fanout" => self.keyprefix_fanout = Some(option.text()?),
            "sentinel_fanout_compat" => self.fanout_compat = option.flag()?,
            "legacy_keyprefix_fanout" => config.legacy_fanout_prefix = Some(option.text()?),
            "fanout_patterns" => config.fanout_patterns = option.flag()?,
            "priority_steps" => config.priority_steps = steps(&option)?,
            "socket_keepalive" => self.keepalive = Some(option.flag()?),
            "socket_keepalive_options" => {
                keepalive(&option, &mut self.keepalive_options, &mut config.dial.user_timeout)?;
            }
            "master_name" | "sentinel_kwargs" | "sentinels" | "min_other_sentinels" => {
                return Err(option.invalid("is for sentinel:// URLs"));
            }
            "hash_tag" | "startup_nodes" | "sharded_fanout" => {
                return Err(option.invalid("is for rediscluster:// URLs"));
            }
            "credential_provider" => {
                return Err(option.invalid(
                    "is an argument of the connection, or stands in the URL's query: \
                     Connection(..., credential_provider=...)",
                ));
            }
            _ if self.tls.set(&option)? => {}
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Config> {
        let mut config = self.config;
        let template = match &self.fanout_prefix {
            Value::Null | Value::Bool(true) => "/{db}.",
            Value::Bool(false) => "",
            Value::String(text) => match text.as_str() {
                "true" | "True" | "1" => "/{db}.",
                "false" | "False" | "0" => "",
                text => text,
            },
            value => {
                return Err(
                    given("fanout_prefix", value).ill_typed("true, false or a text like '/{db}.'")
                );
            }
        };
        config.fanout_prefix = match self.keyprefix_fanout {
            Some(text) => text,
            None => template.replace("{db}", &config.db.to_string()),
        };
        if self.fanout_compat && config.legacy_fanout_prefix.is_none() {
            config.legacy_fanout_prefix = Some(template.to_owned());
        }
        config.legacy_fanout_prefix.take_if(|legacy| *legacy == config.fanout_prefix);
        config.dial.keepalive = match self.keepalive {
            Some(false) => None,
            _ => Some(self.keepalive_options),
        };
        if let Some(cluster) = &config.cluster {
            if cluster.sharded && config.fanout_patterns {
                return Err(Error::invalid(
                    "the Redis transport option 'sharded_fanout' needs fanout_patterns=False: \
                     sharded channels cannot be subscribed to by pattern, so routing keys do not count",
                ));
            }
            config.prefix = cluster.prefix(&config.prefix);
        }
        config.delivery_limit =
            DeliveryLimit::from_options(self.delivery_limit, self.dead_letter_queue)?;
        let third = config.visibility_timeout / 3;
        config.restore_interval = config.restore_interval.min(third);
        config.dial.tls = self.tls.finish();
        Ok(config)
    }
}

fn queue_order(option: &Given<'_>) -> Result<QueueOrder> {
    match option.text()?.as_str() {
        "round_robin" => Ok(QueueOrder::RoundRobin),
        "priority" => Ok(QueueOrder::Priority),
        "sorted" => Ok(QueueOrder::Sorted),
        _ => Err(option.invalid("must be 'round_robin', 'priority' or 'sorted'")),
    }
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!(
        "the Redis transport knows no option {name:?}; it knows ack_emulation, client_name, \
         dead_letter_queue, delivery_limit, fanout_patterns, fanout_prefix, global_keyprefix, \
         health_check_interval, keyprefix_binding_deadlines, keyprefix_binding_permanent, \
         keyprefix_fanout, keyprefix_queue, max_connections, min_binding_ttl, polling_interval, \
         priority_steps, queue_order_strategy, reconnect_grace, renew_leases, \
         sentinel_fanout_compat, sep, socket_connect_timeout, \
         socket_keepalive, socket_keepalive_options, socket_timeout, ssl, unacked_index_key, \
         unacked_key, unacked_mutex_expire, unacked_mutex_key, unacked_restore_interval, \
         unacked_restore_limit, visibility_timeout, with \
         sentinel:// master_name, min_other_sentinels, sentinel_kwargs and sentinels, with \
         rediscluster:// hash_tag, sharded_fanout and startup_nodes, and those that have no effect \
         here: {}",
        WITHOUT_EFFECT.join(", ")
    ))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
