use super::*;
use crate::protocol::amqp::encode;
use amq_protocol::frame::{AMQPFrame, gen_frame};
use amq_protocol::protocol::{basic, channel, connection, queue};
use proptest::prelude::*;

const FRAME_MAX: u32 = 4096;

/// Everything that the pieces hold, and whether it went wrong behind.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<String>) {
    let (mut decoder, mut buffer, mut events) =
        (AmqpDecoder::new(FRAME_MAX), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error.to_string())),
            }
        }
    }
    (events, None)
}

fn method(channel: u16, class: AMQPClass) -> Vec<u8> {
    let mut out = Vec::new();
    encode::method(channel, class, &mut out).unwrap();
    out
}

/// A message as the broker sends it: like a publish, with another method in front.
fn content(channel: u16, head: basic::AMQPMethod, body: &[u8]) -> Vec<u8> {
    let mut message = Message { body: Bytes::copy_from_slice(body), ..Message::default() };
    message.content_type = Some("text/plain".into());
    message.headers = Json::from_valid(r#"{"n": [1, {"deep": null}]}"#);
    let mut published = Vec::new();
    encode::publish(channel, FRAME_MAX, &message, false, &mut published).unwrap();
    let publish = u32::from_be_bytes(published[3..7].try_into().unwrap()) as usize + 8;
    let mut out = method(channel, AMQPClass::Basic(head));
    out.extend_from_slice(&published[publish..]);
    out
}

fn deliver(channel: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    let head = basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: "c".into(),
        delivery_tag: tag,
        redelivered: tag.is_multiple_of(2),
        exchange: "e".into(),
        routing_key: "k".into(),
    });
    content(channel, head, body)
}

fn texts(events: &[Event]) -> Vec<(u16, String)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Content(channel, content) => {
                Some((*channel, String::from_utf8_lossy(&content.message.body).into_owned()))
            }
            _ => None,
        })
        .collect()
}

/// One of everything, with a body over several frames.
fn stream() -> Vec<u8> {
    let tune = connection::Tune { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 60 };
    let mut all = method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
    all.extend(deliver(1, 1, b"one"));
    all.extend_from_slice(encode::HEARTBEAT);
    all.extend(deliver(2, 2, &[b'x'; 9000]));
    let get_ok = basic::AMQPMethod::GetOk(basic::GetOk {
        delivery_tag: 3,
        redelivered: true,
        exchange: "".into(),
        routing_key: "q".into(),
        message_count: 7,
    });
    all.extend(content(1, get_ok, b""));
    let returned = basic::AMQPMethod::Return(basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "e".into(),
        routing_key: "k".into(),
    });
    all.extend(content(3, returned, b"back"));
    let ack = basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 4, multiple: true });
    all.extend(method(3, AMQPClass::Basic(ack)));
    all
}

#[test]
fn everything_is_read() {
    let (events, error) = decode([&stream()[..]]);
    assert_eq!(error, None);
    assert_eq!(events.len(), 7);
    let Event::Content(1, first) = &events[1] else { panic!("{:?}", events[1]) };
    assert_eq!(first.head, Head::Delivered { consumer_tag: "c".into(), tag: 1 });
    assert_eq!(&*first.message.properties.exchange, "e");
    assert_eq!(&*first.message.properties.routing_key, "k");
    assert_eq!(first.message.content_type.as_deref(), Some("text/plain"));
    assert_eq!(first.message.headers, Json::from_valid(r#"{"n": [1, {"deep": null}]}"#));
    assert!(!first.message.redelivered);
    assert_eq!(events[2], Event::Heartbeat);
    let Event::Content(2, large) = &events[3] else { panic!("{:?}", events[3]) };
    assert!(large.message.body == vec![b'x'; 9000] && large.message.redelivered);
    let Event::Content(1, got) = &events[4] else { panic!("{:?}", events[4]) };
    assert_eq!(got.head, Head::Got { tag: 3, left: 7 });
    let Event::Content(3, back) = &events[5] else { panic!("{:?}", events[5]) };
    assert_eq!(back.head, Head::Returned { code: 312, text: "NO_ROUTE".into() });
    let Event::Method(3, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) = &events[6] else {
        panic!("{:?}", events[6])
    };
    assert!(ack.multiple && ack.delivery_tag == 4);
}

#[test]
fn every_cut_means_the_same() {
    let stream = stream();
    let whole = decode([&stream[..]]);
    for at in 0..stream.len() {
        let (left, right) = stream.split_at(at);
        assert!(decode([left, right]) == whole, "cut at {at}");
    }
    assert!(decode(stream.chunks(1)) == whole);
}

#[test]
fn channels_interleave_their_frames() {
    let (one, two) = (deliver(1, 1, &[b'1'; 5000]), deliver(2, 2, &[b'2'; 10]));
    // Behind the first body frame of channel 1.
    let first = one.len() - (5000 - 4088) - 8;
    let stream = [&one[..first], &two[..], &one[first..]].concat();
    let (events, error) = decode([&stream[..]]);
    assert_eq!(error, None);
    let texts = texts(&events);
    assert_eq!((texts[0].0, texts[0].1.len()), (2, 10));
    assert_eq!((texts[1].0, texts[1].1.len()), (1, 5000));
}

#[test]
fn what_does_not_belong_is_an_error() {
    let frame = |kind, channel, payload: &[u8]| {
        let mut out = vec![kind, 0, channel];
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend_from_slice(payload);
        out.push(END);
        out
    };
    let delivery = deliver(1, 1, b"body");
    let ack = method(
        1,
        AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: "c".into() })),
    );
    let declare = queue::AMQPMethod::Declare(queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Default::default(),
    });
    let mut garbled = ack.clone();
    *garbled.last_mut().unwrap() = 0;
    let body_at = delivery.len() - 4 - 8;
    for (stream, why) in [
        (frame(9, 0, b""), "unknown type 9"),
        (b"\x01\0\0\x7f\xff\xff\xff".to_vec(), "where 4096 were agreed upon"),
        (garbled, "without its end"),
        (frame(1, 1, b"\0\x3c"), "ends in the middle"),
        (frame(1, 1, b"\0\x3c\0\x63"), "60.99"),
        (frame(1, 1, b"\0\x14\0\x0b"), "20.11"),
        (frame(1, 0, b""), "ends in the middle"),
        (frame(2, 1, b""), "a content header"),
        (frame(2, 1, &[0; 14]), "a content header"),
        (frame(3, 1, b""), "a part of a body"),
        (frame(8, 1, b""), "a heartbeat of 0 bytes came unexpectedly by channel 1"),
        (frame(8, 0, b"x"), "a heartbeat of 1 bytes"),
        (frame(3, 1, b"x"), "a part of a body"),
        ([&delivery[..body_at], &ack[..]].concat(), "in the middle of a message"),
        ([&delivery[..body_at], &frame(3, 1, b"too long")[..]].concat(), "longer than its header"),
        (method(1, AMQPClass::Queue(declare)), "50.10"),
        (b"ABCDEFGH".to_vec(), "does not speak AMQP"),
    ] {
        let (_, error) = decode([&stream[..]]);
        let error = error.unwrap_or_else(|| panic!("no error for {why}"));
        assert!(error.contains(why), "{error}: expected {why}");
    }
}

#[test]
fn another_version_is_told() {
    assert_eq!(decode([&b"AMQP\0\x01\0\0"[..]]).0, [Event::Version([1, 0, 0])]);
    assert_eq!(decode([&b"AMQP"[..]]), (vec![], None));
}

#[test]
fn a_closed_channel_says_why() {
    let close = channel::Close {
        reply_code: 404,
        reply_text: "NOT_FOUND - no queue 'q' in vhost '/'".into(),
        class_id: 50,
        method_id: 10,
    };
    let class = AMQPClass::Channel(channel::AMQPMethod::Close(close));
    assert_eq!(decode([&method(3, class.clone())[..]]).0, [Event::Method(3, class)]);
}

#[test]
fn the_body_of_a_liar_takes_no_room() {
    let stream = deliver(1, 1, b"body");
    let size_at = stream.windows(8).position(|w| w == 4u64.to_be_bytes()).expect("the size");
    let mut lie = stream.clone();
    lie[size_at..size_at + 8].copy_from_slice(&(1u64 << 30).to_be_bytes());
    assert_eq!(decode([&lie[..]]), (vec![], None));
    lie[size_at..size_at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(decode([&lie[..]]).1.unwrap().contains("is announced"));
}

/// However large a body is said to be, and on however many channels.
#[test]
fn room_is_made_for_what_comes() {
    let whole = deliver(1, 1, &[b'x'; 3000]);
    let size_at = whole.windows(8).position(|w| w == 3000u64.to_be_bytes()).expect("the size");
    let (mut decoder, mut buffer) = (AmqpDecoder::new(FRAME_MAX), BytesMut::new());
    for channel in 1..200u16 {
        let mut lie = deliver(channel, 1, &[b'x'; 3000]);
        lie[size_at..size_at + 8].copy_from_slice(&(1u64 << 30).to_be_bytes());
        buffer.extend_from_slice(&lie);
        assert_eq!(decoder.decode(&mut buffer).unwrap(), None);
        let room = decoder.contents[&channel].body.capacity();
        assert!((3000..=3000 * ROOM + 64).contains(&room), "{room} bytes of room");
    }
}

#[test]
fn empty_parts_of_a_body_add_nothing() {
    let whole = deliver(1, 1, b"body");
    let (head, body) = whole.split_at(whole.len() - 4 - OVERHEAD);
    let empty = [3, 0, 1, 0, 0, 0, 0, END];
    let stream = [head, &empty, &empty, body].concat();
    assert_eq!(texts(&decode([&stream[..]]).0), [(1, "body".to_owned())]);
}

/// In the headers of a message, where a peer puts what it likes.
#[test]
fn deep_headers_are_an_error() {
    let mut value = vec![b'V'];
    while value.len() < 3000 {
        let mut outer = vec![b'A'];
        outer.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        outer.append(&mut value);
        value = outer;
    }
    let mut payload =
        [&60u16.to_be_bytes()[..], &[0; 2], &[0; 8], &(1u16 << 13).to_be_bytes()].concat();
    payload.extend_from_slice(&u32::try_from(value.len() + 2).unwrap().to_be_bytes());
    payload.extend_from_slice(b"\x01a");
    payload.append(&mut value);
    let whole = deliver(1, 1, b"");
    let method = u32::from_be_bytes(whole[3..7].try_into().unwrap()) as usize + OVERHEAD;
    let mut stream = whole[..method].to_vec();
    stream.extend_from_slice(&[2, 0, 1]);
    stream.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    stream.append(&mut payload);
    stream.push(END);
    assert!(decode([&stream[..]]).1.unwrap().contains("nested deeper"));
}

/// What a broker says first, with a table of its own; then frames of another size.
#[test]
fn a_handshake_means_the_same_however_it_is_cut() {
    let table = b"\0\0\0\x10\x01aF\0\0\0\x09\x01bA\0\0\0\x02t\x01";
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    payload.extend_from_slice(table);
    payload.extend_from_slice(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
    let mut stream = vec![1, 0, 0];
    stream.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    stream.append(&mut payload);
    stream.push(END);
    stream.extend(self::stream());
    let whole = decode([&stream[..]]);
    let Event::Start(start) = &whole.0[0] else { panic!("{:?}", whole.0[0]) };
    assert_eq!(start.properties, Json::from_valid(r#"{"a": {"b": [true]}}"#));
    assert_eq!((whole.0.len(), &whole.1), (8, &None));
    for at in 0..stream.len().min(400) {
        let (left, right) = stream.split_at(at);
        assert!(decode([left, right]) == whole, "cut at {at}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        decode([&bytes[..]]);
    }

    #[test]
    fn garbled_streams_never_panic(at in 0usize..10_000, byte: u8, size in 1usize..500) {
        let mut stream = stream();
        let at = at % stream.len();
        stream[at] = byte;
        prop_assert_eq!(decode([&stream[..]]), decode(stream.chunks(size)));
    }

    /// As `amq-protocol` and so lapin writes it.
    #[test]
    fn bodies_of_any_size(sizes in proptest::collection::vec(0usize..9000, 1..5), cut in 1usize..5000) {
        let mut stream = Vec::new();
        for (tag, size) in sizes.iter().enumerate() {
            let body = vec![tag as u8; *size];
            stream.extend(deliver(1, tag as u64, &body));
            let heartbeat = gen_frame(&AMQPFrame::Heartbeat)(Vec::new().into()).unwrap();
            stream.extend(heartbeat.into_inner().0);
        }
        let (events, error) = decode(stream.chunks(cut));
        prop_assert_eq!(error, None);
        let read: Vec<usize> = texts(&events).iter().map(|(_, text)| text.len()).collect();
        prop_assert_eq!(read, sizes);
    }
}
