"""A lock in Redis, for one process at a time, over a client of redis-py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..._typing import Any

__all__ = ("Mutex", "MutexHeld")


class MutexHeld(Exception):
    """Somebody else has the lock."""


@contextmanager
def Mutex(client: Any, name: str, expire: float) -> Iterator[None]:
    """Hold a lock for the time of a ``with`` block.

    Arguments:
        client: a client of redis-py.
        name: the key of the lock.
        expire: seconds after which the lock is free in any case.

    Raises:
        MutexHeld: somebody else has it.
    """
    from redis.exceptions import LockNotOwnedError

    lock = client.lock(name, timeout=expire)
    if not lock.acquire(blocking=False):
        raise MutexHeld(name)
    try:
        yield
    finally:
        with suppress(LockNotOwnedError):  # it took longer than `expire`
            lock.release()
