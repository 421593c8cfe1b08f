"""Channel, message and transport of a virtual broker, and its ledger of deliveries."""

from __future__ import annotations

import warnings
from binascii import a2b_base64, b2a_base64
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty
from types import TracebackType

from ..._deferred import deferred
from ..._typing import TYPE_CHECKING, Any, ClassVar
from ...exceptions import ChannelError, ResourceError
from ...log import get_logger
from ...utils.compat import register_after_fork
from ...utils.div import emergency_dump_state
from ...utils.encoding import bytes_to_str, str_to_bytes
from ...utils.scheduling import FairCycle
from ...utils.uuid import uuid
from .. import base
from .abstract import AbstractChannel
from .exchange import STANDARD_EXCHANGE_TYPES
from .state import BrokerState, binding_key_t, queue_binding_t, queue_declare_ok_t

if TYPE_CHECKING:
    import logging

    from typing_extensions import Self

__all__ = (
    "AbstractChannel",
    "Base64",
    "BrokerState",
    "Channel",
    "Empty",
    "Management",
    "Message",
    "NotEquivalentError",
    "QoS",
    "Transport",
    "UndeliverableWarning",
    "binding_key_t",
    "queue_binding_t",
)

UNDELIVERABLE_FMT = """\
Message could not be delivered: No queues bound to exchange {exchange!r} \
using binding key {routing_key!r}.
"""

NOT_EQUIVALENT_FMT = """\
Cannot redeclare exchange {0!r} in vhost {1!r} with \
different type, durable, autodelete or arguments value.\
"""

RESTORING_FMT = "Restoring {0!r} unacknowledged message(s)"
RESTORE_PANIC_FMT = "UNABLE TO RESTORE {0} MESSAGES: {1}"

logger: logging.Logger = deferred(get_logger, "kombu.transport.virtual.base")


class Base64:
    """The encoding of bodies, for brokers that keep text."""

    def encode(self, s: str | bytes) -> str:
        """Encode."""
        return bytes_to_str(b2a_base64(str_to_bytes(s), newline=False))

    def decode(self, s: str | bytes) -> bytes:
        """Decode."""
        return a2b_base64(str_to_bytes(s))


class NotEquivalentError(Exception):
    """An exchange was declared again with other settings."""


class UndeliverableWarning(UserWarning):
    """A message matched no binding."""


class Deliveries(OrderedDict[Any, Any]):
    """Unacknowledged messages by delivery tag, in the order they came."""

    #: Set when they were put back at the end.
    restored = False


def _at_the_end(qos: QoS) -> Any:
    from multiprocessing.util import Finalize

    return Finalize(qos, qos.restore_unacked_once, exitpriority=1)


class QoS:
    """The ledger of a channel: what was delivered and not acknowledged.

    A forked child begins with an empty one: it neither acknowledges nor puts back what its parent
    received.

    Arguments:
        channel: whose.
        prefetch_count: stop consuming at so many; 0: never.
    """

    prefetch_count: int = 0

    #: Unacknowledged messages by delivery tag.
    _delivered: Any = None
    # Acknowledged tags that are still in _delivered: removed together, at the next delivery.
    _dirty: Any = None

    #: Put messages back when the program ends.
    restore_at_shutdown = True

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.channel = channel
        self.prefetch_count = prefetch_count or 0
        self._delivered = Deliveries()
        self._dirty = set()
        self._quick_ack = self._dirty.add
        self._quick_append = self._delivered.__setitem__
        self._on_collect = _at_the_end(self)
        register_after_fork(self, type(self)._forget_parent)

    def _forget_parent(self) -> None:
        """In a forked child: begin anew. What was delivered to the parent, the parent settles."""
        self._delivered.clear()
        self._dirty.clear()
        if self._on_collect.still_active():
            # It is the parent's, and would do nothing here.
            self._on_collect.cancel()
            self._on_collect = _at_the_end(self)

    def _in_use(self) -> int:
        return len(self._delivered) - len(self._dirty)

    def can_consume(self) -> bool:
        """Whether another message may be delivered."""
        return not self.prefetch_count or self._in_use() < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        """How many more messages may be delivered; None: any number."""
        if not self.prefetch_count:
            return None
        return max(self.prefetch_count - self._in_use(), 0)

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note a delivery."""
        if self._dirty:
            self._flush()
        self._quick_append(delivery_tag, message)

    def get(self, delivery_tag: Any) -> Any:
        """The message of a tag.

        Raises:
            KeyError: there is none.
        """
        return self._delivered[delivery_tag]

    def _flush(self) -> None:
        while self._dirty:
            self._delivered.pop(self._dirty.pop(), None)

    def tags_before(self, delivery_tag: Any) -> list[Any]:
        """Return the tags of the deliveries before one, the oldest first.

        Of one that is not known (settled, or of a connection that was lost) there are none.
        """
        self._flush()
        tags = list(self._delivered)
        return tags[: tags.index(delivery_tag)] if delivery_tag in self._delivered else []

    def ack(self, delivery_tag: Any) -> None:
        """Note that a message was handled."""
        self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Note that a message was rejected; with ``requeue`` put it back."""
        if requeue:
            self.channel._restore_at_beginning(self._delivered[delivery_tag])
        self._quick_ack(delivery_tag)

    def restore_unacked(self) -> list[tuple[BaseException, Any]]:
        """Put all unacknowledged messages back, the last first.

        Returns:
            ``(exception, message)`` for those where that failed.
        """
        self._flush()
        errors = []
        while self._delivered:
            tag, message = self._delivered.popitem()
            try:
                self.channel._restore(message)
            except BaseException as exc:
                # Another thread may have acknowledged it just now: then nothing is lost.
                if tag not in self._dirty:
                    errors.append((exc, message))
        return errors

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put all unacknowledged messages back, at the end of the program.

        What cannot be put back is written to a file.

        Arguments:
            stderr: tell there; default: the log.
        """
        self._on_collect.cancel()
        self._flush()
        state = self._delivered
        if not self.restore_at_shutdown or not self.channel.do_restore:
            return
        if getattr(state, "restored", None):
            return

        def tell(level: str, text: str) -> None:
            if stderr is not None:
                print(text, file=stderr)
            else:
                getattr(logger, level)(text)

        try:
            if state:
                tell("info", RESTORING_FMT.format(len(state)))
                unrestored = self.restore_unacked()
                if unrestored:
                    errors, messages = zip(*unrestored, strict=True)
                    tell("error", RESTORE_PANIC_FMT.format(len(errors), errors))
                    emergency_dump_state([m.serializable() for m in messages], stderr=stderr)
        finally:
            state.restored = True

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back messages of consumers that died; for brokers that need it."""


class Message(base.Message):
    """A message of a virtual channel.

    Arguments:
        payload: the message as a dictionary, as ``prepare_message`` makes it.
        channel: the channel.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        self._raw = payload
        properties = payload["properties"]
        body = payload.get("body")
        if body:
            body = channel.decode_body(body, properties.get("body_encoding"))
        kwargs.update(
            body=body,
            delivery_tag=properties["delivery_tag"],
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=payload.get("headers"),
            properties=properties,
            delivery_info=properties.get("delivery_info"),
            postencode="utf-8",
        )
        super().__init__(channel=channel, **kwargs)


class Channel(AbstractChannel, base.StdChannel):
    """A channel over the primitive operations of :class:`AbstractChannel`.

    Arguments:
        connection: the :class:`Transport`.
    """

    Message = Message
    QoS = QoS

    #: Put unacknowledged messages back when it is closed.
    do_restore = True

    #: Exchange types by name.
    exchange_types: Any = dict(STANDARD_EXCHANGE_TYPES)  # noqa: RUF012 - instances have their own

    #: Whether it has ``_put_fanout(exchange, message, routing_key)``.
    supports_fanout = False

    #: Encodings of bodies by name.
    codecs: ClassVar[dict[str, Any]] = {"base64": Base64()}

    #: The encoding of bodies that it uses.
    body_encoding: str | None = "base64"

    #: Queue for messages that match no binding.
    deadletter_queue: str | None = None

    #: Attributes that are set from the connection's transport options.
    from_transport_options: tuple[str, ...] = ("body_encoding", "deadletter_queue")

    default_priority = 0
    min_priority = 0
    max_priority = 9

    _qos: Any = None
    _cycle: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self._consumers: set[str] = set()
        self._cycle = None
        self._tag_to_queue: dict[str, str] = {}
        self._active_queues: list[str] = []
        self._qos = None
        self.closed: bool = False
        self.exchange_types = {name: cls(self) for name, cls in self.exchange_types.items()}
        self.channel_id: int = self._get_free_channel_id()
        options = self.connection.client.transport_options
        for name in self.from_transport_options:
            if name in options:
                setattr(self, name, options[name])

    # Exchanges

    def _not_found(self, method: str, what: str, name: str) -> ChannelError:
        vhost = self.connection.client.virtual_host or "/"
        return ChannelError(
            f"NOT_FOUND - no {what} {name!r} in vhost {vhost!r}", (50, 10), method, 404
        )

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Declare an exchange.

        Raises:
            ChannelError: ``passive``, and it is not there.
            NotEquivalentError: it is there with other settings.
        """
        type = type or "direct"
        exchange = exchange or f"amq.{type}"
        known = self.state.exchanges.get(exchange)
        if passive:
            if known is None:
                raise self._not_found("Channel.exchange_declare", "exchange", exchange)
            return
        if known is None:
            self.state.exchanges[exchange] = {
                "type": type,
                "durable": durable,
                "auto_delete": auto_delete,
                "arguments": arguments or {},
                "table": [],
            }
        elif not self.typeof(exchange).equivalent(
            known, exchange, type, durable, auto_delete, arguments
        ):
            vhost = self.connection.client.virtual_host or "/"
            raise NotEquivalentError(NOT_EQUIVALENT_FMT.format(exchange, vhost))

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange, and the queues bound to it that are empty."""
        # Not from the state: the broker may know exchanges that were declared elsewhere.
        try:
            table = list(self.get_table(exchange))
        except KeyError:
            table = []
        for _, _, queue in table:
            self.queue_delete(queue, if_unused=True, if_empty=True)
        self.state.exchanges.pop(exchange, None)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Not supported."""
        raise NotImplementedError("transport does not support exchange_bind")

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Not supported."""
        raise NotImplementedError("transport does not support exchange_unbind")

    def get_exchanges(self) -> list[str]:
        """Names of all exchanges."""
        return list(self.state.exchanges)

    def get_table(self, exchange: str) -> list[Any]:
        """The bindings of an exchange, as its type prepared them.

        Raises:
            KeyError: there is no such exchange.
        """
        return self.state.exchanges[exchange]["table"]

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """The exchange type of an exchange; ``default`` when it was not declared.

        Raises:
            ChannelError: it was declared with a type that there is not.
        """
        name = self.state.exchanges.get(exchange, {}).get("type", default)
        try:
            return self.exchange_types[name]
        except KeyError:
            raise ChannelError(
                f"COMMAND_INVALID - unknown type {name!r} of exchange {exchange!r}: "
                f"there are {', '.join(sorted(self.exchange_types))}",
                (40, 10),
                "Channel.exchange_declare",
                503,
            ) from None

    # Queues

    def queue_declare(
        self, queue: str | None = None, passive: bool = False, **kwargs: Any
    ) -> queue_declare_ok_t:
        """Declare a queue; without a name it gets one.

        Raises:
            ChannelError: ``passive``, and it is not there.
        """
        queue = queue or f"amq.gen-{uuid()}"
        if not passive:
            self._new_queue(queue, **kwargs)
        elif not self._has_queue(queue, **kwargs):
            raise self._not_found("Channel.queue_declare", "queue", queue)
        return queue_declare_ok_t(queue, self._size(queue), 0)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete a queue and its bindings; with ``if_empty`` only without messages."""
        if if_empty and self._size(queue):
            return
        for exchange, routing_key, arguments in self.state.queue_bindings(queue):
            meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
            # The exchange's table keeps the row: mailboxes count on replies that come between the
            # deletion of their queue and its next declaration.
            self._delete(queue, exchange, *meta, **kwargs)
        self.state.queue_bindings_delete(queue)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete the queue: nobody waits for replies in it."""
        self.queue_delete(queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Bind a queue to an exchange.

        Raises:
            ChannelError: there is no such exchange.
        """
        exchange = exchange or "amq.direct"
        if self.state.has_binding(queue, exchange, routing_key):
            return
        declared = self.state.exchanges.get(exchange)
        if declared is None:
            raise self._not_found("Channel.queue_bind", "exchange", exchange)
        meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        self.state.binding_declare(queue, exchange, routing_key, arguments)
        declared.setdefault("table", []).append(meta)
        if self.supports_fanout:
            self._queue_bind(exchange, *meta)

    def _queue_bind(self, exchange: str, *meta: Any) -> None:
        """Tell the broker of a binding, where it does the fanout."""

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding."""
        exchange = exchange or "amq.direct"
        self.state.binding_delete(queue, exchange, routing_key)
        meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        table = self.state.exchanges.get(exchange, {}).get("table", [])
        table[:] = [row for row in table if row != meta]

    def list_bindings(self) -> Iterator[tuple[str, str, str]]:
        """Yield ``(queue, exchange, routing_key)`` for each binding."""
        for exchange in self.state.exchanges:
            for routing_key, _, queue in self.get_table(exchange):
                yield queue, exchange, routing_key

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Remove all messages of a queue; returns how many."""
        return self._purge(queue)

    # Publishing

    def _next_delivery_tag(self) -> str:
        return uuid()

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> Any:
        """Publish a message."""
        self._inplace_augment_message(message, exchange, routing_key)
        if exchange:
            return self.typeof(exchange).deliver(message, exchange, routing_key, **kwargs)
        return self._put(routing_key, message, **kwargs)

    def _inplace_augment_message(
        self, message: dict[str, Any], exchange: str, routing_key: str
    ) -> None:
        message["body"], encoding = self.encode_body(message["body"], self.body_encoding)
        properties = message["properties"]
        properties.update(body_encoding=encoding, delivery_tag=self._next_delivery_tag())
        properties["delivery_info"].update(exchange=exchange, routing_key=routing_key)

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make a message, as a dictionary."""
        properties = properties or {}
        properties.setdefault("delivery_info", {})
        properties.setdefault("priority", priority or self.default_priority)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Return the queues that get a message."""
        if default is None:
            default = self.deadletter_queue
        if not exchange:
            return [routing_key or default]
        found: Any = []
        try:
            table = self.get_table(exchange)
        except KeyError:
            pass  # declared nowhere
        else:
            found = self.typeof(exchange).lookup(table, exchange, routing_key, default)
        if not found and default is not None:
            warnings.warn(
                UndeliverableWarning(
                    UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=routing_key)
                ),
                stacklevel=2,
            )
            self._new_queue(default)
            found = [default]
        return found

    def _restore(self, message: Any) -> None:
        """Put a delivered message back."""
        info = message.delivery_info
        payload = message.serializable()
        payload["redelivered"] = True
        for queue in self._lookup(info["exchange"], info["routing_key"]):
            self._put(queue, payload)

    def _restore_at_beginning(self, message: Any) -> None:
        """Put a delivered message back to where it is the next, if the broker can."""
        return self._restore(message)

    # Consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> None:
        """Start a consumer."""
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)

        def on_raw_message(raw_message: Any) -> Any:
            message = self.Message(raw_message, channel=self)
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return callback(message)

        self.connection._callbacks[queue] = on_raw_message
        self._consumers.add(consumer_tag)
        self._reset_cycle()

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer."""
        if consumer_tag not in self._consumers:
            return
        self._consumers.remove(consumer_tag)
        queue = self._tag_to_queue.pop(consumer_tag, None)
        with suppress(ValueError):
            self._active_queues.remove(queue)  # type: ignore[arg-type]
        self.connection._callbacks.pop(queue, None)
        self._reset_cycle()

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> base.Message | None:
        """Take a message, or None."""
        try:
            message = self.Message(self._get(queue), channel=self)
        except Empty:
            return None
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery; with ``multiple`` those before it too."""
        if multiple:
            for tag in self.qos.tags_before(delivery_tag):
                self.qos.ack(tag)
        self.qos.ack(delivery_tag)

    def basic_recover(self, requeue: bool = False) -> Any:
        """Put all unacknowledged messages back."""
        if requeue:
            return self.qos.restore_unacked()
        raise NotImplementedError("Does not support recover(requeue=False)")

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery; with ``requeue`` put it back."""
        self.qos.reject(delivery_tag, requeue=requeue)

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        """Limit how many messages are delivered without an acknowledgement; 0: no limit."""
        self.qos.prefetch_count = prefetch_count

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> Any:
        """Deliver a message.

        Raises:
            queue.Empty: there is none, or none may be delivered.
        """
        callback = callback or self.connection._deliver
        if self._consumers and self.qos.can_consume():
            get_many = getattr(self, "_get_many", None)
            if get_many is not None:
                return get_many(self._active_queues, timeout=timeout)
            return self._poll(self.cycle, callback, timeout=timeout)
        raise Empty()

    def message_to_python(self, raw_message: Any) -> base.Message:
        """Make a dictionary a :class:`Message`."""
        if isinstance(raw_message, self.Message):
            return raw_message
        return self.Message(payload=raw_message, channel=self)

    def flow(self, active: bool = True) -> None:
        """Not supported."""
        raise NotImplementedError("virtual channels do not support flow.")

    def close(self) -> None:
        """Cancel the consumers, put unacknowledged messages back, and close."""
        if not self.closed:
            self.closed = True
            for consumer_tag in list(self._consumers):
                self.basic_cancel(consumer_tag)
            if self._qos:
                self._qos.restore_unacked_once()
            if self._cycle is not None:
                self._cycle.close()
                self._cycle = None
            if self.connection is not None:
                self.connection.close_channel(self)
        self.exchange_types = None

    def _codec(self, encoding: str) -> Any:
        try:
            return self.codecs[encoding]
        except KeyError:
            raise ValueError(
                f"unknown body_encoding {encoding!r}: there are "
                f"{', '.join(sorted(self.codecs))}, utf-8 and None"
            ) from None

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str | None]:
        """Encode a body; returns it and the encoding."""
        if encoding and encoding.lower() != "utf-8":
            return self._codec(encoding).encode(body), encoding
        return body, encoding

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Undo :meth:`encode_body`."""
        if encoding and encoding.lower() != "utf-8":
            return self._codec(encoding).decode(body)
        return body

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._get_and_deliver, self._active_queues, Empty)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def state(self) -> BrokerState:
        """Exchanges and bindings."""
        return self.connection.state

    @property
    def qos(self) -> Any:
        """The ledger of deliveries."""
        if self._qos is None:
            self._qos = self.QoS(self)
        return self._qos

    @property
    def cycle(self) -> Any:
        """Takes the queues in turn."""
        if self._cycle is None:
            self._reset_cycle()
        return self._cycle

    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:
        """The priority of a message, within what there is; ``reverse``: lower is sooner."""
        try:
            priority = max(
                min(int(message["properties"]["priority"]), self.max_priority), self.min_priority
            )
        except (TypeError, ValueError, KeyError):
            priority = self.default_priority
        return (self.max_priority - priority) if reverse else priority

    def _get_free_channel_id(self) -> int:
        used = self.connection._used_channel_ids
        taken = set(used)
        for channel_id in range(1, self.connection.channel_max + 1):
            if channel_id not in taken:
                used.append(channel_id)
                return channel_id
        raise ResourceError(
            f"No free channel ids, current={len(self.connection.channels)}, "
            f"channel_max={self.connection.channel_max}",
            (20, 10),
        )


# At the end: a transport is made of channels, and belongs to this module for who uses it.
from .transport import ARRAY_TYPE_H, W_NO_CONSUMERS, Management, Transport  # noqa: E402, F401
