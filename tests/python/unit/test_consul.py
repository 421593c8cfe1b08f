"""The transport over Consul, on a double of python-consul2."""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import ChannelError


class ConsulException(Exception):
    pass


class NotFound(ConsulException):
    pass


class Server:
    """Keys and sessions in memory."""

    def __init__(self):
        self.keys, self.sessions, self.index = {}, {}, itertools.count(1)
        self.clients, self.down = [], False

    def client(self, **options):
        client = SimpleNamespace(
            options=options,
            kv=KV(self),
            session=SimpleNamespace(create=self.create, renew=self.renew, destroy=self.destroy),
            agent=SimpleNamespace(self=self.agent_self),
        )
        self.clients.append(client)
        return client

    def agent_self(self):
        if self.down:
            raise ConsulException("500 No cluster leader")

    def create(self, name, ttl):
        session = f"session-{len(self.sessions)}"
        self.sessions[session] = True
        return session

    def renew(self, session_id):
        if not self.sessions[session_id]:
            raise NotFound(session_id)

    def destroy(self, session_id):
        self.sessions[session_id] = False
        for item in self.keys.values():
            if item.get("Session") == session_id:
                del item["Session"]


class KV:
    """The part of ``Consul.kv`` that the transport uses."""

    def __init__(self, server):
        self.server = server

    def get(self, key, recurse=False):
        keys = self.server.keys
        if not recurse:
            return "1", keys.get(key)
        # Consul sorts by key.
        found = [keys[name] for name in sorted(keys) if name.startswith(key)]
        return "1", found or None

    def put(self, key, value, cas=None, acquire=None, release=None):
        item = self.server.keys.get(key)
        if cas is not None and item is not None:
            return False
        if acquire is not None:
            assert self.server.sessions[acquire]
            if item is not None and item.get("Session") not in (None, acquire):
                return False
        if release is not None and (item is None or item.get("Session") != release):
            return False
        item = {"Key": key, "Value": value, "ModifyIndex": next(self.server.index)}
        if acquire is not None:
            item["Session"] = acquire
        self.server.keys[key] = item
        return True

    def delete(self, key, recurse=False, cas=None):
        keys = self.server.keys
        if recurse:
            for name in [name for name in keys if name.startswith(key)]:
                del keys[name]
            return True
        if cas is not None:
            lock = keys[key.split("/msg/")[0] + ".lock"]
            assert lock["Session"], "deleted without the lock"
            if key in keys and keys[key]["ModifyIndex"] != cas:
                return False
        # As Consul: also when there is no such key.
        keys.pop(key, None)
        return True


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def module(load, server):
    consul, requests = ModuleType("consul"), ModuleType("requests.exceptions")
    consul.Consul, consul.ConsulException, consul.NotFound = (
        server.client,
        ConsulException,
        NotFound,
    )
    requests.RequestException = type("RequestException", (OSError,), {})
    doubles = {"consul": consul, "requests.exceptions": requests}
    doubles["requests"] = ModuleType("requests")
    return load("kombu_rs.transport.consul", doubles)


@pytest.fixture
def connection(module):
    with Connection("consul://", transport=module.Transport) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.default_channel


def take(queue):
    message = queue.get()
    if message is not None:
        message.ack()
    return message and message.payload


def test_messages_come_in_order_of_the_server(channel, server, module, monkeypatch):
    # The clock of the key's name goes backwards: another host's, or more digits.
    monkeypatch.setattr(module, "monotonic", itertools.count(100, -1).__next__)
    queue = Queue("q", Exchange("e"), "k")(channel)
    queue.declare()
    for body in "abc":
        channel.Producer().publish(body, exchange="e", routing_key="k")
    assert queue.queue_declare(passive=True).message_count == 3
    assert [take(queue) for _ in range(4)] == ["a", "b", "c", None]


def test_idle_looks_need_no_session(channel, server):
    queue = Queue("q")(channel)
    queue.declare()
    assert take(queue) is None
    assert not server.sessions


def test_sessions_are_kept_while_they_live_and_end_with_the_channel(connection, server):
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    for body in "abc":
        channel.Producer().publish(body, routing_key="q")
    assert [take(queue), take(queue)] == ["a", "b"]
    assert server.sessions == {"session-0": True}
    server.sessions["session-0"] = False
    assert take(queue) == "c"
    assert server.sessions == {"session-0": False, "session-1": True}
    channel.close()
    assert not any(server.sessions.values())


def test_another_consumers_lock(channel, server, module, monkeypatch):
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    server.sessions["theirs"] = True
    lock = {"Key": "kombu/q.lock", "Value": "other", "ModifyIndex": 1, "Session": "theirs"}
    server.keys["kombu/q.lock"] = lock

    naps = []
    monkeypatch.setattr(module, "sleep", naps.append)
    monkeypatch.setattr(module, "monotonic", itertools.count(0, 0.1).__next__)
    assert take(queue) is None
    assert naps
    assert lock["Session"] == "theirs"
    with pytest.raises(module.LockError, match="queue 'q'"), channel._queue_lock("q"):
        pass

    monkeypatch.setattr(module, "sleep", lambda seconds: server.destroy("theirs"))
    assert take(queue) == "x"
    assert "Session" not in server.keys["kombu/q.lock"]


def test_what_another_consumer_took_is_not_taken_again(channel, server):
    queue = Queue("q")(channel)
    queue.declare()
    for body in "ab":
        channel.Producer().publish(body, routing_key="q")
    acquire = channel._acquire_lock

    def slow(queue, **options):
        messages = [item for key, item in server.keys.items() if "/msg/" in key]
        del server.keys[min(messages, key=lambda item: item["ModifyIndex"])["Key"]]
        return acquire(queue, **options)

    channel._acquire_lock = slow
    assert take(queue) == "b"


def test_unacknowledged_messages_come_again(connection):
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.get().requeue()
    queue.get()
    channel.close()
    assert take(Queue("q")(connection.default_channel)) == "x"


def test_a_key_that_is_there_already(channel, module, monkeypatch):
    monkeypatch.setattr(module, "uuid", lambda: "same")
    monkeypatch.setattr(module, "monotonic", lambda: 1.0)
    channel.Producer().publish("x", routing_key="q")
    with pytest.raises(ChannelError, match="kombu/q/msg/1000_same"):
        channel.Producer().publish("x", routing_key="q")


def test_purge_and_delete(channel, server):
    for name in ("q", "q2"):
        Queue(name)(channel).declare()
        for body in "xy":
            channel.Producer().publish(body, routing_key=name)
    assert channel.queue_purge("q") == 2
    assert channel.queue_purge("q") == 0
    channel.queue_delete("q2", if_empty=True)
    assert take(Queue("q2")(channel)) == "x"
    channel.queue_delete("q2")
    assert set(server.keys) == {"kombu/q"}
    assert channel.queue_declare("q", passive=True).message_count == 0
    with pytest.raises(ChannelError, match="no queue 'q2'"):
        channel.queue_declare("q2", passive=True)


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        ("consul://", {}, {"host": "localhost", "port": 8500}),
        (
            "consul://:secret@h:1",
            {"ssl": {"ca_certs": "ca", "certfile": "crt", "keyfile": "key"}},
            {
                "host": "h",
                "port": 1,
                "token": "secret",
                "scheme": "https",
                "verify": "ca",
                "cert": ("crt", "key"),
            },
        ),
    ],
)
def test_the_client_gets_the_urls_parts(module, server, url, settings, expected):
    with Connection(url, transport=module.Transport, **settings) as connection:
        connection.connect()
        assert server.clients[0].options == expected
        assert "secret" not in repr(connection)


def test_a_server_that_does_not_answer(connection, server):
    connection.connect()
    connection.channel().close()
    assert connection.connected
    server.down = True
    assert not connection.connected
    with pytest.raises(ConsulException, match="leader"):
        connection.clone().transport.establish_connection()
    assert ConsulException in connection.connection_errors


def test_without_python_consul2(load):
    module = load("kombu_rs.transport.consul", {"consul": None})
    connection = Connection("consul://h", transport=module.Transport)
    assert repr(connection)
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[consul\]'"):
        connection.connect()
