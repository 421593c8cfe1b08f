"""Waiting on eventlet's hub.

A hub of eventlet allows one listener for each descriptor and direction. Greenlets that share a
connection wait for the same descriptor, so they share its listener here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from eventlet import getcurrent, hubs, patcher

from ._greenlets import READ, WRITE, block

# {hub: {(direction, fd): shared listener}}
_shared: WeakKeyDictionary[Any, dict[tuple[str, int], _Shared]] = WeakKeyDictionary()


class _Shared:
    """The listener of one direction of one descriptor, and the greenlets that wait for it."""

    def __init__(self, hub: Any, direction: str, fd: int) -> None:
        self.wakes: list[Callable[[], None]] = []
        self.hub = hub
        self.listener = hub.add(direction, fd, self._ready, self._failed, self._closed)

    def _ready(self, _fd: Any = None) -> None:
        for wake in self.wakes[:]:
            wake()

    def _failed(self, *_error: Any) -> None:
        # The hub gives up on the descriptor; the core sees why when it uses it.
        self._ready()

    def _closed(self, *_info: Any) -> None:
        # Python closed the file under us, and the hub has dropped the listener.
        self._ready()


def wait(fds: Sequence[tuple[int, int]], timeout: float | None) -> None:
    """Park the current greenlet until a descriptor is ready or ``timeout`` seconds have passed."""
    hub = hubs.get_hub()
    current = getcurrent()
    if current is hub.greenlet:
        return block(patcher.original("select").poll, fds, timeout)
    woken = False

    def wake() -> None:
        # Once: the greenlet may wait for something else by the time a second event is seen.
        nonlocal woken
        if not woken:
            woken = True
            hub.schedule_call_global(0, resume)

    def resume() -> None:
        if waiting:
            current.switch()

    shared = _shared.setdefault(hub, {})
    used = []
    timer = None
    waiting = True
    try:
        for fd, bits in fds:
            for bit, direction in ((READ, hub.READ), (WRITE, hub.WRITE)):
                if bits & bit:
                    key = (direction, fd)
                    listener = shared.get(key)
                    if listener is None:
                        listener = shared[key] = _Shared(hub, direction, fd)
                    listener.wakes.append(wake)
                    used.append((key, listener))
        if timeout is not None:
            timer = hub.schedule_call_global(max(0.0, timeout), wake)
        hub.switch()
    finally:
        waiting = False
        if timer is not None:
            timer.cancel()
        for key, listener in used:
            listener.wakes.remove(wake)
            if not listener.wakes:
                del shared[key]
                hub.remove(listener.listener)
