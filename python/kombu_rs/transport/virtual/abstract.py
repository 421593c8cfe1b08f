"""What a broker's channel has to implement."""

from __future__ import annotations

from ..._typing import Any

__all__ = ("AbstractChannel",)


class AbstractChannel:
    """What a channel must know of its broker; the rest is :class:`Channel`."""

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take the next message of ``queue``.

        Raises:
            queue.Empty: there is none.
        """
        raise NotImplementedError("Virtual channels must implement _get")

    def _put(self, queue: str, message: dict[str, Any]) -> None:
        """Put a message into ``queue``."""
        raise NotImplementedError("Virtual channels must implement _put")

    def _purge(self, queue: str) -> int:
        """Remove all messages of ``queue``; returns how many."""
        raise NotImplementedError("Virtual channels must implement _purge")

    def _size(self, queue: str) -> int:
        """How many messages are in ``queue``."""
        return 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete ``queue``; called for each of its bindings. By default it is purged."""
        self._purge(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Make ``queue``, where a broker needs that."""

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Whether ``queue`` is there."""
        return True

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> Any:
        """Deliver a message of the next queue that has one."""
        return cycle.get(callback)

    def _get_and_deliver(self, queue: str, callback: Any) -> None:
        callback(self._get(queue), queue)
