//! What a user can get wrong, through the client: each error names the part that is wrong and what
//! would be right, in time, and without the password. Redis is the server named by
//! `KOMBU_RS_TEST_REDIS` (`host:port`); `make test` starts one.
#![cfg(all(feature = "redis", feature = "sqlite"))]

use kombu_rs::client::{Connection, Consumer, Link, RetryPolicy};
use kombu_rs::error::{Error, ErrorKind, Result};
use kombu_rs::io::identity;
use kombu_rs::io::task::run;
use kombu_rs::model::{Json, Message, Name, Queue};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn open(url: &str, options: Value) -> Result<Connection> {
    let Value::Object(options) = options else { panic!("options are an object") };
    Ok(Connection::new(url, &options)?.with_retry(RetryPolicy::NEVER))
}

fn refused(url: &str, options: Value) -> Error {
    let error = open(url, options).expect_err("it is wrong");
    assert!(!error.to_string().contains("secret"), "{error}");
    error
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn an_unknown_scheme_names_the_nearest_and_lists_all() {
    for (url, nearest) in [("rediss2://:secret@h", "`rediss`"), ("memroy://", "`memory`")] {
        let error = refused(url, json!({}));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(text.contains("unknown transport") && text.contains(nearest), "{text}");
        assert!(
            text.contains(
                "amqp, amqps, librabbitmq, memory, pyamqp, redis, rediscluster, redisclusters, \
                 rediss, sentinel, sqla, sqlalchemy"
            ),
            "{text}"
        );
    }
}

#[test]
fn a_url_part_that_cannot_be_parsed_is_named() {
    for (url, part) in [
        ("localhost", "no transport"),
        ("redis://:secret@h:six/0", "port"),
        ("redis://:secret@h:1/x", "database"),
        ("redis://:secret@[::1/0", "bracket"),
        ("sqla+postgresql://u:secret@h/db", "\"postgresql\""),
        ("sqla+sqlite://host/x.db", "slashes"),
        ("redis://h/0;redis://:secret@h:99999/0", "port"),
    ] {
        let text = refused(url, json!({})).to_string();
        assert!(text.contains(part), "{url}: {text}");
    }
}

#[test]
fn unknown_and_ill_typed_options_are_named() {
    for (url, options, kind, name) in [
        ("redis://h", json!({"visibility_timeuot": 1}), ErrorKind::Invalid, "visibility_timeuot"),
        ("redis://h", json!({"visibility_timeout": []}), ErrorKind::Type, "visibility_timeout"),
        ("redis://h", json!({"priority_steps": "x"}), ErrorKind::Type, "priority_steps"),
        ("redis://h?no_such_option=1", json!({}), ErrorKind::Invalid, "no_such_option"),
        ("sqla+sqlite:///x.db", json!({"no_such_option": 1}), ErrorKind::Invalid, "no_such_option"),
        ("sqla+sqlite:///x.db", json!({"busy_timeout": "x"}), ErrorKind::Type, "busy_timeout"),
    ] {
        let error = refused(url, options);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_told_within_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("an address").to_string();
    // Takes connections, and says nothing.
    let silent =
        std::thread::spawn(move || listener.accept().map(|(stream, _)| (stream, listener)));
    let url = format!("redis://:secret@{place}/0");
    let options = json!({"socket_connect_timeout": 0.2});
    let check = |begun: Instant| {
        let connection = open(&url, options.clone()).expect("nothing is wrong with it");
        let error = run(connection.connect(soon())).expect_err("nobody is there");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Connection);
        let text = error.to_string();
        assert!(text.contains(&place) && !text.contains("secret"), "{text}");
    };
    check(Instant::now());
    drop(silent.join().expect("no panic")); // refuses from now on
    check(Instant::now());
}

#[test]
fn the_deadline_covers_connecting_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("an address");
    let url = format!("redis://:secret@{place}/0");
    let connection = open(&url, json!({"socket_connect_timeout": 60})).expect("a connection");
    let error = run(connection.connect(Instant::now() + Duration::from_millis(100)))
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    assert!(text.contains(&place.to_string()) && !text.contains("secret"), "{text}");
}

/// Sends one Redis command and reads the beginning of the answer.
fn raw(place: &str, command: &[&str]) -> String {
    let mut stream = TcpStream::connect(place).expect("the server is there");
    let mut text = format!("*{}\r\n", command.len());
    for part in command {
        text.push_str(&format!("${}\r\n{part}\r\n", part.len()));
    }
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = [0; 256];
    let count = stream.read(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[test]
fn a_message_that_cannot_be_decoded_is_told_once_and_not_looped() {
    let server = std::env::var("KOMBU_RS_TEST_REDIS")
        .expect("KOMBU_RS_TEST_REDIS must name a Redis server; `make test` starts one");
    let place = server.strip_prefix("redis://").unwrap_or(&server);
    let place = place.split('/').next().unwrap_or(place);
    let queue: Name = format!("garbage-{}", identity::unique()).into();
    let not_base64 = r#"{"body": "***", "properties": {"body_encoding": "base64"}}"#;
    for garbage in ["garbage", not_base64, r#"{"body": "cut o"#, "[1, 2]", ""] {
        let pushed = raw(place, &["LPUSH", &queue, garbage]);
        assert!(pushed.starts_with(':'), "{pushed}");
        let connection = open(&format!("redis://{place}/0"), json!({})).expect("a connection");
        let connection = Arc::new(connection);
        let declared = Queue { name: queue.clone(), ..Queue::default() };
        let consumer = Consumer::new(connection.clone(), vec![declared], false, 1);
        let error = run(consumer.next(soon())).expect_err("it cannot be read");
        assert_eq!(error.kind(), ErrorKind::Decode, "{garbage}: {error}");
        let mut good = Message { body: "good".into(), ..Message::default() };
        good.properties.routing_key = queue.clone();
        let publish = async |link: &Link| link.channel.publish(vec![good.clone()]).await;
        run(connection.ensure("publishing", soon(), publish)).expect("published");
        let received = run(consumer.next(soon())).expect("the next message comes");
        assert_eq!(received.delivery.message.body, "good");
        run(received.ack()).expect("acknowledged");
        run(connection.close()).expect("closed");
    }
    assert_eq!(raw(place, &["LLEN", &queue]), ":0\r\n");
}

#[test]
fn an_unknown_x_match_is_refused() {
    let connection = open("memory://", json!({})).expect("a connection");
    let error = run(connection.ensure("binding", soon(), async |link| {
        let exchange = kombu_rs::model::Exchange {
            name: "bad-input-headers".into(),
            kind: kombu_rs::model::ExchangeKind::Headers,
            durable: true,
            auto_delete: false,
            arguments: Json::empty_object(),
        };
        link.channel.exchange_declare(&exchange, false).await?;
        let arguments = Json::from_valid(r#"{"x-match": "none"}"#);
        link.channel.queue_bind(&"q".into(), &exchange.name, &"".into(), &arguments).await
    }))
    .expect_err("there is no such mode");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("\"all\", \"any\""), "{error}");
}
