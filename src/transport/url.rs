//! Broker URLs as Kombu reads them: `transport://user:password@host:port/virtual_host?option=value`.

use super::login::Login;
use crate::error::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;

/// The parts of one broker URL; `None` for parts that are absent or empty, as
/// `kombu.utils.url.url_to_parts` has it.
///
/// `Display` gives Kombu's `as_uri`: without the query, the password as `**`. `Debug` masks it too.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Url {
    /// Everything before `://` in lower case: `redis`, `sqla+sqlite`, `redis+socket`.
    pub transport: String,
    /// Host name or address (IPv6 without its brackets), in lower case. A path when it was written
    /// percent-encoded (`redis+socket://%2Ftmp%2Fredis.sock/0`).
    pub hostname: Option<String>,
    /// Port, 0 to 65535.
    pub port: Option<u16>,
    /// User name.
    pub userid: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// The path without its first slash.
    pub virtual_host: Option<String>,
    /// Query parameters in their order; blank ones are dropped, of a repeated one the last counts.
    pub query: Vec<(String, String)>,
    /// Takes the place of user and password where they change; `parse` gives none.
    pub login: Option<Login>,
}

impl Url {
    /// Takes a URL apart. A `module:Class+` prefix, by which stock Kombu finds a transport class, is
    /// dropped.
    ///
    /// # Errors
    /// `Invalid`, naming the part that cannot be parsed; never with the password.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim_matches(|c: char| c <= ' ');
        let fail = |what: &str| Err(invalid(text, what));
        if text.chars().any(char::is_control) {
            return fail("it contains a control character");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail("it has no transport: expected `transport://...`");
        };
        let scheme = match scheme.split_once('+') {
            Some((class, rest)) if class.contains(':') => rest,
            _ => scheme,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        if scheme.is_empty() || !scheme.chars().all(plain) {
            return fail(
                "the transport before `://` must be letters, digits, `+`, `-`, `.` and `_`",
            );
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, ""),
        };
        let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (userid, password) = user.split_once(':').unwrap_or((user, ""));
        let (hostname, port) = match host_and_port(place) {
            Ok(parts) => parts,
            Err(what) if authority.contains('@') || !text.contains('@') => return fail(&what),
            // What looks like a host is the beginning of the credentials: quote nothing of it.
            Err(_) => {
                return fail(
                    "`/`, `?` and `#` in the user name or password must be written as `%2F`, `%3F` and `%23`",
                );
            }
        };
        Ok(Self {
            transport: scheme.to_ascii_lowercase(),
            hostname,
            port,
            userid: decoded(userid),
            password: decoded(password),
            virtual_host: decoded(path),
            query: query_pairs(query),
            login: None,
        })
    }

    /// The alternatives of a fail-over list: `a://h1;a://h2`, as Kombu's `Connection` splits it. An
    /// alternative without a transport has that of the first one. Empty ones are dropped.
    ///
    /// # Errors
    /// As [`Url::parse`], for the first one that is wrong; `Invalid` for an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let mut urls: Vec<Self> = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let url = match urls.first() {
                Some(first) if !part.contains("://") => {
                    Self::parse(&format!("{}://{part}", first.transport))?
                }
                _ => Self::parse(part)?,
            };
            urls.push(url);
        }
        if urls.is_empty() { Err(Error::invalid("the broker URL is empty")) } else { Ok(urls) }
    }

    /// What comes before the first `+` of the transport, and what after it: `sqla` and `sqlite`.
    pub fn transport_parts(&self) -> (&str, Option<&str>) {
        match self.transport.split_once('+') {
            Some((name, rest)) => (name, Some(rest)),
            None => (&self.transport, None),
        }
    }

    /// A query parameter.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.query.iter().rfind(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The path of the unix socket that a `...+socket` URL names: its path
    /// (`redis+socket:///tmp/redis.sock`) or its percent-encoded host.
    pub fn socket_path(&self) -> Option<String> {
        if self.transport_parts().1 != Some("socket") {
            return None;
        }
        match (&self.hostname, &self.virtual_host) {
            (Some(host), _) if host.starts_with('/') => Some(host.clone()),
            (None, Some(path)) => Some(format!("/{path}")),
            _ => None,
        }
    }

    /// Host and port for messages to users: `localhost:6379`, `[::1]:6379`, a socket's path.
    pub fn address(&self, default_host: &str, default_port: u16) -> String {
        if let Some(path) = self.socket_path() {
            return path;
        }
        let host = self.hostname.as_deref().unwrap_or(default_host);
        let port = self.port.unwrap_or(default_port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What stays as it is in user name, host and path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ADDRESS: &AsciiSet = &PLAIN.remove(b':');
const PATH: &AsciiSet = &PLAIN.remove(b'/');

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.transport)?;
        if self.userid.is_some() || self.password.is_some() {
            let user = self.userid.as_deref().unwrap_or_default();
            write!(f, "{}", utf8_percent_encode(user, PLAIN))?;
            if self.password.is_some() {
                f.write_str(":**")?;
            }
            f.write_str("@")?;
        }
        match &self.hostname {
            Some(host) if host.contains(':') => {
                write!(f, "[{}]", utf8_percent_encode(host, ADDRESS))?;
            }
            Some(host) => write!(f, "{}", utf8_percent_encode(host, PLAIN))?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        let path = self.virtual_host.as_deref().unwrap_or_default();
        write!(f, "/{}", utf8_percent_encode(path, PATH))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

fn invalid(text: &str, what: &str) -> Error {
    Error::invalid(format!("the broker URL `{}` cannot be parsed: {what}", masked(text)))
}

/// A URL that could not be parsed, for an error message: everything that may be a password is gone.
fn masked(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let (head, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
    let rest = match rest.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:**@{place}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let rest = rest.split_once('?').map_or(rest.as_str(), |(path, _)| path);
    format!("{head}{rest}")
}

fn host_and_port(place: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = if let Some(inner) = place.strip_prefix('[') {
        let Some((host, rest)) = inner.split_once(']') else {
            return Err("the IPv6 address has no closing bracket".to_owned());
        };
        match rest.strip_prefix(':') {
            Some(port) => (host, port),
            None if rest.is_empty() => (host, ""),
            None => return Err("only a port can follow the `]` of an IPv6 address".to_owned()),
        }
    } else {
        place.split_once(':').unwrap_or((place, ""))
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = match port.parse::<u16>() {
        _ if port.is_empty() => None,
        Ok(number) if digits => Some(number),
        _ => return Err(format!("the port must be a number from 0 to 65535, not {port:?}")),
    };
    let host = decoded(host).map(|host| {
        // The case of a path counts, that of a host does not.
        if host.starts_with('/') { host } else { host.to_lowercase() }
    });
    Ok((host, port))
}

fn decoded(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| percent_decode_str(text).decode_utf8_lossy().into_owned())
}

fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// transport, hostname, port, userid, password, virtual_host
    type Parts<'a> =
        (&'a str, Option<&'a str>, Option<u16>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    #[test]
    fn reads_what_kombu_reads() {
        let cases: &[(&str, Parts<'_>)] = &[
            (
                "amqp://guest:guest@localhost:5672//",
                ("amqp", Some("localhost"), Some(5672), Some("guest"), Some("guest"), Some("/")),
            ),
            ("amqp://", ("amqp", None, None, None, None, None)),
            ("redis://:pass@h:1/2", ("redis", Some("h"), Some(1), None, Some("pass"), Some("2"))),
            ("redis://h/", ("redis", Some("h"), None, None, None, None)),
            (
                "amqp://u%40x:p%2Fw@h:5/v%2Fh",
                ("amqp", Some("h"), Some(5), Some("u@x"), Some("p/w"), Some("v/h")),
            ),
            ("sqla+sqlite:///foo.db", ("sqla+sqlite", None, None, None, None, Some("foo.db"))),
            ("sqla+sqlite:////a/b.db", ("sqla+sqlite", None, None, None, None, Some("/a/b.db"))),
            ("amqp://[::1]:5672/x", ("amqp", Some("::1"), Some(5672), None, None, Some("x"))),
            (
                "amqp://u:p@[fe80::1%25eth0]:1/",
                ("amqp", Some("fe80::1%eth0"), Some(1), Some("u"), Some("p"), None),
            ),
            ("redis://h:0/", ("redis", Some("h"), Some(0), None, None, None)),
            ("redis://h:/", ("redis", Some("h"), None, None, None, None)),
            ("amqp://u:@h", ("amqp", Some("h"), None, Some("u"), None, None)),
            ("amqp://u:p@h@g/", ("amqp", Some("g"), None, Some("u"), Some("p@h"), None)),
            ("REDIS://H.Example/0#frag", ("redis", Some("h.example"), None, None, None, Some("0"))),
            (
                "redis://%zz:x@h/%zz",
                ("redis", Some("h"), None, Some("%zz"), Some("x"), Some("%zz")),
            ),
            (
                "kombu_rs.transport:Transport+redis://h/0",
                ("redis", Some("h"), None, None, None, Some("0")),
            ),
        ];
        for (text, parts) in cases {
            let url = Url::parse(text).unwrap();
            let own: Parts<'_> = (
                &url.transport,
                url.hostname.as_deref(),
                url.port,
                url.userid.as_deref(),
                url.password.as_deref(),
                url.virtual_host.as_deref(),
            );
            assert_eq!(own, *parts, "{text}");
        }
    }

    #[test]
    fn query_parameters_are_options() {
        let url = Url::parse("redis://h/0?a=1&b=&c&d=x+y%26&a=2&e=%C3%B6").unwrap();
        assert_eq!(url.option("a"), Some("2"));
        assert_eq!(url.option("d"), Some("x y&"));
        assert_eq!(url.option("e"), Some("ö"));
        assert_eq!((url.option("b"), url.option("c")), (None, None));
        assert_eq!(url.query.len(), 4);
    }

    #[test]
    fn unix_sockets() {
        let path = |text: &str| Url::parse(text).unwrap().socket_path();
        assert_eq!(path("redis+socket:///tmp/x.sock?virtual_host=3").unwrap(), "/tmp/x.sock");
        assert_eq!(path("redis+socket://:pw@/tmp/x.sock").unwrap(), "/tmp/x.sock");
        assert_eq!(path("redis+socket://%2FTmp%2Fx.sock/1").unwrap(), "/Tmp/x.sock");
        assert_eq!(path("redis://h/tmp/x.sock"), None);
        assert_eq!(Url::parse("redis://[::1]").unwrap().address("localhost", 6379), "[::1]:6379");
    }

    #[test]
    fn alternates() {
        let urls = Url::parse_list("sentinel://a:1;sentinel://b:2; c:3 ;").unwrap();
        let shown: Vec<_> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["sentinel://a:1/", "sentinel://b:2/", "sentinel://c:3/"]);
        assert!(Url::parse_list(" ; ").is_err());
    }

    #[test]
    fn passwords_are_masked() {
        let url = Url::parse("redis://me%40x:s%2Fecret@h:1/2?password=secret").unwrap();
        assert_eq!(url.to_string(), "redis://me%40x:**@h:1/2");
        assert_eq!(format!("{url:?}"), "Url(redis://me%40x:**@h:1/2)");
        assert_eq!(Url::parse("amqp://[::1]:1//v").unwrap().to_string(), "amqp://[::1]:1//v");
    }

    #[test]
    fn errors_name_the_part_and_hide_the_password() {
        for (text, part) in [
            ("localhost", "it has no transport"),
            ("", "it has no transport"),
            ("re dis://h", "the transport before `://`"),
            ("://h", "the transport before `://`"),
            ("redis://u:secret@h:port/", "the port must be a number from 0 to 65535, not \"port\""),
            ("redis://u:secret@h:99999/", "the port must be a number from 0 to 65535"),
            ("redis://h:+1/", "the port must be a number"),
            ("redis://u:secret@[::1/", "no closing bracket"),
            ("redis://u:secret@[::1]x/", "only a port can follow"),
            ("sqs://key:se/secret@", "must be written as `%2F`"),
            ("redis://:sec#secret@h/", "must be written as `%2F`"),
            ("redis://h:x?password=secret", "the port must be a number"),
            ("redis://u:secret@h\n/", "a control character"),
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("sec"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), tail in ".*") {
            let _ = Url::parse(&text);
            let _ = Url::parse_list(&text);
            let _ = Url::parse(&format!("redis://{tail}"));
        }

        #[test]
        fn what_is_shown_is_read_again(
            user in "[^\\p{Cc}]{1,8}", host in "[a-z0-9-]{1,8}", port in any::<u16>(),
            path in "[^\\p{Cc}]{0,8}",
        ) {
            let url = Url {
                transport: "x+y".into(),
                hostname: Some(host),
                port: Some(port),
                userid: Some(user),
                password: None,
                virtual_host: (!path.is_empty()).then_some(path),
                query: Vec::new(),
                login: None,
            };
            prop_assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
        }
    }
}
