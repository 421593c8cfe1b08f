//! The window of a consumer follows its limit.
//!
//! A window cannot be changed, so the consumer is registered anew, under another tag on the wire. What
//! came for earlier registrations and is not settled does not count against the new window, but
//! against the limit, so it is taken off: a consumer holds no more than its limit. It is done as late as
//! possible, as every raise for a task with an ETA would cost a registration otherwise: wider when the
//! window is full and nothing waits here; narrower when the broker could send more than the limit allows.
//! While a lowered limit is used up it is not registered at all, if its queue bears that. What waits here
//! beyond a lowered limit goes back, but for a quorum queue's: there it would go to the end of the queue,
//! and count as a delivery of what nobody has seen.
//!
//! Two transitions go beyond the limit. What earlier registrations still had when the window was made
//! gets settled, and a part of the limit lies idle then; so the window is widened by what the current
//! one has, which is held twice until that is settled, too. And where a consumer has to stay registered
//! its window is not 0, so one message may wait while a lowered limit is used up.

use super::consumers::{Consumer, Place, Registration, UNLIMITED, Unused, WIDEST, lower};
use crate::error::Result;
use crate::protocol::amqp::encode::{self, Settle};

/// What part of the lowest limit that a consumer had may lie idle before its window is made wider without
/// a higher limit. Of the lowest: what a limit was raised by is mostly held by tasks that wait for their
/// time, and all that is left to work with may be less than a part of the whole.
const IDLE_PART: usize = 8;

/// What a consumer may be given now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    /// The limit that it has, 0 for none.
    pub(super) limit: u32,
    /// How many more its limits let be handed out.
    pub(super) room: usize,
}

/// What to send for another window.
#[derive(Debug)]
pub(super) struct Refit {
    pub(super) frames: Vec<u8>,
    /// Whether one answer is due.
    pub(super) answered: bool,
}

impl Consumer {
    /// What to send if its window does not fit any more: it is registered anew, and what waits beyond its
    /// limit goes back. Takes the number of the channel and what is added to its own numbers of
    /// deliveries.
    ///
    /// # Errors
    /// `Encode`
    pub(super) fn refit(
        &mut self,
        channel: u16,
        base: u64,
        credit: Credit,
    ) -> Result<Option<Refit>> {
        self.least = lower(self.least, credit.limit);
        let too_wide = self.is_too_wide(credit);
        let back = match too_wide && !self.quorum {
            true => self.give_back(credit.room),
            false => Vec::new(),
        };
        if too_wide && self.free(credit) == 0 && self.may_pause() {
            return self.pause(channel, base, credit, &back).map(Some);
        }
        let window = match too_wide {
            true => Some(window_for(self.free(credit))),
            false => self.fitting(credit),
        };
        let Some(window) = window else { return Ok(None) };
        self.fitted = credit.limit;
        let mut frames = Vec::new();
        let (mut over, new) = match self.place {
            Place::Stream | Place::Only => return Ok(None),
            Place::Any => {
                let new = self.next_registration(window);
                (vec![std::mem::replace(&mut self.current, new)], new)
            }
            Place::Line => {
                let wide = |next: &Registration| next.window >= window;
                let last = self.in_line.len().saturating_sub(1);
                let at = self.in_line.iter().position(wide).unwrap_or(last);
                let mut over = vec![self.current];
                over.extend(self.in_line.drain(..at));
                let Some(next) = self.in_line.pop_front() else { return Ok(None) };
                self.current = next;
                // A classic queue looks at who is active now when the next one comes.
                (over, self.stand_in_line(WIDEST))
            }
        };
        self.counted = 0;
        if std::mem::take(&mut self.pausing) {
            over.clear();
        }
        // From behind: the one in front must not be followed by another that ends, too.
        let mut cancels = Vec::new();
        while let Some(registration) = over.pop() {
            encode::method(channel, self.cancel_of(registration)?, &mut cancels)?;
        }
        // Now its place in the queue is kept for them, and the window that they filled is closed.
        give_back(channel, base, &back, &mut cancels);
        if !self.is_without_gap() {
            frames.append(&mut cancels);
        }
        encode::method(channel, self.qos_of(new), &mut frames)?;
        encode::method(channel, self.consume_as(new, true)?, &mut frames)?;
        frames.append(&mut cancels);
        Ok(Some(Refit { frames, answered: true }))
    }

    /// Whether it may be without a registration for as long as its limit is used up.
    fn may_pause(&self) -> bool {
        self.unused == Unused::Stays && !self.exclusive
    }

    fn pause(&mut self, channel: u16, base: u64, credit: Credit, back: &[u64]) -> Result<Refit> {
        let mut frames = Vec::new();
        if !std::mem::replace(&mut self.pausing, true) {
            encode::method(channel, self.cancel_of(self.current)?, &mut frames)?;
        }
        (self.fitted, self.counted) = (credit.limit, 0);
        give_back(channel, base, back, &mut frames);
        Ok(Refit { frames, answered: false })
    }

    /// Whether a delivery for the registration of that number goes back: it was on its way when the limit
    /// fell.
    pub(super) fn is_too_late(&self, registration: u32, credit: Credit) -> bool {
        self.place == Place::Any
            && !self.quorum
            && !self.is_current(registration)
            && self.is_fitted()
            && credit.limit != 0
            && self.outstanding >= credit.limit as usize
            && self.mail.len() >= credit.room
    }

    /// Whether it is registered anew before it is cancelled. In between nobody consumes: those with lower
    /// priorities are served, and an auto-delete queue is gone. Else the order counts more, which a quorum
    /// queue does not keep among two consumers.
    fn is_without_gap(&self) -> bool {
        !self.exclusive && (self.unused == Unused::Goes || self.has_priority())
    }

    fn has_priority(&self) -> bool {
        self.options.arguments.get("x-priority").is_some()
    }

    /// How many the broker sends for the current registration without a settlement.
    fn width(&self) -> usize {
        match self.current.window {
            _ if self.pausing => 0,
            0 => usize::MAX,
            window => usize::from(window),
        }
    }

    /// Whether what it has, with what the broker may send at once, is more than a limit that was lowered.
    fn is_too_wide(&self, credit: Credit) -> bool {
        let limit = credit.limit as usize;
        let lowered = limit != 0 && (self.fitted == 0 || credit.limit < self.fitted);
        lowered
            && self.place == Place::Any
            && self.is_fitted()
            && self.width().saturating_add(self.earlier()) > limit
            && (self.counted < self.width() || self.mail.len() > credit.room)
    }

    fn is_fitted(&self) -> bool {
        self.confirmed && !self.ending && !self.gone && !self.options.no_ack
    }

    /// Whether [`Consumer::refit`] would do anything.
    pub(super) fn wants_fitting(&self, credit: Credit) -> bool {
        self.is_too_wide(credit) || self.fitting(credit).is_some()
    }

    /// The window that fits better than what it has, 0 for none.
    fn fitting(&self, credit: Credit) -> Option<u16> {
        if !self.is_fitted() {
            return None;
        }
        let wanted = match self.place {
            Place::Stream | Place::Only => return None,
            Place::Line => return self.fitting_in_line(credit.limit as usize),
            Place::Any if credit.limit == 0 => self.unlimited()?,
            Place::Any => self.limited(credit)?,
        };
        Some(window_for(wanted))
    }

    /// How much of its limit is not used.
    fn free(&self, credit: Credit) -> usize {
        (credit.limit as usize).saturating_sub(self.outstanding)
    }

    /// What is not settled of earlier registrations.
    fn earlier(&self) -> usize {
        self.outstanding.saturating_sub(self.counted)
    }

    /// Without a limit it grows with what is unsettled.
    fn unlimited(&self) -> Option<usize> {
        let now = self.width();
        let narrow = now < usize::from(UNLIMITED) || self.counted >= now.div_ceil(2);
        (now != usize::MAX && narrow).then(|| now.saturating_mul(2).max(usize::from(UNLIMITED)))
    }

    fn limited(&self, credit: Credit) -> Option<usize> {
        let (limit, least) = (credit.limit as usize, lower(self.least, credit.limit) as usize);
        let (free, earlier) = (self.free(credit), self.earlier());
        let raised = self.fitted != 0 && credit.limit > self.fitted;
        if raised && self.has_priority() && self.width().saturating_add(earlier) < limit {
            // Else others would be served with what it may have.
            return Some(free);
        }
        let starves = self.mail.is_empty() && self.counted >= self.width() && credit.room > 0;
        match starves && free > 0 {
            false => None,
            true if raised => Some(free),
            true if free >= least.div_ceil(IDLE_PART) => Some(limit - earlier),
            true => None,
        }
    }

    /// Who stands in line keeps a wide window: nobody else is served.
    fn fitting_in_line(&self, limit: usize) -> Option<u16> {
        let now = self.width();
        let wanted = match limit {
            _ if now >= usize::from(WIDEST) => return None,
            0 if self.outstanding.saturating_mul(2) < now => return None,
            0 => now.saturating_mul(2).max(usize::from(UNLIMITED)),
            _ if limit > now => limit.next_power_of_two(),
            _ => return None,
        };
        Some(u16::try_from(wanted).unwrap_or(u16::MAX).min(WIDEST))
    }
}

fn give_back(channel: u16, base: u64, tags: &[u64], frames: &mut Vec<u8>) {
    for tag in tags {
        encode::settle(channel, tag - base, false, Settle::Requeue, frames);
    }
}

/// A window for so many messages, at least one.
fn window_for(wanted: usize) -> u16 {
    match u16::try_from(wanted.max(1)) {
        Ok(window) if window <= WIDEST => window,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "fitting_tests.rs"]
mod tests;
