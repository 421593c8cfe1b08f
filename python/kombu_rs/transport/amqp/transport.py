"""The transport."""

from __future__ import annotations

from typing import Any

from ...utils.amq_manager import get_manager
from .. import base
from ..native import CONNECTION_OPTIONS, as_it_is
from .connection import Connection

__all__ = ("SSLTransport", "Transport")

DEFAULT_PORT = 5672
DEFAULT_SSL_PORT = 5671


class Transport(base.Transport):
    """AMQP 0-9-1, natively.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    Connection = Connection

    # What native code goes around unless a derived class, or an object, has its own.
    _gone_around = frozenset({"drain_events", "verify_connection"})
    _native_class: type

    default_port = DEFAULT_PORT
    default_ssl_port = DEFAULT_SSL_PORT

    connection_errors = Connection.connection_errors
    channel_errors = Connection.channel_errors
    recoverable_connection_errors = Connection.recoverable_connection_errors
    recoverable_channel_errors = Connection.recoverable_channel_errors

    driver_name = "kombu-rs"
    driver_type = "amqp"

    implements = base.Transport.implements.extend(
        asynchronous=True, heartbeats=True, batch_publish=True
    )

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

    def driver_version(self) -> str:
        """Version of the native core."""
        from ... import __version__

        return __version__

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        return connection.channel()

    def close_channel(self, channel: Any) -> None:
        """Close a channel."""
        channel.close()

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
            "host": f"{_address(client.hostname, client.ssl)}:{client.port}",
            "userid": client.userid,
            "password": password() if callable(password) else password,
            "login_method": client.login_method,
            "virtual_host": client.virtual_host,
            "insist": client.insist,
            "ssl": client.ssl,
            "connect_timeout": client.connect_timeout,
            "heartbeat": client.heartbeat,
            **_options(client.transport_options or {}),
        }
        connection = self.Connection(**options)
        connection.client = client
        connection.connect()
        return connection

    def verify_connection(self, connection: Any) -> bool:
        """Whether ``connection`` is open, as far as known without asking.

        One that was lost with consumers counts as open until somebody got an error for it: a wait
        on a new link would be one for messages that never come.
        """
        return connection is not None and (connection.connected or connection._has_to_tell())

    def close_connection(self, connection: Any) -> None:
        """Say goodbye to the broker and close the link."""
        connection.client = None
        connection.close()

    def _collect(self, connection: Any) -> None:
        """Give the link up."""
        if connection is not None:
            connection.collect()

    def get_heartbeat_interval(self, connection: Any) -> float:
        """Seconds between heartbeats, as agreed with the broker; 0 without them."""
        return connection.heartbeat

    def heartbeat_check(self, connection: Any, rate: int = 2) -> None:
        """Check that the link is there. Heartbeats are sent without this.

        Arguments:
            connection: what :meth:`establish_connection` returned.
            rate: how often this is called per heartbeat interval.

        Raises:
            kombu_rs.exceptions.ConnectionForced: the link is lost.
        """
        connection.heartbeat_tick(rate=rate)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the descriptor of ``connection``."""
        connection.enter_loop(loop, self.on_readable, connection, loop)

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Handle what has come; called by the event loop."""
        connection.on_readable()

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


Transport._native_class = as_it_is(Transport)


class SSLTransport(Transport):
    """The same over TLS, whatever the connection's ``ssl`` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.client.ssl:
            self.client.ssl = True


def _address(hostname: str, ssl: Any) -> str:
    """The host as it stands before a colon and a port."""
    if hostname == "localhost" and not ssl:
        return "127.0.0.1"  # as in Kombu, whatever a resolver makes of the name
    return f"[{hostname}]" if ":" in hostname and not hostname.startswith("[") else hostname


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The options for the connection, without those for layers above."""
    return {
        name: value
        for name, value in given.items()
        if name not in CONNECTION_OPTIONS and not name.startswith("manager_")
    }
