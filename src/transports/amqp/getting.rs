//! `basic.get`: a message is on its way as soon as it is asked for, whether the caller waits or not.

use super::session::Session;
use super::state::ChannelState;
use crate::io::lock::Mutex;
use crate::protocol::amqp::encode::{self, Settle};
use std::sync::Arc;

/// One request that was sent.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The caller waits no more.
    given_up: bool,
    /// The number of what came.
    came: Option<u64>,
}

impl Asked {
    /// A message has come. `false` when nobody waits for it: it is to go back.
    pub(super) fn came(&self, tag: u64) -> bool {
        let mut state = self.0.lock();
        state.came = Some(tag);
        !state.given_up
    }
}

/// Held by the caller; when it is dropped before [`Waiting::done`], what comes goes back.
pub(super) struct Waiting<'a> {
    session: &'a Session,
    state: &'a ChannelState,
    asked: Arc<Asked>,
    no_ack: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        session: &'a Session,
        state: &'a ChannelState,
        asked: Arc<Asked>,
        no_ack: bool,
    ) -> Self {
        Self { session, state, asked, no_ack }
    }

    /// The answer is with the caller.
    pub(super) fn done(mut self) {
        self.no_ack = true; // nothing to give back
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.no_ack {
            return;
        }
        let mut asked = self.asked.0.lock();
        asked.given_up = true;
        let came = asked.came;
        drop(asked);
        if let Some(tag) = came {
            let mut frame = Vec::new();
            encode::settle(self.state.number, tag, false, Settle::Requeue, &mut frame);
            // Lost: then the broker has it again.
            let _ = self.session.post(self.state, "to give a message back", &frame);
        }
    }
}
