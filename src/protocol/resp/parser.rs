//! The incremental parser.
//!
//! Two passes: a scan that finds the end of the next value and remembers where it stopped, so that
//! a value which arrives in many pieces is looked at once; then the value is cut off the buffer and
//! built without copying its strings. The scan checks everything, so building cannot run short.

use super::{ServerError, Value};
use crate::error::{Error, Result};
use crate::protocol::Decoder;
use bytes::{Buf, Bytes, BytesMut};

/// What a server may send at most; beyond it the stream is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Aggregates inside of aggregates.
    pub depth: usize,
    /// Bytes of one string. Redis' own `proto-max-bulk-len` is 512 MiB.
    pub string: usize,
    /// Bytes of one whole reply.
    pub reply: usize,
    /// Bytes of one line (a header, a simple string or a number).
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 32, string: 512 << 20, reply: 1 << 30, line: 64 << 10 }
    }
}

/// Replies up to this size are copied: cheaper than sharing the buffer.
const COPY_BELOW: usize = 64;

/// Finds and builds values at the front of a buffer.
#[derive(Debug, Default)]
pub struct Parser {
    limits: Limits,
    /// Bytes of the unfinished value that the scan has passed.
    scanned: usize,
    /// Elements still missing of each open aggregate, outermost first.
    open: Vec<u64>,
}

impl Parser {
    /// A parser with other limits than the default ones.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The length of the value at the front of `data`, `None` when its end is not there yet.
    fn scan(&mut self, data: &[u8]) -> Result<Option<usize>> {
        loop {
            let rest = &data[self.scanned..];
            let Some(line) = line_end(rest, self.limits.line)? else { return Ok(None) };
            let header = Header::parse(&rest[..line], &self.limits)?;
            let mut passed = line + 2;
            match header {
                Header::Scalar => {}
                Header::Blob(length) => {
                    let Some(tail) = rest.get(passed + length..passed + length + 2) else {
                        return Ok(None);
                    };
                    if tail != b"\r\n" {
                        return Err(garbage("a string that does not end where it said"));
                    }
                    passed += length + 2;
                }
                Header::Aggregate(count) => {
                    if self.open.len() >= self.limits.depth {
                        return Err(garbage("a reply nested too deeply"));
                    }
                    self.open.push(count);
                }
                // Attributes come before the value that they describe.
                Header::Attribute(count) => {
                    if self.open.len() >= self.limits.depth {
                        return Err(garbage("a reply nested too deeply"));
                    }
                    self.open.push(count + 1);
                }
            }
            self.scanned += passed;
            if self.scanned > self.limits.reply {
                return Err(garbage("a reply that is too large"));
            }
            // A scalar or string counts at once, an aggregate when its last element is there.
            if !matches!(header, Header::Aggregate(1..) | Header::Attribute(_)) {
                if matches!(header, Header::Aggregate(0)) {
                    self.open.pop();
                }
                self.count_one();
            }
            if self.open.is_empty() {
                return Ok(Some(std::mem::take(&mut self.scanned)));
            }
        }
    }

    fn count_one(&mut self) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
    }
}

impl Decoder for Parser {
    type Event = Value;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>> {
        if buffer.is_empty() {
            return Ok(None);
        }
        let Some(length) = self.scan(buffer)? else { return Ok(None) };
        let mut cursor = if length <= COPY_BELOW {
            if let Some(value) = plain(&buffer[..length]) {
                buffer.advance(length);
                return Ok(Some(value));
            }
            let copy = Bytes::copy_from_slice(&buffer[..length]);
            buffer.advance(length);
            Cursor { data: copy, at: 0 }
        } else {
            Cursor { data: buffer.split_to(length).freeze(), at: 0 }
        };
        cursor.value().map(Some)
    }
}

/// The commonest short replies, without touching the heap.
fn plain(reply: &[u8]) -> Option<Value> {
    match reply {
        b"+OK\r\n" => Some(Value::Simple(Bytes::from_static(b"OK"))),
        [b':', number @ .., b'\r', b'\n'] => integer(number).ok().map(Value::Int),
        b"_\r\n" | b"$-1\r\n" | b"*-1\r\n" => Some(Value::Null),
        _ => None,
    }
}

enum Header {
    /// Complete with its line.
    Scalar,
    /// So many bytes and a line end follow.
    Blob(usize),
    /// So many values follow.
    Aggregate(u64),
    /// So many values follow, and then the value itself.
    Attribute(u64),
}

impl Header {
    /// Understands and checks one line, without its end.
    fn parse(line: &[u8], limits: &Limits) -> Result<Self> {
        let Some((&kind, rest)) = line.split_first() else {
            return Err(garbage("an empty line"));
        };
        match kind {
            b'+' | b'-' => Ok(Self::Scalar),
            b':' => integer(rest).map(|_| Self::Scalar),
            b',' => double(rest).map(|_| Self::Scalar),
            b'#' if matches!(rest, b"t" | b"f") => Ok(Self::Scalar),
            b'_' if rest.is_empty() => Ok(Self::Scalar),
            b'(' if is_decimal(rest) => Ok(Self::Scalar),
            b'$' | b'!' | b'=' => match length(rest)? {
                None if kind == b'$' => Ok(Self::Scalar),
                Some(length) if length > limits.string as u64 => {
                    Err(garbage("a string that is too long"))
                }
                // `=` carries a format of three letters and a colon.
                Some(length) if kind != b'=' || length >= 4 => Ok(Self::Blob(length as usize)),
                _ => Err(garbage("a string of an impossible length")),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = match length(rest)? {
                    Some(count) => count,
                    None if kind == b'*' => return Ok(Self::Scalar),
                    None => return Err(garbage("an aggregate of an impossible size")),
                };
                // Every element takes three bytes at least.
                if count > limits.reply as u64 / 3 {
                    return Err(garbage("a reply with too many elements"));
                }
                match kind {
                    b'%' => Ok(Self::Aggregate(count * 2)),
                    b'|' => Ok(Self::Attribute(count * 2)),
                    _ => Ok(Self::Aggregate(count)),
                }
            }
            _ => Err(garbage("a line of an unknown kind")),
        }
    }
}

/// Where the first line ends, `None` when its end is not there yet.
fn line_end(data: &[u8], limit: usize) -> Result<Option<usize>> {
    let window = &data[..data.len().min(limit)];
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if data.len() >= limit { Err(garbage("an endless line")) } else { Ok(None) };
    };
    match (data[end], data.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(Some(end)),
        (b'\r', None) => Ok(None),
        _ => Err(garbage("a line with a stray line break")),
    }
}

fn integer(text: &[u8]) -> Result<i64> {
    if let [byte @ b'0'..=b'9'] = text {
        return Ok(i64::from(byte - b'0'));
    }
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| garbage("something else where an integer belongs"))
}

/// A length or count; `None` for -1, the null of RESP2.
fn length(text: &[u8]) -> Result<Option<u64>> {
    match integer(text)? {
        -1 => Ok(None),
        number => u64::try_from(number).map(Some).map_err(|_| garbage("a negative length")),
    }
}

fn double(text: &[u8]) -> Result<f64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| garbage("something else where a double belongs"))
}

fn is_decimal(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cold]
fn garbage(what: &'static str) -> Error {
    Error::decode(format!("the server sent {what}: this is not RESP"))
}

/// Builds a value whose bytes the scan has checked.
struct Cursor {
    data: Bytes,
    at: usize,
}

impl Cursor {
    fn line(&mut self) -> Result<(u8, Bytes)> {
        let rest = &self.data[self.at..];
        let end = line_end(rest, rest.len())?.ok_or_else(|| garbage("half a reply"))?;
        let line = self.data.slice(self.at + 1..self.at + end);
        let kind = self.data[self.at];
        self.at += end + 2;
        Ok((kind, line))
    }

    fn blob(&mut self, length: usize) -> Bytes {
        let blob = self.data.slice(self.at..self.at + length);
        self.at += length + 2;
        blob
    }

    fn items(&mut self, count: u64) -> Result<Vec<Value>> {
        (0..count).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Result<Value> {
        loop {
            let (kind, line) = self.line()?;
            return Ok(match kind {
                b'+' => Value::Simple(line),
                b'-' => Value::Error(ServerError::new(line)),
                b':' => Value::Int(integer(&line)?),
                b',' => Value::Double(double(&line)?),
                b'#' => Value::Bool(line.as_ref() == b"t"),
                b'_' => Value::Null,
                b'(' => Value::BigNumber(line),
                _ => {
                    let Some(length) = length(&line)? else { return Ok(Value::Null) };
                    match kind {
                        b'$' => Value::Bulk(self.blob(length as usize)),
                        b'!' => Value::Error(ServerError::new(self.blob(length as usize))),
                        b'=' => Value::Verbatim(self.blob(length as usize).slice(4..)),
                        b'*' => Value::Array(self.items(length)?),
                        b'~' => Value::Set(self.items(length)?),
                        b'>' => Value::Push(self.items(length)?),
                        b'%' => Value::Map(
                            (0..length)
                                .map(|_| Ok((self.value()?, self.value()?)))
                                .collect::<Result<_>>()?,
                        ),
                        // Attributes: nobody asked for them.
                        _ => {
                            self.items(length * 2)?;
                            continue;
                        }
                    }
                }
            });
        }
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
