//! The table of URL schemes: one line for each transport, open to registration at run time.

use super::{Connection, Store, Url};
use crate::error::{Error, Result};
use crate::io::lock::Mutex;
use std::sync::{Arc, LazyLock};

/// Transport options as given by the user (`transport_options`), a JSON object.
pub type Options = serde_json::Map<String, serde_json::Value>;

/// Makes a store for one connection. Does no I/O: [`Store::connect`] does. Checks the options.
pub type Open = fn(url: &Url, options: &Options) -> Result<Arc<dyn Store>>;

/// Makes a connection of a transport that speaks AMQP itself. Does no I/O. Checks the options.
pub type Connect = fn(url: &Url, options: &Options) -> Result<Arc<dyn Connection>>;

/// One transport's line in the table.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// The names that it answers to, in lower case. A name with a `+` (`sqla+sqlite`) stands for
    /// exactly that URL; one without also for `name+anything`, when there is no better one.
    pub names: &'static [&'static str],
    /// The cargo feature that compiles it in; `None` when it is always there.
    pub feature: Option<&'static str>,
    /// The port when the URL names none; `None` when it has no port.
    pub default_port: Option<u16>,
    /// Opens it; `None` when its feature is off, or it is no store.
    pub open: Option<Open>,
    /// Connects it, when it is no store but speaks AMQP itself.
    pub connect: Option<Connect>,
}

impl Scheme {
    fn is_there(&self) -> bool {
        self.open.is_some() || self.connect.is_some()
    }
}

/// The transports of this crate.
fn built_in() -> Vec<Scheme> {
    vec![
        Scheme {
            names: &["memory"],
            feature: None,
            default_port: None,
            open: Some(|_, options| crate::transports::memory::open(options)),
            connect: None,
        },
        Scheme {
            names: &["amqp", "amqps", "pyamqp", "librabbitmq"],
            feature: Some("amqp"),
            default_port: Some(5672),
            open: None,
            #[cfg(feature = "amqp")]
            connect: Some(crate::transports::amqp::open),
            #[cfg(not(feature = "amqp"))]
            connect: None,
        },
        Scheme {
            names: &["redis", "rediss", "sentinel", "rediscluster", "redisclusters"],
            feature: Some("redis"),
            default_port: Some(6379),
            #[cfg(feature = "redis")]
            open: Some(crate::transports::redis::open),
            #[cfg(not(feature = "redis"))]
            open: None,
            connect: None,
        },
        Scheme {
            names: &["sqla", "sqlalchemy"],
            feature: Some("sqlite"),
            default_port: None,
            #[cfg(feature = "sqlite")]
            open: Some(crate::transports::sql::open),
            #[cfg(not(feature = "sqlite"))]
            open: None,
            connect: None,
        },
    ]
}

static TABLE: LazyLock<Mutex<Vec<Scheme>>> = LazyLock::new(|| Mutex::new(built_in()));

/// Adds a transport, before those that are there: it takes over names that are known already.
pub fn register(scheme: Scheme) {
    TABLE.lock().insert(0, scheme);
}

/// Finds a transport by the part of a URL before `://`.
///
/// # Errors
/// `Invalid`: unknown, naming the nearest known scheme and listing all.
pub fn find(transport: &str) -> Result<Scheme> {
    search(&TABLE.lock(), transport)
}

/// Opens a store for a URL.
///
/// # Errors
/// As [`find`]; `Invalid` when it is not compiled in; what the transport says about the URL's parts and the options.
pub fn open(url: &Url, options: &Options) -> Result<Arc<dyn Store>> {
    let scheme = find(&url.transport)?;
    match scheme.open {
        Some(open) => open(url, options),
        None if scheme.connect.is_some() => Err(Error::invalid(format!(
            "the transport `{}` is no store: it speaks AMQP itself",
            url.transport
        ))),
        None => Err(not_compiled(&url.transport, &scheme)),
    }
}

/// Makes a connection of a transport that speaks AMQP itself; `None` when it is a store.
///
/// # Errors
/// As [`open`].
pub fn connect(url: &Url, options: &Options) -> Result<Option<Arc<dyn Connection>>> {
    let scheme = find(&url.transport)?;
    match scheme.connect {
        Some(connect) => connect(url, options).map(Some),
        None if scheme.is_there() => Ok(None),
        None => Err(not_compiled(&url.transport, &scheme)),
    }
}

/// The names of all transports that can be opened, sorted.
pub fn names() -> Vec<&'static str> {
    available(&TABLE.lock())
}

fn available(table: &[Scheme]) -> Vec<&'static str> {
    let mut names: Vec<_> =
        table.iter().filter(|s| s.is_there()).flat_map(|s| s.names).copied().collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn search(table: &[Scheme], transport: &str) -> Result<Scheme> {
    let exact = |name: &str| table.iter().find(|scheme| scheme.names.contains(&name)).copied();
    let family = || exact(transport.split_once('+')?.0);
    exact(transport).or_else(family).ok_or_else(|| unknown(table, transport))
}

fn not_compiled(transport: &str, scheme: &Scheme) -> Error {
    let feature = scheme.feature.unwrap_or(transport);
    Error::invalid(format!(
        "the transport `{transport}` is not part of this build: it needs the cargo feature `{feature}`"
    ))
}

fn unknown(table: &[Scheme], transport: &str) -> Error {
    let names = available(table);
    let nearest = names
        .iter()
        .map(|name| (distance(transport, name), name))
        .filter(|(distance, name)| *distance < name.len().max(transport.len()))
        .min_by_key(|(distance, _)| *distance);
    let hint = match nearest {
        Some((_, name)) => format!(" (did you mean `{name}`?)"),
        None => String::new(),
    };
    Error::invalid(format!(
        "unknown transport `{transport}`{hint}; there are: {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    ))
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours. Of long names only
/// the beginning counts.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(_: &Url, _: &Options) -> Result<Arc<dyn Store>> {
        Err(Error::invalid("opened"))
    }

    fn table() -> Vec<Scheme> {
        let scheme = |names, open| Scheme {
            names,
            feature: Some("f"),
            default_port: None,
            open,
            connect: None,
        };
        vec![
            scheme(&["redis", "rediss"], Some(refuse as Open)),
            scheme(&["sqla+sqlite"], Some(refuse as Open)),
            scheme(&["memory"], Some(refuse as Open)),
            scheme(&["qpid"], None),
        ]
    }

    #[test]
    fn names_are_found() {
        let table = table();
        assert_eq!(search(&table, "rediss").unwrap().names[0], "redis");
        assert_eq!(search(&table, "redis+socket").unwrap().names[0], "redis");
        assert_eq!(search(&table, "sqla+sqlite").unwrap().names[0], "sqla+sqlite");
    }

    #[test]
    fn a_miss_names_the_nearest_and_lists_all() {
        let error = |name: &str| search(&table(), name).unwrap_err().to_string();
        assert_eq!(
            error("reids"),
            "unknown transport `reids` (did you mean `redis`?); \
             there are: memory, redis, rediss, sqla+sqlite"
        );
        assert!(error("sqla+postgresql").contains("did you mean `sqla+sqlite`?"));
        assert!(error("memroy").contains("did you mean `memory`?"));
        let known = search(&table(), "qpid").unwrap();
        assert!(not_compiled("qpid", &known).to_string().contains("needs the cargo feature `f`"));
        assert!(!error("...").contains("did you mean"));
        assert!(search(&[], "x").unwrap_err().to_string().ends_with("there are: none"));
    }

    #[test]
    fn a_registered_scheme_is_opened() {
        register(Scheme {
            names: &["schemes-test"],
            feature: None,
            default_port: Some(1),
            open: Some(refuse),
            connect: None,
        });
        let url = Url::parse("schemes-test://h").unwrap();
        assert_eq!(open(&url, &Options::new()).unwrap_err().to_string(), "opened");
        assert!(names().contains(&"schemes-test"));
    }

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("a", "é", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
