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
use std::task::Poll;
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
/// the first message that it refuses; `Timeout` when it blocks publishers for longer than
/// `write_timeout`; `Connection`.
pub(super) async fn publish(
    session: &Session,
    state: &ChannelState,
    messages: &[Message],
    options: PublishOptions,
) -> Result<()> {
    let confirming = state.inner.lock().confirming;
    if !confirming {
        // The broker may have said goodbye: nothing else would tell that the message is lost.
        session.link().tend();
    }
    let limit = session.write_deadline();
    while let Some(why) = session.board.blocked() {
        if timeout_at(limit, unblocked(session)).await.transpose()?.is_none() {
            return Err(refuses(session, &why));
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
            if confirming {
                register(state, &batch, &messages[from.0..=last], from.0, options);
            }
        })?;
        if !all {
            session.flush().await?;
        }
        from = (last + 1, ends[last]);
        if confirming && from.0 < messages.len() {
            confirmed(session, &batch, WINDOW / 2, limit).await?;
        }
    }
    if confirming { confirmed(session, &batch, 0, limit).await } else { Ok(()) }
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
    if let Some(end) = state.ended() {
        return Err(session.ended(&end, "a publish"));
    }
    number();
    session.link().post(frames).map_err(|error| session.lost(error))
}

fn register(
    state: &ChannelState,
    batch: &Arc<Batch>,
    messages: &[Message],
    first: usize,
    options: PublishOptions,
) {
    let mut what: Arc<str> = "".into();
    let mut last: Option<&Message> = None;
    let mut inner = state.inner.lock();
    for (at, message) in messages.iter().enumerate() {
        let (exchange, key) = (&message.properties.exchange, &message.properties.routing_key);
        let same = last.is_some_and(|last| {
            last.properties.exchange == *exchange && last.properties.routing_key == *key
        });
        if !same {
            what = match exchange.is_empty() {
                true => format!("the queue '{key}'").into(),
                false => format!("the exchange '{exchange}' with the routing key '{key}'").into(),
            };
            last = Some(message);
        }
        let ticket = batch.ticket(what.clone(), first + at);
        let known = options.mandatory.then(|| known(message));
        inner.confirms.publish(ticket, known);
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

fn refuses(session: &Session, why: &str) -> Error {
    ours(Error::timeout(format!("{} takes no publishes: {why}", session.link().peer())))
}

/// Waits until at most `left` messages of the batch are without an answer; while the broker blocks
/// publishers, until `limit`.
async fn confirmed(session: &Session, batch: &Batch, left: usize, limit: Instant) -> Result<()> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = batch.poll(left, cx) {
            return Poll::Ready(done);
        }
        if let Poll::Ready(error) = session.link().poll_attend(cx) {
            // Ends the channel, and with it what is left of the batch.
            let lost = session.lost(error);
            return Poll::Ready(match batch.poll(0, cx) {
                Poll::Ready(Ok(())) => Ok(()),
                Poll::Ready(Err(error)) if lost.code() == 0 => Err(error),
                _ => Err(lost),
            });
        }
        if let Some(why) = session.board.blocked() {
            if Instant::now() >= limit {
                return Poll::Ready(Err(refuses(session, &why)));
            }
            watch_until(limit);
        }
        batch.poll(left, cx)
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
