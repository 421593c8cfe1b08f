"""Sending and receiving messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from threading import local
from types import TracebackType

from . import _native
from ._typing import TYPE_CHECKING, Any
from .batch import DEFAULT_BATCH_SIZE, _ProducerBatch, _ProducerBatchState
from .common import maybe_declare
from .compression import compress
from .connection import PooledConnection, is_connection, maybe_channel
from .entity import Exchange, Queue, maybe_delivery_mode
from .exceptions import ContentDisallowed
from .serialization import dumps, prepare_accept_content
from .utils.functional import ChannelPromise, maybe_list

if TYPE_CHECKING:
    from typing_extensions import Self

    from .connection import Connection
    from .message import Message
    from .protocols import Accept, Callback, ChannelOrConnection, Declarable, OnMessage, Queues

__all__ = ("Exchange", "Queue", "Producer", "Consumer")


def _expiration_ms(seconds: Any) -> str:
    """A message's time to live as AMQP wants it: milliseconds, as text."""
    try:
        return str(int(float(seconds) * 1000))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expiration must be a number of seconds, got {seconds!r}") from None


class Producer(_native.Producer):
    """Publishes messages.

    Arguments:
        channel: a channel, or a connection whose default channel is used.
        exchange: publish here unless told otherwise. Default: the default exchange.
        routing_key: used unless told otherwise. Default: empty.
        serializer: name of the serializer. Default: the registry's default (json).
        compression: name or content type of the compression. Default: none.
        auto_declare: declare the exchange before the first message. Default True.
        on_return: called with ``(exception, exchange, routing_key, message)`` for a
            ``mandatory`` or ``immediate`` message that could not be routed.
    """

    exchange: Any = None
    routing_key: str = ""
    serializer: str | None = None
    compression: str | None = None
    auto_declare: bool = True
    on_return: Callable[..., Any] | None = None

    # The connection, when the producer was made from one.
    __connection__: Any = None

    # The copy of the exchange that was made when the producer got a channel.
    _own_exchange: Any = None

    # What native code does not call by name unless a derived class has its own, and the class that
    # has the native ones.
    _gone_around = frozenset({"_publish", "_prepare", "_delivery_details", "channel"})
    _native_class: type

    def __init__(
        self,
        channel: ChannelOrConnection | None,
        exchange: Exchange | None = None,
        routing_key: str | None = None,
        serializer: str | None = None,
        auto_declare: bool | None = None,
        compression: str | None = None,
        on_return: Callable[..., Any] | None = None,
    ) -> None:
        self._channel = channel
        self.exchange = exchange
        self.routing_key = routing_key or self.routing_key
        self.serializer = serializer or self.serializer
        self.compression = compression or self.compression
        self.on_return = on_return or self.on_return
        self._channel_promise = None
        self._batch_local = local()
        if self.exchange is None:
            self.exchange = Exchange("")
        elif isinstance(self.exchange, str):
            raise TypeError(
                f"Producer: exchange must be an Exchange, got the name {self.exchange!r}: "
                f"say Exchange({self.exchange!r}, type=...)"
            )
        if auto_declare is not None:
            self.auto_declare = auto_declare
        if self._channel:
            self.revive(self._channel)

    def __repr__(self) -> str:
        return f"<Producer: {self._channel}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        """Arguments that make an equal producer without a channel, for pickle."""
        return (
            None,
            self.exchange,
            self.routing_key,
            self.serializer,
            self.auto_declare,
            self.compression,
        )

    def declare(self) -> None:
        """Declare the exchange. ``auto_declare`` does it at the first message."""
        if self.exchange.name:
            self.exchange.declare()

    def maybe_declare(
        self, entity: Declarable | None, retry: bool = False, **retry_policy: Any
    ) -> bool | None:
        """Declare an exchange or queue unless that was done on this connection already."""
        if entity:
            return maybe_declare(entity, self.channel, retry, **retry_policy)
        return None

    @property
    def supports_batch_publish(self) -> bool:
        """Whether the transport sends what :meth:`batch` collects in one go."""
        connection = self.connection
        if connection is None:
            return False
        transport = connection.transport
        if not getattr(transport.implements, "batch_publish", False):
            return False
        channel = self._channel
        lazy = channel is None or isinstance(channel, ChannelPromise)
        # A transport may be able to, but not as it is set up.
        return bool(getattr(transport if lazy else channel, "supports_batch_publish", True))

    def batch(self, max_size: int = DEFAULT_BATCH_SIZE) -> _ProducerBatch:
        """Collect what this thread publishes with this producer, and send it together.

        Used as ``with producer.batch(): ...``. Leaving it sends what is left; leaving it with an
        exception drops that. Where the transport cannot, each message is sent at once.

        Arguments:
            max_size: send whenever so many messages have come together.

        Raises:
            ValueError: ``max_size`` is not a positive integer.
        """
        return _ProducerBatch(self, max_size)

    def _delivery_details(
        self,
        exchange: Any,
        delivery_mode: int | str | None = None,
        maybe_delivery_mode: Any = maybe_delivery_mode,
        Exchange: Any = Exchange,
    ) -> tuple[str, int]:
        """Return the exchange's name and the delivery mode: the message's, else the exchange's."""
        if isinstance(exchange, Exchange):
            return exchange.name, maybe_delivery_mode(delivery_mode or exchange.delivery_mode)
        # A name alone: our own exchange says how durable messages are.
        return exchange, maybe_delivery_mode(delivery_mode or self.exchange.delivery_mode)

    def _publish_generic(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        compression: str | None = None,
        exchange: Exchange | str | None = None,
        retry: bool = False,
        retry_policy: dict[str, Any] | None = None,
        declare: Iterable[Any] | None = None,
        expiration: float | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **properties: Any,
    ) -> Any:
        """What :meth:`publish` does where the native path leaves it to us: with any channel object,
        any serializer, compression, retries."""
        retry_policy = {} if retry_policy is None else retry_policy
        headers = {} if headers is None else headers
        to_declare = [] if declare is None else list(declare)
        if self.auto_declare and self.exchange.name and self.exchange not in to_declare:
            to_declare.append(self.exchange)

        exchange_name, properties["delivery_mode"] = self._delivery_details(
            exchange or self.exchange, delivery_mode
        )
        if expiration is not None:
            properties["expiration"] = _expiration_ms(expiration)
        body, content_type, content_encoding = self._prepare(
            body,
            serializer,
            content_type,
            content_encoding,
            self.compression if compression is None else compression,
            headers,
        )

        publish = self._publish
        if retry:
            connection = self.connection
            if connection is None:
                raise ValueError("Producer has no channel: give it one, or a connection")
            # Opening the channel anew follows the same policy.
            connection.transport_options.update(retry_policy)
            publish = connection.ensure(self, publish, **retry_policy)
        return publish(
            body,
            priority,
            content_type,
            content_encoding,
            headers,
            properties,
            self.routing_key if routing_key is None else routing_key,
            mandatory,
            immediate,
            exchange_name,
            to_declare,
            timeout,
            confirm_timeout,
            retry,
            retry_policy,
        )

    def _publish(
        self,
        body: Any,
        priority: int,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        exchange: str,
        declare: list[Any],
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        retry: bool = False,
        retry_policy: dict[str, Any] | None = None,
    ) -> Any:
        """Declare what is needed and hand the encoded message to the channel, once.

        The last step before the channel, and the place where a native channel takes over.
        """
        for entity in declare:
            self.maybe_declare(entity, retry=retry, **(retry_policy or {}))
        reply_to = properties.get("reply_to")
        if isinstance(reply_to, Queue):
            properties["reply_to"] = reply_to.name
        # Asked for after the declarations: they may have reconnected.
        channel = self.channel
        if channel is None:
            raise ValueError("Producer has no channel: give it one, or a connection")
        message = channel.prepare_message(
            body, priority, content_type, content_encoding, headers, properties
        )
        batch: _ProducerBatchState | None = getattr(self._batch_local, "state", None)
        options = {
            "exchange": exchange,
            "routing_key": routing_key,
            "mandatory": mandatory,
            "immediate": immediate,
            "timeout": timeout,
            "confirm_timeout": confirm_timeout,
        }
        if batch is not None:
            return batch.publish(channel, message, **options)
        return channel.basic_publish(message, **options)

    def _get_channel(self) -> Any:
        channel = self._channel
        if isinstance(channel, ChannelPromise):
            channel = self._channel = channel()
            self.exchange.revive(channel)
            self._listen_for_returns(channel)
        return channel

    def _set_channel(self, channel: Any) -> None:
        self._channel = channel

    @property
    def channel(self) -> Any:
        """The channel; opened when it is first needed."""
        return self._get_channel()

    @channel.setter
    def channel(self, channel: Any) -> None:
        self._set_channel(channel)

    def _listen_for_returns(self, channel: Any) -> None:
        if self.on_return:
            channel.events["basic_return"].add(self.on_return)

    def revive(self, channel: Any) -> None:
        """Go on with another channel, or a connection; called after a reconnect."""
        if is_connection(channel):
            connection = channel
            self.__connection__ = connection
            channel = ChannelPromise(lambda: connection.default_channel)
        self._channel = channel
        if not isinstance(channel, ChannelPromise):
            self._listen_for_returns(channel)
        if self.exchange is self._own_exchange:
            self._own_exchange.revive(channel)  # a producer of a pool does this for each message
        else:
            self.exchange = self._own_exchange = self.exchange(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        connection = self.__connection__
        if exc_type is not None and isinstance(connection, PooledConnection):
            # Nobody knows what state the link is in: the next user gets a new one.
            connection._pool.replace(connection)
        self.release()

    def release(self) -> None:
        """Give the producer back to its pool; nothing to do without one."""

    close = release

    def _prepare(
        self,
        body: Any,
        serializer: str | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        compression: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> tuple[Any, str, str]:
        """Serialize and compress; returns the body, its content type and its encoding."""
        if not content_type:
            content_type, content_encoding, body = dumps(
                body, serializer=serializer or self.serializer
            )
        elif isinstance(body, str):
            content_encoding = content_encoding or "utf-8"
            body = body.encode(content_encoding)
        elif not content_encoding:
            content_encoding = "binary"
        if compression:
            body, method = compress(body, compression)
            if headers is not None:
                headers["compression"] = method
        return body, content_type, content_encoding

    @property
    def connection(self) -> Connection | None:
        """The connection, or None when there is none."""
        try:
            return self.__connection__ or self.channel.connection.client
        except AttributeError:
            return None


Producer._native_class = Producer


class Consumer(_native.Consumer):
    """Receives messages from queues.

    Arguments:
        channel: a channel, or a connection whose default channel is used.
        queues: a queue or a list of them.
        no_ack: deliveries need no acknowledgement. Default: what each queue says.
        auto_declare: declare the queues. Default True.
        callbacks: functions called with ``(body, message)``.
        on_decode_error: called with ``(message, exception)`` when a message cannot be decoded.
            Default: the exception is raised.
        on_message: called with ``(message)`` instead of decoding it and calling ``callbacks``.
        accept: content types or serializer names that may be decoded.
            Default: those that are not disabled (json and text).
        prefetch_count: how many unacknowledged messages the broker may send.
        tag_prefix: consumer tags begin with it.
    """

    ContentDisallowed = ContentDisallowed

    channel: Any = None
    no_ack: bool | None = None
    auto_declare: bool = True
    callbacks: Any = None
    on_message: OnMessage | None = None
    on_decode_error: Callable[[Message, Exception], Any] | None = None
    accept: set[Any] | None = None
    prefetch_count: int | None = None

    # Queues by name, in the order they were added.
    _queues: dict[str, Any] | None = None
    # Shared by all consumers: two of them may be on one channel, where tags must differ.
    _tags = count(1)

    def __init__(
        self,
        channel: ChannelOrConnection | None,
        queues: Queues | None = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Iterable[Callback] | None = None,
        on_decode_error: Callable[[Message, Exception], Any] | None = None,
        on_message: OnMessage | None = None,
        accept: Accept | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
    ) -> None:
        self.channel = channel
        self.queues = maybe_list(queues or [])
        self.no_ack = self.no_ack if no_ack is None else no_ack
        self.callbacks = (self.callbacks or []) if callbacks is None else callbacks
        self.on_message = self.on_message if on_message is None else on_message
        self.tag_prefix = tag_prefix
        # Consumer tag by queue name. Noted before the broker is asked: this is what we want to
        # consume from, which a reconnect restores.
        self._active_tags: dict[str, str] = {}
        self._active_queue_no_ack: dict[str, bool | None] = {}
        if auto_declare is not None:
            self.auto_declare = auto_declare
        if on_decode_error is not None:
            self.on_decode_error = on_decode_error
        self.accept = prepare_accept_content(accept)
        self.prefetch_count = prefetch_count
        if self.channel:
            self.revive(self.channel)

    @property
    def queues(self) -> list[Queue]:
        """The queues, as a new list."""
        return list((self._queues or {}).values())

    @queues.setter
    def queues(self, queues: Iterable[Queue]) -> None:
        self._queues = {queue.name: queue for queue in queues}

    def revive(self, channel: Any) -> None:
        """Go on with another channel (or connection), consuming from what it did before."""
        was_active = dict(self._active_queue_no_ack)
        self._active_tags.clear()
        self._active_queue_no_ack.clear()
        channel = self.channel = maybe_channel(channel)
        bound = [queue(channel) for queue in self.queues]
        for queue in bound:
            queue.revive(channel)
        self.queues = bound
        if self.auto_declare:
            self.declare()
        if self.prefetch_count is not None:
            self.qos(prefetch_count=self.prefetch_count)
        if was_active:
            self._consume_previously_active(was_active)

    def declare(self) -> None:
        """Declare the queues, their exchanges and bindings. ``auto_declare`` does it."""
        for queue in self.queues:
            queue.declare()

    def register_callback(self, callback: Callback) -> None:
        """Add a function that is called with ``(body, message)``."""
        self.callbacks.append(callback)

    def __enter__(self) -> Self:
        self.consume()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        channel = self.channel
        if channel and channel.connection:
            lost = channel.connection.client.connection_errors
            # A wait that timed out is an OSError too, and no reason to go on consuming.
            if isinstance(exc_val, TimeoutError) or not isinstance(exc_val, lost):
                # The error of the block, or its success, is what matters.
                with suppress(Exception):
                    self.cancel()

    def add_queue(self, queue: Queue) -> Queue:
        """Add a queue; :meth:`consume` starts consuming from it. Returns it, bound."""
        queue = queue(self.channel)
        if self.auto_declare:
            queue.declare()
        self._queues[queue.name] = queue  # type: ignore[index]
        return queue

    def consume(self, no_ack: bool | None = None) -> None:
        """Start consuming from all queues that it does not consume from yet.

        Arguments:
            no_ack: deliveries need no acknowledgement. Default: the consumer's ``no_ack``.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        self._consume_queues(dict.fromkeys(self._queues or (), no_ack))

    def _consume_previously_active(self, active_no_ack: dict[str, bool | None]) -> None:
        queues = self._queues or {}
        self._consume_queues({n: no_ack for n, no_ack in active_no_ack.items() if n in queues})

    def _consume_queues(self, no_ack_by_queue: dict[str, bool | None]) -> None:
        last = len(no_ack_by_queue) - 1
        queues = self._queues or {}
        for i, (name, no_ack) in enumerate(no_ack_by_queue.items()):
            # Waiting for the last answer alone is enough: the broker answers in order.
            self._basic_consume(queues[name], no_ack=no_ack, nowait=i < last)

    def cancel(self) -> None:
        """Stop consuming. Messages that were received may still be acknowledged."""
        for tag in list(self._active_tags.values()):
            self.channel.basic_cancel(tag)
        self._active_tags.clear()
        self._active_queue_no_ack.clear()

    close = cancel

    def cancel_by_queue(self, queue: Queue | str) -> None:
        """Stop consuming from one queue (or its name), and forget it."""
        name = queue.name if isinstance(queue, Queue) else queue
        tag = self._active_tags.pop(name, None)
        self._active_queue_no_ack.pop(name, None)
        if self._queues:
            self._queues.pop(name, None)
        if tag is not None:
            self.channel.basic_cancel(tag)

    def consuming_from(self, queue: Queue | str) -> bool:
        """Whether it consumes from that queue (or name) now."""
        return (queue.name if isinstance(queue, Queue) else queue) in self._active_tags

    def purge(self) -> int:
        """Remove all ready messages from all queues; returns how many."""
        return sum(queue.purge() for queue in self.queues)

    def flow(self, active: bool) -> None:
        """Ask the broker to stop (False) or go on (True) sending."""
        self.channel.flow(active)

    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> Any:
        """Limit what the broker sends without an acknowledgement; 0 means no limit.

        Arguments:
            prefetch_size: in bytes.
            prefetch_count: in messages.
            apply_global: for all consumers of the channel together.
        """
        return self.channel.basic_qos(prefetch_size, prefetch_count, apply_global)

    def recover(self, requeue: bool = False) -> Any:
        """Have all unacknowledged messages sent again.

        Arguments:
            requeue: to anyone, rather than to this consumer.
        """
        return self.channel.basic_recover(requeue=requeue)

    def receive(self, body: Any, message: Message) -> None:
        """Handle a decoded message: call the callbacks.

        Raises:
            NotImplementedError: there are none.
        """
        callbacks = self.callbacks
        if not callbacks:
            raise NotImplementedError("Consumer does not have any callbacks")
        for callback in callbacks:
            callback(body, message)

    def _basic_consume(
        self,
        queue: Any,
        consumer_tag: str | None = None,
        no_ack: bool | None = None,
        nowait: bool = True,
    ) -> str:
        tag = self._active_tags.get(queue.name)
        if tag is None:
            tag = self._add_tag(queue, consumer_tag)
            self._active_queue_no_ack[queue.name] = no_ack
            queue.consume(tag, self._receive_callback, no_ack=no_ack, nowait=nowait)
        return tag

    def _add_tag(self, queue: Any, consumer_tag: str | None = None) -> str:
        tag = consumer_tag or f"{self.tag_prefix}{next(self._tags)}"
        self._active_tags[queue.name] = tag
        return tag

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.queues}>"

    @property
    def connection(self) -> Connection | None:
        """The connection, or None when there is none."""
        try:
            return self.channel.connection.client
        except AttributeError:
            return None
