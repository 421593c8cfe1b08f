//! From a URL and transport options to what the store needs.

use crate::error::{Error, Result};
use crate::transport::Url;
use crate::transport::schemes::Options;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for a database that others keep locked, unless told otherwise.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where everything else is served.
const SQLALCHEMY: &str =
    " (in Python, kombu_rs.transport.sqlalchemy serves the rest, with SQLAlchemy)";

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Location {
    /// A file, by its absolute path.
    File(PathBuf),
    /// In the memory of this process, shared by its connections.
    Memory,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str(":memory:"),
        }
    }
}

/// When a transaction is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Synchronous {
    /// Handed to the operating system: survives every process, not a power loss.
    Normal,
    /// Synced to disk before the call returns.
    Full,
}

/// Everything that a store is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) location: Location,
    pub(super) queue_table: String,
    pub(super) message_table: String,
    pub(super) busy_timeout: Duration,
    pub(super) synchronous: Synchronous,
}

impl Config {
    /// Reads the URL (`sqla+sqlite:///relative.db`, `sqla+sqlite:////absolute.db`,
    /// `sqla+sqlite:///:memory:`) and the transport options.
    ///
    /// # Errors
    /// `Unsupported` for another SQL dialect; `Invalid` or `Type` naming the URL part or option.
    pub(super) fn new(url: &Url, options: &Options) -> Result<Self> {
        let (location, timeout) = parse_url(url)?;
        let mut config = Self {
            location,
            queue_table: "kombu_queue".into(),
            message_table: "kombu_message".into(),
            busy_timeout: timeout.unwrap_or(BUSY_TIMEOUT),
            synchronous: Synchronous::Normal,
        };
        for (name, value) in options {
            config.set(name, value)?;
        }
        if config.queue_table == config.message_table {
            return Err(Error::invalid(
                "transport options queue_tablename and message_tablename must differ",
            ));
        }
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        match name {
            "queue_tablename" => self.queue_table = table_name(name, value)?,
            "message_tablename" => self.message_table = table_name(name, value)?,
            "busy_timeout" => {
                self.busy_timeout = seconds(name, typed(name, value, "a number of seconds")?)?;
            }
            "synchronous" => {
                self.synchronous = typed(name, value, "\"normal\" or \"full\"")?;
            }
            _ => {
                return Err(Error::invalid(format!(
                    "unknown transport option {name:?} for a file of SQLite; known are \
                     busy_timeout, message_tablename, queue_tablename, synchronous{SQLALCHEMY}"
                )));
            }
        }
        Ok(())
    }
}

fn typed<T: serde::de::DeserializeOwned>(name: &str, value: &Value, expected: &str) -> Result<T> {
    serde_json::from_value(value.clone()).map_err(|_| {
        Error::type_error(format!("transport option {name:?} must be {expected}, not {value}"))
    })
}

fn seconds(name: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        let text = "must be a number of seconds from 0 to about 1e19";
        Error::invalid(format!("transport option {name:?} {text}, got {value:?}"))
    })
}

fn table_name(name: &str, value: &Value) -> Result<String> {
    let table: String = typed(name, value, "a table name")?;
    if table.is_empty() || table.contains('\0') || table.to_ascii_lowercase().starts_with("sqlite_")
    {
        return Err(Error::invalid(format!(
            "transport option {name:?} must be a table name that is not empty and does not begin \
             with \"sqlite_\", got {table:?}"
        )));
    }
    Ok(table)
}

/// The location, and the `timeout` argument if there is one.
fn parse_url(url: &Url) -> Result<(Location, Option<Duration>)> {
    let scheme = url.transport_parts().1.unwrap_or_default();
    let (dialect, driver) = scheme.split_once('+').unwrap_or((scheme, "pysqlite"));
    if dialect.is_empty() {
        return Err(Error::invalid(
            "an SQL broker URL names a dialect: sqla+sqlite:///relative.db or \
             sqla+sqlite:////absolute/path.db",
        ));
    }
    if dialect != "sqlite" {
        return Err(Error::unsupported(format!(
            "SQL dialect {dialect:?} is not served natively, sqlite is{SQLALCHEMY}"
        )));
    }
    if driver != "pysqlite" {
        return Err(Error::unsupported(format!(
            "SQLite driver {driver:?} is not served natively, the URL needs none: \
             sqla+sqlite:///path{SQLALCHEMY}"
        )));
    }
    if url.hostname.is_some() || url.port.is_some() || url.userid.is_some() {
        return Err(Error::invalid(
            "an SQLite URL has no host: sqla+sqlite:///relative.db (three slashes) or \
             sqla+sqlite:////absolute/path.db (four)",
        ));
    }
    let timeout = parse_query(&url.query)?;
    let database = url.virtual_host.as_deref().unwrap_or_default();
    if database.is_empty() || database == ":memory:" {
        return Ok((Location::Memory, timeout));
    }
    if database.starts_with("file:") || database.contains('\0') {
        return Err(Error::invalid(format!("an SQLite URL names a plain path, not {database:?}")));
    }
    Ok((Location::File(absolute(Path::new(database))?), timeout))
}

fn parse_query(query: &[(String, String)]) -> Result<Option<Duration>> {
    let mut timeout = None;
    for (name, value) in query {
        match name.as_str() {
            "timeout" => {
                let number = value.parse().map_err(|_| {
                    Error::invalid(format!("URL argument timeout must be seconds, got {value:?}"))
                })?;
                timeout = Some(seconds("timeout", number)?);
            }
            _ => {
                return Err(Error::invalid(format!(
                    "unknown URL argument {name:?} for a file of SQLite; known is \
                     timeout{SQLALCHEMY}"
                )));
            }
        }
    }
    Ok(timeout)
}

/// An absolute path without links in its directory, so that one file has one name in the process.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| {
        Error::invalid(format!("the database path {} cannot be resolved", path.display()))
            .with_source(error)
    };
    if let Ok(known) = path.canonicalize() {
        return Ok(known);
    }
    let full = std::path::absolute(path).map_err(failed)?;
    match (full.parent().map(Path::canonicalize), full.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        // The directory is missing: said when connecting, as a directory may come to be.
        _ => Ok(full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use serde_json::json;

    fn parse(url: &str, options: Value) -> Result<Config> {
        Config::new(&Url::parse(url)?, options.as_object().expect("an object"))
    }

    #[test]
    fn paths_as_sqlalchemy_reads_them() {
        let relative = parse("sqla+sqlite:///some.db", json!({})).unwrap();
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(relative.location, Location::File(here.join("some.db")));
        let absolute = parse("sqlalchemy+sqlite:////proc/some.db?timeout=2.5", json!({})).unwrap();
        assert_eq!(absolute.location, Location::File("/proc/some.db".into()));
        assert_eq!(absolute.busy_timeout, Duration::from_millis(2500));
        for url in ["sqla+sqlite://", "sqla+sqlite:///", "sqlalchemy+sqlite+pysqlite:///:memory:"] {
            assert_eq!(parse(url, json!({})).unwrap().location, Location::Memory, "{url}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let cases = [
            (
                "sqla+postgresql://u:secret@h/db",
                json!({}),
                ErrorKind::Unsupported,
                "\"postgresql\"",
            ),
            ("sqla:///x.db", json!({}), ErrorKind::Invalid, "names a dialect"),
            ("sqla+sqlite://host/x.db", json!({}), ErrorKind::Invalid, "three slashes"),
            ("sqla+sqlite:///x.db?mode=ro", json!({}), ErrorKind::Invalid, "\"mode\""),
            ("sqla+sqlite:///x.db", json!({"nonsense": 1}), ErrorKind::Invalid, "\"nonsense\""),
            // Nothing of SQLAlchemy's is accepted and ignored.
            ("sqla+sqlite:///x.db", json!({"pool_size": 1}), ErrorKind::Invalid, "SQLAlchemy"),
            ("sqla+sqlite:///x.db", json!({"busy_timeout": "x"}), ErrorKind::Type, "busy_timeout"),
            ("sqla+sqlite:///x.db", json!({"busy_timeout": -1}), ErrorKind::Invalid, "from 0"),
            ("sqla+sqlite:///x.db", json!({"synchronous": "off"}), ErrorKind::Type, "\"full\""),
            ("sqla+sqlite:///x.db", json!({"queue_tablename": 3}), ErrorKind::Type, "table name"),
        ];
        for (url, options, kind, text) in cases {
            let error = parse(url, options).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn options_of_our_own() {
        let config = parse(
            "sqla+sqlite:///x.db",
            json!({"queue_tablename": "q", "message_tablename": "m", "busy_timeout": 4,
                   "synchronous": "full"}),
        )
        .unwrap();
        assert_eq!((&*config.queue_table, &*config.message_table), ("q", "m"));
        assert_eq!(config.busy_timeout, Duration::from_secs(4));
        assert_eq!(config.synchronous, Synchronous::Full);
    }
}
