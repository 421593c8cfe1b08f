//! How often a message was delivered and not settled, and what becomes of one that was too often.
//!
//! The count is the header `x-delivery-count`, as RabbitMQ's quorum queues have it: absent at first,
//! then the number of deliveries that came to nothing. Stock Kombu hands it on with the other headers
//! and does not count; what it restores is as it was. A message that was delivered as often as
//! `delivery_limit` allows goes to a list of dead letters instead, with RabbitMQ's headers `x-death`,
//! `x-first-death-...` and `x-last-death-...`; its count begins anew.

use super::Config;
use crate::codec::envelope;
use crate::error::{Error, Result};
use crate::model::{Json, Message, Name};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const COUNT: &str = "x-delivery-count";
const DEATHS: &str = "x-death";
const LAST_DEATH_QUEUE: &str = "x-last-death-queue";
/// Why a message is a dead letter, in RabbitMQ's word.
const REASON: &str = "delivery_limit";
/// Stands for the queue in the name of its dead letters.
const PLACE: &str = "{queue}";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLimit {
    /// `delivery_limit`: a message is delivered at most so many times.
    pub deliveries: u64,
    /// `dead_letter_queue`: the queue of dead letters. `{queue}` in it stands for the name of the
    /// queue that a message came from; default `{queue}.dead`.
    pub dead_letter_queue: String,
}

impl DeliveryLimit {
    /// From the two options.
    ///
    /// # Errors
    /// `Invalid` when there are to be dead letters without a limit, or where they came from.
    pub(super) fn from_options(
        deliveries: Option<usize>,
        queue: Option<String>,
    ) -> Result<Option<Self>> {
        let Some(deliveries) = deliveries else {
            return match queue {
                None => Ok(None),
                Some(_) => Err(Error::invalid(
                    "the Redis transport option 'dead_letter_queue' needs 'delivery_limit': \
                     without a limit nothing gets there",
                )),
            };
        };
        let dead_letter_queue = queue.unwrap_or_else(|| format!("{PLACE}.dead"));
        if dead_letter_queue == PLACE {
            return Err(Error::invalid(
                "the Redis transport option 'dead_letter_queue' must be another queue than the one \
                 that messages come from: for example '{queue}.dead'",
            ));
        }
        Ok(Some(Self { deliveries: deliveries as u64, dead_letter_queue }))
    }

    /// The queue for dead letters of this one; none if it is such a queue itself.
    fn dead_letter_queue_of(&self, queue: &str) -> Option<Name> {
        let name = self.dead_letter_queue.as_str();
        let is_one = match name.split_once(PLACE) {
            None => queue == name,
            Some((head, tail)) => queue.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail)),
        };
        (!is_one).then(|| name.replace(PLACE, queue).into())
    }
}

/// Where a message goes whose claim has ended without being settled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Return {
    pub(super) queue: Name,
    pub(super) list: String,
    /// What the scripts are told: a command, or that it is dead.
    pub(super) how: &'static str,
    pub(super) payload: Bytes,
}

impl Config {
    /// Counts a delivery from `queue` that came to nothing. `push`: to which end of the list the
    /// message goes, if it is to be delivered again.
    pub(super) fn send_back(
        &self,
        mut message: Message,
        queue: &Name,
        push: &'static str,
    ) -> Return {
        message.redelivered = true;
        let count = delivery_count(&message.headers).saturating_add(1);
        let dead_letters = match &self.delivery_limit {
            Some(limit) if count >= limit.deliveries => limit.dead_letter_queue_of(queue),
            _ => None,
        };
        let (queue, how) = match dead_letters {
            Some(dead_letters) => {
                message.headers = with_death(&message, queue);
                (dead_letters, "DEAD")
            }
            None => {
                message.headers = message.headers.with(&[(COUNT, Some(count.to_string()))]);
                (queue.clone(), push)
            }
        };
        let list = self.list_for(&queue, &message);
        Return { queue, list, how, payload: envelope::encode(&message).into() }
    }
}

fn delivery_count(headers: &Json) -> u64 {
    let text = headers.get(COUNT).and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The headers of a dead letter: why, when and where from.
fn with_death(message: &Message, queue: &Name) -> Json {
    let headers = &message.headers;
    let (exchange, routing_key) = (&*message.properties.exchange, &*message.properties.routing_key);
    let mut deaths: Vec<Map<String, Value>> =
        headers.get(DEATHS).and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    // One entry for each queue and reason, the latest first.
    let is_same = |death: &Map<String, Value>| {
        death.get("queue").is_some_and(|name| name == &**queue)
            && death.get("reason").is_some_and(|reason| reason == REASON)
    };
    let before = deaths.iter().position(is_same).map(|place| deaths.remove(place));
    let count = before.as_ref().and_then(|death| death.get("count")?.as_u64()).unwrap_or(0);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let death = json!({
        "count": count.saturating_add(1),
        "reason": REASON,
        "queue": &**queue,
        "time": seconds,
        "exchange": exchange,
        "routing-keys": [routing_key],
    });
    let all: Vec<Value> =
        std::iter::once(death).chain(deaths.into_iter().map(Value::Object)).collect();
    let text = |text: &str| Some(json!(text).to_string());
    let mut changes = vec![
        (COUNT, None),
        (DEATHS, Some(Value::Array(all).to_string())),
        (LAST_DEATH_QUEUE, text(queue)),
        ("x-last-death-reason", text(REASON)),
        ("x-last-death-exchange", text(exchange)),
    ];
    if headers.get("x-first-death-queue").is_none() {
        changes.extend([
            ("x-first-death-queue", text(queue)),
            ("x-first-death-reason", text(REASON)),
            ("x-first-death-exchange", text(exchange)),
        ]);
    }
    headers.with(&changes)
}

/// The queue that a dead letter came from; none if it does not say so.
pub(super) fn origin(message: &Message) -> Option<Name> {
    let name: String = serde_json::from_slice(message.headers.get(LAST_DEATH_QUEUE)?).ok()?;
    (!name.is_empty()).then(|| name.into())
}

/// A dead letter as it goes back to its queue: as if it had not been delivered that often.
pub(super) fn revived(mut message: Message) -> Message {
    message.headers = message.headers.with(&[(COUNT, None)]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Url;
    use crate::transport::schemes::Options;

    fn config(options: Value) -> Result<Config> {
        let options: Options = serde_json::from_value(options).unwrap();
        Config::parse(&Url::parse("redis://h").unwrap(), &options)
    }

    fn message(headers: &str) -> Message {
        let headers = Json::parse(headers.as_bytes().to_vec()).unwrap();
        Message { headers, ..Message::default() }
    }

    fn headers(sent: &Return) -> Value {
        let message = envelope::decode(sent.payload.clone()).unwrap();
        assert!(message.redelivered);
        serde_json::from_slice(message.headers.as_bytes()).unwrap()
    }

    #[test]
    fn deliveries_are_counted() {
        let config = config(json!({})).unwrap();
        for (before, after) in [
            (r#"{"a": 1}"#, 1),
            (r#"{"a": 1, "x-delivery-count": 41}"#, 42),
            (r#"{"a": 1, "x-delivery-count": "no number"}"#, 1),
        ] {
            let sent = config.send_back(message(before), &"q".into(), "RPUSH");
            assert_eq!((&*sent.queue, sent.how), ("q", "RPUSH"));
            assert_eq!(headers(&sent), json!({"a": 1, "redelivered": true, COUNT: after}));
        }
    }

    #[test]
    fn a_dead_letter_says_where_it_comes_from() {
        let config = config(json!({"delivery_limit": 2})).unwrap();
        let mut poison = message(r#"{"x-delivery-count": 1, "é": 2}"#);
        poison.properties.exchange = "ex".into();
        poison.properties.routing_key = "k".into();
        poison.properties.priority = Some(3);
        let sent = config.send_back(poison, &"q".into(), "LPUSH");
        assert_eq!((&*sent.queue, sent.list.as_str()), ("q.dead", "q.dead\x06\x163"));
        assert_eq!(sent.how, "DEAD");
        let first = headers(&sent);
        assert_eq!(first[COUNT], Value::Null);
        assert_eq!(first["é"], 2);
        let death = &first[DEATHS][0];
        assert_eq!((&death["count"], &death["routing-keys"]), (&json!(1), &json!(["k"])));
        for name in ["queue", "reason", "exchange"] {
            assert_eq!(first[format!("x-first-death-{name}")], death[name]);
            assert_eq!(first[format!("x-last-death-{name}")], death[name]);
        }
        assert_eq!((&death["queue"], &death["reason"]), (&json!("q"), &json!("delivery_limit")));
        let letter = envelope::decode(sent.payload).unwrap();
        assert_eq!(origin(&letter), Some("q".into()));
        // Revived, it has as many deliveries as at first, and dies a second time.
        let mut again = config.send_back(revived(letter), &"q".into(), "LPUSH");
        assert_eq!(&*again.queue, "q");
        again =
            config.send_back(envelope::decode(again.payload).unwrap(), &"other".into(), "LPUSH");
        let second = headers(&again);
        assert_eq!(&*again.queue, "other.dead");
        assert_eq!(second[DEATHS].as_array().unwrap().len(), 2);
        assert_eq!(
            (&second["x-first-death-queue"], &second[LAST_DEATH_QUEUE]),
            (&json!("q"), &json!("other"))
        );
    }

    #[test]
    fn dead_letters_do_not_die_again() {
        for (name, dead, living) in [
            (None, "q.dead", "q.deadly"),
            (Some("dead"), "dead", "q.dead"),
            (Some("dead.{queue}.x"), "dead.q.x", "dead.q"),
        ] {
            let config = config(json!({"delivery_limit": 1, "dead_letter_queue": name})).unwrap();
            let sent = config.send_back(message("{}"), &dead.into(), "LPUSH");
            assert_eq!((&*sent.queue, sent.how), (dead, "LPUSH"));
            assert_eq!(config.send_back(message("{}"), &living.into(), "LPUSH").how, "DEAD");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for (options, word) in [
            (json!({"delivery_limit": 0}), "'delivery_limit' must be a whole number from 1 on"),
            (json!({"delivery_limit": 1.5}), "'delivery_limit' must be a whole number from 1 on"),
            (json!({"delivery_limit": true}), "a number of deliveries, not a boolean"),
            (json!({"dead_letter_queue": "dead"}), "needs 'delivery_limit'"),
            (json!({"dead_letter_queue": "", "delivery_limit": 1}), "not be empty"),
            (json!({"dead_letter_queue": "{queue}", "delivery_limit": 1}), "another queue"),
        ] {
            let text = config(options).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
