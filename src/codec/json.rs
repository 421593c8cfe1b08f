//! JSON text as Python's `json.dumps` writes it with its defaults.

/// Appends `text` as a JSON string, ASCII only: everything outside of `' '..='~'` is escaped, beyond
/// U+FFFF as a surrogate pair.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if SAFE[byte as usize] {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        if byte < 0x80 {
            write_escape(out, byte);
            at += 1;
        } else {
            // A leading byte of UTF-8: `at` is always at the start of a character.
            let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                write_unit(out, *unit);
            }
            at += c.len_utf8();
        }
        start = at;
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
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
