//! Content headers (AMQP 0-9-1 sections 2.3.5.2 and 4.2.6.1): the properties of a message.
//!
//! What Kombu's envelope has fields for is in those fields; all other properties are members of
//! [`Properties::extra`](crate::model::Properties::extra), under AMQP's names.

use super::wire::{Reader, put_short};
use super::{table, time};
use crate::error::{Error, Result};
use crate::model::scan::{Scanner, Text};
use crate::model::{Json, Message};
use std::borrow::Cow;
use std::io::Write as _;

/// The class `basic`, the only one with content.
const BASIC: u16 = 60;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
const MORE_FLAGS: u16 = 1;

/// The text properties that are members of `extra`, in the order of the wire; those of numbers are
/// in between.
const TEXTS: [(u16, &str); 8] = [
    (CORRELATION_ID, "correlation_id"),
    (REPLY_TO, "reply_to"),
    (EXPIRATION, "expiration"),
    (MESSAGE_ID, "message_id"),
    (TYPE, "type"),
    (USER_ID, "user_id"),
    (APP_ID, "app_id"),
    (CLUSTER_ID, "cluster_id"),
];

/// What `extra` says, by property.
#[derive(Default)]
struct Extra<'a> {
    texts: [Option<Cow<'a, str>>; TEXTS.len()],
    delivery_mode: Option<u8>,
    timestamp: Option<u64>,
}

impl<'a> Extra<'a> {
    fn parse(json: &'a Json) -> Result<Self> {
        let mut extra = Self::default();
        if json.is_empty_object() {
            return Ok(extra);
        }
        Scanner::new(json.as_bytes()).object::<Error>(|name, scanner| {
            let text = scanner.value()?;
            if text == b"null" {
                return Ok(());
            }
            if let Some(at) = TEXTS.iter().position(|(_, known)| name.is(known)) {
                extra.texts[at] = Some(text_of(TEXTS[at].1, text)?);
            } else if name.is("delivery_mode") {
                extra.delivery_mode = Some(number_of("delivery_mode", text)?);
            } else if name.is("timestamp") {
                extra.timestamp = Some(seconds_of(text)?);
            }
            Ok(())
        })?;
        Ok(extra)
    }
}

fn ill_typed(name: &str, right: &str, text: &[u8]) -> Error {
    let text = String::from_utf8_lossy(text);
    Error::encode(format!("the message property '{name}' must be {right}, not {text}"))
}

fn text_of<'a>(name: &str, text: &'a [u8]) -> Result<Cow<'a, str>> {
    if text.first() != Some(&b'"') {
        return Err(ill_typed(name, "a text", text));
    }
    let text = Scanner::new(text).string()?;
    Text::unescape(text).ok_or_else(|| ill_typed(name, "Unicode text", b"half a surrogate pair"))
}

fn number_of(name: &str, text: &[u8]) -> Result<u8> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| ill_typed(name, "a number from 0 to 255", text))
}

/// A number of seconds, or a `datetime` as Kombu's JSON writes it.
fn seconds_of(text: &[u8]) -> Result<u64> {
    let plain = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let dated = || {
        let mut found = None;
        Scanner::new(text)
            .object::<Error>(|name, scanner| {
                let value = scanner.value()?;
                if name.is("__value__") {
                    found = time::parse(&text_of("timestamp", value)?);
                }
                Ok(())
            })
            .ok()?;
        found
    };
    plain
        .or_else(dated)
        .ok_or_else(|| ill_typed("timestamp", "a date or a number of seconds", text))
}

/// Appends the payload of a header frame for `message`.
///
/// # Errors
/// `Encode` naming the property or header that AMQP cannot hold.
pub(super) fn write(message: &Message, out: &mut Vec<u8>) -> Result<()> {
    let extra = Extra::parse(&message.properties.extra)?;
    out.extend_from_slice(&BASIC.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(message.body.len() as u64).to_be_bytes());
    let flags_at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut flags = 0;
    if let Some(text) = &message.content_type {
        flags |= CONTENT_TYPE;
        put_short(out, "the content type", text)?;
    }
    if let Some(text) = &message.content_encoding {
        flags |= CONTENT_ENCODING;
        put_short(out, "the content encoding", text)?;
    }
    if !message.headers.is_empty_object() {
        flags |= HEADERS;
        table::write(&message.headers, out)?;
    }
    if let Some(mode) = extra.delivery_mode {
        flags |= DELIVERY_MODE;
        out.push(mode);
    }
    if let Some(priority) = message.properties.priority {
        flags |= PRIORITY;
        out.push(number_of("priority", priority.to_string().as_bytes())?);
    }
    for (at, (flag, name)) in TEXTS.iter().enumerate() {
        if *flag == TYPE
            && let Some(seconds) = extra.timestamp
        {
            flags |= TIMESTAMP;
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        let text = match message.properties.expiration {
            Some(milliseconds) if *flag == EXPIRATION => Some(milliseconds.to_string().into()),
            _ => extra.texts[at].clone(),
        };
        if let Some(text) = text {
            flags |= flag;
            put_short(out, name, &text)?;
        }
    }
    out[flags_at..flags_at + 2].copy_from_slice(&u16::to_be_bytes(flags));
    Ok(())
}

/// Reads the payload of a header frame into a message without a body yet; the size of the body.
///
/// # Errors
/// `Decode`
pub(super) fn read(payload: &[u8]) -> Result<(Message, u64)> {
    let mut reader = Reader::new(payload);
    let class = reader.u16()?;
    if class != BASIC {
        return Err(Error::decode(format!("a content header of class {class} in place of 60")));
    }
    reader.u16()?; // weight: unused
    let size = reader.u64()?;
    let flags = reader.u16()?;
    if flags & MORE_FLAGS != 0 {
        return Err(Error::decode("a content header has more properties than AMQP 0-9-1 knows"));
    }
    let has = |flag: u16| flags & flag != 0;
    let mut message = Message::default();
    if has(CONTENT_TYPE) {
        message.content_type = Some(reader.short()?.into());
    }
    if has(CONTENT_ENCODING) {
        message.content_encoding = Some(reader.short()?.into());
    }
    if has(HEADERS) {
        message.headers = table::read(&mut reader)?;
    }
    let mut extra = Members::default();
    if has(DELIVERY_MODE) {
        let mode = reader.u8()?;
        extra.put("delivery_mode", |out| match mode {
            0..10 => out.push(b'0' + mode),
            _ => drop(write!(out, "{mode}")),
        });
    }
    if has(PRIORITY) {
        message.properties.priority = Some(i64::from(reader.u8()?));
    }
    for (flag, name) in TEXTS {
        if flag == TYPE && has(TIMESTAMP) {
            let seconds = reader.u64()?;
            extra.put("timestamp", |out| match time::format(seconds) {
                Some(text) => {
                    drop(write!(out, r#"{{"__type__": "datetime", "__value__": "{text}"}}"#));
                }
                None => drop(write!(out, "{seconds}")),
            });
        }
        if !has(flag) {
            continue;
        }
        let text = reader.short()?;
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(milliseconds) if flag == EXPIRATION && plain => {
                message.properties.expiration = Some(milliseconds);
            }
            // Writing text into memory cannot fail.
            _ => extra.put(name, |out| drop(serde_json::to_writer(out, text))),
        }
    }
    if !reader.is_empty() {
        return Err(Error::decode("a content header has bytes behind its end"));
    }
    message.properties.extra = extra.into_json();
    Ok((message, size))
}

/// A JSON object in the making.
#[derive(Default)]
struct Members(Vec<u8>);

impl Members {
    fn put(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        if self.0.is_empty() {
            self.0.reserve(64); // most messages have few, and short ones
        }
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b", \"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\": ");
        value(&mut self.0);
    }

    fn into_json(mut self) -> Json {
        if self.0.is_empty() {
            return Json::empty_object();
        }
        self.0.push(b'}');
        Json::from_valid(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(message: &Message) -> Message {
        let mut out = Vec::new();
        write(message, &mut out).unwrap();
        let (back, size) = read(&out).unwrap();
        assert_eq!(size, message.body.len() as u64);
        back
    }

    fn with_extra(extra: &str) -> Message {
        let mut message = Message::default();
        message.properties.extra = Json::parse(extra.to_owned()).unwrap();
        message
    }

    #[test]
    fn all_properties_come_back() {
        let all = concat!(
            r#"{"delivery_mode": 2, "correlation_id": "c\"", "reply_to": "ü", "message_id": "m", "#,
            r#""timestamp": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}, "#,
            r#""type": "t", "user_id": "u", "app_id": "a", "cluster_id": "i"}"#
        );
        let mut message = with_extra(all);
        message.content_type = Some("application/json".into());
        message.content_encoding = Some("utf-8".into());
        message.headers = Json::from_valid(r#"{"id": "x", "n": [1, null]}"#);
        message.properties.priority = Some(9);
        message.properties.expiration = Some(60_000);
        assert_eq!(there_and_back(&message), message);
        assert_eq!(there_and_back(&Message::default()), Message::default());
    }

    #[test]
    fn other_spellings() {
        let seconds =
            there_and_back(&with_extra(r#"{"timestamp": 0, "expiration": "1.5 s", "x": 1}"#));
        let expected = concat!(
            r#"{"expiration": "1.5 s", "#,
            r#""timestamp": {"__type__": "datetime", "__value__": "1970-01-01T00:00:00"}}"#
        );
        assert_eq!(seconds.properties.extra, Json::from_valid(expected));
        let none = there_and_back(&with_extra(r#"{"reply_to": null, "delivery_mode": null}"#));
        assert!(none.properties.extra.is_empty_object());
    }

    #[test]
    fn wrong_properties_are_named() {
        for (extra, why) in [
            (
                r#"{"delivery_mode": 256}"#,
                "'delivery_mode' must be a number from 0 to 255, not 256",
            ),
            (r#"{"reply_to": 1}"#, "'reply_to' must be a text, not 1"),
            (r#"{"timestamp": "x"}"#, "'timestamp' must be a date"),
        ] {
            let error = write(&with_extra(extra), &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let mut message = Message::default();
        message.properties.priority = Some(-1);
        assert!(write(&message, &mut Vec::new()).unwrap_err().to_string().contains("'priority'"));
        let long = with_extra(&format!(r#"{{"message_id": "{}"}}"#, "x".repeat(256)));
        assert!(write(&long, &mut Vec::new()).unwrap_err().to_string().contains("message_id"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut payload = vec![0, 60, 0, 0];
            payload.extend_from_slice(&bytes);
            let _ = (read(&payload), read(&bytes));
        }
    }
}
