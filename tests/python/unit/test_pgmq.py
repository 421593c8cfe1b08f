"""The transport over pgmq, on doubles of pgmq's client and of psycopg."""

from __future__ import annotations

import itertools
import json
import re
import time
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Consumer, Exchange, Queue
from kombu_rs.exceptions import ChannelError


class PsycopgError(Exception):
    pass


class OperationalError(PsycopgError):
    pass


class UndefinedTable(PsycopgError):
    pass


class Database:
    """Queues in memory: rows are lists of id, time when visible, reads, message, headers."""

    def __init__(self):
        self.queues, self.bindings, self.calls, self.now = {}, [], [], 0.0
        self.ids = itertools.count(1)
        self.up = True
        self.clients = []

    def client(self, **settings):
        self.clients.append(Client(self, settings))
        return self.clients[-1]


class Client:
    """The part of ``pgmq.PGMQueue`` that the transport uses."""

    def __init__(self, db, settings):
        self.db, self.settings, self.closed = db, settings, False
        self.pool = SimpleNamespace(timeout=30.0)
        self.config = SimpleNamespace(dsn="host=double")

    def _init_extensions(self):
        self.db.calls.append("init_extensions")

    def close(self):
        self.closed = True

    def rows(self, queue):
        if queue not in self.db.queues:
            raise UndefinedTable(queue)
        return self.db.queues[queue]

    def list_queues(self):
        if not self.db.up:
            raise OperationalError("down")
        return [SimpleNamespace(queue_name=name) for name in self.db.queues]

    def create_queue(self, queue):
        assert len(queue) <= 47
        self.db.queues.setdefault(queue, [])

    def create_partitioned_queue(self, queue, interval, retention):
        self.db.calls.append(("partitioned", queue, interval, retention))
        self.create_queue(queue)

    def create_fifo_index(self, queue):
        self.db.calls.append(("fifo_index", queue))

    def enable_notify(self, queue, throttle_interval_ms):
        self.db.calls.append(("notify", queue, throttle_interval_ms))

    def drop_queue(self, queue):
        self.db.bindings = [b for b in self.db.bindings if b[1] != queue]
        return self.db.queues.pop(queue, None) is not None

    def send(self, queue, message, headers=None, delay=0):
        row = [next(self.db.ids), self.db.now + delay, 0, json.dumps(message), headers]
        self.rows(queue).append(row)

    def send_topic(self, routing_key, message, **options):
        assert "headers" not in options or "delay" in options
        words = routing_key.split(".")
        for pattern, queue in self.db.bindings:
            regex = re.escape(pattern).replace(r"\*", r"[^.]+").replace(r"\#", ".*")
            if re.fullmatch(regex, ".".join(words)):
                self.send(queue, message, **options)

    def bind_topic(self, pattern, queue):
        assert queue in self.db.queues
        self.db.bindings.append((pattern, queue))

    def unbind_topic(self, pattern, queue):
        self.db.bindings.remove((pattern, queue))

    def visible(self, queue, qty, vt):
        found = [row for row in self.rows(queue) if row[1] <= self.db.now][:qty]
        for row in found:
            row[1], row[2] = self.db.now + vt, row[2] + 1
        return [SimpleNamespace(msg_id=r[0], read_ct=r[2], message=json.loads(r[3])) for r in found]

    def read(self, queue, vt, qty):
        found = self.visible(queue, qty, vt)
        # As the client: one message alone, or None.
        return (found[0] if found else None) if qty == 1 else found

    def read_with_poll(self, queue, vt, qty, max_poll_seconds, poll_interval_ms):
        self.db.calls.append(("poll", queue, max_poll_seconds, poll_interval_ms))
        return self.visible(queue, qty, vt)

    def read_grouped(self, queue, vt, qty):
        self.db.calls.append(("grouped", queue))
        return self.visible(queue, qty, vt)

    def pop(self, queue, qty):
        found = self.visible(queue, qty, 0)
        for message in found:
            self.delete(queue, message.msg_id)
        return found

    def delete(self, queue, msg_id):
        rows = self.rows(queue)
        rows[:] = [row for row in rows if row[0] != msg_id]

    def set_vt(self, queue, msg_id, vt):
        for row in self.rows(queue):
            if row[0] in (msg_id if isinstance(msg_id, list) else [msg_id]):
                row[1] = self.db.now + vt

    def purge(self, queue):
        count = len(self.rows(queue))
        self.db.queues[queue] = []
        return count

    def metrics(self, queue):
        return SimpleNamespace(queue_length=len(self.rows(queue)))


class Listener:
    """A psycopg connection that listens."""

    def __init__(self, lost=False):
        self.statements, self.notifications, self.lost, self.closed = [], [], lost, False

    def execute(self, statement):
        self.statements.append(statement)

    def notifies(self, timeout, stop_after):
        assert stop_after == 1
        if self.lost:
            raise OperationalError("server closed the connection")
        came, self.notifications = self.notifications, []
        yield from came

    def close(self):
        self.closed = True


@pytest.fixture
def db():
    return Database()


@pytest.fixture
def listeners():
    """What psycopg's ``connect`` returns, one after the other."""
    return [Listener()]


@pytest.fixture
def module(load, db, listeners):
    psycopg = ModuleType("psycopg")
    psycopg.Error, psycopg.OperationalError = PsycopgError, OperationalError
    psycopg.InterfaceError = type("InterfaceError", (PsycopgError,), {})
    psycopg.errors = SimpleNamespace(UndefinedTable=UndefinedTable)
    pending = iter(listeners)

    def connect(dsn, autocommit):
        assert (dsn, autocommit) == ("host=double", True)
        return next(pending)

    psycopg.connect = connect
    pgmq = ModuleType("pgmq")
    pgmq.PGMQueue, pgmq.__version__ = db.client, "9.9"
    doubles = {"psycopg": psycopg, "pgmq": pgmq}
    load("kombu_rs.transport._pgmq_notify", doubles)
    return load("kombu_rs.transport.pgmq", doubles)


@pytest.fixture
def connect(module):
    opened = []

    def connect(url="pgmq://me:secret@localhost/db", **options):
        options = {"polling_interval": 0.001, **options}
        opened.append(Connection(url, transport=module.Transport, transport_options=options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.release()


@pytest.fixture
def channel(connect):
    return connect().default_channel


def take(queue, **options):
    message = queue.get(**options)
    if message is not None:
        message.ack()
    return message and message.payload


def test_messages_come_in_order_and_go_when_acknowledged(channel, db):
    queue = Queue("my.queue")(channel)
    queue.declare()
    for body in "abc":
        channel.Producer().publish(body, routing_key="my.queue")
    assert queue.queue_declare(passive=True).message_count == 3
    assert [take(queue) for _ in range(4)] == ["a", "b", "c", None]
    assert db.queues == {"my_queue": []}


def test_no_ack_takes_them_at_once(channel, db):
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    message = queue.get(no_ack=True)
    assert message.payload == "x"
    assert not db.queues["q"]


@pytest.mark.parametrize("how", ["requeue", "reject", "close", "timeout"])
def test_what_becomes_of_a_message_that_is_not_acknowledged(connect, db, how):
    connection = connect(visibility_timeout=5)
    channel = connection.channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    message = queue.get()
    assert queue.get() is None
    if how == "close":
        channel.close()
    elif how == "timeout":
        db.now += 5
    else:
        getattr(message, how)()
    again = Queue("q")(connection.default_channel).get()
    assert (again and again.payload) == (None if how == "reject" else "x")
    if again:
        assert again.delivery_info["pgmq_message"]["read_ct"] == 2


def test_a_consumer_gets_as_many_as_it_may(connect, db):
    connection = connect()
    channel = connection.default_channel
    got = []
    with Consumer(channel, [Queue("q")], callbacks=[lambda b, m: got.append(m)]) as consumer:
        consumer.qos(prefetch_count=2)
        for number in range(3):
            channel.Producer().publish(number, routing_key="q")
        connection.drain_events(timeout=1)
        assert [message.payload for message in got] == [0, 1]
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
        got[0].ack()
        connection.drain_events(timeout=1)
        assert got[-1].payload == 2
    assert ("poll", "q", 1, 100) in db.calls


def test_the_server_waits_for_one_queue_only(connect, db):
    connection = connect(wait_time_seconds="3")
    channel = connection.default_channel
    two = Consumer(channel, [Queue("a"), Queue("b")], callbacks=[print])
    with two, pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.01)
    assert not db.calls[1:]
    with Consumer(channel, [Queue("a")], callbacks=[lambda b, m: m.ack()]):
        channel.Producer().publish("x", routing_key="a")
        connection.drain_events()
    assert db.calls[1:] == [("poll", "a", 3, 100)]


def test_a_consumer_that_fails_leaves_the_rest_to_others(connect):
    connection = connect()
    channel = connection.default_channel

    def fail(body, message):
        raise LookupError(body)

    with Consumer(channel, [Queue("q")], callbacks=[fail]):
        for body in "abc":
            channel.Producer().publish(body, routing_key="q")
        with pytest.raises(LookupError, match="a"):
            connection.drain_events(timeout=1)
    other = Queue("q")(connect().default_channel)
    assert [take(other) for _ in range(3)] == ["b", "c", None]


def test_fanout_and_topic_are_the_servers(connect, channel, db):
    other = connect().default_channel
    news, logs = Exchange("my.news", "fanout"), Exchange("logs", "topic")
    for name, key in (("a", "x.*"), ("b", "x.#")):
        Queue(name, bindings=[news.binding(), logs.binding(key)])(channel).declare()
    assert set(db.bindings) == {
        ("kombu.fanout.my-d-news", "a"),
        ("kombu.fanout.my-d-news", "b"),
        ("kombu.topic.logs.x.*", "a"),
        ("kombu.topic.logs.x.#", "b"),
    }
    for exchange in (news, logs):
        exchange(other).declare()
    publish = other.Producer().publish
    publish("f", exchange=news)
    publish("t", exchange=logs, routing_key="x.y.z", headers={"a": 1})
    a, b = Queue("a")(channel), Queue("b")(channel)
    assert [take(a), take(a)] == ["f", None]
    assert [take(b), take(b), take(b)] == ["f", "t", None]

    b.unbind_from(logs, "x.#")
    b.unbind_from(news)
    assert {queue for _, queue in db.bindings} == {"a"}


@pytest.mark.parametrize(
    ("exchange", "word"),
    [("a_B1", "a_B1"), ("a.b-c", "a-d-b--c"), ("*#", "-s--h-"), ("é/", "-xe9--x2f-"), ("", "_")],
)
def test_exchange_names_are_one_word(channel, exchange, word):
    assert channel._fanout_topic_key(exchange) == f"kombu.fanout.{word}"


def test_queue_names(connect):
    channel = connect(queue_name_prefix="app.").default_channel
    assert channel.canonical_queue_name("a-b.c") == "app_a_b_c"
    long = [channel.canonical_queue_name("x" * 60 + end) for end in "ab"]
    assert [len(name) for name in long] == [47, 47]
    assert long[0] != long[1]


def test_delays_groups_and_headers(connect, db):
    channel = connect(fifo_mode="grouped").default_channel
    queue = Queue("q")(channel)
    queue.declare()
    publish = channel.Producer().publish
    publish("later", routing_key="q", DelaySeconds=5)
    publish("x", routing_key="q", MessageGroupId="g", headers={"a": 1}, DelaySeconds="nonsense")
    assert [row[4] for row in db.queues["q"]] == [
        None,
        {"a": 1, "MessageGroupId": "g", "x-pgmq-group": "g"},
    ]
    assert [take(queue), take(queue)] == ["x", None]
    db.now += 5
    assert take(queue) == "later"
    assert ("fifo_index", "q") in db.calls
    assert ("grouped", "q") in db.calls


def test_partitioned_queues(channel, db):
    arguments = {"x-pgmq-partitioned": True, "x-pgmq-partition-interval": 7}
    Queue("q", queue_arguments=arguments)(channel).declare()
    assert db.calls[-1] == ("partitioned", "q", 7, 100000)


def test_deleted_queues(channel, db):
    for queue in (Queue("bound", Exchange("e"), "k"), Queue("unbound")):
        bound = queue(channel)
        bound.declare()
        channel.Producer().publish("x", routing_key=bound.name)
        message = bound.get()
        bound.delete(if_empty=True)
        assert bound.name in db.queues
        bound.delete()
        assert not db.queues
        message.ack()


def test_restoring_into_a_deleted_queue_does_nothing(connect, db, capsys):
    channel = connect().channel()
    queue = Queue("q")(channel)
    queue.declare()
    channel.Producer().publish("x", routing_key="q")
    queue.get()
    queue.delete()
    channel.close()
    assert "DUMP" not in capsys.readouterr().err


def test_missing_queues(channel):
    with pytest.raises(ChannelError, match="no queue 'nothing'"):
        Queue("nothing")(channel).queue_declare(passive=True)
    for act in (
        lambda: channel.queue_purge("nothing"),
        lambda: channel.basic_get("nothing"),
        lambda: channel.Producer().publish("x", routing_key="nothing"),
    ):
        with pytest.raises(ChannelError, match="404"):
            act()
    channel.queue_delete("nothing")


def test_multiple_acknowledgements_are_refused(channel):
    with pytest.raises(NotImplementedError, match="one message at a time"):
        channel.basic_ack("tag", multiple=True)


def test_a_notification_ends_the_wait(connect, db, listeners):
    connection = connect(use_notify=True, polling_interval=60, wait_time_seconds=0)
    channel = connection.default_channel
    got = []
    with Consumer(channel, [Queue("q")], callbacks=[lambda b, m: (got.append(b), m.ack())]):
        (listener,) = listeners
        assert listener.statements == ['LISTEN "pgmq.q_q.INSERT";']
        listener.notifications.append("one")

        waited = listener.notifies

        def publish_meanwhile(**options):
            channel.Producer().publish("x", routing_key="q")
            return waited(**options)

        listener.notifies = publish_meanwhile
        connection.drain_events(timeout=30)
    assert got == ["x"]
    assert db.calls.count(("notify", "q", 250)) == 1
    connection.release()
    assert listener.closed


def test_a_lost_listener_is_replaced_and_does_not_spin(connect, listeners):
    listeners.append(Listener())
    listeners[0].lost = True
    connection = connect(use_notify=True, polling_interval=0.05, wait_time_seconds=0)
    looked = []
    with Consumer(connection.default_channel, [Queue("a"), Queue("b")], callbacks=[print]):
        client = connection.transport._get_pgmq_client()
        read = client.read
        client.read = lambda *args, **options: looked.append(1) or read(*args, **options)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        assert time.monotonic() - started < 5
    assert listeners[0].closed
    assert set(listeners[1].statements) == {
        'LISTEN "pgmq.q_a.INSERT";',
        'LISTEN "pgmq.q_b.INSERT";',
    }
    assert len(looked) <= 12


def test_the_client_gets_the_urls_parts(connect, db):
    connect("pgmq://me:se%20cr'et@h:1/db", pool_size="3", visibility_timeout=9).connect()
    connect("pgmq://", init_extension=False, pool_timeout="2").connect()
    connect(conn_string="dsn").connect()
    common = {"init_extension": False, "pool_size": 10, "vt": 1800}
    assert [client.settings for client in db.clients] == [
        {
            "host": "h",
            "port": "1",
            "database": "db",
            "username": "me",
            "password": r"'se cr\'et'",
            "init_extension": False,
            "pool_size": 3,
            "vt": 9,
        },
        {
            "host": "localhost",
            "port": "5432",
            "database": "postgres",
            "username": "postgres",
            "password": "",
            **common,
        },
        {"conn_string": "dsn", **common},
    ]
    assert db.calls == ["init_extensions"] * 2
    assert db.clients[1].pool.timeout == 2.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fifo_mode": "sideways"}, "Invalid fifo_mode 'sideways'"),
        ({"wait_time_seconds": "soon"}, "'wait_time_seconds' must be a number, got 'soon'"),
        ({"pool_size": [1]}, "'pool_size' must be a number"),
        ({"pool_timeout": "x"}, "'pool_timeout' must be a number"),
    ],
)
def test_bad_options_are_named(connect, db, options, text):
    connection = connect(**options)

    def consume():
        Queue("q")(connection.default_channel).declare()
        connection.default_channel._get_bulk("q")

    with pytest.raises(ValueError, match=re.escape(text)):
        consume()
    connection.release()
    assert all(client.closed for client in db.clients)


def test_connecting_and_losing(connect, db):
    connection = connect()
    connection.connect()
    assert connection.connected
    db.up = False
    assert not connection.connected
    assert OperationalError in connection.connection_errors
    fresh = connect()
    with pytest.raises(OperationalError):
        fresh.transport.establish_connection()


def test_passwords_are_not_shown(connect, module):
    assert "secret" not in repr(connect())
    uri = "pgmq://me:secret@localhost/db"
    assert "secret" not in module.Transport.as_uri(uri)
    assert module.Transport.as_uri(uri, include_password=True) == uri


def test_without_the_libraries(load):
    missing = {"pgmq": None, "psycopg": None}
    load("kombu_rs.transport._pgmq_notify", missing)
    module = load("kombu_rs.transport.pgmq", missing)
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[pgmq\]'"):
        Connection("pgmq://h/db", transport=module.Transport).connect()
