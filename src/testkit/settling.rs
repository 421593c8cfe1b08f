//! Acknowledging, rejecting, giving back.

use super::Broker;
use super::broker::text;
use crate::error::{ErrorKind, Result};

/// Done is done, also after the channel was closed.
pub async fn an_acknowledged_message_is_gone(broker: &Broker) -> Result<()> {
    let queue = broker.name("ack");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, ["x"]).await?;
    let delivery = peer.channel.get(&queue, false).await?.expect("a message");
    assert_eq!(peer.size(&queue).await?, 0);
    assert_eq!(peer.channel.unsettled(), std::slice::from_ref(&delivery.claim.tag));
    peer.channel.ack(&delivery.claim.tag, false).await?;
    assert!(peer.channel.unsettled().is_empty());
    peer.close().await?;
    assert_eq!(broker.open().await?.size(&queue).await?, 0);
    Ok(())
}

/// `multiple` acknowledges all that were delivered before, too; an empty tag everything.
pub async fn acknowledging_several_at_once(broker: &Broker) -> Result<()> {
    let queue = broker.name("multiple");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..5).await?;
    peer.consume(&queue).await?;
    let mut tags = Vec::new();
    for _ in 0..5 {
        tags.push(peer.next().await?.delivery.claim.tag);
    }
    peer.channel.ack(&tags[2], true).await?;
    assert_eq!(peer.channel.unsettled(), tags[3..]);
    peer.channel.close(true).await?;
    let other = broker.open().await?;
    let first = other.channel.get(&queue, false).await?.expect("given back");
    assert_eq!(text(&first), "3");
    other.channel.get(&queue, false).await?.expect("given back");
    other.channel.ack("", true).await?;
    assert!(other.channel.unsettled().is_empty());
    other.close().await?;
    assert_eq!(broker.open().await?.empty(&queue).await?, []);
    peer.connection.close().await
}

/// A tag that is not known (any more) is let pass: after a reconnect the broker has requeued it.
pub async fn a_stale_tag_is_dropped(broker: &Broker) -> Result<()> {
    let queue = broker.name("stale");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, ["x"]).await?;
    let tag = peer.channel.get(&queue, false).await?.expect("a message").claim.tag;
    peer.channel.ack(&tag, false).await?;
    peer.channel.ack(&tag, false).await?;
    peer.channel.reject(&tag, true).await?;
    peer.channel.ack("never seen", true).await?;
    assert_eq!(peer.size(&queue).await?, 0);
    peer.close().await
}

/// To the end of its queue (by AMQP's rules: to its place), marked as redelivered.
pub async fn a_requeued_message_comes_again_marked(broker: &Broker) -> Result<()> {
    let queue = broker.name("requeue");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..2).await?;
    let first = peer.channel.get(&queue, false).await?.expect("a message");
    assert!(!first.message.redelivered);
    peer.channel.reject(&first.claim.tag, true).await?;
    assert!(peer.channel.unsettled().is_empty());
    let mut expected = [("1".to_owned(), false), ("0".to_owned(), true)];
    if broker.is_amqp() {
        expected.reverse();
    }
    assert_eq!(peer.empty(&queue).await?, expected);
    peer.close().await
}

/// Rejected for good.
pub async fn a_rejected_message_is_gone(broker: &Broker) -> Result<()> {
    let queue = broker.name("reject");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, ["x"]).await?;
    peer.consume(&queue).await?;
    let delivery = peer.next().await?.delivery;
    peer.channel.reject(&delivery.claim.tag, false).await?;
    assert!(peer.is_quiet().await);
    peer.close().await?;
    assert_eq!(broker.open().await?.size(&queue).await?, 0);
    Ok(())
}

/// `basic.recover`: what is open goes back in its order, and is delivered again.
pub async fn recovering_returns_what_is_open(broker: &Broker) -> Result<()> {
    let queue = broker.name("recover");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..4).await?;
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(peer.channel.get(&queue, false).await?.expect("a message").claim.tag);
    }
    peer.channel.ack(&tags[1], false).await?;
    peer.channel.recover().await?;
    assert!(peer.channel.unsettled().is_empty());
    let expected = [("0", true), ("2", true), ("3", false)];
    assert_eq!(peer.empty(&queue).await?, expected.map(|(text, again)| (text.to_owned(), again)));
    peer.close().await
}

/// Delivered messages come first and are marked; fetched ones follow as they were.
pub async fn closing_a_channel_restores_in_order(broker: &Broker) -> Result<()> {
    let queue = broker.name("close");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..7).await?;
    peer.channel.qos(5).await?;
    peer.consume(&queue).await?;
    peer.next().await?;
    peer.next().await?;
    peer.channel.close(true).await?;
    peer.channel.close(true).await?;
    // AMQP marks what was delivered, seen or not.
    let marked = if broker.is_amqp() { 5 } else { 2 };
    let expected: Vec<_> = (0..7).map(|n| (n.to_string(), n < marked)).collect();
    assert_eq!(broker.open().await?.empty(&queue).await?, expected);
    peer.connection.close().await
}

/// A closed channel says so; its connection goes on.
pub async fn a_closed_channel_refuses(broker: &Broker) -> Result<()> {
    let queue = broker.name("closed");
    let peer = broker.open_with(&queue).await?;
    peer.channel.close(true).await?;
    assert!(!peer.channel.is_open());
    let error = peer.send(&queue, ["x"]).await.expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = peer.consume(&queue).await.expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let next = peer.connection.open_channel().await?;
    assert_eq!(next.get(&queue, false).await?, None);
    next.close(true).await?;
    peer.connection.close().await
}
