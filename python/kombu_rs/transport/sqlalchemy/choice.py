"""Which engine serves a URL: the native one, or SQLAlchemy.

The native engine serves *files of SQLite*: it is faster, wakes without polling, and gives back what
a dead worker had taken. It is SQLite alone, and knows none of SQLAlchemy's settings. So any other
database, a database in memory (it is SQLAlchemy's pool that says who shares it) and any argument of
``create_engine`` among the transport options go to SQLAlchemy: a setting is never accepted and
ignored. Both write the same tables.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..native import CHANNEL_OPTIONS, CONNECTION_OPTIONS

__all__ = ("database_url", "engine_options", "reason_for_sqlalchemy")

_TABLES = frozenset({"queue_tablename", "message_tablename"})
# Options that the native engine alone knows.
_NATIVE = frozenset({"busy_timeout", "synchronous"})
_NO_ENGINE_OPTION = _TABLES | _NATIVE | CONNECTION_OPTIONS | CHANNEL_OPTIONS


def database_url(client: Any) -> str:
    """Return the URL of a connection as SQLAlchemy takes it."""
    url = client.hostname or ""
    for prefix in ("sqla+", "sqlalchemy+"):
        if url.startswith(prefix):
            return url[len(prefix) :]
    return url


def engine_options(client: Any) -> dict[str, Any]:
    """Return the transport options of a connection that are arguments of ``create_engine``.

    Raises:
        ValueError: there is one that only the native engine has, beside something that it has not.
    """
    options = client.transport_options or {}
    ours = sorted(_NATIVE.intersection(options))
    if ours:
        raise ValueError(
            f"the transport option {ours[0]!r} is for files of SQLite without SQLAlchemy, and "
            f"{reason_for_sqlalchemy(client) or 'the channel is open on SQLAlchemy'}"
        )
    return {name: value for name, value in options.items() if name not in _NO_ENGINE_OPTION}


def reason_for_sqlalchemy(client: Any) -> str | None:
    """Say why a connection needs SQLAlchemy; None: the native engine serves it.

    Arguments:
        client: the connection.
    """
    url = database_url(client)
    scheme, _, rest = url.partition("://")
    dialect, _, driver = scheme.partition("+")
    if dialect != "sqlite":
        # The native engine says what is wrong with a URL that names no dialect.
        named = dialect and dialect not in ("sqla", "sqlalchemy")
        return f"the SQL dialect is {dialect!r}" if named else None
    if driver not in ("", "pysqlite"):
        return f"the SQLite driver is {driver!r}"
    parts = urlsplit(f"sqlite://{rest}")
    if not parts.netloc and parts.path in ("", "/", "/:memory:"):
        return "the SQLite database is in memory"
    arguments = sorted(set(parse_qs(parts.query, keep_blank_values=True)) - {"timeout"})
    if arguments:
        return f"the URL has the argument {arguments[0]!r}"
    options = sorted(set(client.transport_options or {}) - _NO_ENGINE_OPTION)
    if options:
        return f"the transport option {options[0]!r} is an argument of create_engine"
    return None
