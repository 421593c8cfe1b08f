"""The transport over ZooKeeper, on a double of kazoo."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import ChannelError

ERRORS = [
    "SystemZookeeperError",
    "ConnectionLoss",
    "MarshallingError",
    "UnimplementedError",
    "OperationTimeoutError",
    "NoAuthError",
    "InvalidACLError",
    "AuthFailedError",
    "SessionExpiredError",
    "ConnectionClosedError",
    "RuntimeInconsistency",
    "DataInconsistency",
    "BadArgumentsError",
    "APIError",
    "NoNodeError",
    "NodeExistsError",
    "NoChildrenForEphemeralsError",
    "NotEmptyError",
    "InvalidCallbackError",
]
EXCEPTIONS = {name: type(name, (Exception,), {}) for name in ERRORS}
NoNodeError, NotEmptyError = EXCEPTIONS["NoNodeError"], EXCEPTIONS["NotEmptyError"]
KazooTimeoutError = type("KazooTimeoutError", (Exception,), {})


class Client:
    """The part of ``KazooClient`` that the transport uses, over nodes in memory."""

    made: list
    nodes: dict
    down = False

    def __init__(self, hosts, **options):
        self.hosts, self.options, self.state = hosts, options, "new"
        self.numbers = itertools.count()
        self.made.append(self)

    def start(self, timeout=15):
        self.timeout = timeout
        if self.down:
            raise KazooTimeoutError("Connection time-out")
        self.state = "started"

    def stop(self):
        self.state = "stopped"

    def close(self):
        assert self.state == "stopped"
        self.state = "closed"

    def exists(self, path):
        return "stat" if path in self.nodes else None

    def ensure_path(self, path):
        parts = path.strip("/").split("/")
        for end in range(len(parts)):
            self.nodes.setdefault("/" + "/".join(parts[: end + 1]), b"")

    def get_children(self, path):
        if path not in self.nodes:
            raise NoNodeError()
        below = [node[len(path) + 1 :] for node in self.nodes if node.startswith(f"{path}/")]
        return [name for name in reversed(below) if "/" not in name]

    def delete(self, path):
        if self.get_children(path):
            raise NotEmptyError()
        del self.nodes[path]

    def create(self, path, value):
        if path.rsplit("/", 1)[0] not in self.nodes:
            raise NoNodeError()
        self.nodes[f"{path}{next(self.numbers):010}"] = value


class Recipe:
    """kazoo's queue: makes its node once, when it is first asked something."""

    def __init__(self, client, path):
        self.client, self.path, self.ensured = client, path, False

    def ensure(self):
        if not self.ensured:
            self.client.ensure_path(self.path)
            self.ensured = True

    def __len__(self):
        self.ensure()
        return len(self.client.get_children(self.path))

    def put(self, value, priority):
        self.ensure()
        self.client.create(f"{self.path}/entry-{priority:03}-", value)

    def get(self):
        self.ensure()
        names = [n for n in self.client.get_children(self.path) if n.startswith("entry-")]
        if not names:
            return None
        path = f"{self.path}/{min(names)}"
        value = self.client.nodes[path]
        self.client.delete(path)
        return value


@pytest.fixture
def kazoo():
    """The class of clients; its ``made`` and ``nodes`` are this test's."""
    return type("KazooClient", (Client,), {"made": [], "nodes": {"": b""}})


@pytest.fixture
def transport(load, kazoo):
    names = ("kazoo", "kazoo.exceptions", "kazoo.client", "kazoo.handlers", "kazoo.recipe")
    doubles = {name: ModuleType(name) for name in names}
    doubles["kazoo"].exceptions = doubles["kazoo.exceptions"]
    doubles["kazoo"].__version__ = "9.9"
    vars(doubles["kazoo.exceptions"]).update(EXCEPTIONS)
    doubles["kazoo.client"].KazooClient = kazoo
    doubles["kazoo.handlers.threading"] = ModuleType("kazoo.handlers.threading")
    doubles["kazoo.handlers.threading"].KazooTimeoutError = KazooTimeoutError
    doubles["kazoo.recipe.queue"] = ModuleType("kazoo.recipe.queue")
    doubles["kazoo.recipe.queue"].Queue = Recipe
    return load("kombu_rs.transport.zookeeper", doubles).Transport


@pytest.fixture
def connection(transport):
    with Connection("zookeeper://h/v", transport=transport) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.default_channel


def take(queue):
    message = queue.get()
    if message is not None:
        message.ack()
    return message and message.payload


def test_messages_come_by_priority_and_in_order(channel, kazoo):
    queue = Queue("q", Exchange("e"), "k")(channel)
    queue.declare()
    for body, priority in (("a", 0), ("b", 9), ("c", None)):
        channel.Producer().publish(body, exchange="e", routing_key="k", priority=priority)
    assert queue.queue_declare(passive=True).message_count == 3
    assert {"/v/q/entry-009-0000000000", "/v/q/entry-000-0000000001"} < set(kazoo.nodes)
    assert [take(queue) for _ in range(4)] == ["b", "a", "c", None]


def test_unacknowledged_messages_come_again(connection):
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.get().requeue()
    queue.get()
    channel.close()
    assert take(Queue("q")(connection.default_channel)) == "x"


def test_a_queue_that_another_client_deleted(channel, kazoo):
    queue = Queue("q")(channel)
    queue.declare()
    publish = channel.Producer().publish
    publish("a", routing_key="q")
    assert take(queue) == "a"

    def gone():
        for node in [node for node in kazoo.nodes if node.startswith("/v/q")]:
            del kazoo.nodes[node]

    gone()
    assert take(queue) is None
    gone()
    publish("b", routing_key="q")
    assert take(queue) == "b"
    gone()
    assert channel.queue_purge("q") == 0
    with pytest.raises(ChannelError, match="no queue 'q'"):
        queue.queue_declare(passive=True)


def test_purge_and_delete_leave_queues_below(channel, kazoo):
    for name in ("a", "a/b"):
        Queue(name)(channel).declare()
        for body in "xy":
            channel.Producer().publish(body, routing_key=name)
    assert channel.queue_purge("a") == 2
    channel.queue_delete("a")
    assert take(Queue("a/b")(channel)) == "x"
    channel.queue_delete("a/b", if_empty=True)
    assert "/v/a/b" in kazoo.nodes
    channel.queue_delete("a/b")
    assert "/v/a/b" not in kazoo.nodes
    channel.queue_delete("a/b")


def test_one_session_for_all_channels(connection, kazoo):
    connection.connect()
    assert not kazoo.made
    for _ in range(2):
        Queue("q")(connection.channel()).declare()
    (client,) = kazoo.made
    assert client.state == "started"
    connection.release()
    assert client.state == "closed"


@pytest.mark.parametrize(
    ("url", "settings", "hosts", "options"),
    [
        ("zookeeper://", {}, "localhost:2181", {}),
        ("zookeeper://a:1/v;zookeeper://b/v", {}, "a:1,b:2181", {}),
        ("zookeeper://a:1", {"alternates": ["b:2", "c"]}, "a:1,b:2,c:2181", {}),
        (
            "zookeeper://me:secret@a",
            {"ssl": {"ca_certs": "ca", "certfile": "crt", "keyfile": "key"}},
            "a:2181",
            {
                "auth_data": [("digest", "me:secret")],
                "use_ssl": True,
                "ca": "ca",
                "certfile": "crt",
                "keyfile": "key",
            },
        ),
    ],
)
def test_the_client_gets_the_urls_parts(transport, kazoo, url, settings, hosts, options):
    with Connection(url, transport=transport, connect_timeout=7, **settings) as connection:
        assert connection.default_channel.client
        (client,) = kazoo.made
        assert (client.hosts, client.options, client.timeout) == (hosts, options, 7)
        assert "secret" not in repr(connection)


@pytest.mark.parametrize(("vhost", "path"), [("", "/q"), ("/", "/q"), ("/a/b/", "/a/b/q")])
def test_virtual_hosts(transport, vhost, path):
    with Connection(transport=transport, virtual_host=vhost) as connection:
        assert connection.default_channel._get_path("q") == path


def test_a_server_that_does_not_answer(connection, kazoo):
    kazoo.down = True
    with pytest.raises(KazooTimeoutError):
        connection.default_channel.queue_purge("q")
    assert [client.state for client in kazoo.made] == ["closed"]
    assert KazooTimeoutError in connection.connection_errors


def test_without_kazoo(load):
    module = load("kombu_rs.transport.zookeeper", {"kazoo": None})
    connection = Connection("zookeeper://h", transport=module.Transport)
    assert repr(connection)
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[zookeeper\]'"):
        connection.connect()
    assert connection.transport.driver_version() == "N/A"
