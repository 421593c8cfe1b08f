//! Field tables (AMQP 0-9-1 section 4.2.5, with RabbitMQ's types), as JSON text.
//!
//! Values that JSON has no words for are written as Kombu's own JSON writes them: an object of
//! `__type__` (`datetime`, `decimal`, `base64`, `bytes`) and `__value__`. So headers are JSON
//! everywhere above, whatever the broker.

use super::time;
use super::wire::{Reader, put_short};
use crate::error::{Error, Result};
use crate::model::Json;
use crate::model::scan::{Scanner, Text};
use std::io::Write as _;

/// Deepest nesting of tables and arrays, both ways: what is deeper comes from nobody who means well.
const DEEPEST: usize = 64;

/// Appends a JSON object as a table.
///
/// # Errors
/// `Encode` naming the member that AMQP has no type for.
pub fn write(json: &Json, out: &mut Vec<u8>) -> Result<()> {
    let mut scanner = Scanner::new(json.as_bytes());
    write_table(&mut scanner, out, DEEPEST)
}

/// Appends with its length in front what `content` appends.
fn with_length(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out)?;
    let length = u32::try_from(out.len() - start - 4)
        .map_err(|_| Error::encode("a table of 4 GiB is too large for AMQP"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn write_table(scanner: &mut Scanner<'_>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    with_length(out, |out| {
        scanner.object::<Error>(|name, scanner| {
            let name = name.unescape().ok_or_else(|| surrogate("a name"))?;
            put_short(out, "the name of a table's member", &name)?;
            write_value(&name, scanner, out, depth)
        })
    })
}

fn surrogate(what: &str) -> Error {
    Error::encode(format!("{what} in an AMQP table holds half a surrogate pair: not Unicode text"))
}

fn write_value(
    name: &str,
    scanner: &mut Scanner<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<()> {
    let text = scanner.value()?;
    let depth_left = || {
        depth.checked_sub(1).ok_or_else(|| {
            Error::encode(format!("'{name}' is nested deeper than {DEEPEST} levels"))
        })
    };
    let mut inner = Scanner::new(text);
    match text.first() {
        Some(b'"') => {
            let string = inner.string()?.unescape().ok_or_else(|| surrogate(name))?;
            write_long(b'S', string.as_bytes(), out)
        }
        Some(b'{') => match typed(text)? {
            Some((kind, value)) => write_typed(name, kind, value, out),
            None => {
                out.push(b'F');
                write_table(&mut inner, out, depth_left()?)
            }
        },
        Some(b'[') => {
            out.push(b'A');
            let depth = depth_left()?;
            with_length(out, |out| {
                inner.array::<Error>(|scanner| write_value(name, scanner, out, depth))
            })
        }
        Some(b't' | b'f' | b'n') => {
            out.extend_from_slice(match text {
                b"true" => b"t\x01",
                b"false" => b"t\x00",
                _ => b"V",
            });
            Ok(())
        }
        _ => write_number(name, text, out),
    }
}

fn write_long(kind: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.push(kind);
    with_length(out, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}

fn write_number(name: &str, text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let is_integer = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if is_integer {
        let number: i64 = text.parse().map_err(|_| {
            Error::encode(format!(
                "'{name}' is {text}: AMQP has integers of 64 bits, from {} to {}",
                i64::MIN,
                i64::MAX
            ))
        })?;
        match i32::try_from(number) {
            Ok(small) => {
                out.push(b'I');
                out.extend_from_slice(&small.to_be_bytes());
            }
            Err(_) => {
                out.push(b'l');
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        return Ok(());
    }
    let number: f64 = match text {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        text => {
            text.parse().map_err(|_| Error::encode(format!("'{name}' is no number: {text}")))?
        }
    };
    out.push(b'd');
    out.extend_from_slice(&number.to_be_bytes());
    Ok(())
}

/// The two members of `{"__type__": ..., "__value__": ...}`.
fn typed(text: &[u8]) -> Result<Option<(Text<'_>, &[u8])>> {
    let (mut kind, mut value, mut others) = (None, None, false);
    Scanner::new(text).object::<Error>(|name, scanner| {
        let text = scanner.value()?;
        if name.is("__type__") && text.first() == Some(&b'"') {
            kind = Some(Scanner::new(text).string()?);
        } else if name.is("__value__") {
            value = Some(text);
        } else {
            others = true;
        }
        Ok(())
    })?;
    Ok(kind.zip(value).filter(|_| !others))
}

fn write_typed(name: &str, kind: Text<'_>, value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let kind = kind.unescape().ok_or_else(|| surrogate(name))?;
    let wrong = || {
        let value = String::from_utf8_lossy(value);
        Error::encode(format!(
            "'{name}' of type {kind} cannot be written as an AMQP value: {value}"
        ))
    };
    let text = match value.first() {
        Some(b'"') => Scanner::new(value).string()?.unescape().ok_or_else(|| surrogate(name))?,
        _ => return Err(wrong()),
    };
    match kind.as_ref() {
        "bytes" => write_long(b'x', text.as_bytes(), out),
        "base64" => {
            let bytes = base64_simd::STANDARD.decode_to_vec(text.as_bytes());
            write_long(b'x', &bytes.map_err(|_| wrong())?, out)
        }
        "datetime" => {
            let seconds = time::parse(&text).ok_or_else(wrong)?;
            out.push(b'T');
            out.extend_from_slice(&seconds.to_be_bytes());
            Ok(())
        }
        "decimal" => {
            let (scale, mantissa) = decimal(&text).ok_or_else(wrong)?;
            out.extend_from_slice(&[b'D', scale]);
            out.extend_from_slice(&mantissa.to_be_bytes());
            Ok(())
        }
        _ => Err(wrong()),
    }
}

/// `1.25` as 2 and 125. AMQP has 32 bits without a sign, and no exponents.
fn decimal(text: &str) -> Option<(u8, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{part}");
    let plain = !whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain {
        return None;
    }
    Some((u8::try_from(part.len()).ok()?, digits.parse().ok()?))
}

/// Takes a table off the front.
///
/// # Errors
/// `Decode` when the bytes are no table, or it is nested too deeply.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Json> {
    let mut out = Vec::with_capacity(128);
    read_table(reader, &mut out, DEEPEST)?;
    Ok(Json::from_valid(out))
}

fn read_table(reader: &mut Reader<'_>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let mut members = reader.part()?;
    out.push(b'{');
    let mut first = true;
    while !members.is_empty() {
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b", ");
        }
        let name = members.short()?;
        put_text(name, out);
        out.extend_from_slice(b": ");
        read_value(&mut members, out, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // Writing text into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn put_typed(kind: &str, value: &str, out: &mut Vec<u8>) {
    let _ = write!(out, r#"{{"__type__": "{kind}", "__value__": "{value}"}}"#);
}

fn put_float(number: f64, out: &mut Vec<u8>) {
    if number.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else {
        let _ = serde_json::to_writer(out, &number);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_typed("base64", &base64_simd::STANDARD.encode_to_string(bytes), out);
}

fn read_value(reader: &mut Reader<'_>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let deeper = || {
        depth.checked_sub(1).ok_or_else(|| {
            Error::decode(format!("an AMQP table is nested deeper than {DEEPEST} levels"))
        })
    };
    let integer = |out: &mut Vec<u8>, number: i64| {
        let _ = write!(out, "{number}");
    };
    match reader.u8()? {
        b't' => out.extend_from_slice(if reader.u8()? != 0 { b"true" } else { b"false" }),
        b'b' => integer(out, i64::from(i8::from_be_bytes(reader.array()?))),
        b'B' => integer(out, i64::from(reader.u8()?)),
        b's' => integer(out, i64::from(i16::from_be_bytes(reader.array()?))),
        b'u' => integer(out, i64::from(reader.u16()?)),
        b'I' => integer(out, i64::from(i32::from_be_bytes(reader.array()?))),
        b'i' => integer(out, i64::from(reader.u32()?)),
        // RabbitMQ and py-amqp read `L` with a sign, too.
        b'l' | b'L' => integer(out, i64::from_be_bytes(reader.array()?)),
        b'f' => put_float(f64::from(f32::from_be_bytes(reader.array()?)), out),
        b'd' => put_float(f64::from_be_bytes(reader.array()?), out),
        b'D' => {
            let scale = usize::from(reader.u8()?);
            let digits = format!("{:0>width$}", reader.u32()?, width = scale + 1);
            let (whole, part) = digits.split_at(digits.len() - scale);
            let text = if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") };
            put_typed("decimal", &text, out);
        }
        b'S' => {
            let bytes = reader.long()?;
            match std::str::from_utf8(bytes) {
                Ok(text) => put_text(text, out),
                Err(_) => put_bytes(bytes, out),
            }
        }
        b'x' => put_bytes(reader.long()?, out),
        b'T' => {
            let seconds = reader.u64()?;
            match time::format(seconds) {
                Some(text) => put_typed("datetime", &text, out),
                // No date that Python knows.
                None => drop(write!(out, "{seconds}")),
            }
        }
        b'V' => out.extend_from_slice(b"null"),
        b'F' => read_table(reader, out, deeper()?)?,
        b'A' => {
            let depth = deeper()?;
            let mut elements = reader.part()?;
            out.push(b'[');
            let mut first = true;
            while !elements.is_empty() {
                if !std::mem::take(&mut first) {
                    out.extend_from_slice(b", ");
                }
                read_value(&mut elements, out, depth)?;
            }
            out.push(b']');
        }
        kind => {
            let kind = kind.escape_ascii();
            return Err(Error::decode(format!(
                "an AMQP table has a value of no known type: '{kind}'"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(json: &str) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        write(&Json::parse(json.to_owned()).unwrap(), &mut out)?;
        Ok(out)
    }

    fn read_all(bytes: &[u8]) -> Result<String> {
        let mut reader = Reader::new(bytes);
        let json = read(&mut reader)?;
        assert!(reader.is_empty());
        Ok(String::from_utf8(json.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn every_type_comes_back() {
        let all = concat!(
            r#"{"t": true, "n": null, "i": -5, "l": 1099511627776, "d": 1.5, "s": "\"é\u001f", "#,
            r#""a": [1, [], {"deep": [false]}], "nan": NaN, "inf": -Infinity, "#,
            r#""x": {"__type__": "base64", "__value__": "/wA="}, "#,
            r#""T": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}, "#,
            r#""D": {"__type__": "decimal", "__value__": "0.0125"}, "#,
            r#""not typed": {"__type__": "x", "__value__": 1, "more": 2}}"#
        );
        assert_eq!(read_all(&written(all).unwrap()).unwrap(), all);
        let zoned =
            r#"{"T": {"__type__": "datetime", "__value__": "2020-01-02T05:04:05.9+02:00"}}"#;
        let utc = r#"{"T": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}}"#;
        assert_eq!(read_all(&written(zoned).unwrap()).unwrap(), utc);
    }

    #[test]
    fn the_bytes_are_those_of_other_clients() {
        // From py-amqp 5.4, whose long integers have the letter `L` and byte arrays `S`.
        let theirs = b"\0\0\0\x53\x01aI\0\0\0\x01\x01ct\x01\x01dd?\xf8\0\0\0\0\0\0\
            \x01eS\0\0\0\x02\xc3\xa9\x01gV\x01hA\0\0\0\x17I\0\0\0\x01S\0\0\0\x01xF\0\0\0\x07\x01yI\
            \0\0\0\x02\x01iT\0\0\0\0^\r]\xa5\x01jD\x02\0\0\0}";
        let text = concat!(
            r#"{"a": 1, "c": true, "d": 1.5, "e": "é", "g": null, "h": [1, "x", {"y": 2}], "#,
            r#""i": {"__type__": "datetime", "__value__": "2020-01-02T03:04:05"}, "#,
            r#""j": {"__type__": "decimal", "__value__": "1.25"}}"#
        );
        assert_eq!(
            written(text).unwrap().escape_ascii().to_string(),
            theirs.escape_ascii().to_string()
        );
        assert_eq!(read_all(theirs).unwrap(), text);
        let kinds = b"\0\0\0\x20\x01ab\xff\x01bB\xff\x01cs\xff\xfe\x01du\xff\xff\x01ei\xff\xff\xff\xff\x01ff?\xc0\0\0";
        let text = r#"{"a": -1, "b": 255, "c": -2, "d": 65535, "e": 4294967295, "f": 1.5}"#;
        assert_eq!(read_all(kinds).unwrap(), text);
        let not_text = read_all(b"\0\0\0\x08\x01aS\0\0\0\x01\xff").unwrap();
        assert_eq!(not_text, r#"{"a": {"__type__": "base64", "__value__": "/w=="}}"#);
    }

    #[test]
    fn what_amqp_cannot_hold_is_named() {
        for (json, why) in [
            (r#"{"big": 9223372036854775808}"#, "'big' is 9223372036854775808"),
            (r#"{"u": {"__type__": "uuid", "__value__": "x"}}"#, "'u' of type uuid"),
            (r#"{"e": {"__type__": "decimal", "__value__": "1E+5"}}"#, "'e' of type decimal"),
            (r#"{"s": "\ud800"}"#, "surrogate"),
        ] {
            let error = written(json).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Encode);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(written(&format!(r#"{{"{}": 1}}"#, "n".repeat(256))).is_err());
        let deep = format!(r#"{{"d": {}{}}}"#, "[".repeat(65), "]".repeat(65));
        assert!(written(&deep).unwrap_err().to_string().contains("deeper"));
    }

    #[test]
    fn deep_nesting_is_refused_and_overflows_no_stack() {
        let mut value = vec![b'V'];
        for _ in 0..100_000 {
            let mut outer = vec![b'A'];
            outer.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            // Built back to front: the lengths of the outer ones grow.
            if outer.len() + value.len() > 4000 {
                break;
            }
            outer.append(&mut value);
            value = outer;
        }
        let mut table = u32::try_from(value.len() + 2).unwrap().to_be_bytes().to_vec();
        table.extend_from_slice(b"\x01a");
        table.append(&mut value);
        assert!(read_all(&table).unwrap_err().to_string().contains("deeper"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut table = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            table.extend_from_slice(&bytes);
            if let Ok(json) = read(&mut Reader::new(&table)) {
                prop_assert!(Json::parse(json.to_shared()).is_ok(), "{:?}", json);
            }
        }

        #[test]
        fn a_cut_table_is_an_error(cut in 0usize..80) {
            let whole = written(r#"{"a": 1, "b": "text", "c": [1.5, {"d": null}], "e": true}"#).unwrap();
            let cut = cut.min(whole.len() - 1);
            prop_assert!(read(&mut Reader::new(&whole[..cut])).is_err());
        }
    }
}
