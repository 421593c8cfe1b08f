//! What every transport has to do, as public functions: one list of cases, run over each broker by
//! `tests/conformance.rs` and open to transports that others write.
//!
//! A case tells by the broker's [`Capability`] whether it applies, never by a name. It panics or
//! returns an error when the transport fails it.

mod bodies;
mod broker;
mod consuming;
mod event_loop;
mod exchanges;
mod queues;
mod settling;
mod sharing;

pub use broker::{Broker, Connect, Peer};

use crate::error::{Error, Result};
use crate::io::task;
use crate::transport::Capability;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// No case takes longer than this, on however busy a machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A case under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One promise of every transport.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `group::promise`.
    pub name: &'static str,
    /// Whether it applies to a broker with these abilities.
    pub needs: fn(Capability) -> bool,
    /// Runs it on a broker that no other case uses at the same time, or under other names.
    pub run: fn(&Broker) -> Running<'_>,
}

impl Case {
    /// Runs the case on this thread.
    ///
    /// # Errors
    /// What an operation of the transport raised; `Timeout` after [`LIMIT`].
    ///
    /// # Panics
    /// The transport did something else than it should.
    pub fn check(&self, broker: &Broker) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let work = (self.run)(broker);
        task::run(async {
            match task::timeout_at(end, work).await {
                Some(done) => done,
                None => Err(Error::timeout(format!("the case {} did not end", self.name))),
            }
        })
    }
}

macro_rules! case {
    ($group:ident::$name:ident) => {
        case!($group::$name, |_| true)
    };
    ($group:ident::$name:ident, $needs:expr) => {
        Case {
            name: concat!(stringify!($group), "::", stringify!($name)),
            needs: $needs,
            run: |broker| Box::pin($group::$name(broker)),
        }
    };
}

/// All cases.
pub const CASES: &[Case] = &[
    case!(bodies::bytes_of_every_kind_come_back),
    case!(bodies::a_large_body_comes_back),
    case!(bodies::headers_and_properties_come_back),
    case!(consuming::messages_come_in_order, |c| c.ordered),
    case!(consuming::more_urgent_messages_come_first, |c| c.priority),
    case!(consuming::without_ack_nothing_is_held),
    case!(consuming::a_prefetch_limit_holds_messages_back),
    case!(consuming::cancelling_returns_unseen_messages, |c| c.ordered),
    case!(consuming::a_paused_channel_gets_nothing),
    case!(consuming::no_ready_queue_waits_longer_than_a_round),
    case!(consuming::channels_take_turns),
    case!(consuming::consumers_of_a_queue_take_turns),
    case!(consuming::a_wait_that_was_given_up_loses_nothing),
    case!(consuming::a_consumer_tag_is_used_once),
    case!(event_loop::the_descriptor_tells_of_messages),
    case!(event_loop::the_descriptor_is_silent_without_credit),
    case!(exchanges::direct_routes_by_equal_keys),
    case!(exchanges::topic_routes_by_patterns),
    case!(exchanges::fanout_reaches_every_queue, |c| c.fanout),
    case!(exchanges::headers_route_by_their_values),
    case!(exchanges::bindings_can_be_removed),
    case!(exchanges::wrong_binding_arguments_are_refused),
    case!(exchanges::another_declaration_must_be_equivalent),
    case!(queues::a_batch_keeps_its_order, |c| c.ordered),
    case!(queues::declaring_tells_the_size),
    case!(queues::a_name_is_made_up_when_there_is_none),
    case!(queues::an_unknown_queue_is_not_found),
    case!(queues::purging_counts),
    case!(queues::deleting_is_refused_while_in_use),
    case!(settling::an_acknowledged_message_is_gone),
    case!(settling::acknowledging_several_at_once, |c| c.ordered),
    case!(settling::a_stale_tag_is_dropped),
    case!(settling::a_requeued_message_comes_again_marked, |c| c.ordered),
    case!(settling::a_rejected_message_is_gone),
    case!(settling::recovering_returns_what_is_open, |c| c.ordered),
    case!(settling::closing_a_channel_restores_in_order, |c| c.ordered),
    case!(settling::a_closed_channel_refuses),
    case!(sharing::two_connections_get_each_message_once),
    case!(sharing::threads_drain_one_connection),
    case!(sharing::threads_publish_through_one_channel),
];
