"""Stock Kombu and kombu-rs put messages into the same queues and read each other's."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from servers.redis import RedisServer

from .conftest import NewPeer, Peer

DIRECTIONS = [("kombu", "kombu_rs"), ("kombu_rs", "kombu")]
QUEUE = {"queue": "interop", "exchange": "interop.exchange", "routing_key": "interop.key"}

#: Bodies as Python expressions, by the serializer that takes them.
BODIES = {
    "json": [
        "{'a': [1, 2.5, None, True, 'x'], 'nested': {'k': {'l': []}}}",
        "'just text'",
        "'ä€😀 \\u2028 \\x00 \\\\ \"'",
        "[]",
        "2 ** 80",
        "datetime.datetime(2024, 2, 29, 12, 30, 45, 123456)",
        "datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)",
        "datetime.date(1999, 12, 31)",
        "{'price': decimal.Decimal('1.10'), 'id': uuid.UUID(int=5)}",
        "b'\\x00\\xff binary'",
    ],
    "pickle": [
        "(1, 'two', {3, 4}, b'five', {6: None})",
        "datetime.timedelta(days=1, microseconds=7)",
    ],
    "yaml": ["{'a': [1, 'x', None]}"],
    None: ["'plain text, not serialised'", "b'\\x00\\x01 raw \\xfe'"],
}


@pytest.fixture(params=["redis", "sqlite", "sqlalchemy"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker that nobody has used yet."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=DIRECTIONS, ids="-to-".join)
def pair(request: pytest.FixtureRequest, new_peer: NewPeer, url: str) -> tuple[Peer, Peer]:
    """The sending and the receiving side, which both know the queue (SQL keeps no bindings)."""
    peers = tuple(new_peer(name, url) for name in request.param)
    for peer in peers:
        peer.declare(QUEUE)
    return peers


@pytest.mark.parametrize("serializer", list(BODIES))
def test_bodies(pair: tuple[Peer, Peer], serializer: str | None) -> None:
    """What the sender's own side reads from its own message is what counts as right."""
    sender, receiver = pair
    bodies = BODIES[serializer]
    for compression in (None, "zlib", "bzip2", "lzma"):
        options = {"compression": compression}
        if serializer is not None:
            options["serializer"] = serializer
        sender.publish(QUEUE, bodies, options)
        got = receiver.get(QUEUE, len(bodies), "ack", 10)
        sender.publish(QUEUE, bodies, options)
        own = sender.get(QUEUE, len(bodies), "ack", 10)
        for key in ("body", "content_type", "content_encoding"):
            assert [m[key] for m in got] == [m[key] for m in own], (compression, key)
    assert receiver.size(QUEUE) == 0


def test_headers_and_properties(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    headers = {"text": "ä", "number": 7, "list": [1, "x", None], "table": {"deep": {"er": True}}}
    options = {
        "headers": headers,
        "correlation_id": "c-1",
        "reply_to": "answers",
        "message_id": "m-1",
        "app_id": "tests",
        "type": "greeting",
        "priority": 3,
        "delivery_mode": 2,
        "expiration": 60,
    }
    sender.publish(QUEUE, ["'x'"], options)
    (message,) = receiver.get(QUEUE, 1, "ack", 10)
    sender.publish(QUEUE, ["'x'"], options)
    (own,) = sender.get(QUEUE, 1, "ack", 10)
    assert {k: message["headers"][k] for k in headers} == headers
    unique = {"delivery_tag"}
    assert set(message["properties"]) == set(own["properties"])
    for key in set(own["properties"]) - unique:
        assert message["properties"][key] == own["properties"][key], key
    assert message["exchange"] == own["exchange"]
    assert message["routing_key"] == own["routing_key"]


def test_order_is_kept(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    sender.publish(QUEUE, [str(n) for n in range(50)], {})
    got = receiver.consume(QUEUE, 50, "ack", 10)
    assert [m["body"] for m in got] == [str(n) for n in range(50)]


def test_sizes_and_purges_agree(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    sender.publish(QUEUE, ["1", "2"], {})
    assert receiver.size(QUEUE) == 2
    assert sender.size(QUEUE) == 2
    assert receiver.purge(QUEUE) == 2
    assert sender.size(QUEUE) == 0


def test_a_requeued_message_goes_to_the_other(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    sender.publish(QUEUE, ["{'n': 1}"], {"headers": {"h": 1}})
    (first,) = receiver.get(QUEUE, 1, "requeue", 10)
    assert not first["redelivered"]
    (second,) = sender.get(QUEUE, 1, "ack", 10)
    assert second["body"] == first["body"]
    assert second["headers"]["h"] == 1
    assert receiver.size(QUEUE) == 0


@pytest.mark.parametrize("sender_name", ["kombu", "kombu_rs"])
def test_both_consume_one_queue(new_peer: NewPeer, url: str, sender_name: str) -> None:
    """Old and new workers side by side: every message once."""
    sender = new_peer(sender_name, url)
    ours, stock = new_peer("kombu_rs", url), new_peer("kombu", url)
    for peer in (sender, ours, stock):
        peer.declare(QUEUE)
    sender.publish(QUEUE, [str(n) for n in range(60)], {})
    got = [
        int(message["body"])
        for _ in range(3)
        for peer in (ours, stock)
        for message in peer.consume(QUEUE, 10, "ack", 10)
    ]
    assert sorted(got) == list(range(60))


class TestRedis:
    """What only Redis has."""

    @pytest.mark.parametrize(("sender_name", "receiver_name"), DIRECTIONS)
    def test_priorities(
        self, new_peer: NewPeer, redis_url: str, sender_name: str, receiver_name: str
    ) -> None:
        """The same lists for the same priorities; a lower number goes first."""
        sender, receiver = new_peer(sender_name, redis_url), new_peer(receiver_name, redis_url)
        receiver.declare(QUEUE)
        for priority in (9, 3, 0, 6, 7, 0):
            sender.publish(QUEUE, [str(priority)], {"priority": priority})
        got = receiver.consume(QUEUE, 6, "ack", 10)
        assert [m["body"] for m in got] == ["0", "0", "3", "6", "7", "9"]

    @pytest.mark.parametrize(("sender_name", "receiver_name"), DIRECTIONS)
    def test_a_binding_of_the_other(
        self, new_peer: NewPeer, redis_url: str, sender_name: str, receiver_name: str
    ) -> None:
        """A binding made by one side routes the other side's messages."""
        sender, receiver = new_peer(sender_name, redis_url), new_peer(receiver_name, redis_url)
        topics = {"exchange": "topics", "type": "topic"}
        sender.declare({"queue": "unrelated", "routing_key": "*.mail", **topics})
        receiver.declare({"queue": "logs", "routing_key": "*.log", **topics})
        sender.publish({"queue": "", "routing_key": "app.log", **topics}, ["1", "2"], {})
        assert receiver.size({"queue": "logs", "routing_key": "*.log", **topics}) == 2

    @pytest.mark.parametrize(("sender_name", "receiver_name"), DIRECTIONS)
    def test_fanout(
        self, new_peer: NewPeer, redis_url: str, sender_name: str, receiver_name: str
    ) -> None:
        sender, receiver = new_peer(sender_name, redis_url), new_peer(receiver_name, redis_url)
        spec = {"queue": "fan", "exchange": "fan.exchange", "type": "fanout", "routing_key": ""}
        receiver.subscribe(spec)
        sender.declare(spec)
        sender.publish(spec, ["'to all'"], {})
        assert receiver.collect(1, 10) == ["'to all'"]

    @pytest.mark.parametrize(("dead_name", "next_name"), DIRECTIONS)
    def test_claims_of_the_dead_are_restored_by_the_other(
        self,
        new_peer: NewPeer,
        redis_server: RedisServer,
        dead_name: str,
        next_name: str,
    ) -> None:
        """Unacknowledged messages are recorded alike: either side gives back the other's."""
        url = redis_server.url()
        dead = new_peer(dead_name, url, visibility_timeout=1)
        dead.declare(QUEUE)
        dead.publish(QUEUE, ["1", "2"], {})
        dead.consume(QUEUE, 2, "hold", 10)
        dead.kill()
        assert redis_server.command("HLEN", "unacked") == 2
        successor = new_peer(next_name, url, visibility_timeout=1)
        got = successor.consume(QUEUE, 2, "ack", 20)
        assert sorted(m["body"] for m in got) == ["1", "2"]
        assert redis_server.command("HLEN", "unacked") == 0

    @pytest.mark.parametrize("name", ["kombu", "kombu_rs"])
    def test_the_keys_that_are_left(
        self, new_peer: NewPeer, redis_server: RedisServer, name: str
    ) -> None:
        """Declaring, publishing and claiming leave the same keys of the same types."""
        peer = new_peer(name, redis_server.url())
        peer.declare(QUEUE)
        peer.publish(QUEUE, ["1", "2"], {"priority": 6})
        peer.publish(QUEUE, ["3"], {})
        peer.get(QUEUE, 1, "hold", 10)
        keys = {
            key.decode(): redis_server.command("TYPE", key).decode()
            for key in redis_server.command("KEYS", "*")
        }
        assert keys == {
            "interop\x06\x166": "list",
            "_kombu.binding.interop.exchange": "set",
            "_kombu.binding_permanent.interop.exchange": "set",
            "unacked": "hash",
            "unacked_index": "zset",
        }
        members = redis_server.command("SMEMBERS", "_kombu.binding.interop.exchange")
        assert members == [b"interop.key\x06\x16\x06\x16interop"]


def test_the_tables_of_sqlite(new_peer: NewPeer, tmp_path: Any) -> None:
    """Both sides make the tables of Kombu's layout, whoever comes first."""

    def layout(name: str) -> dict[str, list[tuple[str, str]]]:
        file = tmp_path / f"{name}.sqlite"
        peer = new_peer(name, f"sqla+sqlite:///{file}")
        peer.declare(QUEUE)
        peer.publish(QUEUE, ["1"], {})
        with sqlite3.connect(file) as database:
            tables = [
                row[0]
                for row in database.execute(
                    "select name from sqlite_master where type='table' and name like 'kombu_%'"
                )
            ]
            found = {
                table: [
                    (column[1], column[2])
                    for column in database.execute(f"pragma table_info({table})")
                ]
                for table in tables
            }
        database.close()
        return found

    ours, stock = layout("kombu_rs"), layout("kombu")
    for table, columns in stock.items():
        assert ours.get(table) == columns, table
