//! The exchange types of AMQP 0-9-1 section 3.1.3.

use super::broker::{message, text};
use super::{Broker, LIMIT, Peer};
use crate::error::{ErrorKind, Result};
use crate::io::task;
use crate::model::{Exchange, ExchangeKind, Json, Message, Name};
use std::time::{Duration, Instant};

/// Publishes a text to an exchange.
async fn publish(peer: &Peer, exchange: &Name, key: &str, body: &str) -> Result<()> {
    peer.channel.publish(vec![to_exchange(exchange, key, body)]).await
}

fn to_exchange(exchange: &Name, key: &str, body: &str) -> Message {
    let mut message = message(&key.into(), body);
    message.properties.exchange = exchange.clone();
    message
}

/// An exchange, and a queue for each list of bindings (key and arguments).
async fn bound<const N: usize>(
    broker: &Broker,
    kind: ExchangeKind,
    bindings: [&[(&str, &str)]; N],
) -> Result<(Peer, Name, [Name; N])> {
    let peer = broker.open().await?;
    let exchange = broker.name("exchange");
    peer.exchange(&exchange, kind).await?;
    let queues = std::array::from_fn(|number| broker.name(&format!("q{number}")));
    for (queue, bindings) in queues.iter().zip(bindings) {
        peer.declare(queue).await?;
        for (key, arguments) in bindings {
            let arguments = Json::parse((*arguments).to_owned()).expect("JSON");
            peer.channel.queue_bind(queue, &exchange, &(*key).into(), &arguments).await?;
        }
    }
    Ok((peer, exchange, queues))
}

/// What is in the queues, as texts put together.
async fn contents(peer: &Peer, queues: &[Name]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for queue in queues {
        let texts = peer.empty(queue).await?;
        all.push(texts.into_iter().map(|(text, _)| text).collect());
    }
    Ok(all)
}

/// A message goes to each queue with its key, once; without one nowhere.
pub async fn direct_routes_by_equal_keys(broker: &Broker) -> Result<()> {
    let bindings: [&[_]; 2] = [&[("k", "{}"), ("l", "{}")], &[("k", "{}"), ("#", "{}")]];
    let (peer, exchange, queues) = bound(broker, ExchangeKind::Direct, bindings).await?;
    for (key, body) in [("k", "1"), ("l", "2"), ("m", "3"), ("", "4"), ("#", "5")] {
        publish(&peer, &exchange, key, body).await?;
    }
    let mut routed = to_exchange(&exchange, "l", "");
    if broker.is_amqp() {
        let error = peer.channel.lookup(&exchange, &routed).await.expect_err("AMQP does not tell");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    } else {
        assert_eq!(peer.channel.lookup(&exchange, &routed).await?, [queues[0].clone()]);
        routed.properties.routing_key = "nowhere".into();
        assert!(peer.channel.lookup(&exchange, &routed).await?.is_empty());
    }
    let delivery = peer.channel.get(&queues[0], true).await?.expect("it was routed");
    assert_eq!(delivery.message.properties.exchange, exchange);
    assert_eq!(&*delivery.message.properties.routing_key, "k");
    assert_eq!(contents(&peer, &queues).await?, ["2", "15"]);
    peer.close().await
}

/// `*` is one word, `#` any number of them.
pub async fn topic_routes_by_patterns(broker: &Broker) -> Result<()> {
    let bindings: [&[_]; 4] =
        [&[("a.*", "{}")], &[("a.#", "{}"), ("a.b", "{}")], &[("#", "{}")], &[("*.b.*", "{}")]];
    let (peer, exchange, queues) = bound(broker, ExchangeKind::Topic, bindings).await?;
    for (key, body) in [("a.b", "1"), ("a", "2"), ("a.b.c", "3"), ("x", "4"), ("a+b", "5")] {
        publish(&peer, &exchange, key, body).await?;
    }
    assert_eq!(contents(&peer, &queues).await?, ["1", "123", "12345", "3"]);
    peer.close().await
}

/// Every consumer with a queue of its own gets every message, in order.
pub async fn fanout_reaches_every_queue(broker: &Broker) -> Result<()> {
    let exchange = broker.name("fanout");
    let publisher = broker.open().await?;
    publisher.exchange(&exchange, ExchangeKind::Fanout).await?;
    let mut peers = Vec::new();
    for name in ["one", "two"] {
        let queue = broker.name(name);
        let peer = broker.open_with(&queue).await?;
        peer.exchange(&exchange, ExchangeKind::Fanout).await?;
        peer.channel.queue_bind(&queue, &exchange, &"".into(), &Json::empty_object()).await?;
        peer.consume(&queue).await?;
        peers.push(peer);
    }
    // A broker may take a moment to know its subscribers, and keeps nothing for others.
    let end = Instant::now() + LIMIT;
    for peer in &peers {
        loop {
            publish(&publisher, &exchange, "", "ready?").await?;
            let soon = Instant::now() + Duration::from_millis(50);
            if let Some(event) = task::timeout_at(soon, peer.connection.next()).await {
                peer.channel.ack(&event?.delivery.claim.tag, false).await?;
                break;
            }
            assert!(Instant::now() < end, "nothing was received");
        }
    }
    let expected: Vec<String> = (0..20).map(|n: u8| n.to_string()).collect();
    for body in &expected {
        publish(&publisher, &exchange, "", body).await?;
    }
    for peer in &peers {
        let mut received = Vec::new();
        while received.len() < expected.len() {
            let event = peer.next().await?;
            peer.channel.ack(&event.delivery.claim.tag, false).await?;
            assert_eq!(event.delivery.message.properties.exchange, exchange);
            received.extend(Some(text(&event.delivery)).filter(|text| text != "ready?"));
        }
        assert_eq!(received, expected);
        peer.close().await?;
    }
    publisher.close().await
}

/// `x-match` all and any.
pub async fn headers_route_by_their_values(broker: &Broker) -> Result<()> {
    let bindings: [&[_]; 3] = [
        &[("", r#"{"a": 1, "b": "x"}"#)],
        &[("", r#"{"x-match": "any", "a": 1, "b": "x"}"#)],
        &[("", r#"{"x-match": "all"}"#)],
    ];
    let (peer, exchange, queues) = bound(broker, ExchangeKind::Headers, bindings).await?;
    for (headers, body) in
        [(r#"{"a": 1, "b": "x", "c": 3}"#, "1"), (r#"{"a": 1}"#, "2"), (r#"{"a": "1"}"#, "3")]
    {
        let mut message = to_exchange(&exchange, "ignored", body);
        message.headers = Json::from_valid(headers);
        peer.channel.publish(vec![message]).await?;
    }
    assert_eq!(contents(&peer, &queues).await?, ["1", "12", "123"]);
    peer.close().await
}

/// An unbound queue gets nothing more, nor does any of a deleted exchange.
pub async fn bindings_can_be_removed(broker: &Broker) -> Result<()> {
    let bindings: [&[_]; 2] = [&[("k", "{}")], &[("k", "{}")]];
    let (peer, exchange, queues) = bound(broker, ExchangeKind::Direct, bindings).await?;
    let none = Json::empty_object();
    peer.channel.queue_unbind(&queues[0], &exchange, &"k".into(), &none).await?;
    publish(&peer, &exchange, "k", "1").await?;
    assert_eq!(contents(&peer, &queues).await?, ["", "1"]);
    let error = peer.channel.exchange_delete(&exchange, true).await.expect_err("in use");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 406));
    let peer = peer.after_error().await?;
    peer.channel.exchange_delete(&exchange, false).await?;
    if !broker.is_amqp() {
        publish(&peer, &exchange, "k", "2").await?;
    }
    assert_eq!(contents(&peer, &queues).await?, ["", ""]);
    peer.close().await
}

/// An unknown `x-match` of a headers binding is refused when it is made; others do not look at it.
pub async fn wrong_binding_arguments_are_refused(broker: &Broker) -> Result<()> {
    let (peer, exchange, [queue]) = bound(broker, ExchangeKind::Headers, [&[]]).await?;
    let wrong = Json::from_valid(r#"{"x-match": "most", "a": 1}"#);
    let refused = peer.channel.queue_bind(&queue, &exchange, &"".into(), &wrong).await;
    let error = refused.expect_err("there is no such mode");
    if broker.is_amqp() {
        assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 406));
        assert!(error.to_string().contains(&*queue), "{error}");
    } else {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("`x-match`") && error.to_string().contains("\"most\""));
    }
    let peer = peer.after_error().await?;
    assert!(peer.channel.exchange_delete(&exchange, true).await.is_ok(), "nothing was bound");
    let direct = broker.name("direct");
    peer.exchange(&direct, ExchangeKind::Direct).await?;
    peer.channel.queue_bind(&queue, &direct, &"k".into(), &wrong).await?;
    peer.close().await
}

/// The same declaration again is fine, another one under the same name is refused.
pub async fn another_declaration_must_be_equivalent(broker: &Broker) -> Result<()> {
    let mut peer = broker.open().await?;
    let first = Exchange {
        name: broker.name("declared"),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        arguments: Json::from_valid(r#"{"a": 1, "b": 2}"#),
    };
    let unknown = peer.channel.exchange_declare(&first, true).await.expect_err("not there");
    assert_eq!((unknown.kind(), unknown.code()), (ErrorKind::NotFound, 404));
    peer = peer.after_error().await?;
    peer.channel.exchange_declare(&first, false).await?;
    peer.channel.exchange_declare(&first, true).await?;
    let same = Exchange { arguments: Json::from_valid(r#"{"b":2,"a":1}"#), ..first.clone() };
    peer.channel.exchange_declare(&same, false).await?;
    let mut others = vec![
        Exchange { kind: ExchangeKind::Direct, ..first.clone() },
        Exchange { durable: false, ..first.clone() },
        Exchange { auto_delete: true, ..first.clone() },
    ];
    if !broker.is_amqp() {
        // RabbitMQ compares the arguments that it knows.
        others.push(Exchange { arguments: Json::empty_object(), ..first.clone() });
    }
    for other in others {
        let error = peer.channel.exchange_declare(&other, false).await.expect_err("not the same");
        let code = if broker.is_amqp() { 406 } else { 530 };
        assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, code));
        assert!(error.to_string().contains(&*first.name), "{error}");
        peer = peer.after_error().await?;
    }
    peer.channel.exchange_delete(&first.name, false).await?;
    peer.close().await
}
