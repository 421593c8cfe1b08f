//! A broker that does what a test says, frame by frame.

use crate::protocol::amqp::encode;
use crate::protocol::amqp::{
    AMQPClass, AMQPFrame, basic, channel, confirm, connection, parse_frame,
};
use crate::transport::{self, Url};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// One client's connection, seen from the broker.
pub(super) struct Fake {
    stream: TcpStream,
    input: Vec<u8>,
}

/// Listens, and has `script` play the broker for the first client.
pub(super) fn broker(
    options: Value,
    script: impl FnOnce(Fake) + Send + 'static,
) -> (Arc<dyn transport::Connection>, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let played = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        script(Fake { stream, input: Vec::new() });
    });
    let url = Url::parse(&format!("amqp://127.0.0.1:{port}//")).unwrap();
    let Value::Object(options) = options else { panic!("not an object") };
    (super::super::open(&url, &options).unwrap(), played)
}

pub(super) fn of_connection(method: connection::AMQPMethod) -> AMQPClass {
    AMQPClass::Connection(method)
}

impl Fake {
    /// Sends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes while the client takes them; what it does not take.
    pub(super) fn push(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        self.stream.set_write_timeout(Some(Duration::from_millis(600))).unwrap();
        while let Ok(taken) = self.stream.write(&bytes) {
            bytes.drain(..taken);
            if bytes.is_empty() {
                break;
            }
        }
        self.stream.set_write_timeout(None).unwrap();
        bytes
    }

    /// The next bytes of the client.
    pub(super) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.input);
        let had = bytes.len();
        bytes.resize(count.max(had), 0);
        self.stream.read_exact(&mut bytes[had..]).unwrap();
        self.input = bytes.split_off(count);
        bytes
    }

    /// Sends a method.
    pub(super) fn say(&mut self, channel: u16, class: AMQPClass) {
        let mut out = Vec::new();
        encode::method(channel, class, &mut out).unwrap();
        self.write(&out);
    }

    /// The next frame that is no heartbeat; `None` when the client has closed.
    pub(super) fn frame(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.input[..]) {
                let left = rest.len();
                self.input.drain(..self.input.len() - left);
                if frame != AMQPFrame::Heartbeat {
                    return Some(frame);
                }
                continue;
            }
            let mut room = [0; 4096];
            match self.stream.read(&mut room) {
                Ok(0) | Err(_) => return None,
                Ok(got) => self.input.extend_from_slice(&room[..got]),
            }
        }
    }

    /// The next method, with its channel; contents are skipped.
    pub(super) fn method(&mut self) -> Option<(u16, AMQPClass)> {
        loop {
            if let AMQPFrame::Method(channel, class) = self.frame()? {
                return Some((channel, class));
            }
        }
    }

    /// Everything that the client sends until it closes.
    pub(super) fn drain_into(&mut self, bytes: &mut Vec<u8>) {
        bytes.append(&mut self.input);
        // A client that gives up may reset the connection.
        let _ = self.stream.read_to_end(bytes);
    }

    /// Opens a channel and a consumer, then does `work`.
    pub(super) fn serve_then(&mut self, work: impl FnOnce(&mut Self)) {
        loop {
            let (number, class) = self.method().expect("a method");
            let last = matches!(class, AMQPClass::Basic(basic::AMQPMethod::Consume(_)));
            let answer = answer_to(&class).unwrap_or_else(|| panic!("no answer to {class:?}"));
            self.say(number, answer);
            if last {
                return work(self);
            }
        }
    }

    /// Reads and forgets until the client closes.
    pub(super) fn swallow(&mut self) {
        while let Some((number, class)) = self.method() {
            if let Some(answer) = answer_to(&class) {
                // The client may be gone by then.
                let mut out = Vec::new();
                encode::method(number, answer, &mut out).unwrap();
                let _ = self.stream.write_all(&out);
            }
        }
    }

    /// Opens the connection, with a heartbeat of so many seconds.
    pub(super) fn welcome(&mut self, heartbeat: u16) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!(header, *encode::HEADER);
        self.say(
            0,
            of_connection(connection::AMQPMethod::Start(connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties: Default::default(),
                mechanisms: "PLAIN".as_bytes().into(),
                locales: "en_US".as_bytes().into(),
            })),
        );
        self.method().expect("start-ok");
        let tune = connection::Tune { channel_max: 100, frame_max: 131_072, heartbeat };
        self.say(0, of_connection(connection::AMQPMethod::Tune(tune)));
        self.method().expect("tune-ok");
        self.method().expect("open");
        self.say(0, of_connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})));
    }

    /// Answers until the client says something that needs a script, which is returned.
    pub(super) fn open_channels(&mut self) -> (u16, AMQPClass) {
        loop {
            let (number, class) = self.method().expect("a method");
            match answer_to(&class) {
                Some(answer) => self.say(number, answer),
                None => return (number, class),
            }
        }
    }
}

/// What a broker says to the simple ones.
pub(super) fn answer_to(class: &AMQPClass) -> Option<AMQPClass> {
    Some(match class {
        AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
        }
        AMQPClass::Confirm(_) => {
            AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
        }
        AMQPClass::Basic(basic::AMQPMethod::Qos(_)) => {
            AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {}))
        }
        AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
            let ok = basic::ConsumeOk { consumer_tag: consume.consumer_tag.clone() };
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok))
        }
        AMQPClass::Connection(connection::AMQPMethod::Close(_)) => {
            of_connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
        }
        _ => return None,
    })
}

/// Options with confirms on.
pub(super) fn confirming() -> Value {
    json!({"confirm_publish": true})
}

/// Appends a message for a consumer.
pub(super) fn delivery(out: &mut Vec<u8>, channel: u16, wire_tag: &str, tag: u64, body: &str) {
    let head = basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: wire_tag.into(),
        delivery_tag: tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "q".into(),
    });
    encode::method(channel, AMQPClass::Basic(head), out).unwrap();
    // The content is that of a publish.
    let mut frames = Vec::new();
    encode::publish(channel, 131_072, &super::message("q", body), false, &mut frames).unwrap();
    let publish = u32::from_be_bytes(frames[3..7].try_into().unwrap()) as usize + 8;
    out.extend_from_slice(&frames[publish..]);
}
