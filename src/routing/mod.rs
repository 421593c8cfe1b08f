//! From a binding table to queues: the exchange types of AMQP 0-9-1 section 3.1.3. Pure functions.

mod headers;
mod topic;

pub use headers::check_arguments;
pub use topic::{kombu_pattern, topic_matches};

use crate::model::{Binding, ExchangeKind, Json, Name};
use std::collections::HashSet;

/// The queues that a message goes to: in the order of the bindings, each once.
///
/// The default exchange has no bindings (its messages go to the queue named by the routing key); the
/// caller knows that.
pub fn route(
    kind: ExchangeKind,
    bindings: &[Binding],
    routing_key: &str,
    headers: &Json,
) -> Vec<Name> {
    let mut queues = Distinct::default();
    match kind {
        ExchangeKind::Direct => {
            queues.extend(bindings.iter().filter(|b| *b.routing_key == *routing_key));
        }
        ExchangeKind::Fanout => queues.extend(bindings),
        ExchangeKind::Topic => {
            queues.extend(bindings.iter().filter(|b| topic_matches(&b.routing_key, routing_key)));
        }
        ExchangeKind::Headers => {
            let headers = headers::Headers::new(headers);
            queues.extend(bindings.iter().filter(|b| headers.match_binding(&b.arguments)));
        }
    }
    queues.names.into_iter().cloned().collect()
}

/// Names in the order of their first appearance. Most messages go to one or two queues, so the set
/// is made only when there are many.
#[derive(Default)]
struct Distinct<'a> {
    names: Vec<&'a Name>,
    seen: HashSet<&'a str>,
}

impl<'a> Distinct<'a> {
    const FEW: usize = 16;

    fn extend(&mut self, bindings: impl IntoIterator<Item = &'a Binding>) {
        for binding in bindings {
            let queue = &binding.queue;
            let new = if self.seen.is_empty() {
                !self.names.contains(&queue)
            } else {
                self.seen.insert(queue)
            };
            if new {
                self.names.push(queue);
                if self.names.len() == Self::FEW {
                    self.seen.extend(self.names.iter().map(|name| &***name));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binding(routing_key: &str, queue: &str, arguments: &str) -> Binding {
        Binding {
            exchange: "ex".into(),
            routing_key: routing_key.into(),
            queue: queue.into(),
            arguments: Json::parse(arguments.to_owned()).unwrap(),
        }
    }

    fn routed(kind: ExchangeKind, bindings: &[Binding], key: &str) -> Vec<String> {
        let queues = route(kind, bindings, key, &Json::empty_object());
        queues.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_type_routes_in_the_order_of_the_bindings_without_duplicates() {
        let bindings = [
            binding("a.b", "q2", "{}"),
            binding("a.*", "q1", "{}"),
            binding("a.b", "q1", "{}"),
            binding("a.b", "q2", "{}"),
            binding("c", "q3", "{}"),
        ];
        assert_eq!(routed(ExchangeKind::Direct, &bindings, "a.b"), ["q2", "q1"]);
        assert_eq!(routed(ExchangeKind::Direct, &bindings, "a.*"), ["q1"]);
        assert_eq!(routed(ExchangeKind::Topic, &bindings, "a.x"), ["q1"]);
        assert_eq!(routed(ExchangeKind::Fanout, &bindings, "zz"), ["q2", "q1", "q3"]);
        assert_eq!(routed(ExchangeKind::Direct, &[], "a"), [""; 0]);
        // Without arguments a headers binding takes everything, as x-match is "all".
        assert_eq!(routed(ExchangeKind::Headers, &bindings, "zz"), ["q2", "q1", "q3"]);
    }

    proptest! {
        #[test]
        fn duplicates_go_and_the_order_stays(queues in proptest::collection::vec(0..60u8, 0..150)) {
            let bindings: Vec<_> =
                queues.iter().map(|queue| binding("k", &queue.to_string(), "{}")).collect();
            let mut naive: Vec<String> = Vec::new();
            for queue in &queues {
                if !naive.contains(&queue.to_string()) {
                    naive.push(queue.to_string());
                }
            }
            prop_assert_eq!(routed(ExchangeKind::Direct, &bindings, "k"), naive);
        }
    }
}
