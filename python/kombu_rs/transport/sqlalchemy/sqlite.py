"""Files of SQLite on the native engine."""

from __future__ import annotations

from typing import Any

from .. import base, native_virtual
from . import Channel, Transport

__all__ = ("SQLiteChannel", "SQLiteTransport")


class SQLiteChannel(native_virtual.Channel, Channel):  # type: ignore[misc, override]
    """A channel on the tables of a file.

    The session, the classes of the rows and the queries of
    :class:`~kombu_rs.transport.sqlalchemy.Channel` are there too, when SQLAlchemy is.
    """

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._configure_entity_tablenames(connection.client.transport_options or {})
        native_virtual.Channel.__init__(self, connection, **kwargs)

    def close(self) -> None:
        """Close the channel, and the session also when that fails."""
        try:
            native_virtual.Channel.close(self)
        finally:
            self._close_session()


class SQLiteTransport(native_virtual.Transport, Transport):  # type: ignore[misc]
    """SQLite, in Kombu's layout."""

    Channel = SQLiteChannel

    scheme = "sqla"
    can_parse_url = True
    driver_type = "sql"
    driver_name = "kombu-rs"

    connection_errors = native_virtual.Transport.connection_errors

    implements = base.Transport.implements.extend(
        asynchronous=True, batch_publish=True, exchange_type=frozenset(["direct", "topic"])
    )

    @classmethod
    def _url(cls, client: Any) -> str:
        hostname = client.hostname or ""
        return hostname if hostname.startswith("sqla") else f"sqla+{hostname}"
