//! Consumers on a RabbitMQ node whose limits change, and who are slower than the broker.
#![cfg(feature = "amqp")]

mod rabbit;

use kombu_rs::error::{ErrorKind, Result};
use kombu_rs::io::task;
use kombu_rs::model::Name;
use kombu_rs::transport::{Channel, Connection, Event};
use rabbit::*;
use serde_json::json;
use std::sync::Arc;

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
