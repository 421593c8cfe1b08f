//! Windows, and what happens to messages that have come when their consumer ends.

use super::fake::{Fake, answer_to, broker, of_connection};
use super::{consumer, deliver, delivery};
use crate::error::{Error, ErrorKind, Result};
use crate::io::task::{run, timeout_at};
use crate::model::Queue;
use crate::protocol::amqp::encode::{self, Settle};
use crate::protocol::amqp::{AMQPClass, AMQPFrame, basic, channel, connection, parse_frame, queue};
use crate::transport::{Channel, Connection, ConsumeOptions, Transaction};
use serde_json::json;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn without_acks(tag: &str) -> ConsumeOptions {
    ConsumeOptions { no_ack: true, ..consumer(tag) }
}

fn cancels(fake: &mut Fake) -> String {
    match fake.method() {
        Some((1, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))) if cancel.nowait => {
            cancel.consumer_tag.to_string()
        }
        other => panic!("no cancel: {other:?}"),
    }
}

/// The window and the tag of a new registration.
fn registers(fake: &mut Fake) -> (u16, String) {
    let Some((1, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)))) = fake.method() else {
        panic!("no qos")
    };
    assert!(!qos.global);
    fake.say(1, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
    let Some((1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))) = fake.method() else {
        panic!("no consume")
    };
    assert!(consume.nowait);
    (qos.prefetch_count, consume.consumer_tag.to_string())
}

fn gives_back(fake: &mut Fake, tag: u64) {
    let mut expected = Vec::new();
    encode::settle(1, tag, false, Settle::Requeue, &mut expected);
    let (_, expected) = parse_frame(&expected[..]).unwrap();
    assert_eq!(fake.frame(), Some(expected), "{tag} goes back");
}

/// Opens a channel and so many consumers.
fn serve(fake: &mut Fake, consumers: usize) {
    fake.welcome(0);
    let mut begun = 0;
    while begun < consumers {
        let (number, class) = fake.method().expect("a method");
        begun += usize::from(matches!(class, AMQPClass::Basic(basic::AMQPMethod::Consume(_))));
        let declared = queue::DeclareOk { queue: "q".into(), message_count: 0, consumer_count: 0 };
        let answer = match class {
            AMQPClass::Queue(_) => AMQPClass::Queue(queue::AMQPMethod::DeclareOk(declared)),
            other => answer_to(&other).expect("a simple one"),
        };
        fake.say(number, answer);
    }
}

fn cancel_of(tag: &str) -> Vec<u8> {
    let cancel = basic::Cancel { consumer_tag: tag.into(), nowait: true };
    let mut out = Vec::new();
    encode::method(1, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)), &mut out).unwrap();
    out
}

async fn next(connection: &Arc<dyn Connection>) -> Result<String> {
    let next = timeout_at(Instant::now() + super::LIMIT, connection.next());
    let event = next.await.unwrap_or_else(|| Err(Error::timeout("nothing came")))?;
    Ok(String::from_utf8_lossy(&event.delivery.message.body).into_owned())
}

async fn is_quiet(connection: &Arc<dyn Connection>) -> bool {
    timeout_at(Instant::now() + Duration::from_millis(50), connection.next()).await.is_none()
}

#[test]
fn a_window_grows_by_another_registration_when_it_is_full() {
    let (connection, played) = broker(json!({}), |mut fake| {
        serve(&mut fake, 1);
        deliver(&mut fake, "c", 1, "1");
        deliver(&mut fake, "c", 2, "2");
        assert_eq!(cancels(&mut fake), "c");
        assert_eq!(registers(&mut fake), (3, "c~kombu-2".to_owned()), "two are unsettled");
        for tag in 3..6 {
            deliver(&mut fake, "c~kombu-2", tag, &tag.to_string());
        }
        deliver(&mut fake, "stranger", 6, "for nobody");
        assert_eq!(cancels(&mut fake), "stranger", "who is not known is cancelled");
        gives_back(&mut fake, 6);
        fake.swallow();
    });
    run(async {
        let channel = connection.open_channel().await?;
        channel.qos(2).await?;
        channel.consume(consumer("c")).await?;
        channel.qos(5).await?;
        for expected in ["1", "2", "3", "4", "5"] {
            assert_eq!(next(&connection).await?, expected);
        }
        assert!(is_quiet(&connection).await);
        connection.close().await
    })
    .unwrap();
    drop(connection);
    played.join().unwrap();
}

/// To a queue that may be a quorum queue nothing goes back: it would count as a delivery.
#[test]
fn what_waits_beyond_a_lower_limit_goes_back_after_its_window_is_closed() {
    for is_declared in [true, false] {
        what_waits_beyond_a_lower_limit(is_declared);
    }
}

fn what_waits_beyond_a_lower_limit(is_declared: bool) {
    let (connection, played) = broker(json!({}), move |mut fake| {
        serve(&mut fake, 1);
        for tag in 1..4 {
            deliver(&mut fake, "c", tag, &tag.to_string());
        }
        assert_eq!(cancels(&mut fake), "c");
        if is_declared {
            gives_back(&mut fake, 2);
            gives_back(&mut fake, 3);
        } else {
            // It might be gone without a consumer, too.
            assert_eq!(registers(&mut fake), (1, "c~kombu-2".to_owned()));
        }
        fake.swallow();
    });
    run(async {
        let channel = connection.open_channel().await?;
        if is_declared {
            let queue = Queue { name: "q".into(), durable: true, ..Queue::default() };
            channel.queue_declare(&queue, false).await?;
        }
        channel.qos(3).await?;
        channel.consume(consumer("c")).await?;
        assert_eq!(next(&connection).await?, "1");
        // All of it is here.
        while connection.amqp().expect("AMQP").held().0.prefetched < 2 {
            connection.drive()?;
        }
        channel.qos(1).await?;
        assert!(is_quiet(&connection).await);
        connection.close().await
    })
    .unwrap();
    drop(connection);
    played.join().unwrap();
}

#[test]
fn what_came_before_the_broker_cancels_is_handed_out_and_then_it_is_told() {
    for no_ack in [false, true] {
        let (connection, played) = broker(json!({}), move |mut fake| {
            serve(&mut fake, 1);
            let mut bytes = Vec::new();
            for tag in 1..4 {
                bytes.extend(delivery(1, "c", tag, &tag.to_string()));
            }
            bytes.extend(cancel_of("c"));
            fake.write(&bytes);
            if !no_ack {
                let Some(AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) =
                    fake.frame()
                else {
                    panic!("no acknowledgement")
                };
                assert_eq!(ack.delivery_tag, 1);
            }
            fake.swallow();
        });
        run(async {
            let channel = connection.open_channel().await?;
            channel.consume(ConsumeOptions { no_ack, ..consumer("c") }).await?;
            for expected in ["1", "2", "3"] {
                assert_eq!(next(&connection).await?, expected, "no_ack: {no_ack}");
            }
            let error = next(&connection).await.expect_err("it is cancelled");
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert_eq!(error.consumer(), Some((channel.id(), "c")));
            if !no_ack {
                channel.ack("1", false).await?;
            }
            // Its tag is free.
            channel.consume(consumer("c")).await?;
            assert!(is_quiet(&connection).await);
            connection.close().await
        })
        .unwrap();
        drop(connection);
        played.join().unwrap();
    }
}

/// Both use up one limit; the broker has filled both windows.
#[test]
fn what_the_limit_does_not_allow_goes_back_when_a_consumer_is_cancelled() {
    for by_us in [false, true] {
        let (connection, played) = broker(json!({}), move |mut fake| {
            serve(&mut fake, 2);
            fake.write(&[delivery(1, "c", 1, "1"), delivery(1, "d", 2, "2")].concat());
            if by_us {
                let Some((1, cancel)) = fake.method() else { panic!("no cancel") };
                assert!(matches!(cancel, AMQPClass::Basic(basic::AMQPMethod::Cancel(_))));
                let consumer_tag = "d".into();
                let ok = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag });
                fake.say(1, AMQPClass::Basic(ok));
            } else {
                let Some((1, tx)) = fake.method() else { panic!("no sign that it was taken") };
                assert!(matches!(tx, AMQPClass::Tx(_)), "{tx:?}");
                fake.write(&cancel_of("d"));
            }
            gives_back(&mut fake, 2);
            fake.swallow();
        });
        run(async {
            let channel = connection.open_channel().await?;
            channel.qos(1).await?;
            channel.consume(consumer("c")).await?;
            channel.consume(consumer("d")).await?;
            assert_eq!(next(&connection).await?, "1");
            while connection.amqp().expect("AMQP").held().0.prefetched < 1 {
                connection.drive()?;
            }
            if by_us {
                let amqp = channel.amqp().expect("AMQP");
                assert!(amqp.cancel_with("d").await?.is_empty());
            } else {
                // A sign for the broker, which nobody answers.
                let sign = channel.amqp().expect("AMQP").transaction(Transaction::Commit);
                assert!(timeout_at(Instant::now(), sign).await.is_none());
                let error = next(&connection).await.expect_err("it is cancelled");
                assert_eq!(error.kind(), ErrorKind::Cancelled);
            }
            assert!(is_quiet(&connection).await);
            connection.close().await
        })
        .unwrap();
        drop(connection);
        played.join().unwrap();
    }
}

/// A channel with a consumer without acknowledgements and one with them, whose link has ended when it is
/// known to have brought three messages for the first and one for the second.
fn lost() -> (Arc<dyn Connection>, Arc<dyn Channel>) {
    let (go, gone) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        serve(&mut fake, 2);
        gone.recv().unwrap();
        let all = (1..4).map(|tag| delivery(1, "c", tag, &tag.to_string()));
        fake.write(&all.chain([delivery(1, "d", 4, "4")]).collect::<Vec<_>>().concat());
    });
    let channel = run(async {
        let channel = connection.open_channel().await?;
        channel.consume(without_acks("c")).await?;
        channel.consume(consumer("d")).await?;
        Ok::<_, Error>(channel)
    })
    .unwrap();
    go.send(()).unwrap();
    played.join().unwrap();
    let error = run(channel.queue_purge(&"q".into())).expect_err("the link is lost");
    assert_eq!(error.kind(), ErrorKind::Connection);
    (connection, channel)
}

#[test]
fn what_a_lost_link_has_brought_without_acknowledgements_is_handed_out_first() {
    let (connection, channel) = lost();
    run(async {
        for expected in ["1", "2", "3"] {
            assert_eq!(next(&connection).await?, expected);
        }
        let error = next(&connection).await.expect_err("the rest is the broker's again");
        assert_eq!(error.kind(), ErrorKind::Connection);
        Ok(())
    })
    .unwrap();
    assert!(!channel.is_open());
}

/// As a broker that is shut down does it: the last messages and the end come together.
#[test]
fn what_comes_together_with_the_end_of_the_link_is_handed_out_first() {
    for by_an_event_loop in [false, true] {
        let (go, gone) = mpsc::channel();
        let (connection, played) = broker(json!({}), move |mut fake| {
            serve(&mut fake, 1);
            let mut all: Vec<u8> =
                (1..4).flat_map(|n| delivery(1, "c", n, &n.to_string())).collect();
            let text = "CONNECTION_FORCED - the node is stopped".into();
            let close =
                connection::Close { reply_code: 320, reply_text: text, ..Default::default() };
            let close = of_connection(connection::AMQPMethod::Close(close));
            encode::method(0, close, &mut all).unwrap();
            gone.recv().unwrap();
            fake.write(&all);
            fake.swallow();
        });
        let channel = run(connection.open_channel()).unwrap();
        run(channel.consume(without_acks("c"))).unwrap();
        go.send(()).unwrap();
        let end = Instant::now() + super::LIMIT;
        while by_an_event_loop && connection.is_connected() {
            connection.drive().expect("what has come is handed out first");
            assert!(Instant::now() < end, "the end of the link was never seen");
        }
        run(async {
            for expected in ["1", "2", "3"] {
                assert_eq!(next(&connection).await?, expected);
            }
            let error = next(&connection).await.expect_err("the link has ended");
            assert!(error.to_string().contains("CONNECTION_FORCED"), "{error}");
            Ok::<_, Error>(())
        })
        .unwrap();
        drop((channel, connection));
        played.join().unwrap();
    }
}

#[test]
fn a_tag_too_long_to_be_registered_again_is_refused() {
    let (connection, played) = broker(json!({}), |mut fake| {
        serve(&mut fake, 0);
        fake.open_channels();
    });
    let tag = "t".repeat(250);
    let refused = run(async {
        let channel = connection.open_channel().await?;
        channel.consume(consumer(&tag)).await
    });
    let error = refused.expect_err("the tag is too long");
    assert!(error.to_string().contains("a consumer tag"), "{error}");
    drop(connection);
    played.join().unwrap();
}

#[test]
fn an_event_loop_gets_what_a_lost_link_has_brought_first_too() {
    let (connection, _channel) = lost();
    for _ in 0..3 {
        connection.drive().unwrap();
        assert!(connection.try_next().is_some());
    }
    assert_eq!(connection.drive().unwrap_err().kind(), ErrorKind::Connection);
    assert!(connection.try_next().is_none());
}

#[test]
fn nothing_is_handed_out_of_a_connection_that_was_closed_by_us() {
    let (connection, _channel) = lost();
    run(connection.close()).unwrap();
    assert!(connection.try_next().is_none());
}

#[test]
fn a_channel_that_the_broker_closes_leaves_what_nobody_else_has() {
    let (go, gone) = mpsc::channel();
    let (connection, played) = broker(json!({}), move |mut fake| {
        serve(&mut fake, 2);
        let close = channel::Close {
            reply_code: 404,
            reply_text: "NOT_FOUND".into(),
            class_id: 60,
            method_id: 40,
        };
        let mut bytes = [delivery(1, "c", 1, "1"), delivery(1, "d", 2, "2")].concat();
        let close = AMQPClass::Channel(channel::AMQPMethod::Close(close));
        encode::method(1, close, &mut bytes).unwrap();
        gone.recv().unwrap();
        fake.write(&bytes);
        fake.swallow();
    });
    run(async {
        let channel = connection.open_channel().await?;
        channel.consume(without_acks("c")).await?;
        channel.consume(consumer("d")).await?;
        go.send(()).unwrap();
        while channel.is_open() {
            let _ = connection.drive();
        }
        let amqp = channel.amqp().expect("AMQP");
        assert_eq!(amqp.revive().await?, ["d".into()], "something is left for the other one");
        assert_eq!(next(&connection).await?, "1");
        assert!(channel.is_open());
        connection.close().await
    })
    .unwrap();
    drop(connection);
    played.join().unwrap();
}
