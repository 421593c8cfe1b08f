//! Who waits for the broker's answers to publishes.

use super::error::ours;
use super::state::End;
use crate::error::{Error, ErrorKind, Reply};
use crate::io::lock::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// AMQP 0-9-1 section 1.6.1: `no-route`.
const NO_ROUTE: u16 = 312;
const BASIC_RETURN: (u16, u16) = (60, 50);

/// What became of a publish.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// `basic.ack`
    Taken,
    /// `basic.nack`
    NotTaken,
    /// The channel ended first.
    Ended(End),
}

/// The messages of one call.
#[derive(Debug)]
pub(super) struct Batch {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: usize,
    failure: Option<Error>,
    waker: Option<Waker>,
}

/// One message of a batch, on its way.
#[derive(Debug)]
pub(super) struct Ticket {
    batch: Arc<Batch>,
    what: Arc<str>,
    at: usize,
}

impl Batch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { open: 0, failure: None, waker: None }) })
    }

    /// A ticket for the message at that place; `what` says where it goes.
    pub(super) fn ticket(self: &Arc<Self>, what: Arc<str>, at: usize) -> Ticket {
        self.state.lock().open += 1;
        Ticket { batch: self.clone(), what, at }
    }

    /// Ready when at most `left` messages are without an answer, or one has failed.
    pub(super) fn poll(&self, left: usize, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.state.lock();
        if state.open <= left {
            state.waker = None;
            return Poll::Ready(state.failure.take().map_or(Ok(()), Err));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Ticket {
    /// The broker has answered.
    pub(super) fn settle(self, outcome: &Outcome) {
        let Self { what, at, .. } = &self;
        let failure = match outcome {
            Outcome::Taken => None,
            Outcome::NotTaken => {
                let text = format!(
                    "the broker did not take message {at} of the publish to {what} (basic.nack): a \
                     queue is full or unavailable"
                );
                Some(Error::new(ErrorKind::NotTaken, text))
            }
            Outcome::Ended(End::Refused(reason)) => {
                Some(reason.refused(&format!("message {at} of the publish to {what}")))
            }
            Outcome::Ended(End::Closed) => {
                Some(Error::closed(format!("the channel was closed before {what} was confirmed")))
            }
            Outcome::Ended(End::Lost) => Some(Error::connection(format!(
                "the connection was lost before the broker confirmed message {at} of the publish to \
                 {what}: it may have it or not"
            ))),
        };
        let mut state = self.batch.state.lock();
        state.open -= 1;
        if let Some(failure) = failure {
            state.failure.get_or_insert_with(|| ours(failure));
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The message came back; the broker confirms it all the same.
    pub(super) fn came_back(&self, code: u16, text: &str) {
        let Self { what, at, .. } = self;
        let kind = if code == NO_ROUTE { ErrorKind::NotFound } else { ErrorKind::Channel };
        let told = format!("message {at} of the publish to {what} came back: {code} {text}");
        let reply = Reply { text: text.to_owned(), method: BASIC_RETURN };
        let failure = ours(Error::new(kind, told).with_code(code)).with_reply(reply);
        self.batch.state.lock().failure.get_or_insert(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transports::amqp::error::Reason;

    fn poll(batch: &Batch, left: usize) -> Poll<Result<(), Error>> {
        batch.poll(left, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_batch_is_done_when_all_are_answered() {
        let batch = Batch::new();
        let tickets: Vec<_> = (0..3).map(|at| batch.ticket("'e'".into(), at)).collect();
        assert!(poll(&batch, 2).is_pending());
        for ticket in tickets {
            assert!(poll(&batch, 0).is_pending());
            ticket.settle(&Outcome::Taken);
        }
        assert!(matches!(poll(&batch, 0), Poll::Ready(Ok(()))));
    }

    #[test]
    fn the_first_failure_is_told_when_all_are_answered() {
        let batch = Batch::new();
        let mut tickets = (0..4).map(|at| batch.ticket("'e'".into(), at));
        let [one, two, three, four] = std::array::from_fn(|_| tickets.next().expect("four"));
        two.came_back(312, "NO_ROUTE");
        one.settle(&Outcome::Taken);
        two.settle(&Outcome::Taken);
        three.settle(&Outcome::NotTaken);
        let reason = Reason { code: 404, text: "NOT_FOUND".into(), method: (60, 40) };
        four.settle(&Outcome::Ended(End::Refused(reason)));
        let Poll::Ready(Err(error)) = poll(&batch, 0) else { panic!("no error") };
        assert_eq!(
            (error.kind(), error.code(), error.driver()),
            (ErrorKind::NotFound, 312, "amqp")
        );
        assert!(error.to_string().contains("message 1 of the publish to 'e'"), "{error}");
    }
}
