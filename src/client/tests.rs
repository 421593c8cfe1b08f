//! Over `memory://`, and over brokers that are not there.

use super::{Connection, Consumer, Failover, Pool, Producer, RetryPolicy};
use crate::error::ErrorKind;
use crate::io::task::run;
use crate::model::{Exchange, ExchangeKind, Json, Message, Name, Queue};
use crate::transport::schemes::Options;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn open(urls: &str) -> Arc<Connection> {
    Arc::new(Connection::new(urls, &Options::new()).unwrap())
}

fn queue(name: &str) -> Queue {
    Queue { name: name.into(), ..Queue::default() }
}

fn message(key: &str, body: &'static str) -> Message {
    let mut message = Message { body: body.into(), ..Message::default() };
    message.properties.routing_key = key.into();
    message
}

/// The URL of a port that refuses connections.
#[cfg(feature = "redis")]
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("redis://:secret@{}/0", listener.local_addr().unwrap())
}

#[test]
fn what_is_produced_is_consumed() {
    let connection = open("memory://");
    let exchange = Exchange {
        name: "client-exchange".into(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    };
    let name: Name = "client-queue".into();
    let producer = Producer::new(connection.clone(), Some(exchange.clone()));
    let direct = Producer::new(connection.clone(), None);
    run(direct.publish(vec![message(&name, "first")], soon())).unwrap();
    run(connection.ensure("binding", soon(), async |link| {
        link.channel.exchange_declare(&exchange, false).await?;
        link.channel.queue_bind(&name, &exchange.name, &"k".into(), &Json::empty_object()).await
    }))
    .unwrap();
    run(producer.publish(vec![message("k", "second"), message("k", "third")], soon())).unwrap();

    let consumer = Consumer::new(open("memory://"), vec![queue(&name)], false, 2);
    let mut tags = Vec::new();
    for expected in ["first", "second"] {
        let received = run(consumer.next(soon())).unwrap();
        assert_eq!(received.delivery.message.body, expected);
        tags.push(received.delivery.message.properties.delivery_tag.clone());
        run(received.ack()).unwrap();
    }
    assert!(!tags[0].is_empty() && tags[0] != tags[1]);
    let received = run(consumer.next(soon())).unwrap();
    run(received.reject(true)).unwrap();
    let again = run(consumer.next(soon())).unwrap();
    assert!(again.delivery.message.redelivered);
    run(again.ack()).unwrap();
    let end = Instant::now() + Duration::from_millis(20);
    let error = run(consumer.next(end)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("waiting for a message"), "{error}");
    run(consumer.cancel()).unwrap();
    run(connection.close()).unwrap();
}

#[test]
fn a_full_pool_waits_for_a_connection() {
    let pool = Arc::new(Pool::new(1, || Connection::new("memory://", &Options::new())));
    let first = run(pool.acquire(None)).unwrap();
    let address = Arc::as_ptr(&first);
    let error = run(pool.acquire(None)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("all 1 connections"), "{error}");
    let end = Instant::now() + Duration::from_millis(5);
    assert_eq!(run(pool.acquire(Some(end))).map(drop).unwrap_err().kind(), ErrorKind::Limit);
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| run(pool.acquire(Some(soon()))).map(|c| Arc::as_ptr(&c) as usize));
        drop(first);
        assert_eq!(waiting.join().unwrap().unwrap(), address as usize);
    });
    run(pool.close()).unwrap();
    assert_eq!(run(pool.acquire(None)).map(drop).unwrap_err().kind(), ErrorKind::Closed);
}

#[cfg(feature = "redis")]
#[test]
fn a_broker_that_is_not_there_is_passed_over() {
    for failover in [Failover::RoundRobin, Failover::Shuffle] {
        let urls = format!("{};{};memory://", refusing(), refusing());
        let connection = Arc::new(Connection::new(&urls, &Options::new()).unwrap());
        let connection = Arc::into_inner(connection).unwrap().with_failover(failover);
        assert!(connection.as_uri().starts_with("redis://:**@127.0.0.1:"));
        run(connection.connect(soon())).unwrap();
        assert_eq!(connection.as_uri(), "memory:///");
    }
}

#[cfg(feature = "redis")]
#[test]
fn without_any_broker_it_ends_by_the_limit_or_the_deadline() {
    let url = refusing();
    let once = Connection::new(&url, &Options::new()).unwrap().with_retry(RetryPolicy::NEVER);
    // Its second pause is longer than the deadline is away, on a machine of any speed.
    let hour = Duration::from_secs(3600);
    let patient = Connection::new(&url, &Options::new()).unwrap().with_retry(RetryPolicy {
        max_retries: None,
        interval_start: Duration::from_millis(10),
        interval_step: hour,
        interval_max: hour,
    });
    for connection in [once, patient] {
        let deadline = soon();
        let error = run(connection.connect(deadline)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        let text = error.to_string();
        assert!(text.contains("127.0.0.1") && !text.contains("secret"), "{text}");
        assert!(Instant::now() < deadline, "it does not wait for what is too late");
    }
}

#[test]
fn other_errors_are_not_tried_again() {
    let connection = open("memory://");
    let tries = std::cell::Cell::new(0);
    let error = run(connection.ensure("declaring", soon(), async |link| {
        tries.set(tries.get() + 1);
        link.channel.queue_declare(&queue("client-unknown"), true).await
    }))
    .unwrap_err();
    assert_eq!((error.kind(), tries.get()), (ErrorKind::NotFound, 1));
}

#[test]
fn bad_urls_are_refused_at_once() {
    let refused = |urls: &str| Connection::new(urls, &Options::new()).unwrap_err().to_string();
    assert!(refused("memroy://").contains("did you mean `memory`?"));
    assert!(refused("memory://;redis://:secret@h:port/").contains("the port must be a number"));
    assert!(!refused("redis://:secret@h:port/").contains("secret"));
    assert!(refused(" ; ").contains("empty"));
}
