//! What is read from options that only Redis has.

use super::keys::Template;
use crate::error::Result;
use crate::io::dial::Keepalive;
use crate::transport::Given;
use serde_json::Value;
use std::time::Duration;

/// An option of this transport.
pub(super) fn given<'a>(name: &'a str, value: &'a Value) -> Given<'a> {
    Given { transport: "Redis", name, value }
}

/// A number of seconds that may be zero: then, as short as makes sense.
pub(super) fn pause(option: &Given<'_>) -> Result<Duration> {
    const SHORTEST: Duration = Duration::from_millis(10);
    Ok(option.seconds_or_none()?.unwrap_or(SHORTEST).max(SHORTEST))
}

/// A text with one `%s`, which stands for an exchange.
pub(super) fn template(option: &Given<'_>) -> Result<Template> {
    let text = option.text()?;
    match text.split_once("%s") {
        Some((head, tail)) if !tail.contains("%s") => Ok(Template::new(head, tail)),
        _ => Err(option.invalid("must have one %s, which stands for the exchange")),
    }
}

/// Steps of priorities, sorted.
pub(super) fn steps(option: &Given<'_>) -> Result<Vec<i64>> {
    let right = "a list of whole numbers like [0, 3, 6, 9]";
    let items = option.value.as_array().ok_or_else(|| option.ill_typed(right))?;
    let mut steps = items
        .iter()
        .map(|item| item.as_i64().ok_or_else(|| option.ill_typed(right)))
        .collect::<Result<Vec<_>>>()?;
    steps.sort_unstable();
    steps.dedup();
    if steps.is_empty() || steps.len() > 256 {
        return Err(option.invalid("must have 1 to 256 steps"));
    }
    Ok(steps)
}

/// As [`Given::count`]; 0 is `None`.
pub(super) fn count_or_none(option: &Given<'_>, right: &str) -> Result<Option<usize>> {
    match option.number(right)? {
        0.0 => Ok(None),
        _ => option.count(right).map(Some),
    }
}

/// A name that a server takes for a client.
pub(super) fn client_name(option: &Given<'_>) -> Result<String> {
    let name = option.non_empty()?;
    if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(name);
    }
    Err(option.invalid(&format!(
        "must be of visible ASCII characters, without spaces and newlines, not {name:?}"
    )))
}

/// A dictionary of socket option numbers or names, as redis-py takes it. `user_timeout` is changed if
/// that is among them.
pub(super) fn keepalive(
    option: &Given<'_>,
    keepalive: &mut Keepalive,
    user_timeout: &mut Option<Duration>,
) -> Result<()> {
    let right = "a dictionary of TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT and TCP_USER_TIMEOUT";
    let members = option.value.as_object().ok_or_else(|| option.ill_typed(right))?;
    for (name, value) in members {
        let Some(number) = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
        else {
            return Err(option.invalid(&format!("must have a positive number for {name}")));
        };
        let seconds = Duration::from_secs(number.into());
        match (name.as_str(), name.parse()) {
            ("TCP_KEEPIDLE", _) | (_, Ok(libc::TCP_KEEPIDLE)) => keepalive.idle = seconds,
            ("TCP_KEEPINTVL", _) | (_, Ok(libc::TCP_KEEPINTVL)) => keepalive.interval = seconds,
            ("TCP_KEEPCNT", _) | (_, Ok(libc::TCP_KEEPCNT)) => keepalive.count = number,
            ("TCP_USER_TIMEOUT", _) | (_, Ok(libc::TCP_USER_TIMEOUT)) => {
                *user_timeout = Some(Duration::from_millis(number.into()));
            }
            _ => return Err(option.invalid(&format!("must be {right}, which {name:?} is not"))),
        }
    }
    Ok(())
}
