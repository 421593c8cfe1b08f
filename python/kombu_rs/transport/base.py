"""What a transport and a channel must have: base classes of all of them."""

from __future__ import annotations

import errno
from types import TracebackType

from .._typing import TYPE_CHECKING, Any
from ..exceptions import ChannelError, ConnectionError, RecoverableConnectionError
from ..message import Message
from ..utils.functional import dictfilter
from ..utils.objects import cached_property
from ..utils.text import version_string_as_tuple
from ..utils.time import maybe_s_to_ms

if TYPE_CHECKING:
    from typing_extensions import Self

    from .. import messaging

__all__ = ("Message", "StdChannel", "Management", "Transport")

# RabbitMQ's name, and how it wants the value, of the queue options that are not in AMQP.
RABBITMQ_QUEUE_ARGUMENTS: dict[str, Any] = {
    "expires": ("x-expires", maybe_s_to_ms),
    "message_ttl": ("x-message-ttl", maybe_s_to_ms),
    "max_length": ("x-max-length", int),
    "max_length_bytes": ("x-max-length-bytes", int),
    "max_priority": ("x-max-priority", int),
}


def to_rabbitmq_queue_arguments(arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    """Return queue arguments as RabbitMQ knows them.

    Arguments:
        arguments: arguments as they are.
        expires, message_ttl: in seconds.
        max_length: in messages.
        max_length_bytes: in bytes.
        max_priority: the highest priority.

    An option that is None is left out; others win over ``arguments``.
    """
    translated = dict(
        _to_rabbitmq_queue_argument(name, value) for name, value in dictfilter(options).items()
    )
    return {**(arguments or {}), **translated}


def _to_rabbitmq_queue_argument(key: str, value: Any) -> tuple[str, Any]:
    name, convert = RABBITMQ_QUEUE_ARGUMENTS[key]
    try:
        return name, convert(value) if convert is not None else value
    except (TypeError, ValueError):
        raise ValueError(f"queue option {key} must be a number, got {value!r}") from None


def rabbitmq_qos_matches_spec(server_properties: dict[str, Any]) -> bool:
    """Return whether the broker's ``apply_global`` of QoS means what AMQP 0-9-1 says.

    RabbitMQ 3.3 to 3.13 give it a meaning of their own.

    Arguments:
        server_properties: what the broker told about itself when the connection was made.
    """
    if server_properties.get("product") != "RabbitMQ":
        return True
    try:
        version = version_string_as_tuple(server_properties.get("version") or "0")[:2]
    except (TypeError, ValueError):
        return True
    return not (3, 3) <= version < (4, 0)


def _LeftBlank(obj: Any, method: str) -> NotImplementedError:
    """The error of a method that a transport must have and has not."""
    cls = type(obj)
    return NotImplementedError(
        f"Transport {cls.__module__}.{cls.__name__} does not implement {method}"
    )


class StdChannel:
    """Base of all channels."""

    #: Tags of consumers whose deliveries need no acknowledgement.
    no_ack_consumers: set[Any] | None = None

    def Consumer(self, *args: Any, **kwargs: Any) -> messaging.Consumer:
        """A :class:`~kombu_rs.Consumer` on this channel."""
        from ..messaging import Consumer

        channel: Any = self
        return Consumer(channel, *args, **kwargs)

    def Producer(self, *args: Any, **kwargs: Any) -> messaging.Producer:
        """A :class:`~kombu_rs.Producer` on this channel."""
        from ..messaging import Producer

        channel: Any = self
        return Producer(channel, *args, **kwargs)

    def get_bindings(self) -> Any:
        """All bindings of the broker."""
        raise _LeftBlank(self, "get_bindings")

    def after_reply_message_received(self, queue: str) -> None:
        """Called when the replies in ``queue`` were collected: it may be given up."""

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the arguments to declare a queue with; options that it cannot do are dropped."""
        return arguments

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()  # type: ignore[attr-defined]


class Management:
    """What a transport offers to manage the broker.

    Arguments:
        transport: whose.
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def get_bindings(self) -> Any:
        """All bindings of the broker."""
        raise _LeftBlank(self, "get_bindings")


_Management = Management  # transports have an attribute of that name


class Implements(dict[str, Any]):
    """What a transport can do: a dictionary whose items are attributes too."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def extend(self, **kwargs: Any) -> Implements:
        """Return a copy with some items changed."""
        return self.__class__(self, **kwargs)


default_transport_capabilities: Implements = Implements(
    asynchronous=False,
    exchange_type=frozenset(["direct", "topic", "fanout", "headers"]),
    heartbeats=False,
    batch_publish=False,
)


class Transport:
    """Base of all transports.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Management = Management

    #: The connection it works for.
    client: Any = None
    #: Whether the connection leaves the whole URL to it.
    can_parse_url = False
    default_port: int | None = None

    connection_errors: tuple[type[BaseException], ...] = (ConnectionError,)
    channel_errors: tuple[type[BaseException], ...] = (ChannelError,)

    #: What it talks, such as ``amqp`` or ``sql``.
    driver_type = "N/A"
    #: The library that it uses.
    driver_name = "N/A"

    __reader: Any = None

    implements: Implements = default_transport_capabilities.extend()

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.client = client

    @classmethod
    def class_for(cls, client: Any) -> type[Transport]:
        """Return the class that serves a connection, where URL or options choose one.

        Arguments:
            client: the :class:`~kombu_rs.Connection`.
        """
        return cls

    def establish_connection(self) -> Any:
        """Connect, and return what the other methods are given as ``connection``."""
        raise _LeftBlank(self, "establish_connection")

    def close_connection(self, connection: Any) -> None:
        """Close ``connection``."""
        raise _LeftBlank(self, "close_connection")

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        raise _LeftBlank(self, "create_channel")

    def close_channel(self, connection: Any) -> None:
        """Close a channel."""
        raise _LeftBlank(self, "close_channel")

    def drain_events(self, connection: Any, **kwargs: Any) -> Any:
        """Wait for an event and handle it; ``timeout`` in seconds."""
        raise _LeftBlank(self, "drain_events")

    def heartbeat_check(self, connection: Any, rate: int = 2) -> None:
        """Send heartbeats that are due; nothing without heartbeats."""

    def driver_version(self) -> str:
        """Version of the library that it uses."""
        return "N/A"

    def get_heartbeat_interval(self, connection: Any) -> float:
        """Seconds between heartbeats; 0 without them."""
        return 0

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the event loop watch ``connection``."""

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Undo :meth:`register_with_event_loop`."""

    def verify_connection(self, connection: Any) -> bool:
        """Whether ``connection`` is open."""
        return True

    def _make_reader(
        self,
        connection: Any,
        timeout: Any = TimeoutError,
        error: Any = OSError,
        _unavail: Any = (errno.EAGAIN, errno.EINTR),
    ) -> Any:
        drain_events = connection.drain_events

        def _read(loop: Any) -> None:
            if not connection.connected:
                raise RecoverableConnectionError("Socket was disconnected")
            try:
                drain_events(timeout=0)
            except timeout:
                return
            except error as exc:
                if exc.errno in _unavail:
                    return
                raise
            # There may be more in memory, of which the socket says nothing.
            loop.call_soon(_read, loop)

        return _read

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Whether ``apply_global`` of QoS means what AMQP 0-9-1 says."""
        return True

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Handle what has come; called by the event loop."""
        reader = self.__reader
        if reader is None:
            reader = self.__reader = self._make_reader(connection)
        reader(loop)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Show a URL that :attr:`can_parse_url` kept whole."""
        raise _LeftBlank(self, "as_uri")

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that are filled in when they are missing."""
        return {}

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """A new :attr:`manager`."""
        return self.Management(self)

    @cached_property
    def manager(self) -> _Management:
        """What it offers to manage the broker."""
        return self.get_manager()

    @property
    def supports_heartbeats(self) -> bool:
        """Whether it has heartbeats."""
        return self.implements.heartbeats

    @property
    def supports_ev(self) -> bool:
        """Whether an event loop can watch it."""
        return self.implements.asynchronous
