//! The QoS ledger: what was delivered on a channel and is not settled yet.

use crate::model::{Claim, Name};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Open claims in the order of delivery, found by tag.
#[derive(Debug, Default)]
pub struct Ledger {
    next: u64,
    by_order: BTreeMap<u64, (Claim, Instant)>,
    by_tag: HashMap<Name, u64>,
}

impl Ledger {
    /// Notes a delivered message.
    pub fn append(&mut self, claim: Claim) {
        self.next += 1;
        if let Some(older) = self.by_tag.insert(claim.tag.clone(), self.next) {
            self.by_order.remove(&older);
        }
        self.by_order.insert(self.next, (claim, Instant::now()));
    }

    /// Number of open claims.
    pub fn len(&self) -> usize {
        self.by_order.len()
    }

    /// For how long the oldest claim has been open.
    pub fn oldest(&self) -> Option<Duration> {
        self.by_order.first_key_value().map(|(_, (_, since))| since.elapsed())
    }

    /// The tags of all open claims, oldest first.
    pub fn tags(&self) -> Vec<Name> {
        self.by_order.values().map(|(claim, _)| claim.tag.clone()).collect()
    }

    /// Takes one claim out; `None` when the tag is not known (stale).
    pub fn take(&mut self, tag: &str) -> Option<Claim> {
        let order = self.by_tag.remove(tag)?;
        self.by_order.remove(&order).map(|(claim, _)| claim)
    }

    /// Takes out the claim of `tag` and all older ones (`multiple`), oldest first; empty when the
    /// tag is not known.
    pub fn take_up_to(&mut self, tag: &str) -> Vec<Claim> {
        let Some(&order) = self.by_tag.get(tag) else { return Vec::new() };
        let newer = self.by_order.split_off(&(order + 1));
        let taken = std::mem::replace(&mut self.by_order, newer);
        self.forget_tags(taken)
    }

    /// Takes out everything, oldest first.
    pub fn take_all(&mut self) -> Vec<Claim> {
        let taken = std::mem::take(&mut self.by_order);
        self.forget_tags(taken)
    }

    fn forget_tags(&mut self, taken: BTreeMap<u64, (Claim, Instant)>) -> Vec<Claim> {
        let claims: Vec<Claim> = taken.into_values().map(|(claim, _)| claim).collect();
        for claim in &claims {
            self.by_tag.remove(&claim.tag);
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn claim(tag: &str) -> Claim {
        Claim { tag: tag.into(), queue: "q".into(), handle: Bytes::new() }
    }

    #[test]
    fn multiple_takes_the_older_ones_too() {
        let mut ledger = Ledger::default();
        for tag in ["a", "b", "c", "d"] {
            ledger.append(claim(tag));
        }
        assert_eq!(ledger.take("b"), Some(claim("b")));
        assert_eq!(ledger.take("b"), None);
        assert_eq!(ledger.take_up_to("c"), [claim("a"), claim("c")]);
        assert_eq!(ledger.take_up_to("nope"), []);
        assert_eq!(ledger.take_all(), [claim("d")]);
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn a_tag_seen_twice_is_counted_once() {
        let mut ledger = Ledger::default();
        ledger.append(claim("a"));
        ledger.append(claim("a"));
        assert_eq!(ledger.len(), 1);
        assert_eq!(ledger.tags(), ["a".into()]);
        assert!(ledger.oldest().is_some());
        ledger.take("a");
        assert_eq!(ledger.oldest(), None);
    }
}
