"""Our Connection on transports of others: ``foreign_program.py TRANSPORT URL [OPTIONS as JSON]``.

TRANSPORT is a class of the installed Kombu, or ``own``: one that a third party derived from
stock Kombu's virtual transport.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from queue import Empty
from typing import Any

import pytest
from kombu.transport import virtual

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue, eventloop
from kombu_rs.exceptions import OperationalError

QUEUES: dict[str, deque[Any]] = {}


class OwnChannel(virtual.Channel):
    """A broker in a dictionary, on stock Kombu's classes."""

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        QUEUES.setdefault(queue, deque())

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return queue in QUEUES

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        QUEUES.setdefault(queue, deque()).append(message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        try:
            return QUEUES[queue].popleft()
        except (IndexError, KeyError):
            raise Empty from None

    def _size(self, queue: str) -> int:
        return len(QUEUES[queue])

    def _purge(self, queue: str) -> int:
        size = len(QUEUES[queue])
        QUEUES[queue].clear()
        return size


class OwnTransport(virtual.Transport):
    """The transport of :class:`OwnChannel`."""

    Channel = OwnChannel


def consume(connection: Connection) -> None:
    """Everything between a producer and a consumer."""
    exchange = Exchange("foreign", type="direct")
    queue = Queue("foreign", exchange, routing_key="key")
    got: list[Any] = []

    def on_message(body: Any, message: Any) -> None:
        assert message.delivery_info["routing_key"] == "key"
        got.append(body["n"])
        message.ack()

    with Consumer(connection, [queue], callbacks=[on_message], prefetch_count=3):
        producer = Producer(connection)
        for n in range(5):
            producer.publish(
                {"n": n},
                exchange=exchange,
                routing_key="key",
                declare=[queue],
                compression="zlib",
                retry=True,
            )
        for _ in eventloop(connection, limit=5, timeout=5):
            pass
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
    assert sorted(got) == list(range(5))


def simple(connection: Connection) -> None:
    """SimpleQueue, giving back, and what is not there."""
    with connection.SimpleQueue("foreign-simple") as queue:
        queue.put("x")
        queue.get(timeout=5).requeue()
        message = queue.get(timeout=5)
        assert message.payload == "x"
        assert message.headers is not None
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)


def clones(connection: Connection) -> None:
    """Copies, pools and the connection's words about itself."""
    with connection.clone() as copy:
        assert copy.connect() is copy.connection
        assert copy.connected
        assert isinstance(copy.transport, type(connection.transport))
    pool = connection.Pool(2)
    with pool.acquire() as first, pool.acquire() as second:
        assert first is not second
        first.default_channel.queue_declare("foreign-pool")
    pool.force_close_all()
    assert connection.as_uri()


def main(transport: str, url: str, options: str = "{}") -> None:
    """Runs all, on one connection."""
    cls = OwnTransport if transport == "own" else transport
    with Connection(url, transport=cls, transport_options=json.loads(options)) as connection:
        assert type(connection.transport).__module__.partition(".")[0] != "kombu_rs"
        for case in (consume, simple, clones):
            case(connection)
    if transport.startswith("kombu.transport.redis"):
        nobody = Connection("redis://127.0.0.1:1/0", transport=cls)
        with pytest.raises(OperationalError):
            nobody.ensure_connection(max_retries=1, interval_start=0)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
