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
from ._libraries import missing
from .base import to_rabbitmq_queue_arguments

try:
    import amqp
    import amqp.exceptions
except ImportError:
    raise missing("amqp", "py-amqp", "amqp") from None

__all__ = ("Channel", "Connection", "Message", "SSLTransport", "Transport", "get_manager")

DEFAULT_PORT = 5672
DEFAULT_SSL_PORT = 5671

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


class Transport(base.Transport):
    """AMQP 0-9-1 over py-amqp.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    Connection = Connection

    default_port = DEFAULT_PORT
    default_ssl_port = DEFAULT_SSL_PORT

    # py-amqp's, which are bases of ours.
    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    driver_name = "py-amqp"
    driver_type = "amqp"

    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=True)

    def __init__(
        self,
        client: Any,
        default_port: int | None = None,
        default_ssl_port: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(client, **kwargs)
        self.default_port = default_port or self.default_port
        self.default_ssl_port = default_ssl_port or self.default_ssl_port
        self._last: Any = None

    def driver_version(self) -> str:
        """Version of py-amqp."""
        return amqp.__version__

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        return connection.channel()

    def drain_events(self, connection: Any, **kwargs: Any) -> Any:
        """Wait for an event and handle it.

        Raises:
            TimeoutError: nothing came within ``timeout`` seconds.
        """
        return connection.drain_events(**kwargs)

    def establish_connection(self) -> Any:
        """Connect and log in.

        Parts of the connection that are not set get their default. A password that is a function
        is called each time.

        Raises:
            OSError: the broker cannot be reached.
            kombu_rs.exceptions.ConnectionError, kombu_rs.exceptions.AccessRefused: it refused us.
        """
        client = self.client
        for name, value in self.default_connection_params.items():
            if not getattr(client, name, None):
                setattr(client, name, value)
        password = client.password
        options = {
            "host": f"{_address(client.hostname)}:{client.port}",
            "userid": client.userid,
            "password": password() if callable(password) else password,
            "login_method": client.login_method,
            "virtual_host": client.virtual_host,
            "insist": client.insist,
            "ssl": _tls_options(client),
            "connect_timeout": client.connect_timeout,
            "heartbeat": client.heartbeat,
            **(client.transport_options or {}),
        }
        self._forget_lost()
        connection = self._last = self.Connection(**options)
        connection.client = client
        connection.connect()
        return connection

    def _forget_lost(self) -> None:
        """Close the socket of a lost connection: its channels keep it until the collector runs."""
        lost, self._last = self._last, None
        if not getattr(lost, "connected", True):
            lost.collect()

    def verify_connection(self, connection: Any) -> bool:
        """Whether ``connection`` is open, as far as known without asking."""
        return connection is not None and connection.connected

    def close_connection(self, connection: Any) -> None:
        """Say goodbye to the broker and close the link."""
        connection.client = None
        connection.close()

    def _collect(self, connection: Any) -> None:
        """Give the link up without talking to the broker."""
        if connection is not None:
            connection.collect()

    def get_heartbeat_interval(self, connection: Any) -> float:
        """Seconds between heartbeats, as agreed with the broker; 0 without them."""
        return connection.heartbeat

    def heartbeat_check(self, connection: Any, rate: int = 2) -> None:
        """Send a heartbeat if one is due.

        Arguments:
            connection: what :meth:`establish_connection` returned.
            rate: how often this is called per heartbeat interval.

        Raises:
            kombu_rs.exceptions.ConnectionForced: the broker's have not come for two intervals.
        """
        connection.heartbeat_tick(rate=rate)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the socket of ``connection``."""
        # A read that a signal interrupts goes back to the loop.
        connection.transport.raise_on_initial_eintr = True
        loop.add_reader(connection.sock, self.on_readable, connection, loop)

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Whether ``apply_global`` of QoS means what AMQP 0-9-1 says: not in RabbitMQ 3.3 to 3."""
        return base.rabbitmq_qos_matches_spec(connection.server_properties)

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

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """RabbitMQ's management API: see :func:`kombu_rs.utils.amq_manager.get_manager`."""
        return get_manager(self.client, *args, **kwargs)


class SSLTransport(Transport):
    """The same over TLS, whatever the connection's ``ssl`` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.client.ssl:
            self.client.ssl = True


def _address(hostname: str) -> str:
    """The host as py-amqp reads it before a colon and a port."""
    if hostname == "localhost":
        # dnspython, which eventlet brings, may resolve the name to something else.
        return "127.0.0.1"
    return f"[{hostname}]" if ":" in hostname and not hostname.startswith("[") else hostname


def _tls_options(client: Any) -> Any:
    """The connection's ``ssl`` with the name of the host that it connects to now."""
    ssl = client.ssl
    if isinstance(ssl, dict) and "server_hostname" in ssl and ssl["server_hostname"] is None:
        return {**ssl, "server_hostname": client.hostname}
    return ssl
