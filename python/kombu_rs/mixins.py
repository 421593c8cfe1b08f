"""Programs that consume: mix-ins with the loop and the reconnects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from time import sleep
from typing import TYPE_CHECKING, Any

from .common import ignore_errors
from .log import get_logger
from .messaging import Consumer, Producer
from .utils.compat import nested
from .utils.encoding import safe_repr
from .utils.limits import TokenBucket
from .utils.objects import cached_property

if TYPE_CHECKING:
    import logging

    from . import messaging
    from .connection import Connection
    from .message import Message
    from .protocols import Channel, ConsumerFactory, ExceptionTypes

__all__ = ("ConsumerMixin", "ConsumerProducerMixin")

logger: logging.Logger = get_logger("kombu.mixins")
debug, info, warn, error = logger.debug, logger.info, logger.warning, logger.error

W_CONN_LOST = "Connection to broker lost, trying to re-establish connection..."

W_CONN_ERROR = "Broker connection error, trying again in %s seconds: %r."


class ConsumerMixin:
    """A program that consumes messages until :attr:`should_stop`.

    A class with this mix-in has ``connection``, a :class:`~kombu_rs.Connection`, and
    :meth:`get_consumers`::

        class Worker(ConsumerMixin):
            def __init__(self, connection):
                self.connection = connection

            def get_consumers(self, Consumer, channel):
                return [Consumer(queues=[queue], callbacks=[self.on_message])]

            def on_message(self, body, message):
                message.ack()

    The methods ``on_...`` may be overridden, to be told what happens.
    """

    #: Given by the class that has this mix-in.
    connection: Connection
    #: Give up connecting after so many further tries; None: never.
    connect_max_retries: int | None = None

    #: Set to True, from anywhere, to stop.
    should_stop = False

    def get_consumers(
        self, Consumer: ConsumerFactory, channel: Channel
    ) -> Iterable[messaging.Consumer]:
        """Return the consumers.

        Arguments:
            Consumer: makes one on ``channel``; arguments as :class:`~kombu_rs.Consumer`.
            channel: the channel.
        """
        raise NotImplementedError("Subclass responsibility")

    def on_connection_revived(self) -> None:
        """Called when the connection is there, at first and again."""

    def on_consume_ready(
        self,
        connection: Connection,
        channel: Channel,
        consumers: list[messaging.Consumer],
        **kwargs: Any,
    ) -> None:
        """Called when the consumers are ready to receive."""

    def on_consume_end(self, connection: Connection, channel: Channel) -> None:
        """Called when the consumers were cancelled."""

    def on_iteration(self) -> None:
        """Called before each wait for a message."""

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Called for a message that cannot be decoded; by default it is logged and dropped."""
        error(
            "Can't decode message body: %r (type:%r encoding:%r raw:%r')",
            exc,
            message.content_type,
            message.content_encoding,
            safe_repr(message.body),
        )
        message.ack()

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        """Called when connecting failed; the next try is after ``interval`` seconds."""
        warn(W_CONN_ERROR, interval, exc, exc_info=True)

    @contextmanager
    def extra_context(self, connection: Connection, channel: Channel) -> Iterator[None]:
        """A context that is active while consuming."""
        yield

    def run(self, _tokens: int = 1, **kwargs: Any) -> None:
        """Consume until :attr:`should_stop`; arguments as :meth:`consume`."""
        while not self.should_stop:
            try:
                if self.restart_limit.can_consume(_tokens):
                    for _ in self.consume(limit=None, **kwargs):
                        pass
                else:
                    # Errors in a loop must not turn into a busy loop.
                    sleep(self.restart_limit.expected_time(_tokens))
            except self.connection_errors:
                warn(W_CONN_LOST, exc_info=True)

    @contextmanager
    def consumer_context(
        self, **kwargs: Any
    ) -> Iterator[tuple[Connection, Channel, list[messaging.Consumer]]]:
        """Yield ``(connection, channel, consumers)``, ready to receive."""
        with (
            self.Consumer() as (connection, channel, consumers),
            self.extra_context(connection, channel),
        ):
            self.on_consume_ready(connection, channel, consumers, **kwargs)
            yield connection, channel, consumers

    def consume(
        self,
        limit: int | None = None,
        timeout: float | None = None,
        safety_interval: float = 1,
        **kwargs: Any,
    ) -> Iterator[None]:
        """Consume; yields after each event.

        Arguments:
            limit: stop after so many events; None: never.
            timeout: raise when nothing came for so many seconds; None: never.
            safety_interval: look at :attr:`should_stop` every so many seconds.

        Raises:
            socket.timeout: nothing came in time.
        """
        elapsed: float = 0
        with self.consumer_context(**kwargs) as (conn, _, _):
            for _ in range(limit) if limit else count():
                if self.should_stop:
                    break
                self.on_iteration()
                try:
                    conn.drain_events(timeout=safety_interval)
                except TimeoutError:
                    conn.heartbeat_check()
                    elapsed += safety_interval
                    if timeout and elapsed >= timeout:
                        raise
                except OSError:
                    if not self.should_stop:
                        raise
                else:
                    yield
                    elapsed = 0
        debug("consume exiting")

    def maybe_conn_error(self, fun: Callable[[], Any]) -> Any:
        """Call ``fun()``; its connection and channel errors are ignored."""
        return ignore_errors(self, fun)

    def create_connection(self) -> Connection:
        """Make a connection like ``connection``."""
        return self.connection.clone()

    @contextmanager
    def establish_connection(self) -> Iterator[Connection]:
        """Yield a new connection that is open."""
        with self.create_connection() as conn:
            conn.ensure_connection(self.on_connection_error, self.connect_max_retries)
            yield conn

    @contextmanager
    def Consumer(self) -> Iterator[tuple[Connection, Channel, list[messaging.Consumer]]]:
        """Yield ``(connection, channel, consumers)``, consuming."""
        with self.establish_connection() as conn:
            self.on_connection_revived()
            info("Connected to %s", conn.as_uri())
            channel = conn.default_channel
            make = partial(Consumer, channel, on_decode_error=self.on_decode_error)
            with self._consume_from(*self.get_consumers(make, channel)) as consumers:
                yield conn, channel, consumers
            debug("Consumers canceled")
            self.on_consume_end(conn, channel)
        debug("Connection closed")

    def _consume_from(self, *consumers: Any) -> Any:
        return nested(*consumers)

    @cached_property
    def restart_limit(self) -> TokenBucket:
        """How often it may start again: once a second."""
        return TokenBucket(1)

    @cached_property
    def connection_errors(self) -> ExceptionTypes:
        """Errors of a lost connection."""
        return self.connection.connection_errors

    @cached_property
    def channel_errors(self) -> ExceptionTypes:
        """Errors that close a channel."""
        return self.connection.channel_errors


class ConsumerProducerMixin(ConsumerMixin):
    """A :class:`ConsumerMixin` with a :attr:`producer`, on a connection of its own."""

    _producer_connection: Connection | None = None

    def on_consume_end(self, connection: Connection, channel: Channel) -> None:
        """Close the producer's connection."""
        if self._producer_connection is not None:
            self._producer_connection.close()
            self._producer_connection = None

    @property
    def producer(self) -> Producer:
        """A producer."""
        return Producer(self.producer_connection)

    @property
    def producer_connection(self) -> Connection:
        """The producer's connection; opened when it is first needed."""
        if self._producer_connection is None:
            conn = self.connection.clone()
            conn.ensure_connection(self.on_connection_error, self.connect_max_retries)
            self._producer_connection = conn
        return self._producer_connection
