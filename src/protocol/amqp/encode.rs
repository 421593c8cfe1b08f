//! Frames to the broker.

use super::content;
use super::table;
use super::wire::put_short;
use crate::error::{Error, Result};
use crate::model::{Json, Message};
use amq_protocol::frame::{AMQPFrame, gen_frame};
use amq_protocol::protocol::AMQPClass;
use amq_protocol::types::{FieldTable, LongString, ShortString};

/// What a client says first.
pub const HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// A heartbeat frame.
pub const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xce";

const END: u8 = 0xce;
/// Bytes of a frame beside its payload.
const OVERHEAD: usize = 8;

/// Appends any method.
///
/// # Errors
/// `Internal`: the codec refused it.
pub fn method(channel: u16, class: AMQPClass, out: &mut Vec<u8>) -> Result<()> {
    let frame = AMQPFrame::Method(channel, class);
    let written = gen_frame(&frame)(Vec::new().into())
        .map_err(|error| Error::internal(format!("an AMQP method cannot be written: {error}")))?;
    out.extend_from_slice(&written.into_inner().0);
    Ok(())
}

/// Arguments of a method.
///
/// # Errors
/// `Encode` naming the argument that AMQP has no type for.
pub fn arguments(json: &Json) -> Result<FieldTable> {
    let mut bytes = Vec::new();
    table::write(json, &mut bytes)?;
    match amq_protocol::types::parsing::parse_field_table(&bytes[..]) {
        Ok((_, table)) => Ok(table),
        Err(error) => Err(Error::internal(format!("a table cannot be read back: {error}"))),
    }
}

/// A name as an argument; `what` says of what.
///
/// # Errors
/// `Encode` when it is longer than 255 bytes.
pub fn name(what: &str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        let start: String = text.chars().take(40).collect();
        Error::encode(format!("{what} is longer than the 255 bytes that AMQP allows: '{start}...'"))
    })
}

/// A long string as an argument.
pub(super) fn long(bytes: &[u8]) -> LongString {
    LongString::from(bytes)
}

/// Appends a frame of what `payload` appends.
fn frame(
    kind: u8,
    channel: u16,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<usize> {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out)?;
    let size = out.len() - start - 4;
    let length = u32::try_from(size).map_err(|_| Error::encode("a frame is larger than 4 GiB"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out.push(END);
    Ok(size + OVERHEAD)
}

/// Appends `basic.publish` with its message, the body split so that no frame is larger than
/// `frame_max` bytes (0: no limit). Exchange and routing key are the message's. Leaves `out` as it
/// was when there is an error.
///
/// # Errors
/// `Encode` naming what AMQP cannot hold.
pub fn publish(
    channel: u16,
    frame_max: u32,
    message: &Message,
    mandatory: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    let written = try_publish(channel, frame_max, message, mandatory, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn try_publish(
    channel: u16,
    frame_max: u32,
    message: &Message,
    mandatory: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    let limit = if frame_max == 0 { u32::MAX as usize } else { frame_max as usize };
    let properties = &message.properties;
    frame(1, channel, out, |out| {
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        put_short(out, "the name of an exchange", &properties.exchange)?;
        put_short(out, "a routing key", &properties.routing_key)?;
        out.push(u8::from(mandatory));
        Ok(())
    })?;
    let header = frame(2, channel, out, |out| content::write(message, out))?;
    if header > limit {
        return Err(Error::encode(format!(
            "headers and properties of {header} bytes are too large: a frame has at most {limit} \
             (frame_max)"
        )));
    }
    for part in message.body.chunks(limit - OVERHEAD) {
        frame(3, channel, out, |out| {
            out.extend_from_slice(part);
            Ok(())
        })?;
    }
    Ok(())
}

/// How deliveries are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done.
    Ack,
    /// Back to the queue.
    Requeue,
    /// Away, or to the dead letters.
    Discard,
}

/// Bytes of what [`settle`] appends.
pub const SETTLE_LENGTH: usize = 13 + OVERHEAD;

/// Appends `basic.ack` or `basic.nack` for a delivery, or for all up to it (`multiple`; 0: all).
pub fn settle(channel: u16, tag: u64, multiple: bool, how: Settle, out: &mut Vec<u8>) {
    let (method, bits) = match how {
        Settle::Ack => (80, u8::from(multiple)),
        Settle::Requeue => (120, u8::from(multiple) | 2),
        Settle::Discard => (120, u8::from(multiple)),
    };
    out.push(1);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 13, 0, 60, 0, method]);
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&[bits, END]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::parse_frame;
    use amq_protocol::protocol::{basic, queue};

    fn parsed(mut bytes: &[u8]) -> Vec<AMQPFrame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (rest, frame) = parse_frame(bytes).expect("a frame");
            frames.push(frame);
            bytes = rest;
        }
        frames
    }

    #[test]
    fn a_body_is_split_at_frame_max() {
        let mut message = Message { body: vec![7; 9000].into(), ..Message::default() };
        message.properties.exchange = "e".into();
        message.properties.routing_key = "k".into();
        message.properties.priority = Some(3);
        let mut out = Vec::new();
        publish(5, 4096, &message, true, &mut out).unwrap();
        let frames = parsed(&out);
        let AMQPFrame::Method(5, AMQPClass::Basic(basic::AMQPMethod::Publish(method))) = &frames[0]
        else {
            panic!("{:?}", frames[0])
        };
        assert_eq!((method.exchange.as_str(), method.routing_key.as_str()), ("e", "k"));
        assert!(method.mandatory && !method.immediate);
        let AMQPFrame::Header(5, header) = &frames[1] else { panic!("{:?}", frames[1]) };
        assert_eq!((header.body_size, *header.properties.priority()), (9000, Some(3)));
        let sizes: Vec<_> = frames[2..]
            .iter()
            .map(|frame| match frame {
                AMQPFrame::Body(5, part) => part.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [4088, 4088, 824]);
    }

    #[test]
    fn an_error_leaves_nothing_behind() {
        let mut message =
            Message { headers: Json::from_valid(r#"{"n": 1e999}"#), ..Message::default() };
        let mut out = b"before".to_vec();
        message.headers = Json::from_valid(format!(r#"{{"n": "{}"}}"#, "x".repeat(4096)));
        let error = publish(1, 4096, &message, false, &mut out).unwrap_err();
        assert!(error.to_string().contains("frame_max"), "{error}");
        message.headers = Json::from_valid(r#"{"n": 99999999999999999999}"#);
        assert!(publish(1, 4096, &message, false, &mut out).is_err());
        message.headers = Json::empty_object();
        message.properties.routing_key = "x".repeat(256).into();
        let error = publish(1, 4096, &message, false, &mut out).unwrap_err();
        assert!(error.to_string().contains("routing key"), "{error}");
        assert_eq!(out, b"before");
    }

    #[test]
    fn settling() {
        let mut out = Vec::new();
        settle(1, 5, true, Settle::Ack, &mut out);
        settle(2, 6, false, Settle::Requeue, &mut out);
        settle(3, 0, true, Settle::Discard, &mut out);
        let basic = AMQPClass::Basic;
        let nack = |delivery_tag, multiple, requeue| {
            basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue }))
        };
        let ack = basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 5, multiple: true });
        let expected = [
            AMQPFrame::Method(1, basic(ack)),
            AMQPFrame::Method(2, nack(6, false, true)),
            AMQPFrame::Method(3, nack(0, true, false)),
        ];
        assert_eq!(parsed(&out), expected);
    }

    #[test]
    fn methods_and_arguments() {
        let json = Json::from_valid(r#"{"x-max-priority": 5, "x-queue-type": "quorum"}"#);
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: name("queue", "q").unwrap(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: arguments(&json).unwrap(),
        });
        let class = AMQPClass::Queue(declare);
        let mut out = Vec::new();
        method(3, class.clone(), &mut out).unwrap();
        assert_eq!(parsed(&out), [AMQPFrame::Method(3, class)]);
        assert!(
            name("the queue's name", &"x".repeat(256)).unwrap_err().to_string().contains("queue")
        );
        assert_eq!(parsed(HEARTBEAT), [AMQPFrame::Heartbeat]);
    }
}
