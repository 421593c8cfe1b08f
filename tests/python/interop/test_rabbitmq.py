"""Stock Kombu and kombu-rs on one RabbitMQ: each reads what the other has published."""

from __future__ import annotations

import pytest

from .conftest import NewPeer, Peer
from .test_exchange import BODIES, DIRECTIONS, QUEUE


@pytest.fixture(params=DIRECTIONS, ids="-to-".join)
def pair(request: pytest.FixtureRequest, new_peer: NewPeer, rabbitmq_url: str) -> tuple[Peer, Peer]:
    """The sending and the receiving side; what was published is in the queue."""
    sender, receiver = (
        new_peer(name, rabbitmq_url, confirm_publish=True) for name in request.param
    )
    receiver.declare(QUEUE)
    return sender, receiver


@pytest.mark.parametrize("serializer", list(BODIES))
def test_bodies(pair: tuple[Peer, Peer], serializer: str | None) -> None:
    """What the sender's own side reads from its own message is what counts as right."""
    sender, receiver = pair
    bodies = BODIES[serializer]
    for compression in (None, "zlib", "bzip2"):
        options = {"compression": compression}
        if serializer is not None:
            options["serializer"] = serializer
        sender.publish(QUEUE, bodies, options)
        assert sender.size(QUEUE) == receiver.size(QUEUE) == len(bodies)
        got = receiver.get(QUEUE, len(bodies), "ack", 10)
        sender.publish(QUEUE, bodies, options)
        own = sender.get(QUEUE, len(bodies), "ack", 10)
        for key in ("body", "content_type", "content_encoding"):
            assert [m[key] for m in got] == [m[key] for m in own], (compression, key)


def test_headers_and_properties(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    headers = {"text": "ä", "number": 7, "list": [1, "x", None], "table": {"deep": {"er": True}}}
    properties = {
        "correlation_id": "c-1",
        "reply_to": "answers",
        "message_id": "m-1",
        "app_id": "tests",
        "type": "greeting",
        "priority": 3,
        "delivery_mode": 2,
    }
    sender.publish(QUEUE, ["'x'"], {"headers": headers, "expiration": 60, **properties})
    (message,) = receiver.get(QUEUE, 1, "requeue", 10)
    (again,) = sender.get(QUEUE, 1, "ack", 10)
    assert message["headers"] == again["headers"] == headers
    assert message["properties"] == again["properties"]
    assert message["properties"].items() >= (properties | {"expiration": "60000"}).items()
    assert (message["exchange"], message["routing_key"]) == ("interop.exchange", "interop.key")
    assert (message["redelivered"], again["redelivered"]) == (False, True)


def test_a_binding_of_the_other(pair: tuple[Peer, Peer]) -> None:
    sender, receiver = pair
    topics = {"exchange": "topics", "type": "topic"}
    logs = {"queue": "logs", "routing_key": "*.log", **topics}
    receiver.declare(logs)
    sender.publish({"queue": "", "routing_key": "app.log", **topics}, ["1", "2"], {})
    assert [m["body"] for m in receiver.get(logs, 2, "ack", 10)] == ["1", "2"]


def test_consumers(pair: tuple[Peer, Peer]) -> None:
    """Of a fanout exchange, which each side has declared by itself."""
    sender, receiver = pair
    spec = {"queue": "fan", "exchange": "fan.exchange", "type": "fanout", "routing_key": ""}
    receiver.subscribe(spec)
    sender.declare(spec | {"queue": "fan.other"})
    sender.publish(spec, ["'to all'", "2"], {})
    assert receiver.collect(2, 10) == ["'to all'", "2"]
    assert sender.size(spec | {"queue": "fan.other"}) == 2
