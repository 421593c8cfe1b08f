"""What was done over a transport, counted."""

from __future__ import annotations

from ..._typing import Any, NamedTuple

__all__ = ("Statistics", "Tally")


class Statistics(NamedTuple):
    """What :meth:`Transport.statistics` returns.

    All but the last three count from when the transport was first used, over all its connections;
    a forked child's start at zero. The broker is not asked.
    """

    #: Messages published, whatever became of them.
    published: int
    #: Publishes that the broker has confirmed (``confirm_publish``).
    confirmed: int
    #: Publishes that the broker did not take (``basic.nack``).
    nacked: int
    #: Mandatory messages that came back, as no queue got them.
    returned: int
    #: Messages that the broker has sent, those fetched ahead included.
    received: int
    #: Messages acknowledged.
    acked: int
    #: Messages rejected, whether they were queued again or not.
    rejected: int
    #: Connections made after the first one.
    reconnects: int
    #: Heartbeats sent: one each time that nothing else was said for half an interval.
    heartbeats_sent: int
    #: Heartbeats of the broker.
    heartbeats_received: int
    #: Intervals in which nothing at all came from the broker. After two the link is given up.
    heartbeats_missed: int
    #: Seconds for which the broker took no publishes (``connection.blocked``), altogether.
    blocked_seconds: float
    #: Messages delivered and not settled, now.
    unacked: int
    #: For how many seconds the oldest of them has been so; None when there is none.
    oldest_unacked_seconds: float | None
    #: Messages fetched ahead and not delivered yet, now.
    prefetched: int


#: What is told of this moment, and does not add up.
_OF_NOW: dict[str, Any] = {"unacked": 0, "oldest_unacked_seconds": None, "prefetched": 0}


class Tally:
    """The numbers of a transport's connections, one after another, added up."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._earlier = {name: 0 for name in Statistics._fields if name not in _OF_NOW}
        self._begun = False

    def begin(self, connection: Any) -> None:
        """Count what is done over a new connection."""
        self.end(self._connection)
        self._earlier["reconnects"] += self._begun
        self._begun = True
        self._connection = connection

    def end(self, connection: Any) -> None:
        """Note that a connection is not used any more."""
        if connection is not None and connection is self._connection:
            self._earlier = self._sum()
            self._connection = None

    def statistics(self) -> Statistics:
        """Return the numbers of now."""
        held = self._connection._statistics() if self._connection is not None else _OF_NOW
        return Statistics(**self._sum(), **{name: held[name] for name in _OF_NOW})

    def _sum(self) -> dict[str, Any]:
        if self._connection is None:
            return dict(self._earlier)
        numbers = self._connection._statistics()
        return {name: number + numbers[name] for name, number in self._earlier.items()}
