"""Native channels that are virtual channels, too.

Kombu's channels for brokers that know queues alone are ``virtual.Channel``: AMQP in Python over a
few operations of the broker, ``_put``, ``_get``, ``_size``, ... Programs use these operations,
derive from them and replace them. Here they are real operations on the native store; and what is
replaced, in a class or in an object, is called: the channel then takes the way of
``virtual.Channel``.

A message is a dictionary on that way. Publishing and consuming go their ways apart: who replaces
``_put`` still consumes natively.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from queue import Empty
from time import monotonic

from .. import _native
from .._typing import Any
from ..exceptions import (
    BrokerConnectionError,
    ConnectionError,
    ConnectionLimitExceeded,
    RecoverableConnectionError,
)
from ..utils.uuid import uuid
from . import native, virtual
from .virtual.exchange import STANDARD_EXCHANGE_TYPES, ExchangeType
from .virtual.state import binding_key_t, queue_binding_t
from .virtual.transport import ARRAY_TYPE_H

__all__ = ("Channel", "QoS", "State", "Transport")

#: What a channel publishes with.
PUBLISHING = frozenset(
    {
        "_inplace_augment_message",
        "_lookup",
        "_next_delivery_tag",
        "_put",
        "_put_fanout",
        "codecs",
        "deadletter_queue",
        "encode_body",
        "exchange_types",
        "get_table",
        "typeof",
    }
)

#: What a channel consumes with, and puts back what it consumed.
CONSUMING = frozenset(
    {
        "Message",
        "QoS",
        "_get",
        "_get_and_deliver",
        "_get_many",
        "_poll",
        "_qos",
        "_reset_cycle",
        "_restore",
        "_restore_at_beginning",
        "codecs",
        "cycle",
        "decode_body",
        "drain_events",
        "qos",
    }
)

#: What a channel looks after queues with.
KEEPING = frozenset({"_delete", "_has_queue", "_new_queue", "_purge", "_size"})

#: What a transport delivers with.
DELIVERING = frozenset(
    {"Cycle", "_callbacks", "_deliver", "_drain_channel", "_reject_inbound_message", "cycle"}
)

# Messages handed out for one look, when an event loop looks now and then.
_BURST = 64


class HeadersExchange(ExchangeType):
    """Queues whose binding's arguments fit the message's headers."""

    type = "headers"

    def lookup(self, table: Any, exchange: str, routing_key: str, default: Any) -> list[str]:
        """Return the queues that get a message without headers."""
        return self.channel._store.lookup(exchange, routing_key)

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put a message into the queues that get it."""
        queues = self.channel._store.lookup(exchange, routing_key, message.get("headers"))
        for queue in queues:
            self.channel._put(queue, message, **kwargs)


class Exchanges(Mapping[str, Any]):
    """Declarations by name, as in :attr:`virtual.BrokerState.exchanges`.

    Arguments:
        store: where they are.
    """

    def __init__(self, store: _native.Store) -> None:
        self._store = store

    def __getitem__(self, exchange: str) -> dict[str, Any]:
        declaration = self._store.declaration(exchange)
        prepare = STANDARD_EXCHANGE_TYPES.get(declaration["type"], ExchangeType)(None).prepare_bind
        declaration["table"] = [
            prepare(queue, exchange, routing_key, arguments)
            for queue, routing_key, arguments in self._store.bindings(exchange)
        ]
        return declaration

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.exchanges())

    def __len__(self) -> int:
        return len(self._store.exchanges())

    def pop(self, exchange: str, default: Any = None) -> Any:
        """Forget an exchange with its bindings; returns its declaration."""
        found = self.get(exchange, default)
        self._store.forget(exchange)
        return found

    def clear(self) -> None:
        """Forget all exchanges and bindings."""
        for exchange in self:
            self._store.forget(exchange)


class State(virtual.BrokerState):
    """Exchanges and bindings that are in the native store.

    Arguments:
        store: the store.
    """

    exchanges: Any

    def __init__(self, store: _native.Store) -> None:
        self._store = store
        self.exchanges = Exchanges(store)

    @property
    def bindings(self) -> dict[binding_key_t, Any]:
        """Arguments by queue, exchange and routing key."""
        return {
            binding_key_t(queue, exchange, routing_key): arguments
            for exchange in self.exchanges
            for queue, routing_key, arguments in self._store.bindings(exchange)
        }

    @property
    def queue_index(self) -> dict[str, set[binding_key_t]]:
        """Keys into :attr:`bindings` by queue."""
        index: dict[str, set[binding_key_t]] = {}
        for key in self.bindings:
            index.setdefault(key.queue, set()).add(key)
        return index

    def clear(self) -> None:
        """Forget all exchanges and bindings."""
        self.exchanges.clear()

    def binding_declare(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> None:
        """Add a binding.

        Raises:
            KeyError: there is no such exchange.
        """
        self._store.bind(queue, exchange, routing_key, arguments)

    def binding_delete(self, queue: str, exchange: str, routing_key: str) -> None:
        """Remove a binding, if it is there."""
        for key, arguments in self.bindings.items():
            if key == (queue, exchange, routing_key):
                self._store.unbind(queue, exchange, routing_key, arguments)

    def queue_bindings_delete(self, queue: str) -> None:
        """Remove all bindings of a queue."""
        for key, arguments in self.bindings.items():
            if key.queue == queue:
                self._store.unbind(*key, arguments)

    def queue_bindings(self, queue: str) -> Iterator[queue_binding_t]:
        """Yield the bindings of a queue."""
        for key, arguments in self.bindings.items():
            if key.queue == queue:
                yield queue_binding_t(key.exchange, key.routing_key, arguments)


class QoS(virtual.QoS):
    """The ledger of a channel: what native code delivered is in the core, the rest is here.

    Arguments:
        channel: whose.
        prefetch_count: stop consuming at so many; 0: as it is.
    """

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        _, limit = channel._credit()
        super().__init__(channel, prefetch_count or limit)

    @property
    def prefetch_count(self) -> int:
        """The limit; 0 for none."""
        return self.channel._credit()[1]

    @prefetch_count.setter
    def prefetch_count(self, value: int) -> None:
        if self.prefetch_count != value:
            native.Channel.basic_qos(self.channel, prefetch_count=value)

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note a delivery that was not native."""
        self.channel._hooked()  # it is settled here, not in the core
        super().append(message, delivery_tag)

    def _in_use(self) -> int:
        held, _ = self.channel._credit()
        return super()._in_use() + held

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a delivery."""
        if delivery_tag in self._delivered:
            super().ack(delivery_tag)
        else:
            native.Channel.basic_ack(self.channel, delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery: drop it, or put it back with ``requeue``."""
        if delivery_tag in self._delivered:
            super().reject(delivery_tag, requeue)
        else:
            native.Channel.basic_reject(self.channel, delivery_tag, requeue)

    def restore_unacked(self) -> list[tuple[BaseException, Any]]:
        """Put all unacknowledged messages back.

        Returns:
            ``(exception, message)`` for those that were not delivered natively and where that
            failed.
        """
        try:
            if not self.channel.closed:
                native.Channel.basic_recover(self.channel, requeue=True)
        finally:
            # What the core could not put back does not keep these from going back.
            failed = super().restore_unacked()
        return failed


class Channel(native.Channel, virtual.Channel):  # type: ignore[misc, override]
    """A native channel with the operations of a virtual one.

    Arguments:
        connection: the :class:`Transport`.
    """

    QoS = QoS  # type: ignore[assignment]
    Message = virtual.Message  # type: ignore[assignment]

    exchange_types: Any = {**STANDARD_EXCHANGE_TYPES, "headers": HeadersExchange}  # noqa: RUF012

    _gone_around = native.Channel._gone_around | PUBLISHING | CONSUMING | KEEPING

    #: Takes several messages at a time, where a derived class has it.
    _get_many: Any = None

    _store: _native.Store

    # The transport looks for messages: the core does not bring them.
    _polled = False

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        vars(self).update(
            _consumers=set(),
            _tag_to_queue={},
            _active_queues=[],
            _store=connection._store,
            exchange_types={name: cls(self) for name, cls in self.exchange_types.items()},
        )
        native.Channel.__init__(self, connection, **kwargs)
        options = getattr(connection.client, "transport_options", None)
        if options:
            for name in self.from_transport_options:
                if name in options:
                    setattr(self, name, options[name])

    @property
    def qos(self) -> Any:
        """The prefetch limit and the unacknowledged messages."""
        if self._qos is None:
            vars(self)["_qos"] = self.QoS(self)
        return self._qos

    # What virtual channels are made of, on the native store

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        message = self._store.get(queue)
        if message is None:
            raise Empty()
        return message

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self._store.put(queue, message)

    def _put_fanout(
        self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any
    ) -> None:
        self._store.put_fanout(exchange, message, routing_key or "")

    def _size(self, queue: str) -> int:
        return self._store.size(queue)

    def _purge(self, queue: str) -> int:
        return self._store.purge(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._store.declare(queue)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._store.has(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self._store.delete(queue)

    _lookup = virtual.Channel._lookup  # type: ignore[assignment]
    encode_body = virtual.Channel.encode_body

    # Queues

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue; see :meth:`kombu_rs.transport.native.Channel.queue_declare`."""
        if self._has_own(KEEPING):
            return virtual.Channel.queue_declare(self, queue, passive, **kwargs)
        return native.Channel.queue_declare(self, queue, passive, **kwargs)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str | None = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Bind a queue to an exchange."""
        native.Channel.queue_bind(self, queue, exchange, routing_key, arguments, **kwargs)
        if self.supports_fanout:
            meta = self.typeof(exchange or "").prepare_bind(queue, exchange, routing_key, arguments)
            self._queue_bind(exchange or "", *meta)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> Any:
        """Delete a queue; returns how many messages went with it, where that is known."""
        if self._has_own(KEEPING):
            return virtual.Channel.queue_delete(self, queue, if_unused, if_empty, **kwargs)
        return native.Channel.queue_delete(self, queue, if_unused, if_empty, **kwargs)

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Remove the ready messages of a queue; returns how many."""
        if self._has_own(KEEPING):
            return virtual.Channel.queue_purge(self, queue, **kwargs)
        return native.Channel.queue_purge(self, queue, **kwargs)

    # Publishing

    def basic_publish(
        self,
        message: dict[str, Any],
        exchange: str | None = None,
        routing_key: str | None = None,
        *,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish a message that :meth:`prepare_message` made.

        Arguments:
            message: the message.
            exchange: the exchange's name; empty for the default exchange.
            routing_key: the routing key.
            timeout: give up after so many seconds; the message may have arrived all the same.

        Raises:
            TimeoutError: it took longer than ``timeout``.
        """
        if not self._is_plain() and self._has_own(PUBLISHING):
            return virtual.Channel.basic_publish(
                self, message, exchange or "", routing_key or "", **kwargs
            )
        return native.Channel.basic_publish(self, message, exchange, routing_key, timeout=timeout)

    @property
    def supports_batch_publish(self) -> bool:
        """Whether messages can be collected and sent together: not past what was replaced."""
        return not self._has_own(PUBLISHING)

    # Consuming

    def basic_consume(  # type: ignore[override]
        self,
        queue: str,
        no_ack: bool | None = False,
        callback: Any = None,
        consumer_tag: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> str:
        """Consume from a queue: ``callback(message)`` is called for each message."""
        if self.connection is None:
            raise RecoverableConnectionError("the channel is closed")
        if self._has_own(CONSUMING):
            consumer_tag = consumer_tag or uuid()
            self._be_polled()
        else:
            consumer_tag = native.Channel.basic_consume(
                self, queue, no_ack, callback, consumer_tag, *args, **kwargs
            )
        # For who drives the channel by hand, too.
        virtual.Channel.basic_consume(self, queue, bool(no_ack), callback, consumer_tag)
        return consumer_tag

    def _be_polled(self) -> None:
        if not self._polled:
            self._polled = True
            self.connection._poll_channels()

    def _on_replaced(self, name: str) -> None:
        native.Channel._on_replaced(self, name)
        if name in CONSUMING and self._consumers and not self._polled:
            # What the core has fetched ahead goes back.
            for consumer_tag in self._consumers:
                native.Channel.basic_cancel(self, consumer_tag)
            self._be_polled()

    def basic_cancel(self, consumer_tag: Any, **kwargs: Any) -> None:
        """Stop consuming. Messages that were fetched ahead go back to the queue."""
        # Of the core's or polled: hooks come and go while somebody consumes.
        native.Channel.basic_cancel(self, consumer_tag, **kwargs)
        virtual.Channel.basic_cancel(self, consumer_tag)

    def basic_get(self, queue: str, no_ack: bool | None = False, **kwargs: Any) -> Any:
        """Take one message, or None when the queue is empty."""
        if not self._is_plain() and self._has_own(CONSUMING):
            return virtual.Channel.basic_get(self, queue, bool(no_ack), **kwargs)
        return native.Channel.basic_get(self, queue, no_ack, **kwargs)

    def message_to_python(self, raw_message: Any) -> Any:
        """Make a dictionary a message. What comes from this channel is one already."""
        if isinstance(raw_message, dict):
            return self.Message(raw_message, channel=self)
        return raw_message

    def _is_settled_here(self, delivery_tag: Any) -> bool:
        """Whether the ledger in Python has a delivery."""
        qos = self._qos
        return qos is not None and (type(qos) is not QoS or delivery_tag in qos._delivered)

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery (all up to it with ``multiple``)."""
        if self._is_settled_here(delivery_tag):
            virtual.Channel.basic_ack(self, delivery_tag, multiple)
        else:
            native.Channel.basic_ack(self, delivery_tag, multiple)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery: drop it, or put it back with ``requeue``."""
        if self._is_settled_here(delivery_tag):
            virtual.Channel.basic_reject(self, delivery_tag, requeue)
        else:
            native.Channel.basic_reject(self, delivery_tag, requeue)

    def basic_recover(self, requeue: bool = False) -> Any:
        """Put all unacknowledged messages back."""
        if self._qos is None:
            return native.Channel.basic_recover(self, requeue)
        return virtual.Channel.basic_recover(self, requeue)

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int | None = 0,
        apply_global: bool = False,
    ) -> None:
        """Limit the number of unacknowledged messages; 0 for no limit."""
        native.Channel.basic_qos(self, prefetch_size, prefetch_count, apply_global)
        if self._has_own(CONSUMING):
            self.qos.prefetch_count = prefetch_count or 0

    def close(self) -> None:
        """Close the channel: consumers end, unacknowledged messages go back to their queues."""
        if self.connection is None:
            return
        try:
            for consumer_tag in list(self._consumers):
                virtual.Channel.basic_cancel(self, consumer_tag)
            if self._qos is not None:
                self._qos.restore_unacked_once()
        finally:
            native.Channel.close(self)
            vars(self)["exchange_types"] = None  # they refer to the channel


Channel._native_class = Channel


class Transport(native.Transport, virtual.Transport):
    """A native transport of channels with the operations of virtual ones.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel

    #: Without a link no error of the system is one of the broker: those are of a program's own
    #: callbacks, and nothing is to be tried again.
    connection_errors = (ConnectionError, BrokerConnectionError, ConnectionLimitExceeded)

    #: Seconds between looks for messages, for channels that have their own way to get them.
    polling_interval: float | None = 1.0

    _gone_around = native.Transport._gone_around | DELIVERING

    # Some channels have their own way to get messages.
    _polls = False
    _cycle: Any = None

    def __init__(self, client: Any = None, **kwargs: Any) -> None:
        native.Transport.__init__(self, client, **kwargs)
        self._store = self._open_store()
        #: Exchanges and bindings.
        self.state: Any = State(self._store)
        self._avail_channels: list[Any] = []
        self._used_channel_ids = array(ARRAY_TYPE_H)
        self._timer: Any = None
        vars(self)["_callbacks"] = {}
        options = getattr(client, "transport_options", None) or {}
        self.polling_interval = options.get("polling_interval", self.polling_interval)

    @property
    def cycle(self) -> Any:
        """Takes the channels in turn."""
        # Made when it is asked for: it refers to the transport, which should go with its last
        # user and not wait for the collector.
        if self._cycle is None:
            self._cycle = self.Cycle(self._drain_channel, self.channels, Empty)
        return self._cycle

    @cycle.setter
    def cycle(self, cycle: Any) -> None:
        self._cycle = cycle

    def _poll_channels(self) -> None:
        """Look for messages of channels that have their own way to get them."""
        if not self._polls:
            self._polls = True
            self._hooked()
            if self._loop is not None:
                self._start_timer(self._loop)

    def _forget_channel(self, channel: Any) -> None:
        native.Transport._forget_channel(self, channel)
        if isinstance(channel._qos, virtual.QoS):
            channel._qos._on_collect.cancel()
        # What leads back to the channel: it goes with its last user, and the store with it, which
        # would renew the channel's claims until the collector comes.
        for queue in channel._tag_to_queue.values():
            self._callbacks.pop(queue, None)
        vars(channel).update(exchange_types=None, _cycle=None, _qos=None)

    def _drain_channel(self, channel: Any, callback: Any, timeout: float | None = None) -> Any:
        if not channel._polled and not self._has_own(DELIVERING):
            raise Empty()  # the core brings its messages
        return virtual.Transport._drain_channel(self, channel, callback, timeout)

    def drain_events(self, connection: Any = None, timeout: float | None = None) -> None:  # type: ignore[override]
        """Wait for one event and hand it to its consumer.

        Raises:
            socket.timeout: nothing came within ``timeout`` seconds (None: wait for ever).
        """
        if self._is_plain():
            return native.Transport.drain_events(self, connection, timeout)
        if self._has_own(DELIVERING):
            return virtual.Transport.drain_events(self, connection, timeout)
        until = None if timeout is None else monotonic() + timeout
        wait = 0.0
        while True:
            try:
                return native.Transport.drain_events(self, connection, wait)
            except TimeoutError:
                pass
            try:
                self.cycle.get(self._deliver)
                return None
            except Empty:
                wait = self.polling_interval or 0.0
            if until is not None:
                left = until - monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                wait = min(wait, left)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the transport's descriptor; it stays the same over reconnects."""
        native.Transport.register_with_event_loop(self, connection, loop)
        if self._polls:
            self._start_timer(loop)

    def _start_timer(self, loop: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_repeatedly(self.polling_interval or 1.0, self._look)

    def _look(self) -> None:
        """Deliver what polled channels have, a burst at most."""
        for _ in range(_BURST):
            try:
                self.cycle.get(self._deliver)
            except Empty:
                return

    def _leave_loop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        native.Transport._leave_loop(self)


Transport._native_class = Transport
