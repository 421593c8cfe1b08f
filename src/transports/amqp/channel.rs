//! A channel: AMQP's methods, each with the name of what it is about in its errors.

use super::connection::Core;
use super::consumers::find;
use super::error::ours;
use super::getting::Waiting;
use super::publish;
use super::session::Session;
use super::stale::Stale;
use super::state::{ChannelState, End, ToSettle};
use crate::error::{Error, ErrorKind, Result};
use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use crate::model::{Delivery, Exchange, ExchangeKind, Json, Message, Name, Queue};
use crate::protocol::amqp::encode::{self, Settle, arguments, name};
use crate::protocol::amqp::{AMQPClass, Event, Head, basic, channel, confirm, exchange, queue, tx};
use crate::transport::{
    self, Amqp, ConsumeOptions, Declared, ExchangeDeclaration, PublishOptions, Rest, Returned,
    Transaction,
};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// AMQP 0-9-1 section 1.6: `not-allowed`.
const NOT_ALLOWED: u16 = 530;
/// The operation in errors.
const SETTLING: &str = "an acknowledgement";

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A [`transport::Channel`] of a broker that speaks AMQP. When the broker or the link ends it, it stays
/// so; a forked child's handle of it opens a channel of the child's own.
#[derive(Debug)]
pub(super) struct Channel {
    id: u64,
    core: Arc<Core>,
    open: PerProcess<Mutex<Open>>,
    closed: AtomicBool,
    /// `confirm.select` was said: a child says it again.
    confirming: AtomicBool,
    /// The highest number that a delivery had: a child, whose own ones are other messages, goes on
    /// from there.
    numbers: Arc<AtomicU64>,
    stale: Stale,
    /// Consumers that ended with a channel that the broker has closed, and whose messages are not all
    /// handed out yet.
    dead: Mutex<Vec<Name>>,
}

#[derive(Debug, Clone)]
struct Open {
    session: Arc<Session>,
    state: Arc<ChannelState>,
}

impl Open {
    /// Calls a method.
    async fn call(&self, what: &str, method: AMQPClass) -> Result<Event> {
        self.session.call(&self.state, what, method).await
    }

    async fn confirm_select(&self) -> Result<()> {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        let answer = {
            // The broker numbers what comes after it, whether it has answered by then or not.
            let _in_order = self.state.in_order.lock();
            let select = AMQPClass::Confirm(select);
            let answer = self.session.ask(&self.state, "confirm.select", select)?;
            self.state.inner.lock().confirming = true;
            answer
        };
        answer.await.map(drop)
    }

    /// Gives back what `take` takes out of the channel; whether the kernel has taken all. In one step: an
    /// acknowledgement with `multiple` in between would be for it, too.
    fn give_back<T>(&self, take: impl FnOnce(&ChannelState) -> (T, ToSettle)) -> (T, Result<bool>) {
        let _in_order = self.state.in_order.lock();
        let (taken, back) = take(&self.state);
        let frames = back.encode(self.state.number, Settle::Requeue);
        (taken, self.session.post(&self.state, "to give messages back", &frames))
    }

    /// Drops a consumer, and gives back what has come for it.
    fn forget(&self, tag: &str) {
        // Closed or lost: then the broker has them again.
        let _ = self.give_back(|state| ((), state.remove(tag)));
    }

    /// Other limits hold from now on.
    fn limits_changed(&self) {
        // What is here already goes back in its order, if it does.
        self.session.link().tend();
        self.session.board.news.notify();
        self.session.fit_windows(&self.state);
    }

    /// Closes it, if it is open, without waiting for the broker.
    fn give_up(&self) {
        let mut frame = Vec::new();
        if encode::method(self.state.number, goodbye(), &mut frame).is_ok() {
            self.session.call_later(&self.state, &frame, || self.state.begin_close());
        }
    }
}

/// Undoes what was begun when it is dropped before [`Undo::done`]: it failed, or nobody waits for it any
/// more.
struct Undo<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Undo<F> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

fn unexpected(what: &str, event: &Event) -> Error {
    ours(Error::decode(format!("{what} was answered by something else: {event:?}")))
}

fn kind_name(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
    }
}

impl Channel {
    pub(super) async fn open(core: Arc<Core>) -> Result<Self> {
        let confirming = AtomicBool::new(core.here().config.confirm);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let closed = AtomicBool::new(false);
        let (open, numbers, stale) = (PerProcess::new(), Arc::default(), Stale::default());
        let dead = Mutex::default();
        let channel = Self { id, core, open, closed, confirming, numbers, stale, dead };
        channel.here().await?;
        Ok(channel)
    }

    /// The channel of this process. One that has ended is not opened again: its consumers and what it
    /// has delivered are gone, and its user has to know.
    async fn here(&self) -> Result<Open> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ours(Error::closed("the channel is closed")));
        }
        if let Some(open) = self.last() {
            if !open.session.is_alive() {
                open.session.board.lose();
                open.session.board.end(&open.state, End::Lost); // where it was not known there yet
            }
            return match open.state.ended() {
                None => Ok(open),
                // What closed it was told to who caused it.
                Some(End::Refused(reason)) => {
                    open.session.board.told(self.id);
                    let text = format!("the channel was closed by the broker: {reason}");
                    Err(ours(Error::closed(text).with_code(reason.code)))
                }
                Some(end) => Err(open.session.ended(&end, "the channel cannot be used")),
            };
        }
        let session = self.core.here().session().await?;
        let open = self.begin(session).await?;
        let current = self.open.get_or(|| Mutex::new(open.clone())).lock().clone();
        if !Arc::ptr_eq(&current.state, &open.state) {
            open.give_up(); // another thread was faster
        }
        Ok(current)
    }

    /// Opens a channel.
    async fn begin(&self, session: Arc<Session>) -> Result<Open> {
        let state = session.board.add(self.id, self.numbers.clone())?;
        let open = Open { session, state };
        // Or its number would be used for ever.
        let opening = Undo(Some(|| open.give_up()));
        let method = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        open.call("channel.open", method).await?;
        if self.confirming.load(Ordering::Acquire) {
            open.confirm_select().await?;
        }
        opening.done();
        Ok(open)
    }

    /// The channel of this process, open or not.
    fn last(&self) -> Option<Open> {
        self.open.get().map(|open| open.lock().clone())
    }

    /// The channel, if it is open in this process.
    fn opened(&self) -> Option<Open> {
        self.last().filter(|open| open.session.is_alive() && open.state.ended().is_none())
    }

    /// Ends a consumer, if it is one; what has come for it stays.
    async fn end_consumer(&self, consumer_tag: &str) -> Result<Option<Open>> {
        let open = self.here().await?;
        let Some((wire_tag, in_line)) = open.state.end_consumer(consumer_tag)? else {
            return Ok(None);
        };
        open.session.send(&open.state, "to cancel a consumer", &in_line).await?;
        let what = format!("to cancel the consumer '{consumer_tag}'");
        let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: name("a consumer tag", &wire_tag)?,
            nowait: false,
        });
        open.call(&what, AMQPClass::Basic(cancel)).await?;
        Ok(Some(open))
    }

    async fn call(&self, what: &str, method: AMQPClass) -> Result<Event> {
        self.here().await?.call(what, method).await
    }

    /// Settles what the user has; what is unknown is dropped.
    async fn settle(&self, tag: &str, multiple: bool, how: Settle) -> Result<()> {
        if self.last().is_none() && !self.closed.load(Ordering::Acquire) {
            // A child that has received nothing: not worth a connection.
            self.stale.log(tag);
            return Ok(());
        }
        let open = match self.here().await {
            Ok(open) => open,
            Err(error) => return self.stale(tag, error),
        };
        let (settled, sent) = {
            // One with `multiple` must not come before those that it would be for, too.
            let in_order = open.state.in_order.lock();
            let (settled, wants_fitting) = open.state.settle(tag, multiple);
            if wants_fitting {
                open.session.fit_in_order(&open.state, &in_order);
            }
            let frames = settled.encode(open.state.number, how);
            let sent = open.session.post(&open.state, SETTLING, &frames);
            (settled, sent)
        };
        if settled.tags.is_empty() {
            if open.state.is_earlier(tag) {
                self.stale.log(tag);
                return Ok(());
            }
            tracing::debug!(target: "kombu.channel", tag, "{how:?} of an unknown delivery tag dropped");
            return Ok(());
        }
        let counters = &open.session.board.counters;
        match how {
            Settle::Ack => counters.acked.add(settled.tags.len()),
            Settle::Requeue | Settle::Discard => counters.rejected.add(settled.tags.len()),
        }
        let done = match sent {
            Ok(true) => Ok(()),
            Ok(false) => open.session.flush().await,
            Err(error) => Err(error),
        };
        done.or_else(|error| self.stale(tag, error))
    }

    /// What a lost link has delivered is the broker's again: there is nothing to settle, and nothing that
    /// the caller could do.
    fn stale(&self, tag: &str, error: Error) -> Result<()> {
        let lost = self.last().is_some_and(|open| open.state.ended() == Some(End::Lost));
        if lost && error.kind() == ErrorKind::Connection {
            self.stale.log(tag);
            return Ok(());
        }
        Err(error)
    }

    async fn bind_queue(
        &self,
        add: bool,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        let what = match add {
            true => format!("to bind the queue '{queue}' to the exchange '{exchange}'"),
            false => format!("to unbind the queue '{queue}' from the exchange '{exchange}'"),
        };
        let (queue_name, routing_key) = (name("the name of a queue", queue)?, name("a key", key)?);
        let exchange = name("the name of an exchange", exchange)?;
        let arguments = arguments(args)?;
        let method = match add {
            true => queue::AMQPMethod::Bind(queue::Bind {
                queue: queue_name,
                exchange,
                routing_key,
                nowait: false,
                arguments,
            }),
            false => queue::AMQPMethod::Unbind(queue::Unbind {
                queue: queue_name,
                exchange,
                routing_key,
                arguments,
            }),
        };
        self.call(&what, AMQPClass::Queue(method)).await.map(drop)
    }

    async fn bind_exchange(
        &self,
        add: bool,
        destination: &Name,
        source: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        let what = match add {
            true => format!("to bind the exchange '{destination}' to the exchange '{source}'"),
            false => format!("to unbind the exchange '{destination}' from the exchange '{source}'"),
        };
        let destination = name("the name of an exchange", destination)?;
        let source = name("the name of an exchange", source)?;
        let (routing_key, arguments, nowait) = (name("a key", key)?, arguments(args)?, false);
        let method = match add {
            true => exchange::AMQPMethod::Bind(exchange::Bind {
                destination,
                source,
                routing_key,
                nowait,
                arguments,
            }),
            false => exchange::AMQPMethod::Unbind(exchange::Unbind {
                destination,
                source,
                routing_key,
                nowait,
                arguments,
            }),
        };
        self.call(&what, AMQPClass::Exchange(method)).await.map(drop)
    }
}

impl Drop for Channel {
    /// Given up without being closed: the broker puts back what it has delivered.
    fn drop(&mut self) {
        if let Some(open) = self.opened() {
            open.give_up();
        }
    }
}

fn goodbye() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: Default::default(),
        class_id: 0,
        method_id: 0,
    }))
}

#[async_trait]
impl transport::Channel for Channel {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
            && (self.open.get().is_none() || self.opened().is_some())
    }

    async fn exchange_declare(&self, exchange: &Exchange, passive: bool) -> Result<()> {
        self.declare_exchange(&ExchangeDeclaration {
            name: exchange.name.clone(),
            kind: kind_name(exchange.kind).into(),
            passive,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: false,
            arguments: exchange.arguments.clone(),
        })
        .await
    }

    async fn exchange_delete(&self, exchange: &Name, if_unused: bool) -> Result<()> {
        let what = format!("the deletion of the exchange '{exchange}'");
        let delete = exchange::AMQPMethod::Delete(exchange::Delete {
            exchange: name("the name of an exchange", exchange)?,
            if_unused,
            nowait: false,
        });
        self.call(&what, AMQPClass::Exchange(delete)).await.map(drop)
    }

    async fn lookup(&self, exchange: &Name, _message: &Message) -> Result<Vec<Name>> {
        Err(Error::unsupported(format!(
            "AMQP does not tell where the exchange '{exchange}' would send a message"
        )))
    }

    async fn queue_declare(&self, queue: &Queue, passive: bool) -> Result<Declared> {
        let what = format!("the declaration of the queue '{}'", queue.name);
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: name("the name of a queue", &queue.name)?,
            passive,
            durable: queue.durable,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            nowait: false,
            arguments: arguments(&queue.options.arguments)?,
        });
        let open = self.here().await?;
        match open.call(&what, AMQPClass::Queue(declare)).await? {
            Event::Method(_, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) => {
                let name: Name = ok.queue.as_str().into();
                // Who only asks may not say what it is.
                if !passive {
                    let arguments = &queue.options.arguments;
                    open.session.board.declared(&name, arguments, queue.auto_delete);
                }
                Ok(Declared {
                    queue: name,
                    messages: u64::from(ok.message_count),
                    consumers: u64::from(ok.consumer_count),
                })
            }
            other => Err(unexpected(&what, &other)),
        }
    }

    async fn queue_bind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        self.bind_queue(true, queue, exchange, key, args).await
    }

    async fn queue_unbind(
        &self,
        queue: &Name,
        exchange: &Name,
        key: &Name,
        args: &Json,
    ) -> Result<()> {
        self.bind_queue(false, queue, exchange, key, args).await
    }

    async fn queue_purge(&self, queue: &Name) -> Result<u64> {
        let what = format!("to purge the queue '{queue}'");
        let queue = name("the name of a queue", queue)?;
        let purge = queue::AMQPMethod::Purge(queue::Purge { queue, nowait: false });
        match self.call(&what, AMQPClass::Queue(purge)).await? {
            Event::Method(_, AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok))) => {
                Ok(u64::from(ok.message_count))
            }
            other => Err(unexpected(&what, &other)),
        }
    }

    async fn queue_delete(&self, queue: &Name, if_unused: bool, if_empty: bool) -> Result<u64> {
        let what = format!("the deletion of the queue '{queue}'");
        let queue_name = name("the name of a queue", queue)?;
        let delete = queue::Delete { queue: queue_name, if_unused, if_empty, nowait: false };
        let open = self.here().await?;
        match open.call(&what, AMQPClass::Queue(queue::AMQPMethod::Delete(delete))).await? {
            Event::Method(_, AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok))) => {
                open.session.board.deleted(queue);
                Ok(u64::from(ok.message_count))
            }
            other => Err(unexpected(&what, &other)),
        }
    }

    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        self.publish_with(messages, PublishOptions::default()).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<()> {
        self.consume_with(options, false).await
    }

    async fn cancel(&self, consumer_tag: &str) -> Result<()> {
        let Some(open) = self.end_consumer(consumer_tag).await? else { return Ok(()) };
        match open.give_back(|state| ((), state.remove(consumer_tag))).1? {
            true => Ok(()),
            false => open.session.flush().await,
        }
    }

    async fn get(&self, queue: &Name, no_ack: bool) -> Result<Option<Delivery>> {
        let open = self.here().await?;
        let what = format!("to get a message from the queue '{queue}'");
        let get = basic::Get { queue: name("the name of a queue", queue)?, no_ack };
        let get = AMQPClass::Basic(basic::AMQPMethod::Get(get));
        let (answer, waiting) = {
            let _in_order = open.state.in_order.lock();
            let asked = open.state.ask(no_ack);
            let answer = open.session.ask(&open.state, &what, get);
            let answer = answer.inspect_err(|_| open.state.unask())?;
            (answer, Waiting::new(&open.session, &open.state, asked, no_ack))
        };
        let answer = answer.await?;
        waiting.done();
        match answer {
            Event::Method(_, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => Ok(None),
            Event::Content(_, content) => match content.head {
                Head::Got { tag, left } => {
                    let mut message = content.message;
                    message.properties.delivery_info_extra =
                        Json::from_valid(format!("{{\"message_count\": {left}}}"));
                    Ok(Some(open.state.got(tag, queue, message, no_ack)))
                }
                _ => Err(Error::internal(format!("{what} was answered by another message"))),
            },
            other => Err(unexpected(&what, &other)),
        }
    }

    async fn ack(&self, tag: &str, multiple: bool) -> Result<()> {
        self.settle(tag, multiple, Settle::Ack).await
    }

    async fn reject(&self, tag: &str, requeue: bool) -> Result<()> {
        self.settle(tag, false, if requeue { Settle::Requeue } else { Settle::Discard }).await
    }

    async fn recover(&self) -> Result<()> {
        let open = self.here().await?;
        open.state.recover();
        let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: true });
        open.call("basic.recover", AMQPClass::Basic(recover)).await?;
        // Nothing will be settled that could show that a paused consumer may go on.
        open.session.fit_windows(&open.state);
        Ok(())
    }

    /// The broker gives back by itself what nobody settles.
    async fn reclaim(&self, _limit: Option<usize>) -> Result<usize> {
        Ok(0)
    }

    async fn replay(&self, dead_letters: &Name, _limit: Option<usize>) -> Result<usize> {
        Err(Error::unsupported(format!(
            "dead letters of an AMQP broker are messages of a queue like any other: consume              '{dead_letters}' and publish them again"
        )))
    }

    /// The broker drops the bindings of queues that expire.
    async fn sweep(&self, _limit: usize) -> Result<usize> {
        Ok(0)
    }

    async fn qos(&self, prefetch_count: u32) -> Result<()> {
        let open = self.here().await?;
        open.state.inner.lock().limit = prefetch_count;
        open.limits_changed();
        Ok(())
    }

    async fn flow(&self, active: bool) -> Result<()> {
        let open = self.here().await?;
        open.state.inner.lock().paused = !active;
        open.session.board.news.notify();
        Ok(())
    }

    fn unsettled(&self) -> Vec<Name> {
        self.last().map(|open| open.state.unsettled()).unwrap_or_default()
    }

    fn credit(&self) -> (usize, u32) {
        self.last().map(|open| open.state.credit()).unwrap_or_default()
    }

    async fn close(&self, _restore: bool) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(open) = self.opened() else { return Ok(()) };
        if open.session.board.blocked().is_some() {
            open.give_up(); // the broker reads it when it reads again
            return Ok(());
        }
        match open.call("channel.close", goodbye()).await {
            // Both said it at the same time, or the link went meanwhile: it is closed.
            Err(error) if error.kind() != ErrorKind::Internal => Ok(()),
            closed => closed.map(drop),
        }
    }

    fn amqp(&self) -> Option<&dyn Amqp> {
        Some(self)
    }
}

#[async_trait]
impl Amqp for Channel {
    fn begin_ack(&self, tag: u64) -> Option<Rest<'_>> {
        let open = self.opened().filter(|_| !self.closed.load(Ordering::Acquire));
        let sent = open.and_then(|open| {
            let in_order = open.state.in_order.lock();
            // Before the broker knows of it, and sends more.
            if open.state.settle_one(tag)? {
                open.session.fit_in_order(&open.state, &in_order);
            }
            let mut frame = Vec::with_capacity(encode::SETTLE_LENGTH);
            open.state.encode(tag, Settle::Ack, &mut frame);
            let sent = open.session.post(&open.state, SETTLING, &frame);
            drop(in_order);
            Some((open, sent))
        });
        let Some((open, sent)) = sent else {
            // Closed, lost or unknown.
            return Some(Box::pin(async move {
                self.settle(&tag.to_string(), false, Settle::Ack).await
            }));
        };
        open.session.board.counters.acked.add(1);
        match sent {
            Ok(true) => None,
            Ok(false) => Some(Box::pin(async move {
                let flushed = open.session.flush().await;
                flushed.or_else(|error| self.stale(&tag.to_string(), error))
            })),
            Err(error) => Some(Box::pin(async move { self.stale(&tag.to_string(), error) })),
        }
    }

    async fn publish_with(&self, messages: Vec<Message>, options: PublishOptions) -> Result<()> {
        let open = self.here().await?;
        publish::publish(&open.session, &open.state, &messages, options).await
    }

    fn returned(&self) -> Option<Returned> {
        self.last()?.state.next_returned()
    }

    async fn cancel_with(&self, consumer_tag: &str) -> Result<Vec<transport::Event>> {
        let Some(open) = self.end_consumer(consumer_tag).await? else { return Ok(Vec::new()) };
        let (events, sent) = open.give_back(|state| state.take_over(consumer_tag));
        // Lost meanwhile: then the broker has all of them again.
        if matches!(sent, Ok(false)) {
            let _ = open.session.flush().await;
        }
        Ok(events)
    }

    async fn qos_of_each(&self, prefetch_count: u32) -> Result<()> {
        let open = self.here().await?;
        open.state.limit_each(prefetch_count);
        open.limits_changed();
        Ok(())
    }

    async fn revive(&self) -> Result<Vec<Name>> {
        let Some(old) = self.last() else { return Ok(Vec::new()) };
        let refused = matches!(old.state.ended(), Some(End::Refused(_)));
        if !refused || self.closed.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let open = self.begin(old.session.clone()).await?;
        open.state.succeed(&old.state);
        let cell = self.open.get_or(|| Mutex::new(old.clone()));
        let mut current = cell.lock();
        let extra = match Arc::ptr_eq(&current.state, &old.state) {
            true => std::mem::replace(&mut *current, open),
            false => open, // another thread was faster
        };
        drop(current);
        extra.give_up();
        let mut dead = self.dead.lock();
        dead.append(&mut old.state.ended_with());
        let has_left = |tag: &Name| old.session.board.has_left_for(self.id, tag);
        let (left, over) = std::mem::take(&mut *dead).into_iter().partition(|tag| has_left(tag));
        *dead = left;
        Ok(over)
    }

    async fn confirm_select(&self) -> Result<()> {
        self.here().await?.confirm_select().await?;
        self.confirming.store(true, Ordering::Release);
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &ExchangeDeclaration) -> Result<()> {
        let what = format!("the declaration of the exchange '{}'", exchange.name);
        let declare = exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: name("the name of an exchange", &exchange.name)?,
            kind: name("the type of an exchange", &exchange.kind)?,
            passive: exchange.passive,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            nowait: false,
            arguments: arguments(&exchange.arguments)?,
        });
        self.call(&what, AMQPClass::Exchange(declare)).await.map(drop)
    }

    async fn exchange_bind(
        &self,
        destination: &Name,
        source: &Name,
        key: &Name,
        arguments: &Json,
    ) -> Result<()> {
        self.bind_exchange(true, destination, source, key, arguments).await
    }

    async fn exchange_unbind(
        &self,
        destination: &Name,
        source: &Name,
        key: &Name,
        arguments: &Json,
    ) -> Result<()> {
        self.bind_exchange(false, destination, source, key, arguments).await
    }

    async fn consume_with(&self, options: ConsumeOptions, exclusive: bool) -> Result<()> {
        let open = self.here().await?;
        let (queue, tag) = (options.queue.clone(), options.consumer_tag.clone());
        let what = format!("to consume from the queue '{queue}'");
        let kind = open.session.board.kind(&queue);
        let said = {
            let mut inner = open.state.inner.lock();
            if find(&mut inner.consumers, &tag).is_some() {
                // The broker would close the whole connection.
                let text = format!(
                    "NOT_ALLOWED - the channel already has a consumer with the tag '{tag}'"
                );
                return Err(ours(Error::channel(text).with_code(NOT_ALLOWED)));
            }
            let consumer =
                inner.new_consumer(options, exclusive, kind).weighed(&open.session.board.scales);
            let said = consumer.register_all()?;
            // Before it exists: its first message may come at once.
            inner.consumers.push(consumer);
            said
        };
        let asked = async {
            let mut answers = Vec::new();
            {
                // All at once: nobody else should get into the line in between.
                let _in_order = open.state.in_order.lock();
                for method in said {
                    answers.push(open.session.ask(&open.state, &what, method)?);
                }
            }
            for answer in answers {
                answer.await?;
            }
            Ok::<(), Error>(())
        };
        // The broker may have it all the same, or will: see `ChannelState::deliver`.
        let registering = Undo(Some(|| open.forget(&tag)));
        asked.await?;
        registering.done();
        if let Some(consumer) = find(&mut open.state.inner.lock().consumers, &tag) {
            consumer.confirmed = true;
        }
        open.session.fit_windows(&open.state); // the limit may have changed meanwhile
        Ok(())
    }

    async fn transaction(&self, step: Transaction) -> Result<()> {
        let (what, method) = match step {
            Transaction::Select => ("tx.select", tx::AMQPMethod::Select(tx::Select {})),
            Transaction::Commit => ("tx.commit", tx::AMQPMethod::Commit(tx::Commit {})),
            Transaction::Rollback => ("tx.rollback", tx::AMQPMethod::Rollback(tx::Rollback {})),
        };
        self.call(what, AMQPClass::Tx(method)).await.map(drop)
    }
}
