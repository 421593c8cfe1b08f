"""SQL brokers: which engine serves a URL, and the one over SQLAlchemy."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from queue import Empty
from unittest.mock import Mock, patch

import pytest
from sqlalchemy.dialects import mssql, mysql, postgresql
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm.exc import StaleDataError

from kombu_rs import Connection, Queue
from kombu_rs.transport import native, native_virtual, sqlalchemy, virtual
from kombu_rs.transport.sqlalchemy import channel as engine_channel
from kombu_rs.transport.sqlalchemy import engines
from kombu_rs.transport.sqlalchemy.models import mapped_classes, metadata

#: An argument of ``sqlite3.connect``, which the native engine has no use for.
FORCED = "?cached_statements=64"


@pytest.fixture
def file(tmp_path):
    """A database file that is not there yet."""
    return tmp_path / "broker.sqlite"


@pytest.fixture
def channel(file):
    """A channel over SQLAlchemy on a file."""
    with Connection(f"sqla+sqlite:///{file}{FORCED}") as connection:
        yield connection.channel()


def serves(url, **options):
    """What a transport of a connection is made of: "native" or "sqlalchemy"."""
    connection = Connection(url, transport_options=options)
    transport = connection.transport
    assert isinstance(transport, sqlalchemy.Transport)
    assert type(transport) is connection.get_transport_cls()
    return "native" if isinstance(transport, native.Transport) else "sqlalchemy"


def reasons():
    return [
        ("sqla+postgresql://user:secret@host/db", {}, "the SQL dialect is 'postgresql'"),
        ("sqlalchemy+mysql+pymysql://host/db", {}, "the SQL dialect is 'mysql'"),
        ("sqla+sqlite+aiosqlite:///x.db", {}, "the SQLite driver is 'aiosqlite'"),
        ("sqla+sqlite:///:memory:", {}, "the SQLite database is in memory"),
        ("sqla+sqlite://", {}, "the SQLite database is in memory"),
        ("sqla+sqlite:///x.db?mode=ro", {}, "the URL has the argument 'mode'"),
        ("sqla+sqlite:///x.db", {"echo": False}, "the transport option 'echo'"),
        ("sqla+sqlite:///x.db", {"connect_args": {}}, "the transport option 'connect_args'"),
        ("sqla+sqlite:///x.db", {"no_such_option": 1}, "the transport option 'no_such_option'"),
    ]


class TestChoice:
    @pytest.mark.parametrize(("url", "options", "reason"), reasons())
    def test_without_sqlalchemy_the_error_says_why_it_is_needed(
        self, monkeypatch, url, options, reason
    ):
        assert serves(url, **options) == "sqlalchemy"
        monkeypatch.setitem(sys.modules, "sqlalchemy", None)
        with pytest.raises(ImportError) as caught:
            Connection(url, transport_options=options).connect()
        assert reason in str(caught.value)
        assert "pip install 'kombu-rs[sqlalchemy]'" in str(caught.value)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("sqla+sqlite:///x.db", {}),
            ("sqlalchemy+sqlite+pysqlite:////tmp/x.db?timeout=3", {}),
            ("sqla+sqlite:///x.db", {"queue_tablename": "q", "message_tablename": "m"}),
            ("sqla+sqlite:///x.db", {"busy_timeout": 3, "synchronous": "full"}),
            ("sqla+sqlite:///x.db", {"max_retries": 3, "polling_interval": 1}),
        ],
    )
    def test_files_are_served_natively(self, url, options):
        assert serves(url, **options) == "native"

    def test_errors_of_a_file_need_no_sqlalchemy(self, file, monkeypatch):
        monkeypatch.setitem(sys.modules, "sqlalchemy", None)
        connection = Connection(f"sqla+sqlite:///{file}")
        errors = native_virtual.Transport.connection_errors
        assert connection.connection_errors[: len(errors)] == errors
        with connection:
            connection.connect()

    def test_a_derived_transport_or_channel_works_on_sqlalchemy(self, file):
        opened = []

        class Channel(sqlalchemy.Channel):
            def _open(self):
                opened.append(self)
                return super()._open()

        class Transport(sqlalchemy.Transport):
            pass

        Transport.Channel = Channel
        # With sqla+ the prefix names the transport, as in Kombu.
        with Connection(f"sqlite:///{file}", transport=Transport) as connection:
            connection.SimpleQueue("q").put("x")
            assert isinstance(connection.default_channel, Channel)
        assert opened

    def test_a_replaced_method_is_called(self, file):
        with (
            patch.object(sqlalchemy.Channel, "_put") as put,
            Connection(f"sqla+sqlite:///{file}") as connection,
        ):
            connection.Producer().publish("x", routing_key="q")
        put.assert_called_once()
        assert serves(f"sqla+sqlite:///{file}") == "native"

    def test_native_options_are_refused_by_name_on_sqlalchemy(self):
        connection = Connection("sqla+sqlite://", transport_options={"busy_timeout": 3})
        with pytest.raises(ValueError, match=r"'busy_timeout'.*database is in memory"):
            connection.connect()

    def test_an_unknown_option_is_named(self, file):
        connection = Connection(f"sqla+sqlite:///{file}", transport_options={"nonsense": 3})
        with pytest.raises(TypeError, match="'nonsense'"):
            connection.connect()

    def test_connecting_finds_a_database_that_is_not_there(self, tmp_path):
        connection = Connection(f"sqla+sqlite:///{tmp_path}/no/x.db{FORCED}")
        with pytest.raises(OperationalError, match="unable to open"):
            connection.connect()
        assert issubclass(OperationalError, connection.connection_errors)
        assert connection.transport.channels == []


class TestBothEngines:
    def test_they_read_each_others_messages(self, file):
        queue = Queue("jobs")
        with (
            Connection(f"sqla+sqlite:///{file}") as ours,
            Connection(f"sqla+sqlite:///{file}{FORCED}") as theirs,
        ):
            for sender, receiver in [(ours, theirs), (theirs, ours)]:
                sender.Producer().publish(
                    {"n": 1}, routing_key="jobs", declare=[queue], headers={"h": "ä"}
                )
                message = queue(receiver.default_channel).get()
                assert message.payload == {"n": 1}
                assert message.headers == {"h": "ä"}
                message.ack()
                assert queue(receiver.default_channel).get() is None

    def test_a_native_channel_has_the_rows_too(self, file):
        with Connection(f"sqla+sqlite:///{file}") as connection:
            channel = connection.default_channel
            connection.Producer().publish("x", routing_key="q", declare=[Queue("q")])
            assert isinstance(channel, sqlalchemy.Channel)
            assert [str(row.queue) for row in channel._query_all("q")] == ["<Queue(q)>"]
            assert channel.queue_cls.__table__.name == "kombu_queue"

    @pytest.mark.parametrize("arguments", ["", FORCED], ids=["native", "sqlalchemy"])
    def test_the_session_is_closed_when_closing_fails(self, file, arguments, monkeypatch):
        with Connection(f"sqla+sqlite:///{file}{arguments}") as connection:
            channel = connection.channel()
            assert channel.session is not None
            with monkeypatch.context() as patched:
                patched.setattr(channel.qos, "restore_unacked_once", Mock(side_effect=OSError))
                with pytest.raises(OSError):
                    channel.close()
            assert channel._session is None


class TestChannel:
    def test_messages_come_in_order_and_once(self, channel):
        for number in range(3):
            channel._put("q", {"n": number})
        assert channel._size("q") == 3
        assert [channel._get("q")["n"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Empty):
            channel._get("q")
        assert channel._size("q") == 0

    def test_taken_rows_stay_until_the_queue_is_purged(self, channel):
        channel._put("q", "taken")
        channel._put("q", "ready")
        channel._put("other", "ready")
        channel._get("q")
        (taken,) = [row for row in channel._query_all("q") if not row.visible]
        assert taken.sent_at is not None
        assert channel._purge("q") == 1
        assert channel._query_all("q").count() == 0
        assert channel._size("other") == 1

    def test_asking_does_not_make_a_queue(self, channel):
        assert channel._size("q") == 0
        assert not channel._has_queue("q")
        with pytest.raises(channel.connection.channel_errors, match="no queue 'q'"):
            channel.queue_declare("q", passive=True)
        channel.queue_declare("q")
        assert channel._has_queue("q")

    def test_an_unreadable_message_is_set_aside(self, channel, file, caplog):
        channel._put("q", "before")
        channel._put("q", "after")
        with sqlite3.connect(file) as raw:
            raw.execute("UPDATE kombu_message SET payload = '{oops' WHERE id = 1")
        assert channel._get("q") == "after"
        assert "set aside (kombu_message, id 1)" in caplog.text
        assert channel._query_all("q").count() == 2

    def test_a_failed_transaction_is_undone(self, channel, file):
        channel._put("q", 1)
        other = sqlite3.connect(file, isolation_level=None)
        channel.session.connection().connection.execute("PRAGMA busy_timeout = 20")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            channel._put("q", 2)
        other.execute("ROLLBACK")
        other.close()
        channel._put("q", 3)
        assert [channel._get("q"), channel._get("q")] == [1, 3]

    @pytest.mark.parametrize("kind", ["stale", "state", "number"])
    def test_a_transaction_that_lost_is_begun_anew(self, channel, kind):
        class Driver(Exception):
            sqlstate = "40P01" if kind == "state" else None

        error = StaleDataError()
        if kind != "stale":
            error = OperationalError("SELECT", {}, Driver(1213 if kind == "number" else "dead"))
        channel._put("q", 1)
        original, failures = channel._lock_next, [error, error]

        def lock_next(session, queue):
            if failures:
                raise failures.pop()
            return original(session, queue)

        channel._lock_next = lock_next
        assert channel._get("q") == 1
        failures[:] = [error] * 100
        with pytest.raises(type(error)):
            channel._get("q")

    def test_tables_of_other_names(self, file):
        options = {"queue_tablename": "own_queue", "message_tablename": "own_message"}
        for url in (f"sqla+sqlite:///{file}", f"sqla+sqlite:///{file}{FORCED}"):
            with Connection(url, transport_options=options) as connection:
                connection.Producer().publish("x", routing_key="q", declare=[Queue("q")])
        with Connection(f"sqla+sqlite:///{file}{FORCED}") as connection:
            connection.default_channel._put("q", "elsewhere")
        with sqlite3.connect(file) as raw:
            assert raw.execute("SELECT count(*) FROM own_message").fetchone() == (2,)
            assert raw.execute("SELECT count(*) FROM kombu_message").fetchone() == (1,)

    def test_table_names_go_together(self):
        with pytest.raises(ValueError, match="must differ"):
            mapped_classes("same", "same")
        with pytest.raises(ValueError, match="'kombu_queue' is used"):
            mapped_classes("kombu_queue", "kombu_message_2")
        assert "kombu_message_2" not in metadata.tables

    def test_consumers_and_unacknowledged_messages(self, channel):
        connection = channel.connection.client
        queue = Queue("q")(channel)
        queue.declare()
        producer = connection.Producer(channel)
        producer.publish({"n": 1}, routing_key="q")
        got = []
        with connection.Consumer(
            [queue], channel=channel, callbacks=[lambda body, message: got.append(message)]
        ):
            connection.drain_events(timeout=5)
        assert [message.payload for message in got] == [{"n": 1}]
        channel.close()  # not acknowledged: it goes back
        assert connection.channel()._size("q") == 1

    def test_a_forked_child_uses_connections_of_its_own(self, file):
        url = f"sqla+sqlite:///{file}{FORCED}"
        subprocess.run([sys.executable, "-c", FORK, url], check=True, timeout=60)

    def test_a_fork_while_another_thread_makes_tables(self, file):
        url = f"sqla+sqlite:///{file}{FORCED}"
        subprocess.run([sys.executable, "-c", LOCKED, url], check=True, timeout=60)


class TestMakingTables:
    def test_a_database_that_does_not_answer_keeps_no_other_waiting(self, tmp_path, monkeypatch):
        create_all, asked, answer = metadata.create_all, threading.Event(), threading.Event()

        def stuck(engine, **kwargs):
            if engine.url.database.endswith("stuck.sqlite"):
                asked.set()
                assert answer.wait(30)
            create_all(engine, **kwargs)

        monkeypatch.setattr(metadata, "create_all", stuck)
        with (
            Connection(f"sqla+sqlite:///{tmp_path}/stuck.sqlite{FORCED}") as one,
            Connection(f"sqla+sqlite:///{tmp_path}/other.sqlite{FORCED}") as other,
        ):
            channels = [one.channel(), other.channel()]
            threads = [
                threading.Thread(target=channel._new_queue, args=("q",)) for channel in channels
            ]
            try:
                threads[0].start()
                assert asked.wait(10)
                threads[1].start()
                threads[1].join(10)
                assert not threads[1].is_alive()
                assert threads[0].is_alive()
            finally:
                answer.set()
                threads[0].join(10)

    def test_a_server_is_asked_once(self, monkeypatch):
        class Engine:
            dialect = postgresql.dialect()

        made = []
        session = Mock()
        opened = (Engine(), lambda: session)
        monkeypatch.setattr(sqlalchemy.Channel, "_open", lambda self: opened)
        monkeypatch.setattr(
            metadata,
            "create_all",
            lambda engine, tables: made.append([table.name for table in tables]),
        )
        options = {"queue_tablename": "third_queue", "message_tablename": "third_message"}
        with (
            Connection("sqla+postgresql://host/db") as connection,
            Connection("sqla+postgresql://host/db", transport_options=options) as other,
        ):
            monkeypatch.setattr(type(connection.transport), "establish_connection", Mock())
            channels = [
                sqlalchemy.Channel(each.transport) for each in (connection, connection, other)
            ]
            assert {channel.session for channel in channels} == {session}
            assert made == [["kombu_queue", "kombu_message"], ["third_queue", "third_message"]]
            session.commit.side_effect = OperationalError("SELECT", {}, Exception("no such table"))
            with pytest.raises(OperationalError):
                channels[0]._in_transaction(lambda session: None)
            assert sqlalchemy.Channel(connection.transport).session is session
            assert made[2:] == [["kombu_queue", "kombu_message"]]

    def test_each_thread_has_its_own_database_in_memory(self):
        sizes = []

        def use(connection, body):
            channel = connection.channel()
            channel._put("q", body)
            sizes.append(channel._size("q"))
            channel.close()

        with Connection("sqla+sqlite://") as connection:
            for body in ("a", "b"):
                thread = threading.Thread(target=use, args=(connection, body))
                thread.start()
                thread.join(30)
        assert sizes == [1, 1]


#: Forks between two uses of a session. In a process of its own: other tests load packages that
#: complain about forks.
FORK = """
import os, sys
from kombu_rs import Connection

channel = Connection(sys.argv[1]).channel()
channel._put("q", "parent")

def driver():
    try:
        return channel.session.connection().connection.dbapi_connection
    finally:
        channel.session.rollback()

before = driver()
child = os.fork()
if child == 0:
    try:
        same = driver() is before
        channel._put("q", "child")
        os._exit(10 + same)
    finally:
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
assert driver() is before
assert [channel._get("q"), channel._get("q")] == ["parent", "child"]
"""


#: Forks while another thread holds the locks of the making of tables.
LOCKED = """
import os, signal, sys, threading
from kombu_rs import Connection
from kombu_rs.transport.sqlalchemy import engines, models

engine, _ = Connection(sys.argv[1]).channel()._open()
held, over = threading.Event(), threading.Event()

def hold():
    with engines.tables_of(engine).lock:
        with models._making:
            held.set()
            over.wait(0.3)  # who forks waits for it
        over.wait(30)

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    try:
        channel = Connection(sys.argv[1]).channel()
        channel._put("q", "child")
        os._exit(10 + channel._size("q"))
    finally:
        os._exit(1)
over.set()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
"""


class TestRowLocks:
    @pytest.mark.parametrize(
        ("dialect", "version", "skips"),
        [
            (postgresql.dialect(), (15, 18), True),
            (postgresql.dialect(), (9, 4), False),
            (mysql.dialect(), (8, 0, 36), True),
            (mysql.dialect(), (5, 7), False),
            (mysql.dialect(is_mariadb=True), (10, 11, 19), True),
            (mysql.dialect(is_mariadb=True), (10, 5), False),
            (mssql.dialect(), (16,), False),
            (postgresql.dialect(), None, False),
        ],
    )
    def test_locked_rows_are_skipped_where_that_is_known(self, dialect, version, skips):
        dialect.server_version_info = version
        assert engine_channel._row_lock(dialect) == ({"skip_locked": True} if skips else {})

    @pytest.mark.parametrize(
        ("dialect", "text"),
        [
            (postgresql.dialect(), "FOR UPDATE SKIP LOCKED"),
            (mysql.dialect(), "FOR UPDATE SKIP LOCKED"),
            (mssql.dialect(), "WITH (UPDLOCK, READPAST, ROWLOCK)"),
        ],
    )
    def test_the_next_message_is_locked(self, channel, dialect, text):
        query = channel._next("q", {"skip_locked": True})
        assert text in str(query.statement.compile(dialect=dialect))


def test_names_of_kombus_module():
    assert issubclass(sqlalchemy.Channel, virtual.Channel)
    assert sqlalchemy.metadata is metadata
    assert sqlalchemy.ModelBase.metadata is metadata
    assert sqlalchemy.class_registry["Queue"].__table__.name == "kombu_queue"
    assert sqlalchemy.QueueBase.__name__ == "Queue"
    assert sqlalchemy.MessageBase.__name__ == "Message"
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = sqlalchemy.nothing_of_the_kind
    assert engines.known is sqlalchemy.Channel._engines
