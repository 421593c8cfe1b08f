//! A stream of frames means the same however it is cut into pieces, and takes no more room than it
//! has bytes; opening a connection ends in an answer or an error whatever the broker says.
#![no_main]

use bytes::BytesMut;
use kombu_rs::model::Json;
use kombu_rs::protocol::Decoder;
use kombu_rs::protocol::amqp::{AmqpDecoder, Event, Handshake, Login, Wishes};
use libfuzzer_sys::fuzz_target;

/// The events in the stream, and whether it went wrong behind them.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, bool) {
    let (mut decoder, mut buffer, mut events) =
        (AmqpDecoder::new(131_072), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, true),
            }
        }
    }
    (events, false)
}

fn open(events: Vec<Event>) {
    let mut machine = Handshake::new(Wishes {
        login: Login::AmqPlain,
        user: "guest".into(),
        password: "guest".into(),
        vhost: "/".into(),
        properties: Json::empty_object(),
        channel_max: 0,
        frame_max: 131_072,
        heartbeat: None,
    });
    for event in events {
        if machine.on(event).is_err() {
            return;
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = decode(std::iter::once(stream));
    let pieces = decode(stream.chunks(usize::from(size).max(1)));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    open(whole.0);
});
