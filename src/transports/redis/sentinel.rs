//! Sentinels: servers that are asked where the master is, each time a link is made.

use super::ask::{Login, ask, share};
use super::given::{self, given};
use crate::error::{Error, ErrorKind, Result};
use crate::io::dial::{Address, DialOptions, Keepalive};
use crate::io::task::timeout_at;
use crate::protocol::resp::{Command, Value};
use crate::transport::schemes::Options;
use crate::transport::{Given, TlsDraft, Url};
use serde_json::Value as Json;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Arguments of redis-py's `Redis`, which `sentinel_kwargs` is made for, that change nothing here: a
/// sentinel is asked one question, or listened to.
const WITHOUT_EFFECT: [&str; 16] = [
    "client_name",
    "db",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "errors",
    "health_check_interval",
    "lib_name",
    "lib_version",
    "max_connections",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "socket_read_size",
];

/// The port of sentinels.
const PORT: u16 = 26379;

/// Who to ask for the master. `Debug` shows no password.
#[derive(Clone)]
pub struct Sentinels {
    pub(super) nodes: Vec<Address>,
    /// `master_name`: which of the masters that they watch.
    pub master: String,
    /// `min_other_sentinels`: a sentinel that sees fewer others is not believed, default 0.
    others: u64,
    /// `username` and `password` of `sentinel_kwargs`.
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// `ssl...` of `sentinel_kwargs`, and `socket_connect_timeout`.
    pub(super) dial: DialOptions,
    /// Whom to ask first: who answered last.
    pub(super) turn: Arc<AtomicUsize>,
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels")
            .field("nodes", &self.nodes)
            .field("master", &self.master)
            .finish_non_exhaustive()
    }
}

impl Sentinels {
    /// Takes what is for them out of `options`.
    ///
    /// # Errors
    /// `Invalid` or `Type`, naming the option that is missing or wrong.
    pub(super) fn parse(url: &Url, options: &mut Options) -> Result<Self> {
        let mut take = |name| options.remove(name).filter(|value| !value.is_null());
        let master = match take("master_name") {
            Some(value) => given("master_name", &value).non_empty()?,
            None => {
                return Err(Error::invalid("'master_name' transport option must be specified."));
            }
        };
        let nodes = match take("sentinels") {
            Some(value) => nodes(&given("sentinels", &value))?,
            None => vec![Address::Tcp {
                host: url.hostname.clone().unwrap_or_else(|| "localhost".into()),
                port: url.port.unwrap_or(PORT),
            }],
        };
        let others = match take("min_other_sentinels") {
            Some(value) => given("min_other_sentinels", &value).whole()?,
            None => 0,
        };
        let mut sentinels = Self {
            nodes,
            master,
            others,
            username: None,
            password: None,
            dial: DialOptions {
                connect_timeout: Duration::from_secs(5),
                keepalive: Some(Keepalive::default()),
                user_timeout: None,
                tls: None,
            },
            turn: Arc::default(),
        };
        for name in ["socket_connect_timeout", "connect_timeout"] {
            if let Some(value) = options.get(name).filter(|value| !value.is_null()) {
                sentinels.dial.connect_timeout = given(name, value).seconds()?;
            }
        }
        match options.remove("sentinel_kwargs") {
            Some(Json::Object(own)) => sentinels.set(&own)?,
            Some(value) if !value.is_null() => {
                return Err(given("sentinel_kwargs", &value).ill_typed("a dictionary"));
            }
            _ => {}
        }
        Ok(sentinels)
    }

    fn set(&mut self, own: &Options) -> Result<()> {
        let mut tls = TlsDraft::new("ssl_", false);
        for (name, value) in own.iter().filter(|(_, value)| !value.is_null()) {
            let option = given(name, value);
            match name.as_str() {
                "username" => self.username = Some(option.text()?),
                "password" => self.password = Some(option.text()?),
                "socket_connect_timeout" | "socket_timeout" => {
                    self.dial.connect_timeout = option.seconds()?;
                }
                "socket_keepalive" if !option.flag()? => self.dial.keepalive = None,
                "socket_keepalive" => {}
                "socket_keepalive_options" => {
                    let mut keepalive = Keepalive::default();
                    given::keepalive(&option, &mut keepalive, &mut self.dial.user_timeout)?;
                    self.dial.keepalive = self.dial.keepalive.map(|_| keepalive);
                }
                name if WITHOUT_EFFECT.contains(&name) => {}
                _ if tls.set(&option)? => {}
                _ => {
                    return Err(option.invalid(
                        "is not for sentinel_kwargs, which knows password, socket_connect_timeout, \
                         socket_keepalive, socket_keepalive_options, socket_timeout, ssl and its \
                         options, username, and other arguments of redis-py's Redis, without effect",
                    ));
                }
            }
        }
        self.dial.tls = tls.finish();
        Ok(())
    }

    /// The first one.
    pub(super) fn first(&self) -> &Address {
        &self.nodes[0]
    }

    /// Where the master is, as one of them says. Each is waited for a part of the connect timeout.
    ///
    /// # Errors
    /// `Connection` when none of them knows, with what each has said; `Auth`.
    pub(super) async fn master(&self) -> Result<Address> {
        let patience = share(self.dial.connect_timeout, self.nodes.len());
        let first = self.turn.load(Ordering::Relaxed);
        let mut said = Vec::new();
        for at in 0..self.nodes.len() {
            let at = (first + at) % self.nodes.len();
            let node = &self.nodes[at];
            match timeout_at(Instant::now() + patience, self.ask(node, patience)).await {
                Some(Ok(master)) => {
                    self.turn.store(at, Ordering::Relaxed);
                    return Ok(master);
                }
                Some(Err(error)) if error.kind() == ErrorKind::Auth => return Err(error),
                Some(Err(error)) => said.push(error.to_string()),
                None => said.push(format!(
                    "the sentinel at {node} did not answer within {:.1} s",
                    patience.as_secs_f64()
                )),
            }
        }
        Err(Error::connection(format!(
            "no sentinel knows where the master '{}' is: {}",
            self.master,
            said.join("; ")
        )))
    }

    async fn ask(&self, node: &Address, patience: Duration) -> Result<Address> {
        let peer = format!("the sentinel at {node}");
        let login =
            Login { username: self.username.as_deref(), password: self.password.as_deref() };
        let question = Command::new("SENTINEL").args(["MASTER", self.master.as_str()]);
        let answer = ask(node, &peer, &self.dial, login, &[question], patience).await?.pop();
        if let Some(Value::Error(error)) = answer {
            return Err(Error::connection(format!("{peer}: {error}")));
        }
        self.believe(&peer, answer.unwrap_or(Value::Null))
    }

    /// Reads what a sentinel says of the master: names and values, alternating.
    fn believe(&self, peer: &str, answer: Value) -> Result<Address> {
        let items = answer.into_items().unwrap_or_default();
        let member = |name: &str| {
            let found = items
                .chunks_exact(2)
                .find(|pair| pair[0].as_bytes().is_some_and(|known| known == name));
            let value = found.and_then(|pair| pair[1].as_bytes());
            value.map(|text| String::from_utf8_lossy(text).into_owned())
        };
        let (Some(host), Some(Ok(port))) = (member("ip"), member("port").map(|port| port.parse()))
        else {
            return Err(Error::connection(format!("{peer} does not say where the master is")));
        };
        let flags = member("flags").unwrap_or_default();
        if let Some(down) = flags.split(',').find(|flag| matches!(*flag, "s_down" | "o_down")) {
            return Err(Error::connection(format!(
                "{peer} thinks that the master is down ({down})"
            )));
        }
        let others = member("num-other-sentinels").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        if others < self.others {
            return Err(Error::connection(format!(
                "{peer} sees {others} other sentinels, {} are asked for",
                self.others
            )));
        }
        Ok(Address::Tcp { host, port })
    }
}

/// `[[host, port], ...]`
pub(super) fn nodes(option: &Given<'_>) -> Result<Vec<Address>> {
    let right = "a list of hosts and ports like [['10.0.0.1', 26379]]";
    let items = option.value.as_array().ok_or_else(|| option.ill_typed(right))?;
    let nodes = items
        .iter()
        .map(|item| {
            let pair = item.as_array().filter(|pair| pair.len() == 2)?;
            let port = u16::try_from(pair[1].as_u64()?).ok()?;
            Some(Address::Tcp { host: pair[0].as_str()?.to_owned(), port })
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| option.ill_typed(right))?;
    if nodes.is_empty() { Err(option.invalid("must not be empty")) } else { Ok(nodes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transports::redis::Config;
    use bytes::Bytes;
    use serde_json::json;

    fn parse(url: &str, options: Json) -> Result<Sentinels> {
        let Json::Object(options) = options else { panic!("not an object") };
        Ok(Config::parse(&Url::parse(url)?, &options)?.sentinels.unwrap())
    }

    fn said(text: &str) -> Value {
        let items = text
            .split_whitespace()
            .map(|word| Value::Bulk(Bytes::copy_from_slice(word.as_bytes())));
        Value::Array(items.collect())
    }

    #[test]
    fn options_say_whom_to_ask() {
        let plain = parse("sentinel://h/2", json!({"master_name": "m"})).unwrap();
        assert_eq!((plain.first().to_string().as_str(), plain.others), ("h:26379", 0));
        let options = json!({
            "master_name": "m", "sentinels": [["a", 1], ["b", 2]], "min_other_sentinels": 1,
            "sentinel_kwargs": {"password": "s3cret", "socket_timeout": 0.5},
        });
        let full = parse("sentinel://h/2", options).unwrap();
        assert_eq!(full.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(full.password.as_deref(), Some("s3cret"));
        assert_eq!(full.dial.connect_timeout, Duration::from_millis(500));
        assert!(!format!("{full:?}").contains("s3cret"));
    }

    #[test]
    fn wrong_options_are_named() {
        let error = |options| parse("sentinel://h", options).unwrap_err().to_string();
        assert!(error(json!({})).contains("'master_name'"));
        assert!(error(json!({"master_name": "m", "sentinels": ["a:1"]})).contains("'sentinels'"));
        let own = json!({"master_name": "m", "sentinel_kwargs": {"bogus": 1}});
        assert!(error(own).contains("'bogus' is not for sentinel_kwargs"));
        let url = Url::parse("redis://h").unwrap();
        let Json::Object(options) = json!({"master_name": "m"}) else { unreachable!() };
        assert!(Config::parse(&url, &options).unwrap_err().to_string().contains("sentinel://"));
    }

    #[test]
    fn a_sentinel_is_believed_unless_it_doubts() {
        let sentinels =
            parse("sentinel://h", json!({"master_name": "m", "min_other_sentinels": 2})).unwrap();
        let believe = |text| sentinels.believe("it", said(text));
        let good = "ip 10.0.0.9 port 7000 flags master num-other-sentinels 2";
        assert_eq!(believe(good).unwrap().to_string(), "10.0.0.9:7000");
        for (text, why) in [
            ("ip 10.0.0.9 port 7000 flags s_down,master num-other-sentinels 2", "s_down"),
            ("ip 10.0.0.9 port 7000 flags master num-other-sentinels 1", "sees 1 other"),
            ("ip 10.0.0.9 port x", "does not say"),
        ] {
            let error = believe(text).unwrap_err();
            assert!(error.to_string().contains(why) && error.kind() == ErrorKind::Connection);
        }
    }
}
