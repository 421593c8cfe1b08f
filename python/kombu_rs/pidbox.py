"""Mailboxes of processes: remote control by broadcast and reply."""

from __future__ import annotations

import socket
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import count
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

from .clocks import LamportClock
from .common import maybe_declare, oid_from
from .entity import Exchange, Queue
from .exceptions import InconsistencyError
from .log import get_logger
from .matcher import match
from .messaging import Consumer, Producer
from .utils.functional import maybe_evaluate, reprcall
from .utils.objects import cached_property
from .utils.uuid import uuid

if TYPE_CHECKING:
    import logging

    from typing_extensions import Self

    from . import messaging
    from .connection import Connection
    from .message import Message
    from .pools import ProducerPool
    from .protocols import Accept, Callback, Channel, ChannelOrConnection, ExceptionTypes

__all__ = ("Node", "Mailbox")

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

#: Seconds until an unused reply queue is deleted.
REPLY_QUEUE_EXPIRES = 10

# AMQP's reply code of an exclusive queue that belongs to another connection.
RESOURCE_LOCKED = 405

W_PIDBOX_IN_USE = """\
A node named {node.hostname} is already using this process mailbox!

Maybe you forgot to shutdown the other node or did not do so properly?
Or if you meant to start multiple nodes on the same host please make sure
you give each node a unique node name!
"""

logger: logging.Logger = get_logger("kombu.pidbox")
debug, error = logger.debug, logger.error


class Node:
    """A process that listens to a mailbox.

    Arguments:
        hostname: its name, unique in the mailbox.
        state: given to every handler.
        channel: used by default.
        handlers: functions by the name of their method.
        mailbox: the mailbox.
    """

    hostname: str | None = None
    mailbox: Any = None
    handlers: dict[str, Callable[..., Any]] | None = None
    state: Any = None
    channel: Any = None

    def __init__(
        self,
        hostname: str,
        state: Any = None,
        channel: ChannelOrConnection | None = None,
        handlers: dict[str, Callable[..., Any]] | None = None,
        mailbox: Any = None,
    ) -> None:
        self.hostname = hostname
        self.state = state
        self.channel = channel
        self.mailbox = mailbox
        self.handlers = {} if handlers is None else handlers
        self.adjust_clock: Any = self.mailbox.clock.adjust

    def Consumer(
        self,
        channel: ChannelOrConnection | None = None,
        no_ack: bool = True,
        accept: Accept | None = None,
        **options: Any,
    ) -> messaging.Consumer:
        """A consumer of this node's queue.

        Arguments:
            channel: default: the node's.
            no_ack: messages need no acknowledgement.
            accept: content types that may be decoded. Default: the mailbox's.
            options: further arguments of :class:`~kombu_rs.Consumer`.

        Raises:
            InconsistencyError: another process has this name.
        """
        queue = self.mailbox.get_queue(self.hostname)

        def verify_exclusive(name: str, messages: int, consumers: int) -> None:
            if consumers:
                warnings.warn(W_PIDBOX_IN_USE.format(node=self), stacklevel=2)

        queue.on_declared = verify_exclusive
        channel = channel or self.channel
        try:
            return Consumer(
                channel,
                [queue],
                no_ack=no_ack,
                accept=self.mailbox.accept if accept is None else accept,
                **options,
            )
        except self._channel_errors(channel) as exc:
            if getattr(exc, "code", None) == RESOURCE_LOCKED:
                raise InconsistencyError(W_PIDBOX_IN_USE.format(node=self)) from exc
            raise

    def _channel_errors(self, channel: Any) -> ExceptionTypes:
        connection = self.mailbox.connection
        if connection is None:
            connection = getattr(getattr(channel, "connection", None), "client", None)
        return () if connection is None else connection.channel_errors

    def handler(self, fun: _Handler) -> _Handler:
        """Add ``fun`` as the handler of the method with its name; a decorator."""
        self.handlers[fun.__name__] = fun  # type: ignore[index]
        return fun

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Called for a message that cannot be decoded; by default it is logged."""
        error("Cannot decode message: %r", exc, exc_info=True)

    def listen(
        self, channel: ChannelOrConnection | None = None, callback: Callback | None = None
    ) -> messaging.Consumer:
        """Return a consumer that handles messages; it is not consuming yet."""
        consumer = self.Consumer(
            channel=channel,
            callbacks=[callback or self.handle_message],
            on_decode_error=self.on_decode_error,
        )
        consumer.consume()
        return consumer

    def dispatch(
        self,
        method: str,
        arguments: dict[str, Any] | None = None,
        reply_to: dict[str, Any] | None = None,
        ticket: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the handler of ``method``, and reply if that is wanted.

        Arguments:
            method: the name.
            arguments: keyword arguments of the handler.
            reply_to: exchange and routing key that want the answer; None: nobody does.
            ticket: what the answer refers to.

        Returns:
            What the handler returned, or ``{"error": repr(exception)}``.
        """
        arguments = arguments or {}
        debug(
            "pidbox received method %s [reply_to:%s ticket:%s]",
            reprcall(method, (), kwargs=arguments),
            reply_to,
            ticket,
        )
        handle = self.handle_call if reply_to else self.handle_cast
        try:
            reply = handle(method, arguments)
        except SystemExit:
            raise
        except Exception as exc:
            error("pidbox command error: %r", exc, exc_info=True)
            reply = {"error": repr(exc)}
        if reply_to:
            self.reply(
                {self.hostname: reply},
                exchange=reply_to["exchange"],
                routing_key=reply_to["routing_key"],
                ticket=ticket,
            )
        return reply

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Call the handler of ``method``.

        Raises:
            KeyError: there is none.
        """
        return self.handlers[method](self.state, **(arguments or {}))  # type: ignore[index]

    def handle_call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Handle a method that is answered."""
        return self.handle(method, arguments)

    def handle_cast(self, method: str, arguments: dict[str, Any]) -> Any:
        """Handle a method that is not answered."""
        return self.handle(method, arguments)

    def handle_message(self, body: dict[str, Any], message: Message | None = None) -> Any:
        """Handle a message, if it is for this node."""
        destination = body.get("destination")
        pattern, matcher = body.get("pattern"), body.get("matcher")
        if message:
            self.adjust_clock(message.headers.get("clock") or 0)
        hostname = self.hostname
        if destination and hostname not in destination:
            return None
        if pattern and matcher and not match(hostname, pattern, matcher):
            return None
        return self.dispatch(**body)

    dispatch_from_message = handle_message

    def reply(
        self, data: Any, exchange: str, routing_key: str, ticket: str | None, **kwargs: Any
    ) -> None:
        """Send an answer."""
        self.mailbox._publish_reply(
            data,
            exchange,
            routing_key,
            ticket,
            channel=self.channel,
            serializer=self.mailbox.serializer,
        )


_Node = Node  # the mailbox has a method of that name


class Mailbox:
    """A mailbox: an exchange that nodes listen to, and one for their answers.

    Arguments:
        namespace: its name.
        type: of the exchange: ``"direct"`` or ``"fanout"``.
        connection: used by default; :meth:`__call__` makes a copy with one.
        clock: the logical clock that messages carry.
        accept: content types that may be decoded. Default: json.
        serializer: of messages. Default: the registry's.
        producer_pool: publish with producers of this pool.
        queue_ttl: drop messages to a node after so many seconds.
        queue_expires: delete a node's queue after so many seconds without use.
        queue_durable: the queues survive a restart of the broker.
        queue_exclusive: the queues belong to one connection. Default True.
        reply_queue_ttl, reply_queue_expires: the same for the queue of answers.

    Raises:
        ValueError: both ``queue_durable`` and ``queue_exclusive``.
    """

    node_cls = Node
    exchange_fmt = "%s.pidbox"
    reply_exchange_fmt = "reply.%s.pidbox"

    namespace: str | None = None
    connection: Any = None
    type: str = "direct"
    exchange: Any = None
    reply_exchange: Any = None
    accept: Any = ["json"]  # noqa: RUF012 - instances have their own
    serializer: str | None = None

    def __init__(
        self,
        namespace: str,
        type: str = "direct",
        connection: Connection | None = None,
        clock: LamportClock | None = None,
        accept: Accept | None = None,
        serializer: str | None = None,
        producer_pool: ProducerPool | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_durable: bool = False,
        queue_exclusive: bool = True,
        reply_queue_ttl: float | None = None,
        reply_queue_expires: float | None = 10.0,
    ) -> None:
        if queue_durable and queue_exclusive:
            raise ValueError(
                "queue_exclusive and queue_durable cannot both be True "
                "(exclusive queues are automatically deleted and cannot be durable)."
            )
        self.namespace = namespace
        self.connection = connection
        self.type = type
        self.clock: LamportClock = LamportClock() if clock is None else clock
        self.exchange = self._get_exchange(namespace, type)
        self.reply_exchange = self._get_reply_exchange(namespace)
        # Answers that came while somebody else waited, by ticket.
        self.unclaimed: dict[str, deque[Any]] = defaultdict(deque)
        self.accept = self.accept if accept is None else accept
        self.serializer = self.serializer if serializer is None else serializer
        self.queue_ttl = queue_ttl
        self.queue_expires = queue_expires
        self.queue_durable = queue_durable
        self.queue_exclusive = queue_exclusive
        self.reply_queue_ttl = reply_queue_ttl
        self.reply_queue_expires = reply_queue_expires
        self._producer_pool = producer_pool

    def __call__(self, connection: Connection) -> Self:
        """Return a copy that uses ``connection``."""
        bound = copy(self)
        bound.connection = connection
        return bound

    def Node(
        self,
        hostname: str | None = None,
        state: Any = None,
        channel: Channel | None = None,
        handlers: dict[str, Callable[..., Any]] | None = None,
    ) -> _Node:
        """Make a node; its name is by default that of this host."""
        return self.node_cls(
            hostname or socket.gethostname(), state, channel, handlers, mailbox=self
        )

    def call(
        self,
        destination: Sequence[str],
        command: str,
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Channel | None = None,
    ) -> list[Any]:
        """Call a method of some nodes and return their answers.

        Arguments:
            destination: a list of their names.
            command: the method.
            kwargs: its arguments.
            timeout: wait for so many seconds.
            callback: called with each answer.
            channel: use this one.
        """
        return self._broadcast(
            command,
            kwargs or {},
            destination,
            reply=True,
            timeout=timeout,  # type: ignore[arg-type]
            callback=callback,
            channel=channel,
        )

    def cast(
        self, destination: Sequence[str], command: str, kwargs: dict[str, Any] | None = None
    ) -> None:
        """Call a method of some nodes; no answers."""
        self._broadcast(command, kwargs or {}, destination, reply=False)

    def abcast(self, command: str, kwargs: dict[str, Any] | None = None) -> None:
        """Call a method of all nodes; no answers."""
        self._broadcast(command, kwargs or {}, reply=False)

    def multi_call(
        self,
        command: str,
        kwargs: dict[str, Any] | None = None,
        timeout: float = 1,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Channel | None = None,
    ) -> list[Any]:
        """Call a method of all nodes and return their answers.

        Arguments:
            command: the method.
            kwargs: its arguments.
            timeout: wait for so many seconds.
            limit: wait for so many answers. Default: as many as come.
            callback: called with each answer.
            channel: use this one.
        """
        return self._broadcast(
            command,
            kwargs or {},
            reply=True,
            timeout=timeout,
            limit=limit,
            callback=callback,
            channel=channel,
        )

    def get_reply_queue(self) -> Queue:
        """The queue for answers to this mailbox, in this thread of this process."""
        oid = self.oid
        return Queue(
            f"{oid}.{self.reply_exchange.name}",
            exchange=self.reply_exchange,
            routing_key=oid,
            durable=self.queue_durable,
            exclusive=self.queue_exclusive,
            auto_delete=not self.queue_durable,
            expires=self.reply_queue_expires,
            message_ttl=self.reply_queue_ttl,
        )

    @cached_property
    def reply_queue(self) -> Queue:
        """:meth:`get_reply_queue`, made once."""
        return self.get_reply_queue()

    def get_queue(self, hostname: str | None) -> Queue:
        """The queue of a node."""
        return Queue(
            f"{hostname}.{self.namespace}.pidbox",
            exchange=self.exchange,
            durable=self.queue_durable,
            exclusive=self.queue_exclusive,
            auto_delete=not self.queue_durable,
            expires=self.queue_expires,
            message_ttl=self.queue_ttl,
        )

    @contextmanager
    def producer_or_acquire(
        self,
        producer: messaging.Producer | None = None,
        channel: ChannelOrConnection | None = None,
    ) -> Iterator[messaging.Producer]:
        """Yield ``producer``, or one of the pool, or one on ``channel``."""
        if producer:
            yield producer
        elif self.producer_pool:
            with self.producer_pool.acquire() as pooled:
                yield pooled
        else:
            yield Producer(channel, auto_declare=False)

    def _publish_reply(
        self,
        reply: Any,
        exchange: str,
        routing_key: str,
        ticket: str | None,
        channel: Channel | None = None,
        producer: messaging.Producer | None = None,
        **opts: Any,
    ) -> None:
        channel = channel or self.connection.default_channel
        target = Exchange(
            exchange, type="direct", delivery_mode="transient", durable=self.exchange.durable
        )
        # InconsistencyError: the queue is gone, nobody waits for the answer any more.
        with (
            self.producer_or_acquire(producer, channel) as producer,
            suppress(InconsistencyError),
        ):
            producer.publish(
                reply,
                exchange=target,
                routing_key=routing_key,
                declare=[target],
                headers={"ticket": ticket, "clock": self.clock.forward()},
                retry=True,
                **opts,
            )

    def _publish(
        self,
        type: str,
        arguments: dict[str, Any],
        destination: Sequence[str] | None = None,
        reply_ticket: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
        serializer: str | None = None,
        producer: messaging.Producer | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        message: dict[str, Any] = {
            "method": type,
            "arguments": arguments,
            "destination": destination,
            "pattern": pattern,
            "matcher": matcher,
        }
        channel = channel or self.connection.default_channel
        if reply_ticket:
            # Declared before the question is sent: the answers may be fast.
            maybe_declare(self.reply_queue(channel))
            message["ticket"] = reply_ticket
            message["reply_to"] = {"exchange": self.reply_exchange.name, "routing_key": self.oid}
        with self.producer_or_acquire(producer, channel) as producer:
            producer.publish(
                message,
                exchange=self.exchange.name,
                declare=[self.exchange],
                headers={
                    "clock": self.clock.forward(),
                    "expires": time() + timeout if timeout else 0,
                },
                serializer=serializer or self.serializer,
                retry=True,
            )

    def _broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float = 1,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Channel | None = None,
        serializer: str | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Any:
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list/tuple not {type(destination)}")
        if (pattern is not None and not isinstance(pattern, str)) or (
            matcher is not None and not isinstance(matcher, str)
        ):
            raise ValueError(
                f"pattern and matcher must be strings not {type(pattern)}, {type(matcher)}"
            )
        arguments = arguments or {}
        reply_ticket = uuid() if reply else None
        chan = channel or self.connection.default_channel
        # One answer from each of those asked is all there can be.
        if limit is None and destination:
            limit = len(destination) if reply else None
        self._publish(
            command,
            arguments,
            destination=destination,
            reply_ticket=reply_ticket,
            channel=chan,
            timeout=timeout,
            serializer=serializer or self.serializer,
            pattern=pattern,
            matcher=matcher,
        )
        if reply_ticket:
            return self._collect(
                reply_ticket, limit=limit, timeout=timeout, callback=callback, channel=chan
            )
        return None

    def _collect(
        self,
        ticket: str,
        limit: int | None = None,
        timeout: float | None = 1,
        callback: Callable[[Any], Any] | None = None,
        channel: Channel | None = None,
        accept: Accept | None = None,
    ) -> list[Any]:
        """Return the answers with ``ticket``, waiting for ``limit`` of them or ``timeout``."""
        accept = self.accept if accept is None else accept
        chan = channel or self.connection.default_channel
        queue = self.reply_queue
        consumer = Consumer(chan, [queue], accept=accept, no_ack=True)
        unclaimed = self.unclaimed
        responses: list[Any] = []
        try:
            return list(unclaimed.pop(ticket))
        except KeyError:
            pass

        def on_message(body: Any, message: Message) -> None:
            headers = message.headers
            self.clock.adjust(headers.get("clock") or 0)
            expires = headers.get("expires")
            if expires and time() > expires:
                return
            this_id = headers.get("ticket", ticket)
            if this_id == ticket:
                if callback:
                    callback(body)
                responses.append(body)
            else:
                unclaimed[this_id].append(body)

        consumer.register_callback(on_message)
        try:
            with consumer:
                for _ in range(limit) if limit else count():
                    try:
                        self.connection.drain_events(timeout=timeout)
                    except TimeoutError:
                        break
            return responses
        finally:
            chan.after_reply_message_received(queue.name)

    def _get_exchange(self, namespace: str, type: str) -> Exchange:
        return Exchange(
            self.exchange_fmt % namespace, type=type, durable=False, delivery_mode="transient"
        )

    def _get_reply_exchange(self, namespace: str) -> Exchange:
        return Exchange(
            self.reply_exchange_fmt % namespace,
            type="direct",
            durable=False,
            delivery_mode="transient",
        )

    @property
    def oid(self) -> str:
        """Identity of this mailbox in this thread of this process."""
        return oid_from(self)

    @cached_property
    def producer_pool(self) -> ProducerPool | None:
        """The pool of producers, or None."""
        return maybe_evaluate(self._producer_pool)
