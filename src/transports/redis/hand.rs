//! A message between being popped and being claimed, where that is not one step.

use super::error::refused;
use super::session::Session;
use super::shared::Shared;
use crate::error::Result;
use crate::io::link::Told;
use crate::io::lock::Mutex;
use crate::protocol::resp::{ServerError, Value};
use bytes::Bytes;
use std::sync::{Arc, Weak};

/// A message that was popped and has to go back: it could not be claimed.
#[derive(Debug, Clone)]
pub(super) struct Popped {
    /// Where it was.
    pub(super) list: String,
    /// The tag of its claim, if the server has made one although no answer says so.
    pub(super) tag: String,
    /// The message.
    pub(super) message: Bytes,
    /// To which end of the list it goes: `RPUSH` to be the next, `LPUSH` to be the last.
    pub(super) push: &'static str,
}

/// What `RPOP` brings. What is still in it when it is dropped goes back over this or a later link;
/// also what is brought when nobody waits any more.
pub(super) struct Hand(Arc<Inner>);

struct Inner {
    shared: Weak<Shared>,
    list: String,
    tag: String,
    state: Mutex<State>,
}

enum State {
    Empty,
    Full(Bytes),
    Refused(ServerError),
    Withdrawn,
}

impl Hand {
    /// A hand for a message of `list`, to be claimed as `tag`; and what is to be called with the answer.
    pub(super) fn open(session: &Session, list: &str, tag: &str) -> (Self, Told<Value>) {
        let inner = Arc::new(Inner {
            shared: session.shared().map(|shared| shared.weak()).unwrap_or_default(),
            list: list.to_owned(),
            tag: tag.to_owned(),
            state: Mutex::new(State::Empty),
        });
        let theirs = inner.clone();
        let told = move |replies: Option<Vec<Value>>| {
            // Without an answer the link is lost, and a message that was on its way.
            let Some(reply) = replies.and_then(|mut replies| replies.pop()) else { return };
            theirs.answered(reply);
        };
        (Self(inner), Box::new(told))
    }

    /// The message, when there was one.
    ///
    /// # Errors
    /// The refusal; `what` names the operation.
    pub(super) fn message(&self, what: &str) -> Result<Option<Bytes>> {
        match &*self.0.state.lock() {
            State::Full(message) => Ok(Some(message.clone())),
            State::Refused(error) => Err(refused(what, error)),
            State::Empty | State::Withdrawn => Ok(None),
        }
    }

    /// The message has been claimed, or needs no claim.
    pub(super) fn keep(self) {
        *self.0.state.lock() = State::Empty;
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.0.state.lock(), State::Withdrawn);
        if let State::Full(message) = state {
            self.0.give_back(message);
        }
    }
}

impl Inner {
    fn answered(&self, reply: Value) {
        let mut state = self.state.lock();
        match reply {
            Value::Error(error) => *state = State::Refused(error),
            reply => {
                let Some(message) = reply.as_bytes().cloned() else { return };
                if matches!(*state, State::Withdrawn) {
                    self.give_back(message);
                } else {
                    *state = State::Full(message);
                }
            }
        }
    }

    fn give_back(&self, message: Bytes) {
        if let Some(shared) = self.shared.upgrade() {
            let (list, tag) = (self.list.clone(), self.tag.clone());
            shared.unsure.not_claimed(Popped { list, tag, message, push: "RPUSH" });
        }
    }
}
