//! How long a broker may keep us waiting, and what is said then.

use super::fake::{self, Fake, broker, confirming, of_connection};
use super::{LIMIT, answer, message};
use crate::error::{Error, ErrorKind};
use crate::io::task::{PollWaiter, Wants, block_on, poll_with, run};
use crate::model::Queue;
use crate::protocol::amqp::connection;
use crate::transport::Channel;
use serde_json::json;
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::time::{Duration, Instant};

fn block(fake: &mut Fake) {
    let reason = "low on disk".into();
    fake.say(0, of_connection(connection::AMQPMethod::Blocked(connection::Blocked { reason })));
}

fn publish(channel: &Arc<dyn Channel>) -> Error {
    run(channel.publish(vec![message("q", "x")])).unwrap_err()
}

#[test]
fn a_publisher_goes_on_when_it_is_unblocked() {
    let (waits, heard) = mpsc::channel::<()>();
    let (connection, played) = broker(confirming(), move |mut fake| {
        fake.welcome(0);
        block(&mut fake);
        for _ in ["channel.open", "confirm.select"] {
            let (number, class) = fake.method().expect("a method");
            fake.say(number, fake::answer_to(&class).expect("an answer"));
        }
        heard.recv().unwrap();
        fake.say(0, of_connection(connection::AMQPMethod::Unblocked(connection::Unblocked {})));
        fake.method().expect("the publish");
        fake.say(1, answer(1, false, true));
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let mut publish = channel.publish(vec![message("q", "x")]);
    let polled = poll_with(publish.as_mut(), Waker::noop(), &mut Wants::default());
    assert!(polled.is_pending(), "it is held back");
    waits.send(()).unwrap();
    let end = Some(Instant::now() + LIMIT);
    block_on(&mut publish, &PollWaiter, end).unwrap().expect("in time").unwrap();
    drop(publish);
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn a_blocked_publish_without_a_limit_of_its_own_has_one() {
    let options = json!({"confirm_publish": true, "publish_timeout": 0.2});
    let (connection, played) = broker(options, |mut fake| {
        fake.welcome(0);
        block(&mut fake);
        fake.open_channels();
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let error = publish(&channel);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("takes no publishes: low on disk"), "{error}");
    // The broker reads nothing: other methods have no answer, either.
    let error = run(channel.queue_declare(&Queue::default(), false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("low on disk"), "{error}");
    run(channel.close(false)).unwrap(); // does not wait
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn a_confirm_that_does_not_come_is_told_in_time() {
    let options = json!({"confirm_publish": true, "publish_timeout": 0.2});
    let (connection, played) = broker(options, |mut fake| {
        fake.welcome(0);
        fake.open_channels();
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let error = publish(&channel);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("publish_timeout"), "{error}");
    assert!(channel.is_open() && connection.is_connected(), "the link is as good as before");
    drop((channel, connection));
    played.join().unwrap();
}

/// Its own limit counts, be it longer than `publish_timeout`; and the error says why all the same.
#[test]
fn the_limit_of_the_caller_wins() {
    let options = json!({"confirm_publish": true, "publish_timeout": 0.01});
    let (connection, played) = broker(options, |mut fake| {
        fake.welcome(0);
        fake.open_channels();
        std::thread::sleep(Duration::from_millis(100));
        fake.say(1, answer(1, false, true));
        block(&mut fake);
        fake.open_channels();
        fake.swallow();
    });
    let channel = run(connection.open_channel()).unwrap();
    let end = Some(Instant::now() + LIMIT);
    let mut first = channel.publish(vec![message("q", "x")]);
    block_on(&mut first, &PollWaiter, end).unwrap().expect("in time").unwrap();
    drop(first);
    let mut second = channel.publish(vec![message("q", "x")]);
    let soon = Some(Instant::now() + Duration::from_millis(100));
    let error = block_on(&mut second, &PollWaiter, soon).unwrap().expect("told").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    drop(second);
    drop((channel, connection));
    played.join().unwrap();
}
