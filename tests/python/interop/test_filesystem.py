"""Stock Kombu and kombu-rs share folders: messages, bindings, locks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import NewPeer, Peer

DIRECTIONS = [("kombu", "kombu_rs"), ("kombu_rs", "kombu")]
QUEUE = {"queue": "interop", "exchange": "interop.exchange", "routing_key": "interop.key"}
TOPIC = {"queue": "logs", "exchange": "topics", "type": "topic", "routing_key": "*.log.#"}
FANOUT = {"exchange": "fan", "type": "fanout", "routing_key": ""}

Connect = Callable[..., Peer]


@pytest.fixture
def connect(new_peer: NewPeer, tmp_path: Path) -> Connect:
    """Starts one side on folders that all share: ``connect("kombu", option=value)``."""
    (tmp_path / "data").mkdir()
    (tmp_path / "back").mkdir()

    def start(implementation: str, **options: Any) -> Peer:
        folders = {
            "data_folder_in": str(tmp_path / "data"),
            "data_folder_out": str(tmp_path / "data"),
            "control_folder": str(tmp_path / "control"),
            "polling_interval": 0.005,
        }
        return new_peer(implementation, "filesystem://", **folders | options)

    return start


@pytest.fixture(params=DIRECTIONS, ids="-to-".join)
def pair(request: pytest.FixtureRequest, connect: Connect) -> tuple[Peer, Peer]:
    """The sending and the receiving side; only the receiving one made the queue."""
    sender, receiver = (connect(name) for name in request.param)
    receiver.declare(QUEUE)
    return sender, receiver


@pytest.mark.parametrize("how", ["get", "consume"])
def test_messages(pair: tuple[Peer, Peer], how: str) -> None:
    sender, receiver = pair
    bodies = ["'ä€😀 \\u2028 \\x00'", "{'a': [1, 2.5, None, True]}", "b'\\x00\\xff'", "2 ** 80"]
    for compression in (None, "zlib"):
        options = {"compression": compression, "headers": {"ä": [1, None]}, "priority": 3}
        for serializer in ("json", "pickle"):
            sender.publish(QUEUE, bodies, options | {"serializer": serializer})
            got = getattr(receiver, how)(QUEUE, len(bodies), "ack", 10)
            sender.publish(QUEUE, bodies, options | {"serializer": serializer})
            own = sender.get(QUEUE, len(bodies), "ack", 10)
            for seen in (*got, *own):
                seen["properties"].pop("delivery_tag")
            # Stock Kombu's names of files do not tell the order within a millisecond.
            assert sorted(got, key=repr) == sorted(own, key=repr)
    assert receiver.size(QUEUE) == sender.size(QUEUE) == 0


@pytest.mark.parametrize("receiver_name", ["kombu", "kombu_rs"])
def test_order(connect: Connect, receiver_name: str) -> None:
    """What ours publishes is in order for both."""
    sender, receiver = connect("kombu_rs"), connect(receiver_name)
    receiver.declare(QUEUE)
    sender.publish(QUEUE, [str(n) for n in range(100)], {})
    got = receiver.consume(QUEUE, 100, "ack", 20)
    assert [m["body"] for m in got] == [str(n) for n in range(100)]


def test_sizes_and_purges_agree(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    sender.publish(QUEUE, ["1", "2"], {})
    assert receiver.size(QUEUE) == sender.size(QUEUE) == 2
    assert receiver.purge(QUEUE) == 2
    assert sender.size(QUEUE) == 0


def test_a_requeued_message_goes_to_the_other(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    sender.publish(QUEUE, ["{'n': 1}"], {"headers": {"h": 1}})
    (first,) = receiver.get(QUEUE, 1, "requeue", 10)
    (second,) = sender.get(QUEUE, 1, "ack", 10)
    assert (second["body"], second["headers"]["h"]) == (first["body"], 1)
    assert receiver.size(QUEUE) == 0


def test_fanout_and_topics(pair: tuple[Peer, Peer], tmp_path: Path) -> None:
    """Each binds a queue; the bindings of both route the messages of both."""
    exchanges = [
        (FANOUT, "", "any"),
        (TOPIC, "*.log.#", "app.log.x.y"),
    ]
    for spec, key, sent_key in exchanges:
        for peer in pair:
            peer.declare({**spec, "queue": f"{peer.implementation}.{spec['type']}"})
        table = json.loads((tmp_path / "control" / f"{spec['exchange']}.exchange").read_text())
        assert {(row[0], row[2]) for row in table} == {
            (key, f"kombu.{spec['type']}"),
            (key, f"kombu_rs.{spec['type']}"),
        }
        for peer in pair:
            peer.publish({**spec, "queue": "", "routing_key": sent_key}, ["'to all'"], {})
            for reader in pair:
                queue = {**spec, "queue": f"{reader.implementation}.{spec['type']}"}
                (message,) = reader.get(queue, 1, "ack", 10)
                assert message["body"] == "'to all'"
    sender, receiver = pair
    receiver.publish({**TOPIC, "queue": "", "routing_key": "log"}, ["'nobody'"], {})
    assert sender.size({**TOPIC, "queue": "kombu.topic"}) == 0


def test_a_subscription(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    spec = {"queue": "fan", **FANOUT}
    receiver.subscribe(spec)
    sender.declare(spec)
    sender.publish(spec, ["'to all'"], {})
    assert receiver.collect(1, 10) == ["'to all'"]


@pytest.mark.parametrize(("sender_name", "receiver_name"), DIRECTIONS)
def test_two_folders(
    connect: Connect, tmp_path: Path, sender_name: str, receiver_name: str
) -> None:
    """Each side reads what the other writes; what was read is kept, with the same names."""
    here, there = str(tmp_path / "data"), str(tmp_path / "back")
    processed = tmp_path / "processed"
    processed.mkdir()
    sender = connect(sender_name, data_folder_in=here, data_folder_out=there)
    receiver = connect(
        receiver_name,
        data_folder_in=there,
        data_folder_out=here,
        store_processed=True,
        processed_folder=str(processed),
    )
    receiver.declare(QUEUE)
    sender.publish(QUEUE, ["'there'"], {})
    (file,) = Path(there).iterdir()
    assert re.fullmatch(r"\d+_[0-9a-f-]{36}\.interop\.msg", file.name)
    assert [m["body"] for m in receiver.consume(QUEUE, 1, "ack", 10)] == ["'there'"]
    assert [path.name for path in processed.iterdir()] == [file.name]
    receiver.publish(QUEUE, ["'back'"], {})
    assert [m["body"] for m in sender.get(QUEUE, 1, "ack", 10)] == ["'back'"]


def _all_at_once(consumers: list[Peer]) -> list[list[Any]]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda peer: peer.take_all(QUEUE, 2.0), consumers))


def test_all_take_at_once(connect: Connect) -> None:
    """Two of ours and two stock processes want the same messages: every one comes once."""
    consumers = [connect(name) for name in ("kombu", "kombu_rs") * 2]
    sender = connect("kombu_rs")
    for peer in consumers:
        peer.declare(QUEUE)
    sender.publish(QUEUE, [str(n) for n in range(400)], {})
    shares = _all_at_once(consumers)
    assert sorted(int(body) for share in shares for body in share) == list(range(400))


def test_ours_never_read_what_stock_kombu_has_not_written_yet(connect: Connect) -> None:
    """It writes in place, under a lock, while two of ours look for messages all the time."""
    consumers = [connect("kombu_rs", polling_interval=0) for _ in range(2)]
    sender = connect("kombu")
    sender.declare(QUEUE)
    with ThreadPoolExecutor() as threads:
        shares = threads.submit(_all_at_once, consumers)
        sender.publish(QUEUE, [str(n) for n in range(300)], {})
        got = shares.result()
    assert sorted(int(body) for share in got for body in share) == list(range(300))


def test_all_bind_at_once(connect: Connect) -> None:
    """Nobody's binding is lost to another's."""
    peers = [connect(name) for name in ("kombu", "kombu_rs") * 2]
    # Before all at once: stock Kombu empties the file when two make it.
    peers[0].declare({"queue": "first", **FANOUT})

    def bind(number: int) -> None:
        for n in range(10):
            peers[number].declare({"queue": f"{number}.{n}", **FANOUT})

    with ThreadPoolExecutor() as threads:
        list(threads.map(bind, range(len(peers))))
    peers[1].publish({"queue": "", **FANOUT}, ["'to all'"], {})
    for number in range(len(peers)):
        for n in range(10):
            assert peers[0].size({"queue": f"{number}.{n}", **FANOUT}) == 1
