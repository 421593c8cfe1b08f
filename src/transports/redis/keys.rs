//! The names of Redis keys and channels, as Kombu 5.7 has them.

use super::Config;
use crate::error::{Error, Result};
use crate::model::{Binding, Claim, ExchangeKind, Json, Message, Name};
use crate::routing::kombu_pattern;
use bytes::Bytes;

/// A key with a gap for the name of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    head: String,
    tail: String,
}

impl Template {
    /// What stands before and behind the name.
    pub fn new(head: impl Into<String>, tail: impl Into<String>) -> Self {
        Self { head: head.into(), tail: tail.into() }
    }

    /// The key of an exchange, behind `prefix`.
    fn fill(&self, prefix: &str, exchange: &str) -> String {
        format!("{prefix}{}{exchange}{}", self.head, self.tail)
    }
}

impl Config {
    /// The list of a queue for the most urgent messages has the queue's name, others have the step
    /// behind it.
    fn list_of_step(&self, queue: &str, step: i64) -> String {
        match step {
            0 => format!("{}{queue}", self.prefix),
            step => format!("{}{queue}{}{step}", self.prefix, self.sep),
        }
    }

    /// All lists of a queue, the most urgent one first.
    pub(super) fn lists(&self, queue: &str) -> Vec<String> {
        self.priority_steps.iter().map(|step| self.list_of_step(queue, *step)).collect()
    }

    /// The step that a message's priority is rounded down to. Priorities are 0 to 9, 0 when there
    /// is none.
    pub(super) fn step_of(&self, message: &Message) -> i64 {
        let priority = message.properties.priority.unwrap_or(0).clamp(0, 9);
        let above = self.priority_steps.partition_point(|step| *step <= priority);
        // Below the first step Kombu's arithmetic ends up at the last one.
        let last = self.priority_steps.len() - 1;
        self.priority_steps[above.checked_sub(1).unwrap_or(last)]
    }

    /// The list that a message goes to.
    pub(super) fn list_for(&self, queue: &str, message: &Message) -> String {
        self.list_of_step(queue, self.step_of(message))
    }

    /// The list that a claimed message came from.
    pub(super) fn list_of_claim(&self, claim: &Claim) -> String {
        let step = std::str::from_utf8(&claim.handle).ok().and_then(|step| step.parse().ok());
        self.list_of_step(&claim.queue, step.unwrap_or(0))
    }

    /// What [`Config::list_of_claim`] reads.
    pub(super) fn claim_handle(&self, step: i64) -> Bytes {
        match step {
            0 => Bytes::new(),
            step => Bytes::from(step.to_string()),
        }
    }

    pub(super) fn unacked(&self) -> String {
        format!("{}{}", self.prefix, self.unacked_key)
    }

    pub(super) fn unacked_index(&self) -> String {
        format!("{}{}", self.prefix, self.unacked_index_key)
    }

    pub(super) fn unacked_mutex(&self) -> String {
        format!("{}{}", self.prefix, self.unacked_mutex_key)
    }

    /// The set of an exchange's bindings.
    pub(super) fn binding_set(&self, exchange: &str) -> String {
        self.binding_key.fill(&self.prefix, exchange)
    }

    /// The exchange of a key that [`Config::binding_set`] made.
    pub(super) fn exchange_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let key = key.strip_prefix(self.prefix.as_str())?;
        key.strip_prefix(self.binding_key.head.as_str())?
            .strip_suffix(self.binding_key.tail.as_str())
    }

    /// Its bindings to queues that do not expire: they keep the set from being swept.
    pub(super) fn permanent_set(&self, exchange: &str) -> String {
        self.permanent_key.fill(&self.prefix, exchange)
    }

    /// When the bindings of expiring queues may be swept: exchange by unix milliseconds.
    pub(super) fn binding_deadlines(&self) -> String {
        format!("{}{}", self.prefix, self.deadlines_key)
    }

    /// The member that stands for a binding. A fourth part, which stock Kombu never writes, holds
    /// the arguments of a headers binding.
    pub(super) fn binding_member(&self, kind: ExchangeKind, binding: &Binding) -> String {
        let pattern = match kind {
            ExchangeKind::Topic => kombu_pattern(&binding.routing_key),
            _ => String::new(),
        };
        let sep = &self.sep;
        let mut member = format!("{}{sep}{pattern}{sep}{}", binding.routing_key, binding.queue);
        if kind == ExchangeKind::Headers {
            member.push_str(sep);
            member.push_str(&String::from_utf8_lossy(binding.arguments.as_bytes()));
        }
        member
    }

    /// Reads a member.
    pub(super) fn binding_from(&self, exchange: &Name, member: &str) -> Result<Binding> {
        let mut parts = member.splitn(4, self.sep.as_str());
        let (Some(routing_key), Some(_pattern), Some(queue)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::decode(format!(
                "a binding of the exchange '{exchange}' in Redis cannot be read: it has no {:?}",
                self.sep
            )));
        };
        let arguments = match parts.next() {
            Some(text) => Json::parse(Bytes::copy_from_slice(text.as_bytes())).map_err(|error| {
                Error::decode(format!(
                    "the arguments of a binding of the exchange '{exchange}' in Redis cannot be read"
                ))
                .with_source(error)
            })?,
            None => Json::empty_object(),
        };
        Ok(Binding {
            exchange: exchange.clone(),
            routing_key: routing_key.into(),
            queue: queue.into(),
            arguments,
        })
    }

    /// The channels that a fanout message is published on: one, and that of older peers if wanted.
    pub(super) fn topics(&self, exchange: &str, routing_key: &str) -> Vec<String> {
        let key = match routing_key {
            "" => String::new(),
            _ if !self.fanout_patterns => String::new(),
            key => format!("/{key}"),
        };
        let prefix = &self.prefix;
        self.fanout_prefixes().map(|fanout| format!("{prefix}{fanout}{exchange}{key}")).collect()
    }

    /// The patterns that a queue bound to a fanout exchange listens to, as many as there are
    /// channels. `#` and `*` in the binding key stand for anything; everything else is meant
    /// literally.
    pub(super) fn topic_patterns(&self, exchange: &str, routing_key: &str) -> Vec<String> {
        let heads = self.topics(exchange, "");
        if self.is_sharded() {
            return heads; // no patterns there
        }
        let key = match routing_key {
            "" => String::new(),
            _ if !self.fanout_patterns => String::new(),
            key => format!("/{}", key.replace('#', "*")),
        };
        heads.iter().map(|head| literal(head) + &key).collect()
    }

    /// The part of a pattern behind the prefixes: the same for all patterns of one binding.
    pub(super) fn pattern_tail<'a>(&self, pattern: &'a str) -> &'a str {
        let heads =
            self.fanout_prefixes().map(|fanout| literal(&format!("{}{fanout}", self.prefix)));
        let tails = heads.filter_map(|head| pattern.strip_prefix(head.as_str()));
        tails.min_by_key(|tail| tail.len()).unwrap_or(pattern)
    }

    /// Whether fanout messages stay with the nodes of a cluster that have the slot.
    fn is_sharded(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.sharded)
    }

    /// The command that publishes to a fanout channel.
    pub(super) fn publish_command(&self) -> &'static str {
        if self.is_sharded() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// The command that subscribes to what [`Config::topic_patterns`] gives.
    pub(super) fn subscribe_command(&self) -> &'static str {
        if self.is_sharded() { "SSUBSCRIBE" } else { "PSUBSCRIBE" }
    }

    /// And the one that ends it.
    pub(super) fn unsubscribe_command(&self) -> &'static str {
        if self.is_sharded() { "SUNSUBSCRIBE" } else { "PUNSUBSCRIBE" }
    }

    fn fanout_prefixes(&self) -> impl Iterator<Item = &str> {
        [Some(self.fanout_prefix.as_str()), self.legacy_fanout_prefix.as_deref()]
            .into_iter()
            .flatten()
    }
}

/// A pattern that only this text matches.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Url;
    use crate::transport::schemes::Options;

    fn config(options: &str) -> Config {
        let options: Options = serde_json::from_str(options).unwrap();
        Config::parse(&Url::parse("redis://h/3").unwrap(), &options).unwrap()
    }

    fn message(priority: Option<i64>) -> Message {
        let mut message = Message::default();
        message.properties.priority = priority;
        message
    }

    #[test]
    fn lists_by_priority() {
        let config = config("{}");
        assert_eq!(config.lists("q"), ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"]);
        for (priority, list) in
            [(None, "q"), (Some(2), "q"), (Some(5), "q\x06\x163"), (Some(99), "q\x06\x169")]
        {
            assert_eq!(config.list_for("q", &message(priority)), list);
        }
    }

    #[test]
    fn the_prefix_is_everywhere() {
        let config = config(r#"{"global_keyprefix": "P:", "sep": "|"}"#);
        assert_eq!(config.list_for("q", &message(Some(3))), "P:q|3");
        assert_eq!(config.binding_set("ex"), "P:_kombu.binding.ex");
        assert_eq!(config.exchange_of("P:_kombu.binding.ex"), Some("ex"));
        assert_eq!(config.topics("fx", "a.b"), ["P:/3.fx/a.b"]);
        assert_eq!(config.topic_patterns("f*x", "a.#"), ["P:/3.f\\*x/a.*"]);
    }

    #[test]
    fn keys_have_the_names_that_they_are_given() {
        let config = config(
            r#"{"global_keyprefix": "P:", "keyprefix_queue": "b(%s)", "keyprefix_fanout": "{db}!",
                "keyprefix_binding_permanent": "%s!", "keyprefix_binding_deadlines": "d"}"#,
        );
        assert_eq!(config.binding_set("ex"), "P:b(ex)");
        assert_eq!(config.exchange_of("P:b(ex)"), Some("ex"));
        assert_eq!(config.exchange_of("P:b(ex"), None);
        assert_eq!(
            (config.permanent_set("x"), config.binding_deadlines()),
            ("P:x!".into(), "P:d".into())
        );
        assert_eq!(config.topics("fx", ""), ["P:{db}!fx"]);
    }

    #[test]
    fn older_peers_have_channels_of_their_own() {
        let config = config(r#"{"global_keyprefix": "P:", "sentinel_fanout_compat": true}"#);
        assert_eq!(config.topics("fx", "a"), ["P:/3.fx/a", "P:/{db}.fx/a"]);
        let patterns = config.topic_patterns("fx", "a.#");
        assert_eq!(patterns, ["P:/3.fx/a.*", "P:/{db}.fx/a.*"]);
        assert!(patterns.iter().all(|pattern| config.pattern_tail(pattern) == "fx/a.*"));
        let plain = r#"{"sentinel_fanout_compat": true, "fanout_prefix": "custom."}"#;
        assert_eq!(super::tests::config(plain).topics("fx", ""), ["custom.fx"]);
    }

    #[test]
    fn bindings_are_kombus() {
        let config = config("{}");
        let mut binding = Binding {
            exchange: "ex".into(),
            routing_key: "a.*.#".into(),
            queue: "q".into(),
            arguments: Json::default(),
        };
        let member = config.binding_member(ExchangeKind::Topic, &binding);
        assert_eq!(member, "a.*.#\x06\x16^a\\.[^\\.]+\\..*?$\x06\x16q");
        assert_eq!(config.binding_from(&binding.exchange, &member).unwrap(), binding);
        assert_eq!(config.binding_member(ExchangeKind::Direct, &binding), "a.*.#\x06\x16\x06\x16q");
        binding.arguments = Json::from_valid(&b"{\"x-match\": \"any\"}"[..]);
        let member = config.binding_member(ExchangeKind::Headers, &binding);
        assert_eq!(config.binding_from(&binding.exchange, &member).unwrap(), binding);
        assert!(config.binding_from(&binding.exchange, "junk").is_err());
    }
}
