//! Frames (AMQP 0-9-1 section 2.3.5) and the messages that are spread over them.

use super::content;
use super::wire::Reader;
use crate::error::{Error, Result};
use crate::model::{Json, Message, Name};
use crate::protocol::Decoder;
use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::connection::AMQPMethod as Connection;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;

/// Frame types, and the byte at the end of each frame.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
/// Type, channel and size before the payload; the end behind it.
const OVERHEAD: usize = 8;

/// A larger body is refused: more than any RabbitMQ takes (`max_message_size`, at most 2 GiB).
const LARGEST_BODY: u64 = 2 << 30;
/// What a header promises is made room for up to so many times what has come: who fills frames to
/// the agreed size loses little, who only promises gets nothing.
const ROOM: usize = 16;
/// A smaller body is copied out of the read buffer, which would stay alive for it.
const WORTH_SHARING: usize = 16 << 10;

/// Something whole that the broker sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The broker speaks this version only (major, minor, revision), and closes.
    Version([u8; 3]),
    /// It is alive.
    Heartbeat,
    /// `connection.start`
    Start(Start),
    /// A method without content, of a channel (0: of the connection).
    Method(u16, AMQPClass),
    /// A message, by a channel.
    Content(u16, Box<Content>),
}

impl Event {
    /// The channel that it came by, 0 for the connection itself.
    pub fn channel(&self) -> u16 {
        match self {
            Self::Version(_) | Self::Heartbeat | Self::Start(_) => 0,
            Self::Method(channel, _) | Self::Content(channel, _) => *channel,
        }
    }
}

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// `server-properties`, a JSON object.
    pub properties: Json,
    /// The ways to log in, separated by spaces.
    pub mechanisms: String,
}

/// A message, and how it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The method that it came with.
    pub head: Head,
    /// The message, with exchange, routing key and `redelivered` from the method.
    pub message: Message,
}

/// The methods that bring a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// `basic.deliver`
    Delivered {
        /// The consumer.
        consumer_tag: Name,
        /// The channel's number for the delivery.
        tag: u64,
    },
    /// `basic.get-ok`
    Got {
        /// The channel's number for the delivery.
        tag: u64,
        /// How many messages are left in the queue.
        left: u32,
    },
    /// `basic.return`: a message of ours that could not be routed.
    Returned {
        /// Reply code (312: no route).
        code: u16,
        /// Reply text.
        text: String,
    },
}

/// Takes frames off a stream and puts messages together.
#[derive(Debug)]
pub struct AmqpDecoder {
    /// Largest frame that we accept; after `connection.tune` the smaller one of both wishes.
    frame_max: u32,
    contents: HashMap<u16, Partial>,
    exchange: Name,
    routing_key: Name,
    consumer_tag: Name,
}

/// A message that is not complete.
#[derive(Debug)]
struct Partial {
    head: Head,
    exchange: Name,
    routing_key: Name,
    redelivered: bool,
    message: Option<Message>,
    left: u64,
    body: BytesMut,
}

impl AmqpDecoder {
    /// Accepts frames of up to `frame_max` bytes (0: as the broker says).
    pub fn new(frame_max: u32) -> Self {
        let none: Name = "".into();
        Self {
            frame_max,
            contents: HashMap::new(),
            exchange: none.clone(),
            routing_key: none.clone(),
            consumer_tag: none,
        }
    }

    /// The length of the frame at the front, once its head is there.
    fn frame_length(&self, buffer: &BytesMut) -> Result<Option<usize>> {
        let Some(head) = buffer.first_chunk::<7>() else { return Ok(None) };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        if !matches!(head[0], METHOD | HEADER | BODY | HEARTBEAT) {
            // RFC 8446 section 5.1: a record of TLS.
            let tls = matches!(head, [20..=23, 3, ..]);
            let hint = if tls { ": the broker speaks TLS here, which is amqps://" } else { "" };
            let text = format!("a frame of the unknown type {}{hint}", head[0]);
            return Err(Error::decode(text));
        }
        let limit = if self.frame_max == 0 { u32::MAX } else { self.frame_max };
        let length = size as usize + OVERHEAD;
        if length > limit as usize {
            return Err(Error::decode(format!(
                "a frame of {length} bytes, where {limit} were agreed upon"
            )));
        }
        Ok(Some(length))
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Result<Option<Event>> {
        if self.contents.contains_key(&channel) {
            return Err(unexpected(channel, "a method in the middle of a message"));
        }
        let mut reader = Reader::new(payload);
        let (class, method) = (reader.u16()?, reader.u16()?);
        if (class, method) == (10, 10) {
            return start(&mut reader).map(Some);
        }
        if let Some(partial) = self.head(class, method, &mut reader)? {
            if channel == 0 {
                return Err(unexpected(channel, "a message"));
            }
            self.contents.insert(channel, partial);
            return Ok(None);
        }
        if !is_from_server(class, method) {
            return Err(unexpected(channel, &format!("the method {class}.{method}")));
        }
        let class = match amq_protocol::protocol::parse_class(payload) {
            Ok(([], class)) => class,
            _ => {
                let what = format!("a method {class}.{method} with arguments that are none of it");
                return Err(unexpected(channel, &what));
            }
        };
        if let AMQPClass::Connection(Connection::Tune(tune)) = &class {
            self.frame_max = super::smaller(self.frame_max, tune.frame_max);
        }
        Ok(Some(Event::Method(channel, class)))
    }

    /// The beginning of a message, if the method brings one.
    fn head(
        &mut self,
        class: u16,
        method: u16,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Partial>> {
        let (head, redelivered) = match (class, method) {
            (60, 60) => {
                let consumer_tag = again(&mut self.consumer_tag, reader.short()?);
                let tag = reader.u64()?;
                (Head::Delivered { consumer_tag, tag }, reader.u8()? & 1 != 0)
            }
            (60, 71) => {
                let tag = reader.u64()?;
                (Head::Got { tag, left: 0 }, reader.u8()? & 1 != 0)
            }
            (60, 50) => {
                let code = reader.u16()?;
                (Head::Returned { code, text: reader.short()?.to_owned() }, false)
            }
            _ => return Ok(None),
        };
        let exchange = again(&mut self.exchange, reader.short()?);
        let routing_key = again(&mut self.routing_key, reader.short()?);
        let head = match head {
            Head::Got { tag, .. } => Head::Got { tag, left: reader.u32()? },
            head => head,
        };
        Ok(Some(Partial {
            head,
            exchange,
            routing_key,
            redelivered,
            message: None,
            left: 0,
            body: BytesMut::new(),
        }))
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> Result<Option<Event>> {
        let partial = match self.contents.get_mut(&channel) {
            Some(partial) if partial.message.is_none() => partial,
            _ => return Err(unexpected(channel, "a content header")),
        };
        let (mut message, size) = content::read(payload)?;
        if size > LARGEST_BODY {
            return Err(Error::decode(format!("a message of {size} bytes is announced")));
        }
        message.properties.exchange = partial.exchange.clone();
        message.properties.routing_key = partial.routing_key.clone();
        message.redelivered = partial.redelivered;
        partial.message = Some(message);
        partial.left = size;
        Ok(if size == 0 { self.finish(channel, Bytes::new()) } else { None })
    }

    fn body(&mut self, channel: u16, payload: BytesMut) -> Result<Option<Event>> {
        let partial = match self.contents.get_mut(&channel) {
            Some(partial) if partial.message.is_some() => partial,
            _ => return Err(unexpected(channel, "a part of a body")),
        };
        let Some(left) = partial.left.checked_sub(payload.len() as u64) else {
            return Err(unexpected(channel, "a body that is longer than its header says"));
        };
        let room = partial.left.min((payload.len() * ROOM) as u64) as usize;
        partial.left = left;
        if left == 0 && partial.body.is_empty() {
            let body = match payload.len() {
                small if small < WORTH_SHARING => Bytes::copy_from_slice(&payload),
                _ => payload.freeze(),
            };
            return Ok(self.finish(channel, body));
        }
        if partial.body.is_empty() {
            partial.body.reserve(room);
        }
        partial.body.extend_from_slice(&payload);
        if left > 0 {
            return Ok(None);
        }
        let body = std::mem::take(&mut partial.body).freeze();
        Ok(self.finish(channel, body))
    }

    fn finish(&mut self, channel: u16, body: Bytes) -> Option<Event> {
        let partial = self.contents.remove(&channel)?;
        let message = Message { body, ..partial.message? };
        Some(Event::Content(channel, Box::new(Content { head: partial.head, message })))
    }
}

/// The same name again, most of the time: shared then.
fn again(last: &mut Name, text: &str) -> Name {
    if **last != *text {
        *last = text.into();
    }
    last.clone()
}

fn start(reader: &mut Reader<'_>) -> Result<Event> {
    let version = [reader.u8()?, reader.u8()?];
    if version != [0, 9] {
        return Ok(Event::Version([version[0], version[1], 0]));
    }
    let properties = super::table::read(reader)?;
    let mechanisms = String::from_utf8_lossy(reader.long()?).into_owned();
    Ok(Event::Start(Start { properties, mechanisms }))
}

fn unexpected(channel: u16, what: &str) -> Error {
    Error::decode(format!("{what} came unexpectedly by channel {channel}"))
}

/// Whether a broker may say this. None of these has a table for an argument, whose nesting
/// `amq-protocol` would follow without end.
fn is_from_server(class: u16, method: u16) -> bool {
    match class {
        10 => matches!(method, 20 | 30 | 41 | 50 | 51 | 60 | 61 | 71),
        20 => matches!(method, 11 | 20 | 21 | 40 | 41),
        40 => matches!(method, 11 | 21 | 31 | 51),
        50 => matches!(method, 11 | 21 | 31 | 41 | 51),
        60 => matches!(method, 11 | 21 | 30 | 31 | 72 | 80 | 111 | 120),
        85 => method == 11,
        90 => matches!(method, 11 | 21 | 31),
        _ => false,
    }
}

impl Decoder for AmqpDecoder {
    type Event = Event;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>> {
        loop {
            if buffer.first() == Some(&b'A') {
                // A protocol header: the broker refuses ours.
                let Some(header) = buffer.first_chunk::<8>() else { return Ok(None) };
                if !header.starts_with(b"AMQP") {
                    return Err(Error::decode("the peer does not speak AMQP"));
                }
                let version = [header[5], header[6], header[7]];
                buffer.advance(8);
                return Ok(Some(Event::Version(version)));
            }
            let Some(length) = self.frame_length(buffer)? else { return Ok(None) };
            if buffer.len() < length {
                return Ok(None);
            }
            let mut frame = buffer.split_to(length);
            if frame[length - 1] != END {
                return Err(Error::decode("a frame without its end: the stream is garbled"));
            }
            let (kind, channel) = (frame[0], u16::from_be_bytes([frame[1], frame[2]]));
            frame.truncate(length - 1);
            frame.advance(7);
            let event = match kind {
                METHOD => self.method(channel, &frame)?,
                HEADER => self.header(channel, &frame)?,
                BODY => self.body(channel, frame)?,
                // AMQP 0-9-1 section 4.2.7: by no other channel; and it has nothing to say.
                _ if channel > 0 || !frame.is_empty() => {
                    let what = format!("a heartbeat of {} bytes", frame.len());
                    return Err(unexpected(channel, &what));
                }
                _ => Some(Event::Heartbeat),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
