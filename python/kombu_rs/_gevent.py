"""Waiting on gevent's hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from gevent import getcurrent
from gevent.hub import Waiter, get_hub
from gevent.monkey import get_original

from ._greenlets import block

#: Watchers that are kept for the next wait of the same kind, per hub.
_KEEP = 128

# {hub: {(fd, bits): [idle watcher, ...]}}. Each hub belongs to one thread, so a cache is never
# used by two threads at a time; gevent's own locks would be greenlet-aware, and slower.
_idle: WeakKeyDictionary[Any, dict[tuple[int, int], list[Any]]] = WeakKeyDictionary()


def wait(fds: Sequence[tuple[int, int]], timeout: float | None) -> None:
    """Park the current greenlet until a descriptor is ready or ``timeout`` seconds have passed.

    gevent's bits for reading and writing are those of the core, 1 and 2. An idle libev watcher
    holds nothing but a number, so it is kept although the descriptor may be closed meanwhile; one
    of libuv holds the descriptor, so it is closed at once.
    """
    hub = get_hub()
    if getcurrent() is hub:
        return block(get_original("select", "poll"), fds, timeout)
    loop = hub.loop
    if timeout is not None and timeout <= 0:
        timeout = 0.0
    idle = _idle.get(hub)
    if idle is None:
        idle = _idle[hub] = {}
    reuse = "libuv" not in type(loop).__module__
    waiter = Waiter(hub)
    watchers = []
    timer = None
    try:
        for fd, bits in fds:
            known = idle.get((fd, bits))
            if known:
                watcher = known.pop()
                # The number may be a new file's by now: libev asks the kernel again only for a
                # watcher that was told its descriptor.
                watcher.fd = fd
            else:
                watcher = loop.io(fd, bits)
            watchers.append(watcher)
            watcher.start(waiter.switch, None)
        if timeout is not None:
            timer = loop.timer(timeout)
            # The loop's idea of the time is that of its last turn, which may be long ago.
            timer.start(waiter.switch, None, update=True)
        waiter.get()
    finally:
        if timer is not None:
            timer.close()
        for watcher, key in zip(watchers, fds, strict=False):
            watcher.stop()
            if reuse and len(idle) < _KEEP:
                idle.setdefault((key[0], key[1]), []).append(watcher)
            else:
                watcher.close()
        if len(idle) >= _KEEP:
            _forget(idle)


def _forget(idle: dict[tuple[int, int], list[Any]]) -> None:
    """Close all idle watchers: descriptors have come and gone, most of these are of no use."""
    kept = list(idle.values())
    idle.clear()
    for watchers in kept:
        for watcher in watchers:
            watcher.close()
