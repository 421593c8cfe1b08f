"""A broker in a few lines of Python: what a user's own transport looks like."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict, deque
from queue import Empty
from types import SimpleNamespace

import pytest

from kombu_rs import Connection
from kombu_rs.transport import virtual


@pytest.fixture
def broker():
    """A broker of its own: ``broker.Transport``, ``broker.connect()`` and ``broker.queues``."""
    queues = defaultdict(deque)
    state = virtual.BrokerState()
    opened = []

    class Channel(virtual.Channel):
        supports_fanout = True
        do_restore = False

        def _put(self, queue, message, **kwargs):
            queues[queue].append(message)

        def _get(self, queue, timeout=None):
            try:
                return queues[queue].popleft()
            except IndexError:
                raise Empty from None

        def _size(self, queue):
            return len(queues[queue])

        def _purge(self, queue):
            size = len(queues[queue])
            queues[queue].clear()
            return size

        def _put_fanout(self, exchange, message, routing_key, **kwargs):
            for queue in self._lookup(exchange, routing_key):
                self._put(queue, message)

    class Transport(virtual.Transport):
        polling_interval = 0.001
        implements = virtual.Transport.implements.extend(
            exchange_type=frozenset(["direct", "topic", "fanout"])
        )

        def __init__(self, client, **kwargs):
            super().__init__(client, **kwargs)
            self.state = state

    Transport.Channel = Channel

    def connect(**kwargs):
        connection = Connection(transport=Transport, **kwargs)
        opened.append(connection)
        return connection

    yield SimpleNamespace(Transport=Transport, connect=connect, queues=queues, state=state)
    for connection in opened:
        connection.release()


@pytest.fixture(params=["python", "memory", "sqlite"])
def connection(request, broker, tmp_path):
    """A connection: to :func:`broker`, and to native transports that need no server."""
    if request.param == "python":
        yield broker.connect()
        return
    # The names of queues in memory are shared by the whole process.
    url = f"sqla+sqlite:///{tmp_path}/broker.sqlite" if request.param == "sqlite" else "memory://"
    with Connection(url) as connection:
        yield connection
    if request.param == "memory":
        with Connection(url) as connection:
            for queue in ("jobs", "q", "other", "quick", "answers", "b", "own", "r"):
                connection.default_channel.queue_delete(queue)


@pytest.fixture
def load(monkeypatch):
    """Import a module anew, with doubles of the libraries that it needs.

    ``load("kombu_rs.transport.mongodb", {"pymongo": double})``; None stands for a library that is
    not installed. The module is a copy of its own, gone when the test ends.
    """

    def load(name, doubles):
        monkeypatch.setattr("kombu_rs.transport._transport_cache", {})
        for library, double in doubles.items():
            monkeypatch.setitem(sys.modules, library, double)
        package, _, attribute = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(package), attribute, None, raising=False)
        # Set first, so that what was there comes back.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        return importlib.import_module(name)

    return load
