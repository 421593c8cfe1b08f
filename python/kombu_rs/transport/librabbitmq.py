"""RabbitMQ through the C client ``librabbitmq``.

For programs that use its objects: ``transport="kombu_rs.transport.librabbitmq:Transport"`` beside
the URL. That client's last release builds on Python 3.10 and older, and it has neither TLS nor
heartbeats. ``librabbitmq://`` alone is :mod:`kombu_rs.transport.amqp`.
"""

from __future__ import annotations

import os
import socket
import warnings
from contextlib import suppress
from typing import Any

from .. import exceptions, message
from . import base
from ._amqp import DEFAULT_PORT, DEFAULT_SSL_PORT, AmqpTransport
from .base import to_rabbitmq_queue_arguments

try:
    import librabbitmq
    from librabbitmq import ChannelError, ConnectionError
except ImportError as error:
    raise ImportError(
        f"librabbitmq:// needs the C client librabbitmq, which cannot be imported ({error}): "
        "pip install librabbitmq, on Python 3.10 at most, or use amqp:// instead"
    ) from None

__all__ = ("DEFAULT_PORT", "DEFAULT_SSL_PORT", "Channel", "Connection", "Message", "Transport")

NO_SSL_ERROR = "ssl not supported by librabbitmq, please use pyamqp:// or stunnel"
W_VERSION = "librabbitmq version too old to tell the broker's version: 1.0 or later does"


class Message(message.Message):
    """A received message.

    Arguments:
        channel: where it was received.
        props: properties of AMQP.
        info: how it was delivered.
        body: bytes.
    """

    def __init__(
        self, channel: Any, props: dict[str, Any], info: dict[str, Any], body: Any
    ) -> None:
        super().__init__(
            channel=channel,
            body=body,
            delivery_info=info,
            properties=props,
            delivery_tag=info.get("delivery_tag"),
            content_type=props.get("content_type"),
            content_encoding=props.get("content_encoding"),
            headers=props.get("headers"),
        )


class Channel(librabbitmq.Channel, base.StdChannel):
    """A channel: the client's methods, and what producers and consumers need beside them."""

    Message = Message

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Return body and properties, as ``basic_publish`` takes them.

        Arguments:
            body: text or bytes.
            priority: 0 to 255.
            content_type, content_encoding, headers: what they are called.
            properties: further properties of AMQP.
        """
        described = {
            **(properties or {}),
            "content_type": content_type,
            "content_encoding": content_encoding,
            "headers": headers,
        }
        if priority is not None:
            described["priority"] = priority
        return body, described

    def basic_consume(self, *args: Any, on_cancel: Any = None, **kwargs: Any) -> Any:
        """Start a consumer, as the client does.

        Arguments:
            on_cancel: never called: the C client does not tell when the broker cancels a consumer.
        """
        return super().basic_consume(*args, **kwargs)

    def prepare_queue_arguments(
        self, arguments: dict[str, Any] | None, **kwargs: Any
    ) -> dict[Any, Any]:
        """Return the arguments to declare a queue with, names as bytes: the C client wants them."""
        named = to_rabbitmq_queue_arguments(arguments, **kwargs)
        return {
            name.encode() if isinstance(name, str) else name: value for name, value in named.items()
        }


class Connection(librabbitmq.Connection):
    """A connection of the C client whose channels and messages are ours."""

    Channel = Channel
    Message = Message


class Transport(AmqpTransport):
    """AMQP 0-9-1 over the C client.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    Connection = Connection

    connection_errors = (exceptions.ConnectionError, ConnectionError, socket.error, OSError)
    channel_errors = (exceptions.ChannelError, ChannelError)

    driver_name = "librabbitmq"

    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=False)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)

    def driver_version(self) -> str:
        """Version of the C client."""
        return librabbitmq.__version__

    def _options(self, parts: Any) -> dict[str, Any]:
        if parts.ssl:
            raise NotImplementedError(NO_SSL_ERROR)
        host = f"{parts.hostname}:{parts.port}"
        return {"host": host, "ssl": parts.ssl, **(parts.transport_options or {})}

    def _connect(self, options: dict[str, Any]) -> Any:
        options.pop("heartbeat")  # it has none
        connection = self.Connection(**options)
        self.client.drain_events = connection.drain_events
        return connection

    def close_connection(self, connection: Any) -> None:
        """Say goodbye to the broker and close the link."""
        self.client.drain_events = None
        connection.close()

    def _collect(self, connection: Any) -> None:
        if connection is not None:
            for channel in connection.channels.values():
                channel.connection = None
            with suppress(OSError, ValueError):  # it may be closed already
                os.close(connection.fileno())
            connection.channels.clear()
            connection.callbacks.clear()
        self.client.drain_events = None
        self.client = None

    def get_heartbeat_interval(self, connection: Any) -> float:
        """0: there are no heartbeats."""
        return 0

    def heartbeat_check(self, connection: Any, rate: int = 2) -> None:
        """Does nothing: there are no heartbeats."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the socket of ``connection``."""
        loop.add_reader(connection.fileno(), self.on_readable, connection, loop)

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Whether ``apply_global`` of QoS means what AMQP 0-9-1 says: not in RabbitMQ 3.3 to 3."""
        try:
            return super().qos_semantics_matches_spec(connection)
        except AttributeError:
            warnings.warn(W_VERSION, UserWarning, stacklevel=2)
            return True
