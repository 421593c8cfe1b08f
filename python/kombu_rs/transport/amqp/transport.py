"""The transport."""

from __future__ import annotations

from types import SimpleNamespace

from ... import _native
from ..._typing import Any
from ...utils.amq_manager import get_manager
from ...utils.url import maybe_sanitize_url, url_to_parts
from .._amqp import DEFAULT_PORT, DEFAULT_SSL_PORT, AmqpTransport, OverTLS, address
from ..native import CONNECTION_OPTIONS, as_it_is
from .connection import Connection
from .statistics import Statistics, Tally

__all__ = ("DEFAULT_PORT", "DEFAULT_SSL_PORT", "SSLTransport", "Transport", "WholeUrlTransport")


class Transport(AmqpTransport):
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

    connection_errors = Connection.connection_errors
    channel_errors = Connection.channel_errors
    recoverable_connection_errors = Connection.recoverable_connection_errors
    recoverable_channel_errors = Connection.recoverable_channel_errors

    driver_name = "kombu-rs"

    implements = AmqpTransport.implements.extend(batch_publish=True)

    def __init__(self, client: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(client, *args, **kwargs)
        self._tally = Tally()

    def driver_version(self) -> str:
        """Version of the native core."""
        from ... import __version__

        return __version__

    def close_channel(self, channel: Any) -> None:
        """Close a channel."""
        channel.close()

    def _options(self, parts: Any) -> dict[str, Any]:
        given = self.client.transport_options or {}
        others = {
            name: value
            for name, value in given.items()
            if name not in CONNECTION_OPTIONS and not name.startswith("manager_")
        }
        host = address(parts.hostname, parts.port, parts.ssl)
        return {"host": host, "ssl": parts.ssl, **others}

    def _connect(self, options: dict[str, Any]) -> Any:
        connection = super()._connect(options)
        if isinstance(connection, _native.Transport):  # not a class of the program's own
            self._tally.begin(connection)
        return connection

    def await_broker(self, seconds: float) -> bool | None:
        """Wait until a broker that could not be reached can be connected to, ``seconds`` at most.

        Returns:
            True: it can. False: it still cannot be reached. None: there is no use in waiting, as
            it refuses us, or it is not known how to connect.
        """
        link = self.Connection(**self._arguments())
        if not isinstance(link, _native.Transport):
            return None
        try:
            return link._await_broker(seconds)
        finally:
            link.close()

    def statistics(self) -> Statistics:
        """Return what was done over this transport, and what it holds. Does not ask the broker."""
        return self._tally.statistics()

    def verify_connection(self, connection: Any) -> bool:
        """Whether ``connection`` is open, as far as known without asking.

        One that was lost with consumers counts as open until somebody got an error for it: a wait
        on a new link would be one for messages that never come.
        """
        return connection is not None and (connection.connected or connection._has_to_tell())

    def close_connection(self, connection: Any) -> None:
        """Say goodbye to the broker and close the link."""
        super().close_connection(connection)
        self._tally.end(connection)

    def _collect(self, connection: Any) -> None:
        super()._collect(connection)
        self._tally.end(connection)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the descriptor of ``connection``."""
        connection.enter_loop(loop, self.on_readable, connection, loop)

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Handle what has come; called by the event loop."""
        connection.on_readable()


class SSLTransport(OverTLS, Transport):
    """The same over TLS, whatever the connection's ``ssl`` says."""


class WholeUrlTransport(Transport):
    """The same for a connection that has left the whole URL to it, as an installed Kombu does for
    ``kombu-rs+amqp://...``.

    Options of the connection and of the transport may stand in the URL's query.
    """

    #: Whether the connection leaves the whole URL to us.
    can_parse_url = True

    def _parts(self) -> Any:
        client = self.client
        url = url_to_parts(client.hostname)
        query = dict(url.query)
        ssl = url.scheme == "amqps" or client.ssl
        if "ssl" in query:
            ssl = query.pop("ssl").lower() not in ("false", "no", "off", "0") or ssl
        known = {
            name: query.pop(name, None) or getattr(client, name, None)
            for name in ("login_method", "connect_timeout", "heartbeat", "credential_provider")
        }
        default = self.default_connection_params
        return SimpleNamespace(
            hostname=url.hostname or default["hostname"],
            port=url.port or (self.default_ssl_port if ssl else self.default_port),
            userid=url.username or client.userid or default["userid"],
            password=url.password or client.password or default["password"],
            virtual_host=url.path or client.virtual_host,
            insist=client.insist,
            ssl=ssl,
            transport_options=client.transport_options or {},
            query=query,
            **known,
        )

    def _options(self, parts: Any) -> dict[str, Any]:
        return {**parts.query, **super()._options(parts)}

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        return uri if include_password else maybe_sanitize_url(uri, mask=mask)

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """RabbitMQ's management API: see :func:`kombu_rs.utils.amq_manager.get_manager`."""
        return get_manager(self._parts(), *args, **kwargs)


Transport._native_class = as_it_is(Transport)
