"""How the native core sleeps in a process of green threads.

Where gevent or eventlet have replaced the blocking calls, a thread that sleeps in the kernel stops
all greenlets. The core then calls ``wait(fds, timeout)`` from here instead of ``poll(2)``: it parks
the current greenlet on the hub, and the others run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

#: Bit of an interest: the descriptor is readable, or hung up.
READ = 1
#: Bit of an interest: the descriptor is writable.
WRITE = 2

#: ``wait([(fd, bits), ...], timeout)``: returns when one descriptor is ready or ``timeout`` seconds
#: have passed (``None``: no limit). It may return without cause, and raises what is thrown into
#: the greenlet (``gevent.Timeout``, ``GreenletExit``, ...).
Wait = Callable[[Sequence[tuple[int, int]], "float | None"], None]


def find_wait() -> Wait | None:
    """Return the ``wait`` of the library that has patched ``select``, ``None`` if none has.

    A library that is merely imported does not count: its greenlets block in ``select`` as well.
    """
    if "gevent" in sys.modules:
        from gevent import monkey

        if monkey.is_module_patched("select") or monkey.is_module_patched("socket"):
            from ._gevent import wait

            return wait
    if "eventlet" in sys.modules:
        from eventlet import patcher

        if patcher.is_monkey_patched("select") or patcher.is_monkey_patched("socket"):
            from ._eventlet import wait

            return wait
    return None


def block(
    poll_type: Callable[[], object], fds: Sequence[tuple[int, int]], timeout: float | None
) -> None:
    """Sleep in the kernel after all: for code that runs on the hub itself, which cannot be parked.

    Arguments:
        poll_type: the unpatched ``select.poll``.
        fds: as for :data:`Wait`.
        timeout: seconds, ``None`` for no limit.
    """
    import math
    import select

    poll = poll_type()
    for fd, bits in fds:
        events = (select.POLLIN if bits & READ else 0) | (select.POLLOUT if bits & WRITE else 0)
        poll.register(fd, events)  # type: ignore[attr-defined]
    millis = None if timeout is None else max(0, math.ceil(timeout * 1000))
    poll.poll(millis)  # type: ignore[attr-defined]
