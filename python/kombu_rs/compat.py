"""The interface of Carrot, Kombu's predecessor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import messaging
from .entity import Exchange, Queue

if TYPE_CHECKING:
    from typing_extensions import Self

    from .connection import Connection
    from .message import Message
    from .protocols import Channel, ChannelOrConnection

__all__ = ("Publisher", "Consumer")

entry_to_queue = Queue.from_dict


def _iterconsume(
    connection: Any,
    consumer: messaging.Consumer,
    no_ack: bool | None = False,
    limit: int | None = None,
) -> Iterator[Any]:
    consumer.consume(no_ack=no_ack)
    for iteration in count():
        if limit and iteration >= limit:
            return
        yield connection.drain_events()


class Publisher(messaging.Producer):
    """A producer whose settings are class attributes.

    Arguments:
        connection: a connection; a channel of its own is opened.
        exchange, routing_key, exchange_type, durable, auto_delete: override the attributes.
        channel: use this channel instead.
    """

    exchange: Any = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    durable: bool = True
    auto_delete: bool = False
    _closed = False

    def __init__(
        self,
        connection: Connection | None,
        exchange: Exchange | str | None = None,
        routing_key: str | None = None,
        exchange_type: str | None = None,
        durable: bool | None = None,
        auto_delete: bool | None = None,
        channel: Channel | None = None,
        **kwargs: Any,
    ) -> None:
        where: ChannelOrConnection | None = channel or connection
        self.exchange = exchange or self.exchange
        self.exchange_type = exchange_type or self.exchange_type
        self.routing_key = routing_key or self.routing_key
        if auto_delete is not None:
            self.auto_delete = auto_delete
        if durable is not None:
            self.durable = durable
        if not isinstance(self.exchange, Exchange):
            self.exchange = Exchange(
                name=self.exchange,
                type=self.exchange_type,
                auto_delete=self.auto_delete,
                durable=self.durable,
            )
        super().__init__(where, self.exchange, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`publish`."""
        return self.publish(*args, **kwargs)

    def close(self) -> None:
        """Close the producer."""
        super().close()
        self._closed = True

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
    def backend(self) -> Channel:
        """The channel."""
        return self.channel


class Consumer(messaging.Consumer):
    """A consumer of one queue whose settings are class attributes.

    Arguments:
        connection: a connection; a channel of its own is opened.
        queue: the queue's name.
        exchange, routing_key, exchange_type, durable, exclusive, auto_delete: override the
            attributes.
    """

    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    exchange_type: str = "direct"
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    _closed = False

    def __init__(
        self,
        connection: Connection,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        exchange_type: str | None = None,
        durable: bool | None = None,
        exclusive: bool | None = None,
        auto_delete: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.backend: Channel = connection.channel()
        if durable is not None:
            self.durable = durable
        if exclusive is not None:
            self.exclusive = exclusive
        if auto_delete is not None:
            self.auto_delete = auto_delete
        self.queue = queue or self.queue
        self.exchange = exchange or self.exchange
        self.exchange_type = exchange_type or self.exchange_type
        self.routing_key = routing_key or self.routing_key
        source = Exchange(
            self.exchange,
            type=self.exchange_type,
            routing_key=self.routing_key,
            auto_delete=self.auto_delete,
            durable=self.durable,
        )
        bound = Queue(
            self.queue,
            exchange=source,
            routing_key=self.routing_key,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
        )
        super().__init__(self.backend, bound, **kwargs)

    def revive(self, channel: Any) -> None:
        """Go on with another channel."""
        self.backend = channel
        super().revive(channel)

    def close(self) -> None:
        """Stop consuming and close the channel."""
        self.cancel()
        self.backend.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message | None]:
        return self.iterqueue(infinite=True)

    def fetch(self, no_ack: bool | None = None, enable_callbacks: bool = False) -> Message | None:
        """Return the next message, or None.

        Arguments:
            no_ack: it needs no acknowledgement.
            enable_callbacks: also call the callbacks.
        """
        if no_ack is None:
            no_ack = self.no_ack
        message = self.queues[0].get(no_ack)
        if message and enable_callbacks:
            self.receive(message.payload, message)
        return message

    def process_next(self) -> NoReturn:
        """Not there any more: use :meth:`fetch` with ``enable_callbacks``."""
        raise NotImplementedError("Use fetch(enable_callbacks=True)")

    def discard_all(self, filterfunc: Any = None) -> int:
        """Remove all ready messages; returns how many."""
        if filterfunc is not None:
            raise NotImplementedError("discard_all does not implement filters")
        return self.purge()

    def iterconsume(self, limit: int | None = None, no_ack: bool | None = None) -> Iterator[Any]:
        """Consume; yields after each event, for ever or ``limit`` times."""
        return _iterconsume(self.connection, self, no_ack, limit)

    def wait(self, limit: int | None = None) -> list[Any]:
        """Consume ``limit`` events."""
        return list(self.iterconsume(limit))

    def iterqueue(
        self, limit: int | None = None, infinite: bool = False
    ) -> Iterator[Message | None]:
        """Yield messages until the queue is empty.

        Arguments:
            limit: at most so many.
            infinite: yield None and go on when it is empty.
        """
        for fetched in count():
            message = self.fetch()
            if (not infinite and message is None) or (limit and fetched >= limit):
                return
            yield message


class ConsumerSet(messaging.Consumer):
    """A consumer of several queues.

    Arguments:
        connection: a connection; a channel of its own is opened.
        from_dict: queues, as names and the options of :meth:`kombu_rs.Queue.from_dict`.
        consumers: use the queues of these consumers.
        channel: use this channel instead.
    """

    def __init__(
        self,
        connection: Connection,
        from_dict: dict[str, Any] | None = None,
        consumers: Iterable[messaging.Consumer] | None = None,
        channel: Channel | None = None,
        **kwargs: Any,
    ) -> None:
        self._provided_channel = bool(channel)
        self.backend: Channel = channel or connection.channel()
        queues = [queue for consumer in consumers or () for queue in consumer.queues]
        queues.extend(
            Queue.from_dict(name, **options) for name, options in (from_dict or {}).items()
        )
        super().__init__(self.backend, queues, **kwargs)

    def iterconsume(self, limit: int | None = None, no_ack: bool = False) -> Iterator[Any]:
        """Consume; yields after each event, for ever or ``limit`` times."""
        return _iterconsume(self.connection, self, no_ack, limit)

    def discard_all(self) -> int:
        """Remove all ready messages; returns how many."""
        return self.purge()

    def add_consumer_from_dict(self, queue: str, **options: Any) -> Queue:
        """Add a queue, as :meth:`kombu_rs.Queue.from_dict`."""
        return self.add_queue(Queue.from_dict(queue, **options))

    def add_consumer(self, consumer: messaging.Consumer) -> None:
        """Add the queues of a consumer."""
        for queue in consumer.queues:
            self.add_queue(queue)

    def revive(self, channel: Any) -> None:
        """Go on with another channel."""
        self.backend = channel
        super().revive(channel)

    def close(self) -> None:
        """Stop consuming, and close the channel if it is our own."""
        self.cancel()
        if not self._provided_channel:
            self.channel.close()
