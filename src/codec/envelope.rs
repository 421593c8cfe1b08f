//! Kombu's JSON envelope: what its virtual transports put into a queue.
//!
//! Written byte for byte as stock Kombu 5.7 does (key order, separators, ASCII escapes, priority as a
//! number, expiration as a string). Read leniently: members may be missing, null, repeated (the last
//! one counts, as in Python), in any order and unknown (kept in the `extra` objects). Headers and
//! free properties stay the text that they are.

use super::json::write_str;
use crate::error::{Error, Result};
use crate::model::scan::{Scanner, Text};
use crate::model::{BodyEncoding, Json, Message, Name, Properties};
use base64_simd::STANDARD;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Writes a message as its envelope.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(message, &mut out);
    out
}

/// Appends the envelope of a message to `out`.
pub fn encode_into(message: &Message, out: &mut Vec<u8>) {
    let properties = &message.properties;
    out.reserve(
        message.body.len() / 3 * 4
            + message.headers.as_bytes().len()
            + properties.extra.as_bytes().len()
            + properties.exchange.len()
            + properties.routing_key.len()
            + 320,
    );
    out.extend_from_slice(b"{\"body\": ");
    write_body(out, &message.body, properties.body_encoding);
    out.extend_from_slice(b", \"content-encoding\": ");
    write_name(out, message.content_encoding.as_deref());
    out.extend_from_slice(b", \"content-type\": ");
    write_name(out, message.content_type.as_deref());
    out.extend_from_slice(b", \"headers\": {");
    write_headers(out, &message.headers, message.redelivered);
    out.extend_from_slice(b"}, \"properties\": {");
    write_properties(out, properties, message.redelivered);
    out.push(b'}');
    let extra = message.extra.inner();
    if !extra.is_empty() {
        out.extend_from_slice(b", ");
        out.extend_from_slice(extra);
    }
    out.push(b'}');
}

fn write_body(out: &mut Vec<u8>, body: &[u8], encoding: BodyEncoding) {
    match (encoding, std::str::from_utf8(body)) {
        (BodyEncoding::Base64, _) => write_base64(out, body),
        (BodyEncoding::Plain, Ok(text)) => write_str(out, text),
        (BodyEncoding::Plain, Err(_)) => {
            // What stock Kombu writes for bytes that are no text, through its own JSON types.
            out.extend_from_slice(b"{\"__type__\": \"base64\", \"__value__\": ");
            write_base64(out, body);
            out.push(b'}');
        }
    }
}

fn write_base64(out: &mut Vec<u8>, body: &[u8]) {
    out.push(b'"');
    STANDARD.encode_append(body, out);
    out.push(b'"');
}

fn write_name(out: &mut Vec<u8>, name: Option<&str>) {
    match name {
        Some(name) => write_str(out, name),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_headers(out: &mut Vec<u8>, headers: &Json, redelivered: bool) {
    if !redelivered || headers.get("redelivered") == Some(b"true") {
        out.extend_from_slice(headers.inner());
        return;
    }
    for member in headers.members() {
        if !member.name.is("redelivered") {
            out.extend_from_slice(member.whole);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(b"\"redelivered\": true");
}

fn write_properties(out: &mut Vec<u8>, properties: &Properties, redelivered: bool) {
    let extra = properties.extra.inner();
    if !extra.is_empty() {
        out.extend_from_slice(extra);
        out.extend_from_slice(b", ");
    }
    if let Some(expiration) = properties.expiration {
        out.extend_from_slice(format!("\"expiration\": \"{expiration}\", ").as_bytes());
    }
    out.extend_from_slice(b"\"delivery_info\": {\"exchange\": ");
    write_str(out, &properties.exchange);
    out.extend_from_slice(b", \"routing_key\": ");
    write_str(out, &properties.routing_key);
    let extra = properties.delivery_info_extra.inner();
    if !extra.is_empty() {
        out.extend_from_slice(b", ");
        out.extend_from_slice(extra);
    }
    if redelivered {
        out.extend_from_slice(b", \"redelivered\": true");
    }
    out.extend_from_slice(b"}, ");
    if let Some(priority) = properties.priority {
        out.extend_from_slice(format!("\"priority\": {priority}, ").as_bytes());
    }
    out.extend_from_slice(match properties.body_encoding {
        BodyEncoding::Base64 => b"\"body_encoding\": \"base64\", \"delivery_tag\": ",
        BodyEncoding::Plain => b"\"body_encoding\": null, \"delivery_tag\": ",
    });
    write_str(out, &properties.delivery_tag);
}

/// Reads an envelope. Headers and other free members stay slices of `input`.
///
/// # Errors
/// [`ErrorKind::Decode`](crate::error::ErrorKind::Decode) naming the member that is wrong, or where the
/// text stops being JSON.
pub fn decode(input: Bytes) -> Result<Message> {
    read(&input).map_err(|error| {
        Error::decode(format!("the message's envelope cannot be decoded: {error}"))
    })
}

fn read(input: &Bytes) -> Result<Message> {
    if let Err(error) = std::str::from_utf8(input) {
        return Err(wrong(format_args!("not UTF-8 at byte {}", error.valid_up_to())));
    }
    let mut message = Message { properties: no_properties(), ..Message::default() };
    let mut body = Body::Value(b"null");
    let mut seen = Seen::default();
    let mut extra = Rest::default();
    let mut scanner = Scanner::new(input);
    scanner.object(|name, scanner| {
        match name.bytes().as_deref() {
            Some(b"body") => {
                body = match scanner.peek() {
                    Some(b'"') => Body::Text(scanner.string()?),
                    _ => Body::Value(scanner.value()?),
                };
            }
            Some(b"content-type") => {
                message.content_type = text(scanner, "content-type")?.as_deref().map(name_of);
            }
            Some(b"content-encoding") => {
                message.content_encoding =
                    text(scanner, "content-encoding")?.as_deref().map(name_of);
            }
            Some(b"headers") => {
                seen.headers = false;
                message.headers = headers(scanner, input, &mut seen)?;
            }
            Some(b"properties") => {
                seen.delivery_info = false;
                message.properties = properties(scanner, &mut seen)?;
            }
            _ => extra.push(scanner.member(name)?.whole),
        }
        Ok::<_, Error>(())
    })?;
    scanner.end()?;
    message.body = read_body(body, message.properties.body_encoding)?;
    message.redelivered = seen.headers || seen.delivery_info;
    message.extra = extra.finish();
    Ok(message)
}

/// The body as it stands in the envelope: a string, or any other value.
enum Body<'a> {
    Text(Text<'a>),
    Value(&'a [u8]),
}

/// Where `"redelivered": true` was seen.
#[derive(Default)]
struct Seen {
    headers: bool,
    delivery_info: bool,
}

/// A name; those that nearly every message has are shared.
fn name_of(text: &str) -> Name {
    static COMMON: LazyLock<[Name; 3]> =
        LazyLock::new(|| ["application/json", "utf-8", "celery"].map(Name::from));
    match COMMON.iter().find(|name| ***name == *text) {
        Some(name) => name.clone(),
        None if text.is_empty() => Name::default(),
        None => text.into(),
    }
}

/// Collects the members that nobody asked for into an object.
#[derive(Default)]
struct Rest(Vec<u8>);

impl Rest {
    fn push(&mut self, member: &[u8]) {
        if self.0.is_empty() {
            self.0.reserve(member.len() + 64);
            self.0.push(b'{');
        } else {
            self.0.extend_from_slice(b", ");
        }
        self.0.extend_from_slice(member);
    }

    fn finish(mut self) -> Json {
        if self.0.is_empty() {
            return Json::empty_object();
        }
        self.0.push(b'}');
        Json::from_valid(self.0)
    }
}

fn wrong(what: std::fmt::Arguments<'_>) -> Error {
    Error::decode(what.to_string())
}

/// Takes a string or null.
fn text<'a>(scanner: &mut Scanner<'a>, member: &str) -> Result<Option<Cow<'a, str>>> {
    match scanner.peek() {
        Some(b'"') => own(scanner.string()?, member).map(Some),
        _ => match scanner.value()? {
            b"null" => Ok(None),
            other => {
                Err(wrong(format_args!("`{member}` must be a string or null, not {}", show(other))))
            }
        },
    }
}

fn own<'a>(text: Text<'a>, member: &str) -> Result<Cow<'a, str>> {
    text.unescape().ok_or_else(|| lone(member))
}

fn lone(member: &str) -> Error {
    wrong(format_args!("`{member}` has a lone surrogate"))
}

/// A value for an error message, shortened.
fn show(value: &[u8]) -> Cow<'_, str> {
    const LIMIT: usize = 40;
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => text,
    }
}

/// Takes an object, or null for an empty one; false when it was null.
fn object_or_null<'a>(
    scanner: &mut Scanner<'a>,
    member: &str,
    visit: impl FnMut(Text<'a>, &mut Scanner<'a>) -> Result<()>,
) -> Result<bool> {
    match scanner.peek() {
        Some(b'{') => scanner.object(visit).map(|()| true),
        _ => match scanner.value()? {
            b"null" => Ok(false),
            other => Err(wrong(format_args!("`{member}` must be an object, not {}", show(other)))),
        },
    }
}

fn headers(scanner: &mut Scanner<'_>, input: &Bytes, seen: &mut Seen) -> Result<Json> {
    scanner.peek();
    let start = scanner.position();
    let mut empty = true;
    object_or_null(scanner, "headers", |name, scanner| {
        empty = false;
        let value = scanner.value()?;
        if name.is("redelivered") {
            seen.headers = value == b"true";
        }
        Ok(())
    })?;
    // An empty object is not worth keeping the input alive for.
    Ok(if empty {
        Json::empty_object()
    } else {
        Json::from_valid(input.slice(start..scanner.position()))
    })
}

/// Kombu takes an absent encoding for text, although it writes base64 by default.
fn no_properties() -> Properties {
    Properties { body_encoding: BodyEncoding::Plain, ..Properties::default() }
}

fn properties(scanner: &mut Scanner<'_>, seen: &mut Seen) -> Result<Properties> {
    let mut properties = no_properties();
    let mut rest = Rest::default();
    object_or_null(scanner, "properties", |name, scanner| {
        match name.bytes().as_deref() {
            Some(b"delivery_info") => {
                seen.delivery_info = false;
                delivery_info(scanner, &mut properties, seen)?;
            }
            Some(b"delivery_tag") => properties.delivery_tag = delivery_tag(scanner)?,
            Some(b"body_encoding") => properties.body_encoding = body_encoding(scanner)?,
            Some(b"priority") => {
                let member = scanner.member(name)?;
                properties.priority = number(member.value);
                if properties.priority.is_none() && member.value != b"null" {
                    rest.push(member.whole);
                }
            }
            Some(b"expiration") => {
                let member = scanner.member(name)?;
                properties.expiration = number(member.value).and_then(|n| n.try_into().ok());
                if properties.expiration.is_none() && member.value != b"null" {
                    rest.push(member.whole);
                }
            }
            _ => rest.push(scanner.member(name)?.whole),
        }
        Ok(())
    })?;
    properties.extra = rest.finish();
    Ok(properties)
}

fn delivery_info(
    scanner: &mut Scanner<'_>,
    properties: &mut Properties,
    seen: &mut Seen,
) -> Result<()> {
    properties.exchange = Name::default();
    properties.routing_key = Name::default();
    let mut rest = Rest::default();
    object_or_null(scanner, "properties.delivery_info", |name, scanner| {
        match name.bytes().as_deref() {
            Some(b"exchange") => {
                let exchange = text(scanner, "properties.delivery_info.exchange")?;
                properties.exchange = name_of(&exchange.unwrap_or_default());
            }
            Some(b"routing_key") => {
                let key = text(scanner, "properties.delivery_info.routing_key")?;
                properties.routing_key = name_of(&key.unwrap_or_default());
            }
            Some(b"redelivered") => seen.delivery_info = scanner.value()? == b"true",
            _ => rest.push(scanner.member(name)?.whole),
        }
        Ok(())
    })?;
    properties.delivery_info_extra = rest.finish();
    Ok(())
}

/// A tag is a string from Kombu, a number from bridges that copy AMQP's.
fn delivery_tag(scanner: &mut Scanner<'_>) -> Result<String> {
    const MEMBER: &str = "properties.delivery_tag";
    if scanner.peek() == Some(b'"') {
        return own(scanner.string()?, MEMBER).map(Cow::into_owned);
    }
    match scanner.value()? {
        b"null" => Ok(String::new()),
        other @ [b'-' | b'0'..=b'9', ..] => Ok(String::from_utf8_lossy(other).into_owned()),
        other => Err(wrong(format_args!("`{MEMBER}` must be a string, not {}", show(other)))),
    }
}

fn body_encoding(scanner: &mut Scanner<'_>) -> Result<BodyEncoding> {
    match text(scanner, "properties.body_encoding")?.as_deref() {
        Some("base64") => Ok(BodyEncoding::Base64),
        None | Some("") => Ok(BodyEncoding::Plain),
        Some(other) => Err(wrong(format_args!(
            "`properties.body_encoding` must be \"base64\" or null, not {other:?}"
        ))),
    }
}

/// A whole number, also as a string (`expiration` is always one, `priority` from some publishers)
/// or as a float without a fraction.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

fn read_body(body: Body<'_>, encoding: BodyEncoding) -> Result<Bytes> {
    match (body, encoding) {
        (Body::Text(text), BodyEncoding::Base64) => base64(text),
        (Body::Text(text), BodyEncoding::Plain) => Ok(own(text, "body")?.into_owned().into()),
        (Body::Value(b"null"), _) => Ok(Bytes::new()),
        (Body::Value(raw), BodyEncoding::Base64) => {
            Err(wrong(format_args!("`body` must be a base64 string, not {}", show(raw))))
        }
        // A publisher that does not serialise first; the JSON text is what a serializer reads.
        (Body::Value(raw), BodyEncoding::Plain) => {
            let wrapped = if raw.first() == Some(&b'{') { wrapped(raw)? } else { None };
            Ok(wrapped.unwrap_or_else(|| Bytes::copy_from_slice(raw)))
        }
    }
}

fn base64(text: Text<'_>) -> Result<Bytes> {
    let text = text.bytes().ok_or_else(|| lone("body"))?;
    // Python's b64decode takes line breaks and such too.
    let decoded =
        STANDARD.decode_to_vec(&*text).or_else(|_| base64_simd::forgiving_decode_to_vec(&text));
    match decoded {
        Ok(body) => Ok(body.into()),
        Err(_) => Err(wrong(format_args!("`body` is not valid base64: {:?}", show(&text)))),
    }
}

/// A body of bytes that stock Kombu wrote without a body encoding: `{"__type__": "bytes" or
/// "base64", "__value__": text}`. `None` for any other object.
fn wrapped(raw: &[u8]) -> Result<Option<Bytes>> {
    let (mut kind, mut value) = (None, None);
    Scanner::new(raw).object(|name, scanner| {
        if scanner.peek() != Some(b'"') {
            scanner.value()?;
        } else {
            let text = scanner.string()?;
            match name.bytes().as_deref() {
                Some(b"__type__") => kind = text.unescape(),
                Some(b"__value__") => value = Some(text),
                _ => {}
            }
        }
        Ok::<_, Error>(())
    })?;
    match (kind.as_deref(), value) {
        (Some("base64"), Some(value)) => base64(value).map(Some),
        (Some("bytes"), Some(value)) => Ok(Some(own(value, "body")?.into_owned().into())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
