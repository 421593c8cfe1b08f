"""Waiting for many file descriptors: epoll, kqueue, poll or select under one interface.

A poller has ``register(fd, events)``, ``unregister(fd)``, ``poll(timeout)`` and
``close()``. Events are the bits :data:`READ`, :data:`WRITE` and :data:`ERR`,
timeouts are in seconds (``None`` waits for ever).
"""

from __future__ import annotations

import errno
import math
import select

from .._typing import Any
from .compat import detect_environment, fileno

# Typed as anything: not every system has every name in it.
_sys: Any = select

__all__ = ("poll",)

epoll: Any = getattr(_sys, "epoll", None)
kqueue: Any = getattr(_sys, "kqueue", None)
kevent: Any = getattr(_sys, "kevent", None)

#: Something can be read (or the peer has closed).
READ = POLL_READ = 0x001
#: Something can be written.
WRITE = POLL_WRITE = 0x004
#: Error or hang-up; always reported, asked for or not.
ERR = POLL_ERR = 0x008 | 0x010

#: ``errno`` values by which ``select`` says that a descriptor is not open.
SELECT_BAD_FD = {errno.EBADF}
if hasattr(errno, "WSAENOTSOCK"):
    SELECT_BAD_FD.add(errno.WSAENOTSOCK)

Events = list[tuple[int, int]]


class _epoll:
    """Linux."""

    def __init__(self) -> None:
        self._epoll = epoll()

    def register(self, fd: Any, events: int) -> Any:
        """Watch ``fd`` for exactly ``events``."""
        try:
            self._epoll.register(fd, events)
        except OSError as exc:
            if exc.errno != errno.EEXIST:
                raise
            self._epoll.modify(fd, events)
        return fd

    def unregister(self, fd: Any) -> None:
        """Stop watching ``fd``; one that is not watched is no error."""
        try:
            self._epoll.unregister(fd)
        except (ValueError, KeyError, TypeError):
            pass
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.EPERM):
                raise

    def poll(self, timeout: float | None) -> Events | None:
        """Return ``(fd, events)`` pairs; ``None`` if a signal came in between."""
        try:
            return self._epoll.poll(-1 if timeout is None else timeout)
        except OSError as exc:
            if exc.errno != errno.EINTR:
                raise
            return None

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()


class _kqueue:
    """macOS and the BSDs."""

    def __init__(self) -> None:
        self._kqueue = kqueue()
        self._active: dict[int, int] = {}

    def register(self, fd: Any, events: int) -> Any:
        """Watch ``fd`` for exactly ``events``."""
        number = fileno(fd)
        self._control(number, self._active.get(number, 0) & ~events, _sys.KQ_EV_DELETE)
        self._control(number, events, _sys.KQ_EV_ADD)
        self._active[number] = events
        return fd

    def unregister(self, fd: Any) -> None:
        """Stop watching ``fd``; one that is not watched is no error."""
        number = fileno(fd)
        events = self._active.pop(number, 0)
        try:
            self._control(number, events, _sys.KQ_EV_DELETE)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.EBADF):
                raise

    def _control(self, fd: int, events: int, flags: int) -> None:
        changes = []
        if events & READ:
            changes.append(kevent(fd, _sys.KQ_FILTER_READ, flags))
        if events & WRITE:
            changes.append(kevent(fd, _sys.KQ_FILTER_WRITE, flags))
        for change in changes:
            self._kqueue.control([change], 0)

    def poll(self, timeout: float | None) -> Events | None:
        """Return ``(fd, events)`` pairs; ``None`` if a signal came in between."""
        try:
            happened = self._kqueue.control(None, 1000, timeout)
        except OSError as exc:
            if exc.errno != errno.EINTR:
                raise
            return None
        events: dict[int, int] = {}
        for event in happened:
            bits = 0
            if event.filter == _sys.KQ_FILTER_READ:
                bits = READ
            elif event.filter == _sys.KQ_FILTER_WRITE:
                bits = WRITE
            if event.flags & _sys.KQ_EV_ERROR:
                bits |= ERR
            events[event.ident] = events.get(event.ident, 0) | bits
        return list(events.items())

    def close(self) -> None:
        """Close the kqueue descriptor."""
        self._kqueue.close()


class _poll:
    """poll(2); what green threads patch."""

    def __init__(self) -> None:
        self._poller: Any = _sys.poll()

    def register(self, fd: Any, events: int) -> Any:
        """Watch ``fd`` for exactly ``events``."""
        wanted = 0
        if events & READ:
            wanted |= _sys.POLLIN
        if events & WRITE:
            wanted |= _sys.POLLOUT
        self._poller.register(fd, wanted)
        return fd

    def unregister(self, fd: Any) -> Any:
        """Stop watching ``fd``.

        Raises:
            KeyError: if it is not watched.
        """
        self._poller.unregister(fd)
        return fd

    def poll(self, timeout: float | None) -> Events | None:
        """Return ``(fd, events)`` pairs; ``None`` if a signal came in between."""
        milliseconds = None if timeout is None else math.ceil(timeout * 1000)
        try:
            happened = self._poller.poll(milliseconds)
        except OSError as exc:
            if exc.errno != errno.EINTR:
                raise
            return None
        events = []
        for fd, bits in happened:
            seen = READ if bits & _sys.POLLIN else 0
            if bits & _sys.POLLOUT:
                seen |= WRITE
            if bits & (_sys.POLLERR | _sys.POLLHUP | _sys.POLLNVAL):
                seen |= ERR
            if seen:
                events.append((fd, seen))
        return events

    def close(self) -> None:
        """Forget all descriptors."""
        self._poller = None


class _select:
    """select(2): for where there is nothing better."""

    def __init__(self) -> None:
        self._all: dict[int, set[int]] = {READ: set(), WRITE: set(), ERR: set()}

    def register(self, fd: Any, events: int) -> Any:
        """Watch ``fd`` for exactly ``events``."""
        number = fileno(fd)
        for event, watched in self._all.items():
            (watched.add if events & event else watched.discard)(number)
        return fd

    def unregister(self, fd: Any) -> None:
        """Stop watching ``fd``; one that is not watched is no error."""
        try:
            number = fileno(fd)
        except OSError:
            return  # closed: `poll` finds and removes it
        for watched in self._all.values():
            watched.discard(number)

    def _remove_bad(self) -> None:
        for fd in set().union(*self._all.values()):
            try:
                _sys.select([fd], [], [], 0)
            except (OSError, ValueError) as exc:
                if isinstance(exc, OSError) and exc.errno not in SELECT_BAD_FD:
                    raise
                self.unregister(fd)

    def poll(self, timeout: float | None) -> Events | None:
        """Return ``(fd, events)`` pairs; ``None`` if a signal came in between."""
        try:
            happened = _sys.select(self._all[READ], self._all[WRITE], self._all[ERR], timeout)
        except (OSError, ValueError) as exc:
            code = getattr(exc, "errno", None)
            if code == errno.EINTR:
                return None
            if code in SELECT_BAD_FD or isinstance(exc, ValueError):
                self._remove_bad()
                return None
            raise
        events: dict[int, int] = {}
        for event, fds in zip((READ, WRITE, ERR), happened, strict=True):
            for fd in fds:
                events[fd] = events.get(fd, 0) | event
        return list(events.items())

    def close(self) -> None:
        """Forget all descriptors."""
        for watched in self._all.values():
            watched.clear()


def _get_poller() -> type:
    if detect_environment() == "default":
        if epoll is not None:
            return _epoll
        if kqueue is not None:
            return _kqueue
    # Looked up now: gevent and eventlet replace these in the module.
    return _poll if hasattr(_sys, "poll") else _select


def poll(*args: Any, **kwargs: Any) -> Any:
    """Return a new poller: the best that this system and its green threads have."""
    return _get_poller()(*args, **kwargs)
