//! What all users of one connection share, in one process.

use super::Config;
use super::board::Board;
use super::session::Session;
use crate::error::Result;
use crate::io::lock::Mutex;
use crate::io::pollset::Pollset;
use crate::io::task::Notify;
use crate::transport::{AmqpCounters, Event};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

/// The state behind a [`super::Connection`]; a forked child has its own.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    current: Mutex<Option<Arc<Session>>>,
    /// Told of mail, credit, ends and incidents.
    pub(super) news: Arc<Notify>,
    pub(super) counters: Arc<AmqpCounters>,
    /// What an event loop watches; made when one asks for it.
    pollset: OnceLock<Pollset>,
}

impl Shared {
    pub(super) fn new(config: Arc<Config>) -> Arc<Self> {
        let (current, news, counters) = (Mutex::default(), Arc::default(), Arc::default());
        Arc::new(Self { config, current, news, counters, pollset: OnceLock::new() })
    }

    /// The live session, if there is one.
    pub(super) fn live(&self) -> Option<Arc<Session>> {
        self.current.lock().as_ref().filter(|session| session.is_alive()).cloned()
    }

    /// The session, alive or not.
    pub(super) fn last(&self) -> Option<Arc<Session>> {
        self.current.lock().clone()
    }

    /// A session: the live one, or a new one. Several callers may connect at the same time; one link
    /// is kept.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        if let Some(session) = self.live() {
            return Ok(session);
        }
        let session = Arc::new(
            Session::open(&self.config, Board::new(self.news.clone(), self.counters.clone()))
                .await?,
        );
        let mut current = self.current.lock();
        if let Some(other) = current.as_ref().filter(|other| other.is_alive()) {
            return Ok(other.clone());
        }
        let old = current.replace(session.clone());
        drop(current);
        if let Some(old) = old {
            self.counters.reconnects.add(1);
            old.board.lose();
        }
        self.news.notify();
        Ok(session)
    }

    /// Gives the session up.
    pub(super) fn take_session(&self) -> Option<Arc<Session>> {
        self.current.lock().take()
    }

    /// An event that is here.
    pub(super) fn take(&self) -> Option<Event> {
        let session = self.last()?;
        if !session.is_alive() && session.board.has_channels() {
            session.board.lose();
        }
        if let Some(left) = session.board.take_left() {
            return Some(left);
        }
        let (state, taken) = session.board.take()?;
        if taken.wants_fitting {
            session.fit_windows(&state);
        }
        Some(taken.event)
    }

    /// The next event; waits for one.
    ///
    /// # Errors
    /// `Connection` when the link is lost; `Channel` when the broker has cancelled a consumer, or
    /// closed a channel and nobody else was told.
    pub(super) async fn next(&self) -> Result<Event> {
        // A lost link is told, not replaced: its consumers are gone with it.
        let session = match self.last() {
            Some(session) => session,
            None => self.session().await?,
        };
        loop {
            let mut news = std::pin::pin!(self.news.listen());
            if let Some(event) = self.take() {
                return Ok(event);
            }
            if let Some(incident) = session.board.incident() {
                return Err(incident);
            }
            let lost = std::future::poll_fn(|cx| {
                if news.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                match session.link().poll_attend(cx) {
                    Poll::Ready(error) => Poll::Ready(Some(error)),
                    // What was just read may have brought the news; they are told either way.
                    Poll::Pending => news.as_mut().poll(cx).map(|()| None),
                }
            });
            if let Some(error) = lost.await {
                let error = session.lost(error); // now what it has brought is there to be taken
                return self.take().ok_or(error);
            }
        }
    }

    /// Makes progress for an event loop, without waiting.
    ///
    /// # Errors
    /// As [`Shared::next`].
    pub(super) fn drive(&self) -> Result<()> {
        let pollset = self.pollset()?;
        pollset.acknowledge()?;
        let Some(session) = self.last() else { return Ok(()) };
        let mut news = std::pin::pin!(self.news.listen());
        let mut heard = false;
        let polled = pollset.poll_once(std::pin::pin!(std::future::poll_fn(|cx| {
            heard = news.as_mut().poll(cx).is_ready();
            session.link().poll_attend(cx)
        })))?;
        if heard {
            self.ring(); // another thread's news, and nobody has left a waker for the next ones
        }
        let lost = match polled {
            Poll::Pending => None,
            Poll::Ready(error) => Some(session.lost(error)),
        };
        if session.board.has_left() {
            return Ok(()); // it is handed out before anybody is told why there is no more
        }
        if let Some(incident) = session.board.incident() {
            return Err(incident);
        }
        lost.map_or(Ok(()), Err)
    }

    /// What an event loop watches.
    ///
    /// # Errors
    /// `Limit` when the process has no descriptors left.
    pub(super) fn pollset(&self) -> Result<&Pollset> {
        if let Some(known) = self.pollset.get() {
            return Ok(known);
        }
        let made = Pollset::new()?;
        Ok(self.pollset.get_or_init(|| made))
    }

    /// Wakes the event loop, if there is one.
    pub(super) fn ring(&self) {
        if let Some(Err(error)) = self.pollset.get().map(Pollset::ring) {
            tracing::error!(target: "kombu.connection", %error, "cannot wake the event loop");
        }
    }
}
