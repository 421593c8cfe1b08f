//! Binding keys of topic exchanges: words separated by dots, `*` for exactly one word, `#` for any
//! number of words, none included (AMQP 0-9-1 section 3.1.3.3).

/// Whether a binding key takes a routing key.
///
/// Stock Kombu's virtual transports match by a regular expression in which `a.#` does not take `a`;
/// AMQP and RabbitMQ say that it does, and so do we. Time is bounded by the product of the two
/// numbers of words: only the last `#` is ever tried again.
pub fn topic_matches(binding_key: &str, routing_key: &str) -> bool {
    let mut pattern = Words::of(binding_key);
    let mut key = Words::of(routing_key);
    // Where to go on when it fails: after the last `#`, with one more word swallowed by it.
    let mut retry: Option<(Words<'_>, Words<'_>)> = None;
    loop {
        let mut rest = pattern;
        let matched = match rest.next() {
            Some(b"#") => {
                if rest.0.is_none() {
                    return true;
                }
                pattern = rest;
                retry = Some((rest, key));
                continue;
            }
            Some(b"*") => key.next().is_some(),
            Some(word) => key.next() == Some(word),
            None if key.0.is_none() => return true,
            None => false,
        };
        if matched {
            pattern = rest;
            continue;
        }
        let Some((after, swallowed)) = &mut retry else { return false };
        if swallowed.next().is_none() {
            return false;
        }
        pattern = *after;
        key = *swallowed;
    }
}

/// The words of a key that are left; the empty key has none, as in RabbitMQ.
#[derive(Clone, Copy)]
struct Words<'a>(Option<&'a [u8]>);

impl<'a> Words<'a> {
    fn of(key: &'a str) -> Self {
        Self((!key.is_empty()).then_some(key.as_bytes()))
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        match rest.iter().position(|&byte| byte == b'.') {
            Some(dot) => {
                self.0 = Some(&rest[dot + 1..]);
                Some(&rest[..dot])
            }
            None => self.0.take(),
        }
    }
}

/// The regular expression that stock Kombu makes of a binding key and keeps in the binding tables
/// that it shares with us (Redis, Zookeeper). We match by [`topic_matches`], but stock readers of the
/// table match by this.
pub fn kombu_pattern(binding_key: &str) -> String {
    let mut pattern = String::from("^");
    for (index, word) in binding_key.split('.').enumerate() {
        if index > 0 {
            pattern.push_str("\\.");
        }
        match word {
            "*" => pattern.push_str("[^\\.]+"),
            "#" => pattern.push_str(".*?"),
            _ => word.chars().for_each(|c| match c {
                '\0' => pattern.push_str("\\000"),
                '*' | '#' => pattern.push(c),
                _ if c.is_alphanumeric() => pattern.push(c),
                _ => pattern.extend(['\\', c]),
            }),
        }
    }
    pattern.push('$');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    #[test]
    fn as_in_rabbitmq() {
        for (pattern, yes, no) in [
            ("a.b", &["a.b"][..], &["a", "a.b.c", "", "a.bc", "A.b"][..]),
            ("*", &["a", "ab"], &["", "a.b"]),
            ("a.*", &["a.b", "a."], &["a", "a.b.c"]),
            ("*.*.c", &["a.b.c", "..c"], &["b.c"]),
            ("#", &["", "a", "a.b.c", "."], &[]),
            ("a.#", &["a", "a.b", "a.b.c"], &["", "ab", "b.a"]),
            ("#.b", &["b", "a.b", "a.b.b"], &["", "ab", "b.a"]),
            ("a.#.b", &["a.b", "a.x.b", "a.x.y.b", "a.b.b"], &["a", "b", "a.x"]),
            ("#.a.#", &["a", "x.a", "a.x", "x.a.y.a"], &["", "x", "x.y"]),
            ("*.#", &["a", "a.b"], &[""]),
            ("#.*", &["a", "a.b"], &[""]),
            ("#.#", &["", "a", "a.b"], &[]),
            ("", &[""], &["a", "."]),
            ("a*", &["a*"], &["ab", "a"]),
            ("a#", &["a#"], &["a", "a.b"]),
        ] {
            yes.iter().for_each(|key| assert!(topic_matches(pattern, key), "{pattern} {key}"));
            no.iter().for_each(|key| assert!(!topic_matches(pattern, key), "{pattern} {key}"));
        }
    }

    #[test]
    fn many_hashes_do_not_blow_up() {
        let pattern = "#.a.".repeat(100) + "b";
        let key = "a.".repeat(2_000) + "a";
        let start = Instant::now();
        assert!(!topic_matches(&pattern, &key));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn patterns_as_stock_kombu_stores_them() {
        for (key, pattern) in [
            ("a.b", r"^a\.b$"),
            ("a.*", r"^a\.[^\.]+$"),
            ("a.#.b", r"^a\..*?\.b$"),
            ("#", "^.*?$"),
            ("", "^$"),
            ("a*.b", r"^a*\.b$"),
            ("us-1_x.é", r"^us\-1\_x\.é$"),
        ] {
            assert_eq!(kombu_pattern(key), pattern);
        }
    }

    /// The definition, word by word.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                naive(rest, key) || key.split_first().is_some_and(|(_, more)| naive(pattern, more))
            }
            (Some((&"*", rest)), Some((_, more))) => naive(rest, more),
            (Some((word, rest)), Some((own, more))) => word == own && naive(rest, more),
            _ => false,
        }
    }

    fn split(key: &str) -> Vec<&str> {
        if key.is_empty() { Vec::new() } else { key.split('.').collect() }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pattern in proptest::collection::vec(proptest::sample::select(&["a", "b", "*", "#", ""][..]), 1..7),
            key in proptest::collection::vec(proptest::sample::select(&["a", "b", "c", ""][..]), 1..7),
        ) {
            let (pattern, key) = (pattern.join("."), key.join("."));
            let expected = naive(&split(&pattern), &split(&key));
            prop_assert_eq!(topic_matches(&pattern, &key), expected, "{} {}", pattern, key);
        }

        #[test]
        fn never_panics(pattern in any::<String>(), key in any::<String>()) {
            topic_matches(&pattern, &key);
            kombu_pattern(&pattern);
        }
    }
}
