"""Differences between environments: green threads, files without descriptors, entry points."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from io import UnsupportedOperation
from itertools import count

from .._typing import Any

FILENO_ERRORS = (AttributeError, ValueError, UnsupportedOperation)


def coro(gen: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a generator function so that its generators start at their first ``yield``."""

    @wraps(gen)
    def started(*args: Any, **kwargs: Any) -> Any:
        it = gen(*args, **kwargs)
        next(it)
        return it

    return started


_environment: str | None = None


def _is_eventlet() -> bool:
    if "eventlet" not in sys.modules:
        return False
    try:
        import socket

        from eventlet.patcher import is_monkey_patched
    except ImportError:
        return False
    return bool(is_monkey_patched(socket))


def _is_gevent() -> bool:
    if "gevent" not in sys.modules:
        return False
    try:
        import socket

        from gevent import socket as gevent_socket
    except ImportError:
        return False
    return socket.socket is gevent_socket.socket


def _detect_environment() -> str:
    if _is_eventlet():
        return "eventlet"
    return "gevent" if _is_gevent() else "default"


def detect_environment() -> str:
    """Return ``'eventlet'`` or ``'gevent'`` if it has patched ``socket``, else ``'default'``.

    The answer of the first call is kept.
    """
    global _environment
    if _environment is None:
        _environment = _detect_environment()
    return _environment


def get_gevent_concurrent_error() -> type[BaseException] | None:
    """Return gevent's ``ConcurrentObjectUseError`` if gevent is loaded, else ``None``.

    Asked for at each call, since gevent is often imported after this library.
    """
    if "gevent" not in sys.modules:
        return None
    try:
        from gevent.exceptions import ConcurrentObjectUseError
    except ImportError:
        return None
    return ConcurrentObjectUseError


def entrypoints(namespace: str) -> Iterator[tuple[Any, Any]]:
    """Yield ``(entry point, loaded object)`` for what installed packages offer in ``namespace``."""
    # Not at the top: importing it takes longer than importing this package.
    from importlib import metadata

    for entry_point in metadata.entry_points(group=namespace):
        yield entry_point, entry_point.load()


def fileno(f: Any) -> int:
    """Return the descriptor of a file, a socket or a number.

    Raises:
        ValueError: if ``f`` is ``None`` (a closed file has no number to watch).
        AttributeError: if ``f`` has no ``fileno``.
    """
    if f is None:
        raise ValueError("file descriptor is None")
    if isinstance(f, int):
        return f
    return f.fileno()


def maybe_fileno(f: Any) -> int | None:
    """Return the descriptor of ``f``, or ``None`` if it has none."""
    try:
        return fileno(f)
    except FILENO_ERRORS:
        return None


@contextmanager
def nested(*managers: Any) -> Iterator[list[Any]]:
    """Enter several context managers, leave them in reverse order."""
    with ExitStack() as stack:
        entered = []
        for manager in managers:
            # Methods of the object, not of its type: consumers may be stand-ins with their own.
            entered.append(manager.__enter__())
            stack.push(lambda *exc, leave=manager.__exit__: leave(*exc))
        yield entered


_fork_hooks: weakref.WeakValueDictionary[tuple[int, Callable[[Any], Any]], Any] = (
    weakref.WeakValueDictionary()
)
_fork_order = count()


def _run_fork_hooks() -> None:
    for (_, func), obj in sorted(_fork_hooks.items(), key=lambda item: item[0][0]):
        try:
            func(obj)
        except Exception as exc:
            import logging

            logging.getLogger("kombu").error("after-fork hook %r failed: %r", func, exc)


def register_after_fork(obj: Any, func: Callable[[Any], Any]) -> None:
    """Call ``func(obj)`` in every child process that is forked while ``obj`` is alive.

    Unlike the function of that name in :mod:`multiprocessing.util` this holds
    for every fork (``os.fork``, gunicorn, uWSGI), not only for the processes
    that :mod:`multiprocessing` starts.
    """
    number = next(_fork_order)
    if number == 0 and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_run_fork_hooks)
    _fork_hooks[number, func] = obj


def __getattr__(name: str) -> Any:
    # Kombu's name for what `entrypoints` asks; imported when somebody wants it.
    if name == "importlib_metadata":
        from importlib import metadata

        return metadata
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
