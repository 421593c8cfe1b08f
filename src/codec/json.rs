//! JSON text as Python's `json.dumps` writes it with its defaults.

/// Appends `text` as a JSON string, ASCII only: everything outside of `' '..='~'` is escaped, beyond
/// U+FFFF as a surrogate pair.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let safe = safe_run(bytes);
    if safe < bytes.len() && !bytes.is_ascii() {
        out.push(b'"');
        for c in text.chars() {
            match u8::try_from(c) {
                Ok(byte) if SAFE[usize::from(byte)] => out.push(byte),
                Ok(byte) if byte < 0x80 => write_escape(out, byte),
                _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| write_unit(out, *unit)),
            }
        }
        out.push(b'"');
    } else {
        write_units(out, bytes, write_escape);
    }
}

/// Copies the runs that stand for themselves, and leaves what is between them to `escape`.
fn write_units(out: &mut Vec<u8>, text: &[u8], escape: impl Fn(&mut Vec<u8>, u8)) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    loop {
        let safe = safe_run(rest);
        out.extend_from_slice(&rest[..safe]);
        let Some(&byte) = rest.get(safe) else { break };
        escape(out, byte);
        rest = &rest[safe + 1..];
    }
    out.push(b'"');
}

/// How many bytes at the front stand for themselves in a string.
fn safe_run(text: &[u8]) -> usize {
    // In blocks, so that the compiler can do many at a time.
    const BLOCK: usize = 16;
    let mut at = 0;
    while let Some(block) = text.get(at..at + BLOCK) {
        let special = |b: u8| !(b' '..=b'~').contains(&b) || b == b'"' || b == b'\\';
        if block.iter().fold(false, |any, &b| any | special(b)) {
            break;
        }
        at += BLOCK;
    }
    let tail = text[at..].iter().position(|&b| !SAFE[usize::from(b)]);
    tail.map_or(text.len(), |more| at + more)
}

/// Bytes that stand for themselves in a string.
const SAFE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b' ' as usize;
    while byte <= b'~' as usize {
        table[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    table
};

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x8 => b'b',
        0xc => b'f',
        _ => return write_unit(out, u16::from(byte)),
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends `\uXXXX`; lower case, as Python has it.
pub fn write_unit(out: &mut Vec<u8>, unit: u16) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let nibble = |shift: u16| HEX[usize::from(unit >> shift & 15)];
    out.extend_from_slice(&[b'\\', b'u', nibble(12), nibble(8), nibble(4), nibble(0)]);
}

/// Appends a string that is stored as Latin-1, one byte a character (as CPython stores many).
pub fn write_latin1(out: &mut Vec<u8>, text: &[u8]) {
    write_units(out, text, |out, byte| {
        if byte < 0x80 { write_escape(out, byte) } else { write_unit(out, u16::from(byte)) }
    });
}

/// Appends a string that is stored in 16-bit units, one a character; lone surrogates as they are.
pub fn write_ucs2(out: &mut Vec<u8>, text: &[u16]) {
    write_wide(out, text.iter().map(|unit| u32::from(*unit)), text.len());
}

/// Appends a string that is stored as code points; lone surrogates as they are.
pub fn write_ucs4(out: &mut Vec<u8>, text: &[u32]) {
    write_wide(out, text.iter().copied(), text.len());
}

fn write_wide(out: &mut Vec<u8>, points: impl Iterator<Item = u32>, count: usize) {
    out.reserve(count * 6 + 2);
    out.push(b'"');
    for point in points {
        match u8::try_from(point) {
            Ok(byte) if SAFE[usize::from(byte)] => out.push(byte),
            Ok(byte) if byte < 0x80 => write_escape(out, byte),
            _ if point > 0xffff => {
                let above = point - 0x1_0000;
                write_unit(out, 0xd800 | (above >> 10 & 0x3ff) as u16);
                write_unit(out, 0xdc00 | (above & 0x3ff) as u16);
            }
            _ => write_unit(out, point as u16),
        }
    }
    out.push(b'"');
}

/// Appends a whole number.
pub fn write_int(out: &mut Vec<u8>, value: i64) {
    const LONGEST: usize = 20;
    let mut digits = [0; LONGEST];
    let mut at = LONGEST;
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a float as Python's `repr` has it: the shortest digits that give the same number, with
/// an exponent below 1e-4 and from 1e16 on; `NaN`, `Infinity` and `-Infinity` as `json.dumps` has them.
pub fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_infinite() {
        return out.extend_from_slice(b"Infinity");
    }
    let (digits, exponent) = digits_of(value.abs());
    let digits = digits.as_bytes();
    if !(-4..16).contains(&exponent) {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        append(out, format_args!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()));
        return;
    }
    let zeros = |count: i32| std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0));
    let whole = usize::try_from(exponent + 1).unwrap_or(0).min(digits.len());
    if whole == 0 {
        out.push(b'0');
    }
    out.extend_from_slice(&digits[..whole]);
    out.extend(zeros(exponent + 1 - digits.len() as i32));
    out.push(b'.');
    out.extend(zeros(-exponent - 1));
    out.extend_from_slice(&digits[whole..]);
    if whole == digits.len() {
        out.push(b'0');
    }
}

/// The shortest digits that give `size` again, and the power of ten of the first of them. Where two
/// are equally close, Python takes the even one and Rust the larger: with that many digits, rounding
/// is to even in both.
fn digits_of(size: f64) -> (String, i32) {
    /// With fewer no number lies in the middle of two.
    const FEWEST: usize = 15;
    let mut text = format!("{size:e}");
    let count = text.find('e').unwrap_or(text.len()).saturating_sub(1);
    if count >= FEWEST {
        let rounded = format!("{size:.*e}", count - 1);
        // At a power of two the closest one may be of the number below.
        if rounded.parse() == Ok(size) {
            text = rounded;
        }
    }
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.replace('.', ""), exponent.parse().unwrap_or(0))
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // Writing into a vector cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        write_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_as_python_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (9.999e-5, "9.999e-05"),
            (1e-5, "1e-05"),
            (1e15, "1000000000000000.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (1732250000.123456, "1732250000.123456"),
            (70_368_744_177_664.62, "70368744177664.62"),
            (1.000_007_629_394_531_2, "1.0000076293945312"),
            (9007199254740993.0, "9007199254740992.0"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (100.25, "100.25"),
            (1234.0, "1234.0"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn strings_as_python_writes_them() {
        let mut out = Vec::new();
        write_str(&mut out, "a\"\\/\u{8}\u{c}\n\r\t\0\u{7f}é\u{2028}\u{1f600}");
        let expected = r#""a\"\\/\b\f\n\r\t\u0000\u007f\u00e9\u2028\ud83d\ude00""#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        let mut lone = Vec::new();
        write_ucs2(&mut lone, &[0xd800, u16::from(b'a')]);
        assert_eq!(lone, br#""\ud800a""#);
    }

    proptest! {
        #[test]
        fn floats_come_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(value).parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn ints_come_back(value in any::<i64>()) {
            let mut out = Vec::new();
            write_int(&mut out, value);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn strings_come_back_whatever_they_are_stored_as(text in any::<String>()) {
            let mut out = Vec::new();
            write_str(&mut out, &text);
            prop_assert!(out.is_ascii());
            prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &text);
            let points: Vec<u32> = text.chars().map(u32::from).collect();
            let mut wide = Vec::new();
            write_ucs4(&mut wide, &points);
            prop_assert_eq!(&wide, &out);
            if let Ok(units) = points.iter().map(|p| u16::try_from(*p)).collect::<Result<Vec<_>, _>>() {
                wide.clear();
                write_ucs2(&mut wide, &units);
                prop_assert_eq!(&wide, &out);
            }
            let latin: String = text.chars().map(|c| char::from(c as u8)).collect();
            let bytes: Vec<u8> = latin.chars().map(|c| c as u8).collect();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            write_latin1(&mut a, &bytes);
            write_str(&mut b, &latin);
            prop_assert_eq!(a, b);
        }
    }
}
