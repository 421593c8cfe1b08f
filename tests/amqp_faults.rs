//! Faults between us and a RabbitMQ node (`KOMBU_RS_TEST_RABBITMQ`; `make test` starts one), by a proxy
//! that swallows, cuts and garbles.
#![cfg(feature = "amqp")]

use kombu_rs::error::{Error, ErrorKind, Result};
use kombu_rs::io::{identity, task};
use kombu_rs::model::{Json, Message, Name, Queue};
use kombu_rs::transport::schemes::{self, Options};
use kombu_rs::transport::{Channel, Connection, ConsumeOptions, Event, Url};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const FRAME_END: u8 = 0xce;

/// Host and port of the node.
fn node() -> String {
    let url = std::env::var("KOMBU_RS_TEST_RABBITMQ")
        .expect("KOMBU_RS_TEST_RABBITMQ must name a RabbitMQ node: see `make test-rust`");
    url.split("://").nth(1).and_then(|rest| rest.split('/').next()).expect("a host").to_owned()
}

/// What the proxy does, to all its connections.
#[derive(Default)]
struct Faults {
    /// Bytes vanish, both ways; the connections that were open then stay dead.
    swallow: AtomicBool,
    /// The end of the frame at this place of what the node says is changed, counted over all
    /// connections; once.
    garble_at: AtomicU64,
    said: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Faults {
    /// Ends every connection.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A proxy in front of the node, and its port.
fn proxy() -> (Arc<Faults>, u16) {
    let faults = Arc::new(Faults::default());
    faults.garble_at.store(u64::MAX, Ordering::SeqCst);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ours = faults.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(node()).unwrap();
            let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
            ours.open.lock().unwrap().extend(ends);
            let (back_in, back_out) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            for (from, to, is_answer) in [(client, server, false), (back_in, back_out, true)] {
                let faults = ours.clone();
                std::thread::spawn(move || pass(&faults, from, to, is_answer));
            }
        }
    });
    (faults, port)
}

fn pass(faults: &Faults, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
    let mut room = [0; 16 << 10];
    let mut dead = false;
    while let Ok(got @ 1..) = from.read(&mut room) {
        if is_answer {
            let before = faults.said.fetch_add(got as u64, Ordering::SeqCst);
            let at = faults.garble_at.load(Ordering::SeqCst).saturating_sub(before);
            let rest = usize::try_from(at).ok().and_then(|at| room[..got].get_mut(at..));
            if let Some(end) =
                rest.and_then(|rest| rest.iter_mut().find(|byte| **byte == FRAME_END))
            {
                *end = 0;
                faults.garble_at.store(u64::MAX, Ordering::SeqCst);
            }
        }
        dead |= faults.swallow.load(Ordering::SeqCst);
        if !dead && to.write_all(&room[..got]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn connect(port: u16, options: Value) -> Arc<dyn Connection> {
    let Value::Object(options) = options else { panic!("not an object: {options}") };
    let options: Options = options;
    let url = Url::parse(&format!("amqp://127.0.0.1:{port}//")).unwrap();
    schemes::connect(&url, &options).unwrap().expect("it speaks AMQP")
}

fn unique(what: &str) -> Name {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{number}", identity::unique()).into()
}

fn message(queue: &Name, body: impl ToString) -> Message {
    let mut message = Message { body: body.to_string().into(), ..Message::default() };
    message.properties.routing_key = queue.clone();
    message
}

async fn declared(connection: &Arc<dyn Connection>, queue: &Name) -> Result<Arc<dyn Channel>> {
    let channel = connection.open_channel().await?;
    let durable = Queue { name: queue.clone(), durable: true, ..Queue::default() };
    channel.queue_declare(&durable, false).await?;
    Ok(channel)
}

async fn consume(channel: &Arc<dyn Channel>, queue: &Name) -> Result<()> {
    let options = ConsumeOptions {
        queue: queue.clone(),
        consumer_tag: "c".into(),
        no_ack: false,
        arguments: Json::empty_object(),
    };
    channel.consume(options).await
}

async fn next(connection: &Arc<dyn Connection>) -> Result<Event> {
    match task::timeout_at(Instant::now() + LIMIT, connection.next()).await {
        Some(event) => event,
        None => Err(Error::timeout("no message came")),
    }
}

/// Waits for something that another thread brings about.
fn wait_until(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_path_that_swallows_is_noticed_and_what_was_delivered_comes_again() {
    let (faults, port) = proxy();
    let queue = unique("swallowed");
    let connection = connect(port, json!({"heartbeat": 1, "confirm_publish": true}));
    let (channel, first) = task::run(async {
        let channel = declared(&connection, &queue).await?;
        channel.publish(vec![message(&queue, "x")]).await?;
        consume(&channel, &queue).await?;
        let first = next(&connection).await?;
        Ok((channel, first))
    })
    .unwrap();
    faults.swallow.store(true, Ordering::SeqCst);
    // Nobody drives: the keeper finds out.
    wait_until("the dead link is noticed", || !connection.is_connected());
    assert!(!channel.is_open());
    faults.swallow.store(false, Ordering::SeqCst);
    task::run(async {
        channel.ack(&first.delivery.claim.tag, false).await?;
        let error = next(&connection).await.expect_err("the link is lost");
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains("no sign of life"), "{error}");
        connection.connect().await?;
        let channel = connection.open_channel().await?;
        consume(&channel, &queue).await?;
        let again = next(&connection).await?;
        assert!(again.delivery.message.redelivered);
        channel.ack(&again.delivery.claim.tag, false).await?;
        connection.close().await
    })
    .unwrap();
}

#[test]
fn a_garbled_answer_ends_the_link_and_nothing_is_lost() {
    let (faults, port) = proxy();
    let queue = unique("garbled");
    let connection = connect(port, json!({"confirm_publish": true}));
    task::run(async {
        let channel = declared(&connection, &queue).await?;
        channel.publish((0..50).map(|n| message(&queue, n)).collect()).await?;
        let mut done = Vec::new();
        let mut garbled = 0;
        while done.len() < 50 {
            connection.connect().await?;
            let channel = connection.open_channel().await?;
            channel.qos(10).await?;
            // Before messages come: so no link brings more than about ten of the 50.
            let here = faults.said.load(Ordering::SeqCst);
            if garbled < 3 {
                faults.garble_at.store(here + 700, Ordering::SeqCst);
            }
            consume(&channel, &queue).await?;
            let lost = loop {
                if done.len() == 50 {
                    break None;
                }
                match next(&connection).await {
                    Ok(event) => {
                        let body = event.delivery.message.body.clone();
                        let text = String::from_utf8_lossy(&body).into_owned();
                        if !done.contains(&text) {
                            done.push(text);
                        }
                        channel.ack(&event.delivery.claim.tag, false).await?;
                    }
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = lost {
                assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
                assert!(error.to_string().contains("garbled"), "{error}");
                garbled += 1;
            }
        }
        assert_eq!(garbled, 3);
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_was_confirmed_is_there_after_cuts() {
    let (faults, port) = proxy();
    let queue = unique("cut");
    let direct = connect(port, json!({"confirm_publish": true}));
    task::run(async { declared(&direct, &queue).await.map(drop) }).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (cutter, stopped) = (faults.clone(), stop.clone());
    let cutting = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
            cutter.cut();
        }
    });
    let mut confirmed = Vec::new();
    let mut lost = 0;
    let connection = connect(port, json!({"confirm_publish": true}));
    let end = Instant::now() + LIMIT;
    let mut number = 0;
    while confirmed.len() < 150 || lost < 5 {
        assert!(Instant::now() < end, "{} confirmed, {lost} lost", confirmed.len());
        let batch: Vec<u32> = (number..number + 5).collect();
        number += 5;
        let published = task::run(async {
            let channel = connection.open_channel().await?;
            channel.publish(batch.iter().map(|n| message(&queue, n)).collect()).await?;
            channel.close(true).await
        });
        match published {
            Ok(()) => confirmed.extend(batch),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
                lost += 1;
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    cutting.join().unwrap();
    task::run(async {
        let connection = connect(port, json!({}));
        let channel = connection.open_channel().await?;
        let mut there = Vec::new();
        while let Some(delivery) = channel.get(&queue, true).await? {
            there.push(
                String::from_utf8_lossy(&delivery.message.body).parse::<u32>().expect("a number"),
            );
        }
        let missing: Vec<_> = confirmed.iter().filter(|n| !there.contains(n)).collect();
        assert!(missing.is_empty(), "confirmed, but not there: {missing:?}");
        channel.queue_delete(&queue, false, false).await.map(drop)
    })
    .unwrap();
}

#[test]
fn sixty_links_leave_nothing_behind() {
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (faults, port) = proxy();
    let connection = connect(port, json!({}));
    let mut before = 0;
    for round in 0..60 {
        task::run(async { connection.open_channel().await?.close(true).await }).unwrap();
        if round % 2 == 0 {
            faults.cut();
            task::run(next(&connection)).expect_err("the link is cut");
        } else {
            task::run(connection.close()).unwrap();
            faults.open.lock().unwrap().clear();
        }
        assert!(!connection.is_connected());
        if round == 20 {
            before = fds();
        }
    }
    // The proxy's threads close theirs a moment later, and other tests have some.
    wait_until("descriptors are closed", || fds() <= before + 40);
}
