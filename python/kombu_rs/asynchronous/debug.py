"""Showing what an event loop watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..utils.eventio import ERR, READ, WRITE
from ..utils.functional import reprcall


def repr_flag(flag: int) -> str:
    """Return event bits as letters: ``R``, ``W``, ``!`` for errors."""
    return "".join(
        letter for bits, letter in ((READ, "R"), (WRITE, "W"), (ERR, "!")) if flag & bits
    )


def _rcb(obj: Any) -> str:
    if obj is None:
        return "<missing>"
    if isinstance(obj, str):
        return obj
    if isinstance(obj, tuple):
        callback, args = obj
        return reprcall(_rcb(callback), args)
    return getattr(obj, "__name__", None) or repr(obj)


def _repr_watched(watched: dict[int, Any], flag: int) -> list[str]:
    return [f"({fd}){_rcb(callback)}->{repr_flag(flag)}" for fd, callback in watched.items()]


def repr_active(h: Any) -> str:
    """Return the readers and writers of the hub ``h`` as text."""
    return ", ".join(repr_readers(h) + repr_writers(h))


def repr_readers(h: Any) -> list[str]:
    """Return a text for each reader of the hub ``h``."""
    return _repr_watched(h.readers, READ | ERR)


def repr_writers(h: Any) -> list[str]:
    """Return a text for each writer of the hub ``h``."""
    return _repr_watched(h.writers, WRITE)


def repr_events(h: Any, events: Iterable[tuple[int, int]]) -> str:
    """Return the events that the poller of the hub ``h`` reported as text."""
    return ", ".join(
        f"({_rcb(callback_for(h, fd, fl, '(GONE)'))})({fd})->{repr_flag(fl)}"
        for fd, fl in events or ()
    )


def callback_for(h: Any, fd: int, flag: int, *default: Any) -> Any:
    """Return what the hub ``h`` calls for an event.

    Raises:
        KeyError: if it is nothing, and no ``default`` is given.
    """
    try:
        if flag & READ:
            return h.readers[fd]
        if flag & WRITE:
            return h.writers[fd]
        if flag & ERR:
            return h.readers[fd] if fd in h.readers else h.writers[fd]
        raise KeyError(fd)
    except KeyError:
        if default:
            return default[0]
        raise
