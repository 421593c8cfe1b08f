"""The transport over MongoDB, on a double of pymongo."""

from __future__ import annotations

import itertools
import re
from datetime import timedelta
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import VersionMismatch
from kombu_rs.utils.json import loads

FANOUT = Exchange("news", "fanout")


class Cursor:
    """A tailable cursor: ``next`` ends when nothing is there, and goes on when something is."""

    def __init__(self, collection, query):
        self.collection, self.query, self.offset = collection, query, 0
        self.closed = False
        self.rewind()

    def rewind(self):
        self.position, self.alive, self.started = 0, True, False

    def skip(self, count):
        assert not self.started, "cannot set options after executing query"
        self.offset = count
        return self

    def close(self):
        self.closed = True

    def __next__(self):
        found = self.collection.matching(self.query)
        if not self.started:
            self.started, self.position = True, self.offset
            self.alive = bool(self.collection.documents)
        elif not self.alive:
            raise StopIteration
        if self.collection.lost:
            self.collection.lost = False
            raise OperationFailure("lost", 136)
        if self.position >= len(found):
            raise StopIteration
        self.position += 1
        return found[self.position - 1]


class Collection:
    """Documents in memory, with the operations that the transport uses."""

    def __init__(self, ids):
        self.documents, self.ids, self.indexes, self.lost = [], ids, [], False

    def matching(self, query):
        return [d for d in self.documents if all(d.get(k) == v for k, v in query.items())]

    def create_index(self, keys, **options):
        self.indexes.append((tuple(keys), options))

    def insert_one(self, document):
        self.documents.append({"_id": next(self.ids), **document})

    def find(self, filter, cursor_type=None):
        return self.matching(filter) if cursor_type is None else Cursor(self, filter)

    def find_one(self, query, projection=None, sort=()):
        found = self.matching(query)
        if not found:
            return None
        return found[-1] if sort else found[0]

    def find_one_and_delete(self, query, sort):
        ((key, _),) = sort
        found = min(self.matching(query), key=lambda d: d[key], default=None)
        if found:
            self.documents.remove(found)
        return found

    def count_documents(self, query):
        return len(self.matching(query))

    def delete_many(self, query):
        gone = self.matching(query)
        self.documents = [d for d in self.documents if d not in gone]
        return SimpleNamespace(deleted_count=len(gone))

    delete_one = delete_many

    def update_many(self, query, change):
        for document in self.matching(query):
            document.update(change["$set"])

    def update_one(self, query, change, upsert):
        assert upsert
        if not self.matching(query):
            self.documents.append(dict(query))
        self.update_many(query, change)


class OperationFailure(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


class Server:
    """All databases, and the clients that were made."""

    def __init__(self):
        self.version, self.clients, self.databases = "7.0.1-rc0", [], {}

    def client(self, host, port, **options):
        client = Client(self, host, port, options)
        self.clients.append(client)
        return client


class Client:
    def __init__(self, server, host, port, options):
        self.server, self.host, self.port, self.options = server, host, port, options
        self.closed = False

    def server_info(self):
        return {"version": self.server.version}

    def close(self):
        self.closed = True

    def __getitem__(self, name):
        collections = self.server.databases.setdefault(name, {})
        return Database(self, collections)


class Database:
    def __init__(self, client, collections):
        self.client, self.collections = client, collections

    def list_collection_names(self):
        return list(self.collections)

    def create_collection(self, name, size, capped):
        assert capped
        assert name not in self.collections
        self[name].size = size

    def __getitem__(self, name):
        return self.collections.setdefault(name, Collection(itertools.count()))


def parse_uri(uri, default_port, validate):
    assert not validate
    path = re.fullmatch(r"[\w+]+://[^/]*(?:/([^?]*))?(?:\?(.*))?", uri)
    options = dict(pair.split("=") for pair in path[2].split("&")) if path[2] else {}
    return {"database": path[1] or None, "options": options}


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def mongodb(load, server):
    pymongo = ModuleType("pymongo")
    pymongo.ASCENDING, pymongo.__version__ = 1, "9.9"
    pymongo.CursorType = SimpleNamespace(TAILABLE=2)
    pymongo.MongoClient = server.client
    pymongo.errors = SimpleNamespace(
        ConnectionFailure=type("ConnectionFailure", (Exception,), {}),
        OperationFailure=OperationFailure,
        CollectionInvalid=type("CollectionInvalid", (Exception,), {}),
    )
    pymongo.uri_parser = SimpleNamespace(parse_uri=parse_uri)
    return load("kombu_rs.transport.mongodb", {"pymongo": pymongo})


@pytest.fixture
def connect(mongodb):
    opened = []

    def connect(url="mongodb://localhost/db", **options):
        opened.append(Connection(url, transport=mongodb.Transport, **options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.release()


@pytest.fixture
def channel(connect):
    return connect().default_channel


def take(queue):
    message = queue.get()
    return message and message.payload


def test_messages_come_by_priority_and_in_order(channel, server):
    queue = Queue("q")(channel)
    queue.declare()
    for body, priority in (("a", 0), ("b", 9), ("c", 0)):
        channel.Producer().publish(body, routing_key="q", priority=priority)
    assert queue.queue_declare(passive=True).message_count == 3
    assert [d["priority"] for d in server.databases["db"]["messages"].documents] == [9, 0, 9]
    assert [take(queue) for _ in range(4)] == ["b", "a", "c", None]


def test_the_documents_are_kombus(channel, server):
    Queue("q", Exchange("e"), "k")(channel).declare()
    channel.Producer().publish({"n": 1}, exchange="e", routing_key="k")
    (document,) = server.databases["db"]["messages"].documents
    assert set(document) == {"_id", "queue", "priority", "payload"}
    assert loads(document["payload"])["properties"]["delivery_info"] == {
        "exchange": "e",
        "routing_key": "k",
    }
    (binding,) = server.databases["db"]["messages.routing"].documents
    assert binding == {"exchange": "e", "queue": "q", "routing_key": "k", "pattern": None}


def test_bindings_of_other_clients_count(connect, channel):
    other = connect().default_channel
    exchange = Exchange("e", "topic")
    Queue("theirs", exchange, "a.*")(other).declare()
    mine = Queue("mine", exchange, "a.#")(channel)
    mine.declare()
    channel.Producer().publish("x", exchange=exchange, routing_key="a.b")
    assert take(Queue("theirs")(other)) == take(mine) == "x"

    mine.unbind_from(exchange, "a.#")
    other.Producer().publish("y", exchange=exchange, routing_key="a.b")
    assert take(mine) is None
    assert take(Queue("theirs")(channel)) == "y"


def test_unacknowledged_messages_come_again(connect):
    connection = connect()
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.get()
    assert take(queue) is None
    channel.close()
    assert take(Queue("q")(connection.default_channel)) == "x"


@pytest.mark.parametrize("bound", [True, False])
def test_a_deleted_queue_leaves_nothing(channel, server, bound):
    queue = Queue("q", Exchange("e"), "k")(channel) if bound else Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.delete(if_empty=True)
    assert server.databases["db"]["messages"].documents
    queue.delete()
    assert not server.databases["db"]["messages"].documents
    assert not server.databases["db"]["messages.routing"].documents


def test_purge_counts(connect, channel):
    def purge(channel):
        for body in "abc":
            channel.Producer().publish(body, routing_key="q")
        return channel.queue_purge("q")

    uncounted = connect(transport_options={"calc_queue_size": False}).default_channel
    assert purge(channel) == purge(uncounted) == 3
    uncounted.Producer().publish("x", routing_key="q")
    assert uncounted.queue_declare("q").message_count == 0


def test_fanout_from_now_on(connect, channel):
    other = connect().default_channel
    publish = other.Producer().publish
    Queue("w", FANOUT)(other).declare()
    publish("before", exchange=FANOUT)
    first, second = Queue("a", FANOUT)(channel), Queue("b", FANOUT)(channel)
    first.declare()
    second.declare()
    publish("x", exchange=FANOUT)
    publish("elsewhere", exchange=Exchange("others", "fanout"))
    assert first.queue_declare(passive=True).message_count == 1
    assert take(first) == take(second) == "x"
    assert take(first) is take(second) is None
    publish("y", exchange=FANOUT)
    assert first.purge() == 1
    assert [take(first), take(second)] == [None, "y"]


def test_other_exchanges_do_not_move_the_start(channel):
    publish = channel.Producer().publish
    for _ in range(3):
        publish("noise", exchange=Exchange("others", "fanout"))
    queue = Queue("a", FANOUT)(channel)
    queue.declare()
    publish("x", exchange=FANOUT)
    assert take(queue) == "x"


def test_another_channel_of_the_connection_reads_a_fanout_queue(channel):
    Queue("a", FANOUT)(channel).declare()
    with channel.connection.client.channel() as second:
        assert take(Queue("a")(second)) is None
        channel.Producer().publish("x", exchange=FANOUT)
        assert take(Queue("a")(second)) == "x"


def test_a_requeued_broadcast_comes_again_here(channel, server):
    queue = Queue("a", FANOUT)(channel)
    queue.declare()
    channel.Producer().publish("x", exchange=FANOUT)
    queue.get().requeue()
    assert take(queue) == "x"
    assert take(queue) is None
    assert not server.databases["db"]["messages"].documents


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_lost_cursor_goes_on_where_it_was(channel, server, read):
    queue = Queue("a", FANOUT)(channel)
    queue.declare()
    publish = channel.Producer().publish
    for body in ("0", "1"):
        publish(body, exchange=FANOUT)
    assert [take(queue) for _ in range(read)] == ["0", "1"][:read]
    publish("2", exchange=FANOUT)
    server.databases["db"]["messages.broadcast"].lost = True
    assert [take(queue) for _ in range(4 - read)] == [*["0", "1", "2"][read:], None]
    assert queue.queue_declare(passive=True).message_count == 0


def test_an_overtaken_cursor_takes_what_is_left(channel, server):
    queue = Queue("a", FANOUT)(channel)
    queue.declare()
    publish = channel.Producer().publish
    publish("0", exchange=FANOUT)
    assert take(queue) == "0"
    for body in ("1", "2", "3"):
        publish(body, exchange=FANOUT)
    collection = server.databases["db"]["messages.broadcast"]
    del collection.documents[:2]
    collection.lost = True
    assert [take(queue) for _ in range(3)] == ["2", "3", None]


def test_other_failures_of_a_cursor_are_errors(channel, server, monkeypatch):
    queue = Queue("a", FANOUT)(channel)
    queue.declare()

    def fail(cursor):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(Cursor, "__next__", fail)
    with pytest.raises(OperationFailure, match="not authorized"):
        queue.get()


def test_a_deleted_fanout_queue_closes_its_cursor(channel):
    queue = Queue("a", FANOUT)(channel)
    queue.declare()
    cursor = channel._broadcast_cursors["a"]._cursor
    queue.delete()
    assert cursor.closed
    assert not channel._fanout_queues


def test_expiration(connect, server):
    channel = connect(transport_options={"ttl": True}).default_channel
    now = channel.get_now()
    channel.get_now = lambda: now
    queue = Queue("q", Exchange("e"), "k", message_ttl=5.0, expires=60.0)(channel)
    queue.declare()
    publish = channel.Producer().publish
    publish("x", routing_key="q")
    publish("y", routing_key="q", expiration=1)
    publish("z", routing_key="q", expiration=100)
    publish("u", routing_key="unknown")
    database = server.databases["db"]
    assert [d["expire_at"] and d["expire_at"] - now for d in database["messages"].documents] == [
        timedelta(seconds=5),
        timedelta(seconds=1),
        timedelta(seconds=5),
        None,
    ]
    assert database["messages.routing"].documents[0]["expire_at"] == now + timedelta(minutes=1)
    channel.get_now = lambda: now + timedelta(seconds=30)
    take(queue)
    for name in ("messages.routing", "messages.queues"):
        assert database[name].documents[0]["expire_at"] == now + timedelta(seconds=90)
        assert ((("expire_at", 1),), {"expireAfterSeconds": 0}) in database[name].indexes
    queue.delete()
    assert not database["messages.queues"].documents


def test_one_client_for_all_channels(connect, server):
    connection = connect()
    connection.channel()
    connection.channel()
    (client,) = server.clients
    assert not client.closed
    connection.release()
    assert client.closed


@pytest.mark.parametrize(
    ("url", "options", "host", "database", "expected"),
    [
        ("mongodb://", {}, "mongodb://127.0.0.1", "kombu_default", {}),
        ("mongodb://h:1", {"virtual_host": "/v"}, "mongodb://h:1", "v", {}),
        (
            "mongodb://h",
            {"transport_options": {"default_database": "d", "connect_timeout": 2}},
            "mongodb://h",
            "d",
            {"connecttimeoutms": 2000},
        ),
        (
            "mongodb://h/db",
            {"userid": "me@x", "password": "p:/"},
            "mongodb://me%40x:p%3A%2F@h/db",
            "db",
            {},
        ),
        ("mongodb://h", {"ssl": {"tlsCAFile": "ca"}}, "mongodb://h", "kombu_default", None),
        (
            "mongodb://a,b/db?replicaSet=r",
            {},
            "mongodb://a,b/db?replicaSet=r",
            "db",
            {"replicaset": "r"},
        ),
        (
            "mongodb+srv://u:secret@h/db",
            {},
            "mongodb+srv://u:secret@h/db",
            "db",
            {},
        ),
    ],
)
def test_urls(connect, server, url, options, host, database, expected):
    connect(url, **options).connect()
    (client,) = server.clients
    assert client.host == host
    assert client.options == ({"ssl": True, "tlscafile": "ca"} if expected is None else expected)
    assert list(server.databases) == [database]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://h/db", "mongodb://h/db"),
        ("mongodb://u:secret@h:1", "mongodb://u:**@h:1/"),
        ("mongodb://u:secret@a:1,b:2/db?replicaSet=r&x=secret", "mongodb://u:**@a:1,b:2/db"),
        ("mongodb://u@h/db", "mongodb://u@h/db"),
        ("mongodb://", "mongodb:///"),
    ],
)
def test_passwords_are_not_shown(connect, url, shown):
    connection = connect(url)
    assert connection.as_uri() == shown
    assert "secret" not in repr(connection)
    assert connection.as_uri(include_password=True) == url


@pytest.mark.parametrize(
    ("version", "options", "text"),
    [("1.2.9", {}, "1.3+ (server is 1.2.9)"), ("2.0", {"ttl": True}, "2.2+ (server is 2.0)")],
)
def test_old_servers(connect, server, version, options, text):
    server.version = version
    connection = connect(transport_options=options)
    with pytest.raises(VersionMismatch, match=re.escape(text)):
        connection.connect()
    assert all(client.closed for client in server.clients)


def test_without_pymongo(load):
    module = load("kombu_rs.transport.mongodb", {"pymongo": None})
    connection = Connection("mongodb://u:secret@h/db", transport=module.Transport)
    assert connection.as_uri() == "mongodb://u:**@h/db"
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[mongodb\]'"):
        connection.connect()
    assert connection.transport.driver_version() == "N/A"


def test_driver_version(connect):
    assert connect().transport.driver_version() == "9.9"
