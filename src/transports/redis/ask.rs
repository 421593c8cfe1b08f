//! Questions to servers that know where the master is, each over a short link of its own.

use crate::error::{Error, Result};
use crate::io::dial::{Address, DialOptions, dial};
use crate::io::link::{Expect, Link, Traffic};
use crate::protocol::resp::{Command, Parser, Pipeline, Value};
use std::time::Duration;

/// One of several servers is waited for at least so long.
const SHORTEST: Duration = Duration::from_millis(200);

/// Who asks.
pub(super) struct Login<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

/// Everything but pushes, of which there are none.
struct NoPushes;

impl Traffic<Value> for NoPushes {
    fn route(&mut self, event: Value) -> Option<Value> {
        Some(event)
    }
}

/// For how long each of `count` servers is waited for, so that there is time left for the master.
pub(super) fn share(connect_timeout: Duration, count: usize) -> Duration {
    match count {
        0 | 1 => connect_timeout,
        _ => (connect_timeout / u32::try_from(count + 1).unwrap_or(u32::MAX)).max(SHORTEST),
    }
}

/// Asks one server, which `peer` names in errors; the replies, error replies among them.
///
/// # Errors
/// `Connection`; `Auth` when it refuses the log-in.
pub(super) async fn ask(
    node: &Address,
    peer: &str,
    options: &DialOptions,
    login: Login<'_>,
    questions: &[Command],
    patience: Duration,
) -> Result<Vec<Value>> {
    let stream = dial(node, options).await?;
    let link = Link::new(stream, peer, Parser::default(), NoPushes);
    let mut pipeline = Pipeline::new();
    if let Some(password) = login.password {
        let user = login.username.unwrap_or("default");
        pipeline.push(&Command::new("AUTH").arg(user).arg(password));
    }
    for question in questions {
        pipeline.push(question);
    }
    let count = pipeline.len();
    let replies = link.request(pipeline.data(), Expect::Count(count), patience).await;
    link.close("it has been asked");
    let mut replies = replies?;
    let refused = replies.iter().find_map(|reply| match reply {
        Value::Error(error) if matches!(error.code(), "NOAUTH" | "WRONGPASS") => Some(error),
        _ => None,
    });
    if let Some(error) = refused {
        return Err(Error::auth(format!("{peer} refused the log-in: {error}")));
    }
    if login.password.is_some() {
        let greeting = replies.remove(0);
        if let Value::Error(error) = greeting {
            return Err(Error::connection(format!("{peer}: {error}")));
        }
    }
    Ok(replies)
}
