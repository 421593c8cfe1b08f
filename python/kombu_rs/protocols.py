"""Types for annotations: what is expected of a channel, of callbacks and so on.

Nothing has to be derived from these; a class that has the methods will do.

    from kombu_rs.protocols import Channel

    def declare(channel: Channel) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .connection import Connection
    from .entity import Exchange, Queue
    from .message import Message
    from .messaging import Consumer

__all__ = (
    "Channel",
    "ChannelOrConnection",
    "Accept",
    "Arguments",
    "Callback",
    "ConsumerFactory",
    "Declarable",
    "Errback",
    "ExceptionTypes",
    "OnMessage",
    "Queues",
)

#: Options of a declaration, headers, properties.
Arguments: TypeAlias = dict[str, Any]
#: Content types and names of serializers.
Accept: TypeAlias = Collection[str]
#: Called with a body and its message.
Callback: TypeAlias = Callable[[Any, "Message"], Any]
#: Makes a consumer on a channel that it knows; arguments as :class:`~kombu_rs.Consumer`.
ConsumerFactory: TypeAlias = Callable[..., "Consumer"]
#: Called with a message.
OnMessage: TypeAlias = Callable[["Message"], Any]
#: Called with an exception and the seconds until the next try.
Errback: TypeAlias = Callable[[Exception, float], Any]
#: What may be named in ``except``.
ExceptionTypes: TypeAlias = tuple[type[BaseException], ...]
#: Queues to consume from.
Queues: TypeAlias = Union["Queue", Iterable["Queue"]]
#: What can be declared on a broker.
Declarable: TypeAlias = Union["Exchange", "Queue"]


class Channel(Protocol):
    """A channel, of whatever transport."""

    @property
    def channel_id(self) -> Any:
        """The channel's number in its connection."""

    @property
    def connection(self) -> Any:
        """The transport's connection; None when the channel is closed."""

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        *,
        passive: bool = ...,
        durable: bool = ...,
        auto_delete: bool = ...,
        nowait: bool = ...,
        arguments: Arguments | None = ...,
    ) -> Any:
        """Declare an exchange."""

    def exchange_delete(self, exchange: str, if_unused: bool = ..., nowait: bool = ...) -> Any:
        """Delete an exchange."""

    def queue_declare(
        self,
        queue: str = ...,
        passive: bool = ...,
        *,
        durable: bool = ...,
        exclusive: bool = ...,
        auto_delete: bool = ...,
        nowait: bool = ...,
        arguments: Arguments | None = ...,
    ) -> Any:
        """Declare a queue; returns its name, its messages and its consumers."""

    def queue_bind(
        self,
        queue: str,
        exchange: str = ...,
        routing_key: str = ...,
        *,
        nowait: bool = ...,
        arguments: Arguments | None = ...,
    ) -> Any:
        """Bind a queue to an exchange."""

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = ...,
        *,
        nowait: bool = ...,
        arguments: Arguments | None = ...,
    ) -> Any:
        """Undo :meth:`queue_bind`."""

    def queue_delete(
        self, queue: str, if_unused: bool = ..., if_empty: bool = ..., *, nowait: bool = ...
    ) -> Any:
        """Delete a queue."""

    def queue_purge(self, queue: str, *, nowait: bool = ...) -> Any:
        """Remove the ready messages of a queue; returns how many."""

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **options: Any) -> Any:
        """Publish what :meth:`prepare_message` made."""

    def basic_consume(
        self,
        queue: str,
        *,
        no_ack: bool,
        callback: Any,
        consumer_tag: str,
        nowait: bool = ...,
        arguments: Arguments | None = ...,
        on_cancel: Callable[[str], Any] | None = ...,
    ) -> Any:
        """Start a consumer."""

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Stop a consumer."""

    def basic_get(self, queue: str, no_ack: bool = ...) -> Any:
        """Return a message, or None."""

    def basic_ack(self, delivery_tag: Any, multiple: bool = ...) -> Any:
        """Acknowledge a message."""

    def basic_reject(self, delivery_tag: Any, requeue: bool) -> Any:
        """Reject a message."""

    def basic_recover(self, requeue: bool = ...) -> Any:
        """Have all unacknowledged messages sent again."""

    def basic_qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool) -> Any:
        """Limit what is sent without an acknowledgement."""

    def flow(self, active: bool) -> Any:
        """Ask the broker to stop or go on sending."""

    def prepare_message(
        self,
        body: Any,
        priority: int | None = ...,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        headers: Arguments | None = ...,
        properties: Arguments | None = ...,
    ) -> Any:
        """Return a message for :meth:`basic_publish`."""

    def prepare_queue_arguments(self, arguments: Arguments, **options: Any) -> Arguments:
        """Return the arguments for :meth:`queue_declare`, with the options of a queue."""
        ...

    def after_reply_message_received(self, queue: str) -> Any:
        """Called when no more replies are expected in a queue."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Any: ...

    def close(self) -> Any:
        """Close the channel."""


#: Where a channel is expected a connection will do: its default channel is used.
ChannelOrConnection: TypeAlias = Union[Channel, "Connection"]
