"""SQLAlchemy's engines: one for each database and set of options in a process."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ("engine_key", "known", "require_sqlalchemy", "set_aside")

#: Guards the engines, and the making of tables.
mutex = threading.RLock()

#: Engines and their session factories, by :func:`engine_key`.
known: dict[Any, tuple[Any, Any]] = {}

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


def set_aside(session: Any) -> None:
    """Keep a session that was inherited from the parent process from being closed."""
    _inherited.append(session)


def _after_fork_in_child() -> None:
    """Leave the parent's connections to the parent."""
    global mutex
    mutex = threading.RLock()  # a thread that is not here may have held it
    for engine, _ in known.values():
        _inherited.append(engine.pool)
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_after_fork_in_child)
