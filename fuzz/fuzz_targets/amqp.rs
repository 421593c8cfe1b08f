//! A stream of frames means the same however it is cut into pieces.
#![no_main]

use bytes::BytesMut;
use kombu_rs::protocol::Decoder;
use kombu_rs::protocol::amqp::{AmqpDecoder, Event};
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

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = decode(std::iter::once(stream));
    let pieces = decode(stream.chunks(usize::from(size).max(1)));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
});
