//! Publishing: from exchange and routing key to queues.

use crate::error::Result;
use crate::model::{Exchange, ExchangeKind, Json, Message, Name};
use crate::routing;
use crate::transport::Store;

/// What an exchange is taken for that was not declared on this connection: Kombu's `typeof` says
/// direct.
pub(super) fn undeclared(name: &Name) -> Exchange {
    Exchange {
        name: name.clone(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        arguments: Json::empty_object(),
    }
}

/// An exchange that was declared on this connection; or any, where the broker has the bindings, which
/// may be others'.
pub fn known_exchange(store: &dyn Store, name: &Name) -> Option<Exchange> {
    let shared = store.capability().shared_bindings;
    store.exchanges().get(name).or_else(|| shared.then(|| undeclared(name)))
}

/// The queues that a message published to `exchange` goes to.
pub(super) async fn route(
    store: &dyn Store,
    exchange: &Name,
    message: &Message,
) -> Result<Vec<Name>> {
    let routing_key = &message.properties.routing_key;
    if exchange.is_empty() {
        return Ok(vec![routing_key.clone()]);
    }
    let known = store.exchanges().get(exchange).unwrap_or_else(|| undeclared(exchange));
    let bindings = store.bindings(&known).await?;
    Ok(routing::route(known.kind, &bindings, routing_key, &message.headers))
}

/// Publishes each message to the exchange that its properties name. Messages in a row for the same
/// queues go out together.
pub(super) async fn publish(store: &dyn Store, messages: Vec<Message>) -> Result<()> {
    let fanout = store.capability().fanout;
    let mut together: Vec<Message> = Vec::with_capacity(messages.len());
    let mut queues: Vec<Name> = Vec::new();
    for message in messages {
        let exchange = message.properties.exchange.clone();
        let is_fanout = fanout
            && !exchange.is_empty()
            && store.exchanges().get(&exchange).is_some_and(|e| e.kind == ExchangeKind::Fanout);
        if is_fanout {
            flush(store, &mut queues, &mut together).await?;
            store.put_fanout(&exchange, &message.properties.routing_key.clone(), &message).await?;
            store.counters().published.add(1);
            continue;
        }
        let targets = route(store, &exchange, &message).await?;
        if targets != queues {
            flush(store, &mut queues, &mut together).await?;
            queues = targets;
        }
        together.push(message);
    }
    flush(store, &mut queues, &mut together).await
}

async fn flush(
    store: &dyn Store,
    queues: &mut Vec<Name>,
    messages: &mut Vec<Message>,
) -> Result<()> {
    if !messages.is_empty() {
        for queue in queues.iter() {
            store.put(queue, messages).await?;
            store.counters().published.add(messages.len());
        }
    }
    queues.clear();
    messages.clear();
    Ok(())
}
