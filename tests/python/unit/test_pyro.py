"""The transport over Pyro4, with the broker in this process in place of a proxy."""

from __future__ import annotations

from queue import Empty
from types import SimpleNamespace

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import ChannelError
from kombu_rs.transport import pyro, virtual


class NamingError(Exception):
    """Pyro4's."""


class Proxy:
    """Calls a broker; remembers that it was released."""

    def __init__(self, broker):
        self.broker = broker
        self.released = 0

    def __getattr__(self, name):
        return getattr(self.broker, name)

    def _pyroRelease(self):
        self.released += 1


@pytest.fixture
def network(monkeypatch):
    """A name server on ``ns:9090`` that knows ``kombu.broker``."""
    names = {"kombu.broker": pyro.KombuBroker()}
    proxies = []

    def lookup(name):
        if name not in names:
            raise NamingError(name)
        return names[name]

    def locate(host, port):
        if (host, port) != ("ns", 9090):
            raise NamingError("no name server")
        return SimpleNamespace(lookup=lookup)

    def proxy(uri):
        proxies.append(Proxy(uri))
        return proxies[-1]

    fake = SimpleNamespace(
        locateNS=locate,
        Proxy=proxy,
        errors=SimpleNamespace(NamingError=NamingError),
        config=SimpleNamespace(NS_PORT=9090),
        __version__="4.82",
    )
    monkeypatch.setattr(pyro, "pyro", fake)
    monkeypatch.setattr(pyro.Transport, "global_state", virtual.BrokerState())
    return SimpleNamespace(names=names, proxies=proxies)


@pytest.fixture
def connection(network):
    with Connection("pyro://ns/kombu.broker") as connection:
        connection.transport.polling_interval = 0.001
        yield connection


def test_messages(connection):
    channel = connection.default_channel
    queue = Queue("q", Exchange("e", "topic"), "a.*")(channel)
    queue.declare()
    for n in range(3):
        channel.Producer().publish(n, exchange="e", routing_key="a.b")
    assert queue.queue_declare(passive=True).message_count == 3
    got = []
    with connection.Consumer([queue], on_message=lambda m: (got.append(m.payload), m.ack())):
        while len(got) < 3:
            connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
    assert got == [0, 1, 2]
    assert queue.get() is None


def test_queues(connection):
    channel = connection.default_channel
    channel.Producer().publish("x", routing_key="new")
    assert channel.queues() == ["new"]
    assert Queue("new")(channel).purge() == 1
    with pytest.raises(ChannelError, match="no queue 'other'"):
        Queue("other")(channel).queue_declare(passive=True)
    assert channel._queue_for("other") == "other"
    assert channel._has_queue("other")


def test_queues_that_are_gone(connection, network):
    """The broker keeps them in memory, and other clients delete them."""
    channel = connection.default_channel
    assert Queue("q")(channel).get() is None
    assert channel._size("q") == channel._purge("q") == 0
    for key in "ab":
        Queue("q", Exchange("e"), key)(channel).declare()
    Queue("q", Exchange("e"), "a")(channel).delete()
    assert not network.names["kombu.broker"].has_queue("q")


def test_a_stock_broker_cannot_purge(connection, network, monkeypatch):
    def purge(queue):
        raise TypeError("Queue.get() got an unexpected keyword argument")

    channel = connection.default_channel
    for n in range(3):
        channel.Producer().publish(n, routing_key="q")
    monkeypatch.setattr(network.names["kombu.broker"], "purge", purge)
    assert channel._purge("q") == 3
    assert channel._size("q") == 0


def test_the_broker():
    broker = pyro.KombuBroker()
    broker.new_queue("q")
    broker.put("q", 1)
    broker.new_queue("q")
    broker.put("q", 2)
    assert broker.get_queue_names() == ["q"]
    assert broker.size("q") == 2
    assert broker.get("q") == 1
    assert broker.purge("q") == 1
    with pytest.raises(Empty):
        broker.get("q")
    broker.delete("q")
    for call in (broker.get, broker.size, broker.purge, broker.delete):
        with pytest.raises(KeyError, match="q"):
            call("q")
    with pytest.raises(KeyError, match="q"):
        broker.put("q", 1)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("pyro://ns/nobody", "lookup 'nobody'.*ns port 9090"),
        ("pyro://elsewhere/kombu.broker", "locate.*elsewhere port 9090"),
        ("pyro://ns:9999/kombu.broker", "locate.*ns port 9999"),
    ],
)
def test_nobody_is_there(network, url, text):
    with Connection(url) as connection, pytest.raises(NamingError, match=text):
        Queue("q")(connection.default_channel).declare()


def test_closing_releases_the_proxy(network):
    connection = Connection("pyro://ns/kombu.broker")
    assert connection.default_channel.queues() == []
    connection.release()
    assert [proxy.released for proxy in network.proxies] == [1]


def test_without_pyro(monkeypatch):
    monkeypatch.setattr(pyro, "pyro", None)
    connection = Connection("pyro://ns/kombu.broker")
    assert connection.transport.driver_version() == "N/A"
    with pytest.raises(ImportError, match=r"pip install .kombu-rs\[pyro\]"):
        connection.connect()
