"""Scheduling of calls, without threads: whoever iterates over the timer makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone, tzinfo
from functools import total_ordering
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import proxy as weakrefproxy

from ..log import get_logger

if TYPE_CHECKING:
    import logging

    from typing_extensions import Self

__all__ = ("Entry", "Timer", "to_timestamp")

logger: logging.Logger = get_logger("kombu.asynchronous.timer")

#: Seconds that the iterator waits at most.
DEFAULT_MAX_INTERVAL = 2


class scheduled(NamedTuple):
    """An entry in the timer's heap."""

    eta: float
    priority: int
    entry: Any


def to_timestamp(
    d: Any,
    default_timezone: tzinfo = timezone.utc,
    time: Callable[[], float] = monotonic,
) -> float:
    """Return when ``d`` is, by the monotonic clock in seconds; 0 for long ago.

    Arguments:
        d (datetime | float): A number is returned as it is.
        default_timezone: Of a ``d`` that has none.
    """
    if not isinstance(d, datetime):
        return d
    if d.tzinfo is None:
        d = d.replace(tzinfo=default_timezone)
    remaining = (d - datetime.now(timezone.utc)).total_seconds()
    return max(time() + remaining, 0)


@total_ordering
class Entry:
    """A call to be made, which can be cancelled.

    Arguments:
        fun (Callable): What to call.
        args (Sequence): With which arguments.
        kwargs (Mapping): With which keyword arguments.
    """

    __slots__ = ("__weakref__", "_last_run", "args", "canceled", "fun", "kwargs", "tref")

    def __init__(self, fun: Callable[..., Any], args: Any = None, kwargs: Any = None) -> None:
        self.fun: Callable[..., Any] = fun
        self.args: Any = args or []
        self.kwargs: Any = kwargs or {}
        #: The entry by a weak reference, for those who only want to cancel it.
        self.tref: Any = weakrefproxy(self)
        self.canceled: bool = False
        self._last_run: float | None = None

    def __call__(self) -> Any:
        return self.fun(*self.args, **self.kwargs)

    def cancel(self) -> None:
        """Do not make the call."""
        self.canceled = True

    @property
    def cancelled(self) -> bool:
        """The same as ``canceled``."""
        return self.canceled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self.canceled = value

    def __repr__(self) -> str:
        name = getattr(self.fun, "__name__", repr(self.fun))
        return f"<TimerEntry: {name}(*{self.args!r}, **{self.kwargs!r})"

    # Heaps compare entries that are due at the same time; any order will do.
    def __lt__(self, other: Any) -> bool:
        return id(self) < id(other)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)


_Entry = Entry  # the timer has an attribute of that name


class Timer:
    """A schedule; iterating over it says what is due.

    Arguments:
        max_interval (float): Seconds that the iterator waits at most, default 2.
        on_error (Callable): Called with an exception that scheduling or
            :meth:`apply_entry` met; without it the first is raised and the
            second logged.
    """

    Entry: type[_Entry] = Entry
    on_error: Callable[[BaseException], Any] | None = None

    def __init__(
        self,
        max_interval: float | None = None,
        on_error: Any = None,
        **kwargs: Any,
    ) -> None:
        self.max_interval: float = float(max_interval or DEFAULT_MAX_INTERVAL)
        self.on_error = on_error or self.on_error
        self._queue: list[scheduled] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    def call_at(
        self,
        eta: Any,
        fun: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        priority: int = 0,
    ) -> _Entry | None:
        """Call ``fun`` at ``eta``.

        Arguments:
            eta: A datetime, seconds of the monotonic clock, or ``None`` for now.
        """
        return self.enter_at(self.Entry(fun, args, kwargs), eta, priority)

    def call_after(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        priority: int = 0,
    ) -> _Entry:
        """Call ``fun`` in ``secs`` seconds."""
        return self.enter_after(secs, self.Entry(fun, args, kwargs), priority)

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        priority: int = 0,
    ) -> _Entry:
        """Call ``fun`` every ``secs`` seconds until the entry is cancelled, whatever it raises."""

        def tick(*args: Any, **kwargs: Any) -> Any:
            entry._last_run = monotonic()
            try:
                return fun(*args, **kwargs)
            finally:
                if not entry.canceled:
                    self.enter_after(secs, entry, priority)

        entry = self.Entry(tick, args, kwargs)
        return self.enter_after(secs, entry, priority)

    def enter_at(
        self,
        entry: Any,
        eta: Any = None,
        priority: int = 0,
        time: Callable[[], float] = monotonic,
    ) -> Any:
        """Put ``entry`` into the schedule at ``eta`` (see :meth:`call_at`)."""
        if eta is None:
            eta = time()
        if isinstance(eta, datetime):
            try:
                eta = to_timestamp(eta)
            except Exception as exc:
                if not self.handle_error(exc):
                    raise
                return None
        return self._enter(eta, priority, entry)

    def enter_after(
        self,
        secs: float,
        entry: Any,
        priority: int = 0,
        time: Callable[[], float] = monotonic,
    ) -> Any:
        """Put ``entry`` into the schedule in ``secs`` seconds."""
        return self._enter(time() + float(secs), priority, entry)

    def _enter(
        self,
        eta: float,
        priority: int,
        entry: Any,
        push: Callable[..., None] = heappush,
    ) -> Any:
        push(self._queue, scheduled(eta, priority, entry))
        return entry

    def apply_entry(self, entry: Callable[[], Any]) -> None:
        """Make the call; an exception goes to ``on_error``, or into the log."""
        try:
            entry()
        except Exception as exc:
            if not self.handle_error(exc):
                logger.error("Error in timer: %r", exc, exc_info=True)

    def handle_error(self, exc_info: BaseException) -> bool:
        """Pass an exception to ``on_error``; return false if there is none."""
        if self.on_error:
            self.on_error(exc_info)
            return True
        return False

    def stop(self) -> None:
        """Do nothing; for timers that have a thread."""

    def __iter__(
        self,
        min: Callable[..., float] = min,
        nowfun: Callable[[], float] = monotonic,
        pop: Callable[[list[Any]], Any] = heappop,
        push: Callable[..., None] = heappush,
    ) -> Iterator[tuple[float | None, Any]]:
        """Yield ``(None, entry)`` for each that is due, ``(seconds, None)`` if one has to wait.

        ``(None, None)`` means that there is nothing. Never ends.
        """
        queue = self._queue
        while True:
            if not queue:
                yield None, None
                continue
            wait = queue[0][0] - nowfun()
            if wait > 0:
                yield min(wait, self.max_interval), None
                continue
            try:
                due = pop(queue)
            except IndexError:  # another thread was faster
                continue
            if due[0] > nowfun():  # the same: this is one that came after it
                push(queue, due)
            elif not due[2].canceled:
                yield None, due[2]
            due = None  # or the entry would live until the next is due

    def clear(self) -> None:
        """Empty the schedule."""
        self._queue[:] = []  # the list itself is known to iterators

    def cancel(self, tref: Any) -> None:
        """Cancel an entry."""
        tref.cancel()

    def __len__(self) -> int:
        return len(self._queue)

    def __nonzero__(self) -> bool:
        """Return true: a timer is one even while it is empty."""
        return True

    @property
    def queue(self) -> list[scheduled]:
        """What is scheduled, in order: a copy."""
        events = list(self._queue)
        heapify(events)
        return [heappop(events) for _ in range(len(events))]

    @property
    def schedule(self) -> Timer:
        """The timer itself; timers with a thread have another there."""
        return self
