//! What tests on a RabbitMQ node need: `KOMBU_RS_TEST_RABBITMQ` is its URL; `make test` starts one.
#![allow(dead_code, reason = "each file of tests needs some of it")]

use kombu_rs::error::{Error, Result};
use kombu_rs::io::{identity, task};
use kombu_rs::model::{Json, Message, Name, Queue};
use kombu_rs::transport::schemes::{self, Options};
use kombu_rs::transport::{Channel, Connection, ConsumeOptions, Event, Url};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(60);

pub fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: see `make test-rust`"))
}

pub fn connect_with(options: Value) -> Arc<dyn Connection> {
    let url = Url::parse(&server("KOMBU_RS_TEST_RABBITMQ")).unwrap();
    connect_to(&url, options).unwrap()
}

pub fn connect_to(url: &Url, options: Value) -> Result<Arc<dyn Connection>> {
    let Value::Object(options) = options else { panic!("not an object: {options}") };
    let options: Options = options;
    Ok(schemes::connect(url, &options)?.expect("it speaks AMQP"))
}

pub fn connect() -> Arc<dyn Connection> {
    connect_with(json!({"confirm_publish": true}))
}

pub fn unique(what: &str) -> Name {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{number}", identity::unique()).into()
}

pub fn message(key: &Name, body: impl Into<Vec<u8>>) -> Message {
    let mut message = Message { body: body.into().into(), ..Message::default() };
    message.properties.routing_key = key.clone();
    message
}

pub fn to_exchange(exchange: &Name, key: &str, body: &str) -> Message {
    let mut message = message(&key.into(), body);
    message.properties.exchange = exchange.clone();
    message
}

pub async fn declare(channel: &Arc<dyn Channel>, name: &Name, arguments: &str) -> Result<()> {
    let mut queue = Queue { name: name.clone(), durable: true, ..Queue::default() };
    queue.options.arguments = Json::parse(arguments.to_owned())?;
    channel.queue_declare(&queue, false).await.map(drop)
}

pub async fn consume(channel: &Arc<dyn Channel>, queue: &Name) -> Result<()> {
    channel.consume(consumer(queue, "{}")).await
}

pub fn consumer(queue: &Name, arguments: &str) -> ConsumeOptions {
    ConsumeOptions {
        queue: queue.clone(),
        consumer_tag: queue.clone(),
        no_ack: false,
        arguments: Json::parse(arguments.to_owned()).unwrap(),
    }
}

pub async fn next(connection: &Arc<dyn Connection>) -> Result<Event> {
    match task::timeout_at(Instant::now() + LIMIT, connection.next()).await {
        Some(event) => event,
        None => Err(Error::timeout("no message came")),
    }
}

pub async fn is_quiet(connection: &Arc<dyn Connection>) -> bool {
    let soon = Instant::now() + Duration::from_millis(50);
    task::timeout_at(soon, connection.next()).await.is_none()
}

pub fn text(event: &Event) -> String {
    String::from_utf8_lossy(&event.delivery.message.body).into_owned()
}
