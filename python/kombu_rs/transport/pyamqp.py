"""RabbitMQ and other AMQP 0-9-1 brokers, over py-amqp.

For programs that use py-amqp's objects: ``transport="kombu_rs.transport.pyamqp:Transport"`` beside
the URL. ``amqp://`` alone is :mod:`kombu_rs.transport.amqp`.

The protocol is spoken by `py-amqp <https://docs.celeryq.dev/projects/amqp/>`_, which has to be
installed: ``pip install 'kombu-rs[amqp]'``. Its errors arrive as those of
:mod:`kombu_rs.exceptions`, which are subclasses of py-amqp's: handlers for either catch them.

Transport options are the arguments of py-amqp's ``Connection``: among others
``confirm_publish`` (wait for the broker's word for each message), ``read_timeout`` and
``write_timeout`` (seconds), ``login_method``, ``client_properties``, ``channel_max``,
``frame_max``, ``socket_settings``, ``on_blocked`` and ``on_unblocked``.

TLS: ``amqps://``, or the connection's ``ssl``, which is True or a dictionary of py-amqp's TLS
options (``ca_certs``, ``cert_reqs``, ``certfile``, ``keyfile``, ``server_hostname``, ...). The
broker's certificate is verified by default; that it is for this host only when
``server_hostname`` is among the options. With None for it, that is the host of the URL in use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from .. import exceptions, message
from ..utils.amq_manager import get_manager
from . import base
from ._amqp import DEFAULT_PORT, DEFAULT_SSL_PORT, AmqpTransport, OverTLS, address
from ._libraries import missing
from .base import to_rabbitmq_queue_arguments

try:
    import amqp
    import amqp.exceptions
except ImportError:
    raise missing("amqp", "py-amqp", "amqp") from None

__all__ = (
    "DEFAULT_PORT",
    "DEFAULT_SSL_PORT",
    "Channel",
    "Connection",
    "Message",
    "SSLTransport",
    "Transport",
    "get_manager",
)

# py-amqp is loaded: from here on our errors are subclasses of its errors.
exceptions._adopt_amqp()


def _raises_ours(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method of py-amqp raise our errors instead of py-amqp's own."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except amqp.exceptions.AMQPError as error:
            ours = exceptions.from_amqp(error)
            if ours is error:
                raise
            raise ours.with_traceback(error.__traceback__) from None

    return call


class Message(message.Message):
    """A received message.

    Arguments:
        msg: as py-amqp gives it.
        channel: where it was received.
        kwargs: further arguments of :class:`kombu_rs.Message`, such as ``accept``.
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


class Channel(amqp.Channel, base.StdChannel):
    """A channel: py-amqp's methods, and what Kombu's producers and consumers need beside them."""

    Message = Message

    send_method = _raises_ours(amqp.Channel.send_method)
    wait = _raises_ours(amqp.Channel.wait)
    basic_publish = _raises_ours(amqp.Channel.basic_publish)
    basic_publish_confirm = _raises_ours(amqp.Channel.basic_publish_confirm)

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        _Message: Any = amqp.Message,
    ) -> Any:
        """Return a message as ``basic_publish`` takes it.

        Arguments:
            body: text or bytes.
            priority: 0 to 255; what the broker makes of it is said by the queue's
                ``max_priority``.
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

    def prepare_queue_arguments(
        self, arguments: dict[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments to declare a queue with, options under RabbitMQ's names."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def message_to_python(self, raw_message: Any) -> message.Message:
        """Return py-amqp's message as :class:`Message`."""
        return self.Message(raw_message, channel=self)


class Connection(amqp.Connection):
    """A connection of py-amqp whose channels are :class:`Channel`."""

    Channel = Channel

    connect = _raises_ours(amqp.Connection.connect)
    channel = _raises_ours(amqp.Connection.channel)
    drain_events = _raises_ours(amqp.Connection.drain_events)
    heartbeat_tick = _raises_ours(amqp.Connection.heartbeat_tick)
    close = _raises_ours(amqp.Connection.close)


class Transport(AmqpTransport):
    """AMQP 0-9-1 over py-amqp.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    Connection = Connection

    # py-amqp's, which are bases of ours.
    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    driver_name = "py-amqp"

    # The newest connection.
    _last: Any = None

    def driver_version(self) -> str:
        """Version of py-amqp."""
        return amqp.__version__

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """RabbitMQ's management API: see :func:`kombu_rs.utils.amq_manager.get_manager`."""
        return get_manager(self.client, *args, **kwargs)  # the name of this module

    def _options(self, parts: Any) -> dict[str, Any]:
        return {
            "host": address(parts.hostname, parts.port),
            "ssl": _tls_options(parts),
            **(parts.transport_options or {}),
        }

    def _connect(self, options: dict[str, Any]) -> Any:
        # The socket of a lost connection: its channels keep it until the collector runs.
        lost, self._last = self._last, None
        if not getattr(lost, "connected", True):
            lost.collect()
        connection = self._last = self.Connection(**options)
        connection.connect()
        return connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the socket of ``connection``."""
        # A read that a signal interrupts goes back to the loop.
        connection.transport.raise_on_initial_eintr = True
        loop.add_reader(connection.sock, self.on_readable, connection, loop)


class SSLTransport(OverTLS, Transport):
    """The same over TLS, whatever the connection's ``ssl`` says."""


def _tls_options(client: Any) -> Any:
    """The connection's ``ssl`` with the name of the host that it connects to now."""
    ssl = client.ssl
    if isinstance(ssl, dict) and "server_hostname" in ssl and ssl["server_hostname"] is None:
        return {**ssl, "server_hostname": client.hostname}
    return ssl
