"""Channels with py-amqp's methods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ... import _native, message
from ..._typing import Any
from ...exceptions import RecoverableConnectionError
from ...utils.uuid import uuid
from .. import base
from ..native import Replaceable, queue_declare_ok_t
from . import errors
from .message import BasicMessage

__all__ = ("Channel", "Message")


class Message(message.Message):
    """A received message.

    Arguments:
        msg: an object with py-amqp's attributes: ``body``, ``properties``, ``delivery_info`` and
            ``delivery_tag``.
        channel: where it was received.
        kwargs: further arguments of :class:`kombu_rs.Message`, such as ``accept``.

    What a channel delivers itself is a :class:`kombu_rs.Message` with the same attributes.
    """

    def __init__(self, msg: Any, channel: Any = None, **kwargs: Any) -> None:
        properties = msg.properties
        super().__init__(
            body=msg.body,
            channel=channel,
            delivery_tag=msg.delivery_tag,
            content_type=properties.get("content_type"),
            content_encoding=properties.get("content_encoding"),
            delivery_info=msg.delivery_info,
            properties=properties,
            headers=properties.get("application_headers") or {},
            **kwargs,
        )


class Channel(_native.AmqpChannel, Replaceable, base.StdChannel):  # type: ignore[misc]
    """A channel of AMQP: the unit of consumers, of limits and of errors.

    Arguments:
        connection: the :class:`Connection`.
        channel_id: must be None: the connection chooses.
        auto_decode: must be True: bodies are text when their ``content_encoding`` says so.
        on_open: called with the channel when it is open.

    A channel that the broker closes because of an error is opened again at once, without its
    consumers and what it had delivered, as in py-amqp. Acknowledgements of what a lost link or such
    a channel had delivered are dropped: the broker gives it to a consumer again.
    """

    _gone_around = frozenset({"basic_publish", "prepare_message", "basic_ack", "message_to_python"})

    Message = Message

    #: The connection; None when the channel was closed.
    connection: Any

    #: Bodies travel as they are.
    body_encoding = None
    auto_decode = True
    is_closing = False

    def __init__(
        self,
        connection: Any,
        channel_id: int | None = None,
        auto_decode: bool = True,
        on_open: Callable[[Any], Any] | None = None,
    ) -> None:
        if channel_id is not None:
            raise ValueError(f"channel_id must be None: the connection chooses, got {channel_id}")
        if not auto_decode:
            raise ValueError("auto_decode must be True")
        #: Functions to call on events of the channel: ``basic_return`` with the exception that
        #: stands for it, exchange, routing key and message.
        self.events: dict[str, set[Any]] = defaultdict(set)
        #: By consumer tag: called with the tag when the broker has cancelled the consumer.
        self.cancel_callbacks: dict[str, Callable[[str], Any]] = {}
        #: Whether deliveries go on: see :meth:`flow`.
        self.active = True
        connection._add_channel(self)
        connection.channels[self.channel_id] = self
        if on_open is not None:
            on_open(self)

    # -- channels

    def open(self) -> None:
        """Does nothing: a channel is open when it is made."""

    def close(
        self,
        reply_code: int = 0,
        reply_text: str = "",
        method_sig: tuple[int, int] = (0, 0),
        argsig: str = "BsBB",
    ) -> None:
        """Close the channel: consumers end, and the broker puts back what is not acknowledged."""
        connection = self.connection
        if connection is None:
            return
        try:
            self._close(True)
        finally:
            self._detach(connection)

    def collect(self) -> None:
        """Forget the channel, without a word to the broker."""
        connection = self.connection
        if connection is not None:
            self.closed = True
            self._detach(connection)

    def _detach(self, connection: Any) -> None:
        connection._remove_channel(self)
        connection.channels.pop(self.channel_id, None)
        self.cancel_callbacks.clear()
        self.events.clear()
        self.connection = None

    def flow(self, active: bool) -> bool:  # type: ignore[override]
        """Pause (False) or go on with deliveries. RabbitMQ has none of this: it is done here."""
        super().flow(active)
        self.active = active
        return active

    # -- exchanges

    def exchange_declare(  # type: ignore[override]
        self,
        exchange: str,
        type: str,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BssbbbbbF",
    ) -> None:
        """Declare an exchange.

        Arguments:
            exchange: its name.
            type: ``direct``, ``topic``, ``fanout``, ``headers``, or one that the broker has beside.
            passive: only ask whether it is there.
            durable: it survives a restart of the broker.
            auto_delete: it is deleted with its last binding.
            nowait: for callers of py-amqp; the answer is awaited all the same.
            arguments: the broker's own.

        Raises:
            NotFound: it is not there (``passive``).
            PreconditionFailed: it is there with other properties.
        """
        self._exchange_declare(
            exchange or "", type or "direct", passive, durable, auto_delete, False, arguments
        )

    def exchange_delete(
        self,
        exchange: str,
        if_unused: bool = False,
        nowait: bool = False,
        argsig: str = "Bsbb",
    ) -> None:
        """Delete an exchange and its bindings; ``if_unused``: refuse while it has any."""
        super().exchange_delete(exchange, if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BsssbF",
    ) -> None:
        """Have messages of the exchange ``source`` go to the exchange ``destination``, too."""
        self._exchange_binding(True, destination, source, routing_key or "", arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BsssbF",
    ) -> None:
        """Undo :meth:`exchange_bind`."""
        self._exchange_binding(False, destination, source, routing_key or "", arguments)

    # -- queues

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BsbbbbbF",
    ) -> queue_declare_ok_t | None:
        """Declare a queue.

        Arguments:
            queue: its name; the broker makes one up when it is empty.
            passive: only ask whether it is there.
            durable: it survives a restart of the broker.
            exclusive: it is this connection's alone, and goes with it.
            auto_delete: it is deleted when its last consumer is gone.
            nowait: return None, as py-amqp does.
            arguments: the broker's own, such as ``x-queue-type``.

        Raises:
            NotFound: it is not there (``passive``).
            PreconditionFailed: it is there with other properties.
            ResourceLocked: it is exclusive to another connection.
        """
        declared = self._queue_declare(
            queue, passive, durable, exclusive, auto_delete, False, arguments
        )
        return None if nowait else queue_declare_ok_t(*declared)

    def depth(self, queue: str) -> dict[int, int]:
        """Ask the broker how many messages are ready in a queue.

        Returns:
            All of them under 0: AMQP does not tell priorities apart.

        Raises:
            NotFound: there is no such queue.
        """
        return {0: self._queue_declare(queue, True)[1]}

    def prepare_queue_arguments(
        self, arguments: dict[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments to declare a queue with, options under RabbitMQ's names."""
        return base.to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_bind(  # type: ignore[override]
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BsssbF",
    ) -> None:
        """Have messages of an exchange go to a queue."""
        super().queue_bind(queue, exchange, routing_key, arguments)

    def queue_unbind(  # type: ignore[override]
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        argsig: str = "BsssF",
    ) -> None:
        """Undo :meth:`queue_bind`."""
        super().queue_unbind(queue, exchange, routing_key, arguments)

    def queue_purge(self, queue: str = "", nowait: bool = False, argsig: str = "Bsb") -> int | None:  # type: ignore[override]
        """Remove the ready messages of a queue; returns how many."""
        purged = super().queue_purge(queue)
        return None if nowait else purged

    def queue_delete(  # type: ignore[override]
        self,
        queue: str = "",
        if_unused: bool = False,
        if_empty: bool = False,
        nowait: bool = False,
        argsig: str = "Bsbbb",
    ) -> int | None:
        """Delete a queue; returns how many messages went with it.

        Arguments:
            queue: its name.
            if_unused: refuse while it has consumers.
            if_empty: refuse while it has messages.
            nowait: return None, as py-amqp does.
        """
        deleted = super().queue_delete(queue, if_unused, if_empty)
        return None if nowait else deleted

    # -- messages out

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        _Message: Any = BasicMessage,
    ) -> Any:
        """Return a message as :meth:`basic_publish` takes it.

        Arguments:
            body: text or bytes.
            priority: 0 to 255; what the broker makes of it is said by the queue's ``max_priority``.
            content_type, content_encoding, headers: what they are called.
            properties: further properties of AMQP, by py-amqp's names.
        """
        return _Message(
            body,
            priority=priority,
            content_type=content_type,
            content_encoding=content_encoding,
            application_headers=headers,
            **(properties or {}),
        )

    def basic_publish_confirm(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`basic_publish`, in confirm mode: it returns when the broker has the message.

        Raises:
            MessageNacked: the broker did not take it.
            ChannelError: it went to no queue (``mandatory``), or to an exchange that is not there.
        """
        self.confirm_select()
        return self.basic_publish(*args, **kwargs)

    def confirm_select(self, nowait: bool = False) -> None:
        """Have publishes wait for the broker's word from now on."""
        self._confirm_select()

    def _came_back(
        self, error: BaseException, exchange: str, routing_key: str, message: Any
    ) -> None:
        """Call the handlers of ``basic_return``; without one, or for another error, raise it."""
        handlers = self.events.get("basic_return")
        if not handlers or getattr(error, "method_sig", None) != errors.BASIC_RETURN:
            raise error
        for handler in list(handlers):
            handler(error, exchange, routing_key, message)

    # -- messages in

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a message as the consumer gets it."""
        if isinstance(raw_message, message.Message):
            return raw_message
        return self.Message(raw_message, channel=self)

    def basic_consume(  # type: ignore[override]
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool | None = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], Any] | None = None,
        arguments: dict[str, Any] | None = None,
        on_cancel: Callable[[str], Any] | None = None,
        argsig: str = "BssbbbbF",
    ) -> str:
        """Consume from a queue: ``callback(message)`` is called for each message.

        Arguments:
            queue: its name.
            consumer_tag: default: one is made up.
            no_local: RabbitMQ ignores it, and so does this.
            no_ack: messages are done when they are delivered.
            exclusive: nobody else may consume from the queue.
            nowait: for callers of py-amqp; the answer is awaited all the same.
            callback: called as ``callback(message)``.
            arguments: the broker's own, such as ``x-priority``.
            on_cancel: called as ``on_cancel(consumer_tag)`` when the broker cancels the consumer;
                without it, draining raises :exc:`~kombu_rs.exceptions.ConsumerCancelled`.

        Returns:
            The consumer tag.
        """
        tag = str(consumer_tag or f"ctag-{uuid()}")
        self._consume(queue, tag, bool(no_ack), exclusive, callback, arguments)
        if on_cancel is not None:
            self.cancel_callbacks[tag] = on_cancel
        return tag

    def _consumers_ended(self, consumer_tags: list[str]) -> None:
        """Forget consumers that ended with a channel that the broker has closed."""
        for tag in consumer_tags:
            self.cancel_callbacks.pop(tag, None)
            self.no_ack_consumers.discard(tag)

    def basic_cancel(  # type: ignore[override]
        self, consumer_tag: str, nowait: bool = False, argsig: str = "sb"
    ) -> str | None:
        """Stop consuming. What has come already is handed to the callback, as in py-amqp, as far as
        the prefetch limits allow; the rest goes back to the queue.

        Raises:
            RecoverableConnectionError: the channel was closed.
        """
        if self.connection is None:
            raise RecoverableConnectionError("connection already closed")
        self.cancel_callbacks.pop(consumer_tag, None)
        try:
            self._cancel(consumer_tag)
        finally:
            self.no_ack_consumers.discard(consumer_tag)
        return None if nowait else consumer_tag

    def _on_cancelled(self, consumer_tag: str, error: BaseException) -> None:
        self.no_ack_consumers.discard(consumer_tag)
        on_cancel = self.cancel_callbacks.pop(consumer_tag, None)
        if on_cancel is None:
            raise error
        on_cancel(consumer_tag)

    def basic_get(self, queue: str = "", no_ack: bool | None = False, argsig: str = "Bsb") -> Any:  # type: ignore[override]
        """Take one message, or None when the queue is empty."""
        return super().basic_get(queue, no_ack)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, argsig: str = "Lb") -> None:
        """Acknowledge a delivery (all up to it with ``multiple``)."""
        super().basic_ack(delivery_tag, multiple)

    def basic_reject(  # type: ignore[override]
        self, delivery_tag: int, requeue: bool, argsig: str = "Lb"
    ) -> None:
        """Reject a delivery: the broker drops it, or dead-letters it; or ``requeue``."""
        super().basic_reject(delivery_tag, requeue)

    def basic_recover(self, requeue: bool = False) -> None:
        """Have everything that is not acknowledged delivered again, to anyone.

        Raises:
            AMQPNotImplementedError: without ``requeue``: RabbitMQ does not have it.
        """
        if not requeue:
            raise errors.not_implemented(
                "basic_recover without requeue: no broker of today has it; say requeue=True",
                (60, 110),
            )
        super().basic_recover(True)

    def basic_recover_async(self, requeue: bool = False) -> None:
        """As :meth:`basic_recover`."""
        self.basic_recover(requeue)

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int | None = 0,
        a_global: bool = False,
        argsig: str = "lBb",
    ) -> None:
        """Limit the number of unacknowledged messages; 0 for no limit.

        Arguments:
            prefetch_size: in bytes; must be 0: RabbitMQ does not have it.
            prefetch_count: in messages.
            a_global: True: of all consumers of the channel together, also on brokers and queue
                types that only know limits of consumers. False: of each consumer that is started
                from now on; those that run with such a limit follow a higher one, but keep what
                they were started with. Both limits may be set, and both are kept.
        """
        if prefetch_size:
            raise errors.not_implemented(
                f"prefetch_size must be 0: RabbitMQ has no limit in bytes, got {prefetch_size}",
                (60, 10),
            )
        if a_global:
            super().basic_qos(0, prefetch_count, True)
        else:
            self._limit_each(prefetch_count)

    # -- transactions

    def tx_select(self) -> None:
        """Make publishes and acknowledgements part of transactions."""
        self._transaction("select")

    def tx_commit(self) -> None:
        """Do what was said since the last commit."""
        self._transaction("commit")

    def tx_rollback(self) -> None:
        """Forget what was said since the last commit."""
        self._transaction("rollback")


Channel._native_class = Channel
