//! Redis Cluster: all keys of a store are in one hash slot, and any node says who has it.
//!
//! A cluster spreads keys over its nodes by a hash, of what is between the first `{` and the next `}`
//! of a key if there is anything. Receiving is one step over lists, claims and their index, so they
//! must be on one node: every key begins with a tag. Whoever wants several nodes to work gives
//! several tags.

use super::Config;
use super::ask::{Login, ask, share};
use super::error::unexpected;
use super::given::given;
use super::sentinel::nodes;
use crate::error::{Error, ErrorKind, Result};
use crate::io::dial::Address;
use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use crate::io::task::timeout_at;
use crate::protocol::resp::{Command, ServerError, Value};
use crate::transport::schemes::Options;
use crate::transport::{Given, Url};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// `hash_tag` when nobody gives one.
const TAG: &str = "kombu";
/// So many nodes are remembered of one cluster.
const MOST: usize = 16;
/// And those of so many clusters.
const MOST_CLUSTERS: usize = 64;

/// The nodes that clusters have named, by those that were configured, the one to ask first at the
/// front. They outlive stores: whoever connects again may find that the configured one is gone.
type Known = HashMap<Vec<Address>, VecDeque<Address>>;
static KNOWN: PerProcess<Mutex<Known>> = PerProcess::new();

/// How to find the node, and what depends on there being several.
#[derive(Clone)]
pub struct Cluster {
    /// The nodes that were configured.
    seeds: Vec<Address>,
    /// `hash_tag`, without its braces.
    tag: Option<String>,
    /// `sharded_fanout`: publish to the nodes of the slot only, default false.
    pub sharded: bool,
}

/// What a node says instead of doing it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Another node has the slot.
    Moved(Address),
    /// The slot is being moved: that node has the key, or would have it.
    Ask(Address),
    /// The slot is being moved, and some keys are here and some there.
    Later,
}

impl Redirect {
    /// Reads an error reply of the node at `from`.
    pub(super) fn of(error: &ServerError, from: &Address) -> Option<Self> {
        let address = || {
            let text = error.to_string();
            let (host, port) = text.split(' ').nth(2)?.rsplit_once(':')?;
            named(host, port.parse().ok()?, from)
        };
        match error.code() {
            "MOVED" => address().map(Self::Moved),
            "ASK" => address().map(Self::Ask),
            "TRYAGAIN" => Some(Self::Later),
            _ => None,
        }
    }
}

/// The address of a node as another one names it: without a host it is that of the one that says so.
fn named(host: &str, port: u16, from: &Address) -> Option<Address> {
    match (host, from) {
        ("", Address::Tcp { host, .. }) => Some(Address::Tcp { host: host.clone(), port }),
        ("", Address::Unix(_)) => None,
        _ => Some(Address::Tcp { host: host.to_owned(), port }),
    }
}

impl Cluster {
    /// Takes what is for it out of `options`. `first` is the node of the URL.
    ///
    /// # Errors
    /// `Invalid` or `Type`, naming the option that is wrong.
    pub(super) fn parse(url: &Url, first: &Address, options: &mut Options) -> Result<Self> {
        if matches!(first, Address::Unix(_)) {
            return Err(Error::invalid(format!(
                "the URL {url} names a socket: the nodes of a cluster are found by host and port"
            )));
        }
        let mut take = |name| options.remove(name).filter(|value| !value.is_null());
        let seeds = match take("startup_nodes") {
            Some(value) => nodes(&given("startup_nodes", &value))?,
            None => vec![first.clone()],
        };
        let tag = match take("hash_tag") {
            Some(value) => Some(tag(&given("hash_tag", &value))?),
            None => None,
        };
        let sharded = match take("sharded_fanout") {
            Some(value) => given("sharded_fanout", &value).flag()?,
            None => false,
        };
        Ok(Self { seeds, tag, sharded })
    }

    /// What stands before every key: the tag, unless `prefix` has one and no other is asked for.
    pub(super) fn prefix(&self, prefix: &str) -> String {
        match &self.tag {
            None if has_tag(prefix) => prefix.to_owned(),
            tag => format!("{{{}}}{prefix}", tag.as_deref().unwrap_or(TAG)),
        }
    }

    /// The master of the slot of `config`'s keys, as one of the nodes says. Each is waited for a part
    /// of the connect timeout.
    ///
    /// # Errors
    /// `Connection` when none of them knows, with what each has said; `Auth`; `Unsupported` when
    /// there is no cluster.
    pub(super) async fn master(&self, config: &Config) -> Result<Address> {
        let nodes = self.nodes();
        let patience = share(config.dial.connect_timeout, nodes.len());
        let mut said = Vec::new();
        for node in &nodes {
            let until = Instant::now() + patience;
            match timeout_at(until, self.ask(node, config, patience)).await {
                Some(Ok(master)) => return Ok(master),
                Some(Err(error)) if error.kind() != ErrorKind::Connection => return Err(error),
                Some(Err(error)) => said.push(error.to_string()),
                None => said.push(format!(
                    "the node at {node} did not answer within {:.1} s",
                    patience.as_secs_f64()
                )),
            }
        }
        let key = config.unacked();
        Err(Error::connection(format!(
            "no node of the cluster knows who has the keys of '{key}': {}",
            said.join("; ")
        )))
    }

    /// Whom to ask, in this order.
    fn nodes(&self) -> Vec<Address> {
        let mut nodes: Vec<Address> = self.remembered(|known| known.iter().cloned().collect());
        for seed in &self.seeds {
            if !nodes.contains(seed) {
                nodes.push(seed.clone());
            }
        }
        nodes
    }

    /// Reads or changes what is remembered.
    fn remembered<T>(&self, with: impl FnOnce(&mut VecDeque<Address>) -> T) -> T {
        let known = KNOWN.get_or(|| {
            // Taken by another thread at the moment of a fork: then it is never given back here.
            let parent = KNOWN.inherited().and_then(Mutex::try_lock);
            Mutex::new(parent.map(|known| known.clone()).unwrap_or_default())
        });
        let mut known = known.lock();
        if known.len() >= MOST_CLUSTERS && !known.contains_key(&self.seeds) {
            known.clear();
        }
        with(known.entry(self.seeds.clone()).or_default())
    }

    /// A node has said that this one knows better.
    pub(super) fn ask_first(&self, node: Address) {
        self.remembered(|known| {
            known.retain(|other| *other != node);
            known.push_front(node);
            known.truncate(MOST);
        });
    }

    /// The one that was asked has named a node that is not there: ask another one next time.
    pub(super) fn doubt(&self) {
        self.remembered(|known| {
            if let Some(asked) = known.pop_front() {
                known.push_back(asked);
            }
        });
    }

    async fn ask(&self, node: &Address, config: &Config, patience: Duration) -> Result<Address> {
        let peer = format!("the node at {node}");
        let login =
            Login { username: config.username.as_deref(), password: config.password.as_deref() };
        let questions = [
            Command::new("CLUSTER").arg("KEYSLOT").arg(config.unacked()),
            Command::new("CLUSTER").arg("SLOTS"),
        ];
        let mut replies =
            ask(node, &peer, &config.dial, login, &questions, patience).await?.into_iter();
        let mut next = || match replies.next() {
            Some(Value::Error(error)) => Err(match error.code() {
                "NOPERM" => Error::auth(format!("{peer} refused to tell of its cluster: {error}")),
                "ERR" => Error::unsupported(format!(
                    "{peer} is not part of a cluster, for one server write redis://: {error}"
                )),
                _ => Error::connection(format!("{peer}: {error}")),
            }),
            Some(reply) => Ok(reply),
            None => Err(Error::internal("a reply is missing")),
        };
        let (slot, ranges) = (next()?, next()?);
        let slot = slot.as_int().ok_or_else(|| unexpected("CLUSTER KEYSLOT", &slot))?;
        let kind = unexpected("CLUSTER SLOTS", &ranges);
        let ranges = ranges.into_items().ok_or(kind)?;
        let (master, mut others) = read(&ranges, slot, node);
        others.retain(|other| other != node);
        let all = std::iter::once(node.clone()).chain(others).take(MOST).collect();
        self.remembered(|known| *known = all);
        master.ok_or_else(|| {
            Error::connection(format!("{peer} knows of no master that has the slot {slot}"))
        })
    }
}

/// Reads `CLUSTER SLOTS`: first and last slot, the master and its replicas, repeating. The master of
/// `slot`, and all nodes.
fn read(ranges: &[Value], slot: i64, from: &Address) -> (Option<Address>, Vec<Address>) {
    let (mut found, mut nodes) = (None, Vec::new());
    for range in ranges {
        let Value::Array(range) = range else { continue };
        let [first, last, members @ ..] = range.as_slice() else { continue };
        let here = first.as_int().is_some_and(|first| first <= slot)
            && last.as_int().is_some_and(|last| slot <= last);
        for (place, member) in members.iter().enumerate() {
            let Some(address) = node(member, from) else { continue };
            if here && place == 0 {
                found = Some(address.clone());
            }
            if !nodes.contains(&address) {
                nodes.push(address);
            }
        }
    }
    (found, nodes)
}

/// Host, port, id and since Redis 7 further names. The host is null where the cluster cannot know it
/// (behind NAT, say), and `?` where it should be a name and the node has none.
fn node(member: &Value, from: &Address) -> Option<Address> {
    let Value::Array(parts) = member else { return None };
    let text = |value: &Value| {
        value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
    };
    let mut host = text(parts.first()?);
    let port = u16::try_from(parts.get(1)?.as_int()?).ok()?;
    if host == "?" {
        let Some(Value::Array(names)) = parts.get(3) else { return None };
        let ip = names.chunks_exact(2).find(|pair| text(&pair[0]) == "ip")?;
        host = text(&ip[1]);
    }
    named(&host, port, from)
}

/// A tag with or without its braces.
fn tag(option: &Given<'_>) -> Result<String> {
    let text = option.non_empty()?;
    let bare = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(&text);
    if bare.is_empty() || bare.contains(['{', '}']) {
        return Err(option.invalid("must be a text like '{app}', with nothing around the braces"));
    }
    Ok(bare.to_owned())
}

/// Whether all keys that begin so are in one slot.
fn has_tag(prefix: &str) -> bool {
    let inner = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inner.is_some_and(|(tag, _)| !tag.is_empty())
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
