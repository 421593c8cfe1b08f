//! Frames that no broker should send.

use super::fake::{self, broker, of_connection};
use super::{AMQPClass, basic, channel, connection, consumer, deliver, json, run};
use crate::error::Result;
use crate::protocol::amqp::queue;
use crate::transport::Connection;
use std::sync::Arc;

/// Consumes until the link ends; the bodies, and the error.
fn consume_all(connection: &Arc<dyn Connection>) -> (Vec<Vec<u8>>, String) {
    let mut got = Vec::new();
    let ended: Result<()> = run(async {
        let channel = connection.open_channel().await?;
        channel.consume(consumer("c")).await?;
        loop {
            got.push(connection.next().await?.delivery.message.body.to_vec());
        }
    });
    (got, ended.unwrap_err().to_string())
}

fn close_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 404,
        reply_text: "gone".into(),
        class_id: 0,
        method_id: 0,
    }))
}

/// Those that may have crossed with our closing of a channel are harmless.
#[test]
fn frames_of_a_channel_that_is_not_open_hurt_no_other() {
    let (connection, played) = broker(json!({}), |mut fake| {
        fake.welcome(0);
        fake.serve_then(|fake| {
            let mut stray = Vec::new();
            fake::delivery(&mut stray, 77, "c", 1, "stray");
            fake.write(&stray);
            let ack = basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 5, multiple: true });
            fake.say(77, AMQPClass::Basic(ack));
            fake.say(77, close_channel());
            deliver(fake, "c", 1, "mine");
            fake.swallow();
        });
    });
    let got = run(async {
        let channel = connection.open_channel().await?;
        channel.consume(consumer("c")).await?;
        connection.next().await
    });
    assert_eq!(got.unwrap().delivery.message.body, "mine");
    drop(connection);
    played.join().unwrap();
}

/// Methods of the connection by a channel, and the other way round.
#[test]
fn an_answer_that_nobody_has_asked_for_ends_the_link() {
    let unasked = queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count: 1 });
    for (number, class) in [
        (1, AMQPClass::Queue(unasked.clone())),
        (0, AMQPClass::Queue(unasked)),
        (0, of_connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))),
        (1, of_connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))),
    ] {
        let (connection, played) = broker(json!({}), move |mut fake| {
            fake.welcome(0);
            fake.serve_then(|fake| {
                fake.say(number, class);
                fake.swallow();
            });
        });
        let (got, error) = consume_all(&connection);
        assert!(got.is_empty());
        assert!(error.contains("is lost"), "{error}");
        played.join().unwrap();
    }
}

/// One byte of a delivery is another, each in its turn: messages or an error, and never a panic or a
/// wait without end.
#[test]
fn garbled_deliveries_end_in_messages_or_an_error() {
    let mut stream = Vec::new();
    fake::delivery(&mut stream, 1, "c", 1, "body");
    for at in 0..stream.len() {
        let mut garbled = stream.clone();
        garbled[at] ^= 0x55;
        let (connection, played) = broker(json!({}), move |mut fake| {
            fake.welcome(0);
            fake.serve_then(|fake| fake.write(&garbled));
        });
        let (got, error) = consume_all(&connection);
        assert!(got.len() <= 1, "{got:?}");
        assert!(error.contains("is lost") || error.contains("closed"), "byte {at}: {error}");
        played.join().unwrap();
    }
}
