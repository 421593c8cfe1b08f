"""Helpers around consumers, declarations and replies."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

from ._deferred import deferred
from ._typing import TYPE_CHECKING, Any, TypeVar, overload
from .entity import Exchange, Queue
from .exceptions import ChannelError, RecoverableConnectionError
from .log import get_logger
from .serialization import registry as serializers
from .utils.compat import get_gevent_concurrent_error
from .utils.uuid import uuid

if TYPE_CHECKING:
    import logging
    from contextlib import AbstractContextManager

    from .connection import Connection, ConnectionPool
    from .message import Message
    from .messaging import Consumer, Producer
    from .protocols import Callback, Channel, Declarable, Errback

__all__ = (
    "Broadcast",
    "maybe_declare",
    "uuid",
    "itermessages",
    "send_reply",
    "collect_replies",
    "insured",
    "drain_consumer",
    "eventloop",
)

# AMQP carries the prefetch count in 16 bits.
PREFETCH_COUNT_MAX = 0xFFFF

logger: logging.Logger = deferred(get_logger, "kombu.common")

_T = TypeVar("_T")

_node_id: int | None = None


def __getattr__(name: str) -> Any:
    # The standard library's `uuid` imports `platform`, and is seldom needed.
    if name in ("NAMESPACE_OID", "uuid3", "uuid4", "uuid5"):
        import uuid as stdlib_uuid

        return getattr(stdlib_uuid, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_node_id() -> int:
    """A random number for this process, the same for its whole life."""
    global _node_id
    if _node_id is None:
        _node_id = int.from_bytes(os.urandom(16), "big")
    return _node_id


def generate_oid(node_id: int, process_id: int, thread_id: int, instance: Any) -> str:
    """Return the identity (a UUID) of ``instance`` in that thread of that process."""
    entity = f"{node_id:x}-{process_id:x}-{thread_id:x}-{id(instance):x}"
    here = sys.modules[__name__]
    try:
        return str(here.uuid3(here.NAMESPACE_OID, entity))
    except ValueError:
        # MD5 is not allowed under FIPS.
        return str(here.uuid5(here.NAMESPACE_OID, entity))


def oid_from(instance: Any, threads: bool = True) -> str:
    """The identity of ``instance`` in this process, and in this thread unless ``threads``."""
    return generate_oid(
        get_node_id(), os.getpid(), threading.get_ident() if threads else 0, instance
    )


class Broadcast(Queue):
    """A queue whose messages every consumer gets: its own queue on a fanout exchange.

    Arguments:
        name: the fanout exchange, and the queue's ``alias``.
        queue: the queue's name. Default: ``bcast.`` and a UUID.
        unique: add a UUID to ``queue``, so that processes with one configuration do not share.
        auto_delete: delete the queue with its last consumer. Default True.
        exchange: use this exchange.
        alias: the queue's ``alias``.
    """

    attrs: tuple[tuple[str, Any], ...] = (*Queue.attrs, ("queue", None))

    def __init__(
        self,
        name: str | None = None,
        queue: str | None = None,
        unique: bool = False,
        auto_delete: bool = True,
        exchange: Exchange | str | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        if unique:
            queue = f"{queue or 'bcast'}.{uuid()}"
        else:
            queue = queue or f"bcast.{uuid()}"
        super().__init__(
            alias=alias or name,
            queue=queue,
            name=queue,
            auto_delete=auto_delete,
            exchange=exchange if exchange is not None else Exchange(name or "", type="fanout"),
            **kwargs,
        )


def declaration_cached(entity: Any, channel: Channel) -> bool:
    """Whether ``entity`` was declared on the connection of ``channel`` already."""
    return entity in channel.connection.client.declared_entities


def maybe_declare(
    entity: Declarable, channel: Channel | None = None, retry: bool = False, **retry_policy: Any
) -> bool:
    """Declare ``entity``, unless that was done on this connection already.

    Arguments:
        entity: an exchange or queue.
        channel: where; default: the channel that it is bound to.
        retry: try again when the connection is lost.
        retry_policy: arguments of :meth:`~kombu_rs.Connection.ensure`.

    Returns:
        Whether it was declared now.

    Raises:
        ChannelError: there is no channel.
        RecoverableConnectionError: the channel has lost its connection.
    """
    if retry:
        return _imaybe_declare(entity, channel, **retry_policy)
    return _maybe_declare(entity, channel)


def _ensure_channel_is_bound(entity: Any, channel: Any) -> Any:
    """Return ``entity`` bound to a channel that is open.

    An unbound entity is copied: the caller's may be a constant of his module. One that is bound
    to a closed channel is moved to ``channel`` in place: its owner goes on using it.
    """
    if not entity.is_bound:
        if not channel:
            raise ChannelError(f"Cannot bind channel {channel} to entity {entity}")
        return entity.bind(channel)
    elsewhere = channel is not None and channel is not entity.channel
    if elsewhere and getattr(entity.channel, "connection", None) is None:
        entity.revive(channel)
    return entity


def _maybe_declare(entity: Any, channel: Any) -> bool:
    bound = _ensure_channel_is_bound(entity, channel)
    if channel is None:
        channel = bound.channel
    if not channel.connection:
        raise RecoverableConnectionError("channel disconnected")
    if not entity.can_cache_declaration:
        bound.declare(channel=channel)
        entity.name = bound.name
        return True
    declared = channel.connection.client.declared_entities
    if hash(entity) in declared:
        return False
    bound.declare(channel=channel)
    # The broker may have named the queue; the hash follows the name.
    entity.name = bound.name
    declared.add(hash(entity))
    return True


def _imaybe_declare(entity: Any, channel: Any, **retry_policy: Any) -> bool:
    bound = _ensure_channel_is_bound(entity, channel)
    if not bound.channel.connection:
        raise RecoverableConnectionError("channel disconnected")

    def declare() -> bool:
        # Asked again on each try: a reconnect moves the entity to the new channel.
        return _maybe_declare(bound, bound.channel)

    declared = bound.channel.connection.client.ensure(bound, declare, **retry_policy)()
    entity.name = bound.name
    return declared


def drain_consumer(
    consumer: Consumer,
    limit: int | None = 1,
    timeout: float | None = None,
    callbacks: Iterable[Callback] | None = None,
) -> Iterator[tuple[Any, Message]]:
    """Yield ``(body, message)`` from ``consumer``.

    Arguments:
        consumer: a :class:`~kombu_rs.Consumer`, not yet consuming.
        limit: stop after so many calls of ``drain_events``; None: never.
        timeout: stop when nothing came for so many seconds; None: wait for ever.
        callbacks: also call these with ``(body, message)``.
    """
    received: deque[tuple[Any, Message]] = deque()

    def on_message(body: Any, message: Message) -> None:
        received.append((body, message))

    consumer.callbacks = [on_message, *(callbacks or [])]
    with consumer:
        for _ in eventloop(
            consumer.channel.connection.client, limit=limit, timeout=timeout, ignore_timeouts=True
        ):
            try:
                item = received.popleft()
            except IndexError:
                continue
            yield item


def itermessages(
    conn: Connection,
    channel: Channel | None,
    queue: Queue,
    limit: int | None = 1,
    timeout: float | None = None,
    callbacks: Iterable[Callback] | None = None,
    **kwargs: Any,
) -> Iterator[tuple[Any, Message]]:
    """Yield ``(body, message)`` from ``queue``; arguments as :func:`drain_consumer`."""
    return drain_consumer(
        conn.Consumer(queues=[queue], channel=channel, **kwargs),
        limit=limit,
        timeout=timeout,
        callbacks=callbacks,
    )


def eventloop(
    conn: Connection,
    limit: int | None = None,
    timeout: float | None = None,
    ignore_timeouts: bool = False,
) -> Iterator[Any]:
    """Yield the results of ``conn.drain_events``, for ever or ``limit`` times.

    Arguments:
        conn: the connection.
        limit: how many times; None: for ever.
        timeout: of each wait, in seconds; None: wait for ever.
        ignore_timeouts: go on after a timeout instead of raising.

    Raises:
        socket.timeout: nothing came in time, unless ``ignore_timeouts``.
    """
    for _ in range(limit) if limit else count():
        try:
            yield conn.drain_events(timeout=timeout)
        except TimeoutError:
            if timeout and not ignore_timeouts:
                raise


def send_reply(
    exchange: Exchange | str,
    req: Message,
    msg: Any,
    producer: Producer | None = None,
    retry: bool = False,
    retry_policy: dict[str, Any] | None = None,
    **props: Any,
) -> Any:
    """Publish ``msg`` as the reply to the message ``req``.

    Arguments:
        exchange: where ``req`` wants its replies.
        req: the request: its ``reply_to``, ``correlation_id`` and content type are used.
        msg: the body of the reply.
        producer: publish with this one.
        retry, retry_policy: as :meth:`~kombu_rs.Producer.publish`.
        props: further properties.

    Raises:
        TypeError: there is no producer.
    """
    if producer is None:
        raise TypeError("send_reply() needs a producer to publish with")
    properties = {
        "routing_key": req.properties["reply_to"],
        "correlation_id": req.properties.get("correlation_id"),
        # Text and bytes have no serializer; their answer may be anything.
        "serializer": serializers.type_to_name.get(req.content_type),
        "content_encoding": req.content_encoding,
        **props,
    }
    return producer.publish(
        msg, exchange=exchange, retry=retry, retry_policy=retry_policy, **properties
    )


def collect_replies(
    conn: Connection, channel: Channel, queue: Queue, *args: Any, **kwargs: Any
) -> Iterator[Any]:
    """Yield the bodies of the replies in ``queue``; arguments as :func:`itermessages`.

    ``no_ack`` is on unless told otherwise.
    """
    no_ack = kwargs.setdefault("no_ack", True)
    received = False
    try:
        for body, message in itermessages(conn, channel, queue, *args, **kwargs):
            if not no_ack:
                message.ack()
            received = True
            yield body
    finally:
        if received:
            channel.after_reply_message_received(queue.name)


def _ensure_errback(exc: BaseException, interval: float) -> None:
    logger.error("Connection error: %r. Retry in %ss\n", exc, interval, exc_info=True)


def _ignorable(conn: Any) -> tuple[type[BaseException], ...]:
    """The errors of a connection's own; looked up late, only when something was raised."""
    errors = tuple(conn.connection_errors) + tuple(conn.channel_errors)
    concurrent = get_gevent_concurrent_error()
    return errors if concurrent is None else (*errors, concurrent)


@contextmanager
def _ignore_errors(conn: Any) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        if not isinstance(exc, _ignorable(conn)):
            raise


@overload
def ignore_errors(conn: Any, fun: None = None) -> AbstractContextManager[None]: ...
@overload
def ignore_errors(conn: Any, fun: Callable[..., _T], *args: Any, **kwargs: Any) -> _T | None: ...
def ignore_errors(conn: Any, fun: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Ignore the connection and channel errors of ``conn``.

    As a context manager, ``with ignore_errors(conn): ...``, or to call
    ``fun(*args, **kwargs)`` at once.
    """
    if fun:
        with _ignore_errors(conn):
            return fun(*args, **kwargs)
        return None
    return _ignore_errors(conn)


def revive_connection(
    connection: Connection, channel: Channel, on_revive: Callable[[Any], Any] | None = None
) -> None:
    """Call ``on_revive(channel)`` if there is one."""
    if on_revive:
        on_revive(channel)


def insured(
    pool: ConnectionPool,
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    errback: Errback | None = None,
    on_revive: Callable[[Any], Any] | None = None,
    **opts: Any,
) -> Any:
    """Call ``fun(*args, connection=..., **kwargs)`` with a pooled connection, until it works.

    Arguments:
        pool: a connection pool.
        errback: called with ``(exc, interval)`` before each retry. Default: log it.
        on_revive: called with the new channel after a reconnect.
        opts: arguments of :meth:`~kombu_rs.Connection.autoretry`.
    """
    errback = errback or _ensure_errback
    with pool.acquire(block=True) as conn:
        conn.ensure_connection(errback=errback)
        # Opened now, so that a broken link shows before the function runs.
        channel = conn.default_channel
        revive = partial(revive_connection, conn, on_revive=on_revive)
        retrying = conn.autoretry(fun, channel, errback=errback, on_revive=revive, **opts)
        result, _ = retrying(*args, **dict(kwargs, connection=conn))
        return result


class QoS:
    """A prefetch count that any thread may change, and the consumer's own thread applies.

    Arguments:
        callback: sends it, called with ``prefetch_count=``.
        initial_value: the count; 0 means no limit, and then it never changes.
        max_prefetch: never go above this; None: no bound.
    """

    prev: int | None = None

    def __init__(
        self,
        callback: Callable[..., Any],
        initial_value: int,
        max_prefetch: int | None = None,
    ) -> None:
        self.callback = callback
        self._mutex = threading.RLock()
        self.value: int = initial_value or 0
        self.max_prefetch = max_prefetch

    def increment_eventually(self, n: int = 1) -> int:
        """Raise the count by ``n`` at the next :meth:`update`; returns the new value."""
        with self._mutex:
            if self.value:
                value = self.value + max(n, 0)
                if self.max_prefetch is not None:
                    value = min(value, self.max_prefetch)
                self.value = value
        return self.value

    def decrement_eventually(self, n: int = 1) -> int:
        """Lower the count by ``n`` at the next :meth:`update`, not below 1; returns it."""
        with self._mutex:
            if self.value:
                self.value = max(self.value - n, 1)
        return self.value

    def set(self, pcount: int) -> int:
        """Send ``pcount`` if it is not what was sent last."""
        if pcount != self.prev:
            sent = pcount
            if pcount > PREFETCH_COUNT_MAX:
                logger.warning("QoS: Disabled: prefetch_count exceeds %r", PREFETCH_COUNT_MAX)
                sent = 0
            logger.debug("basic.qos: prefetch_count->%s", sent)
            self.callback(prefetch_count=sent)
            self.prev = pcount
        return pcount

    def update(self) -> int:
        """Send the current value."""
        with self._mutex:
            return self.set(self.value)
