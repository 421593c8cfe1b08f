"""``channel.qos``: unacknowledged messages, and those that nobody has acknowledged in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..._typing import Any
from .. import native_virtual

__all__ = ("QoS",)


class QoS(native_virtual.QoS):
    """The prefetch limit and the unacknowledged messages of a channel.

    Arguments:
        channel: whose.
        prefetch_count: the limit to set; 0 leaves it as it is.

    A message that was delivered and not acknowledged is kept in Redis, under its delivery tag in
    the hash ``unacked_key``, with the time in the sorted set ``unacked_index_key``. The core renews
    that time as long as the worker lives, unless ``renew_leases`` is off, and gives back what
    others have left for longer than ``visibility_timeout``.
    """

    #: Put unacknowledged messages back when the channel is closed.
    restore_at_shutdown = True

    @property
    def unacked_key(self) -> str:
        """The hash of unacknowledged messages."""
        return self.channel.unacked_key

    @property
    def unacked_index_key(self) -> str:
        """The sorted set that says since when they are."""
        return self.channel.unacked_index_key

    @property
    def unacked_mutex_key(self) -> str:
        """The key of the lock of whoever restores messages."""
        return self.channel.unacked_mutex_key

    @property
    def unacked_mutex_expire(self) -> int:
        """Seconds after which the lock of a dead worker is free."""
        return self.channel.unacked_mutex_expire

    @property
    def visibility_timeout(self) -> float:
        """Seconds after which an unacknowledged message is given to somebody else."""
        return self.channel.visibility_timeout

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:
        """Put messages back into their queues that nobody has acknowledged in time.

        The core does it by itself while the channel consumes, but spares those that a living
        worker renews. Who calls this gets those back, too, that this connection was given longer
        than ``visibility_timeout`` ago.

        Arguments:
            start: Kombu's place to start from; only 0 is there.
            num: at most so many; None for all.
            interval: only the first of so many calls does something.

        Raises:
            ValueError: ``start`` is not 0.
        """
        if start:
            raise ValueError(f"restore_visible starts from the first message, got start={start!r}")
        channel = self.channel
        calls, channel._restore_calls = channel._restore_calls, channel._restore_calls + 1
        if interval > 1 and calls % interval:
            return
        channel._reclaim(num)

    def restore_unacked(self, client: Any = None) -> list[tuple[BaseException, Any]]:
        """Put all unacknowledged messages back; ``client`` is not used."""
        return super().restore_unacked()

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put one unacknowledged message back, where it comes out next.

        Arguments:
            tag: its delivery tag.
            client, leftmost: Kombu's; not used.
        """
        self.channel.basic_reject(tag, requeue=True)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """``pipe``, or a pipeline of a client of redis-py, for the time of a ``with`` block."""
        if pipe is not None:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as acquired:
            yield acquired.pipeline()
