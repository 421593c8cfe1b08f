"""Rate limits."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

__all__ = ("TokenBucket",)


class TokenBucket:
    """The token bucket algorithm: a mean rate that allows for bursts.

    Arguments:
        fill_rate (float): Tokens per second.
        capacity (float): Tokens that may be saved up, at least 1.
    """

    #: Tokens per second.
    fill_rate: float
    #: Most tokens that the bucket holds.
    capacity: float = 1
    #: Monotonic time in seconds when the tokens were last counted.
    timestamp: float

    def __init__(self, fill_rate: float, capacity: float = 1) -> None:
        self.capacity = float(capacity)
        self._tokens: float = capacity
        self.fill_rate = float(fill_rate)
        self.timestamp = monotonic()
        #: What waits for tokens, oldest first; users keep their items here.
        self.contents: deque[Any] = deque()

    def add(self, item: Any) -> None:
        """Queue ``item`` behind the others."""
        self.contents.append(item)

    def pop(self) -> Any:
        """Take the oldest item; ``IndexError`` if there is none."""
        return self.contents.popleft()

    def clear_pending(self) -> None:
        """Forget all queued items."""
        self.contents.clear()

    def can_consume(self, tokens: float = 1) -> bool:
        """Take ``tokens`` and return true, or return false and take none."""
        if tokens > self._get_tokens():
            return False
        self._tokens -= tokens
        return True

    def expected_time(self, tokens: float = 1) -> float:
        """Return the seconds until ``tokens`` can be taken (0 if they can be now)."""
        return max(0, tokens - self._get_tokens()) / self.fill_rate

    def _get_tokens(self) -> float:
        # The clock is read even when the bucket is full: time that was spent
        # at the brim must not count later.
        now = monotonic()
        earned = self.fill_rate * (now - self.timestamp)
        self.timestamp = now
        self._tokens = min(self.capacity, self._tokens + earned)
        return self._tokens
