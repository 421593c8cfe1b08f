"""What all transports that speak AMQP 0-9-1 have in common, whoever speaks it for them."""

from __future__ import annotations

from .._typing import Any
from ..utils.amq_manager import get_manager
from . import base
from ._credentials import Credentials

DEFAULT_PORT = 5672
DEFAULT_SSL_PORT = 5671


class AmqpTransport(base.Transport):
    """AMQP 0-9-1; a derived class has the ``Connection`` that speaks it.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
        default_port: instead of 5672.
        default_ssl_port: instead of 5671.
    """

    #: Made anew for each connection, with py-amqp's arguments.
    Connection: Any

    default_port = DEFAULT_PORT
    default_ssl_port = DEFAULT_SSL_PORT

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
        self._credentials = Credentials()
        self.default_port = default_port or self.default_port
        self.default_ssl_port = default_ssl_port or self.default_ssl_port

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

        Parts of the connection that are not set get their default. A password that is a function,
        or a ``credential_provider``, is asked each time.

        Raises:
            OSError: the broker cannot be reached.
            kombu_rs.exceptions.ConnectionError, kombu_rs.exceptions.AccessRefused: it refused us.
        """
        connection = self._connect(self._arguments())
        connection.client = self.client
        return connection

    def _arguments(self) -> dict[str, Any]:
        """Everything that ``Connection`` is told."""
        parts = self._parts()
        userid, password = self._credentials.get(parts)
        return {
            "userid": userid,
            "password": password,
            "login_method": parts.login_method,
            "virtual_host": parts.virtual_host,
            "insist": parts.insist,
            "connect_timeout": parts.connect_timeout,
            "heartbeat": parts.heartbeat,
            **self._options(parts),
        }

    def _parts(self) -> Any:
        """The connection's attributes, with defaults filled in where there is nothing."""
        for name, value in self.default_connection_params.items():
            if not getattr(self.client, name, None):
                setattr(self.client, name, value)
        return self.client

    def _options(self, parts: Any) -> dict[str, Any]:
        """Further arguments of ``Connection``: at least ``host`` and ``ssl``."""
        raise NotImplementedError

    def _connect(self, options: dict[str, Any]) -> Any:
        connection = self.Connection(**options)
        connection.connect()
        return connection

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
        """Send a heartbeat if one is due, where nobody else does, and check that the link is there.

        Arguments:
            connection: what :meth:`establish_connection` returned.
            rate: how often this is called per heartbeat interval.

        Raises:
            kombu_rs.exceptions.ConnectionForced: the link is lost.
        """
        connection.heartbeat_tick(rate=rate)

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


class OverTLS(AmqpTransport):
    """Added to a transport: over TLS, whatever the connection's ``ssl`` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.client.ssl:
            self.client.ssl = True


def address(hostname: str, port: Any, ssl: Any = None) -> str:
    """Return host and port with a colon between them."""
    if hostname == "localhost" and not ssl:
        hostname = "127.0.0.1"  # as in Kombu, whatever a resolver makes of the name
    if ":" in hostname and not hostname.startswith("["):
        hostname = f"[{hostname}]"
    return f"{hostname}:{port}"
