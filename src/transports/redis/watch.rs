//! What the keeper does for a link: reads it when nobody else does, asks when it is silent, and
//! finds out whether a silent one is dead.
//!
//! A server that is busy keeps all its clients waiting, so a late answer alone says little. But one
//! that greets a new link while it still owes an answer on an older one has never seen that
//! request, or its answer went nowhere: then the new link takes the place of the old one. Waiting
//! for the reply deadline, or for TCP's own patience, would take longer than a path is usually down.

use super::session::Session;
use super::shared::{Shared, random_share};
use crate::error::Result;
use crate::io::keeper;
use crate::io::link::Pulse;
use crate::io::task::{either, sleep, sleep_until};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A link that nobody drives is read so often.
const TICK: Duration = Duration::from_secs(1);
/// A link over which messages are waited for is not silent for longer than this without being asked.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);
/// An answer that is not there after this is late. Up to a half is added: not all clients of a busy
/// server at once.
const LATE: Duration = Duration::from_secs(1);
/// Between two attempts to make another link; up to as much again is added.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts it.
///
/// # Errors
/// `Limit` when the process can have no more threads.
pub(super) fn start(shared: &Weak<Shared>, session: &Arc<Session>) -> Result<()> {
    keeper::spawn(watch(shared.clone(), Arc::downgrade(session)))
}

async fn watch(shared: Weak<Shared>, session: Weak<Session>) {
    let late = LATE.mul_f64(1.0 + random_share() / 2.0);
    loop {
        let next = {
            let Some(session) = session.upgrade() else { return };
            let Some(pulse) = session.pulse() else { return };
            let now = Instant::now();
            match (waiting_since(&pulse), interval(&shared)) {
                (Some(since), _) if since + late <= now => None,
                (Some(since), _) => Some(since + late),
                (None, Some(interval)) if pulse.heard + interval <= now => {
                    session.ping().await;
                    Some(now + late)
                }
                (None, Some(interval)) => Some(pulse.heard + interval),
                (None, None) => Some(now + TICK),
            }
        };
        match next {
            Some(next) => sleep_until(next.min(Instant::now() + TICK)).await,
            None => compare(&shared, &session).await,
        }
    }
}

/// Since when an answer is waited for without hearing anything.
fn waiting_since(pulse: &Pulse) -> Option<Instant> {
    pulse.owed_since.map(|sent| sent.max(pulse.heard))
}

/// For how long a link may be silent.
fn interval(shared: &Weak<Shared>) -> Option<Duration> {
    let shared = shared.upgrade()?;
    let given = shared.config.health_check_interval;
    let waits = !shared.consumed.lock().is_empty();
    if waits {
        Some(given.map_or(LONGEST_SILENCE, |given| given.min(LONGEST_SILENCE)))
    } else {
        given
    }
}

/// Makes another link while this one is silent. If that gets an answer and this one still has not,
/// it takes its place.
async fn compare(shared: &Weak<Shared>, session: &Weak<Session>) {
    let before = match session.upgrade() {
        Some(session) => session.pulse(),
        None => None,
    };
    let Some(before) = before else { return };
    let Some(opener) = shared.upgrade() else { return };
    let fresh = either(async { Some(opener.open().await) }, async {
        while is_silent(session, &before) {
            sleep(TICK / 4).await;
        }
        None
    })
    .await;
    drop(opener);
    let fresh = match fresh {
        Some(Ok(fresh)) => fresh,
        Some(Err(error)) => {
            tracing::debug!("a link is silent, and another could not be made: {error}");
            sleep(PAUSE.mul_f64(1.0 + random_share())).await;
            return;
        }
        None => return,
    };
    let (Some(shared), Some(old)) = (shared.upgrade(), session.upgrade()) else { return };
    if !is_silent(session, &before) {
        fresh.close().await;
        return;
    }
    tracing::warn!("{} answers on another connection only", old.link().peer());
    old.link().close("it is silent, while the server answers on another connection");
    if let Err(error) = shared.adopt(fresh).await {
        tracing::debug!("a new link could not be used: {error}");
    }
}

/// Whether nothing has come, and nothing could be sent, since `before`.
fn is_silent(session: &Weak<Session>, before: &Pulse) -> bool {
    session.upgrade().and_then(|session| session.pulse()).is_some_and(|now| {
        now.heard == before.heard && now.untaken >= before.untaken && now.owed_since.is_some()
    })
}
