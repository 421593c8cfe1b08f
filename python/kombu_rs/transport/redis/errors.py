"""The exceptions of ``redis://``, as programs know them that also use redis-py.

The native core needs no redis-py. A program that has imported it may catch its exceptions, and
so the errors of this transport are exceptions of redis-py, too, as soon as that is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..._typing import Any, NamedTuple
from ...exceptions import BrokerConnectionError, ChannelError, ConnectionError, InconsistencyError
from .. import native

__all__ = ("error_class", "error_classes_t", "get_redis_ConnectionError", "get_redis_error_classes")


class error_classes_t(NamedTuple):
    """What can go wrong: with the connection, or with one operation."""

    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]


# By what the core calls the error: our name, our class, and the name of redis-py's.
_KINDS: dict[str, tuple[str, type[Exception], str]] = {
    "connection": ("RedisConnectionError", BrokerConnectionError, "ConnectionError"),
    "auth": ("RedisAuthenticationError", BrokerConnectionError, "AuthenticationError"),
    "channel": ("RedisResponseError", ChannelError, "ResponseError"),
    "memory": ("RedisOutOfMemoryError", ChannelError, "OutOfMemoryError"),
}

_made: dict[str, type[Exception]] = {}


def _their_exceptions() -> Any:
    """The module ``redis.exceptions``, if the program has imported it."""
    module = sys.modules.get("redis.exceptions")
    return module if hasattr(module, "ResponseError") else None


def error_class(kind: str) -> type[Exception] | None:
    """Return the class of an error that is one of redis-py's, too.

    Arguments:
        kind: ``"connection"``, ``"auth"``, ``"channel"`` or ``"memory"``.

    None when the program has not imported redis-py: then nobody can catch its classes.
    """
    theirs = _their_exceptions()
    if theirs is None:
        return None
    name, ours, their_name = _KINDS[kind]
    made = _made.get(kind)
    # Older versions know no difference between refusals.
    parent = getattr(theirs, their_name, theirs.ResponseError)
    if made is None or not issubclass(made, parent):
        made = _made[kind] = _join(name, ours, parent)
    return made


def _join(name: str, ours: type[Exception], theirs: type[Exception]) -> type[Exception]:
    def __init__(self: Exception, *args: Any) -> None:
        # Both: each has attributes that its users read.
        theirs.__init__(self, *args)
        ours.__init__(self, *args)

    def __repr__(self: Exception) -> str:
        return f"{name}({str(self)!r})"

    members = {
        "__init__": __init__,
        "__repr__": __repr__,
        "__module__": __name__,
        "__doc__": f"{ours.__name__} of Redis that is redis-py's {theirs.__name__}, too.",
    }
    return type(name, (ours, theirs), members)


def __getattr__(name: str) -> Any:
    # Where pickle looks for the classes above.
    for kind, (known, _, _) in _KINDS.items():
        if name == known:
            from redis import exceptions as _  # noqa: F401

            return error_class(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_redis_error_classes() -> error_classes_t:
    """Return the errors of Redis, those of redis-py included.

    For code that uses redis-py itself, such as Celery's result backend.

    Raises:
        ImportError: redis-py is not installed.
    """
    from redis import exceptions

    names = ("DataError", "InvalidData")
    # Old versions have another name for it.
    data_error = next(getattr(exceptions, name) for name in names if hasattr(exceptions, name))
    return error_classes_t(
        (
            ConnectionError,
            InconsistencyError,
            OSError,
            exceptions.ConnectionError,
            exceptions.BusyLoadingError,
            exceptions.AuthenticationError,
            exceptions.TimeoutError,
        ),
        (
            ChannelError,
            data_error,
            exceptions.InvalidResponse,
            exceptions.ResponseError,
        ),
    )


def get_redis_ConnectionError() -> type[Exception]:
    """Return redis-py's ``ConnectionError``.

    Raises:
        ImportError: redis-py is not installed.
    """
    from redis import exceptions

    return exceptions.ConnectionError


class ErrorClasses:
    """A class attribute that is worked out when it is read: redis-py may be imported meanwhile.

    Arguments:
        find: called without arguments; returns the tuple.
    """

    def __init__(self, find: Callable[[], tuple[type[BaseException], ...]]) -> None:
        self._find = find

    def __get__(self, obj: Any, owner: type | None = None) -> tuple[type[BaseException], ...]:
        return self._find()


def connection_errors() -> tuple[type[BaseException], ...]:
    """What says that the connection is lost or cannot be made."""
    errors = (*native.Transport.connection_errors, InconsistencyError, KeyError)
    made = [made for made in map(error_class, ("connection", "auth")) if made is not None]
    if not made:
        return errors
    return (*errors, *made, *get_redis_error_classes().connection_errors)


def channel_errors() -> tuple[type[BaseException], ...]:
    """What says that one operation was refused."""
    made = error_class("channel")
    if made is None:
        return native.Transport.channel_errors
    theirs = get_redis_error_classes().channel_errors
    return (*native.Transport.channel_errors, made, *theirs)
