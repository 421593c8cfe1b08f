//! What comes in over a link: to whom it goes, and what the protocol answers by itself.

use super::board::Board;
use super::error::Reason;
use super::state::{ChannelState, Delivered, End};
use crate::error::{Error, Result};
use crate::io::link::{Moved, Traffic};
use crate::protocol::amqp::encode::{self, Settle};
use crate::protocol::amqp::{AMQPClass, Content, Event, Head, basic, channel, connection};
use crate::transport::Returned;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// AMQP 0-9-1 section 1.6.
const PRECONDITION_FAILED: u16 = 406;
/// In RabbitMQ's words for `consumer_timeout`.
const TOO_LATE: &str = "delivery acknowledgement";

/// See the module.
pub(super) struct Incoming {
    board: Arc<Board>,
    peer: String,
    /// To be sent.
    answers: Vec<u8>,
    /// Why the link is of no more use.
    over: Option<Error>,
    /// See [`super::Config::consumer_timeout`].
    consumer_timeout: Option<Duration>,
    heard: Instant,
    /// Intervals since then that were counted as missed.
    missed: u32,
    spoke: Instant,
    moved: Moved,
}

impl Incoming {
    pub(super) fn new(board: Arc<Board>, peer: String, consumer_timeout: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            board,
            peer,
            answers: Vec::new(),
            over: None,
            consumer_timeout,
            heard: now,
            missed: 0,
            spoke: now,
            moved: Moved::default(),
        }
    }

    fn answer(&mut self, number: u16, class: AMQPClass) {
        // Methods without arguments of variable length: nothing can be wrong with them.
        if let Err(error) = encode::method(number, class, &mut self.answers) {
            self.over.get_or_insert(error);
        }
    }

    fn content(&mut self, number: u16, content: Content) -> Option<Event> {
        let state = self.board.channel(number);
        let Content { head, message } = content;
        match head {
            Head::Returned { .. } => self.board.counters.returned.add(1),
            Head::Got { .. } | Head::Delivered { .. } => self.board.counters.received.add(1),
        }
        match head {
            Head::Got { tag, .. } => {
                if state.is_some_and(|state| !state.answered(Some(tag)) && state.may_send()) {
                    encode::settle(number, tag, false, Settle::Requeue, &mut self.answers);
                }
                return Some(Event::Content(number, Box::new(Content { head, message })));
            }
            Head::Delivered { consumer_tag, tag } => {
                let deliver = |state: Arc<ChannelState>| {
                    let delivered = state.deliver(&consumer_tag, tag, message);
                    (delivered != Delivered::Kept && state.may_send()).then_some(delivered)
                };
                if let Some(unwanted) = state.and_then(deliver) {
                    if unwanted == Delivered::ToNobody {
                        self.cancel(number, &consumer_tag);
                    }
                    encode::settle(number, tag, false, Settle::Requeue, &mut self.answers);
                }
            }
            Head::Returned { code, text } => {
                if let Some(state) = state {
                    state.came_back(Returned { code, text, message });
                    self.board.came_back();
                }
            }
        }
        None
    }

    /// Cancels who is not known: otherwise what it gets, and gives back, would come again for ever.
    fn cancel(&mut self, number: u16, consumer_tag: &str) {
        let consumer_tag = consumer_tag.into();
        let cancel = basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag, nowait: true });
        self.answer(number, AMQPClass::Basic(cancel));
    }

    fn of_connection(&mut self, method: connection::AMQPMethod) -> Option<Event> {
        match method {
            connection::AMQPMethod::Close(close) => {
                let text = close.reply_text.to_string();
                let method = (close.class_id, close.method_id);
                let reason = Reason { code: close.reply_code, text, method };
                let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                self.answer(0, AMQPClass::Connection(ok));
                self.over.get_or_insert(reason.closed(&self.peer));
                *self.board.closed.lock() = Some(reason);
                None
            }
            connection::AMQPMethod::Blocked(blocked) => {
                self.board.block(Some(blocked.reason.to_string()));
                None
            }
            connection::AMQPMethod::Unblocked(_) => {
                self.board.block(None);
                None
            }
            other => Some(Event::Method(0, AMQPClass::Connection(other))),
        }
    }

    fn of_channel(&mut self, number: u16, class: AMQPClass) -> Option<Event> {
        match &class {
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                let mut text = close.reply_text.to_string();
                let state = self.board.channel(number);
                if close.reply_code == PRECONDITION_FAILED
                    && text.contains(TOO_LATE)
                    && let Some((tag, queue)) = state.as_ref().and_then(|state| state.oldest())
                {
                    // The broker does not say which.
                    text += &format!(" (delivery tag {tag} of the queue '{queue}')");
                }
                let method = (close.class_id, close.method_id);
                let reason = Reason { code: close.reply_code, text, method };
                let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                self.answer(number, AMQPClass::Channel(ok));
                let untold = state.filter(|state| !state.is_waited_for()).map(|state| {
                    let what = "what was sent without waiting for an answer";
                    (state.id, reason.refused(what))
                });
                // First: who is told finds it closed, and what it has left.
                self.board.remove(number, End::Refused(reason));
                if let Some((id, error)) = untold {
                    self.board.tell(Some(id), error);
                }
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.board.remove(number, End::Closed);
            }
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                // RabbitMQ never asks for it (it stops reading instead); others are told that we know.
                let ok = channel::FlowOk { active: flow.active };
                self.answer(number, AMQPClass::Channel(channel::AMQPMethod::FlowOk(ok)));
                return None;
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                if let Some(state) = self.board.channel(number) {
                    let count = state.confirmed(ack.delivery_tag, ack.multiple, true);
                    self.board.counters.confirmed.add(count);
                }
                return None;
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                if let Some(state) = self.board.channel(number) {
                    let count = state.confirmed(nack.delivery_tag, nack.multiple, false);
                    self.board.counters.nacked.add(count);
                }
                return None;
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                let mut back = self.board.cancelled(number, cancel.consumer_tag.as_str());
                self.answers.append(&mut back);
                return None;
            }
            AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_)) => {
                if let Some(state) = self.board.channel(number) {
                    state.answered(None);
                }
            }
            AMQPClass::Basic(basic::AMQPMethod::RecoverOk(_)) => {
                if let Some(state) = self.board.channel(number) {
                    state.recovered();
                }
            }
            _ => {}
        }
        Some(Event::Method(number, class))
    }
}

impl Traffic<Event> for Incoming {
    fn route(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Heartbeat => {
                self.board.counters.heartbeats_received.add(1);
                None
            }
            Event::Content(number, content) => self.content(number, *content),
            Event::Method(0, AMQPClass::Connection(method)) if self.board.is_open() => {
                self.of_connection(method)
            }
            Event::Method(number, class) if number > 0 => self.of_channel(number, class),
            other => Some(other),
        }
    }

    fn lane(&self, reply: &Event) -> u32 {
        u32::from(reply.channel())
    }

    fn ends_lane(&self, reply: &Event) -> bool {
        use channel::AMQPMethod::{Close, CloseOk};
        matches!(reply, Event::Method(_, AMQPClass::Channel(Close(_) | CloseOk(_))))
    }

    fn after(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.append(&mut self.answers);
        self.over.take().map_or(Ok(()), Err)
    }

    fn is_full(&self) -> bool {
        self.board.is_full()
    }

    fn idle(&mut self, moved: Moved, out: &mut Vec<u8>) -> Result<()> {
        let now = Instant::now();
        if let Some(timeout) = self.consumer_timeout {
            self.board.warn_late(now, timeout);
        }
        let heartbeat = self.board.heartbeat.load(Ordering::Relaxed);
        if heartbeat == 0 {
            return Ok(());
        }
        let interval = Duration::from_secs(heartbeat);
        let now = Instant::now();
        // What is not read says nothing of the peer.
        if moved.received != self.moved.received || self.board.is_full() {
            (self.heard, self.missed) = (now, 0);
        }
        if now >= self.heard + interval * (self.missed + 1) {
            self.missed += 1;
            self.board.counters.heartbeats_missed.add(1);
        }
        if moved.sent != self.moved.sent {
            self.spoke = now;
        }
        self.moved = moved;
        // AMQP 0-9-1 section 4.2.7: a peer is gone after two intervals of silence.
        if now >= self.heard + interval * 2 {
            return Err(Error::connection(format!(
                "no sign of life for {:.1} s (heartbeat: {heartbeat} s)",
                (now - self.heard).as_secs_f64()
            )));
        }
        if now >= self.spoke + interval / 2 {
            out.extend_from_slice(encode::HEARTBEAT);
            self.board.counters.heartbeats_sent.add(1);
            self.spoke = now;
        }
        Ok(())
    }
}
