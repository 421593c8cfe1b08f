//! A stream of replies means the same however it is cut into pieces.
#![no_main]

use bytes::BytesMut;
use kombu_rs::protocol::Decoder;
use kombu_rs::protocol::resp::{Parser, Value};
use libfuzzer_sys::fuzz_target;

/// The replies in the stream, and whether it went wrong behind them.
fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Value>, bool) {
    let (mut parser, mut buffer, mut values) = (Parser::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.decode(&mut buffer) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(_) => return (values, true),
            }
        }
    }
    (values, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = parse(std::iter::once(stream));
    let pieces = parse(stream.chunks(usize::from(size).max(1)));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
});
