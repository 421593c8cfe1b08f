//! A validating scanner over JSON text: finds members without building values.
//!
//! The dialect is what Python's `json` module reads by default: RFC 8259 and the tokens `NaN`,
//! `Infinity` and `-Infinity`, because `json.dumps` writes those. Nesting is unlimited here (no
//! recursion); whoever builds values out of the text has a limit of their own.

use crate::error::Error;
use std::borrow::Cow;
use std::fmt;

/// Why text is not JSON, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanError {
    /// What was found wrong.
    pub what: &'static str,
    /// Offset in bytes from the start of the text.
    pub at: usize,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for ScanError {}

impl From<ScanError> for Error {
    fn from(error: ScanError) -> Self {
        Self::decode(format!("invalid JSON: {error}"))
    }
}

/// A string as it is written: without its quotes, escapes not yet resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
    /// Offset of the opening quote.
    at: usize,
}

impl<'a> Text<'a> {
    /// The string that it stands for; `None` when it has a lone surrogate (`"\ud800"`), which
    /// Python's `str` can hold and UTF-8 cannot.
    pub fn unescape(self) -> Option<Cow<'a, str>> {
        let text = std::str::from_utf8(self.raw).ok()?;
        if self.escaped { unescape(text).map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
    }

    /// The bytes between the quotes when they stand for themselves; what `match` can look at.
    pub fn plain(self) -> Option<&'a [u8]> {
        (!self.escaped).then_some(self.raw)
    }

    /// The bytes of the string, escapes resolved; `None` when it has a lone surrogate.
    pub fn bytes(self) -> Option<Cow<'a, [u8]>> {
        match self.plain() {
            Some(raw) => Some(Cow::Borrowed(raw)),
            None => Some(Cow::Owned(self.unescape()?.into_owned().into_bytes())),
        }
    }

    /// Whether both stand for the same string.
    pub fn same(self, other: Text<'_>) -> bool {
        if self.escaped || other.escaped {
            self.unescape().is_some_and(|own| other.unescape().is_some_and(|other| own == other))
        } else {
            self.raw == other.raw
        }
    }

    /// Whether it stands for exactly `name`.
    pub fn is(self, name: &str) -> bool {
        if self.escaped {
            self.unescape().is_some_and(|own| own == name)
        } else {
            self.raw == name.as_bytes()
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = *rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        out.push(match code {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = unit(rest)?;
                rest = &rest[4..];
                if (0xd800..0xdc00).contains(&high) {
                    let low = unit(rest.strip_prefix("\\u")?)?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return None;
                    }
                    rest = &rest[6..];
                    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?
                } else {
                    char::from_u32(high)?
                }
            }
            other => char::from(other),
        });
    }
    out.push_str(rest);
    Some(out)
}

fn unit(text: &str) -> Option<u32> {
    let digits = text.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// One member of an object: its name and the text of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name.
    pub name: Text<'a>,
    /// The value's text, without surrounding whitespace.
    pub value: &'a [u8],
    /// Name, colon and value as written.
    pub whole: &'a [u8],
}

/// Reads values from the front of a text.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, ScanError> {
        Err(ScanError { what, at: self.at })
    }

    /// The next byte that is not whitespace, not taken.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.fail(what)
        }
    }

    /// Checks that only whitespace is left.
    ///
    /// # Errors
    /// Something else follows.
    pub fn end(&mut self) -> Result<(), ScanError> {
        if self.peek().is_none() { Ok(()) } else { self.fail("extra data after the value") }
    }

    /// Takes a string.
    ///
    /// # Errors
    /// There is none, or it has a bad escape or a control character, or no end.
    pub fn string(&mut self) -> Result<Text<'a>, ScanError> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += special(&self.text[self.at..]);
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text {
                        raw: &self.text[start..self.at - 1],
                        escaped,
                        at: start - 1,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    let ok = match self.text.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') => match self.text.get(self.at + 2..self.at + 6) {
                            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => 6,
                            _ => return self.fail("bad \\u escape"),
                        },
                        _ => return self.fail("bad escape"),
                    };
                    self.at += ok;
                }
                Some(_) => return self.fail("control character in a string"),
                None => return self.fail("string without an end"),
            }
        }
    }

    /// Takes one value of any kind and returns its text.
    ///
    /// # Errors
    /// The text there is not JSON.
    pub fn value(&mut self) -> Result<&'a [u8], ScanError> {
        self.peek();
        let start = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(b'{') => {
                    self.at += 1;
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                    } else {
                        open.push(b'}');
                        self.name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if self.peek() == Some(b']') {
                        self.at += 1;
                    } else {
                        open.push(b']');
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(b'N') => self.literal(b"NaN")?,
                Some(b'I') => self.literal(b"Infinity")?,
                _ => return self.fail("expected a value"),
            }
            loop {
                let Some(&close) = open.last() else { return Ok(&self.text[start..self.at]) };
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if close == b'}' {
                            self.name()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return self.fail("expected a comma or the end of the container"),
                }
            }
        }
    }

    /// Takes an object: `visit` gets each name in the order of the text (duplicates too) with the
    /// scanner at its value, which it has to take.
    ///
    /// # Errors
    /// The text there is not a JSON object, or what `visit` returns.
    pub fn object<E: From<ScanError>>(
        &mut self,
        mut visit: impl FnMut(Text<'a>, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "expected an object")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.name()?;
            visit(name, self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Ok(self.fail("expected a comma or the end of the object")?),
            }
        }
    }

    /// Takes an array: `visit` is called with the scanner at each element, which it has to take.
    ///
    /// # Errors
    /// The text there is not a JSON array, or what `visit` returns.
    pub fn array<E: From<ScanError>>(
        &mut self,
        mut visit: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[', "expected an array")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            visit(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Ok(self.fail("expected a comma or the end of the array")?),
            }
        }
    }

    /// Takes the value of the member `name` and returns both.
    ///
    /// # Errors
    /// The text there is not JSON.
    pub fn member(&mut self, name: Text<'a>) -> Result<Member<'a>, ScanError> {
        let value = self.value()?;
        Ok(Member { name, value, whole: &self.text[name.at..self.at] })
    }

    fn name(&mut self) -> Result<Text<'a>, ScanError> {
        let name = self.string()?;
        self.expect(b':', "expected a colon")?;
        Ok(name)
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), ScanError> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            self.fail("expected a value")
        }
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.text[self.at] == b'-' {
            self.at += 1;
            if self.text.get(self.at) == Some(&b'I') {
                return self.literal(b"Infinity");
            }
        }
        if self.text.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let rest = &self.text[self.at..];
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return self.fail("bad number");
        }
        self.at += count;
        Ok(())
    }
}

/// How many bytes come before the first quote, backslash or control character.
fn special(text: &[u8]) -> usize {
    // Without `||`, which would keep the compiler from using vectors below.
    let is_special = |b: u8| (b == b'"') | (b == b'\\') | (b < 0x20);
    let mut at = 0;
    // Most strings are short: eight at a time.
    while at < 32 {
        let Some(chunk) = text.get(at..at + 8).and_then(|c| <[u8; 8]>::try_from(c).ok()) else {
            break;
        };
        let hits = special_in(u64::from_le_bytes(chunk));
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    // A base64 body has kilobytes: in blocks that the compiler makes vectors of.
    const BLOCK: usize = 32;
    while let Some(block) = text.get(at..at + BLOCK) {
        if block.iter().fold(0, |any, &b| any | u8::from(is_special(b))) != 0 {
            break;
        }
        at += BLOCK;
    }
    let tail = text.get(at..).unwrap_or_default();
    at + tail.iter().position(|&b| is_special(b)).unwrap_or(tail.len())
}

/// The high bit of each byte that is a quote, a backslash or a control character. The lowest hit is
/// exact: borrows only spoil bytes above a true hit.
fn special_in(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let quote = zero(word ^ (ONES * u64::from(b'"')));
    let backslash = zero(word ^ (ONES * u64::from(b'\\')));
    quote | backslash | (word.wrapping_sub(ONES * 0x20) & !word & HIGH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str) -> Result<&[u8], ScanError> {
        let mut scanner = Scanner::new(text.as_bytes());
        let value = scanner.value()?;
        scanner.end()?;
        Ok(value)
    }

    #[test]
    fn reads_what_python_reads() {
        for text in [
            "{}",
            "[ ]",
            " [1, -0, 0.5e-7, 1E5, NaN, -Infinity, Infinity, true, false, null] ",
            r#"{"a" : {"b":[[],{}]} , "\u0061":"\ud800\n\/"}"#,
            "\"\u{7f}é\"",
        ] {
            assert_eq!(scan(text).map(|v| v.len()), Ok(text.trim().len()), "{text}");
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "1.",
            "-",
            "+1",
            ".5",
            "1e",
            "\"a",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "nul",
            "[1 2]",
            "{} {}",
            "[}",
            "{]",
            "'a'",
            "-Inf",
        ] {
            assert!(scan(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_not_limited_by_the_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(scan(&deep).is_ok());
        assert!(scan(&deep[..1_500_000]).is_err());
    }

    #[test]
    fn arrays_are_visited() {
        let visit = |text: &'static str| {
            let mut scanner = Scanner::new(text.as_bytes());
            let mut values = Vec::new();
            scanner.array::<ScanError>(|scanner| {
                values.push(scanner.value()?);
                Ok(())
            })?;
            scanner.end()?;
            Ok::<_, ScanError>(values)
        };
        assert_eq!(visit(" [ ] "), Ok(vec![]));
        assert_eq!(visit(r#"[1, [2], {"a":3}]"#), Ok(vec![&b"1"[..], b"[2]", br#"{"a":3}"#]));
        assert!(visit("[1,]").is_err() && visit("[1 2]").is_err() && visit("{}").is_err());
    }

    #[test]
    fn strings_are_unescaped() {
        let get = |text: &'static str| {
            Scanner::new(text.as_bytes()).string().unwrap().unescape().map(Cow::into_owned)
        };
        assert_eq!(get(r#""a\"\\\/\b\f\n\r\té\u00e9""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\té\u{e9}");
        assert_eq!(get(r#""\ud83d\ude00""#).unwrap(), "\u{1f600}");
        for lone in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\u0041""#] {
            assert_eq!(get(lone), None, "{lone}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_agrees_with_serde(text in r#"[\[\]{}:,"\\ntfu0-9eE.+ a-]{0,40}"#) {
            let ours = scan(&text).is_ok();
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            // serde_json has the same grammar for everything these characters can spell.
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn special_finds_the_first(text in proptest::collection::vec(0x10..=0x60u8, 0..200)) {
            let naive = text.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20);
            prop_assert_eq!(special(&text), naive.unwrap_or(text.len()));
        }

        #[test]
        fn unescape_agrees_with_serde(value in any::<String>()) {
            let written = serde_json::to_string(&value).unwrap();
            let mut scanner = Scanner::new(written.as_bytes());
            let read = scanner.string().unwrap();
            prop_assert_eq!(read.unescape().unwrap(), value);
        }
    }
}
