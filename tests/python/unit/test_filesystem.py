"""Folders as a broker: what is on disk, and what several processes make of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from kombu_rs import Connection, Exchange, Queue
from kombu_rs.exceptions import ChannelError
from kombu_rs.transport import filesystem

MESSAGE = {"body": "", "properties": {"delivery_tag": "t", "delivery_info": {}}}
NAME = r"\d+_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\.%s\.msg"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The options of a broker of its own, in ``folders.path``."""
    monkeypatch.setattr(filesystem.Transport, "global_state", filesystem.virtual.BrokerState())
    for name in ("in", "out", "data"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def connect(folders):
    """Opens a connection whose messages stay in one folder, or with other options."""
    opened = []

    def make(**options):
        options = {
            "data_folder_in": str(folders / "data"),
            "data_folder_out": str(folders / "data"),
            "control_folder": str(folders / "control"),
            "processed_folder": str(folders / "processed"),
            "polling_interval": 0.005,
        } | options
        opened.append(Connection("filesystem://", transport_options=options))
        return opened[-1]

    yield make
    for connection in opened:
        connection.release()


@pytest.fixture
def channel(connect):
    return connect().default_channel


def files(folder):
    return sorted(os.listdir(folder))


def table(folders, exchange):
    return json.loads((folders / "control" / f"{exchange}.exchange").read_text())


def publish(channel, body, queue="q", **options):
    channel.Producer().publish(body, routing_key=queue, **options)


def test_the_files(folders, channel):
    Queue("logs", Exchange("topics", "topic"), "a.*.#")(channel).declare()
    publish(channel, {"n": 1}, "a.b.c", exchange="topics")
    (name,) = files(folders / "data")
    assert re.fullmatch(NAME % "logs", name)
    message = json.loads((folders / "data" / name).read_text())
    assert message["properties"]["delivery_info"] == {"exchange": "topics", "routing_key": "a.b.c"}
    assert table(folders, "topics") == [["a.*.#", r"^a\.[^\.]+\..*?$", "logs"]]
    assert files(folders / "control") == ["topics.exchange"]


def test_order(channel):
    for n in range(100):
        publish(channel, n)
    assert [Queue("q")(channel).get().payload for _ in range(100)] == list(range(100))
    assert Queue("q")(channel).get() is None


def test_order_of_names_of_different_length(folders, channel):
    for name in ("9_b", "10_a", "x"):
        (folders / "data" / f"{name}.q.msg").write_text(json.dumps(MESSAGE | {"name": name}))
    assert [channel._get("q")["name"] for _ in range(3)] == ["9_b", "10_a", "x"]


def test_a_queue_is_not_another_ones_suffix(channel):
    publish(channel, "x", "a.b")
    assert channel._size("b") == 0
    assert channel._size("a.b") == 1


@pytest.mark.parametrize("stored", [False, True])
def test_processed_files(folders, connect, stored):
    channel = connect(store_processed=stored).default_channel
    publish(channel, "x")
    (name,) = files(folders / "data")
    assert Queue("q")(channel).get(no_ack=True).payload == "x"
    assert files(folders / "data") == []
    if stored:
        assert files(folders / "processed") == [name]
    else:
        assert not (folders / "processed").exists()


@pytest.fixture
def other_file_system(monkeypatch, folders):
    """``processed`` is on another file system: files cannot be renamed into it."""
    rename = os.rename

    def refuse(source, target):
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)


def test_processed_on_another_file_system(folders, connect, other_file_system):
    channel = connect(store_processed=True).default_channel
    publish(channel, "x")
    (name,) = files(folders / "data")
    assert Queue("q")(channel).get(no_ack=True).payload == "x"
    assert files(folders / "data") == []
    assert files(folders / "processed") == [name]


def test_a_file_that_another_takes_while_it_is_copied(
    folders, connect, other_file_system, monkeypatch
):
    channel = connect(store_processed=True).default_channel
    publish(channel, "x")
    copy = filesystem.shutil.copy2

    def slow(source, target):
        copy(source, target)
        os.unlink(source)

    monkeypatch.setattr(filesystem.shutil, "copy2", slow)
    assert Queue("q")(channel).get() is None
    assert files(folders / "processed") == []


def test_a_message_is_not_there_before_it_is_complete(folders, channel, monkeypatch):
    seen = []
    unlock = filesystem.unlock
    monkeypatch.setattr(
        filesystem, "lock", lambda file, flags: seen.append(files(folders / "data"))
    )
    monkeypatch.setattr(
        filesystem, "unlock", lambda file: (seen.append(files(folders / "data")), unlock(file))
    )
    publish(channel, "x")
    ((writing,), (written,)) = seen
    assert writing == written + ".tmp"
    assert re.fullmatch(NAME % "q", written)


def test_a_write_that_fails_leaves_nothing(folders, channel, monkeypatch):
    def full(file, flags):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(filesystem, "lock", full)
    with pytest.raises(ChannelError, match=r"q\.msg.*full"):
        publish(channel, "x")
    assert files(folders / "data") == []


def test_a_message_that_is_being_written_in_place(folders, channel):
    """As stock Kombu does it: the file is there, then locked, then written."""
    path = folders / "data" / "1_x.q.msg"
    text = json.dumps(MESSAGE)
    with path.open("w") as file:
        assert Queue("q")(channel).get() is None
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text[:10])
        file.flush()
        os.utime(path, (0, 0))  # however long it takes
        assert Queue("q")(channel).get() is None
        file.write(text[10:])
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
    assert Queue("q")(channel).get().delivery_tag == "t"


@pytest.mark.parametrize(
    "text",
    ["", '{"body', "[]", "7", "{}", '{"properties": []}', "[" * 100_000, "\x00"],
    ids=lambda text: text[:5] or "empty",
)
def test_a_file_that_is_no_message(folders, channel, text):
    path = folders / "data" / "1_x.q.msg"
    path.write_text(text)
    os.utime(path, (0, 0))
    publish(channel, "good")
    with pytest.raises(ChannelError, match=r"1_x\.q\.msg.*from queue 'q'"):
        Queue("q")(channel).get()
    assert Queue("q")(channel).get(no_ack=True).payload == "good"
    assert files(folders / "data") == ["1_x.q.msg.unreadable"]


def test_a_folder_with_the_name_of_a_message_is_left_alone(folders, channel):
    (folders / "data" / "1_x.q.msg").mkdir()
    assert Queue("q")(channel).get() is None
    assert channel._size("q") == channel._purge("q") == 0


@pytest.mark.parametrize("name", ["a/b", "a\0b", "x" * 300])
def test_a_queue_whose_name_cannot_be_a_files(folders, channel, name):
    with pytest.raises(ChannelError, match="Cannot add file"):
        publish(channel, "x", name)
    assert Queue(name)(channel).get() is None
    assert files(folders / "data") == []


def test_rejected_messages_come_back_to_their_queue_at_their_place(folders, channel):
    fan = Exchange("fan", "fanout")
    for name in ("q1", "q2"):
        Queue(name, fan)(channel).declare()
    for n in range(3):
        publish(channel, n, exchange=fan)
    first = Queue("q1")(channel).get()
    assert first.payload == 0
    first.requeue()
    assert channel._size("q1") == channel._size("q2") == 3
    again = Queue("q1")(channel).get()
    assert again.payload == 0
    assert again._raw["redelivered"]


def test_closing_puts_messages_back_into_the_folder_they_came_from(folders, connect):
    options = {"data_folder_in": str(folders / "in"), "data_folder_out": str(folders / "out")}
    (folders / "in" / "1_x.q.msg").write_text(json.dumps(MESSAGE))
    with connect(**options).channel() as channel:
        assert Queue("q")(channel).get()
        assert files(folders / "in") == []
    assert files(folders / "in") == ["1_x.q.msg"]
    assert files(folders / "out") == []


def test_bindings_of_other_processes(folders, connect, monkeypatch):
    ours = connect().default_channel
    Queue("mine", Exchange("e"), "k")(ours).declare()
    monkeypatch.setattr(filesystem.Transport, "global_state", filesystem.virtual.BrokerState())
    theirs = connect().default_channel  # as in another process: it knows of no exchange
    publish(theirs, "x", "k", exchange="e")
    assert Queue("mine")(ours).get().payload == "x"
    publish(theirs, "y", "k", exchange="e")
    theirs.queue_delete("mine")
    assert table(folders, "e") == []
    assert Queue("mine")(ours).get() is None


def test_unbinding(folders, channel):
    e = Exchange("e", "topic")
    for key in ("a.*", "b.*"):
        Queue("q", e, key)(channel).declare()
    Queue("q", e, "a.*")(channel).queue_unbind()
    assert [row[0] for row in table(folders, "e")] == ["b.*"]
    publish(channel, "x", "a.x", exchange=e)
    assert channel._size("q") == 0
    publish(channel, "x", "b.x", exchange=e)
    assert channel._size("q") == 1
    e(channel).delete()
    assert table(folders, "e") == []


def test_a_binding_is_made_in_each_control_folder(folders, connect):
    queue = Queue("q", Exchange("e"), "k")
    for name in ("control", "other"):
        queue(connect(control_folder=folders / name).default_channel).declare()
    assert table(folders, "e") == [["k", "", "q"]]
    assert json.loads((folders / "other" / "e.exchange").read_text()) == [["k", "", "q"]]


def test_a_queue_that_is_bound_twice_gets_a_message_once(channel):
    fan = Exchange("fan", "fanout")
    for key in "ab":
        Queue("q", fan, key)(channel).declare()
    publish(channel, "x", exchange=fan)
    assert channel._size("q") == 1


@pytest.mark.parametrize("text", ['{"a": 1}', '[["a"]]', "[[", '[["k", 7, "q"]]', "[[1, 2, 3]]"])
def test_a_table_that_is_none(folders, channel, text):
    channel._queue_bind("e", "k", "", "q")
    path = folders / "control" / "e.exchange"
    path.write_text(text)
    for use in (
        lambda: channel.get_table("e"),
        lambda: channel._queue_bind("e", "k", "", "q2"),
        lambda: channel._delete("q", "e"),
    ):
        with pytest.raises(ChannelError, match=r"e\.exchange.*not a table of bindings"):
            use()
    assert path.read_text() == text


def test_an_empty_table(folders, channel):
    """Stock Kombu makes the file, then locks it, then writes."""
    (folders / "control").mkdir()
    (folders / "control" / "e.exchange").touch()
    assert channel.get_table("e") == []
    channel._queue_bind("e", "k", "", "q")
    assert channel.get_table("e") == [("k", "", "q")]


def test_a_table_is_json_at_every_moment(folders, channel, monkeypatch):
    channel._queue_bind("e", "k" * 50, "", "long")
    channel._queue_bind("e", "k", "", "q")
    path = folders / "control" / "e.exchange"
    seen = []

    class Spy:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            def call(*arguments):
                result = getattr(self.file, name)(*arguments)
                seen.append(json.loads(path.read_text()))
                return result

            return call

    rewrite = filesystem.Channel._rewrite
    monkeypatch.setattr(
        filesystem.Channel, "_rewrite", lambda self, file, *rest: rewrite(self, Spy(file), *rest)
    )
    channel._delete("long", "e")
    assert len(seen) == 3
    assert seen[-1] == [["k", "", "q"]] == json.loads(path.read_text())
    assert not path.read_text().endswith(" ")


def test_purging_removes_what_killed_writers_left(folders, channel):
    publish(channel, "x")
    for name, age in (("1_a", 0), ("1_b", 1), ("1_c", 0)):
        path = folders / "data" / f"{name}.q.msg.tmp"
        path.touch()
        if not age:
            os.utime(path, (0, 0))
    with (folders / "data" / "1_c.q.msg.tmp").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a writer that lives
        assert channel._purge("q") == 1
    assert files(folders / "data") == ["1_b.q.msg.tmp", "1_c.q.msg.tmp"]


@pytest.mark.parametrize(
    ("option", "use"),
    [
        ("data_folder_in", lambda c: c._get("q")),
        ("data_folder_out", lambda c: c._put("q", MESSAGE)),
        ("control_folder", lambda c: c.get_table("e")),
    ],
)
def test_options_that_are_no_folders(connect, option, use):
    with pytest.raises(ValueError, match=f"{option}.*path of a folder: 7"):
        use(connect(**{option: 7}).default_channel)


def test_a_folder_that_is_not_there(folders, connect):
    channel = connect(data_folder_in=str(folders / "nope")).default_channel
    with pytest.raises(FileNotFoundError, match="nope"):
        Queue("q")(channel).declare()


CONSUMER = textwrap.dedent("""
    import json, sys
    from kombu_rs import Connection, Consumer, Queue

    with Connection("filesystem://", transport_options=json.loads(sys.argv[1])) as connection:
        got = []
        with Consumer(connection, [Queue("q")], on_message=lambda m: (got.append(m), m.ack())):
            print("ready", flush=True)
            sys.stdin.readline()
            while not got or got[-1].payload != "end":
                connection.drain_events(timeout=20)
        print(json.dumps([m.payload for m in got[:-1]]))
""")


def test_processes_share_a_queue(connect):
    """All want the same messages at once, and every message goes to one of them."""
    connection = connect()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONSUMER, json.dumps(connection.transport_options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for n in range(400):
            publish(connection.default_channel, n)
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for n in range(400, 600):
            publish(connection.default_channel, n)
        for _ in processes:
            publish(connection.default_channel, "end")
        shares = [json.loads(process.communicate(timeout=30)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(n for share in shares for n in share) == list(range(600))
