use super::*;
use crate::error::ErrorKind;
use crate::protocol::Decoder as _;
use crate::protocol::amqp::AmqpDecoder;
use amq_protocol::frame::{AMQPFrame, parse_frame};
use bytes::BytesMut;
use proptest::prelude::*;

fn wishes() -> Wishes {
    Wishes {
        login: Login::Plain,
        user: "me".into(),
        password: "secret".into(),
        vhost: "/v".into(),
        properties: Json::from_valid(r#"{"product": "x", "capabilities": {"basic.nack": true}}"#),
        channel_max: 0,
        frame_max: 131_072,
        heartbeat: None,
    }
}

fn start(mechanisms: &str) -> Event {
    let properties = Json::from_valid(r#"{"product": "RabbitMQ"}"#);
    Event::Start(Start { properties, mechanisms: mechanisms.into() })
}

fn method(method: AMQPMethod) -> Event {
    Event::Method(0, AMQPClass::Connection(method))
}

fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> Event {
    method(AMQPMethod::Tune(connection::Tune { channel_max, frame_max, heartbeat }))
}

fn open_ok() -> Event {
    method(AMQPMethod::OpenOk(connection::OpenOk {}))
}

fn sent(step: Step) -> Vec<AMQPMethod> {
    let Step::Send(bytes) = step else { panic!("{step:?}") };
    let (mut rest, mut methods) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (left, frame) = parse_frame(rest).expect("a frame");
        let AMQPFrame::Method(0, AMQPClass::Connection(method)) = frame else {
            panic!("{frame:?}")
        };
        methods.push(method);
        rest = left;
    }
    methods
}

fn opened(wishes: Wishes, tuned: Event) -> Terms {
    let mut machine = Handshake::new(wishes);
    machine.on(start("PLAIN")).unwrap();
    machine.on(tuned).unwrap();
    match machine.on(open_ok()).unwrap() {
        Step::Open(terms) => terms,
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_connection_is_opened() {
    let mut machine = Handshake::new(wishes());
    let methods = sent(machine.on(start("AMQPLAIN PLAIN")).unwrap());
    let [AMQPMethod::StartOk(start_ok)] = &methods[..] else { panic!("{methods:?}") };
    assert_eq!(start_ok.mechanism.as_str(), "PLAIN");
    assert_eq!(start_ok.response.as_bytes(), b"\0me\0secret");
    assert!(start_ok.client_properties.contains_key("capabilities"));
    let methods = sent(machine.on(tune(2047, 131_072, 60)).unwrap());
    let [AMQPMethod::TuneOk(tune_ok), AMQPMethod::Open(open)] = &methods[..] else {
        panic!("{methods:?}")
    };
    assert_eq!((tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat), (2047, 131_072, 60));
    assert_eq!(open.virtual_host.as_str(), "/v");
    let Step::Open(terms) = machine.on(open_ok()).unwrap() else { panic!("not open") };
    assert_eq!(terms.server_properties, Json::from_valid(r#"{"product": "RabbitMQ"}"#));
}

#[test]
fn limits_are_the_smaller_ones() {
    let terms = opened(wishes(), tune(0, 0, 60));
    assert_eq!((terms.channel_max, terms.frame_max, terms.heartbeat), (u16::MAX, 131_072, 60));
    let own = Wishes { channel_max: 10, frame_max: 0, heartbeat: Some(5), ..wishes() };
    let terms = opened(own.clone(), tune(2047, 4096, 60));
    assert_eq!((terms.channel_max, terms.frame_max, terms.heartbeat), (10, 4096, 5));
    assert_eq!(opened(own, tune(2047, 4096, 0)).heartbeat, 5);
    let none = Wishes { heartbeat: Some(0), ..wishes() };
    assert_eq!(opened(none, tune(2047, 4096, 60)).heartbeat, 0);
}

#[test]
fn ways_to_log_in() {
    let log_in = |login, offered: &str| {
        let mut machine = Handshake::new(Wishes { login, ..wishes() });
        machine.on(start(offered)).map(sent)
    };
    let methods = log_in(Login::AmqPlain, "PLAIN AMQPLAIN").unwrap();
    let [AMQPMethod::StartOk(start_ok)] = &methods[..] else { panic!("{methods:?}") };
    let expected = b"\x05LOGINS\0\0\0\x02me\x08PASSWORDS\0\0\0\x06secret";
    assert_eq!(start_ok.response.as_bytes(), expected);
    let methods = log_in(Login::External, "PLAIN EXTERNAL").unwrap();
    let [AMQPMethod::StartOk(start_ok)] = &methods[..] else { panic!("{methods:?}") };
    assert!(start_ok.mechanism.as_str() == "EXTERNAL" && start_ok.response.is_empty());
    let error = log_in(Login::External, "PLAIN AMQPLAIN").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("EXTERNAL") && error.to_string().contains("PLAIN AMQPLAIN"));
}

#[test]
fn refusals_have_kinds_and_no_password() {
    for (code, text, kind) in [
        (403, "ACCESS_REFUSED - Login was refused", ErrorKind::Auth),
        (530, "NOT_ALLOWED - vhost /v not found", ErrorKind::Auth),
        (320, "CONNECTION_FORCED", ErrorKind::Connection),
    ] {
        let mut machine = Handshake::new(wishes());
        machine.on(start("PLAIN")).unwrap();
        let close = connection::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: 0,
            method_id: 0,
        };
        let error = machine.on(method(AMQPMethod::Close(close))).unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code));
        assert!(error.to_string().contains(text) && !error.to_string().contains("secret"));
    }
    assert!(!format!("{:?}", Handshake::new(wishes())).contains("secret"));
}

#[test]
fn another_version_and_other_events_are_errors() {
    let mut machine = Handshake::new(wishes());
    let error = machine.on(Event::Version([1, 0, 0])).unwrap_err();
    assert!(error.to_string().contains("1-0-0"), "{error}");
    for event in [Event::Heartbeat, open_ok(), method(AMQPMethod::CloseOk(connection::CloseOk {}))]
    {
        assert_eq!(Handshake::new(wishes()).on(event).unwrap_err().kind(), ErrorKind::Decode);
    }
}

/// As a broker may send it: the decoder and this machine together.
fn survive(bytes: &[u8]) {
    let (mut decoder, mut machine) = (AmqpDecoder::new(131_072), Handshake::new(wishes()));
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(event)) = decoder.decode(&mut buffer) {
        if machine.on(event).is_err() {
            return;
        }
    }
}

proptest! {
    #[test]
    fn garbled_handshakes_are_survived(at in 0usize..200, byte: u8, garbage: Vec<u8>) {
        let mut bytes = Vec::new();
        let start = AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: encode::arguments(&wishes().properties).unwrap(),
            mechanisms: encode::long(b"PLAIN AMQPLAIN"),
            locales: encode::long(b"en_US"),
        });
        let tune = AMQPMethod::Tune(connection::Tune { channel_max: 9, frame_max: 0, heartbeat: 9 });
        for method in [start, tune, AMQPMethod::OpenOk(connection::OpenOk {})] {
            encode::method(0, AMQPClass::Connection(method), &mut bytes).unwrap();
        }
        let at = at % bytes.len();
        bytes[at] = byte;
        survive(&bytes);
        survive(&[&bytes[..at], &garbage[..]].concat());
    }

    #[test]
    fn any_order_of_events_is_survived(order in proptest::collection::vec(0usize..6, 0..8)) {
        let mut machine = Handshake::new(wishes());
        for number in order {
            let event = match number {
                0 => start("PLAIN"),
                1 => tune(1, 1, 1),
                2 => open_ok(),
                3 => Event::Heartbeat,
                4 => Event::Version([0, 8, 0]),
                _ => method(AMQPMethod::Unblocked(connection::Unblocked {})),
            };
            if machine.on(event).is_err() {
                return Ok(());
            }
        }
    }
}
