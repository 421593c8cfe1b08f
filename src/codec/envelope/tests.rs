use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;

/// As stock Kombu 5.7 wrote it into a Redis list.
const STOCK: &str = r#"{"body": "bQ==", "content-encoding": "utf-8", "content-type": "text/plain", "headers": {"id": "x", "n": null, "t": 1.0}, "properties": {"correlation_id": "cc", "delivery_mode": 2, "expiration": "10000", "delivery_info": {"exchange": "ex", "routing_key": "rk"}, "priority": 3, "body_encoding": "base64", "delivery_tag": "25e3e934-941f-42ac-8741-980996a8c9f4"}}"#;

/// The same after stock Kombu restored it.
const RESTORED: &str = r#"{"body": "bQ==", "content-encoding": "utf-8", "content-type": "text/plain", "headers": {"id": "x", "n": null, "t": 1.0, "redelivered": true}, "properties": {"correlation_id": "cc", "delivery_mode": 2, "expiration": "10000", "delivery_info": {"exchange": "ex", "routing_key": "rk", "redelivered": true}, "priority": 3, "body_encoding": "base64", "delivery_tag": "25e3e934-941f-42ac-8741-980996a8c9f4"}}"#;

fn from(text: &str) -> Message {
    decode(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn error(text: &str) -> String {
    let error = decode(Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    error.to_string()
}

fn written(message: &Message) -> String {
    String::from_utf8(encode(message)).unwrap()
}

#[test]
fn a_stock_envelope_is_read_and_written_back_byte_for_byte() {
    let message = from(STOCK);
    assert_eq!(&message.body[..], b"m");
    assert_eq!(message.content_type.as_deref(), Some("text/plain"));
    assert_eq!(message.headers.as_bytes(), br#"{"id": "x", "n": null, "t": 1.0}"#);
    assert_eq!(&*message.properties.exchange, "ex");
    assert_eq!(&*message.properties.routing_key, "rk");
    assert_eq!(message.properties.priority, Some(3));
    assert_eq!(message.properties.expiration, Some(10_000));
    assert_eq!(
        message.properties.extra.as_bytes(),
        br#"{"correlation_id": "cc", "delivery_mode": 2}"#
    );
    assert!(!message.redelivered);
    assert_eq!(written(&message), STOCK);
}

#[test]
fn a_redelivered_message_is_marked_where_stock_kombu_marks_it() {
    let mut message = from(STOCK);
    message.redelivered = true;
    assert_eq!(written(&message), RESTORED);
    let message = from(RESTORED);
    assert!(message.redelivered);
    assert_eq!(written(&message), RESTORED);
    let message = from(
        r#"{"headers": {"redelivered": false, "a": 1}, "properties":
        {"delivery_info": {"redelivered": true}}}"#,
    );
    assert!(message.redelivered);
    let text = written(&message);
    assert!(text.contains(r#""headers": {"a": 1, "redelivered": true}"#), "{text}");
    assert!(from(r#"{"headers": {"redelivered": true}}"#).redelivered);
    assert!(!from(r#"{"headers": {"redelivered": null}}"#).redelivered);
}

#[test]
fn headers_are_a_slice_of_the_input() {
    let input = Bytes::copy_from_slice(STOCK.as_bytes());
    let message = decode(input.clone()).unwrap();
    assert!(input.as_ptr_range().contains(&message.headers.as_bytes().as_ptr()));
}

#[test]
fn text_bodies() {
    let text = |body: &str| from(&format!(r#"{{"body": {body}, "properties": {{}}}}"#)).body;
    assert_eq!(text(r#""a\u00e9\n""#), "aé\n");
    assert_eq!(text(r#"{"__type__": "bytes", "__value__": "txt \u00e9"}"#), "txt é");
    assert_eq!(text(r#"{"__type__": "base64", "__value__": "/wA="}"#), &b"\xff\0"[..]);
    assert_eq!(text(r#"{"a": [1]}"#), r#"{"a": [1]}"#);
    assert_eq!(text("[1, 2]"), "[1, 2]");
    assert_eq!(text("null"), "");
    let mut message = Message { body: "é\"".into(), ..Message::default() };
    message.properties.body_encoding = BodyEncoding::Plain;
    assert!(written(&message).starts_with(r#"{"body": "\u00e9\"", "#));
    assert!(written(&message).contains(r#""body_encoding": null"#));
    message.body = Bytes::from_static(b"\xff\0");
    assert_eq!(from(&written(&message)), message);
}

#[test]
fn foreign_envelopes() {
    assert_eq!(from("{}").properties.body_encoding, BodyEncoding::Plain);
    let nulls = from(
        r#"{"body": null, "headers": null, "content-type": null, "content-encoding": null,
            "properties": {"delivery_info": null, "priority": null, "expiration": null,
            "delivery_tag": null, "body_encoding": "base64"}}"#,
    );
    assert_eq!(nulls, Message::default());
    assert_eq!(from(r#"{"properties": null}"#).properties.extra, Json::empty_object());

    let odd = from(
        " {\"x\" :[1],\"\\u0068eaders\": { \"k\" : 1 } ,\"properties\":{\"priority\":\"7\",
          \"delivery_tag\":12,\"delivery_info\":{\"exchange\":null,\"routing_key\":\"\\u00e9\\ud83d\\ude00\",
          \"priority\":5},\"app_id\":null}\t,\"body\":\"Y Q\\n\",\"y\":2}\n",
    );
    assert_eq!(odd.extra.as_bytes(), br#"{"x" :[1], "y":2}"#);
    assert_eq!(odd.headers.as_bytes(), br#"{ "k" : 1 }"#);
    assert_eq!(odd.properties.priority, Some(7));
    assert_eq!(odd.properties.delivery_tag, "12");
    assert_eq!(&*odd.properties.exchange, "");
    assert_eq!(&*odd.properties.routing_key, "é\u{1f600}");
    assert_eq!(odd.properties.delivery_info_extra.as_bytes(), br#"{"priority":5}"#);
    assert_eq!(odd.properties.extra.as_bytes(), br#"{"app_id":null}"#);
    let again = from(&written(&odd));
    assert_eq!(again.headers.as_bytes(), br#"{"k" : 1}"#);
    assert_eq!(from(&written(&again)), again);
}

#[test]
fn the_last_of_repeated_members_counts() {
    let twice = from(
        r#"{"headers": {"redelivered": true}, "body": 1, "headers": {"a": 1},
            "properties": {"priority": 1, "delivery_info": {"exchange": "a", "redelivered": true}},
            "properties": {"priority": 2, "delivery_info": {"routing_key": "b"}}, "body": "last"}"#,
    );
    assert_eq!(twice.body, "last");
    assert_eq!(twice.properties.priority, Some(2));
    assert_eq!((&*twice.properties.exchange, &*twice.properties.routing_key), ("", "b"));
    assert!(!twice.redelivered);
    assert_eq!(twice.headers.as_bytes(), br#"{"a": 1}"#);
}

#[test]
fn values_that_are_no_numbers_are_kept_as_they_are() {
    let message = from(r#"{"properties": {"priority": "high", "expiration": 1.5}}"#);
    assert_eq!((message.properties.priority, message.properties.expiration), (None, None));
    assert_eq!(message.properties.extra.as_bytes(), br#"{"priority": "high", "expiration": 1.5}"#);
    let message = from(r#"{"properties": {"priority": 4.0, "expiration": 60000}}"#);
    assert_eq!(
        (message.properties.priority, message.properties.expiration),
        (Some(4), Some(60_000))
    );
}

#[test]
fn errors_name_what_is_wrong() {
    for (text, part) in [
        ("", "expected an object at byte 0"),
        ("[]", "expected an object at byte 0"),
        ("{\"body\": \"x\"", "expected a comma or the end of the object at byte 12"),
        ("{} x", "extra data after the value at byte 3"),
        (r#"{"headers": [1]}"#, "`headers` must be an object, not [1]"),
        (r#"{"properties": "p"}"#, "`properties` must be an object, not \"p\""),
        (r#"{"content-type": 1}"#, "`content-type` must be a string or null, not 1"),
        (r#"{"properties": {"delivery_info": 1}}"#, "`properties.delivery_info` must be an object"),
        (r#"{"properties": {"delivery_tag": {}}}"#, "`properties.delivery_tag` must be a string"),
        (
            r#"{"properties": {"body_encoding": "zip"}}"#,
            "`properties.body_encoding` must be \"base64\" or null, not \"zip\"",
        ),
        (
            r#"{"body": "Y!Q", "properties": {"body_encoding": "base64"}}"#,
            "`body` is not valid base64: \"Y!Q\"",
        ),
        (
            r#"{"body": {"a": 1}, "properties": {"body_encoding": "base64"}}"#,
            "`body` must be a base64 string, not {\"a\": 1}",
        ),
        (r#"{"body": "\ud800"}"#, "`body` has a lone surrogate"),
    ] {
        let error = error(text);
        assert!(error.contains(part), "{text}: {error}");
        assert!(error.starts_with("the message's envelope cannot be decoded: "), "{error}");
    }
    let bad = decode(Bytes::from_static(b"{\"body\": \"\xff\"}")).unwrap_err();
    assert!(bad.to_string().contains("not UTF-8 at byte 10"), "{bad}");
}

fn object() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("x[a-z]{0,3}|é\"", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    });
    proptest::collection::btree_map("x[a-z]{0,3}|é\"", value, 0..4).prop_map(|map| {
        let map: serde_json::Map<_, _> = map.into_iter().collect();
        Json::from_valid(serde_json::to_vec(&map).unwrap())
    })
}

prop_compose! {
    fn properties()(
        priority in proptest::option::of(any::<i64>()),
        delivery_tag in any::<String>(),
        exchange in any::<String>(),
        routing_key in any::<String>(),
        delivery_info_extra in object(),
        plain in any::<bool>(),
        expiration in proptest::option::of(0..=i64::MAX as u64),
        extra in object(),
    ) -> Properties {
        Properties {
            priority,
            delivery_tag,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            delivery_info_extra,
            body_encoding: if plain { BodyEncoding::Plain } else { BodyEncoding::Base64 },
            expiration,
            extra,
        }
    }
}

prop_compose! {
    fn message()(
        body in proptest::collection::vec(any::<u8>(), 0..64),
        content_type in proptest::option::of(any::<String>()),
        content_encoding in proptest::option::of(any::<String>()),
        headers in object(),
        properties in properties(),
        redelivered in any::<bool>(),
        extra in object(),
    ) -> Message {
        Message {
            body: body.into(),
            content_type: content_type.map(Into::into),
            content_encoding: content_encoding.map(Into::into),
            headers,
            properties,
            redelivered,
            extra,
        }
    }
}

/// Members separated as `encode` leaves them, so that objects can be compared as values.
fn same(a: &Json, b: &Json) -> bool {
    let value = |json: &Json| serde_json::from_slice::<serde_json::Value>(json.as_bytes()).unwrap();
    value(a) == value(b)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in message()) {
        let text = encode(&message);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        let back = decode(text.into()).unwrap();
        prop_assert_eq!(&back.body, &message.body);
        prop_assert_eq!(&back.content_type, &message.content_type);
        prop_assert_eq!(&back.content_encoding, &message.content_encoding);
        prop_assert_eq!(back.redelivered, message.redelivered);
        prop_assert_eq!(back.headers.get("redelivered").is_some(), message.redelivered);
        prop_assert!(same(&back.extra, &message.extra));
        prop_assert!(same(&back.properties.extra, &message.properties.extra));
        let (ours, theirs) = (&back.properties, &message.properties);
        prop_assert!(same(&ours.delivery_info_extra, &theirs.delivery_info_extra));
        let known = |p: &Properties| Properties {
            extra: Json::empty_object(),
            delivery_info_extra: Json::empty_object(),
            ..p.clone()
        };
        prop_assert_eq!(known(ours), known(theirs));
        // A second round changes nothing any more.
        let again = encode(&back);
        prop_assert_eq!(decode(again.clone().into()).unwrap(), back);
    }

    #[test]
    fn garbage_is_an_error_or_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(bytes.into());
    }

    #[test]
    fn a_damaged_envelope_is_an_error_or_a_message(
        at in 0..RESTORED.len(), byte in any::<u8>(), cut in 0..RESTORED.len(),
    ) {
        let mut bytes = RESTORED.as_bytes().to_vec();
        bytes[at] = byte;
        if let Ok(message) = decode(Bytes::copy_from_slice(&bytes)) {
            let again = decode(encode(&message).into()).unwrap();
            prop_assert_eq!(decode(encode(&again).into()).unwrap(), again);
        }
        prop_assert!(decode(Bytes::from_static(&RESTORED.as_bytes()[..cut])).is_err());
    }
}
