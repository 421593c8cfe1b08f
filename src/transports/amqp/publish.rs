//! Publishing: frames out, confirms back.

use super::confirming::{Batch, Outcome};
use super::error::ours;
use super::session::Session;
use super::state::{ChannelState, known};
use crate::error::{Error, Result};
use crate::io::task::{timeout_at, watch_until};
use crate::model::Message;
use crate::protocol::amqp::encode;
use crate::transport::PublishOptions;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Most publishes of one call that wait for their confirms.
const WINDOW: usize = 1000;
/// Frames are handed over when there are so many bytes of them.
const CHUNK: usize = 1 << 20;

/// Publishes messages in their order. With confirms it returns when the broker has all of them;
/// without, when the kernel has.
///
/// # Errors
/// `Encode` naming what AMQP cannot hold: then none of the messages was sent. What the broker says of
/// the first message that it refuses; `Timeout` when it takes longer than the caller waits, or
/// `publish_timeout`, or the broker blocks publishers for longer than `write_timeout`; `Connection`.
pub(super) async fn publish(
    session: &Session,
    state: &ChannelState,
    messages: &[Message],
    options: PublishOptions,
) -> Result<()> {
    if !state.inner.lock().confirming {
        // The broker may have said goodbye: nothing else would tell that the message is lost.
        session.link().tend();
    }
    let limits = Limits::new(session);
    while let Some(why) = session.board.blocked() {
        if timeout_at(limits.blocked, unblocked(session)).await.transpose()?.is_none() {
            return Err(session.blocked("the message was not sent", &why));
        }
    }
    let frame_max = session.terms.frame_max;
    let mut frames = Vec::new();
    let mut ends = Vec::with_capacity(messages.len());
    for message in messages {
        encode::publish(state.number, frame_max, message, options.mandatory, &mut frames)?;
        ends.push(frames.len());
    }
    let batch = Batch::new();
    let mut from = (0, 0);
    while from.0 < messages.len() {
        let enough = |at: usize| at - from.0 >= WINDOW / 2 || ends[at] - from.1 >= CHUNK;
        let last = (from.0..messages.len()).find(|&at| enough(at)).unwrap_or(messages.len() - 1);
        let all = send(session, state, &frames[from.1..ends[last]], || {
            register(state, &batch, &messages[from.0..=last], from.0, options);
        })?;
        session.board.counters.published.add(last + 1 - from.0);
        if !all && timeout_at(limits.all, session.flush()).await.transpose()?.is_none() {
            return Err(limits.passed(session, "been taken"));
        }
        from = (last + 1, ends[last]);
        if from.0 < messages.len() {
            confirmed(session, &batch, messages, WINDOW / 2, &limits).await?;
        }
    }
    confirmed(session, &batch, messages, 0, &limits).await
}

/// Sends frames of publishes, so that their numbers are in the order in which they are sent; whether
/// the kernel has taken all of them.
fn send(
    session: &Session,
    state: &ChannelState,
    frames: &[u8],
    number: impl FnOnce(),
) -> Result<bool> {
    let _in_order = state.in_order.lock();
    number();
    session.post(state, "a publish", frames)
}

/// Numbers messages that are sent next, if the broker does: as soon as `confirm.select` was sent.
fn register(
    state: &ChannelState,
    batch: &Arc<Batch>,
    messages: &[Message],
    first: usize,
    options: PublishOptions,
) {
    let mut inner = state.inner.lock();
    if !inner.confirming {
        return;
    }
    for (at, message) in messages.iter().enumerate() {
        let known = options.mandatory.then(|| known(message));
        inner.confirms.publish(batch.ticket(first + at), known);
    }
    if let Some(end) = inner.end.clone() {
        // It ended this moment: nobody else will tell these.
        let tickets = inner.confirms.settle(0, true);
        drop(inner);
        for ticket in tickets {
            ticket.settle(&Outcome::Ended(end.clone()));
        }
    }
}

/// How long a publish may take.
struct Limits {
    all: Instant,
    /// While the broker blocks publishers.
    blocked: Instant,
}

impl Limits {
    fn new(session: &Session) -> Self {
        let all = session.patience();
        Self { all, blocked: all.min(session.write_deadline()) }
    }

    /// The error when they have passed.
    fn passed(&self, session: &Session, what: &str) -> Error {
        let doubt = "it may have the messages or not";
        match session.board.blocked() {
            Some(why) => session.blocked(doubt, &why),
            None => {
                let peer = session.link().peer();
                ours(Error::timeout(format!(
                    "the publish has not {what} by {peer} within the timeout (publish_timeout, or \
                     that of the call): {doubt}"
                )))
            }
        }
    }
}

/// Waits until at most `left` messages of the batch are without an answer, within the limits.
async fn confirmed(
    session: &Session,
    batch: &Batch,
    messages: &[Message],
    left: usize,
    limits: &Limits,
) -> Result<()> {
    let answered = |left: usize, cx: &mut Context<'_>| {
        batch.poll(left, cx).map(|done| done.map_err(|failed| failed.error(messages)))
    };
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = answered(left, cx) {
            return Poll::Ready(done);
        }
        if let Poll::Ready(error) = session.link().poll_attend(cx) {
            // Ends the channel, and with it what is left of the batch.
            let lost = session.lost(error);
            return Poll::Ready(match answered(0, cx) {
                Poll::Ready(Ok(())) => Ok(()),
                Poll::Ready(Err(error)) if lost.code() == 0 => Err(error),
                _ => Err(lost),
            });
        }
        let limit = if session.board.blocked().is_some() { limits.blocked } else { limits.all };
        if Instant::now() >= limit {
            return Poll::Ready(Err(limits.passed(session, "been confirmed")));
        }
        watch_until(limit);
        answered(left, cx)
    })
    .await
}

/// Waits for news while the broker blocks publishers.
async fn unblocked(session: &Session) -> Result<()> {
    let mut news = std::pin::pin!(session.board.news.listen());
    if session.board.blocked().is_none() {
        return Ok(());
    }
    let lost = std::future::poll_fn(|cx| {
        if news.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        session.link().poll_attend(cx).map(Some)
    });
    lost.await.map_or(Ok(()), |error| Err(session.lost(error)))
}
