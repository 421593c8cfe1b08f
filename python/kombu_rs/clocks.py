"""Logical clocks: which of two events came first, without a common time."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from threading import Lock as _Lock
from typing import Any

__all__ = ("LamportClock", "timetuple")

#: The ``repr`` of a :class:`timetuple`.
R_CLOCK = "_lamport(clock={0}, timestamp={1}, id={2} {3!r})"


class timetuple(tuple[Any, ...]):
    """``(clock, timestamp, id, obj)``, ordered by when the event happened.

    The clock decides where both have one, else the timestamp; ids break ties,
    so that every process sees the same order. ``obj`` is never compared.

    Arguments:
        clock (int): Value of the Lamport clock, ``None`` or 0 for none.
        timestamp (float): Wall-clock time in seconds.
        id (str): Who did it.
        obj (Any): What happened.
    """

    __slots__ = ()

    def __new__(
        cls,
        clock: int | None,
        timestamp: float,
        id: str,
        obj: Any = None,
    ) -> timetuple:
        return tuple.__new__(cls, (clock, timestamp, id, obj))

    def __repr__(self) -> str:
        return R_CLOCK.format(*self)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __lt__(self, other: Any) -> Any:
        try:
            clock, their_clock = self[0], other[0]
            if clock and their_clock:
                mine, theirs = clock, their_clock
                if mine == theirs:  # same instant: sort by id
                    mine, theirs = self[2], other[2]
            else:
                mine, theirs = self[1], other[1]
            return mine < theirs
        except (IndexError, TypeError):
            return NotImplemented

    def __gt__(self, other: Any) -> Any:
        try:
            return timetuple.__lt__(other, self)
        except (IndexError, TypeError):
            return NotImplemented

    def __le__(self, other: Any) -> Any:
        greater = self.__gt__(other)
        return greater if greater is NotImplemented else not greater

    def __ge__(self, other: Any) -> Any:
        less = self.__lt__(other)
        return less if less is NotImplemented else not less

    clock: property = property(itemgetter(0), doc="Value of the Lamport clock.")
    timestamp: property = property(itemgetter(1), doc="Wall-clock time in seconds.")
    id: property = property(itemgetter(2), doc="Who did it.")
    obj: property = property(itemgetter(3), doc="What happened.")


class LamportClock:
    """Lamport's logical clock ("Time, Clocks, and the Ordering of Events", 1978).

    A process advances its clock before each event (:meth:`forward`) and sends
    the value along; who receives it sets his own clock past it (:meth:`adjust`).
    Threads may share a clock.

    Arguments:
        initial_value (int): Where to start.
        Lock (Callable): Makes the lock; event loops without threads give a dummy.
    """

    #: The current value.
    value: int = 0

    def __init__(self, initial_value: int = 0, Lock: Callable[[], Any] = _Lock) -> None:
        self.value = initial_value
        self.mutex: Any = Lock()

    def adjust(self, other: int) -> int:
        """Set the clock past ``other``, the value in a message that arrived."""
        with self.mutex:
            value = self.value = max(self.value, other) + 1
            return value

    def forward(self) -> int:
        """Advance the clock by one and return it."""
        with self.mutex:
            self.value += 1
            return self.value

    def sort_heap(self, h: list[Any]) -> Any:
        """Return the event to handle first from ``h``, a heap of ``(clock, id)`` tuples.

        Of those with the lowest clock, the one with the lowest id.
        """
        first = h[0]
        return min((event for event in h if event[0] == first[0]), key=itemgetter(1))

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<LamportClock: {self.value}>"
