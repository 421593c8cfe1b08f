//! What nobody waits for is told once.

use super::fake::{Fake, answer_to, broker};
use super::{answer, consumer, message};
use crate::error::ErrorKind;
use crate::io::task::run;
use crate::protocol::amqp::{AMQPClass, basic, channel};
use crate::transport::{Channel, Connection};
use crate::transports::amqp::board::Board;
use crate::transports::amqp::recent::MOST;
use serde_json::json;
use std::sync::Arc;

fn refusal() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 404,
        reply_text: "NOT_FOUND - no exchange".into(),
        class_id: 60,
        method_id: 40,
    }))
}

/// Closes the channel 1 for what is published on it, before it answers on another one.
fn refuse(mut fake: Fake) {
    fake.welcome(0);
    let (number, class) = fake.open_channels();
    assert!(matches!(class, AMQPClass::Basic(basic::AMQPMethod::Publish(_))), "{class:?}");
    fake.say(number, refusal());
    fake.swallow();
}

/// A connection, and a channel that the broker has just closed with nobody waiting.
fn refused(connection: &dyn Connection) -> Arc<dyn Channel> {
    let channel = run(connection.open_channel()).unwrap();
    run(channel.publish(vec![message("q", "x")])).unwrap();
    run(connection.open_channel()).unwrap(); // answered later
    assert!(!channel.is_open());
    channel
}

#[test]
fn the_end_of_a_channel_is_not_told_again_to_who_drains() {
    let (connection, played) = broker(json!({}), refuse);
    let channel = refused(&*connection);
    let error = run(channel.qos(1)).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Closed, 404), "{error}");
    connection.drive().unwrap();
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn who_drains_is_told_once() {
    let (connection, played) = broker(json!({}), refuse);
    let channel = refused(&*connection);
    let error = connection.drive().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404), "{error}");
    connection.drive().unwrap();
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn a_cancelled_consumer_is_named_once_in_order() {
    let (connection, played) = broker(json!({}), |mut fake| {
        fake.welcome(0);
        let mut consumers = 0;
        while consumers < 2 {
            let (number, class) = fake.method().expect("a method");
            consumers +=
                usize::from(matches!(class, AMQPClass::Basic(basic::AMQPMethod::Consume(_))));
            fake.say(number, answer_to(&class).expect("an answer"));
        }
        for tag in ["b", "a", "b", "a"] {
            let cancel = basic::Cancel { consumer_tag: tag.into(), nowait: true };
            fake.say(1, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
        }
        fake.say(1, answer(1, false, true));
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    for tag in ["a", "b"] {
        run(channel.consume(consumer(tag))).unwrap();
    }
    for tag in ["b", "a"] {
        let error = run(connection.next()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(error.consumer(), Some((channel.id(), tag)), "{error}");
    }
    run(connection.open_channel()).unwrap(); // everything before it has come
    connection.drive().unwrap();
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn those_that_nobody_asks_for_are_bounded() {
    let board = Board::new(Arc::default(), Arc::default());
    for number in 0..MOST as u64 + 7 {
        board.tell(Some(number), crate::error::Error::channel(number.to_string()));
    }
    board.told(8);
    let left: Vec<String> =
        std::iter::from_fn(|| board.incident()).map(|error| error.to_string()).collect();
    assert_eq!((left.len(), &*left[0], &*left[1]), (MOST - 1, "7", "9"));
}
