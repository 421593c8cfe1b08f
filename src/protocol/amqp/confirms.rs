//! Publisher confirms: which publishes the broker has not answered yet.

use bytes::Bytes;
use std::collections::BTreeMap;

/// The publishes of a channel in confirm mode, by their numbers; `T` is who wants to know.
#[derive(Debug)]
pub struct Confirms<T> {
    last: u64,
    open: BTreeMap<u64, Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    who: T,
    /// Of a mandatory message: by what its return is known, which has no number.
    mandatory: Option<Known>,
}

/// A message as it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The exchange it was published to.
    pub exchange: crate::model::Name,
    /// Its routing key.
    pub routing_key: crate::model::Name,
    /// Its body.
    pub body: Bytes,
}

impl<T> Default for Confirms<T> {
    fn default() -> Self {
        Self { last: 0, open: BTreeMap::new() }
    }
}

impl<T> Confirms<T> {
    /// Notes the next publish; its number. `mandatory` when it may come back.
    pub fn publish(&mut self, who: T, mandatory: Option<Known>) -> u64 {
        self.last += 1;
        self.open.insert(self.last, Open { who, mandatory });
        self.last
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether all are answered.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The broker has answered `tag`, or all up to it (`multiple`; 0: all). Those who wanted to know;
    /// nobody when it was answered before.
    pub fn settle(&mut self, tag: u64, multiple: bool) -> Vec<T> {
        if !multiple {
            return self.open.remove(&tag).map(|open| open.who).into_iter().collect();
        }
        let settled = if tag == 0 {
            std::mem::take(&mut self.open)
        } else {
            let later = self.open.split_off(&(tag + 1));
            std::mem::replace(&mut self.open, later)
        };
        settled.into_values().map(|open| open.who).collect()
    }

    /// A message has come back: whose it was. The broker returns messages in the order of their
    /// publishes, each before it confirms it.
    pub fn returned(&mut self, known: &Known) -> Option<&mut T> {
        let open = self.open.values_mut().find(|open| open.mandatory.as_ref() == Some(known))?;
        open.mandatory = None;
        Some(&mut open.who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(body: &'static str) -> Option<Known> {
        Some(Known { exchange: "e".into(), routing_key: "k".into(), body: body.into() })
    }

    #[test]
    fn multiple_settles_all_that_are_older() {
        let mut confirms = Confirms::default();
        let tags: Vec<u64> = "abcde".chars().map(|who| confirms.publish(who, None)).collect();
        assert_eq!(tags, [1, 2, 3, 4, 5]);
        assert_eq!(confirms.settle(2, false), ['b']);
        assert!(confirms.settle(2, false).is_empty());
        assert_eq!(confirms.settle(3, true), ['a', 'c']);
        assert!(confirms.settle(1, true).is_empty());
        assert_eq!(confirms.len(), 2);
        assert_eq!(confirms.settle(0, true), ['d', 'e']);
        assert!(confirms.is_empty());
        assert_eq!(confirms.publish('f', None), 6);
    }

    #[test]
    fn a_return_finds_its_publish() {
        let mut confirms = Confirms::default();
        for (who, mandatory) in
            [('a', None), ('b', known("1")), ('c', known("2")), ('d', known("1"))]
        {
            confirms.publish(who, mandatory);
        }
        assert_eq!(confirms.returned(&known("1").unwrap()), Some(&mut 'b'));
        assert_eq!(confirms.returned(&known("1").unwrap()), Some(&mut 'd'));
        assert_eq!(confirms.returned(&known("1").unwrap()), None);
        assert_eq!(confirms.returned(&known("2").unwrap()), Some(&mut 'c'));
    }

    proptest! {
        #[test]
        fn everybody_is_told_once(answers in proptest::collection::vec((0u64..30, any::<bool>()), 0..40)) {
            let mut confirms = Confirms::default();
            for who in 1..=20u64 {
                assert_eq!(confirms.publish(who, None), who);
            }
            let mut told = Vec::new();
            for (tag, multiple) in answers {
                told.extend(confirms.settle(tag, multiple));
            }
            told.extend(confirms.settle(0, true));
            told.sort_unstable();
            prop_assert_eq!(told, (1..=20).collect::<Vec<_>>());
        }
    }
}
