"""The transport over etcd, on a double of python-etcd."""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import ChannelError


class EtcdException(Exception):
    pass


class EtcdKeyNotFound(EtcdException):
    pass


class EtcdNotFile(EtcdException):
    pass


class EtcdDirNotEmpty(EtcdException):
    pass


class Server:
    """Keys in memory; a directory is a key without a value."""

    def __init__(self):
        self.keys, self.numbers, self.error = {"": None}, itertools.count(1), None
        self.clients, self.locks, self.held = [], [], set()

    def client(self, **options):
        self.clients.append(Client(self, options))
        return self.clients[-1]

    def lock(self, client, name):
        self.locks.append(Lock(self, name))
        return self.locks[-1]


class Client:
    """The part of ``etcd.Client`` that the transport uses."""

    def __init__(self, server, options):
        self.server, self.options = server, options

    def read(self, key, recursive=False, index=None, timeout=None):
        if self.server.error:
            raise self.server.error
        keys, key = self.server.keys, key.strip("/")
        if key not in keys:
            raise EtcdKeyNotFound(key)
        below = [k for k in keys if k.startswith(f"{key}/") and "/" not in k[len(key) + 1 :]]
        # etcd promises no order.
        return SimpleNamespace(
            _children=[
                {"key": f"/{k}", "dir": True}
                if keys[k] is None
                else {"key": f"/{k}", "value": keys[k]}
                for k in reversed(below)
            ]
        )

    def write(self, key, value, dir=False, append=False):
        keys = self.server.keys
        if append:
            keys.setdefault(key, None)
            key = f"{key}/{next(self.server.numbers):020}"
        elif key in keys:
            raise EtcdNotFile(key)
        for end in range(len(key)):
            if key[end] == "/":
                keys.setdefault(key[:end], None)
        keys[key] = None if dir else value

    def delete(self, key, dir=False):
        key = key.strip("/")
        if key not in self.server.keys:
            raise EtcdKeyNotFound(key)
        if any(other.startswith(f"{key}/") for other in self.server.keys):
            raise EtcdDirNotEmpty(key)
        assert dir == (self.server.keys[key] is None)
        if not dir:
            assert key.split("/", 1)[1].rsplit("/", 1)[0] in self.server.held
        del self.server.keys[key]


class Lock:
    def __init__(self, server, name):
        self.server, self.name, self.is_taken, self._uuid = server, name, False, None

    def acquire(self, blocking, lock_ttl):
        assert blocking
        assert lock_ttl == 10
        assert self.name not in self.server.held
        self.server.held.add(self.name)
        self.is_taken = True

    def release(self):
        self.server.held.remove(self.name)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def transport(load, server):
    etcd = ModuleType("etcd")
    etcd.Client, etcd.Lock = server.client, server.lock
    for error in (EtcdException, EtcdKeyNotFound, EtcdNotFile, EtcdDirNotEmpty):
        setattr(etcd, error.__name__, error)
    return load("kombu_rs.transport.etcd", {"etcd": etcd}).Transport


@pytest.fixture
def connection(transport):
    with Connection("etcd://", transport=transport) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.default_channel


def take(queue):
    message = queue.get()
    if message is not None:
        message.ack()
    return message and message.payload


def test_messages_come_in_order(channel, server):
    queue = Queue("q", Exchange("e"), "k")(channel)
    queue.declare()
    queue.declare()
    for body in "abc":
        channel.Producer().publish(body, exchange="e", routing_key="k")
    assert queue.queue_declare(passive=True).message_count == 3
    assert [key.count("0") for key in server.keys if key.startswith("kombu/q/")] == [19, 19, 19]
    assert [take(queue) for _ in range(4)] == ["a", "b", "c", None]
    assert not server.held


def test_each_lock_has_its_own_value(channel, server):
    queue = Queue("q")(channel)
    take(queue)
    take(queue)
    values = {lock._uuid for lock in server.locks}
    assert len(values) == len(server.locks) == 2
    assert all(value.startswith(channel.lock_value) for value in values)


def test_undeclared_queues(channel):
    assert take(Queue("q")(channel)) is None
    assert channel.queue_purge("q") == 0
    channel.queue_delete("q")
    with pytest.raises(ChannelError, match="no queue 'q'"):
        channel.queue_declare("q", passive=True)
    channel.Producer().publish("x", routing_key="q")
    assert take(Queue("q")(channel)) == "x"


def test_unacknowledged_messages_come_again(connection):
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.get().requeue()
    queue.get()
    channel.close()
    assert take(Queue("q")(connection.default_channel)) == "x"


def test_another_client_may_be_faster(channel, server):
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    client = channel.client
    read = client.read

    def lose(*args, **options):
        result = read(*args, **options)
        for key in [key for key in server.keys if key.startswith("kombu/q/")]:
            del server.keys[key]
        return result

    client.read = lose
    assert queue.get() is None
    assert not server.held


def test_purge_keeps_the_queue_and_those_below_it(channel, server):
    for name in ("a", "a/b"):
        Queue(name)(channel).declare()
        for body in "xy":
            channel.Producer().publish(body, routing_key=name)
    assert channel.queue_purge("a") == 2
    assert channel.queue_declare("a", passive=True).message_count == 0
    assert channel.queue_declare("a/b", passive=True).message_count == 2
    channel.queue_delete("a")
    assert take(Queue("a/b")(channel)) == "x"
    channel.queue_delete("a/b", if_empty=True)
    assert "kombu/a/b" in server.keys
    channel.queue_delete("a/b")
    assert "kombu/a/b" not in server.keys


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        ("etcd://", {}, {"host": "localhost", "port": 2379}),
        (
            "etcd://me:secret@h:1",
            {"ssl": {"ca_certs": "ca", "certfile": "crt", "keyfile": "key"}},
            {
                "host": "h",
                "port": 1,
                "username": "me",
                "password": "secret",
                "protocol": "https",
                "ca_cert": "ca",
                "cert": ("crt", "key"),
            },
        ),
    ],
)
def test_the_client_gets_the_urls_parts(transport, server, url, settings, expected):
    with Connection(url, transport=transport, **settings) as connection:
        connection.connect()
        assert server.clients[0].options == expected
        assert "secret" not in repr(connection)


def test_a_server_that_does_not_answer(connection, server):
    connection.connect()
    connection.channel().close()
    assert connection.connected
    server.error = EtcdException("Connection to etcd failed")
    assert not connection.connected
    with pytest.raises(EtcdException, match="failed"):
        connection.clone().transport.establish_connection()
    assert EtcdException in connection.connection_errors


def test_a_server_without_the_old_api(transport, server):
    server.error = EtcdException("Bad response : 404 page not found\n")
    with pytest.raises(EtcdException, match="--enable-v2"):
        Connection("etcd://", transport=transport).transport.establish_connection()


def test_without_python_etcd(load):
    module = load("kombu_rs.transport.etcd", {"etcd": None})
    connection = Connection("etcd://h", transport=module.Transport)
    assert repr(connection)
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[etcd\]'"):
        connection.connect()
