"""Queues with ``put`` and ``get``, as in the standard library."""

from __future__ import annotations

from collections import deque
from queue import Empty
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from . import entity, messaging
from .connection import maybe_channel

if TYPE_CHECKING:
    from typing_extensions import Self

    from .message import Message
    from .protocols import Accept, ChannelOrConnection

__all__ = ("SimpleQueue", "SimpleBuffer")


class SimpleBase:
    """What both have in common.

    Arguments:
        channel: a channel, or a connection.
        producer: used by :meth:`put`.
        consumer: used by :meth:`get`.
        no_ack: messages need no acknowledgement.
    """

    Empty = Empty
    _consuming = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __init__(
        self,
        channel: ChannelOrConnection,
        producer: messaging.Producer,
        consumer: messaging.Consumer,
        no_ack: bool = False,
    ) -> None:
        self.channel: Any = maybe_channel(channel)
        self.producer = producer
        self.consumer = consumer
        self.no_ack = no_ack
        self.queue: entity.Queue = self.consumer.queues[0]
        self.buffer: deque[Message] = deque()
        self.consumer.register_callback(self._receive)

    def get(self, block: bool = True, timeout: float | None = None) -> Message:
        """Return the next message.

        Arguments:
            block: wait for one. False: as :meth:`get_nowait`.
            timeout: for so many seconds at most; None: for ever; 0: only take what is there.

        Raises:
            Empty: nothing came.
        """
        if not block:
            return self.get_nowait()
        self._consume()
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            if self.buffer:
                return self.buffer.popleft()
            remaining = None
            if deadline is not None:
                remaining = deadline - monotonic()
                if remaining <= 0:
                    raise self.Empty()
            try:
                # Some transports take 0 for "no timeout".
                self.channel.connection.client.drain_events(timeout=remaining)
            except TimeoutError:
                raise self.Empty() from None

    def get_nowait(self) -> Message:
        """Return the next message if one is there.

        Raises:
            Empty: none is.
        """
        message = self.queue.get(no_ack=self.no_ack, accept=self.consumer.accept)
        if not message:
            raise self.Empty()
        return message

    def put(
        self,
        message: Any,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        compression: str | None = None,
        routing_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Publish a message to the queue; arguments as :meth:`kombu_rs.Producer.publish`."""
        self.producer.publish(
            message,
            serializer=serializer,
            routing_key=routing_key,
            headers=headers,
            compression=compression,
            **kwargs,
        )

    def clear(self) -> int:
        """Remove all ready messages; returns how many."""
        return self.consumer.purge()

    def qsize(self) -> int:
        """How many messages are ready in the queue."""
        _, size, _ = self.queue.queue_declare(passive=True)
        return size

    def close(self) -> None:
        """Stop consuming."""
        self.consumer.cancel()

    def _receive(self, message_data: Any, message: Any) -> None:
        self.buffer.append(message)

    def _consume(self) -> None:
        if not self._consuming:
            self.consumer.consume(no_ack=self.no_ack)
            self._consuming = True

    def __len__(self) -> int:
        return self.qsize()

    def __bool__(self) -> bool:
        # An empty queue is a queue.
        return True

    __nonzero__ = __bool__


class SimpleQueue(SimpleBase):
    """A durable queue.

    Arguments:
        channel: a channel, or a connection.
        name: the queue's name, which is also its exchange's and routing key's; or a
            :class:`~kombu_rs.Queue`.
        no_ack: messages need no acknowledgement. Default: the class's.
        queue_opts: arguments of the :class:`~kombu_rs.Queue`.
        queue_args: its ``queue_arguments``.
        exchange_opts: arguments of the :class:`~kombu_rs.Exchange`.
        serializer, compression: used by :meth:`put`.
        accept: content types or serializer names that may be decoded.
    """

    no_ack = False
    queue_opts: ClassVar[dict[str, Any]] = {}
    queue_args: ClassVar[dict[str, Any]] = {}
    exchange_opts: ClassVar[dict[str, Any]] = {"type": "direct"}

    def __init__(
        self,
        channel: ChannelOrConnection,
        name: str | entity.Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        accept: Accept | None = None,
    ) -> None:
        queue_opts = {**self.queue_opts, **(queue_opts or {})}
        queue_args = {**self.queue_args, **(queue_args or {})}
        exchange_opts = {**self.exchange_opts, **(exchange_opts or {})}
        no_ack = self.no_ack if no_ack is None else no_ack
        if isinstance(name, entity.Queue):
            queue, exchange, routing_key = name, name.exchange, name.routing_key
        else:
            exchange, routing_key = entity.Exchange(name, **exchange_opts), name
            queue = entity.Queue(
                name, exchange, routing_key, queue_arguments=queue_args, **queue_opts
            )
        consumer = messaging.Consumer(channel, queue, accept=accept)
        producer = messaging.Producer(
            channel,
            exchange,
            serializer=serializer,
            routing_key=routing_key,
            compression=compression,
        )
        super().__init__(channel, producer, consumer, no_ack)


class SimpleBuffer(SimpleQueue):
    """A queue that is gone with its last user, and whose messages need no acknowledgement."""

    no_ack = True
    queue_opts: ClassVar[dict[str, Any]] = {
        "durable": False,
        "auto_delete": True,
        "exclusive": True,
    }
    exchange_opts: ClassVar[dict[str, Any]] = {
        "durable": False,
        "delivery_mode": "transient",
        "auto_delete": True,
    }
