//! Consumers: order, credit, turns.

use super::Broker;
use super::broker::{message, text};
use crate::error::{ErrorKind, Result};
use crate::io::task;
use crate::model::Name;
use std::time::{Duration, Instant};

/// First in, first out.
pub async fn messages_come_in_order(broker: &Broker) -> Result<()> {
    let queue = broker.name("order");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..50).await?;
    peer.consume(&queue).await?;
    let expected: Vec<String> = (0..50).map(|n: u8| n.to_string()).collect();
    assert_eq!(peer.drain(50).await?, expected);
    assert!(peer.is_quiet().await);
    peer.close().await
}

/// As on Kombu's virtual transports, 0 is more urgent than 9.
pub async fn more_urgent_messages_come_first(broker: &Broker) -> Result<()> {
    let queue = broker.name("priority");
    let peer = broker.open_with(&queue).await?;
    for priority in [9, 3, 0, 6, 9, 0] {
        let mut urgent = message(&queue, priority);
        urgent.properties.priority = Some(priority);
        peer.channel.publish(vec![urgent]).await?;
    }
    peer.consume(&queue).await?;
    assert_eq!(peer.drain(6).await?, ["0", "0", "3", "6", "9", "9"]);
    peer.close().await
}

/// What is consumed with `no_ack` is done.
pub async fn without_ack_nothing_is_held(broker: &Broker) -> Result<()> {
    let queue = broker.name("no ack");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..3).await?;
    peer.consume_as(&queue, &"tag".into(), true).await?;
    peer.channel.qos(1).await?;
    for expected in ["0", "1", "2"] {
        let event = peer.next().await?;
        assert_eq!((text(&event.delivery).as_str(), &*event.consumer_tag), (expected, "tag"));
        assert!(event.delivery.settled);
    }
    assert!(peer.channel.unsettled().is_empty());
    peer.channel.close(true).await?;
    assert_eq!(broker.open().await?.size(&queue).await?, 0);
    peer.connection.close().await
}

/// At most as many unsettled messages as the limit says; settling one makes room for one.
pub async fn a_prefetch_limit_holds_messages_back(broker: &Broker) -> Result<()> {
    let queue = broker.name("prefetch");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..6).await?;
    peer.channel.qos(3).await?;
    peer.consume(&queue).await?;
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(peer.next().await?.delivery.claim.tag);
    }
    assert!(peer.is_quiet().await);
    assert_eq!(peer.channel.credit(), (3, 3));
    assert_eq!(peer.size(&queue).await?, 3, "what there is no credit for stays with the broker");
    peer.channel.ack(&tags[1], false).await?;
    peer.next().await?;
    assert!(peer.is_quiet().await);
    peer.channel.reject(&tags[0], false).await?;
    peer.next().await?;
    assert!(peer.is_quiet().await);
    peer.channel.qos(0).await?;
    peer.next().await?;
    peer.channel.ack("", true).await?;
    peer.close().await
}

/// Messages fetched ahead go back to where they were, unmarked.
pub async fn cancelling_returns_unseen_messages(broker: &Broker) -> Result<()> {
    let queue = broker.name("cancel");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..6).await?;
    peer.channel.qos(5).await?;
    peer.consume(&queue).await?;
    let first = peer.next().await?.delivery;
    peer.channel.cancel(&queue).await?;
    assert!(peer.is_quiet().await);
    let rest = broker.open().await?.empty(&queue).await?;
    // AMQP marks what was delivered, seen or not.
    let expected: Vec<_> = (1..6).map(|n| (n.to_string(), broker.is_amqp() && n < 5)).collect();
    assert_eq!(rest, expected);
    peer.channel.ack(&first.claim.tag, false).await?;
    peer.channel.cancel("unknown").await?;
    peer.close().await
}

/// `channel.flow`.
pub async fn a_paused_channel_gets_nothing(broker: &Broker) -> Result<()> {
    let queue = broker.name("flow");
    let peer = broker.open_with(&queue).await?;
    peer.channel.flow(false).await?;
    peer.consume(&queue).await?;
    peer.send(&queue, ["x"]).await?;
    assert!(peer.is_quiet().await);
    peer.channel.flow(true).await?;
    assert_eq!(peer.drain(1).await?, ["x"]);
    peer.close().await
}

/// While all queues have messages, each is served once in a round; with and without a prefetch
/// limit.
pub async fn no_ready_queue_waits_longer_than_a_round(broker: &Broker) -> Result<()> {
    for prefetch in [0, 1, 5, 100] {
        let queues = ["a", "b", "c"].map(|name| broker.name(&format!("fair {name} {prefetch}")));
        let peer = broker.open().await?;
        for queue in &queues {
            peer.declare(queue).await?;
            peer.send(queue, 0..10).await?;
        }
        peer.channel.qos(prefetch).await?;
        for queue in &queues {
            peer.consume(queue).await?;
        }
        let mut served: Vec<Name> = Vec::new();
        let window = if prefetch == 0 { 10 } else { prefetch as usize };
        for _ in 0..30 {
            if broker.is_amqp() {
                // It sends by itself what the limit allows; ready is what has arrived.
                for queue in &queues {
                    let gone = served.iter().filter(|name| *name == queue).count() + window;
                    peer.wait_for_size(queue, 10u64.saturating_sub(gone as u64)).await?;
                }
            }
            let delivery = peer.next().await?.delivery;
            peer.channel.ack(&delivery.claim.tag, false).await?;
            served.push(delivery.claim.queue);
        }
        for round in served.windows(3) {
            let all = queues.iter().all(|queue| round.contains(queue));
            assert!(all, "with prefetch {prefetch}: {served:?}");
        }
        peer.close().await?;
    }
    Ok(())
}

/// Channels of one connection are served in rotation too.
pub async fn channels_take_turns(broker: &Broker) -> Result<()> {
    let (left, right) = (broker.name("left"), broker.name("right"));
    let peer = broker.open().await?;
    let other = peer.connection.open_channel().await?;
    peer.declare(&left).await?;
    peer.declare(&right).await?;
    peer.send(&left, 0..10).await?;
    peer.send(&right, 0..10).await?;
    peer.consume(&left).await?;
    let second = super::Peer { connection: peer.connection.clone(), channel: other };
    second.consume(&right).await?;
    if broker.is_amqp() {
        peer.wait_for_size(&left, 0).await?;
        second.wait_for_size(&right, 0).await?;
    }
    let mut channels = Vec::new();
    for _ in 0..20 {
        let event = peer.next().await?;
        let owner = if event.channel == peer.channel.id() { &peer } else { &second };
        owner.channel.ack(&event.delivery.claim.tag, false).await?;
        channels.push(event.channel);
    }
    assert!(channels.windows(2).all(|pair| pair[0] != pair[1]), "{channels:?}");
    second.channel.close(true).await?;
    peer.close().await
}

/// Several consumers of one queue on one channel share its messages evenly.
pub async fn consumers_of_a_queue_take_turns(broker: &Broker) -> Result<()> {
    let queue = broker.name("shared");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..6).await?;
    peer.consume_as(&queue, &"one".into(), false).await?;
    peer.consume_as(&queue, &"two".into(), false).await?;
    if broker.is_amqp() {
        // The first has got what was there before the second came.
        peer.drain(6).await?;
        peer.send(&queue, 0..6).await?;
        peer.wait_for_size(&queue, 0).await?;
    }
    let mut tags = Vec::new();
    for _ in 0..6 {
        let event = peer.next().await?;
        peer.channel.ack(&event.delivery.claim.tag, false).await?;
        tags.push(event.consumer_tag);
    }
    assert!(tags.windows(2).all(|pair| pair[0] != pair[1]), "{tags:?}");
    peer.channel.cancel("one").await?;
    peer.send(&queue, ["last"]).await?;
    assert_eq!(&*peer.next().await?.consumer_tag, "two");
    peer.close().await
}

/// Giving up a wait keeps what comes afterwards, and what was on its way.
pub async fn a_wait_that_was_given_up_loses_nothing(broker: &Broker) -> Result<()> {
    let queue = broker.name("timeout");
    let peer = broker.open_with(&queue).await?;
    let other = broker.open().await?;
    peer.consume(&queue).await?;
    assert_eq!(peer.channel.get(&queue, false).await?, None);
    assert!(peer.is_quiet().await);
    for number in 0..20 {
        other.send(&queue, [number]).await?;
        // Given up at all stages of fetching.
        let soon = Instant::now() + Duration::from_micros(number * 50);
        let text = match task::timeout_at(soon, peer.connection.next()).await {
            Some(event) => {
                let event = event?;
                peer.channel.ack(&event.delivery.claim.tag, false).await?;
                text(&event.delivery)
            }
            None => peer.drain(1).await?.remove(0),
        };
        assert_eq!(text, number.to_string());
    }
    other.close().await?;
    peer.close().await
}

/// A second consumer under the same tag is refused.
pub async fn a_consumer_tag_is_used_once(broker: &Broker) -> Result<()> {
    let queue = broker.name("tag");
    let peer = broker.open_with(&queue).await?;
    peer.consume(&queue).await?;
    let error = peer.consume(&queue).await.expect_err("the tag is taken");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 530));
    assert!(error.to_string().contains(&*queue), "{error}");
    peer.close().await
}
