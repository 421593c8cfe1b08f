//! Headers exchanges: a binding's arguments against a message's headers (AMQP 0-9-1 section 3.1.3.4,
//! with RabbitMQ's `-with-x` modes).

use crate::error::{Error, Result};
use crate::model::Json;
use crate::model::scan::{Member, Scanner};
use serde_json::Value;

/// How many of the arguments must match, and whether those that begin with `x-` take part.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mode {
    all: bool,
    with_x: bool,
}

const MODES: &[(&str, Mode)] = &[
    ("all", Mode { all: true, with_x: false }),
    ("any", Mode { all: false, with_x: false }),
    ("all-with-x", Mode { all: true, with_x: true }),
    ("any-with-x", Mode { all: false, with_x: true }),
];

/// Checks the arguments of a binding to a headers exchange.
///
/// # Errors
/// `Invalid` when `x-match` is none of the four modes.
pub fn check_arguments(arguments: &Json) -> Result<()> {
    let Some(value) = arguments.get("x-match") else { return Ok(()) };
    if mode(value).is_some() {
        return Ok(());
    }
    let value = String::from_utf8_lossy(value);
    Err(Error::invalid(format!(
        "the binding argument `x-match` must be \"all\", \"any\", \"all-with-x\" or \"any-with-x\", not {value}"
    )))
}

fn mode(value: &[u8]) -> Option<Mode> {
    let name = Scanner::new(value).string().ok()?.unescape()?;
    MODES.iter().find(|(own, _)| *own == name).map(|(_, mode)| *mode)
}

/// A message's headers.
pub(super) struct Headers<'a>(Vec<Member<'a>>);

impl<'a> Headers<'a> {
    pub(super) fn new(headers: &'a Json) -> Self {
        Self(headers.members())
    }

    /// Whether a binding with these arguments takes the message.
    ///
    /// A header has to be there with an equal value of the same type; an argument that is null asks
    /// for its presence only. Without any argument to look at "all" takes the message, "any" does not.
    pub(super) fn match_binding(&self, arguments: &Json) -> bool {
        let arguments = arguments.members();
        let named = arguments.iter().rfind(|member| member.name.is("x-match"));
        let mode = named.and_then(|member| mode(member.value)).unwrap_or(MODES[0].1);
        let mut wanted = arguments.iter().enumerate().filter(|(index, member)| {
            // Of a repeated argument the last one counts.
            let repeated = arguments[index + 1..].iter().any(|later| later.name.same(member.name));
            let is_x = member.name.bytes().is_some_and(|name| name.starts_with(b"x-"));
            !repeated && !member.name.is("x-match") && (mode.with_x || !is_x)
        });
        let matches = |(_, wanted): (usize, &Member<'_>)| {
            let own = self.0.iter().rfind(|own| own.name.same(wanted.name));
            own.is_some_and(|own| wanted.value == b"null" || equal(own.value, wanted.value))
        };
        if mode.all { wanted.all(matches) } else { wanted.any(matches) }
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (serde_json::from_slice::<Value>(a), serde_json::from_slice::<Value>(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(arguments: &str, headers: &str) -> bool {
        let headers = Json::parse(headers.to_owned()).unwrap();
        Headers::new(&headers).match_binding(&Json::parse(arguments.to_owned()).unwrap())
    }

    #[test]
    fn as_in_rabbitmq() {
        for (arguments, headers, expected) in [
            ("{}", "{}", true),
            (r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#, true),
            (r#"{"a": 1, "b": 3}"#, r#"{"a": 1, "b": 2}"#, false),
            (r#"{"x-match": "all", "a": 1, "b": 2}"#, r#"{"a": 1}"#, false),
            (r#"{"x-match": "any", "a": 1, "b": 2}"#, r#"{"a": 1}"#, true),
            (r#"{"x-match": "any", "a": 1, "b": 2}"#, r#"{"a": 2}"#, false),
            (r#"{"x-match": "any"}"#, r#"{"a": 2}"#, false),
            (r#"{"a": null}"#, r#"{"a": 7}"#, true),
            (r#"{"a": null}"#, r#"{"b": 7}"#, false),
            (r#"{"a": "1"}"#, r#"{"a": 1}"#, false),
            (r#"{"a": {"k": [1, "\u0062"]}}"#, r#"{"a":{"k":[1,"b"]}}"#, true),
            (r#"{"a": 1, "x-b": 2}"#, r#"{"a": 1}"#, true),
            (r#"{"x-match": "all-with-x", "a": 1, "x-b": 2}"#, r#"{"a": 1}"#, false),
            (r#"{"x-match": "all-with-x", "x-b": 2}"#, r#"{"x-b": 2}"#, true),
            (r#"{"x-match": "any", "x-b": 2}"#, r#"{"x-b": 2}"#, false),
            (r#"{"x-match": "any-with-x", "a": 1, "x-b": 2}"#, r#"{"x-b": 2}"#, true),
            (r#"{"\u0061": 1}"#, r#"{"a": 2, "a": 1}"#, true),
        ] {
            assert_eq!(matches(arguments, headers), expected, "{arguments} {headers}");
        }
    }

    #[test]
    fn x_match_is_checked() {
        let check = |text: &str| check_arguments(&Json::parse(text.to_owned()).unwrap());
        assert!(check("{}").is_ok());
        assert!(check(r#"{"x-match": "any-with-x"}"#).is_ok());
        let error = check(r#"{"x-match": "some"}"#).unwrap_err().to_string();
        assert!(error.contains("`x-match` must be") && error.ends_with("not \"some\""), "{error}");
        assert!(check(r#"{"x-match": 1}"#).is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            mode in proptest::option::of(0..MODES.len()),
            wanted in proptest::collection::btree_map("x-[ab]|[abc]", 0..3u8, 0..4),
            headers in proptest::collection::btree_map("x-[ab]|[abc]", 0..3u8, 0..5),
        ) {
            let (name, rule) = MODES[mode.unwrap_or(0)];
            let mut arguments: serde_json::Map<_, _> =
                wanted.iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect();
            if mode.is_some() {
                arguments.insert("x-match".into(), name.into());
            }
            let seen: Vec<bool> = wanted
                .iter()
                .filter(|(k, _)| rule.with_x || !k.starts_with("x-"))
                .map(|(k, v)| headers.get(k) == Some(v))
                .collect();
            let expected = if rule.all { !seen.contains(&false) } else { seen.contains(&true) };
            let own = serde_json::to_string(&headers).unwrap();
            prop_assert_eq!(matches(&Value::from(arguments).to_string(), &own), expected);
        }
    }
}
