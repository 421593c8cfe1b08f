"""Waiting for messages in pgmq queues without looking for them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..log import get_logger

try:
    import psycopg
except ImportError:  # the transport says so when it is used
    psycopg = None

logger = get_logger("kombu.transport.pgmq")


class NotifyWaiter:
    """Listens for the notifications that pgmq sends when a message is put into a queue.

    A lost connection is made again by the next :meth:`wait`; what was sent in between is not
    seen, so whoever waits looks into the queues from time to time.

    Arguments:
        dsn: how to connect.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn: Any = None
        self._channels: set[str] = set()
        self._closed = False

    def register(self, queue_name: str) -> None:
        """Listen for messages in a queue; nothing once closed.

        Arguments:
            queue_name: as pgmq knows it.
        """
        # pgmq notifies under the name of the table, which is in lower case.
        channel = f"pgmq.q_{queue_name.lower()}.INSERT"
        if self._closed or channel in self._channels:
            return
        self._channels.add(channel)
        if self._conn is None:
            self._ensure_conn()
        else:
            self._listen(self._conn, channel)

    def wait(self, timeout: float | None) -> bool:
        """Wait for a notification.

        Arguments:
            timeout: in seconds; None: for ever.

        Returns:
            Whether one came. False at once when there is nothing to listen to, or the
            connection was lost.
        """
        if not self._channels:
            return False
        try:
            self._ensure_conn()
            return bool(list(self._conn.notifies(timeout=timeout, stop_after=1)))
        except psycopg.Error as exc:
            logger.warning("lost the connection that listens for messages: %s", exc)
            self._drop_conn(self._conn)
            return False

    def close(self) -> None:
        """Stop listening, for good."""
        self._closed = True
        self._channels.clear()
        self._drop_conn(self._conn)

    def _drop_conn(self, conn: Any) -> None:
        self._conn = None
        if conn is not None:
            with suppress(psycopg.Error):
                conn.close()

    def _ensure_conn(self) -> None:
        if self._conn is not None:
            return
        conn = psycopg.connect(self._dsn, autocommit=True)
        try:
            for channel in self._channels:
                self._listen(conn, channel)
        except BaseException:
            self._drop_conn(conn)
            raise
        self._conn = conn

    def _listen(self, conn: Any, channel: str) -> None:
        quoted = channel.replace('"', '""')
        conn.execute(f'LISTEN "{quoted}";')
