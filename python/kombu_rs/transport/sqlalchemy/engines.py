"""SQLAlchemy's engines: one for each database and set of options in a process."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ("Tables", "engine_key", "known", "require_sqlalchemy", "set_aside", "tables_of")

#: Guards the engines; never held while a database is asked.
mutex = threading.RLock()

#: Engines and their session factories, by :func:`engine_key`.
known: dict[Any, tuple[Any, Any]] = {}


class Tables:
    """What this process knows of the tables in an engine's database."""

    def __init__(self) -> None:
        #: Held while tables are made.
        self.lock = threading.RLock()
        #: Names of the pairs of tables that are there.
        self.made: set[tuple[str, str]] = set()


_tables: WeakKeyDictionary[Any, Tables] = WeakKeyDictionary()

# What a forked child has of its parent's connections. It is kept: nothing in it may be closed
# politely, which would end the parent's sessions.
_inherited: list[Any] = []


def require_sqlalchemy(reason: str) -> None:
    """Check that SQLAlchemy is there.

    Arguments:
        reason: why it is needed, for the error.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import sqlalchemy  # noqa: F401
    except ImportError as exc:
        raise ImportError(
            f"{reason}: this takes SQLAlchemy and the database's driver "
            f"(pip install 'kombu-rs[sqlalchemy]'). Without it files of SQLite are served, as in "
            f"sqla+sqlite:///file.db",
            name="sqlalchemy",
        ) from exc


def engine_key(url: str, options: dict[str, Any]) -> Any:
    """Return what tells engines apart.

    Arguments:
        url: SQLAlchemy's URL.
        options: arguments of ``create_engine``.
    """
    return (url, *((name, _hashable(value)) for name, value in sorted(options.items())))


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


def tables_of(engine: Any) -> Tables:
    """Return what is known of the tables in an engine's database."""
    with mutex:
        return _tables.setdefault(engine, Tables())


def set_aside(session: Any) -> None:
    """Keep a session that was inherited from the parent process from being closed."""
    _inherited.append(session)


def _after_fork_in_child() -> None:
    """Leave the parent's connections to the parent."""
    global mutex
    # Threads that are not here may have held them.
    mutex = threading.RLock()
    for tables in list(_tables.values()):
        tables.lock = threading.RLock()
    for engine, _ in known.values():
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
