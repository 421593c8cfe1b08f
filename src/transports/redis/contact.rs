//! Whether this process was cut off from its server for so long that the claims of others that live may
//! have run out.
//!
//! Nobody can renew a claim while the server, or the way to it, is down. After an outage that is longer
//! than the visibility timeout all claims have run out, and whoever comes back first would take them
//! from owners that are about to renew them. So whoever was cut off for longer than owners let pass
//! between two renewals lies low: it renews its own claims, and leaves those of others alone until
//! these have had the time to come back. The same goes for the first connection to a server that has
//! just started, and when the server's clock has leapt.

use super::Config;
use super::shared::Shared;
use crate::error::Result;
use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use crate::protocol::resp::Command;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Owners that could not renew try again every second or two, and those whose server's clock has leapt
/// notice it at their next look for expired claims: by then they have.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// By server, for all connections of this process: each may be made anew after an outage.
static SERVERS: PerProcess<Mutex<HashMap<String, Arc<Contact>>>> = PerProcess::new();

/// When a server was last heard of.
#[derive(Debug, Default)]
pub(super) struct Contact(Mutex<Option<Instant>>);

impl Contact {
    /// With the server of these options.
    pub(super) fn with_server(config: &Config) -> Arc<Self> {
        let mut servers = SERVERS.get_or(Mutex::default).lock();
        servers.entry(config.server()).or_default().clone()
    }

    /// Something was heard. Since when there had been nothing, if there ever was something.
    pub(super) fn heard(&self, at: Instant) -> Option<Instant> {
        let mut heard = self.0.lock();
        let before = *heard;
        *heard = Some(before.map_or(at, |before| before.max(at)));
        before
    }
}

/// For how long others' claims are left alone.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Mutex<Option<Instant>>,
    /// The server's clock, in seconds, and ours at that moment.
    clocks: Mutex<Option<(f64, Instant)>>,
}

impl Rest {
    fn extend(&self, until: Instant) {
        let mut known = self.until.lock();
        *known = Some(known.map_or(until, |known| known.max(until)));
    }

    /// Notes what the server's clock shows. By how much it has gone ahead of ours since the last time.
    fn leap(&self, server: f64, now: Instant) -> Duration {
        let before = self.clocks.lock().replace((server, now));
        let leap = before.map_or(0.0, |(earlier, then)| {
            server - earlier - now.saturating_duration_since(then).as_secs_f64()
        });
        Duration::try_from_secs_f64(leap).unwrap_or_default()
    }
}

impl Shared {
    /// Until when to leave others' claims alone, if that is to come.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest.until.lock().filter(|until| *until > Instant::now())
    }

    /// A link is there. `uptime` is the server's, if it tells.
    pub(super) fn is_back(&self, uptime: Option<Duration>) {
        let now = Instant::now();
        match (self.contact.heard(now), uptime) {
            (Some(before), _) => {
                self.was_cut_off(now.saturating_duration_since(before));
            }
            (None, Some(uptime)) => self.rest.extend(now + self.rest_time().saturating_sub(uptime)),
            (None, None) => {}
        }
    }

    /// The server was silent, or its clock stood still, for so long. Whether that is long enough for a
    /// rest.
    pub(super) fn was_cut_off(&self, silence: Duration) -> bool {
        let long = silence >= self.renewal_period();
        if long {
            self.rest.extend(Instant::now() + self.rest_time());
        }
        long
    }

    /// Finds out whether the server's clock has leapt: then claims have run out before their time.
    pub(super) async fn look_at_clock(&self) -> Result<()> {
        let sent = Instant::now();
        let session = self.session().await?;
        let reply = session.call("to read the clock", &Command::new("TIME")).await?;
        let number = |text: Option<&crate::protocol::resp::Value>| {
            std::str::from_utf8(text?.as_bytes()?).ok()?.parse::<f64>().ok()
        };
        let parts = reply.into_items().unwrap_or_default();
        if let (Some(seconds), Some(micros)) = (number(parts.first()), number(parts.get(1))) {
            let leap = self.rest.leap(seconds + micros / 1e6, Instant::now());
            // An answer that took its time says no more than that.
            if self.was_cut_off(leap.saturating_sub(sent.elapsed())) {
                tracing::warn!("the server's clock has leapt by {} s", leap.as_secs());
                self.hold_on(&session).await?;
            }
        }
        Ok(())
    }

    /// Held claims are renewed so often.
    pub(super) fn renewal_period(&self) -> Duration {
        self.config.visibility_timeout / 3
    }

    fn rest_time(&self) -> Duration {
        (self.config.visibility_timeout * 2 / 3).min(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Url;
    use serde_json::json;

    fn shared(port: u16) -> Arc<Shared> {
        let options = json!({"visibility_timeout": 30}).as_object().unwrap().clone();
        let url = Url::parse(&format!("redis://contact.test:{port}")).unwrap();
        Shared::new(Config::parse(&url, &options).unwrap().into(), None)
    }

    fn rests(shared: &Shared) -> u64 {
        let left =
            shared.rests_until().map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(0, |left| left.as_secs_f64().ceil() as u64)
    }

    #[test]
    fn who_was_cut_off_for_long_lies_low() {
        for (silence, rest) in [(0, 0), (9, 0), (11, 20), (3600, 20)] {
            let port = 1000 + silence;
            let before = shared(port);
            before.contact.heard(Instant::now() - Duration::from_secs(silence.into()));
            // Also with another connection.
            let back = shared(port);
            back.is_back(Some(Duration::from_secs(1)));
            assert_eq!(rests(&back), rest, "after {silence} s");
        }
    }

    #[test]
    fn a_server_that_has_just_started_may_have_been_away_for_long() {
        for (uptime, rest) in [(Some(0), 20), (Some(15), 5), (Some(20), 0), (None, 0)] {
            let new = shared(1 + uptime.map_or(100, |uptime| uptime as u16));
            new.is_back(uptime.map(Duration::from_secs));
            assert_eq!(rests(&new), rest, "{uptime:?}");
        }
    }

    #[test]
    fn clocks_that_part() {
        let (rest, begin) = (Rest::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(rest.leap(1e9, begin), Duration::ZERO);
        assert_eq!(rest.leap(1e9 + 10.0, after(10)), Duration::ZERO);
        assert_eq!(rest.leap(1e9 + 80.0, after(20)), Duration::from_secs(60));
        assert_eq!(rest.leap(1e9 + 50.0, after(30)), Duration::ZERO, "back");
    }
}
