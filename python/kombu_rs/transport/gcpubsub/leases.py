"""What Pub/Sub hands out and takes back: a queue's place there, and the leases of its messages."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ("AtomicCounter", "QueueDescriptor", "UnackedIds")


class UnackedIds:
    """A list of acknowledgement ids that threads share."""

    def __init__(self) -> None:
        self._list: list[Any] = []
        self._lock = threading.Lock()

    def append(self, val: Any) -> None:
        """Add one."""
        with self._lock:
            self._list.append(val)

    def extend(self, vals: Iterable[Any]) -> None:
        """Add several."""
        with self._lock:
            self._list.extend(vals)

    def pop(self, index: int = -1) -> Any:
        """Remove one, and return it."""
        with self._lock:
            return self._list.pop(index)

    def remove(self, val: Any) -> None:
        """Remove one; nothing if it is not there."""
        with self._lock:
            if val in self._list:
                self._list.remove(val)

    def __len__(self) -> int:
        with self._lock:
            return len(self._list)

    def __getitem__(self, item: Any) -> Any:
        with self._lock:
            return self._list[item]


class AtomicCounter:
    """A counter that threads share.

    Arguments:
        initial: where it begins.
    """

    def __init__(self, initial: int = 0) -> None:
        self._value = initial
        self._lock = threading.Lock()

    def inc(self, n: int = 1) -> int:
        """Add ``n``; returns the new value."""
        with self._lock:
            self._value += n
            return self._value

    def dec(self, n: int = 1) -> int:
        """Take ``n`` away; returns the new value."""
        return self.inc(-n)

    def get(self) -> int:
        """The value."""
        with self._lock:
            return self._value


@dataclass
class QueueDescriptor:
    """Where a queue is.

    Arguments:
        name: the queue's name there.
        topic_path: the topic it gets its messages from.
        subscription_id: the subscription that it is.
        subscription_path: the same, with the project.
        unacked_ids: messages that were received and not acknowledged.
        routing_key: the key that the subscription's filter lets through; None: not known, or it
            has no filter.
    """

    name: str
    topic_path: str
    subscription_id: str
    subscription_path: str
    unacked_ids: UnackedIds = field(default_factory=UnackedIds)
    routing_key: str | None = None
