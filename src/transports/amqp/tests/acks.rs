//! Acknowledgements that are done at once, and those that are not.

use super::fake::{Fake, broker};
use super::{LIMIT, consumer, deliver, message};
use crate::error::ErrorKind;
use crate::io::task::{PollWaiter, block_on, run};
use crate::protocol::amqp::{AMQPClass, basic, channel};
use crate::transport::{Channel, Connection};
use serde_json::json;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn ack(delivery_tag: u64) -> (u16, AMQPClass) {
    let ack = basic::Ack { delivery_tag, multiple: false };
    (1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))
}

/// Opens a channel with a consumer that has got the message 1.
fn with_a_message(connection: &dyn Connection) -> Arc<dyn Channel> {
    let channel = run(connection.open_channel()).unwrap();
    run(channel.consume(consumer("c"))).unwrap();
    let event = run(connection.next()).unwrap();
    assert_eq!(&*event.delivery.claim.tag, "1");
    channel
}

fn serve(fake: &mut Fake) {
    fake.welcome(0);
    fake.serve_then(|fake| deliver(fake, "c", 1, "x"));
}

#[test]
fn one_that_the_kernel_takes_is_done_at_once() {
    let (connection, played) = broker(json!({}), |mut fake| {
        serve(&mut fake);
        assert_eq!(fake.method(), Some(ack(1)));
        // Neither what is unknown nor what was acknowledged before is sent: RabbitMQ would close the
        // channel.
        let (_, next) = fake.method().expect("a method");
        assert!(matches!(next, AMQPClass::Channel(_)), "{next:?}");
        fake.say(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
        fake.swallow();
    });
    let channel = with_a_message(&*connection);
    let amqp = channel.amqp().expect("it speaks AMQP");
    assert!(amqp.begin_ack(1).is_none());
    assert_eq!(channel.credit().0, 0);
    for tag in [1, 2, 0, u64::MAX] {
        run(amqp.begin_ack(tag).expect("nothing to send")).unwrap();
    }
    run(channel.close(true)).unwrap();
    assert!(run(amqp.begin_ack(1).expect("nothing to send on")).is_err());
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn one_that_the_kernel_does_not_take_is_waited_for() {
    let (read, wait) = mpsc::channel::<()>();
    let (connection, played) = broker(json!({}), move |mut fake| {
        serve(&mut fake);
        wait.recv().unwrap();
        fake.method().expect("the publish");
        assert_eq!(fake.method(), Some(ack(1)));
        fake.swallow();
    });
    let channel = with_a_message(&*connection);
    let mut large = channel.publish(vec![message("q", &"x".repeat(16 << 20))]);
    let soon = Some(Instant::now() + Duration::from_millis(30));
    let error = block_on(&mut large, &PollWaiter, soon).unwrap().expect("it knows").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "nobody reads: {error}");
    let amqp = channel.amqp().expect("it speaks AMQP");
    let mut rest = amqp.begin_ack(1).expect("something is left");
    let soon = Some(Instant::now() + Duration::from_millis(30));
    assert!(block_on(&mut rest, &PollWaiter, soon).unwrap().is_none(), "nobody reads");
    read.send(()).unwrap();
    let end = Some(Instant::now() + LIMIT);
    block_on(&mut rest, &PollWaiter, end).unwrap().expect("in time").unwrap();
    drop((large, rest));
    drop((channel, connection));
    played.join().unwrap();
}

#[test]
fn one_on_a_lost_link_is_dropped() {
    let (connection, played) = broker(json!({}), |mut fake| serve(&mut fake));
    let channel = with_a_message(&*connection);
    played.join().unwrap();
    run(connection.next()).unwrap_err();
    let amqp = channel.amqp().expect("it speaks AMQP");
    run(amqp.begin_ack(1).expect("nothing to send on")).unwrap();
}
