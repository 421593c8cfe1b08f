//! What a broker may do to us, by a broker that does it.

mod acks;
mod consuming;
mod fake;
mod incidents;
mod leaving;
mod numbering;
mod patience;
mod pressure;
mod strange;

use crate::error::ErrorKind;
use crate::io::task::{PollWaiter, block_on, run};
use crate::model::{Json, Message};
use crate::protocol::amqp::encode::{self, Settle};
use crate::protocol::amqp::{AMQPClass, AMQPFrame, basic, channel, connection, parse_frame};
use crate::transport::ConsumeOptions;
use fake::{broker, confirming, of_connection};
use serde_json::json;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

fn message(key: &str, body: &str) -> Message {
    let mut message = Message { body: body.to_owned().into(), ..Message::default() };
    message.properties.routing_key = key.into();
    message
}

fn consumer(tag: &str) -> ConsumeOptions {
    ConsumeOptions {
        queue: "q".into(),
        consumer_tag: tag.into(),
        no_ack: false,
        arguments: Json::empty_object(),
    }
}

fn deliver(fake: &mut fake::Fake, wire_tag: &str, tag: u64, body: &str) {
    fake.write(&delivery(1, wire_tag, tag, body));
}

fn delivery(channel: u16, wire_tag: &str, tag: u64, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    fake::delivery(&mut out, channel, wire_tag, tag, body);
    out
}

fn answer(tag: u64, multiple: bool, taken: bool) -> AMQPClass {
    AMQPClass::Basic(match taken {
        true => basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple }),
        false => {
            basic::AMQPMethod::Nack(basic::Nack { delivery_tag: tag, multiple, requeue: false })
        }
    })
}

/// Heartbeats go out and silence is noticed, although nobody uses the connection.
#[test]
fn a_silent_broker_is_noticed_with_nobody_driving() {
    let (beats, heard) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        fake.welcome(1);
        fake.write(encode::HEARTBEAT);
        // The client's heartbeats are in what it sends until it gives up.
        let mut bytes = Vec::new();
        fake.drain_into(&mut bytes);
        beats.send(bytes).unwrap();
    });
    run(connection.connect()).unwrap();
    let bytes = heard.recv_timeout(LIMIT).expect("the client gives up");
    assert!(bytes.starts_with(encode::HEARTBEAT), "{bytes:?}");
    assert!(!connection.is_connected(), "known before it is used");
    let error = run(connection.next()).unwrap_err();
    assert_eq!((error.kind(), error.driver()), (ErrorKind::Connection, "amqp"));
    assert!(error.to_string().contains("no sign of life"), "{error}");
    played.join().unwrap();
}

#[test]
fn a_broker_that_beats_is_alive() {
    let (connection, played) = broker(json!({"heartbeat": 1}), |mut fake| {
        fake.welcome(60);
        let end = Instant::now() + Duration::from_millis(2600);
        while Instant::now() < end {
            fake.write(encode::HEARTBEAT);
            std::thread::sleep(Duration::from_millis(100));
        }
        fake.open_channels();
    });
    run(connection.connect()).unwrap();
    let channel = run(connection.open_channel()).unwrap();
    assert!(channel.is_open());
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn a_garbled_frame_ends_the_link_and_says_so() {
    let (connection, played) = broker(json!({}), |mut fake| {
        fake.welcome(0);
        fake.write(b"\x01\0\x01\0\0\0\x04\0\x3c\0\x0b\x00");
        fake.swallow();
    });
    let error = run(async {
        connection.connect().await?;
        connection.next().await.map(drop)
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("garbled"), "{error}");
    played.join().unwrap();
}

#[test]
fn something_else_than_amqp_is_told() {
    for (answer, why) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "unknown type"), (b"AMQP\0\x01\0\0", "1-0-0")]
    {
        let (connection, played) = broker(json!({}), move |mut fake| {
            fake.write(answer);
            fake.drain_into(&mut Vec::new());
        });
        let error = run(connection.connect()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        drop(connection);
        played.join().unwrap();
    }
}

#[test]
fn who_does_not_answer_is_given_up_in_time() {
    let (connection, played) = broker(json!({"connect_timeout": 0.2}), |mut fake| {
        fake.drain_into(&mut Vec::new());
    });
    let error = run(connection.connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("does not answer within 0.2 s"), "{error}");
    played.join().unwrap();
}

#[test]
fn a_blocked_publisher_is_told_why() {
    let options = json!({"confirm_publish": true, "write_timeout": 0.2});
    let (connection, played) = broker(options, move |mut fake| {
        fake.welcome(0);
        let reason = "low on memory".into();
        fake.say(0, of_connection(connection::AMQPMethod::Blocked(connection::Blocked { reason })));
        let (_, next) = fake.open_channels();
        let left = AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: Default::default(),
            class_id: 0,
            method_id: 0,
        }));
        assert_eq!(next, left, "nothing was published");
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let error = run(channel.publish(vec![message("q", "x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("low on memory"), "{error}");
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn confirms_come_in_any_order_and_a_nack_is_an_error() {
    let (connection, played) = broker(confirming(), |mut fake| {
        fake.welcome(0);
        fake.open_channels();
        for _ in 1..6 {
            fake.method().expect("a publish");
        }
        fake.say(1, answer(4, false, false));
        fake.say(1, answer(2, false, true));
        fake.say(1, answer(6, true, true));
        fake.method().expect("a publish");
        fake.say(1, answer(7, false, true));
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let batch = (0..6).map(|body| message("q", &body.to_string())).collect();
    let error = run(channel.publish(batch)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotTaken);
    assert!(error.to_string().contains("message 3 of the publish to the queue 'q'"), "{error}");
    run(channel.publish(vec![message("q", "x")])).unwrap();
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn a_link_lost_before_the_confirm_is_an_error() {
    let (connection, played) = broker(confirming(), |mut fake| {
        fake.welcome(0);
        fake.open_channels();
    });
    let channel = run(connection.open_channel()).unwrap();
    let error = run(channel.publish(vec![message("q", "x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("before the broker confirmed message 0"), "{error}");
    assert!(!channel.is_open());
    played.join().unwrap();
}

fn got(fake: &mut fake::Fake, tag: u64) {
    let mut frames = Vec::new();
    encode::publish(1, 131_072, &message("q", "x"), false, &mut frames).unwrap();
    let publish = u32::from_be_bytes(frames[3..7].try_into().unwrap()) as usize + 8;
    let head = basic::AMQPMethod::GetOk(basic::GetOk {
        delivery_tag: tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "q".into(),
        message_count: 0,
    });
    let mut out = Vec::new();
    encode::method(1, AMQPClass::Basic(head), &mut out).unwrap();
    out.extend_from_slice(&frames[publish..]);
    fake.write(&out);
}

#[test]
fn what_comes_for_a_get_that_was_given_up_goes_back() {
    let (asked, go_on) = mpsc::channel::<()>();
    let (connection, played) = broker(json!({}), move |mut fake| {
        fake.welcome(0);
        fake.open_channels();
        go_on.recv().unwrap();
        got(&mut fake, 1);
        let mut expected = Vec::new();
        encode::settle(1, 1, false, Settle::Requeue, &mut expected);
        let (_, expected) = parse_frame(&expected[..]).unwrap();
        let mut frames = [fake.frame(), fake.frame()];
        frames.sort_by_key(|frame| frame.as_ref() != Some(&expected));
        assert_eq!(frames[0], Some(expected));
        got(&mut fake, 2);
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let queue = "q".into();
    let mut given_up = channel.get(&queue, false);
    let soon = Some(Instant::now() + Duration::from_millis(30));
    assert!(block_on(&mut given_up, &PollWaiter, soon).unwrap().is_none());
    drop(given_up);
    asked.send(()).unwrap();
    let taken = run(channel.get(&"q".into(), false)).unwrap().expect("a message");
    assert_eq!(&*taken.claim.tag, "2");
    assert_eq!(channel.unsettled(), ["2".into()]);
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn an_ack_is_with_the_kernel_when_it_returns() {
    let (acked, seen) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        fake.welcome(0);
        // The consumer is there after qos and consume: the next method is the ack.
        fake.serve_then(|fake| deliver(fake, "c", 1, "x"));
        let frame = fake.frame();
        acked
            .send(matches!(
                frame,
                Some(AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(_))))
            ))
            .unwrap();
        fake.swallow();
    });
    run(async {
        let channel = connection.open_channel().await?;
        channel.consume(consumer("c")).await?;
        let event = connection.next().await?;
        channel.ack(&event.delivery.claim.tag, false).await
    })
    .unwrap();
    // Nobody drives the client any more.
    assert!(seen.recv_timeout(LIMIT).unwrap());
    drop(connection);
    played.join().unwrap();
}
