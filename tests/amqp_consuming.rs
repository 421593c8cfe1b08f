//! Consumers on a RabbitMQ node whose limits change, and who are slower than the broker.
#![cfg(feature = "amqp")]

mod rabbit;

use kombu_rs::error::{ErrorKind, Result};
use kombu_rs::io::task;
use kombu_rs::model::{Name, Queue};
use kombu_rs::transport::{Channel, Connection, Event};
use rabbit::*;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

const CLASSIC: &str = r#"{"x-single-active-consumer": true}"#;
const QUORUM: &str = r#"{"x-single-active-consumer": true, "x-queue-type": "quorum"}"#;

async fn fill(
    channel: &Arc<dyn Channel>,
    queue: &Name,
    numbers: std::ops::Range<u32>,
) -> Result<()> {
    channel.publish(numbers.map(|n| message(queue, n.to_string())).collect()).await
}

/// The numbers that the next events carry.
async fn numbers(connection: &Arc<dyn Connection>, count: usize) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(text(&next(connection).await?).parse().expect("a number"));
    }
    Ok(numbers)
}

#[test]
fn a_single_active_consumer_stays_active_when_its_limit_changes() {
    task::run(async {
        for arguments in [CLASSIC, QUORUM] {
            let (ours, theirs) = (connect(), connect());
            let (channel, other) = (ours.open_channel().await?, theirs.open_channel().await?);
            let queue = unique("single");
            declare(&channel, &queue, arguments).await?;
            channel.qos(2).await?;
            consume(&channel, &queue).await?;
            consume(&other, &queue).await?;
            fill(&channel, &queue, 0..3000).await?;
            let mut seen = numbers(&ours, 2).await?;
            assert!(is_quiet(&ours).await, "the limit is held");
            // Within the stand-in's window, then beyond it, then back.
            for (limit, more) in [(3, 1), (40, 37), (1500, 1460), (1, 0), (1502, 2)] {
                channel.qos(limit).await?;
                seen.extend(numbers(&ours, more).await?);
                assert!(is_quiet(&ours).await, "limit {limit} with {arguments}");
                assert!(is_quiet(&theirs).await, "limit {limit} with {arguments}");
            }
            assert_eq!(seen, (0..1502).collect::<Vec<_>>(), "in order, with {arguments}");
            // What we hold beyond the limit goes to the other one, when we are gone.
            channel.cancel(&queue).await?;
            channel.ack("", true).await?;
            let mut left = numbers(&theirs, 1498).await?;
            left.sort_unstable();
            assert_eq!(left, (1502..3000).collect::<Vec<_>>(), "each once, with {arguments}");
            assert!(is_quiet(&ours).await);
            channel.queue_delete(&queue, false, false).await?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_a_lost_consumer_held_goes_to_the_next_in_line() {
    task::run(async {
        for arguments in [CLASSIC, QUORUM] {
            let (ours, theirs) = (connect(), connect());
            let (channel, other) = (ours.open_channel().await?, theirs.open_channel().await?);
            let queue = unique("line");
            declare(&channel, &queue, arguments).await?;
            channel.qos(1).await?;
            consume(&channel, &queue).await?;
            consume(&other, &queue).await?;
            fill(&channel, &queue, 0..100).await?;
            channel.qos(2).await?;
            assert_eq!(numbers(&ours, 2).await?, [0, 1]);
            channel.close(false).await?;
            assert_eq!(numbers(&theirs, 100).await?, (0..100).collect::<Vec<_>>());
            other.queue_delete(&queue, false, false).await?;
        }
        Ok(())
    })
    .unwrap();
}

/// With a queue whose consumers stand in line, several are cancelled; it is told once.
#[test]
fn a_single_active_consumer_whose_queue_is_deleted_is_told_once() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("deleted");
        declare(&channel, &queue, CLASSIC).await?;
        channel.qos(2).await?;
        consume(&channel, &queue).await?;
        connect().open_channel().await?.queue_delete(&queue, false, false).await?;
        let error = next(&connection).await.expect_err("the queue is gone");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(is_quiet(&connection).await && channel.is_open());
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_limit_of_an_exclusive_consumer_grows() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("exclusive");
        declare(&channel, &queue, "{}").await?;
        channel.qos(1).await?;
        channel.amqp().expect("it speaks AMQP").consume_with(consumer(&queue, "{}"), true).await?;
        fill(&channel, &queue, 0..50).await?;
        let mut seen = numbers(&connection, 1).await?;
        channel.qos(50).await?;
        seen.extend(numbers(&connection, 49).await?);
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        let other = connection.open_channel().await?;
        let error = consume(&other, &queue).await.expect_err("it is exclusive");
        assert_eq!(error.code(), 403);
        assert!(channel.is_open());
        Ok(())
    })
    .unwrap();
}

/// A stream whose consumer was registered anew would begin again, or leave something out.
#[test]
fn the_limit_of_a_streams_consumer_grows() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("stream");
        declare(&channel, &queue, r#"{"x-queue-type": "stream"}"#).await?;
        fill(&channel, &queue, 0..10).await?;
        for (arguments, first) in [(r#"{"x-stream-offset": "first"}"#, 0), ("{}", 10)] {
            channel.qos(2).await?;
            channel.consume(consumer(&queue, arguments)).await?;
            if first == 10 {
                fill(&channel, &queue, 10..20).await?;
            }
            let mut seen = numbers(&connection, 2).await?;
            assert!(is_quiet(&connection).await, "the limit is held");
            channel.qos(20).await?;
            seen.extend(numbers(&connection, 8).await?);
            assert_eq!(seen, (first..first + 10).collect::<Vec<_>>());
            assert!(is_quiet(&connection).await);
            channel.ack("", true).await?;
            channel.cancel(&queue).await?;
        }
        channel.queue_delete(&queue, false, false).await.map(drop)
    })
    .unwrap();
}

/// More than the link may bring unasked; meanwhile others get their answers over it.
#[test]
fn a_slow_consumer_without_acknowledgements_gets_everything() {
    const COUNT: usize = 400;
    task::run(async {
        let connection = connect_with(json!({"confirm_publish": true, "heartbeat": 1}));
        let channel = connection.open_channel().await?;
        let (queue, other) = (unique("full"), unique("other"));
        declare(&channel, &queue, "{}").await?;
        declare(&channel, &other, "{}").await?;
        let publisher = connect().open_channel().await?;
        for n in 0..COUNT {
            let mut body = format!("{n} ").into_bytes();
            body.resize(100_000, b'x');
            publisher.publish(vec![message(&queue, body)]).await?;
        }
        let mut options = consumer(&queue, "{}");
        options.no_ack = true;
        channel.consume(options).await?;
        let second = connection.open_channel().await?;
        for _ in 0..20 {
            second.publish(vec![message(&other, "confirmed")]).await?;
        }
        let number = |event: &Event| text(event).split(' ').next().map(str::to_owned);
        for n in 0..COUNT {
            assert_eq!(number(&next(&connection).await?), Some(n.to_string()));
        }
        assert_eq!(second.queue_purge(&other).await?, 20);
        Ok(())
    })
    .unwrap();
}

/// How many messages of a queue are with nobody.
async fn left(channel: &Arc<dyn Channel>, queue: &Name) -> Result<u64> {
    let passive = Queue { name: queue.clone(), durable: true, ..Queue::default() };
    Ok(channel.queue_declare(&passive, true).await?.messages)
}

/// Waits until that holds of the number of messages that are with nobody.
async fn until_left(channel: &Arc<dyn Channel>, queue: &Name, what: u64) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match left(channel, queue).await? {
            now if now == what => return Ok(()),
            now => assert!(Instant::now() < end, "{now} are left, not {what}"),
        }
    }
}

/// What is beyond the limit is with the broker, for others: nothing hides here.
#[test]
fn a_consumer_holds_no_more_than_its_limit_however_that_changes() {
    task::run(async {
        for arguments in ["{}", r#"{"x-queue-type": "quorum"}"#] {
            let connection = connect();
            let (channel, other) =
                (connection.open_channel().await?, connect().open_channel().await?);
            let queue = unique("held");
            declare(&channel, &queue, arguments).await?;
            fill(&channel, &queue, 0..200).await?;
            channel.qos(1).await?;
            consume(&channel, &queue).await?;
            let mut events = vec![next(&connection).await?];
            for limit in [2, 3, 4, 20, 21, 50] {
                channel.qos(limit).await?;
                while events.len() < limit as usize {
                    events.push(next(&connection).await?);
                }
                assert!(is_quiet(&connection).await);
                until_left(&other, &queue, 200 - u64::from(limit)).await?;
            }
            for limit in (1..50).rev() {
                channel.qos(limit).await?;
            }
            for event in &events[..49] {
                channel.ack(&event.delivery.claim.tag, false).await?;
            }
            assert!(is_quiet(&connection).await);
            until_left(&other, &queue, 150).await?;
            // One after the other, in order.
            for number in 50..80 {
                let last = events.last().expect("one");
                channel.ack(&last.delivery.claim.tag, false).await?;
                events.push(next(&connection).await?);
                assert_eq!(text(events.last().expect("one")), number.to_string());
            }
            until_left(&other, &queue, 120).await?;
            channel.queue_delete(&queue, false, false).await?;
        }
        Ok(())
    })
    .unwrap();
}

/// What is here and not taken yet when the limit falls; a quorum queue would lose its order.
#[test]
fn what_waits_beyond_a_lower_limit_is_for_others() {
    task::run(async {
        for (arguments, beyond) in [("{}", 0), (r#"{"x-queue-type": "quorum"}"#, 37)] {
            let connection = connect();
            let (channel, other) =
                (connection.open_channel().await?, connect().open_channel().await?);
            let queue = unique("shrunk");
            declare(&channel, &queue, arguments).await?;
            fill(&channel, &queue, 0..100).await?;
            channel.qos(40).await?;
            consume(&channel, &queue).await?;
            let first = next(&connection).await?;
            until_left(&other, &queue, 60).await?;
            channel.qos(3).await?;
            let mut seen = numbers(&connection, 2).await?;
            assert_eq!(seen, [1, 2]);
            until_left(&other, &queue, 97 - beyond).await?;
            assert!(is_quiet(&connection).await);
            channel.ack(&first.delivery.claim.tag, false).await?;
            seen.extend(numbers(&connection, 1).await?);
            assert_eq!(seen, [1, 2, 3], "in order, with {arguments}");
            channel.queue_delete(&queue, false, false).await?;
        }
        Ok(())
    })
    .unwrap();
}

/// Nothing is settled then that could show that it may go on.
#[test]
fn a_paused_consumer_goes_on_after_a_recovery() {
    task::run(async {
        let connection = connect();
        let (channel, other) = (connection.open_channel().await?, connect().open_channel().await?);
        let queue = unique("recovered");
        declare(&channel, &queue, "{}").await?;
        fill(&channel, &queue, 0..20).await?;
        channel.qos(4).await?;
        consume(&channel, &queue).await?;
        let first = next(&connection).await?;
        assert_eq!(numbers(&connection, 3).await?, [1, 2, 3]);
        channel.qos(3).await?;
        channel.ack(&first.delivery.claim.tag, false).await?;
        until_left(&other, &queue, 16).await?;
        channel.recover().await?;
        assert_eq!(numbers(&connection, 3).await?, [1, 2, 3]);
        channel.queue_delete(&queue, false, false).await?;
        Ok(())
    })
    .unwrap();
}

/// A queue that goes with its last consumer would be gone between two registrations.
#[test]
fn an_auto_delete_queue_outlives_a_change_of_the_limit() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("auto");
        let declaration =
            Queue { name: queue.clone(), auto_delete: true, durable: true, ..Queue::default() };
        channel.queue_declare(&declaration, false).await?;
        fill(&channel, &queue, 0..20).await?;
        channel.qos(1).await?;
        consume(&channel, &queue).await?;
        let mut seen = numbers(&connection, 1).await?;
        for (limit, more) in [(10, 9), (1, 0), (15, 5)] {
            channel.qos(limit).await?;
            seen.extend(numbers(&connection, more).await?);
            assert!(is_quiet(&connection).await);
        }
        assert_eq!(seen, (0..15).collect::<Vec<_>>());
        assert!(channel.is_open());
        Ok(())
    })
    .unwrap();
}

#[test]
fn limits_of_consumers_and_the_one_that_they_share_both_hold() {
    task::run(async {
        for arguments in ["{}", r#"{"x-queue-type": "quorum"}"#] {
            let connection = connect();
            let channel = connection.open_channel().await?;
            let amqp = channel.amqp().expect("it speaks AMQP");
            let queues = [unique("one"), unique("two")];
            for (queue, limit) in queues.iter().zip([2, 3]) {
                declare(&channel, queue, arguments).await?;
                fill(&channel, queue, 0..20).await?;
                amqp.qos_of_each(limit).await?;
                consume(&channel, queue).await?;
            }
            let mut events = Vec::new();
            let count = |events: &[Event]| {
                queues.each_ref().map(|queue| {
                    events.iter().filter(|event| event.delivery.claim.queue == *queue).count()
                })
            };
            for _ in 0..6 {
                events.push(next(&connection).await?);
            }
            assert!(is_quiet(&connection).await);
            assert_eq!(
                count(&events),
                [3, 3],
                "the first follows a higher limit, with {arguments}"
            );
            amqp.qos_of_each(1).await?;
            for event in events.drain(..) {
                channel.ack(&event.delivery.claim.tag, false).await?;
            }
            for _ in 0..5 {
                events.push(next(&connection).await?);
            }
            assert!(is_quiet(&connection).await);
            assert_eq!(count(&events), [2, 3], "but each keeps what it began with");
            channel.qos(1).await?;
            for event in &events[1..] {
                channel.ack(&event.delivery.claim.tag, false).await?;
            }
            assert!(is_quiet(&connection).await, "one is unsettled, as many as they share");
            channel.ack(&events[0].delivery.claim.tag, false).await?;
            next(&connection).await?;
            assert!(is_quiet(&connection).await);
            for queue in &queues {
                channel.queue_delete(queue, false, false).await?;
            }
        }
        Ok(())
    })
    .unwrap();
}
