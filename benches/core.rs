//! What the core costs without an interpreter: `cargo bench --bench core [NAME]`.
//!
//! Names: `envelope`, `json`, `url`, `routing`, `resp`, `memory`, `client`, `amqp`. The last one beside
//! lapin, on the RabbitMQ that `KOMBU_RS_TEST_RABBITMQ` names; without that it is left out. One is started
//! by `PYTHONPATH=tests .venv/bin/python -m servers.serve rabbitmq -- cargo bench --bench core amqp`.

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kombu_rs::client;
use kombu_rs::codec::{envelope, json};
use kombu_rs::io::task;
use kombu_rs::model::{Binding, ExchangeKind, Json, Message, Name, Properties, Queue};
use kombu_rs::protocol::Decoder;
use kombu_rs::protocol::resp::Parser;
use kombu_rs::routing;
use kombu_rs::transport::{Channel, Connection, ConsumeOptions, Url, schemes};
use kombu_rs::virt;
use std::hint::black_box;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The headers of a task message as Celery sends it.
const HEADERS: &str = r#"{"lang": "py", "task": "proj.tasks.add", "id": "5c0c0f2e-6d43-4a5c-8f0b-0e9ec1f20a11", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "5c0c0f2e-6d43-4a5c-8f0b-0e9ec1f20a11", "parent_id": null, "argsrepr": "(2, 2)", "kwargsrepr": "{}", "origin": "gen4711@worker.example.org", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}"#;
const PROPERTIES: &str = r#"{"correlation_id": "5c0c0f2e-6d43-4a5c-8f0b-0e9ec1f20a11", "reply_to": "d7c1a2cf-2f1a-3a4b-9c0d-6a1be3dfb9d1", "delivery_mode": 2}"#;

fn message(size: usize, routing_key: &str) -> Message {
    Message {
        body: vec![b'x'; size].into(),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        headers: Json::from_valid(HEADERS),
        properties: Properties {
            priority: Some(0),
            delivery_tag: "25e3e934-941f-42ac-8741-980996a8c9f4".into(),
            routing_key: routing_key.into(),
            extra: Json::from_valid(PROPERTIES),
            ..Properties::default()
        },
        ..Message::default()
    }
}

fn envelopes(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope");
    for (name, size) in [("200B", 200), ("10KiB", 10 << 10)] {
        let message = message(size, "celery");
        let text = Bytes::from(envelope::encode(&message));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| envelope::encode(black_box(&message)));
        });
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| envelope::decode(black_box(&text).clone()).expect("it was just written"));
        });
    }
    group.finish();
}

fn texts(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let plain = HEADERS.replace('"', "'");
    let quoted = HEADERS.to_owned();
    let mut out = Vec::with_capacity(4 << 10);
    for (name, text) in [("string/plain", &plain), ("string/quotes", &quoted)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                json::write_str(&mut out, black_box(text));
                out.len()
            });
        });
    }
    group.finish();
    c.bench_function("json/float", |b| {
        b.iter(|| {
            out.clear();
            json::write_float(&mut out, black_box(1_732_250_000.123_456));
            out.len()
        });
    });
}

fn urls(c: &mut Criterion) {
    c.bench_function("url/parse", |b| {
        b.iter(|| Url::parse(black_box("redis://user:p%40ss@redis.example.org:6379/3?a=1&b=2")));
    });
}

fn routes(c: &mut Criterion) {
    let table = |count: usize| -> Vec<Binding> {
        (0..count)
            .map(|n| Binding {
                exchange: "ex".into(),
                routing_key: format!("stock.{}.#", n % 50).into(),
                queue: format!("q{n}").into(),
                arguments: Json::from_valid(format!(r#"{{"x-match": "any", "region": {n}}}"#)),
            })
            .collect()
    };
    let headers = Json::from_valid(r#"{"region": 7, "task": "proj.tasks.add"}"#);
    let mut group = c.benchmark_group("routing");
    for count in [1, 10, 1_000] {
        let bindings = table(count);
        for (name, kind) in [
            ("direct", ExchangeKind::Direct),
            ("topic", ExchangeKind::Topic),
            ("fanout", ExchangeKind::Fanout),
            ("headers", ExchangeKind::Headers),
        ] {
            group.bench_function(format!("{name}/{count}"), |b| {
                b.iter(|| routing::route(kind, black_box(&bindings), "stock.7.nyse.ibm", &headers));
            });
        }
    }
    group.finish();
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("resp");
    let one = format!("$400\r\n{}\r\n", "x".repeat(400));
    let burst = one.repeat(50);
    let array = format!("*50\r\n{burst}");
    for (name, text, values) in [("50 strings", &burst, 50), ("array of 50", &array, 1)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched(
                || BytesMut::from(text.as_bytes()),
                |mut buffer| {
                    let mut parser = Parser::default();
                    for _ in 0..values {
                        black_box(parser.decode(&mut buffer).expect("valid").expect("complete"));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn memory(c: &mut Criterion) {
    let open: virt::Opener = Arc::new(|| {
        let url = Url::parse("memory://")?;
        schemes::open(&url, &schemes::Options::new())
    });
    let connection = virt::Connection::new(&open).expect("memory has nothing to refuse");
    let channel = task::run(connection.open_channel()).expect("open a channel");
    let queue: Name = "bench".into();
    task::run(async {
        let declared = Queue { name: queue.clone(), ..Queue::default() };
        channel.queue_declare(&declared, false).await
    })
    .expect("declare");
    let message = message(200, "bench");

    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Elements(1));
    group.bench_function("publish", |b| {
        b.iter(|| task::run(channel.publish(vec![message.clone()])).expect("publish"));
        task::run(channel.queue_purge(&queue)).expect("purge");
    });
    group.bench_function("publish, get and ack", |b| {
        b.iter(|| {
            task::run(async {
                channel.publish(vec![message.clone()]).await?;
                let delivery = channel.get(&queue, false).await?.expect("just published");
                channel.ack(&delivery.claim.tag, false).await
            })
        });
    });
    for prefetch in [1, 100] {
        task::run(consume(&*channel, &queue, prefetch)).expect("consume");
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("publish, consume and ack 100, prefetch {prefetch}"), |b| {
            b.iter(|| {
                task::run(channel.publish(vec![message.clone(); 100])).expect("publish");
                for _ in 0..100 {
                    let event = task::run(connection.next()).expect("an event");
                    task::run(channel.ack(&event.delivery.claim.tag, false)).expect("ack");
                }
            });
        });
        task::run(channel.cancel("bench")).expect("cancel");
    }
    group.finish();
}

async fn consume(
    channel: &dyn Channel,
    queue: &Name,
    prefetch: u32,
) -> kombu_rs::error::Result<()> {
    channel.qos(prefetch).await?;
    let options = ConsumeOptions {
        queue: queue.clone(),
        consumer_tag: "bench".into(),
        no_ack: false,
        arguments: Json::empty_object(),
    };
    channel.consume(options).await
}

fn clients(c: &mut Criterion) {
    let open = || {
        let connection = client::Connection::new("memory://", &schemes::Options::new());
        Arc::new(connection.expect("memory has nothing to refuse"))
    };
    let queue = Queue { name: "bench-client".into(), ..Queue::default() };
    let producer = client::Producer::new(open(), None);
    let consumer = client::Consumer::new(open(), vec![queue], false, 100);
    let message = message(200, "bench-client");
    let soon = || Instant::now() + Duration::from_secs(30);

    let mut group = c.benchmark_group("client");
    group.throughput(Throughput::Elements(1));
    group.bench_function("publish, consume and ack", |b| {
        b.iter(|| {
            task::run(async {
                producer.publish(vec![message.clone()], soon()).await?;
                consumer.next(soon()).await?.ack().await
            })
            .expect("there and back");
        });
    });
    group.finish();
}

/// Messages of a turn: as many as are in flight.
const WINDOW: usize = 100;

fn amqp(c: &mut Criterion) {
    let Ok(server) = std::env::var("KOMBU_RS_TEST_RABBITMQ") else { return };
    let mut group = c.benchmark_group("amqp");
    group.throughput(Throughput::Elements(WINDOW as u64));
    ours(&server, &mut group);
    lapins(&server, &mut group);
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn ours(server: &str, group: &mut Group<'_>) {
    let queue: Name = format!("bench-{}", kombu_rs::io::identity::unique()).into();
    let mut options = schemes::Options::new();
    options.insert("confirm_publish".into(), true.into());
    let url = Url::parse(server).expect("a URL");
    let connection = schemes::connect(&url, &options).expect("options").expect("AMQP");
    let channel = task::run(connection.open_channel()).expect("open a channel");
    let declared = Queue { name: queue.clone(), auto_delete: true, ..Queue::default() };
    task::run(channel.queue_declare(&declared, false)).expect("declare");
    let mut message = message(200, &queue);
    message.properties.priority = None;
    let publish = || task::run(channel.publish(vec![message.clone(); WINDOW])).expect("publish");

    group.bench_function("publish 100, confirmed/kombu-rs", |b| b.iter(publish));
    task::run(channel.queue_purge(&queue)).expect("purge");
    task::run(consume(&*channel, &queue, WINDOW as u32)).expect("consume");
    group.bench_function("publish 100, confirmed, consume and ack/kombu-rs", |b| {
        b.iter(|| {
            publish();
            for _ in 0..WINDOW {
                let event = task::run(connection.next()).expect("an event");
                task::run(channel.ack(&event.delivery.claim.tag, false)).expect("ack");
            }
        });
    });
}

fn lapins(server: &str, group: &mut Group<'_>) {
    use lapin::options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions,
    };
    use lapin::types::{FieldTable, ShortString};

    let queue = ShortString::from(format!("bench-{}", kombu_rs::io::identity::unique()));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    let (_connection, channel) = runtime.block_on(async {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(server, properties).await.expect("connect");
        let channel = connection.create_channel().await.expect("open a channel");
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.expect("confirm.select");
        let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.clone(), options, FieldTable::default());
        declared.await.expect("declare");
        channel.basic_qos(WINDOW as u16, BasicQosOptions::default()).await.expect("qos");
        (connection, channel)
    });
    let mut headers = FieldTable::default();
    let told: serde_json::Value = serde_json::from_str(HEADERS).expect("JSON");
    for (name, value) in told.as_object().expect("an object") {
        if let Some(text) = value.as_str() {
            headers.insert(name.as_str().into(), lapin::types::AMQPValue::LongString(text.into()));
        }
    }
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2);
    let body = [b'x'; 200];
    let publish = || {
        runtime.block_on(async {
            let mut confirms = Vec::with_capacity(WINDOW);
            for _ in 0..WINDOW {
                let options = BasicPublishOptions::default();
                let (key, properties) = (queue.clone(), properties.clone());
                let sent = channel.basic_publish("".into(), key, options, &body, properties);
                confirms.push(sent.await.expect("publish"));
            }
            for confirm in confirms {
                confirm.await.expect("a confirm");
            }
        });
    };

    group.bench_function("publish 100, confirmed/lapin", |b| b.iter(publish));
    let (acked, wait) = mpsc::channel();
    runtime.block_on(async {
        let purge = channel.queue_purge(queue.clone(), QueuePurgeOptions::default());
        purge.await.expect("purge");
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default());
        consumer.await.expect("consume").set_delegate(
            move |delivery: lapin::message::DeliveryResult| {
                let acked = acked.clone();
                async move {
                    if let Ok(Some(delivery)) = delivery {
                        delivery.ack(BasicAckOptions::default()).await.expect("ack");
                        let _ = acked.send(()); // the bench may be over
                    }
                }
            },
        );
    });
    group.bench_function("publish 100, confirmed, consume and ack/lapin", |b| {
        b.iter(|| {
            publish();
            for _ in 0..WINDOW {
                wait.recv().expect("an event");
            }
        });
    });
}

criterion_group!(benches, envelopes, texts, urls, routes, replies, memory, clients, amqp);
criterion_main!(benches);
