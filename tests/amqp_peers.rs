//! lapin, another native client, on the same queues of a RabbitMQ node (`KOMBU_RS_TEST_RABBITMQ`): what
//! one publishes the other reads.
#![cfg(feature = "amqp")]

use kombu_rs::error::Result;
use kombu_rs::io::{identity, task};
use kombu_rs::model::{Json, Message, Name, Properties, Queue};
use kombu_rs::transport::schemes::{self, Options};
use kombu_rs::transport::{Channel, Connection, Url};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, ConnectionProperties};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// 2020-01-02 03:04:05 UTC.
const SECONDS: u64 = 1_577_934_245;

fn server() -> String {
    std::env::var("KOMBU_RS_TEST_RABBITMQ")
        .expect("KOMBU_RS_TEST_RABBITMQ is not set: see `make test-rust`")
}

/// Both clients at one queue.
struct Pair {
    queue: Name,
    ours: Arc<dyn Channel>,
    theirs: lapin::Channel,
    _connections: (Arc<dyn Connection>, lapin::Connection),
    runtime: tokio::runtime::Runtime,
}

impl Pair {
    fn new(arguments: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let queue: Name = format!("peers-{}-{number}", identity::unique()).into();

        let Value::Object(options) = json!({"confirm_publish": true}) else { unreachable!() };
        let options: Options = options;
        let url = Url::parse(&server()).unwrap();
        let connection = schemes::connect(&url, &options).unwrap().expect("it speaks AMQP");
        let ours = task::run(connection.open_channel()).unwrap();
        let (durable, auto_delete) = (true, true);
        let mut declared = Queue { name: queue.clone(), durable, auto_delete, ..Queue::default() };
        declared.options.arguments = Json::parse(arguments.to_owned()).unwrap();
        task::run(ours.queue_declare(&declared, false)).unwrap();

        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let (their_connection, theirs) = runtime.block_on(async {
            let properties = ConnectionProperties::default();
            let connection = lapin::Connection::connect(&server(), properties).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Self { queue, ours, theirs, _connections: (connection, their_connection), runtime }
    }

    fn message(&self, body: impl Into<Vec<u8>>) -> Message {
        let properties = Properties { routing_key: self.queue.clone(), ..Properties::default() };
        Message { body: body.into().into(), properties, ..Message::default() }
    }

    fn we_publish(&self, message: Message) {
        task::run(self.ours.publish(vec![message])).unwrap();
    }

    fn they_publish(&self, body: &[u8], properties: BasicProperties) {
        let confirmed = self.runtime.block_on(async {
            let (key, options) = (ShortString::from(&*self.queue), BasicPublishOptions::default());
            let sent = self.theirs.basic_publish("".into(), key, options, body, properties);
            sent.await.unwrap().await.unwrap()
        });
        assert_eq!(confirmed, Confirmation::Ack(None));
    }

    /// The next message, by us, acknowledged.
    fn we_get(&self) -> Message {
        let got = task::run(async {
            let Some(delivery) = self.ours.get(&self.queue, false).await? else { return Ok(None) };
            self.ours.ack(&delivery.claim.tag, false).await?;
            Result::Ok(Some(delivery.message))
        });
        got.unwrap().expect("a message")
    }

    /// The next message, by them, not acknowledged.
    fn they_get(&self) -> Delivery {
        let end = Instant::now() + LIMIT;
        let queue = ShortString::from(&*self.queue);
        self.runtime.block_on(async {
            loop {
                let options = BasicGetOptions::default();
                match self.theirs.basic_get(queue.clone(), options).await.unwrap() {
                    Some(got) => return got.delivery,
                    None => assert!(Instant::now() < end, "no message came"),
                }
            }
        })
    }

    fn they_take(&self) -> Delivery {
        let got = self.they_get();
        self.runtime.block_on(got.ack(BasicAckOptions::default())).unwrap();
        got
    }
}

fn parsed(json: &Json) -> Value {
    serde_json::from_slice(json.as_bytes()).unwrap()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn typed(kind: &str, value: &str) -> Value {
    json!({"__type__": kind, "__value__": value})
}

#[test]
fn they_read_our_properties_and_every_type_of_header() {
    let pair = Pair::new("{}");
    let mut message = pair.message("{}");
    message.content_type = Some("application/json".into());
    message.content_encoding = Some("utf-8".into());
    message.properties.priority = Some(7);
    message.properties.expiration = Some(60_000);
    message.properties.extra = Json::parse(
        json!({
            "delivery_mode": 2, "correlation_id": "c", "reply_to": "r", "message_id": "m",
            "timestamp": SECONDS, "type": "t", "user_id": "guest", "app_id": "a", "cluster_id": "i",
        })
        .to_string(),
    )
    .unwrap();
    message.headers = Json::parse(
        json!({
            "true": true, "small": -7, "large": 1i64 << 40, "float": 0.5, "text": "Grüße", "null": null,
            "bytes": typed("base64", "AP8="), "decimal": typed("decimal", "1.25"),
            "date": typed("datetime", "2020-01-02T03:04:05"), "list": [1, "x", [false]],
            "table": {"inner": {"deep": "y"}},
        })
        .to_string(),
    )
    .unwrap();
    pair.we_publish(message);

    let mut deep = FieldTable::default();
    deep.insert("deep".into(), text("y"));
    let mut table = FieldTable::default();
    table.insert("inner".into(), AMQPValue::FieldTable(deep));
    let inner = FieldArray::from(vec![AMQPValue::Boolean(false)]);
    let list = vec![AMQPValue::LongInt(1), text("x"), AMQPValue::FieldArray(inner)];
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("true", AMQPValue::Boolean(true)),
        ("small", AMQPValue::LongInt(-7)),
        ("large", AMQPValue::LongLongInt(1 << 40)),
        ("float", AMQPValue::Double(0.5)),
        ("text", text("Grüße")),
        ("null", AMQPValue::Void),
        ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0, 255]))),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 125 })),
        ("date", AMQPValue::Timestamp(SECONDS)),
        ("list", AMQPValue::FieldArray(FieldArray::from(list))),
        ("table", AMQPValue::FieldTable(table)),
    ] {
        headers.insert(name.into(), value);
    }
    let expected = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(7)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("m".into())
        .with_timestamp(SECONDS)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("a".into())
        .with_cluster_id("i".into());
    let got = pair.they_take();
    assert_eq!(got.properties, expected);
    assert_eq!(&got.data[..], b"{}");
    assert_eq!((got.routing_key.as_str(), got.redelivered), (&*pair.queue, false));
}

#[test]
fn we_read_their_properties_and_every_type_of_header() {
    let pair = Pair::new("{}");
    let mut table = FieldTable::default();
    table.insert("deep".into(), AMQPValue::Void);
    let list = vec![AMQPValue::ShortShortInt(-1), AMQPValue::FieldTable(table.clone())];
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("t", AMQPValue::Boolean(false)),
        ("b", AMQPValue::ShortShortInt(i8::MIN)),
        ("B", AMQPValue::ShortShortUInt(u8::MAX)),
        ("s", AMQPValue::ShortInt(i16::MIN)),
        ("u", AMQPValue::ShortUInt(u16::MAX)),
        ("I", AMQPValue::LongInt(i32::MIN)),
        ("i", AMQPValue::LongUInt(u32::MAX)),
        ("l", AMQPValue::LongLongInt(i64::MIN)),
        ("f", AMQPValue::Float(-0.25)),
        ("d", AMQPValue::Double(1e300)),
        ("D", AMQPValue::DecimalValue(DecimalValue { scale: 3, value: 1_005 })),
        ("S", text("Grüße \"\\\n")),
        ("x", AMQPValue::ByteArray(ByteArray::from(vec![0, 255]))),
        ("T", AMQPValue::Timestamp(SECONDS)),
        ("A", AMQPValue::FieldArray(FieldArray::from(list))),
        ("F", AMQPValue::FieldTable(table)),
        ("V", AMQPValue::Void),
    ] {
        headers.insert(name.into(), value);
    }
    let properties = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("latin-1".into())
        .with_headers(headers)
        .with_delivery_mode(1)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("m".into())
        .with_timestamp(SECONDS)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("a".into())
        .with_cluster_id("i".into());
    pair.they_publish(b"\xe9", properties);

    let got = pair.we_get();
    assert_eq!(&got.body[..], b"\xe9");
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    assert_eq!(got.content_encoding.as_deref(), Some("latin-1"));
    assert_eq!((got.properties.priority, got.properties.expiration), (Some(3), Some(60_000)));
    let date = typed("datetime", "2020-01-02T03:04:05");
    let extra = json!({
        "delivery_mode": 1, "correlation_id": "c", "reply_to": "r", "message_id": "m",
        "timestamp": date, "type": "t", "user_id": "guest", "app_id": "a", "cluster_id": "i",
    });
    assert_eq!(parsed(&got.properties.extra), extra);
    let headers = json!({
        "t": false, "b": i8::MIN, "B": u8::MAX, "s": i16::MIN, "u": u16::MAX, "I": i32::MIN,
        "i": u32::MAX, "l": i64::MIN, "f": -0.25, "d": 1e300, "D": typed("decimal", "1.005"),
        "S": "Grüße \"\\\n", "x": typed("base64", "AP8="), "T": date,
        "A": [-1, {"deep": null}], "F": {"deep": null}, "V": null,
    });
    assert_eq!(parsed(&got.headers), headers);
}

/// Bodies of any bytes and sizes: empty, compressed (Kombu names the method in a header), and of more
/// frames than one.
#[test]
fn bodies_arrive_as_they_are() {
    let pair = Pair::new("{}");
    let any: Vec<u8> =
        (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let zipped = b"x\x9c\xabV*H,.V\xb2R\xaf\x05\0\x11\xf3\x03\x3d".to_vec();
    for body in [Vec::new(), b"\0\xce\xff".to_vec(), zipped, any] {
        let mut message = pair.message(body.clone());
        message.content_type = Some("application/data".into());
        message.content_encoding = Some("binary".into());
        message.headers = Json::from_valid(r#"{"compression": "application/x-gzip"}"#);
        pair.we_publish(message.clone());
        let got = pair.they_take();
        assert_eq!(got.data, body);
        // Theirs, with what they have read.
        pair.they_publish(&got.data, got.properties);
        let back = pair.we_get();
        assert_eq!(back.body, body);
        assert_eq!(back.content_encoding, message.content_encoding);
        assert_eq!(parsed(&back.headers), parsed(&message.headers));
    }
}

#[test]
fn priorities_count_whoever_publishes() {
    let pair = Pair::new(r#"{"x-max-priority": 10}"#);
    let body = |priority: u8| format!("priority {priority}");
    for priority in [1, 9, 5, 4, 8] {
        if priority % 2 == 1 {
            let properties = BasicProperties::default().with_priority(priority);
            pair.they_publish(body(priority).as_bytes(), properties);
        } else {
            let mut message = pair.message(body(priority));
            message.properties.priority = Some(i64::from(priority));
            pair.we_publish(message);
        }
    }
    for (turn, priority) in [9, 8, 5, 4, 1].into_iter().enumerate() {
        let got = match turn % 2 {
            0 => pair.we_get().body.to_vec(),
            _ => pair.they_take().data,
        };
        assert_eq!(got, body(priority).as_bytes());
    }
}

#[test]
fn what_one_gives_back_the_other_gets() {
    let pair = Pair::new("{}");
    pair.we_publish(pair.message("x"));
    let got = pair.they_get();
    let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    pair.runtime.block_on(got.nack(back)).unwrap();
    let end = Instant::now() + LIMIT;
    let ours = loop {
        match task::run(pair.ours.get(&pair.queue, false)).unwrap() {
            Some(ours) => break ours,
            None => assert!(Instant::now() < end, "no message came"),
        }
    };
    assert!(ours.message.redelivered);
    task::run(pair.ours.reject(&ours.claim.tag, true)).unwrap();
    assert!(pair.they_take().redelivered);
}
