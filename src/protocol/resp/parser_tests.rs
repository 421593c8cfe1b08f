use super::*;
use proptest::prelude::*;

fn parse_all(parser: &mut Parser, pieces: &[&[u8]]) -> Result<Vec<Value>> {
    let mut buffer = BytesMut::new();
    let mut values = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(value) = parser.decode(&mut buffer)? {
            values.push(value);
        }
    }
    assert!(buffer.is_empty(), "left over: {buffer:?}");
    Ok(values)
}

fn one(text: &[u8]) -> Value {
    let mut values = parse_all(&mut Parser::default(), &[text]).unwrap();
    assert_eq!(values.len(), 1);
    values.remove(0)
}

fn bulk(text: &'static str) -> Value {
    Value::Bulk(Bytes::from_static(text.as_bytes()))
}

#[test]
fn every_type() {
    assert_eq!(one(b"+OK\r\n"), Value::Simple(Bytes::from_static(b"OK")));
    assert_eq!(one(b":-42\r\n"), Value::Int(-42));
    assert_eq!(one(b"$5\r\nhello\r\n"), bulk("hello"));
    assert_eq!(one(b"$0\r\n\r\n"), bulk(""));
    assert_eq!(one(b"$-1\r\n"), Value::Null);
    assert_eq!(one(b"*-1\r\n"), Value::Null);
    assert_eq!(one(b"_\r\n"), Value::Null);
    assert_eq!(one(b"#t\r\n"), Value::Bool(true));
    assert_eq!(one(b",1.5\r\n"), Value::Double(1.5));
    assert_eq!(one(b",inf\r\n"), Value::Double(f64::INFINITY));
    assert_eq!(one(b"(-123\r\n"), Value::BigNumber(Bytes::from_static(b"-123")));
    assert_eq!(one(b"=8\r\ntxt:text\r\n"), Value::Verbatim(Bytes::from_static(b"text")));
    assert_eq!(one(b"*2\r\n:1\r\n*0\r\n"), Value::Array(vec![Value::Int(1), Value::Array(vec![])]));
    assert_eq!(one(b"~1\r\n+x\r\n"), Value::Set(vec![Value::Simple(Bytes::from_static(b"x"))]));
    assert_eq!(one(b"%1\r\n+k\r\n:1\r\n").kind(), "map");
    assert_eq!(one(b">2\r\n$1\r\na\r\n_\r\n"), Value::Push(vec![bulk("a"), Value::Null]));
    let Value::Error(error) = one(b"!11\r\nOOM no more\r\n") else { panic!("not an error") };
    assert_eq!((error.code(), error.to_string().as_str()), ("OOM", "OOM no more"));
}

#[test]
fn attributes_are_skipped() {
    let reply = b"*2\r\n|1\r\n+ttl\r\n:3600\r\n:7\r\n|1\r\n+a\r\n*1\r\n:1\r\n$1\r\nx\r\n";
    assert_eq!(one(reply), Value::Array(vec![Value::Int(7), bulk("x")]));
}

#[test]
fn garbage_is_named() {
    for (text, word) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "unknown kind"),
        (b":12a\r\n", "integer"),
        (b"$3\r\nabcde\r\n", "end"),
        (b"$-2\r\n", "negative"),
        (b"*99999999999\r\n", "too many"),
        (b"$99999999999\r\n", "too long"),
        (b"\r\n", "empty"),
        (b"+a\nb\r\n", "stray"),
        (b"#x\r\n", "unknown kind"),
    ] {
        let error = parse_all(&mut Parser::default(), &[text]).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = b"*1\r\n".repeat(1000);
    assert!(parse_all(&mut Parser::default(), &[&deep]).is_err());
}

#[test]
fn a_line_is_bounded() {
    let long = vec![b'+'; 100 << 10];
    assert!(parse_all(&mut Parser::default(), &[&long]).is_err());
}

fn written(value: &Value, out: &mut Vec<u8>) {
    let mut blob = |kind: char, text: &[u8]| {
        out.extend_from_slice(format!("{kind}{}\r\n", text.len()).as_bytes());
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    };
    match value {
        Value::Null => out.extend_from_slice(b"_\r\n"),
        Value::Bool(yes) => out.extend_from_slice(if *yes { b"#t\r\n" } else { b"#f\r\n" }),
        Value::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::Double(number) => out.extend_from_slice(format!(",{number}\r\n").as_bytes()),
        Value::Bulk(text) => blob('$', text),
        Value::Error(error) => blob('!', error.to_string().as_bytes()),
        Value::Array(items) => aggregate('*', items, out),
        Value::Push(items) => aggregate('>', items, out),
        Value::Map(pairs) => {
            out.extend_from_slice(format!("%{}\r\n", pairs.len()).as_bytes());
            for (key, value) in pairs {
                written(key, out);
                written(value, out);
            }
        }
        other => panic!("not generated: {other:?}"),
    }
}

fn aggregate(kind: char, items: &[Value], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{kind}{}\r\n", items.len()).as_bytes());
    for item in items {
        written(item, out);
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e9..1e9f64).prop_map(Value::Double),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|text| Value::Bulk(text.into())),
        "[A-Z]{1,8} [a-z ]{0,20}".prop_map(|text| Value::Error(ServerError::new(text))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn any_split_parses_the_same(
        sent in prop::collection::vec(values(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        for value in &sent {
            written(value, &mut stream);
        }
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parse_all(&mut Parser::default(), &pieces).unwrap(), sent);
    }

    #[test]
    fn garbage_never_panics(stream in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut buffer = BytesMut::from(&stream[..]);
        let mut parser = Parser::default();
        while let Ok(Some(_)) = parser.decode(&mut buffer) {}
    }

    #[test]
    fn nearly_resp_never_panics(stream in "([+:$*%>~|=!,#(_-]-?[0-9]{0,3}\r\n[a-z]{0,4}(\r\n)?){0,12}") {
        let mut buffer = BytesMut::from(stream.as_bytes());
        let mut parser = Parser::default();
        while let Ok(Some(_)) = parser.decode(&mut buffer) {}
    }
}
