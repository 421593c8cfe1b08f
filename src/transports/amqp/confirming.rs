//! Who waits for the broker's answers to publishes.

use super::error::ours;
use super::state::End;
use crate::error::{Error, ErrorKind, Reply};
use crate::io::lock::Mutex;
use crate::model::Message;
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
    failure: Option<Failed>,
    waker: Option<Waker>,
}

/// The first message of a batch that the broker did not take.
#[derive(Debug)]
pub(super) struct Failed {
    at: usize,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NotTaken,
    Ended(End),
    CameBack(u16, String),
}

impl Failed {
    /// The error, about one of the messages that were published.
    pub(super) fn error(self, messages: &[Message]) -> Error {
        let at = self.at;
        let what = messages.get(at).map(named).unwrap_or_default();
        let error = match self.why {
            Why::NotTaken => Error::new(
                ErrorKind::NotTaken,
                format!(
                    "the broker did not take message {at} of the publish to {what} (basic.nack): a \
                     queue is full or unavailable"
                ),
            ),
            Why::Ended(End::Refused(reason)) => {
                reason.refused(&format!("message {at} of the publish to {what}"))
            }
            Why::Ended(End::Closed) => Error::closed(format!(
                "the channel was closed before message {at} of the publish to {what} was confirmed"
            )),
            Why::Ended(End::Lost) => Error::connection(format!(
                "the connection was lost before the broker confirmed message {at} of the publish to \
                 {what}: it may have it or not"
            )),
            Why::CameBack(code, text) => {
                let kind = if code == NO_ROUTE { ErrorKind::NotFound } else { ErrorKind::Channel };
                let told =
                    format!("message {at} of the publish to {what} came back: {code} {text}");
                let reply = Reply { text, method: BASIC_RETURN };
                Error::new(kind, told).with_code(code).with_reply(reply)
            }
        };
        ours(error)
    }
}

/// Where a message goes, and its `message_id` if it has one.
fn named(message: &Message) -> String {
    let properties = &message.properties;
    let mut what = match properties.exchange.is_empty() {
        true => format!("the queue '{}'", properties.routing_key),
        false => format!(
            "the exchange '{}' with the routing key '{}'",
            properties.exchange, properties.routing_key
        ),
    };
    if let Some(id) = properties.extra.get("message_id") {
        what += &format!(", message_id {}", String::from_utf8_lossy(id));
    }
    what
}

/// One message of a batch, on its way.
#[derive(Debug)]
pub(super) struct Ticket {
    batch: Arc<Batch>,
    at: usize,
}

impl Batch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { open: 0, failure: None, waker: None }) })
    }

    /// A ticket for the message at that place.
    pub(super) fn ticket(self: &Arc<Self>, at: usize) -> Ticket {
        self.state.lock().open += 1;
        Ticket { batch: self.clone(), at }
    }

    /// Ready when at most `left` messages are without an answer, or one has failed.
    pub(super) fn poll(&self, left: usize, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
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
        let why = match outcome {
            Outcome::Taken => None,
            Outcome::NotTaken => Some(Why::NotTaken),
            Outcome::Ended(end) => Some(Why::Ended(end.clone())),
        };
        let mut state = self.batch.state.lock();
        state.open -= 1;
        if let Some(why) = why {
            state.failure.get_or_insert(Failed { at: self.at, why });
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The message came back; the broker confirms it all the same.
    pub(super) fn came_back(&self, code: u16, text: &str) {
        let failure = Failed { at: self.at, why: Why::CameBack(code, text.to_owned()) };
        self.batch.state.lock().failure.get_or_insert(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Json;
    use crate::transports::amqp::error::Reason;

    fn poll(batch: &Batch, left: usize) -> Poll<Result<(), Failed>> {
        batch.poll(left, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_batch_is_done_when_all_are_answered() {
        let batch = Batch::new();
        let tickets: Vec<_> = (0..3).map(|at| batch.ticket(at)).collect();
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
        let mut tickets = (0..4).map(|at| batch.ticket(at));
        let [one, two, three, four] = std::array::from_fn(|_| tickets.next().expect("four"));
        two.came_back(312, "NO_ROUTE");
        one.settle(&Outcome::Taken);
        two.settle(&Outcome::Taken);
        three.settle(&Outcome::NotTaken);
        let reason = Reason { code: 404, text: "NOT_FOUND".into(), method: (60, 40) };
        four.settle(&Outcome::Ended(End::Refused(reason)));
        let Poll::Ready(Err(failed)) = poll(&batch, 0) else { panic!("no error") };
        let mut messages = vec![Message::default(); 4];
        messages[1].properties.exchange = "e".into();
        messages[1].properties.routing_key = "k".into();
        messages[1].properties.extra = Json::from_valid(r#"{"message_id": "m1"}"#);
        let error = failed.error(&messages);
        assert_eq!(
            (error.kind(), error.code(), error.driver()),
            (ErrorKind::NotFound, 312, "amqp")
        );
        let told = "message 1 of the publish to the exchange 'e' with the routing key 'k', message_id \"m1\"";
        assert!(error.to_string().contains(told), "{error}");
    }
}
