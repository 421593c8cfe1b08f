//! Fair rotation: the idea of `kombu.utils.scheduling.FairCycle`.

/// Asks resources in turn. Each round starts behind the resource that was served last, so one that
/// always has something cannot starve the others: a ready resource is served after at most as many
/// others as there are.
#[derive(Debug, Clone)]
pub struct FairCycle<T> {
    resources: Vec<T>,
    /// Where the next round starts; may be one past the end.
    next: usize,
}

impl<T> Default for FairCycle<T> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<T> FairCycle<T> {
    /// A cycle over `resources`, starting with the first.
    pub fn new(resources: impl IntoIterator<Item = T>) -> Self {
        Self { resources: resources.into_iter().collect(), next: 0 }
    }

    /// The resources in the order in which they were added.
    pub fn resources(&self) -> &[T] {
        &self.resources
    }

    /// Adds a resource at the end.
    pub fn push(&mut self, resource: T) {
        self.resources.push(resource);
    }

    /// Keeps the resources for which `keep` holds. Whose turn it is does not change.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let (mut index, mut gone) = (0, 0);
        let next = self.next;
        self.resources.retain(|resource| {
            let kept = keep(resource);
            gone += usize::from(!kept && index < next);
            index += 1;
            kept
        });
        self.next -= gone;
    }

    /// All resources, the one whose turn it is first. For asking many at a time: tell who was served
    /// by [`FairCycle::served`].
    pub fn order(&self) -> impl Iterator<Item = &T> {
        let (behind, first) = self.resources.split_at(self.next.min(self.resources.len()));
        first.iter().chain(behind)
    }

    /// The turn goes to the resource behind the first one for which `is_it` holds, if there is one.
    pub fn served(&mut self, is_it: impl FnMut(&T) -> bool) {
        if let Some(index) = self.resources.iter().position(is_it) {
            self.next = index + 1;
        }
    }

    /// Asks each resource once, the one whose turn it is first, until one has something. `None` when
    /// there is no resource.
    ///
    /// # Errors
    /// What `ask` returned for which `is_empty` does not hold, at once: the turn has moved behind that
    /// resource. When all are empty, what the last one returned.
    pub fn get<R, E>(
        &mut self,
        mut ask: impl FnMut(&T) -> Result<R, E>,
        is_empty: impl Fn(&E) -> bool,
    ) -> Option<Result<R, E>> {
        let mut last = None;
        for _ in 0..self.resources.len() {
            let turn = next_turn(&mut self.next, self.resources.len())?;
            match ask(&self.resources[turn]) {
                Err(error) if is_empty(&error) => last = Some(Err(error)),
                answer => return Some(answer),
            }
        }
        last
    }
}

/// Whose turn it is among `count` resources: `next` says where the round goes on, and moves behind it.
/// `None` when there is no resource.
pub fn next_turn(next: &mut usize, count: usize) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let turn = if *next < count { *next } else { 0 };
    *next = turn + 1;
    Some(turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    fn take(cycle: &mut FairCycle<char>, ready: &str) -> (Option<char>, String) {
        let asked = RefCell::new(String::new());
        let ask = |&c: &char| {
            asked.borrow_mut().push(c);
            if ready.contains(c) { Ok(c) } else { Err("empty") }
        };
        let found = cycle.get(ask, |_| true).and_then(Result::ok);
        (found, asked.into_inner())
    }

    #[test]
    fn asks_in_rotation() {
        let mut cycle = FairCycle::new("abcd".chars());
        assert_eq!(take(&mut cycle, "bc"), (Some('b'), "ab".into()));
        assert_eq!(take(&mut cycle, "bc"), (Some('c'), "c".into()));
        assert_eq!(take(&mut cycle, "bc"), (Some('b'), "dab".into()));
        assert_eq!(take(&mut cycle, ""), (None, "cdab".into()));
        assert_eq!(cycle.order().collect::<String>(), "cdab");
        cycle.retain(|&c| c != 'b');
        assert_eq!(cycle.order().collect::<String>(), "cda");
        cycle.served(|&c| c == 'd');
        cycle.push('e');
        assert_eq!(cycle.order().collect::<String>(), "eacd");
        cycle.retain(|_| false);
        assert_eq!(take(&mut cycle, "a"), (None, String::new()));
    }

    #[test]
    fn other_errors_go_through_at_once() {
        let mut cycle = FairCycle::new([1, 2]);
        let broken =
            cycle.get(|&n| if n == 1 { Err::<(), _>("broken") } else { Ok(()) }, |_| false);
        assert_eq!(broken, Some(Err("broken")));
        assert_eq!(cycle.get(|&n| Ok::<_, &str>(n), |_| false), Some(Ok(2)));
        assert_eq!(FairCycle::<u8>::default().get(|_| Err::<(), _>(1), |_| true), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Get(u32),
        Push,
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => any::<u32>().prop_map(Step::Get),
            1 => Just(Step::Push),
            1 => any::<u8>().prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn nobody_ready_waits_longer_than_a_round(
            count in 1..8usize, steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut cycle = FairCycle::new(0..count);
            let mut fresh = count;
            // For each resource: how many others were served since it became ready.
            let mut waited = std::collections::HashMap::<usize, usize>::new();
            for step in steps {
                match step {
                    Step::Push => {
                        cycle.push(fresh);
                        fresh += 1;
                    }
                    Step::Remove(which) => {
                        let gone = usize::from(which) % fresh;
                        cycle.retain(|&own| own != gone);
                        waited.remove(&gone);
                    }
                    Step::Get(bits) => {
                        let ready = |n: &usize| waited.contains_key(n) || bits >> (n % 32) & 1 == 1;
                        let ask = |n: &usize| if ready(n) { Ok(*n) } else { Err(()) };
                        let now: Vec<usize> = cycle.resources().iter().copied().filter(ready).collect();
                        let served = cycle.get(ask, |()| true).and_then(Result::ok);
                        prop_assert_eq!(served.is_none(), now.is_empty());
                        for other in now {
                            if Some(other) == served {
                                waited.remove(&other);
                            } else {
                                let rounds = waited.entry(other).or_insert(0);
                                *rounds += 1;
                                // Resources that come and go in between may each be served once.
                                prop_assert!(*rounds < fresh, "{other} waited for {rounds} others");
                            }
                        }
                    }
                }
                let resources = cycle.resources().len();
                prop_assert_eq!(cycle.order().count(), resources);
            }
        }
    }
}
