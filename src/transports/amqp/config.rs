//! The URL and the transport options, checked.

use crate::error::{Error, Result};
use crate::io::dial::{Address, DialOptions, Keepalive};
use crate::model::Json;
use crate::protocol::amqp::{Login, Wishes};
use crate::transport::schemes::Options;
use crate::transport::{self, Given, TlsDraft, Url};
use serde_json::Value;
use std::time::Duration;

/// What py-amqp asks for, too.
const FRAME_MAX: u32 = 131_072;
/// RabbitMQ's default since 3.8.17.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Smallest `frame_max` (AMQP 0-9-1 section 4.2.3: `frame-min-size`).
const SMALLEST_FRAME: u64 = 4096;
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;

/// Everything that a connection is told. `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the broker listens.
    pub address: Address,
    /// How to connect. The timeout is `connect_timeout`, default 5 s: for everything until the
    /// connection is open.
    pub dial: DialOptions,
    /// Log-in, virtual host and limits.
    pub wishes: Wishes,
    /// User and password of the moment, where they change: they win over those of `wishes`.
    pub credentials: Option<transport::Login>,
    /// `read_timeout`: how long an answer may take; the link counts as lost then. Default: as long as
    /// it gives a sign of life. (RabbitMQ answers nothing while it blocks a connection.)
    pub read_timeout: Option<Duration>,
    /// `write_timeout`: how long the socket may take nothing, and the broker block publishers.
    /// Default: as long as the caller waits.
    pub write_timeout: Option<Duration>,
    /// `publish_timeout`: how long a publish may take whose caller has set no limit, default 30 s; 0 is
    /// `None`, for ever.
    pub publish_timeout: Option<Duration>,
    /// `confirm_publish`: a publish returns when the broker has the message, default false.
    pub confirm: bool,
    /// `consumer_timeout`: after how long without an acknowledgement the broker closes a channel, as it
    /// is set there; a warning comes after four fifths of it. Default 30 min; 0: no warning.
    pub consumer_timeout: Option<Duration>,
}

/// Options of Kombu and Celery that are for layers above.
const WITHOUT_EFFECT: [&str; 13] = [
    "client_name",
    "connect_retries_timeout",
    "errback",
    "failover_strategy",
    "interval_max",
    "interval_start",
    "interval_step",
    "max_connections",
    "max_retries",
    "polling_interval",
    "retry_errback",
    "retry_policy",
    "visibility_timeout",
];

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
        let mut tls = TlsDraft::new("", url.transport == "amqps");
        let mut properties = default_properties();
        let mut config = Self {
            address: Address::Tcp { host: String::new(), port: 0 },
            dial: DialOptions {
                connect_timeout: Duration::from_secs(5),
                keepalive: Some(Keepalive::default()),
                user_timeout: None,
                tls: None,
            },
            wishes: Wishes {
                login: Login::Plain,
                user: url.userid.clone().unwrap_or_else(|| "guest".into()),
                password: match &url.password {
                    Some(password) => password.clone(),
                    None if url.userid.is_none() => "guest".into(),
                    None => String::new(),
                },
                // Kombu: no virtual host is `/`, and `//` is too.
                vhost: url.virtual_host.clone().unwrap_or_else(|| "/".into()),
                properties: Json::empty_object(),
                channel_max: 0,
                frame_max: FRAME_MAX,
                heartbeat: None,
            },
            credentials: url.login.clone(),
            read_timeout: None,
            write_timeout: None,
            publish_timeout: Some(Duration::from_secs(30)),
            confirm: false,
            consumer_timeout: Some(CONSUMER_TIMEOUT),
        };
        for (name, value) in &all {
            let option = Given { transport: "AMQP", name, value };
            config.set(&mut tls, &mut properties, &option)?;
        }
        config.wishes.properties = Json::from_valid(Value::Object(properties).to_string());
        config.dial.tls = tls.finish();
        let port = if config.dial.tls.is_some() { TLS_PORT } else { PORT };
        config.address = Address::Tcp {
            host: url.hostname.clone().unwrap_or_else(|| "localhost".into()),
            port: url.port.unwrap_or(port),
        };
        Ok(config)
    }

    fn set(
        &mut self,
        tls: &mut TlsDraft,
        properties: &mut Options,
        option: &Given<'_>,
    ) -> Result<()> {
        if option.value.is_null() {
            return Ok(()); // Kombu's "not given"
        }
        let wishes = &mut self.wishes;
        match option.name {
            "login_method" => {
                wishes.login = match option.text()?.to_ascii_uppercase().as_str() {
                    "PLAIN" => Login::Plain,
                    "AMQPLAIN" => Login::AmqPlain,
                    "EXTERNAL" => Login::External,
                    _ => return Err(option.invalid("must be 'PLAIN', 'AMQPLAIN' or 'EXTERNAL'")),
                }
            }
            "heartbeat" => {
                let seconds = option.number("a number of seconds")?;
                if !(0.0..=65_535.0).contains(&seconds) {
                    return Err(option.invalid("must be a number of seconds from 0 to 65535"));
                }
                // Half a second must not become none.
                wishes.heartbeat = Some(seconds.ceil() as u16);
            }
            "frame_max" => {
                let bytes = option.whole()?;
                wishes.frame_max = match u32::try_from(bytes) {
                    Ok(bytes) if bytes == 0 || u64::from(bytes) >= SMALLEST_FRAME => bytes,
                    _ => return Err(option.invalid("must be 0 or a number of bytes from 4096 on")),
                };
            }
            "channel_max" => {
                wishes.channel_max = u16::try_from(option.whole()?)
                    .map_err(|_| option.invalid("must be a number from 0 to 65535"))?;
            }
            "client_properties" => match option.value {
                Value::Object(own) => {
                    properties
                        .extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
                }
                _ => return Err(option.ill_typed("a dictionary")),
            },
            "socket_settings" => self.set_socket(option)?,
            "confirm_publish" => self.confirm = option.flag()?,
            "consumer_timeout" => {
                self.consumer_timeout = match option.number("a number of seconds")? {
                    0.0 => None,
                    _ => Some(option.seconds()?),
                }
            }
            "connect_timeout" => self.dial.connect_timeout = option.seconds()?,
            "publish_timeout" => self.publish_timeout = option.seconds_or_none()?,
            "read_timeout" => self.read_timeout = Some(option.seconds()?),
            "write_timeout" => {
                self.write_timeout = Some(option.seconds()?);
                self.dial.user_timeout = self.write_timeout;
            }
            _ if tls.set(option)? => {}
            name if WITHOUT_EFFECT.contains(&name) => {}
            name => return Err(unknown(name)),
        }
        Ok(())
    }
}

impl Config {
    /// TCP options by the names of Python's `socket` module.
    fn set_socket(&mut self, option: &Given<'_>) -> Result<()> {
        let Value::Object(settings) = option.value else {
            return Err(option.ill_typed("a dictionary"));
        };
        for (name, value) in settings {
            let member = option.member(name, value);
            let keepalive = self.dial.keepalive.get_or_insert_default();
            match name.as_str() {
                "TCP_NODELAY" if member.flag()? => {}
                "TCP_KEEPIDLE" => keepalive.idle = member.seconds()?,
                "TCP_KEEPINTVL" => keepalive.interval = member.seconds()?,
                "TCP_KEEPCNT" => {
                    keepalive.count = member.count("a number of probes")? as u32;
                }
                "TCP_USER_TIMEOUT" => {
                    self.dial.user_timeout = Some(Duration::from_millis(member.whole()?));
                }
                _ => {
                    return Err(member.invalid(
                        "is not supported in `socket_settings`: there are TCP_KEEPCNT, TCP_KEEPIDLE, \
                         TCP_KEEPINTVL, TCP_USER_TIMEOUT, and TCP_NODELAY, which is always on",
                    ));
                }
            }
        }
        Ok(())
    }

    /// What to log in with at this moment.
    pub(super) fn wishes(&self) -> Wishes {
        let mut wishes = self.wishes.clone();
        if let Some((user, password)) = self.credentials.as_ref().and_then(transport::Login::get) {
            wishes.user = user.unwrap_or_default();
            wishes.password = password.unwrap_or_default();
        }
        wishes
    }
}

/// What we tell of ourselves, and what we are ready for.
fn default_properties() -> Options {
    let capabilities = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
    ];
    let capabilities: Options =
        capabilities.into_iter().map(|name| (name.to_owned(), Value::Bool(true))).collect();
    let mut properties = Options::new();
    properties.insert("product".into(), "kombu-rs".into());
    properties.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    properties.insert("capabilities".into(), Value::Object(capabilities));
    properties
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!(
        "the AMQP transport knows no option {name:?}; it knows channel_max, client_properties, \
         confirm_publish, connect_timeout, consumer_timeout, frame_max, heartbeat, login_method, \
         publish_timeout, read_timeout, server_hostname, socket_settings, ssl, write_timeout, and \
         those that have no effect here: {}",
        WITHOUT_EFFECT.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::io::tls::Verify;
    use serde_json::json;

    fn parse(url: &str, options: Value) -> Result<Config> {
        let Value::Object(options) = options else { panic!("not an object") };
        Config::parse(&Url::parse(url).unwrap(), &options)
    }

    #[test]
    fn urls() {
        let config = parse("amqp://", json!({})).unwrap();
        assert_eq!(config.address.to_string(), "localhost:5672");
        let wishes = &config.wishes;
        assert_eq!((&*wishes.user, &*wishes.password, &*wishes.vhost), ("guest", "guest", "/"));
        assert_eq!((wishes.login, wishes.heartbeat), (Login::Plain, None));
        let config = parse("amqps://me:s%2Fecret@h/v?heartbeat=10", json!({})).unwrap();
        assert_eq!(config.address.to_string(), "h:5671");
        assert_eq!(config.dial.tls.as_ref().map(|tls| tls.verify), Some(Verify::Full));
        let wishes = &config.wishes;
        assert_eq!((&*wishes.user, &*wishes.password, &*wishes.vhost), ("me", "s/ecret", "v"));
        assert_eq!(wishes.heartbeat, Some(10));
        assert!(!format!("{config:?}").contains("s/ecret"));
        assert_eq!(parse("amqp://me@h//", json!({})).unwrap().wishes.password, "");
    }

    #[test]
    fn options() {
        let config = parse(
            "amqp://h?heartbeat=1",
            json!({
                "heartbeat": 0.5, "frame_max": 4096, "channel_max": 7, "confirm_publish": true,
                "login_method": "amqplain", "read_timeout": 3, "write_timeout": 2, "connect_timeout": 1,
                "consumer_timeout": 2.5,
                "max_retries": 3, "ssl": null,
                "client_properties": {"connection_name": "x"},
            }),
        )
        .unwrap();
        let wishes = &config.wishes;
        assert_eq!((wishes.heartbeat, wishes.frame_max, wishes.channel_max), (Some(1), 4096, 7));
        assert_eq!(config.consumer_timeout, Some(Duration::from_millis(2500)));
        assert_eq!(parse("amqp://h?consumer_timeout=0", json!({})).unwrap().consumer_timeout, None);
        assert_eq!(parse("amqp://h", json!({})).unwrap().consumer_timeout, Some(CONSUMER_TIMEOUT));
        assert!(config.confirm && wishes.login == Login::AmqPlain);
        let properties: Value = serde_json::from_slice(wishes.properties.as_bytes()).unwrap();
        assert_eq!(properties["connection_name"], "x");
        assert_eq!(properties["capabilities"]["connection.blocked"], true);
        let tls = |ssl: Value| parse("amqp://h", json!({"ssl": ssl})).unwrap();
        assert_eq!(tls(json!(false)).dial.tls, None);
        let config = tls(json!({"ca_certs": "/ca", "cert_reqs": 2, "server_hostname": "name"}));
        assert_eq!(config.address.to_string(), "h:5671");
        let options = config.dial.tls.unwrap();
        assert_eq!((options.verify, options.server_name.as_deref()), (Verify::Full, Some("name")));
        let options = tls(json!({"cert_reqs": "CERT_NONE"})).dial.tls.unwrap();
        assert_eq!(options.verify, Verify::Nothing);
        let options = tls(json!({"check_hostname": false})).dial.tls.unwrap();
        assert_eq!(options.verify, Verify::Chain);
    }

    #[test]
    fn credentials_of_the_moment_win() {
        let login = transport::Login::default();
        let mut url = Url::parse("amqp://me:old@h//").unwrap();
        url.login = Some(login.clone());
        let config = Config::parse(&url, &Options::new()).unwrap();
        assert_eq!(config.wishes().password, "old");
        login.set(Some("you".into()), Some("n3w".into()));
        let wishes = config.wishes();
        assert_eq!((&*wishes.user, &*wishes.password), ("you", "n3w"));
        assert!(!format!("{config:?} {wishes:?}").contains("n3w"));
    }

    #[test]
    fn a_publish_has_a_limit_unless_told_otherwise() {
        let limit = |options: Value| parse("amqp://h", options).unwrap().publish_timeout;
        assert_eq!(limit(json!({})), Some(Duration::from_secs(30)));
        assert_eq!(limit(json!({"publish_timeout": 2.5})), Some(Duration::from_millis(2500)));
        assert_eq!(limit(json!({"publish_timeout": 0})), None);
    }

    #[test]
    fn wrong_ones_are_named() {
        for (options, kind, why) in [
            (json!({"hartbeat": 1}), ErrorKind::Invalid, "\"hartbeat\""),
            (json!({"heartbeat": "soon"}), ErrorKind::Type, "'heartbeat'"),
            (json!({"heartbeat": 70_000}), ErrorKind::Invalid, "'heartbeat'"),
            (json!({"frame_max": 100}), ErrorKind::Invalid, "'frame_max'"),
            (json!({"channel_max": -1}), ErrorKind::Invalid, "'channel_max'"),
            (json!({"login_method": "KERBEROS"}), ErrorKind::Invalid, "'PLAIN'"),
            (json!({"consumer_timeout": -1}), ErrorKind::Invalid, "'consumer_timeout'"),
            (json!({"read_timeout": 0}), ErrorKind::Invalid, "'read_timeout'"),
            (json!({"client_properties": 1}), ErrorKind::Type, "'client_properties'"),
            (json!({"ssl": {"colour": "red"}}), ErrorKind::Invalid, "'colour'"),
            (json!({"publish_timeout": -1}), ErrorKind::Invalid, "'publish_timeout'"),
            (json!({"socket_settings": {"TCP_CORK": 1}}), ErrorKind::Invalid, "'TCP_CORK'"),
            (json!({"ssl": {"cert_reqs": 7}}), ErrorKind::Invalid, "'cert_reqs'"),
        ] {
            let error = parse("amqp://", options).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
