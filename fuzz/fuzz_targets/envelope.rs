//! An envelope is a message or an error; what we write of the message is read as the same message.
#![no_main]

use bytes::Bytes;
use kombu_rs::codec::envelope::{decode, encode};
use kombu_rs::error::ErrorKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match decode(Bytes::copy_from_slice(data)) {
        Ok(message) => {
            let once = decode(encode(&message).into()).expect("we wrote it");
            assert_eq!(once.body, message.body);
            assert_eq!(once.redelivered, message.redelivered);
            // Marks of redelivery and white space around members settle in the first round.
            assert_eq!(decode(encode(&once).into()).expect("we wrote it"), once);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Decode),
    }
});
