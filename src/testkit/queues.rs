//! Declaring, counting, purging and deleting queues; batches.

use super::Broker;
use super::broker::{messages, text};
use crate::error::{ErrorKind, Result};
use crate::model::Queue;

/// Messages of one call keep their order in every queue.
pub async fn a_batch_keeps_its_order(broker: &Broker) -> Result<()> {
    let queues = [broker.name("batch a"), broker.name("batch b")];
    let peer = broker.open().await?;
    let mut batch = Vec::new();
    for queue in &queues {
        peer.declare(queue).await?;
    }
    for number in 0..250 {
        // Runs of different lengths for the same queue.
        batch.extend(messages(&queues[usize::from(number % 7 < 3)], [number]));
    }
    peer.channel.publish(batch).await?;
    peer.channel.publish(Vec::new()).await?;
    for (place, queue) in queues.iter().enumerate() {
        let expected: Vec<_> = (0..250)
            .filter(|number| usize::from(number % 7 < 3) == place)
            .map(|number: u16| (number.to_string(), false))
            .collect();
        assert_eq!(peer.size(queue).await?, expected.len() as u64);
        assert_eq!(peer.empty(queue).await?, expected);
    }
    peer.close().await
}

/// `queue.declare-ok` counts ready messages; declaring again keeps them.
pub async fn declaring_tells_the_size(broker: &Broker) -> Result<()> {
    let name = broker.name("size");
    let queue = Queue { name: name.clone(), durable: true, ..Queue::default() };
    let peer = broker.open().await?;
    let declared = peer.channel.queue_declare(&queue, false).await?;
    assert_eq!((declared.queue, declared.messages), (name.clone(), 0));
    peer.send(&name, 0..3).await?;
    assert_eq!(peer.channel.queue_declare(&queue, false).await?.messages, 3);
    assert_eq!(peer.channel.queue_declare(&queue, true).await?.messages, 3);
    peer.channel.get(&name, false).await?.expect("a message");
    assert_eq!(peer.channel.queue_declare(&queue, true).await?.messages, 2);
    peer.close().await
}

/// A queue that is declared without a name gets one of its own.
pub async fn a_name_is_made_up_when_there_is_none(broker: &Broker) -> Result<()> {
    let peer = broker.open().await?;
    let nameless = Queue { durable: true, ..Queue::default() };
    let one = peer.channel.queue_declare(&nameless, false).await?.queue;
    let two = peer.channel.queue_declare(&nameless, false).await?.queue;
    assert!(!one.is_empty() && one != two, "{one:?} {two:?}");
    peer.send(&one, ["x"]).await?;
    assert_eq!(peer.empty(&one).await?, [("x".to_owned(), false)]);
    for queue in [one, two] {
        peer.channel.queue_delete(&queue, false, false).await?;
    }
    peer.close().await
}

/// Passive declaration does not make a queue; the error has AMQP's code and the queue's name.
pub async fn an_unknown_queue_is_not_found(broker: &Broker) -> Result<()> {
    let name = broker.name("unknown");
    let mut peer = broker.open().await?;
    let queue = Queue { name: name.clone(), ..Queue::default() };
    for _ in 0..2 {
        let error = peer.channel.queue_declare(&queue, true).await.expect_err("not there");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404));
        assert!(error.to_string().contains(&*name), "{error}");
        peer = peer.after_error().await?;
    }
    if broker.is_amqp() {
        let error = peer.channel.get(&name, false).await.expect_err("not there");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404));
        peer = peer.after_error().await?;
        let error = peer.channel.queue_purge(&name).await.expect_err("not there");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404));
    } else {
        assert_eq!(peer.channel.get(&name, false).await?, None);
        assert_eq!(peer.channel.queue_purge(&name).await?, 0);
    }
    peer.close().await
}

/// Ready messages go, claimed ones stay.
pub async fn purging_counts(broker: &Broker) -> Result<()> {
    let queue = broker.name("purge");
    let peer = broker.open_with(&queue).await?;
    peer.send(&queue, 0..4).await?;
    let held = peer.channel.get(&queue, false).await?.expect("a message");
    assert_eq!(peer.channel.queue_purge(&queue).await?, 3);
    assert_eq!(peer.channel.queue_purge(&queue).await?, 0);
    peer.channel.reject(&held.claim.tag, true).await?;
    let again = peer.channel.get(&queue, false).await?.expect("given back");
    assert_eq!(text(&again), text(&held));
    peer.channel.ack(&again.claim.tag, false).await?;
    peer.close().await
}

/// `if_unused` and `if_empty`; then it is gone with its messages.
pub async fn deleting_is_refused_while_in_use(broker: &Broker) -> Result<()> {
    let name = broker.name("delete");
    let queue = Queue { name: name.clone(), ..Queue::default() };
    let mut peer = broker.open_with(&name).await?;
    peer.send(&name, 0..2).await?;
    let error = peer.channel.queue_delete(&name, false, true).await.expect_err("not empty");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 406));
    peer = peer.after_error().await?;
    peer.consume(&name).await?;
    let error = peer.channel.queue_delete(&name, true, false).await.expect_err("in use");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 406));
    peer = peer.after_error().await?;
    peer.channel.cancel(&name).await?;
    if broker.is_amqp() {
        peer.wait_for_size(&name, 2).await?;
    }
    assert_eq!(peer.channel.queue_delete(&name, true, false).await?, 2);
    if !broker.is_amqp() {
        assert_eq!(peer.channel.get(&name, false).await?, None);
    }
    let error = peer.channel.queue_declare(&queue, true).await.expect_err("it was deleted");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    peer = peer.after_error().await?;
    peer.channel.queue_delete(&name, false, false).await?;
    peer.close().await
}
