"""Waking an event loop from another thread."""

from __future__ import annotations

import math
import os
import select
import socket
from contextlib import suppress


class Waker:
    """A pair of sockets: a byte in one makes the loop's poller return.

    Belongs to one process; a forked child must make its own, as a byte in an
    inherited one would wake the parent.
    """

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.reader: socket.socket
        self.writer: socket.socket
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to watch; -1 when closed."""
        return self.reader.fileno()

    def wake(self) -> None:
        """Wake the loop. Does nothing if it is being woken already, or gone."""
        with suppress(OSError):  # full, which wakes as well, or closed
            self.writer.send(b"\0")

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; return true if somebody calls :meth:`wake`."""
        # Looked up now: gevent and eventlet replace it in the module.
        poller = select.poll()
        poller.register(self.reader, select.POLLIN)
        return bool(poller.poll(math.ceil(timeout * 1000)))

    def drain(self) -> None:
        """Take the bytes out again."""
        with suppress(OSError):  # empty, or closed
            while self.reader.recv(4096):
                pass

    def close(self) -> None:
        """Close both sockets."""
        self.reader.close()
        self.writer.close()
