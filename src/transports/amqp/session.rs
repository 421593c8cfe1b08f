//! One live link: opening it, asking, closing it.

use super::Config;
use super::board::Board;
use super::error::ours;
use super::fitting::Refit;
use super::state::{ChannelState, End};
use super::traffic::Incoming;
use crate::error::{Error, Result};
use crate::io::dial::dial;
use crate::io::keeper;
use crate::io::link::{Expect, Link};
use crate::io::task::{self, timeout_at, watch_until};
use crate::protocol::amqp::encode;
use crate::protocol::amqp::{
    AMQPClass, AmqpDecoder, Event, Handshake, Step, Terms, channel, connection,
};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

/// Where there is no limit.
pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long closing waits for the broker's answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// A link that nobody uses is looked at at least so often.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// An open connection.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link<AmqpDecoder>>,
    pub(super) board: Arc<Board>,
    pub(super) terms: Terms,
    config: Arc<Config>,
}

impl Session {
    /// Connects, logs in and opens the virtual host, within the connect timeout.
    ///
    /// # Errors
    /// `Connection`, `Auth`, or `Unsupported` naming what the broker lacks.
    pub(super) async fn open(config: &Arc<Config>, board: Arc<Board>) -> Result<Self> {
        Self::connect(config, board).await.map_err(ours)
    }

    async fn connect(config: &Arc<Config>, board: Arc<Board>) -> Result<Self> {
        let until = Instant::now() + config.dial.connect_timeout;
        let stream = dial(&config.address, &config.dial).await?;
        let peer = format!("the AMQP broker at {}", config.address);
        let incoming = Incoming::new(board.clone(), peer.clone(), config.consumer_timeout);
        let decoder = AmqpDecoder::new(config.wishes.frame_max);
        let link = Link::new(stream, peer, decoder, incoming);
        let terms = match timeout_at(until, greet(&link, config)).await {
            Some(greeted) => greeted?,
            None => {
                return Err(Error::connection(format!(
                    "{} does not answer within {:.1} s",
                    link.peer(),
                    config.dial.connect_timeout.as_secs_f64()
                )));
            }
        };
        board.channel_max.store(terms.channel_max, Ordering::Relaxed);
        board.heartbeat.store(u64::from(terms.heartbeat), Ordering::Relaxed);
        board.opened();
        let interval = match terms.heartbeat {
            0 => TEND_EVERY,
            seconds => TEND_EVERY.min(Duration::from_secs(u64::from(seconds)) / 4),
        };
        // Often enough to warn in time.
        let interval = config.consumer_timeout.map_or(interval, |limit| interval.min(limit / 20));
        keeper::tend_every(interval, &link)?;
        tracing::debug!("connected to {}, virtual host {}", link.peer(), config.wishes.vhost);
        Ok(Self { link, board, terms, config: config.clone() })
    }

    /// Whether it can be used, as far as known without asking.
    pub(super) fn is_alive(&self) -> bool {
        self.link.is_alive()
    }

    /// The link, to wait on for what comes in.
    pub(super) fn link(&self) -> &Arc<Link<AmqpDecoder>> {
        &self.link
    }

    /// The error of the link, in the broker's words if it has closed it.
    pub(super) fn lost(&self, error: Error) -> Error {
        self.board.lose();
        match &*self.board.closed.lock() {
            Some(reason) => reason.closed(self.link.peer()),
            None => ours(error),
        }
    }

    /// Until when the socket may take nothing.
    pub(super) fn write_deadline(&self) -> Instant {
        Instant::now() + self.config.write_timeout.unwrap_or(FOREVER)
    }

    /// Until when something may take that the broker holds up, publishes above all: as long as the
    /// caller waits, or `publish_timeout`.
    pub(super) fn patience(&self) -> Instant {
        let patience = || self.config.publish_timeout.unwrap_or(FOREVER);
        task::deadline().unwrap_or_else(|| Instant::now() + patience())
    }

    /// The error of what cannot be done while the broker blocks publishers: it reads nothing then.
    pub(super) fn blocked(&self, what: &str, why: &str) -> Error {
        let peer = self.link.peer();
        ours(Error::timeout(format!("{what}: {peer} takes no publishes: {why}")))
    }

    /// Waits for an answer; while the broker blocks publishers, until `limit`.
    async fn unless_blocked<T>(
        &self,
        what: &str,
        limit: Instant,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut answer = std::pin::pin!(answer);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                return Poll::Ready(answered.map_err(|error| self.lost(error)));
            }
            if Instant::now() < limit {
                watch_until(limit);
            } else if let Some(why) = self.board.blocked() {
                return Poll::Ready(Err(self.blocked(what, &why)));
            }
            Poll::Pending
        })
        .await
    }

    /// Hands frames of a channel that are not answered to the kernel.
    ///
    /// # Errors
    /// As [`Session::post`].
    pub(super) async fn send(&self, state: &ChannelState, what: &str, data: &[u8]) -> Result<()> {
        match self.post(state, what, data)? {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// Hands frames of a channel to the kernel as far as it takes them; whether it has taken all. What
    /// is sent on a channel that is closed would end the whole connection. Nothing can always be sent.
    ///
    /// # Errors
    /// `Connection`; the channel's end.
    pub(super) fn post(&self, state: &ChannelState, what: &str, data: &[u8]) -> Result<bool> {
        if data.is_empty() {
            return Ok(true);
        }
        let sent =
            self.link.post_if(data, || state.may_send()).map_err(|error| self.lost(error))?;
        sent.ok_or_else(|| self.over(state, what))
    }

    fn over(&self, state: &ChannelState, what: &str) -> Error {
        self.board.told(state.id);
        self.ended(&state.ended().unwrap_or(End::Closed), what)
    }

    /// Waits until everything is with the kernel.
    ///
    /// # Errors
    /// `Connection`
    pub(super) async fn flush(&self) -> Result<()> {
        self.link.flush(self.write_deadline()).await.map_err(|error| self.lost(error))
    }

    /// Says something on a channel and waits for the answer. `what` names the operation and its
    /// entity in errors.
    ///
    /// # Errors
    /// `Connection`; `NotFound` or `Channel` when the broker closes the channel instead.
    pub(super) async fn call(
        &self,
        state: &ChannelState,
        what: &str,
        method: AMQPClass,
    ) -> Result<Event> {
        self.ask(state, what, method)?.await
    }

    /// As [`Session::call`], in two steps: it is sent when this returns.
    ///
    /// # Errors
    /// The channel has ended, or the method cannot be written.
    pub(super) fn ask<'a>(
        &'a self,
        state: &'a ChannelState,
        what: &'a str,
        method: AMQPClass,
    ) -> Result<impl Future<Output = Result<Event>> + Send + 'a> {
        struct Call<'a>(&'a ChannelState);
        impl Drop for Call<'_> {
            fn drop(&mut self) {
                self.0.calls.fetch_sub(1, Ordering::AcqRel);
            }
        }
        let closes = matches!(method, AMQPClass::Channel(channel::AMQPMethod::Close(_)));
        let mut data = Vec::new();
        encode::method(state.number, method, &mut data)?;
        state.calls.fetch_add(1, Ordering::AcqRel);
        let call = Call(state);
        let patience = self.config.read_timeout.unwrap_or(FOREVER);
        let limit = self.patience();
        let may = || if closes { state.begin_close() } else { state.may_send() };
        let lane = u32::from(state.number);
        let request = self.link.request_if(lane, &data, Expect::Count(1), patience, may);
        let request = request.ok_or_else(|| self.over(state, what))?;
        Ok(async move {
            let _call = call;
            let reply = self.unless_blocked(what, limit, request).await?.pop();
            let closed = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
            match (reply, state.ended()) {
                (Some(Event::Method(_, method)), _) if method == closed => {
                    Ok(Event::Method(state.number, method))
                }
                (_, Some(end)) => Err(self.ended(&end, what)),
                (Some(event), None) => Ok(event),
                (None, None) => Err(Error::internal(format!("{what} was not answered"))),
            }
        })
    }

    /// Sends a method whose answer nobody waits for, and which cannot fail without closing the channel;
    /// not if `may` says no.
    pub(super) fn call_later(&self, state: &ChannelState, data: &[u8], may: impl FnOnce() -> bool) {
        let lane = u32::from(state.number);
        drop(self.link.request_if(lane, data, Expect::Count(1), FOREVER, may));
    }

    /// Registers those consumers anew whose windows do not fit any more. Nobody waits for it: a window
    /// follows without a round trip, and what fails closes the channel.
    pub(super) fn fit_windows(&self, state: &ChannelState) {
        let in_order = state.in_order.lock();
        self.fit_in_order(state, &in_order);
    }

    /// As [`Session::fit_windows`], for who has the order already.
    pub(super) fn fit_in_order(&self, state: &ChannelState, _in_order: &MutexGuard<'_, ()>) {
        for Refit { frames, answered } in state.refit() {
            match answered {
                true => self.call_later(state, &frames, || state.may_send()),
                // Closed or lost: then there is nobody to cancel.
                false => drop(self.post(state, "to pause a consumer", &frames)),
            }
        }
    }

    /// The error of who uses a channel that has ended.
    pub(super) fn ended(&self, end: &End, what: &str) -> Error {
        match end {
            End::Closed => ours(Error::closed(format!("{what}: the channel is closed"))),
            End::Refused(reason) => reason.refused(what),
            End::Lost => self.lost(Error::connection(format!(
                "the connection to {} is lost, and its channels with it",
                self.link.peer()
            ))),
        }
    }

    /// Ends the connection as AMQP has it; the broker has then read everything.
    pub(super) async fn close(&self) {
        if self.is_alive() {
            let patience = self.config.read_timeout.unwrap_or(FAREWELL).min(FAREWELL);
            let request = self.link.request(&goodbye(), Expect::Count(1), FOREVER);
            if timeout_at(Instant::now() + patience, request).await.is_none() {
                tracing::debug!("{} did not say goodbye in time", self.link.peer());
            }
        }
        self.give_up();
    }

    /// As [`Session::close`], without waiting: the keeper does it.
    pub(super) fn leave(self: &Arc<Self>) {
        if self.is_alive() {
            let request = self.link.request(&goodbye(), Expect::Count(1), FOREVER);
            let (session, until) = (self.clone(), Instant::now() + FAREWELL);
            let job = async move {
                let _ = timeout_at(until, request).await;
                session.end();
            };
            if keeper::spawn(job).is_ok() {
                return;
            }
        }
        self.end();
    }

    /// Ends the link; the broker is told if that costs nothing.
    pub(super) fn give_up(&self) {
        if self.link.is_alive() {
            // Lost already: then there is nobody to tell.
            let _ = self.link.post(&goodbye());
        }
        self.end();
    }

    fn end(&self) {
        self.link.close("it was closed by this program");
        self.board.lose();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.link.is_current() && self.link.is_alive() {
            self.give_up();
        }
    }
}

fn goodbye() -> Vec<u8> {
    let mut data = Vec::new();
    let close = connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: Default::default(),
        class_id: 0,
        method_id: 0,
    });
    // Of fixed size: nothing can be wrong with it.
    let _ = encode::method(0, AMQPClass::Connection(close), &mut data);
    data
}

/// The handshake.
async fn greet(link: &Arc<Link<AmqpDecoder>>, config: &Config) -> Result<Terms> {
    let mut machine = Handshake::new(config.wishes());
    let mut data = encode::HEADER.to_vec();
    let mut logged_in = false;
    loop {
        let request = link.request(&data, Expect::Count(1), FOREVER);
        let event = request.await.map_err(|error| match logged_in {
            // How brokers refuse clients that do not know `authentication_failure_close`.
            true => {
                Error::connection("user, password or virtual host may be wrong").with_source(error)
            }
            // Up to TLS 1.2 the handshake fails; later the server speaks up after it, if it is heard.
            false if config.dial.tls.as_ref().is_some_and(|tls| tls.certfile.is_some()) => {
                Error::connection("our certificate (certfile) may be unknown to the broker")
                    .with_source(error)
            }
            false => error,
        })?;
        let event = event.into_iter().next().ok_or_else(|| Error::internal("no event"))?;
        match machine.on(event)? {
            Step::Send(next) => data = next,
            Step::Open(terms) => return Ok(terms),
        }
        logged_in = true;
    }
}
