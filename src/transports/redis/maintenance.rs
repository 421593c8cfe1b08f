//! What the keeper does for a store: renews the claims that it holds, and brings back those of
//! owners that are gone. It goes on while Python is busy, and ends with the store.

use super::restore::Turn;
use super::shared::{Shared, random_share};
use crate::error::Result;
use crate::io::keeper;
use crate::io::task::{either, sleep_until};
use crate::model::Name;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A store that was dropped is noticed within this.
const TICK: Duration = Duration::from_secs(5);
/// How soon after a consumer appears expired claims are looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How soon claims are settled again that were on their way to another node of a cluster.
const SETTLE_AGAIN: Duration = Duration::from_millis(200);
/// Nothing is done more often, however short the timeouts are.
const SHORTEST: Duration = Duration::from_millis(50);
/// Bindings of expiring queues live for an hour at least, unless they are told to live shorter.
const REBIND_EVERY: Duration = Duration::from_secs(900);
/// How often to look for bindings that nobody has renewed, while there are expiring queues.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Of how many exchanges at a time.
const SWEEP: usize = 100;

/// Starts it.
///
/// # Errors
/// `Limit` when the process can have no more threads.
pub(super) fn start(shared: &Weak<Shared>) -> Result<()> {
    keeper::spawn(maintain(shared.clone()))
}

struct Schedule {
    every: Duration,
    next: Instant,
}

impl Schedule {
    /// The first time after `delay`, then every `every`, not in step with other workers.
    fn new(delay: Duration, every: Duration) -> Self {
        Self { every, next: Instant::now() + delay.mul_f64(0.5 + random_share() / 2.0) }
    }

    /// The next time is not later than after `delay`.
    fn within(&mut self, delay: Duration) {
        self.next = self.next.min(Instant::now() + delay.max(SHORTEST));
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + self.every.mul_f64(0.8 + random_share() / 5.0);
        true
    }
}

async fn maintain(shared: Weak<Shared>) {
    let Some(first) = shared.upgrade() else { return };
    let third = first.renewal_period().max(SHORTEST);
    let restore_every = first.config.restore_interval.max(SHORTEST);
    let upkeep = first.upkeep.clone();
    drop(first);
    let mut renewal = Schedule::new(third, third);
    let mut restoring = Schedule::new(restore_every.min(Duration::from_secs(1)), restore_every);
    let mut refreshing = Schedule::new(TICK, TICK);
    let mut binding = Schedule::new(REBIND_EVERY, REBIND_EVERY);
    let mut sweeping = Schedule::new(SWEEP_EVERY, SWEEP_EVERY);
    let mut settling = Schedule::new(TICK, TICK);
    let mut turn = None;
    loop {
        let news = upkeep.listen();
        let Some(alive) = shared.upgrade() else { return };
        if let Some(shortest) = alive.expiring().iter().map(|(_, expires)| *expires).min() {
            refreshing.within(shortest / 3);
            binding.within(alive.binding_life(shortest) / 4);
        }
        if alive.has_to_settle() {
            settling.within(SETTLE_AGAIN);
        }
        drop(alive);
        let all = [&renewal, &restoring, &refreshing, &binding, &sweeping, &settling];
        let next = all.iter().map(|schedule| schedule.next).min().unwrap_or_else(Instant::now);
        either(sleep_until(next), news).await;
        let Some(shared) = shared.upgrade() else { return };
        if renewal.is_due()
            && shared.config.renew_leases
            && let Err(error) = renew(&shared).await
        {
            tracing::warn!("claims could not be renewed, it is tried again: {error}");
            renewal.next = Instant::now() + renewal.every.min(Duration::from_secs(1));
        }
        if settling.is_due()
            && shared.has_to_settle()
            && let Err(error) = settle(&shared).await
        {
            tracing::debug!("claims could not be settled, it is tried again: {error}");
        }
        // Without a link, or without a consumer, there is nobody to restore for yet.
        let consuming = shared.consuming.load(Ordering::Relaxed) && shared.live().is_some();
        if !consuming {
            restoring.next = restoring.next.max(Instant::now() + LOOK_AGAIN);
        }
        if let Some(until) = shared.rests_until() {
            restoring.next = restoring.next.max(until);
        }
        if consuming && restoring.is_due() && shared.config.ack_emulation {
            // A portion at a time: claims that are held here must be renewed meanwhile.
            match restore(&shared, &mut turn).await {
                Ok(Some(pause)) => restoring.next = Instant::now() + pause,
                ended => {
                    turn = None;
                    // A link that is gone was closed by us, or whoever uses it next says so.
                    if let (Err(error), true) = (ended, shared.live().is_some()) {
                        tracing::warn!("looking for expired claims failed: {error}");
                    }
                }
            }
        }
        let due = [refreshing.is_due(), binding.is_due(), sweeping.is_due()];
        if consuming
            && due.contains(&true)
            && let Err(error) = refresh(&shared, due).await
        {
            tracing::debug!("the expiry of queues could not be put off: {error}");
        }
    }
}

/// A portion of a turn at restoring expired claims; as [`Shared::restore_some`].
async fn restore(shared: &Shared, turn: &mut Option<Turn>) -> Result<Option<Duration>> {
    if turn.is_none() {
        shared.look_at_clock().await?;
    }
    if shared.rests_until().is_some() {
        return Ok(None);
    }
    shared.restore_some(turn.get_or_insert_with(|| shared.turn())).await
}

async fn renew(shared: &Shared) -> Result<()> {
    let held: Vec<Name> = shared.held.lock().keys().cloned().collect();
    shared.renew_tags(&held).await
}

impl Shared {
    /// Whether a node of a cluster has refused to settle claims because they were moved. Other than
    /// after the loss of a link nobody may notice, so this does not wait for the next use.
    fn has_to_settle(&self) -> bool {
        self.config.cluster.is_some() && self.unsure.is_unsettled()
    }
}

async fn settle(shared: &Shared) -> Result<()> {
    let session = shared.session().await?;
    shared.settle_again(&session).await
}

/// Consuming is a use: puts off the expiry of queues, and of their bindings; drops the bindings of
/// queues that nobody uses any more.
async fn refresh(shared: &Shared, [queues, bindings, sweep]: [bool; 3]) -> Result<()> {
    let expiring: Vec<Name> = shared.expiring().into_iter().map(|(queue, _)| queue).collect();
    if expiring.is_empty() {
        return Ok(()); // swept by those who have expiring queues
    }
    if queues {
        shared.refresh_expiry(&expiring).await?;
    }
    if bindings {
        for queue in &expiring {
            shared.bind_again(queue).await?;
        }
    }
    if sweep {
        shared.sweep(SWEEP).await?;
    }
    Ok(())
}
