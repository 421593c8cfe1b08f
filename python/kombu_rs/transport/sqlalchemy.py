"""``sqla+sqlite://`` and ``sqlalchemy+sqlite://``: queues in an SQLite file.

The name is Kombu's, as is the layout of the tables; SQLAlchemy is not needed.
"""

from __future__ import annotations

from typing import Any

from . import base, native

__all__ = ("Channel", "Transport")


class Channel(native.Channel):
    """A channel on the tables."""


class Transport(native.Transport):
    """SQLite, in Kombu's layout."""

    Channel = Channel

    scheme = "sqla"
    can_parse_url = True
    driver_type = "sql"
    driver_name = "kombu-rs"

    implements = base.Transport.implements.extend(
        asynchronous=True, batch_publish=True, exchange_type=frozenset(["direct", "topic"])
    )

    @classmethod
    def _url(cls, client: Any) -> str:
        hostname = client.hostname or ""
        return hostname if hostname.startswith("sqla") else f"sqla+{hostname}"
