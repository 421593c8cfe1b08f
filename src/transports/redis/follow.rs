//! Where a node of a cluster sends those whose keys it does not have.

use super::cluster::Redirect;
use super::session::{Moving, Session};
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::io::dial::Address;
use crate::io::task::sleep_until;
use crate::protocol::resp::{Command, Pipeline, ServerError, Value};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First and longest pause before the same node is asked again.
const PAUSE_FROM: Duration = Duration::from_millis(10);
const PAUSE_TO: Duration = Duration::from_millis(200);

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl Session {
    /// The reply to a command, after all redirections if this one is one.
    pub(super) async fn followed(
        &self,
        command: &[u8],
        reply: Value,
        moving: Moving,
    ) -> Result<Value> {
        match reply {
            Value::Error(error) if self.is_in_cluster() => {
                self.follow(command, error, moving).await
            }
            reply => Ok(reply),
        }
    }

    /// Goes where `error` says, if it says so, for as long as a reply may take. A redirected command
    /// was not executed. Boxed, because connecting may itself be redirected.
    fn follow<'a>(
        &'a self,
        command: &'a [u8],
        mut error: ServerError,
        moving: Moving,
    ) -> Boxed<'a, Value> {
        Box::pin(async move {
            let until = Instant::now() + self.config().reply_timeout;
            let mut pause = PAUSE_FROM;
            let mut at: Option<Arc<Self>> = None;
            loop {
                let here = at.as_deref().unwrap_or(self);
                let Some(redirect) = Redirect::of(&error, &here.address) else { break };
                let only_told = moving == Moving::Tell && !matches!(redirect, Redirect::Moved(_));
                if only_told || Instant::now() >= until {
                    break;
                }
                let Some(shared) = self.shared() else {
                    return Err(Error::connection("the connection was given up"));
                };
                let reply = match redirect {
                    Redirect::Ask(address) => shared.ask_node(&address, command).await?,
                    redirect => {
                        if let Redirect::Moved(address) = redirect {
                            shared.moved(here, address);
                        }
                        if at.is_some() || here.is_alive() {
                            sleep_until(Instant::now() + pause).await;
                            pause = (pause * 2).min(PAUSE_TO);
                        }
                        let next = shared.session().await?;
                        let reply = next.exchange(command, 1).await?.pop();
                        at = Some(next);
                        reply.ok_or_else(|| Error::internal("a reply is missing"))?
                    }
                };
                match reply {
                    Value::Error(next) => error = next,
                    reply => return Ok(reply),
                }
            }
            Ok(Value::Error(error))
        })
    }
}

impl Shared {
    /// A node has said that another one has the slot now.
    fn moved(&self, from: &Session, to: Address) {
        if let Some(cluster) = &self.config.cluster {
            tracing::info!("{} says that its keys have moved to {to}", from.link().peer());
            cluster.ask_first(to);
        }
        from.leave();
    }

    /// Sends one command to the node that a slot is being moved to; the main link stays where it is.
    async fn ask_node(&self, address: &Address, command: &[u8]) -> Result<Value> {
        let session = self.side_session(address).await?;
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new("ASKING"));
        let data = [pipeline.data(), command].concat();
        let reply = session.exchange(&data, 2).await?.pop();
        // What was read there, nobody tells us of when it changes.
        self.bindings.clear();
        reply.ok_or_else(|| Error::internal("a reply is missing"))
    }
}
