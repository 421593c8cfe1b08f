"""The event loop that a Celery worker runs on.

Everything but :meth:`Hub.call_soon`, :meth:`Hub.stop` and the timer belongs to
the thread that runs the loop.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from time import sleep
from types import GeneratorType
from typing import Any

from ..log import get_logger
from ..utils.compat import fileno
from ..utils.eventio import ERR, READ, WRITE, poll
from ..utils.functional import maybe_list
from ..utils.objects import cached_property
from .promise import promise
from .timer import Entry, Timer
from .waker import Waker

__all__ = ("Hub", "get_event_loop", "set_event_loop")

logger: logging.Logger = get_logger("kombu.asynchronous.hub")

#: Seconds to wait at most while no file is watched: who adds one from another
#: thread is seen after that time.
IDLE_INTERVAL = 0.1
#: Seconds to wait at most while no timer is set.
POLL_INTERVAL = 1

_current_loop: Hub | None = None


class Stop(BaseException):
    """Ends :meth:`Hub.run_forever`."""


def _raise_stop_error() -> None:
    raise Stop()


@contextmanager
def _dummy_context(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


def get_event_loop() -> Hub | None:
    """Return the current event loop of the process, or ``None``."""
    return _current_loop


def set_event_loop(loop: Hub | None) -> Hub | None:
    """Make ``loop`` the current event loop of the process, and return it."""
    global _current_loop
    _current_loop = loop
    return loop


class Hub:
    """An event loop: files, timers, and callbacks for the next turn.

    Arguments:
        timer (Timer): Default a new one.
    """

    #: Event bits.
    READ, WRITE, ERR = READ, WRITE, ERR

    #: Callbacks for when the hub is closed or reset, called with it; a set of each hub's own.
    on_close: set[Callable[[Hub], Any]] = None  # type: ignore[assignment]

    timer: Timer

    def __init__(self, timer: Any = None) -> None:
        self.timer = timer if timer is not None else Timer()
        #: ``(callback, args)`` by descriptor, ``None`` for consolidated ones.
        self.readers: dict[int, Any] = {}
        self.writers: dict[int, Any] = {}
        #: Callbacks for each turn of the loop.
        self.on_tick: set[Callable[[], Any]] = set()
        self.on_close = set()
        #: Descriptors that :attr:`consolidate_callback` is called with, all that
        #: are ready at once.
        self.consolidate: set[int] = set()
        self.consolidate_callback: Callable[[list[int]], Any] | None = None
        #: Exceptions of timers that end the loop; others are logged.
        self.propagate_errors: tuple[type[BaseException], ...] = ()
        self._ready: set[Any] = set()
        self._ready_lock = threading.Lock()
        self._waker: Waker | None = None
        self._wake_pending = False
        self._loop_thread: int | None = None
        self._more_timers = False  # the last turn left some that may be due
        self._loop: Generator[None, None, None] | None = None
        self._poller: Any = None
        self._create_poller()

    # -- the poller

    @property
    def poller(self) -> Any:
        """What waits for the files; made anew when it is asked for after :meth:`close`."""
        if self._poller is None:
            self._create_poller()
        return self._poller

    @poller.setter
    def poller(self, value: Any) -> None:
        self._poller = value

    def _create_poller(self) -> None:
        self._poller = poll()

    def _close_poller(self) -> None:
        if self._poller is not None:
            self._poller.close()
            self._poller = None

    def _create_waker(self) -> None:
        """Watch our waker; make it if there is none, or only our parent's."""
        waker = self._waker
        if waker is not None and (waker.pid != os.getpid() or waker.fileno() < 0):
            waker.close()
            waker = None
        if waker is None:
            waker = Waker()
        self.poller.register(waker.fileno(), READ)
        with self._ready_lock:
            self._waker = waker
            self._wake_pending = False

    def _on_wakeup(self, waker: Waker) -> None:
        # First the flag, then the bytes: who calls from here on writes
        # another byte, which at worst wakes us once for nothing.
        with self._ready_lock:
            self._wake_pending = False
        waker.drain()

    # -- life

    def reset(self) -> None:
        """Forget all files, as :meth:`close` does, and be ready to watch new ones."""
        self._close()
        self._create_poller()

    def _close(self) -> None:
        """Forget all files, tell ``on_close``, and make the callbacks that wait."""
        for fd in {*self.readers, *self.writers}:
            self._unregister(fd)
        self.readers.clear()
        self.writers.clear()
        self.consolidate.clear()
        self._close_poller()
        self._loop = None
        for callback in list(self.on_close):
            callback(self)
        for todo in self._pop_ready():
            if todo is None:
                continue
            try:
                todo()
            except Stop:
                pass
            except Exception as exc:
                self.on_callback_error(todo, exc)

    def close(self, *args: Any) -> None:
        """Forget all files and close the poller. Using the hub again opens a new one."""
        self._close()
        with self._ready_lock:
            waker, self._waker = self._waker, None
            self._loop_thread = None
        if waker is not None:
            waker.close()
        if _current_loop is self:
            set_event_loop(None)

    def stop(self) -> None:
        """End :meth:`run_forever` in its next turn."""
        self.call_soon(_raise_stop_error)

    def __repr__(self) -> str:
        return f"<Hub@{id(self):#x}: R:{len(self.readers)} W:{len(self.writers)}>"

    # -- callbacks and timers

    def call_soon(self, callback: Any, *args: Any) -> Any:
        """Make a call in the next turn of the loop; any thread may ask for it.

        Returns:
            The promise of it: ``callback`` itself if it is one.
        """
        if not hasattr(type(callback), "then"):
            callback = promise(callback, args)
        waker = None
        with self._ready_lock:
            self._ready.add(callback)
            if (
                self._waker is not None
                and not self._wake_pending
                and self._loop_thread != threading.get_ident()
            ):
                self._wake_pending = True
                waker = self._waker
        if waker is not None:
            waker.wake()
        return callback

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Entry:
        """Make a call in ``delay`` seconds; return the timer's entry."""
        return self.timer.call_after(delay, callback, args)

    def call_at(self, when: Any, callback: Callable[..., Any], *args: Any) -> Entry | None:
        """Make a call at ``when`` (see :meth:`Timer.call_at`); return the timer's entry."""
        return self.timer.call_at(when, callback, args)

    def call_repeatedly(self, delay: float, callback: Callable[..., Any], *args: Any) -> Entry:
        """Make a call every ``delay`` seconds; return the timer's entry."""
        return self.timer.call_repeatedly(delay, callback, args)

    def _pop_ready(self) -> set[Any]:
        with self._ready_lock:
            ready, self._ready = self._ready, set()
        return ready

    def on_callback_error(self, callback: Any, exc: BaseException) -> None:
        """Log the exception of a callback."""
        logger.error("Callback %r raised exception: %r", callback, exc, exc_info=exc)

    def fire_timers(
        self,
        min_delay: float = 1,
        max_delay: float = 10,
        max_timers: int = 10,
        propagate: tuple[type[BaseException], ...] = (),
    ) -> float:
        """Make the timer's calls that are due.

        Arguments:
            min_delay: Returned if there were more than ``max_timers``.
            max_delay: Most that is returned.
            max_timers: Most calls to make.
            propagate: Exceptions to raise; others are logged, except for lack of memory.

        Returns:
            Seconds until the next is due.
        """
        self._more_timers = False
        delay = None
        if not self.timer._queue:
            return max_delay
        for _ in range(max_timers):
            delay, entry = next(self.scheduler)
            if entry is None:
                break
            try:
                entry()
            except propagate:
                raise
            except (MemoryError, AssertionError):
                raise
            except OSError as exc:
                if exc.errno == errno.ENOMEM:
                    raise
                logger.error("Error in timer: %r", exc, exc_info=True)
            except Exception as exc:
                logger.error("Error in timer: %r", exc, exc_info=True)
        else:
            self._more_timers = True
        return min(delay or min_delay, max_delay)

    @cached_property
    def scheduler(self) -> Iterator[tuple[float | None, Any]]:
        """The timer's iterator."""
        return iter(self.timer)

    # -- files

    def add(
        self,
        fd: Any,
        callback: Any,
        flags: int,
        args: tuple[Any, ...] = (),
        consolidate: bool = False,
    ) -> None:
        """Call ``callback`` with ``args`` whenever the file is ready.

        Arguments:
            fd: Descriptor, or something that has one.
            callback: Function, or a generator that is resumed.
            flags: :attr:`READ` or :attr:`WRITE`, and :attr:`ERR`.
            consolidate: Pass it to ``consolidate_callback`` instead.
        """
        fd = fileno(fd)
        wanted = flags
        if flags & READ and fd in self.writers:
            wanted |= WRITE  # one registration serves both
        elif flags & WRITE and fd in self.readers:
            wanted |= READ | ERR
        try:
            self.poller.register(fd, wanted)
        except ValueError:
            self._discard(fd)
            raise
        watched = self.readers if flags & READ else self.writers
        if consolidate:
            self.consolidate.add(fd)
            watched[fd] = None
        else:
            watched[fd] = callback, args

    def add_reader(self, fds: Any, callback: Any, *args: Any) -> None:
        """Call ``callback`` whenever there is something to read."""
        self.add(fds, callback, READ | ERR, args)

    def add_writer(self, fds: Any, callback: Any, *args: Any) -> None:
        """Call ``callback`` whenever something can be written."""
        self.add(fds, callback, WRITE, args)

    def remove(self, fd: Any) -> None:
        """Stop watching the file; one that is not watched is no error."""
        fd = fileno(fd)
        self._unregister(fd)
        self._remove_from_loop(fd)

    def remove_reader(self, fd: Any) -> None:
        """Stop watching for something to read."""
        self._keep_only(fileno(fd), self.readers, self.writers, WRITE)

    def remove_writer(self, fd: Any) -> None:
        """Stop watching for room to write."""
        self._keep_only(fileno(fd), self.writers, self.readers, READ | ERR)

    def _keep_only(self, fd: int, gone: dict[int, Any], other: dict[int, Any], flags: int) -> None:
        if fd not in gone:
            return
        was_consolidated = fd in self.consolidate
        kept = other.get(fd, KeyError)
        self._unregister(fd)
        self._remove_from_loop(fd)
        if kept is not KeyError:
            callback, args = kept or (None, ())
            self.add(fd, callback, flags, args, consolidate=was_consolidated and kept is None)

    def _unregister(self, fd: int) -> None:
        with suppress(AttributeError, KeyError, OSError):  # closed, or not watched
            self.poller.unregister(fd)

    def _discard(self, fd: Any) -> None:
        self._remove_from_loop(fileno(fd))

    def _remove_from_loop(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)
        self.consolidate.discard(fd)

    # -- running

    @property
    def loop(self) -> Generator[None, None, None]:
        """The generator whose each step is a turn of the loop."""
        if self._loop is None:
            self._loop = self.create_loop()
        return self._loop

    def run_forever(self) -> None:
        """Turn until :meth:`stop`."""
        while True:
            try:
                self.run_once()
            except Stop:
                break

    def run_once(self) -> None:
        """Make one turn."""
        try:
            next(self.loop)
        except StopIteration:
            self._loop = None

    def create_loop(
        self,
        generator: Any = GeneratorType,
        **kwargs: Any,
    ) -> Generator[None, None, None]:
        """Return a generator that makes one turn per step.

        A turn: callbacks, timers, ``on_tick``, then wait for files and call
        theirs. It ends when the poller was closed.
        """
        with self._ready_lock:
            self._loop_thread = threading.get_ident()
        self._create_waker()
        while True:
            if self._ready:
                self._run_ready()
            timeout = self._run_timers()
            if self.on_tick:
                for callback in list(self.on_tick):
                    callback()
            if self._ready:
                # Something to do is there already: look what else is, but do not wait.
                timeout = 0
            if self.readers or self.writers:
                try:
                    events = self.poller.poll(timeout)
                except ValueError:  # closed meanwhile
                    return
                if events:
                    self._handle_events(events, generator)
            else:
                self._wait_for_wakeup(min(timeout, IDLE_INTERVAL))
            yield

    def _wait_for_wakeup(self, timeout: float) -> None:
        waker = self._waker
        if waker is None:  # closed meanwhile
            sleep(timeout)
        elif waker.wait(timeout):
            self._on_wakeup(waker)

    def _run_ready(self) -> None:
        todos = self._pop_ready()
        while todos:
            callback = todos.pop()
            if callback is None:
                continue
            try:
                callback()
            except BaseException:
                # Whoever handles that may go on with the loop.
                with self._ready_lock:
                    self._ready |= todos
                raise

    def _run_timers(self) -> float:
        """Fire timers that are due and return the seconds that may be waited for the next."""
        if not self.timer._queue:
            return POLL_INTERVAL
        delay = self.fire_timers(propagate=self.propagate_errors)
        return 0 if self._more_timers else delay

    def _handle_events(self, events: Iterable[tuple[int, int]], generator: Any) -> None:
        consolidated = []
        waker = self._waker
        wakeup = waker.fileno() if waker is not None else -1
        for fd, event in events:
            if event & READ and fd in self.readers:
                self._call(fd, self.readers, generator)
                if event & WRITE and fd in self.writers:
                    self._call(fd, self.writers, generator)
            elif fd == wakeup and waker is not None:
                self._on_wakeup(waker)
            elif fd in self.consolidate and self.writers.get(fd) is None:
                consolidated.append(fd)
            elif event & (WRITE | ERR) and fd in self.writers:
                self._call(fd, self.writers, generator)
            elif event & ERR and fd in self.readers:
                # Whoever uses the file finds out about an error by using it.
                self._call(fd, self.readers, generator)
            else:
                self._settle(fd)
        if consolidated and self.consolidate_callback is not None:
            self.consolidate_callback(consolidated)

    def _settle(self, fd: int) -> None:
        """Make the poller watch ``fd`` for what is wanted: an event came that is not.

        Such an event would come again and again.
        """
        flags = (READ | ERR if fd in self.readers else 0) | (WRITE if fd in self.writers else 0)
        self._unregister(fd)
        if flags:
            self.poller.register(fd, flags)

    def _call(self, fd: int, watched: dict[int, Any], generator: Any) -> None:
        """Call what is watching ``fd``."""
        entry = watched[fd]
        if entry is None:  # consolidated, but there is nobody to pass it to
            self._settle(fd)
            return
        callback, args = entry
        if not isinstance(callback, generator):
            try:  # noqa: SIM105  (`suppress` takes twice as long)
                callback(*args)
            except Empty:
                pass
            return
        try:
            next(callback)
        except StopIteration:
            # It may have left something else in its place.
            if watched.get(fd) is entry:
                (self.remove_reader if watched is self.readers else self.remove_writer)(fd)
        except Exception as exc:
            self.remove(fd)
            if getattr(exc, "errno", None) != errno.EBADF:
                raise

    # -- showing

    def repr_active(self) -> str:
        """Return what is watched as text."""
        from .debug import repr_active

        return repr_active(self)

    def repr_events(self, events: Any) -> str:
        """Return events of the poller as text."""
        from .debug import repr_events

        return repr_events(self, maybe_list(events))
