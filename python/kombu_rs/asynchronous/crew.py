"""Calls that wait, on threads of their own; an event loop gets what they return.

For clients that can only block, such as boto3. A thread sleeps in its socket with the GIL
released, and takes it to parse an answer and to ring the loop. Everything else happens on the
loop's thread, as if the loop had read the socket itself.

A fork finds no thread between two states: it waits until they are through. The child begins
without threads and without calls, and what the parent's calls return does not reach it.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any

from ..log import get_logger

__all__ = ("Call", "Crew", "get_crew")

logger = get_logger("kombu.asynchronous.crew")

#: Most threads of a crew; further calls wait for one.
LIMIT = 32
#: Seconds that a thread waits for something to do before it ends.
IDLE_TIMEOUT = 30.0
#: Seconds that the end of the program waits for calls that must not be lost.
EXIT_TIMEOUT = 5.0

# Held for each change of a call's state, and by who forks. Reentrant: a signal handler may cancel
# a call while its thread is just looking at it.
_gate = threading.RLock()


class Call:
    """One call on a thread.

    Arguments:
        hub (Hub): the event loop that gets the outcome.
        fun (Callable): called without arguments on the thread.
        done (Callable): called on the loop as ``done(result, error)``; ``error`` is None when
            ``fun`` returned. Not called after :meth:`cancel`.
        late (Callable): called as ``late(result)``, on any thread, with what ``fun`` returned when
            nobody waits for it any more; for results that must be given back.
        waits (bool): whether it waits for something to happen. The program ends without it;
            another call is finished first.

    It belongs to the process that made it: a forked child delivers nothing of it, and gives
    nothing back.
    """

    def __init__(
        self,
        hub: Any,
        fun: Callable[[], Any],
        done: Callable[[Any, BaseException | None], Any],
        late: Callable[[Any], Any] | None = None,
        waits: bool = True,
    ) -> None:
        self.hub = hub
        self.waits: bool = waits
        self._fun = fun
        self._done = done
        self._late = late
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._settled = False  # delivered, or cancelled
        self._pid = os.getpid()

    def run(self) -> None:
        """Make the call; the crew does that."""
        with _gate:
            if self._settled:
                return
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = self._fun(), None
        except BaseException as exc:  # whatever it is, it belongs to who asked for it
            outcome = None, exc
        with _gate:
            cancelled = self._settled
            if cancelled:
                self.waits = False
            else:
                self._outcome = outcome
                self.hub.call_soon(self._deliver)
        if cancelled:
            self._give_back(outcome)

    def _deliver(self) -> None:
        with _gate:
            if self._settled or self._outcome is None or self._pid != os.getpid():
                return
            self._settled = True
            outcome = self._outcome
        self._done(*outcome)

    def cancel(self) -> None:
        """Deliver nothing. What has come, or comes later, is given to ``late``."""
        with _gate:
            if self._settled or self._pid != os.getpid():
                return
            self._settled = True
            outcome = self._outcome
        if outcome is not None:
            self._give_back(outcome)

    def _give_back(self, outcome: tuple[Any, BaseException | None]) -> None:
        result, error = outcome
        if error is None and self._late is not None:
            try:
                self._late(result)
            except Exception as exc:
                logger.warning("Could not give back the result of a call: %r", exc, exc_info=True)


class Crew:
    """Threads that make calls: started when needed, ended when idle.

    Arguments:
        limit (int): most threads; further calls wait for one.
        idle_timeout (float): seconds that a thread waits for a call before it ends.
    """

    def __init__(self, limit: int = LIMIT, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self.limit = limit
        self.idle_timeout = idle_timeout
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Call] = SimpleQueue()
        self._open: set[Call] = set()
        self._threads = 0

    def submit(self, call: Call) -> Call:
        """Have a call made, and return it.

        Raises:
            RuntimeError: no thread can be started, and there is none yet.
        """
        with self._lock:
            if len(self._open) >= self._threads and self._threads < self.limit:
                self._start()
            self._open.add(call)
            self._queue.put(call)
        return call

    def _start(self) -> None:
        # Daemons: the program must not wait for who waits for messages.
        thread = threading.Thread(target=self._work, name="kombu-crew", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while True:
            try:
                call = self._queue.get(timeout=self.idle_timeout)
            except Empty:
                with self._lock:
                    if not self._queue.empty():
                        continue
                    self._threads -= 1
                    return
            try:
                call.run()
            except Exception as exc:
                logger.error("Could not hand over the result of a call: %r", exc, exc_info=True)
            with self._lock:
                self._open.discard(call)
            del call  # or its result lives until the next one

    def retire(self, timeout: float = EXIT_TIMEOUT) -> None:
        """Cancel the calls that wait, and let the others be finished.

        Arguments:
            timeout: seconds to wait for them at most.
        """
        deadline = monotonic() + timeout
        for call in self._calls():
            if call.waits:
                call.cancel()
        while any(not call.waits for call in self._calls()) and monotonic() < deadline:
            sleep(0.01)

    def _calls(self) -> list[Call]:
        with self._lock:
            return list(self._open)


_crew = Crew()


def get_crew() -> Crew:
    """Return the threads of this process."""
    return _crew


def _after_fork_in_child() -> None:
    global _crew, _gate
    _gate = threading.RLock()
    _crew = Crew()


def _at_exit() -> None:
    _crew.retire()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _gate.acquire(),
        after_in_parent=lambda: _gate.release(),
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
