"""``librabbitmq://``: RabbitMQ through the C client ``librabbitmq``.

That client's last release builds on Python 3.10 and older. ``amqp://`` never uses it; see
:mod:`kombu_rs.transport.pyamqp` for a transport that has TLS and heartbeats too.
"""

from __future__ import annotations

import os
import socket
import warnings
from contextlib import suppress
from typing import Any

from .. import exceptions, message
from ..utils.amq_manager import get_manager
from . import base
from .base import to_rabbitmq_queue_arguments

try:
    import librabbitmq
    from librabbitmq import ChannelError, ConnectionError
except ImportError as error:
    raise ImportError(
        f"librabbitmq:// needs the C client librabbitmq, which cannot be imported ({error}): "
        "pip install librabbitmq, on Python 3.10 at most, or use amqp:// instead"
    ) from None

__all__ = ("Channel", "Connection", "Message", "Transport")

DEFAULT_PORT = 5672
DEFAULT_SSL_PORT = 5671

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


class Transport(base.Transport):
    """AMQP 0-9-1 over the C client.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    Connection = Connection

    default_port = DEFAULT_PORT
    default_ssl_port = DEFAULT_SSL_PORT

    connection_errors = (exceptions.ConnectionError, ConnectionError, socket.error, OSError)
    channel_errors = (exceptions.ChannelError, ChannelError)

    driver_type = "amqp"
    driver_name = "librabbitmq"

    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=False)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client)
        self.default_port = kwargs.get("default_port") or self.default_port
        self.default_ssl_port = kwargs.get("default_ssl_port") or self.default_ssl_port

    def driver_version(self) -> str:
        """Version of the C client."""
        return librabbitmq.__version__

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        return connection.channel()

    def drain_events(self, connection: Any, **kwargs: Any) -> Any:
        """Wait for an event and handle it; ``timeout`` in seconds."""
        return connection.drain_events(**kwargs)

    def establish_connection(self) -> Any:
        """Connect and log in; parts of the connection that are not set get their default.

        Raises:
            NotImplementedError: the connection's ``ssl`` asks for TLS.
        """
        client = self.client
        for name, value in self.default_connection_params.items():
            if not getattr(client, name, None):
                setattr(client, name, value)
        if client.ssl:
            raise NotImplementedError(NO_SSL_ERROR)
        password = client.password
        connection = self.Connection(
            host=f"{client.hostname}:{client.port}",
            userid=client.userid,
            password=password() if callable(password) else password,
            virtual_host=client.virtual_host,
            login_method=client.login_method,
            insist=client.insist,
            ssl=client.ssl,
            connect_timeout=client.connect_timeout,
            **(client.transport_options or {}),
        )
        connection.client = client
        client.drain_events = connection.drain_events
        return connection

    def close_connection(self, connection: Any) -> None:
        """Say goodbye to the broker and close the link."""
        self.client.drain_events = None
        connection.close()

    def _collect(self, connection: Any) -> None:
        """Give the link up without talking to the broker."""
        if connection is not None:
            for channel in connection.channels.values():
                channel.connection = None
            with suppress(OSError, ValueError):  # it may be closed already
                os.close(connection.fileno())
            connection.channels.clear()
            connection.callbacks.clear()
        self.client.drain_events = None
        self.client = None

    def verify_connection(self, connection: Any) -> bool:
        """Whether ``connection`` is open, as far as known without asking."""
        return connection.connected

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the socket of ``connection``."""
        loop.add_reader(connection.fileno(), self.on_readable, connection, loop)

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """RabbitMQ's management API: see :func:`kombu_rs.utils.amq_manager.get_manager`."""
        return get_manager(self.client, *args, **kwargs)

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Whether ``apply_global`` of QoS means what AMQP 0-9-1 says: not in RabbitMQ 3.3 to 3."""
        try:
            properties = connection.server_properties
        except AttributeError:
            warnings.warn(W_VERSION, UserWarning, stacklevel=2)
            return True
        return base.rabbitmq_qos_matches_spec(properties)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a connection that are filled in when they are missing."""
        return {
            "userid": "guest",
            "password": "guest",
            "port": self.default_ssl_port if self.client.ssl else self.default_port,
            "hostname": "localhost",
            "login_method": "PLAIN",
        }
