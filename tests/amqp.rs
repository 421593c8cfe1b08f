//! What AMQP has beyond the conformance cases, on a RabbitMQ node: `KOMBU_RS_TEST_RABBITMQ` is its
//! URL, `..._API` host and port of its management API, `..._TLS` its URL with TLS and `..._CA` the file of
//! its authority's certificate. `make test` starts one.
#![cfg(feature = "amqp")]

mod rabbit;

use kombu_rs::error::ErrorKind;
use kombu_rs::io::task;
use kombu_rs::model::{ExchangeKind, Json, Name, Queue};
use kombu_rs::transport::{ExchangeDeclaration, PublishOptions, Transaction, Url};
use rabbit::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One request to the management API.
fn api(method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(server("KOMBU_RS_TEST_RABBITMQ_API")).unwrap();
    let request =
        format!("{method} /api/{path} HTTP/1.0\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Closes the connection that calls itself so, as an operator does. The node lists it after a while.
fn close_as_operator(name: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let listed = api("GET", "connections?columns=name,client_properties.connection_name");
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap_or_default();
        let found = listed
            .iter()
            .find(|connection| connection["client_properties"]["connection_name"] == name)
            .and_then(|connection| connection["name"].as_str());
        if let Some(found) = found {
            let path = found.replace(' ', "%20").replace('>', "%3E");
            api("DELETE", &format!("connections/{path}"));
            return;
        }
        assert!(Instant::now() < end, "the node does not list the connection");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_mandatory_message_without_a_queue_is_an_error() {
    task::run(async {
        let channel = connect().open_channel().await?;
        let queue = unique("mandatory");
        declare(&channel, &queue, "{}").await?;
        let amqp = channel.amqp().expect("it speaks AMQP");
        let options = PublishOptions { mandatory: true };
        let nowhere = unique("nowhere");
        let batch = vec![message(&queue, "0"), message(&nowhere, "1"), message(&queue, "2")];
        let error = amqp.publish_with(batch, options).await.expect_err("it has no queue");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 312));
        let told = error.to_string();
        assert!(told.contains("message 1") && told.contains(&*nowhere), "{told}");
        assert_eq!(channel.queue_purge(&queue).await?, 2, "the others were taken");
        amqp.publish_with(vec![message(&queue, "3")], options).await?;
        channel.publish(vec![message(&nowhere, "lost")]).await?;
        assert_eq!(amqp.returned(), None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn without_confirms_returned_messages_are_kept() {
    task::run(async {
        let connection = connect_with(json!({}));
        let channel = connection.open_channel().await?;
        let amqp = channel.amqp().expect("it speaks AMQP");
        let nowhere = unique("nowhere");
        let options = PublishOptions { mandatory: true };
        amqp.publish_with(vec![message(&nowhere, "back")], options).await?;
        let end = Instant::now() + LIMIT;
        let returned = loop {
            assert!(Instant::now() < end, "nothing came back");
            assert!(is_quiet(&connection).await);
            if let Some(returned) = amqp.returned() {
                break returned;
            }
        };
        assert_eq!((returned.code, &*returned.message.body), (312, &b"back"[..]));
        assert_eq!(returned.message.properties.routing_key, nowhere);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_refused_publish_closes_its_channel_only() {
    task::run(async {
        let connection = connect();
        let (bad, good) = (connection.open_channel().await?, connection.open_channel().await?);
        let exchange = unique("no exchange");
        let lost = (0..5).map(|body| to_exchange(&exchange, "k", &body.to_string())).collect();
        let error = bad.publish(lost).await.expect_err("there is no exchange");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404));
        assert!(error.to_string().contains(&*exchange), "{error}");
        assert!(!bad.is_open() && good.is_open());
        let later = bad.publish(vec![message(&unique("q"), "x")]).await.expect_err("it is closed");
        assert_eq!((later.kind(), later.code()), (ErrorKind::Closed, 404));
        declare(&good, &unique("q"), "{}").await?;
        assert!(is_quiet(&connection).await, "who published was told");
        Ok(())
    })
    .unwrap();
}

#[test]
fn who_waits_for_messages_hears_of_a_channel_closed_behind_his_back() {
    task::run(async {
        let connection = connect_with(json!({}));
        let channel = connection.open_channel().await?;
        channel.publish(vec![to_exchange(&unique("no exchange"), "k", "x")]).await?;
        let error = next(&connection).await.expect_err("there is no exchange");
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, 404));
        assert!(!channel.is_open() && connection.is_connected());
        assert!(is_quiet(&connection).await, "once");
        Ok(())
    })
    .unwrap();
}

#[test]
fn limits_change_on_quorum_queues_too() {
    task::run(async {
        for arguments in ["{}", r#"{"x-queue-type": "quorum"}"#] {
            let connection = connect();
            let channel = connection.open_channel().await?;
            let queues = [unique("one"), unique("two")];
            for queue in &queues {
                declare(&channel, queue, arguments).await?;
                channel.publish((0..30).map(|n| message(queue, n.to_string())).collect()).await?;
            }
            channel.qos(2).await?;
            for queue in &queues {
                consume(&channel, queue).await?;
            }
            // The limit is the channel's, over all its consumers.
            let mut events = vec![next(&connection).await?, next(&connection).await?];
            assert!(is_quiet(&connection).await);
            for (limit, more) in [(3, 1), (4, 1), (20, 16)] {
                channel.qos(limit).await?;
                for _ in 0..more {
                    events.push(next(&connection).await?);
                }
                assert!(is_quiet(&connection).await, "limit {limit} with {arguments}");
                assert_eq!(channel.credit(), (events.len(), limit));
            }
            channel.qos(1).await?;
            assert!(is_quiet(&connection).await);
            for event in &events[1..] {
                channel.ack(&event.delivery.claim.tag, false).await?;
            }
            assert!(is_quiet(&connection).await, "one is unsettled");
            channel.qos(0).await?;
            for _ in 20..60 {
                events.push(next(&connection).await?);
            }
            channel.ack("", true).await?;
            for queue in &queues {
                let mut texts: Vec<u32> = events
                    .iter()
                    .filter(|event| event.delivery.claim.queue == *queue)
                    .map(|event| text(event).parse().expect("a number"))
                    .collect();
                texts.sort_unstable();
                assert_eq!(texts, (0..30).collect::<Vec<_>>(), "each once, with {arguments}");
            }
            channel.close(true).await?;
            connection.close().await?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn without_a_limit_any_number_can_be_unsettled() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("many");
        declare(&channel, &queue, "{}").await?;
        channel.publish((0..3000).map(|n| message(&queue, n.to_string())).collect()).await?;
        consume(&channel, &queue).await?;
        let mut seen = Vec::new();
        for _ in 0..3000 {
            seen.push(text(&next(&connection).await?).parse::<u32>().expect("a number"));
        }
        assert_eq!(seen, (0..3000).collect::<Vec<_>>());
        channel.ack("", true).await?;
        channel.close(true).await?;
        assert_eq!(connect().open_channel().await?.queue_purge(&queue).await?, 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn acknowledging_several_spares_what_nobody_has_seen() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queues = [unique("one"), unique("two")];
        for queue in &queues {
            declare(&channel, queue, "{}").await?;
            channel.publish((0..3).map(|n| message(queue, n.to_string())).collect()).await?;
        }
        channel.qos(3).await?;
        consume(&channel, &queues[0]).await?;
        channel.publish(vec![message(&unique("nowhere"), "later than the deliveries")]).await?;
        consume(&channel, &queues[1]).await?;
        channel.publish(vec![message(&unique("nowhere"), "later than the deliveries")]).await?;
        // In turn: the second queue's has a higher number than all of the first one's.
        next(&connection).await?;
        let last = next(&connection).await?;
        assert_eq!(last.delivery.claim.queue, queues[1]);
        channel.ack(&last.delivery.claim.tag, true).await?;
        channel.close(true).await?;
        let other = connection.open_channel().await?;
        for queue in &queues {
            assert_eq!(other.queue_purge(queue).await?, 2);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn recovering_brings_what_is_open_again_once() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("recover");
        declare(&channel, &queue, "{}").await?;
        channel.publish((0..6).map(|n| message(&queue, n.to_string())).collect()).await?;
        channel.qos(4).await?;
        consume(&channel, &queue).await?;
        let first = next(&connection).await?;
        next(&connection).await?;
        channel.ack(&first.delivery.claim.tag, false).await?;
        channel.recover().await?;
        let mut texts = Vec::new();
        for _ in 0..5 {
            let event = next(&connection).await?;
            channel.ack(&event.delivery.claim.tag, false).await?;
            texts.push(text(&event));
        }
        texts.sort_unstable();
        assert_eq!(texts, ["1", "2", "3", "4", "5"]);
        assert!(is_quiet(&connection).await);
        Ok(())
    })
    .unwrap();
}

#[test]
fn exchanges_are_bound_to_exchanges() {
    task::run(async {
        let channel = connect().open_channel().await?;
        let amqp = channel.amqp().expect("it speaks AMQP");
        let (from, to, queue) = (unique("from"), unique("to"), unique("queue"));
        let exchange = |name: &Name, kind: &str, internal| ExchangeDeclaration {
            name: name.clone(),
            kind: kind.into(),
            passive: false,
            durable: false,
            auto_delete: false,
            internal,
            arguments: Json::empty_object(),
        };
        amqp.declare_exchange(&exchange(&from, "topic", false)).await?;
        amqp.declare_exchange(&exchange(&to, "fanout", true)).await?;
        declare(&channel, &queue, "{}").await?;
        let none = Json::empty_object();
        channel.queue_bind(&queue, &to, &"".into(), &none).await?;
        amqp.exchange_bind(&to, &from, &"a.*".into(), &none).await?;
        channel.publish(vec![to_exchange(&from, "a.b", "1"), to_exchange(&from, "b", "2")]).await?;
        let taken = channel.get(&queue, true).await?.expect("it was routed");
        assert_eq!(taken.message.properties.exchange, from);
        amqp.exchange_unbind(&to, &from, &"a.*".into(), &none).await?;
        channel.publish(vec![to_exchange(&from, "a.b", "3")]).await?;
        assert_eq!(channel.get(&queue, true).await?, None);
        let error = amqp.declare_exchange(&exchange(&unique("x"), "no such", false)).await;
        let error = error.expect_err("there is no such type");
        assert!(error.to_string().contains("exchange"), "{error}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn headers_of_every_type_come_back() {
    task::run(async {
        let channel = connect().open_channel().await?;
        let queue = unique("headers");
        declare(&channel, &queue, "{}").await?;
        let headers = concat!(
            r#"{"t": true, "n": null, "i": -5, "l": 1099511627776, "d": 1.5, "s": "é", "#,
            r#""a": [1, [], {"deep": [false]}], "x": {"__type__": "base64", "__value__": "/wA="}, "#,
            r#""T": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}, "#,
            r#""D": {"__type__": "decimal", "__value__": "0.0125"}}"#
        );
        let mut sent = message(&queue, vec![0xff; 300_000]);
        sent.headers = Json::from_valid(headers);
        sent.properties.extra = Json::from_valid(
            r#"{"delivery_mode": 2, "timestamp": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}, "type": "t"}"#,
        );
        channel.publish(vec![sent.clone()]).await?;
        let back = channel.get(&queue, true).await?.expect("a message").message;
        let value = |json: &Json| serde_json::from_slice::<Value>(json.as_bytes()).expect("JSON");
        assert_eq!(value(&back.headers), value(&sent.headers));
        assert_eq!(value(&back.properties.extra), value(&sent.properties.extra));
        assert!(back.body == sent.body);
        sent.headers = Json::from_valid(r#"{"large": 9223372036854775808}"#);
        let error = channel.publish(vec![sent]).await.expect_err("AMQP has no such number");
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("'large'"), "{error}");
        assert!(channel.is_open(), "nothing was sent");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_consumer_whose_queue_is_deleted_is_told() {
    task::run(async {
        let connection = connect();
        let channel = connection.open_channel().await?;
        let queue = unique("deleted");
        declare(&channel, &queue, "{}").await?;
        consume(&channel, &queue).await?;
        connect().open_channel().await?.queue_delete(&queue, false, false).await?;
        let error = next(&connection).await.expect_err("the consumer is gone");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.to_string().contains(&*queue), "{error}");
        assert!(channel.is_open());
        declare(&channel, &queue, "{}").await?;
        consume(&channel, &queue).await?;
        channel.publish(vec![message(&queue, "again")]).await?;
        assert_eq!(text(&next(&connection).await?), "again");
        Ok(())
    })
    .unwrap();
}

#[test]
fn exclusive_consumers_keep_others_away() {
    task::run(async {
        let connection = connect();
        let queue = unique("exclusive");
        let channel = connection.open_channel().await?;
        declare(&channel, &queue, "{}").await?;
        channel.amqp().expect("it speaks AMQP").consume_with(consumer(&queue, "{}"), true).await?;
        let other = connection.open_channel().await?;
        let error = consume(&other, &queue).await.expect_err("it is exclusive");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Channel, 403));
        assert!(error.to_string().contains(&*queue) && channel.is_open());
        Ok(())
    })
    .unwrap();
}

#[test]
fn transactions() {
    task::run(async {
        let channel = connect_with(json!({})).open_channel().await?;
        let amqp = channel.amqp().expect("it speaks AMQP");
        let queue = unique("tx");
        declare(&channel, &queue, "{}").await?;
        amqp.transaction(Transaction::Select).await?;
        for (body, end) in [("no", Transaction::Rollback), ("yes", Transaction::Commit)] {
            channel.publish(vec![message(&queue, body)]).await?;
            amqp.transaction(end).await?;
        }
        let taken = channel.get(&queue, true).await?.expect("a message");
        assert_eq!(&*taken.message.body, b"yes");
        assert_eq!(channel.get(&queue, true).await?, None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_wrong_password_and_an_unknown_virtual_host_are_told_apart() {
    let url = server("KOMBU_RS_TEST_RABBITMQ");
    let place = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    for (url, code, why) in [
        (format!("amqp://guest:wr0ng@{place}//"), 403, "'guest'"),
        (format!("amqp://{place}/no-such-vhost"), 530, "no-such-vhost"),
    ] {
        let connection = connect_to(&Url::parse(&url).unwrap(), json!({})).unwrap();
        let error = task::run(connection.connect()).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Auth, code), "{error}");
        assert!(error.to_string().contains(why) && !error.to_string().contains("wr0ng"), "{error}");
    }
    let connection = connect_with(json!({"login_method": "AMQPLAIN"}));
    task::run(connection.connect()).unwrap();
    let error = task::run(connect_with(json!({"login_method": "EXTERNAL"})).connect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn tls_is_verified_and_errors_name_the_cause() {
    let url = Url::parse(&server("KOMBU_RS_TEST_RABBITMQ_TLS")).unwrap();
    let ca = server("KOMBU_RS_TEST_RABBITMQ_CA");
    let connected = |url: &Url, ssl: Value| {
        let connection = connect_to(url, json!({"ssl": ssl})).unwrap();
        task::run(async { connection.open_channel().await?.close(true).await })
    };
    connected(&url, json!({"ca_certs": ca})).unwrap();
    connected(&url, json!({"cert_reqs": "CERT_NONE"})).unwrap();
    let name = json!({"ca_certs": ca, "server_hostname": "somebody.else"});
    let plain = Url::parse(&server("KOMBU_RS_TEST_RABBITMQ")).unwrap();
    for (url, ssl, why) in [
        (&url, json!(true), "UnknownIssuer"),
        (&url, name, "somebody.else"),
        (&plain, json!({"ca_certs": ca}), "TLS"),
    ] {
        let error = connected(url, ssl).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // TLS is spoken there, and we do not.
    let mut bare = url.clone();
    bare.transport = "amqp".into();
    let connection = connect_to(&bare, json!({"connect_timeout": 2})).unwrap();
    assert_eq!(task::run(connection.connect()).unwrap_err().kind(), ErrorKind::Connection);
}

#[test]
fn an_operator_closes_the_connection() {
    let name = unique("closed by an operator");
    let properties = json!({"connection_name": &*name});
    let connection = connect_with(json!({"client_properties": properties}));
    let queue = unique("operator");
    let (channel, first) = task::run(async {
        let channel = connection.open_channel().await?;
        declare(&channel, &queue, "{}").await?;
        channel.publish(vec![message(&queue, "0"), message(&queue, "1")]).await?;
        consume(&channel, &queue).await?;
        let first = next(&connection).await?;
        Ok((channel, first))
    })
    .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| close_as_operator(&name));
        let error = task::run(async {
            next(&connection).await?;
            next(&connection).await
        });
        let error = error.expect_err("the connection was closed");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Connection, 320), "{error}");
    });
    task::run(async {
        assert!(!channel.is_open());
        channel.ack(&first.delivery.claim.tag, false).await?;
        channel.reject(&first.delivery.claim.tag, true).await?;
        let error = channel.publish(vec![message(&queue, "x")]).await.expect_err("it is lost");
        assert_eq!(error.kind(), ErrorKind::Connection);
        connection.connect().await?;
        let channel = connection.open_channel().await?;
        consume(&channel, &queue).await?;
        for expected in ["0", "1"] {
            let event = next(&connection).await?;
            assert_eq!(
                (text(&event).as_str(), event.delivery.message.redelivered),
                (expected, true)
            );
            channel.ack(&event.delivery.claim.tag, false).await?;
        }
        connection.close().await
    })
    .unwrap();
}

#[test]
fn threads_share_one_channel() {
    let connection = connect();
    let queue = unique("threads");
    let channel = task::run(async {
        let channel = connection.open_channel().await?;
        declare(&channel, &queue, "{}").await?;
        Ok(channel)
    })
    .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (channel, queue) = (&channel, &queue);
            scope.spawn(move || {
                for number in 0..50 {
                    let body = format!("{thread}:{number}");
                    task::run(channel.publish(vec![message(queue, body)])).unwrap();
                    if number % 10 == 0 {
                        let asked = Queue { name: queue.clone(), ..Queue::default() };
                        task::run(channel.queue_declare(&asked, true)).unwrap();
                    }
                }
            });
        }
    });
    task::run(async {
        assert_eq!(channel.queue_purge(&queue).await?, 400);
        channel.queue_delete(&queue, false, false).await.map(drop)
    })
    .unwrap();
}

#[test]
fn a_forked_child_opens_its_own_connection() {
    let connection = connect();
    let queue = unique("fork");
    let channel = task::run(async {
        let channel = connection.open_channel().await?;
        declare(&channel, &queue, "{}").await?;
        consume(&channel, &queue).await?;
        Ok(channel)
    })
    .unwrap();
    for round in 0..5 {
        // SAFETY: the child uses handles that are made for it, and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the default action of SIGALRM ends a child that hangs.
            unsafe { libc::alarm(30) };
            let published =
                task::run(channel.publish(vec![message(&queue, format!("child {round}"))]));
            let fresh = connection.is_connected() && channel.unsettled().is_empty();
            // SAFETY: ends the child without running the test harness's exit code.
            unsafe { libc::_exit(i32::from(published.is_err() || !fresh)) };
        }
        task::run(async {
            channel.publish(vec![message(&queue, format!("parent {round}"))]).await?;
            let mut texts = Vec::new();
            for _ in 0..2 {
                let event = next(&connection).await?;
                channel.ack(&event.delivery.claim.tag, false).await?;
                texts.push(text(&event));
            }
            texts.sort_unstable();
            assert_eq!(texts, [format!("child {round}"), format!("parent {round}")]);
            Ok(())
        })
        .unwrap();
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "the child could not publish");
    }
}

#[test]
fn channels_come_and_go() {
    task::run(async {
        let connection = connect_with(json!({"channel_max": 20}));
        let exchange = unique("none");
        for round in 0..300 {
            let channel = connection.open_channel().await?;
            match round % 3 {
                0 => channel.close(true).await?,
                1 => drop(channel),
                _ => {
                    let declaration = kombu_rs::model::Exchange {
                        name: exchange.clone(),
                        kind: ExchangeKind::Direct,
                        durable: false,
                        auto_delete: false,
                        arguments: Json::empty_object(),
                    };
                    channel.exchange_declare(&declaration, true).await.expect_err("not there");
                }
            }
        }
        Ok(())
    })
    .unwrap();
}
