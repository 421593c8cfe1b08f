"""Semaphores for one thread: who has to wait leaves a callback."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ("DummyLock", "LaxBoundedSemaphore")


class LaxBoundedSemaphore:
    """A semaphore that never blocks, and forgives too many releases.

    Arguments:
        value (int): How many may have acquired it at once.

    Example:
        >>> done = []
        >>> gate = LaxBoundedSemaphore(1)
        >>> gate.acquire(done.append, 1), gate.acquire(done.append, 2)
        (True, False)
        >>> gate.release()
        >>> done
        [1, 2]
    """

    def __init__(self, value: int) -> None:
        self.initial_value: int = value
        self.value: int = value
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()

    def acquire(
        self,
        callback: Callable[..., Any],
        *partial_args: Any,
        **partial_kwargs: Any,
    ) -> bool:
        """Call ``callback`` with the further arguments, now (true) or when it is free (false)."""
        if self.value <= 0:
            self._waiting.append((callback, partial_args, partial_kwargs))
            return False
        self.value -= 1
        callback(*partial_args, **partial_kwargs)
        return True

    def release(self) -> None:
        """Let the next one in, or count up to the initial value."""
        try:
            callback, args, kwargs = self._waiting.popleft()
        except IndexError:
            self.value = min(self.value + 1, self.initial_value)
        else:
            callback(*args, **kwargs)

    def grow(self, n: int = 1) -> None:
        """Let ``n`` more in at once."""
        self.initial_value += n
        self.value += n
        for _ in range(n):
            self.release()

    def shrink(self, n: int = 1) -> None:
        """Let ``n`` fewer in at once."""
        self.initial_value = max(self.initial_value - n, 0)
        self.value = max(self.value - n, 0)

    def clear(self) -> None:
        """Forget who waits, and count as if nobody had acquired it."""
        self._waiting.clear()
        self.value = self.initial_value

    def __repr__(self) -> str:
        return (
            f"<LaxBoundedSemaphore at {id(self):#x} "
            f"value:{self.value} waiting:{len(self._waiting)}>"
        )


class DummyLock:
    """A lock that does nothing, for programs of one thread."""

    def __enter__(self) -> DummyLock:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass
