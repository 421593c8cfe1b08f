//! Several connections and several threads at once.

use super::broker::{message, text};
use super::{Broker, LIMIT, Peer};
use crate::error::Result;
use crate::io::task;
use crate::model::Name;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Consumes and acknowledges until `left` is 0, together with others.
fn drain(peer: &Peer, left: &AtomicUsize) -> Result<Vec<String>> {
    let end = Instant::now() + LIMIT;
    let mut texts = Vec::new();
    while left.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < end, "{} messages did not come", left.load(Ordering::SeqCst));
        let soon = Instant::now() + Duration::from_millis(20);
        let event = task::run(async {
            match task::timeout_at(soon, peer.connection.next()).await {
                Some(Ok(event)) => {
                    peer.channel.ack(&event.delivery.claim.tag, false).await?;
                    Ok(Some(event))
                }
                Some(Err(error)) => Err(error),
                None => Ok(None),
            }
        })?;
        if let Some(event) = event {
            texts.push(text(&event.delivery));
            left.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Ok(texts)
}

/// Drains with all `peers`, each on a thread of its own; all texts as numbers, sorted.
fn drain_together(peers: &[&Peer], count: usize) -> Result<Vec<usize>> {
    let left = AtomicUsize::new(count);
    let parts: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = peers.iter().map(|peer| scope.spawn(|| drain(peer, &left))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut numbers = Vec::new();
    for part in parts {
        numbers.extend(part?.iter().map(|text| text.parse::<usize>().expect("a number")));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

async fn fill(peer: &Peer, queue: &Name, count: usize) -> Result<()> {
    peer.channel.publish((0..count).map(|number| message(queue, number)).collect()).await
}

/// Competing consumers: each message goes to one of them.
pub async fn two_connections_get_each_message_once(broker: &Broker) -> Result<()> {
    let queue = broker.name("compete");
    let (one, two) = (broker.open_with(&queue).await?, broker.open_with(&queue).await?);
    fill(&one, &queue, 200).await?;
    for peer in [&one, &two] {
        peer.channel.qos(5).await?;
        peer.consume(&queue).await?;
    }
    let numbers = drain_together(&[&one, &two], 200)?;
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(one.is_quiet().await && two.is_quiet().await);
    one.close().await?;
    two.close().await
}

/// Several threads wait on one connection; each message goes to one of them.
pub async fn threads_drain_one_connection(broker: &Broker) -> Result<()> {
    let queue = broker.name("threads");
    let peer = broker.open_with(&queue).await?;
    peer.channel.qos(10).await?;
    peer.consume(&queue).await?;
    let other = broker.open().await?;
    fill(&other, &queue, 200).await?;
    let numbers = drain_together(&[&peer; 4], 200)?;
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(peer.channel.unsettled().is_empty());
    other.close().await?;
    peer.close().await
}

/// Several threads publish through one channel while one consumes on it.
pub async fn threads_publish_through_one_channel(broker: &Broker) -> Result<()> {
    let queue = broker.name("publishers");
    let peer = broker.open_with(&queue).await?;
    peer.consume(&queue).await?;
    let left = AtomicUsize::new(100);
    let (sent, received) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..4)
            .map(|first| {
                let (peer, queue) = (&peer, &queue);
                scope.spawn(move || task::run(peer.send(queue, (first..100).step_by(4))))
            })
            .collect();
        let received = drain(&peer, &left);
        let sent: Vec<Result<()>> =
            publishers.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        (sent, received)
    });
    sent.into_iter().collect::<Result<()>>()?;
    let mut numbers: Vec<usize> =
        received?.iter().map(|text| text.parse().expect("a number")).collect();
    for first in 0..4 {
        let own: Vec<_> = numbers.iter().filter(|number| **number % 4 == first).collect();
        let ordered = own.is_sorted() || !broker.capability().ordered;
        assert!(ordered, "each publisher's order is kept: {own:?}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    peer.close().await
}
