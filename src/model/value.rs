//! JSON that is kept as text.
//!
//! Headers and free properties travel through most brokers as JSON text; keeping the text spares a
//! tree of values per message. Whoever needs a member parses it then.

use super::scan::{Member, ScanError, Scanner};
use bytes::Bytes;
use std::fmt;

/// The text of one JSON value, known to be valid JSON (and so valid UTF-8), in the dialect of
/// [`super::scan`].
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// Takes text that the caller has just parsed or written as JSON.
    pub fn from_valid(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Takes text from elsewhere.
    ///
    /// # Errors
    /// The text is not one JSON value, or not UTF-8.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, ScanError> {
        let text = text.into();
        if let Err(error) = std::str::from_utf8(&text) {
            return Err(ScanError { what: "bytes that are not UTF-8", at: error.valid_up_to() });
        }
        let mut scanner = Scanner::new(&text);
        scanner.value()?;
        scanner.end()?;
        Ok(Self(text))
    }

    /// The empty object, `{}`.
    pub fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// Whether this is an object without members.
    pub fn is_empty_object(&self) -> bool {
        self.0.as_ref() == b"{}"
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, shared.
    pub fn to_shared(&self) -> Bytes {
        self.0.clone()
    }

    /// The members of an object in the order of the text; nothing for other values.
    pub fn members(&self) -> Vec<Member<'_>> {
        let mut members = Vec::new();
        let mut scanner = Scanner::new(&self.0);
        // An error means that this is no object: valid text is this type's invariant.
        let _ = scanner.object::<ScanError>(|name, scanner| {
            members.push(scanner.member(name)?);
            Ok(())
        });
        members
    }

    /// The text of an object's member; the last one of that name, as Python's `json` has it.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.members().into_iter().rfind(|member| member.name.is(name)).map(|member| member.value)
    }

    /// A copy of an object in which these members have these values, given as JSON texts, in this
    /// order behind the others; `None` leaves one out.
    pub fn with(&self, changes: &[(&str, Option<String>)]) -> Self {
        let kept = self.members().into_iter();
        let kept = kept.filter(|member| !changes.iter().any(|(name, _)| member.name.is(name)));
        let mut texts: Vec<Vec<u8>> = kept.map(|member| member.whole.to_vec()).collect();
        for (name, value) in changes {
            if let Some(value) = value {
                texts.push(format!("\"{name}\": {value}").into_bytes());
            }
        }
        Self([&b"{"[..], &texts.join(&b", "[..]), b"}"].concat().into())
    }

    /// What stands between an object's braces, without surrounding whitespace; empty for other values.
    pub fn inner(&self) -> &[u8] {
        match self.0.trim_ascii() {
            [b'{', inner @ .., b'}'] => inner.trim_ascii(),
            _ => b"",
        }
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::empty_object()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({})", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_name() {
        let json = Json::parse(&b" {\"a\": 1, \"\\u0062\" : [2], \"a\":3} "[..]).unwrap();
        assert_eq!(json.get("a"), Some(&b"3"[..]));
        assert_eq!(json.get("b"), Some(&b"[2]"[..]));
        assert_eq!(json.get("c"), None);
        assert_eq!(json.inner(), b"\"a\": 1, \"\\u0062\" : [2], \"a\":3");
        assert_eq!(json.members()[1].whole, b"\"\\u0062\" : [2]");
        assert!(Json::parse(&b"[1]"[..]).unwrap().members().is_empty());
        assert_eq!(Json::parse(&b"\xff"[..]).unwrap_err().at, 0);
    }

    #[test]
    fn members_are_replaced() {
        let json = Json::parse(&b"{\"a\": 1, \"b\":2, \"a\": 3}"[..]).unwrap();
        let changed = json.with(&[("a", Some("4".into())), ("b", None), ("c", None)]);
        assert_eq!(changed.as_bytes(), b"{\"a\": 4}");
        assert!(changed.with(&[("a", None)]).is_empty_object());
    }
}
